//! Feeds of many nodes: any node hands a page on, and the webhook of a node that dies goes on at another.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::broker;
use crate::support::cluster::{Cluster, PASSWORD};
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

#[tokio::test(flavor = "multi_thread")]
async fn any_node_hands_on_and_a_webhook_outlives_its_node() {
    let Some(bootstrap) = broker::shared() else { return };
    let environment = [
        ("GATELOG_WEBHOOK_NETWORKS", "127.0.0.0/8"),
        ("GATELOG_WEBHOOK_PLAIN_HTTP", "true"),
    ];
    let mut cluster = Cluster::start_with(&bootstrap, "feeds.", 3, &environment).await;
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

    let mut users = Vec::new();
    for i in 0..18 {
        users.push(register(&cluster, i % 3, &format!("user.{i}@example.com")).await);
    }
    receiver.until("everyone", |r| r.emails().len() == 18).await;
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
    receiver
        .until("the others and nobody else", |r| r.emails() == expected)
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
