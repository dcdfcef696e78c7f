//! Subject keys as their topic has them at one moment, for who reads the log of a cluster beside its nodes.
//!
//! The copy in a node's data folder says what that node knew when it ran last: keys that were destroyed since
//! are still in it, and those that came since are not.

use std::collections::HashMap;

use gatelog_events::ids::{TenantId, UserId};
use gatelog_events::log::LogError;
use gatelog_events::log::kafka::KeyRecord;
use gatelog_events::seal::{KeySource, KeySourceError, KeyStatus, MasterKey};

use crate::erasures::is_destroyed;
use crate::subject_keys::{row, unwrapped};

/// See the module. In memory, and there as wrapped as in the topic.
pub struct KeySnapshot {
    master: MasterKey,
    /// Wrapped keys by their row; nothing is left of those that were destroyed.
    rows: HashMap<Box<[u8]>, Option<Box<[u8]>>>,
}

impl KeySnapshot {
    /// Takes in what `records` say, and of that only the key of the subject `only`, if one is named: all
    /// others are missing then. Each partition must come in order, from its beginning on. Blocks where
    /// `records` does.
    ///
    /// The last record of a key counts, but what was destroyed stays so, as on the nodes.
    ///
    /// # Errors
    /// The first one among the records.
    pub fn read(
        records: impl IntoIterator<Item = Result<KeyRecord, LogError>>,
        only: Option<UserId>,
        master: MasterKey,
    ) -> Result<Self, LogError> {
        let mut rows: HashMap<Box<[u8]>, Option<Box<[u8]>>> = HashMap::new();
        for record in records {
            let record = record?;
            let wanted = only.is_none_or(|subject| record.key.ends_with(subject.as_bytes()));
            if record.is_mark() || !wanted {
                continue;
            }
            let key: Box<[u8]> = Box::from(&record.key[..]);
            if is_destroyed(&record) {
                rows.insert(key, None);
            } else if let Some([_, wrapped @ ..]) = record.value.as_deref()
                && !matches!(rows.get(&key), Some(None))
            {
                rows.insert(key, Some(Box::from(wrapped)));
            }
        }
        Ok(Self { master, rows })
    }
}

impl KeySource for KeySnapshot {
    fn key(&self, tenant: &TenantId, subject: UserId) -> Result<KeyStatus, KeySourceError> {
        match self.rows.get(row(tenant, subject).as_slice()) {
            None => Ok(KeyStatus::Missing),
            Some(None) => Ok(KeyStatus::Destroyed),
            Some(Some(wrapped)) => unwrapped(&self.master, tenant, subject, wrapped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::erasures::{DESTROYED, PRESENT};
    use bytes::Bytes;
    use gatelog_events::clock::Timestamp;
    use gatelog_events::ids::Partition;
    use gatelog_events::seal::SubjectKey;
    use uuid::Uuid;

    const DEAD: &[u8] = &[DESTROYED];

    fn user(n: u128) -> UserId {
        UserId(Uuid::from_u128(n))
    }

    fn record(key: &[u8], value: Option<&[u8]>) -> Result<KeyRecord, LogError> {
        Ok(KeyRecord {
            partition: Partition(0),
            offset: 0,
            key: Bytes::copy_from_slice(key),
            value: value.map(Bytes::copy_from_slice),
            at: Timestamp::EPOCH,
        })
    }

    /// A record of the user's key, as one of the nodes writes it.
    fn present(subject: UserId, key: u8) -> Result<KeyRecord, LogError> {
        let tenant = TenantId::default();
        let wrapped = MasterKey::new([1; 32])
            .wrap(&tenant, subject, &SubjectKey::new([key; 32]), [4; 12])
            .unwrap();
        let mut value = vec![PRESENT];
        value.extend_from_slice(&wrapped);
        record(&row(&tenant, subject), Some(value.as_slice()))
    }

    fn destroyed(subject: UserId, value: Option<&[u8]>) -> Result<KeyRecord, LogError> {
        record(&row(&TenantId::default(), subject), value)
    }

    fn snapshot(records: Vec<Result<KeyRecord, LogError>>, only: Option<UserId>) -> KeySnapshot {
        KeySnapshot::read(records, only, MasterKey::new([1; 32])).unwrap()
    }

    /// The byte that the key was made of; 0 for one that was destroyed.
    fn found(keys: &KeySnapshot, subject: UserId) -> Option<u8> {
        match keys.key(&TenantId::default(), subject).unwrap() {
            KeyStatus::Present(key) => (1..=u8::MAX).find(|n| key == SubjectKey::new([*n; 32])),
            KeyStatus::Destroyed => Some(0),
            KeyStatus::Missing => None,
        }
    }

    #[test]
    fn the_last_record_counts_but_what_was_destroyed_stays_so() {
        let keys = snapshot(
            vec![
                record(b"\0now", Some(b"")),
                present(user(1), 11),
                present(user(2), 22),
                present(user(2), 23),
                present(user(3), 33),
                destroyed(user(3), Some(DEAD)),
                present(user(4), 44),
                destroyed(user(4), Some(DEAD)),
                present(user(4), 44),
                // Kafka's own tombstone.
                present(user(5), 55),
                destroyed(user(5), None),
            ],
            None,
        );
        let expected = [Some(11), Some(23), Some(0), Some(0), Some(0), None];
        for (n, expected) in (1..).zip(expected) {
            assert_eq!(found(&keys, user(n)), expected, "{n}");
        }
        let other = TenantId::new("other").unwrap();
        assert!(matches!(keys.key(&other, user(1)).unwrap(), KeyStatus::Missing));
    }

    #[test]
    fn only_the_subject_that_is_named_is_kept() {
        let keys = snapshot(vec![present(user(1), 11), present(user(2), 22)], Some(user(2)));
        assert_eq!(
            [user(1), user(2)].map(|subject| found(&keys, subject)),
            [None, Some(22)]
        );
    }

    #[test]
    fn another_master_key_is_an_error_and_no_erasure() {
        let keys = KeySnapshot::read([present(user(1), 11)], None, MasterKey::new([2; 32])).unwrap();
        let error = keys.key(&TenantId::default(), user(1)).unwrap_err();
        assert!(error.to_string().contains("another master key"), "{error}");
    }

    #[test]
    fn keys_that_cannot_all_be_read_are_no_snapshot() {
        let records = [present(user(1), 11), Err(LogError::Closed)];
        assert!(KeySnapshot::read(records, None, MasterKey::new([1; 32])).is_err());
    }
}
