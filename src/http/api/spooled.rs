//! Logins while the log is away, under the policy `spool`: kept in a file, answered, and recorded later.
//!
//! Only logins whose password was right are kept. A failed one is answered as ever and counts in memory, but is not
//! recorded: who guesses must not fill the disk.

use std::time::Duration;

use gatelog_events::clock::{self, Timestamp};
use gatelog_events::ids::{Partition, SessionId, Stream, TenantId, UserId};
use gatelog_events::log::LogError;
use gatelog_events::seal::{KeySource, KeyStatus, SubjectKey};
use metrics::counter;

use super::logins::Opened;
use crate::auth::random;
use crate::error::{Kind, Problem, invalid_credentials};
use crate::http::app::App;
use crate::spool::{Spool, SpoolError, SpooledLogin};
use crate::writer::{Outcome, Request, WriteError, place};

/// What a command gets while the log is known to be away: another node may still reach it, or owns the partition and
/// refuses at once.
const CHANCE: Duration = Duration::from_millis(250);

/// Between two looks whether the log is away by now.
const LOOK: Duration = Duration::from_millis(50);

/// How long the log may take to show that it is there, after a command failed.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

/// For so long after its login a session that the log does not know may wait in the spool of another node.
const MAY_WAIT: Duration = Duration::from_secs(86_400);

/// Has a command written, as ever; under the policy `spool` it does not wait for a log that is away. `None`: the log is
/// away, and whether the command is carried out is not known.
pub async fn submit(app: &App, request: Request) -> Result<Option<Outcome>, WriteError> {
    if app.node.config.spool.is_none() {
        return app.node.router.submit(request).await.map(Some);
    }
    let (stream, partition) = place(&request, &app.node.directory, app.node.log.partitions())?;
    let result = tokio::select! {
        result = app.node.router.submit(request) => result,
        () = is_known_to_be_away(app) => return Ok(None),
    };
    match result {
        Err(e) if is_no_answer(&e) => match is_away(app, stream, partition).await {
            true => Ok(None),
            false => Err(e),
        },
        result => result.map(Some),
    }
}

/// What the log said. One that says nothing ends a login, but under the policy `spool` (`None`): then the node decides on
/// what it knows.
pub fn unless_spooled<T>(app: &App, asked: Result<T, WriteError>) -> Result<Option<T>, Problem> {
    match (asked, &app.node.config.spool) {
        (Ok(said), _) => Ok(Some(said)),
        (Err(_), Some(_)) => Ok(None),
        (Err(e), None) => Err(e.into()),
    }
}

/// Whether the log is away, now that a command got no answer.
async fn is_away(app: &App, stream: Stream, partition: Partition) -> bool {
    // Before the log was seen to be back long enough to record what was kept, it has not come back for callers.
    let undrained = app.node.spool.as_ref().is_some_and(|spool| !spool.is_empty());
    if undrained || !app.node.backend.is_reachable() {
        return true;
    }
    let end = tokio::time::timeout(SIGN_OF_LIFE, app.node.log.end(stream, partition));
    matches!(
        end.await,
        Err(_) | Ok(Err(LogError::Io { .. } | LogError::Unreachable { .. }))
    )
}

/// Resolves once the log has been known to be away for a moment.
async fn is_known_to_be_away(app: &App) {
    loop {
        if app.node.backend.is_reachable() {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        tokio::time::sleep(CHANCE).await;
        if !app.node.backend.is_reachable() {
            return;
        }
    }
}

/// Whether nobody decided on the command.
fn is_no_answer(e: &WriteError) -> bool {
    match e {
        WriteError::Unavailable { .. } | WriteError::NotOwner { .. } | WriteError::Overloaded { .. } => true,
        WriteError::Rejected(_)
        | WriteError::KeyReused
        | WriteError::TooLarge { .. }
        | WriteError::Internal(_) => false,
    }
}

/// Keeps a login that could not be recorded. It is durable when this returns, so its tokens may leave.
pub async fn keep(app: &App, request: Request, at: Timestamp) -> Result<Opened, Problem> {
    let Some(login) = SpooledLogin::of(request, at) else {
        return Err(Problem::internal(&"only logins are spooled"));
    };
    let kept = match &app.node.spool {
        Some(spool) => try_to_keep(app, spool, &login).await,
        None => Err(SpoolError::Broken),
    };
    match kept {
        Ok(true) => Ok(Opened::waiting(login.user, login.session_id)),
        // Erased, and the read models do not know it yet.
        Ok(false) => Err(invalid_credentials()),
        Err(e) => {
            counter!("gatelog_spool_refused_total").increment(1);
            let reason = format!("the log is away, and the login was not kept: {e}");
            Err(WriteError::Unavailable { reason }.into())
        }
    }
}

/// `false`: there is nobody to keep it for.
async fn try_to_keep(app: &App, spool: &Spool, login: &SpooledLogin) -> Result<bool, SpoolError> {
    let Some(key) = subject_key(app, login.tenant.clone(), login.user).await? else {
        return Ok(false);
    };
    let nonce = random().map_err(|e| SpoolError::Entry(e.to_string()))?;
    let commit = login.idempotency.as_ref().map(|i| i.commit_id);
    spool
        .append(login.seal(&key, nonce)?, login.session_id, commit)
        .await?;
    Ok(true)
}

async fn subject_key(app: &App, tenant: TenantId, user: UserId) -> Result<Option<SubjectKey>, SpoolError> {
    let keys = app.node.keys.clone();
    // A key that is missed here is looked for in its topic, which takes a while when the log is away.
    let status = tokio::task::spawn_blocking(move || keys.key(&tenant, user)).await;
    let failed = |e: &dyn std::fmt::Display| SpoolError::Entry(e.to_string());
    match status.map_err(|e| failed(&e))?.map_err(|e| failed(&e))? {
        KeyStatus::Present(key) => Ok(Some(key)),
        KeyStatus::Destroyed | KeyStatus::Missing => Ok(None),
    }
}

/// The answer to an earlier request with the same idempotency key, if its login waits here.
pub async fn earlier(app: &App, request: &Request) -> Result<Option<Opened>, Problem> {
    let (Some(spool), Some(idempotency)) = (&app.node.spool, &request.idempotency) else {
        return Ok(None);
    };
    let Some(entry) = spool.entry_of(idempotency.commit_id) else {
        return Ok(None);
    };
    let unreadable = |e: SpoolError| Problem::internal(&e);
    let Some(key) = subject_key(app, entry.tenant().clone(), entry.user())
        .await
        .map_err(unreadable)?
    else {
        return Ok(None);
    };
    let before = entry.open(&key).map_err(unreadable)?;
    let same = before
        .idempotency
        .is_some_and(|i| i.request == idempotency.request);
    match same && request.subject.user() == Some(before.user) {
        true => Ok(Some(Opened::waiting(before.user, before.session_id))),
        false => Err(WriteError::KeyReused.into()),
    }
}

/// Whether a session that the log does not know waits in this node's spool.
pub fn waits_here(app: &App, session: SessionId) -> bool {
    app.node.spool.as_ref().is_some_and(|spool| spool.holds(session))
}

/// Whether a session that the log does not know, but of which we gave out a token, may be recorded yet: it waits here, or
/// it is young enough to wait on another node.
pub fn may_wait(app: &App, user: UserId, session: SessionId) -> Result<bool, Problem> {
    if waits_here(app, session) {
        return Ok(true);
    }
    let young = clock::now().since(session.time()) < MAY_WAIT;
    Ok(app.node.config.spool.is_some() && young && app.node.views.user(app.tenant(), user)?.may_sign_in())
}

/// What is answered about a session that is not recorded yet.
pub fn not_recorded_yet() -> Problem {
    Problem::new(
        Kind::Unavailable,
        "The login waits to be recorded. Send the same request again in a moment.",
    )
    .retry_after(Duration::from_secs(1))
}
