//! Identifiers: who may use an address. One owner each, decided in the identifier's own partition.
//!
//! An address taken at registration belongs to the user by that very commit. Attaching another one later is a small
//! process: a *claim* here, in the address's partition, then the attachment in the user's. A claim that was never
//! attached expires, and the next claimer settles it by looking at what its holder has attached.
//!
//! Claims are not numbered: what an erased user did to an address cannot be counted any more.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Event, events, has_personal, user};
use crate::clock::Timestamp;
use crate::email::Email;
use crate::ids::UserId;
use crate::personal::Personal;

/// How long a claim waits for its attachment.
pub const CLAIM_TTL: Duration = Duration::from_secs(600);

events! {
    /// What happened to an identifier.
    IdentifierEvent {
        Claimed(Claimed) = "com.gatelog.identifier.claimed.v1",
    }
}

/// A user reserved an address in order to attach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Claimed {
    pub expires_at: Timestamp,
    #[serde(rename = "sealed")]
    pub personal: Personal<Address>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Address {
    pub email: Email,
}

has_personal!(Claimed);

/// What the identifier's partition knows of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    pub user: UserId,
    /// End of a claim that was not yet attached; none if it was taken at registration.
    pub claimed_until: Option<Timestamp>,
}

/// Whether somebody else may take the address. `attached`: the holder has it as their address now.
pub fn is_free_for(holding: Option<&Holding>, attached: bool, user: UserId, now: Timestamp) -> bool {
    match holding {
        None => true,
        Some(h) if h.user == user => true,
        Some(_) if attached => false,
        Some(h) => h.claimed_until.is_none_or(|until| until <= now),
    }
}

/// Decides on a claim.
pub fn decide_claim(
    holding: Option<&Holding>,
    attached: bool,
    user: UserId,
    email: Email,
    now: Timestamp,
) -> Result<Vec<Event>, user::Rejection> {
    if !is_free_for(holding, attached, user, now) {
        return Err(user::Rejection::AddressTaken);
    }
    Ok(vec![
        IdentifierEvent::Claimed(Claimed {
            expires_at: now.plus(CLAIM_TTL),
            personal: Address { email }.into(),
        })
        .into(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn an_address_has_one_holder() {
        let (a, b) = (UserId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        let now = Timestamp::from_millis(1_000);
        let holding = |until: Option<i64>| Holding {
            user: a,
            claimed_until: until.map(Timestamp::from_millis),
        };
        for (what, holding, attached, asks, free) in [
            ("nobody holds it", None, false, b, true),
            ("its own holder asks", Some(holding(None)), true, a, true),
            ("held since registration", Some(holding(None)), true, b, false),
            ("its holder moved on", Some(holding(None)), false, b, true),
            ("a fresh claim", Some(holding(Some(2_000))), false, b, false),
            ("an expired claim", Some(holding(Some(1_000))), false, b, true),
            (
                "a claim that was attached in time",
                Some(holding(Some(500))),
                true,
                b,
                false,
            ),
        ] {
            assert_eq!(is_free_for(holding.as_ref(), attached, asks, now), free, "{what}");
        }
    }
}
