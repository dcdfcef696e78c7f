//! From a command to the node that writes it: this one, or the owner of its partition.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatelog_events::clock;
use gatelog_events::directory::Directory;
use gatelog_events::ids::{Position, Stream};
use gatelog_projections::{answers, identifiers, logins, sessions, settings, users};
use metrics::counter;
use parking_lot::Mutex;

use super::Place;
use super::forward::{ForwardError, Forwarder};
use super::owners::{NodeAddress, NodeId, Owners};
use crate::views::Views;
use crate::writer::{Command, Outcome, Request, WriteError, Writer, place};

/// Between two looks for an owner, if no claim is read meanwhile. Doubles up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(800);
/// How long an answer of another node is waited for that is not known as the owner.
const BYSTANDER: Duration = Duration::from_secs(1);
/// Such looks before others are asked.
const PATIENT_ROUNDS: usize = 3;

/// A former owner answers what it still wrote within this, or not at all.
const FAREWELL: Duration = Duration::from_secs(1);

/// The read models that an answer promises to show what was written, by stream: those that the writer waits for too.
const SHOWN: [(Stream, &[&str]); 2] = [
    (
        Stream::Identity,
        &[
            users::NAME,
            identifiers::NAME,
            settings::NAME,
            logins::NAME,
            answers::NAME,
        ],
    ),
    (Stream::Activity, &[sessions::NAME, answers::NAME]),
];

/// What a decision may rest on of another partition: all in the identity stream.
const RESTS_ON: [&str; 3] = [users::NAME, identifiers::NAME, settings::NAME];

/// This node's own writer, with what it must have seen before it decides.
#[derive(Clone)]
pub struct Here {
    writer: Writer,
    views: Arc<Views>,
    /// Longest wait until what a decision rests on is folded here.
    patience: Duration,
}

impl Here {
    pub fn new(writer: Writer, views: Arc<Views>, patience: Duration) -> Self {
        Self {
            writer,
            views,
            patience,
        }
    }

    /// Hands a command to this node's writer, once it has seen what the command comes after. Forwards nothing: a node
    /// that does not own the partition says so, and so no command goes round in circles.
    pub async fn submit(&self, request: Request, seen: &[Position]) -> Result<Outcome, WriteError> {
        let deadline = clock::monotonic() + self.patience;
        for position in request.after.iter().chain(seen) {
            // The views are never ahead of the state on which the writer decides.
            for projection in RESTS_ON {
                let waited = self
                    .views
                    .wait_for(projection, *position, left_until(deadline))
                    .await;
                waited.map_err(|behind| WriteError::Unavailable {
                    reason: format!("what the command comes after is not known here yet: {behind}"),
                })?;
            }
        }
        self.writer.submit(request).await
    }
}

/// How long the router tries.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// For a command, wherever it is written, retries included.
    pub forward: Duration,
    /// For what another node wrote to be readable here.
    pub view: Duration,
}

/// Hands each command to the node that owns its partition.
///
/// What is known of owners only says who is asked first. If it is out of date, the one who is asked refuses, nothing is
/// written, and the next is asked: whoever the claims then name, or this node itself. That can be repeated without harm.
/// What became of a command that was sent and not answered is not known; it is sent once more if it has an idempotency
/// key, and otherwise its caller is told so, as for a local command of which that is true. (A key made up for each command
/// that comes without would make that retry harmless too: `answers` keeps the commit's id, and the next owner folds it
/// before it decides. But it would cost a row for two days on every node for most of all writes, to spare a few callers,
/// who may send a key if they care, a 503.)
#[derive(Clone)]
pub struct Router {
    here: Here,
    owners: Arc<Owners>,
    /// None on a log of one owner.
    forwarder: Option<Forwarder>,
    me: NodeId,
    /// This node's, as [`NodeAddress::secrets`].
    secrets: Option<String>,
    /// Nodes that answered and have others.
    strangers: Arc<Mutex<HashSet<NodeId>>>,
    directory: Arc<Directory>,
    partitions: u16,
    bounds: Bounds,
}

/// What a router needs to know of its node.
pub struct RouterParts {
    pub here: Here,
    pub owners: Arc<Owners>,
    pub forwarder: Option<Forwarder>,
    pub me: NodeId,
    pub secrets: Option<String>,
    pub directory: Arc<Directory>,
    pub partitions: u16,
    pub bounds: Bounds,
}

impl Router {
    pub fn new(parts: RouterParts) -> Self {
        let RouterParts {
            here,
            owners,
            forwarder,
            me,
            secrets,
            directory,
            partitions,
            bounds,
        } = parts;
        Self {
            here,
            owners,
            forwarder,
            me,
            secrets,
            strangers: Arc::default(),
            directory,
            partitions,
            bounds,
        }
    }

    /// Hands a command in, wherever it belongs, and waits until it is durable and can be read here, or refused.
    pub async fn submit(&self, request: Request) -> Result<Outcome, WriteError> {
        match &self.forwarder {
            None => self.here.submit(request, &[]).await,
            Some(forwarder) => self.route(forwarder, request).await,
        }
    }

    /// Like [`submit`](Self::submit), but waits for room where too much is waiting.
    pub async fn submit_patiently(&self, request: Request) -> Result<Outcome, WriteError> {
        if self.forwarder.is_none() {
            return self.here.writer.submit_patiently(request).await;
        }
        loop {
            match self.submit(request.clone()).await {
                Err(WriteError::Overloaded { retry_after }) => tokio::time::sleep(retry_after).await,
                result => return result,
            }
        }
    }

    /// Commands that may still be handed in here before the queue is full.
    pub fn room(&self) -> usize {
        self.here.writer.room()
    }

    /// Resolves when others have claimed all that this node wrote.
    pub async fn is_relieved(&self) {
        let mut changes = self.owners.changes();
        while self.owners.owns_any(self.me) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// This node's own part of it.
    pub fn here(&self) -> &Here {
        &self.here
    }

    async fn route(&self, forwarder: &Forwarder, request: Request) -> Result<Outcome, WriteError> {
        let place = place(&request, &self.directory, self.partitions)?;
        let mut attempt = Attempt {
            deadline: clock::monotonic() + self.bounds.forward,
            unknown: None,
        };
        let mut changes = self.owners.changes();
        let mut pause = PAUSE;
        for round in 0_usize.. {
            changes.mark_unchanged();
            let owner = self.another(place).map(|node| (node, Some(place)));
            let other = self
                .who_may_not_know(&request, place, round)
                .map(|node| (node, None));
            for (node, owned) in owner.into_iter().chain(other) {
                let at_most = match owned {
                    Some(_) => attempt.left(),
                    None => attempt.left().min(BYSTANDER),
                };
                match self.forward(forwarder, owned, &node, &request, at_most).await {
                    Ok(outcome) => return Ok(outcome),
                    Err(ForwardError::Answered(WriteError::NotOwner { .. })) => {}
                    // Whose it is not may say anything, and only what has a key is sent there.
                    Err(e) if owned.is_none() && !is_decision(&e) => {
                        tracing::debug!(error = %e, node = %node.url, "a node that may own a place says nothing of it");
                        if let ForwardError::Unknown(reason) = e {
                            attempt.unknown.get_or_insert(reason);
                        }
                    }
                    Err(ForwardError::Answered(e)) => return Err(attempt.blurred(e)),
                    Err(ForwardError::Unreached(reason)) => {
                        tracing::debug!(%reason, node = %node.url, "a command was not forwarded");
                    }
                    Err(ForwardError::Unknown(reason)) => {
                        let again = attempt.unknown.is_none() && request.idempotency.is_some();
                        attempt.unknown = Some(reason);
                        if !again {
                            return Err(attempt.given_up(place));
                        }
                    }
                }
            }
            if attempt.left().is_zero() {
                return Err(attempt.given_up(place));
            }
            let here = self.here.submit(request.clone(), &[]);
            match tokio::time::timeout(attempt.left(), here).await {
                Ok(Err(WriteError::NotOwner { .. })) => {}
                Ok(Err(e)) => return Err(attempt.blurred(e)),
                Ok(done) => return done,
                Err(_) => return Err(self.late()),
            }
            // Nobody owns it: the next owner's claim is on its way.
            let wait = pause.min(attempt.left());
            pause = (2 * pause).min(LONGEST_PAUSE);
            let _ = tokio::time::timeout(wait, changes.changed()).await;
            if attempt.left().is_zero() {
                break;
            }
        }
        Err(attempt.given_up(place))
    }

    /// Once nobody has owned a place for some rounds, the other nodes in turn: whoever it was given to may not have heard that
    /// somebody claimed it after them and went away. A command shows them, and they claim it anew.
    fn who_may_not_know(&self, request: &Request, place: Place, round: usize) -> Option<NodeAddress> {
        let turn = round.checked_sub(PATIENT_ROUNDS)?;
        request.idempotency.as_ref()?;
        let mut others = self.owners.others(self.me, place);
        (!others.is_empty()).then(|| others.swap_remove(turn % others.len()))
    }

    /// This node's writer has the command, and cannot write at present: it may be taking over while the log is away.
    fn late(&self) -> WriteError {
        WriteError::Unavailable {
            reason: format!("the writer did not answer within {:?}", self.bounds.forward),
        }
    }

    /// Who owns a place, if it is another node.
    fn another(&self, (stream, partition): Place) -> Option<NodeAddress> {
        self.owners
            .owner(stream, partition)
            .filter(|owner| owner.id != self.me)
    }

    /// `owned`: the place for whose owner the node is taken.
    async fn forward(
        &self,
        forwarder: &Forwarder,
        owned: Option<Place>,
        node: &NodeAddress,
        request: &Request,
        at_most: Duration,
    ) -> Result<Outcome, ForwardError> {
        let seen = self.seen(request);
        let replaced = async {
            match owned {
                Some(place) => self.is_replaced(place, node).await,
                None => std::future::pending().await,
            }
        };
        let result = tokio::select! {
            result = forwarder.submit(node, request, &seen, at_most) => result,
            () = replaced => {
                Err(ForwardError::Unknown(format!("{} was replaced before it answered", node.url)))
            }
        };
        counter!("gatelog_forwarded_commands_total", "outcome" => label(&result)).increment(1);
        if let Ok(outcome) = &result {
            self.compare(node);
            self.show(outcome.answer.position()).await;
        }
        result
    }

    /// Says once of a run that it has other secrets. It is no reason to refuse anything: they may be about to be replaced.
    fn compare(&self, node: &NodeAddress) {
        let (Some(theirs), Some(mine)) = (&node.secrets, &self.secrets) else {
            return;
        };
        if theirs != mine && self.strangers.lock().insert(node.id) {
            tracing::error!(
                url = %node.url,
                "that node has another refresh-secret or idempotency-secret: refresh tokens of one are void at the other, and \
                 a command with an idempotency key that is sent to both may be carried out twice. Copy secrets/ from one to \
                 the other"
            );
        }
    }

    /// Resolves when another run or node has owned the place for a while. Who stands still, or is cut off, must not keep
    /// callers until their time is up.
    async fn is_replaced(&self, (stream, partition): Place, owner: &NodeAddress) {
        let mut changes = self.owners.changes();
        while self.owners.owner(stream, partition).as_ref() == Some(owner) {
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
        tokio::time::sleep(FAREWELL).await;
    }

    /// The last that is folded here of the other partitions that a decision may rest on. The owner must not decide on
    /// less: who just defined a purpose by this node may use it at once, and who just registered may claim an address.
    fn seen(&self, request: &Request) -> Vec<Position> {
        let settings = self.directory.tenant_shard(&request.tenant);
        let claimant = match request.command {
            Command::Claim(_) => request.subject.user().map(|user| user.shard()),
            _ => None,
        };
        std::iter::once(settings)
            .chain(claimant)
            .filter_map(|shard| {
                let (stream, partition) = (Stream::Identity, shard.partition(self.partitions));
                let next = self.here.views.next(users::NAME, stream, partition)?;
                Some(Position {
                    stream,
                    partition,
                    offset: next.checked_sub(1)?,
                })
            })
            .collect()
    }

    /// Waits, within bounds, until what was written elsewhere can be read here. If it takes too long, the answer goes out
    /// all the same: it has a position, and a read may ask for that.
    async fn show(&self, position: Position) {
        let deadline = clock::monotonic() + self.bounds.view;
        let of_stream = SHOWN.iter().filter(|(stream, _)| *stream == position.stream);
        for projection in of_stream.flat_map(|(_, names)| names.iter()) {
            let left = left_until(deadline);
            if let Err(behind) = self.here.views.wait_for(projection, position, left).await {
                tracing::debug!(%behind, "an answer goes out before this node shows what it is about");
                return;
            }
        }
    }
}

/// Whether somebody has decided on the command.
fn is_decision(e: &ForwardError) -> bool {
    matches!(
        e,
        ForwardError::Answered(WriteError::Rejected(_) | WriteError::KeyReused | WriteError::TooLarge { .. })
    )
}

fn left_until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(clock::monotonic())
}

fn label(result: &Result<Outcome, ForwardError>) -> &'static str {
    match result {
        Ok(_) => "done",
        Err(ForwardError::Answered(WriteError::NotOwner { .. })) => "not_owner",
        Err(ForwardError::Answered(_)) => "refused",
        Err(ForwardError::Unreached(_)) => "unreached",
        Err(ForwardError::Unknown(_)) => "unknown",
    }
}

/// One command's way.
struct Attempt {
    deadline: Instant,
    /// Why it is not known whether an earlier try was carried out.
    unknown: Option<String>,
}

impl Attempt {
    fn left(&self) -> Duration {
        left_until(self.deadline)
    }

    /// An error as the caller may take it: after a try of which nothing is known, "nothing was written" would be a guess.
    /// A rejection is none: had the first try been carried out, the second would have found its answer.
    fn blurred(&self, e: WriteError) -> WriteError {
        match (&self.unknown, e) {
            (Some(reason), WriteError::NotOwner { .. } | WriteError::Overloaded { .. }) => {
                WriteError::Unavailable {
                    reason: reason.clone(),
                }
            }
            (_, e) => e,
        }
    }

    fn given_up(self, (stream, partition): Place) -> WriteError {
        match self.unknown {
            Some(reason) => WriteError::Unavailable { reason },
            None => WriteError::NotOwner { stream, partition },
        }
    }
}
