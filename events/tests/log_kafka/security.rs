//! TLS and SASL SCRAM, against a broker that has them on.

use std::path::PathBuf;
use std::time::Duration;

use gatelog_events::clock;
use gatelog_events::ids::{Partition, Stream};
use gatelog_events::log::conformance::take;
use gatelog_events::log::kafka::{
    KafkaConfig, KafkaLog, MembershipOptions, Sasl, SaslMechanism, Secret, Security,
};
use gatelog_events::log::{EventLog, LogError};

use crate::broker::{self, Broker, config};
use crate::reading::fill;

const ID: Stream = Stream::Identity;
const P0: Partition = Partition(0);

fn with(base: &KafkaConfig, user: &str, password: &str, ca: Option<PathBuf>) -> KafkaConfig {
    KafkaConfig {
        security: Security::SaslSsl {
            sasl: Sasl {
                mechanism: SaslMechanism::ScramSha512,
                user: user.into(),
                password: Secret::new(password),
            },
            ca,
        },
        connect_timeout: Duration::from_secs(20),
        ..base.clone()
    }
}

async fn refused(config: KafkaConfig) -> String {
    match KafkaLog::open(config).await {
        Err(LogError::Refused { what, .. }) => what,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("it was let in"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_password_opens_and_the_wrong_one_is_refused() {
    let Some(broker) = Broker::start(&["--sasl"]) else {
        return;
    };
    let sasl = broker.facts()["sasl"].clone();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let ca = PathBuf::from(text(&sasl["ca_file"]));
    let password = |user: &str| {
        let file = text(&sasl[user]["password_file"]);
        std::fs::read_to_string(file).unwrap().trim().to_owned()
    };
    let (user, secret) = ("admin", password("admin"));
    let base = config(broker.bootstrap());

    let good = with(&base, user, &secret, Some(ca.clone()));
    let log = KafkaLog::open(good).await.unwrap();
    fill(&log, ID, P0, 100, 100).await;
    assert_eq!(log.read_to_end(&[]).unwrap().count(), 100);
    log.close().await;

    let begun = gatelog_events::clock::monotonic();
    let what = refused(with(&base, user, "not this one", Some(ca.clone()))).await;
    assert!(what.contains("user or password is wrong"), "{what}");
    assert!(!what.contains("not this one"), "{what}");
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "wrong credentials are not waited for"
    );

    // A certificate that nobody vouches for.
    let what = refused(with(&base, user, &secret, None)).await;
    assert!(what.contains("no secure connection"), "{what}");
    // A user without rights.
    let limited = with(&base, "gatelog", &password("gatelog"), Some(ca));
    let what = refused(limited.clone()).await;
    assert!(
        what.contains("no right to Create") && what.contains("deploy/kafka-acls"),
        "{what}"
    );
    works_with_what_the_script_grants(&broker, limited).await;
}

/// `deploy/kafka-acls` grants a node's user all that the log needs.
async fn works_with_what_the_script_grants(broker: &Broker, config: KafkaConfig) {
    let prefix = format!("{}limited.", config.topic_prefix);
    let group = format!("{prefix}writers");
    let client = broker.facts()["sasl"]["admin"]["client_properties"]
        .as_str()
        .unwrap()
        .to_owned();
    let script = broker::script().parent().unwrap().join("../deploy/kafka-acls");
    let grants = |more: &[&str]| {
        let granted = std::process::Command::new(&script)
            .args([
                "--bootstrap-server",
                &broker.bootstrap(),
                "--command-config",
                &client,
            ])
            // The group follows from the prefix.
            .args(["--prefix", &prefix])
            .args(more)
            .output()
            .unwrap_or_else(|e| panic!("{}: {e}", script.display()));
        let said = String::from_utf8_lossy(&granted.stderr);
        assert!(granted.status.success(), "{said}");
    };
    grants(&[]);

    let config = KafkaConfig {
        topic_prefix: prefix.clone(),
        ..config
    };
    let log = KafkaLog::open(config).await.unwrap();
    fill(&log, ID, P0, 10, 10).await;
    assert_eq!(take(&*log, ID, P0, 0, 10).await.len(), 10);
    assert_eq!(log.read_to_end(&[]).unwrap().count(), 10);
    assert_eq!(log.end(ID, P0).await.unwrap(), 10);
    let keys = log.subject_keys();
    keys.put(P0, b"anna", b"wrapped").await.unwrap();
    assert_eq!(keys.read_all().unwrap().count(), 1);
    let member = log
        .join(&MembershipOptions {
            group,
            session_timeout: Duration::from_secs(6),
        })
        .unwrap();
    let mut owned = member.owned();
    let joined =
        tokio::time::timeout(Duration::from_secs(60), owned.wait_for(|owned| owned.len() == 2)).await;
    assert!(joined.is_ok(), "{member:?} {:?}", log.health());
    drop(joined);
    member.close().await;

    // Where the topics are made by somebody else, those of feeds are too.
    log.outlet("feed.there").await.unwrap();
    grants(&["--remove"]);
    grants(&["--no-create"]);
    // Until the broker has heard of it, another topic can be made.
    let (begun, mut n) = (clock::monotonic(), 0);
    while log.outlet(&format!("feed.new{n}")).await.is_ok() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "the grant is not taken away"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
        n += 1;
    }
    log.outlet("feed.there").await.unwrap();
    log.close().await;
}
