//! No two winners: many clients want at once what one can have, on three nodes over real Kafka that are killed, paused and
//! restarted meanwhile. Each call is noted, and an existing checker, Porcupine, says for each key whether some order of
//! the calls explains all answers (`tests/linearizability/models.go` says what the promises are).
//!
//! `GATELOG_RACE_ROUNDS` is the number of races of each kind, `GATELOG_RACE_SEED` what chance chooses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

#[allow(dead_code)]
#[path = "../events/tests/log_kafka/broker.rs"]
mod broker;

mod races {
    pub mod clients;
    pub mod dice;
    pub mod forged;
    pub mod history;
    pub mod nodes;
    pub mod rounds;
    pub mod score;
    pub mod spellings;
}

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::future::join_all;
use races::clients::Clients;
use races::dice::Dice;
use races::history::Checker;
use races::score::Score;
use races::{nodes, rounds};
use support::cluster::Cluster;

/// Sessions that are raced for begin by turns at these.
const OWNERS: usize = 16;

/// No limit on attempts comes in the way, and no hash is given up while a busy machine computes it.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("GATELOG_HASH_MAX_WAIT", "30s"),
    ("GATELOG_ACCOUNT_FREE_ATTEMPTS", "100"),
    ("GATELOG_ACCOUNT_LONGEST_WAIT", "1s"),
    ("GATELOG_NETWORK_FREE_ATTEMPTS", "1000000"),
];

/// Not by eprintln!, which the harness swallows where a test passes.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a number, and is {text:?}"))
    })
}

/// What all races share.
struct Arena<'a> {
    clients: Clients,
    checker: Checker,
    score: Score,
    seed: u64,
    rounds: usize,
    /// Whether every kind of disturbance has come at least once.
    disturbed: &'a AtomicBool,
}

impl Arena<'_> {
    /// The number of the next race, while there are any.
    fn next(&self, begun: &AtomicUsize) -> Option<usize> {
        let number = begun.fetch_add(1, Ordering::Relaxed);
        (number < self.rounds || !self.disturbed.load(Ordering::Relaxed)).then_some(number)
    }

    async fn registrations(&self, begun: &AtomicUsize) {
        while let Some(n) = self.next(begun) {
            let name = format!("reg{n}");
            let mut dice = Dice::new(self.seed, &name);
            let played = rounds::registration(&self.clients, &name, &mut dice).await;
            self.score.enter(&self.checker, played);
        }
    }

    async fn rotations(&self, begun: &AtomicUsize, owners: &[String]) {
        while let Some(n) = self.next(begun) {
            let name = format!("rot{n}");
            let mut dice = Dice::new(self.seed, &name);
            let owner = n % OWNERS;
            let (user, email) = (&owners[owner], format!("owner{owner}@example.com"));
            let played = rounds::rotation(&self.clients, &name, user, &email, &mut dice).await;
            self.score.enter(&self.checker, played);
        }
    }

    async fn attachments(&self, begun: &AtomicUsize, lane: usize) -> Result<(), String> {
        let mut users = Vec::new();
        for i in 0..rounds::CROWD {
            users.push(self.clients.register(&format!("user{lane}-{i}")).await?);
        }
        while let Some(n) = self.next(begun) {
            let name = format!("att{n}");
            let mut dice = Dice::new(self.seed, &name);
            let played = rounds::attachment(&self.clients, &name, &users, &mut dice).await;
            if let Ok(history) = &played {
                // What is still on its way would change the user's address in the middle of a later race.
                let doubtful = history.calls.iter().filter(|c| c.is_unknown());
                let mut doubtful: Vec<usize> = doubtful.map(|c| c.client).collect();
                doubtful.sort_unstable();
                doubtful.dedup();
                for client in doubtful {
                    users[client] = self.clients.register(&format!("user{lane}-{n}-{client}")).await?;
                }
            }
            self.score.enter(&self.checker, played);
        }
        Ok(())
    }

    async fn all(&self) {
        let begun: [AtomicUsize; 3] = Default::default();
        let mut owners = Vec::new();
        for i in 0..OWNERS {
            owners.push(self.clients.register(&format!("owner{i}")).await.unwrap());
        }
        // While a node is away each race waits for it, so that many are run at once; registrations cost more than the rest.
        let lanes = self.rounds.div_ceil(100).clamp(2, 6);
        let (begun, owners) = (&begun, &owners);
        let registrations = (0..lanes.div_ceil(2)).map(|_| self.registrations(&begun[0]));
        let rotations = (0..lanes).map(|_| self.rotations(&begun[1], owners));
        let attachments = (0..lanes).map(|lane| self.attachments(&begun[2], lane));
        let (_, _, attached) = tokio::join!(
            join_all(registrations),
            join_all(rotations),
            join_all(attachments)
        );
        attached.into_iter().collect::<Result<(), String>>().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_wins_and_every_answer_can_be_explained() {
    let Some(bootstrap) = broker::shared() else { return };
    let Some(checker) = Checker::build() else { return };
    let seed = number("GATELOG_RACE_SEED", u64::from(std::process::id()));
    let rounds = number("GATELOG_RACE_ROUNDS", 15) as usize;
    say(&format!("races: seed {seed}, {rounds} of each kind"));
    let mut cluster = Cluster::start_with(&bootstrap, &format!("races-{seed}."), 3, &ENVIRONMENT).await;
    let (disturbed, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let arena = Arena {
        clients: Clients::new(cluster.addresses.clone()),
        checker,
        score: Score::new(seed),
        seed,
        rounds,
        disturbed: &disturbed,
    };
    let races = async {
        arena.all().await;
        over.store(true, Ordering::Relaxed);
    };
    let ((), disturbances) = tokio::join!(races, nodes::disturb(&mut cluster, seed, &disturbed, &over));
    say(&format!("races: {}; {disturbances}", arena.score.report()));
    cluster.verify();
    arena.score.assert_clean();
}
