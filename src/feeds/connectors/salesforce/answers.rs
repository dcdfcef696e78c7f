//! What Salesforce's answers mean.

use serde_json::Value;

use super::super::answer::{Answer, Outcome, Verdict, judged};
use super::super::call::{Call, Step};
use super::VENDOR;

/// Codes of errors that pass, or that are the fault of an installation and of no record.
const PASSING: [&str; 9] = [
    "UNABLE_TO_LOCK_ROW",
    "REQUEST_LIMIT_EXCEEDED",
    "REQUEST_RUNNING_TOO_LONG",
    "SERVER_UNAVAILABLE",
    "API_CURRENTLY_DISABLED",
    "INVALID_FIELD",
    "INVALID_TYPE",
    "NOT_FOUND",
    "INSUFFICIENT_ACCESS_OR_READONLY",
];

pub(in super::super) fn verdicts(call: &Call, answer: &Answer<'_>) -> Outcome {
    let body = answer.json();
    let code = body[0]["errorCode"].as_str();
    match (call.step, answer.status, code) {
        (Step::Write, 200..=299, _) => each(call, &body, |result| {
            if result["success"] == true {
                Verdict::Delivered
            } else {
                verdict(result["errors"][0]["statusCode"].as_str())
            }
        }),
        (Step::Erase, 200..=299, _) => each(call, &body["compositeResponse"], |result| {
            match result["httpStatusCode"].as_u64() {
                // Not there (any more): what was wanted.
                Some(200..=299 | 404) => Verdict::Delivered,
                Some(400..=499) => verdict(result["body"][0]["errorCode"].as_str()),
                _ => Verdict::RETRY,
            }
        }),
        (_, 200..=299, _) => Outcome::delivered(call),
        (_, 403, Some("REQUEST_LIMIT_EXCEEDED")) => Outcome::Wait(answer.pause()),
        (_, 400, Some(code)) if PASSING.contains(&code) => Outcome::all(call, &Verdict::RETRY),
        _ => answer.failure(call, VENDOR, code),
    }
}

/// Results stand in the order of what was asked for.
fn each(call: &Call, results: &Value, verdict: impl Fn(&Value) -> Verdict) -> Outcome {
    match results.as_array() {
        Some(results) if results.len() == call.items.len() => {
            let verdicts = judged(&call.items, |index, _| {
                results.get(index).map_or(Verdict::RETRY, &verdict)
            });
            Outcome::Judged {
                verdicts,
                next: vec![],
            }
        }
        _ => Outcome::all(call, &Verdict::RETRY),
    }
}

fn verdict(code: Option<&str>) -> Verdict {
    match code {
        Some(code) if PASSING.contains(&code) => Verdict::RETRY,
        code => Verdict::rejected(VENDOR, code),
    }
}
