use super::super::tests::*;
use super::super::{Connector, Outcome, Reason, SNAPSHOT, Verdict};
use super::*;

fn connector(more: Value) -> Connector {
    let mapping = json!({ "email": "Email", "family_name": "LastName", "roles": "Roles__c" });
    let mut definition =
        json!({ "vendor": "salesforce", "base_url": "https://x.example", "mapping": mapping });
    definition
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    connect(definition, bearer_token()).unwrap()
}

fn records(call: &Call) -> Vec<Value> {
    let body = body(call);
    assert_eq!(body["allOrNone"], false);
    body["records"].as_array().unwrap().clone()
}

fn person(more: Value) -> Value {
    let mut person = json!({
        "attributes": { "type": "Contact" }, "Gatelog_Id__c": subject(0), "Email": "Ada@example.com", "LastName": "AdaL",
        "Roles__c": "a;b",
    });
    person
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    person
}

#[test]
fn persons() {
    let gone = json!({ "Email": null, "LastName": subject(0), "Roles__c": null, "HasOptedOutOfEmail": true });
    for (given, expected) in [
        (given(0, SNAPSHOT, full()), person(json!({}))),
        (given(0, "plan.upgraded", full()), person(json!({}))),
        (
            given(0, GRANTED, full()),
            person(json!({ "HasOptedOutOfEmail": false })),
        ),
        (withdrawn(0, Reason::ConsentWithdrawn), person(gone.clone())),
        (withdrawn(0, Reason::Disabled), person(gone)),
        // What is required has a value also where the state has none.
        (
            given(
                0,
                SNAPSHOT,
                fields_of(&json!({ "email": "Ada", "family_name": " " })),
            ),
            person(json!({ "Email": "Ada", "LastName": subject(0), "Roles__c": null })),
        ),
    ] {
        let plan = connector(json!({})).calls(std::slice::from_ref(&given));
        let [call] = &plan.calls[..] else {
            panic!("{plan:?}")
        };
        let path = "/services/data/v62.0/composite/sobjects/Contact/Gatelog_Id__c";
        assert_eq!((call.method, call.path.as_str()), (Method::Patch, path));
        assert_eq!(records(call), [expected], "{given:?}");
    }
}

#[test]
fn leads() {
    let c = connector(
        json!({ "object": "Lead", "external_id": "Ext__c", "version": "67.0", "mapping": { "company": "company" } }),
    );
    let plan = c.calls(&[given(0, SNAPSHOT, full())]);
    assert_eq!(
        plan.calls[0].path,
        "/services/data/v67.0/composite/sobjects/Lead/Ext__c"
    );
    let expected = json!({
        "attributes": { "type": "Lead" }, "Ext__c": subject(0), "LastName": subject(0), "company": "[not provided]",
    });
    assert_eq!(records(&plan.calls[0]), [expected]);
}

#[test]
fn consents() {
    let c = connector(json!({
        "purpose": "newsletter", "data_use_purpose": "0ZW000000000001AAA", "channel": "Phone", "capture_source": "Site",
    }));
    let reference = json!({ "Gatelog_Id__c": subject(0) });
    let state = |more: Value| {
        let mut consent = json!({
            "attributes": { "type": "ContactPointTypeConsent" }, "Gatelog_Id__c": subject(0), "Name": "newsletter",
            "Party": reference, "ContactPointType": "Phone", "CaptureContactPointType": "Web", "CaptureSource": "Site",
            "DataUsePurposeId": "0ZW000000000001AAA",
        });
        consent
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        consent
    };
    let untimed = Given {
        time: None,
        ..withdrawn(0, Reason::Disabled)
    };
    for (given, expected) in [
        (
            given(0, SNAPSHOT, full()),
            json!({ "PrivacyConsentStatus": "OptIn", "EffectiveTo": null }),
        ),
        (
            given(0, "plan.upgraded", full()),
            json!({ "PrivacyConsentStatus": "OptIn", "EffectiveTo": null }),
        ),
        (
            given(0, GRANTED, full()),
            json!({ "PrivacyConsentStatus": "OptIn", "EffectiveTo": null, "EffectiveFrom": TIME, "CaptureDate": TIME }),
        ),
        (
            withdrawn(0, Reason::ConsentWithdrawn),
            json!({ "PrivacyConsentStatus": "OptOut", "EffectiveTo": TIME, "CaptureDate": TIME }),
        ),
        (untimed, json!({ "PrivacyConsentStatus": "OptOut" })),
    ] {
        let plan = c.calls(std::slice::from_ref(&given));
        let [individual, contact, consent] = &plan.calls[..] else {
            panic!("{plan:?}")
        };
        assert!(individual.path.ends_with("/Individual/Gatelog_Id__c"));
        let expected_individual = json!({ "attributes": { "type": "Individual" }, "Gatelog_Id__c": subject(0), "LastName": subject(0) });
        assert_eq!(records(individual), [expected_individual]);
        assert_eq!(records(contact)[0]["Individual"], reference);
        assert!(consent.path.ends_with("/ContactPointTypeConsent/Gatelog_Id__c"));
        assert_eq!(records(consent), [state(expected)], "{given:?}");
    }
}

#[test]
fn erasures() {
    let c = connector(json!({ "purpose": "newsletter" }));
    let batch: Vec<_> = (0..9).map(|n| withdrawn(n, Reason::Erased)).collect();
    let plan = c.calls(&batch);
    // Three deletions each, 25 in a request.
    assert_eq!(
        plan.calls.iter().map(|c| c.items.len()).collect::<Vec<_>>(),
        [25, 2]
    );
    let [first, second] = &plan.calls[..] else {
        panic!()
    };
    assert_eq!(
        (first.method, first.path.as_str()),
        (Method::Post, "/services/data/v62.0/composite")
    );
    assert_eq!(second.records, [8]);
    let requests = body(first)["compositeRequest"].clone();
    let url = |object: &str| {
        format!(
            "/services/data/v62.0/sobjects/{object}/Gatelog_Id__c/{}",
            subject(0)
        )
    };
    for (n, object) in ["ContactPointTypeConsent", "Contact", "Individual"]
        .into_iter()
        .enumerate()
    {
        assert_eq!(
            requests[n],
            json!({ "method": "DELETE", "url": url(object), "referenceId": format!("{object}0") })
        );
    }
    let call = &connector(json!({})).calls(&[withdrawn(0, Reason::Erased)]).calls[0];
    assert_eq!(body(call)["compositeRequest"].as_array().unwrap().len(), 1);

    let result = |status: u16, code: &str| json!({ "httpStatusCode": status, "body": [{ "errorCode": code, "message": "Ada" }] });
    let (ok, retry) = (Verdict::Delivered, Verdict::RETRY);
    let batch = [withdrawn(0, Reason::Erased)];
    let call = c.calls(&batch).calls.remove(0);
    for (results, expected) in [
        (
            json!([result(204, ""), result(404, "NOT_FOUND"), result(204, "")]),
            ok,
        ),
        (
            json!([result(204, ""), result(400, "DELETE_FAILED"), result(204, "")]),
            rejected("Salesforce refused it: DELETE_FAILED"),
        ),
        (
            json!([
                result(204, ""),
                result(400, "UNABLE_TO_LOCK_ROW"),
                result(204, "")
            ]),
            retry.clone(),
        ),
        (
            json!([result(204, ""), result(500, "X"), result(204, "")]),
            retry.clone(),
        ),
        (json!([result(204, "")]), retry.clone()),
        (json!(null), retry),
    ] {
        let outcome = says(&c, &call, 200, &json!({ "compositeResponse": results }));
        assert_eq!(outcome, verdicts_of(vec![(0, expected)]), "{results}");
    }
}

#[test]
fn results_stand_in_order() {
    let c = connector(json!({}));
    let batch: Vec<_> = (0..3).map(|n| given(n, SNAPSHOT, full())).collect();
    let call = c.calls(&batch).calls.remove(0);
    let ok = || json!({ "success": true, "errors": [], "created": false });
    let bad = |code: &str| json!({ "success": false, "errors": [{ "statusCode": code, "message": "Ada", "fields": ["Email"] }] });
    let outcome = says(
        &c,
        &call,
        200,
        &json!([ok(), bad("INVALID_EMAIL_ADDRESS"), bad("UNABLE_TO_LOCK_ROW")]),
    );
    let expected = [
        Verdict::Delivered,
        rejected("Salesforce refused it: INVALID_EMAIL_ADDRESS"),
        Verdict::RETRY,
    ];
    assert_eq!(outcome, verdicts_of(expected.into_iter().enumerate().collect()));
    for body in [json!([ok()]), json!({}), json!([ok(), ok(), ok(), ok()])] {
        assert_eq!(
            says(&c, &call, 200, &body),
            Outcome::all(&call, &Verdict::RETRY),
            "{body}"
        );
    }
    let error = |code: &str| json!([{ "errorCode": code, "message": "Ada" }]);
    let wait = Outcome::Wait(std::time::Duration::from_secs(10));
    assert_eq!(says(&c, &call, 403, &error("REQUEST_LIMIT_EXCEEDED")), wait);
    assert_eq!(
        says(&c, &call, 401, &error("INVALID_SESSION_ID")),
        Outcome::Unauthorized
    );
    // A field that is not there is the installation's fault.
    assert_eq!(
        says(&c, &call, 400, &error("INVALID_FIELD")),
        Outcome::all(&call, &Verdict::RETRY)
    );
    assert_eq!(next(says(&c, &call, 400, &error("JSON_PARSER_ERROR"))).len(), 2);
    let plan = c.calls(&(0..450).map(|n| given(n, SNAPSHOT, full())).collect::<Vec<_>>());
    assert_eq!(
        plan.calls.iter().map(|c| c.records.len()).collect::<Vec<_>>(),
        [200, 200, 50]
    );
}

#[test]
fn logins() {
    let definition = json!({ "vendor": "salesforce", "base_url": "https://x.example" });
    let credential = Credential::Client {
        id: Secret::new("a+b/c"),
        secret: Secret::new("d&e=f"),
    };
    let mut c = connect(definition, credential).unwrap();
    let call = c.login().unwrap();
    assert_eq!(
        (call.method, call.path.as_str(), call.records.len()),
        (Method::Post, "/services/oauth2/token", 0)
    );
    let form = "grant_type=client_credentials&client_id=a%2Bb%2Fc&client_secret=d%26e%3Df";
    assert_eq!(String::from_utf8(call.body.clone()).unwrap(), form);
    let mut log_in = |status, body: &str| c.logged_in(&answer(status, body.as_bytes()));
    assert_eq!(
        log_in(400, r#"{"error":"invalid_client"}"#),
        Err(LoginError::Refused)
    );
    assert_eq!(log_in(500, ""), Err(LoginError::Later));
    assert_eq!(log_in(200, "{}"), Err(LoginError::Later));
    assert_eq!(log_in(200, r#"{"access_token":"a\nb"}"#), Err(LoginError::Later));
    assert_eq!(
        log_in(
            200,
            r#"{"access_token":"00D!x","instance_url":"https://evil.example"}"#
        ),
        Ok(())
    );
    assert_eq!(c.authorization(super::super::Base::Api), "Bearer 00D!x");
    assert_eq!(c.base_url(super::super::Base::Api), "https://x.example");
    assert_eq!(connector(json!({})).login(), None);
}
