//! `webhooks`: how far each webhook has come in each partition, and what its receiver would not take.

use bytes::Bytes;
use gatelog_events::clock::Timestamp;
use gatelog_events::domain::Event;
use gatelog_events::domain::feed::FeedEvent;
use gatelog_events::domain::webhook::{DeadLetter, DeadLetterRef, Progress};
use gatelog_events::ids::{Partition, Stream, TenantId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::keys::{KeyBuilder, KeyKind, key};
use crate::projection::{Located, Projection};
use crate::store::StoreError;
use crate::view::{FoldView, View};

/// The projection.
#[derive(Debug, Default)]
pub struct Webhooks;

pub const NAME: &str = "webhooks";

/// A dead letter, and since when it is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dead {
    pub letter: DeadLetter,
    pub since: Timestamp,
    /// When it was asked to be sent again, if it was.
    pub redriven_at: Option<Timestamp>,
}

/// One webhook of one feed.
#[derive(Debug, Clone, Copy)]
pub struct Hook<'a> {
    pub tenant: &'a TenantId,
    pub feed: &'a str,
    pub webhook: &'a str,
}

impl Hook<'_> {
    fn all(&self, kind: KeyKind) -> KeyBuilder {
        key(kind, self.tenant).text(self.feed).text(self.webhook)
    }

    fn of(&self, kind: KeyKind, partition: Partition) -> KeyBuilder {
        self.all(kind).u16(partition.0)
    }
}

impl Projection for Webhooks {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        1
    }

    fn streams(&self) -> &'static [Stream] {
        &[Stream::Activity]
    }

    fn apply(&self, rows: &mut FoldView<'_>, at: Located<'_>) -> Result<(), StoreError> {
        let tenant = &at.commit.tenant;
        let partition = at.position.partition;
        for e in &at.commit.events {
            let Event::Feed(event) = &e.event else { continue };
            match event {
                FeedEvent::Progressed(progress) => keep_progress(rows, tenant, partition, progress)?,
                FeedEvent::DeadLettered(letter) => {
                    let hook = Hook {
                        tenant,
                        feed: &letter.feed,
                        webhook: &letter.webhook,
                    };
                    let row = |kind| hook.of(kind, partition).fixed(letter.record.as_bytes()).done();
                    let dead = Dead {
                        letter: letter.clone(),
                        since: e.time,
                        redriven_at: None,
                    };
                    rows.put(row(KeyKind::DeadLetter), &dead)?;
                    rows.delete(row(KeyKind::Redrive));
                }
                FeedEvent::Redriven(letters) => redrive(rows, tenant, partition, letters, e.time)?,
                FeedEvent::Redelivered(letters) => {
                    for_each(tenant, partition, letters, |dead, redrive| {
                        rows.delete(dead);
                        rows.delete(redrive);
                        Ok(())
                    })?;
                }
                FeedEvent::WithdrawalsDelivered(_)
                | FeedEvent::WithdrawalsAcknowledged(_)
                | FeedEvent::SignalsTold(_)
                | FeedEvent::VerificationRequested(_)
                | FeedEvent::StreamNoticesTaken(_) => {}
            }
        }
        Ok(())
    }
}

fn keep_progress(
    rows: &mut FoldView<'_>,
    tenant: &TenantId,
    partition: Partition,
    progress: &Progress,
) -> Result<(), StoreError> {
    let hook = Hook {
        tenant,
        feed: &progress.feed,
        webhook: &progress.webhook,
    };
    let row = hook.of(KeyKind::WebhookProgress, partition).done();
    let known: Option<Progress> = rows.get(&row)?;
    // A node that was late says how far an earlier beginning had come.
    if known.is_some_and(|k| k.generation > progress.generation) {
        return Ok(());
    }
    rows.put(row, progress)
}

fn redrive(
    rows: &mut FoldView<'_>,
    tenant: &TenantId,
    partition: Partition,
    letters: &DeadLetterRef,
    time: Timestamp,
) -> Result<(), StoreError> {
    for_each(tenant, partition, letters, |dead, redrive| {
        if let Some(mut known) = rows.get::<Dead>(&dead)? {
            known.redriven_at = Some(time);
            rows.put(dead, &known)?;
            rows.put(redrive, &())?;
        }
        Ok(())
    })
}

fn for_each(
    tenant: &TenantId,
    partition: Partition,
    letters: &DeadLetterRef,
    mut change: impl FnMut(Bytes, Bytes) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let hook = Hook {
        tenant,
        feed: &letters.feed,
        webhook: &letters.webhook,
    };
    for record in &letters.records {
        let row = |kind| hook.of(kind, partition).fixed(record.as_bytes()).done();
        change(row(KeyKind::DeadLetter), row(KeyKind::Redrive))?;
    }
    Ok(())
}

/// How far a webhook has come in a partition; none if it has not begun.
pub fn progress(
    view: View<'_>,
    hook: Hook<'_>,
    partition: Partition,
) -> Result<Option<Progress>, StoreError> {
    view.get(&hook.of(KeyKind::WebhookProgress, partition).done())
}

/// Up to `limit` dead letters of a webhook with their partitions, in the order of partitions and records, after the
/// cursor of the last one seen.
pub fn dead_letters(
    view: View<'_>,
    hook: Hook<'_>,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<(Bytes, Partition, Dead)>, StoreError> {
    let prefix = hook.all(KeyKind::DeadLetter).done();
    let mut from = prefix.to_vec();
    if let Some(after) = after {
        from.extend_from_slice(after);
        from.push(0);
    }
    let rows = view.page::<Dead>(&prefix, &from, limit)?;
    let read = |(key, dead): (Bytes, Dead)| {
        let cursor = key.slice(prefix.len()..);
        let partition = cursor.get(..2)?.try_into().ok()?;
        Some((cursor, Partition(u16::from_be_bytes(partition)), dead))
    };
    Ok(rows.into_iter().filter_map(read).collect())
}

/// Up to `limit` dead letters of a partition that are to be sent again.
pub fn redriven(
    view: View<'_>,
    hook: Hook<'_>,
    partition: Partition,
    limit: usize,
) -> Result<Vec<Dead>, StoreError> {
    let prefix = hook.of(KeyKind::Redrive, partition).done();
    let mut letters = Vec::new();
    for (key, ()) in view.page::<()>(&prefix, &prefix, limit)? {
        let record: Option<[u8; 16]> = key.get(prefix.len()..).and_then(|id| id.try_into().ok());
        let Some(record) = record.map(Uuid::from_bytes) else {
            continue;
        };
        let row = hook
            .of(KeyKind::DeadLetter, partition)
            .fixed(record.as_bytes())
            .done();
        letters.extend(view.get::<Dead>(&row)?);
    }
    Ok(letters)
}
