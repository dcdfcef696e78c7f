//! What a stream has still to tell, partition by partition.

use std::collections::BTreeSet;

use gatelog_events::clock::Timestamp;
use gatelog_events::domain::feed::Command;
use gatelog_events::domain::signals::{
    MAX_BEYOND, SignalRef, SignalStream, SignalsTold, StatusNotice, StreamStatus,
};
use gatelog_events::ids::{EventId, Offset, Partition, Stream};
use gatelog_projections::signals::{self, Signal, Told, What};
use gatelog_projections::store::StoreError;
use uuid::Uuid;

use super::token::{Set, Teller};
use super::types::EventType;
use crate::node::Node;

/// Rows of one partition and one of the log's streams that are looked at together: more than one commit has.
const PAGE: usize = 1024;

/// Verification events that are told at once.
const VERIFICATIONS: usize = 32;

/// Rows that concern nobody after which it is worth saying that they are passed.
const PASSED: u64 = 4096;

/// Reads for one stream.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    pub node: &'a Node,
    pub stream_id: Uuid,
    pub stream: &'a SignalStream,
}

/// Something that is still to be told.
#[derive(Debug, Clone)]
pub struct Pending {
    pub place: SignalRef,
    pub signal: Signal,
}

/// Some of what a partition has to tell.
#[derive(Debug, Clone, Default)]
pub struct Part {
    pub pending: Vec<Pending>,
    /// Everything before is read.
    pub then: Place,
    /// Whether there is more.
    pub more: bool,
}

/// A place in both of the log's streams in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    pub identity: Offset,
    pub activity: Offset,
}

impl Place {
    fn of(&mut self, stream: Stream) -> &mut Offset {
        match stream {
            Stream::Identity => &mut self.identity,
            Stream::Activity => &mut self.activity,
        }
    }

    fn is_before(mut self, place: &SignalRef) -> bool {
        *self.of(place.stream) <= place.offset
    }
}

impl From<Told> for Place {
    fn from(told: Told) -> Self {
        Self {
            identity: told.identity,
            activity: told.activity,
        }
    }
}

/// What a receiver is to hear of its stream itself.
#[derive(Debug, Clone)]
pub enum Notice {
    Verification(EventId, signals::Verification),
    Status(StatusNotice),
}

impl Notice {
    /// When it was asked for.
    pub fn time(&self) -> Timestamp {
        match self {
            Notice::Verification(_, verification) => verification.time,
            Notice::Status(notice) => notice.time,
        }
    }
}

impl<'a> Reader<'a> {
    /// What makes the stream's SETs.
    pub fn teller(&self) -> Teller<'a> {
        Teller {
            issuer: &self.node.config.issuer,
            keys: &self.node.feed_keys,
            tenant: &self.node.config.tenant,
            stream_id: self.stream_id,
            stream: self.stream,
        }
    }

    /// Up to where everything in a partition is done with: as was said, or where the stream begins.
    pub fn told(&self, partition: Partition) -> Result<Place, StoreError> {
        let tenant = &self.node.config.tenant;
        let known = self
            .node
            .views
            .signals(|v| signals::told(v, tenant, self.stream_id, partition))?;
        let known = known.filter(|told| told.generation == self.stream.generation);
        Ok(known.map_or_else(|| self.beginning(partition), Place::from))
    }

    fn beginning(&self, partition: Partition) -> Place {
        let at = |offsets: &[Offset]| offsets.get(usize::from(partition.0)).copied().unwrap_or(0);
        Place {
            identity: at(&self.stream.begins.identity),
            activity: at(&self.stream.begins.activity),
        }
    }

    /// What is done with beyond that.
    pub fn beyond(&self, partition: Partition) -> Result<BTreeSet<SignalRef>, StoreError> {
        let tenant = &self.node.config.tenant;
        self.node
            .views
            .signals(|v| signals::beyond(v, tenant, self.stream_id, partition))
    }

    /// What of a partition comes from a place on and is neither done with nor unknown to the receiver, in the order of
    /// time. Reads the store; blocks.
    pub fn part(
        &self,
        partition: Partition,
        from: Place,
        done: &BTreeSet<SignalRef>,
    ) -> Result<Part, StoreError> {
        let mut part = Part {
            then: from,
            ..Part::default()
        };
        for stream in Stream::ALL {
            let next = part.then.of(stream);
            let end = self
                .node
                .views
                .next(signals::NAME, stream, partition)
                .unwrap_or(0)
                .max(*next);
            let tenant = &self.node.config.tenant;
            let mut rows = self
                .node
                .views
                .signals(|v| signals::signals_from(v, tenant, partition, stream, *next, PAGE))?;
            *next = end;
            if rows.len() == PAGE
                && let Some((last, _)) = rows.last().cloned()
            {
                // Of the last commit there may be more rows than were read; it is never the only one.
                rows.retain(|(place, _)| place.offset < last.offset);
                *next = last.offset;
                part.more = true;
            }
            for (place, signal) in rows {
                // Folded since the end was looked at.
                if place.offset >= end {
                    break;
                }
                if !done.contains(&place) && EventType::of(signal.what).is_delivered(self.stream) {
                    part.pending.push(Pending { place, signal });
                }
            }
        }
        part.pending.sort_by_key(|p| p.signal.time);
        Ok(part)
    }

    /// What tells of a signal now; nothing where nothing of it may be told any more.
    pub fn set(&self, signal: &Signal) -> Result<Option<Set>, StoreError> {
        let tenant = &self.node.config.tenant;
        let addresses = match signal.what {
            What::AddressChanged => self
                .node
                .views
                .signals(|v| signals::addresses(v, tenant, signal.user, signal.event))?,
            _ => None,
        };
        Ok(self.teller().signal(signal, addresses.as_ref()))
    }

    /// What the receiver is to hear of the stream itself, whatever else waits. Verification events wait while the stream
    /// tells nothing; that somebody else stopped it is told also then.
    pub fn notices(&self) -> Result<Vec<Notice>, StoreError> {
        let tenant = &self.node.config.tenant;
        let views = &self.node.views;
        let mut notices = Vec::new();
        if let Some(notice) = &self.stream.notice
            && views.signals(|v| signals::noticed(v, tenant, self.stream_id))? < notice.number
        {
            notices.push(Notice::Status(notice.clone()));
        }
        if self.stream.status == StreamStatus::Enabled {
            let asked =
                views.signals(|v| signals::verifications(v, tenant, self.stream_id, VERIFICATIONS))?;
            notices.extend(asked.into_iter().map(|(id, v)| Notice::Verification(id, v)));
        }
        Ok(notices)
    }

    /// The SET of a notice.
    pub fn notice(&self, notice: &Notice) -> Set {
        match notice {
            Notice::Verification(id, verification) => self.teller().verification(*id, verification),
            Notice::Status(notice) => self.teller().updated(notice),
        }
    }

    /// The commands that say how far the stream has come: everything before `then` is done with, and `beyond` it these.
    pub fn say(&self, then: Place, beyond: &[SignalRef]) -> Vec<Command> {
        let told = |beyond: &[SignalRef]| {
            Command::SignalsTold(SignalsTold {
                stream_id: self.stream_id,
                generation: self.stream.generation,
                identity: then.identity,
                activity: then.activity,
                beyond: beyond.to_vec(),
            })
        };
        let beyond: Vec<_> = beyond
            .iter()
            .copied()
            .filter(|place| then.is_before(place))
            .collect();
        if beyond.is_empty() {
            return vec![told(&[])];
        }
        beyond.chunks(MAX_BEYOND).map(told).collect()
    }
}

impl Part {
    /// Up to where everything is done with, if these are done with too.
    pub fn passed(&self, done: &BTreeSet<SignalRef>) -> Place {
        let mut passed = self.then;
        let open = self.pending.iter().filter(|p| !done.contains(&p.place));
        for Pending { place, .. } in open {
            let at = passed.of(place.stream);
            *at = (*at).min(place.offset);
        }
        passed
    }
}

/// Whether so much was passed without anything to tell that it is worth saying.
pub fn is_far(said: Place, now: Place) -> bool {
    now.identity.saturating_sub(said.identity) + now.activity.saturating_sub(said.activity) > PASSED
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatelog_events::ids::{CommitId, UserId};
    use gatelog_projections::signals::Initiator;

    fn at(stream: Stream, offset: Offset) -> SignalRef {
        SignalRef {
            stream,
            offset,
            number: 0,
        }
    }

    fn pending(place: SignalRef) -> Pending {
        let signal = Signal {
            user: UserId(Uuid::nil()),
            event: EventId(Uuid::nil()),
            commit: CommitId(Uuid::nil()),
            time: Timestamp::EPOCH,
            by: Initiator::User,
            what: What::AccountEnabled,
        };
        Pending { place, signal }
    }

    #[test]
    fn a_stream_passes_only_what_is_done_with() {
        use Stream::{Activity, Identity};
        let part = Part {
            pending: [at(Identity, 3), at(Activity, 9), at(Identity, 5)]
                .map(pending)
                .to_vec(),
            then: Place {
                identity: 20,
                activity: 30,
            },
            more: false,
        };
        for (done, identity, activity) in [
            (vec![], 3, 9),
            (vec![at(Identity, 5)], 3, 9),
            (vec![at(Identity, 3)], 5, 9),
            (vec![at(Identity, 3), at(Activity, 9)], 5, 30),
            (vec![at(Identity, 3), at(Identity, 5), at(Activity, 9)], 20, 30),
        ] {
            let passed = part.passed(&done.iter().copied().collect());
            assert_eq!(passed, Place { identity, activity }, "{done:?}");
        }
    }
}
