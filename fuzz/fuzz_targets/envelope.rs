//! Any bytes as a commit's value: reading and opening them never panics, and what is read is written again as the same
//! commit.

#![no_main]

use gatelog_events::codec::{decode, encode, open};
use gatelog_events::ids::{CommitId, TenantId, UserId};
use gatelog_events::seal::{KeySource, KeySourceError, KeyStatus, SubjectKey};
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;

/// The key that the events' corpus is sealed under (events/tests/support/mod.rs).
const CORPUS_KEY: [u8; 32] = [0x42; 32];

struct Keys(KeyStatus);

impl KeySource for Keys {
    fn key(&self, _: &TenantId, _: UserId) -> Result<KeyStatus, KeySourceError> {
        Ok(self.0.clone())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let id = CommitId(Uuid::nil());
    let Ok(commit) = decode(id, bytes) else {
        return;
    };
    let written = encode(&commit).expect("a commit as it is stored holds nothing that is not sealed");
    let again = decode(id, &written).expect("what was written can be read");
    assert_eq!(again, commit);
    for key in [KeyStatus::Present(SubjectKey::new(CORPUS_KEY)), KeyStatus::Destroyed] {
        let _ = open(&mut commit.clone(), &Keys(key));
    }
});
