//! The rules of a tenant's settings.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

mod support;

use gatelog_events::clock::Timestamp;
use gatelog_events::domain::Event;
use gatelog_events::domain::tenant::{
    self, Command, FeedTopicRemoved, NoticePublished, Rejection, Settings, TenantEvent,
};
use gatelog_events::domain::webhook::{
    self, Connector, PauseReason, ReplayFrom, SetConnector, SetWebhook, WebhookSet,
};
use support::samples::*;
use support::scenario::{Aggregate, Given};

#[derive(Default)]
struct Tenant(Settings);

impl Aggregate for Tenant {
    type Command = Command;
    type Rejection = Rejection;

    fn evolve(&mut self, event: &Event, time: Timestamp, sequence: u64) {
        let Event::Tenant(event) = event else {
            panic!("not a tenant's event")
        };
        self.0.evolve(event, time, sequence);
    }

    fn decide(&self, command: Command, _: Timestamp) -> Result<Vec<Event>, Rejection> {
        tenant::decide(&self.0, command)
    }
}

fn given(history: impl IntoIterator<Item = Event>) -> Given<Tenant> {
    support::scenario::given(history)
}

fn plan(rank: u32, entitlements: &[&str]) -> Event {
    TenantEvent::PlanDefined(plan_defined("team", rank, entitlements)).into()
}

fn define_plan(rank: u32, entitlements: &[&str]) -> Command {
    Command::DefinePlan(plan_defined("team", rank, entitlements))
}

fn purpose(description: &str) -> Event {
    TenantEvent::PurposeDefined(purpose_defined("surveys", description)).into()
}

fn define_purpose(description: &str) -> Command {
    Command::DefinePurpose(purpose_defined("surveys", description))
}

fn published(n: NoticePublished) -> Event {
    TenantEvent::NoticePublished(n).into()
}

fn created() -> Event {
    TenantEvent::ApiKeyCreated(api_key()).into()
}

fn revoke() -> Command {
    Command::RevokeApiKey { key_id: api_key_id() }
}

#[test]
fn a_new_tenant_is_seeded_once() {
    let seed = tenant::decide(&Settings::default(), Command::Seed).unwrap();
    given(seed.clone()).when(Command::Seed).then_nothing();
    given([plan(1, &[])]).when(Command::Seed).then_nothing();
    let mut settings = Settings::default();
    for (event, sequence) in seed.iter().zip(1..) {
        let Event::Tenant(event) = event else {
            panic!("not a tenant's event")
        };
        settings.evolve(event, support::NOON, sequence);
    }
    assert_eq!(settings.default_plan(), "free");
    assert!(settings.plans.keys().eq(["enterprise", "free", "pro"]));
    assert!(
        settings
            .purposes
            .keys()
            .eq(["newsletter", "product_updates", "sms_offers"])
    );
}

#[test]
fn a_plan_is_defined_and_redefined() {
    given([])
        .when(define_plan(10, &["app"]))
        .then([plan(10, &["app"])]);
    given([plan(10, &["app"])])
        .when(define_plan(10, &["app"]))
        .then_nothing();
    given([plan(10, &["app"])])
        .when(define_plan(11, &["app"]))
        .then([plan(11, &["app"])]);
    given([plan(10, &["app"])])
        .when(define_plan(10, &["app", "sso"]))
        .then([plan(10, &["app", "sso"])]);
}

#[test]
fn a_purpose_is_defined_and_redefined() {
    given([])
        .when(define_purpose("Questions"))
        .then([purpose("Questions")]);
    given([purpose("Questions")])
        .when(define_purpose("Questions"))
        .then_nothing();
    given([purpose("Questions")])
        .when(define_purpose("Polls"))
        .then([purpose("Polls")]);
}

#[test]
fn a_notice_is_published_and_never_changes() {
    let changed = || Rejection::NoticeChanged {
        id: "terms".into(),
        version: "1".into(),
        language: "de".into(),
    };
    let moved = NoticePublished {
        url: None,
        ..notice("1", "A")
    };
    let english = || NoticePublished {
        language: "en".into(),
        ..notice("1", "B")
    };
    given([])
        .when(Command::PublishNotice(notice("1", "A")))
        .then([published(notice("1", "A"))]);
    given([published(notice("1", "A"))])
        .when(Command::PublishNotice(notice("1", "A")))
        .then_nothing();
    given([published(notice("1", "A"))])
        .when(Command::PublishNotice(notice("1", "B")))
        .then_rejected(changed());
    given([published(notice("1", "A"))])
        .when(Command::PublishNotice(moved))
        .then_rejected(changed());
    given([published(notice("1", "A"))])
        .when(Command::PublishNotice(notice("2", "B")))
        .then([published(notice("2", "B"))]);
    given([published(notice("1", "A"))])
        .when(Command::PublishNotice(english()))
        .then([published(english())]);
}

#[test]
fn an_api_key_is_created_once_and_revoked_once() {
    given([]).when(Command::CreateApiKey(api_key())).then([created()]);
    given([created()])
        .when(Command::CreateApiKey(api_key()))
        .then_rejected(Rejection::ApiKeyExists);
    given([]).when(revoke()).then_rejected(Rejection::ApiKeyNotFound);
    given([created()]).when(revoke()).then([api_key_revoked()]);
    given([created(), api_key_revoked()])
        .when(revoke())
        .then_nothing();
    given([created(), api_key_revoked()])
        .when(Command::CreateApiKey(api_key()))
        .then_rejected(Rejection::ApiKeyExists);
}

fn feed(purpose: Option<&str>, fields: &[&str]) -> Event {
    TenantEvent::FeedDefined(feed_defined(purpose, fields)).into()
}

fn define_feed(purpose: Option<&str>, fields: &[&str]) -> Command {
    Command::DefineFeed(feed_defined(purpose, fields))
}

#[test]
fn a_feed_is_defined_in_versions() {
    given([purpose("Questions")])
        .when(define_feed(Some("surveys"), &["email"]))
        .then([feed(Some("surveys"), &["email"])]);
    given([purpose("Questions"), feed(Some("surveys"), &["email"])])
        .when(define_feed(Some("surveys"), &["email"]))
        .then_nothing();
    given([purpose("Questions"), feed(Some("surveys"), &["email"])])
        .when(define_feed(Some("surveys"), &["email", "plan"]))
        .then([feed(Some("surveys"), &["email", "plan"])]);
    let mut settings = Settings::default();
    for (fields, sequence) in [(&["plan"][..], 1), (&["plan", "locale"], 2)] {
        let event = TenantEvent::FeedDefined(feed_defined(None, fields));
        settings.evolve(&event, support::NOON, sequence);
    }
    let feed = &settings.feeds["marketing"];
    assert_eq!(feed.newest(), 2);
    assert_eq!(feed.version(1).unwrap().definition.fields.len(), 1);
    assert!(feed.version(0).is_none() && feed.version(3).is_none());
}

#[test]
fn a_feed_that_could_say_too_much_is_refused() {
    given([])
        .when(define_feed(Some("surveys"), &["email"]))
        .then_rejected(Rejection::UnknownFeedPurpose("surveys".into()));
    given([])
        .when(define_feed(None, &["plan", "given_name"]))
        .then_rejected(Rejection::FeedNeedsPurpose("given_name".parse().unwrap()));
    given([])
        .when(define_feed(None, &["plan"]))
        .then([feed(None, &["plan"])]);
    given([purpose("Questions"), feed(Some("surveys"), &["email"])])
        .when(define_feed(None, &["plan"]))
        .then_rejected(Rejection::FeedKeepsPurpose(Some("surveys".into())));
    given([purpose("Questions"), feed(None, &["plan"])])
        .when(define_feed(Some("surveys"), &["plan"]))
        .then_rejected(Rejection::FeedKeepsPurpose(None));
    for kind in ["user.erased", "tenant.api_key_created", "plan.upgraded.v1", ""] {
        let mut wish = feed_defined(None, &["plan"]);
        wish.definition.events = [kind.to_owned()].into();
        given([])
            .when(Command::DefineFeed(wish))
            .then_rejected(Rejection::UnknownFeedEvent(kind.into()));
    }
}

#[test]
fn a_feed_is_retired_once_and_can_come_back() {
    let retire = || Command::RetireFeed {
        name: "marketing".into(),
    };
    given([]).when(retire()).then_rejected(Rejection::FeedNotFound);
    given([feed(None, &["plan"])])
        .when(retire())
        .then([feed_retired()]);
    given([feed(None, &["plan"]), feed_retired()])
        .when(retire())
        .then_nothing();
    given([feed(None, &["plan"]), feed_retired()])
        .when(define_feed(None, &["plan"]))
        .then([feed(None, &["plan"])]);
}

fn set_webhook(url: &str, version: Option<u32>) -> Command {
    Command::Webhook(webhook::Command::Set(SetWebhook {
        feed: "marketing".into(),
        name: "crm".into(),
        url: url.into(),
        version,
        concurrency: 8,
        connector: None,
    }))
}

#[test]
fn a_connector_keeps_its_credential_while_its_vendor_stays() {
    let connector = |vendor: &str, credential: &str| Connector {
        vendor: vendor.into(),
        settings: "{}".into(),
        credential: credential.into(),
    };
    let set = |vendor: &str, credential: &str| {
        TenantEvent::WebhookSet(WebhookSet {
            connector: Some(connector(vendor, credential)),
            ..webhook_set("https://a.example", 1)
        })
        .into()
    };
    let wish = |vendor: &str, credential: Option<&str>| {
        Command::Webhook(webhook::Command::Set(SetWebhook {
            feed: "marketing".into(),
            name: "crm".into(),
            url: "https://a.example".into(),
            version: None,
            concurrency: 8,
            connector: Some(SetConnector {
                vendor: vendor.into(),
                settings: "{}".into(),
                credential: credential.map(str::to_owned),
            }),
        }))
    };
    let begun = || [feed(None, &["plan"]), set("segment", "one")];
    given([feed(None, &["plan"])])
        .when(wish("segment", None))
        .then_rejected(Rejection::CredentialNeeded);
    given([feed(None, &["plan"])])
        .when(wish("segment", Some("one")))
        .then([set("segment", "one")]);
    given(begun()).when(wish("segment", None)).then_nothing();
    given(begun())
        .when(wish("segment", Some("two")))
        .then([set("segment", "two")]);
    given(begun())
        .when(wish("zendesk", None))
        .then_rejected(Rejection::CredentialNeeded);
}

#[test]
fn a_credential_goes_nowhere_else_by_itself() {
    let at = |base_url: &str, regulations: &str| {
        let settings = format!(
            r#"{{"vendor":"segment","base_url":"https://{base_url}","regulations_url":"https://{regulations}","map":1}}"#
        );
        let connector = Connector {
            vendor: "segment".into(),
            settings,
            credential: "sealed".into(),
        };
        let kept =
            r#"{"vendor":"segment","base_url":"https://a.example","regulations_url":"https://r.example"}"#;
        connector.keeps_credential("segment", kept)
    };
    assert!(at("a.example", "r.example"));
    assert!(!at("evil.example", "r.example"));
    assert!(!at("a.example", "evil.example"));
}

#[test]
fn a_webhook_is_set_goes_on_and_begins_anew() {
    let set = |url: &str, version| TenantEvent::WebhookSet(webhook_set(url, version));
    let wish = |url: &str, version| set_webhook(url, Some(version));
    let begun = || [feed(None, &["plan"]), set("https://a.example", 1).into()];
    given([])
        .when(wish("https://a.example", 1))
        .then_rejected(Rejection::FeedNotFound);
    given([feed(None, &["plan"])])
        .when(wish("https://a.example", 2))
        .then_rejected(Rejection::FeedVersionNotFound);
    given([feed(None, &["plan"])])
        .when(wish("https://a.example", 1))
        .then([set("https://a.example", 1).into()]);
    given([feed(None, &["plan"]), feed(None, &["plan", "locale"])])
        .when(set_webhook("https://a.example", None))
        .then([set("https://a.example", 2).into()]);
    // Set again, it stays on its version.
    let outdated = || {
        [
            feed(None, &["plan"]),
            set("https://a.example", 1).into(),
            feed(None, &["plan", "locale"]),
        ]
    };
    given(outdated())
        .when(set_webhook("https://a.example", None))
        .then_nothing();
    given(outdated())
        .when(set_webhook("https://b.example", None))
        .then([set("https://b.example", 1).into()]);
    given(begun()).when(wish("https://a.example", 1)).then_nothing();
    given(begun())
        .when(wish("https://b.example", 1))
        .then([set("https://b.example", 1).into()]);
    let pause = || webhook_paused(PauseReason::Operator);
    let paused = || TenantEvent::WebhookPaused(pause()).into();
    given(begun())
        .when(Command::Webhook(webhook::Command::Pause(pause())))
        .then([paused()]);
    let [defined, begun_event] = begun();
    given([defined, begun_event, paused()])
        .when(wish("https://a.example", 1))
        .then([set("https://a.example", 1).into()]);
    given([feed(None, &["plan"])])
        .when(Command::Webhook(webhook::Command::Replay(webhook_replayed(
            ReplayFrom::Beginning,
        ))))
        .then_rejected(Rejection::WebhookNotFound);

    // Where it begins anew, what was said of an earlier beginning counts no more; a new address goes on.
    let mut settings = Settings::default();
    let history = [
        TenantEvent::FeedDefined(feed_defined(None, &["plan"])),
        TenantEvent::FeedDefined(feed_defined(None, &["plan", "locale"])),
        set("https://a.example", 1),
        set("https://b.example", 1),
        TenantEvent::WebhookReplayed(webhook_replayed(ReplayFrom::Beginning)),
        TenantEvent::WebhookSecretRotated(webhook_rotated()),
        set("https://b.example", 2),
        TenantEvent::WebhookRemoved(webhook_removed()),
        set("https://c.example", 2),
    ];
    let generations: Vec<_> = history
        .iter()
        .zip(1..)
        .map(|(event, sequence)| {
            settings.evolve(event, support::NOON, sequence);
            settings.feeds["marketing"]
                .webhooks
                .get("crm")
                .map(|w| (w.since, w.generation, w.from, w.secret))
        })
        .collect();
    use ReplayFrom::{Beginning, Snapshot};
    assert_eq!(
        generations[2..],
        [
            Some((3, 3, Snapshot, 1)),
            Some((3, 3, Snapshot, 1)),
            Some((3, 5, Beginning, 1)),
            Some((3, 5, Beginning, 2)),
            Some((3, 7, Snapshot, 2)),
            None,
            // The former receiver knows the secrets up to the second.
            Some((9, 9, Snapshot, 3)),
        ]
    );
}

/// By that a receiver is told who has withdrawn, should nothing else be known of it any more.
#[test]
fn since_when_a_receiver_is_there_is_known_whatever_is_set_anew() {
    let removed = || FeedTopicRemoved {
        feed: "marketing".into(),
    };
    let set = |version| TenantEvent::WebhookSet(webhook_set("https://a.example", version));
    let mut settings = Settings::default();
    let history = [
        TenantEvent::FeedDefined(feed_defined(None, &["plan"])),
        TenantEvent::FeedDefined(feed_defined(None, &["plan", "locale"])),
        set(1),
        TenantEvent::FeedTopicSet(feed_topic_set(1)),
        TenantEvent::WebhookPaused(webhook_paused(PauseReason::Operator)),
        set(2),
        TenantEvent::WebhookReplayed(webhook_replayed(ReplayFrom::Beginning)),
        TenantEvent::FeedTopicRemoved(removed()),
        TenantEvent::FeedTopicSet(feed_topic_set(2)),
        TenantEvent::WebhookRemoved(webhook_removed()),
        set(2),
    ];
    let known: Vec<_> = history
        .iter()
        .zip(1..)
        .map(|(event, sequence)| {
            settings.evolve(event, Timestamp::from_millis(10 * sequence as i64), sequence);
            let feed = &settings.feeds["marketing"];
            let set_at = feed.webhooks.get("crm").map(|w| w.set_at.millis());
            (set_at, feed.topic_since.map(Timestamp::millis))
        })
        .collect();
    // What was written to a topic stays there; who has a webhook's name after another is another receiver.
    let (both, topic) = ((Some(30), Some(40)), (None, Some(40)));
    assert_eq!(known[2], (Some(30), None));
    assert_eq!(known[3..9], [both; 6]);
    assert_eq!(known[9..], [topic, (Some(110), Some(40))]);
}

#[test]
fn a_topic_has_one_version_of_its_feed() {
    let set = |version| Command::SetFeedTopic {
        feed: "marketing".into(),
        version,
    };
    let is_set = || TenantEvent::FeedTopicSet(feed_topic_set(1)).into();
    let remove = || {
        Command::RemoveFeedTopic(FeedTopicRemoved {
            feed: "marketing".into(),
        })
    };
    given([]).when(set(None)).then_rejected(Rejection::FeedNotFound);
    given([feed(None, &["plan"])])
        .when(set(Some(2)))
        .then_rejected(Rejection::FeedVersionNotFound);
    given([feed(None, &["plan"])]).when(set(Some(1))).then([is_set()]);
    given([feed(None, &["plan"])]).when(set(None)).then([is_set()]);
    given([feed(None, &["plan"]), is_set(), feed(None, &["plan", "locale"])])
        .when(set(None))
        .then_nothing();
    given([feed(None, &["plan"])]).when(remove()).then_nothing();
    given([feed(None, &["plan"]), is_set()])
        .when(remove())
        .then([TenantEvent::FeedTopicRemoved(FeedTopicRemoved {
            feed: "marketing".into(),
        })
        .into()]);
}

#[test]
fn without_plans_there_is_no_default() {
    assert_eq!(Settings::default().default_plan(), "");
}
