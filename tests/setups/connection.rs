//! Kafka that is not there, or lets the node not in, or has other topics.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use gatelog_events::clock;
use rdkafka::admin::{AdminOptions, AlterConfig, NewPartitions, ResourceSpecifier};
use serde_json::Value;

use crate::broker::{self, Broker};
use crate::setup::{PASSWORD, Setup, admin, copy, is_told};
use crate::support::ports::free_address;
use crate::support::process::gatelog;

#[test]
fn no_broker() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = free_address();
    let setup = Setup::new(&nobody, "none.");
    let words = [nobody.as_str(), "no broker answers", "kafka_bootstrap"];
    let begun = clock::monotonic();
    setup.refuses(dir.path(), 7, &words);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    setup.is_not_verified(dir.path(), 7, &words);
    is_told(
        &setup.run(&["keys", "status", "--data-dir", dir.path().to_str().unwrap()]),
        7,
        &words,
    );
}

/// While a node opens, which here takes as long as it looks for a broker, it says so instead of letting callers wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_opens_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (nobody, address) = (free_address(), free_address());
    let mut node = gatelog(&["serve", "--listen", &address])
        .args(["--data-dir", dir.path().to_str().unwrap()])
        .envs(Setup::new(&nobody, "opens.").pairs())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let client = reqwest::Client::new();
    let mut get = async |path: &str| {
        let url = format!("http://{address}{path}");
        let answer = loop {
            match client.get(&url).send().await {
                Ok(answer) => break answer,
                Err(_) if node_runs(&mut node) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(e) => panic!("{e}"),
            }
        };
        let retry = answer.headers().get("retry-after").is_some();
        let status = answer.status().as_u16();
        (status, retry, answer.json::<Value>().await.unwrap())
    };
    assert_eq!(get("/healthz").await.0, 200);
    for path in ["/readyz", "/v1/users/x", "/.well-known/jwks.json"] {
        let (status, retry, body) = get(path).await;
        assert_eq!((status, retry), (503, true), "{path}: {body}");
        assert_eq!(body["type"], "urn:gatelog:problem:unavailable");
    }
    assert_eq!(node.wait().unwrap().code(), Some(7));
}

fn node_runs(node: &mut Child) -> bool {
    node.try_wait().unwrap().is_none()
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_and_missing_rights() {
    let Some(broker) = Broker::start(&["--sasl"]) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("node");
    let sasl = &broker.facts()["sasl"];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let setup = Setup::new(&broker.bootstrap(), "acl.")
        .but("GATELOG_KAFKA_SECURITY", "sasl_ssl")
        .but("GATELOG_KAFKA_CA_FILE", &text(&sasl["ca_file"]))
        .but("GATELOG_KAFKA_SASL_USERNAME", "gatelog")
        .but(
            "GATELOG_KAFKA_SASL_PASSWORD_FILE",
            &text(&sasl["gatelog"]["password_file"]),
        );

    let wrong = dir.path().join("wrong");
    copy(Path::new(setup.get("GATELOG_KAFKA_SASL_PASSWORD_FILE")), &wrong);
    std::fs::write(&wrong, PASSWORD).unwrap();
    setup
        .but("GATELOG_KAFKA_SASL_PASSWORD_FILE", wrong.to_str().unwrap())
        .refuses(
            &folder,
            8,
            &[
                "user or password is wrong",
                "kafka_sasl_password_file",
                &broker.bootstrap(),
            ],
        );
    let mut unknown = setup.clone();
    unknown
        .environment
        .retain(|(name, _)| name != "GATELOG_KAFKA_CA_FILE");
    unknown.refuses(&folder, 8, &["no secure connection", "kafka_ca_file"]);
    setup.refuses(
        &folder,
        8,
        &[
            "the user gatelog has no right to Create",
            "topic acl.identity",
            "deploy/kafka-acls --user gatelog --prefix acl.",
        ],
    );

    let properties = text(&sasl["admin"]["client_properties"]);
    let scripts = broker::script().parent().unwrap().to_owned();
    let bootstrap = broker.bootstrap();
    let connection = ["--bootstrap-server", &bootstrap, "--command-config", &properties];
    let done = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    done(
        Command::new(scripts.join("../deploy/kafka-acls"))
            .args(connection)
            .args(["--prefix", "acl.", "--group", "acl.writers"]),
    );
    setup.with_a_user(&folder).await;

    let acls = |verb: &str, operation: &str, resource: [&str; 2]| {
        done(
            Command::new(scripts.join("kafka"))
                .args(["tool", "acls"])
                .args(connection)
                .args([
                    verb,
                    "--allow-principal",
                    "User:gatelog",
                    "--operation",
                    operation,
                ])
                .args(resource)
                .args(if verb == "--remove" { &["--force"][..] } else { &[] }),
        );
    };
    for (operation, resource, words) in [
        (
            "Read",
            ["--topic", "acl.activity"],
            ["Read", "topic acl.activity"],
        ),
        (
            "DescribeConfigs",
            ["--topic", "acl.identity"],
            ["DescribeConfigs", "topic acl.identity"],
        ),
        (
            "Write",
            ["--topic", "acl.subject-keys"],
            ["Write", "topic acl.subject-keys"],
        ),
        (
            "Write",
            ["--topic", "acl.identity"],
            ["Write", "topic acl.identity"],
        ),
        ("Read", ["--group", "acl.writers"], ["Read", "group acl.writers"]),
    ] {
        acls("--remove", operation, resource);
        setup.refuses(
            &folder,
            8,
            &[
                words[0],
                words[1],
                "the user gatelog has no right to",
                "deploy/kafka-acls",
            ],
        );
        acls("--add", operation, resource);
    }
    setup.start(&folder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_are_not_as_the_options_say() {
    let Some(bootstrap) = broker::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("node");
    let setup = Setup::new(&bootstrap, "layout.");
    // More copies than there are brokers.
    setup.but("GATELOG_KAFKA_REPLICATION", "3").refuses(
        &folder,
        2,
        &[
            "topic layout.identity",
            "3 copies",
            "Start more brokers",
            "kafka_replication",
        ],
    );
    setup.but("GATELOG_KAFKA_MIN_INSYNC", "2").refuses(
        &folder,
        2,
        &["kafka_min_insync is 2", "kafka_replication"],
    );

    setup.with_a_user(&folder).await;
    let kafka = admin(&bootstrap);
    let identity = setup.topic("identity");
    let demand = |copies: &'static str| {
        let (kafka, identity) = (&kafka, identity.clone());
        async move {
            let alter = [
                ("min.insync.replicas", copies),
                ("unclean.leader.election.enable", "false"),
                ("max.message.bytes", "2000000"),
                ("retention.ms", "-1"),
            ];
            let alter = alter.into_iter().fold(
                AlterConfig::new(ResourceSpecifier::Topic(&identity)),
                |a, (k, v)| a.set(k, v),
            );
            kafka.alter_configs([&alter], &AdminOptions::new()).await.unwrap()[0]
                .as_ref()
                .unwrap();
        }
    };
    demand("2").await;
    let words = [
        "topic layout.identity",
        "min.insync.replicas is 2, but a partition has 1 copies",
        "kafka-reassign-partitions.sh",
    ];
    setup.refuses(&folder, 2, &words);
    demand("1").await;

    let more = NewPartitions::new(&identity, 5);
    kafka
        .create_partitions([&more], &AdminOptions::new())
        .await
        .unwrap()[0]
        .as_ref()
        .unwrap();
    let words = [
        "topic layout.identity",
        "it has 5 partitions, but partitions is 3",
        "Set partitions to 5",
    ];
    setup.refuses(&folder, 2, &words);
    setup.is_not_verified(&folder, 2, &words);
}
