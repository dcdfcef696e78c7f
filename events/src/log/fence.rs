//! Who may append is decided by those who read: the rule by which every reader, on every backend, tells what counts.
//!
//! A new owner of a partition appends a *claim*; the claim's offset is the owner's *epoch*. Each commit carries the
//! epoch it was written under and a gapless number within it. Only the next number of the newest epoch counts. What a
//! paused or cut-off predecessor still appends, and every second copy, is void for every reader, for ever.
//!
//! A writer may answer a caller only when it knows that the commit counts: at once if the acknowledged offset follows
//! the last one it knows, otherwise after it has read what stands in between.

use serde::{Deserialize, Serialize};

use super::{RecordHeader, RecordKind};
use crate::ids::Offset;

/// What a reader of one partition has to remember of the records before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fence {
    /// Offset of the newest claim; `None` before the first.
    pub epoch: Option<u64>,
    /// The number that the next commit of this epoch must carry.
    pub next_seq: u64,
}

/// What a record means for those who read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A new epoch begins at this record.
    Claim,
    /// The commit counts.
    Commit,
    /// The record counts for nobody, now or later.
    Void,
}

impl Fence {
    /// Judges the record at `offset`. Must be called for every record of the partition, in order, each once.
    pub fn admit(&mut self, offset: Offset, header: &RecordHeader) -> Verdict {
        match header.kind {
            RecordKind::Claim => {
                self.epoch = Some(offset);
                self.next_seq = 0;
                Verdict::Claim
            }
            RecordKind::Commit if self.epoch == Some(header.epoch) && self.next_seq == header.seq => {
                self.next_seq += 1;
                Verdict::Commit
            }
            RecordKind::Commit => Verdict::Void,
        }
    }
}

/// How far a partition was read. Part of each projection's checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Offset of the next record to read.
    pub next: Offset,
    /// What judges it.
    pub fence: Fence,
}

impl Progress {
    /// Judges the record at `offset` and goes on behind it. Must be called for every record of the partition, in order, each
    /// once, but for those that retention has cut off.
    ///
    /// Where a claim was among these, the first record behind the cut stands for it: else nothing would count for those who
    /// begin there until the next claim. (Should that record be a predecessor's, it counts for them alone, and what follows
    /// it is void to them until that claim.)
    pub fn pass(&mut self, offset: Offset, header: &RecordHeader) -> Verdict {
        let cut = self.next..offset;
        if header.kind == RecordKind::Commit && cut.contains(&header.epoch) {
            self.fence = Fence {
                epoch: Some(header.epoch),
                next_seq: header.seq,
            };
        }
        self.next = offset + 1;
        self.fence.admit(offset, header)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::ids::CommitId;

    fn claim() -> RecordHeader {
        commit_or(RecordKind::Claim, 0, 0)
    }

    fn commit(epoch: u64, seq: u64) -> RecordHeader {
        commit_or(RecordKind::Commit, epoch, seq)
    }

    fn commit_or(kind: RecordKind, epoch: u64, seq: u64) -> RecordHeader {
        RecordHeader {
            kind,
            commit_id: CommitId(Uuid::nil()),
            epoch,
            seq,
            aggregate_version: 0,
        }
    }

    #[test]
    fn the_rule_by_table() {
        use Verdict::*;
        type Case = (&'static str, Vec<(u64, RecordHeader, Verdict)>);
        let cases: [Case; 7] = [
            ("nothing counts before a claim", vec![(0, commit(0, 0), Void)]),
            (
                "numbers ascend without a gap",
                vec![
                    (0, claim(), Claim),
                    (1, commit(0, 0), Commit),
                    (2, commit(0, 1), Commit),
                    (3, commit(0, 3), Void),
                    (4, commit(0, 2), Commit),
                ],
            ),
            (
                "a second copy is void",
                vec![
                    (0, claim(), Claim),
                    (1, commit(0, 0), Commit),
                    (2, commit(0, 0), Void),
                ],
            ),
            (
                "the predecessor is void after the claim",
                vec![
                    (0, claim(), Claim),
                    (1, commit(0, 0), Commit),
                    (2, claim(), Claim),
                    (3, commit(0, 1), Void),
                    (4, commit(2, 0), Commit),
                ],
            ),
            (
                "a claim that was copied begins an epoch of its own",
                vec![
                    (0, claim(), Claim),
                    (1, claim(), Claim),
                    (2, commit(0, 0), Void),
                    (3, commit(1, 0), Commit),
                ],
            ),
            (
                "gaps between offsets do not matter",
                vec![
                    (5, claim(), Claim),
                    (9, commit(5, 0), Commit),
                    (40, commit(5, 1), Commit),
                ],
            ),
            (
                "an epoch yet to come is void",
                vec![(0, claim(), Claim), (1, commit(7, 0), Void)],
            ),
        ];
        for (name, records) in cases {
            let mut fence = Fence::default();
            for (offset, header, expected) in records {
                assert_eq!(fence.admit(offset, &header), expected, "{name}, offset {offset}");
            }
        }
    }

    #[test]
    fn what_follows_a_cut_counts_without_its_claim() {
        use Verdict::*;
        type Case = (&'static str, Progress, Vec<(u64, RecordHeader, Verdict)>);
        let after = |next, epoch, next_seq| Progress {
            next,
            fence: Fence { epoch, next_seq },
        };
        let cases: [Case; 5] = [
            (
                "who begins there goes on with the numbers of the first record",
                Progress::default(),
                vec![
                    (100, commit(7, 30), Commit),
                    (101, commit(7, 31), Commit),
                    (102, commit(7, 33), Void),
                    (103, claim(), Claim),
                    (104, commit(7, 32), Void),
                    (105, commit(103, 0), Commit),
                ],
            ),
            (
                "so does who was behind it, under another epoch",
                after(50, Some(7), 20),
                vec![(100, commit(60, 0), Commit), (101, commit(60, 1), Commit)],
            ),
            (
                "an epoch that was seen begun has a number that follows",
                after(50, Some(7), 20),
                vec![(100, commit(7, 21), Void), (101, commit(7, 20), Commit)],
            ),
            (
                "a predecessor is void behind the cut, too",
                after(50, Some(20), 9),
                vec![(100, commit(7, 21), Void), (101, commit(20, 9), Commit)],
            ),
            (
                "nothing is cut where the beginning is there",
                Progress::default(),
                vec![(0, commit(0, 0), Void), (1, commit(0, 0), Void)],
            ),
        ];
        for (name, mut progress, records) in cases {
            for (offset, header, expected) in records {
                assert_eq!(
                    progress.pass(offset, &header),
                    expected,
                    "{name}, offset {offset}"
                );
                assert_eq!(progress.next, offset + 1, "{name}");
            }
        }
    }

    proptest! {
        /// Within each epoch exactly the numbers 0, 1, 2 … count, and none counts after a later claim.
        #[test]
        fn what_counts_is_gapless_per_epoch(records in prop::collection::vec((any::<bool>(), 0u64..30, 0u64..4), 0..60)) {
            let mut fence = Fence::default();
            let mut newest = None;
            let mut counted = 0;
            for (offset, (is_claim, epoch, seq)) in records.into_iter().enumerate() {
                let offset = offset as u64;
                let header = if is_claim { claim() } else { commit(epoch, seq) };
                match fence.admit(offset, &header) {
                    Verdict::Claim => { prop_assert!(is_claim); newest = Some(offset); counted = 0; }
                    Verdict::Commit => {
                        prop_assert_eq!(Some(epoch), newest);
                        prop_assert_eq!(seq, counted);
                        counted += 1;
                    }
                    Verdict::Void => prop_assert!(!is_claim && (Some(epoch) != newest || seq != counted)),
                }
            }
        }
    }
}
