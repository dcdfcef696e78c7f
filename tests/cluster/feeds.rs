//! Feeds of many nodes: any node hands a page on, and the webhook of a node that dies goes on at another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gatelog_events::clock;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message as _};
use serde_json::{Value, json};

use crate::broker;
use crate::support::cluster::{Cluster, PASSWORD, PATIENCE};
use crate::support::process::{BOOTSTRAP, consent};
use crate::support::receiver::Receiver;

/// Takes a page from a node; whether there is more, and the cursor.
async fn page(
    cluster: &Cluster,
    n: usize,
    after: Option<&str>,
    state: &mut BTreeMap<String, Value>,
) -> (bool, String) {
    let node = cluster.node(n);
    let after = after.map_or(String::new(), |c| format!("&after={c}"));
    let url = format!("{}/v1/feeds/marketing/events?limit=10{after}", node.url);
    let answer = node.client.get(url).bearer_auth(BOOTSTRAP).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let page: Value = answer.json().await.unwrap();
    for event in page["events"].as_array().unwrap() {
        let subject = event["subject"].as_str().unwrap().to_owned();
        match event["data"].get("fields") {
            Some(fields) => state.insert(subject, fields.clone()),
            None => state.remove(&subject),
        };
    }
    (
        page["more"].as_bool().unwrap(),
        page["next"].as_str().unwrap().to_owned(),
    )
}

async fn register(cluster: &Cluster, n: usize, email: &str) -> String {
    let body = json!({
        "email": email, "password": PASSWORD,
        "consents": [{"purpose": "newsletter", "channel": "email", "granted": true,
                      "notice": {"id": "privacy", "version": "1", "language": "en"}}],
    });
    let (status, body, _) = cluster
        .ask(n, "POST", "/v1/registrations", Some(&body), email)
        .await;
    assert_eq!(status, 201, "{body}");
    body["user_id"].as_str().unwrap().to_owned()
}

/// Nodes with a feed of who takes the newsletter, and the receiver of its webhook.
async fn with_webhook(bootstrap: &str, prefix: &str, nodes: usize) -> (Cluster, Receiver) {
    let environment = [
        ("GATELOG_WEBHOOK_NETWORKS", "127.0.0.0/8"),
        ("GATELOG_WEBHOOK_PLAIN_HTTP", "true"),
    ];
    let cluster = Cluster::start_with(bootstrap, prefix, nodes, &environment).await;
    let definition = json!({"purpose": "newsletter", "fields": ["email"], "events": ["plan.upgraded"]});
    let (status, body, _) = cluster
        .ask(0, "PUT", "/v1/feeds/marketing", Some(&definition), "define")
        .await;
    assert_eq!(status, 200, "{body}");
    let receiver = Receiver::start().await;
    let hook = json!({"url": receiver.url});
    let path = "/v1/feeds/marketing/webhooks/crm";
    let (status, body, _) = cluster.ask(1, "PUT", path, Some(&hook), "hook").await;
    assert_eq!(status, 200, "{body}");
    receiver.trust(&[body["secret"].as_str().unwrap()]);
    (cluster, receiver)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_hands_on_and_a_webhook_outlives_its_node() {
    let Some(bootstrap) = broker::shared() else { return };
    let (mut cluster, receiver) = with_webhook(&bootstrap, "feeds.", 3).await;

    let mut users = Vec::new();
    for i in 0..18 {
        users.push(register(&cluster, i % 3, &format!("user.{i}@example.com")).await);
    }
    let words = || cluster.words();
    receiver
        .until_or("everyone", |r| r.emails().len() == 18, words)
        .await;
    cluster.nodes[1].take().unwrap().kill();
    let expected: Vec<String> = {
        for (i, user) in users.iter().enumerate().take(6) {
            let path = format!("/v1/users/{user}/consents/newsletter");
            let n = if i % 2 == 0 { 0 } else { 2 };
            let (status, body, _) = cluster
                .ask(n, "PUT", &path, Some(&consent(false)), &format!("w {i}"))
                .await;
            assert_eq!(status, 200, "{body}");
        }
        for i in 18..24 {
            let n = if i % 2 == 0 { 0 } else { 2 };
            register(&cluster, n, &format!("user.{i}@example.com")).await;
        }
        let mut emails: Vec<_> = (6..24).map(|i| format!("user.{i}@example.com")).collect();
        emails.sort_unstable();
        emails
    };
    let words = || cluster.words();
    receiver
        .until_or("the others and nobody else", |r| r.emails() == expected, words)
        .await;
    assert_eq!(receiver.forged(), 0);

    // A consumer whose pages come from one node after another ends with the same.
    let mut state = BTreeMap::new();
    let (mut more, mut cursor) = page(&cluster, 0, None, &mut state).await;
    for n in [2, 0].into_iter().cycle().take(200) {
        if !more && state.len() == expected.len() {
            break;
        }
        (more, cursor) = page(&cluster, n, Some(&cursor), &mut state).await;
        if !more {
            // This node has handed on all that it knows, which may be behind what another has.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let mut emails: Vec<_> = state
        .values()
        .map(|f| f["email"].as_str().unwrap().to_owned())
        .collect();
    emails.sort_unstable();
    assert_eq!(emails, expected);
    cluster.start_node(1).await;
    cluster.verify();
}

/// Reads a topic from its beginning as any client of Kafka sees it, until what was read is what is waited for; an error is
/// what was read until then.
fn consume(
    bootstrap: &str,
    topic: &str,
    until: impl Fn(&[Message]) -> bool,
) -> Result<Vec<Message>, Vec<Message>> {
    let consumer: BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "crm")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let until_when = clock::monotonic() + PATIENCE;
    // A client of librdkafka may never read a partition that had no leader when it first saw it, as those of a topic have that
    // was made a moment ago (confluentinc/librdkafka#5430).
    while !is_led(&consumer, topic) {
        assert!(clock::monotonic() < until_when, "{topic} has no leaders");
        std::thread::sleep(Duration::from_millis(100));
    }
    consumer.subscribe(&[topic]).unwrap();
    let mut messages = Vec::new();
    while !until(&messages) {
        if clock::monotonic() >= until_when {
            return Err(messages);
        }
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else {
            continue;
        };
        let header = |name: &str| {
            let headers = message.headers()?;
            let header = headers.iter().find(|h| h.key == name)?;
            Some(String::from_utf8(header.value?.to_vec()).unwrap())
        };
        messages.push(Message {
            key: String::from_utf8(message.key().unwrap().to_vec()).unwrap(),
            kind: header("ce_type").unwrap(),
            id: header("ce_id").unwrap(),
            value: message.payload().map(|p| serde_json::from_slice(p).unwrap()),
        });
    }
    Ok(messages)
}

/// Whether the topic is there, and all its partitions have leaders.
fn is_led(consumer: &BaseConsumer, topic: &str) -> bool {
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(5));
    metadata.is_ok_and(|all| {
        let partitions = all.topics().iter().flat_map(|t| t.partitions());
        let leaders: Vec<_> = partitions.map(|p| p.leader()).collect();
        !leaders.is_empty() && leaders.iter().all(|leader| *leader >= 0)
    })
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    key: String,
    kind: String,
    id: String,
    value: Option<Value>,
}

/// The same read by Apache Kafka's own console consumer, in Java: the first so many messages.
fn console(bootstrap: &str, topic: &str, messages: usize) -> Vec<Message> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka");
    let mut command = std::process::Command::new(script);
    command.args(["tool", "console-consumer", "--bootstrap-server", bootstrap]);
    command.args(["--topic", topic, "--from-beginning", "--timeout-ms", "60000"]);
    command.args(["--max-messages", &messages.to_string()]);
    for property in ["print.headers=true", "print.key=true", "null.literal=null"] {
        command.args(["--formatter-property", property]);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = text.lines().map(|line| {
        let mut parts = line.splitn(3, '\t');
        let mut part = || {
            parts
                .next()
                .unwrap_or_else(|| panic!("headers, key and value: {line}"))
        };
        let headers: BTreeMap<_, _> = part().split(',').filter_map(|h| h.split_once(':')).collect();
        Message {
            kind: headers["ce_type"].to_owned(),
            id: headers["ce_id"].to_owned(),
            key: part().to_owned(),
            value: serde_json::from_str(part()).unwrap(),
        }
    });
    lines.collect()
}

/// In order per key: between partitions there is none.
fn by_key(messages: &[Message]) -> BTreeMap<&str, Vec<&Message>> {
    let mut keys: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for m in messages {
        keys.entry(m.key.as_str()).or_default().push(m);
    }
    keys
}

/// What compaction would leave.
fn state(messages: &[Message]) -> Vec<String> {
    let mut state = BTreeMap::new();
    for m in messages {
        match &m.value {
            None => state.remove(&m.key),
            Some(data) => state.insert(m.key.clone(), data.clone()),
        };
    }
    let fields = state
        .values()
        .filter_map(|d| Some(d["fields"]["email"].as_str()?.to_owned()));
    let mut emails: Vec<_> = fields.collect();
    emails.sort_unstable();
    emails
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_has_the_feed_and_outlives_a_node() {
    let Some(bootstrap) = broker::shared() else { return };
    let mut cluster = Cluster::start(&bootstrap, "outlet.", 3).await;
    let definition = json!({"purpose": "newsletter", "fields": ["email"], "events": ["plan.upgraded"]});
    let (status, body, _) = cluster
        .ask(0, "PUT", "/v1/feeds/crm", Some(&definition), "define")
        .await;
    assert_eq!(status, 200, "{body}");
    let mut users = Vec::new();
    for i in 0..12 {
        users.push(register(&cluster, i % 3, &format!("user.{i:02}@example.com")).await);
    }
    let (status, body, _) = cluster
        .ask(2, "PUT", "/v1/feeds/crm/topic", Some(&json!({})), "topic")
        .await;
    assert_eq!(status, 200, "{body}");
    let begun = clock::monotonic();
    loop {
        let (_, feed, _) = cluster.ask(2, "GET", "/v1/feeds/crm", None, "get").await;
        if feed["topic"] == json!({"name": "outlet.feed.crm", "version": 1}) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{feed}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (topic, on) = ("outlet.feed.crm", bootstrap.clone());
    let everyone = tokio::task::spawn_blocking(move || consume(&on, topic, |m| state(m).len() == 12));
    let everyone = everyone.await.unwrap();
    everyone.unwrap_or_else(|read| panic!("{read:#?}\n{}", cluster.words()));

    cluster.nodes[1].take().unwrap().kill();
    for (i, user) in users.iter().enumerate().take(4) {
        let n = if i % 2 == 0 { 0 } else { 2 };
        let path = format!("/v1/users/{user}/consents/newsletter");
        let (status, body, _) = cluster
            .ask(n, "PUT", &path, Some(&consent(false)), &format!("w {i}"))
            .await;
        assert_eq!(status, 200, "{body}");
    }
    let path = format!("/v1/users/{}/plan", users[4]);
    let (status, body, _) = cluster
        .ask(0, "PUT", &path, Some(&json!({"plan": "pro"})), "plan")
        .await;
    assert_eq!(status, 200, "{body}");
    register(&cluster, 2, "user.12@example.com").await;
    let expected: Vec<_> = (4..13).map(|i| format!("user.{i:02}@example.com")).collect();
    let (on, wanted) = (bootstrap.clone(), expected.clone());
    let done = move |m: &[Message]| {
        let gone: BTreeSet<_> = m.iter().filter(|m| m.value.is_none()).map(|m| &m.key).collect();
        let upgraded = m.iter().any(|m| m.kind == "com.gatelog.feed.plan.upgraded.v1");
        state(m) == wanted && gone.len() == 4 && upgraded
    };
    let messages = tokio::task::spawn_blocking(move || consume(&on, topic, done))
        .await
        .unwrap()
        .unwrap_or_else(|read| panic!("{read:#?}\n{}", cluster.words()));
    let (on, count) = (bootstrap.clone(), messages.len());
    let by_java = tokio::task::spawn_blocking(move || console(&on, topic, count))
        .await
        .unwrap();
    // Each stopped somewhere in each partition: as far as both came, they read the same.
    assert_eq!(by_java.len(), messages.len());
    let (java, rust) = (by_key(&by_java), by_key(&messages));
    for (key, read) in &java {
        let other = rust.get(key).map_or(&[][..], Vec::as_slice);
        let common = other.len().min(read.len());
        assert_eq!(read[..common], other[..common], "{key}");
    }
    assert!(java.keys().filter(|key| rust.contains_key(*key)).count() > 6);
    let withdrawn = |m: &&Message| m.kind == "com.gatelog.feed.subject.withdrawn.v1";
    let told: Vec<_> = messages.iter().filter(withdrawn).collect();
    for m in &told {
        let tombstone = told.iter().any(|t| t.key == m.key && t.value.is_none());
        assert!(tombstone, "after the reason comes a tombstone: {m:?}");
        let first = messages
            .iter()
            .position(|t| t.key == m.key && t.kind == m.kind)
            .unwrap();
        let later = messages[first..].iter().filter(|t| t.key == m.key);
        assert!(
            later
                .clone()
                .all(|t| t.value.as_ref().is_none_or(|v| v.get("fields").is_none())),
            "{m:?}"
        );
    }
    let mut ids: Vec<_> = told.iter().map(|m| &m.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4, "one id however often it is told");
    let (status, body, _) = cluster
        .ask(0, "DELETE", "/v1/feeds/crm/topic", None, "remove")
        .await;
    assert_eq!(status, 200, "{body}");
    cluster.start_node(1).await;
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stood_still_posts_nothing_of_who_withdrew_meanwhile() {
    let Some(bootstrap) = broker::shared() else { return };
    let (cluster, receiver) = with_webhook(&bootstrap, "still.", 2).await;
    cluster.until_shared_out().await;
    // Each node has much to post once the receiver takes it.
    receiver.answer("", 500);
    let mut users = Vec::new();
    for i in 0..40 {
        users.push(register(&cluster, 1, &format!("user.{i}@example.com")).await);
    }
    receiver.until("attempts", |r| r.attempts() >= 10).await;
    cluster.node(0).signal("STOP");
    receiver.answer_well();
    let words = || cluster.words();
    receiver
        .until_or("everyone", |r| r.emails().len() == users.len(), words)
        .await;
    for (i, user) in users.iter().enumerate() {
        let path = format!("/v1/users/{user}/consents/newsletter");
        let (status, body, _) = cluster
            .ask(1, "PUT", &path, Some(&consent(false)), &format!("w {i}"))
            .await;
        assert_eq!(status, 200, "{body}");
    }
    receiver.until("nobody", |r| r.emails().is_empty()).await;
    cluster.node(0).signal("CONT");
    // Whatever waited for another attempt is due.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(receiver.emails(), Vec::<String>::new(), "{}", cluster.words());
    cluster.verify();
}
