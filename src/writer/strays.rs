//! What others left at the end of partitions that are ours, where nothing of ours comes after it.
//!
//! Who was replaced may still append, and none of it counts. Readers wait until the read models have come to the log's end, and
//! in a quiet partition our next append, which would take them past it, may be long in coming.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use gatelog_events::clock;
use gatelog_events::ids::{Offset, Partition, Position, Stream};
use gatelog_events::log::fence::Verdict;
use gatelog_events::log::{Entry, LogError};
use gatelog_projections::folder::{Decoded, Touched};

use super::applier::{Applier, Failure};
use super::tail::TailStep;

type Place = (Stream, Partition);

/// How often it is looked.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// How long a look may take. The log may be away, and what is written meanwhile waits.
const BUDGET: Duration = Duration::from_millis(300);
/// Between two looks whether the log has told more.
const STEP: Duration = Duration::from_millis(5);
/// A claim of another that has stood for so long in what is ours still was made in error: by then whoever was replaced has
/// heard of it.
const STANDING: Duration = Duration::from_secs(30);

/// What was seen at the last look.
pub(super) struct Looks {
    due: Instant,
    /// Up to where each partition was judged.
    judged: HashMap<Place, Offset>,
    /// Claims of others that stand where nothing was judged since, and since when they are known.
    claims: HashMap<Place, (Offset, Instant)>,
}

impl Default for Looks {
    fn default() -> Self {
        Self {
            due: clock::monotonic() + LOOK,
            judged: HashMap::new(),
            claims: HashMap::new(),
        }
    }
}

/// The next record, if the log tells it in time.
pub(super) fn next_until(
    rest: &mut BoxStream<'_, Result<Entry, LogError>>,
    until: Instant,
) -> Option<Result<Entry, LogError>> {
    loop {
        if let Some(told) = rest.next().now_or_never() {
            return told;
        }
        if clock::monotonic() >= until {
            return None;
        }
        std::thread::sleep(STEP);
    }
}

impl Applier {
    /// Takes the read models past what does not count. Error: a claim of another stands at the end, though the partition
    /// is ours; it must be claimed anew.
    pub(super) fn pass_strays(&mut self, looks: &mut Looks) -> Result<(), Failure> {
        let began = clock::monotonic();
        if began < looks.due {
            return Ok(());
        }
        let places: Vec<(Place, Offset)> = self.lanes.iter().map(|(p, lane)| (*p, lane.next)).collect();
        for (place, next) in places {
            let is_quiet = looks.judged.insert(place, next) == Some(next);
            let end = self
                .parts
                .log
                .heard_end(place.0, place.1)
                .map_or(0, |heard| heard.end);
            if !is_quiet || end <= next {
                looks.claims.remove(&place);
                continue;
            }
            if let Some((at, since)) = looks.claims.get(&place) {
                if began.saturating_duration_since(*since) >= STANDING {
                    let (stream, partition) = place;
                    let reason = format!("another writer claimed {stream}:{partition} at {at} and let it be");
                    return Err(Failure::because(reason));
                }
                continue;
            }
            if let Some(at) = self.pass_until(place, end, began + BUDGET) {
                looks.claims.insert(place, (at, began));
            }
        }
        looks.due = clock::monotonic() + LOOK;
        Ok(())
    }

    /// Up to the first record that may count; the offset of another's claim. What the log does not tell in time, it tells at
    /// another look.
    fn pass_until(&mut self, place: Place, end: Offset, until: Instant) -> Option<Offset> {
        let (stream, partition) = place;
        let mut lane = self.lanes.get(&place).copied()?;
        let mut strays = Vec::new();
        let mut claim = None;
        let mut rest = self.parts.log.read(stream, partition, lane.next);
        while lane.next < end && clock::monotonic() < until {
            let Some(Ok(entry)) = next_until(&mut rest, until) else {
                break;
            };
            let (offset, header) = (entry.position.offset, entry.record.header);
            let mut fence = lane.fence;
            match fence.admit(offset, &header) {
                Verdict::Void if offset < end => {
                    lane.next = offset + 1;
                    lane.fence = fence;
                    let position = Position {
                        stream,
                        partition,
                        offset,
                    };
                    strays.push(Decoded::stray(position, header));
                }
                Verdict::Claim => {
                    claim = Some(offset);
                    break;
                }
                // One of ours that is on its way here, or what came after the end.
                Verdict::Commit | Verdict::Void => break,
            }
        }
        if !strays.is_empty() {
            self.lanes.insert(place, lane);
            self.pass(place, strays);
        }
        claim
    }

    fn pass(&mut self, place: Place, strays: Vec<Decoded>) {
        let (stream, partition) = place;
        for stray in &strays {
            self.folder.fold_decoded(stray);
        }
        if let Some(lane) = self.lanes.get(&place) {
            for mark in &mut self.marks {
                // A table that was built anew may have come further.
                if mark.progress(stream, partition).next < lane.next {
                    mark.advance(stream, partition, *lane);
                }
            }
        }
        // No row depends on it: what cannot be written now is written with our next append.
        if let Err(e) = self.write(Vec::new(), &Touched::from([place])) {
            tracing::warn!(%stream, %partition, error = %e, "what does not count there cannot be passed now");
        }
        let _ = self.tail.send(TailStep::Records(strays));
    }
}
