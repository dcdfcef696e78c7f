//! What has come of the races so far.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::history::{Checker, DONE, History};

#[derive(Debug, Default)]
struct Kind {
    rounds: usize,
    calls: usize,
    unknown: usize,
    /// Races of which the winner was told so.
    won: usize,
    /// Races of which the winner was told nothing, and so lost what it won.
    lost: usize,
}

pub struct Score {
    seed: u64,
    kinds: Mutex<BTreeMap<&'static str, Kind>>,
    problems: Mutex<Vec<String>>,
}

impl Score {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            kinds: Mutex::default(),
            problems: Mutex::default(),
        }
    }

    fn problem(&self, what: String) {
        eprintln!("seed {}: {what}", self.seed);
        self.problems.lock().unwrap().push(what);
    }

    /// Judges a race. What is wrong with it goes to files, and is told at the end.
    pub fn enter(&self, checker: &Checker, played: Result<History, String>) {
        let history = match played {
            Ok(history) => history,
            Err(what) => return self.problem(what),
        };
        let file = |end: &str| -> PathBuf {
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("races-{}-{}.{end}", self.seed, history.key))
        };
        let judge = || checker.judge(&history, Some(&file("html")));
        let verdict = tokio::task::block_in_place(judge);
        if !verdict.is_linearizable() {
            let text = serde_json::to_string_pretty(&history).unwrap();
            std::fs::write(file("json"), text).unwrap();
            self.problem(format!(
                "{} is {}: {}, and as a picture in {}; these do not go together: {:?}",
                history.key,
                verdict.verdict,
                file("json").display(),
                file("html").display(),
                verdict.witness,
            ));
        }
        let winners = winners(&history);
        if winners > 1 {
            self.problem(format!("{} has {winners} winners", history.key));
        }
        let mut kinds = self.kinds.lock().unwrap();
        let kind = kinds.entry(history.model).or_default();
        kind.rounds += 1;
        kind.calls += history.calls.len();
        kind.unknown += history.calls.iter().filter(|c| c.is_unknown()).count();
        kind.won += winners;
        kind.lost += usize::from(winners == 0);
        if kind.rounds.is_multiple_of(100) {
            eprintln!("{} {kind:?}", history.model);
        }
    }

    pub fn report(&self) -> String {
        let kinds = self.kinds.lock().unwrap();
        let kinds: Vec<String> = kinds
            .iter()
            .map(|(name, kind)| format!("{name} {kind:?}"))
            .collect();
        kinds.join(", ")
    }

    pub fn assert_clean(&self) {
        let problems = self.problems.lock().unwrap();
        assert!(
            problems.is_empty(),
            "seed {}:\n{}",
            self.seed,
            problems.join("\n")
        );
    }
}

/// How many different clients or users were told that they have it. Of a session: the token that all present.
fn winners(history: &History) -> usize {
    let last = history.calls.iter().filter(|c| c.client < super::rounds::CROWD);
    let raced = last.map(|c| c.token).max().unwrap_or_default();
    let mut winners: Vec<&str> = history
        .calls
        .iter()
        .filter(|c| c.answer == DONE && c.token == raced)
        .map(|c| c.who.as_str())
        .collect();
    winners.sort_unstable();
    winners.dedup();
    winners.len()
}
