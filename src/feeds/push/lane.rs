//! One partition of one webhook.

mod dead_letters;
mod flights;
mod reading;
mod saying;
mod slots;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use gatelog_events::clock::Timestamp;
use gatelog_events::commit::Subject;
use gatelog_events::domain::feed::{Command, HandedOver};
use gatelog_events::domain::tenant;
use gatelog_events::domain::webhook::{self, PauseReason, Progress, Webhook, WebhookPaused};
use gatelog_events::ids::{Offset, Partition};
use gatelog_projections::changes;
use gatelog_projections::store::StoreError;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::flights::Landed;
use self::saying::Said;
use self::slots::Slots;
use super::Key;
use super::endpoint::Endpoint;
use super::pause::{self, LAND};
use super::queue::Queue;
use super::say::{Unheard, heard, request, say};
use crate::feeds::cursor::{Cursor, Lane as Place, Snapshot};
use crate::feeds::engine::Engine;
use crate::node::Node;
use crate::writer::{self, WriteError};

/// How often it is said how far the lane has come, and looked whether dead letters are to be sent again.
const SAY: Duration = Duration::from_secs(1);
/// How soon after they were taken it is said which withdrawals were.
const TELL: Duration = Duration::from_millis(50);
/// Offsets without anything to tell after which it is said that they are passed.
const PASSED: u64 = 4096;

/// How a lane begins.
enum Begun {
    /// Where it was left, or not at all.
    AsSaid,
    /// At a place that is not on record.
    Anew,
}

/// Why a lane cannot begin yet.
#[derive(Debug, thiserror::Error)]
enum Unbegun {
    #[error("it is not known how far it has come: {0}")]
    Unheard(#[from] Unheard),
    #[error("it cannot be read how far it has come: {0}")]
    Store(#[from] StoreError),
    #[error("it cannot be said where it begins: {0}")]
    Write(#[from] WriteError),
    #[error("the feed is retired, or the webhook paused")]
    NotLive,
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
    flights: FuturesUnordered<BoxFuture<'static, Landed>>,
    slots: Slots,
    urgent: Slots,
    /// What the log is being told.
    saying: FuturesUnordered<BoxFuture<'static, Said>>,
    told: Vec<HandedOver>,
    /// Whether the log is being told of withdrawals or of how far the lane has come, and whether the latter is due.
    reporting: bool,
    due: bool,
    /// Whether it is being told that events of dead letters are gone.
    burying: bool,
    gone: bool,
    /// Each flight has it, and to clone a token takes a lock.
    stop: Arc<CancellationToken>,
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
            slots: Slots::new(endpoint.slots.clone()),
            urgent: Slots::new(endpoint.urgent.clone()),
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
            flights: FuturesUnordered::new(),
            saying: FuturesUnordered::new(),
            told: Vec::new(),
            reporting: false,
            due: false,
            burying: false,
            gone: false,
            stop: Arc::new(stop),
        }
    }

    /// Until it is stopped; it says then how far it has come.
    pub async fn run(mut self) {
        if !self.begin_at_last().await {
            return;
        }
        self.note("a lane begins");
        let mut say = tokio::time::interval(SAY);
        let mut tell = tokio::time::interval(TELL);
        // While there was nothing to tell it was not waited for.
        tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.stop.clone();
        let mut stopped = std::pin::pin!(stop.cancelled());
        let mut back = returned(self.endpoint.back());
        let mut moved = self.node.views.moved(changes::NAME);
        self.look();
        loop {
            if let Err(e) = self.read_on() {
                self.complain("the read models cannot be read", &e);
                tokio::time::sleep(SAY).await;
            }
            self.launch();
            self.endpoint
                .meter
                .at(self.partition, self.webhook.generation, self.passed);
            let wake = self.queue.next_wake();
            tokio::select! {
                () = &mut stopped => break,
                Some(landed) = self.flights.next() => {
                    self.land(landed);
                    while let Some(Some(landed)) = self.flights.next().now_or_never() {
                        self.land(landed);
                    }
                }
                Some(said) = self.saying.next() => self.was_said(said),
                () = self.slots.came() => {}
                () = self.urgent.came() => {}
                () = pause::until(wake) => {}
                receiver = &mut back => {
                    back = returned(receiver);
                    // What failed while it was away was not the records' fault.
                    self.queue.wake_all();
                }
                () = &mut moved => {
                    // Before looking, so that nothing in between is missed.
                    moved = self.node.views.moved(changes::NAME);
                    self.look();
                }
                _ = tell.tick(), if !self.told.is_empty() && !self.reporting => self.report(),
                _ = say.tick() => {
                    // A read model that was built anew may have taken the place of the one that was listened to.
                    moved = self.node.views.moved(changes::NAME);
                    self.look();
                    self.due = true;
                    self.report();
                    self.take_redriven();
                }
            }
            if self.gone {
                self.pause().await;
                break;
            }
        }
        self.end().await;
        self.endpoint.meter.left(self.partition);
        self.note("a lane ends");
    }

    /// Begins, however often that must be tried. `false`: it was stopped before.
    async fn begin_at_last(&mut self) -> bool {
        let stop = self.stop.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return false,
                begun = self.try_to_begin() => match begun {
                    Ok(()) => return true,
                    Err(e) => self.complain("it cannot begin yet", &e),
                },
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(SAY) => {}
            }
        }
    }

    /// Begins once it is known how far the lanes before it came, and says where, before anything is told from there: whoever
    /// begins once more after this lane, at what is the end then, would pass over who has withdrawn meanwhile.
    async fn try_to_begin(&mut self) -> Result<(), Unbegun> {
        heard(&self.node, self.partition).await?;
        if let Begun::Anew = self.begin()? {
            let (feed, name) = (&self.endpoint.feed, &self.endpoint.name);
            let beginning = progress(feed, name, self.webhook.generation, self.passed);
            say(&self.node, self.partition, Command::Progressed(beginning)).await?;
        }
        Ok(())
    }

    /// What is being posted lands first, or whoever goes on from here would post it again; then all is said.
    async fn end(&mut self) {
        let flights = std::mem::take(&mut self.flights);
        // What takes longer is posted once more.
        let mut landing = std::pin::pin!(flights.take_until(tokio::time::sleep(LAND)));
        while let Some(landed) = landing.next().await {
            self.land(landed);
        }
        self.hear_out().await;
        self.due = true;
        loop {
            let left = self.told.len();
            self.report();
            self.hear_out().await;
            // What cannot be said now is told again by whoever goes on from here.
            if self.told.is_empty() || self.told.len() >= left {
                return;
            }
        }
    }

    /// Waits until all is said that is being said.
    async fn hear_out(&mut self) {
        while let Some(said) = self.saying.next().await {
            self.was_said(said);
        }
    }

    fn note(&self, what: &str) {
        let (feed, webhook) = (&self.endpoint.feed, &self.endpoint.name);
        tracing::debug!(feed, webhook, partition = %self.partition, at = ?self.passed, "{what}");
    }

    fn complain(&self, what: &str, e: &dyn std::fmt::Display) {
        let (feed, webhook) = (&self.endpoint.feed, &self.endpoint.name);
        tracing::warn!(feed, webhook, partition = %self.partition, error = %e, "{what}");
    }

    /// The receiver wants nothing any more.
    async fn pause(&mut self) {
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

/// Once the receiver is back that was away; what tells of the next time.
fn returned(mut back: watch::Receiver<u64>) -> BoxFuture<'static, watch::Receiver<u64>> {
    async move {
        match back.changed().await {
            Ok(()) => back,
            // Nobody is left who would say so.
            Err(_) => std::future::pending().await,
        }
    }
    .boxed()
}

/// Where a lane was, as it said.
pub(in crate::feeds) fn place(progress: &Progress) -> Place {
    Place {
        snapshot: progress.snapshot.map(|(next, end)| Snapshot { next, end }),
        identity: progress.identity,
        activity: progress.activity,
        withdrawals: progress.withdrawals,
        // What it was told of it says itself.
        since: 0,
    }
}

/// Where a lane begins that is not on record. It owes what was withdrawn since the lane before it; where nothing is known of
/// one, since its receiver was set first: what was said of it may have been cut off with the activity stream.
pub(super) fn owing(
    engine: &Engine<'_>,
    begun: Cursor,
    before: Option<&Progress>,
    set_at: Timestamp,
) -> Result<Cursor, StoreError> {
    if before.is_some() {
        return Ok(begun.owing(before.map(place)));
    }
    let mut owing = begun;
    let since = engine.since(owing.version, set_at)?;
    for (lane, since) in owing.lanes.iter_mut().zip(&since.lanes) {
        lane.withdrawals = lane.withdrawals.min(since.identity);
    }
    Ok(owing)
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
