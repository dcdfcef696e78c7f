//! An erased person's key leaves the disks of Kafka's brokers within the configured time, also where nothing is written
//! any more, and `gatelog keys status` says until when it has not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

#[allow(dead_code)]
#[path = "../events/tests/log_kafka/broker.rs"]
mod broker;

use std::path::Path;
use std::time::Duration;

use gatelog_events::clock;
use gatelog_events::ids::Offset;
use gatelog_events::log::kafka::{KafkaConfig, KafkaLog};
use serde_json::{Value, json};
use support::process::{Process, gatelog};

use broker::Broker;

const PASSWORD: &str = "seven purple otters juggle";
const PATIENCE: Duration = Duration::from_secs(300);
const PARTITIONS: u16 = 2;
/// Kafka may hold a destroyed key for so long. Half of it must suffice to see that one is pending.
const LAG: Duration = Duration::from_secs(60);

/// What the topic gives out of one person: where, and the wrapped key.
async fn keys_of(config: &KafkaConfig, user: &str) -> Vec<(Offset, Vec<u8>)> {
    let id = uuid::Uuid::parse_str(user).unwrap();
    let log = KafkaLog::open(config.clone()).await.unwrap();
    let records = log.subject_keys().read_all().unwrap().map(Result::unwrap);
    let of_user = records.filter(|r| !r.is_mark() && r.key.ends_with(id.as_bytes()));
    let found = of_user.map(|r| (r.offset, r.value.unwrap().to_vec())).collect();
    log.close().await;
    found
}

/// How often the bytes stand in the files of a folder, those that Kafka is about to delete included.
fn count_on_disk(folder: &Path, bytes: &[u8]) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap().map_while(Result::ok) {
        let path = entry.path();
        // Kafka's indexes are large, and hold no keys.
        let is_index = path.to_str().unwrap().contains("index");
        if path.is_dir() {
            count += count_on_disk(&path, bytes);
        } else if !is_index && let Ok(content) = std::fs::read(&path) {
            // A file may vanish between the listing and the look.
            count += content.windows(bytes.len()).filter(|w| *w == bytes).count();
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_key_leaves_kafkas_disks_within_the_lag() {
    let quick = [
        "--set",
        "log.cleaner.backoff.ms=500",
        "--set",
        "log.segment.delete.delay.ms=500",
    ];
    let Some(broker) = Broker::start(&quick) else {
        return;
    };
    let bootstrap = broker.bootstrap();
    let disk = Path::new(broker.facts()["brokers"][0]["log_dir"].as_str().unwrap()).to_owned();
    let dir = tempfile::tempdir().unwrap();
    let (lag, partitions) = (format!("{}s", LAG.as_secs()), PARTITIONS.to_string());
    let environment = [
        ("GATELOG_LOG", "kafka"),
        ("GATELOG_KAFKA_BOOTSTRAP", bootstrap.as_str()),
        ("GATELOG_KAFKA_TOPIC_PREFIX", "erased."),
        ("GATELOG_KAFKA_REPLICATION", "1"),
        ("GATELOG_PARTITIONS", &partitions),
        ("GATELOG_KAFKA_SESSION_TIMEOUT", "6s"),
        ("GATELOG_KAFKA_KEY_COMPACTION_LAG", &lag),
    ];
    let config = KafkaConfig {
        topic_prefix: "erased.".to_owned(),
        partitions: PARTITIONS,
        key_compaction_lag: LAG,
        ..broker::config(bootstrap.clone())
    };
    let status = |json: bool| {
        let folder = dir.path().to_str().unwrap();
        let mut args = vec!["keys", "status", "--data-dir", folder];
        args.extend(json.then_some("--json"));
        let output = gatelog(&args).envs(environment).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let told = || serde_json::from_str::<Value>(&status(true)).unwrap();

    let node = Process::start_with(dir.path(), "127.0.0.1:0", &environment)
        .await
        .unwrap();
    let begun = clock::monotonic();
    let mut users = Vec::new();
    for email in ["ada@example.com", "bob@example.com"] {
        let body = json!({"email": email, "password": PASSWORD});
        users.push(loop {
            let (status, body) = node
                .call("POST", "/v1/registrations", Some(body.clone()))
                .await
                .unwrap();
            if status == 201 {
                break body["user_id"].as_str().unwrap().to_owned();
            }
            assert!(status == 503 && begun.elapsed() < PATIENCE, "{body}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        });
    }
    let (ada, bob) = (&users[0], &users[1]);
    let wrapped = keys_of(&config, ada).await.pop().unwrap().1;
    let kept = keys_of(&config, bob).await.pop().unwrap().1;
    assert_eq!(
        (count_on_disk(&disk, &wrapped), count_on_disk(&disk, &kept)),
        (1, 1)
    );
    let before = told();
    assert_eq!(
        (&before["erased"], &before["pending"]),
        (&json!(0), &json!(0)),
        "{before}"
    );
    assert_eq!(before["compaction_lag_seconds"], LAG.as_secs());

    let path = format!("/v1/users/{ada}");
    assert_eq!(node.call("DELETE", &path, None).await.unwrap().0, 200);
    let pending = told();
    assert_eq!(
        (&pending["erased"], &pending["pending"]),
        (&json!(1), &json!(1)),
        "{pending}"
    );
    let of_partitions = pending["partitions"].as_array().unwrap();
    assert_eq!(of_partitions.len(), usize::from(PARTITIONS));
    assert_eq!(
        of_partitions.iter().filter(|p| p["pending"] == 1).count(),
        1,
        "{pending}"
    );
    assert!(pending["oldest_seconds"].as_u64().unwrap() < 60, "{pending}");
    assert!(status(false).contains("1 of 1 erased keys may still be on Kafka's disks"));

    // Nothing else is written from now on.
    let begun = clock::monotonic();
    while told()["pending"] != 0 || count_on_disk(&disk, &wrapped) > 0 {
        assert!(begun.elapsed() < PATIENCE, "{}", told());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    eprintln!("gone after {:?}", begun.elapsed());
    let after = told();
    assert_eq!(
        (&after["erased"], &after["pending"]),
        (&json!(1), &json!(0)),
        "{after}"
    );
    assert_eq!(after["oldest_seconds"], Value::Null);
    assert_eq!(count_on_disk(&disk, &kept), 1, "who is not erased keeps the key");
    // That the key is destroyed stays known, and nothing is written again and again for it.
    let left = keys_of(&config, ada).await;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].1, [0]);
    let log = KafkaLog::open(config.clone()).await.unwrap();
    let ends = || {
        (0..PARTITIONS)
            .map(|p| log.subject_keys().end(gatelog_events::ids::Partition(p)).unwrap())
            .collect::<Vec<_>>()
    };
    let (quiet, begun) = (ends(), clock::monotonic());
    tokio::time::sleep(LAG / 2 + Duration::from_secs(3)).await;
    let written: u64 = ends().iter().zip(&quiet).map(|(now, then)| now - then).sum();
    // None but what asks each minute what time it is.
    assert!(written <= 1 + begun.elapsed().as_secs() / 60, "{written}");
    log.close().await;
    assert_eq!(
        node.call("GET", &format!("/v1/users/{bob}"), None)
            .await
            .unwrap()
            .0,
        200
    );
    assert!(node.stop().success());
}

#[test]
fn without_kafka_there_is_nothing_to_wait_for() {
    let dir = tempfile::tempdir().unwrap();
    let output = gatelog(&["keys", "status", "--data-dir", dir.path().to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("the log is not in Kafka") && said.contains("compaction_delay"),
        "{said}"
    );
}
