//! Nodes that run: wrong clocks, two that take themselves for one, and topics and brokers that change meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use rdkafka::admin::{AdminOptions, AlterConfig, NewPartitions, ResourceSpecifier};
use serde_json::json;

use crate::broker::{self, Broker};
use crate::setup::{SECRET, Setup, admin, eventually, register, sibling, try_register};
use crate::support::ports::free_address;
use crate::support::process::{Process, consent};

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_differ() {
    let Some(bootstrap) = broker::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let error = dir.path().join("clock");
    let (right, folder) = (dir.path().join("right"), dir.path().join("wrong"));
    let base = Setup::new(&bootstrap, "clock.").but("GATELOG_CLUSTER_SECRET", SECRET);
    let (at, wrong_at) = (free_address(), free_address());
    let wrong = base
        .but("GATELOG_CLOCK_ERROR_FILE", error.to_str().unwrap())
        .but("GATELOG_NODE_ADVERTISE", &format!("http://{wrong_at}"));
    let node = base
        .but("GATELOG_NODE_ADVERTISE", &format!("http://{at}"))
        .start_at(&right, &at)
        .await;
    register(&node, "ada@example.com").await;
    sibling(&right, "wrong");
    for (ahead, word) in [("90000", "ahead of"), ("-90000", "behind")] {
        std::fs::write(&error, ahead).unwrap();
        wrong.refuses(
            &folder,
            9,
            &["this node's clock is", word, "Kafka's brokers", "synchronize"],
        );
    }
    // What goes wrong while it runs is told, and the other nodes take nothing from it.
    std::fs::write(&error, "0").unwrap();
    let late = wrong.start_at(&folder, &wrong_at).await;
    for i in 0..6 {
        register(&late, &format!("before{i}@example.com")).await;
    }
    std::fs::write(&error, "90000").unwrap();
    let mut refused = 0;
    for i in 0..24 {
        let (status, body) = try_register(&late, &format!("after{i}@example.com")).await;
        assert!(status == 201 || status == 503, "{status} {body}");
        refused += usize::from(status == 503);
    }
    assert!(refused > 0, "some belong to the other node");
    eventually("it tells", async || {
        late.said()
            .contains("this node's clock is not that of Kafka's brokers")
    })
    .await;
    assert!(
        node.said()
            .contains("its clock and the sender's differ by more than 30 s"),
        "{}",
        node.said()
    );
    let numbers = reqwest::get(format!("{}/metrics", late.url))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let skew = numbers
        .lines()
        .find_map(|l| l.strip_prefix("gatelog_clock_skew_seconds "));
    let skew: f64 = skew.expect("the metric").parse().unwrap();
    assert!((80.0..=90.5).contains(&skew), "{skew}");
    // And it recovers by itself.
    std::fs::write(&error, "0").unwrap();
    for i in 0..24 {
        register(&late, &format!("after{i}x@example.com")).await;
    }
    eventually("it is right again", async || {
        late.said().contains("this node's clock is right again")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_take_themselves_for_one() {
    let Some(bootstrap) = broker::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let at = free_address();
    let setup = Setup::new(&bootstrap, "twins.")
        .but("GATELOG_CLUSTER_SECRET", SECRET)
        .but("GATELOG_NODE_ADVERTISE", &format!("http://{at}"));
    let mut node = setup.start_at(&first, &at).await;
    register(&node, "ada@example.com").await;
    setup.refuses(
        &first,
        3,
        &["another process uses", "first", "choose another data directory"],
    );
    setup.is_not_verified(&first, 3, &["another process uses"]);
    sibling(&first, "second");
    // It starts, finds the other one at its own address, and leaves again.
    setup.refuses(
        &second,
        3,
        &["another node answers at http://", &at, "node_advertise"],
    );
    assert!(node.ended().is_none(), "{}", node.said());
    // Who comes back quickly at the address of an earlier run is nobody's twin.
    for _ in 0..2 {
        node.kill();
        node = setup.start_at(&first, &at).await;
    }
    register(&node, "bob@example.com").await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(node.ended().is_none(), "{}", node.said());
    assert!(!node.said().contains("does not reach itself"), "{}", node.said());
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_partitions_while_a_node_runs() {
    let Some(bootstrap) = broker::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&bootstrap, "grown.");
    let node = setup.start(dir.path()).await;
    register(&node, "a@example.com").await;
    let identity = setup.topic("identity");
    let more = NewPartitions::new(&identity, 5);
    admin(&bootstrap)
        .create_partitions([&more], &AdminOptions::new())
        .await
        .unwrap()[0]
        .as_ref()
        .unwrap();
    eventually("it tells that the topic has changed", async || {
        node.said()
            .contains("topic grown.identity has 5 partitions now, but partitions is 3")
    })
    .await;
    for i in 0..12 {
        register(&node, &format!("b{i}@example.com")).await;
    }
    assert!(node.stop().success());
}

/// Two copies of three brokers: without the third one, what lay there is short of one, and the rest is not.
#[tokio::test(flavor = "multi_thread")]
async fn where_some_partitions_take_no_writes_the_others_do() {
    let Some(broker) = Broker::start_some(3, &[]) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&broker.bootstrap(), "part.")
        .but("GATELOG_PARTITIONS", "12")
        .but("GATELOG_KAFKA_REPLICATION", "2")
        .but("GATELOG_KAFKA_MIN_INSYNC", "2");
    let node = setup.start(dir.path()).await;
    let mut users = Vec::new();
    for n in 0..40 {
        users.push(register(&node, &format!("u{n}@example.com")).await);
    }
    let choose = async |granted| {
        let mut taken = 0;
        for user in &users {
            let path = format!("/v1/users/{user}/consents/newsletter");
            let (status, body) = node.call("PUT", &path, Some(consent(granted))).await.unwrap();
            assert!(status == 200 || status == 503, "{body}");
            taken += usize::from(status == 200);
        }
        taken
    };
    let take = async || choose(true).await;
    let feed = json!({"purpose": "newsletter", "fields": ["plan"], "events": []});
    let (status, body) = node.call("PUT", "/v1/feeds/crm", Some(feed)).await.unwrap();
    assert_eq!(status, 200, "{body}");
    eventually("all consent", async || take().await == users.len()).await;
    let mut reader = Reader::of(&node, "from=now").await;
    eventually("all withdraw", async || choose(false).await == users.len()).await;
    broker.kill(3);
    eventually("it is told", async || {
        let (_, ready) = node.call("GET", "/readyz", None).await.unwrap();
        ready["unwritable_partitions"].as_u64() > Some(0)
    })
    .await;
    eventually("those that can be written are", async || {
        let taken = take().await;
        taken > 0 && taken < users.len()
    })
    .await;
    eventually("some are told to have withdrawn", async || {
        reader.read_on(&node).await;
        !reader.withdrawn.is_empty()
    })
    .await;
    assert!(reader.withdrawn.len() < users.len());
    // Where a broker stays away, one copy may have to do.
    for topic in ["identity", "activity", "subject-keys"] {
        let topic = setup.topic(topic);
        let less = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("min.insync.replicas", "1");
        let altered = admin(setup.get("GATELOG_KAFKA_BOOTSTRAP"))
            .alter_configs([&less], &AdminOptions::new())
            .await
            .unwrap();
        assert!(altered[0].is_ok(), "{altered:?}");
    }
    eventually("all are", async || take().await == users.len()).await;
    eventually("all are told to have withdrawn", async || {
        reader.read_on(&node).await;
        reader.withdrawn.len() == users.len()
    })
    .await;
    assert!(node.stop().success());
}

/// Who reads the feed `crm`, and of whom it was told that they have withdrawn.
struct Reader {
    after: String,
    withdrawn: BTreeSet<String>,
}

impl Reader {
    async fn of(node: &Process, from: &str) -> Self {
        let path = format!("/v1/feeds/crm/events?{from}");
        let (status, page) = node.call("GET", &path, None).await.unwrap();
        assert_eq!(status, 200, "{page}");
        Self {
            after: page["next"].as_str().unwrap().to_owned(),
            withdrawn: BTreeSet::new(),
        }
    }

    /// Reads one by one, so that those of one partition stand before all others, until it is refused for now or there is
    /// nothing more.
    async fn read_on(&mut self, node: &Process) {
        loop {
            let path = format!("/v1/feeds/crm/events?limit=1&after={}", self.after);
            let (status, page) = node.call("GET", &path, None).await.unwrap();
            if status == 503 {
                return;
            }
            assert_eq!(status, 200, "{page}");
            let events = page["events"].as_array().unwrap().iter();
            let gone = events.filter(|event| event["data"]["reason"].is_string());
            self.withdrawn
                .extend(gone.map(|event| event["subject"].as_str().unwrap().to_owned()));
            self.after = page["next"].as_str().unwrap().to_owned();
            if page["more"] == false {
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_replicas_in_sync_while_a_node_runs() {
    let Some(broker) = Broker::start_some(3, &[]) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&broker.bootstrap(), "isr.")
        .but("GATELOG_KAFKA_REPLICATION", "3")
        .but("GATELOG_KAFKA_MIN_INSYNC", "3");
    let node = setup.start(dir.path()).await;
    let user = register(&node, "ada@example.com").await;
    broker.kill(3);
    let path = format!("/v1/users/{user}/consents/newsletter");
    eventually("writes are refused", async || {
        node.call("PUT", &path, Some(consent(true))).await.unwrap().0 == 503
    })
    .await;
    eventually("it is told", async || {
        let (status, ready) = node.call("GET", "/readyz", None).await.unwrap();
        let said = node.said();
        status == 200
            && ready["unwritable_partitions"] == 9
            && said.contains("fewer copies in sync than min.insync.replicas")
    })
    .await;
    let own = format!("/v1/users/{user}");
    assert_eq!(node.call("GET", &own, None).await.unwrap().0, 200, "reads go on");
    let numbers = reqwest::get(format!("{}/metrics", node.url))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(
        numbers.contains("gatelog_log_unwritable_partitions 9"),
        "{numbers}"
    );
    broker.restart();
    eventually("writes go on", async || {
        node.call("PUT", &path, Some(consent(true))).await.unwrap().0 == 200
    })
    .await;
    eventually("that is told too", async || {
        node.call("GET", "/readyz", None).await.unwrap().1["unwritable_partitions"] == 0
    })
    .await;
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_may_be_replaced_and_are_not_the_same() {
    let Some(bootstrap) = broker::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let base = Setup::new(&bootstrap, "replaced.")
        .but("GATELOG_CLUSTER_SECRET", SECRET)
        .but("GATELOG_PARTITIONS", "12");
    let start = async |setup: Setup, folder: &std::path::Path| {
        let at = free_address();
        setup
            .but("GATELOG_NODE_ADVERTISE", &format!("http://{at}"))
            .start_at(folder, &at)
            .await
    };
    let folder = dir.path().join("node");
    let nodes = [
        start(base.clone(), &folder).await,
        start(base.clone(), &sibling(&folder, "same")).await,
        start(
            base.but("GATELOG_REFRESH_SECRET", SECRET),
            &sibling(&folder, "other"),
        )
        .await,
    ];
    let words = "has another refresh-secret or idempotency-secret";
    let tell = |n: usize| nodes[n].said().matches(words).count();
    let mut i = 0;
    eventually("each has asked each", async || {
        for node in &nodes {
            i += 1;
            register(node, &format!("u{i}@example.com")).await;
        }
        (tell(0), tell(1), tell(2)) == (1, 1, 2)
    })
    .await;
    for node in nodes {
        let about = node.url.clone();
        let said = node.said();
        assert!(node.stop().success(), "{about}");
        assert!(!said.contains(SECRET));
    }
}
