//! The contract, and the writer's rule: two owners of one partition, and everything goes wrong.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::*;
use crate::ids::CommitId;
use crate::log::conformance::Subject;
use crate::log::fence::{Fence, Verdict};
use crate::log::{RecordHeader, RecordKind};

struct Lab(SimulatedLog, Arc<SimulatedProducer>);

impl Subject for Lab {
    fn log(&self) -> Arc<dyn EventLog> {
        self.1.clone()
    }
    fn reopen(&mut self) -> BoxFuture<'_, ()> {
        self.0.crash();
        self.1 = self.0.producer(Drive::Appends);
        future::ready(()).boxed()
    }
    fn close(&mut self) -> BoxFuture<'_, ()> {
        self.0.close();
        future::ready(()).boxed()
    }
    fn max_record_bytes(&self) -> usize {
        1 << 20
    }
}

crate::conformance!({
    let log = SimulatedLog::new(SimulatedOptions {
        seed: 7,
        gap: 20,
        ..Default::default()
    });
    let producer = log.producer(Drive::Appends);
    Lab(log, producer)
});

#[test]
fn the_same_seed_gives_the_same_course() {
    let course = |seed| {
        let log = SimulatedLog::new(troubled(seed));
        let owners = [log.producer(Drive::Steps), log.producer(Drive::Steps)];
        for i in 0..40u64 {
            drop(owners[(i % 2) as usize].append(S, P, commit(0, i, i, 0)));
            log.step();
        }
        log.run_until_idle();
        log.durable(S, P)
    };
    assert_eq!(course(1), course(1));
    assert_ne!(course(1), course(2));
}

#[tokio::test]
async fn a_crash_takes_only_what_is_not_durable() {
    let log = SimulatedLog::new(SimulatedOptions::default());
    let producer = log.producer(Drive::Steps);
    let first = producer.append(S, P, commit(0, 0, 1, 0));
    log.run_until_idle();
    let second = producer.append(S, P, commit(0, 1, 2, 0));
    assert!(log.step(), "taken, not yet durable");
    log.crash();
    log.run_until_idle();
    assert_eq!(first.await.unwrap().offset, 0);
    assert!(matches!(second.await, Err(AppendError::Unknown(_))));
    assert_eq!(log.durable(S, P).len(), 1);
}

const S: Stream = Stream::Identity;
const P: Partition = Partition(0);
const IDENTIFIERS: u8 = 12;

fn troubled(seed: u64) -> SimulatedOptions {
    SimulatedOptions {
        seed,
        partitions: 1,
        lost_acknowledgement: 7,
        duplicate: 3,
        gap: 5,
        lost_late: 10,
        ..Default::default()
    }
}

fn commit(epoch: u64, seq: u64, id: u64, identifier: u8) -> Record {
    let commit_id = CommitId(Uuid::from_u128(id.into()));
    let header = RecordHeader {
        kind: RecordKind::Commit,
        commit_id,
        epoch,
        seq,
        aggregate_version: 0,
    };
    Record {
        header,
        value: vec![identifier].into(),
    }
}

fn claim() -> Record {
    let mut record = commit(0, 0, 0, 0);
    record.header.kind = RecordKind::Claim;
    record
}

/// What a reader knows of the partition.
#[derive(Default)]
struct Folded {
    fence: Fence,
    last: Option<Offset>,
    /// The commits that count, with the identifier that each takes.
    valid: Vec<(CommitId, u8)>,
}

fn fold(log: &SimulatedLog, up_to: Offset) -> Folded {
    let mut folded = Folded::default();
    for Entry { position, record } in log
        .durable(S, P)
        .into_iter()
        .filter(|e| e.position.offset <= up_to)
    {
        if folded.fence.admit(position.offset, &record.header) == Verdict::Commit {
            folded.valid.push((record.header.commit_id, record.value[0]));
        }
        folded.last = Some(position.offset);
    }
    folded
}

/// An answer that is awaited, and of what.
type Awaited = (BoxFuture<'static, Answer>, Option<(CommitId, u8)>);

enum Mode {
    Idle,
    Claiming,
    Serving {
        epoch: u64,
        seq: u64,
        known: Offset,
        taken: BTreeSet<u8>,
    },
}

/// A writer by the rules of the design, reduced to "one owner per identifier".
struct Owner {
    producer: Arc<SimulatedProducer>,
    mode: Mode,
    awaited: VecDeque<Awaited>,
    paused: usize,
}

struct Run {
    log: SimulatedLog,
    chance: Chance,
    answered: BTreeMap<CommitId, u8>,
    commits: u64,
    /// Whether a gap before an acknowledged record is read before the caller is answered.
    reads_gaps: bool,
}

impl Owner {
    fn step_down(&mut self) {
        self.mode = Mode::Idle;
        self.awaited.clear();
    }

    fn step(&mut self, run: &mut Run) {
        if self.paused > 0 {
            self.paused -= 1;
            return;
        }
        if matches!(self.mode, Mode::Idle) {
            if run.chance.percent(30) {
                self.producer.kill();
                self.producer = run.log.producer(Drive::Steps);
                self.awaited = VecDeque::from([(self.producer.append(S, P, claim()), None)]);
                self.mode = Mode::Claiming;
            }
            return;
        }
        self.hear(run);
        self.decide(run);
        if run.chance.percent(2) {
            self.paused = 5 + run.chance.below(55);
        }
        if run.chance.percent(1) {
            self.step_down();
        }
    }

    fn hear(&mut self, run: &mut Run) {
        while let Some((answer, what)) = self.awaited.front_mut() {
            let Some(answer) = answer.now_or_never() else {
                return;
            };
            let what = *what;
            self.awaited.pop_front();
            let Ok(position) = answer else {
                return self.step_down();
            };
            if !self.acknowledged(run, position.offset, what) {
                return self.step_down();
            }
        }
    }

    /// `false`: another owner took over.
    fn acknowledged(&mut self, run: &mut Run, offset: Offset, what: Option<(CommitId, u8)>) -> bool {
        match (&mut self.mode, what) {
            (Mode::Claiming, None) => {
                let folded = fold(&run.log, u64::MAX);
                if folded.fence.epoch != Some(offset) {
                    return false;
                }
                self.mode = Mode::Serving {
                    epoch: offset,
                    seq: folded.fence.next_seq,
                    known: folded.last.unwrap(),
                    taken: folded.valid.iter().map(|v| v.1).collect(),
                };
            }
            (Mode::Serving { epoch, known, .. }, Some(commit)) => {
                if offset != *known + 1 && run.reads_gaps {
                    let folded = fold(&run.log, offset);
                    if folded.fence.epoch != Some(*epoch) || !folded.valid.contains(&commit) {
                        return false;
                    }
                }
                *known = offset;
                run.answered.insert(commit.0, commit.1);
            }
            _ => return false,
        }
        true
    }

    fn decide(&mut self, run: &mut Run) {
        let Mode::Serving {
            epoch, seq, taken, ..
        } = &mut self.mode
        else {
            return;
        };
        let identifier = run.chance.below(IDENTIFIERS.into()) as u8;
        if run.chance.percent(70) && taken.insert(identifier) {
            run.commits += 1;
            let record = commit(*epoch, *seq, run.commits, identifier);
            *seq += 1;
            let what = Some((record.header.commit_id, identifier));
            self.awaited.push_back((self.producer.append(S, P, record), what));
        }
    }
}

/// What was violated, if anything; and how many commits were answered.
fn run(seed: u64, reads_gaps: bool) -> (Option<String>, usize) {
    let log = SimulatedLog::new(troubled(seed));
    let mut owners = [(); 2].map(|()| Owner {
        producer: log.producer(Drive::Steps),
        mode: Mode::Idle,
        awaited: VecDeque::new(),
        paused: 0,
    });
    let mut run = Run {
        log,
        chance: Chance(!seed),
        answered: BTreeMap::new(),
        commits: 0,
        reads_gaps,
    };
    for _ in 0..600 {
        let which = run.chance.below(2);
        owners[which].step(&mut run);
        for _ in 0..run.chance.below(3) {
            run.log.step();
        }
        if run.chance.percent(1) {
            run.log.crash();
        }
    }
    run.log.run_until_idle();
    let valid = fold(&run.log, u64::MAX).valid;
    let by_id: BTreeMap<_, _> = valid.iter().copied().collect();
    let void = run
        .answered
        .iter()
        .find(|(id, identifier)| by_id.get(id) != Some(identifier));
    let winners: BTreeSet<u8> = valid.iter().map(|v| v.1).collect();
    let violation = match void {
        Some((id, _)) => Some(format!("seed {seed}: commit {id} was acknowledged and is void")),
        None if winners.len() != valid.len() => Some(format!("seed {seed}: an identifier has two winners")),
        None => None,
    };
    (violation, run.answered.len())
}

#[test]
fn no_acknowledged_commit_is_void_and_no_identifier_has_two_winners() {
    let mut answered = 0;
    // A seed that fails is named, and is the same course wherever it is run.
    let seeds = std::env::var("GATELOG_SIMULATED_SEEDS").map_or(10_000, |n| n.parse().unwrap());
    for seed in 0..seeds {
        let (violation, n) = run(seed, true);
        assert_eq!(violation, None);
        answered += n;
    }
    assert!(answered > 1000, "the owners got to serve: {answered}");
}

#[test]
fn the_check_fails_where_gaps_are_not_read() {
    assert!((0..300).any(|seed| run(seed, false).0.is_some()));
}
