//! What Zendesk's answers mean.

use std::time::Duration;

use serde_json::Value;

use super::super::answer::{Answer, Outcome, Verdict, judged};
use super::super::call::{Call, Item, Method, Step, Then};
use super::{VENDOR, Zendesk};

/// How often a job is asked for.
pub(super) const ASKED: u8 = 30;
/// The longest pause before a permanent deletion is tried again.
const LAST_PAUSE: Duration = Duration::from_secs(32);

impl Zendesk {
    pub(in super::super) fn verdicts(&self, call: &Call, answer: &Answer<'_>) -> Outcome {
        let body = answer.json();
        match (call.step, answer.status) {
            (Step::Find, 200..=299) => self.found(call, &body),
            (Step::Write, 200..=299) => self.job(call, &body, 0, Then::Nothing),
            (Step::Erase, 200..=299) => self.job(
                call,
                &body,
                0,
                if self.permanent {
                    Then::Purge
                } else {
                    Then::Nothing
                },
            ),
            (Step::Job { asked, then }, 200..=299) => self.job(call, &body, asked, then),
            (Step::Purge, 200..=299 | 404 | 410) => Outcome::delivered(call),
            // Zendesk is still at the deletion that must come before, or has made too many of these.
            (Step::Purge, 400 | 422 | 429) => purge_again(call, body["error"].as_str()),
            // One of them may not be deleted, such as an agent.
            (Step::Erase, 400 | 403 | 422) => match call.items.len() {
                0 | 1 => Outcome::all(call, &Verdict::rejected(VENDOR, body["error"].as_str())),
                n => {
                    let (first, second) = call.items.split_at(n / 2);
                    Outcome::next(vec![self.erase(first.to_vec()), self.erase(second.to_vec())])
                }
            },
            _ => answer.failure(call, VENDOR, body["error"].as_str()),
        }
    }

    fn found(&self, call: &Call, body: &Value) -> Outcome {
        let Some(users) = body["users"].as_array() else {
            return Outcome::all(call, &Verdict::RETRY);
        };
        let (mut verdicts, mut next, mut erased) = (vec![], vec![], vec![]);
        for item in &call.items {
            let subject = item.subject.to_string();
            let is = |user: &&Value| {
                user["external_id"]
                    .as_str()
                    .is_some_and(|id| id.eq_ignore_ascii_case(&subject))
            };
            let Some((user, number)) = users.iter().find(is).and_then(|u| Some((u, u["id"].as_u64()?)))
            else {
                verdicts.push((item.record, Verdict::Delivered));
                continue;
            };
            let item = Item {
                number: Some(number.to_string()),
                ..item.clone()
            };
            match (user["active"] == false, self.permanent) {
                (false, _) => erased.push(item),
                (true, true) => next.push(self.purge(item)),
                (true, false) => verdicts.push((item.record, Verdict::Delivered)),
            }
        }
        if !erased.is_empty() {
            next.insert(0, self.erase(erased));
        }
        Outcome::Judged { verdicts, next }
    }

    /// What the state of a job means, which has been asked for `asked` times.
    fn job(&self, call: &Call, body: &Value, asked: u8, then: Then) -> Outcome {
        let job = &body["job_status"];
        // It becomes part of a path.
        let id = job["id"].as_str().filter(|id| {
            (1..=100).contains(&id.len())
                && id
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
        match (job["status"].as_str(), id) {
            (Some("completed"), _) => self.completed(call, &job["results"], then),
            (Some("queued" | "working"), Some(id)) if asked < ASKED => {
                let step = Step::Job {
                    asked: asked + 1,
                    then,
                };
                let wait = Duration::from_secs(u64::from(asked.min(9)) + 1);
                let path = format!("/api/v2/job_statuses/{id}");
                Outcome::next(vec![
                    self.call(Method::Get, path, step, call.items.clone()).after(wait),
                ])
            }
            _ => Outcome::all(call, &Verdict::RETRY),
        }
    }

    /// Results name their user by external id, number or place; what no result names went as the job did.
    fn completed(&self, call: &Call, results: &Value, then: Then) -> Outcome {
        let empty = vec![];
        let results = results.as_array().unwrap_or(&empty);
        let in_order = results.len() == call.items.len();
        let is_of = |place: usize, result: &Value, index: usize, item: &Item| {
            if let Some(id) = result["external_id"].as_str() {
                return id.eq_ignore_ascii_case(&item.subject.to_string());
            }
            if let (Some(id), Some(number)) = (result["id"].as_u64(), &item.number) {
                return id.to_string() == *number;
            }
            match result["index"].as_u64() {
                Some(i) => usize::try_from(i) == Ok(index),
                None => in_order && place == index,
            }
        };
        let names = |index, item: &Item| {
            results
                .iter()
                .enumerate()
                .find(move |(place, r)| is_of(*place, r, index, item))
        };
        let nameless = results.iter().enumerate().any(|(place, result)| {
            has_failed(result)
                && !call
                    .items
                    .iter()
                    .enumerate()
                    .any(|(index, item)| is_of(place, result, index, item))
        });
        let mut verdicts = judged(&call.items, |index, item| match names(index, item) {
            Some((_, result)) if has_failed(result) => Verdict::rejected(VENDOR, result["error"].as_str()),
            None if nameless => Verdict::RETRY,
            _ => Verdict::Delivered,
        });
        let mut next = vec![];
        if then == Then::Purge {
            let done = |item: &&Item| verdicts.contains(&(item.record, Verdict::Delivered));
            let purged: Vec<_> = call.items.iter().filter(done).cloned().collect();
            verdicts.retain(|(record, _)| !purged.iter().any(|i| i.record == *record));
            next.extend(purged.into_iter().map(|item| self.purge(item)));
        }
        Outcome::Judged { verdicts, next }
    }
}

/// The same once more, after a pause that grows. A new run would not find whom Zendesk has deleted, and would take that for
/// all that was wanted; so who is kept in the end is told as refused.
fn purge_again(call: &Call, error: Option<&str>) -> Outcome {
    if call.delay >= LAST_PAUSE {
        return Outcome::all(call, &Verdict::rejected(VENDOR, error));
    }
    let pause = (2 * call.delay).max(Duration::from_secs(1));
    Outcome::next(vec![call.clone().after(pause)])
}

fn has_failed(result: &Value) -> bool {
    result["success"] == false
        || !result["error"].is_null()
        || !result["errors"].is_null()
        || result["status"]
            .as_str()
            .is_some_and(|s| s.eq_ignore_ascii_case("failed"))
}
