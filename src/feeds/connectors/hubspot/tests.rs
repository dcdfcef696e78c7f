use super::super::tests::*;
use super::super::{Connector, Go, Outcome, Reason, Run, SNAPSHOT, Verdict};
use super::*;

fn connector(more: Value) -> Connector {
    let mapping =
        json!({ "email": "email", "given_name": "firstname", "roles": "my_roles", "email_verified": "ok" });
    let mut definition = json!({ "vendor": "hubspot", "mapping": mapping });
    definition
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    connect(definition, bearer_token()).unwrap()
}

fn of(connector: &Connector, batch: &[Given]) -> Call {
    let plan = connector.calls(batch);
    let [call] = &plan.calls[..] else {
        panic!("{plan:?}")
    };
    call.clone()
}

#[test]
fn states() {
    let c = connector(json!({ "id_property": "crm_id" }));
    for kind in [SNAPSHOT, "plan.upgraded"] {
        let call = of(&c, &[given(0, kind, full())]);
        assert_eq!(
            (call.method, call.path.as_str()),
            (Method::Post, "/crm/v3/objects/contacts/batch/upsert")
        );
        let properties =
            json!({ "email": "Ada@example.com", "firstname": "Ada", "my_roles": "a;b", "ok": "true" });
        let input = json!({ "idProperty": "crm_id", "id": subject(0), "objectWriteTraceId": "0", "properties": properties });
        assert_eq!(body(&call), json!({ "inputs": [input] }));
    }
    let plan = c.calls(&(0..250).map(|n| given(n, SNAPSHOT, full())).collect::<Vec<_>>());
    assert_eq!(
        plan.calls.iter().map(|c| c.records.len()).collect::<Vec<_>>(),
        [100, 100, 50]
    );
}

#[test]
fn partial_failures() {
    let c = connector(json!({}));
    let call = of(
        &c,
        &(0..3).map(|n| given(n, SNAPSHOT, full())).collect::<Vec<_>>(),
    );
    let (ok, retry) = (Verdict::Delivered, Verdict::RETRY);
    let conflict = || rejected("HubSpot refused it: CONFLICT");
    let error = |category: &str, context: Value| json!({ "category": category, "message": "Ada", "context": context });
    for (errors, expected) in [
        (json!([]), [ok.clone(), ok.clone(), ok.clone()]),
        (
            json!([error("CONFLICT", json!({ "objectWriteTraceId": ["1"] }))]),
            [ok.clone(), conflict(), ok.clone()],
        ),
        (
            json!([error("CONFLICT", json!({ "ids": [subject(2)] }))]),
            [ok.clone(), ok.clone(), conflict()],
        ),
        (
            json!([error("CONFLICT", json!({ "id": subject(0) }))]),
            [conflict(), ok.clone(), ok.clone()],
        ),
        (
            json!([error("RATE_LIMITS", json!({ "objectWriteTraceId": ["0", "2"] }))]),
            [retry.clone(), ok.clone(), retry],
        ),
    ] {
        let outcome = says(
            &c,
            &call,
            207,
            &json!({ "results": [], "numErrors": 1, "errors": errors }),
        );
        assert_eq!(
            outcome,
            verdicts_of(expected.into_iter().enumerate().collect()),
            "{errors}"
        );
    }
    let halves = next(says(
        &c,
        &call,
        207,
        &json!({ "errors": [error("CONFLICT", json!({}))] }),
    ));
    assert_eq!(
        halves.iter().map(|c| c.records.clone()).collect::<Vec<_>>(),
        [vec![0], vec![1, 2]]
    );
    // The whole call is refused for the one of them.
    let halves = next(says(&c, &call, 409, &error("CONFLICT", json!({}))));
    assert_eq!(
        halves.iter().map(|c| c.records.clone()).collect::<Vec<_>>(),
        [vec![0], vec![1, 2]]
    );
    assert_eq!(
        c.verdicts(&call, &answer(207, b"<html>")),
        Outcome::all(&call, &Verdict::RETRY)
    );
    let one = of(&c, &[given(0, SNAPSHOT, full())]);
    assert_eq!(
        says(&c, &one, 409, &error("CONFLICT", json!({}))),
        verdicts_of(vec![(0, conflict())])
    );
    let body = error("VALIDATION_ERROR", json!({}));
    assert_eq!(
        says(&c, &one, 400, &body),
        verdicts_of(vec![(0, rejected("HubSpot refused it: VALIDATION_ERROR"))])
    );
}

fn batch() -> [Given; 4] {
    [
        withdrawn(0, Reason::ConsentWithdrawn),
        withdrawn(1, Reason::Disabled),
        withdrawn(2, Reason::Erased),
        withdrawn(3, Reason::Erased),
    ]
}

fn contact(n: usize, email: &str) -> Value {
    json!({ "id": format!("{}", 900 + n), "properties": { "gatelog_id": subject(n), "email": email } })
}

#[test]
fn withdrawals() {
    let c = connector(json!({ "subscription_id": "77" }));
    let call = of(&c, &batch());
    assert_eq!(call.path, "/crm/v3/objects/contacts/batch/read");
    let inputs: Vec<_> = (0..4).map(|n| json!({ "id": subject(n) })).collect();
    let expected = json!({
        "idProperty": "gatelog_id", "properties": ["gatelog_id", "email"], "propertiesWithHistory": [], "inputs": inputs,
    });
    assert_eq!(body(&call), expected);

    let results = json!([contact(2, "x@y"), contact(1, ""), contact(0, "Ada@example.com")]);
    let missing = json!([{ "category": "OBJECT_NOT_FOUND", "context": { "ids": [subject(3)] } }]);
    let outcome = says(&c, &call, 207, &json!({ "results": results, "errors": missing }));
    let Outcome::Judged { verdicts, next } = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(verdicts, [(3, Verdict::Delivered)]);
    let shown: Vec<_> = next
        .iter()
        .map(|c| (c.path.rsplit('/').next().unwrap(), body(c)))
        .collect();
    let empty = json!({ "email": "", "firstname": "", "my_roles": "", "ok": "" });
    let but_the_address = json!({ "firstname": "", "my_roles": "", "ok": "" });
    let update_of = |n: usize, properties: &Value| json!({ "id": format!("{}", 900 + n), "objectWriteTraceId": n.to_string(), "properties": properties });
    let update = |n: usize| update_of(n, &empty);
    let expected = [
        (
            "unsubscribe",
            json!({
                "emailAddress": "Ada@example.com",
                "subscriptionId": "77",
                "legalBasis": "CONSENT_WITH_NOTICE",
                "legalBasisExplanation": "The consent was withdrawn",
            }),
        ),
        ("gdpr-delete", json!({ "objectId": "902" })),
        ("update", json!({ "inputs": [update(1)] })),
        ("update", json!({ "inputs": [update_of(0, &but_the_address)] })),
    ];
    assert_eq!(shown, expected);
    assert_eq!(
        next.iter().map(|c| c.records.clone()).collect::<Vec<_>>(),
        [vec![0], vec![2], vec![1], vec![0]]
    );

    // Done already, or gone meanwhile: what was wanted.
    let [unsubscribe, erase, clear, _] = &next[..] else {
        panic!()
    };
    let again = json!({ "message": "Ada@example.com is already unsubscribed from subscription 77", "category": "VALIDATION_ERROR" });
    for unsubscribed in [
        says(&c, unsubscribe, 400, &again),
        says(&c, unsubscribe, 200, &json!({})),
    ] {
        let updates = super::super::tests::next(unsubscribed);
        let [hers] = &updates[..] else { panic!() };
        assert_eq!(hers.path, "/crm/v3/objects/contacts/batch/update");
        assert_eq!(
            body(hers),
            json!({ "inputs": [update_of(0, &json!({ "email": "" }))] })
        );
        assert_eq!(hers.records, [0]);
    }
    let other = says(
        &c,
        unsubscribe,
        400,
        &json!({ "message": "no", "category": "VALIDATION_ERROR" }),
    );
    assert_eq!(
        other,
        verdicts_of(vec![(0, rejected("HubSpot refused it: VALIDATION_ERROR"))])
    );
    assert_eq!(c.verdicts(erase, &answer(404, b"")), Outcome::delivered(erase));
    assert_eq!(c.verdicts(erase, &answer(204, b"")), Outcome::delivered(erase));
    let gone = json!({ "errors": [{ "category": "OBJECT_NOT_FOUND", "context": { "ids": ["901"] } }] });
    assert_eq!(says(&c, clear, 207, &gone), Outcome::delivered(clear));
    assert_eq!(c.verdicts(clear, &answer(404, b"")), Outcome::delivered(clear));
}

#[test]
fn who_could_not_be_unsubscribed_keeps_the_address_for_another_attempt() {
    let c = connector(json!({ "subscription_id": "77" }));
    let batch = [withdrawn(0, Reason::ConsentWithdrawn)];
    let [retry, refused] = [Verdict::RETRY, rejected("HubSpot refused it: no reason given")];
    for (status, verdict) in [
        (500, retry.clone()),
        (404, retry),
        (400, refused),
        (200, Verdict::Delivered),
    ] {
        let mut run = Run::new(c.calls(&batch), 1);
        let mut paths = vec![];
        while let Some(call) = run.call().cloned() {
            let path = call.path.rsplit('/').next().unwrap().to_owned();
            let (status, answered) = match path.as_str() {
                "read" => (200, json!({ "results": [contact(0, "Ada@example.com")] })),
                "unsubscribe" => (status, json!({})),
                _ => (200, json!({ "results": [] })),
            };
            paths.push(path);
            assert_eq!(run.answered(says(&c, &call, status, &answered)), Go::On);
        }
        let mut expected = vec!["read", "unsubscribe", "update"];
        expected.extend((status == 200).then_some("update"));
        assert_eq!(paths, expected, "{status}");
        assert_eq!(run.finish(), [verdict], "{status}");
    }
}

#[test]
fn withdrawals_without_a_subscription_or_properties() {
    let call = of(&connector(json!({})), &batch()[..2]);
    let found = json!({ "results": [contact(0, "Ada@example.com"), contact(1, "")] });
    let paths: Vec<_> = next(says(&connector(json!({})), &call, 200, &found))
        .into_iter()
        .map(|c| c.path)
        .collect();
    assert_eq!(paths, ["/crm/v3/objects/contacts/batch/update"]);
    let updates = next(says(&connector(json!({})), &call, 200, &found));
    let [clear] = &updates[..] else { panic!() };
    assert_eq!(clear.records, [0, 1]);
    assert_eq!(
        connector(json!({})).verdicts(clear, &answer(404, b"")),
        Outcome::next(clear.halves().unwrap().into())
    );
    let nothing = connector(json!({ "mapping": {} }));
    assert_eq!(says(&nothing, &call, 200, &found), Outcome::delivered(&call));
    let nothing = connector(json!({ "mapping": {}, "subscription_id": "77" }));
    let Outcome::Judged { verdicts, next } = says(&nothing, &call, 200, &found) else {
        panic!()
    };
    assert_eq!(verdicts, [(1, Verdict::Delivered)]);
    let [unsubscribe] = &next[..] else { panic!() };
    assert_eq!(
        says(&nothing, unsubscribe, 200, &json!({})),
        Outcome::delivered(unsubscribe)
    );
}

#[test]
fn a_read_that_does_not_tell_is_made_again() {
    let c = connector(json!({}));
    let call = of(&c, &batch());
    for body in [
        json!({}),
        json!([]),
        json!({ "results": 1 }),
        json!({ "results": [], "errors": [{ "category": "INTERNAL" }] }),
    ] {
        assert_eq!(
            says(&c, &call, 200, &body),
            Outcome::all(&call, &Verdict::RETRY),
            "{body}"
        );
    }
    assert_eq!(
        says(&c, &call, 200, &json!({ "results": [] })),
        Outcome::delivered(&call)
    );
}
