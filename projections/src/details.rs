//! What events say in the clear, by name: all of it where the person or an operator looks, and what feeds may tell.

use std::borrow::Cow;

use gatelog_events::domain::consent::ConsentEvent;
use gatelog_events::domain::session::SessionEvent;
use gatelog_events::domain::user::UserEvent;
use gatelog_events::domain::{Event, feed};
use serde::Serialize;

/// Names, each with what the event says.
pub type Details = Vec<(Cow<'static, str>, String)>;

/// All that an event says in the clear.
pub fn of(event: &Event) -> Details {
    collect(event, |_| true)
}

/// What a feed that names this kind of event tells of it, beside its purpose.
pub(crate) fn for_feeds(event: &Event) -> Details {
    let names = told(feed::kind(event.type_name()));
    match names {
        [] => Details::new(),
        names => collect(event, |name| name != PURPOSE && names.contains(&name)),
    }
}

/// The purpose of a consent.
pub const PURPOSE: &str = "purpose";

/// The names of what feeds tell of an event of a kind. Neither what callers write as they like, nor what names a session:
/// that would be the same in each feed.
pub fn told(kind: &str) -> &'static [&'static str] {
    match kind {
        "user.registered" => &["origin"],
        "user.password_set" | "session.ended" => &["reason"],
        "user.email_verified" | "login.succeeded" => &["method"],
        "user.role_granted" | "user.role_revoked" => &["role"],
        "consent.granted" | "consent.withdrawn" => &[PURPOSE, "channel", "method"],
        "plan.assigned" | "plan.upgraded" | "plan.downgraded" | "plan.switched" | "plan.cancelled"
        | "plan.renewed" => &["from", "to", "effective_at"],
        "login.failed" => &["method", "reason"],
        "login.locked" => &["until"],
        _ => &[],
    }
}

/// What is asked for of an event; nothing else is made into text.
fn collect(event: &Event, wants: impl Fn(&'static str) -> bool) -> Details {
    let mut out = Details::new();
    let mut say = |name: &'static str, text: &dyn Fn() -> Option<String>| {
        if wants(name) {
            out.extend(text().map(|text| (name.into(), text)));
        }
    };
    match event {
        Event::User(e) => match e {
            UserEvent::Registered(r) => {
                say("origin", &|| Some(text(&r.origin)));
                say("locale", &|| r.locale.clone());
            }
            UserEvent::PasswordSet(p) => say("reason", &|| Some(text(&p.reason))),
            UserEvent::EmailVerified(v) => say("method", &|| Some(text(&v.method))),
            UserEvent::ProfileChanged(p) => say("locale", &|| p.locale.clone()),
            UserEvent::RoleGranted(r) | UserEvent::RoleRevoked(r) => say("role", &|| Some(r.role.clone())),
            UserEvent::Disabled(s) | UserEvent::Enabled(s) | UserEvent::Erased(s) => {
                say("reason", &|| s.reason.clone());
            }
            UserEvent::EmailChanged(_) => {}
        },
        Event::Consent(ConsentEvent::Granted(c) | ConsentEvent::Withdrawn(c)) => {
            say(PURPOSE, &|| Some(c.purpose.clone()));
            say("channel", &|| Some(c.channel.clone()));
            let notice = &c.notice;
            say("notice", &|| {
                Some(format!("{} {} ({})", notice.id, notice.version, notice.language))
            });
            say("lawful_basis", &|| Some(text(&c.lawful_basis)));
            say("method", &|| Some(text(&c.method)));
        }
        Event::Plan(p) => {
            let c = p.change();
            say("from", &|| c.from.clone());
            say("to", &|| Some(c.to.clone()));
            say("effective_at", &|| Some(c.effective_at.to_string()));
            say("source", &|| Some(c.source.clone()));
            say("reason", &|| c.reason.clone());
        }
        Event::Session(s) => session(s, &mut say),
        Event::Identifier(_) | Event::Tenant(_) | Event::Feed(_) => {}
    }
    out
}

fn session(event: &SessionEvent, say: &mut impl FnMut(&'static str, &dyn Fn() -> Option<String>)) {
    match event {
        SessionEvent::LoginSucceeded(l) => {
            say("method", &|| Some(l.method.name().to_owned()));
            say("session_id", &|| Some(l.session_id.to_string()));
        }
        SessionEvent::LoginFailed(l) => {
            say("method", &|| Some(l.method.name().to_owned()));
            say("reason", &|| Some(l.reason.name().to_owned()));
        }
        SessionEvent::Locked(l) => say("until", &|| Some(l.until.to_string())),
        SessionEvent::Unlocked(u) => say("reason", &|| u.reason.clone()),
        SessionEvent::Started(s) => say("session_id", &|| Some(s.session_id.to_string())),
        SessionEvent::Refreshed(r) | SessionEvent::Reused(r) => {
            say("session_id", &|| Some(r.session_id.to_string()));
        }
        SessionEvent::Ended(e) => {
            say("session_id", &|| Some(e.session_id.to_string()));
            say("reason", &|| Some(text(&e.reason)));
        }
    }
}

/// The name on the wire of a value of a closed list.
fn text<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(s)) => s,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use gatelog_events::clock::Timestamp;
    use gatelog_events::domain::consent::{ConsentChange, LawfulBasis, Method, NoticeRef};
    use gatelog_events::domain::plan::{PlanChange, PlanEvent};
    use gatelog_events::domain::session::{Client, LoginMethod, LoginSucceeded};
    use gatelog_events::domain::user::StatusChange;
    use gatelog_events::ids::SessionId;
    use gatelog_events::personal::Personal;
    use uuid::Uuid;

    use super::*;

    fn plan() -> Event {
        Event::Plan(PlanEvent::Upgraded(PlanChange {
            from: Some("free".to_owned()),
            to: "pro".to_owned(),
            effective_at: Timestamp::EPOCH,
            source: "billing".to_owned(),
            reason: Some("Ada asked for it".to_owned()),
        }))
    }

    fn consent() -> Event {
        let notice = NoticeRef {
            id: "privacy".to_owned(),
            version: "3".to_owned(),
            language: "en".to_owned(),
        };
        Event::Consent(ConsentEvent::Granted(ConsentChange {
            purpose: "newsletter".to_owned(),
            channel: "email".to_owned(),
            notice,
            lawful_basis: LawfulBasis::Consent,
            method: Method::SelfService,
            personal: Personal::Erased,
        }))
    }

    fn login() -> Event {
        Event::Session(SessionEvent::LoginSucceeded(LoginSucceeded {
            session_id: SessionId(Uuid::from_u128(1)),
            method: LoginMethod::Password,
            personal: Personal::Clear(Client::default()),
        }))
    }

    #[test]
    fn feeds_tell_no_free_text_and_no_session() {
        let enabled = Event::User(UserEvent::Enabled(StatusChange {
            reason: Some("Ada rang".to_owned()),
        }));
        for (event, expected) in [
            (
                plan(),
                &[
                    ("from", "free"),
                    ("to", "pro"),
                    ("effective_at", "1970-01-01T00:00:00.000Z"),
                ][..],
            ),
            (consent(), &[("channel", "email"), ("method", "self_service")]),
            (login(), &[("method", "password")]),
            (enabled, &[]),
        ] {
            let told = for_feeds(&event);
            let told: Vec<_> = told.iter().map(|(k, v)| (k.as_ref(), v.as_str())).collect();
            assert_eq!(told, expected, "{}", event.type_name());
        }
    }

    #[test]
    fn whatever_feeds_tell_has_a_kind_that_feeds_may_name() {
        let told: Vec<_> = feed::kinds().filter(|kind| !told(kind).is_empty()).collect();
        assert_eq!(told.len(), 17, "{told:?}");
        for event in [plan(), consent(), login()] {
            let said = of(&event);
            for name in super::told(feed::kind(event.type_name())) {
                assert!(said.iter().any(|(said, _)| said == name), "{name}");
            }
        }
    }
}
