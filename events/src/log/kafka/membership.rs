//! Who should own which partitions: a member of the consumer group of all writers.
//!
//! This is about liveness only. Kafka's group gives each partition to one member that is alive; whether a writer may
//! append is decided by the log itself (see [`crate::log::fence`]). A member reads nothing: its partitions are paused.
//!
//! A cooperative rebalance takes a partition from one member in a first round and gives it to another in a second one, a
//! second later. Meanwhile the former owner goes on: two who believe to own a partition do no harm.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::TopicPartitionList;
use tokio::sync::watch;

use super::clients::replaced;
use super::config::{ConfigError, KafkaConfig, millis};
use super::errors::{bad_config, lacks, no_client, text};
use super::monitor::{Context, Monitor};
use super::places::{Topic, Topics};
use super::query::Query;
use crate::clock;
use crate::ids::{Partition, Stream};
use crate::log::LogError;

const POLL: Duration = Duration::from_millis(100);
/// How long the brokers may take to say who is in the group.
const ASKING: Duration = Duration::from_secs(1);
/// How often the brokers are asked whether they still hear this member, how long they may take, and how often in a row
/// they may not answer before another client takes its place.
const CHECK: Duration = Duration::from_secs(3);
const SILENCES: u32 = 3;
/// How long leaving may take before the connection is cut.
const LEAVING: Duration = Duration::from_secs(2);

/// How the member behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipOptions {
    /// The group's name; the same for all nodes of one store, another for each store in the cluster.
    pub group: String,
    /// A member that has not been heard of for this long loses its partitions. The broker bounds it
    /// (`group.min.session.timeout.ms`, 6 s by default).
    pub session_timeout: Duration,
}

impl Default for MembershipOptions {
    fn default() -> Self {
        Self {
            group: "gatelog-writers".into(),
            session_timeout: Duration::from_secs(10),
        }
    }
}

/// How long putting down what was taken may take.
const PUT_DOWN: Duration = Duration::from_millis(500);
/// How long a member goes on with what was taken from it, if the group gives it to nobody.
const FAREWELL: Duration = Duration::from_secs(3);

/// librdkafka joins a second round half a second after the first at the earliest.
const SAME_ROUND: Duration = Duration::from_millis(300);

/// Hears what the group decides. What it has heard outlives the client that it heard it by.
#[derive(Clone)]
struct Member {
    context: Context,
    owned: watch::Sender<BTreeSet<Partition>>,
    taken: Arc<Mutex<Taken>>,
    stop: Arc<AtomicBool>,
    /// Of one client: another has taken its place, and what it still hears does not matter.
    retired: Arc<AtomicBool>,
}

/// Partitions that were taken from this member and that nobody has been given yet.
#[derive(Default)]
struct Taken {
    partitions: BTreeSet<Partition>,
    since: Option<Instant>,
}

impl Member {
    fn partitions(list: &TopicPartitionList) -> Vec<Partition> {
        let elements = list.elements();
        elements
            .iter()
            .filter_map(|e| u16::try_from(e.partition()).ok().map(Partition))
            .collect()
    }

    fn take(&self, lost: Vec<Partition>, at_once: bool) {
        let mut taken = self.taken.lock();
        taken.partitions.extend(lost);
        taken.since = Some(clock::monotonic());
        drop(taken);
        if at_once {
            self.settle(&[]);
        }
    }

    /// A round of the group has ended.
    fn round(&self, given: &[Partition]) {
        // The round that takes something away tells this member at once that it gives nothing.
        let same = given.is_empty() && self.taken_for().is_some_and(|time| time < SAME_ROUND);
        if !same {
            self.settle(given);
        }
    }

    /// How long something has been taken, if anything is.
    fn taken_for(&self) -> Option<Duration> {
        let since = self.taken.lock().since?;
        Some(clock::monotonic().saturating_duration_since(since))
    }

    /// What was taken is another's now, and `given` is ours.
    fn settle(&self, given: &[Partition]) {
        let taken = std::mem::take(&mut *self.taken.lock()).partitions;
        if taken.is_empty() && given.is_empty() {
            return;
        }
        self.owned.send_modify(|owned| {
            owned.retain(|p| !taken.contains(p));
            owned.extend(given);
        });
    }

    /// Another client joins the group as a new member: what this one had is given to somebody anew.
    fn retire(&self) {
        self.retired.store(true, Relaxed);
        let owned = self.owned.borrow().iter().copied().collect();
        self.take(owned, false);
    }

    /// Gives up what nobody was given in time.
    fn look_at_the_clock(&self) {
        if self.taken_for().is_some_and(|time| time > FAREWELL) {
            self.settle(&[]);
        }
    }
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl ConsumerContext for Member {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance
            && list.count() > 0
            && !self.retired.load(Relaxed)
        {
            tracing::info!(partitions = list.count(), "partitions are taken from this node");
            let at_once = consumer.assignment_lost() || self.stop.load(Relaxed);
            self.take(Self::partitions(list), at_once);
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            _ if self.retired.load(Relaxed) => {}
            Rebalance::Assign(list) => {
                if let Err(e) = consumer.pause(list) {
                    tracing::warn!("a member's partitions cannot be paused: {}", text(&e));
                }
                let given = Self::partitions(list);
                tracing::info!(partitions = given.len(), "partitions are given to this node");
                self.round(&given);
            }
            Rebalance::Error(e) => tracing::warn!("the group of writers: {}", text(e)),
            _ => {}
        }
    }
}

/// A membership. Dropping it leaves the group; [`close`](Membership::close) also waits for that.
pub struct Membership {
    owned: watch::Receiver<BTreeSet<Partition>>,
    refused: watch::Receiver<Option<LogError>>,
    stop: Arc<AtomicBool>,
    ended: Mutex<watch::Receiver<bool>>,
    group: String,
    query: Arc<Query>,
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membership")
            .field("owned", &*self.owned.borrow())
            .finish_non_exhaustive()
    }
}

impl Membership {
    pub(super) fn join(
        config: &KafkaConfig,
        options: &MembershipOptions,
        topics: &Topics,
        query: &Arc<Query>,
        monitor: &Arc<Monitor>,
    ) -> Result<Self, LogError> {
        let session = millis(options.session_timeout);
        if !(1000..=1_800_000).contains(&session) {
            let error = ConfigError::OutOfRange {
                what: "session_timeout",
                found: session,
                least: 1000,
                most: 1_800_000,
            };
            return Err(bad_config(config, &error));
        }
        let mut client = config.client("member");
        client
            .set("group.id", &options.group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", session.to_string())
            // A member hears of a rebalance by its next heartbeat, and nobody writes a partition meanwhile.
            .set(
                "heartbeat.interval.ms",
                (session / 30).clamp(200, 3000).to_string(),
            )
            .set("max.poll.interval.ms", session.max(60_000).to_string())
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "latest")
            .set("allow.auto.create.topics", "false")
            .set("queued.min.messages", "1");
        let (tell, owned) = watch::channel(BTreeSet::new());
        let stop = Arc::new(AtomicBool::new(false));
        let joining = Joining {
            settings: client,
            topic: topics.name(Topic::Stream(Stream::Identity)).to_owned(),
            member: Member {
                context: Context::new(monitor, "member"),
                owned: tell,
                taken: Arc::default(),
                stop: stop.clone(),
                retired: Arc::default(),
            },
        };
        let consumer = joining.join().map_err(|e| no_client(config, e))?;
        let (tell_refused, refused) = watch::channel(None);
        let missing = lacks(
            config,
            "Read",
            &format!("group {}", options.group),
            &format!(" --group {}", options.group),
        );
        let (tell_end, ended) = watch::channel(false);
        thread::Builder::new()
            .name("kafka-member".into())
            .spawn(move || {
                joining.run(consumer, |code| {
                    if code == Code::GroupAuthorizationFailed {
                        tell_refused.send_replace(Some(missing.clone()));
                    }
                });
                tell_end.send_replace(true);
            })
            .map_err(|e| LogError::Io {
                place: "the thread of the group's member".into(),
                source: Arc::new(e),
            })?;
        Ok(Self {
            owned,
            refused,
            stop,
            ended: Mutex::new(ended),
            group: options.group.clone(),
            query: query.clone(),
        })
    }

    /// The partitions that this node should own, and each change of them. What is taken from this node stays in the set
    /// until the group has given it to another, so for a moment two members may have the same.
    pub fn owned(&self) -> watch::Receiver<BTreeSet<Partition>> {
        self.owned.clone()
    }

    /// Why this node may not be a member, if the brokers say so.
    pub fn refused(&self) -> watch::Receiver<Option<LogError>> {
        self.refused.clone()
    }

    /// Whether the group may have members beside this node: if the brokers say so, or do not all answer in time. Blocks.
    pub fn has_others(&self) -> bool {
        match self.query.members(&self.group, ASKING) {
            Ok(members) => members > 1,
            Err(e) => {
                tracing::warn!(error = %e, "who else is in the group of writers is not known");
                true
            }
        }
    }

    /// Leaves the group, so that others take over at once. May be called again.
    pub async fn close(&self) {
        self.stop.store(true, Relaxed);
        let mut ended = self.ended.lock().clone();
        // The sender's end is an end, too.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

/// What a member is made of.
struct Joining {
    settings: ClientConfig,
    topic: String,
    member: Member,
}

impl Joining {
    fn join(&self) -> Result<BaseConsumer<Member>, KafkaError> {
        let member = Member {
            retired: Arc::default(),
            ..self.member.clone()
        };
        let consumer: BaseConsumer<Member> = self.settings.create_with_context(member)?;
        consumer.subscribe(&[&self.topic])?;
        Ok(consumer)
    }

    fn run(&self, mut consumer: BaseConsumer<Member>, failed: impl Fn(Code)) {
        let (mut checked, mut silences) = (clock::monotonic(), 0);
        while !self.member.stop.load(Relaxed) {
            // Rebalances run in here. Nothing is read, as all is paused.
            if let Some(Err(e)) = consumer.poll(POLL) {
                tracing::debug!("the group of writers: {}", text(&e));
                failed(e.rdkafka_error_code().unwrap_or(Code::Unknown));
            }
            self.member.look_at_the_clock();
            if checked.elapsed() >= CHECK {
                checked = clock::monotonic();
                silences = if self.is_heard(&consumer) { 0 } else { silences + 1 };
                if silences >= SILENCES {
                    silences = 0;
                    consumer = self.renew(consumer);
                }
            }
        }
        leave(consumer);
    }

    /// Whether the brokers answer this client, or nobody.
    fn is_heard(&self, consumer: &BaseConsumer<Member>) -> bool {
        let metadata = consumer.fetch_metadata(Some(&self.topic), ASKING);
        metadata.is_ok() || !self.member.context.monitor.health().reachable
    }

    fn renew(&self, old: BaseConsumer<Member>) -> BaseConsumer<Member> {
        match self.join() {
            Ok(new) => {
                old.context().retire();
                replaced(&self.member.context.monitor, "member", old);
                new
            }
            Err(e) => {
                tracing::warn!("no new member of the group of writers can be made: {}", text(&e));
                old
            }
        }
    }
}

fn leave(consumer: BaseConsumer<Member>) {
    consumer.unsubscribe();
    let deadline = clock::monotonic() + LEAVING;
    while clock::monotonic() < deadline && !consumer.context().owned.borrow().is_empty() {
        let _ = consumer.poll(Duration::from_millis(10));
    }
    // librdkafka 2.12 forgets to leave when it is closed before what was taken is put down, and the group would wait for
    // the session to end (`rd_kafka_cgrp_incr_unassign_done` returns early while terminating).
    let deadline = clock::monotonic() + PUT_DOWN;
    while clock::monotonic() < deadline {
        let _ = consumer.poll(Duration::from_millis(10));
    }
    // Dropping closes: the group hears of it, if a broker is there.
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;

    fn poll_until(consumer: &BaseConsumer<Member>, so: impl Fn() -> bool) {
        let begun = clock::monotonic();
        while !so() {
            assert!(begun.elapsed() < Duration::from_secs(60));
            assert!(consumer.poll(POLL).is_none_or(|m| m.is_err()), "all is paused");
            consumer.context().look_at_the_clock();
        }
    }

    /// What the one that is replaced still hears, when it leaves, takes nothing from the other.
    #[test]
    fn another_client_takes_the_members_place() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("identity", 3, 1).unwrap();
        let (tell, owned) = watch::channel(BTreeSet::new());
        let monitor = Monitor::new(Duration::from_secs(1));
        let mut settings = ClientConfig::new();
        settings
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("group.id", "writers")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "200");
        let joining = Joining {
            settings,
            topic: "identity".into(),
            member: Member {
                context: Context::new(&monitor, "member"),
                owned: tell,
                taken: Arc::default(),
                stop: Arc::default(),
                retired: Arc::default(),
            },
        };
        let all = BTreeSet::from([0, 1, 2].map(Partition));
        let first = joining.join().unwrap();
        poll_until(&first, || *owned.borrow() == all);

        let second = joining.renew(first);
        assert_eq!(monitor.counts.read().clients_replaced, 1);
        assert_eq!(*owned.borrow(), all, "they stay until somebody is given them");
        let given = |consumer: &BaseConsumer<Member>| consumer.assignment().unwrap().count();
        poll_until(&second, || given(&second) == 3 && *owned.borrow() == all);
        assert!(second.context().taken_for().is_none());
    }
}
