//! Defining feeds, and what is refused.

use serde_json::json;

use super::consumer::*;
use crate::support::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn bad_definitions_are_refused_and_name_what_is_wrong() {
    let server = Server::start().await;
    for (definition, slug, field) in [
        (json!({"fields": ["email"]}), "feed-needs-purpose", "purpose"),
        (
            json!({"purpose": "sorcery", "fields": ["email"]}),
            "unknown-purpose",
            "purpose",
        ),
        (
            json!({"purpose": "newsletter", "fields": ["password_hash"]}),
            "invalid-input",
            "fields[0]",
        ),
        (
            json!({"fields": ["plan"], "events": ["user.erased"]}),
            "invalid-input",
            "events[0]",
        ),
        (
            json!({"fields": ["plan"], "events": ["nonsense"]}),
            "invalid-input",
            "events[0]",
        ),
        (
            json!({"fields": ["plan"], "retention_seconds": 0}),
            "invalid-input",
            "retention_seconds",
        ),
        (json!({"purpose": "a b"}), "invalid-input", "purpose"),
        (json!({"field": ["plan"]}), "invalid-input", "field"),
    ] {
        let call = server.put("/v1/feeds/bad").admin().json(&definition);
        let refused = call.send().await.problem(422, slug);
        assert_eq!(refused.body["errors"][0]["field"], field, "{definition}");
    }
    server
        .put("/v1/feeds/a%20b")
        .admin()
        .json(&json!({}))
        .send()
        .await
        .problem(422, "invalid-input");
    server
        .get("/v1/feeds/bad")
        .admin()
        .send()
        .await
        .problem(404, "feed-not-found");
    server
        .delete("/v1/feeds/bad")
        .admin()
        .send()
        .await
        .problem(404, "feed-not-found");
    server
        .get("/v1/feeds/bad/events")
        .admin()
        .send()
        .await
        .problem(404, "feed-not-found");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_is_taken_when_the_consumer_chooses() {
    let server = Server::start().await;
    define_marketing(&server).await;
    let (ada, at) = register(&server, "ada", true).await;
    let mut consumer = Consumer::of(&server, "marketing").await;
    consumer.catch_up(&server, "", &at).await;
    let same = define_marketing(&server).await;
    let wider =
        json!({"purpose": "newsletter", "fields": ["email", "family_name"], "events": ["plan.upgraded"]});
    assert_ne!(define(&server, "marketing", &wider).await, same);
    let at = upgrade(&server, &ada, "pro").await;
    consumer.catch_up(&server, "", &at).await;
    let names = |c: &Consumer| {
        let fields = c.subjects.values().next().unwrap().as_object().unwrap();
        fields.keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(names(&consumer), ["email", "given_name", "locale", "plan"]);
    consumer.catch_up(&server, "version=2", &at).await;
    assert_eq!(names(&consumer), ["email", "family_name"]);
    assert_eq!(
        consumer.kinds(),
        ["subject.snapshot", "plan.upgraded", "subject.snapshot"]
    );
    let refused = consumer
        .ask(&server, "version=3", &at)
        .await
        .problem(400, "invalid-query");
    assert_eq!(refused.body["errors"][0]["field"], "version");

    let feeds = server.get("/v1/feeds").admin().send().await.expect(200);
    let feed = &feeds.body["feeds"]["marketing"];
    assert_eq!(
        (&feed["newest"], feed["versions"].as_array().unwrap().len()),
        (&json!(2), 2)
    );
    let schema = server
        .get("/v1/feeds/marketing/versions/2/schema")
        .admin()
        .send()
        .await
        .expect(200);
    let fields = &schema.body["oneOf"][0]["properties"]["fields"]["properties"];
    assert_eq!(fields.as_object().unwrap().len(), 2);
    assert_eq!(schema.body["$id"], consumer.records[2]["dataschema"]);
    server
        .get("/v1/feeds/marketing/versions/3/schema")
        .admin()
        .send()
        .await
        .problem(404, "feed-not-found");

    server
        .delete("/v1/feeds/marketing")
        .admin()
        .send()
        .await
        .expect(200);
    consumer.ask(&server, "", &at).await.problem(409, "feed-retired");
    define(&server, "marketing", &wider).await;
    consumer.catch_up(&server, "", &at).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_reach_their_own_feed_only() {
    let server = Server::start().await;
    define_marketing(&server).await;
    define(&server, "counts", &json!({"fields": ["plan"]})).await;
    let consumer = Consumer::of(&server, "counts").await;
    let get = |path: &str| server.get(path).auth(&consumer.key);
    get("/v1/feeds/counts/events").send().await.expect(200);
    get("/v1/feeds/counts").send().await.expect(200);
    for path in [
        "/v1/feeds/marketing/events",
        "/v1/feeds/marketing",
        "/v1/feeds",
        "/v1/feeds/counts/withdrawals",
        "/v1/asyncapi.json",
        "/v1/feeds/marketing/versions/1/schema",
    ] {
        get(path).send().await.problem(403, "missing-scope");
    }
    let define = server
        .put("/v1/feeds/counts")
        .auth(&consumer.key)
        .json(&json!({"fields": []}));
    define.send().await.problem(403, "missing-scope");
    server
        .get("/v1/feeds/counts/events")
        .send()
        .await
        .problem(401, "missing-token");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_another_feed_or_an_altered_one_is_refused() {
    let server = Server::start().await;
    define_marketing(&server).await;
    define(&server, "counts", &json!({"fields": ["plan"]})).await;
    let next = |feed: &'static str| {
        let server = &server;
        async move {
            let page = server
                .get(&format!("/v1/feeds/{feed}/events"))
                .admin()
                .send()
                .await
                .expect(200);
            page.text("next").to_owned()
        }
    };
    let (own, others) = (next("marketing").await, next("counts").await);
    let altered = format!("{}A{}", &own[..10], &own[11..]);
    let try_it = async |query: String| {
        let path = format!("/v1/feeds/marketing/events?{query}");
        server.get(&path).admin().send().await
    };
    try_it(format!("after={own}")).await.expect(200);
    for cursor in [
        others.as_str(),
        if altered == own { "A" } else { altered.as_str() },
        "A",
        "!",
        "%00",
    ] {
        let refused = try_it(format!("after={cursor}"))
            .await
            .problem(400, "invalid-cursor");
        assert_eq!(refused.body["errors"][0]["field"], "after");
    }
    let body = json!({"cursor": others});
    let call = server
        .post("/v1/feeds/marketing/acknowledgements")
        .admin()
        .json(&body);
    assert_eq!(
        call.send().await.problem(400, "invalid-cursor").body["errors"][0]["field"],
        "cursor"
    );
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("wait=26", "wait"),
        ("from=yesterday", "from"),
        ("version=0", "version"),
    ] {
        let refused = try_it(query.to_owned()).await.problem(400, "invalid-query");
        assert_eq!(refused.body["errors"][0]["field"], field);
    }
    server.stop().await;
}
