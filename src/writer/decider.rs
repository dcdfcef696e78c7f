//! The decider: one thread that turns commands into commits, on the state as it will be once all in flight is durable.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use gatelog_events::clock::{self, Timestamp};
use gatelog_events::domain::session;
use gatelog_events::domain::tenant::Settings;
use gatelog_events::ids::{CommitId, Partition, Stream, TenantId};
use gatelog_projections::folder::Folder;
use gatelog_projections::projection::Progress;
use gatelog_projections::store::Table;

use super::applier::{Decided, Step};
use super::decide::{Refusal, commit_key};
use super::random::Random;
use super::takeover::Parts;
use super::{Outcome, Reply, Request, Submission, WriteError};

/// What the applier has written, so that the overlay can forget it.
pub(super) struct Settled {
    pub commit: CommitId,
    pub changes: Vec<(Table, Vec<Bytes>)>,
}

/// Under which epoch and number this writer appends to a partition.
pub(super) type Lanes = HashMap<(Stream, Partition), Progress>;

pub(super) struct Decider {
    pub parts: Arc<Parts>,
    /// The aggregates: users, identifiers, sessions, settings.
    pub state: Folder,
    pub lanes: Lanes,
    pub policy: session::Policy,
    pub(super) settings: HashMap<TenantId, Arc<Settings>>,
    pub(super) random: Random,
    out: mpsc::SyncSender<Step>,
    settled: mpsc::Receiver<Settled>,
    pub(super) in_flight: HashSet<CommitId>,
    /// Requests whose commit id is in flight already; they are answered from its answer.
    repeated: Vec<Submission>,
}

impl Decider {
    pub fn new(
        parts: Arc<Parts>,
        state: Folder,
        lanes: Lanes,
        policy: session::Policy,
        out: mpsc::SyncSender<Step>,
        settled: mpsc::Receiver<Settled>,
    ) -> Self {
        Self {
            parts,
            state,
            lanes,
            policy,
            settings: HashMap::new(),
            random: Random::new(),
            out,
            settled,
            in_flight: HashSet::new(),
            repeated: Vec::new(),
        }
    }

    /// Handles one command. `false`: the applier has stepped down, and nothing more can be decided.
    pub fn handle(&mut self, submission: Submission) -> bool {
        if !self.is_served() {
            let _ = submission.reply.send(Err(WriteError::Unavailable {
                reason: "the writer is taking over anew".to_owned(),
            }));
            return false;
        }
        let mut going = self.decide_and_send(submission);
        if !self.repeated.is_empty() {
            let flying = &self.in_flight;
            let (wait, ready): (Vec<_>, Vec<_>) = std::mem::take(&mut self.repeated)
                .into_iter()
                .partition(|s| commit_key(&s.request).is_some_and(|id| flying.contains(&id)));
            self.repeated = wait;
            for submission in ready {
                going = going && self.decide_and_send(submission);
            }
        }
        going
    }

    /// Takes note of what was written. `false`: the applier has stepped down.
    pub fn is_served(&mut self) -> bool {
        loop {
            match self.settled.try_recv() {
                Ok(settled) => self.settle(settled),
                Err(mpsc::TryRecvError::Empty) => return true,
                Err(mpsc::TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Waits until everything that was decided is written. `false`: the applier has stepped down.
    pub fn quiesce(&mut self) -> bool {
        while !self.in_flight.is_empty() {
            match self.settled.recv() {
                Ok(settled) => self.settle(settled),
                Err(_) => return false,
            }
        }
        true
    }

    /// Whether requests wait for the answer to an earlier one with the same key.
    pub fn take_repeated(&mut self) -> Vec<Submission> {
        std::mem::take(&mut self.repeated)
    }

    /// Hands something on to the applier. `false`: it has stepped down.
    pub fn send(&self, step: Step) -> bool {
        self.out.send(step).is_ok()
    }

    fn settle(&mut self, settled: Settled) {
        self.in_flight.remove(&settled.commit);
        for (table, keys) in &settled.changes {
            self.state.settle(table, keys);
        }
    }

    fn decide_and_send(&mut self, submission: Submission) -> bool {
        let Submission { request, reply } = submission;
        if let Some(id) = commit_key(&request)
            && self.in_flight.contains(&id)
        {
            self.repeated.push(Submission { request, reply });
            return true;
        }
        let now = clock::now();
        match self.decide(&request, now) {
            Ok(Some((commit, stream, partition))) => self.append(commit, stream, partition, reply),
            Ok(None) => self.send_nothing(&request, now, reply),
            Err(Refusal::Replay(answer)) => {
                let outcome = Outcome {
                    answer,
                    commit: None,
                    replayed: true,
                };
                self.send(Step::Answer(Decided {
                    result: Ok(outcome),
                    reply,
                }))
            }
            // A refusal may rest on what is still in flight, so it is answered in order too.
            Err(Refusal::Error(e)) => self.send(Step::Answer(Decided {
                result: Err(e),
                reply,
            })),
        }
    }

    fn send_nothing(&mut self, request: &Request, now: Timestamp, reply: Reply) -> bool {
        match self.place(request) {
            Ok((stream, partition)) => self.send(Step::Nothing {
                stream,
                partition,
                user: request.subject.user(),
                time: now,
                reply,
            }),
            Err(e) => self.send(Step::Answer(Decided {
                result: Err(e),
                reply,
            })),
        }
    }
}
