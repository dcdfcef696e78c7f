//! Answers for which nothing is appended: refusals, and that nothing changes.
//!
//! No reader judges them as it judges commits, so they are judged here: after the decision the log's end is looked up, and
//! the answer is given once it is certain that nobody else had claimed the partition below that. A writer that stood still
//! meanwhile would otherwise refuse what another one has long made possible, or say that nothing changes where much would.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::mpsc;
use std::time::Duration;

use futures::executor::block_on;
use futures::future::join_all;
use gatelog_events::clock::{self, Timestamp};
use gatelog_events::ids::{Offset, Partition, Stream, UserId};
use gatelog_events::log::LogError;
use gatelog_events::log::fence::Verdict;
use gatelog_projections::answers::Answer;

use super::applier::{Applier, BATCH, Failure, Step};
use super::strays::next_until;
use super::{Outcome, Reply, WriteError};

type Place = (Stream, Partition);

/// How long the log may take to tell what stands in a partition. All others wait meanwhile.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// A result for which nothing is appended, and that waits for its turn.
pub(super) struct Decided {
    pub said: Said,
    pub reply: Reply,
}

pub(super) enum Said {
    /// Holds whoever may write by now.
    Known(Result<Outcome, WriteError>),
    /// What was answered before, and still opens the door by the state of a partition.
    Again { place: Place, outcome: Outcome },
    /// The state of a partition does not allow it.
    Rejected { place: Place, error: WriteError },
    /// Nothing changed; the answer says how far the partition is.
    Nothing {
        place: Place,
        user: Option<UserId>,
        time: Timestamp,
    },
}

impl Said {
    fn rests_on(&self) -> Option<Place> {
        match self {
            Said::Known(_) => None,
            Said::Again { place, .. } | Said::Rejected { place, .. } | Said::Nothing { place, .. } => {
                Some(*place)
            }
        }
    }
}

impl Decided {
    /// The writer steps down. Nothing was written, so the caller may go to whoever writes next.
    pub fn give_up(self) {
        let _ = self.reply.send(match self.said {
            Said::Known(result) => result,
            Said::Again { place, .. } | Said::Rejected { place, .. } | Said::Nothing { place, .. } => {
                Err(not_owner(place))
            }
        });
    }
}

/// An answer that is given once all below `end` is known to be nobody else's.
pub(super) struct Held {
    decided: Decided,
    place: Place,
    end: Offset,
}

impl Held {
    /// See [`Decided::give_up`].
    pub fn give_up(self) {
        self.decided.give_up();
    }
}

impl Applier {
    /// Takes an answer and those that follow at once, and gives what can be given.
    pub(super) fn answer_from(
        &self,
        first: Decided,
        steps: &mpsc::Receiver<Step>,
        next: &mut Option<Step>,
        held: &mut Vec<Held>,
    ) {
        let mut batch = vec![first];
        while batch.len() < BATCH {
            match steps.try_recv() {
                Ok(Step::Answer(another)) => batch.push(another),
                Ok(other) => {
                    *next = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        let places: HashSet<Place> = batch.iter().filter_map(|d| d.said.rests_on()).collect();
        let log = &self.parts.log;
        let ends = places
            .into_iter()
            .map(|(s, p)| async move { ((s, p), log.end(s, p).await) });
        let ends: HashMap<_, _> = block_on(join_all(ends)).into_iter().collect();
        for decided in batch {
            let place = decided.said.rests_on();
            match place.and_then(|place| Some((place, ends.get(&place)?))) {
                None => self.give(decided),
                Some((place, Ok(end))) => held.push(Held {
                    decided,
                    place,
                    end: *end,
                }),
                Some((_, Err(e))) => {
                    let _ = decided.reply.send(Err(unavailable(e)));
                }
            }
        }
        self.release(held);
    }

    /// Gives what is certain by now: the applier is past it, and would have met another's claim.
    pub(super) fn release(&self, held: &mut Vec<Held>) {
        let certain = |h: &mut Held| self.lanes.get(&h.place).is_some_and(|lane| h.end <= lane.next);
        for h in held.extract_if(.., certain) {
            self.give(h.decided);
        }
    }

    /// Reads what stands there where nothing is on its way that would tell. If it is another's claim, the failure says so.
    pub(super) fn look(&self, held: &mut Vec<Held>) -> Result<(), Failure> {
        let mut ends: BTreeMap<Place, Offset> = BTreeMap::new();
        for h in held.iter() {
            let end = ends.entry(h.place).or_default();
            *end = h.end.max(*end);
        }
        let mut outcomes: HashMap<Place, Result<(), Outdated>> = HashMap::new();
        for (place, end) in ends {
            outcomes.insert(place, self.is_ours_until(place, end));
        }
        let mut replaced = None;
        for h in held.drain(..) {
            match outcomes.get(&h.place) {
                None | Some(Ok(())) => self.give(h.decided),
                Some(Err(Outdated::Replaced(at))) => {
                    let (stream, partition) = h.place;
                    replaced = Some(format!("another writer claimed {stream}:{partition} at {at}"));
                    h.give_up();
                }
                Some(Err(Outdated::Unknown(e))) => {
                    let _ = h.decided.reply.send(Err(unavailable(e)));
                }
            }
        }
        replaced.map_or(Ok(()), |reason| Err(Failure::because(reason)))
    }

    fn is_ours_until(&self, (stream, partition): Place, end: Offset) -> Result<(), Outdated> {
        let Some(mut lane) = self.lanes.get(&(stream, partition)).copied() else {
            return Ok(());
        };
        let mut rest = self.parts.log.read(stream, partition, lane.next);
        let until = clock::monotonic() + PATIENCE;
        while lane.next < end {
            let told = next_until(&mut rest, until);
            let entry = told.unwrap_or_else(|| Err(silent((stream, partition))));
            let entry = entry.map_err(Outdated::Unknown)?;
            let at = entry.position.offset;
            if at < end && lane.fence.admit(at, &entry.record.header) == Verdict::Claim {
                return Err(Outdated::Replaced(at));
            }
            lane.next = at + 1;
        }
        Ok(())
    }

    fn give(&self, Decided { said, reply }: Decided) {
        let _ = reply.send(match said {
            Said::Known(result) => result,
            Said::Again { outcome, .. } => Ok(outcome),
            Said::Rejected { error, .. } => Err(error),
            Said::Nothing { place, user, time } => Ok(self.nothing(place, user, time)),
        });
    }

    fn nothing(&self, (stream, partition): Place, user: Option<UserId>, time: Timestamp) -> Outcome {
        let next = self.lanes.get(&(stream, partition)).map_or(0, |l| l.next);
        Outcome {
            answer: Answer {
                stream: stream.code(),
                partition,
                offset: next.saturating_sub(1),
                user,
                session: None,
                generation: 0,
                time,
                tag: [0; 16],
            },
            commit: None,
            replayed: false,
        }
    }
}

/// Why an answer cannot be given.
enum Outdated {
    /// Another writer claimed the partition here.
    Replaced(Offset),
    /// The log does not tell.
    Unknown(LogError),
}

fn silent((stream, partition): Place) -> LogError {
    LogError::Unreachable {
        place: format!("{stream}:{partition}"),
        what: "it does not tell in time what stands there".to_owned(),
    }
}

fn not_owner((stream, partition): Place) -> WriteError {
    WriteError::NotOwner { stream, partition }
}

fn unavailable(e: &LogError) -> WriteError {
    WriteError::Unavailable {
        reason: format!("whether the decision still holds is not known: {e}"),
    }
}
