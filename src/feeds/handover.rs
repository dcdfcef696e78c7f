//! On record: which consumer was told of which withdrawal, and when it went on from there.

use std::collections::BTreeMap;

use futures::future::{join_all, try_join_all};
use gatelog_events::commit::Subject;
use gatelog_events::domain::Actor;
use gatelog_events::domain::feed::{Command, HandedOver, Handover, MAX_HANDED_OVER};
use gatelog_events::ids::{Partition, Position, Stream, TenantId};
use gatelog_projections::store::StoreError;
use uuid::Uuid;

use super::cursor::Cursor;
use crate::node::Node;
use crate::views::Views;
use crate::writer::{self, Request, WriteError};

/// Withdrawals of one partition that are acknowledged at once: more than a page tells.
const ACKNOWLEDGED: usize = 16 * MAX_HANDED_OVER;

/// Withdrawals by partition.
pub type Told = BTreeMap<Partition, Vec<HandedOver>>;

/// Of those in a batch, the ones of which the consumer was not told before.
pub fn news(
    views: &Views,
    tenant: &TenantId,
    feed: &str,
    withdrawals: impl Iterator<Item = (Partition, HandedOver)>,
) -> Result<Told, StoreError> {
    let mut told = Told::new();
    for (partition, withdrawal) in withdrawals {
        let known = views.handover(tenant, feed, partition, &withdrawal)?;
        if known.delivered_at.is_none() {
            told.entry(partition).or_default().push(withdrawal);
        }
    }
    Ok(told)
}

/// What a consumer acknowledges by going on from a cursor: what was told since it began, and not what others were told
/// before. Whoever begins acknowledges nothing.
pub fn acknowledged(
    views: &Views,
    tenant: &TenantId,
    feed: &str,
    cursor: &Cursor,
) -> Result<Told, StoreError> {
    let mut told = Told::new();
    for (partition, lane) in (0..).map(Partition).zip(&cursor.lanes) {
        let told_of = lane.since..lane.withdrawals;
        let open = views.unacknowledged(tenant, feed, partition, told_of, ACKNOWLEDGED)?;
        if !open.is_empty() {
            told.insert(partition, open);
        }
    }
    Ok(told)
}

/// What came of saying something in the log, by partition: where it stands there, or why it could not be said.
pub type Said = BTreeMap<Partition, Result<Vec<Position>, WriteError>>;

/// Where something could not be said, and why.
pub type Unsaid = BTreeMap<Partition, WriteError>;

/// Says so in the log, in each partition by itself: one that takes nothing keeps no other from it. `what` makes the command
/// of one partition's hand-over.
pub async fn record(
    node: &Node,
    feed: &str,
    told: Told,
    actor: &Actor,
    what: fn(Handover) -> Command,
) -> Said {
    let said = told.into_iter().map(move |(partition, withdrawals)| async move {
        let handed = (partition, withdrawals.as_slice());
        (partition, say(node, feed, handed, actor, what).await)
    });
    join_all(said).await.into_iter().collect()
}

async fn say(
    node: &Node,
    feed: &str,
    (partition, withdrawals): (Partition, &[HandedOver]),
    actor: &Actor,
    what: fn(Handover) -> Command,
) -> Result<Vec<Position>, WriteError> {
    // What other partitions have to tell would wait as long as an answer is waited for that cannot come.
    if !node.log.is_writable(Stream::Activity, partition) {
        let reason = format!("{}:{partition} takes nothing at present", Stream::Activity);
        return Err(WriteError::Unavailable { reason });
    }
    let submitted = withdrawals.chunks(MAX_HANDED_OVER).map(|withdrawals| {
        let handover = Handover {
            feed: feed.to_owned(),
            withdrawals: withdrawals.to_vec(),
        };
        node.router.submit(Request {
            tenant: node.config.tenant.clone(),
            subject: Subject::Nobody,
            partition: Some(partition),
            command: writer::Command::Feed(what(handover)),
            actor: actor.clone(),
            correlation_id: Uuid::nil(),
            idempotency: None,
            time: None,
            after: None,
        })
    });
    let outcomes = try_join_all(submitted).await.inspect_err(
        |error| tracing::warn!(%partition, %error, "what was handed over of a partition is not on record"),
    )?;
    let positions = outcomes.iter().map(|outcome| outcome.answer.position());
    Ok(positions.collect())
}

/// Those of what was said that were not.
pub fn unsaid(said: Said) -> Unsaid {
    let failed = said.into_iter();
    failed
        .filter_map(|(partition, said)| Some((partition, said.err()?)))
        .collect()
}

/// Whether other partitions take what is said, as far as that is known.
pub fn is_sayable_elsewhere(node: &Node, unsaid: &Unsaid) -> bool {
    let mut others = (0..node.log.partitions())
        .map(Partition)
        .filter(|p| !unsaid.contains_key(p));
    others.any(|p| node.log.is_writable(Stream::Activity, p))
}
