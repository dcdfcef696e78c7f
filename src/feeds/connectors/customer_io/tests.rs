use super::super::tests::*;
use super::super::{Connector, Reason, SNAPSHOT};
use super::*;

fn connector() -> Connector {
    let mapping = json!({ "email": "email", "plan": "plan", "created_at": "created_at", "roles": "roles" });
    connect(
        json!({ "vendor": "customer_io", "mapping": mapping }),
        basic_pair(),
    )
    .unwrap()
}

fn operations(given: Given) -> Vec<Value> {
    let plan = connector().calls(&[given]);
    let [call] = &plan.calls[..] else {
        panic!("{plan:?}")
    };
    assert_eq!((call.method, call.path.as_str()), (Method::Post, "/api/v2/batch"));
    body(call)["batch"].as_array().unwrap().clone()
}

fn operation(action: &str, more: Value) -> Value {
    let mut operation = json!({ "type": "person", "identifiers": { "id": subject(0) }, "action": action });
    operation
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    operation
}

#[test]
fn states_events_and_withdrawals() {
    let attributes = json!({ "email": "Ada@example.com", "plan": "pro", "created_at": 1_767_225_600, "roles": ["a", "b"] });
    let mut granted = attributes.clone();
    granted["unsubscribed"] = json!(false);
    let gone = json!({ "email": "", "plan": "", "created_at": "", "roles": "", "unsubscribed": true, "_update": true });
    let at = 1_767_225_600;
    let event = |name: &str| {
        let mut attributes = details(name);
        attributes["sequence"] = json!(0);
        operation(
            "event",
            json!({
                "name": name, "id": "01K4000000E008000000000000", "timestamp": at, "attributes": attributes,
            }),
        )
    };
    for (given, expected) in [
        (
            given(0, SNAPSHOT, full()),
            vec![operation("identify", json!({ "attributes": attributes }))],
        ),
        (
            given(0, "plan.upgraded", full()),
            vec![
                operation("identify", json!({ "attributes": attributes, "timestamp": at })),
                event("plan.upgraded"),
            ],
        ),
        (
            given(0, GRANTED, full()),
            vec![
                operation("identify", json!({ "attributes": granted, "timestamp": at })),
                event(GRANTED),
            ],
        ),
        (
            withdrawn(0, Reason::ConsentWithdrawn),
            vec![operation(
                "identify",
                json!({ "attributes": gone, "timestamp": at }),
            )],
        ),
        (
            withdrawn(0, Reason::Disabled),
            vec![operation(
                "identify",
                json!({ "attributes": gone, "timestamp": at }),
            )],
        ),
        (
            withdrawn(0, Reason::Erased),
            vec![operation("delete", json!({})), operation("suppress", json!({}))],
        ),
    ] {
        assert_eq!(operations(given.clone()), expected, "{given:?}");
    }
}

#[test]
fn ulids() {
    assert_eq!(ulid(Uuid::nil()), "0".repeat(26));
    assert_eq!(ulid(Uuid::max()), format!("7{}", "Z".repeat(25)));
    // Five bits each: 1 and 31.
    assert_eq!(ulid(Uuid::from_u128(0x3F)), format!("{}1Z", "0".repeat(24)));
}

#[test]
fn partial_failures() {
    let c = connector();
    // Operations: 0 identify, 1 event; 2 identify; 3 delete, 4 suppress.
    let batch = [
        given(0, "plan.upgraded", full()),
        given(1, SNAPSHOT, full()),
        withdrawn(2, Reason::Erased),
    ];
    let call = c.calls(&batch).calls.remove(0);
    let ok = Verdict::Delivered;
    let bad = || rejected("Customer.io refused it: invalid");
    let error = |index: Value| json!({ "batch_index": index, "reason": "invalid", "field": "email", "message": "Ada" });
    for (status, errors, expected) in [
        (200, json!([]), [ok.clone(), ok.clone(), ok.clone()]),
        (207, json!([error(json!(1))]), [bad(), ok.clone(), ok.clone()]),
        (200, json!([error(json!(2))]), [ok.clone(), bad(), ok.clone()]),
        (
            207,
            json!([error(json!(0)), error(json!(4))]),
            [bad(), ok.clone(), bad()],
        ),
    ] {
        let outcome = says(&c, &call, status, &json!({ "errors": errors }));
        assert_eq!(
            outcome,
            verdicts_of(expected.into_iter().enumerate().collect()),
            "{errors}"
        );
    }
    // Who is meant is not said, or nobody there: halves.
    for index in [json!(null), json!(5), json!(-1), json!("0")] {
        let halves = next(says(&c, &call, 207, &json!({ "errors": [error(index)] })));
        assert_eq!(halves.iter().map(|c| c.items.len()).collect::<Vec<_>>(), [2, 3]);
    }
    let call = c.calls(&batch[1..2]).calls.remove(0);
    assert_eq!(
        says(&c, &call, 207, &json!({ "errors": [error(json!(null))] })),
        verdicts_of(vec![(0, bad())])
    );
}
