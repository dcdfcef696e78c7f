use super::super::tests::*;
use super::super::{Connector, SNAPSHOT, Verdict};
use super::*;

fn connector(more: Value) -> Connector {
    let mut definition = json!({ "vendor": "segment", "mapping": { "email": "email", "plan": "tier" } });
    definition
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    connect(definition, write_key()).unwrap()
}

fn messages(call: &Call) -> Vec<Value> {
    body(call)["batch"].as_array().unwrap().clone()
}

#[test]
fn states_and_events() {
    let id = given(0, SNAPSHOT, full()).id;
    let identify = json!({
        "type": "identify", "messageId": id, "userId": subject(0), "traits": { "email": "Ada@example.com", "tier": "pro" },
    });
    let mut timed = identify.clone();
    timed["timestamp"] = json!(TIME);
    let track = |event: &str, kind: &str| {
        let mut properties = details(kind);
        properties["kind"] = json!(kind);
        properties["sequence"] = json!(0);
        json!({
            "type": "track", "messageId": format!("{id}-event"), "userId": subject(0), "timestamp": TIME,
            "event": event, "properties": properties,
        })
    };
    for (kind, expected) in [
        (SNAPSHOT, vec![identify]),
        (
            "plan.upgraded",
            vec![timed.clone(), track("Plan Upgraded", "plan.upgraded")],
        ),
        (GRANTED, vec![timed, track("Consent Granted", GRANTED)]),
    ] {
        let plan = connector(json!({})).calls(&[given(0, kind, full())]);
        let [call] = &plan.calls[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(
            (call.method, call.path.as_str(), call.base),
            (Method::Post, "/v1/batch", Base::Api)
        );
        assert_eq!(messages(call), expected, "{kind}");
    }
}

#[test]
fn what_a_state_lacks_is_null() {
    let plan = connector(json!({})).calls(&[given(
        0,
        SNAPSHOT,
        fields_of(&json!({ "email": null, "locale": "en" })),
    )]);
    assert_eq!(
        messages(&plan.calls[0])[0]["traits"],
        json!({ "email": null, "tier": null })
    );
}

#[test]
fn withdrawals() {
    for (reason, name, regulated) in [
        (Reason::ConsentWithdrawn, "consent_withdrawn", false),
        (Reason::Disabled, "disabled", false),
        (Reason::Erased, "erased", true),
    ] {
        let plan = connector(json!({})).calls(&[withdrawn(7, reason)]);
        let said = messages(&plan.calls[0]);
        assert_eq!(said[0]["event"], "Consent Withdrawn");
        assert_eq!(said[0]["properties"], json!({ "reason": name }));
        assert_eq!(said[1]["traits"], json!({ "email": null, "tier": null }));
        assert_ne!(said[0]["messageId"], said[1]["messageId"]);
        assert_eq!(plan.calls.len(), if regulated { 2 } else { 1 });
        let Some(call) = plan.calls.get(1) else { continue };
        assert_eq!(
            (call.path.as_str(), call.base, &call.records[..]),
            ("/regulations", Base::Regulations, &[0][..])
        );
        let expected = json!({ "regulationType": "SUPPRESS_WITH_DELETE", "subjectType": "USER_ID", "subjectIds": [subject(7)] });
        assert_eq!(body(call), expected);
        assert!(
            call.headers
                .contains(&("authorization", "Bearer s3cret-2".to_owned()))
        );
        let plan = connector(json!({ "regulations": false })).calls(&[withdrawn(7, reason)]);
        assert_eq!(plan.calls.len(), 1);
    }
}

#[test]
fn regions_and_credential() {
    let c = connector(
        json!({ "base_url": "https://events.eu1.segmentapis.com/", "regulations_url": "https://eu1.api.segmentapis.com" }),
    );
    assert_eq!(c.base_url(Base::Api), "https://events.eu1.segmentapis.com");
    assert_eq!(c.base_url(Base::Regulations), "https://eu1.api.segmentapis.com");
    // The write key is the user; there is no password.
    assert_eq!(c.authorization(Base::Api), "Basic czNjcmV0Og==");
}

#[test]
fn batches_stay_below_500_kilobytes() {
    let state = fields_of(&json!({ "email": "x".repeat(30_000) }));
    let batch: Vec<_> = (0..40).map(|n| given(n, SNAPSHOT, state.clone())).collect();
    let plan = connector(json!({})).calls(&batch);
    assert_eq!(plan.calls.len(), 3);
    assert!(plan.calls.iter().all(|c| c.body.len() <= 500_000));
    let plan = connector(json!({})).calls(&[given(
        0,
        "plan.upgraded",
        fields_of(&json!({ "email": "x".repeat(32_000) })),
    )]);
    assert_eq!(
        (plan.calls.len(), plan.refused),
        (0, vec![(0, rejected("Segment takes no record of this size"))])
    );
}

#[test]
fn answers() {
    let c = connector(json!({}));
    let call = c.calls(&[given(0, SNAPSHOT, full())]).calls.remove(0);
    let delivered = verdicts_of(vec![(0, Verdict::Delivered)]);
    assert_eq!(says(&c, &call, 200, &json!({ "success": true })), delivered);
    assert_eq!(c.verdicts(&call, &answer(200, b"<html>")), delivered);
    let refused = verdicts_of(vec![(0, rejected("Segment refused it: invalid_request"))]);
    assert_eq!(
        says(
            &c,
            &call,
            400,
            &json!({ "code": "invalid_request", "message": "Ada" })
        ),
        refused
    );
    let call = c.calls(&[withdrawn(0, Reason::Erased)]).calls.remove(1);
    let refused = verdicts_of(vec![(0, rejected("Segment refused it: validation"))]);
    assert_eq!(
        says(&c, &call, 422, &json!({ "errors": [{ "type": "validation" }] })),
        refused
    );
    assert_eq!(
        says(&c, &call, 200, &json!({ "data": { "regulateId": "x" } })),
        delivered
    );
}
