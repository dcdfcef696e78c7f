//! Subject keys that nodes share: a compacted topic, and in each node's own store what was read of it.
//!
//! A key is durable in the topic before it is used, and its row in the store is a copy. Whoever misses a key waits until
//! what was in the topic when it asked is read, and only then believes that there is none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::StreamExt;
use futures::executor::block_on;
use gatelog_events::clock;
use gatelog_events::ids::{Offset, Partition, UserId};
use gatelog_events::log::LogError;
use gatelog_events::log::kafka::{KeyRecord, SubjectKeyTopic};
use gatelog_events::seal::KeySourceError;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

/// Records written to the store at once, at the most.
const BATCH: usize = 512;
/// Before it is tried again to follow the topic.
const PAUSE: Duration = Duration::from_secs(1);

/// A row of the store, as the topic has it.
pub(crate) type KeyRow = (Vec<u8>, Vec<u8>);

/// The topic, and how far this node has read it.
pub(crate) struct KeyTopic {
    topic: SubjectKeyTopic,
    partitions: u16,
    /// How long a reader waits for what it misses.
    patience: Duration,
    read: Arc<Read>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Per partition the offset of the next record to read.
struct Read {
    next: Vec<AtomicU64>,
    ended: AtomicBool,
    lock: Mutex<()>,
    moved: Condvar,
}

/// Takes what was read into the store, and how far it is read.
pub(crate) type Keep = Box<dyn Fn(&[KeyRecord]) -> Result<(), KeySourceError> + Send>;

impl KeyTopic {
    /// Follows the topic from these offsets on, one for each partition, and hands everything to `keep`.
    pub fn follow(
        topic: SubjectKeyTopic,
        from: Vec<Offset>,
        patience: Duration,
        keep: Keep,
    ) -> Result<Self, KeySourceError> {
        let read = Arc::new(Read {
            next: from.iter().map(|next| AtomicU64::new(*next)).collect(),
            ended: AtomicBool::new(false),
            lock: Mutex::new(()),
            moved: Condvar::new(),
        });
        let (stop, stopped) = oneshot::channel();
        let (followed, shared) = (topic.clone(), read.clone());
        let thread = std::thread::Builder::new()
            .name("subject-keys".to_owned())
            .spawn(move || {
                block_on(async {
                    tokio::select! {
                        () = take_all(&followed, &shared, &keep) => {}
                        _ = stopped => {}
                    }
                });
                shared.ended.store(true, Ordering::Release);
                shared.wake();
            })
            .map_err(|e| KeySourceError::Unavailable(e.to_string()))?;
        Ok(Self {
            topic,
            partitions: u16::try_from(from.len()).unwrap_or(u16::MAX),
            patience,
            read,
            stop: Mutex::new(Some(stop)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Writes rows, all durable when this returns. Blocks.
    pub fn write(&self, rows: &[(UserId, KeyRow)]) -> Result<(), KeySourceError> {
        write(&self.topic, self.partitions, rows)
    }

    /// Waits until everything that the subject's partition holds now is in the store. Blocks.
    pub fn wait_until_present(&self, subject: UserId) -> Result<(), KeySourceError> {
        let partition = subject.shard().partition(self.partitions);
        let end = self.topic.end(partition).map_err(|e| failed(&e))?;
        self.wait_for(partition, end)
    }

    /// Waits until everything that the topic holds now is in the store, for as long as that goes on. Blocks.
    pub fn wait_until_read(&self) -> Result<(), KeySourceError> {
        for partition in (0..self.partitions).map(Partition) {
            let end = self.topic.end(partition).map_err(|e| failed(&e))?;
            let mut before = self.read_up_to(partition)?;
            while let Err(e) = self.wait_for(partition, end) {
                let now = self.read_up_to(partition)?;
                if now == before {
                    return Err(e);
                }
                before = now;
            }
        }
        Ok(())
    }

    fn slot(&self, partition: Partition) -> Result<&AtomicU64, KeySourceError> {
        let slot = self.read.next.get(usize::from(partition.0));
        slot.ok_or_else(|| KeySourceError::Unavailable(format!("there is no partition {partition}")))
    }

    fn read_up_to(&self, partition: Partition) -> Result<Offset, KeySourceError> {
        Ok(self.slot(partition)?.load(Ordering::Acquire))
    }

    fn wait_for(&self, partition: Partition, end: Offset) -> Result<(), KeySourceError> {
        let next = self.slot(partition)?;
        let until = clock::monotonic() + self.patience;
        let mut lock = self.read.lock.lock();
        while next.load(Ordering::Acquire) < end {
            let late = self.read.moved.wait_until(&mut lock, until).timed_out();
            if late || self.read.ended.load(Ordering::Acquire) {
                return Err(KeySourceError::Unavailable(
                    "the topic of subject keys could not be read to its end in time".to_owned(),
                ));
            }
        }
        Ok(())
    }
}

/// Writes rows to the partitions of their subjects, all durable when this returns. Blocks.
pub(crate) fn write(
    topic: &SubjectKeyTopic,
    partitions: u16,
    rows: &[(UserId, KeyRow)],
) -> Result<(), KeySourceError> {
    let of = |subject: &UserId| subject.shard().partition(partitions);
    // It would be waited for in vain, by a thread that has other things to do.
    if let Some((subject, _)) = rows.iter().find(|(subject, _)| !topic.is_writable(of(subject))) {
        return Err(KeySourceError::Unavailable(format!(
            "the topic of subject keys has too few copies in sync in partition {}",
            of(subject)
        )));
    }
    let written = rows
        .iter()
        .map(|(subject, (key, value))| topic.put(of(subject), key, value));
    for answer in block_on(futures::future::join_all(written)) {
        answer.map_err(|e| KeySourceError::Unavailable(format!("the topic of subject keys: {e}")))?;
    }
    Ok(())
}

impl Drop for KeyTopic {
    fn drop(&mut self) {
        drop(self.stop.lock().take());
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

impl Read {
    fn wake(&self) {
        // With the lock held, so that nobody falls asleep between looking and waiting.
        let _lock = self.lock.lock();
        self.moved.notify_all();
    }
}

/// Until the log is closed. Whatever else goes wrong, it begins again where it is: without keys a node can read nothing.
async fn take_all(topic: &SubjectKeyTopic, read: &Read, keep: &Keep) {
    loop {
        let from: Vec<Offset> = read
            .next
            .iter()
            .map(|next| next.load(Ordering::Acquire))
            .collect();
        let Err(e) = take_from(topic.follow(&from), read, keep).await else {
            return;
        };
        tracing::error!(error = %e, "the topic of subject keys cannot be followed; it is tried again");
        // The thread is this one's own; it may have to stop after a pause.
        std::thread::sleep(PAUSE);
        tokio::task::yield_now().await;
    }
}

type Records = futures::stream::BoxStream<'static, Result<KeyRecord, LogError>>;

/// Until the log is closed, or something goes wrong.
async fn take_from(records: Records, read: &Read, keep: &Keep) -> Result<(), KeySourceError> {
    let mut ready = records.ready_chunks(BATCH);
    while let Some(chunk) = ready.next().await {
        let mut good = Vec::with_capacity(chunk.len());
        let mut end = None;
        for record in chunk {
            match record {
                Ok(record) => good.push(record),
                Err(e) => {
                    end = Some(e);
                    break;
                }
            }
        }
        let mut reached = std::collections::BTreeMap::new();
        for record in &good {
            reached.insert(record.partition, record.offset + 1);
        }
        keep(&good)?;
        for (partition, next) in reached {
            if let Some(slot) = read.next.get(usize::from(partition.0)) {
                slot.store(next, Ordering::Release);
            }
        }
        read.wake();
        match end {
            None => {}
            Some(LogError::Closed) => return Ok(()),
            Some(e) => return Err(failed(&e)),
        }
    }
    Ok(())
}

fn failed(e: &LogError) -> KeySourceError {
    KeySourceError::Unavailable(format!("the topic of subject keys: {e}"))
}
