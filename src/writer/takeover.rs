//! Taking over: claim every partition, fold up to the claims, and only then decide. The same at start and after a
//! failed append; what was unresolved is answered from what the log then says.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc as channel;
use std::thread::JoinHandle;

use futures::executor::block_on;
use gatelog_events::clock;
use gatelog_events::directory::Directory;
use gatelog_events::domain::session;
use gatelog_events::ids::{CommitId, Partition, Position, Stream, TenantId, UserId};
use gatelog_events::log::{AppendError, EventLog, Record, RecordHeader, RecordKind};
use gatelog_events::seal::{KeySource, KeyStatus};
use gatelog_projections::answers::{self, Answer};
use gatelog_projections::catch_up::{CatchUpError, catch_up};
use gatelog_projections::folder::{Folder, Member, read_commit};
use gatelog_projections::projection::Projection;
use gatelog_projections::store::{Store, StoreError};
use gatelog_projections::subject_keys::SubjectKeys;
use gatelog_projections::{identifiers, logins, sessions, settings, users};
use tokio::sync::mpsc;

use super::applier::{Applier, Step, Unresolved};
use super::decider::{Decider, Lanes, Settled};
use super::random::Random;
use super::swap::Swap;
use super::tail::{self, TailStep};
use super::{Outcome, Submission, WriteError, Writer};
use crate::views::Views;

/// Steps that may be on their way between decider and applier.
const IN_FLIGHT: usize = 8192;

/// Projections that decisions rest on; the decider folds them ahead of the log.
const STATE: [&str; 4] = [users::NAME, identifiers::NAME, sessions::NAME, settings::NAME];
/// Projections that are written before an answer is given.
const BEFORE_ANSWER: [&str; 2] = [logins::NAME, answers::NAME];

/// What the writer works with.
pub struct Parts {
    pub log: Arc<dyn EventLog>,
    pub store: Arc<Store>,
    pub keys: Arc<SubjectKeys>,
    pub directory: Arc<Directory>,
    pub views: Arc<Views>,
    pub max_record_bytes: usize,
    /// Told of each erasure, so that its last bytes are taken off the disk in time.
    pub erasures: tokio::sync::watch::Sender<u64>,
}

impl Parts {
    /// Destroys the key of an erased subject. Tried again at the next start if it fails now.
    pub(super) fn destroy_key(&self, tenant: &TenantId, user: UserId) {
        self.views.forget(tenant, user);
        match self.keys.destroy(tenant, user) {
            Ok(()) => self.erasures.send_modify(|n| *n += 1),
            Err(e) => tracing::error!(%user, error = %e, "the key of an erased user could not be destroyed"),
        }
    }
}

/// How the writer behaves.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Commands that may wait.
    pub queue: usize,
    pub policy: session::Policy,
}

/// What the decider's thread is told.
pub(super) enum Message {
    Command(Box<Submission>),
    Swap(Box<Swap>),
    /// The applier has stepped down.
    Wake,
    Shutdown,
}

/// Why a writer could not take over.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TakeoverError {
    #[error("{0}")]
    CatchUp(#[from] CatchUpError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("the partitions could not be claimed: {0}")]
    Claim(#[from] AppendError),
    #[error("another writer claimed {stream}:{partition} after us")]
    Overtaken { stream: Stream, partition: Partition },
    #[error("{0}")]
    Keys(#[from] gatelog_events::seal::KeySourceError),
    #[error("the writer's thread could not be started: {0}")]
    Thread(String),
    #[error("{0}")]
    Randomness(#[from] crate::auth::NoRandomness),
}

/// A writer at work.
pub struct Running {
    pub writer: Writer,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Finishes what was handed in and ends. Blocks.
    pub fn stop(mut self) {
        let _ = self.writer.queue.blocking_send(Message::Shutdown);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes over all partitions and starts to write. Returns once it can decide. Blocks.
pub fn start(
    parts: Arc<Parts>,
    projections: Vec<Arc<dyn Projection>>,
    options: Options,
) -> Result<Running, TakeoverError> {
    let (queue, messages) = mpsc::channel(options.queue);
    let tenure = Tenure::begin(&parts, &projections, &options, queue.downgrade(), Vec::new())?;
    let wake = queue.downgrade();
    let thread = std::thread::Builder::new()
        .name("decider".to_owned())
        .spawn(move || run(parts, projections, options, wake, tenure, messages))
        .map_err(|e| TakeoverError::Thread(e.to_string()))?;
    Ok(Running {
        writer: Writer { queue },
        thread: Some(thread),
    })
}

fn run(
    parts: Arc<Parts>,
    projections: Vec<Arc<dyn Projection>>,
    options: Options,
    wake: mpsc::WeakSender<Message>,
    mut tenure: Tenure,
    mut messages: mpsc::Receiver<Message>,
) {
    loop {
        let going_on = tenure.serve(&mut messages);
        let handover = tenure.end();
        if handover.failure.is_none() && !going_on {
            if let Err(e) = parts.store.flush() {
                tracing::error!(error = %e, "the read models could not be flushed; the next start folds more");
            }
            return;
        }
        match Tenure::begin(&parts, &projections, &options, wake.clone(), handover.unresolved) {
            Ok(next) if going_on => tenure = next,
            Ok(next) => {
                next.end();
                return;
            }
            Err(e) => {
                tracing::error!(error = %e, "the writer could not take over anew; writes are refused");
                return refuse_all(&mut messages, &e.to_string());
            }
        }
    }
}

fn refuse_all(messages: &mut mpsc::Receiver<Message>, reason: &str) {
    while let Some(message) = messages.blocking_recv() {
        match message {
            Message::Command(submission) => {
                let _ = submission.reply.send(Err(WriteError::Unavailable {
                    reason: reason.to_owned(),
                }));
            }
            Message::Swap(swap) => swap.fail(reason.to_owned()),
            Message::Wake => {}
            Message::Shutdown => return,
        }
    }
}

/// What an applier leaves behind.
pub(super) struct Handover {
    /// Why it stepped down, if it did.
    pub failure: Option<String>,
    pub unresolved: Vec<Unresolved>,
}

impl Handover {
    pub fn finished() -> Self {
        Self {
            failure: None,
            unresolved: Vec::new(),
        }
    }
}

/// The time between a take-over and the next.
struct Tenure {
    decider: Decider,
    applier: JoinHandle<Handover>,
    tail: JoinHandle<()>,
}

impl Tenure {
    fn begin(
        parts: &Arc<Parts>,
        projections: &[Arc<dyn Projection>],
        options: &Options,
        wake: mpsc::WeakSender<Message>,
        unresolved: Vec<Unresolved>,
    ) -> Result<Self, TakeoverError> {
        let n = parts.log.partitions();
        let mut members = Vec::with_capacity(projections.len());
        for projection in projections {
            let table = gatelog_projections::rebuild::table_for(&parts.store, projection.as_ref())?;
            members.push(Member::open(&parts.store, projection.clone(), table, n)?);
        }
        let mut folder = Folder::new(parts.store.clone(), members);
        let claims = claim_all(parts.log.as_ref())?;
        let found = fold_to_claims(parts, &mut folder, &unresolved)?;
        answer_unresolved(unresolved, &found);
        let lanes = lanes(&folder, &claims)?;
        for member in folder.members() {
            let table = &member.mark.table;
            if parts.store.active(member.projection.name()).as_ref() != Some(table) {
                parts.store.activate(member.projection.name(), table)?;
            }
            parts.views.serve(
                member.projection.name(),
                table.clone(),
                member.mark.applied.clone(),
            );
        }
        finish_erasures(parts)?;
        Self::spawn(parts, folder, lanes, options, wake)
    }

    fn spawn(
        parts: &Arc<Parts>,
        folder: Folder,
        lanes: Lanes,
        options: &Options,
        wake: mpsc::WeakSender<Message>,
    ) -> Result<Self, TakeoverError> {
        let of = |names: &[&str], m: &Member| names.contains(&m.projection.name());
        let (state, rest): (Vec<_>, Vec<_>) = folder.into_members().into_iter().partition(|m| of(&STATE, m));
        let (before, after): (Vec<_>, Vec<_>) = rest.into_iter().partition(|m| of(&BEFORE_ANSWER, m));
        let (out, steps) = channel::sync_channel::<Step>(IN_FLIGHT);
        let (settled, settlements) = channel::channel::<Settled>();
        let (tail_out, tail_steps) = channel::sync_channel::<TailStep>(tail::QUEUE);
        let applier = Applier {
            parts: parts.clone(),
            folder: Folder::new(parts.store.clone(), before),
            marks: state.iter().map(|m| m.mark.clone()).collect(),
            lanes: lanes.clone(),
            settled,
            decider: wake,
            tail: tail_out,
        };
        let tail_folder = Folder::new(parts.store.clone(), after);
        let tail_parts = parts.clone();
        Ok(Self {
            applier: spawn("applier", move || applier.run(steps))?,
            tail: spawn("tail", move || tail::run(&tail_parts, tail_folder, tail_steps))?,
            decider: Decider::new(
                parts.clone(),
                Folder::new(parts.store.clone(), state),
                lanes,
                options.policy,
                out,
                settlements,
            ),
        })
    }

    /// Decides until it is told to stop (false) or the applier steps down (true).
    fn serve(&mut self, messages: &mut mpsc::Receiver<Message>) -> bool {
        while let Some(message) = messages.blocking_recv() {
            match message {
                Message::Command(submission) => {
                    if !self.decider.handle(*submission) {
                        return true;
                    }
                }
                Message::Swap(swap) => {
                    if !self.swap(swap) {
                        return true;
                    }
                }
                Message::Wake => {
                    if !self.decider.is_served() {
                        return true;
                    }
                }
                Message::Shutdown => return false,
            }
        }
        false
    }

    /// Lets a rebuilt table take over, with nothing in flight. `false`: the applier has stepped down.
    fn swap(&mut self, swap: Box<Swap>) -> bool {
        if !self.decider.quiesce() {
            swap.fail("the writer steps down".to_owned());
            return false;
        }
        let waits = swap.finished.subscribe();
        if STATE.contains(&swap.projection()) {
            let parts = self.decider.parts.clone();
            let name = swap.projection();
            swap.take_over(&parts, &mut self.decider.state);
            let members = self.decider.state.members();
            let mark = members
                .iter()
                .find(|m| m.projection.name() == name)
                .map(|m| m.mark.clone());
            return mark.is_none_or(|m| self.decider.send(Step::Marked(Box::new(m))));
        }
        if !self.decider.send(Step::Swap(swap)) {
            return false;
        }
        // Nothing may be appended before the new table is as far as the old one.
        let mut waits = waits;
        let _ = block_on(waits.wait_for(Option::is_some));
        true
    }

    /// Ends the threads, with everything written that was decided.
    fn end(self) -> Handover {
        drop(self.decider);
        let handover = self.applier.join().unwrap_or_else(|_| Handover {
            failure: Some("the applier's thread broke".to_owned()),
            unresolved: Vec::new(),
        });
        let _ = self.tail.join();
        handover
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, TakeoverError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(f)
        .map_err(|e| TakeoverError::Thread(e.to_string()))
}

/// Appends a claim to every partition. Their offsets are this tenure's epochs.
fn claim_all(log: &dyn EventLog) -> Result<Vec<Position>, TakeoverError> {
    let mut random = Random::new();
    let mut claims = Vec::new();
    for stream in Stream::ALL {
        for partition in (0..log.partitions()).map(Partition) {
            let id = uuid::Builder::from_unix_timestamp_millis(
                clock::now().millis().max(0) as u64,
                &random.take::<10>()?,
            );
            let header = RecordHeader {
                kind: RecordKind::Claim,
                commit_id: CommitId(id.into_uuid()),
                epoch: 0,
                seq: 0,
                aggregate_version: 0,
            };
            let record = Record {
                header,
                value: bytes::Bytes::new(),
            };
            claims.push(log.append(stream, partition, record));
        }
    }
    claims
        .into_iter()
        .map(|claim| block_on(claim).map_err(TakeoverError::from))
        .collect()
}

/// Folds the log to its end, and finds there what became of the unresolved commits.
fn fold_to_claims(
    parts: &Parts,
    folder: &mut Folder,
    unresolved: &[Unresolved],
) -> Result<HashMap<CommitId, Position>, TakeoverError> {
    let wanted: std::collections::HashSet<CommitId> = unresolved.iter().map(|u| u.commit.id).collect();
    let mut fences: HashMap<(Stream, Partition), gatelog_events::log::fence::Fence> = HashMap::new();
    if !wanted.is_empty()
        && let Some(users) = folder.members().first()
    {
        for stream in Stream::ALL {
            for partition in (0..parts.log.partitions()).map(Partition) {
                fences.insert((stream, partition), users.mark.progress(stream, partition).fence);
            }
        }
    }
    let mut found = HashMap::new();
    catch_up(folder, parts.log.as_ref(), parts.keys.as_ref(), |entry| {
        if wanted.is_empty() {
            return;
        }
        let fence = fences
            .entry((entry.position.stream, entry.position.partition))
            .or_default();
        let verdict = fence.admit(entry.position.offset, &entry.record.header);
        if verdict == gatelog_events::log::fence::Verdict::Commit
            && wanted.contains(&entry.record.header.commit_id)
            && read_commit(entry, parts.keys.as_ref()).is_ok()
        {
            found.insert(entry.record.header.commit_id, entry.position);
        }
    })?;
    Ok(found)
}

fn answer_unresolved(unresolved: Vec<Unresolved>, found: &HashMap<CommitId, Position>) {
    for Unresolved { commit, reply } in unresolved {
        let result = match found.get(&commit.id) {
            Some(position) => Ok(Outcome {
                answer: Answer::to(&commit, *position),
                commit: Some(commit),
                replayed: false,
            }),
            None => Err(WriteError::Unavailable {
                reason: "the log did not take the commit".to_owned(),
            }),
        };
        let _ = reply.send(result);
    }
}

/// Where this tenure appends. A partition in which a projection of the state stands still is left out.
fn lanes(folder: &Folder, claims: &[Position]) -> Result<Lanes, TakeoverError> {
    let mut lanes = Lanes::new();
    for claim in claims {
        let (stream, partition) = (claim.stream, claim.partition);
        let needed: Vec<_> = folder
            .members()
            .iter()
            .filter(|m| m.mark.follows(stream))
            .filter(|m| STATE.contains(&m.projection.name()) || BEFORE_ANSWER.contains(&m.projection.name()))
            .collect();
        if needed
            .iter()
            .any(|m| m.mark.applied.is_stopped(stream, partition))
        {
            continue;
        }
        let Some(first) = needed.first() else { continue };
        let progress = first.mark.progress(stream, partition);
        if progress.fence.epoch != Some(claim.offset) {
            return Err(TakeoverError::Overtaken { stream, partition });
        }
        lanes.insert((stream, partition), progress);
    }
    Ok(lanes)
}

/// Destroys keys of users whose erasure was recorded while their key could not be destroyed, or came back by a backup.
fn finish_erasures(parts: &Parts) -> Result<(), TakeoverError> {
    let Some(table) = parts.views.table(users::NAME) else {
        return Ok(());
    };
    let view = gatelog_projections::view::View {
        store: &parts.store,
        table: &table,
        overlay: None,
    };
    for (tenant, user) in users::erased(view)? {
        if matches!(parts.keys.key(&tenant, user)?, KeyStatus::Present(_)) {
            tracing::warn!(%user, "destroying the key of a user who was erased before");
            parts.destroy_key(&tenant, user);
        }
    }
    Ok(())
}
