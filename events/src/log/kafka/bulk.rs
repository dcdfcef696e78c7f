//! Reading much of one topic up to its present end, as fast as one consumer can.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList};

use super::clients::{STUCK, replaced};
use super::config::KafkaConfig;
use super::errors::{damaged, io_error, kind, no_client, passes, text};
use super::feed::Decode;
use super::monitor::{Context, Monitor, count};
use super::places::{Topic, Topics};
use super::query::Query;
use crate::ids::{Offset, Stream};
use crate::log::LogError;

const POLL: Duration = Duration::from_millis(100);
/// How long nothing may come before reading is given up. The caller can go on from where it stands.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a log's bulk readers share.
#[derive(Clone)]
pub(super) struct Source {
    pub config: KafkaConfig,
    pub query: Arc<Query>,
    pub topics: Arc<Topics>,
    pub monitor: Arc<Monitor>,
    pub closed: Arc<AtomicBool>,
}

/// A partition that is not read to its end yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest {
    pub slot: usize,
    next: Offset,
    /// The offset after the last record that is wanted.
    end: Offset,
    /// Kafka has said that nothing follows `next`, although `end` is above. Twice, and it is so: offsets are missing.
    said_end: bool,
}

/// What is to be read of a topic: from the given offsets to the ends as they are now.
pub(super) fn plan(source: &Source, topic: Topic, from: &[(usize, Offset)]) -> Result<Vec<Rest>, LogError> {
    let slots: Vec<_> = from.iter().map(|(slot, _)| *slot).collect();
    let timeout = source.config.request_timeout;
    let ends = source.query.ends(&slots, timeout)?;
    let begins = source.query.begins(&slots, timeout)?;
    let mut rest = Vec::new();
    for ((slot, from), (begin, end)) in from.iter().zip(begins.into_iter().zip(ends)) {
        let place = || source.topics.describe(*slot, *from);
        let by_time = topic == Topic::Stream(Stream::Activity);
        if *from < begin && !by_time {
            let what = format!(
                "Kafka has deleted records: the partition now begins at {begin}. Bring the topic back from a backup"
            );
            return Err(damaged(place(), what));
        }
        if *from > end {
            let what = format!(
                "Kafka has lost records: the partition ends at {end}. Bring the topic back from a backup, or give this node a \
                 new data folder"
            );
            return Err(damaged(place(), what));
        }
        let next = (*from).max(begin);
        if next < end {
            rest.push(Rest {
                slot: *slot,
                next,
                end,
                said_end: false,
            });
        }
    }
    Ok(rest)
}

/// Iterator over what was planned. Blocks. Each partition is in order.
pub(super) struct Bulk<T> {
    source: Source,
    decode: Decode<T>,
    /// By the partition's number.
    rest: HashMap<i32, Rest>,
    /// Made when the first record is wanted.
    consumer: Option<BaseConsumer<Context>>,
    context: Context,
    failed: bool,
}

impl<T> Bulk<T> {
    pub fn new(source: Source, rest: Vec<Rest>, decode: Decode<T>) -> Self {
        let rest = rest
            .into_iter()
            .map(|r| (source.topics.address(r.slot).1, r))
            .collect();
        let context = Context::new(&source.monitor, "bulk");
        Self {
            source,
            decode,
            rest,
            consumer: None,
            context,
            failed: false,
        }
    }

    fn connect(&self) -> Result<BaseConsumer<Context>, LogError> {
        let config = &self.source.config;
        let mut client = config.consumer("bulk");
        client
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "100")
            .set(
                "fetch.max.bytes",
                (52_428_800.max(config.max_message_bytes())).to_string(),
            )
            .set("max.partition.fetch.bytes", "4194304")
            .set("queued.min.messages", "100000")
            .set("queued.max.messages.kbytes", "16384");
        let consumer: BaseConsumer<Context> = client
            .create_with_context(self.context.clone())
            .map_err(|e| no_client(config, e))?;
        let mut list = TopicPartitionList::with_capacity(self.rest.len());
        for rest in self.rest.values() {
            self.add(&mut list, rest);
        }
        consumer.assign(&list).map_err(|e| self.failure(&e))?;
        Ok(consumer)
    }

    fn add(&self, list: &mut TopicPartitionList, rest: &Rest) {
        let (topic, partition) = self.source.topics.address(rest.slot);
        let at = At::Offset(i64::try_from(rest.next).unwrap_or(i64::MAX));
        // Only names with a NUL are refused.
        let _ = list.add_partition_offset(topic, partition, at);
    }

    fn failure(&self, error: &KafkaError) -> LogError {
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        let reason = std::mem::take(&mut *self.context.reason.lock());
        let reason = if reason.is_empty() { text(error) } else { reason };
        let places: Vec<_> = self
            .rest
            .values()
            .map(|r| self.source.topics.describe(r.slot, r.next))
            .collect();
        let place = format!("one of: {}", places.join("; "));
        match code {
            Code::TopicAuthorizationFailed => io_error(place, kind(code), reason),
            _ => damaged(place, reason),
        }
    }

    fn advance(&mut self) -> Result<Option<T>, LogError> {
        if self.consumer.is_none() && !self.rest.is_empty() {
            self.consumer = Some(self.connect()?);
        }
        let mut idle = Duration::ZERO;
        loop {
            let (Some(consumer), false) = (&self.consumer, self.rest.is_empty()) else {
                return Ok(None);
            };
            match consumer.poll(POLL) {
                Some(Ok(message)) => {
                    let partition = message.partition();
                    let Some(rest) = self.rest.get_mut(&partition) else {
                        continue;
                    };
                    let offset = u64::try_from(message.offset()).unwrap_or(0);
                    if offset < rest.next {
                        continue;
                    }
                    let slot = rest.slot;
                    rest.next = offset + 1;
                    rest.said_end = false;
                    let finished = rest.next >= rest.end;
                    self.source.topics.is_durable(slot, offset);
                    count(&self.source.monitor.counts.records_read);
                    let item = (offset < rest.end)
                        .then(|| (self.decode)(&self.source.topics, slot, &message))
                        .transpose()?;
                    drop(message);
                    if finished {
                        self.leave(partition);
                    }
                    if item.is_some() {
                        // Looking at the clock costs as much as a part of the fold.
                        if offset.is_multiple_of(64) {
                            self.source.monitor.contact();
                        }
                        return Ok(item);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => self.at_end(partition)?,
                Some(Err(error)) => {
                    let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
                    if matches!(code, Code::AutoOffsetReset | Code::OffsetOutOfRange) {
                        self.skip_what_was_cut(&error)?;
                    } else if !passes(code) {
                        return Err(self.failure(&error));
                    }
                }
                None => {
                    idle += POLL;
                    self.check_patience(idle)?;
                }
            }
        }
    }

    /// The activity stream may be cut by time while it is being read. Anywhere else it is damage.
    fn skip_what_was_cut(&mut self, error: &KafkaError) -> Result<(), LogError> {
        let by_time = |r: &Rest| self.source.topics.place(r.slot).topic == Topic::Stream(Stream::Activity);
        if !self.rest.values().all(by_time) || self.context.reason.lock().contains("truncation") {
            return Err(self.failure(error));
        }
        let slots: Vec<_> = self.rest.values().map(|r| r.slot).collect();
        let begins = self
            .source
            .query
            .begins(&slots, self.source.config.request_timeout)?;
        let mut found = false;
        for (slot, begin) in slots.into_iter().zip(begins) {
            let partition = self.source.topics.address(slot).1;
            let Some(rest) = self.rest.get_mut(&partition).filter(|r| r.next < begin) else {
                continue;
            };
            found = true;
            rest.next = begin;
            if rest.next >= rest.end {
                self.leave(partition);
            } else {
                self.assign_anew(partition)?;
            }
        }
        if found { Ok(()) } else { Err(self.failure(error)) }
    }

    /// Where nothing comes for long, that may be the consumer's fault.
    fn renew(&mut self, idle: Duration) -> Result<(), LogError> {
        if !idle.as_millis().is_multiple_of(STUCK.as_millis()) {
            return Ok(());
        }
        let new = self.connect()?;
        if let Some(old) = self.consumer.replace(new) {
            replaced(&self.source.monitor, "bulk", old);
        }
        Ok(())
    }

    fn check_patience(&mut self, idle: Duration) -> Result<(), LogError> {
        if self.source.closed.load(Relaxed) {
            return Err(LogError::Closed);
        }
        if idle < PATIENCE {
            return self.renew(idle);
        }
        let place = self
            .rest
            .values()
            .next()
            .map_or_else(String::new, |r| self.source.topics.describe(r.slot, r.next));
        let last = self
            .source
            .monitor
            .last_error()
            .map_or_else(String::new, |(_, e)| format!(": {e}"));
        Err(io_error(
            place,
            io::ErrorKind::TimedOut,
            format!("nothing came for {} s{last}", PATIENCE.as_secs()),
        ))
    }

    fn leave(&mut self, partition: i32) {
        let Some(rest) = self.rest.remove(&partition) else {
            return;
        };
        if let (Some(consumer), false) = (&self.consumer, self.rest.is_empty()) {
            let mut list = TopicPartitionList::with_capacity(1);
            self.add(&mut list, &rest);
            if let Err(e) = consumer.incremental_unassign(&list) {
                tracing::debug!("the bulk consumer: {}", text(&e));
            }
        }
    }

    /// Kafka says that nothing follows. Where the end that it named before is above, either the offsets in between
    /// stand for nothing (a compacted topic), or a new leader does not know its end yet: asked again, it does.
    fn at_end(&mut self, partition: i32) -> Result<(), LogError> {
        let Some(rest) = self.rest.get_mut(&partition) else {
            return Ok(());
        };
        let slot = rest.slot;
        if std::mem::replace(&mut rest.said_end, true) {
            self.leave(partition);
            return Ok(());
        }
        self.source
            .query
            .ends(&[slot], self.source.config.request_timeout)?;
        self.assign_anew(partition)
    }

    fn assign_anew(&self, partition: i32) -> Result<(), LogError> {
        let (Some(consumer), Some(rest)) = (&self.consumer, self.rest.get(&partition)) else {
            return Ok(());
        };
        let mut list = TopicPartitionList::with_capacity(1);
        self.add(&mut list, rest);
        let again = consumer
            .incremental_unassign(&list)
            .and_then(|()| consumer.incremental_assign(&list));
        again.map_err(|e| self.failure(&e))
    }
}

impl<T> Iterator for Bulk<T> {
    type Item = Result<T, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance();
        self.failed = next.is_err();
        next.transpose()
    }
}
