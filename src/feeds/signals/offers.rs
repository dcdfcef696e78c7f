//! What polls give in vain: a SET that its receiver never acknowledges is given up in the end, like one that is pushed in
//! vain. It would keep all that comes after it from being forgotten. Each node goes by what it has given itself.

use std::collections::HashMap;
use std::time::Duration;

use gatelog_events::clock::Timestamp;
use parking_lot::Mutex;
use uuid::Uuid;

/// How much may lie between two times that a SET is given: after more, its receiver was away, and it begins anew.
const GAP: Duration = Duration::from_secs(3600);
/// SETs that are kept in mind, at the most.
const MAX: usize = 65_536;

/// See the module.
#[derive(Debug, Default)]
pub struct Offers(Mutex<Given>);

#[derive(Debug, Default)]
struct Given {
    offers: HashMap<Uuid, Offer>,
    /// When it was looked last which are of no use any more.
    looked: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy)]
struct Offer {
    first: Timestamp,
    last: Timestamp,
    times: u32,
}

impl Offers {
    /// A SET is to be given now. How often it was given, if that was in vain for so long that it is to be given up.
    pub fn in_vain(&self, jti: Uuid, now: Timestamp, lifetime: Duration) -> Option<u32> {
        let mut given = self.0.lock();
        if let Some(offer) = given.offers.get_mut(&jti)
            && now.since(offer.last) <= GAP
        {
            if now.since(offer.first) >= lifetime {
                return Some(offer.times);
            }
            (offer.last, offer.times) = (now, offer.times.saturating_add(1));
            return None;
        }
        if given.looked.is_none_or(|looked| now.since(looked) > GAP) {
            given.looked = Some(now);
            given.offers.retain(|_, offer| now.since(offer.last) <= GAP);
        }
        // More only live longer.
        if given.offers.len() < MAX || given.offers.contains_key(&jti) {
            let offer = Offer {
                first: now,
                last: now,
                times: 1,
            };
            given.offers.insert(jti, offer);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_again_and_again_is_given_up() {
        let offers = Offers::default();
        let jti = Uuid::from_u128(7);
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let lifetime = minutes(100);
        let at = |n| Timestamp::EPOCH.plus(minutes(n));
        for n in [0, 50, 99] {
            assert_eq!(offers.in_vain(jti, at(n), lifetime), None, "{n}");
        }
        assert_eq!(offers.in_vain(Uuid::from_u128(8), at(100), lifetime), None);
        // Until that can be said it stays so.
        for n in [100, 101] {
            assert_eq!(offers.in_vain(jti, at(n), lifetime), Some(3));
        }
    }

    #[test]
    fn who_was_away_has_all_the_time_again() {
        let offers = Offers::default();
        let jti = Uuid::from_u128(7);
        let hours = |n: u64| Timestamp::EPOCH.plus(Duration::from_secs(3600 * n));
        let lifetime = Duration::from_secs(3 * 3600);
        for n in [0, 1, 4, 5, 6] {
            assert_eq!(offers.in_vain(jti, hours(n), lifetime), None, "{n}");
        }
        assert_eq!(offers.in_vain(jti, hours(7), lifetime), Some(3));
        // What is not given any more is forgotten.
        assert_eq!(offers.in_vain(Uuid::from_u128(8), hours(20), lifetime), None);
        assert_eq!(offers.0.lock().offers.len(), 1);
    }
}
