//! The page of a feed, in a real browser.

use std::time::Duration;

use serde_json::{Value, json};

use super::consumer::*;
use super::webhooks::{set, start};
use crate::support::browser::Browser;
use crate::support::receiver::Receiver;
use crate::support::server::{BOOTSTRAP, Server};

async fn key(server: &Server, scopes: &[&str]) -> String {
    let body = json!({"name": "a person who looks", "scopes": scopes});
    let key = server
        .post("/v1/api-keys")
        .admin()
        .json(&body)
        .send()
        .await
        .expect(201);
    key.text("api_key").to_owned()
}

async fn enter(browser: &Browser, key: &str) {
    browser.type_in("#key", key).await;
    browser.click("#ask button").await;
}

/// Nothing came from elsewhere, and no address holds a key.
async fn asked_nobody_else(browser: &Browser, server: &Server) {
    // The browser opens with a page of its own.
    let own = |url: &String| url.starts_with("chrome://");
    for url in browser.requests().await.into_iter().filter(|url| !own(url)) {
        assert!(url.starts_with(server.url()) || url.starts_with("data:"), "{url}");
        assert!(!url.contains("glk_") && !url.contains(BOOTSTRAP), "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_shows_lag_deliveries_dead_letters_and_consent_and_sends_again() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let (server, pushing) = start(Duration::from_millis(1500)).await;
    define_marketing(&server).await;
    let receiver = Receiver::start().await;
    set(&server, &receiver).await;
    let (ada, _) = register(&server, "ada", true).await;
    for n in 0..12 {
        register(&server, &format!("p{n}"), true).await;
    }
    let (bob, _) = register(&server, "bob", true).await;
    receiver.until("everybody", |r| r.emails().len() == 14).await;

    // A wrong key is refused in a sentence, and asked for again.
    browser.look(1280, 900, "light").await;
    browser.open(&format!("{}/feeds/marketing", server.url())).await;
    enter(&browser, "glk_wrong").await;
    browser.until("#problem", "not known here").await;
    browser.picture("feed-wrong-key-1280-light").await;
    // The browser itself notes that an answer was 401; nothing else complains.
    let complaints = browser.complaints().await;
    assert!(complaints.iter().all(|c| c.contains("401")), "{complaints:?}");

    // The right one shows what was taken, and that nothing waits. Then somebody leaves, and one record is not taken.
    enter(&browser, BOOTSTRAP).await;
    browser.until("#tiles li", "0 s behind").await;
    browser.until("#deliveries", "subject.snapshot").await;
    browser.until("#deliveries tbody .state", "taken").await;
    let subjects = browser.text("#deliveries").await;
    // A word of its own: ids have these digits, too.
    let mut words = subjects.split(|c: char| !c.is_alphanumeric());
    assert!(
        !words.any(|word| word == "ada") && !subjects.contains('@'),
        "{subjects}"
    );
    consent(&server, &bob, "newsletter", false).await;
    browser.until("#deliveries", "subject.withdrawn").await;
    browser.until("#tiles", "all told and acknowledged").await;
    let of_ada = receiver.taken();
    let of_ada = of_ada
        .iter()
        .find(|t| t.event["data"]["fields"]["email"] == "ada@example.com");
    let subject = of_ada.unwrap().event["subject"].as_str().unwrap().to_owned();
    receiver.answer(&subject, 500);
    upgrade(&server, &ada, "pro").await;
    browser.until("#dead", "the receiver answered 500").await;
    browser.until("#deliveries", "failed").await;
    for (width, scheme) in [(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")] {
        browser.look(width, 900, scheme).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        browser.picture(&format!("feed-{width}-{scheme}")).await;
        // A scroll bar at the side takes some of the window.
        let fits = "return document.documentElement.scrollWidth <= window.innerWidth";
        assert_eq!(
            browser.run(fits, json!([])).await,
            true,
            "nothing is wider than the window at {width}"
        );
    }
    browser.look(1280, 900, "light").await;

    // It can be sent again from here.
    receiver.answer_well();
    browser.click("#dead td button").await;
    browser.until("#said", "1 record will be sent to crm again").await;
    browser.until("#tiles", "nothing was given up").await;
    assert_eq!(receiver.state()[&subject]["plan"], "pro");

    // The chart has a point for today, a title, a description, and the same as a table.
    let counts = browser
        .run("return [document.querySelectorAll('#chart .point').length, document.querySelectorAll('#chart .granted').length]", json!([]))
        .await;
    assert_eq!(counts, json!([1, 1]));
    let label = "const s = document.querySelector('#chart svg'); return s.getAttribute('aria-labelledby').split(' ').map((id) => document.getElementById(id).textContent)";
    let label = browser.run(label, json!([])).await;
    assert_eq!(label[0], "Consent to newsletter over time");
    let table =
        "return [...document.querySelectorAll('#consent tbody tr')].map((r) => r.innerText || r.textContent)";
    assert_eq!(
        browser.run(table, json!([])).await.as_array().map(Vec::len),
        Some(1)
    );

    // The key is nowhere but in this tab, and can be forgotten.
    let kept = "return [location.href, document.cookie, localStorage.length, sessionStorage.length]";
    let url = format!("{}/feeds/marketing", server.url());
    assert_eq!(browser.run(kept, json!([])).await, json!([url, "", 0, 1]));
    browser.click("#forget").await;
    assert_eq!(browser.run("return sessionStorage.length", json!([])).await, 0);
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    asked_nobody_else(&browser, &server).await;
    pushing.abort();
    browser.close().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_key_may_not_see_is_said_with_the_scope_that_is_missing() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let server = Server::start().await;
    define_marketing(&server).await;
    define(&server, "sales", &json!({"events": ["plan.upgraded"]})).await;
    let one = key(&server, &["feeds:read:marketing"]).await;
    browser.look(1280, 900, "light").await;
    browser.open(&format!("{}/feeds/marketing", server.url())).await;
    enter(&browser, &one).await;
    browser.until("#consent", "statistics:read").await;
    browser.until("#consumers", "No webhook and no topic").await;
    browser.open(&format!("{}/feeds/sales", server.url())).await;
    browser.until("#problem", "feeds:read:sales").await;
    browser.open(&format!("{}/feeds/unknown", server.url())).await;
    browser.until("#problem", "feeds:read:unknown").await;
    // The list is for keys that may see all feeds; any other opens one by its name.
    browser.open(&format!("{}/feeds", server.url())).await;
    browser.until("#problem", "open a feed by its name").await;
    browser.type_in("#name", "marketing").await;
    browser.click("#by-name button").await;
    browser.until("#title", "marketing").await;
    browser.until("#about", "gated by consent to newsletter").await;

    browser.click("#forget").await;
    enter(&browser, &key(&server, &["feeds:read"]).await).await;
    browser.until("#consumers", "No webhook").await;
    browser.open(&format!("{}/feeds", server.url())).await;
    browser.until("#list", "sales").await;
    browser.picture("feeds-1280-light").await;
    browser.click("#list a[href='/feeds/sales']").await;
    browser.until("#consent", "rests on no purpose").await;
    browser.open(&format!("{}/feeds/unknown", server.url())).await;
    browser.until("#problem", "There is no feed named unknown").await;

    // A name is text, whatever it is.
    let nasty = "%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E";
    browser.open(&format!("{}/feeds/{nasty}", server.url())).await;
    browser.until("#title", "<img src=x onerror=alert(1)>").await;
    assert_eq!(browser.run("return document.images.length", json!([])).await, 0);
    let complaints = browser.complaints().await;
    let known = |c: &String| c.contains("403") || c.contains("404");
    assert!(complaints.iter().all(known), "{complaints:?}");

    // Where the server goes away, what was shown stays, and it is said.
    browser.open(&format!("{}/feeds/marketing", server.url())).await;
    browser.until("#about", "gated").await;
    asked_nobody_else(&browser, &server).await;
    server.stop().await;
    browser.until("#problem", "The server does not answer").await;
    assert!(browser.text("#about").await.contains("gated"));
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_may_load_nothing_from_elsewhere() {
    let server = Server::start().await;
    for path in ["/feeds", "/feeds/marketing", "/feeds/unknown"] {
        let page = server.get(path).send().await.expect(200);
        assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
        assert_eq!(page.headers["referrer-policy"], "no-referrer");
        assert_eq!(page.headers["x-content-type-options"], "nosniff");
        assert_eq!(page.headers["x-robots-tag"], "noindex, nofollow");
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "frame-ancestors 'none'",
            "trusted-types 'none'",
        ] {
            assert!(policy.contains(part), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        let html = page.body.as_str().unwrap();
        assert!(
            !html.contains("http://") && !html.contains("https://") && !html.contains("style="),
            "{html}"
        );
    }
    for (path, kind) in [
        ("/assets/feeds.js", "text/javascript; charset=utf-8"),
        ("/assets/gatelog.css", "text/css; charset=utf-8"),
        ("/assets/gatelog.svg", "image/svg+xml"),
    ] {
        let asset = server.get(path).send().await.expect(200);
        assert_eq!(asset.headers["content-type"], kind);
        let text = asset
            .body
            .as_str()
            .map(str::to_owned)
            .unwrap_or_else(|| Value::to_string(&asset.body));
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "@import",
        ] {
            assert!(!text.contains(word), "{path}: {word}");
        }
    }
    // No other answer gains by it.
    let api = server.get("/healthz").send().await;
    assert_eq!(
        api.headers["content-security-policy"],
        "default-src 'none'; frame-ancestors 'none'"
    );
    server.stop().await;
}
