//! Prints, as JSON, the calls that the connectors make for a fixed set of cases, those included that follow from a vendor's
//! answers. `scripts/connector-sdks` holds them against the vendors' own clients.

use std::collections::BTreeSet;

use gatelog::feeds::connectors::{
    Answer, Connector, Credential, Definition, Given, Go, Reason, Run, Said, Secret, mapping::FIELDS,
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

type Any = Box<dyn std::error::Error>;

fn main() -> Result<(), Any> {
    let mut all = vec![];
    for (case, definition, credential) in cases() {
        let definition: Definition = serde_json::from_value(definition)?;
        let fields: BTreeSet<String> = FIELDS.iter().map(|f| (*f).to_owned()).collect();
        let mut connector = definition.connect(&fields, credential)?;
        if let Some(login) = connector.login() {
            all.push(shown(&case, &connector, &login));
            let body = json!({ "access_token": "00Dtoken", "token_type": "Bearer" }).to_string();
            connector.logged_in(&answer(200, &body))?;
        }
        let batch = batch();
        let mut run = Run::new(connector.calls(&batch), batch.len());
        while let Some(call) = run.call().cloned() {
            let shown = shown(&case, &connector, &call);
            let body = canned(&shown).to_string();
            let outcome = connector.verdicts(&call, &answer(200, &body));
            all.push(shown);
            if run.answered(outcome) != Go::On {
                return Err("a pause is asked for".into());
            }
        }
        let verdicts = run.finish();
        all.push(json!({ "case": case, "verdicts": format!("{verdicts:?}") }));
    }
    println!("{}", serde_json::to_string_pretty(&all)?);
    Ok(())
}

fn answer(status: u16, body: &str) -> Answer<'_> {
    Answer {
        status,
        headers: &[],
        retry_after: None,
        now: 1_767_225_600,
        body: body.as_bytes(),
    }
}

fn cases() -> Vec<(String, Value, Credential)> {
    let secret = |s: &str| Secret::new(s);
    let token = || Credential::Bearer(secret("a-token"));
    let client = || Credential::Client {
        id: secret("client+id"),
        secret: secret("client/secret="),
    };
    let basic = |user, password| Credential::Basic {
        user: secret(user),
        password: secret(password),
    };
    let write_key = || Credential::WriteKey {
        write_key: secret("a-write-key"),
        public_api: Some(secret("a-public-token")),
    };
    let salesforce = "https://example.my.salesforce.com";
    let zendesk = "https://example.zendesk.com";
    let more = json!({
        "email": "email", "given_name": "name.given", "family_name": "name.family", "phone_number": "phone",
        "locale": "locale", "nickname": "alias", "plan": "user_fields.plan", "email_verified": "user_fields.verified",
    });
    let consent = json!({
        "vendor": "salesforce", "base_url": salesforce, "purpose": "newsletter", "data_use_purpose": "0ZW000000000001AAA",
        "mapping": {
            "email": "Email", "given_name": "FirstName", "family_name": "LastName", "phone_number": "Phone",
            "birthdate": "Birthdate", "locality": "MailingCity", "job_title": "Title",
        },
    });
    let lead = json!({
        "vendor": "salesforce", "base_url": salesforce, "object": "Lead", "purpose": "newsletter",
        "mapping": { "email": "Email", "family_name": "LastName", "company": "Company" },
    });
    let all = [
        ("segment", json!({ "vendor": "segment" }), write_key()),
        (
            "hubspot",
            json!({ "vendor": "hubspot", "subscription_id": "4711" }),
            token(),
        ),
        ("salesforce-contact", consent, client()),
        ("salesforce-lead", lead, token()),
        (
            "salesforce-plain",
            json!({ "vendor": "salesforce", "base_url": salesforce }),
            token(),
        ),
        (
            "zendesk-clear",
            json!({ "vendor": "zendesk", "base_url": zendesk, "withdrawal": "clear", "suspend_disabled": true, "mapping": more }),
            basic("agent@example.com/token", "an-api-token"),
        ),
        (
            "zendesk-delete",
            json!({ "vendor": "zendesk", "base_url": zendesk, "withdrawal": "delete" }),
            token(),
        ),
        (
            "customer_io",
            json!({ "vendor": "customer_io" }),
            basic("a-site", "a-key"),
        ),
    ];
    all.map(|(case, definition, credential)| (case.to_owned(), definition, credential))
        .into()
}

fn subject(n: u128) -> Uuid {
    Uuid::from_u128(0xA11C_E000_0000_4000_8000_0000_0000_0000 + n)
}

fn details(kind: &str) -> Map<String, Value> {
    let details = match kind {
        "plan.upgraded" => &[
            ("from", "free"),
            ("to", "pro"),
            ("effective_at", "2026-01-01T00:00:00.000Z"),
        ][..],
        "consent.granted" => &[("purpose", "newsletter"), ("channel", "email")],
        _ => &[],
    };
    let details = details
        .iter()
        .map(|(name, text)| ((*name).to_owned(), json!(text)));
    details.collect()
}

fn batch() -> Vec<Given> {
    let given = |n: u128, kind: &str, time: Option<&str>, said: Said| Given {
        id: Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000 + n),
        kind: kind.to_owned(),
        subject: subject(n),
        time: time.map(str::to_owned),
        sequence: u64::try_from(n).unwrap_or(0) + 7,
        granted: kind == "consent.granted",
        details: details(kind),
        said,
    };
    let full: Map<String, Value> = [
        ("email", json!("ada@example.com")),
        ("email_verified", json!(true)),
        ("locale", json!("en-GB")),
        ("plan", json!("pro")),
        ("entitlements", json!(["export", "sso"])),
        ("roles", json!(["admin"])),
        ("created_at", json!("2025-12-31T23:59:59.123Z")),
        ("consents", json!(["newsletter"])),
        ("unsubscribe_url", json!("https://id.example.com/u/1")),
        ("given_name", json!("Ada \"the Countess\"")),
        ("family_name", json!("Lovelace")),
        ("phone_number", json!("+441632960961")),
        ("birthdate", json!("1815-12-10")),
        ("locality", json!("London")),
        ("company", json!("Analytical Engines")),
        ("job_title", json!("Programmer")),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect();
    let sparse = [
        ("email".to_owned(), json!("grace@example.com")),
        ("phone_number".to_owned(), Value::Null),
    ];
    let at = Some("2026-01-01T00:00:00.000Z");
    vec![
        given(0, "subject.snapshot", None, Said::State(full.clone())),
        given(1, "plan.upgraded", at, Said::State(sparse.into_iter().collect())),
        given(2, "consent.granted", at, Said::State(full)),
        given(
            3,
            "subject.withdrawn",
            at,
            Said::Withdrawn(Reason::ConsentWithdrawn),
        ),
        given(4, "subject.withdrawn", at, Said::Withdrawn(Reason::Disabled)),
        given(5, "subject.withdrawn", at, Said::Withdrawn(Reason::Erased)),
        given(6, "subject.withdrawn", None, Said::Withdrawn(Reason::Erased)),
    ]
}

fn shown(case: &str, connector: &Connector, call: &gatelog::feeds::connectors::Call) -> Value {
    let text = String::from_utf8_lossy(&call.body).into_owned();
    let headers: Map<_, _> = call
        .headers
        .iter()
        .map(|(n, v)| ((*n).to_owned(), json!(v)))
        .collect();
    json!({
        "case": case,
        "base": connector.base_url(call.base),
        "method": call.method.as_str(),
        "path": call.path,
        "headers": headers,
        "body": serde_json::from_str(&text).unwrap_or(json!(text)),
        "records": call.records,
        "delay": call.delay.as_secs(),
    })
}

/// What a vendor answers when all goes well.
fn canned(call: &Value) -> Value {
    let (path, body) = (call["path"].as_str().unwrap_or_default(), &call["body"]);
    let subjects = (0..7).map(subject);
    if path.ends_with("/batch/read") {
        let contact = |(n, s): (usize, Uuid)| json!({ "id": (9000 + n).to_string(), "properties": { "gatelog_id": s, "email": format!("p{n}@example.com") } });
        return json!({ "status": "COMPLETE", "results": subjects.enumerate().map(contact).collect::<Vec<_>>() });
    }
    if path.contains("show_many") {
        let user = |(n, s): (usize, Uuid)| json!({ "id": 8000 + n, "external_id": s, "active": true });
        return json!({ "users": subjects.enumerate().map(user).collect::<Vec<_>>() });
    }
    if path.contains("job_statuses") {
        return json!({ "job_status": { "id": "0aZ9", "status": "completed", "results": [] } });
    }
    if path.contains("_many") {
        return json!({ "job_status": { "id": "0aZ9", "status": "queued" } });
    }
    if let Some(records) = body["records"].as_array() {
        return records
            .iter()
            .map(|_| json!({ "success": true, "errors": [] }))
            .collect();
    }
    if let Some(requests) = body["compositeRequest"].as_array() {
        let gone = json!({ "httpStatusCode": 204, "body": null });
        return json!({ "compositeResponse": requests.iter().map(|_| gone.clone()).collect::<Vec<_>>() });
    }
    json!({})
}
