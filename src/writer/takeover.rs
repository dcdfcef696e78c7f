//! Taking over: claim each partition that is ours, fold up to the claims, and only then decide. The same at start, when
//! other partitions become ours, and after a failed append; what was unresolved is answered from what the log then says.
//! What other nodes write is followed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc as channel;
use std::thread::JoinHandle;

use futures::executor::block_on;
use gatelog_events::directory::Directory;
use gatelog_events::domain::session;
use gatelog_events::ids::{Partition, Position, Stream, TenantId, UserId};
use gatelog_events::log::{AppendError, EventLog, LogError};
use gatelog_events::seal::{KeySource, KeySourceError, KeyStatus};
use gatelog_projections::answers;
use gatelog_projections::catch_up::{CatchUpError, check_ends};
use gatelog_projections::folder::{Decoded, Folder, Member};
use gatelog_projections::projection::Projection;
use gatelog_projections::rebuild::{let_serve, table_for};
use gatelog_projections::store::{Store, StoreError, Table};
use gatelog_projections::subject_keys::SubjectKeys;
use gatelog_projections::view::View;
use gatelog_projections::{identifiers, logins, sessions, settings, users};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::Submission;
use super::applier::{Applier, Step, Unresolved};
use super::claims::{Claimed, Claims, claim_all, fold_to_claims, lanes, learn_owners};
use super::decider::{Decider, Lanes, Settled};
use super::follower::Follower;
use super::swap::Swap;
use super::tail::{self, TailStep};
use crate::views::Views;

/// Steps that may be on their way between decider and applier.
const IN_FLIGHT: usize = 8192;

/// Projections that decisions rest on; the decider folds them ahead of the log.
pub(super) const STATE: [&str; 4] = [users::NAME, identifiers::NAME, sessions::NAME, settings::NAME];
/// Projections that are written before an answer is given.
pub(super) const BEFORE_ANSWER: [&str; 2] = [logins::NAME, answers::NAME];

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
    /// Erased users whose key could not be destroyed yet.
    pub undestroyed: Mutex<BTreeSet<(TenantId, UserId)>>,
    /// What came of the last attempt to take over what is ours; nothing while nothing is.
    pub taken: tokio::sync::watch::Sender<Option<Result<(), TakeoverError>>>,
    /// What this node's claims say, and who hears of the claims of others.
    pub claims: Claims,
}

/// Partitions that this node shall write.
pub type Owned = BTreeSet<Partition>;

impl Parts {
    /// Destroys the key of an erased subject. Tried again until it is done, and at the next start.
    pub(super) fn destroy_key(&self, tenant: &TenantId, user: UserId) {
        self.views.forget(tenant, user);
        match self.keys.destroy(tenant, user) {
            Ok(()) => self.erasures.send_modify(|n| *n += 1),
            Err(e) => {
                tracing::error!(%user, error = %e, "the key of an erased user could not be destroyed; it is tried again");
                self.undestroyed.lock().insert((tenant.clone(), user));
            }
        }
    }

    /// Tries again what [`destroy_key`](Self::destroy_key) could not do. Blocks.
    pub fn destroy_at_last(&self) {
        let undestroyed = std::mem::take(&mut *self.undestroyed.lock());
        for (tenant, user) in undestroyed {
            self.destroy_key(&tenant, user);
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
    /// What was left out may take a claim now.
    Claimable,
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
pub(super) struct Tenure {
    decider: Decider,
    applier: JoinHandle<Handover>,
    tail: JoinHandle<()>,
    /// None where every partition is ours.
    follower: Option<Follower>,
    /// What is ours and took no claim.
    pub left_out: Vec<(Stream, Partition)>,
}

/// Why a tenure ends.
pub(super) enum End {
    Shutdown,
    SteppedDown,
    Reassigned,
    /// More of what is ours may be claimed.
    Claimable,
}

/// What a tenure has to do next.
enum Work {
    Message(Message),
    /// Other partitions are ours than those that this tenure writes.
    Reassigned,
    Followed(Result<Decoded, LogError>),
}

impl Tenure {
    pub fn begin(
        parts: &Arc<Parts>,
        projections: &[Arc<dyn Projection>],
        options: &Options,
        owned: &Owned,
        wake: mpsc::WeakSender<Message>,
        unresolved: &Mutex<Vec<Unresolved>>,
    ) -> Result<Self, TakeoverError> {
        let n = parts.log.partitions();
        let mut members = Vec::with_capacity(projections.len());
        for projection in projections {
            let table = table_for(&parts.store, projection.as_ref())?;
            members.push(Member::open(&parts.store, projection.clone(), table, n)?);
        }
        let mut folder = Folder::new(parts.store.clone(), members);
        // Claims would hide that records were lost which are folded here already.
        let silent = check_ends(&parts.store, projections, parts.log.as_ref())?;
        let Claimed { mut claims, left_out } = claim_all(parts, owned)?;
        let wanted = unresolved.lock().iter().map(|u| u.commit.id).collect();
        let findings = fold_to_claims(parts, &mut folder, wanted, &mut claims, silent)?;
        findings.answer(unresolved.lock().drain(..));
        let lanes = lanes(&folder, &claims)?;
        for member in folder.members() {
            let (name, table) = (member.projection.name(), &member.mark.table);
            let_serve(&parts.store, name, table)?;
            parts
                .views
                .serve(name, table.clone(), member.mark.applied.clone());
        }
        finish_erasures(parts)?;
        let others = starts_of_others(&folder, n, owned, &left_out);
        learn_owners(parts, &folder, &others);
        let follower = match others.is_empty() {
            true => None,
            false => Some(Follower::start(parts, others)?),
        };
        let reading = (follower, left_out);
        Self::spawn(parts, folder, (lanes, owned), options, wake, reading)
    }

    fn spawn(
        parts: &Arc<Parts>,
        folder: Folder,
        (lanes, owned): (Lanes, &Owned),
        options: &Options,
        wake: mpsc::WeakSender<Message>,
        (follower, left_out): (Option<Follower>, Vec<(Stream, Partition)>),
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
            durations: metrics::histogram!("gatelog_commit_duration_seconds"),
        };
        let tail_folder = Folder::new(parts.store.clone(), after);
        let tail_parts = parts.clone();
        Ok(Self {
            applier: spawn("applier", move || applier.run(steps))?,
            tail: spawn("tail", move || tail::run(&tail_parts, tail_folder, tail_steps))?,
            decider: Decider::new(
                parts.clone(),
                Folder::new(parts.store.clone(), state),
                (lanes, owned.clone()),
                options.policy,
                out,
                settlements,
            ),
            follower,
            left_out,
        })
    }

    /// Decides, and follows what others decide, until there is a reason to end.
    pub fn serve(
        &mut self,
        ours: &mut watch::Receiver<Owned>,
        messages: &mut mpsc::Receiver<Message>,
    ) -> End {
        let end = self.work(ours, messages);
        self.decider.give_back();
        end
    }

    fn work(&mut self, ours: &mut watch::Receiver<Owned>, messages: &mut mpsc::Receiver<Message>) -> End {
        while let Some(work) = self.next(ours, messages) {
            let goes_on = match work {
                Work::Message(Message::Command(submission)) => {
                    self.decider.handle(*submission, !messages.is_empty())
                }
                Work::Message(Message::Swap(swap)) => self.swap(swap),
                Work::Reassigned => {
                    // What is in flight is settled first where that can be, so that nobody has to ask the log.
                    self.decider.quiesce();
                    return End::Reassigned;
                }
                Work::Message(Message::Wake) => self.decider.is_served(),
                Work::Message(Message::Claimable) if self.left_out.is_empty() => true,
                Work::Message(Message::Claimable) => {
                    self.decider.quiesce();
                    return End::Claimable;
                }
                Work::Message(Message::Shutdown) => {
                    self.decider.take_up(false);
                    return End::Shutdown;
                }
                Work::Followed(Ok(record)) => self.decider.follow(record),
                Work::Followed(Err(e)) => {
                    tracing::error!(error = %e, "what other nodes write cannot be read; the writer takes over anew");
                    false
                }
            };
            if !goes_on || !self.decider.take_up(!messages.is_empty()) {
                return End::SteppedDown;
            }
        }
        End::Shutdown
    }

    fn next(
        &mut self,
        ours: &mut watch::Receiver<Owned>,
        messages: &mut mpsc::Receiver<Message>,
    ) -> Option<Work> {
        // Before all else: what was handed in after that must not be decided.
        if ours.has_changed().unwrap_or(false) {
            ours.mark_unchanged();
            return Some(Work::Reassigned);
        }
        let reassigned = async {
            // Nobody who could reassign anything is left: the queue ends, too.
            if ours.changed().await.is_err() {
                std::future::pending().await
            }
        };
        let followed = async {
            match &mut self.follower {
                Some(follower) => follower.next().await.unwrap_or(Err(LogError::Closed)),
                None => std::future::pending().await,
            }
        };
        block_on(async {
            tokio::select! {
                () = reassigned => Some(Work::Reassigned),
                message = messages.recv() => message.map(Work::Message),
                record = followed => Some(Work::Followed(record)),
            }
        })
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
    pub fn end(self) -> Handover {
        drop(self.follower);
        drop(self.decider);
        let handover = self.applier.join().unwrap_or_else(|_| Handover {
            failure: Some("the applier's thread broke".to_owned()),
            unresolved: Vec::new(),
        });
        let _ = self.tail.join();
        handover
    }
}

pub(super) fn spawn<T: Send + 'static>(
    name: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, TakeoverError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(f)
        .map_err(|e| TakeoverError::Thread(e.to_string()))
}

/// Destroys keys of users whose erasure was recorded while their key could not be destroyed, or came back by a backup.
fn finish_erasures(parts: &Parts) -> Result<(), TakeoverError> {
    let Some(table) = parts.views.table(users::NAME) else {
        return Ok(());
    };
    for (tenant, user) in undestroyed(&parts.store, &table, parts.keys.as_ref())? {
        tracing::warn!(%user, "destroying the key of a user who was erased before");
        parts.destroy_key(&tenant, user);
    }
    Ok(())
}

/// Users who were erased and whose keys are there, by the table of `users`.
pub fn undestroyed(
    store: &Store,
    table: &Table,
    keys: &dyn KeySource,
) -> Result<Vec<(TenantId, UserId)>, TakeoverError> {
    let view = View {
        store,
        table,
        overlay: None,
    };
    let mut found = Vec::new();
    for (tenant, user) in users::erased(view)? {
        match keys.key(&tenant, user) {
            Ok(KeyStatus::Present(_)) | Err(KeySourceError::Unreadable(_)) => found.push((tenant, user)),
            Ok(KeyStatus::Destroyed | KeyStatus::Missing) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(found)
}

/// From where the partitions of other nodes are to be read. What was left out is read like them: what was under way there
/// may come yet.
fn starts_of_others(
    folder: &Folder,
    partitions: u16,
    owned: &Owned,
    left_out: &[(Stream, Partition)],
) -> Vec<Position> {
    let mut starts = folder.starts(partitions);
    let others = |p: &Position| !owned.contains(&p.partition) || left_out.contains(&(p.stream, p.partition));
    starts.retain(|p| others(p) && p.offset != u64::MAX);
    starts
}
