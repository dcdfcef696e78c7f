//! One partition of one stream that is pushed: in order per user, and as many at once as the receiver takes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use gatelog_events::clock::{self, Timestamp};
use gatelog_events::domain::feed::Command;
use gatelog_events::domain::signals::{SignalRef, SignalStream, StreamStatus};
use gatelog_events::domain::tenant::Settings;
use gatelog_events::domain::webhook::{DeadLetter, Told};
use gatelog_events::ids::{Offset, Partition, Stream, UserId};
use gatelog_projections::changes::Happened;
use gatelog_projections::details::Details;
use gatelog_projections::signals;
use gatelog_projections::store::StoreError;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::endpoint::{CONCURRENCY, Endpoint, Outcome};
use crate::feeds::cursor;
use crate::feeds::engine::Item;
use crate::feeds::push::pause::{self, LAND};
use crate::feeds::push::queue::{Job, Queue};
use crate::feeds::signals::reader::{Pending, Place, Reader, is_far};
use crate::feeds::signals::types::EventType;
use crate::feeds::signals::{FEED, is_trusted, say_and_see};
use crate::node::Node;
use crate::writer::WriteError;

/// SETs that are taken from the log and not yet by the receiver, beyond which no more are read.
const WINDOW: usize = 512;
/// The same where all of them wait for another attempt, or behind one that does: of whoever else is concerned is told.
const WAITING: usize = 4096;
/// How often it is said how far the lane has come.
const SAY: Duration = Duration::from_secs(1);

/// SETs that are kept in the log as done with beyond the place of a lane. Of more, what comes again is not worth the rows.
const BEYOND: usize = 16_384;
/// Why a SET stays where it is.
#[derive(Debug, thiserror::Error)]
enum Held {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("the key that signs is not to be had")]
    NoKey,
    /// The lane ends soon; what it holds is for the one that begins when the stream goes on.
    #[error("the stream is paused, or the lane ends")]
    NotLive,
}

/// What came back of a flight.
struct Landed {
    job: Job,
    result: Result<Option<Outcome>, Held>,
    /// The SET's name.
    jti: Option<Uuid>,
    /// When it left.
    began: Timestamp,
}

pub(super) struct Lane {
    node: Arc<Node>,
    endpoint: Arc<Endpoint>,
    partition: Partition,
    stream: Arc<SignalStream>,
    /// Up to where everything is in the queue.
    read: Place,
    /// Up to where everything is done, and what of it was said.
    passed: Place,
    said: Place,
    /// What is on record as done with beyond the lane's place.
    beyond: BTreeSet<SignalRef>,
    /// What was done with since it was said last how far the lane has come.
    done: BTreeSet<SignalRef>,
    behind: bool,
    folded: [Offset; 2],
    queue: Queue,
    flights: JoinSet<Landed>,
    stop: CancellationToken,
}

impl Lane {
    pub fn new(
        node: Arc<Node>,
        endpoint: Arc<Endpoint>,
        stream: Arc<SignalStream>,
        partition: Partition,
        stop: CancellationToken,
    ) -> Self {
        Self {
            node,
            endpoint,
            partition,
            stream,
            read: Place::default(),
            passed: Place::default(),
            said: Place::default(),
            beyond: BTreeSet::new(),
            done: BTreeSet::new(),
            behind: true,
            folded: [0; 2],
            queue: Queue::default(),
            flights: JoinSet::new(),
            stop,
        }
    }

    /// Until it is stopped; it says then how far it has come.
    pub async fn run(mut self) {
        if let Err(e) = self.begin() {
            return self.complain("it cannot be read how far it has come", &e);
        }
        let mut say = tokio::time::interval(SAY);
        let mut back = self.endpoint.door.back();
        let stop = self.stop.clone();
        loop {
            // Before looking, so that nothing in between is missed.
            let moved = self.node.views.moved(signals::NAME);
            if let Err(e) = self.read_on() {
                self.complain("the read models cannot be read", &e);
                tokio::time::sleep(SAY).await;
            }
            self.launch();
            let wake = self.queue.next_wake();
            tokio::select! {
                () = stop.cancelled() => break,
                Some(Ok(landed)) = self.flights.join_next(), if !self.flights.is_empty() => {
                    self.land(landed).await;
                    while let Some(Ok(landed)) = self.flights.try_join_next() {
                        self.land(landed).await;
                    }
                }
                () = pause::until(wake) => {}
                // What failed while it was away was not the SETs' fault.
                Ok(()) = back.changed() => self.queue.wake_all(),
                () = moved => {}
                _ = say.tick() => self.say_progress().await,
            }
        }
        self.land_rest().await;
        self.say_progress().await;
    }

    /// What is being posted lands first, or whoever goes on from here would post it again.
    async fn land_rest(&mut self) {
        let rest = async {
            while let Some(Ok(landed)) = self.flights.join_next().await {
                self.land(landed).await;
            }
        };
        // What takes longer is posted once more.
        let _ = tokio::time::timeout(LAND, rest).await;
    }

    fn complain(&self, what: &str, e: &dyn std::fmt::Display) {
        let stream = self.endpoint.stream_id;
        tracing::warn!(%stream, partition = %self.partition, error = %e, "{what}");
    }

    fn reader(&self) -> Reader<'_> {
        Reader {
            node: &self.node,
            stream_id: self.endpoint.stream_id,
            stream: &self.stream,
        }
    }

    /// Where it was left, or where the stream begins.
    fn begin(&mut self) -> Result<(), StoreError> {
        let at = self.reader().told(self.partition)?;
        self.beyond = self.reader().beyond(self.partition)?;
        (self.read, self.passed, self.said) = (at, at, at);
        Ok(())
    }

    /// Takes what is new into the queue while there is room.
    fn read_on(&mut self) -> Result<(), StoreError> {
        let folded = Stream::ALL.map(|stream| {
            let next = self.node.views.next(signals::NAME, stream, self.partition);
            next.unwrap_or(0)
        });
        self.behind |= folded != self.folded;
        self.folded = folded;
        while self.behind && self.has_room() {
            // It reads many rows: those who log in meanwhile shall not wait for the thread.
            let reader = self.reader();
            let part = tokio::task::block_in_place(|| reader.part(self.partition, self.read, &self.beyond))?;
            self.behind = part.more;
            if part.then != self.read {
                self.read = part.then;
                let items = part.pending.into_iter().map(item);
                self.queue.take(items, as_cursor(part.then));
            }
        }
        if let Some(passed) = self.queue.passed() {
            self.passed = from_cursor(passed);
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        let window = if self.queue.is_ready() { WINDOW } else { WAITING };
        self.queue.len() < window
    }

    fn launch(&mut self) {
        // Also where nothing more may fly: what is due must not call this again and again.
        self.queue.wake(clock::monotonic());
        while self.flights.len() < CONCURRENCY {
            let Some(job) = self.queue.next() else {
                return;
            };
            let flight = self.fly(job);
            self.flights.spawn(flight);
        }
    }

    /// One attempt. What is said is decided when it is the SET's turn, not before.
    fn fly(&self, job: Job) -> impl Future<Output = Landed> + Send + 'static {
        let (node, endpoint, partition) = (self.node.clone(), self.endpoint.clone(), self.partition);
        let stop = self.stop.clone();
        async move {
            let mut jti = None;
            let began = clock::now();
            let say = || -> Result<Option<String>, Held> {
                // It waited for its turn, and the lane ended.
                if stop.is_cancelled() {
                    return Err(Held::NotLive);
                }
                let settings = node.views.settings(&node.config.tenant)?;
                let stream = live(&settings, endpoint.stream_id).ok_or(Held::NotLive)?;
                let reader = Reader {
                    node: &node,
                    stream_id: endpoint.stream_id,
                    stream,
                };
                let tenant = &node.config.tenant;
                let Some(place) = place(&job.item) else {
                    return Ok(None);
                };
                let signal = node
                    .views
                    .signals(|v| signals::signal(v, tenant, partition, place))?;
                let wanted = signal.filter(|s| EventType::of(s.what).is_told(stream, s.time));
                let Some(set) = wanted.map(|s| reader.set(&s)).transpose()?.flatten() else {
                    return Ok(None);
                };
                let signer = node.signal_keys.signer(tenant, &settings.signals, clock::now());
                let signed = signer.and_then(|signer| signer.sign(&set.claims).ok());
                jti = Some(set.jti);
                signed.ok_or(Held::NoKey).map(Some)
            };
            let result = endpoint.send(say).await;
            Landed {
                job,
                result,
                jti,
                began,
            }
        }
    }

    async fn land(&mut self, landed: Landed) {
        let Landed {
            job,
            result,
            jti,
            began,
        } = landed;
        let user = job.item.user();
        let jti = jti.unwrap_or_default();
        match result {
            Err(e) => {
                if !matches!(e, Held::NotLive) {
                    self.complain("a security event cannot be made", &e);
                }
                self.queue.again(user, clock::monotonic() + SAY);
            }
            // Nothing of it may be told any more.
            Ok(None) => self.queue.done(user),
            Ok(Some(Outcome::Taken)) => self.finish(&job),
            Ok(Some(Outcome::Rejected(code))) => {
                let reason = format!("the receiver rejected it: {code}");
                self.bury(&job, jti, Some(400), reason).await;
            }
            Ok(Some(Outcome::Failed {
                status,
                reason,
                retry_after,
            })) => {
                let lifetime = self.node.config.webhooks.lifetime;
                if !self.queue.failed(&job, began, retry_after, lifetime) {
                    self.bury(&job, jti, status, reason).await;
                }
            }
        }
        if let Some(passed) = self.queue.passed() {
            self.passed = from_cursor(passed);
        }
    }

    /// Gives up, and says so. Where it cannot be said, it is tried again: nothing is lost in silence.
    async fn bury(&mut self, job: &Job, jti: Uuid, status: Option<u16>, reason: String) {
        let user = job.item.user();
        self.complain("a security event was given up", &reason);
        let letter = dead_letter(self.endpoint.stream_id, user, jti, &job.item);
        let letter = DeadLetter {
            attempts: job.attempts + 1,
            status,
            reason,
            ..letter
        };
        match self.submit(Command::DeadLettered(letter)).await {
            Ok(()) => self.finish(job),
            Err(e) => {
                self.complain("a dead letter cannot be written", &e);
                self.queue.again(user, clock::monotonic() + SAY);
            }
        }
    }

    /// The receiver has it, or never will.
    fn finish(&mut self, job: &Job) {
        self.done.extend(place(&job.item));
        self.queue.done(job.item.user());
    }

    /// Says how far the lane has come, and what is done with beyond that: one SET that is not taken for days must not lead to
    /// all others coming again where the lane begins anew.
    async fn say_progress(&mut self) {
        let now = self.passed;
        if self.done.is_empty() && !is_far(self.said, now) {
            return;
        }
        self.beyond.retain(|place| now.is_before(place));
        let room = BEYOND.saturating_sub(self.beyond.len());
        let done = self.done.iter().copied().filter(|place| now.is_before(place));
        let done: Vec<_> = done.take(room).collect();
        for command in self.reader().say(now, &done) {
            if let Err(e) = self.submit(command).await {
                return self.complain("it cannot be said how far it has come", &e);
            }
        }
        self.said = now;
        self.done.clear();
        self.beyond.extend(done);
    }

    async fn submit(&self, command: Command) -> Result<(), WriteError> {
        say_and_see(&self.node, self.partition, command).await
    }
}

/// A stream that tells something now.
fn live(settings: &Settings, stream_id: Uuid) -> Option<&SignalStream> {
    let stream = settings.signals.streams.get(&stream_id)?;
    let live = stream.status == StreamStatus::Enabled && is_trusted(settings, stream);
    live.then_some(stream)
}

/// A dead letter without what became of it.
pub fn dead_letter(stream_id: Uuid, user: UserId, jti: Uuid, item: &Item) -> DeadLetter {
    let told = match item {
        Item::Happened {
            stream,
            offset,
            event,
            ..
        } => Told::Happened {
            stream: *stream,
            offset: *offset,
            event_id: event.id,
            as_state: false,
        },
        Item::State { .. } | Item::Withdrawn { .. } => Told::State,
    };
    DeadLetter {
        feed: FEED.to_owned(),
        webhook: stream_id.simple().to_string(),
        record: jti,
        user,
        told,
        attempts: 0,
        status: None,
        reason: String::new(),
    }
}

/// A signal as the queue of feeds knows what happened: its number in its commit stands for the sequence.
pub fn item(pending: Pending) -> Item {
    let Pending { place, signal, .. } = pending;
    Item::Happened {
        user: signal.user,
        stream: place.stream,
        offset: place.offset,
        event: Happened {
            id: signal.event,
            kind: EventType::of(signal.what).uri().into(),
            time: signal.time,
            sequence: u64::from(place.number),
            purpose: None,
            details: Details::new(),
        },
        as_state: false,
    }
}

fn place(item: &Item) -> Option<SignalRef> {
    match item {
        Item::Happened {
            stream,
            offset,
            event,
            ..
        } => Some(SignalRef {
            stream: *stream,
            offset: *offset,
            number: u16::try_from(event.sequence).ok()?,
        }),
        Item::State { .. } | Item::Withdrawn { .. } => None,
    }
}

fn as_cursor(place: Place) -> cursor::Lane {
    cursor::Lane {
        identity: place.identity,
        activity: place.activity,
        ..cursor::Lane::default()
    }
}

fn from_cursor(lane: cursor::Lane) -> Place {
    Place {
        identity: lane.identity,
        activity: lane.activity,
    }
}
