//! How far consumers are behind, what was delivered and what waits: as JSON and as metrics.

use std::time::Duration;

use serde_json::{Value, json};

use super::consumer::*;
use super::webhooks::{post, set, start};
use crate::support::receiver::Receiver;
use crate::support::server::Server;

const STATUS: &str = "/v1/feeds/marketing/status";

async fn status(server: &Server) -> Value {
    server.get(STATUS).admin().send().await.expect(200).body
}

/// Waits until something is so of the only consumer.
async fn until(server: &Server, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..3000 {
        let status = status(server).await;
        if so(&status["consumers"][0]) {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what}: {:#}", status(server).await);
}

/// The value of a series whose line begins so.
async fn metric(server: &Server, series: &str) -> f64 {
    let metrics = server.get("/metrics").send().await.expect(200);
    let text = metrics.body.as_str().unwrap();
    let line = text.lines().find(|l| l.starts_with(series));
    let line = line.unwrap_or_else(|| panic!("no {series} in {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_deliveries_and_what_waits_are_shown_and_nobody_is_named() {
    let (server, pushing) = start(Duration::from_secs(60)).await;
    define_marketing(&server).await;
    let nobody = status(&server).await;
    assert_eq!(
        (&nobody["consumers"], &nobody["purpose"], &nobody["may_redrive"]),
        (&json!([]), &json!("newsletter"), &json!(true))
    );
    let receiver = Receiver::start().await;
    set(&server, &receiver).await;
    let (ada, _) = register(&server, "ada", true).await;
    let (bob, _) = register(&server, "bob", true).await;
    // Nothing of hers is for this feed.
    register(&server, "eve", false).await;
    let caught_up = until(&server, "caught up", |c| {
        c["lag"]["records"] == 0 && c["this_node"]["totals"]["taken"] == 2 && c["lag"]["snapshots_open"] == 0
    })
    .await;
    let crm = &caught_up["consumers"][0];
    assert_eq!(
        (&crm["kind"], &crm["name"], &crm["state"], &crm["version"]),
        (&json!("webhook"), &json!("crm"), &json!("live"), &json!(1))
    );
    assert_eq!(
        (
            &crm["lag"]["exact"],
            &crm["lag"]["seconds"],
            &crm["lag"]["partitions_begun"]
        ),
        (&json!(true), &json!(0.0), &json!(8))
    );
    assert!(crm["this_node"]["taken_per_second"].as_f64().unwrap() > 0.0);
    let deliveries = crm["this_node"]["deliveries"].as_array().unwrap();
    let taken = receiver.taken();
    assert_eq!(deliveries.len(), 2);
    for delivery in deliveries {
        assert_eq!(
            (&delivery["outcome"], &delivery["status"]),
            (&json!("taken"), &json!(204))
        );
        assert!(
            taken
                .iter()
                .any(|t| t.event["id"] == delivery["record"] && t.event["subject"] == delivery["subject"])
        );
    }
    let text = caught_up.to_string();
    // Not by itself: ids have these digits, too.
    for secret in [
        r#""ada""#,
        "ada@",
        &ada,
        &bob,
        "example.com",
        "127.0.0.1",
        "hooks",
    ] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }

    // While the receiver is away, what happens waits; a withdrawal is named as such.
    receiver.answer("", 503);
    let position = rename(&server, &ada, "augusta").await;
    consent(&server, &bob, "newsletter", false).await;
    let behind = until(&server, "behind", |c| {
        c["lag"]["records"] == 2 && c["this_node"]["totals"]["failed"].as_u64() >= Some(1)
    })
    .await;
    let lag = &behind["consumers"][0]["lag"];
    assert_eq!((&lag["withdrawals"], &lag["exact"]), (&json!(1), &json!(true)));
    assert!(
        lag["seconds"].as_f64().unwrap() > 0.0 && lag["oldest"].is_string(),
        "{lag}"
    );
    assert!(metric(&server, "gatelog_feed_lag{feed=\"marketing\",consumer=\"crm\"}").await >= 1.0);
    let seconds = metric(
        &server,
        "gatelog_feed_lag_seconds{feed=\"marketing\",consumer=\"crm\"}",
    )
    .await;
    assert!(seconds > 0.0 && seconds < 60.0, "{seconds}");

    // Paused, it still counts from what the log says, which the lanes say as they end.
    post(&server, "pause", &json!({})).await.expect(200);
    until(&server, "paused", |c| {
        c["state"] == "paused" && c["this_node"]["partitions"] == 0 && c["lag"]["records"] == 2
    })
    .await;
    receiver.answer_well();
    set(&server, &receiver).await;
    // The metric is that of all nodes in this process; what this one took, only it says.
    until(&server, "caught up again", |c| {
        c["lag"]["records"] == 0 && c["this_node"]["totals"]["taken"].as_u64() >= Some(4)
    })
    .await;
    let records = "gatelog_feed_records_total{feed=\"marketing\",consumer=\"crm\",outcome=\"taken\"}";
    assert!(metric(&server, records).await >= 4.0);

    server
        .delete("/v1/feeds/marketing")
        .admin()
        .send()
        .await
        .expect(200);
    until(&server, "retired", |c| c["state"] == "retired").await;
    let early = server
        .get(STATUS)
        .admin()
        .with("gatelog-min-position", &position)
        .send()
        .await;
    early.expect(200);
    pushing.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_follow_the_feed_may_see_its_state_and_nobody_else() {
    let server = Server::start().await;
    define_marketing(&server).await;
    define(&server, "sales", &json!({"events": ["plan.upgraded"]})).await;
    server.get(STATUS).send().await.problem(401, "missing-token");
    let own = Consumer::of(&server, "marketing").await;
    let answer = server.get(STATUS).auth(&own.key).send().await.expect(200);
    assert_eq!(answer.body["may_redrive"], false);
    let others = server.get("/v1/feeds/sales/status").auth(&own.key).send().await;
    others.problem(403, "missing-scope");
    server
        .get("/v1/feeds/unknown/status")
        .admin()
        .send()
        .await
        .problem(404, "feed-not-found");
    server.stop().await;
}

/// More waits than is looked at: the number is an upper bound, and the answer comes at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_backlog_is_bounded_and_said_to_be() {
    let server = Server::start_with(|config| config.partitions = 1).await;
    define(&server, "marketing", &json!({"events": ["user.profile_changed"]})).await;
    let set = server
        .put("/v1/feeds/marketing/webhooks/crm")
        .admin()
        .json(&json!({"url": "https://example.com/hooks"}));
    set.send().await.expect(200);
    let (ada, _) = register(&server, "ada", true).await;
    let mut position = String::new();
    for n in 0..600 {
        position = rename(&server, &ada, &format!("name{n}")).await;
    }
    // No lane runs here, so it has not begun, and everything is before it.
    let answer = server
        .get(STATUS)
        .admin()
        .with("gatelog-min-position", &position)
        .send()
        .await
        .expect(200);
    let lag = &answer.body["consumers"][0]["lag"];
    assert_eq!(
        (&lag["partitions_begun"], &lag["exact"]),
        (&json!(0), &json!(false)),
        "{lag}"
    );
    let records = lag["records"].as_u64().unwrap();
    assert!((600..700).contains(&records), "{lag}");
    server.stop().await;
}
