//! `webhooks`: how far each webhook has come in each partition, and what its receiver would not take.

use std::collections::BTreeSet;

use bytes::Bytes;
use gatelog_events::clock::Timestamp;
use gatelog_events::domain::Event;
use gatelog_events::domain::feed::FeedEvent;
use gatelog_events::domain::webhook::{DeadLetter, DeadLetterRef, Progress, Told};
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

/// Rows that are read at once where all are looked at.
const PAGE: usize = 1000;

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

/// In which of so many partitions a dead letter is, by its record; none if it is no dead letter.
pub fn partition_of(
    view: View<'_>,
    hook: Hook<'_>,
    partitions: u16,
    record: Uuid,
) -> Result<Option<Partition>, StoreError> {
    for partition in (0..partitions).map(Partition) {
        let row = hook.of(KeyKind::DeadLetter, partition).fixed(record.as_bytes());
        if view.contains(&row.done())? {
            return Ok(Some(partition));
        }
    }
    Ok(None)
}

/// Up to `limit` dead letters that nobody has asked to be sent again since they became one, with their partitions: withdrawals
/// first, then those that have waited longest. What is refused again comes last, so that whoever asks often enough reaches
/// all. Looks at each dead letter of the webhook.
pub fn waiting(view: View<'_>, hook: Hook<'_>, limit: usize) -> Result<Vec<(Partition, Uuid)>, StoreError> {
    let mut first = BTreeSet::new();
    let mut after: Option<Bytes> = None;
    loop {
        let rows = dead_letters(view, hook, after.as_deref(), PAGE)?;
        let Some((last, _, _)) = rows.last() else { break };
        after = Some(last.clone());
        for (_, partition, dead) in rows {
            if dead.redriven_at.is_none() {
                let withdraws = matches!(dead.letter.told, Told::Withdrawn { .. });
                first.insert((!withdraws, dead.since, partition, dead.letter.record));
            }
            if first.len() > limit {
                first.pop_last();
            }
        }
    }
    let letters = first.into_iter();
    Ok(letters
        .map(|(_, _, partition, record)| (partition, record))
        .collect())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, StoreOptions, Table};
    use crate::view::Overlay;
    use gatelog_events::ids::{EventId, UserId};

    const PARTITIONS: u16 = 4;

    fn dead(n: u128, told: Told, since: i64) -> Dead {
        Dead {
            letter: DeadLetter {
                feed: "marketing".into(),
                webhook: "crm".into(),
                record: Uuid::from_u128(n),
                user: UserId(Uuid::from_u128(n)),
                told,
                attempts: 3,
                status: None,
                reason: "it answers 500".into(),
            },
            since: Timestamp::from_millis(since),
            redriven_at: None,
        }
    }

    fn keep(rows: &mut FoldView<'_>, hook: Hook<'_>, partition: Partition, dead: &Dead) {
        let row = hook.of(KeyKind::DeadLetter, partition);
        let row = row.fixed(dead.letter.record.as_bytes()).done();
        rows.put(row, dead).unwrap();
    }

    #[test]
    fn whoever_asks_often_enough_reaches_every_dead_letter() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let table = Table::new("t", 1, 0);
        store.create(&table).unwrap();
        let mut overlay = Overlay::default();
        let mut rows = FoldView::new(&store, &table, &mut overlay);
        let tenant = TenantId::default();
        let hook = Hook {
            tenant: &tenant,
            feed: "marketing",
            webhook: "crm",
        };
        let last = 2 * PAGE as u128 + 10;
        let withdrawn = Told::Withdrawn {
            offset: 7,
            event_id: EventId(Uuid::nil()),
        };
        for n in 0..=last {
            let told = if n == last { withdrawn } else { Told::State };
            let partition = Partition((n % u128::from(PARTITIONS)) as u16);
            keep(&mut rows, hook, partition, &dead(n, told, n as i64));
        }
        let mut reached = Vec::new();
        loop {
            let letters = waiting(rows.view(), hook, 700).unwrap();
            for (partition, record) in &letters {
                let asked = DeadLetterRef {
                    feed: hook.feed.to_owned(),
                    webhook: hook.webhook.to_owned(),
                    records: vec![*record],
                };
                redrive(&mut rows, &tenant, *partition, &asked, Timestamp::EPOCH).unwrap();
                reached.push(record.as_u128());
            }
            if letters.is_empty() {
                break;
            }
        }
        let mut expected = vec![last];
        expected.extend(0..last);
        assert_eq!(reached, expected);

        // What is refused again goes behind what has waited for longer.
        for (n, since) in [(1, last as i64 + 2), (2, last as i64 + 1)] {
            keep(&mut rows, hook, Partition(n as u16), &dead(n, Told::State, since));
        }
        let again = waiting(rows.view(), hook, 2).unwrap();
        assert_eq!(
            again,
            [
                (Partition(2), Uuid::from_u128(2)),
                (Partition(1), Uuid::from_u128(1))
            ]
        );
    }

    #[test]
    fn a_dead_letter_is_found_by_its_record_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let table = Table::new("t", 1, 0);
        store.create(&table).unwrap();
        let mut overlay = Overlay::default();
        let mut rows = FoldView::new(&store, &table, &mut overlay);
        let tenant = TenantId::default();
        let hook = |webhook| Hook {
            tenant: &tenant,
            feed: "marketing",
            webhook,
        };
        keep(&mut rows, hook("crm"), Partition(3), &dead(9, Told::State, 0));
        let found = |webhook, record| {
            let record = Uuid::from_u128(record);
            partition_of(rows.view(), hook(webhook), PARTITIONS, record).unwrap()
        };
        assert_eq!(found("crm", 9), Some(Partition(3)));
        assert_eq!(found("crm", 8), None);
        assert_eq!(found("other", 9), None);
    }
}
