//! That the judge can say no.

use super::history::{Call, Checker, DONE, History, REFUSED, go};
use super::rounds::CROWD;

fn call(ask: &'static str, who: usize, time: std::ops::Range<u64>, answer: &str) -> Call {
    Call {
        ask,
        who: format!("c{who}"),
        client: who,
        begin: time.start,
        end: (!answer.is_empty()).then_some(time.end),
        answer: answer.to_owned(),
        given: u32::from(ask == "refresh" && answer == DONE),
        ..Call::default()
    }
}

/// A race as it should be: one is given it while all ask.
fn fair(model: &'static str, ask: &'static str) -> History {
    let answer = |who| if who == 17 { DONE } else { REFUSED };
    let calls = (0..CROWD).map(|who| call(ask, who, who as u64..1000 + who as u64, answer(who)));
    History {
        model,
        key: "forged".to_owned(),
        calls: calls.collect(),
    }
}

#[test]
fn a_forged_history_is_refused() {
    let Some(checker) = Checker::build() else { return };
    let judge = |history: &History| checker.judge(history, None);
    for (model, ask) in [
        ("address", "register"),
        ("identifier", "claim"),
        ("session", "refresh"),
    ] {
        assert!(judge(&fair(model, ask)).is_linearizable(), "{model}");

        let mut two_winners = fair(model, ask);
        two_winners.calls[40] = call(ask, 40, 40..1040, DONE);
        let verdict = judge(&two_winners);
        assert_eq!(verdict.verdict, "not linearizable", "{model}");
        assert_eq!(verdict.witness.len(), 2, "{:?}", verdict.witness);

        let mut no_winner = fair(model, ask);
        no_winner.calls.remove(17);
        assert_eq!(judge(&no_winner).verdict, "not linearizable", "{model}");

        // Whoever was told nothing may have won.
        no_winner.calls[30] = call(ask, 31, 31..1031, "");
        assert!(judge(&no_winner).is_linearizable(), "{model}");

        // But not if the refusals came before it asked.
        no_winner.calls[30] = call(ask, 31, 2000..3000, "");
        assert_eq!(judge(&no_winner).verdict, "not linearizable", "{model}");
    }
}

#[test]
fn a_stale_read_is_refused() {
    let Some(checker) = Checker::build() else { return };
    let read = |history: &History, time, found: &str| {
        let mut history = history.clone();
        let mut find = call("find", CROWD, time, found);
        find.end = Some(find.begin + 1);
        history.calls.push(find);
        checker.judge(&history, None).verdict
    };
    let registered = fair("address", "register");
    let mut attached = fair("identifier", "claim");
    attached.calls.push(call("attach", 17, 17..1017, DONE));
    for history in [registered, attached] {
        assert_eq!(read(&history, 1100..1101, "c17"), "linearizable");
        assert_eq!(read(&history, 1100..1101, "c18"), "not linearizable");
        // The winner had its answer at 1017.
        assert_eq!(read(&history, 1018..1019, ""), "not linearizable");
        assert_eq!(read(&history, 0..1, ""), "linearizable");
    }
}

#[test]
fn what_the_checker_leaves_out_changes_no_verdict() {
    let Some(mut tests) = go(&["test", "./..."]) else {
        return;
    };
    let output = tests.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
