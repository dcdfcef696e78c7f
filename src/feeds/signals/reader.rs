//! What a stream has still to tell, partition by partition.

use std::collections::BTreeSet;
use std::time::Instant;

use gatelog_events::clock::{self, Timestamp};
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
    /// When it counts as happened: not before anything that stands before it in the log, whatever the clocks said.
    pub at: Timestamp,
    pub place: SignalRef,
    pub signal: Signal,
}

/// Some of what a partition has to tell.
#[derive(Debug, Clone, Default)]
pub struct Part {
    pub pending: Vec<Pending>,
    /// Where reading began.
    from: Place,
    /// Everything before is read.
    pub then: Place,
    /// Whether there is more.
    pub more: bool,
    /// How often rows were read for it.
    pages: usize,
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

    /// Whether something is not passed with this.
    pub fn is_before(mut self, place: &SignalRef) -> bool {
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
        let tenant = &self.node.config.tenant;
        let views = &self.node.views;
        let page = |stream, from: Offset| {
            let end = views.next(signals::NAME, stream, partition).unwrap_or(0);
            let rows = views.signals(|v| signals::signals_from(v, tenant, partition, stream, from, PAGE))?;
            Ok::<_, StoreError>(Page::new(rows, end.max(from), PAGE))
        };
        let identity = page(Stream::Identity, from.identity)?;
        let activity = page(Stream::Activity, from.activity)?;
        let mut part = Part {
            from,
            ..Page::both(identity, activity)
        };
        let oldest = self.oldest();
        part.pending.retain(|p| {
            let is_told = EventType::of(p.signal.what).is_told(self.stream, p.signal.time);
            is_told && p.signal.time >= oldest && !done.contains(&p.place)
        });
        Ok(part)
    }

    /// What happened before it is not told any more. That it was told may be cut off by now, while the log keeps for ever what
    /// became of accounts: a node that reads the log anew would tell all of it again.
    fn oldest(&self) -> Timestamp {
        let retention = self.node.config.activity_retention();
        retention.map_or(Timestamp::EPOCH, |time| clock::now().minus(time))
    }

    /// What a partition has to tell from its place on, page after page until so much is there; until `time` if it takes
    /// longer, but one page in any case. What cannot be told any more is left out. Reads the store; blocks.
    pub fn ahead(&self, partition: Partition, enough: usize, time: Instant) -> Result<Part, StoreError> {
        let done = self.beyond(partition)?;
        let from = self.told(partition)?;
        let mut all = Part {
            from,
            then: from,
            ..Part::default()
        };
        let mut latest = Timestamp::from_millis(i64::MIN);
        loop {
            let part = self.part(partition, all.then, &done)?;
            (all.then, all.more) = (part.then, part.more);
            all.pages += 1;
            for mut pending in part.pending {
                latest = latest.max(pending.at);
                pending.at = latest;
                // Only addresses go.
                if pending.signal.what != What::AddressChanged || self.set(&pending.signal)?.is_some() {
                    all.pending.push(pending);
                }
            }
            if !all.more || all.pending.len() >= enough || clock::monotonic() >= time {
                return Ok(all);
            }
        }
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
            let limit = signals::MAX_VERIFICATIONS;
            let asked = views.signals(|v| signals::verifications(v, tenant, self.stream_id, limit))?;
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

/// What was read at once of one of the log's streams in a partition.
#[derive(Debug)]
struct Page {
    rows: Vec<Pending>,
    /// Everything before is read.
    next: Offset,
    more: bool,
}

impl Page {
    /// Of rows in the log's order, which were read up to `limit`. `end` is up to where was folded before they were read.
    fn new(rows: Vec<(SignalRef, Signal)>, end: Offset, limit: usize) -> Self {
        let last = rows.last().filter(|_| rows.len() >= limit);
        let last = last.map(|(place, _)| place.offset);
        // Of the last commit there may be more rows than were read; it is never the only one. What was folded since the end
        // was looked at is for the next time.
        let next = last.map_or(end, |last| last.min(end));
        let known = rows.into_iter().take_while(|(place, _)| place.offset < next);
        let mut latest = Timestamp::from_millis(i64::MIN);
        let rows = known.map(|(place, signal)| {
            latest = latest.max(signal.time);
            Pending {
                at: latest,
                place,
                signal,
            }
        });
        Self {
            rows: rows.collect(),
            next,
            more: last.is_some_and(|last| last < end),
        }
    }

    /// Leaves what happened later for the next time, by whole commits.
    fn cut(&mut self, time: Timestamp) {
        let known = self.rows.partition_point(|p| p.at <= time);
        if let Some(first) = self.rows.get(known).map(|p| p.place.offset) {
            self.rows.retain(|p| p.place.offset < first);
            self.next = first;
            self.more = true;
        }
    }

    /// Both of the log's streams in the order of time. Where more of one is there than was read, nothing of the other may
    /// come that happened later: it would come before what caused it.
    fn both(mut identity: Page, mut activity: Page) -> Part {
        let known = |page: &Page| page.rows.last().filter(|_| page.more).map(|p| p.at);
        if let Some(time) = [known(&identity), known(&activity)].into_iter().flatten().min() {
            identity.cut(time);
            activity.cut(time);
        }
        let mut pending = identity.rows;
        pending.append(&mut activity.rows);
        pending.sort_by_key(|p| p.at);
        Part {
            pending,
            then: Place {
                identity: identity.next,
                activity: activity.next,
            },
            more: identity.more || activity.more,
            pages: 1,
            ..Part::default()
        }
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

    /// Whether it is worth saying that so much is passed: it would be read each time.
    pub fn is_worth_saying(&self, passed: Place) -> bool {
        let nothing = self.pending.is_empty() && (self.more || self.pages > 1);
        is_far(self.from, passed) || (nothing && self.from != passed)
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
        Pending {
            at: signal.time,
            place,
            signal,
        }
    }

    /// Rows of commits at these offsets, which happened at these milliseconds.
    fn rows(stream: Stream, commits: &[(Offset, i64)]) -> Vec<(SignalRef, Signal)> {
        let row = |(offset, ms): &(Offset, i64)| {
            let Pending {
                place, mut signal, ..
            } = pending(at(stream, *offset));
            signal.time = Timestamp::from_millis(*ms);
            (place, signal)
        };
        commits.iter().map(row).collect()
    }

    #[test]
    fn what_is_folded_while_rows_are_read_is_left_for_the_next_time() {
        let all: &[(Offset, i64)] = &[(3, 1), (5, 2), (8, 3)];
        for (end, limit, offsets, next, more) in [
            (9, 4, vec![3, 5, 8], 9, false),
            // Of the last commit there may be more.
            (9, 3, vec![3, 5], 8, true),
            // The page is full of what came after the end was looked at.
            (8, 3, vec![3, 5], 8, false),
            (6, 3, vec![3, 5], 6, false),
            (4, 3, vec![3], 4, false),
            (3, 3, vec![], 3, false),
            (6, 4, vec![3, 5], 6, false),
        ] {
            let page = Page::new(rows(Stream::Identity, all), end, limit);
            let read: Vec<_> = page.rows.iter().map(|p| p.place.offset).collect();
            assert_eq!(
                (read, page.next, page.more),
                (offsets, next, more),
                "{end} {limit}"
            );
        }
    }

    #[test]
    fn nothing_comes_before_what_happened_earlier_in_the_other_stream() {
        use Stream::{Activity, Identity};
        // Two rows are read at once: of more, the last is not known to be whole.
        let both = |identity: &[(Offset, i64)], activity: &[(Offset, i64)]| {
            let page = |stream, commits: &[(Offset, i64)]| {
                let mut read = rows(stream, commits);
                read.truncate(3);
                Page::new(read, 100, 3)
            };
            let part = Page::both(page(Identity, identity), page(Activity, activity));
            let told: Vec<_> = part.pending.iter().map(|p| p.signal.time.millis()).collect();
            (told, part.then.identity, part.then.activity, part.more)
        };
        assert_eq!(
            both(&[(1, 10), (2, 30)], &[(1, 20)]),
            (vec![10, 20, 30], 100, 100, false)
        );
        // Of the account more is there: what ended later waits.
        assert_eq!(
            both(&[(1, 10), (2, 20), (3, 30)], &[(6, 15), (7, 25)]),
            (vec![10, 15, 20], 3, 7, true)
        );
        assert_eq!(
            both(&[(1, 10), (2, 20), (3, 30)], &[(7, 25)]),
            (vec![10, 20], 3, 7, true)
        );
        // And the other way round, and of both.
        assert_eq!(
            both(&[(4, 50)], &[(1, 10), (2, 20), (3, 30)]),
            (vec![10, 20], 4, 3, true)
        );
        assert_eq!(
            both(&[(1, 10), (2, 40), (3, 50)], &[(1, 20), (2, 30), (3, 60)]),
            (vec![10, 20, 30], 2, 3, true)
        );
        // A clock that was set back changes no order within a stream.
        assert_eq!(
            both(&[(1, 40), (2, 20)], &[(1, 30)]),
            (vec![30, 40, 20], 100, 100, false)
        );
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
            ..Part::default()
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
