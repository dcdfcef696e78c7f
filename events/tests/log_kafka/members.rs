//! The group of writers: who should own what.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use gatelog_events::ids::Partition;
use gatelog_events::log::kafka::{KafkaConfig, KafkaLog, Membership, MembershipOptions};
use tokio::time::timeout;

use crate::broker;

const LONG: Duration = Duration::from_secs(60);
/// Long enough that leaving is heard of before it has passed, however busy the machine.
const SESSION: Duration = Duration::from_secs(30);

fn options(config: &KafkaConfig) -> MembershipOptions {
    MembershipOptions {
        group: format!("{}writers", config.topic_prefix),
        session_timeout: SESSION,
    }
}

/// Waits until a member owns as many partitions.
async fn owns(member: &Membership, n: usize) -> BTreeSet<Partition> {
    let mut owned = member.owned();
    let found = timeout(LONG, owned.wait_for(|owned| owned.len() == n)).await;
    found
        .unwrap_or_else(|_| panic!("never owned {n}: {member:?}"))
        .unwrap()
        .clone()
}

#[tokio::test]
async fn two_members_share_out_the_partitions_and_one_takes_over() {
    let Some(servers) = broker::shared() else { return };
    let config = KafkaConfig {
        partitions: 8,
        ..broker::config(servers)
    };
    let log: Arc<KafkaLog> = KafkaLog::open(config.clone()).await.unwrap();
    let first = log.join(&options(&config)).unwrap();
    assert_eq!(owns(&first, 8).await.len(), 8);
    let second = log.join(&options(&config)).unwrap();
    let (a, b) = (owns(&first, 4).await, owns(&second, 4).await);
    assert!(a.is_disjoint(&b));

    // Leaving hands over at once, long before the session's time is up.
    let begun = gatelog_events::clock::monotonic();
    first.close().await;
    assert_eq!(owns(&second, 8).await.len(), 8);
    let took = begun.elapsed();
    assert!(took < SESSION, "{took:?}");
    eprintln!("taken over {took:?} after leaving");
    assert!(first.owned().borrow().is_empty());

    let third = log.join(&options(&config)).unwrap();
    owns(&third, 4).await;
    drop(second);
    owns(&third, 8).await;
    third.close().await;
    log.close().await;
}

#[tokio::test]
async fn an_impossible_session_is_refused() {
    let Some((_, log)) = broker::log().await else {
        return;
    };
    let options = MembershipOptions {
        session_timeout: Duration::ZERO,
        ..Default::default()
    };
    assert!(log.join(&options).is_err());
}
