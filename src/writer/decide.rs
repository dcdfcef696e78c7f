//! What follows from a command: the state that it meets, and the domain's decision on it.

use std::sync::Arc;

use gatelog_events::clock::Timestamp;
use gatelog_events::commit::{Commit, Subject};
use gatelog_events::domain::session::{self, Standing};
use gatelog_events::domain::tenant::{self, Settings};
use gatelog_events::domain::user::{self, User};
use gatelog_events::domain::{Context, Event, feed, identifier};
use gatelog_events::email::Email;
use gatelog_events::ids::{CommitId, Partition, Stream, TenantId, UserId};
use gatelog_events::seal::{KeySource, KeyStatus, SubjectKey};
use gatelog_projections::store::StoreError;
use gatelog_projections::view::View;
use gatelog_projections::{answers, identifiers, sessions, settings, users};

use super::compose::request_tag;
use super::decider::Decider;
use super::{Command, Idempotency, Request, WriteError};

/// Events of one aggregate, before they are numbered.
pub(super) struct Decision {
    stream: Stream,
    partition: Partition,
    /// The aggregate's version before; none where there is no aggregate.
    version: Option<u64>,
    events: Vec<Event>,
}

impl Decider {
    /// Stream and partition in which a command's aggregate lives.
    pub(super) fn place(&self, request: &Request) -> Result<(Stream, Partition), WriteError> {
        super::place(request, &self.parts.directory, self.parts.log.partitions())
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
    pub(super) fn decide(
        &mut self,
        request: &Request,
        now: Timestamp,
    ) -> Result<Option<(Commit, Stream, Partition)>, Refusal> {
        let (stream, partition) = self.place(request)?;
        if !self.owned.contains(&partition) {
            return Err(WriteError::NotOwner { stream, partition }.into());
        }
        if !self.lanes.contains_key(&(stream, partition)) {
            return Err(stopped(stream, partition).into());
        }
        if let Some(idempotency) = &request.idempotency {
            self.earlier_answer(request, idempotency, stream, partition, now)?;
        }
        // What was appended there would keep all others waiting, and end in nothing; so would the question where it ends, which
        // a refusal asks.
        if !self.parts.log.is_writable(stream, partition) {
            return Err(unwritable(stream, partition).into());
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
            (Command::Feed(command), Subject::Nobody) => Decision {
                stream,
                partition,
                version: None,
                events: feed::decide(command.clone()),
            },
            (Command::Tenant(command), Subject::Tenant) => {
                let settings = self.settings(&request.tenant)?;
                // Written before the first ones, it would keep them from ever being written.
                if settings.version == 0 && !matches!(command, tenant::Command::Seed) {
                    return Err(not_seeded().into());
                }
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
        // That of an erasure is under no key: its subject's is gone when it is asked for again.
        let tags = [key.as_ref(), None].map(|key| request_tag(key, &idempotency.request));
        if !tags.contains(&answer.tag) {
            return Err(WriteError::KeyReused.into());
        }
        // One that was kept while the log was away is only to be recorded: its tokens are out.
        if let Command::Session(_) = &request.command
            && request.time.is_none()
        {
            // Either way it is asked where the partition ends, which keeps all others waiting where nobody tells.
            if !self.parts.log.is_writable(stream, partition) {
                return Err(unwritable(stream, partition).into());
            }
            if !self.is_open(&request.tenant, &answer, now)? {
                return Err(rejected(session::Rejection::Ended).into());
            }
        }
        Err(Refusal::Replay(answer))
    }

    /// Whether what was answered still opens the door: tokens are made anew when an answer is given again, and whoever was
    /// shut out since must get none. A refresh token that was exchanged since is not given out again either.
    fn is_open(
        &self,
        tenant: &TenantId,
        answer: &answers::Answer,
        now: Timestamp,
    ) -> Result<bool, WriteError> {
        let (Some(id), Some(session)) = (answer.user, answer.session) else {
            return Ok(true);
        };
        let user = users::get(self.view(users::NAME)?, tenant, id)?;
        let session = sessions::get(self.view(sessions::NAME)?, tenant, id, session)?;
        Ok(user.may_sign_in()
            && session.is_some_and(|s| {
                s.generation == answer.generation && s.is_live(user.credential_version, &self.policy, now)
            }))
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
        // In a new cluster another node may still be writing the first ones.
        if settings.version == 0 {
            return Err(not_seeded().into());
        }
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
            version: None,
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
        let mut activity = sessions::activity(view, tenant, id)?;
        let known = match command.session_id() {
            None => None,
            Some(session) => sessions::get(view, tenant, id, session)?,
        };
        if request.time.is_some() {
            // Somebody was let in then, and it is recorded only now: a lock that came since is none of theirs.
            activity.locked_until = None;
        }
        let events = session::decide(
            &activity,
            known.as_ref(),
            standing(&user),
            command,
            &self.policy,
            request.time.unwrap_or(now),
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
        let view = self.view(users::NAME)?;
        if users::get(view, tenant, holding.user)?.has_email(email) {
            return Ok(true);
        }
        // In another partition it may just be given up, by a commit that is not acknowledged yet and may turn out void.
        let durable = View {
            overlay: None,
            ..view
        };
        if users::get(durable, tenant, holding.user)?.has_email(email) {
            return Ok(true);
        }
        match self.has_read(holding.user.shard().partition(self.parts.log.partitions())) {
            true => Ok(false),
            false => Err(WriteError::Unavailable {
                reason: "whether the address is still in use is not known here at present".to_owned(),
            }),
        }
    }

    /// Whether all is folded that another node may have written of the users of a partition, but for the last seconds.
    fn has_read(&self, partition: Partition) -> bool {
        let place = (Stream::Identity, partition);
        if self.lanes.contains_key(&place) {
            return true;
        }
        let users = self
            .state
            .members()
            .iter()
            .find(|m| m.projection.name() == users::NAME);
        let next = users.map_or(0, |m| m.mark.progress(place.0, place.1).next);
        let heard = self.parts.log.heard_end(place.0, place.1);
        heard.is_some_and(|heard| heard.is_current && heard.end <= next)
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

    pub(super) fn subject_key(
        &self,
        tenant: &TenantId,
        user: UserId,
    ) -> Result<Option<SubjectKey>, WriteError> {
        match self.parts.keys.key(tenant, user) {
            Ok(KeyStatus::Present(key)) => Ok(Some(key)),
            Ok(KeyStatus::Destroyed | KeyStatus::Missing) => Ok(None),
            Err(e) => Err(WriteError::Unavailable {
                reason: e.to_string(),
            }),
        }
    }
}

/// Ends a decision without a commit.
pub(super) enum Refusal {
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

pub(super) fn rejected(e: impl Into<gatelog_events::domain::Rejection>) -> WriteError {
    WriteError::Rejected(e.into())
}

pub(super) fn internal(e: impl std::fmt::Display) -> WriteError {
    WriteError::Internal(e.to_string())
}

fn not_seeded() -> WriteError {
    WriteError::Unavailable {
        reason: "the tenant's first settings are not known here yet".to_owned(),
    }
}

pub(super) fn stopped(stream: Stream, partition: Partition) -> WriteError {
    WriteError::Unavailable {
        reason: format!("{stream}:{partition} took no claim, or its state cannot be folded; see /readyz"),
    }
}

pub(super) fn unwritable(stream: Stream, partition: Partition) -> WriteError {
    WriteError::Unavailable {
        reason: format!("{stream}:{partition} has too few copies in sync"),
    }
}

pub(super) fn commit_key(request: &Request) -> Option<CommitId> {
    request.idempotency.as_ref().map(|i| i.commit_id)
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
