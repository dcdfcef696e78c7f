//! How far a consumer is behind, and what waits for it.
//!
//! From what the log says of how far each consumer has come, which is the same on each node; a node that runs a lane knows up
//! to a second sooner. What a measurement looks at is bounded, whatever waits: beyond the bound offsets are counted instead of
//! records, which is more rather than less.

use gatelog_events::clock::Timestamp;
use gatelog_events::domain::feed::{self, Feed, TOPIC};
use gatelog_events::domain::tenant::Settings;
use gatelog_events::domain::webhook::PauseReason;
use gatelog_events::ids::{Offset, Partition, Stream};
use gatelog_projections::store::StoreError;
use gatelog_projections::webhooks::Hook;
use gatelog_projections::{changes, users};

use super::cursor::{Cursor, Lane};
use super::engine::{Engine, Item};
use super::observed::Seen;
use super::push::place;
use crate::node::Node;

/// Offsets that one measurement of a consumer looks at record by record, over all partitions.
const LOOKED_AT: u64 = 4096;
/// Records of one partition that are looked at.
const RECORDS: usize = 512;
/// Dead letters and withdrawals that are counted one by one.
pub const COUNTED: usize = 1000;

/// A count that goes no further than [`COUNTED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    pub count: usize,
    /// Whether there are more than that.
    pub more: bool,
}

impl Count {
    fn of(found: usize) -> Self {
        Self {
            count: found.min(COUNTED),
            more: found > COUNTED,
        }
    }
}

/// What waits for a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backlog {
    /// Records that are not passed.
    pub records: u64,
    /// Whether that is the number of records; otherwise there are at most so many.
    pub exact: bool,
    /// When the oldest change happened that is not passed, where one is known.
    pub oldest: Option<Timestamp>,
    /// Withdrawals among them: what the consumer must hear first.
    pub withdrawals: u64,
    /// Partitions that were looked at, those that have begun, and those in which everyone's state is still handed over.
    pub partitions: usize,
    pub begun: usize,
    pub snapshots: usize,
}

impl Default for Backlog {
    fn default() -> Self {
        Self {
            records: 0,
            exact: true,
            oldest: None,
            withdrawals: 0,
            partitions: 0,
            begun: 0,
            snapshots: 0,
        }
    }
}

impl Backlog {
    fn waits_since(&mut self, time: Option<Timestamp>) {
        self.oldest = match (self.oldest, time) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

/// Whether records leave by a consumer, and why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Live,
    /// By an operator.
    Paused,
    /// The receiver answered 410.
    Gone,
    /// The feed is retired.
    Retired,
}

/// One consumer to which records are pushed.
#[derive(Debug, Clone, Copy)]
pub struct Consumer<'a> {
    /// Of a webhook, or [`TOPIC`].
    pub name: &'a str,
    pub version: u32,
    pub generation: u64,
    pub state: State,
}

impl Consumer<'_> {
    pub fn is_topic(&self) -> bool {
        self.name == TOPIC
    }
}

/// The consumers of a feed: its webhooks by name, then its topic.
pub fn consumers(feed: &Feed) -> impl Iterator<Item = Consumer<'_>> {
    let retired = feed.retired_at.is_some();
    let state = move |paused: Option<PauseReason>| match paused {
        _ if retired => State::Retired,
        None => State::Live,
        Some(PauseReason::Operator) => State::Paused,
        Some(PauseReason::Gone) => State::Gone,
    };
    let webhooks = feed.webhooks.iter().map(move |(name, w)| Consumer {
        name,
        version: w.version,
        generation: w.generation,
        state: state(w.paused),
    });
    let topic = feed.topic.iter().map(move |topic| Consumer {
        name: TOPIC,
        version: topic.version,
        generation: topic.generation,
        state: state(None),
    });
    webhooks.chain(topic)
}

/// What waits for a consumer in these partitions. Reads the store; blocks.
pub fn measure(
    node: &Node,
    settings: &Settings,
    feed: &str,
    consumer: Consumer<'_>,
    seen: &Seen,
    partitions: impl Iterator<Item = Partition>,
) -> Result<Backlog, StoreError> {
    let mut backlog = Backlog::default();
    let version = settings.feeds.get(feed).and_then(|f| f.version(consumer.version));
    let Some(version) = version else {
        return Ok(backlog);
    };
    let mut room = LOOKED_AT;
    for partition in partitions {
        let engine = Engine::of(node, settings, feed, &version.definition, partition);
        backlog.partitions += 1;
        let known = where_it_is(node, feed, consumer, seen, partition)?;
        backlog.begun += usize::from(known.is_some());
        // What has not begun has everyone's state before it; how many they are would take too long to count.
        let place = known.unwrap_or_default();
        if known.is_none() || place.snapshot.is_some() {
            backlog.snapshots += 1;
        }
        look(&engine, consumer.version, place, &mut room, &mut backlog)?;
    }
    Ok(backlog)
}

/// Up to where everything is done in a partition.
fn where_it_is(
    node: &Node,
    feed: &str,
    consumer: Consumer<'_>,
    seen: &Seen,
    partition: Partition,
) -> Result<Option<Lane>, StoreError> {
    if let Some((generation, lane)) = seen.places.get(&partition)
        && *generation == consumer.generation
    {
        return Ok(Some(*lane));
    }
    let hook = Hook {
        tenant: &node.config.tenant,
        feed,
        webhook: consumer.name,
    };
    let said = node.views.webhook_progress(hook, partition)?;
    let said = said.filter(|p| p.generation == consumer.generation);
    Ok(said.as_ref().map(place))
}

/// Adds what waits in one partition.
fn look(
    engine: &Engine<'_>,
    version: u32,
    place: Lane,
    room: &mut u64,
    backlog: &mut Backlog,
) -> Result<(), StoreError> {
    let behind = rest(engine, place);
    if behind == 0 {
        return Ok(());
    }
    let mut left = place;
    if *room > 0 {
        let cursor = Cursor {
            version,
            turn: 0,
            lanes: vec![place],
        };
        let batch = engine.records(cursor, RECORDS)?;
        for (item, record) in &batch.told {
            backlog.records += 1;
            backlog.withdrawals += u64::from(matches!(item, Item::Withdrawn { .. }));
            backlog.waits_since(record.time);
        }
        left = batch.cursor.lanes.first().copied().unwrap_or(place);
        *room = room.saturating_sub(behind.saturating_sub(rest(engine, left)) + 1);
    }
    let unseen = rest(engine, left);
    if unseen > 0 {
        backlog.records += unseen;
        backlog.exact = false;
        for (stream, from) in [
            (Stream::Identity, left.identity),
            (Stream::Activity, left.activity),
        ] {
            if stream == Stream::Activity && !follows_activity(engine) {
                continue;
            }
            let next = engine
                .views
                .changes(engine.tenant, stream, engine.first, from, 1)?;
            let event = next.first().and_then(|(_, change)| change.events.first());
            backlog.waits_since(event.map(|e| e.time));
        }
    }
    Ok(())
}

/// Offsets between a place and the end of what is folded.
fn rest(engine: &Engine<'_>, place: Lane) -> u64 {
    let next = |projection, stream| -> Offset {
        let next = engine.views.next(projection, stream, engine.first);
        next.unwrap_or(0)
    };
    let identity = next(changes::NAME, Stream::Identity).min(next(users::NAME, Stream::Identity));
    let activity = if follows_activity(engine) {
        next(changes::NAME, Stream::Activity).saturating_sub(place.activity)
    } else {
        0
    };
    // Withdrawals are never told later than the rest; where they alone wait, the rest is passed.
    let identity_rest = identity.saturating_sub(place.identity.min(place.withdrawals));
    let snapshot = place.snapshot.map_or(0, |s| s.end.saturating_sub(s.next));
    identity_rest + activity + snapshot
}

fn follows_activity(engine: &Engine<'_>) -> bool {
    engine
        .definition
        .events
        .iter()
        .any(|kind| feed::is_activity(kind))
}

/// Records that a webhook's receiver would not take. Reads the store; blocks.
pub fn dead_letters(node: &Node, feed: &str, webhook: &str) -> Result<Count, StoreError> {
    let hook = Hook {
        tenant: &node.config.tenant,
        feed,
        webhook,
    };
    let found = node.views.dead_letters(hook, None, COUNTED + 1)?;
    Ok(Count::of(found.len()))
}

/// Withdrawals that the feed's consumers were told of and have not acknowledged. Reads the store; blocks.
pub fn unacknowledged(node: &Node, feed: &str) -> Result<Count, StoreError> {
    let mut found = 0;
    for partition in (0..node.log.partitions()).map(Partition) {
        let left = (COUNTED + 1).saturating_sub(found);
        if left == 0 {
            break;
        }
        let tenant = &node.config.tenant;
        let open = node
            .views
            .unacknowledged(tenant, feed, partition, 0..Offset::MAX, left)?;
        found += open.len();
    }
    Ok(Count::of(found))
}
