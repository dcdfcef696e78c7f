//! What a vendor's answer means: for the records that a call spoke for, or for all calls.

use std::time::Duration;

use serde_json::Value;

use super::call::{Call, Item};

/// The longest pause that a vendor can ask for.
pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// The shortest pause: a vendor that says 0 is asked again no sooner.
pub const SHORTEST: Duration = Duration::from_secs(1);
/// The pause where a vendor says that there are too many calls but not for how long.
const PAUSE: Duration = Duration::from_secs(10);
/// The pause when a day's calls are used up: the vendors do not say when their day ends.
const DAY_USED_UP: Duration = Duration::from_secs(60 * 60);

/// What came back for a call.
#[derive(Clone, Copy)]
pub struct Answer<'a> {
    pub status: u16,
    /// In any case and order.
    pub headers: &'a [(String, String)],
    /// What `Retry-After` asks for (RFC 9110 section 10.2.3), seconds or date, as a span from now.
    pub retry_after: Option<Duration>,
    /// Unix time in seconds: what a moment in a rate limit's header is compared with.
    pub now: u64,
    /// Whole, or as much as was read.
    pub body: &'a [u8],
}

impl std::fmt::Debug for Answer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish_non_exhaustive()
    }
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// For each record of the call either its verdict or a call among `next` that brings it.
    Judged {
        verdicts: Vec<(usize, Verdict)>,
        /// Calls that follow from the answer. They come before the rest of the batch's calls, in order, and count among the
        /// calls that must all be accepted.
        next: Vec<Call>,
    },
    /// The vendor wants a pause, for all calls; then the same call again.
    Wait(Duration),
    /// The credential is wrong, has expired or may not do this: log in anew ([`super::Connector::login`]) or pause until
    /// somebody has seen to it; then the same call again.
    Unauthorized,
}

/// What an answer means for one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The call was accepted for it.
    Delivered,
    /// Not now; `after` is what the vendor asks for.
    Retry { after: Option<Duration> },
    /// Never: it becomes a dead letter. The reason has nothing personal in it.
    Rejected { reason: String },
}

impl Verdict {
    /// What two calls for one record mean together: it is delivered only if both were accepted, and dead if one was
    /// rejected.
    pub fn and(self, other: Verdict) -> Verdict {
        match (self, other) {
            (Verdict::Rejected { reason }, _) | (_, Verdict::Rejected { reason }) => {
                Verdict::Rejected { reason }
            }
            (Verdict::Retry { after: a }, Verdict::Retry { after: b }) => Verdict::Retry { after: a.max(b) },
            (Verdict::Retry { after }, _) | (_, Verdict::Retry { after }) => Verdict::Retry { after },
            (Verdict::Delivered, Verdict::Delivered) => Verdict::Delivered,
        }
    }

    pub(super) fn rejected(vendor: &str, code: Option<&str>) -> Verdict {
        let code = code.filter(|c| is_code(c)).unwrap_or("no reason given");
        Verdict::Rejected {
            reason: format!("{vendor} refused it: {code}"),
        }
    }

    pub(super) const RETRY: Verdict = Verdict::Retry { after: None };
}

/// Whether it is a name that a program gave, such as `INVALID_EMAIL`, and no text that could quote what was sent.
fn is_code(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphabetic() || b == b'_' || b == b'.')
}

impl Outcome {
    /// The same verdict for each record of a call.
    pub(super) fn all(call: &Call, verdict: &Verdict) -> Outcome {
        Outcome::Judged {
            verdicts: call.records.iter().map(|&r| (r, verdict.clone())).collect(),
            next: vec![],
        }
    }

    pub(super) fn delivered(call: &Call) -> Outcome {
        Outcome::all(call, &Verdict::Delivered)
    }

    pub(super) fn next(next: Vec<Call>) -> Outcome {
        Outcome::Judged {
            verdicts: vec![],
            next,
        }
    }
}

/// Verdicts for a call's items, those of one record taken together.
pub(super) fn judged(
    items: &[Item],
    mut verdict: impl FnMut(usize, &Item) -> Verdict,
) -> Vec<(usize, Verdict)> {
    let mut verdicts: Vec<(usize, Verdict)> = vec![];
    for (index, item) in items.iter().enumerate() {
        let new = verdict(index, item);
        match verdicts.iter_mut().find(|(record, _)| *record == item.record) {
            Some((_, old)) => *old = std::mem::replace(old, Verdict::Delivered).and(new),
            None => verdicts.push((item.record, new)),
        }
    }
    verdicts
}

impl<'a> Answer<'a> {
    /// A header's value by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    }

    fn number(&self, name: &str) -> Option<u64> {
        // Of a list such as `10, 10;w=1` the first counts.
        let text = self.header(name)?.split([',', ';', '.']).next()?;
        text.trim().parse().ok()
    }

    /// The body as JSON; null if it is none.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(self.body).unwrap_or(Value::Null)
    }

    pub(super) const fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }

    /// For how long the vendor wants a pause.
    pub(super) fn pause(&self) -> Duration {
        let reset = ["x-ratelimit-reset", "x-rate-limit-reset", "ratelimit-reset"];
        let asked = self
            .retry_after
            .or_else(|| {
                let used_up = self.number("x-hubspot-ratelimit-daily-remaining") == Some(0);
                used_up.then_some(DAY_USED_UP)
            })
            .or_else(|| {
                reset
                    .iter()
                    .find_map(|name| self.number(name))
                    .map(|n| self.span(n))
            })
            .or_else(|| {
                let interval = self.number("x-hubspot-ratelimit-interval-milliseconds");
                interval.map(Duration::from_millis)
            });
        asked.unwrap_or(PAUSE).clamp(SHORTEST, LONGEST)
    }

    /// Vendors write either seconds from now or a Unix time, some in milliseconds.
    fn span(&self, number: u64) -> Duration {
        const A_YEAR: u64 = 366 * 24 * 60 * 60;
        let seconds = match number {
            0..=A_YEAR => number,
            n if n / 1000 > A_YEAR * 20 => (n / 1000).saturating_sub(self.now),
            n => n.saturating_sub(self.now),
        };
        Duration::from_secs(seconds)
    }

    fn patience(&self) -> Option<Duration> {
        self.retry_after.map(|after| after.min(LONGEST))
    }

    /// What an answer that is no success means at every vendor; a vendor looks first for what it alone says.
    pub(super) fn failure(&self, call: &Call, vendor: &str, code: Option<&str>) -> Outcome {
        match (self.status, self.retry_after) {
            (401 | 403, _) => Outcome::Unauthorized,
            (429, _) => Outcome::Wait(self.pause()),
            (503, Some(_)) => Outcome::Wait(self.pause()),
            (400 | 413 | 422, _) => Self::refused(call, vendor, code),
            // Also 404 and the like: it is the address that is wrong, and no record's fault.
            _ => Outcome::all(
                call,
                &Verdict::Retry {
                    after: self.patience(),
                },
            ),
        }
    }

    /// What a refusal of the whole call means, for some of its records: which ones, smaller calls tell.
    pub(super) fn refused(call: &Call, vendor: &str, code: Option<&str>) -> Outcome {
        match call.halves() {
            Some(halves) => Outcome::next(halves.into()),
            None => Outcome::all(call, &Verdict::rejected(vendor, code)),
        }
    }
}

#[cfg(test)]
mod tests;
