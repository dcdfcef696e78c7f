//! What a receiver's answer to a SET means (RFC 8935, sections 2.2 to 2.4).

use std::time::Duration;

use serde::Deserialize;

use crate::feeds::webhook::schedule::LONGEST_RETRY_AFTER;

/// How much of an answer is read for its error code, in bytes.
pub const MAX_ERROR: usize = 16 * 1024;

/// The error codes that are known, and whether the SET is worth sending again: whoever may not send can be allowed to, and
/// who does not know the key yet that signs will fetch it (RFC 8935, section 7.1, and SSF 1.0, section 8.1.4.1).
const CODES: [(&str, bool); 8] = [
    ("invalid_request", false),
    ("invalid_key", true),
    ("invalid_issuer", false),
    ("invalid_audience", false),
    ("authentication_failed", true),
    ("access_denied", true),
    ("invalid_state", false),
    ("setData", false),
];

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver has the SET.
    Taken,
    /// It will never take it; why, by the code.
    Rejected(&'static str),
    /// It wants a pause.
    Wait(Duration),
    /// To be tried again.
    Retry,
}

/// What the answer with this status means; `None` is no answer. RFC 8935 knows success as 202 only; whoever answers
/// another 2xx has the SET as well. `error` is the body of a 400.
pub fn judge(status: Option<u16>, retry_after: Option<Duration>, error: &[u8]) -> Verdict {
    match (status, retry_after) {
        (Some(200..=299), _) => Verdict::Taken,
        (Some(429 | 503), Some(wait)) => Verdict::Wait(wait.min(LONGEST_RETRY_AFTER)),
        (Some(400), _) => rejection(error),
        _ => Verdict::Retry,
    }
}

/// Nothing of what the receiver wrote is kept but which of the known codes it is: what it wrote may be anything.
fn rejection(error: &[u8]) -> Verdict {
    #[derive(Deserialize)]
    struct Error {
        err: String,
    }
    let Ok(Error { err }) = serde_json::from_slice(error) else {
        return Verdict::Retry;
    };
    final_code(&err).map_or(Verdict::Retry, Verdict::Rejected)
}

/// A code that a receiver gave, as it may be kept and shown; none if the SET is worth sending again.
pub fn final_code(err: &str) -> Option<&'static str> {
    match CODES.iter().find(|(code, _)| *code == err) {
        Some((_, true)) => None,
        Some((code, false)) => Some(code),
        None => Some("other"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meaning_of_answers() {
        let second = Some(Duration::from_secs(1));
        let error = |code: &str| format!(r#"{{"err":"{code}","description":"x"}}"#).into_bytes();
        for (status, retry_after, body, expected) in [
            (Some(202), None, vec![], Verdict::Taken),
            (Some(200), second, vec![], Verdict::Taken),
            (Some(400), None, error("invalid_key"), Verdict::Retry),
            (
                Some(400),
                None,
                error("invalid_audience"),
                Verdict::Rejected("invalid_audience"),
            ),
            (
                Some(400),
                second,
                error("invalid_request"),
                Verdict::Rejected("invalid_request"),
            ),
            (Some(400), None, error("jwtParse"), Verdict::Rejected("other")),
            (Some(400), None, error("authentication_failed"), Verdict::Retry),
            (Some(400), None, error("access_denied"), Verdict::Retry),
            (
                Some(400),
                None,
                b"<html>a proxy's page</html>".to_vec(),
                Verdict::Retry,
            ),
            (Some(400), None, b"{}".to_vec(), Verdict::Retry),
            (Some(401), None, error("invalid_key"), Verdict::Retry),
            (Some(404), None, vec![], Verdict::Retry),
            (Some(410), None, vec![], Verdict::Retry),
            (Some(302), None, vec![], Verdict::Retry),
            (Some(429), None, vec![], Verdict::Retry),
            (Some(429), second, vec![], Verdict::Wait(Duration::from_secs(1))),
            (
                Some(503),
                Some(Duration::MAX),
                vec![],
                Verdict::Wait(LONGEST_RETRY_AFTER),
            ),
            (Some(500), second, vec![], Verdict::Retry),
            (None, None, vec![], Verdict::Retry),
        ] {
            let verdict = judge(status, retry_after, &body);
            assert_eq!(verdict, expected, "{status:?} {}", String::from_utf8_lossy(&body));
        }
    }
}
