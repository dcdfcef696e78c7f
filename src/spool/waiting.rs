//! What is known in memory of the spool's file: where its entries stand, and which of them are settled.
//!
//! Entries settle in any order, for one that cannot be recorded does not hold up those of others. Which are
//! settled is not written down: after a restart they are sent again, which changes nothing.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;

use gatelog_events::ids::{CommitId, SessionId, UserId};

/// Where an entry stands, with its header, and of whom it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub at: u64,
    pub len: usize,
    pub user: UserId,
    pub session: SessionId,
    pub commit: Option<CommitId>,
}

struct Known {
    place: Place,
    /// The log has it, or never will.
    settled: bool,
}

/// The entries of the file in its order, without the settled ones at its front.
#[derive(Default)]
pub struct Waiting {
    known: VecDeque<Known>,
    sessions: HashSet<SessionId>,
    commits: HashMap<CommitId, Place>,
    len: usize,
    bytes: u64,
}

/// Entries that may be sent at once.
#[derive(Debug, PartialEq, Eq)]
pub struct Window {
    pub places: Vec<Place>,
    /// Where to look for more; none where all was looked at.
    pub next: Option<u64>,
}

impl Waiting {
    /// Adds an entry, which stands behind all others.
    pub fn push(&mut self, place: Place) {
        self.known.push_back(Known {
            place,
            settled: false,
        });
        self.sessions.insert(place.session);
        if let Some(commit) = place.commit {
            self.commits.insert(commit, place);
        }
        self.len += 1;
        self.bytes += place.len as u64;
    }

    /// Takes note that the entry at a place waits no more.
    pub fn settle(&mut self, at: u64) {
        let Ok(found) = self.known.binary_search_by_key(&at, |known| known.place.at) else {
            return;
        };
        let known = &mut self.known[found];
        if std::mem::replace(&mut known.settled, true) {
            return;
        }
        let place = known.place;
        self.sessions.remove(&place.session);
        // A later entry may have the same key.
        if let Some(commit) = place.commit
            && self.commits.get(&commit) == Some(&place)
        {
            self.commits.remove(&commit);
        }
        self.len -= 1;
        self.bytes -= place.len as u64;
        while self.known.front().is_some_and(|known| known.settled) {
            self.known.pop_front();
        }
    }

    /// Entries in a part of the file that wait and are not of somebody blocked: at most so many, and one of
    /// each user, for the next of the same user may be sent only when it is known what became of the first.
    ///
    /// Who goes on from `next`, and blocks each user of whom an entry did not settle, keeps their order.
    pub fn window(&self, part: Range<u64>, at_most: usize, is_blocked: impl Fn(UserId) -> bool) -> Window {
        let first = self.known.partition_point(|known| known.place.at < part.start);
        let (mut places, mut users) = (Vec::new(), HashSet::new());
        for Known { place, settled } in self.known.range(first..) {
            if place.at >= part.end {
                break;
            }
            if *settled || is_blocked(place.user) {
                continue;
            }
            if places.len() == at_most || !users.insert(place.user) {
                let next = Some(place.at);
                return Window { places, next };
            }
            places.push(*place);
        }
        Window { places, next: None }
    }

    /// A place behind all entries.
    pub fn end(&self) -> u64 {
        self.known.back().map_or(0, |known| known.place.at + 1)
    }

    /// Whether a session waits.
    pub fn holds(&self, session: SessionId) -> bool {
        self.sessions.contains(&session)
    }

    /// Where the entry of a request with an idempotency key waits.
    pub fn of(&self, commit: CommitId) -> Option<Place> {
        self.commits.get(&commit).copied()
    }

    /// How many entries wait.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the entries that wait.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    /// The n-th entry, of a user.
    fn place(n: u64, user: u128) -> Place {
        Place {
            at: 16 + 10 * n,
            len: 10,
            user: UserId(Uuid::from_u128(user)),
            session: SessionId(Uuid::from_u128(u128::from(n))),
            commit: None,
        }
    }

    fn waiting(users: &[u128]) -> Waiting {
        let mut waiting = Waiting::default();
        for (n, user) in (0..).zip(users) {
            waiting.push(place(n, *user));
        }
        waiting
    }

    /// Looks once at all that waits, as draining does: what was sent, in this order.
    fn look(waiting: &mut Waiting, at_most: usize, mut settles: impl FnMut(Place) -> bool) -> Vec<Place> {
        let mut blocked = HashSet::new();
        let mut sent = Vec::new();
        let until = waiting.end();
        let mut from = Some(0);
        while let Some(at) = from {
            let window = waiting.window(at..until, at_most, |user| blocked.contains(&user));
            assert!(window.places.len() <= at_most);
            for place in window.places {
                sent.push(place);
                if settles(place) {
                    waiting.settle(place.at);
                } else {
                    blocked.insert(place.user);
                }
            }
            from = window.next;
        }
        sent
    }

    #[test]
    fn what_cannot_be_recorded_holds_up_its_own_user_alone() {
        // More of the blocked stand at the front than a window takes.
        let users = [1, 2, 3, 1, 4, 1, 5, 4, 6];
        let mut waiting = waiting(&users);
        let is_sick = |place: Place| place.user.0.as_u128() <= 3;
        let sent = look(&mut waiting, 2, |place| !is_sick(place));
        let sent: Vec<u128> = sent.iter().map(|place| place.user.0.as_u128()).collect();
        assert_eq!(sent, [1, 2, 3, 4, 5, 4, 6]);
        assert_eq!((waiting.len(), waiting.bytes()), (5, 50));
        assert!(waiting.holds(place(3, 1).session) && !waiting.holds(place(4, 4).session));
        // What is settled is not sent again, and what comes meanwhile waits for nobody else.
        waiting.push(place(9, 1));
        waiting.push(place(10, 7));
        let sent = look(&mut waiting, 2, |place| !is_sick(place));
        assert_eq!(sent, [place(0, 1), place(1, 2), place(2, 3), place(10, 7)]);
        let sent = look(&mut waiting, 2, |_| true);
        assert_eq!(sent.len(), 6);
        assert!(waiting.is_empty() && waiting.known.is_empty() && waiting.bytes() == 0);
        assert_eq!(waiting.end(), 0);
    }

    #[test]
    fn settling_twice_or_what_is_not_there_changes_nothing() {
        let mut waiting = waiting(&[1, 2]);
        let settled = place(1, 2).at;
        for at in [settled, settled, 3, 1000] {
            waiting.settle(at);
            assert_eq!((waiting.len(), waiting.bytes(), waiting.known.len()), (1, 10, 2));
        }
        assert_eq!(waiting.window(0..1000, 9, |_| false).places, [place(0, 1)]);
    }

    #[test]
    fn a_key_leads_to_the_last_entry_that_has_it() {
        let commit = Some(CommitId(Uuid::from_u128(9)));
        let of = |n, user| Place {
            commit,
            ..place(n, user)
        };
        let mut waiting = Waiting::default();
        waiting.push(of(0, 1));
        waiting.push(of(1, 1));
        waiting.settle(of(0, 1).at);
        assert_eq!(waiting.of(CommitId(Uuid::from_u128(9))), Some(of(1, 1)));
        waiting.settle(of(1, 1).at);
        assert_eq!(waiting.of(CommitId(Uuid::from_u128(9))), None);
    }

    proptest! {
        #[test]
        fn each_entry_settles_once_and_each_user_in_order(
            users in prop::collection::vec(0..5u128, 0..50),
            at_most in 1..8usize,
            settles in prop::collection::vec(any::<bool>(), 1..100),
        ) {
            let mut waiting = waiting(&users);
            let mut settles = settles.into_iter().cycle();
            let mut settled: Vec<Place> = Vec::new();
            for round in 0..=6 {
                look(&mut waiting, at_most, |place| {
                    // In the end nothing is in the way.
                    let settles = round == 6 || settles.next().unwrap();
                    if settles {
                        settled.push(place);
                    }
                    settles
                });
                prop_assert_eq!(waiting.len(), users.len() - settled.len());
            }
            prop_assert!(waiting.known.is_empty() && settled.len() == users.len());
            for user in 0..5 {
                let of_user: Vec<u64> =
                    settled.iter().filter(|p| p.user.0.as_u128() == user).map(|p| p.at).collect();
                prop_assert!(of_user.is_sorted_by(|a, b| a < b), "{:?}", of_user);
            }
        }
    }
}
