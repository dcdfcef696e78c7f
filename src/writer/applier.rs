//! The applier: one thread that waits for the log, writes the views, destroys keys of the erased, and answers.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use futures::FutureExt;
use futures::executor::block_on;
use futures::future::BoxFuture;
use gatelog_events::clock;
use gatelog_events::commit::Commit;
use gatelog_events::failpoint;
use gatelog_events::ids::{CommitId, Offset, Partition, Position, Stream};
use gatelog_events::log::fence::{Progress, Verdict};
use gatelog_events::log::{AppendError, EventLog, RecordHeader};
use gatelog_projections::answers::Answer;
use gatelog_projections::folder::{Decoded, Folder, Mark, Touched};
use gatelog_projections::store::{Change, StoreError, Table};
use metrics::Histogram;

use super::decider::{Lanes, Settled};
use super::strays::{self, Looks, next_until};
use super::swap::Swap;
use super::tail::TailStep;
use super::takeover::{Handover, Message, Parts};
use super::unwritten::{Decided, Held, PATIENCE};
use super::{Outcome, Reply};

/// Commits written to the views at once, at the most.
pub(super) const BATCH: usize = 1024;

/// Changes of one table.
pub(super) type TableChanges = (Table, Vec<Change>);

/// An append on its way.
pub(super) struct Pending {
    pub header: RecordHeader,
    pub answer: BoxFuture<'static, Result<Position, AppendError>>,
}

/// A commit on its way, with what it changes in the state.
pub(super) struct Append {
    pub stream: Stream,
    pub partition: Partition,
    pub commit: Arc<Commit>,
    pub append: Pending,
    pub changes: Vec<TableChanges>,
    pub reply: Reply,
    /// When it was decided.
    pub begun: Instant,
}

/// A record of another node, with what it changes in the state.
pub(super) struct Followed {
    pub record: Decoded,
    pub changes: Vec<TableChanges>,
}

/// What the decider hands over, in the order of its decisions.
pub(super) enum Step {
    Append(Box<Append>),
    Answer(Decided),
    /// Another node wrote it.
    Followed(Box<Followed>),
    /// A rebuilt table takes over. Nothing is in flight.
    Swap(Box<Swap>),
    /// A rebuilt table of the decider's took over.
    Marked(Box<Mark>),
}

/// Commits whose outcome only the log can tell.
pub(super) struct Unresolved {
    pub commit: Arc<Commit>,
    /// Where it was appended, and under which epoch.
    pub place: (Stream, Partition),
    pub epoch: Offset,
    pub reply: Reply,
}

pub(super) struct Applier {
    pub parts: Arc<Parts>,
    /// Projections that are folded here: logins and answers.
    pub folder: Folder,
    /// The decider's tables.
    pub marks: Vec<Mark>,
    /// What counts in each partition, as every reader will judge it.
    pub lanes: Lanes,
    pub settled: mpsc::Sender<Settled>,
    /// Wakes the decider when nothing else does.
    pub decider: tokio::sync::mpsc::WeakSender<Message>,
    pub tail: mpsc::SyncSender<TailStep>,
    /// From decision to answer.
    pub durations: Histogram,
}

struct Acked {
    position: Position,
    append: Append,
}

impl Acked {
    fn record(&self) -> Decoded {
        Decoded::own(
            self.position,
            self.append.append.header,
            self.append.commit.clone(),
        )
    }
}

/// Reads what stands in a partition between what is known of it and `position`. Nothing of it can count but a claim.
fn read_gap(log: &dyn EventLog, lane: &mut Progress, position: Position) -> Result<(), String> {
    let mut between = log.read(position.stream, position.partition, lane.next);
    let until = clock::monotonic() + PATIENCE;
    loop {
        let entry = match next_until(&mut between, until) {
            Some(entry) => entry.map_err(|e| e.to_string())?,
            None => return Err(format!("the log does not tell what stands before {position}")),
        };
        let at = entry.position.offset;
        if at >= position.offset {
            return Ok(());
        }
        match lane.fence.admit(at, &entry.record.header) {
            Verdict::Void => lane.next = at + 1,
            Verdict::Claim => {
                return Err(format!(
                    "another writer claimed the partition at {}",
                    entry.position
                ));
            }
            // A copy of our own: its first counts, whatever its acknowledgement said.
            Verdict::Commit => return Err(format!("a second copy of our own stands at {}", entry.position)),
        }
    }
}

impl Applier {
    /// Runs until the decider ends, or until an append fails; then what is unresolved is handed back.
    pub fn run(mut self, steps: mpsc::Receiver<Step>) -> Handover {
        let mut next: Option<Step> = None;
        let mut held = Vec::new();
        let mut looks = Looks::default();
        loop {
            if next.is_none() {
                next = steps.try_recv().ok();
            }
            if next.is_none()
                && let Err(failure) = self.look(&mut held)
            {
                return self.step_down(failure, next, &steps, held);
            }
            if let Err(failure) = self.pass_strays(&mut looks) {
                return self.step_down(failure, next, &steps, held);
            }
            let step = match next.take() {
                Some(step) => step,
                None => match steps.recv_timeout(strays::LOOK) {
                    Ok(step) => step,
                    Err(mpsc::RecvTimeoutError::Timeout) => continue,
                    Err(mpsc::RecvTimeoutError::Disconnected) => return Handover::finished(),
                },
            };
            let result = match step {
                Step::Append(first) => {
                    let applied = self.apply_from(*first, &steps, &mut next);
                    self.release(&mut held);
                    applied
                }
                Step::Answer(first) => {
                    self.answer_from(first, &steps, &mut next, &mut held);
                    Ok(())
                }
                Step::Followed(first) => self.follow_from(*first, &steps, &mut next),
                Step::Swap(swap) => {
                    self.swap(swap);
                    Ok(())
                }
                Step::Marked(mark) => {
                    self.mark(*mark);
                    Ok(())
                }
            };
            if let Err(failure) = result {
                return self.step_down(failure, next, &steps, held);
            }
        }
    }

    /// Waits for one append, takes along what else is acknowledged by then, and applies all of it.
    fn apply_from(
        &mut self,
        first: Append,
        steps: &mpsc::Receiver<Step>,
        next: &mut Option<Step>,
    ) -> Result<(), Failure> {
        let mut batch = Vec::new();
        let mut failure = None;
        let mut waiting = Some(first);
        while let Some(mut append) = waiting.take() {
            let answer = if batch.is_empty() {
                block_on(&mut append.append.answer)
            } else {
                match (&mut append.append.answer).now_or_never() {
                    Some(answer) => answer,
                    None => {
                        *next = Some(Step::Append(Box::new(append)));
                        break;
                    }
                }
            };
            match self.judge(&append, answer) {
                Ok(position) => batch.push(Acked { position, append }),
                Err(reason) => {
                    failure = Some(Failure {
                        reason,
                        unresolved: vec![Unresolved::from(append)],
                    });
                    break;
                }
            }
            if batch.len() >= BATCH {
                break;
            }
            match steps.try_recv() {
                Ok(Step::Append(another)) => waiting = Some(*another),
                Ok(other) => *next = Some(other),
                Err(_) => {}
            }
        }
        if let Err(e) = self.apply(&mut batch) {
            let failure = failure.get_or_insert_with(|| Failure {
                reason: e.to_string(),
                unresolved: Vec::new(),
            });
            failure
                .unresolved
                .extend(batch.into_iter().map(|a| Unresolved::from(a.append)));
        }
        failure.map_or(Ok(()), Err)
    }

    /// Whether an acknowledged commit counts: the readers' rule must admit it, after all that stands before it.
    fn judge(&mut self, append: &Append, answer: Result<Position, AppendError>) -> Result<Position, String> {
        let position = answer.map_err(|e| e.to_string())?;
        let lane = self
            .lanes
            .get_mut(&(append.stream, append.partition))
            .ok_or("the partition is not ours")?;
        if position.offset != lane.next {
            read_gap(self.parts.log.as_ref(), lane, position)?;
        }
        match lane.fence.admit(position.offset, &append.append.header) {
            Verdict::Commit => {
                lane.next = position.offset + 1;
                Ok(position)
            }
            Verdict::Claim | Verdict::Void => Err(format!("the commit at {position} does not count")),
        }
    }

    /// Applies a record of another node, and those that follow at once.
    fn follow_from(
        &mut self,
        first: Followed,
        steps: &mpsc::Receiver<Step>,
        next: &mut Option<Step>,
    ) -> Result<(), Failure> {
        let mut batch = vec![first];
        while batch.len() < BATCH {
            match steps.try_recv() {
                Ok(Step::Followed(another)) => batch.push(*another),
                Ok(other) => {
                    *next = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        self.follow(batch).map_err(|e| Failure {
            reason: e.to_string(),
            unresolved: Vec::new(),
        })
    }

    fn follow(&mut self, batch: Vec<Followed>) -> Result<(), StoreError> {
        let mut touched = Touched::new();
        let mut counted = Vec::with_capacity(batch.len());
        for Followed { record, .. } in &batch {
            self.folder.fold_decoded(record);
            let mut counts = false;
            for mark in &mut self.marks {
                counts |= mark.pass(record.position, &record.header) == Some(Verdict::Commit);
            }
            counted.push(counts);
            touched.insert((record.position.stream, record.position.partition));
        }
        let state = batch.iter().flat_map(|f| &f.changes).collect();
        self.write(state, &touched)?;
        for (Followed { record, .. }, counts) in batch.iter().zip(counted) {
            if let (true, Some(commit)) = (counts, record.commit()) {
                self.after(commit);
            }
        }
        let mut records = Vec::with_capacity(batch.len());
        for Followed { record, changes } in batch {
            self.settle(record.header.commit_id, changes);
            records.push(record);
        }
        self.hand_on(records)
    }

    /// Tells the decider that it may forget what it kept of a commit.
    fn settle(&self, commit: CommitId, changes: Vec<TableChanges>) {
        let keys = |changes: Vec<Change>| changes.into_iter().map(|(key, _)| key).collect();
        let changes = changes.into_iter().map(|(table, c)| (table, keys(c))).collect();
        let _ = self.settled.send(Settled { commit, changes });
    }

    fn apply(&mut self, batch: &mut Vec<Acked>) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut touched = Touched::new();
        for acked in batch.iter() {
            self.folder.fold_decoded(&acked.record());
            touched.insert((acked.append.stream, acked.append.partition));
        }
        for mark in &mut self.marks {
            for (stream, partition) in &touched {
                if let Some(lane) = self.lanes.get(&(*stream, *partition)) {
                    mark.advance(*stream, *partition, *lane);
                }
            }
        }
        let state = batch.iter().flat_map(|a| &a.append.changes).collect();
        self.write(state, &touched)?;
        for acked in batch.iter() {
            self.after(&acked.append.commit);
        }
        failpoint::hit("writer.before_answer");
        let mut records = Vec::with_capacity(batch.len());
        for acked in batch.drain(..) {
            records.push(acked.record());
            let Acked { position, append } = acked;
            let id = append.commit.id;
            self.durations.record(append.begun.elapsed());
            let _ = append.reply.send(Ok(Outcome {
                answer: Answer::to(&append.commit, position),
                commit: Some(append.commit),
                replayed: false,
            }));
            self.settle(id, append.changes);
        }
        self.hand_on(records)
    }

    /// Gives the tail what was applied. One that could not write ends, and the next tenure begins it anew: read models must
    /// not stand still while writing goes on.
    fn hand_on(&self, records: Vec<Decoded>) -> Result<(), StoreError> {
        let sent = self.tail.send(TailStep::Records(records));
        sent.map_err(|_| StoreError::RocksDb {
            place: self.parts.store.place().display().to_string(),
            what: "what was written cannot be folded into all of them".to_owned(),
        })
    }

    /// Rows of the state, of the projections folded here, and all checkpoints, as one write.
    pub(super) fn write(&mut self, state: Vec<&TableChanges>, touched: &Touched) -> Result<(), StoreError> {
        let mut checkpoints = Vec::with_capacity(self.marks.len());
        for mark in &self.marks {
            checkpoints.push((mark.table.clone(), vec![mark.change()?]));
        }
        let own = self.folder.drain()?;
        failpoint::hit("views.before_write");
        self.parts.store.write(
            state
                .into_iter()
                .chain(&own)
                .chain(&checkpoints)
                .map(|(table, changes)| (table, changes.as_slice())),
        )?;
        failpoint::hit("views.after_write");
        self.folder.publish(touched);
        for mark in &self.marks {
            mark.publish(touched);
        }
        Ok(())
    }

    /// What follows from a commit outside the views.
    fn after(&self, commit: &Commit) {
        if let Some(user) = commit.erases() {
            failpoint::hit("erasure.before_key");
            self.parts.destroy_key(&commit.tenant, user);
            failpoint::hit("erasure.after_key");
        }
    }

    fn mark(&mut self, mark: Mark) {
        let name = mark.applied.projection();
        self.marks.retain(|m| m.applied.projection() != name);
        self.marks.push(mark);
    }

    fn swap(&mut self, swap: Box<Swap>) {
        let mine = |m: &gatelog_projections::folder::Member| m.projection.name() == swap.projection();
        if self.folder.members().iter().any(mine) {
            swap.take_over(&self.parts, &mut self.folder);
        } else if let Err(mpsc::SendError(TailStep::Swap(swap))) = self.tail.send(TailStep::Swap(swap)) {
            swap.fail("the tail has ended".to_owned());
        }
    }

    /// Answers nothing any more; what was on its way is the log's to tell.
    fn step_down(
        self,
        failure: Failure,
        next: Option<Step>,
        steps: &mpsc::Receiver<Step>,
        held: Vec<Held>,
    ) -> Handover {
        tracing::error!(reason = %failure.reason, "the writer steps down and takes over anew");
        let mut unresolved = failure.unresolved;
        // Closing `settled` tells the decider, who then closes `steps`.
        drop(self.settled);
        if let Some(decider) = self.decider.upgrade() {
            // If the queue is full, the decider is awake anyway.
            let _ = decider.try_send(Message::Wake);
        }
        for held in held {
            held.give_up();
        }
        let rest = next.into_iter().chain(steps.iter());
        for step in rest {
            match step {
                Step::Append(append) => unresolved.push(Unresolved::from(*append)),
                Step::Answer(decided) => decided.give_up(),
                Step::Swap(swap) => swap.fail(failure.reason.clone()),
                // Not written: it is read from the log again.
                Step::Marked(_) | Step::Followed(_) => {}
            }
        }
        Handover {
            failure: Some(failure.reason),
            unresolved,
        }
    }
}

pub(super) struct Failure {
    reason: String,
    unresolved: Vec<Unresolved>,
}

impl Failure {
    /// One that leaves nothing unresolved.
    pub fn because(reason: String) -> Self {
        Self {
            reason,
            unresolved: Vec::new(),
        }
    }
}

impl From<Append> for Unresolved {
    fn from(append: Append) -> Self {
        Self {
            commit: append.commit,
            place: (append.stream, append.partition),
            epoch: append.append.header.epoch,
            reply: append.reply,
        }
    }
}
