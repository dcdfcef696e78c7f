//! When a webhook is tried again, and what an answer means for that (Standard Webhooks 1.0.0, "Deliverability and
//! reliability" and "Delivery success and failure").

use std::time::Duration;

use gatelog_events::clock::Timestamp;

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

const fn hours(n: u64) -> Duration {
    minutes(n * 60)
}

/// The longest wait before each further attempt; the last is repeated.
const STEPS: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    minutes(2),
    minutes(10),
    hours(1),
    hours(3),
    hours(6),
    hours(12),
    hours(24),
];

/// The shortest wait: an attempt right after the last would meet the same failure.
pub const SHORTEST: Duration = Duration::from_secs(1);

/// How long a message is tried, from its first attempt, where the operator says nothing else.
pub const LIFETIME: Duration = hours(5 * 24);

/// The longest wait that a receiver can ask for.
pub const LONGEST_RETRY_AFTER: Duration = hours(24);

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// 2xx: the receiver has the message.
    Delivered,
    /// 410: the receiver wants no more messages; the endpoint is to be disabled.
    Gone,
    /// 429 or 503 that says for how long: the receiver is there but wants a pause, for all messages.
    Wait(Duration),
    /// Everything else, redirects and no answer included: a failure, to be tried again. What `Retry-After` asks for
    /// still counts for this message: hand it to [`Attempts::next`].
    Retry,
}

/// What the answer with this status means; `None` is no answer. `retry_after` is what its header asks for.
pub fn judge(status: Option<u16>, retry_after: Option<Duration>) -> Verdict {
    match (status, retry_after) {
        (Some(200..=299), _) => Verdict::Delivered,
        (Some(410), _) => Verdict::Gone,
        (Some(429 | 503), Some(wait)) => Verdict::Wait(wait.min(LONGEST_RETRY_AFTER)),
        _ => Verdict::Retry,
    }
}

/// What comes after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Try again at this moment.
    At(Timestamp),
    /// Do not try again: the message is dead.
    GiveUp,
}

/// The attempts that were made for a message, all in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempts {
    /// When the first was made.
    pub first: Timestamp,
    /// How many, the one that failed just now included.
    pub made: u32,
}

impl Attempts {
    /// When to try again after an attempt failed at `now`.
    ///
    /// The wait is drawn from a span that grows with each attempt ("full jitter": messages that failed together do not
    /// come back together); `random` is 64 random bits. The last attempt is made `lifetime` after the
    /// first. `retry_after` is what the receiver asked for; it is never tried earlier, also where that is later than
    /// the last attempt would be, but at most [`LONGEST_RETRY_AFTER`] is granted.
    pub fn next(
        &self,
        now: Timestamp,
        retry_after: Option<Duration>,
        random: u64,
        lifetime: Duration,
    ) -> Next {
        let end = self.first.plus(lifetime);
        if now >= end {
            return Next::GiveUp;
        }
        let asked = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
        let drawn = now.plus(jittered(self.step(), random)).min(end);
        Next::At(drawn.max(now.plus(asked)))
    }

    fn step(&self) -> Duration {
        let index = usize::try_from(self.made.saturating_sub(1)).unwrap_or(usize::MAX);
        STEPS[index.min(STEPS.len() - 1)]
    }
}

/// Evenly between [`SHORTEST`] and `longest`, in whole milliseconds.
fn jittered(longest: Duration, random: u64) -> Duration {
    let span = longest.saturating_sub(SHORTEST).as_millis() + 1;
    // The upper half of the product: even enough, for the span is far below 2^64.
    let drawn = (u128::from(random) * span) >> 64;
    SHORTEST + Duration::from_millis(u64::try_from(drawn).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn wait(made: u32, retry_after: Option<Duration>, random: u64) -> Duration {
        let attempts = Attempts { first: START, made };
        match attempts.next(START, retry_after, random, LIFETIME) {
            Next::At(at) => at.since(START),
            Next::GiveUp => panic!("gives up at once"),
        }
    }

    #[test]
    fn meaning_of_answers() {
        let minute = Some(minutes(1));
        for (status, retry_after, expected) in [
            (Some(200), None, Verdict::Delivered),
            (Some(204), minute, Verdict::Delivered),
            (Some(299), None, Verdict::Delivered),
            (Some(199), None, Verdict::Retry),
            (Some(301), minute, Verdict::Retry),
            (Some(304), None, Verdict::Retry),
            (Some(400), None, Verdict::Retry),
            (Some(404), minute, Verdict::Retry),
            (Some(410), None, Verdict::Gone),
            (Some(410), minute, Verdict::Gone),
            (Some(429), None, Verdict::Retry),
            (Some(429), minute, Verdict::Wait(minutes(1))),
            (Some(429), Some(Duration::MAX), Verdict::Wait(hours(24))),
            (Some(500), minute, Verdict::Retry),
            (Some(503), None, Verdict::Retry),
            (Some(503), minute, Verdict::Wait(minutes(1))),
            (Some(504), None, Verdict::Retry),
            (None, None, Verdict::Retry),
        ] {
            assert_eq!(judge(status, retry_after), expected, "{status:?} {retry_after:?}");
        }
    }

    #[test]
    fn waits_grow() {
        let longest = [
            (0, Duration::from_secs(5)),
            (1, Duration::from_secs(5)),
            (2, Duration::from_secs(30)),
            (3, minutes(2)),
            (4, minutes(10)),
            (5, hours(1)),
            (6, hours(3)),
            (7, hours(6)),
            (8, hours(12)),
            (9, hours(24)),
            (10, hours(24)),
            (u32::MAX, hours(24)),
        ];
        for (made, expected) in longest {
            assert_eq!(wait(made, None, u64::MAX), expected, "{made}");
            assert_eq!(wait(made, None, 0), SHORTEST, "{made}");
            let middle = (expected + SHORTEST) / 2;
            assert_eq!(wait(made, None, u64::MAX / 2 + 1), middle, "{made}");
        }
    }

    #[test]
    fn retry_after_is_a_lower_bound() {
        for (asked, random, expected) in [
            (Duration::ZERO, u64::MAX, Duration::from_secs(5)),
            (Duration::from_secs(3), 0, Duration::from_secs(3)),
            (Duration::from_secs(3), u64::MAX, Duration::from_secs(5)),
            (minutes(7), u64::MAX, minutes(7)),
            (hours(24), 0, hours(24)),
            (hours(25), 0, hours(24)),
            (Duration::MAX, 0, hours(24)),
        ] {
            assert_eq!(wait(1, Some(asked), random), expected, "{asked:?} {random}");
        }
    }

    #[test]
    fn the_last_attempt_is_made_at_the_end() {
        let end = START.plus(LIFETIME);
        let attempts = Attempts {
            first: START,
            made: 12,
        };
        let next = |now, asked| attempts.next(now, asked, u64::MAX, LIFETIME);
        for (name, now, asked, expected) in [
            ("a day left", end.minus(hours(24)), None, Next::At(end)),
            ("an hour left", end.minus(hours(1)), None, Next::At(end)),
            (
                "asked beyond the end",
                end.minus(hours(1)),
                Some(hours(2)),
                Next::At(end.plus(hours(1))),
            ),
            ("at the end", end, None, Next::GiveUp),
            ("asked at the end", end, Some(minutes(1)), Next::GiveUp),
            (
                "after a long stop of ours",
                end.plus(hours(99)),
                None,
                Next::GiveUp,
            ),
        ] {
            assert_eq!(next(now, asked), expected, "{name}");
        }
    }

    #[test]
    fn a_message_is_tried_for_five_days_whatever_is_drawn() {
        for (random, fewest, most) in [(u64::MAX, 14, 14), (1 << 63, 14, 20), (1 << 61, 20, 60)] {
            let (mut now, mut made) = (START, 1);
            while let Next::At(at) = (Attempts { first: START, made }).next(now, None, random, LIFETIME) {
                assert!(at > now);
                (now, made) = (at, made + 1);
            }
            assert_eq!(now, START.plus(LIFETIME), "{random}");
            assert!((fewest..=most).contains(&made), "{random}: {made} attempts");
        }
    }
}
