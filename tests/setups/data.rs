//! Data that is not of one store, or not all there.

use std::time::Duration;

use rdkafka::admin::AdminOptions;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::broker::{self, Broker};
use crate::setup::{SECRET, Setup, admin, eventually, is_told, register, sibling, try_register};
use crate::support::process::Process;

#[tokio::test(flavor = "multi_thread")]
async fn data_of_two_stores() {
    let Some(bootstrap) = broker::shared() else { return };
    let Some(other) = Broker::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("node");
    let setup = Setup::new(&bootstrap, "mixed.");
    setup.with_a_user(&folder).await;
    // Another cluster that has topics of the same names, and another store in the same cluster.
    let words = ["belong to another log", "new data folder"];
    for foreign in [
        setup.but("GATELOG_KAFKA_BOOTSTRAP", &other.bootstrap()),
        setup.but("GATELOG_KAFKA_TOPIC_PREFIX", "mixed2."),
    ] {
        foreign.refuses(&folder, 10, &words);
        foreign.is_not_verified(&folder, 10, &words);
    }

    // A node with secrets of its own.
    let stranger = dir.path().join("stranger");
    let words = [
        "master-key, identifier-pepper, routing-secret differ",
        "stranger/secrets",
        "copy",
    ];
    setup.refuses(&stranger, 10, &words);
    let partly = sibling(&folder, "partly");
    std::fs::write(partly.join("secrets/identifier-pepper"), SECRET).unwrap();
    setup.refuses(&partly, 10, &["identifier-pepper differ", "mixed."]);
    // Another store's log is not copied over this one.
    let embedded = dir.path().join("embedded");
    let as_many = [("GATELOG_PARTITIONS", "3")];
    let store = Process::start_with(&embedded, "127.0.0.1:0", &as_many).await;
    assert!(store.unwrap().stop().success());
    let copied = setup.run(&[
        "log",
        "copy",
        "--to",
        "kafka",
        "--data-dir",
        embedded.to_str().unwrap(),
    ]);
    is_told(&copied, 10, &["differ"]);
    // None of them has changed anything.
    let node = setup.start(&sibling(&folder, "second")).await;
    let taken = try_register(&node, "ADA@example.com").await;
    assert_eq!(taken.0, 409, "{}", taken.1);
    assert!(node.stop().success());

    // Topics that were deleted and made anew.
    let names = ["identity", "activity", "subject-keys"].map(|t| setup.topic(t));
    delete(&bootstrap, &names).await;
    setup.with_a_user(&sibling(&folder, "third")).await;
    setup.refuses(&folder, 10, &["belong to another log", "made anew"]);
}

async fn delete(bootstrap: &str, topics: &[String]) {
    let names: Vec<_> = topics.iter().map(String::as_str).collect();
    let kafka = admin(bootstrap);
    for deleted in kafka.delete_topics(&names, &AdminOptions::new()).await.unwrap() {
        deleted.unwrap();
    }
    eventually("the topics are gone", async || {
        let all = kafka
            .inner()
            .fetch_metadata(None, Duration::from_secs(5))
            .unwrap();
        all.topics().iter().all(|t| !names.contains(&t.name()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_has_lost_records() {
    let Some(bootstrap) = broker::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("node");
    let setup = Setup::new(&bootstrap, "lost.");
    let node = setup.start(&folder).await;
    for i in 0..9 {
        register(&node, &format!("u{i}@example.com")).await;
    }
    assert!(node.stop().success());
    // Records before those that a node has folded; it needs them no more, but nobody could begin anew.
    let mut before = TopicPartitionList::new();
    before
        .add_partition_offset(&setup.topic("identity"), 1, Offset::Offset(1))
        .unwrap();
    admin(&bootstrap)
        .delete_records(&before, &AdminOptions::new())
        .await
        .unwrap();
    let words = [
        "topic lost.identity, partition 1",
        "Kafka has deleted records",
        "begins at 1",
        "backup",
    ];
    setup.refuses(&sibling(&folder, "new"), 4, &words);
    setup.is_not_verified(&folder, 4, &words);

    // The topic was made anew, and ends before what was folded of it.
    delete(&bootstrap, &[setup.topic("identity")]).await;
    let words = [
        "the log is shorter than what was read of it",
        "read model",
        "identity:",
        "ends at 0",
        "backup",
    ];
    setup.refuses(&folder, 4, &words);
    setup.is_not_verified(&folder, 4, &words);
}
