//! One partition of a feed's Kafka topic: records in their order, as many in flight as Kafka takes.
//!
//! Kafka's producer tries again by itself. Where it gives up, the lane goes back to what it has said, so records may come
//! twice, and compaction leaves the newest of each subject.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt, try_join_all};
use gatelog_events::clock;
use gatelog_events::domain::feed::{Command, HandedOver, Handover, TOPIC, Topic};
use gatelog_events::domain::tenant::Settings;
use gatelog_events::domain::webhook::Progress;
use gatelog_events::ids::Partition;
use gatelog_events::log::LogError;
use gatelog_events::log::kafka::{KafkaLog, Outlet, OutletMessage};
use gatelog_projections::changes;
use gatelog_projections::store::StoreError;
use gatelog_projections::webhooks::Hook;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::lane::{far, owing, place, progress};
use super::pause::LAND;
use super::say::{Unheard, heard, is_abreast, say};
use super::topic_name;
use crate::feeds::cursor::{Cursor, Lane as Place};
use crate::feeds::engine::{Batch, Engine, Item, Start};
use crate::feeds::observed::{Delivery, Outcome, REMEMBERED};
use crate::feeds::record::{Envelope, Record};
use crate::node::Node;

/// Records that are read at once.
const BATCH: usize = 256;
/// Batches in flight, at the most.
const IN_FLIGHT: usize = 8;
/// How often it is said how far the lane has come.
const SAY: Duration = Duration::from_secs(1);
/// After a failure.
const PAUSE: Duration = Duration::from_secs(2);

/// A batch on its way.
struct Flight {
    sent: BoxFuture<'static, Result<(), String>>,
    withdrawals: Vec<HandedOver>,
    /// Records in it, and the last of them as they are remembered.
    told: u64,
    seen: Vec<Delivery>,
    began: Instant,
    then: Place,
}

pub(super) struct TopicLane {
    pub node: Arc<Node>,
    pub log: Arc<KafkaLog>,
    /// The feed's topic, for all its lanes; opened by the first that needs it.
    pub outlet: Arc<OnceCell<Outlet>>,
    pub feed: String,
    pub topic: Topic,
    pub partition: Partition,
}

/// Why a lane goes back.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Unheard(#[from] Unheard),
    #[error("{0}")]
    Kafka(String),
    #[error("{0}")]
    Write(#[from] crate::writer::WriteError),
    #[error("a record cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the feed is retired")]
    Retired,
}

impl TopicLane {
    /// Until it is stopped.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let Err(e) = self.follow(&stop).await else { break };
            let feed = &self.feed;
            tracing::warn!(feed, partition = %self.partition, error = %e, "the feed's topic waits");
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
        self.node.observed.meter(&self.feed, TOPIC).left(self.partition);
    }

    /// From what was said last on. Ends well only when it is stopped.
    async fn follow(&self, stop: &CancellationToken) -> Result<(), Broken> {
        let open = async || self.log.outlet(&topic_name(&self.feed)).await;
        let outlet = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            outlet = self.outlet.get_or_try_init(open) => outlet?,
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            ready = self.let_land() => ready?,
        }
        let (mut cursor, is_said) = self.begin()?;
        let mut said = cursor.lanes.first().copied().unwrap_or_default();
        if !is_said {
            // Whoever begins once more after this lane would pass over who has withdrawn meanwhile.
            self.say_progress(said).await?;
        }
        let (mut passed, mut say_at) = (said, clock::monotonic() + SAY);
        let mut told = false;
        let mut flights: VecDeque<Flight> = VecDeque::new();
        let meter = self.node.observed.meter(&self.feed, TOPIC);
        loop {
            // Before looking, so that nothing in between is missed.
            let moved = self.node.views.moved(changes::NAME);
            while flights.len() < IN_FLIGHT {
                let before = cursor.clone();
                let Some(flight) = self.launch(outlet, &mut cursor)? else {
                    break;
                };
                if cursor == before {
                    break;
                }
                flights.push_back(flight);
            }
            meter.at(self.partition, self.topic.generation, passed);
            let idle = flights.is_empty();
            let landed = async {
                match flights.front_mut() {
                    Some(flight) => (&mut flight.sent).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                sent = landed => {
                    sent.map_err(Broken::Kafka)?;
                    if let Some(flight) = flights.pop_front() {
                        self.tell(flight.withdrawals).await?;
                        passed = flight.then;
                        told |= flight.told > 0;
                        meter.landed(flight.seen, flight.told, flight.began.elapsed());
                    }
                }
                () = moved, if idle => {}
                () = tokio::time::sleep_until(say_at.into()) => {}
            }
            if clock::monotonic() >= say_at {
                say_at = clock::monotonic() + SAY;
                // Saying so is itself in the log: where nothing was told, it is not said each time.
                if passed != said && (told || far(said, passed)) {
                    self.say_progress(passed).await?;
                    (said, told) = (passed, false);
                }
            }
        }
        // What is on its way lands first, or whoever goes on from here would write it again.
        let rest = async {
            while let Some(flight) = flights.pop_front() {
                flight.sent.await.map_err(Broken::Kafka)?;
                self.tell(flight.withdrawals).await?;
                (passed, told) = (flight.then, true);
            }
            Ok::<_, Broken>(())
        };
        if let Ok(landed) = tokio::time::timeout(LAND, rest).await {
            landed?;
        }
        if told {
            self.say_progress(passed).await?;
        }
        Ok(())
    }

    async fn say_progress(&self, passed: Place) -> Result<(), Broken> {
        let progress = progress(&self.feed, TOPIC, self.topic.generation, passed);
        say(&self.node, self.partition, Command::Progressed(progress)).await?;
        Ok(())
    }

    fn with_engine<T>(
        &self,
        f: impl FnOnce(Engine<'_>, &Settings) -> Result<T, Broken>,
    ) -> Result<Option<T>, Broken> {
        let node = &self.node;
        let settings = node.views.settings(&node.config.tenant)?;
        let feed = settings.feeds.get(&self.feed).filter(|f| f.retired_at.is_none());
        let Some(version) = feed.and_then(|f| f.version(self.topic.version)) else {
            return Ok(None);
        };
        let engine = Engine::of(node, &settings, &self.feed, &version.definition, self.partition);
        // It reads many rows: those who log in meanwhile shall not wait for the thread.
        tokio::task::block_in_place(|| f(engine, &settings)).map(Some)
    }

    /// Waits until it is known how far the lanes before came, and until nothing of what they had under way can come any more:
    /// a record that lands behind the tombstone of a withdrawal stays for ever. Also where they were this node's own, whose
    /// producer may have been replaced. Before they told anything they said where they began, so that where nothing is said
    /// nothing is under way.
    async fn let_land(&self) -> Result<(), Broken> {
        heard(&self.node, self.partition).await?;
        if self.known()?.is_some() {
            tokio::time::sleep(Outlet::LANDING).await;
        }
        Ok(())
    }

    /// What lanes said last, whichever version of the feed they told.
    fn known(&self) -> Result<Option<Progress>, StoreError> {
        let hook = Hook {
            tenant: &self.node.config.tenant,
            feed: &self.feed,
            webhook: TOPIC,
        };
        self.node.views.webhook_progress(hook, self.partition)
    }

    /// Where it was left, or where it begins; and whether that is on record.
    fn begin(&self) -> Result<(Cursor, bool), Broken> {
        let known = self.known()?;
        let version = self.topic.version;
        if let Some(known) = known.as_ref()
            && known.generation == self.topic.generation
        {
            let lanes = vec![place(known)];
            let turn = 0;
            return Ok((Cursor { version, turn, lanes }, true));
        }
        let begun = self.with_engine(|engine, settings| {
            let feed = settings.feeds.get(&self.feed);
            let set_at = feed.and_then(|f| f.topic_since).unwrap_or_default();
            let begun = engine.begin(version, 1, Start::Snapshot);
            Ok(owing(&engine, begun, known.as_ref(), set_at)?)
        })?;
        // It may be back before this lane is ended, and must not go on from nowhere then.
        Ok((begun.ok_or(Broken::Retired)?, false))
    }

    /// Sends the next batch; nothing where the feed is retired or there is nothing to look at.
    fn launch(&self, outlet: &Outlet, cursor: &mut Cursor) -> Result<Option<Flight>, Broken> {
        if !is_abreast(&self.node, self.partition) {
            return Ok(None);
        }
        let before = cursor.clone();
        let batch = self.with_engine(|engine, _| {
            if before.lanes.is_empty() || !engine.has_more(&before) {
                return Ok(None);
            }
            Ok(Some(engine.records(before, BATCH)?))
        })?;
        let Some(batch) = batch.flatten() else {
            return Ok(None);
        };
        let flight = self.send(outlet, &batch)?;
        *cursor = batch.cursor;
        Ok(Some(flight))
    }

    fn send(&self, outlet: &Outlet, batch: &Batch<(Item, Record)>) -> Result<Flight, Broken> {
        let node = &self.node;
        let envelope = Envelope::new(
            &node.config.issuer,
            &node.config.tenant,
            &self.feed,
            self.topic.version,
        );
        let mut sent = Vec::with_capacity(batch.told.len());
        let mut withdrawals = Vec::new();
        for (item, record) in &batch.told {
            let message = envelope.message(record)?;
            sent.push(outlet.send(self.partition, &message));
            if let Item::Withdrawn { .. } = item {
                withdrawals.extend(item.handed_over().map(|(_, handed)| handed));
                // The reason is for who reads on; compaction shall leave nothing.
                let tombstone = OutletMessage {
                    value: None,
                    ..message
                };
                sent.push(outlet.send(self.partition, &tombstone));
            }
        }
        let last = batch.told.len().saturating_sub(REMEMBERED);
        let seen = batch.told[last..].iter();
        let seen = seen.map(|(_, record)| Delivery::of(record, Outcome::Taken, None, Duration::ZERO));
        Ok(Flight {
            sent: try_join_all(sent).map(|all| all.map(|_| ())).boxed(),
            withdrawals,
            told: batch.told.len() as u64,
            seen: seen.collect(),
            began: clock::monotonic(),
            then: batch.cursor.lanes.first().copied().unwrap_or_default(),
        })
    }

    /// Kafka has them, which is as far as can be seen from here; its readers acknowledge by themselves, if they do.
    async fn tell(&self, withdrawals: Vec<HandedOver>) -> Result<(), Broken> {
        let handover = Handover {
            feed: self.feed.clone(),
            withdrawals,
        };
        if handover.withdrawals.is_empty() {
            return Ok(());
        }
        say(
            &self.node,
            self.partition,
            Command::WithdrawalsDelivered(handover),
        )
        .await?;
        Ok(())
    }
}
