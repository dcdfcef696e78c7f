//! Connectors: the calls that a vendor's API gets, and what its answers lead to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use gatelog::feeds::push::Pushes;
use gatelog::feeds::webhook::WebhookConfig;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::consumer::*;
use crate::support::server::Server;

const HOOK: &str = "/v1/feeds/marketing/webhooks/crm";

/// A call that a vendor got.
#[derive(Debug, Clone)]
pub struct Call {
    method: Method,
    path: String,
    authorization: String,
    body: Value,
}

type Respond = dyn Fn(&Call) -> (u16, Value) + Send + Sync;

/// A vendor on this machine: it keeps what it got, and answers as it is told.
#[derive(Clone)]
pub struct Vendor {
    pub url: String,
    calls: Arc<Mutex<Vec<Call>>>,
    respond: Arc<Respond>,
}

impl Vendor {
    pub async fn start(respond: impl Fn(&Call) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let vendor = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            calls: Arc::default(),
            respond: Arc::new(respond),
        };
        let router = Router::new().fallback(take).with_state(vendor.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        vendor
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().clone()
    }

    /// The elements of the lists that were sent to a path, in order.
    fn sent(&self, path: &str, list: &str) -> Vec<Value> {
        let calls = self.calls();
        let to = calls.iter().filter(|call| call.path == path);
        to.flat_map(|call| call.body[list].as_array().unwrap().clone())
            .collect()
    }

    async fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        for _ in 0..3000 {
            if so(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{what}: {:#?}", self.calls());
    }
}

async fn take(
    State(vendor): State<Vendor>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, [(&'static str, &'static str); 1], String) {
    let header = headers
        .get("authorization")
        .map(|h| h.to_str().unwrap().to_owned());
    let call = Call {
        method,
        path: uri.to_string(),
        authorization: header.unwrap_or_default(),
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    };
    let (status, answer) = (vendor.respond)(&call);
    vendor.calls.lock().push(call);
    let json = [("content-type", "application/json")];
    (StatusCode::from_u16(status).unwrap(), json, answer.to_string())
}

/// A node that may call vendors on this machine, with a feed.
pub async fn start() -> (Server, tokio::task::JoinHandle<()>) {
    let server = Server::start_with(|config| {
        let here = vec!["127.0.0.0/8".parse().unwrap()];
        config.webhooks = WebhookConfig::new(true, here, Duration::from_secs(600));
        config.webhooks.breaker.pause = Duration::from_millis(300);
    })
    .await;
    define_marketing(&server).await;
    let pushes = Pushes::new(server.started.node.clone(), None);
    (server, tokio::spawn(pushes.run()))
}

pub async fn set(server: &Server, body: &Value) {
    let answer = server.put(HOOK).admin().json(body).send().await.expect(200);
    assert_eq!(answer.body["secret"], Value::Null);
}

pub fn segment(url: &str) -> Value {
    json!({
        "connector": {"vendor": "segment", "base_url": url, "regulations_url": url, "mapping": {"email": "email"}},
        "credential": {"write_key": {"write_key": "the-write-key", "public_api": "the-token"}},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn segment_is_told_of_people_of_what_they_do_and_that_they_are_to_be_forgotten() {
    let (server, pushing) = start().await;
    let mut people = Vec::new();
    for i in 0..30 {
        people.push(register(&server, &format!("p{i:02}"), i != 29).await.0);
    }
    let vendor = Vendor::start(|_| (200, json!({"success": true}))).await;
    set(&server, &segment(&vendor.url)).await;
    let known = |v: &Vendor| {
        let messages = v.sent("/v1/batch", "batch");
        let of = |kind: &str| {
            messages
                .iter()
                .filter(|m| m["type"] == kind)
                .cloned()
                .collect::<Vec<_>>()
        };
        (of("identify"), of("track"))
    };
    vendor.until("everyone", |v| known(v).0.len() == 29).await;
    let (identified, _) = known(&vendor);
    let ada = identified
        .iter()
        .find(|m| m["traits"]["email"] == "p00@example.com")
        .unwrap()
        .clone();
    assert!(ada["messageId"].is_string() && ada["userId"].is_string());
    let calls = vendor.calls();
    assert!(calls.len() < 29, "many at once: {}", calls.len());
    assert!(
        calls
            .iter()
            .all(|c| c.authorization == "Basic dGhlLXdyaXRlLWtleTo=" && c.method == Method::POST)
    );

    upgrade(&server, &people[0], "pro").await;
    vendor
        .until("the event", |v| {
            known(v).1.iter().any(|m| m["event"] == "Plan Upgraded")
        })
        .await;
    consent(&server, &people[0], "newsletter", false).await;
    vendor
        .until("the withdrawal", |v| {
            known(v).1.iter().any(|m| m["event"] == "Consent Withdrawn")
        })
        .await;
    let (identified, tracked) = known(&vendor);
    let last = identified.last().unwrap();
    assert_eq!(
        (&last["userId"], &last["traits"]),
        (&ada["userId"], &json!({"email": null}))
    );
    assert!(!tracked.iter().any(|m| m.to_string().contains("example.com")));
    erase(&server, &people[1]).await;
    let regulations = |v: &Vendor| v.sent("/regulations", "subjectIds").len();
    vendor.until("the erasure", |v| regulations(v) == 1).await;
    let calls = vendor.calls();
    let call = calls.iter().find(|c| c.path == "/regulations").unwrap();
    assert_eq!(call.body["regulationType"], "SUPPRESS_WITH_DELETE");
    assert_eq!(call.authorization, "Bearer the-token");

    // The credential is nowhere to be seen, and stays when it is left out.
    let list = server
        .get("/v1/feeds/marketing/webhooks")
        .admin()
        .send()
        .await
        .expect(200);
    assert!(!list.body.to_string().contains("the-"), "{}", list.body);
    assert_eq!(list.body["webhooks"]["crm"]["connector"]["vendor"], "segment");
    let mut again = segment(&vendor.url);
    again.as_object_mut().unwrap().remove("credential");
    set(&server, &again).await;
    consent(&server, &people[2], "newsletter", false).await;
    let withdrawn = |v: &Vendor| {
        known(v)
            .1
            .iter()
            .filter(|m| m["event"] == "Consent Withdrawn")
            .count()
    };
    vendor.until("another withdrawal", |v| withdrawn(v) == 3).await;
    pushing.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_vendor_refuses_is_a_dead_letter_and_a_pause_is_kept() {
    let (server, pushing) = start().await;
    for i in 0..6 {
        register(&server, &format!("p{i}"), true).await;
    }
    // How often it was called, and what it took.
    let seen = Arc::new(Mutex::new((0, String::new())));
    let kept = seen.clone();
    let vendor = Vendor::start(move |call| {
        let mut seen = kept.lock();
        let (tries, taken) = &mut *seen;
        *tries += 1;
        match *tries {
            1 => (429, json!({})),
            2 => (503, json!({})),
            // Segment refuses a whole batch for the sake of one.
            _ if call.body.to_string().contains("p3@example.com") => (400, json!({"code": "bad_request"})),
            _ => {
                *taken += &call.body.to_string();
                (200, json!({"success": true}))
            }
        }
    })
    .await;
    set(&server, &segment(&vendor.url)).await;
    let dead = async || {
        let page = server
            .get(&format!("{HOOK}/dead-letters"))
            .admin()
            .send()
            .await
            .expect(200);
        page.body["dead_letters"].as_array().unwrap().clone()
    };
    let mut letters = Vec::new();
    for _ in 0..3000 {
        letters = dead().await;
        if !letters.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(letters.len(), 1, "{:#?}", vendor.calls());
    let reason = letters[0]["reason"].as_str().unwrap();
    assert!(reason.contains("Segment") && !reason.contains('@'), "{reason}");
    let others = [0, 1, 2, 4, 5].map(|i| format!("p{i}@example.com"));
    let all_taken = |_: &Vendor| others.iter().all(|email| seen.lock().1.contains(email));
    vendor.until("the others", all_taken).await;
    pushing.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_expired_is_fetched_anew() {
    let (server, pushing) = start().await;
    let (ada, _) = register(&server, "ada", true).await;
    let tokens = Arc::new(Mutex::new(0));
    let valid = tokens.clone();
    let vendor = Vendor::start(move |call| {
        let mut valid = valid.lock();
        if call.path == "/services/oauth2/token" {
            *valid += 1;
            return (200, json!({"access_token": format!("token-{valid}")}));
        }
        // Each token is good for so many calls.
        if call.authorization != format!("Bearer token-{valid}") {
            return (401, json!([{"errorCode": "INVALID_SESSION_ID"}]));
        }
        let records = call.body["records"].as_array().map_or(1, Vec::len);
        let done = json!({"id": "003000000000001", "success": true, "created": true, "errors": []});
        (200, Value::Array(vec![done; records]))
    })
    .await;
    let connector = json!({
        "connector": {"vendor": "salesforce", "base_url": vendor.url, "mapping": {"email": "Email"}},
        "credential": {"client": {"id": "an-id", "secret": "a-secret"}},
    });
    set(&server, &connector).await;
    let written = |v: &Vendor| {
        let calls = v.calls();
        let upserts = calls.iter().filter(|c| {
            c.method == Method::PATCH && c.authorization.ends_with(&format!("token-{}", *tokens.lock()))
        });
        upserts
            .filter(|c| c.body.to_string().contains("ada@example.com"))
            .count()
    };
    vendor.until("the upsert", |v| written(v) > 0).await;
    *tokens.lock() += 1;
    upgrade(&server, &ada, "pro").await;
    vendor
        .until("the upsert with another token", |v| written(v) > 0)
        .await;
    let logins = vendor
        .calls()
        .iter()
        .filter(|c| c.path == "/services/oauth2/token")
        .count();
    assert_eq!(logins, 2);
    pushing.abort();
    server.stop().await;
}

/// Two people whose records come in one batch: they are in one partition, and nobody else is in it. The feed
/// has both by now, else one may come in the snapshot and the other by what happens.
async fn two_of_one_batch(server: &Server) -> [(String, String); 2] {
    let consumer = Consumer::of(server, "marketing").await;
    let mut known = BTreeMap::new();
    for n in 0.. {
        let name = format!("p{n}");
        let (id, position) = register(server, &name, true).await;
        let partition = position.rsplit_once(':').unwrap().0.to_owned();
        let person = (id, format!("{name}@example.com"));
        if let Some((other, before)) = known.insert(partition, (person.clone(), position.clone())) {
            consumer.sees(server, &[before, position]).await;
            return [other, person];
        }
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_withdraws_between_two_calls_is_in_no_later_one_and_the_others_are() {
    let (server, pushing) = start().await;
    let [(ada, hers), (_, his)] = two_of_one_batch(&server).await;
    let (reached, is_reached) = tokio::sync::oneshot::channel();
    let (release, is_released) = std::sync::mpsc::channel();
    let hold = Mutex::new(Some((reached, is_released)));
    let vendor = Vendor::start(move |call| {
        let records = call.body["records"].as_array().map_or(1, Vec::len);
        if records == 2 && call.path.contains("/Individual/") {
            let held = hold.lock().take();
            if let Some((reached, is_released)) = held {
                reached.send(()).unwrap();
                tokio::task::block_in_place(|| is_released.recv().unwrap());
            }
        }
        let done = json!({"id": "003000000000001", "success": true, "created": true, "errors": []});
        (200, Value::Array(vec![done; records]))
    })
    .await;
    let connector = json!({
        "connector": {"vendor": "salesforce", "base_url": vendor.url, "mapping": {"email": "Email"}, "purpose": "Newsletter"},
        "credential": {"bearer": "a-token"},
    });
    set(&server, &connector).await;
    let reached = tokio::time::timeout(Duration::from_secs(120), is_reached).await;
    reached.expect("both in one call").unwrap();
    let withdrawn = consent(&server, &ada, "newsletter", false).await;
    server
        .get(&format!("/v1/users/{ada}"))
        .admin()
        .with("gatelog-min-position", &withdrawn)
        .send()
        .await
        .expect(200);
    release.send(()).unwrap();
    let said = |v: &Vendor, text: &str| v.calls().iter().any(|c| c.body.to_string().contains(text));
    vendor.until("the other", |v| said(v, &his)).await;
    vendor.until("the withdrawal", |v| said(v, "\"OptOut\"")).await;
    assert!(!said(&vendor, &hers), "{:#?}", vendor.calls());
    // That is no fault of the vendor's.
    let status = server
        .get("/v1/feeds/marketing/status")
        .admin()
        .send()
        .await
        .expect(200);
    let deliveries = &status.body["consumers"][0]["this_node"]["deliveries"];
    let outcomes: Vec<_> = deliveries
        .as_array()
        .unwrap()
        .iter()
        .map(|d| &d["outcome"])
        .collect();
    assert!(outcomes.iter().all(|outcome| *outcome == "taken"), "{outcomes:?}");
    pushing.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_connector_is_refused_by_the_name_of_what_is_wrong() {
    let (server, pushing) = start().await;
    let key = json!({"write_key": {"write_key": "k", "public_api": "t"}});
    let definition = json!({"vendor": "segment"});
    let cases = [
        (json!({}), "url"),
        (
            json!({"url": "http://127.0.0.1/", "connector": definition, "credential": key}),
            "url",
        ),
        (
            json!({"url": "http://127.0.0.1/", "credential": key}),
            "credential",
        ),
        (
            json!({"connector": {"vendor": "fax"}, "credential": key}),
            "connector",
        ),
        (json!({"connector": definition}), "credential"),
        (
            json!({"connector": definition, "credential": {"bearer": "x"}}),
            "credential",
        ),
        (
            json!({"connector": definition, "credential": {"password": "secret-word"}}),
            "credential",
        ),
        (
            json!({"connector": {"vendor": "segment", "colour": 1}, "credential": key}),
            "connector",
        ),
        (
            json!({"connector": {"vendor": "segment", "mapping": {"phone_number": "phone"}}, "credential": key}),
            "connector",
        ),
        (
            json!({"connector": {"vendor": "segment", "mapping": {"email": "a b"}}, "credential": key}),
            "connector",
        ),
        (
            json!({"connector": {"vendor": "segment", "base_url": "http://10.0.0.1"}, "credential": key}),
            "connector",
        ),
        (
            json!({"connector": {"vendor": "segment", "base_url": "ftp://x"}, "credential": key}),
            "connector",
        ),
    ];
    for (body, field) in cases {
        let answer = server.put(HOOK).admin().json(&body).send().await.expect(422);
        let errors = answer.body["errors"].as_array().unwrap();
        assert_eq!(errors[0]["field"], field, "{body}: {}", answer.body);
        assert!(!answer.body.to_string().contains("secret-word"));
    }
    pushing.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opt_out_at_the_vendor_outlasts_all_but_the_consent_that_gates_the_feed() {
    let (server, pushing) = start().await;
    let named = json!({"purpose": "newsletter", "fields": ["email"], "events": ["consent.granted"]});
    define(&server, "marketing", &named).await;
    let (ada, at) = register(&server, "ada", true).await;
    // Else she may come both in the snapshot and by her consent.
    Consumer::of(&server, "marketing")
        .await
        .sees(&server, &[at])
        .await;
    let vendor = Vendor::start(|_| (200, json!({}))).await;
    let connector = json!({
        "connector": {"vendor": "customer_io", "base_url": vendor.url},
        "credential": {"basic": {"user": "site", "password": "key"}},
    });
    set(&server, &connector).await;
    let states = |v: &Vendor| {
        let sent = v.sent("/api/v2/batch", "batch");
        let states = sent.iter().filter(|o| o["action"] == "identify");
        states.map(|o| o["attributes"].clone()).collect::<Vec<_>>()
    };
    vendor.until("the snapshot", |v| states(v).len() == 1).await;
    consent(&server, &ada, "product_updates", true).await;
    vendor.until("another consent", |v| states(v).len() == 2).await;
    assert!(states(&vendor).iter().all(|s| s.get("unsubscribed").is_none()));
    consent(&server, &ada, "newsletter", false).await;
    vendor.until("the withdrawal", |v| states(v).len() == 3).await;
    consent(&server, &ada, "newsletter", true).await;
    vendor.until("the consent again", |v| states(v).len() == 4).await;
    let opt_outs: Vec<_> = states(&vendor)[2..]
        .iter()
        .map(|s| s["unsubscribed"].clone())
        .collect();
    assert_eq!(opt_outs, [json!(true), json!(false)]);

    // Also where the feed does not name it, and it comes as a state.
    let unnamed = json!({"purpose": "newsletter", "fields": ["email"], "events": []});
    define(&server, "marketing", &unnamed).await;
    let mut newer = connector;
    newer["version"] = json!(3);
    set(&server, &newer).await;
    vendor.until("everyone anew", |v| states(v).len() == 5).await;
    consent(&server, &ada, "newsletter", false).await;
    vendor.until("another withdrawal", |v| states(v).len() == 6).await;
    consent(&server, &ada, "newsletter", true).await;
    vendor
        .until("the consent once more", |v| states(v).len() == 7)
        .await;
    assert_eq!(states(&vendor)[6]["unsubscribed"], false);
    pushing.abort();
    server.stop().await;
}
