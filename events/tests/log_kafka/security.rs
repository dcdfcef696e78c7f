//! TLS and SASL SCRAM, against a broker that has them on.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use gatelog_events::log::LogError;
use gatelog_events::log::kafka::{KafkaConfig, KafkaLog, Sasl, SaslMechanism, Secret, Security};

use crate::broker::{Broker, config};
use crate::reading::fill;

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

async fn refused(config: KafkaConfig) -> (io::ErrorKind, String) {
    match KafkaLog::open(config).await {
        Err(LogError::Io { source, .. }) => (source.kind(), source.to_string()),
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
    fill(
        &log,
        gatelog_events::ids::Stream::Identity,
        gatelog_events::ids::Partition(0),
        100,
        100,
    )
    .await;
    use gatelog_events::log::EventLog;
    assert_eq!(log.read_to_end(&[]).unwrap().count(), 100);
    log.close().await;

    let begun = gatelog_events::clock::monotonic();
    let (kind, what) = refused(with(&base, user, "wrong", Some(ca.clone()))).await;
    assert_eq!(kind, io::ErrorKind::PermissionDenied, "{what}");
    assert!(!what.contains("wrong"), "{what}");
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "wrong credentials are not waited for"
    );

    // A certificate that nobody vouches for.
    let (kind, what) = refused(with(&base, user, &secret, None)).await;
    assert_eq!(kind, io::ErrorKind::InvalidData, "{what}");
    // A user without rights.
    let (kind, what) = refused(with(&base, "gatelog", &password("gatelog"), Some(ca))).await;
    assert_eq!(kind, io::ErrorKind::PermissionDenied, "{what}");
}
