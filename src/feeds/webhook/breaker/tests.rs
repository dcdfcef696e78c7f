use super::*;

const LIMITS: Limits = Limits {
    failures: 3,
    pause: Duration::from_secs(10),
    factor: 2,
    longest: Duration::from_secs(60),
    trial: Duration::from_secs(30),
};

#[derive(Debug, Clone, Copy)]
enum Step {
    /// A message is let through.
    Pass,
    /// None is, for so many seconds.
    Hold(u64),
    Success,
    Failure,
    Wait(u64),
}
use Step::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

fn run(name: &str, steps: &[(i64, Step)]) -> Breaker {
    let mut breaker = Breaker::default();
    for (second, step) in steps {
        let now = at(*second);
        let admitted = breaker.admit(now, &LIMITS);
        match step {
            Pass => breaker = admitted.unwrap_or_else(|e| panic!("{name}, second {second}: {e}")),
            Hold(s) => assert_eq!(
                admitted,
                Err(Paused(Duration::from_secs(*s))),
                "{name}, second {second}"
            ),
            Success => breaker = breaker.succeeded(),
            Failure => breaker = breaker.failed(now, &LIMITS),
            Wait(s) => breaker = breaker.told_to_wait(now, Duration::from_secs(*s)),
        }
    }
    breaker
}

#[test]
fn stories() {
    let open = [(0, Failure), (0, Failure), (0, Failure)];
    let stories: [(&str, Vec<(i64, Step)>); 12] = [
        ("two failures", vec![(0, Failure), (0, Failure), (0, Pass)]),
        (
            "a success between",
            vec![
                (0, Failure),
                (0, Failure),
                (0, Success),
                (0, Failure),
                (0, Failure),
                (0, Pass),
            ],
        ),
        (
            "three failures",
            vec![(0, Hold(10)), (4, Hold(6)), (9, Hold(1)), (10, Pass)],
        ),
        (
            "one is let through",
            vec![(10, Pass), (10, Hold(30)), (11, Hold(29))],
        ),
        (
            "and succeeds",
            vec![
                (10, Pass),
                (11, Success),
                (11, Pass),
                (11, Pass),
                (11, Failure),
                (11, Failure),
                (11, Pass),
            ],
        ),
        (
            "and fails",
            vec![(10, Pass), (11, Failure), (11, Hold(20)), (31, Pass)],
        ),
        (
            "and is lost",
            vec![(10, Pass), (39, Hold(1)), (40, Pass), (40, Hold(30))],
        ),
        (
            "pauses grow up to the longest",
            vec![
                (10, Pass),
                (10, Failure),
                (10, Hold(20)),
                (30, Pass),
                (30, Failure),
                (30, Hold(40)),
                (70, Pass),
                (70, Failure),
                (70, Hold(60)),
                (130, Pass),
                (130, Failure),
                (130, Hold(60)),
            ],
        ),
        (
            "a success makes pauses short again",
            vec![
                (10, Pass),
                (10, Failure),
                (30, Pass),
                (30, Success),
                (30, Failure),
                (30, Failure),
                (30, Failure),
                (30, Hold(10)),
            ],
        ),
        (
            "late failures change nothing",
            vec![(5, Failure), (5, Hold(5)), (10, Pass)],
        ),
        ("a late success closes", vec![(5, Success), (5, Pass), (5, Pass)]),
        (
            "a request to wait when open",
            vec![
                (5, Wait(2)),
                (5, Hold(5)),
                (6, Wait(20)),
                (6, Hold(20)),
                (26, Pass),
                (26, Hold(30)),
            ],
        ),
    ];
    for (index, (name, steps)) in stories.into_iter().enumerate() {
        let begin = if index < 2 { &[][..] } else { &open[..] };
        run(name, &[begin, &steps].concat());
    }
}

#[test]
fn requests_to_wait() {
    run(
        "closed",
        &[
            (0, Wait(7)),
            (0, Hold(7)),
            (7, Pass),
            (7, Hold(30)),
            (8, Success),
            (8, Pass),
            (8, Pass),
        ],
    );
    run(
        "a late success ends no pause that was asked for",
        &[
            (0, Wait(7)),
            (1, Success),
            (1, Hold(6)),
            (7, Pass),
            (8, Success),
            (8, Pass),
            (8, Pass),
        ],
    );
    run("longer than a failure's", &[(0, Wait(1000)), (0, Hold(1000))]);
    run("too long", &[(0, Wait(100_000)), (0, Hold(86_400))]);
    run("no wait", &[(0, Wait(0)), (0, Pass), (0, Hold(30))]);
    run(
        "no failure",
        &[
            (0, Wait(1)),
            (1, Pass),
            (1, Wait(5)),
            (1, Hold(5)),
            (6, Pass),
            (6, Failure),
            (6, Hold(10)),
        ],
    );
}

#[test]
fn open_or_not() {
    let breaker = run("open", &[(0, Failure), (0, Failure), (0, Failure)]);
    assert_eq!([0, 9, 10].map(|s| breaker.is_open(at(s))), [true, true, false]);
    assert!(!Breaker::default().is_open(at(0)));
}

#[test]
fn pauses_do_not_overflow() {
    for (times, seconds) in [
        (0, 10),
        (1, 10),
        (2, 20),
        (3, 40),
        (4, 60),
        (40, 60),
        (u32::MAX, 60),
    ] {
        assert_eq!(LIMITS.pause_after(times), Duration::from_secs(seconds), "{times}");
    }
}
