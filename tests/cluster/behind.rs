//! A node that is behind.

use std::time::Duration;

use futures::future::join_all;
use gatelog_events::clock;
use serde_json::json;

use super::stage::*;
use crate::PASSWORD;
use crate::support::process::consent;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_behind_does_not_say_that_there_is_nobody() {
    let Some(mut stage) = Stage::set("behind.", LASTS).await else {
        return;
    };
    // Each node writes its part, and both know what the other's is.
    stage.cluster.until_shared_out().await;
    stage.register_more().await;
    stage.consents(0, false, "both-write").await;
    // By addresses of which many are in another partition than their owner.
    for (n, id) in stage.people.iter().enumerate() {
        let (path, key) = (format!("/v1/users/{id}/email"), format!("move-{n}"));
        let address = json!({"email": moved(n)});
        let (status, body, _) = stage.cluster.ask(0, "PUT", &path, Some(&address), &key).await;
        assert_eq!(status, 200, "{body}");
        stage.log_in(0, &moved(n)).await;
    }
    std::fs::write(&stage.behind, "").unwrap();
    stage.try_consents(1, true, "unread").await;
    let (email, path, token) = stage.somebody_unknown_to(0).await;
    for password in [PASSWORD, NEW_PASSWORD] {
        assert_eq!(stage.guess(0, &email, password).await, 503);
    }
    assert_eq!(stage.read(0, &path, &token).await, 503);

    let mut behind = Vec::new();
    for (n, id) in stage.people.iter().enumerate() {
        if stage.consent(0, id).await != stage.consent(1, id).await {
            behind.push((moved(n), format!("/v1/users/{id}/password")));
        }
    }
    assert!(behind.len() > 1, "the other node writes for some");
    // Whom it knows may come in, and whoever gives another password is not told whether it is wrong.
    let (known, _) = &behind[1];
    assert_eq!(stage.guess_at_last(0, known, PASSWORD).await, 200);
    assert_eq!(stage.guess(0, known, "another password").await, 503);
    // Neither is it told of a former one that it was right.
    let (changed, password) = &behind[0];
    let new = json!({"password": NEW_PASSWORD});
    let (status, body, _) = stage.cluster.ask(1, "PUT", password, Some(&new), "new").await;
    assert_eq!(status, 200, "{body}");
    for password in [NEW_PASSWORD, PASSWORD, "another password"] {
        assert_eq!(stage.guess(0, changed, password).await, 503, "{password}");
    }
    // These count: of eight more at once, two or three are looked at.
    let guesses = (0..8).map(|_| stage.guess(0, changed, "another password"));
    let refused = join_all(guesses).await;
    let slowed = refused.iter().filter(|status| **status == 429).count();
    assert!(slowed > 3 && !refused.contains(&401), "{refused:?}");

    std::fs::remove_file(&stage.behind).unwrap();
    let begun = clock::monotonic();
    while stage.read(0, &path, &token).await != 200 {
        assert!(begun.elapsed() < crate::PATIENCE, "node 0 stays behind");
    }
    stage.log_in(0, &email).await;
    assert_eq!(stage.guess_at_last(0, known, "another password").await, 401);
    stage.cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_behind_tells_a_feed_nothing_of_who_has_withdrawn() {
    let Some(mut stage) = Stage::set("behind-feed.", LASTS).await else {
        return;
    };
    stage.cluster.until_shared_out().await;
    stage.register_more().await;
    let people = stage.people.len();
    stage.consents(0, true, "granted").await;
    let feed = json!({"purpose": "newsletter", "fields": ["email"], "events": []});
    let defined = stage
        .cluster
        .ask(0, "PUT", "/v1/feeds/crm", Some(&feed), "crm")
        .await;
    assert_eq!(defined.0, 200, "{}", defined.1);
    // Both nodes have read all of this, so of one node's cursor the other knows what it is about.
    for n in 0..NODES {
        let begun = clock::monotonic();
        while stage.page(n, "limit=100").await.map(|page| page.emails.len()) != Some(people) {
            assert!(begun.elapsed() < crate::PATIENCE, "{}", stage.cluster.words());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let theirs = stage.written_by_the_other().await;
    assert!(!theirs.is_empty(), "the other node writes for some");
    let first = stage.page(1, "limit=1").await.unwrap();
    std::fs::write(&stage.behind, "").unwrap();
    let mut gone = Vec::new();
    for n in theirs {
        let path = format!("/v1/users/{}/consents/newsletter", stage.people[n]);
        let withdrawal = consent(false);
        let withdrawn = stage.cluster.ask(1, "PUT", &path, Some(&withdrawal), "withdrawn");
        let (status, _, position) = withdrawn.await;
        assert_eq!(status, 200);
        // What is told next is told of what this node has read by then.
        let read = stage.page_since(1, "from=now", Some(&position)).await;
        assert!(read.is_some(), "{}", stage.cluster.words());
        gone.push(format!("p{n}@example.com"));
    }
    let told = stage
        .page(1, &format!("limit={}&after={}", gone.len(), first.next))
        .await;
    let told = told.unwrap();
    assert_eq!((told.withdrawn, told.emails.len()), (gone.len(), 0));

    let is_gone = |email: &String| gone.contains(email);
    let rest = stage
        .page(0, &format!("limit=100&after={}", told.next))
        .await
        .unwrap();
    assert!(!rest.emails.iter().any(is_gone), "{:?}", rest.emails);
    std::fs::remove_file(&stage.behind).unwrap();
    let (mut next, mut stay) = (rest.next, rest.emails.len() + first.emails.len());
    let begun = clock::monotonic();
    let expected = people - gone.len() + first.emails.iter().filter(|e| is_gone(e)).count();
    while stay < expected {
        assert!(begun.elapsed() < crate::PATIENCE, "{stay} of {expected}");
        let page = stage.page(0, &format!("limit=100&after={next}")).await.unwrap();
        assert!(!page.emails.iter().any(is_gone), "{:?}", page.emails);
        stay += page.emails.len();
        next = page.next;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stage.cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_behind_does_not_say_that_there_is_nothing_to_withdraw() {
    let Some(stage) = Stage::set("behind-links.", LASTS).await else {
        return;
    };
    stage.cluster.until_shared_out().await;
    stage.consents(0, true, "granted").await;
    let fields = ["email", "unsubscribe_url", "preferences_url"];
    let feed = json!({"purpose": "newsletter", "fields": fields, "events": []});
    let defined = stage.cluster.ask(1, "PUT", "/v1/feeds/crm", Some(&feed), "crm");
    assert_eq!(defined.await.0, 200);
    let theirs = stage.written_by_the_other().await;
    let them = *theirs.first().expect("the other node writes for some");
    let (unsubscribe, preferences) = links(&stage, &format!("p{them}@example.com")).await;
    let id = stage.people[them].clone();
    let choose = async |granted: bool, key: &str| {
        let path = format!("/v1/users/{id}/consents/newsletter");
        let (status, body, _) = stage
            .cluster
            .ask(1, "PUT", &path, Some(&consent(granted)), key)
            .await;
        assert_eq!(status, 200, "{body}");
    };
    choose(false, "withdrawn").await;
    let begun = clock::monotonic();
    while stage.consent(0, &id).await != stage.consent(1, &id).await {
        assert!(begun.elapsed() < crate::PATIENCE, "node 0 does not know");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    std::fs::write(&stage.behind, "").unwrap();
    choose(true, "again").await;
    let presses = [
        (&unsubscribe, "List-Unsubscribe=One-Click"),
        (&preferences, "choice=withdraw&purpose=newsletter"),
        (&preferences, "choice=withdraw_all"),
    ];
    for (link, form) in presses {
        assert_eq!(press(&stage, link, form).await, 503, "{form}");
    }
    std::fs::remove_file(&stage.behind).unwrap();
    for (n, (link, form)) in presses.into_iter().enumerate() {
        choose(true, &format!("again-{n}")).await;
        let begun = clock::monotonic();
        while press(&stage, link, form).await != 200 {
            assert!(begun.elapsed() < crate::PATIENCE, "node 0 stays behind");
        }
        assert_eq!(
            stage.consent(1, &id).await["newsletter"]["granted"],
            false,
            "{form}"
        );
    }
    stage.cluster.verify();
}

/// The links that a feed gives for an address.
async fn links(stage: &Stage, email: &str) -> (String, String) {
    let (status, page, _) = stage.cluster.ask(1, "GET", EVENTS, None, "links").await;
    assert_eq!(status, 200, "{page}");
    let mut told = page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["data"]["fields"]);
    let fields = told.find(|f| f["email"] == email).unwrap();
    let path = |name: &str| {
        let url = fields[name].as_str().unwrap();
        url[url.find("/v1/").unwrap()..].to_owned()
    };
    (path("unsubscribe_url"), path("preferences_url"))
}

/// What node 0 answers to the form behind a link. Refused for now is told when to come again.
async fn press(stage: &Stage, link: &str, form: &'static str) -> u16 {
    let node = stage.cluster.node(0);
    let call = node.client.post(format!("{}{link}", node.url));
    let call = call.header("content-type", "application/x-www-form-urlencoded");
    let answer = call.body(form).send().await.unwrap();
    let status = answer.status().as_u16();
    assert_eq!(status == 503, answer.headers().contains_key("retry-after"));
    status
}
