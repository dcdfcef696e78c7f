//! Topics are made with their settings, and a wrong setting is a refusal that names topic, setting and remedy.

use std::time::Duration;

use gatelog_events::log::LogError;
use gatelog_events::log::kafka::{KafkaConfig, KafkaLog};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::broker;

fn admin(servers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new()
        .set("bootstrap.servers", servers)
        .create()
        .unwrap()
}

/// Creates one topic of a log by hand, before the log is opened.
async fn create(config: &KafkaConfig, suffix: &str, partitions: i32, settings: &[(&str, &str)]) {
    let name = format!("{}{suffix}", config.topic_prefix);
    let topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
    let topic = settings.iter().fold(topic, |t, (key, value)| t.set(key, value));
    let made = admin(&config.bootstrap_servers)
        .create_topics([&topic], &AdminOptions::new())
        .await
        .unwrap();
    assert_eq!(made, [Ok(name)]);
}

const GOOD: [(&str, &str); 6] = [
    ("cleanup.policy", "delete"),
    ("retention.ms", "-1"),
    ("retention.bytes", "-1"),
    ("min.insync.replicas", "1"),
    ("unclean.leader.election.enable", "false"),
    ("max.message.bytes", "2000000"),
];

/// The good settings, one of them replaced.
fn but(key: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    GOOD.into_iter()
        .map(|(k, v)| if k == key { (k, value) } else { (k, v) })
        .collect()
}

async fn refusal(config: &KafkaConfig) -> (String, String) {
    match KafkaLog::open(config.clone()).await {
        Err(LogError::Mismatch { place, what }) => (place, what),
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("it was opened"),
    }
}

#[tokio::test]
async fn new_topics_have_the_settings_of_the_configuration() {
    let Some(servers) = broker::shared() else { return };
    let config = KafkaConfig {
        activity_retention: Duration::from_secs(3600),
        key_compaction_lag: Duration::from_secs(100),
        key_tombstone_retention: Duration::from_secs(200),
        max_record_bytes: 300_000,
        ..broker::config(servers)
    };
    KafkaLog::open(config.clone()).await.unwrap().close().await;
    let expected: [(&str, &[(&str, &str)]); 3] = [
        (
            "identity",
            &[
                ("cleanup.policy", "delete"),
                ("retention.ms", "-1"),
                ("retention.bytes", "-1"),
            ],
        ),
        (
            "activity",
            &[
                ("cleanup.policy", "delete"),
                ("retention.ms", "3600000"),
                ("retention.bytes", "-1"),
            ],
        ),
        (
            "subject-keys",
            &[
                ("cleanup.policy", "compact"),
                ("max.compaction.lag.ms", "50000"),
                ("message.timestamp.type", "LogAppendTime"),
                ("delete.retention.ms", "200000"),
            ],
        ),
    ];
    let common = [
        ("min.insync.replicas", "1"),
        ("unclean.leader.election.enable", "false"),
        ("max.message.bytes", "365536"),
    ];
    for (suffix, settings) in expected {
        let name = format!("{}{suffix}", config.topic_prefix);
        let found = admin(&config.bootstrap_servers)
            .describe_configs([&ResourceSpecifier::Topic(&name)], &AdminOptions::new())
            .await
            .unwrap();
        let found = found.into_iter().next().unwrap().unwrap();
        for (key, value) in settings.iter().chain(&common) {
            assert_eq!(
                found.get(key).unwrap().value.as_deref(),
                Some(*value),
                "{name} {key}"
            );
        }
    }
    KafkaLog::open(config).await.unwrap().close().await;
}

#[tokio::test]
async fn a_wrong_setting_is_refused_and_named() {
    let Some(servers) = broker::shared() else { return };
    let cases = [
        ("cleanup.policy", "compact"),
        ("cleanup.policy", "compact,delete"),
        ("retention.ms", "604800000"),
        ("retention.bytes", "1000000000"),
        ("unclean.leader.election.enable", "true"),
        ("max.message.bytes", "1000000"),
    ];
    for (key, value) in cases {
        let config = broker::config(servers.clone());
        create(&config, "identity", 2, &but(key, value)).await;
        let (place, what) = refusal(&config).await;
        assert!(
            place.contains(&format!("topic {}identity", config.topic_prefix)),
            "{place}"
        );
        // Kafka may give a list another order.
        assert!(
            what.starts_with(&format!("{key} is {}", &value[..3.min(value.len())])) || value.contains(','),
            "{what}"
        );
        assert!(
            what.contains("kafka-configs.sh") && what.contains("--add-config"),
            "{what}"
        );
    }
}

#[tokio::test]
async fn the_other_topics_are_checked_too() {
    let Some(servers) = broker::shared() else { return };
    let config = broker::config(servers.clone());
    create(&config, "activity", 2, &but("retention.ms", "60000")).await;
    let (place, what) = refusal(&config).await;
    assert!(
        place.contains("activity") && what.contains("retention.ms is 60000"),
        "{place}: {what}"
    );

    let config = broker::config(servers.clone());
    create(&config, "subject-keys", 2, &GOOD).await;
    let (place, what) = refusal(&config).await;
    assert!(
        place.contains("subject-keys") && what.contains("must be compact"),
        "{place}: {what}"
    );

    let config = broker::config(servers);
    create(&config, "activity", 2, &GOOD).await;
    KafkaLog::open(config).await.unwrap().close().await;
}

#[tokio::test]
async fn layout_and_copies_are_checked() {
    let Some(servers) = broker::shared() else { return };
    let config = broker::config(servers.clone());
    create(&config, "identity", 3, &GOOD).await;
    let (place, what) = refusal(&config).await;
    assert!(
        place.contains("identity") && what.contains("3 partitions, but partitions is 2"),
        "{what}"
    );

    let mut config = broker::config(servers.clone());
    KafkaLog::open(config.clone()).await.unwrap().close().await;
    config.replication_factor = 2;
    let (_, what) = refusal(&config).await;
    assert!(what.contains("1 copies, but kafka_replication is 2"), "{what}");

    config.replication_factor = 3;
    config.min_insync_replicas = 2;
    config.topic_prefix += "new.";
    let (_, what) = refusal(&config).await;
    assert!(what.contains("Start more brokers"), "{what}");
}

#[tokio::test]
async fn without_a_broker_opening_says_so_in_time() {
    let config = KafkaConfig {
        // Nothing listens on the discard port here.
        bootstrap_servers: "127.0.0.1:9".into(),
        connect_timeout: Duration::from_secs(2),
        ..Default::default()
    };
    let begun = gatelog_events::clock::monotonic();
    let error = KafkaLog::open(config).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(20));
    let LogError::Unreachable { place, what } = error else {
        panic!("{error}")
    };
    assert!(place.contains("127.0.0.1:9"), "{place}");
    assert!(what.contains("no broker answers"), "{what}");

    let config = KafkaConfig {
        topic_prefix: "my log".into(),
        ..Default::default()
    };
    assert!(matches!(
        KafkaLog::open(config).await,
        Err(LogError::Mismatch { .. })
    ));
}
