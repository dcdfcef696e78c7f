//! A call: one HTTP request to a vendor, and which records of the batch it speaks for.

use std::fmt;
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::Given;

pub(super) const AUTHORIZATION: &str = "authorization";

/// The method of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Patch,
    Delete,
}

impl Method {
    /// As it stands in a request.
    pub const fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
        }
    }
}

/// Which of a vendor's base URLs a path belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The one that all vendors have.
    Api,
    /// Segment's Public API, which takes the regulations.
    Regulations,
}

/// One HTTP request. Its `Debug` shows neither header values nor the body.
#[derive(Clone, PartialEq, Eq)]
pub struct Call {
    pub method: Method,
    pub base: Base,
    /// From the slash after the base URL, with its query. Nothing personal is in it.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Which of the batch it speaks for, in order, each once. Empty for a token request.
    pub records: Vec<usize>,
    /// How long to wait before it is made: not zero where an answer is asked for that takes its time.
    pub delay: Duration,
    pub(super) step: Step,
    /// What each element of the request's list is, in its order.
    pub(super) items: Vec<Item>,
    /// The name of that list in the body, where it may be split.
    pub(super) list: Option<&'static str>,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Call")
            .field("method", &self.method)
            .field("base", &self.base)
            .field("path", &self.path)
            .field("headers", &names)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .field("records", &self.records)
            .field("delay", &self.delay)
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

/// What a call is for: how its answer is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Asks for an access token.
    Token,
    /// Writes states, or clears them.
    Write,
    /// Asks which of the subjects the vendor knows, and by which number.
    Find,
    /// Clears what was found.
    Clear,
    Unsubscribe,
    Erase,
    /// Makes final what [`Step::Erase`] did.
    Purge,
    /// Asks what has become of a job, for the n-th time.
    Job {
        asked: u8,
        then: Then,
    },
}

/// What follows on a job that went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Nothing,
    Purge,
}

/// What is to be done with a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Duty {
    Keep,
    Clear,
    Erase,
}

/// An element of a request's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub record: usize,
    pub subject: Uuid,
    pub duty: Duty,
    /// The vendor's own number of the subject, where it was asked for.
    pub number: Option<String>,
}

impl Item {
    pub fn new(record: usize, given: &Given, duty: Duty) -> Self {
        Self {
            record,
            subject: given.subject,
            duty,
            number: None,
        }
    }
}

/// An element with its JSON.
pub(super) struct Entry {
    pub item: Item,
    pub json: String,
}

impl Entry {
    pub fn new(item: Item, json: &Value) -> Self {
        Self {
            item,
            json: json.to_string(),
        }
    }
}

/// What a vendor takes in one request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Elements.
    pub count: usize,
    /// Bytes of the body.
    pub bytes: usize,
    /// Bytes of an element.
    pub each: usize,
}

/// Room in a body for what stands around its list.
const AROUND: usize = 256;

/// Entries that go together, in their order; and the records that have an entry that is too long, which are in none.
pub(super) fn pack(entries: Vec<Entry>, limits: Limits) -> (Vec<Vec<Entry>>, Vec<usize>) {
    let each = limits.each.min(limits.bytes.saturating_sub(AROUND));
    let mut refused: Vec<usize> = vec![];
    for entry in entries.iter().filter(|e| e.json.len() > each) {
        if refused.last() != Some(&entry.item.record) {
            refused.push(entry.item.record);
        }
    }
    let mut packs: Vec<Vec<Entry>> = vec![];
    let mut bytes = AROUND;
    for entry in entries {
        if refused.contains(&entry.item.record) {
            continue;
        }
        let length = entry.json.len() + 1;
        match packs.last_mut() {
            Some(pack) if pack.len() < limits.count && bytes + length <= limits.bytes => {
                bytes += length;
                pack.push(entry);
            }
            _ => {
                bytes = AROUND + length;
                packs.push(vec![entry]);
            }
        }
    }
    (packs, refused)
}

/// The records of items, in order, each once.
pub(super) fn records(items: &[Item]) -> Vec<usize> {
    let mut records: Vec<_> = items.iter().map(|i| i.record).collect();
    records.sort_unstable();
    records.dedup();
    records
}

impl Call {
    /// A call without a body.
    pub(super) fn new(method: Method, path: String, step: Step, items: Vec<Item>) -> Self {
        Self {
            method,
            base: Base::Api,
            path,
            headers: vec![],
            body: vec![],
            records: records(&items),
            delay: Duration::ZERO,
            step,
            items,
            list: None,
        }
    }

    /// A call with a JSON body.
    pub(super) fn json(mut self, body: &Value) -> Self {
        self.body = body.to_string().into_bytes();
        self.with("content-type", "application/json".to_owned())
    }

    /// A call whose JSON body is an object with a list; `rest` is what else is in the object, with a comma at its end.
    pub(super) fn list(
        method: Method,
        path: String,
        step: Step,
        rest: &str,
        name: &'static str,
        pack: Vec<Entry>,
    ) -> Self {
        let (items, json): (Vec<_>, Vec<_>) = pack.into_iter().map(|e| (e.item, e.json)).unzip();
        let mut call = Self::new(method, path, step, items);
        call.body = format!("{{{rest}\"{name}\":[{}]}}", json.join(",")).into_bytes();
        call.list = Some(name);
        call.with("content-type", "application/json".to_owned())
    }

    pub(super) fn with(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(super) fn authorized(self, value: String) -> Self {
        self.with(AUTHORIZATION, value)
    }

    pub(super) fn at(mut self, base: Base) -> Self {
        self.base = base;
        self
    }

    pub(super) fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// The same in two requests of half the elements. A vendor that refuses a request for one element's sake refuses only
    /// that element in the end.
    pub(super) fn halves(&self) -> Option<[Call; 2]> {
        let name = self.list?;
        let middle = self.items.len() / 2;
        if middle == 0 {
            return None;
        }
        let mut body: Value = serde_json::from_slice(&self.body).ok()?;
        let all = body.get_mut(name)?.as_array_mut()?;
        if all.len() != self.items.len() {
            return None;
        }
        let second = all.split_off(middle);
        let first = std::mem::replace(all, second);
        let later = self.with_list(&body, self.items.get(middle..)?);
        *body.get_mut(name)? = Value::Array(first);
        Some([self.with_list(&body, self.items.get(..middle)?), later])
    }

    fn with_list(&self, body: &Value, items: &[Item]) -> Call {
        Call {
            body: body.to_string().into_bytes(),
            records: records(items),
            items: items.to_vec(),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests;
