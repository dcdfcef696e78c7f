//! What HubSpot's answers mean.

use serde_json::{Map, Value, json};

use super::super::answer::{Answer, Outcome, Verdict, judged};
use super::super::call::{Call, Duty, Entry, Item, Method, Step, pack};
use super::{CONTACTS, Hubspot, LIMITS, VENDOR};

/// The property that holds a contact's address.
const EMAIL: &str = "email";

/// Categories of errors that pass.
const PASSING: [&str; 4] = ["RATE_LIMITS", "RATE_LIMIT", "INTERNAL_ERROR", "TIMEOUT"];

impl Hubspot {
    pub(in super::super) fn verdicts(&self, call: &Call, answer: &Answer<'_>) -> Outcome {
        let body = answer.json();
        match (call.step, answer.status) {
            (Step::Find, 200..=299) => self.found(call, &body),
            // Not there any more: what was wanted.
            (Step::Erase, 404) => Outcome::delivered(call),
            (Step::Clear, 404) if call.items.len() == 1 => Outcome::delivered(call),
            (Step::Clear, 404) => call
                .halves()
                .map_or(Outcome::all(call, &Verdict::RETRY), |h| Outcome::next(h.into())),
            (Step::Unsubscribe, 400) if message_says(&body, "already unsubscribed") => {
                self.unsubscribed(call)
            }
            (Step::Unsubscribe, 200..=299) => self.unsubscribed(call),
            (Step::Write | Step::Clear, 207) if !body.is_object() => Outcome::all(call, &Verdict::RETRY),
            (Step::Write | Step::Clear, 200..=299) => written(call, &body),
            (_, 200..=299) => Outcome::delivered(call),
            // One address that another contact has, and none of them is written.
            (Step::Write | Step::Clear, 409) => Answer::refused(call, VENDOR, body["category"].as_str()),
            _ => answer.failure(call, VENDOR, body["category"].as_str()),
        }
    }

    fn found(&self, call: &Call, body: &Value) -> Outcome {
        let Some(results) = body["results"].as_array() else {
            return Outcome::all(call, &Verdict::RETRY);
        };
        let empty = vec![];
        let passing = body["errors"]
            .as_array()
            .unwrap_or(&empty)
            .iter()
            .any(|e| !is_missing(e));
        let mut verdicts = vec![];
        let mut next = vec![];
        let (mut cleared, mut reachable) = (vec![], vec![]);
        for item in &call.items {
            let found = results
                .iter()
                .find(|r| is(&r["properties"][&self.id_property], item));
            let Some((contact, number)) = found.and_then(|r| Some((r, number(&r["id"])?))) else {
                verdicts.push((
                    item.record,
                    if passing {
                        Verdict::RETRY
                    } else {
                        Verdict::Delivered
                    },
                ));
                continue;
            };
            let item = Item {
                number: Some(number.clone()),
                ..item.clone()
            };
            if item.duty == Duty::Erase {
                let path = format!("{CONTACTS}/gdpr-delete");
                let erase = Call::new(Method::Post, path, Step::Erase, vec![item]);
                next.push(
                    erase
                        .json(&json!({ "objectId": number }))
                        .authorized(self.authorization()),
                );
                continue;
            }
            let address = contact["properties"][EMAIL].as_str().filter(|a| !a.is_empty());
            match address.zip(self.subscription_id.as_ref()) {
                Some((address, id)) => {
                    next.push(self.unsubscribe(&item, address, id));
                    reachable.push(item);
                }
                None => cleared.push(item),
            }
        }
        let updates = self.clear(&cleared, |_| true);
        if updates.is_empty() {
            verdicts.extend(cleared.iter().map(|item| (item.record, Verdict::Delivered)));
        }
        next.extend(updates);
        next.extend(self.clear(&reachable, |property| property != EMAIL));
        Outcome::Judged { verdicts, next }
    }

    /// Only now the address is emptied: without it, another attempt would find nobody to unsubscribe.
    fn unsubscribed(&self, call: &Call) -> Outcome {
        let updates = self.clear(&call.items, |property| property == EMAIL);
        if updates.is_empty() {
            return Outcome::delivered(call);
        }
        Outcome::next(updates)
    }

    /// The calls that empty those mapped properties of contacts; none where none of them is mapped.
    fn clear(&self, contacts: &[Item], which: impl Fn(&str) -> bool) -> Vec<Call> {
        let mut properties = self.properties(&Map::new());
        properties.retain(|name, _| which(name));
        if properties.is_empty() {
            return vec![];
        }
        let updates = contacts.iter().map(|item| {
            let input = json!({
                "id": item.number,
                "objectWriteTraceId": item.record.to_string(),
                "properties": properties,
            });
            Entry::new(item.clone(), &input)
        });
        let (packs, _) = pack(updates.collect(), LIMITS);
        let calls = packs.into_iter();
        calls
            .map(|pack| self.list("update", Step::Clear, "", pack))
            .collect()
    }
}

/// What the answer to an upsert or update means: errors name the input by the trace id that it was given.
fn written(call: &Call, body: &Value) -> Outcome {
    let empty = vec![];
    let errors = body["errors"].as_array().unwrap_or(&empty);
    let concerns = |error: &Value, item: &Item| {
        let listed = |key: &str, id: &str| {
            let value = &error["context"][key];
            value.as_str() == Some(id)
                || value
                    .as_array()
                    .is_some_and(|all| all.iter().any(|v| v.as_str() == Some(id)))
        };
        let ids = [Some(item.subject.to_string()), item.number.clone()];
        listed("objectWriteTraceId", &item.record.to_string())
            || ids
                .iter()
                .flatten()
                .any(|id| listed("id", id) || listed("ids", id))
    };
    if let Some(error) = errors.iter().find(|e| !call.items.iter().any(|i| concerns(e, i))) {
        return match call.halves() {
            Some(halves) => Outcome::next(halves.into()),
            None => Outcome::all(call, &verdict(call.step, error)),
        };
    }
    let verdicts = judged(&call.items, |_, item| {
        let error = errors.iter().find(|e| concerns(e, item));
        error.map_or(Verdict::Delivered, |e| verdict(call.step, e))
    });
    Outcome::Judged {
        verdicts,
        next: vec![],
    }
}

fn verdict(step: Step, error: &Value) -> Verdict {
    match error["category"].as_str() {
        Some(category) if PASSING.contains(&category) => Verdict::RETRY,
        _ if step == Step::Clear && is_missing(error) => Verdict::Delivered,
        category => Verdict::rejected(VENDOR, category),
    }
}

fn is_missing(error: &Value) -> bool {
    let names = [&error["category"], &error["subCategory"]];
    names
        .iter()
        .filter_map(|n| n.as_str())
        .any(|n| n.contains("NOT_FOUND"))
}

fn is(value: &Value, item: &Item) -> bool {
    value
        .as_str()
        .is_some_and(|s| s.eq_ignore_ascii_case(&item.subject.to_string()))
}

/// HubSpot's number of a contact; it becomes part of a body, never of a path.
fn number(id: &Value) -> Option<String> {
    id.as_str()
        .map(str::to_owned)
        .or_else(|| id.as_u64().map(|n| n.to_string()))
}

fn message_says(body: &Value, words: &str) -> bool {
    body["message"]
        .as_str()
        .is_some_and(|m| m.to_ascii_lowercase().contains(words))
}
