//! Links by which somebody withdraws a consent without logging in: one-click unsubscribe (RFC 8058). A link names a user and a
//! purpose, and is good for as long as the mail that it stands in.

use gatelog_events::ids::{TenantId, UserId};
use uuid::Uuid;

use super::{open, token};
use crate::auth::secrets::Secret;
use crate::feeds::keys::Scope;
use crate::feeds::seal::{NoSeal, Seal};

const ID: usize = 16;
/// Ends the purpose, in whose name it is never.
const END: u8 = 0;

/// Makes and reads tokens of links.
pub struct Unsubscribe(Seal);

impl Unsubscribe {
    pub fn new(routing_secret: &Secret) -> Result<Self, NoSeal> {
        Ok(Self(Seal::new(routing_secret, "gatelog unsubscribe v1")?))
    }

    /// The token of a user and a purpose in a feed; always the same one there, and another one in each feed, so that none can
    /// join what it holds with another.
    pub fn token(&self, scope: Scope<'_>, user: UserId, purpose: &str) -> Option<String> {
        let clear = [user.as_bytes(), purpose.as_bytes(), &[END], scope.feed.as_bytes()].concat();
        token(&self.0, scope.tenant, &clear)
    }

    /// Whose consent to which purpose a token withdraws; nothing if it is none of ours.
    pub fn open(&self, tenant: &TenantId, token: &str) -> Option<(UserId, String)> {
        let clear = open(&self.0, tenant, token)?;
        let (user, purpose) = clear.split_first_chunk::<ID>()?;
        // The first ones ended here.
        let purpose = purpose.split(|byte| *byte == END).next()?;
        let purpose = std::str::from_utf8(purpose).ok()?;
        Some((UserId(Uuid::from_bytes(*user)), purpose.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::altered;
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    #[test]
    fn a_token_says_nothing_and_cannot_be_altered() {
        let links = Unsubscribe::new(&Secret::new([1; 32])).unwrap();
        let others = Unsubscribe::new(&Secret::new([2; 32])).unwrap();
        let (tenant, user) = (TenantId::default(), UserId(Uuid::from_u128(7)));
        let token_in = |feed| {
            let scope = Scope {
                tenant: &tenant,
                feed,
            };
            links.token(scope, user, "newsletter").unwrap()
        };
        let token = token_in("mailer");
        assert_eq!(token_in("mailer"), token);
        let other = token_in("crm");
        assert_ne!(other, token);
        assert_eq!(links.open(&tenant, &other), links.open(&tenant, &token));
        assert_eq!(links.open(&tenant, &token), Some((user, "newsletter".to_owned())));
        assert_eq!(others.open(&tenant, &token), None);
        assert_eq!(links.open(&TenantId::new("other").unwrap(), &token), None);
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        assert!(!bytes.windows(4).any(|w| w == b"news"));
        for token in altered(&token) {
            assert_eq!(links.open(&tenant, &token), None, "{token}");
        }
    }

    /// Links are in mails that were sent long ago.
    #[test]
    fn a_token_of_the_first_release_is_still_good() {
        let links = Unsubscribe::new(&Secret::new([1; 32])).unwrap();
        let token = "9x4cH6GItUsTCoHPkYM_AiYeBi0M5RqgovyOgIkpOKkNCnqSyIej8uu7m8IIn0ARZmdePz7W";
        let opened = links.open(&TenantId::default(), token);
        assert_eq!(
            opened,
            Some((UserId(Uuid::from_u128(7)), "newsletter".to_owned()))
        );
    }
}
