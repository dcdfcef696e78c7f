//! What a node on Kafka looks after beside requests: that it may do its work, that its clock is right, that it is who others
//! take it for, and that destroyed keys leave Kafka's disks.

use std::sync::Arc;
use std::time::Duration;

use futures::executor::block_on;
use gatelog_events::clock;
use gatelog_events::ids::Partition;
use gatelog_events::log::kafka::{KafkaLog, Membership};
use gatelog_events::log::{AppendError, LogError};
use tokio::sync::watch;

use crate::auth::keys::KeyRing;
use crate::cluster::auth::TOLERANCE;
use crate::cluster::{Forwarder, Greeting, NodeAddress};
use crate::node::{Node, NodeError};
use crate::writer::{Parts, TakeoverError};

/// A clock that is wrong by more than this is worth a line in the log.
const WORTH_A_WARNING: Duration = Duration::from_secs(5);

/// How often a node asks what time it is; each new key tells it, too.
const CLOCK: Duration = Duration::from_secs(60);
/// How often it looks at what it was told.
const TICK: Duration = Duration::from_secs(1);

/// How often in a row another must answer at this node's address before that is believed: an address may lead to an
/// earlier run for a moment.
const STRANGERS: u32 = 5;

/// Between two looks at one's own address, while it is not clear who answers there.
const LOOK: Duration = Duration::from_secs(1);
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// Between two tries to destroy keys.
const AGAIN: Duration = Duration::from_secs(30);

/// Where the time is asked for: each node may write any partition of the keys' topic.
const ANY: Partition = Partition(0);

/// Refuses to go on with a clock by which other nodes would take nothing from this one, or without the right to write
/// keys. While Kafka takes no writes, nothing is known of either, and a node may answer reads. Blocks.
pub fn check_clock(log: &Arc<KafkaLog>) -> Result<(), NodeError> {
    let topic = log.subject_keys();
    // The first record waits until the producer is connected, so the second says it more exactly.
    for _ in 0..2 {
        match block_on(topic.touch(ANY)) {
            Ok(_) => {}
            Err(e @ AppendError::Refused(_)) => return Err(topic.not_written(e).into()),
            Err(e) => {
                tracing::warn!(error = %e, "Kafka takes no writes at present, so the clock could not be compared");
                break;
            }
        }
    }
    let skew = log.clock_skew();
    if Duration::from_millis(skew.unsigned_abs()) > TOLERANCE {
        return Err(NodeError::Clock {
            millis: skew.unsigned_abs(),
            ahead: skew < 0,
        });
    }
    Ok(())
}

/// Says when the clock goes wrong, and when it is right again.
pub async fn watch_clock(log: Option<&Arc<KafkaLog>>) {
    let Some(log) = log else {
        return std::future::pending().await;
    };
    let (mut wrong, mut asked) = (false, clock::monotonic());
    loop {
        let skew = log.clock_skew();
        let is_wrong = Duration::from_millis(skew.unsigned_abs()) > WORTH_A_WARNING;
        if is_wrong && !wrong {
            tracing::error!(
                milliseconds_ahead = -skew,
                "this node's clock is not that of Kafka's brokers: times in events are wrong, and from 30 s on other nodes \
                 refuse its commands. Synchronize the clocks of all machines"
            );
        } else if wrong && !is_wrong {
            tracing::info!("this node's clock is right again");
        }
        wrong = is_wrong;
        tokio::time::sleep(TICK).await;
        if asked.elapsed() >= CLOCK {
            asked = clock::monotonic();
            // While Kafka is away nothing is learned.
            let _ = log.subject_keys().touch(ANY).await;
        }
    }
}

/// Ends if another node answers where this one is said to be reached.
pub async fn meet_oneself(advertised: Option<&(Forwarder, NodeAddress)>) -> NodeError {
    let Some((forwarder, me)) = advertised else {
        return std::future::pending().await;
    };
    let (mut strangers, mut pause) = (0, LOOK);
    loop {
        match forwarder.greet(me).await {
            Greeting::Itself => return std::future::pending().await,
            Greeting::Another => {
                (strangers, pause) = (strangers + 1, LOOK);
                if strangers >= STRANGERS {
                    return NodeError::Address { url: me.url.clone() };
                }
            }
            Greeting::Unclear(reason) => {
                (strangers, pause) = (0, LONGEST_LOOK.min(pause * 2));
                tracing::warn!(url = %me.url, %reason, "this node does not reach itself at its node_advertise; do others?");
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Ends if Kafka does not let this node into the group that shares out the partitions.
pub async fn may_join(membership: Option<&Membership>) -> LogError {
    let Some(membership) = membership else {
        return std::future::pending().await;
    };
    let (mut refused, owned) = (membership.refused(), membership.owned());
    loop {
        if let Some(error) = refused.borrow_and_update().clone()
            && owned.borrow().is_empty()
        {
            return error;
        }
        if refused.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Ends if Kafka takes no claim from this node, and never took one: it would keep partitions that others could write. A
/// node that has written before goes on answering reads.
pub async fn may_write(mut taken: watch::Receiver<Option<Result<(), TakeoverError>>>) -> LogError {
    loop {
        match &*taken.borrow_and_update() {
            Some(Ok(())) => break,
            Some(Err(TakeoverError::Claim(AppendError::Refused(what)))) => {
                return LogError::Refused {
                    place: "Kafka".to_owned(),
                    what: what.clone(),
                };
            }
            _ => {}
        }
        if taken.changed().await.is_err() {
            break;
        }
    }
    std::future::pending().await
}

/// Kafka compacts only what is no longer being written, and turns to a new segment only when a record comes: in partitions
/// of this node in which none came for long enough after an erasure, it writes one that says nothing.
pub async fn let_erased_keys_leave(
    log: Option<&Arc<KafkaLog>>,
    membership: Option<&Membership>,
    node: &Arc<Node>,
) {
    let (Some(log), Some(membership), Some(kafka)) = (log, membership, &node.config.kafka) else {
        return std::future::pending().await;
    };
    let (age, owned) = (kafka.log.segment_age(), membership.owned());
    let every = (age / 10).clamp(Duration::from_millis(200), Duration::from_secs(600));
    loop {
        tokio::time::sleep(every).await;
        let mine: Vec<_> = owned.borrow().iter().copied().collect();
        let node = node.clone();
        let waiting = tokio::task::spawn_blocking(move || {
            let now = clock::now();
            mine.into_iter()
                .filter(|p| node.keys.waits_for_a_record(*p, age, now).unwrap_or(false))
                .collect::<Vec<_>>()
        });
        for partition in waiting.await.unwrap_or_default() {
            match log.subject_keys().touch(partition).await {
                Ok(_) => tracing::debug!(%partition, "Kafka may compact what was erased"),
                // It is tried again.
                Err(e) => tracing::debug!(%partition, error = %e, "Kafka cannot compact what was erased yet"),
            }
        }
    }
}

/// How often it is looked whether there is a new key to sign tokens with, and whether one was taken away.
const SIGNING: Duration = Duration::from_secs(60);

/// Reads the keys that sign tokens again and again: they are published well before they sign. Never ends.
pub async fn reload_signing_keys(keys: &KeyRing) {
    loop {
        tokio::time::sleep(SIGNING).await;
        if let Err(e) = keys.reload() {
            tracing::error!(error = %e, "the keys that sign tokens cannot be read; those known before go on");
        }
    }
}

/// Tries again to destroy keys of erased users where that failed. Never ends.
pub async fn destroy_at_last(parts: Arc<Parts>) {
    loop {
        tokio::time::sleep(AGAIN).await;
        let parts = parts.clone();
        let _ = tokio::task::spawn_blocking(move || parts.destroy_at_last()).await;
    }
}
