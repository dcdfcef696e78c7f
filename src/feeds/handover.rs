//! On record: which consumer was told of which withdrawal, and when it went on from there.

use std::collections::BTreeMap;

use futures::future::try_join_all;
use gatelog_events::commit::Subject;
use gatelog_events::domain::Actor;
use gatelog_events::domain::feed::{Command, HandedOver, Handover, MAX_HANDED_OVER};
use gatelog_events::ids::{Partition, TenantId};
use gatelog_projections::store::StoreError;
use uuid::Uuid;

use super::cursor::Cursor;
use crate::cluster::Router;
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

/// Says so in the log. `what` makes the command of one partition's hand-over.
pub async fn record(
    router: &Router,
    tenant: &TenantId,
    feed: &str,
    told: Told,
    actor: &Actor,
    what: fn(Handover) -> Command,
) -> Result<(), WriteError> {
    let requests = told.into_iter().flat_map(|(partition, withdrawals)| {
        let chunks: Vec<_> = withdrawals.chunks(MAX_HANDED_OVER).map(<[_]>::to_vec).collect();
        chunks
            .into_iter()
            .map(move |withdrawals| (partition, withdrawals))
    });
    let submitted = requests.map(|(partition, withdrawals)| {
        let handover = Handover {
            feed: feed.to_owned(),
            withdrawals,
        };
        router.submit(Request {
            tenant: tenant.clone(),
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
    try_join_all(submitted).await?;
    Ok(())
}
