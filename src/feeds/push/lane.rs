//! One partition of one webhook.

mod dead_letters;

use std::sync::Arc;
use std::time::Duration;

use gatelog_events::clock::{self, Timestamp};
use gatelog_events::commit::Subject;
use gatelog_events::domain::feed::{Command, Definition, HandedOver, Handover};
use gatelog_events::domain::tenant::{self, Settings};
use gatelog_events::domain::webhook::{self, PauseReason, Progress, ReplayFrom, Webhook, WebhookPaused};
use gatelog_events::ids::{Offset, Partition, Stream, UserId};
use gatelog_projections::store::StoreError;
use gatelog_projections::webhooks::Hook;
use gatelog_projections::{changes, users};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Key;
use super::endpoint::{Endpoint, Outcome, URGENT};
use super::pause::{self, LAND};
use super::queue::{Job, Queue};
use super::say::{request, say};
use crate::feeds::cursor::{Cursor, Lane as Place, Snapshot};
use crate::feeds::engine::{Batch, Engine, Item, Start};
use crate::feeds::observed::Outcome as Seen;
use crate::feeds::record::Record;
use crate::feeds::webhook::schedule::{Attempts, Next};
use crate::node::Node;
use crate::writer::{self, WriteError};

/// Records that are taken from the log and not yet by the receiver, at the most. Withdrawals come on top, up to [`CROWD`].
const WINDOW: usize = 512;
/// Records, withdrawals too, from which on nothing more is read: what is not read yet is told first all the same.
const CROWD: usize = 8192;
/// Records that are read at once.
const BATCH: usize = 64;
/// How often it is said how far the lane has come, and looked whether dead letters are to be sent again.
const SAY: Duration = Duration::from_secs(1);
/// How soon after they were taken it is said which withdrawals were.
const TELL: Duration = Duration::from_millis(50);
/// Offsets without anything to tell after which it is said that they are passed.
const PASSED: u64 = 4096;

/// Why a record stays where it is.
#[derive(Debug, thiserror::Error)]
enum Held {
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The lane ends soon; what it holds is for the one that begins when the webhook goes on.
    #[error("the feed is retired, the webhook paused, or the lane at its end")]
    NotLive,
}

/// What came back of a flight.
struct Landed {
    job: Job,
    result: Result<Option<Outcome>, Held>,
    record: Option<Uuid>,
    /// When it left.
    began: Timestamp,
}

pub(super) struct Lane {
    node: Arc<Node>,
    endpoint: Arc<Endpoint>,
    partition: Partition,
    webhook: Webhook,
    /// Up to where everything is in the queue.
    read: Cursor,
    /// Up to where everything is done, and what of it was said.
    passed: Place,
    said: Place,
    delivered: bool,
    /// Whether there is more to read than was read, and up to where it was folded when that was looked at.
    behind: bool,
    /// Whether there may be withdrawals among it.
    owing: bool,
    folded: [Offset; 3],
    queue: Queue,
    flights: JoinSet<Vec<Landed>>,
    told: Vec<HandedOver>,
    /// When the first attempt at each record was made whose receiver failed.
    first_attempts: std::collections::HashMap<Uuid, Timestamp>,
    gone: bool,
    stop: CancellationToken,
}

impl Lane {
    pub fn new(
        node: Arc<Node>,
        endpoint: Arc<Endpoint>,
        key: &Key,
        webhook: Webhook,
        stop: CancellationToken,
    ) -> Self {
        Self {
            node,
            endpoint,
            partition: key.partition,
            read: Cursor {
                version: webhook.version,
                turn: 0,
                lanes: Vec::new(),
            },
            webhook,
            passed: Place::default(),
            said: Place::default(),
            delivered: false,
            behind: true,
            owing: true,
            folded: [0; 3],
            queue: Queue::default(),
            flights: JoinSet::new(),
            told: Vec::new(),
            first_attempts: std::collections::HashMap::new(),
            gone: false,
            stop,
        }
    }

    /// Until it is stopped; it says then how far it has come.
    pub async fn run(mut self) {
        if let Err(e) = self.begin() {
            return self.complain("it cannot be read how far it has come", &e);
        }
        self.note("a lane begins");
        let mut say = tokio::time::interval(SAY);
        let mut tell = tokio::time::interval(TELL);
        let mut back = self.endpoint.back();
        loop {
            // Before looking, so that nothing in between is missed.
            let moved = self.node.views.moved(changes::NAME);
            if let Err(e) = self.read_on() {
                self.complain("the read models cannot be read", &e);
                tokio::time::sleep(SAY).await;
            }
            self.launch();
            let generation = self.webhook.generation;
            self.endpoint.meter.at(self.partition, generation, self.passed);
            let wake = self.queue.next_wake();
            tokio::select! {
                () = self.stop.cancelled() => break,
                Some(Ok(landed)) = self.flights.join_next(), if !self.flights.is_empty() => {
                    self.land_all(landed).await;
                    while let Some(Ok(landed)) = self.flights.try_join_next() {
                        self.land_all(landed).await;
                    }
                }
                () = pause::until(wake) => {}
                // What failed while it was away was not the records' fault.
                Ok(()) = back.changed() => self.queue.wake_all(),
                () = moved => {}
                _ = tell.tick(), if !self.told.is_empty() => self.say_told().await,
                _ = say.tick() => {
                    self.say_progress().await;
                    self.take_redriven();
                }
            }
            if self.gone {
                self.pause().await;
                break;
            }
        }
        self.land_rest().await;
        self.say_told().await;
        self.say_progress().await;
        self.endpoint.meter.left(self.partition);
        self.note("a lane ends");
    }

    fn note(&self, what: &str) {
        let (feed, webhook) = (&self.endpoint.feed, &self.endpoint.name);
        tracing::debug!(feed, webhook, partition = %self.partition, at = ?self.passed, "{what}");
    }

    fn complain(&self, what: &str, e: &dyn std::fmt::Display) {
        let (feed, webhook) = (&self.endpoint.feed, &self.endpoint.name);
        tracing::warn!(feed, webhook, partition = %self.partition, error = %e, "{what}");
    }

    fn hook(&self) -> Hook<'_> {
        Hook {
            tenant: &self.node.config.tenant,
            feed: &self.endpoint.feed,
            webhook: &self.endpoint.name,
        }
    }

    /// Calls what needs the engine; nothing if the feed is not there any more.
    fn with_engine<T>(
        &self,
        f: impl FnOnce(Engine<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let settings = self.node.views.settings(&self.node.config.tenant)?;
        let Some(definition) = live(&settings, &self.endpoint, self.webhook.version) else {
            return Ok(None);
        };
        let engine = Engine {
            views: &self.node.views,
            keys: &self.node.feed_keys,
            links: &self.node.links,
            issuer: self.node.config.issuer.as_str(),
            tenant: &self.node.config.tenant,
            settings: &settings,
            feed: &self.endpoint.feed,
            definition,
            first: self.partition,
        };
        // It reads many rows: those who log in meanwhile shall not wait for the thread.
        tokio::task::block_in_place(|| f(engine)).map(Some)
    }

    /// Where it was left, or where the webhook is to begin.
    fn begin(&mut self) -> Result<(), StoreError> {
        let known = self.node.views.webhook_progress(self.hook(), self.partition)?;
        // What stands there of a webhook that was removed is another receiver's.
        let known = known.filter(|p| p.generation >= self.webhook.since);
        let version = self.webhook.version;
        let cursor = match known {
            Some(progress) if progress.generation == self.webhook.generation => Some(Cursor {
                version,
                turn: 0,
                lanes: vec![place(&progress)],
            }),
            known => {
                let anew = self.with_engine(|engine| match self.webhook.from {
                    ReplayFrom::Snapshot => Ok(engine.begin(version, 1, Start::Snapshot)),
                    ReplayFrom::Beginning => Ok(engine.begin(version, 1, Start::Beginning)),
                    ReplayFrom::Time(time) => engine.since(version, time),
                })?;
                anew.map(|cursor| cursor.owing(known.as_ref().map(place)))
            }
        };
        if let Some(cursor) = cursor {
            self.passed = cursor.lanes.first().copied().unwrap_or_default();
            self.said = self.passed;
            self.read = cursor;
        }
        Ok(())
    }

    /// Takes what is new into the queue: withdrawals always, the rest while there is room for a batch.
    fn read_on(&mut self) -> Result<(), StoreError> {
        let folded = self.folded();
        let fresh = folded != self.folded;
        self.folded = folded;
        self.behind |= fresh;
        self.owing |= fresh;
        while self.behind && self.queue.len() + BATCH <= WINDOW {
            let before = self.read.clone();
            if before.lanes.is_empty() {
                return Ok(());
            }
            let batch = self.with_engine(|engine| engine.items(before, BATCH))?;
            let Some(batch) = batch else { return Ok(()) };
            self.behind = batch.more;
            self.take(batch);
        }
        if self.owing && self.behind && self.queue.len() < CROWD {
            let before = self.read.clone();
            if let Some(batch) = self.with_engine(|engine| engine.withdrawals(before))? {
                self.owing = batch.more;
                self.take(batch);
            }
        }
        if let Some(passed) = self.queue.passed() {
            self.passed = passed;
        }
        Ok(())
    }

    fn take(&mut self, batch: Batch<Item>) {
        if batch.cursor != self.read {
            self.read = batch.cursor;
            let then = self.read.lanes.first().copied().unwrap_or_default();
            self.queue.take(batch.told, then);
        }
    }

    /// Up to where the partition is folded, so that it is looked at only where there is something new.
    fn folded(&self) -> [Offset; 3] {
        let next = |projection, stream| {
            self.node
                .views
                .next(projection, stream, self.partition)
                .unwrap_or(0)
        };
        [
            next(changes::NAME, Stream::Identity),
            next(changes::NAME, Stream::Activity),
            next(users::NAME, Stream::Identity),
        ]
    }

    fn launch(&mut self) {
        let room = |lane: &Self| {
            let urgent = if lane.queue.is_urgent() { URGENT } else { 0 };
            lane.flights.len() < lane.endpoint.concurrency + urgent
        };
        // Also where nothing more may fly: what is due must not call this again and again.
        self.queue.wake(clock::monotonic());
        while room(self) {
            let jobs = std::iter::from_fn(|| self.queue.next());
            let jobs: Vec<_> = jobs.take(self.endpoint.batch).collect();
            if jobs.is_empty() {
                return;
            }
            let flight = self.fly(jobs);
            self.flights.spawn(flight);
        }
    }

    /// One attempt, at jobs of a subject each. What is said is decided when it is their turn, not before.
    fn fly(&self, jobs: Vec<Job>) -> impl Future<Output = Vec<Landed>> + Send + 'static {
        let (node, endpoint, partition) = (self.node.clone(), self.endpoint.clone(), self.partition);
        let (version, stop) = (self.webhook.version, self.stop.clone());
        async move {
            let urgent = jobs.iter().any(|job| matches!(job.item, Item::Withdrawn { .. }));
            let began = clock::now();
            let turn = endpoint.turn(urgent).await;
            let said = if stop.is_cancelled() {
                // They waited for their turn, and the lane ended.
                jobs.iter().map(|_| Err(Held::NotLive)).collect()
            } else {
                records(&node, &endpoint, partition, version, &jobs)
            };
            let records: Vec<_> = said.iter().filter_map(|s| s.as_ref().ok()?.as_ref()).collect();
            let mut outcomes = endpoint.deliver(turn, &records).await.into_iter();
            let landed = jobs.into_iter().zip(said).map(|(job, said)| Landed {
                job,
                record: said.as_ref().ok().and_then(|s| Some(s.as_ref()?.id)),
                result: said.map(|record| record.and_then(|_| outcomes.next())),
                began,
            });
            landed.collect()
        }
    }

    /// What is being posted lands first, or whoever goes on from here would post it again.
    async fn land_rest(&mut self) {
        let rest = async {
            while let Some(Ok(landed)) = self.flights.join_next().await {
                self.land_all(landed).await;
            }
        };
        // What takes longer is posted once more.
        let _ = tokio::time::timeout(LAND, rest).await;
    }

    async fn land_all(&mut self, landed: Vec<Landed>) {
        for landed in landed {
            self.land(landed).await;
        }
    }

    async fn land(&mut self, landed: Landed) {
        let Landed {
            job,
            result,
            record,
            began,
        } = landed;
        let user = job.item.user();
        match result {
            Err(e) => {
                if let Held::Store(e) = &e {
                    self.complain("a record cannot be made", e);
                }
                self.queue.again(user, clock::monotonic() + SAY);
            }
            // Nobody may see it any more.
            Ok(None) => {
                self.endpoint.meter.count(Seen::Withheld, 1);
                self.finish(&job, user).await;
            }
            Ok(Some(Outcome::Taken(_))) => {
                self.delivered = true;
                self.told.extend(job.item.handed_over().map(|(_, handed)| handed));
                self.finish(&job, user).await;
                if let Some(record) = record {
                    self.first_attempts.remove(&record);
                }
            }
            Ok(Some(Outcome::Gone)) => {
                self.queue.again(user, clock::monotonic() + SAY);
                self.gone = true;
            }
            Ok(Some(Outcome::Rejected { reason })) => {
                let record = record.unwrap_or_default();
                self.bury(&job, record, job.attempts + 1, None, reason).await;
            }
            Ok(Some(Outcome::Failed {
                status,
                reason,
                retry_after,
            })) => {
                let record = record.unwrap_or_default();
                let attempts = Attempts {
                    first: *self.first_attempts.entry(record).or_insert(began),
                    made: job.attempts + 1,
                };
                let now = clock::now();
                let lifetime = self.node.config.webhooks.lifetime;
                match attempts.next(now, retry_after, pause::random(), lifetime) {
                    Next::At(at) => self.queue.again(user, clock::monotonic() + at.since(now)),
                    Next::GiveUp => {
                        self.bury(&job, record, attempts.made, status, reason).await;
                    }
                }
            }
        }
        if let Some(passed) = self.queue.passed() {
            self.passed = passed;
        }
    }

    async fn finish(&mut self, job: &Job, user: UserId) {
        if let Some(record) = job.redriven {
            let letters = self.letters(record);
            if let Err(e) = self.submit(Command::Redelivered(letters)).await {
                self.complain("it cannot be said that a dead letter was taken", &e);
            }
        }
        self.queue.done(user);
    }

    /// A receiver that answers 2xx was told and has acknowledged.
    async fn say_told(&mut self) {
        if self.told.is_empty() {
            return;
        }
        let handover = Handover {
            feed: self.endpoint.feed.clone(),
            withdrawals: self.told.clone(),
        };
        let said = async {
            self.submit(Command::WithdrawalsDelivered(handover.clone()))
                .await?;
            self.submit(Command::WithdrawalsAcknowledged(handover)).await
        };
        match said.await {
            Ok(()) => self.told.clear(),
            Err(e) => self.complain("it cannot be said which withdrawals were told", &e),
        }
    }

    async fn say_progress(&mut self) {
        let (now, said) = (self.passed, self.said);
        let first = now.snapshot != said.snapshot;
        if now == said || !(self.delivered || far(said, now) || first) || !self.told.is_empty() {
            return;
        }
        let generation = self.webhook.generation;
        let progress = progress(&self.endpoint.feed, &self.endpoint.name, generation, now);
        match self.submit(Command::Progressed(progress)).await {
            Ok(()) => {
                self.said = now;
                self.delivered = false;
            }
            Err(e) => self.complain("it cannot be said how far it has come", &e),
        }
    }

    async fn submit(&self, command: Command) -> Result<(), WriteError> {
        say(&self.node, self.partition, command).await
    }

    /// The receiver wants nothing any more.
    async fn pause(&self) {
        let paused = WebhookPaused {
            feed: self.endpoint.feed.clone(),
            name: self.endpoint.name.clone(),
            reason: PauseReason::Gone,
        };
        let command = writer::Command::Tenant(tenant::Command::Webhook(webhook::Command::Pause(paused)));
        let request = request(&self.node, Subject::Tenant, None, command);
        if let Err(e) = self.node.router.submit(request).await {
            self.complain("it cannot be said that the receiver is gone", &e);
        }
    }
}

/// What each job says now; nothing where nobody may see it any more.
fn records(
    node: &Node,
    endpoint: &Endpoint,
    partition: Partition,
    version: u32,
    jobs: &[Job],
) -> Vec<Result<Option<Record>, Held>> {
    let record = |job: &Job| {
        let settings = node.views.settings(&node.config.tenant)?;
        let definition = live(&settings, endpoint, version).ok_or(Held::NotLive)?;
        let engine = Engine {
            views: &node.views,
            keys: &node.feed_keys,
            links: &node.links,
            issuer: node.config.issuer.as_str(),
            tenant: &node.config.tenant,
            settings: &settings,
            feed: &endpoint.feed,
            definition,
            first: partition,
        };
        if job.redriven.is_some() && engine.is_over(&job.item)? {
            return Ok(None);
        }
        Ok(engine.record(&job.item)?)
    };
    jobs.iter().map(record).collect()
}

/// What the webhook is to post, unless the feed is retired or the webhook paused or removed.
fn live<'s>(settings: &'s Settings, endpoint: &Endpoint, version: u32) -> Option<&'s Definition> {
    let feed = settings.feeds.get(&endpoint.feed)?;
    let webhook = feed.webhooks.get(&endpoint.name)?;
    let live = feed.retired_at.is_none() && webhook.paused.is_none();
    let version = feed.version(version).filter(|_| live)?;
    Some(&version.definition)
}

/// Where a lane was, as it said.
pub(in crate::feeds) fn place(progress: &Progress) -> Place {
    Place {
        snapshot: progress.snapshot.map(|(next, end)| Snapshot { next, end }),
        identity: progress.identity,
        activity: progress.activity,
        withdrawals: progress.withdrawals,
    }
}

/// Whether so much was passed without anything to tell that it is worth saying.
pub(super) fn far(said: Place, now: Place) -> bool {
    now.identity.saturating_sub(said.identity) + now.activity.saturating_sub(said.activity) > PASSED
}

/// How far a lane is, to be said.
pub(super) fn progress(feed: &str, name: &str, generation: u64, at: Place) -> Progress {
    Progress {
        feed: feed.to_owned(),
        webhook: name.to_owned(),
        generation,
        snapshot: at.snapshot.map(|s| (s.next, s.end)),
        identity: at.identity,
        activity: at.activity,
        withdrawals: at.withdrawals,
    }
}
