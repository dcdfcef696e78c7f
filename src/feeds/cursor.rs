//! Where a consumer stands. Sealed, as its offsets would tell how much is written, and good only for the feed that gave it out.

use gatelog_events::ids::Offset;
use serde::{Deserialize, Serialize};

use super::keys::Scope;
use super::seal::Seal;

/// The form of the bytes; another one gets another number.
const FORM: u8 = 3;
/// Longest text that is looked at: what fits into the head of a request. Some 2,000 partitions.
const MAX_TEXT: usize = 60 * 1024;

/// How far a consumer has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The version of the feed whose records it takes.
    pub version: u32,
    /// The lane with which the next batch begins, so that none waits for ever.
    pub turn: u16,
    /// One per partition.
    pub lanes: Vec<Lane>,
}

/// How far one partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lane {
    /// While the present state of everyone is handed over.
    pub snapshot: Option<Snapshot>,
    /// Next offset of the identity stream.
    pub identity: Offset,
    /// Next offset of the activity stream.
    pub activity: Offset,
    /// Next offset of the identity stream from which withdrawals have not been told.
    pub withdrawals: Offset,
    /// Offset of the identity stream from which on its consumer was told of withdrawals: where it began.
    pub since: Offset,
}

/// How far a snapshot is: who registered at which offset stands for the order of users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub next: Offset,
    /// Who registered from here on is told of by the events that follow.
    pub end: Offset,
}

/// The text is no cursor of this feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a cursor of this feed")]
pub struct NotACursor;

impl Cursor {
    /// The same, of one lane, for a consumer who had come to a place before it began anew: what was withdrawn since is told
    /// first, and what else happened since after everyone's state.
    pub fn owing(mut self, before: Option<Lane>) -> Self {
        if let (Some(lane), Some(before)) = (self.lanes.first_mut(), before) {
            lane.withdrawals = lane.withdrawals.min(before.withdrawals);
            // Whoever is told of a withdrawal must hear of what was granted again after it.
            lane.identity = lane.identity.min(before.identity);
            if let Some(snapshot) = &mut lane.snapshot {
                snapshot.end = lane.identity;
            }
        }
        self
    }

    /// Its text, the same each time; none only where nothing can be sealed at all.
    pub fn seal(&self, seal: &Seal, scope: Scope<'_>) -> Option<String> {
        let bytes = postcard::to_extend(self, vec![FORM]).ok()?;
        seal.seal(&place(scope), &bytes)
    }

    /// Reads a text that [`seal`](Self::seal) gave for the same feed. The number of partitions never changes.
    pub fn open(text: &str, seal: &Seal, scope: Scope<'_>, partitions: u16) -> Result<Self, NotACursor> {
        if text.len() > MAX_TEXT {
            return Err(NotACursor);
        }
        let bytes = seal.open(&place(scope), text).ok_or(NotACursor)?;
        match bytes.split_first() {
            Some((&FORM, rest)) => postcard::from_bytes::<Self>(rest)
                .ok()
                .filter(|c| c.lanes.len() == usize::from(partitions))
                .ok_or(NotACursor),
            _ => Err(NotACursor),
        }
    }
}

fn place(scope: Scope<'_>) -> [&str; 2] {
    [scope.tenant.as_str(), scope.feed]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::secrets::Secret;
    use gatelog_events::ids::TenantId;

    fn cursor(partitions: u16) -> Cursor {
        let lane = |n: u16| Lane {
            snapshot: (n == 0).then_some(Snapshot { next: 5, end: 9 }),
            identity: u64::from(n) * 1000,
            activity: 7,
            withdrawals: u64::from(n) * 1001,
            since: u64::from(n) * 1000,
        };
        Cursor {
            version: 3,
            turn: 1,
            lanes: (0..partitions).map(lane).collect(),
        }
    }

    #[test]
    fn a_cursor_is_good_for_its_feed_only_and_not_to_be_altered() {
        let seal = Seal::new(&Secret::new([1; 32]), "cursors").unwrap();
        let others = Seal::new(&Secret::new([2; 32]), "cursors").unwrap();
        let tenant = TenantId::default();
        let scope = |feed| Scope {
            tenant: &tenant,
            feed,
        };
        let text = cursor(64).seal(&seal, scope("marketing")).unwrap();
        assert_eq!(cursor(64).seal(&seal, scope("marketing")), Some(text.clone()));
        assert!(text.len() < 1200, "{}", text.len());
        let open = |text: &str, seal, feed, n| Cursor::open(text, seal, scope(feed), n);
        assert_eq!(open(&text, &seal, "marketing", 64), Ok(cursor(64)));
        assert_eq!(open(&text, &seal, "sales", 64), Err(NotACursor));
        assert_eq!(open(&text, &others, "marketing", 64), Err(NotACursor));
        assert_eq!(open(&text, &seal, "marketing", 8), Err(NotACursor));
        for (i, c) in text.char_indices() {
            let mut altered = text.clone();
            altered.replace_range(i..=i, if c == 'A' { "B" } else { "A" });
            assert_eq!(open(&altered, &seal, "marketing", 64), Err(NotACursor), "{i}");
        }
        for text in ["", "A", "!", &"A".repeat(100_000)] {
            assert_eq!(open(text, &seal, "marketing", 64), Err(NotACursor));
        }
    }

    #[test]
    fn who_begins_anew_is_still_told_what_was_withdrawn_before() {
        let anew = |snapshot| Cursor {
            version: 2,
            turn: 0,
            lanes: vec![Lane {
                snapshot,
                identity: 90,
                activity: 50,
                withdrawals: 90,
                since: 0,
            }],
        };
        let before = Some(Lane {
            snapshot: None,
            identity: 30,
            activity: 20,
            withdrawals: 40,
            since: 0,
        });
        let everyone = Some(Snapshot { next: 0, end: 90 });
        let lane = |snapshot, identity, withdrawals| Lane {
            snapshot,
            identity,
            activity: 50,
            withdrawals,
            since: 0,
        };
        let cases = [
            (None, None, lane(None, 90, 90)),
            (everyone, None, lane(everyone, 90, 90)),
            (None, before, lane(None, 30, 40)),
            (
                everyone,
                before,
                lane(Some(Snapshot { next: 0, end: 30 }), 30, 40),
            ),
        ];
        for (snapshot, before, expected) in cases {
            assert_eq!(anew(snapshot).owing(before).lanes, [expected]);
        }
    }
}
