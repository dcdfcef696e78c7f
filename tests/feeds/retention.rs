//! Everyone's state in place of what is too old to be told, while more grows too old all the time.

use std::time::Duration;

use serde_json::json;

use super::consumer::*;
use crate::support::server::Server;

const PEOPLE: usize = 14;

/// Of whom the feed may tell: one never consented, and one has withdrawn.
fn expected() -> Vec<String> {
    let seen = (0..PEOPLE).filter(|i| ![3, 5].contains(i));
    seen.map(|i| format!("p{i:02}@example.com")).collect()
}

/// A consumer that was away for longer than is told, and reads what there is page by page, with a pause after each, until
/// it is content. Something happens all the time.
async fn come_back(retention: u64, pause: Duration, content: impl Fn(&Consumer) -> bool) -> Consumer {
    let server = Server::start_with(|config| config.partitions = 1).await;
    let definition = json!({
        "purpose": "newsletter", "fields": ["email"], "events": ["user.profile_changed"],
        "retention_seconds": retention,
    });
    define(&server, "marketing", &definition).await;
    let (mut people, mut seen) = (Vec::new(), String::new());
    for i in 0..PEOPLE {
        let (id, at) = register(&server, &format!("p{i:02}"), i != 3).await;
        people.push(id);
        seen = at;
    }
    let mut consumer = Consumer::of(&server, "marketing").await;
    consumer.catch_up(&server, "", &seen).await;
    let gone = consent(&server, &people[5], "newsletter", false).await;
    consumer.records.clear();
    consumer.subjects.clear();
    let writing = async {
        for n in 0u64.. {
            rename(&server, &people[0], &format!("name{n}")).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let reading = async {
        tokio::time::sleep(Duration::from_secs(retention + 1)).await;
        for _ in 0..200 {
            consumer.page(&server, "limit=1", &gone).await;
            if content(&consumer) {
                return;
            }
            tokio::time::sleep(pause).await;
        }
        panic!("of these alone is told: {:?}", consumer.emails());
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
    server.stop().await;
    consumer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_ends_though_more_grows_too_old_meanwhile() {
    // What happens is told once the snapshot is at its end.
    let content = |c: &Consumer| c.kinds().contains(&"user.profile_changed");
    let consumer = come_back(5, Duration::from_millis(100), content).await;
    assert_eq!(consumer.emails(), expected());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_takes_longer_than_the_retention_tells_everyone() {
    let content = |c: &Consumer| c.emails() == expected();
    come_back(2, Duration::from_millis(400), content).await;
}
