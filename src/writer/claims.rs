//! Claims: what a tenure appends to each partition that is ours before it decides anything there, what the log then says
//! of commits whose outcome was not known, and who else has claimed what.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::executor::block_on;
use futures::{FutureExt, StreamExt};
use gatelog_events::clock;
use gatelog_events::ids::{CommitId, Offset, Partition, Position, Stream};
use gatelog_events::log::fence::{Progress, Verdict};
use gatelog_events::log::{AppendError, Entry, EventLog, Record, RecordHeader, RecordKind};
use gatelog_projections::answers::Answer;
use gatelog_projections::catch_up::catch_up_but;
use gatelog_projections::folder::{Decoded, Folder};

use super::applier::Unresolved;
use super::decider::Lanes;
use super::random::Random;
use super::takeover::{BEFORE_ANSWER, Owned, Parts, STATE, TakeoverError};
use super::{Outcome, WriteError};

/// Claims tell more than who comes last: their value says where the owner can be reached.
pub struct Claims {
    /// The value of this node's claims.
    pub note: Bytes,
    /// Told of each claim that is read.
    pub book: Arc<dyn ClaimBook>,
}

/// What is known of claims.
pub trait ClaimBook: Send + Sync {
    /// Takes note of a claim: where it stands, and its value.
    fn learn(&self, at: Position, value: &[u8]);

    /// The newest claim of a partition that is known.
    fn epoch(&self, stream: Stream, partition: Partition) -> Option<Offset>;
}

/// Nobody wants to know.
struct Unread;

impl ClaimBook for Unread {
    fn learn(&self, _: Position, _: &[u8]) {}

    fn epoch(&self, _: Stream, _: Partition) -> Option<Offset> {
        None
    }
}

impl Claims {
    /// For a log that has one owner only.
    pub fn alone() -> Self {
        Self {
            note: Bytes::new(),
            book: Arc::new(Unread),
        }
    }

    pub(super) fn learn(&self, entry: &Entry) {
        if entry.record.header.kind == RecordKind::Claim {
            self.book.learn(entry.position, &entry.record.value);
        }
    }
}

/// A claim of this tenure.
pub(super) struct Claim {
    id: CommitId,
    /// Where its last copy stands: should the log take a record twice, that is the epoch.
    at: Position,
}

/// What came of claiming.
pub(super) struct Claimed {
    pub claims: Vec<Claim>,
    /// What is ours and takes no claim at present, so that nothing can be decided there: the rest must not wait for it.
    pub left_out: Vec<(Stream, Partition)>,
}

/// Appends a claim to every partition that is ours. Their offsets are this tenure's epochs. An error where none is taken.
pub(super) fn claim_all(parts: &Parts, owned: &Owned) -> Result<Claimed, TakeoverError> {
    let log = &parts.log;
    let mut random = Random::new();
    let (mut under_way, mut left_out) = (Vec::new(), Vec::new());
    for stream in Stream::ALL {
        for partition in owned.iter().copied() {
            if !is_claimable(log.as_ref(), stream, partition) {
                left_out.push((stream, partition));
                continue;
            }
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
                value: parts.claims.note.clone(),
            };
            let claim = log.append(stream, partition, record);
            under_way.push(((stream, partition), header.commit_id, claim));
        }
    }
    let (mut claims, mut failed) = (Vec::new(), None);
    for (place, id, claim) in under_way {
        match block_on(claim) {
            Ok(at) => claims.push(Claim { id, at }),
            Err(e @ (AppendError::Refused(_) | AppendError::Closed)) => return Err(e.into()),
            Err(e) => {
                left_out.push(place);
                failed.get_or_insert(e);
            }
        }
    }
    if let Some(e) = failed
        && claims.is_empty()
    {
        return Err(e.into());
    }
    let alone = |claim: &mut Claim| left_out.contains(&(Stream::Identity, claim.at.partition));
    let alone: Vec<_> = claims
        .extract_if(.., alone)
        .map(|c| (c.at.stream, c.at.partition))
        .collect();
    left_out.extend(alone);
    Ok(Claimed { claims, left_out })
}

/// Whether a partition may be claimed at present. What activity decides rests on identity, which must be ours up to its end.
pub(super) fn is_claimable(log: &dyn EventLog, stream: Stream, partition: Partition) -> bool {
    log.is_writable(stream, partition) && log.is_writable(Stream::Identity, partition)
}

/// What the log says of commits whose outcome was not known.
#[derive(Default)]
pub(super) struct Findings {
    wanted: HashSet<CommitId>,
    found: HashMap<CommitId, Position>,
    places: HashMap<(Stream, Partition), Progress>,
}

impl Findings {
    /// Begins to look, from where the folder goes on: where the member goes on that is least far in a partition.
    fn look_for(wanted: HashSet<CommitId>, folder: &Folder, partitions: u16) -> Self {
        let mut places = HashMap::new();
        if !wanted.is_empty() {
            for stream in Stream::ALL {
                for partition in (0..partitions).map(Partition) {
                    let following = folder.members().iter().filter(|m| m.mark.follows(stream));
                    let least = following
                        .map(|m| m.mark.progress(stream, partition))
                        .min_by_key(|progress| progress.next);
                    places.insert((stream, partition), least.unwrap_or_default());
                }
            }
        }
        Self {
            wanted,
            found: HashMap::new(),
            places,
        }
    }

    fn look_at(&mut self, record: &Decoded) {
        if self.wanted.is_empty() {
            return;
        }
        let (at, header) = (record.position, &record.header);
        let place = self.places.entry((at.stream, at.partition)).or_default();
        if place.pass(at.offset, header) == Verdict::Commit
            && self.wanted.contains(&header.commit_id)
            && record.commit().is_some()
        {
            self.found.insert(header.commit_id, at);
        }
    }

    /// Answers each commit's caller.
    pub fn answer(&self, unresolved: impl Iterator<Item = Unresolved>) {
        for one in unresolved {
            let result = match self.found.get(&one.commit.id) {
                Some(position) => Ok(Outcome {
                    answer: Answer::to(&one.commit, *position),
                    commit: Some(one.commit.clone()),
                    replayed: false,
                }),
                None => Err(self.not_found(&one)),
            };
            let _ = one.reply.send(result);
        }
    }

    /// After a later claim it cannot come any more either: nothing was written, and the caller may go to the next owner.
    fn not_found(&self, one: &Unresolved) -> WriteError {
        let (stream, partition) = one.place;
        let newest = self.places.get(&one.place).and_then(|place| place.fence.epoch);
        match newest > Some(one.epoch) {
            true => WriteError::NotOwner { stream, partition },
            false => WriteError::Unavailable {
                reason: "the log did not take the commit".to_owned(),
            },
        }
    }
}

/// Folds the log to its end, and finds there what became of the unresolved commits. Where it does not tell its end and took no
/// claim, it is left to who follows.
pub(super) fn fold_to_claims(
    parts: &Parts,
    folder: &mut Folder,
    wanted: HashSet<CommitId>,
    claims: &mut [Claim],
    silent: Vec<(Stream, Partition)>,
) -> Result<Findings, TakeoverError> {
    let is_claimed = |place: &(Stream, Partition)| {
        let mut claimed = claims.iter().map(|c| (c.at.stream, c.at.partition));
        claimed.any(|c| c == *place)
    };
    let later: Vec<_> = silent.into_iter().filter(|place| !is_claimed(place)).collect();
    let mut findings = Findings::look_for(wanted, folder, parts.log.partitions());
    let mut erased = Vec::new();
    let (log, keys) = (parts.log.as_ref(), parts.keys.as_ref());
    catch_up_but(&later, folder, log, keys, |entry, record| {
        parts.claims.learn(entry);
        if entry.record.header.kind == RecordKind::Claim
            && let Some(ours) = claims.iter_mut().find(|c| c.id == entry.record.header.commit_id)
        {
            ours.at = entry.position;
        }
        findings.look_at(record);
        let erases = record
            .commit()
            .and_then(|c| Some((c.tenant.clone(), c.erases()?)));
        erased.extend(erases);
    })?;
    // Not before all is written: who reads meanwhile might take into memory again what is purged here.
    for (tenant, user) in &erased {
        parts.views.forget(tenant, *user);
    }
    if !erased.is_empty() {
        parts.erasures.send_modify(|n| *n += 1);
    }
    Ok(findings)
}

/// Where this tenure appends. A partition in which a projection of the state stands still is left out.
pub(super) fn lanes(folder: &Folder, claims: &[Claim]) -> Result<Lanes, TakeoverError> {
    let mut lanes = Lanes::new();
    for Claim { at: claim, .. } in claims {
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
    // What activity decides rests on identity.
    let known: HashSet<_> = lanes
        .keys()
        .filter(|(s, _)| *s == Stream::Identity)
        .map(|(_, p)| *p)
        .collect();
    lanes.retain(|(_, partition), _| known.contains(partition));
    Ok(lanes)
}

/// How long claims of others are read for, and between two looks.
const OWNERS: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(5);

/// Reads the claims under which others write, where they were folded before this node's start: who owns what is kept in
/// memory only. What was read since then is known.
pub(super) fn learn_owners(parts: &Parts, folder: &Folder, others: &[Position]) {
    let claims = others.iter().filter_map(|at| {
        let (stream, partition) = (at.stream, at.partition);
        let of = folder.members().iter().find(|m| m.mark.follows(stream));
        let epoch = of.and_then(|m| m.mark.progress(stream, partition).fence.epoch)?;
        let known = parts.claims.book.epoch(stream, partition) >= Some(epoch);
        (!known).then(|| ((stream, partition), parts.log.read(stream, partition, epoch)))
    });
    let (mut claims, until) = (claims.collect::<Vec<_>>(), clock::monotonic() + OWNERS);
    loop {
        claims.retain_mut(|(_, read)| match read.next().now_or_never() {
            Some(Some(Ok(entry))) => {
                parts.claims.learn(&entry);
                false
            }
            Some(_) | None => true,
        });
        if claims.is_empty() || clock::monotonic() >= until {
            break;
        }
        std::thread::sleep(LOOK);
    }
    // Retention may have cut it off, and nothing come since. The owner is known when it claims again; meanwhile nothing can be
    // forwarded there.
    for ((stream, partition), _) in claims {
        tracing::warn!(%stream, %partition, "the owner's claim could not be read");
    }
}
