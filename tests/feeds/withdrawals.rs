//! The auditor's report: who withdrew, when the consumer was told, when it acknowledged.

use gatelog_events::ids::{Partition, Stream};
use gatelog_projections::handovers;
use serde_json::{Value, json};

use super::consumer::*;
use super::stream::Listener;
use crate::support::server::Server;

async fn report(server: &Server, limit: usize) -> Vec<Value> {
    let mut lines = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/v1/feeds/marketing/withdrawals?limit={limit}{after}");
        let page = server.get(&path).admin().send().await.expect(200);
        let found = page.body["withdrawals"].as_array().unwrap();
        assert!(found.len() <= limit);
        lines.extend(found.iter().cloned());
        match page.body["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return lines,
        }
    }
}

/// Reads the report until it says what is expected of each line; records are folded a moment after they are written.
async fn expect(server: &Server, told: usize, acknowledged: usize) -> Vec<Value> {
    for _ in 0..3000 {
        let lines = report(server, 2).await;
        let count = |field: &str| lines.iter().filter(|l| l[field].is_string()).count();
        if (count("delivered_at"), count("acknowledged_at")) == (told, acknowledged) {
            return lines;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{:#?}", report(server, 2).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_withdrawn_told_and_acknowledged_is_on_record() {
    let server = Server::start().await;
    define_marketing(&server).await;
    let (mut people, mut seen) = (Vec::new(), Vec::new());
    for i in 0..5 {
        let (id, at) = register(&server, &format!("p{i}"), true).await;
        people.push(id);
        seen.push(at);
    }
    let mut consumer = Consumer::of(&server, "marketing").await;
    consumer.sees(&server, &seen).await;
    consumer.catch_up(&server, "", &seen[0]).await;
    let mut positions = Vec::new();
    for id in &people[..3] {
        positions.push(consent(&server, id, "newsletter", false).await);
    }
    positions.push(erase(&server, &people[3]).await);
    let other = consent(&server, &people[4], "product_updates", false).await;
    // Nothing told and nothing acknowledged is also what a report says that is behind.
    consumer.sees(&server, &positions).await;
    consumer.sees(&server, &[other]).await;
    let lines = expect(&server, 0, 0).await;
    let mut found: Vec<_> = lines
        .iter()
        .map(|l| l["position"].as_str().unwrap().to_owned())
        .collect();
    found.sort_unstable();
    positions.sort_unstable();
    assert_eq!(found, positions, "another purpose is none of this feed's");

    let cursor = consumer.cursor.clone();
    consumer.catch_up(&server, "", &positions[0]).await;
    let lines = expect(&server, 4, 0).await;
    let subjects: Vec<_> = consumer
        .records
        .iter()
        .filter(|r| r["data"]["reason"].is_string())
        .collect();
    for line in &lines {
        assert!(subjects.iter().any(|r| r["subject"] == line["subject"]), "{line}");
        assert!(people.iter().any(|id| line["user_id"] == **id));
        assert_eq!(line["purpose"].is_null(), line["reason"] == "erased");
    }
    // Being told again is no other telling, and only going on acknowledges.
    let first = lines[0]["delivered_at"].clone();
    let again = consumer
        .ask(&server, &format!("after={}", cursor.unwrap()), &positions[0])
        .await
        .expect(200);
    assert!(!again.body["events"].as_array().unwrap().is_empty());
    assert_eq!(expect(&server, 4, 0).await[0]["delivered_at"], first);
    let body = json!({"cursor": consumer.cursor});
    let call = server
        .post("/v1/feeds/marketing/acknowledgements")
        .auth(&consumer.key)
        .json(&body);
    assert_eq!(call.send().await.expect(200).body["withdrawals"], 4);
    let lines = expect(&server, 4, 4).await;
    assert!(
        lines
            .iter()
            .all(|l| l["acknowledged_at"].as_str() >= l["delivered_at"].as_str())
    );
    server
        .get("/v1/feeds/none/withdrawals")
        .admin()
        .send()
        .await
        .problem(404, "feed-not-found");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_page_acknowledges_the_one_before() {
    let server = Server::start().await;
    define_marketing(&server).await;
    let (ada, at) = register(&server, "ada", true).await;
    let mut consumer = Consumer::of(&server, "marketing").await;
    consumer.catch_up(&server, "", &at).await;
    let at = consent(&server, &ada, "newsletter", false).await;
    consumer.catch_up(&server, "", &at).await;
    expect(&server, 1, 0).await;
    consumer.catch_up(&server, "", &at).await;
    expect(&server, 1, 1).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_tells_where_it_stands() {
    let server = Server::start().await;
    define_marketing(&server).await;
    let (ada, at) = register(&server, "ada", true).await;
    let mut consumer = Consumer::of(&server, "marketing").await;
    consumer.catch_up(&server, "", &at).await;
    let at = consent(&server, &ada, "newsletter", false).await;
    consumer.catch_up(&server, "", &at).await;
    expect(&server, 1, 0).await;
    let acknowledge = async || {
        let call = server.post("/v1/feeds/marketing/acknowledgements");
        let body = json!({"cursor": consumer.cursor});
        call.auth(&consumer.key).json(&body).send().await.expect(200)
    };
    let done = acknowledge().await;
    let position = done.headers["gatelog-position"].to_str().unwrap();
    let call = server.get("/v1/feeds/marketing/withdrawals").admin();
    let read = call
        .with("gatelog-min-position", position)
        .send()
        .await
        .expect(200);
    assert!(
        read.body["withdrawals"][0]["acknowledged_at"].is_string(),
        "{}",
        read.body
    );
    let again = acknowledge().await;
    assert_eq!(again.body["withdrawals"], 0);
    assert!(
        !again.headers.contains_key("gatelog-position"),
        "nothing was written"
    );
    server.stop().await;
}

/// Waits until the report has all that is in the log by now.
async fn settled(server: &Server) {
    let node = &server.started.node;
    for partition in (0..node.log.partitions()).map(Partition) {
        let end = node.log.end(Stream::Activity, partition).await.unwrap();
        let folded = || node.views.next(handovers::NAME, Stream::Activity, partition);
        while folded().unwrap_or(0) < end {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

/// A feed whose consumer was told that two have withdrawn, and has not gone on from there; and its cursor before it was.
/// Of the others the last one is given.
async fn told_and_not_acknowledged(server: &Server) -> (Consumer, Consumer, String) {
    define_marketing(server).await;
    let (mut people, mut seen) = (Vec::new(), Vec::new());
    for i in 0..6 {
        let (id, at) = register(server, &format!("p{i}"), true).await;
        people.push(id);
        seen.push(at);
    }
    let mut consumer = Consumer::of(server, "marketing").await;
    consumer.sees(server, &seen).await;
    consumer.catch_up(server, "", &seen[0]).await;
    let before = Consumer {
        key: consumer.key.clone(),
        feed: consumer.feed.clone(),
        cursor: consumer.cursor.clone(),
        ..Consumer::default()
    };
    let mut seen = Vec::new();
    for id in &people[..2] {
        seen.push(consent(server, id, "newsletter", false).await);
    }
    consumer.sees(server, &seen).await;
    consumer.page(server, "", &seen[0]).await;
    expect(server, 2, 0).await;
    (consumer, before, people.remove(5))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_begins_anew_acknowledges_nothing_that_was_told_before() {
    let server = Server::start().await;
    let (mut consumer, mut before, _) = told_and_not_acknowledged(&server).await;
    let definition = json!({"purpose": "newsletter", "fields": ["email"], "events": []});
    let at = define(&server, "marketing", &definition).await;
    let anew = [
        "",
        "from=snapshot",
        "from=beginning",
        "from=now",
        "version=1",
        "version=2",
    ];
    for query in anew {
        // The same consumer, which has lost its cursor, and another one.
        let mut same = Consumer {
            key: consumer.key.clone(),
            feed: consumer.feed.clone(),
            ..Consumer::default()
        };
        same.page(&server, query, &at).await;
        let mut other = Consumer::of(&server, "marketing").await;
        other.page(&server, query, &at).await;
        settled(&server).await;
        assert_eq!(expect(&server, 2, 0).await.len(), 2, "{query}");
    }
    let mut other = Consumer::of(&server, "marketing").await;
    let mut listener = Listener::open(&server, &other).await;
    listener.until(&mut other, |c| c.subjects.len() == 4).await;
    drop(listener);
    // To another version, from where nothing of it was told yet.
    before.page(&server, "version=2", &at).await;
    let told = before
        .kinds()
        .iter()
        .filter(|k| **k == "subject.withdrawn")
        .count();
    assert_eq!(told, 2, "{:?}", before.kinds());
    settled(&server).await;
    expect(&server, 2, 0).await;
    // Who was told and goes on acknowledges.
    consumer.page(&server, "version=2", &at).await;
    settled(&server).await;
    expect(&server, 2, 2).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_began_anew_acknowledges_by_going_on_what_came_since_and_nothing_before() {
    let server = Server::start().await;
    let (mut consumer, _, joe) = told_and_not_acknowledged(&server).await;
    let mut other = Consumer::of(&server, "marketing").await;
    let at = rename(&server, &joe, "joe").await;
    // Page after page of everyone's state.
    let mut pages = 1;
    while other.page(&server, "limit=1", &at).await {
        pages += 1;
    }
    assert!(pages > 2, "{pages}");
    settled(&server).await;
    expect(&server, 2, 0).await;
    let at = consent(&server, &joe, "newsletter", false).await;
    other.catch_up(&server, "", &at).await;
    expect(&server, 3, 0).await;
    other.page(&server, "", &at).await;
    settled(&server).await;
    expect(&server, 3, 1).await;
    // Who was told of the others goes on.
    consumer.page(&server, "", &at).await;
    settled(&server).await;
    expect(&server, 3, 3).await;
    server.stop().await;
}
