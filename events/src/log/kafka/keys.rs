//! The compacted topic of subject keys: for each key bytes the last value, or a tombstone. What the bytes mean is not
//! this module's business.
//!
//! A key stands in the partition of its subject's shard, which the caller gives. Kafka keeps at least the last value of
//! each key; a tombstone removes earlier values from the brokers' disks once its segment is closed and older than
//! `max.compaction.lag.ms`, and then itself after `delete.retention.ms`. Keys that begin with a zero byte are
//! [marks](super::marks).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{self, BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};
use rdkafka::message::{BorrowedMessage, Message};

use super::bulk::{Bulk, Source, plan};
use super::errors::{damaged, mismatch};
use super::lanes::Lanes;
use super::places::{Place, Topic, Topics};
use super::producer::{Outgoing, Producer};
use crate::clock::Timestamp;
use crate::ids::{Offset, Partition};
use crate::log::{AppendError, LogError};

/// One record of the topic.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRecord {
    pub partition: Partition,
    pub offset: Offset,
    pub key: Bytes,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
    /// When a broker took it, by the broker's clock.
    pub at: Timestamp,
}

impl fmt::Debug for KeyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRecord")
            .field("partition", &self.partition)
            .field("offset", &self.offset)
            .field("tombstone", &self.value.is_none())
            .finish_non_exhaustive()
    }
}

/// Records of the topic that are read to an end.
pub type KeyIter = Box<dyn Iterator<Item = Result<KeyRecord, LogError>> + Send>;

/// The topic of subject keys of one log. Closed with the log.
#[derive(Clone)]
pub struct SubjectKeyTopic {
    pub(super) source: Source,
    pub(super) producer: Arc<Producer>,
    pub(super) lanes: Arc<Lanes>,
}

impl fmt::Debug for SubjectKeyTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubjectKeyTopic").finish_non_exhaustive()
    }
}

impl SubjectKeyTopic {
    /// Writes a key's value. Queued when the call returns; the future resolves when it is durable. Errors as those of
    /// [`crate::log::EventLog::append`]; writing the same again is harmless.
    pub fn put(
        &self,
        partition: Partition,
        key: &[u8],
        value: &[u8],
    ) -> BoxFuture<'static, Result<Offset, AppendError>> {
        self.send(partition, key, Some(value))
    }

    /// Whether a partition takes keys at present, as far as that is known without asking anybody.
    pub fn is_writable(&self, partition: Partition) -> bool {
        let topic = Topic::SubjectKeys;
        let slot = self.source.topics.slot(Place { topic, partition });
        slot.is_some_and(|slot| self.source.topics.is_writable(slot))
    }

    /// Writes a tombstone.
    pub fn delete(
        &self,
        partition: Partition,
        key: &[u8],
    ) -> BoxFuture<'static, Result<Offset, AppendError>> {
        self.send(partition, key, None)
    }

    fn send(
        &self,
        partition: Partition,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> BoxFuture<'static, Result<Offset, AppendError>> {
        let topic = Topic::SubjectKeys;
        match self.source.topics.slot(Place { topic, partition }) {
            Some(slot) => self.producer.send(Outgoing {
                slot,
                key: Some(key),
                value,
                headers: None,
            }),
            None => future::ready(Err(AppendError::Closed)).boxed(),
        }
    }

    /// All that the topic still holds, up to the end as it is when called: every value that was acknowledged before is
    /// among it. Each partition is in order. Blocks. A key may come several times, the last counts.
    pub fn read_all(&self) -> Result<KeyIter, LogError> {
        let from: Vec<_> = self.slots().map(|slot| (slot, 0)).collect();
        let rest = plan(&self.source, Topic::SubjectKeys, &from)?;
        Ok(Box::new(Bulk::new(self.source.clone(), rest, decode)))
    }

    /// As [`read_all`](Self::read_all), for one partition: what to read before a missing key counts as erased.
    pub fn read_partition(&self, partition: Partition, from: Offset) -> Result<KeyIter, LogError> {
        let topic = Topic::SubjectKeys;
        let slot = self.source.topics.slot(Place { topic, partition });
        let slot = slot.ok_or_else(|| self.no_partition(&format!("none for partition {}", partition.0)))?;
        let rest = plan(&self.source, topic, &[(slot, from)])?;
        Ok(Box::new(Bulk::new(self.source.clone(), rest, decode)))
    }

    /// The offset after the last durable record of a partition: every value that was acknowledged before the call lies
    /// below. Blocks.
    pub fn end(&self, partition: Partition) -> Result<Offset, LogError> {
        let topic = Topic::SubjectKeys;
        let slot = self.source.topics.slot(Place { topic, partition });
        let slot = slot.ok_or_else(|| self.no_partition(&format!("none for partition {}", partition.0)))?;
        let ends = self
            .source
            .query
            .ends(&[slot], self.source.config.request_timeout)?;
        ends.first().copied().ok_or(LogError::Closed)
    }

    /// All records from the given offsets on, one for each partition, then those to come. Each partition is in order.
    /// Ends and errors as those of [`crate::log::EventLog::read`], for each partition.
    pub fn follow(&self, from: &[Offset]) -> BoxStream<'static, Result<KeyRecord, LogError>> {
        if from.len() != usize::from(self.source.topics.partitions()) {
            let error = self.no_partition(&format!("but {} offsets were given", from.len()));
            return stream::iter([Err(error)]).boxed();
        }
        let streams = self
            .slots()
            .zip(from)
            .map(|(slot, from)| self.lanes.read(slot, *from, decode));
        stream::select_all(streams).boxed()
    }

    fn slots(&self) -> impl Iterator<Item = usize> {
        let topics = self.source.topics.clone();
        (0..topics.partitions()).filter_map(move |p| {
            topics.slot(Place {
                topic: Topic::SubjectKeys,
                partition: Partition(p),
            })
        })
    }

    fn no_partition(&self, what: &str) -> LogError {
        let topics = &self.source.topics;
        let place = format!("topic {}", topics.name(Topic::SubjectKeys));
        mismatch(
            place,
            format!("it has {} partitions, {what}", topics.partitions()),
        )
    }
}

fn decode(topics: &Topics, slot: usize, message: &BorrowedMessage<'_>) -> Result<KeyRecord, LogError> {
    let offset = u64::try_from(message.offset()).unwrap_or(0);
    let Some(key) = message.key() else {
        return Err(damaged(topics.describe(slot, offset), "the record has no key"));
    };
    Ok(KeyRecord {
        partition: topics.place(slot).partition,
        offset,
        key: Bytes::copy_from_slice(key),
        value: message.payload().map(Bytes::copy_from_slice),
        at: Timestamp::from_millis(message.timestamp().to_millis().unwrap_or(0)),
    })
}
