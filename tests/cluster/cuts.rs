//! Cuts of the network, and brokers that stand still. The long versions are in `make demo-kafka`.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::json;

use super::stage::*;
use super::wire::State;
use crate::PASSWORD;
use crate::support::process::BOOTSTRAP;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_from_kafka_is_replaced_and_comes_back() {
    let Some(stage) = Stage::set("cut-off.", EXPIRES).await else {
        return;
    };
    let token = stage.log_in(0, "p0@example.com").await;
    let feed = json!({"fields": ["plan"], "events": []});
    let defined = stage.cluster.ask(0, "PUT", "/v1/feeds/crm", Some(&feed), "crm");
    assert_eq!(defined.await.0, 200);
    for (round, state) in [State::Silent, State::Torn].into_iter().enumerate() {
        let over = AtomicBool::new(false);
        let follower = stage.follow(0).await;
        stage.to_kafka[0].set(state);
        let others = async {
            // It may still take what it hands on, but whatever it owned is soon the other's.
            stage.try_consents(0, true, &format!("cut-off-{round}")).await;
            stage.consents(1, true, &format!("taken-over-{round}")).await;
            over.store(true, Relaxed);
            stage.somebody_new(round).await
        };
        let (email, path, their_token) = tokio::join!(others, stage.read_all_the_time(0, &token, &over)).0;
        // It does not know them, and does not say that there is nobody either.
        let login = json!({"identifier": email, "password": PASSWORD});
        let key = format!("login-{round}");
        assert_eq!(
            stage.try_once(0, "POST", "/v1/logins", login.clone(), &key).await,
            503
        );
        assert_eq!(stage.read(0, &path, &their_token).await, 503);
        // Nor does it tell of anybody: they may have withdrawn by the other node.
        ends(follower).await;
        assert_eq!(stage.read(0, EVENTS, BOOTSTRAP).await, 503);
        assert_eq!(stage.cluster.ask(1, "GET", EVENTS, None, "events").await.0, 200);
        stage.to_kafka[0].set(State::Whole);
        stage.consents(0, false, &format!("back-{round}")).await;
        let (status, body, _) = stage
            .cluster
            .ask(0, "POST", "/v1/logins", Some(&login), &key)
            .await;
        assert_eq!(status, 200, "{body}");
        assert_eq!(stage.read(0, &path, &their_token).await, 200);
        assert_eq!(stage.cluster.ask(0, "GET", EVENTS, None, "events").await.0, 200);
        stage.consents(1, true, &format!("both-{round}")).await;
    }
    stage.cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_cut_off_from_each_other_refuse_and_recover() {
    let Some(stage) = Stage::set("cut-apart.", LASTS).await else {
        return;
    };
    for (round, state) in [State::Silent, State::Torn].into_iter().enumerate() {
        stage.to_node[0].set(state);
        let (there, back) = (format!("there-{round}"), format!("back-{round}"));
        // Node 0 can reach whom it does not own.
        let (by_other, ()) = tokio::join!(
            stage.try_consents(1, true, &there),
            stage.consents(0, false, &back),
        );
        assert!(
            by_other < PEOPLE,
            "some of it is written by node 0, which cannot be reached"
        );
        stage.to_node[0].set(State::Whole);
        stage.consents(1, true, &there).await;
    }
    stage.cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_brokers_stand_still_writes_are_refused_in_time_and_reads_go_on() {
    let Some(stage) = Stage::set("still.", LASTS).await else {
        return;
    };
    let token = stage.log_in(0, "p0@example.com").await;
    let over = AtomicBool::new(false);
    stage.broker.signal("STOP");
    let writes = async {
        let login = json!({"identifier": "p1@example.com", "password": PASSWORD});
        let somebody = json!({"email": "new@example.com", "password": PASSWORD});
        let asked = tokio::join!(
            stage.try_consents(0, true, "consent"),
            stage.try_consents(1, true, "consent"),
            stage.try_once(0, "POST", "/v1/logins", login, "a-login"),
            stage.try_once(1, "POST", "/v1/registrations", somebody, "new"),
        );
        assert_eq!(asked, (0, 0, 503, 503));
        assert_eq!(
            stage.try_consents(0, false, "later").await,
            0,
            "it is refused again"
        );
        over.store(true, Relaxed);
    };
    tokio::join!(
        writes,
        stage.read_all_the_time(0, &token, &over),
        stage.read_all_the_time(1, &token, &over)
    );
    stage.broker.signal("CONT");
    // One key each, so whatever became of the first tries, it is done once.
    stage.consents(0, true, "consent").await;
    stage.consents(1, true, "consent").await;
    let somebody = json!({"email": "new@example.com", "password": PASSWORD});
    let (status, body, _) = stage
        .cluster
        .ask(1, "POST", "/v1/registrations", Some(&somebody), "new")
        .await;
    assert_eq!(status, 201, "{body}");
    stage.cluster.verify();
}
