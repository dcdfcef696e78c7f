//! What others left at the end of partitions that are ours, where nothing of ours comes after it.
//!
//! Who was replaced may still append, and none of it counts. Readers wait until the read models have come to the log's end, and
//! in a quiet partition our next append, which would take them past it, may be long in coming.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::executor::block_on;
use gatelog_events::clock;
use gatelog_events::ids::{Offset, Partition, Position, Stream};
use gatelog_events::log::fence::Verdict;
use gatelog_projections::folder::{Decoded, Touched};
use gatelog_projections::store::StoreError;

use super::applier::{Applier, Failure};
use super::tail::TailStep;

type Place = (Stream, Partition);

/// How often it is looked, where nothing is to be done.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// A claim of another that has stood for so long in what is ours still was made in error: by then whoever was replaced has
/// heard of it.
const STANDING: Duration = Duration::from_secs(30);

/// What was seen at the last look.
pub(super) struct Looks {
    due: Instant,
    /// Up to where each partition was judged.
    judged: HashMap<Place, Offset>,
    /// Claims of others, and since when they are known.
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

impl Applier {
    /// Takes the read models past what does not count. Error: a claim of another stands at the end, though the partition
    /// is ours; it must be claimed anew.
    pub(super) fn pass_strays(&mut self, looks: &mut Looks) -> Result<(), Failure> {
        let now = clock::monotonic();
        if now < looks.due {
            return Ok(());
        }
        looks.due = now + LOOK;
        let places: Vec<(Place, Offset)> = self.lanes.iter().map(|(p, lane)| (*p, lane.next)).collect();
        for (place, next) in places {
            let is_quiet = looks.judged.insert(place, next) == Some(next);
            let end = self.parts.log.heard_end(place.0, place.1);
            if !is_quiet || end <= next {
                continue;
            }
            let claim = self
                .pass_until(place, end)
                .map_err(|e| Failure::because(e.to_string()))?;
            let Some(at) = claim else {
                looks.claims.remove(&place);
                continue;
            };
            let known = looks.claims.entry(place).or_insert((at, now));
            if known.0 != at {
                *known = (at, now);
            }
            if now.saturating_duration_since(known.1) >= STANDING {
                let (stream, partition) = place;
                let reason = format!("another writer claimed {stream}:{partition} at {at} and let it be");
                return Err(Failure::because(reason));
            }
        }
        Ok(())
    }

    /// Up to the first record that may count, of which a claim's offset is told.
    fn pass_until(&mut self, place: Place, end: Offset) -> Result<Option<Offset>, StoreError> {
        let (stream, partition) = place;
        let Some(mut lane) = self.lanes.get(&place).copied() else {
            return Ok(None);
        };
        let mut strays = Vec::new();
        let mut claim = None;
        let mut rest = self.parts.log.read(stream, partition, lane.next);
        while lane.next < end {
            // What the log does not tell now, it tells at another look.
            let Some(Ok(entry)) = block_on(rest.next()) else {
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
        if strays.is_empty() {
            return Ok(claim);
        }
        self.lanes.insert(place, lane);
        for stray in &strays {
            self.folder.fold_decoded(stray);
        }
        for mark in &mut self.marks {
            mark.advance(stream, partition, lane);
        }
        self.write(Vec::new(), &Touched::from([place]))?;
        let _ = self.tail.send(TailStep::Records(strays));
        Ok(claim)
    }
}
