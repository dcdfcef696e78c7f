//! `handovers`: when the consumer of each feed was told of each withdrawal, and when it acknowledged.

use std::ops::Range;

use gatelog_events::clock::Timestamp;
use gatelog_events::domain::Event;
use gatelog_events::domain::feed::{FeedEvent, HandedOver};
use gatelog_events::ids::{EventId, Offset, Partition, Stream, TenantId};
use serde::{Deserialize, Serialize};

use crate::keys::{KeyBuilder, KeyKind, key};
use crate::projection::{Located, Projection};
use crate::store::StoreError;
use crate::view::{FoldView, View};

/// The projection.
#[derive(Debug, Default)]
pub struct Handovers;

pub const NAME: &str = "handovers";

/// What is known of one withdrawal and one consumer. Times are those of the first delivery and the first
/// acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Handover {
    pub delivered_at: Option<Timestamp>,
    pub acknowledged_at: Option<Timestamp>,
}

impl Projection for Handovers {
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
        for e in &at.commit.events {
            let Event::Feed(event) = &e.event else { continue };
            let handover = match event {
                FeedEvent::WithdrawalsDelivered(handover) | FeedEvent::WithdrawalsAcknowledged(handover) => {
                    handover
                }
                _ => continue,
            };
            for withdrawal in &handover.withdrawals {
                let place = Place {
                    tenant: &at.commit.tenant,
                    feed: &handover.feed,
                    partition: at.position.partition,
                };
                let row = place.key(KeyKind::Handover, withdrawal).done();
                let open = place.key(KeyKind::Unacknowledged, withdrawal).done();
                let mut known: Handover = rows.get(&row)?.unwrap_or_default();
                if matches!(event, FeedEvent::WithdrawalsDelivered(_)) {
                    known.delivered_at = known.delivered_at.or(Some(e.time));
                } else {
                    known.acknowledged_at = known.acknowledged_at.or(Some(e.time));
                }
                rows.put(row, &known)?;
                if known.acknowledged_at.is_some() {
                    rows.delete(open);
                } else {
                    rows.put(open, &())?;
                }
            }
        }
        Ok(())
    }
}

/// The withdrawals of one partition, as one feed knows them.
#[derive(Clone, Copy)]
struct Place<'a> {
    tenant: &'a TenantId,
    feed: &'a str,
    partition: Partition,
}

impl Place<'_> {
    fn prefix(&self, kind: KeyKind) -> KeyBuilder {
        key(kind, self.tenant).text(self.feed).u16(self.partition.0)
    }

    fn key(&self, kind: KeyKind, withdrawal: &HandedOver) -> KeyBuilder {
        self.prefix(kind)
            .u64(withdrawal.offset)
            .fixed(withdrawal.event_id.as_bytes())
    }
}

/// What is known of a withdrawal and a feed's consumer.
pub fn get(
    view: View<'_>,
    tenant: &TenantId,
    feed: &str,
    partition: Partition,
    withdrawal: &HandedOver,
) -> Result<Handover, StoreError> {
    let place = Place {
        tenant,
        feed,
        partition,
    };
    let row = place.key(KeyKind::Handover, withdrawal).done();
    Ok(view.get(&row)?.unwrap_or_default())
}

/// Withdrawals at these offsets that the consumer was told of and has not acknowledged, in order.
pub fn unacknowledged(
    view: View<'_>,
    tenant: &TenantId,
    feed: &str,
    partition: Partition,
    offsets: Range<Offset>,
    limit: usize,
) -> Result<Vec<HandedOver>, StoreError> {
    let place = Place {
        tenant,
        feed,
        partition,
    };
    let prefix = place.prefix(KeyKind::Unacknowledged).done();
    let from = place.prefix(KeyKind::Unacknowledged).u64(offsets.start).done();
    let rows = view.page::<()>(&prefix, &from, limit)?;
    let open = rows
        .iter()
        .filter_map(|(key, ())| handed_over(key.get(prefix.len()..)?));
    Ok(open.take_while(|w| w.offset < offsets.end).collect())
}

fn handed_over(rest: &[u8]) -> Option<HandedOver> {
    let (offset, event) = rest.split_at_checked(8)?;
    Some(HandedOver {
        event_id: EventId(uuid::Uuid::from_bytes(event.try_into().ok()?)),
        offset: Offset::from_be_bytes(offset.try_into().ok()?),
    })
}
