use serde_json::json;

use super::*;

mod definitions;
mod garbage;

pub(super) const TIME: &str = "2026-01-01T00:00:00.000Z";
/// Stands in each personal value of the tests' states, and must stand nowhere else.
pub(super) const PERSONAL: &str = "Ada";

pub(super) fn subject(n: usize) -> Uuid {
    Uuid::from_u128(0xA11C_E000_0000_4000_8000_0000_0000_0000 + n as u128)
}

/// The kind of a record of the consent that gates the feed.
pub(super) const GRANTED: &str = "consent.granted";

pub(super) fn given(n: usize, kind: &str, said: Said) -> Given {
    Given {
        id: Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000 + n as u128),
        kind: kind.to_owned(),
        subject: subject(n),
        time: (kind != SNAPSHOT).then(|| TIME.to_owned()),
        sequence: n as u64,
        granted: kind == GRANTED,
        details: details(kind).as_object().unwrap().clone(),
        said,
    }
}

/// What an event of a kind says of itself.
pub(super) fn details(kind: &str) -> Value {
    match kind {
        "plan.upgraded" => json!({ "from": "free", "to": "pro" }),
        GRANTED => json!({ "purpose": "newsletter" }),
        _ => json!({}),
    }
}

pub(super) fn fields_of(state: &Value) -> Said {
    Said::State(state.as_object().unwrap().clone())
}

pub(super) fn full() -> Said {
    fields_of(&json!({
        "email": "Ada@example.com", "given_name": "Ada", "family_name": "AdaL", "phone_number": "+44 Ada", "plan": "pro",
        "roles": ["a", "b"], "created_at": TIME, "email_verified": true, "unsubscribe_url": "https://id.example/Ada",
    }))
}

pub(super) fn withdrawn(n: usize, reason: Reason) -> Given {
    given(n, "subject.withdrawn", Said::Withdrawn(reason))
}

/// One of each: a snapshot, an event, a grant, and the three withdrawals.
pub(super) fn each() -> Vec<Given> {
    vec![
        given(0, SNAPSHOT, full()),
        given(1, "plan.upgraded", full()),
        given(2, GRANTED, full()),
        withdrawn(3, Reason::ConsentWithdrawn),
        withdrawn(4, Reason::Disabled),
        withdrawn(5, Reason::Erased),
    ]
}

pub(super) fn all_fields() -> BTreeSet<String> {
    mapping::FIELDS.iter().map(|f| (*f).to_owned()).collect()
}

pub(super) fn connect(definition: Value, credential: Credential) -> Result<Connector, DefinitionError> {
    let definition: Definition = serde_json::from_value(definition).unwrap();
    definition.connect(&all_fields(), credential)
}

pub(super) fn bearer_token() -> Credential {
    Credential::Bearer(Secret::new("s3cret"))
}

pub(super) fn basic_pair() -> Credential {
    Credential::Basic {
        user: Secret::new("s3cret-user"),
        password: Secret::new("s3cret"),
    }
}

pub(super) fn write_key() -> Credential {
    Credential::WriteKey {
        write_key: Secret::new("s3cret"),
        public_api: Some(Secret::new("s3cret-2")),
    }
}

pub(super) fn client() -> Credential {
    Credential::Client {
        id: Secret::new("s3cret-id"),
        secret: Secret::new("s3cret"),
    }
}

/// A connector to each vendor, with all that can be set.
pub(super) fn connectors() -> Vec<Connector> {
    [
        (json!({ "vendor": "segment" }), write_key()),
        (
            json!({ "vendor": "hubspot", "subscription_id": "1" }),
            bearer_token(),
        ),
        (
            json!({ "vendor": "salesforce", "base_url": "https://x.example", "purpose": "news" }),
            client(),
        ),
        (
            json!({ "vendor": "zendesk", "base_url": "https://x.example", "withdrawal": "clear" }),
            basic_pair(),
        ),
        (
            json!({ "vendor": "zendesk", "base_url": "https://x.example", "withdrawal": "delete" }),
            bearer_token(),
        ),
        (json!({ "vendor": "customer_io" }), basic_pair()),
    ]
    .map(|(definition, credential)| connect(definition, credential).unwrap())
    .into()
}

pub(super) fn answer(status: u16, body: &[u8]) -> Answer<'_> {
    Answer {
        status,
        headers: &[],
        retry_after: None,
        now: 1_767_225_600,
        body,
    }
}

/// What a connector says to a status and a JSON body.
pub(super) fn says(connector: &Connector, call: &Call, status: u16, body: &Value) -> Outcome {
    connector.verdicts(call, &answer(status, body.to_string().as_bytes()))
}

pub(super) fn body(call: &Call) -> Value {
    serde_json::from_slice(&call.body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&call.body)))
}

pub(super) fn verdicts_of(verdicts: Vec<(usize, Verdict)>) -> Outcome {
    Outcome::Judged {
        verdicts,
        next: vec![],
    }
}

pub(super) fn rejected(reason: &str) -> Verdict {
    Verdict::Rejected {
        reason: reason.to_owned(),
    }
}

/// The calls that follow from an outcome which has no verdicts yet.
pub(super) fn next(outcome: Outcome) -> Vec<Call> {
    match outcome {
        Outcome::Judged { verdicts, next } if verdicts.is_empty() => next,
        other => panic!("no calls alone: {other:?}"),
    }
}

#[test]
fn nothing_personal_or_secret_is_seen() {
    for connector in connectors() {
        let plan = connector.calls(&each());
        let shown = format!("{connector:?} {plan:?} {:?} {:?}", connector.login(), each());
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(!shown.contains(PERSONAL), "{shown}");
        for call in &plan.calls {
            assert!(
                call.path.starts_with('/') && !call.path.contains(PERSONAL),
                "{call:?}"
            );
            assert!(connector.base_url(call.base).starts_with("https://"));
            let authorization = connector.authorization(call.base);
            assert!(
                call.headers.contains(&("authorization", authorization)),
                "{call:?}"
            );
            assert!(
                call.headers
                    .iter()
                    .all(|(n, _)| n.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
            );
        }
    }
}

#[test]
fn withdrawals_say_nothing_personal() {
    for connector in connectors() {
        let plan = connector.calls(&each()[3..]);
        assert!(!plan.calls.is_empty());
        for call in plan.calls {
            assert!(
                !String::from_utf8_lossy(&call.body).contains(PERSONAL),
                "{call:?}"
            );
        }
    }
}

#[test]
fn the_same_batch_makes_the_same_calls_and_every_record_has_one() {
    for connector in connectors() {
        let plan = connector.calls(&each());
        assert_eq!(plan, connector.calls(&each()));
        assert_eq!(plan.refused, vec![]);
        let mut records: Vec<_> = plan.calls.iter().flat_map(|c| c.records.clone()).collect();
        records.sort_unstable();
        records.dedup();
        assert_eq!(records, [0, 1, 2, 3, 4, 5], "{connector:?}");
        assert_eq!(connector.calls(&[]), Plan::default());
    }
}

#[test]
fn statuses_that_mean_the_same_everywhere() {
    let retry = |after: Option<u64>| Verdict::Retry {
        after: after.map(std::time::Duration::from_secs),
    };
    for connector in connectors() {
        let batch = [given(0, SNAPSHOT, full())];
        let call = connector.calls(&batch).calls.remove(0);
        let headers = [("X-RateLimit-Reset".to_owned(), "7".to_owned())];
        let with = |status, retry_after: Option<u64>, headers| {
            let retry_after = retry_after.map(std::time::Duration::from_secs);
            connector.verdicts(
                &call,
                &Answer {
                    retry_after,
                    headers,
                    ..answer(status, b"nonsense")
                },
            )
        };
        let seconds = std::time::Duration::from_secs;
        for (status, retry_after, headers, expected) in [
            (401, None, &[][..], Outcome::Unauthorized),
            (403, None, &[], Outcome::Unauthorized),
            (429, Some(3), &[], Outcome::Wait(seconds(3))),
            (429, Some(0), &[], Outcome::Wait(seconds(1))),
            (429, None, &headers, Outcome::Wait(seconds(7))),
            (429, None, &[], Outcome::Wait(seconds(10))),
            (503, Some(3), &[], Outcome::Wait(seconds(3))),
            (503, None, &[], verdicts_of(vec![(0, retry(None))])),
            (500, Some(9), &[], verdicts_of(vec![(0, retry(Some(9)))])),
            (302, None, &[], verdicts_of(vec![(0, retry(None))])),
            (404, None, &[], verdicts_of(vec![(0, retry(None))])),
            (408, None, &[], verdicts_of(vec![(0, retry(None))])),
        ] {
            assert_eq!(
                with(status, retry_after, headers),
                expected,
                "{status} {connector:?}"
            );
        }
        // The code of an error is shown, but only if it is one.
        for body in [
            json!({ "message": "Ada@example.com is bad", "category": "Ada@example.com", "error": "Ada is bad", "code": "Ada 1" }),
            json!([{ "errorCode": "Ada@example.com", "message": "Ada" }]),
            json!({ "errors": [{ "type": "Ada@example.com", "reason": "Ada is bad" }] }),
        ] {
            let outcome = format!("{:?}", says(&connector, &call, 400, &body));
            assert!(outcome.contains("refused it: no reason given"), "{outcome}");
            assert!(!outcome.contains(PERSONAL), "{outcome}");
        }
    }
}

#[test]
fn a_refused_batch_is_halved_until_one_record_is_to_blame() {
    for connector in connectors() {
        let batch: Vec<_> = (0..5).map(|n| given(n, SNAPSHOT, full())).collect();
        // The vendor refuses each request that has the fourth subject in it.
        let bad = subject(3).to_string();
        let mut plan = connector.calls(&batch);
        // One request, for vendors with several: the others have each their own list.
        plan.calls.truncate(1);
        let mut run = Run::new(plan, batch.len());
        let mut made = 0;
        while let Some(call) = run.call().cloned() {
            made += 1;
            assert!(made < 20);
            let list = body(&call);
            let elements = ["batch", "inputs", "records", "users"]
                .iter()
                .find_map(|l| list[*l].as_array());
            let accepted = match (&connector, elements) {
                (Connector::Zendesk(_), _) => {
                    json!({ "job_status": { "status": "completed", "results": [] } })
                }
                (Connector::Salesforce(_), Some(all)) => {
                    all.iter().map(|_| json!({ "success": true })).collect()
                }
                _ => json!({}),
            };
            let status = if list.to_string().contains(&bad) { 400 } else { 200 };
            let _ = run.answered(says(&connector, &call, status, &accepted));
        }
        let verdicts = run.finish();
        for (n, verdict) in verdicts.iter().enumerate() {
            assert_eq!(
                matches!(verdict, Verdict::Rejected { .. }),
                n == 3,
                "{n} {verdict:?} {connector:?}"
            );
            assert_eq!(
                *verdict == Verdict::Delivered,
                n != 3,
                "{n} {verdict:?} {connector:?}"
            );
        }
    }
}
