//! The decider: one thread that turns commands into commits, on the state as it will be once all in flight is durable.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use gatelog_events::clock::{self, Timestamp};
use gatelog_events::codec;
use gatelog_events::commit::{Commit, Recorded, Subject};
use gatelog_events::domain::session::{self, Standing};
use gatelog_events::domain::tenant::{self, Settings};
use gatelog_events::domain::user::{self, User};
use gatelog_events::domain::{Context, Event, identifier};
use gatelog_events::email::Email;
use gatelog_events::ids::{CommitId, EventId, Partition, Position, Stream, TenantId, UserId};
use gatelog_events::log::{Record, RecordHeader, RecordKind};
use gatelog_events::seal::{KeySource, KeyStatus, SubjectKey};
use gatelog_projections::folder::Folder;
use gatelog_projections::projection::{Located, Progress};
use gatelog_projections::store::{StoreError, Table};
use gatelog_projections::view::View;
use gatelog_projections::{answers, identifiers, sessions, settings, users};
use uuid::Uuid;

use super::applier::{Append, Decided, Step};
use super::random::Random;
use super::takeover::Parts;
use super::{Command, Idempotency, Outcome, Reply, Request, Submission, WriteError};

/// What the applier has written, so that the overlay can forget it.
pub(super) struct Settled {
    pub commit: CommitId,
    pub changes: Vec<(Table, Vec<Bytes>)>,
}

/// Under which epoch and number this writer appends to a partition.
pub(super) type Lanes = HashMap<(Stream, Partition), Progress>;

/// Events of one aggregate, before they are numbered.
struct Decision {
    stream: Stream,
    partition: Partition,
    /// The aggregate's version before; none where there is no aggregate.
    version: Option<u64>,
    events: Vec<Event>,
}

pub(super) struct Decider {
    pub parts: Arc<Parts>,
    /// The aggregates: users, identifiers, sessions, settings.
    pub state: Folder,
    pub lanes: Lanes,
    pub policy: session::Policy,
    settings: HashMap<TenantId, Arc<Settings>>,
    random: Random,
    out: mpsc::SyncSender<Step>,
    settled: mpsc::Receiver<Settled>,
    in_flight: HashSet<CommitId>,
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

    /// Stream and partition in which a command's aggregate lives.
    fn place(&self, request: &Request) -> Result<(Stream, Partition), WriteError> {
        let n = self.parts.log.partitions();
        let stream = match &request.command {
            Command::Session(_) => Stream::Activity,
            Command::User(_) | Command::Claim(_) | Command::Tenant(_) => Stream::Identity,
        };
        let partition = match (&request.command, request.subject) {
            (Command::Claim(email), _) => self.parts.directory.shard(&request.tenant, email).partition(n),
            (_, Subject::User(user)) => user.shard().partition(n),
            (_, Subject::Tenant) => self.parts.directory.tenant_shard(&request.tenant).partition(n),
            (_, Subject::Nobody) => request
                .partition
                .ok_or_else(|| WriteError::Internal("a command about nobody names no partition".into()))?,
        };
        Ok((stream, partition))
    }

    fn view(&self, projection: &str) -> Result<View<'_>, WriteError> {
        self.state
            .view(projection)
            .ok_or_else(|| WriteError::Internal(format!("there is no state of {projection}")))
    }

    fn settings(&mut self, tenant: &TenantId) -> Result<Arc<Settings>, WriteError> {
        if let Some(settings) = self.settings.get(tenant) {
            return Ok(settings.clone());
        }
        let settings = Arc::new(settings::get(self.view(settings::NAME)?, tenant)?);
        self.settings.insert(tenant.clone(), settings.clone());
        Ok(settings)
    }

    /// The numbered commit that follows from a request, or none if nothing changes.
    fn decide(
        &mut self,
        request: &Request,
        now: Timestamp,
    ) -> Result<Option<(Commit, Stream, Partition)>, Refusal> {
        let (stream, partition) = self.place(request)?;
        if !self.lanes.contains_key(&(stream, partition)) {
            return Err(stopped(stream, partition).into());
        }
        if let Some(idempotency) = &request.idempotency {
            self.earlier_answer(request, idempotency, stream, partition, now)?;
        }
        let decision = match (&request.command, request.subject) {
            (Command::User(command), Subject::User(user)) => {
                self.decide_user(request, user, command.clone(), partition, now)?
            }
            (Command::Claim(email), Subject::User(user)) => {
                self.decide_claim(request, user, email, partition, now)?
            }
            (Command::Session(command), Subject::User(user)) => {
                self.decide_session(request, user, command.clone(), partition, now)?
            }
            (Command::Session(command), Subject::Nobody) => Decision {
                stream,
                partition,
                version: None,
                events: session::decide(
                    &session::Activity::default(),
                    None,
                    NOBODY,
                    command.clone(),
                    &self.policy,
                    now,
                )
                .map_err(rejected)?,
            },
            (Command::Tenant(command), Subject::Tenant) => {
                let settings = self.settings(&request.tenant)?;
                let events = tenant::decide(&settings, command.clone()).map_err(rejected)?;
                if !events.is_empty() {
                    self.settings.remove(&request.tenant);
                }
                Decision {
                    stream,
                    partition,
                    version: Some(settings.version),
                    events,
                }
            }
            _ => return Err(WriteError::Internal("the command does not fit its subject".into()).into()),
        };
        if decision.events.is_empty() {
            return Ok(None);
        }
        let commit = self.commit(request, decision.version, decision.events, now)?;
        Ok(Some((commit, decision.stream, decision.partition)))
    }

    /// Ends with the earlier answer, if there is one under this key.
    fn earlier_answer(
        &self,
        request: &Request,
        idempotency: &Idempotency,
        stream: Stream,
        partition: Partition,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let Some(table) = self.parts.views.table(answers::NAME) else {
            return Ok(());
        };
        let view = View {
            store: &self.parts.store,
            table: &table,
            overlay: None,
        };
        let Some(answer) = answers::get(
            view,
            &request.tenant,
            stream,
            partition,
            idempotency.commit_id,
            now,
        )?
        else {
            return Ok(());
        };
        let key = match answer.user {
            Some(user) => self.subject_key(&request.tenant, user)?,
            None => None,
        };
        if answer.tag != request_tag(key.as_ref(), &idempotency.request) {
            return Err(WriteError::KeyReused.into());
        }
        Err(Refusal::Replay(answer))
    }

    fn decide_user(
        &mut self,
        request: &Request,
        id: UserId,
        command: user::Command,
        partition: Partition,
        now: Timestamp,
    ) -> Result<Decision, Refusal> {
        let settings = self.settings(&request.tenant)?;
        let state = users::get(self.view(users::NAME)?, &request.tenant, id)?;
        let address_free = match &command {
            user::Command::Register(r) => self.may_take(&request.tenant, id, &r.email, now)?,
            user::Command::ChangeEmail { email } => self.has_claimed(&request.tenant, id, email, now)?,
            _ => true,
        };
        let context = Context {
            now,
            settings: &settings,
        };
        let events = user::decide(&state, address_free, command, &context).map_err(WriteError::from)?;
        Ok(Decision {
            stream: Stream::Identity,
            partition,
            version: Some(state.version),
            events,
        })
    }

    fn decide_claim(
        &mut self,
        request: &Request,
        id: UserId,
        email: &Email,
        partition: Partition,
        now: Timestamp,
    ) -> Result<Decision, Refusal> {
        let state = users::get(self.view(users::NAME)?, &request.tenant, id)?;
        if !state.exists() {
            return Err(rejected(user::Rejection::NotFound).into());
        }
        let holding = self.holding(&request.tenant, email)?;
        let attached = self.is_attached(&request.tenant, holding, email)?;
        let events =
            identifier::decide_claim(holding.as_ref(), attached, id, email.clone(), now).map_err(rejected)?;
        Ok(Decision {
            stream: Stream::Identity,
            partition,
            version: Some(holding.map_or(0, |h| h.version)),
            events,
        })
    }

    fn decide_session(
        &mut self,
        request: &Request,
        id: UserId,
        command: session::Command,
        partition: Partition,
        now: Timestamp,
    ) -> Result<Decision, Refusal> {
        let tenant = &request.tenant;
        let user = users::get(self.view(users::NAME)?, tenant, id)?;
        let view = self.view(sessions::NAME)?;
        let activity = sessions::activity(view, tenant, id)?;
        let known = match (&command, command.session_id()) {
            (session::Command::Login { .. }, _) | (_, None) => None,
            (_, Some(session)) => sessions::get(view, tenant, id, session)?,
        };
        let events = session::decide(
            &activity,
            known.as_ref(),
            standing(&user),
            command,
            &self.policy,
            now,
        )
        .map_err(rejected)?;
        Ok(Decision {
            stream: Stream::Activity,
            partition,
            version: Some(activity.version),
            events,
        })
    }

    fn holding(&self, tenant: &TenantId, email: &Email) -> Result<Option<identifier::Holding>, WriteError> {
        let digest = self.parts.directory.digest(tenant, email);
        Ok(identifiers::get(self.view(identifiers::NAME)?, tenant, digest)?)
    }

    /// Whether the address's holder has it as their address now.
    fn is_attached(
        &self,
        tenant: &TenantId,
        holding: Option<identifier::Holding>,
        email: &Email,
    ) -> Result<bool, WriteError> {
        let Some(holding) = holding else { return Ok(false) };
        Ok(users::get(self.view(users::NAME)?, tenant, holding.user)?.has_email(email))
    }

    fn may_take(
        &self,
        tenant: &TenantId,
        id: UserId,
        email: &Email,
        now: Timestamp,
    ) -> Result<bool, WriteError> {
        let holding = self.holding(tenant, email)?;
        let attached = self.is_attached(tenant, holding, email)?;
        Ok(identifier::is_free_for(holding.as_ref(), attached, id, now))
    }

    /// Whether the user holds the address, well before the claim ends: the next claimer must not settle it meanwhile.
    fn has_claimed(
        &self,
        tenant: &TenantId,
        id: UserId,
        email: &Email,
        now: Timestamp,
    ) -> Result<bool, WriteError> {
        let margin = identifier::CLAIM_TTL / 2;
        Ok(self
            .holding(tenant, email)?
            .is_some_and(|h| h.user == id && h.claimed_until.is_none_or(|until| now.plus(margin) < until)))
    }

    fn subject_key(&self, tenant: &TenantId, user: UserId) -> Result<Option<SubjectKey>, WriteError> {
        match self.parts.keys.key(tenant, user) {
            Ok(KeyStatus::Present(key)) => Ok(Some(key)),
            Ok(KeyStatus::Destroyed | KeyStatus::Missing) => Ok(None),
            Err(e) => Err(WriteError::Unavailable {
                reason: e.to_string(),
            }),
        }
    }

    fn commit(
        &mut self,
        request: &Request,
        version: Option<u64>,
        events: Vec<Event>,
        now: Timestamp,
    ) -> Result<Commit, WriteError> {
        let key = match request.subject.user() {
            // Without a key the user was erased, or never was.
            Some(user) => Some(
                self.subject_key(&request.tenant, user)?
                    .ok_or_else(|| rejected(user::Rejection::NotFound))?,
            ),
            None => None,
        };
        let mut recorded = Vec::with_capacity(events.len());
        for (i, event) in events.into_iter().enumerate() {
            recorded.push(Recorded {
                id: EventId(self.time_ordered_id(now)?),
                sequence: version.map_or(0, |v| v + 1 + i as u64),
                time: request.time.unwrap_or(now),
                event,
            });
        }
        let id = match commit_key(request) {
            Some(id) => id,
            None => CommitId(self.time_ordered_id(now)?),
        };
        Ok(Commit {
            id,
            tenant: request.tenant.clone(),
            subject: request.subject,
            actor: request.actor.clone(),
            correlation_id: request.correlation_id,
            causation_id: None,
            recorded_at: now,
            request_tag: request
                .idempotency
                .as_ref()
                .map(|i| request_tag(key.as_ref(), &i.request)),
            events: recorded,
            erased: false,
        })
    }

    /// A UUIDv7 (RFC 9562, section 5.7).
    fn time_ordered_id(&mut self, now: Timestamp) -> Result<Uuid, WriteError> {
        let random = self.random.take::<10>().map_err(internal)?;
        Ok(uuid::Builder::from_unix_timestamp_millis(now.millis().max(0) as u64, &random).into_uuid())
    }

    fn append(&mut self, commit: Commit, stream: Stream, partition: Partition, reply: Reply) -> bool {
        match self.try_append(commit, stream, partition) {
            Ok((commit, append, changes)) => self.send(Step::Append(Box::new(Append {
                stream,
                partition,
                commit,
                append,
                changes,
                reply,
            }))),
            Err(e) => self.send(Step::Answer(Decided {
                result: Err(e),
                reply,
            })),
        }
    }

    #[allow(clippy::type_complexity)] // three values on their way from one step to the next
    fn try_append(
        &mut self,
        commit: Commit,
        stream: Stream,
        partition: Partition,
    ) -> Result<
        (
            Arc<Commit>,
            super::applier::Pending,
            Vec<(Table, Vec<gatelog_projections::store::Change>)>,
        ),
        WriteError,
    > {
        let value = self.sealed_bytes(&commit)?;
        let limit = self.parts.max_record_bytes;
        if value.len() > limit {
            return Err(WriteError::TooLarge {
                size: value.len(),
                limit,
            });
        }
        let lane = self
            .lanes
            .get_mut(&(stream, partition))
            .ok_or_else(|| stopped(stream, partition))?;
        let header = RecordHeader {
            kind: RecordKind::Commit,
            commit_id: commit.id,
            epoch: lane.fence.epoch.unwrap_or_default(),
            seq: lane.fence.next_seq,
            aggregate_version: commit.version(),
        };
        let position = Position {
            stream,
            partition,
            offset: 0,
        };
        self.state.fold_decided(Located {
            position,
            commit: &commit,
        })?;
        lane.fence.next_seq += 1;
        let changes = self.state.take_changes();
        let record = Record {
            header,
            value: value.into(),
        };
        let append = super::applier::Pending {
            header,
            answer: self.parts.log.append(stream, partition, record),
        };
        self.in_flight.insert(commit.id);
        Ok((Arc::new(commit), append, changes))
    }

    fn sealed_bytes(&mut self, commit: &Commit) -> Result<Vec<u8>, WriteError> {
        let Some(user) = commit.subject.user() else {
            return codec::encode(commit).map_err(internal);
        };
        let key = self
            .subject_key(&commit.tenant, user)?
            .ok_or_else(|| rejected(user::Rejection::NotFound))?;
        let mut sealed = commit.clone();
        let random = &mut self.random;
        let mut failed = None;
        codec::seal(&mut sealed, &key, || {
            random.take().unwrap_or_else(|e| {
                failed = Some(e);
                [0; 12]
            })
        })
        .map_err(internal)?;
        match failed {
            Some(e) => Err(internal(e)),
            None => codec::encode(&sealed).map_err(internal),
        }
    }
}

/// Ends a decision without a commit.
enum Refusal {
    Error(WriteError),
    Replay(answers::Answer),
}

impl From<WriteError> for Refusal {
    fn from(e: WriteError) -> Self {
        Refusal::Error(e)
    }
}

impl From<StoreError> for Refusal {
    fn from(e: StoreError) -> Self {
        Refusal::Error(e.into())
    }
}

impl From<StoreError> for WriteError {
    fn from(e: StoreError) -> Self {
        WriteError::Unavailable {
            reason: e.to_string(),
        }
    }
}

fn rejected(e: impl Into<gatelog_events::domain::Rejection>) -> WriteError {
    WriteError::Rejected(e.into())
}

fn internal(e: impl std::fmt::Display) -> WriteError {
    WriteError::Internal(e.to_string())
}

fn stopped(stream: Stream, partition: Partition) -> WriteError {
    WriteError::Unavailable {
        reason: format!("the state of {stream}:{partition} cannot be folded; see /readyz"),
    }
}

fn commit_key(request: &Request) -> Option<CommitId> {
    request.idempotency.as_ref().map(|i| i.commit_id)
}

/// A tag of what was asked. Under the subject's key, so that nobody can test a guess after an erasure.
fn request_tag(key: Option<&SubjectKey>, request: &[u8]) -> [u8; 16] {
    match key {
        Some(key) => key.tag(request),
        None => {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, request);
            let mut tag = [0; 16];
            tag.copy_from_slice(&digest.as_ref()[..16]);
            tag
        }
    }
}

const NOBODY: Standing = Standing {
    exists: false,
    may_sign_in: false,
    credential_version: 0,
};

fn standing(user: &User) -> Standing {
    Standing {
        exists: user.exists(),
        may_sign_in: user.may_sign_in(),
        credential_version: user.credential_version,
    }
}
