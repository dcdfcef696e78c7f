//! The thread of a [lane](super::lane): commands in, messages out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList};

use super::clients::{STUCK, replaced};
use super::config::KafkaConfig;
use super::errors::{damaged, io_error, kind, no_client, passes, text};
use super::feed::Sink;
use super::lane::{Command, LaneHandle, Subscription};
use super::monitor::{Context, Monitor, count};
use super::places::{Topic, Topics};
use super::query::Query;
use crate::clock;
use crate::ids::{Offset, Stream};
use crate::log::LogError;

/// Messages taken before commands are looked at.
const BATCH: usize = 1000;
/// Polls in a row that find nothing before the queue counts as empty: a line for the log looks like nothing, too.
const EMPTY: usize = 8;
/// The thread looks around at least this often, even if nothing rings.
const LOOK: Duration = Duration::from_millis(200);
/// How long an extra lane without readers lives on.
const UNUSED: Duration = Duration::from_secs(30);
/// Between two looks for such readers.
const CHECK: Duration = Duration::from_secs(1);
/// How long readers of a closed log wait for what is durable but does not come.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// One reader, as the thread sees it.
struct Reader {
    id: u64,
    /// Records below are not wanted.
    from: Offset,
    /// The next offset to come.
    next: Offset,
    /// Whether `next` is known to be a place in the log, since something before it was read.
    anchored: bool,
    paused: bool,
    /// The log is closed: end when `next` is here.
    last: Option<Offset>,
    /// Where and since when there is more than it gets.
    behind: Option<Behind>,
    sink: Box<dyn Sink>,
}

/// A reader's place, when the brokers had told of more.
#[derive(Clone, Copy)]
struct Behind {
    next: Offset,
    /// How often the brokers had told by then.
    told: u64,
    since: Instant,
}

/// All that the thread works with.
pub(super) struct Fetcher {
    consumer: BaseConsumer<Context>,
    settings: ClientConfig,
    context: Context,
    handle: Arc<LaneHandle>,
    query: Arc<Query>,
    topics: Arc<Topics>,
    monitor: Arc<Monitor>,
    readers: Vec<Option<Reader>>,
    /// Some partition's offset is out of range, and which is not known yet; it is looked for from then on.
    unclear: Option<Instant>,
    /// When readers were looked at last.
    checked: Instant,
    /// Since when a closed log's readers have got nothing.
    closing_since: Option<Instant>,
    request_timeout: Duration,
    /// Lives as long as the log, with readers or without.
    permanent: bool,
    /// The consumer cannot go on. The next reader gets another lane.
    broken: bool,
}

impl Fetcher {
    pub fn new(
        config: &KafkaConfig,
        handle: Arc<LaneHandle>,
        query: Arc<Query>,
        topics: Arc<Topics>,
        monitor: Arc<Monitor>,
        permanent: bool,
    ) -> Result<Self, LogError> {
        let mut settings = config.consumer("tail");
        settings
            .set("enable.partition.eof", "false")
            // A consumer has one fetch under way with each broker; a new reader waits until that returns.
            .set("fetch.wait.max.ms", "50")
            .set("max.partition.fetch.bytes", "1048576")
            .set("queued.min.messages", "10000")
            .set("queued.max.messages.kbytes", "16384");
        let context = Context::new(&monitor, "tail");
        let consumer = connect(&settings, &context, &handle).map_err(|e| no_client(config, e))?;
        count(&monitor.counts.consumers);
        let readers = (0..topics.slots()).map(|_| None).collect();
        Ok(Self {
            consumer,
            settings,
            context,
            handle,
            query,
            topics,
            monitor,
            readers,
            unclear: None,
            checked: clock::monotonic(),
            closing_since: None,
            request_timeout: config.request_timeout,
            permanent,
            broken: false,
        })
    }

    pub fn run(mut self) {
        loop {
            for command in self.handle.commands() {
                self.obey(command);
            }
            if self.unclear.is_some_and(|at| at <= clock::monotonic()) {
                self.diagnose();
            }
            if self.is_stuck(clock::monotonic()) {
                self.renew();
            }
            if self.handle.is_closing() && self.wind_up() {
                break;
            }
            if self.broken {
                break;
            }
            if !self.permanent && self.handle.end_if_unused(clock::monotonic(), UNUSED) {
                break;
            }
            if self.drain() {
                self.handle.bell.wait(LOOK);
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Subscribe(subscription) => self.subscribe(subscription),
            Command::Unsubscribe { slot, id } => {
                if self.readers[slot].as_ref().is_some_and(|r| r.id == id) {
                    self.drop_reader(slot);
                }
            }
            Command::Resume { slot, id } => {
                if let Some(reader) = self.readers[slot].as_mut().filter(|r| r.id == id && r.paused) {
                    reader.paused = false;
                    let list = self.list(slot, None);
                    self.checked("resume", self.consumer.resume(&list));
                }
            }
        }
    }

    fn subscribe(&mut self, subscription: Subscription) {
        let Subscription { slot, id, from, sink } = subscription;
        let next = from.min(i64::MAX as u64);
        self.readers[slot] = Some(Reader {
            id,
            from,
            next,
            anchored: false,
            paused: false,
            last: None,
            behind: None,
            sink,
        });
        self.assign(slot, next);
    }

    fn assign(&mut self, slot: usize, at: Offset) {
        let list = self.list(slot, Some(at));
        if let Err(e) = self.consumer.incremental_assign(&list) {
            let place = self.topics.describe(slot, at);
            self.end(slot, io_error(place, std::io::ErrorKind::Other, text(&e)));
        }
    }

    fn unassign(&self, slot: usize) {
        self.checked(
            "unassign",
            self.consumer.incremental_unassign(&self.list(slot, None)),
        );
    }

    fn list(&self, slot: usize, at: Option<Offset>) -> TopicPartitionList {
        let (topic, partition) = self.topics.address(slot);
        let mut list = TopicPartitionList::with_capacity(1);
        let offset = at.map_or(At::Invalid, |at| {
            At::Offset(i64::try_from(at).unwrap_or(i64::MAX))
        });
        // Only names with a NUL are refused.
        let _ = list.add_partition_offset(topic, partition, offset);
        list
    }

    fn checked(&self, what: &str, result: Result<(), KafkaError>) {
        if let Err(e) = result {
            tracing::warn!(what, "the consumer of the Kafka log: {}", text(&e));
        }
    }

    fn drop_reader(&mut self, slot: usize) -> Option<Reader> {
        let reader = self.readers[slot].take()?;
        if reader.paused {
            // The mark would outlive the assignment.
            self.checked("resume", self.consumer.resume(&self.list(slot, None)));
        }
        self.unassign(slot);
        Some(reader)
    }

    fn end(&mut self, slot: usize, error: LogError) {
        if let Some(reader) = self.drop_reader(slot) {
            reader.sink.end(error);
        }
    }

    fn end_all(&mut self, error: &LogError) {
        for slot in 0..self.readers.len() {
            self.end(slot, error.clone());
        }
    }

    /// Takes messages as long as there are any. `true`: there are none left.
    fn drain(&mut self) -> bool {
        let mut nothing = 0;
        for _ in 0..BATCH {
            let polled = self.consumer.poll(Duration::ZERO);
            match polled {
                Some(Ok(message)) => {
                    let end = Self::take(
                        &self.topics,
                        &self.monitor,
                        &self.consumer,
                        &mut self.readers,
                        &message,
                    );
                    drop(message);
                    if let Some((slot, error)) = end {
                        self.end(slot, error);
                    }
                    nothing = 0;
                    if let Some(since) = &mut self.closing_since {
                        *since = clock::monotonic();
                    }
                }
                Some(Err(error)) => {
                    self.on_error(&error);
                    nothing = 0;
                }
                None if nothing == EMPTY => return true,
                None => nothing += 1,
            }
        }
        false
    }

    /// Hands a message to its reader. `Some`: the reader ends with this.
    fn take(
        topics: &Topics,
        monitor: &Monitor,
        consumer: &BaseConsumer<Context>,
        readers: &mut [Option<Reader>],
        message: &BorrowedMessage<'_>,
    ) -> Option<(usize, LogError)> {
        let slot = topics.slot_of(message.topic(), message.partition())?;
        let offset = u64::try_from(message.offset()).ok()?;
        let reader = readers[slot].as_mut().filter(|r| offset >= r.next)?;
        if reader.anchored && offset > reader.next {
            count(&monitor.counts.offset_gaps);
        }
        reader.next = offset + 1;
        reader.anchored = true;
        topics.is_durable(slot, offset);
        if offset >= reader.from {
            monitor.contact();
            count(&monitor.counts.records_read);
            match reader.sink.take(topics, slot, message) {
                Ok(false) => {}
                Ok(true) => {
                    reader.paused = true;
                    count(&monitor.counts.pauses);
                    let mut list = TopicPartitionList::with_capacity(1);
                    list.add_partition(message.topic(), message.partition());
                    if let Err(e) = consumer.pause(&list) {
                        tracing::warn!("the consumer of the Kafka log cannot pause: {}", text(&e));
                    }
                }
                Err(error) => return Some((slot, error)),
            }
        }
        let over = reader.last.is_some_and(|last| reader.next >= last);
        over.then_some((slot, LogError::Closed))
    }

    fn on_error(&mut self, error: &KafkaError) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        let reason = std::mem::take(&mut *self.context.reason.lock());
        match (error, code) {
            (KafkaError::PartitionEOF(_), _) => {}
            (_, Code::AutoOffsetReset | Code::OffsetOutOfRange) if !reason.contains("truncation") => {
                self.unclear = Some(clock::monotonic());
            }
            (KafkaError::MessageConsumptionFatal(_), _) => {
                self.end_all(&io_error("the consumer of the Kafka log", kind(code), reason));
                self.broken = true;
            }
            (_, Code::TopicAuthorizationFailed) => {
                let place = format!("a topic {}…", self.topics.name(Topic::Stream(Stream::Identity)));
                self.end_all(&io_error(place, kind(code), reason));
            }
            (_, code) if passes(code) => {}
            // A batch that does not check, or whatever else librdkafka would pass over. It does not say where.
            _ => {
                let places: Vec<_> = self
                    .in_use()
                    .map(|(slot, r)| self.topics.describe(slot, r.next))
                    .collect();
                let place = format!("one of: {}", places.join("; "));
                self.end_all(&damaged(place, reason));
            }
        }
    }

    fn in_use(&self) -> impl Iterator<Item = (usize, &Reader)> {
        let used = self.readers.iter().enumerate();
        used.filter_map(|(slot, reader)| Some((slot, reader.as_ref()?)))
    }

    /// Finds out whose offset is out of range, and what that means.
    fn diagnose(&mut self) {
        // What is sick may not tell, and would keep the others waiting.
        let used = self.in_use().map(|(slot, _)| slot);
        let (slots, sick): (Vec<_>, Vec<_>) = used.partition(|slot| self.topics.is_writable(*slot));
        let known: Vec<_> = slots.iter().map(|slot| self.topics.known_end(*slot)).collect();
        let asked = self
            .query
            .begins(&slots, self.request_timeout)
            .and_then(|begins| {
                let ends = self.query.bare_ends(&slots, self.request_timeout)?;
                Ok((begins, ends))
            });
        // Kafka is away just now: asked again when the thread next looks around.
        let Ok((begins, ends)) = asked else { return };
        self.unclear = (!sick.is_empty()).then(|| clock::monotonic() + CHECK);
        for (i, slot) in slots.into_iter().enumerate() {
            let Some(reader) = self.readers[slot].as_mut() else {
                continue;
            };
            match place_anew(
                self.topics.place(slot).topic,
                reader,
                begins[i],
                ends[i],
                known[i],
            ) {
                Ok(next) => {
                    count(&self.monitor.counts.offset_resets);
                    reader.next = next;
                    let paused = std::mem::take(&mut reader.paused);
                    if paused {
                        self.checked("resume", self.consumer.resume(&self.list(slot, None)));
                    }
                    self.unassign(slot);
                    self.assign(slot, next);
                }
                Err(what) => {
                    let place = self.topics.describe(slot, reader.next);
                    self.end(slot, damaged(place, what));
                }
            }
        }
    }

    /// Whether a reader gets nothing although brokers have told of more, and went on telling.
    fn is_stuck(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.checked) < CHECK {
            return false;
        }
        self.checked = now;
        let mut stuck = false;
        for (slot, reader) in self.readers.iter_mut().enumerate() {
            let Some(reader) = reader else { continue };
            let (end, told) = self.topics.seen_end(slot);
            let next = reader.next;
            reader.behind = match reader.behind {
                _ if reader.paused || next >= end => None,
                Some(behind) if behind.next == next => {
                    stuck |= told > behind.told && now.saturating_duration_since(behind.since) >= STUCK;
                    Some(behind)
                }
                _ => Some(Behind {
                    next,
                    told,
                    since: now,
                }),
            };
        }
        stuck
    }

    /// Goes on with another consumer, where this one was.
    fn renew(&mut self) {
        match connect(&self.settings, &self.context, &self.handle) {
            Ok(consumer) => replaced(
                &self.monitor,
                "tail",
                std::mem::replace(&mut self.consumer, consumer),
            ),
            Err(e) => return tracing::warn!("no new consumer of the Kafka log can be made: {}", text(&e)),
        }
        for slot in 0..self.readers.len() {
            let Some(reader) = &mut self.readers[slot] else {
                continue;
            };
            (reader.behind, reader.paused) = (None, false);
            let next = reader.next;
            self.assign(slot, next);
        }
    }

    /// After the log is closed: readers get what is durable, then the end. `true`: there are no readers left.
    fn wind_up(&mut self) -> bool {
        let now = clock::monotonic();
        if self.closing_since.is_none() {
            let slots: Vec<_> = self.in_use().map(|(slot, _)| slot).collect();
            match self.query.bare_ends(&slots, self.request_timeout) {
                Ok(ends) => {
                    for (slot, end) in slots.into_iter().zip(ends) {
                        if let Some(reader) = self.readers[slot].as_mut() {
                            reader.last = Some(end);
                            if reader.next >= end {
                                self.end(slot, LogError::Closed);
                            }
                        }
                    }
                }
                Err(_) => self.end_all(&LogError::Closed),
            }
            self.closing_since = Some(now);
        }
        let held_up = self.in_use().any(|(_, r)| r.paused);
        let waited = self
            .closing_since
            .map_or(LAST_WAIT, |since| now.saturating_duration_since(since));
        if !held_up && waited >= LAST_WAIT {
            self.end_all(&LogError::Closed);
        }
        if held_up {
            self.closing_since = Some(now);
        }
        self.readers.iter().all(Option::is_none)
    }
}

/// A consumer that rings the lane's bell when it has something.
fn connect(
    settings: &ClientConfig,
    context: &Context,
    handle: &LaneHandle,
) -> Result<BaseConsumer<Context>, KafkaError> {
    let mut consumer: BaseConsumer<Context> = settings.create_with_context(context.clone())?;
    let bell = handle.bell.clone();
    consumer.set_nonempty_callback(move || bell.ring());
    Ok(consumer)
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.monitor
            .counts
            .consumers
            .fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        self.handle.end(&LogError::Closed);
    }
}

/// Where a reader goes on whose offset may be out of range; or what was lost.
fn place_anew(
    topic: Topic,
    reader: &Reader,
    begin: Offset,
    end: Offset,
    known: Offset,
) -> Result<Offset, String> {
    let next = reader.next;
    if next < begin {
        // The activity stream is cut by time, which is no loss.
        return match topic {
            Topic::Stream(Stream::Activity) => Ok(begin),
            _ => Err(format!(
                "Kafka has deleted records: the partition now begins at {begin}"
            )),
        };
    }
    if next > end {
        let reached = known.max(if reader.anchored { next } else { 0 });
        if reached > end {
            return Err(format!(
                "Kafka has lost records: the partition ends at {end}, and had reached {reached}"
            ));
        }
        // The reader asked for what is yet to come.
        return Ok(end);
    }
    Ok(next)
}
