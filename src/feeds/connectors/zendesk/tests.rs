use std::time::Duration;

use super::super::tests::*;
use super::super::{Answer, Connector, Go, Outcome, Run, SNAPSHOT, Secret, Verdict};
use super::answers::ASKED;
use super::*;

fn connector(more: Value) -> Connector {
    let mapping = json!({
        "email": "email", "given_name": "name.given", "family_name": "name.family", "phone_number": "phone",
        "roles": "user_fields.roles", "email_verified": "user_fields.ok",
    });
    let mut definition = json!({ "vendor": "zendesk", "base_url": "https://x.zendesk.com", "withdrawal": "clear", "mapping": mapping });
    definition
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let credential = Credential::Basic {
        user: Secret::new("agent@x.example/token"),
        password: Secret::new("t"),
    };
    connect(definition, credential).unwrap()
}

fn user(more: Value) -> Value {
    let mut user = json!({ "external_id": subject(0), "skip_verify_email": true });
    user.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    user
}

fn job(status: &str, results: Value) -> Value {
    json!({ "job_status": { "id": "j0B-_1", "status": status, "results": results } })
}

#[test]
fn users() {
    let full_user = json!({
        "name": "Ada AdaL", "email": "Ada@example.com", "phone": "+44 Ada",
        "user_fields": { "roles": "a, b", "ok": true },
    });
    let gone = json!({ "name": subject(0), "phone": null, "user_fields": { "roles": null, "ok": null } });
    let with = |base: &Value, suspended: bool| {
        let mut user = base.clone();
        user["suspended"] = json!(suspended);
        user
    };
    let nameless = fields_of(&json!({ "email": "Ada", "family_name": "AdaL" }));
    for (suspend, given, expected) in [
        (false, given(0, SNAPSHOT, full()), full_user.clone()),
        (false, given(0, "plan.upgraded", full()), full_user.clone()),
        (true, given(0, SNAPSHOT, full()), with(&full_user, false)),
        (
            false,
            given(0, SNAPSHOT, nameless),
            json!({ "name": "AdaL", "email": "Ada", "phone": null, "user_fields": { "roles": null, "ok": null } }),
        ),
        (false, withdrawn(0, Reason::ConsentWithdrawn), gone.clone()),
        (true, withdrawn(0, Reason::ConsentWithdrawn), gone.clone()),
        (false, withdrawn(0, Reason::Disabled), gone.clone()),
        (true, withdrawn(0, Reason::Disabled), with(&gone, true)),
    ] {
        let plan = connector(json!({ "suspend_disabled": suspend })).calls(std::slice::from_ref(&given));
        let [call] = &plan.calls[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(
            (call.method, call.path.as_str()),
            (Method::Post, "/api/v2/users/create_or_update_many")
        );
        assert_eq!(body(call), json!({ "users": [user(expected)] }), "{given:?}");
    }
}

#[test]
fn a_name_may_be_mapped_itself() {
    let c = connector(json!({ "mapping": { "nickname": "name" } }));
    for (state, name) in [
        (json!({ "nickname": "Nick" }), json!("Nick")),
        (json!({}), json!(subject(0))),
    ] {
        let call = c.calls(&[given(0, SNAPSHOT, fields_of(&state))]).calls.remove(0);
        assert_eq!(body(&call)["users"][0]["name"], name);
    }
}

#[test]
fn a_job_is_asked_for_until_it_is_done() {
    let c = connector(json!({}));
    let mut call = c
        .calls(&[given(0, SNAPSHOT, full()), given(1, SNAPSHOT, full())])
        .calls
        .remove(0);
    let mut delays = vec![];
    for asked in 0..ASKED {
        let body = job(if asked % 2 == 0 { "queued" } else { "working" }, Value::Null);
        let [ask] = &next(says(&c, &call, 200, &body))[..] else {
            panic!()
        };
        assert_eq!(
            (ask.method, ask.path.as_str()),
            (Method::Get, "/api/v2/job_statuses/j0B-_1")
        );
        assert_eq!(ask.records, [0, 1]);
        delays.push(ask.delay.as_secs());
        call = ask.clone();
    }
    assert_eq!((&delays[..3], delays[29]), (&[1, 2, 3][..], 10));
    let again = Outcome::all(&call, &Verdict::RETRY);
    assert_eq!(says(&c, &call, 200, &job("working", Value::Null)), again);
    assert_eq!(says(&c, &call, 200, &job("failed", Value::Null)), again);
    assert_eq!(says(&c, &call, 200, &json!({})), again);
    // What is no id does not become a path.
    let evil = json!({ "job_status": { "id": "../../x", "status": "queued" } });
    let first = c.calls(&[given(0, SNAPSHOT, full())]).calls.remove(0);
    assert_eq!(
        says(&c, &first, 200, &evil),
        Outcome::all(&first, &Verdict::RETRY)
    );
}

#[test]
fn results_of_a_job() {
    let c = connector(json!({}));
    let batch: Vec<_> = (0..3).map(|n| given(n, SNAPSHOT, full())).collect();
    let call = c.calls(&batch).calls.remove(0);
    let (ok, retry) = (Verdict::Delivered, Verdict::RETRY);
    let bad = || rejected("Zendesk refused it: UserUpdateError");
    let error = |more: Value| {
        let mut error = json!({ "success": false, "error": "UserUpdateError", "details": "Email: Ada@example.com is bad" });
        error
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        error
    };
    let good = |n: usize| json!({ "id": n, "status": "Updated", "success": true, "external_id": subject(n) });
    for (results, expected) in [
        (json!([]), [ok.clone(), ok.clone(), ok.clone()]),
        (json!(null), [ok.clone(), ok.clone(), ok.clone()]),
        (
            json!([good(2), error(json!({ "external_id": subject(1) })), good(0)]),
            [ok.clone(), bad(), ok.clone()],
        ),
        (
            json!([error(json!({ "index": 2 }))]),
            [ok.clone(), ok.clone(), bad()],
        ),
        (
            json!([{ "id": 1 }, error(json!({ "id": 5 })), { "id": 3 }]),
            [ok.clone(), bad(), ok.clone()],
        ),
        (
            json!([{ "status": "Failed", "error": "UserUpdateError" }, good(1), good(2)]),
            [bad(), ok.clone(), ok.clone()],
        ),
        // One has failed, and it is not said which.
        (
            json!([error(json!({})), good(1)]),
            [retry.clone(), ok.clone(), retry],
        ),
    ] {
        let outcome = says(&c, &call, 200, &job("completed", results.clone()));
        assert_eq!(
            outcome,
            verdicts_of(expected.into_iter().enumerate().collect()),
            "{results}"
        );
    }
}

#[test]
fn erasures() {
    let c = connector(json!({}));
    let batch: Vec<_> = (0..4).map(|n| withdrawn(n, Reason::Erased)).collect();
    let call = c.calls(&batch).calls.remove(0);
    let subjects: Vec<_> = (0..4).map(|n| subject(n).to_string()).collect();
    let path = format!("/api/v2/users/show_many?external_ids={}", subjects.join(","));
    assert_eq!((call.method, call.path.clone()), (Method::Get, path));

    // The first is not known (any more), the last is deleted already.
    let found = |n: usize, active: bool| json!({ "id": 70 + n, "external_id": subject(n), "active": active });
    let body = json!({ "users": [found(3, false), found(2, true), found(1, true)] });
    let Outcome::Judged { verdicts, next } = says(&c, &call, 200, &body) else {
        panic!()
    };
    assert_eq!(verdicts, [(0, Verdict::Delivered)]);
    let paths: Vec<_> = next
        .iter()
        .map(|c| (c.method, c.path.as_str(), &c.records[..]))
        .collect();
    let expected = [
        (
            Method::Delete,
            "/api/v2/users/destroy_many?ids=71,72",
            &[1, 2][..],
        ),
        (Method::Delete, "/api/v2/deleted_users/73", &[3][..]),
    ];
    assert_eq!(paths, expected);

    let [erase, purge] = &next[..] else { panic!() };
    let failed =
        json!([{ "id": 72, "success": false, "error": "UserDestroyError" }, { "id": 71, "success": true }]);
    let Outcome::Judged { verdicts, next } = says(&c, erase, 200, &job("completed", failed)) else {
        panic!()
    };
    assert_eq!(verdicts, [(2, rejected("Zendesk refused it: UserDestroyError"))]);
    assert_eq!(
        next.iter().map(|c| c.path.as_str()).collect::<Vec<_>>(),
        ["/api/v2/deleted_users/71"]
    );
    // An agent among them: each half alone.
    let halves: Vec<_> = match says(&c, erase, 403, &json!({})) {
        Outcome::Judged { next, .. } => next.into_iter().map(|c| c.path).collect(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        halves,
        [
            "/api/v2/users/destroy_many?ids=71",
            "/api/v2/users/destroy_many?ids=72"
        ]
    );
    for (status, expected) in [(200, Verdict::Delivered), (404, Verdict::Delivered)] {
        assert_eq!(
            c.verdicts(purge, &answer(status, b"")),
            verdicts_of(vec![(3, expected)])
        );
    }
    // Refused, it is tried again; a new run would find nobody, and take that for done.
    for status in [400, 422, 429] {
        let (mut again, mut pauses) = (purge.clone(), vec![]);
        let verdicts = loop {
            match says(&c, &again, status, &json!({ "error": "TooManyDeletions" })) {
                Outcome::Judged { verdicts, next } if next.is_empty() => break verdicts,
                Outcome::Judged { next, .. } => again = next.into_iter().next().unwrap(),
                other => panic!("{other:?}"),
            }
            assert_eq!(again.path, purge.path);
            pauses.push(again.delay.as_secs());
        };
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32]);
        assert_eq!(verdicts, [(3, rejected("Zendesk refused it: TooManyDeletions"))]);
    }
}

#[test]
fn deletion_that_is_not_for_good() {
    let c = connector(json!({ "permanent": false, "withdrawal": "delete" }));
    let batch = [
        withdrawn(0, Reason::ConsentWithdrawn),
        withdrawn(1, Reason::Erased),
    ];
    let mut run = Run::new(c.calls(&batch), batch.len());
    let users: Vec<_> = (0..2)
        .map(|n| json!({ "id": n, "external_id": subject(n), "active": n == 0 }))
        .collect();
    let mut made = vec![];
    while let Some(call) = run.call().cloned() {
        let mut body = job("completed", json!([]));
        body["users"] = json!(users);
        made.push(call.path.clone());
        assert_eq!(run.answered(says(&c, &call, 200, &body)), Go::On);
    }
    assert_eq!(made[1..], ["/api/v2/users/destroy_many?ids=0"]);
    assert_eq!(run.finish(), [Verdict::Delivered, Verdict::Delivered]);
}

#[test]
fn rate_limits_and_sizes() {
    let c = connector(json!({}));
    let batch: Vec<_> = (0..150).map(|n| given(n, SNAPSHOT, full())).collect();
    let plan = c.calls(&batch);
    assert_eq!(
        plan.calls.iter().map(|c| c.records.len()).collect::<Vec<_>>(),
        [100, 50]
    );
    let headers = [("Ratelimit-Reset".to_owned(), "23".to_owned())];
    let limited = Answer {
        headers: &headers,
        ..answer(429, br#"{"error":"TooManyJobs"}"#)
    };
    assert_eq!(
        c.verdicts(&plan.calls[0], &limited),
        Outcome::Wait(Duration::from_secs(23))
    );
}
