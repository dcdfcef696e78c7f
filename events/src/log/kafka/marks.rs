//! Marks: records of the keys' topic that are nobody's key. Their keys begin with a zero byte, so readers tell them apart.
//!
//! | key | value | for |
//! |---|---|---|
//! | `\0store/<UUID>` | what the store's first node said of itself | telling one store from another: the one with the lowest offset counts, for ever |
//! | `\0copy` | `begun`, then `whole` | telling a log that is still being copied here |
//! | `\0now` | empty | asking what time it is at the broker, and letting Kafka close a segment whose time has come |

use bytes::Bytes;
use futures::executor::block_on;
use futures::future::BoxFuture;
use uuid::Uuid;

use super::errors::{cluster, damaged};
use super::keys::{KeyRecord, SubjectKeyTopic};
use crate::ids::{Offset, Partition};
use crate::log::{AppendError, LogError};

const STORE: &[u8] = b"\0store/";
const COPY: &[u8] = b"\0copy";
const BEGUN: &[u8] = b"begun";
const WHOLE: &[u8] = b"whole";
const NOW: &[u8] = b"\0now";
/// Where the store's mark stands.
const FIRST: Partition = Partition(0);

/// What the topics say of the store that they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreMark {
    /// Drawn when the topics were new.
    pub id: Uuid,
    /// What the store's first node said of itself.
    pub value: Bytes,
}

impl KeyRecord {
    /// Whether this is nobody's key.
    pub fn is_mark(&self) -> bool {
        self.key.first() == Some(&0)
    }

    fn store(&self) -> Option<StoreMark> {
        let id = std::str::from_utf8(self.key.strip_prefix(STORE)?).ok()?;
        Some(StoreMark {
            id: id.parse().ok()?,
            value: self.value.clone()?,
        })
    }
}

impl SubjectKeyTopic {
    /// The store's mark; where there is none yet, that is `new`. Of several nodes that begin a store at once, one wins.
    /// Blocks.
    pub fn store(&self, new: &StoreMark) -> Result<StoreMark, LogError> {
        if let Some(found) = self.first_mark()? {
            return Ok(found);
        }
        let key = [STORE, new.id.to_string().as_bytes()].concat();
        block_on(self.put(FIRST, &key, &new.value)).map_err(|e| self.not_written(e))?;
        self.first_mark()?.ok_or_else(|| {
            let what = "the store's mark is not there although it was acknowledged";
            damaged("the topic of subject keys", what)
        })
    }

    /// Compaction keeps offsets, and the mark was written before any key: it comes soon.
    fn first_mark(&self) -> Result<Option<StoreMark>, LogError> {
        for record in self.read_partition(FIRST, 0)? {
            if let Some(mark) = record?.store() {
                return Ok(Some(mark));
            }
        }
        Ok(None)
    }

    /// Says that a log will be copied into these topics, before anything of it is written. Blocks.
    pub fn begin_copy(&self) -> Result<(), LogError> {
        self.say_of_copy(BEGUN)
    }

    /// Says that all of it is there. Blocks.
    pub fn end_copy(&self) -> Result<(), LogError> {
        self.say_of_copy(WHOLE)
    }

    fn say_of_copy(&self, value: &[u8]) -> Result<(), LogError> {
        let written = block_on(self.put(FIRST, COPY, value));
        written.map(drop).map_err(|e| self.not_written(e))
    }

    /// Whether a copy was begun here that has not ended. Blocks.
    pub fn is_half_copied(&self) -> Result<bool, LogError> {
        let mut begun = false;
        for record in self.read_partition(FIRST, 0)? {
            let record = record?;
            if record.key == COPY {
                begun = record.value.as_deref() == Some(BEGUN);
            } else if !record.is_mark() && !begun {
                // It is said before any key is written. Once compaction has taken that away, the copy has ended.
                return Ok(false);
            }
        }
        Ok(begun)
    }

    /// Writes a record that says nothing. Once it is acknowledged, [`super::KafkaLog::clock_skew`] is of now; and if the
    /// partition's segment is older than `max.compaction.lag.ms`, Kafka has closed it and may compact it.
    pub fn touch(&self, partition: Partition) -> BoxFuture<'static, Result<Offset, AppendError>> {
        self.put(partition, NOW, b"")
    }

    /// An append's error, where the log is being opened.
    pub fn not_written(&self, error: AppendError) -> LogError {
        let place = cluster(&self.source.config);
        match error {
            AppendError::Refused(what) => LogError::Refused { place, what },
            other => LogError::Unreachable {
                place,
                what: format!(
                    "it takes no writes ({other}); are as many brokers up as min.insync.replicas asks for?"
                ),
            },
        }
    }
}
