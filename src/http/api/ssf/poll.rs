//! `/ssf/poll/{stream_id}`: a receiver asks for what it has to hear, and says what it has (RFC 8936).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::Response;
use futures::future::try_join_all;
use gatelog_events::clock;
use gatelog_events::domain::feed::Command;
use gatelog_events::domain::signals::{Delivery, SignalRef, SignalStream, StreamStatus};
use gatelog_events::domain::tenant::Settings;
use gatelog_events::domain::webhook::DeadLetter;
use gatelog_events::ids::{Offset, Partition, Stream};
use gatelog_projections::signals;
use gatelog_projections::store::StoreError;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use super::body::Body;
use super::{known, reads, settings_with, wrong};
use crate::error::{Kind, Problem};
use crate::feeds::signals::push::answer::final_code;
use crate::feeds::signals::push::{dead_letter, item, taken};
use crate::feeds::signals::reader::{Notice, Part, Pending, Place, Reader};
use crate::feeds::signals::token::Set;
use crate::feeds::signals::{home, say_and_see};
use crate::http::app::App;
use crate::http::ask::MinPosition;
use crate::http::caller::Caller;
use crate::http::envelope::Arrived;
use crate::http::params::Name;
use crate::http::reply::ok;

/// SETs of one answer: how many where the receiver does not say, and at the most.
const DEFAULT_EVENTS: usize = 64;
const MAX_EVENTS: usize = 256;
/// SETs that one request may acknowledge.
const MAX_ACKNOWLEDGED: usize = 1000;
/// Longest wait for something to tell: below what proxies and this node's own limit allow.
const WAIT: Duration = Duration::from_secs(25);
/// How long it is read at once, in all partitions, where much concerns nobody.
const READ: Duration = Duration::from_secs(2);
/// How soon after it was looked it is looked again: on a busy node something is folded all the time.
const BETWEEN: Duration = Duration::from_millis(200);
/// How often a waiting receiver looks whether it may go on waiting.
const LOOK: Duration = Duration::from_secs(1);

/// A poll (RFC 8936, section 2.2).
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SsfPollInput)]
pub struct PollInput {
    /// SETs wanted, at the most: 64 if absent, never more than 256; 0 to acknowledge only.
    pub max_events: Option<u32>,
    /// Whether to answer at once where there is nothing to tell. Otherwise it is waited for up to 25 seconds.
    pub return_immediately: Option<bool>,
    /// `jti` of SETs that the receiver has. They never come again.
    pub ack: Option<Vec<String>>,
    /// SETs that the receiver does not take, by `jti`. They never come again either, but where `err` may pass.
    pub set_errs: Option<BTreeMap<String, SetError>>,
}

/// Why a SET is not taken (RFC 8936, section 2.6).
#[derive(Deserialize, utoipa::ToSchema)]
#[schema(as = SsfSetError)]
pub struct SetError {
    /// Such as `invalid_audience`. With `invalid_key`, `authentication_failed` and `access_denied` the SET comes again.
    pub err: String,
}

/// The answer to a poll (RFC 8936, section 2.3).
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SsfPollAnswer)]
pub struct PollBody {
    /// Signed SETs by their `jti`, in the order in which they happened.
    #[schema(value_type = Object)]
    pub sets: Sets,
    /// Whether there is more than this.
    pub more_available: bool,
}

/// SETs with their names, in order.
#[derive(Default)]
pub struct Sets(Vec<(Uuid, String)>);

impl Serialize for Sets {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(self.0.len()))?;
        for (jti, token) in &self.0 {
            map.serialize_entry(jti, token)?;
        }
        map.end()
    }
}

/// What a stream has to tell its receiver. What was not acknowledged comes again.
#[utoipa::path(
    post, path = "/ssf/poll/{stream_id}", tag = "shared signals", params(("stream_id" = String, Path)),
    request_body = PollInput,
    responses((status = 200, description = "SETs", body = PollBody)),
    security(("api_key" = ["ssf.read"]), ("api_key" = ["ssf.manage"]))
)]
pub async fn poll(
    State(app): State<App>,
    Arrived(arrived): Arrived,
    caller: Caller,
    Name(stream_id): Name,
    min: MinPosition,
    Body { value, .. }: Body<PollInput>,
) -> Result<Response, Problem> {
    reads(&caller)?;
    min.reached(&app, &[signals::NAME]).await?;
    settings_with(&app, &caller, &stream_id).await?;
    let wanted = value
        .max_events
        .map_or(DEFAULT_EVENTS, |n| usize::try_from(n).unwrap_or(MAX_EVENTS));
    let poll = Poll {
        app,
        caller,
        stream_id,
        wanted: wanted.min(MAX_EVENTS),
    };
    let names = names(value.ack.unwrap_or_default(), value.set_errs.unwrap_or_default())?;
    let poll = poll.acknowledge(names).await?;
    let wait = if value.return_immediately.unwrap_or(false) || poll.wanted == 0 {
        Duration::ZERO
    } else {
        WAIT
    };
    poll.answer(arrived + wait).await
}

/// What of it the receiver has, by name, and why it did not take it. A name that is none of ours names nothing.
fn names(
    acknowledged: Vec<String>,
    errors: BTreeMap<String, SetError>,
) -> Result<BTreeMap<Uuid, Option<&'static str>>, Problem> {
    for (member, length) in [("ack", acknowledged.len()), ("setErrs", errors.len())] {
        if length > MAX_ACKNOWLEDGED {
            return Err(wrong(member, "It may name at most 1000 SETs."));
        }
    }
    let taken = acknowledged.iter().map(|jti| (jti.as_str(), None));
    // What may be taken later comes again, like what is not named at all.
    let refused = errors
        .iter()
        .filter_map(|(jti, e)| Some((jti.as_str(), Some(final_code(&e.err)?))));
    Ok(taken
        .chain(refused)
        .filter_map(|(jti, code)| Some((Uuid::try_parse(jti).ok()?, code)))
        .collect())
}

/// One receiver that asks.
struct Poll {
    app: App,
    caller: Caller,
    stream_id: String,
    wanted: usize,
}

/// What an acknowledgement changes: what is to be said, and where.
type Said = Vec<(Partition, Vec<Command>)>;

impl Poll {
    /// The stream, if it is still the caller's and polled.
    fn stream<'s>(&self, settings: &'s Settings) -> Result<(Uuid, &'s SignalStream), Problem> {
        self.caller.is_still(settings)?;
        let (id, stream) = known(settings, &self.caller, &self.stream_id)?;
        if stream.config.delivery == Delivery::Poll {
            return Ok((id, stream));
        }
        Err(Problem::new(
            Kind::InvalidStream,
            "The stream is pushed. Change its delivery.method to urn:ietf:rfc:8936 to poll it.",
        ))
    }

    /// Runs what reads many rows where nobody waits for the thread, when it is its turn.
    async fn blocking<T: Send + 'static>(
        self,
        f: impl FnOnce(&Self, Reader<'_>, &Settings) -> Result<T, Problem> + Send + 'static,
    ) -> Result<(Self, T), Problem> {
        let turn = self.app.polls.clone().acquire_owned().await;
        let turn = turn.map_err(|e| Problem::internal(&e))?;
        let read = tokio::task::spawn_blocking(move || {
            // Held until the thread is free, though nobody may wait for the answer any more.
            let _turn = turn;
            let settings = self.app.node.views.settings(self.app.tenant())?;
            let (stream_id, stream) = self.stream(&settings)?;
            let reader = Reader {
                node: &self.app.node,
                stream_id,
                stream,
            };
            let found = f(&self, reader, &settings)?;
            Ok::<_, Problem>((self, found))
        });
        read.await?
    }

    /// Says in the log what the receiver has; it does not come again.
    async fn acknowledge(self, names: BTreeMap<Uuid, Option<&'static str>>) -> Result<Self, Problem> {
        if names.is_empty() {
            return Ok(self);
        }
        let (poll, said) = self
            .blocking(move |poll, reader, _| Ok(poll.acknowledged(reader, &names)?))
            .await?;
        let node = &poll.app.node;
        try_join_all(said.into_iter().map(|(partition, commands)| async move {
            for command in commands {
                say_and_see(node, partition, command).await?;
            }
            Ok::<_, Problem>(())
        }))
        .await?;
        Ok(poll)
    }

    fn acknowledged(
        &self,
        reader: Reader<'_>,
        names: &BTreeMap<Uuid, Option<&'static str>>,
    ) -> Result<Said, StoreError> {
        let partitions = self.app.node.log.partitions();
        let mut said = Said::new();
        let mut notices = reader.notices()?;
        notices.retain(|notice| names.contains_key(&reader.notice(notice).jti));
        if !notices.is_empty() {
            let home = home(reader.stream_id, partitions);
            said.push((home, vec![taken(&reader, &notices)]));
        }
        let teller = reader.teller();
        // Whatever an answer gave is among the first of its partition; meanwhile some may have come between.
        for (partition, part) in self.ahead(reader, 2 * MAX_EVENTS)? {
            let mut done: BTreeSet<SignalRef> = BTreeSet::new();
            let mut commands = Vec::new();
            for pending in &part.pending {
                let jti = teller.name(&pending.signal);
                let Some(code) = names.get(&jti) else {
                    continue;
                };
                done.insert(pending.place);
                if let Some(code) = code {
                    commands.push(refused(reader.stream_id, jti, pending, code));
                }
            }
            if !done.is_empty() {
                let beyond: Vec<_> = done.iter().copied().collect();
                commands.extend(reader.say(part.passed(&done), &beyond));
                said.push((partition, commands));
            }
        }
        Ok(said)
    }

    /// What each partition has to tell next: this much, if there is so much and it is found in time.
    fn ahead(&self, reader: Reader<'_>, enough: usize) -> Result<Vec<(Partition, Part)>, StoreError> {
        let partitions = self.app.node.log.partitions();
        let begun = clock::monotonic();
        // None may take the time of those after it, or they would never be read.
        let share = READ / u32::from(partitions.max(1));
        let read = |n: u16| {
            let time = begun + share * (u32::from(n) + 1);
            Ok((Partition(n), reader.ahead(Partition(n), enough, time)?))
        };
        (0..partitions).map(read).collect()
    }

    async fn answer(self, until: Instant) -> Result<Response, Problem> {
        let mut poll = self;
        loop {
            let folded = poll.folded();
            let looked = clock::monotonic();
            let (again, (body, passed)) = poll
                .blocking(|poll, reader, settings| poll.batch(reader, settings))
                .await?;
            poll = again;
            for (partition, commands) in passed {
                for command in commands {
                    say_and_see(&poll.app.node, partition, command).await?;
                }
            }
            let left = until.saturating_duration_since(clock::monotonic());
            if !body.sets.0.is_empty() || left.is_zero() || poll.app.node.is_stopping() {
                return ok(&body);
            }
            // What was passed meanwhile is said; the next look goes on from there.
            if !body.more_available {
                poll.wait(&folded, until).await?;
            }
            let next = (looked + BETWEEN).min(until);
            tokio::time::sleep(next.saturating_duration_since(clock::monotonic())).await;
        }
    }

    /// What comes next, and how far the stream has come where nothing of it concerned the receiver.
    fn batch(&self, reader: Reader<'_>, settings: &Settings) -> Result<(PollBody, Said), Problem> {
        let mut sets: Vec<Set> = Vec::new();
        let notices: Vec<Notice> = reader.notices()?;
        // They shall not keep what happened from a receiver that takes little at once.
        let front = self.wanted.div_ceil(2).min(notices.len());
        sets.extend(notices[..front].iter().map(|notice| reader.notice(notice)));
        let mut pending: Vec<(Partition, Place, Pending)> = Vec::new();
        let (mut passed, mut more) = (Said::new(), front < notices.len());
        if reader.stream.status == StreamStatus::Enabled {
            for (partition, part) in self.ahead(reader, self.wanted + 1)? {
                let now = part.passed(&BTreeSet::new());
                if part.is_worth_saying(now) {
                    passed.push((partition, reader.say(now, &[])));
                }
                more |= part.more;
                pending.extend(part.pending.into_iter().map(|p| (partition, now, p)));
            }
        }
        pending.sort_by_key(|(_, _, p)| p.at);
        let (offers, now) = (&self.app.node.signal_offers, clock::now());
        let lifetime = self.app.node.config.webhooks.lifetime;
        for (partition, passed_to, p) in pending {
            if sets.len() > self.wanted {
                break;
            }
            let Some(set) = reader.set(&p.signal)? else {
                continue;
            };
            // The last one only shows that there is more.
            let is_given = sets.len() < self.wanted;
            let in_vain = is_given.then(|| offers.in_vain(set.jti, now, lifetime)).flatten();
            match in_vain {
                Some(times) => passed.push((partition, given_up(&reader, passed_to, set.jti, &p, times))),
                None => sets.push(set),
            }
        }
        let more_available = more || sets.len() > self.wanted;
        sets.truncate(self.wanted);
        let signer = self
            .app
            .node
            .signal_keys
            .signer(self.app.tenant(), &settings.signals, now);
        let signer = signer.ok_or_else(|| Problem::internal(&"the key that signs is not to be had"))?;
        let mut signed = Vec::with_capacity(sets.len());
        for set in sets {
            let token = signer.sign(&set.claims).map_err(|e| Problem::internal(&e))?;
            signed.push((set.jti, token));
        }
        let body = PollBody {
            sets: Sets(signed),
            more_available,
        };
        Ok((body, passed))
    }

    /// Up to where each partition is folded.
    fn folded(&self) -> Vec<Offset> {
        let partitions = (0..self.app.node.log.partitions()).map(Partition);
        let next = |stream, p| self.app.node.views.next(signals::NAME, stream, p).unwrap_or(0);
        partitions
            .flat_map(|p| Stream::ALL.map(|stream| next(stream, p)))
            .collect()
    }

    /// Waits until there may be something to tell that was not there when this much was folded.
    async fn wait(&self, before: &[Offset], until: Instant) -> Result<(), Problem> {
        loop {
            // Before looking, so that nothing in between is missed.
            let moved = self.app.node.views.moved(signals::NAME);
            let left = until.saturating_duration_since(clock::monotonic());
            if left.is_zero() || self.app.node.is_stopping() || self.folded() != before {
                return Ok(());
            }
            let settings = self.app.node.views.settings(self.app.tenant())?;
            // Whoever may not poll any more hears it now.
            self.stream(&settings)?;
            let _ = tokio::time::timeout(left.min(LOOK), moved).await;
        }
    }
}

/// A SET that the receiver never acknowledged: that it is done with, beyond where the stream has come.
fn given_up(reader: &Reader<'_>, passed: Place, jti: Uuid, pending: &Pending, times: u32) -> Vec<Command> {
    let item = item(pending.clone());
    let letter = DeadLetter {
        attempts: times,
        reason: "the receiver did not acknowledge it in all the time".to_owned(),
        ..dead_letter(reader.stream_id, pending.signal.user, jti, &item)
    };
    let mut commands = vec![Command::DeadLettered(letter)];
    commands.extend(reader.say(passed, &[pending.place]));
    commands
}

fn refused(stream_id: Uuid, jti: Uuid, pending: &Pending, code: &str) -> Command {
    let item = item(pending.clone());
    Command::DeadLettered(DeadLetter {
        attempts: 1,
        reason: format!("the receiver rejected it: {code}"),
        ..dead_letter(stream_id, pending.signal.user, jti, &item)
    })
}
