//! Links by which somebody sees and changes their consents without logging in.
//!
//! Other than an unsubscribe link, which only withdraws and never expires, such a link shows what somebody chose, and grants.
//! So it ends: after [`LIFETIME`] days, when the account is erased, and when the address changes that it was made for, since a
//! mailbox may come into other hands.

use aws_lc_rs::hmac;
use gatelog_events::email::Email;
use gatelog_events::ids::{TenantId, UserId};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::{open, token};
use crate::auth::secrets::Secret;
use crate::feeds::keys::Scope;
use crate::feeds::seal::{NoSeal, Seal};

/// Days for which a link is good, at least: half a year, so that it outlives the gap between two mails of a campaign that
/// comes each season, while an old mailbox or a leaked archive of mails opens nothing. Each record that is delivered brings
/// a newer one.
pub const LIFETIME: i32 = 180;

/// Days after which a new link is made. Until then all are the same, so that records of one state do not differ.
const STEP: i32 = 7;

const ID: usize = 16;
const ADDRESS: usize = 8;

/// Makes and reads tokens of links.
pub struct Preferences {
    seal: Seal,
    addresses: hmac::Key,
}

/// What a token stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub user: UserId,
    address: [u8; ADDRESS],
}

impl Preferences {
    pub fn new(routing_secret: &Secret) -> Result<Self, NoSeal> {
        let routing = hmac::Key::new(hmac::HMAC_SHA256, routing_secret.expose());
        let addresses = hmac::sign(&routing, b"gatelog preferences v1: addresses");
        Ok(Self {
            seal: Seal::new(routing_secret, "gatelog preferences v1")?,
            addresses: hmac::Key::new(hmac::HMAC_SHA256, addresses.as_ref()),
        })
    }

    /// The token of a user with an address in a feed, made on a day (since 1970-01-01). It is another one in each feed, so that
    /// none can join what it holds with another.
    pub fn token(&self, scope: Scope<'_>, user: UserId, email: &Email, today: i32) -> Option<String> {
        let last = today.div_euclid(STEP) * STEP + STEP - 1 + LIFETIME;
        let address = self.address(scope.tenant, user, email);
        let clear = [
            user.as_bytes(),
            &last.to_be_bytes()[..],
            &address,
            scope.feed.as_bytes(),
        ]
        .concat();
        token(&self.seal, scope.tenant, &clear)
    }

    /// Whose a token is; nothing if it is none of ours, or not good any more. It must still be [`is_for`](Self::is_for) the
    /// address that the user has now.
    pub fn open(&self, tenant: &TenantId, token: &str, today: i32) -> Option<Link> {
        let clear = open(&self.seal, tenant, token)?;
        let (user, rest) = clear.split_first_chunk::<ID>()?;
        let (last, rest) = rest.split_first_chunk::<4>()?;
        let (address, _feed) = rest.split_first_chunk::<ADDRESS>()?;
        let link = Link {
            user: UserId(Uuid::from_bytes(*user)),
            address: *address,
        };
        (today <= i32::from_be_bytes(*last)).then_some(link)
    }

    /// Whether a link was made for this address.
    pub fn is_for(&self, tenant: &TenantId, link: &Link, email: &Email) -> bool {
        self.address(tenant, link.user, email).ct_eq(&link.address).into()
    }

    fn address(&self, tenant: &TenantId, user: UserId, email: &Email) -> [u8; ADDRESS] {
        let mut context = hmac::Context::with_key(&self.addresses);
        for part in [
            tenant.as_str().as_bytes(),
            user.as_bytes(),
            email.key().as_bytes(),
        ] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut out = [0; ADDRESS];
        out.copy_from_slice(&context.sign().as_ref()[..ADDRESS]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Links, altered};
    use super::*;

    const TODAY: i32 = 20_000;

    #[test]
    fn a_token_is_good_for_its_tenant_its_kind_its_time_and_its_address() {
        let links = Links::new(&Secret::new([1; 32])).unwrap();
        let others = Links::new(&Secret::new([2; 32])).unwrap();
        let (tenant, user) = (TenantId::default(), UserId(Uuid::from_u128(7)));
        let email = |text| Email::parse(text).unwrap();
        let ada = email("Ada@example.com");
        let made = &links.preferences;
        let scope = |feed| Scope {
            tenant: &tenant,
            feed,
        };
        let token = made.token(scope("mailer"), user, &ada, TODAY).unwrap();
        let other = made.token(scope("crm"), user, &ada, TODAY).unwrap();
        assert_ne!(other, token);
        assert_eq!(
            made.open(&tenant, &other, TODAY),
            made.open(&tenant, &token, TODAY)
        );
        let link = made.open(&tenant, &token, TODAY).unwrap();
        assert_eq!(link.user, user);
        for (address, same) in [
            ("ada@EXAMPLE.com", true),
            ("eve@example.com", false),
            ("ada@example.org", false),
        ] {
            assert_eq!(made.is_for(&tenant, &link, &email(address)), same, "{address}");
        }
        let other_tenant = TenantId::new("other").unwrap();
        assert_eq!(made.open(&other_tenant, &token, TODAY), None);
        assert_eq!(others.preferences.open(&tenant, &token, TODAY), None);
        // One kind's token is none of the other's.
        assert_eq!(links.unsubscribe.open(&tenant, &token), None);
        let unsubscribe = links
            .unsubscribe
            .token(scope("mailer"), user, "newsletter")
            .unwrap();
        assert_eq!(made.open(&tenant, &unsubscribe, TODAY), None);
        for token in altered(&token) {
            assert_eq!(made.open(&tenant, &token, TODAY), None, "{token}");
        }
    }

    #[test]
    fn a_token_is_good_for_half_a_year_and_the_same_for_a_week() {
        let links = Preferences::new(&Secret::new([1; 32])).unwrap();
        let (tenant, user) = (TenantId::default(), UserId(Uuid::from_u128(7)));
        let ada = Email::parse("ada@example.com").unwrap();
        let scope = Scope {
            tenant: &tenant,
            feed: "mailer",
        };
        let token = |day| links.token(scope, user, &ada, day).unwrap();
        let monday = TODAY - TODAY % STEP;
        for day in monday..monday + STEP {
            assert_eq!(token(day), token(monday));
            assert!(
                links.open(&tenant, &token(day), day + LIFETIME).is_some(),
                "{day}"
            );
            assert!(
                links.open(&tenant, &token(day), day + LIFETIME + STEP).is_none(),
                "{day}"
            );
        }
        assert_ne!(token(monday + STEP), token(monday));
    }
}
