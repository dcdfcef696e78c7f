use super::*;

const NOW: u64 = 1_767_225_600;

#[test]
fn pauses() {
    let seconds = Duration::from_secs;
    for (headers, retry_after, expected) in [
        (vec![], None, PAUSE),
        (vec![], Some(5), seconds(5)),
        (vec![], Some(0), SHORTEST),
        (vec![], Some(u64::MAX), LONGEST),
        (vec![("X-RateLimit-Reset", "30")], None, seconds(30)),
        (vec![("X-RateLimit-Reset", "30")], Some(5), seconds(5)),
        // Zendesk.
        (vec![("ratelimit-reset", "41")], None, seconds(41)),
        // A Unix time, in seconds and milliseconds; one that has passed.
        (vec![("X-RateLimit-Reset", "1767225660")], None, seconds(60)),
        (vec![("X-RateLimit-Reset", "1767225660000")], None, seconds(60)),
        (vec![("X-RateLimit-Reset", "1767225599")], None, SHORTEST),
        (vec![("X-RateLimit-Reset", "12, 12;w=60")], None, seconds(12)),
        (vec![("X-RateLimit-Reset", "soon")], None, PAUSE),
        (
            vec![("X-RateLimit-Reset", "99999999999999999999999")],
            None,
            PAUSE,
        ),
        // HubSpot's window of seconds, and its day.
        (
            vec![("X-HubSpot-RateLimit-Interval-Milliseconds", "10000")],
            None,
            seconds(10),
        ),
        (
            vec![
                ("X-HubSpot-RateLimit-Interval-Milliseconds", "3000"),
                ("X-HubSpot-RateLimit-Daily-Remaining", "7"),
            ],
            None,
            seconds(3),
        ),
        (
            vec![
                ("X-HubSpot-RateLimit-Interval-Milliseconds", "3000"),
                ("X-HubSpot-RateLimit-Daily-Remaining", "0"),
            ],
            None,
            DAY_USED_UP,
        ),
    ] {
        let owned: Vec<_> = headers
            .iter()
            .map(|&(n, v)| (n.to_owned(), v.to_owned()))
            .collect();
        let retry_after = retry_after.map(seconds);
        let answer = Answer {
            status: 429,
            headers: &owned,
            retry_after,
            now: NOW,
            body: &[],
        };
        assert_eq!(answer.pause(), expected, "{headers:?} {retry_after:?}");
    }
}

#[test]
fn verdicts_together() {
    let retry = |s: Option<u64>| Verdict::Retry {
        after: s.map(Duration::from_secs),
    };
    let dead = Verdict::Rejected {
        reason: "r".to_owned(),
    };
    for (a, b, expected) in [
        (Verdict::Delivered, Verdict::Delivered, Verdict::Delivered),
        (Verdict::Delivered, retry(Some(1)), retry(Some(1))),
        (retry(Some(1)), retry(Some(2)), retry(Some(2))),
        (retry(None), retry(Some(2)), retry(Some(2))),
        (retry(Some(1)), dead.clone(), dead.clone()),
        (Verdict::Delivered, dead.clone(), dead.clone()),
    ] {
        assert_eq!(a.clone().and(b.clone()), expected);
        assert_eq!(b.and(a), expected);
    }
}

#[test]
fn codes_are_names() {
    for (text, is) in [
        ("VALIDATION_ERROR", true),
        ("UserCreateError", true),
        ("", false),
        ("ada@example.com", false),
        ("Ada Lovelace", false),
        ("+441632960961", false),
        (&"X".repeat(65), false),
    ] {
        assert_eq!(is_code(text), is, "{text}");
    }
}
