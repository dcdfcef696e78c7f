use proptest::prelude::*;
use serde_json::json;

use super::*;

/// JSON that looks somewhat like what vendors answer.
fn vendors_json() -> impl Strategy<Value = Value> {
    let ids = prop_oneof![
        (0..7usize).prop_map(|n| json!(subject(n))),
        (0..9u64).prop_map(|n| json!(n)),
        any::<i64>().prop_map(|n| json!(n)),
        "[a-z0-9/?#.é ]{0,8}".prop_map(|s| json!(s)),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(|b| json!(b)),
        prop::sample::select(vec![
            "queued",
            "working",
            "completed",
            "failed",
            "COMPLETE",
            "NOT_FOUND",
            "RATE_LIMITS"
        ])
        .prop_map(|s| json!(s)),
        ids,
    ];
    let keys = prop::sample::select(vec![
        "results",
        "errors",
        "job_status",
        "status",
        "id",
        "index",
        "external_id",
        "users",
        "properties",
        "gatelog_id",
        "email",
        "context",
        "objectWriteTraceId",
        "batch_index",
        "reason",
        "success",
        "error",
        "category",
        "active",
        "compositeResponse",
        "httpStatusCode",
        "body",
        "errorCode",
        "statusCode",
        "access_token",
    ]);
    leaf.prop_recursive(5, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
            prop::collection::btree_map(keys.clone(), inner, 0..8)
                .prop_map(|m| m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

fn any_body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => vendors_json().prop_map(|v| v.to_string().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..64),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Whatever a vendor answers: no panic, no end without a verdict, no verdict for a record that the call did not speak
    /// for, and no path that the vendor made up.
    #[test]
    fn garbage_does_no_harm(
        answers in prop::collection::vec((100..600u16, any_body(), any::<Option<u32>>()), 1..12),
        name in "[xX]-[Rr]ate[Ll]imit-[Rr]eset|ratelimit-reset|x-hubspot-ratelimit-daily-remaining",
        value in "[0-9]{0,20}|[a-z,; ]{0,5}",
    ) {
        let headers = [(name, value)];
        for mut connector in connectors() {
            let batch = each();
            let mut run = Run::new(connector.calls(&batch), batch.len());
            let mut answers = answers.iter().cycle();
            for _ in 0..60 {
                let Some(call) = run.call().cloned() else { break };
                prop_assert!(call.path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_-.?=,".contains(&b)), "{}", call.path);
                let Some((status, body, retry_after)) = answers.next() else { break };
                let retry_after = retry_after.map(|s| std::time::Duration::from_secs(u64::from(s)));
                let answer = Answer { status: *status, headers: &headers, retry_after, now: 1_767_225_600, body };
                let _ = connector.logged_in(&answer);
                let outcome = connector.verdicts(&call, &answer);
                match &outcome {
                    Outcome::Judged { verdicts, next } => {
                        let mut heard: Vec<_> = verdicts.iter().map(|(r, _)| *r).collect();
                        heard.extend(next.iter().flat_map(|c| c.records.clone()));
                        heard.sort_unstable();
                        heard.dedup();
                        prop_assert_eq!(heard, call.records.clone());
                    }
                    Outcome::Wait(pause) => prop_assert!(*pause >= answer::SHORTEST && *pause <= answer::LONGEST),
                    Outcome::Unauthorized => {}
                }
                let _ = run.answered(outcome);
            }
            prop_assert_eq!(run.finish().len(), batch.len());
        }
    }
}
