//! All readers of one log, spread over as few consumers as there are readers of one partition at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use futures::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;

use super::config::KafkaConfig;
use super::feed::{Decode, feed};
use super::fetcher::Fetcher;
use super::lane::{LaneHandle, Subscription};
use super::monitor::Monitor;
use super::places::Topics;
use super::query::Query;
use crate::ids::Offset;
use crate::log::LogError;

/// The first lane is the tail and stays. A reader of a partition that is being read already gets a place in a further
/// one, which ends when it has been without readers for a while.
pub(super) struct Lanes {
    config: KafkaConfig,
    query: Arc<Query>,
    topics: Arc<Topics>,
    monitor: Arc<Monitor>,
    lanes: Mutex<Vec<Arc<LaneHandle>>>,
    ids: AtomicU64,
    closed: AtomicBool,
}

impl Lanes {
    pub fn start(
        config: KafkaConfig,
        query: Arc<Query>,
        topics: Arc<Topics>,
        monitor: Arc<Monitor>,
    ) -> Result<Self, LogError> {
        let lanes = Self {
            config,
            query,
            topics,
            monitor,
            lanes: Mutex::new(Vec::new()),
            ids: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        };
        let tail = lanes.begin(true)?;
        lanes.lanes.lock().push(tail);
        Ok(lanes)
    }

    fn begin(&self, permanent: bool) -> Result<Arc<LaneHandle>, LogError> {
        let handle = Arc::new(LaneHandle::new(self.topics.slots()));
        let fetcher = Fetcher::new(
            &self.config,
            handle.clone(),
            self.query.clone(),
            self.topics.clone(),
            self.monitor.clone(),
            permanent,
        )?;
        thread::Builder::new()
            .name("kafka-reader".into())
            .spawn(move || fetcher.run())
            .map_err(|e| LogError::Io {
                place: "a thread that reads from Kafka".into(),
                source: Arc::new(e),
            })?;
        Ok(handle)
    }

    /// What `decode` makes of the messages of a partition from `from` on, and of those to come.
    pub fn read<T: Send + 'static>(
        &self,
        slot: usize,
        from: Offset,
        decode: Decode<T>,
    ) -> BoxStream<'static, Result<T, LogError>> {
        let (source, buffer) = feed(self.config.read_buffer_bytes, decode);
        let id = self.ids.fetch_add(1, Relaxed);
        let subscription = Subscription {
            slot,
            id,
            from,
            sink: Box::new(source),
        };
        match self.place(subscription) {
            Ok(lane) => buffer.reader(lane, slot, id).boxed(),
            Err(e) => stream::iter([Err(e)]).boxed(),
        }
    }

    fn place(&self, mut subscription: Subscription) -> Result<Arc<LaneHandle>, LogError> {
        let mut lanes = self.lanes.lock();
        if self.closed.load(Relaxed) {
            return Err(LogError::Closed);
        }
        let mut ended = Vec::new();
        for lane in lanes.iter() {
            match lane.subscribe(subscription) {
                Ok(()) => return Ok(lane.clone()),
                Err(back) => subscription = back,
            }
            if lane.has_ended() {
                ended.push(Arc::as_ptr(lane));
            }
        }
        lanes.retain(|lane| !ended.contains(&Arc::as_ptr(lane)));
        let permanent = lanes.is_empty();
        let lane = self.begin(permanent)?;
        lanes.push(lane.clone());
        lane.subscribe(subscription).map_err(|_| LogError::Closed)?;
        Ok(lane)
    }

    /// Readers get what is durable now, then `Closed`. Does not wait for them.
    pub fn close(&self) {
        let lanes = self.lanes.lock();
        self.closed.store(true, Relaxed);
        lanes.iter().for_each(|lane| lane.close());
    }
}
