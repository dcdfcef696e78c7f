//! Seeing and changing consents by a link, without logging in.

use serde_json::{Value, json};

use super::consumer::*;
use crate::support::browser::Browser;
use crate::support::server::{Answer, Server};

/// Who has the newsletter, and the path of their link.
struct Person {
    id: String,
    path: String,
}

async fn setting(server: &Server, path: &str, body: &Value) {
    let path = format!("/v1/settings/{path}");
    server.put(&path).admin().json(body).send().await.expect(200);
}

/// A server with two purposes, a notice in two languages, and a person.
async fn start() -> (Server, Person) {
    let server = Server::start().await;
    setting(
        &server,
        "purposes/newsletter",
        &json!({"description": "The <b>newsletter</b>"}),
    )
    .await;
    setting(
        &server,
        "purposes/profiling",
        &json!({"description": "Offers that fit you"}),
    )
    .await;
    for (language, text) in [
        ("en", "We use your address.\n<script>"),
        ("de", "Wir verwenden Ihre Adresse."),
    ] {
        let notice = json!({"version": "4", "language": language, "text": text});
        setting(&server, "notices/profiling", &notice).await;
    }
    let definition =
        json!({"purpose": "newsletter", "fields": ["email", "preferences_url", "unsubscribe_url"]});
    define(&server, "mailer", &definition).await;
    let (id, at) = register(&server, "ada", true).await;
    let path = link(&server, &at).await;
    (server, Person { id, path })
}

/// The path of the link that the feed gives now.
async fn link(server: &Server, at: &str) -> String {
    let mut consumer = Consumer::of(server, "mailer").await;
    consumer.catch_up(server, "", at).await;
    let fields = consumer.subjects.values().next().unwrap();
    let url = fields["preferences_url"].as_str().unwrap();
    url[url.find("/v1/").unwrap()..].to_owned()
}

/// Looks at a page, in English.
async fn look(server: &Server, path: &str) -> Answer {
    server.get(path).with("accept-language", "en").send().await
}

async fn submit(server: &Server, path: &str, form: &[(&str, &str)]) -> Answer {
    let body = form
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect::<Vec<_>>()
        .join("&");
    let mut call = server
        .post(path)
        .with("content-type", "application/x-www-form-urlencoded")
        .with("accept-language", "en");
    call.0 = call.0.body(body);
    call.send().await
}

async fn ledger(server: &Server, person: &Person, at: &str) -> Value {
    let path = format!("/v1/users/{}/consents", person.id);
    let call = server.get(&path).admin().with("gatelog-min-position", at);
    call.send().await.expect(200).body
}

fn html(answer: &Answer) -> &str {
    assert_eq!(answer.headers["content-type"], "text/html; charset=utf-8");
    answer.body.as_str().unwrap()
}

fn at(answer: &Answer) -> String {
    answer.headers["gatelog-position"].to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_choices_masks_the_address_and_changes_nothing() {
    let (server, ada) = start().await;
    let page = look(&server, &ada.path).await.expect(200);
    for (header, value) in [
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("x-robots-tag", "noindex, nofollow"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(page.headers[header], value);
    }
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.contains("default-src 'none'") && policy.contains("form-action 'self'"),
        "{policy}"
    );
    assert!(!policy.contains("script-src"), "{policy}");
    assert!(!page.headers.contains_key("set-cookie"));
    let text = html(&page);
    assert!(
        text.contains("a***@example.com") && !text.contains("ada@"),
        "{text}"
    );
    for private in [&ada.id, "Secretname", "<script", "<b>"] {
        assert!(!text.contains(private), "{private}: {text}");
    }
    assert!(text.contains("The &lt;b&gt;newsletter&lt;/b&gt;") && text.contains("You agreed"));
    assert!(text.contains("by e-mail, since <time>20"), "{text}");
    assert!(text.contains("Offers that fit you") && text.contains("We use your address."));
    let german = server
        .get(&ada.path)
        .with("accept-language", "de-AT, en;q=0.5")
        .send()
        .await;
    let german = html(&german);
    assert!(
        german.contains("<html lang=\"de\">") && german.contains("Wir verwenden Ihre Adresse."),
        "{german}"
    );
    assert!(german.contains("per E-Mail"));
    let ledger = ledger(&server, &ada, "identity:0:0").await;
    assert_eq!(ledger["history"].as_array().unwrap().len(), 1, "{ledger}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_choice_is_an_event_with_its_notice_and_says_where_it_was_made() {
    let (server, ada) = start().await;
    let grant = [
        ("purpose", "profiling"),
        ("notice", "profiling"),
        ("version", "4"),
        ("language", "de"),
        ("choice", "grant"),
    ];
    let page = submit(&server, &ada.path, &grant).await.expect(200);
    assert!(html(&page).contains("Saved. You agreed to: Offers that fit you"));
    let position = at(&page);
    let known = ledger(&server, &ada, &position).await;
    let granted = known["history"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        granted["notice"],
        json!({"id": "profiling", "version": "4", "language": "de"})
    );
    assert_eq!(granted["actor"], json!({"type": "user", "id": ada.id}));
    for (field, value) in [
        ("purpose", json!("profiling")),
        ("granted", json!(true)),
        ("channel", json!("email")),
        ("lawful_basis", json!("consent")),
        ("method", json!("self_service")),
        ("note", json!("preference link")),
    ] {
        assert_eq!(granted[field], value, "{field}");
    }
    assert!(granted["ip"].is_string());

    // The same again changes nothing, and one withdrawal leaves the other.
    submit(&server, &ada.path, &grant).await.expect(200);
    let page = submit(
        &server,
        &ada.path,
        &[("purpose", "newsletter"), ("choice", "withdraw")],
    )
    .await;
    let page = page.expect(200);
    assert!(
        html(&page).contains("You withdrew: The &lt;b&gt;newsletter"),
        "{}",
        page.body
    );
    let known = ledger(&server, &ada, &at(&page)).await;
    assert_eq!(known["history"].as_array().unwrap().len(), 3, "{known}");
    assert_eq!(known["consents"]["newsletter"]["granted"], false);
    assert_eq!(known["consents"]["profiling"]["granted"], true);
    // Without the consent that gates the feed, the link itself is still good: it came by a mail that was sent.
    let page = submit(&server, &ada.path, &[("choice", "withdraw_all")])
        .await
        .expect(200);
    let known = ledger(&server, &ada, &at(&page)).await;
    assert_eq!(known["consents"]["profiling"]["granted"], false);
    // What was withdrawn stays so, whoever asks again.
    let page = submit(&server, &ada.path, &[("choice", "withdraw_all")])
        .await
        .expect(200);
    assert!(!page.headers.contains_key("gatelog-position"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_agrees_to_what_was_not_shown() {
    let (server, ada) = start().await;
    let withdrawn = submit(
        &server,
        &ada.path,
        &[("purpose", "newsletter"), ("choice", "withdraw")],
    )
    .await
    .expect(200);
    // The notice of the last choice, privacy, was never published here, and the only one there is has another purpose's name.
    let page = look(&server, &ada.path).await.expect(200);
    assert!(
        html(&page).contains("You can agree to this where you are logged in"),
        "{}",
        page.body
    );
    let grant = |purpose, notice, version| {
        [
            ("purpose", purpose),
            ("notice", notice),
            ("version", version),
            ("language", "en"),
            ("choice", "grant"),
        ]
    };
    let refused = submit(&server, &ada.path, &grant("newsletter", "profiling", "4"))
        .await
        .expect(409);
    assert!(html(&refused).contains("where you are logged in"));
    setting(
        &server,
        "notices/profiling",
        &json!({"version": "5", "language": "en", "text": "New."}),
    )
    .await;
    for (notice, version) in [
        ("profiling", "4"),
        ("other", "1"),
        ("unknown", "5"),
        ("profiling", ""),
    ] {
        let refused = submit(&server, &ada.path, &grant("profiling", notice, version))
            .await
            .expect(409);
        assert!(
            html(&refused).contains("the text has changed"),
            "{notice} {version}"
        );
    }
    for form in [
        &[("choice", "grant"), ("purpose", "unknown")][..],
        &[("choice", "take")],
        &[("purpose", "newsletter")],
        &[("choice", "toggle"), ("purpose", "newsletter")],
        &[],
    ] {
        let refused = submit(&server, &ada.path, form).await.expect(400);
        assert!(html(&refused).contains("did not arrive"), "{form:?}");
    }
    let known = ledger(&server, &ada, &at(&withdrawn)).await;
    assert_eq!(known["history"].as_array().unwrap().len(), 2, "{known}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_not_good_shows_the_same_page_whatever_the_reason() {
    let (server, ada) = start().await;
    let neutral = look(&server, "/v1/preferences/AAAA").await.expect(404);
    let neutral = html(&neutral).to_owned();
    assert!(
        neutral.contains("not valid any more") && !neutral.contains("ada"),
        "{neutral}"
    );
    let same = async |path: &str| {
        let page = look(&server, path).await.expect(404);
        assert_eq!(html(&page), neutral, "{path}");
        let page = submit(&server, path, &[("choice", "withdraw_all")])
            .await
            .expect(404);
        assert_eq!(html(&page), neutral, "{path}");
    };
    same(&ada.path[..ada.path.len() - 1]).await;
    same(&format!("{}A", ada.path)).await;
    // The token of another kind of link.
    let mut consumer = Consumer::of(&server, "mailer").await;
    consumer.catch_up(&server, "", "identity:0:0").await;
    let fields = consumer.subjects.values().next().unwrap();
    let unsubscribe = fields["unsubscribe_url"].as_str().unwrap();
    let token = unsubscribe.rsplit('/').next().unwrap();
    same(&format!("/v1/preferences/{token}")).await;
    let own = ada.path.rsplit('/').next().unwrap();
    server
        .get(&format!("/v1/unsubscribe/{own}"))
        .send()
        .await
        .problem(404, "link-not-valid");

    // Another address: the mailbox may be somebody else's by now. The next record has a new link.
    let path = format!("/v1/users/{}/email", ada.id);
    let change = server
        .put(&path)
        .admin()
        .json(&json!({"email": "augusta@example.com"}));
    let changed = change.send().await.expect(200);
    same(&ada.path).await;
    let new = link(&server, &position(&changed)).await;
    let page = look(&server, &new).await.expect(200);
    assert!(html(&page).contains("a***@example.com"));

    // Who is disabled can withdraw, and agree to nothing.
    status(&server, &ada.id, "disabled").await;
    let page = look(&server, &new).await.expect(200);
    assert!(html(&page).contains("This account is disabled") && !html(&page).contains("value=\"grant\""));
    submit(
        &server,
        &new,
        &[("purpose", "newsletter"), ("choice", "withdraw")],
    )
    .await
    .expect(200);
    erase(&server, &ada.id).await;
    same(&new).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_very_often_must_wait() {
    let (server, ada) = start().await;
    let mut refused = None;
    for _ in 0..120 {
        let answer = submit(&server, &ada.path, &[("choice", "withdraw_all")]).await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("it goes on for ever");
    assert!(refused.headers.contains_key("retry-after"));
    look(&server, &ada.path).await.expect(200);
    server.stop().await;
}

/// As people see it: in a browser, under the page's policy, by clicks.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_the_page_and_sends_its_forms() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let (server, ada) = start().await;
    browser.look(360, 800, "light").await;
    browser.open(&format!("{}{}", server.url(), ada.path)).await;
    browser.until("h1", "Your choices").await;
    browser.picture("preferences-360-light").await;
    let width = browser
        .run("return document.documentElement.scrollWidth", json!([]))
        .await;
    assert!(width.as_u64() <= Some(360), "{width}");
    browser.click("button[value=grant]").await;
    browser
        .until("[role=status]", "You agreed to: Offers that fit you")
        .await;
    browser.look(1280, 800, "dark").await;
    browser.picture("preferences-1280-dark").await;
    browser.click("button[value=withdraw_all]").await;
    browser.until("[role=status]", "You withdrew everything").await;
    let loaded = "return [document.cookie, document.scripts.length, document.title, location.pathname]";
    let loaded = browser.run(loaded, json!([])).await;
    assert_eq!(loaded, json!(["", 0, "Your choices", ada.path]));
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.close().await;
    server.stop().await;
}
