//! The decider: one thread that turns commands into commits, on the state as it will be once all in flight is durable.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use gatelog_events::clock;
use gatelog_events::commit::Subject;
use gatelog_events::domain::session;
use gatelog_events::domain::tenant::Settings;
use gatelog_events::failpoint;
use gatelog_events::ids::{CommitId, Partition, Stream, TenantId};
use gatelog_events::log::fence::Progress;
use gatelog_projections::folder::{Decoded, Folder};
use gatelog_projections::store::Table;

use super::applier::{Followed, Step};
use super::decide::{Refusal, commit_key};
use super::random::Random;
use super::takeover::{Owned, Parts};
use super::unwritten::{Decided, Said};
use super::{Command, Outcome, Reply, Request, Submission, WriteError};

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
    pub(super) owned: Owned,
    pub policy: session::Policy,
    pub(super) settings: HashMap<TenantId, Arc<Settings>>,
    pub(super) random: Random,
    out: mpsc::SyncSender<Step>,
    settled: mpsc::Receiver<Settled>,
    pub(super) in_flight: HashSet<CommitId>,
    /// Retries whose first try is still on its way.
    aside: VecDeque<Submission>,
    /// Whether the state holds a part of a commit that was not appended: nothing may be decided on it, and the next tenure
    /// begins with a state of its own.
    pub(super) is_torn: bool,
}

impl Decider {
    pub fn new(
        parts: Arc<Parts>,
        state: Folder,
        (lanes, owned): (Lanes, Owned),
        policy: session::Policy,
        out: mpsc::SyncSender<Step>,
        settled: mpsc::Receiver<Settled>,
    ) -> Self {
        Self {
            parts,
            state,
            lanes,
            owned,
            policy,
            settings: HashMap::new(),
            random: Random::new(),
            out,
            settled,
            in_flight: HashSet::new(),
            aside: VecDeque::new(),
            is_torn: false,
        }
    }

    /// Handles one command. A retry whose first try is still on its way is put aside while `others` wait. `false`: the applier
    /// has stepped down, or the state is torn, and nothing more can be decided.
    pub fn handle(&mut self, submission: Submission, others: bool) -> bool {
        if !self.is_served() {
            return self.give_up(&submission.request, submission.reply);
        }
        if others && self.is_on_its_way(&submission.request) {
            self.aside.push_back(submission);
            return true;
        }
        self.decide_and_send(submission)
    }

    /// Handles what was put aside and need not wait any more, or keeps nobody waiting. `false` as for [`handle`](Self::handle).
    pub fn take_up(&mut self, others: bool) -> bool {
        while let Some(first) = self.aside.front() {
            if others && self.is_on_its_way(&first.request) {
                return true;
            }
            let Some(submission) = self.aside.pop_front() else {
                return true;
            };
            if !self.handle(submission, false) {
                return false;
            }
        }
        true
    }

    /// Gives back what was put aside: nothing was written for it.
    pub fn give_back(&mut self) {
        for Submission { request, reply } in std::mem::take(&mut self.aside) {
            self.give_up(&request, reply);
        }
    }

    fn is_on_its_way(&self, request: &Request) -> bool {
        commit_key(request).is_some_and(|id| self.in_flight.contains(&id))
    }

    /// Folds a record of another node into the state. `false`: the applier has stepped down.
    pub fn follow(&mut self, record: Decoded) -> bool {
        if !self.is_served() {
            return false;
        }
        self.state.fold_followed(&record);
        if let Some(commit) = record.commit()
            && commit.subject == Subject::Tenant
        {
            self.settings.remove(&commit.tenant);
        }
        self.in_flight.insert(record.header.commit_id);
        let changes = self.state.take_changes();
        self.send(Step::Followed(Box::new(Followed { record, changes })))
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
        self.wait_while(|flying| !flying.is_empty())
    }

    fn wait_while(&mut self, busy: impl Fn(&HashSet<CommitId>) -> bool) -> bool {
        while busy(&self.in_flight) {
            match self.settled.recv() {
                Ok(settled) => self.settle(settled),
                Err(_) => return false,
            }
        }
        true
    }

    /// Hands something on to the applier. `false`: it has stepped down.
    pub fn send(&self, step: Step) -> bool {
        match self.out.send(step) {
            Ok(()) => true,
            Err(mpsc::SendError(Step::Answer(decided))) => {
                decided.give_up();
                false
            }
            // What became of an append is not known.
            Err(_) => false,
        }
    }

    fn settle(&mut self, settled: Settled) {
        self.in_flight.remove(&settled.commit);
        for (table, keys) in &settled.changes {
            self.state.settle(table, keys);
        }
    }

    fn decide_and_send(&mut self, submission: Submission) -> bool {
        let Submission { request, reply } = submission;
        // A retry whose first try is still on its way gets the answer of that one, which is a write away.
        if let Some(id) = commit_key(&request)
            && !self.wait_while(|flying| flying.contains(&id))
        {
            return self.give_up(&request, reply);
        }
        let now = clock::now();
        failpoint::hit("writer.before_decision");
        match self.decide(&request, now) {
            Ok(Some((commit, stream, partition))) => self.append(commit, stream, partition, reply),
            Ok(None) => self.say(&request, reply, |place| Said::Nothing {
                place,
                user: request.subject.user(),
                time: now,
            }),
            Err(Refusal::Replay(answer)) => {
                let outcome = Outcome {
                    answer,
                    commit: None,
                    replayed: true,
                };
                // Tokens are made anew for it: who shut them out since may have been another node.
                let opens = matches!(request.command, Command::Session(_)) && request.time.is_none();
                self.say(&request, reply, |place| match opens {
                    true => Said::Again { place, outcome },
                    false => Said::Known(Ok(outcome)),
                })
            }
            // A refusal may rest on what is still in flight, so it is answered in order too.
            Err(Refusal::Error(error @ WriteError::Rejected(_))) => {
                self.say(&request, reply, |place| Said::Rejected { place, error })
            }
            Err(Refusal::Error(e)) => self.say(&request, reply, |_| Said::Known(Err(e))),
        }
    }

    fn say(&self, request: &Request, reply: Reply, say: impl FnOnce((Stream, Partition)) -> Said) -> bool {
        let said = self.place(request).map_or_else(|e| Said::Known(Err(e)), say);
        self.send(Step::Answer(Decided { said, reply }))
    }

    /// The applier has stepped down, so nothing was written, and the caller may go to whoever writes next. Always `false`.
    fn give_up(&self, request: &Request, reply: Reply) -> bool {
        let _ = reply.send(Err(match self.place(request) {
            Ok((stream, partition)) => WriteError::NotOwner { stream, partition },
            Err(e) => e,
        }));
        false
    }
}
