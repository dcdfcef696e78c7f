//! Any bytes as a commit's value: reading them never panics, and what is read is written again as the same commit.

#![no_main]

use gatelog_events::codec::{decode, encode};
use gatelog_events::ids::CommitId;
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;

fuzz_target!(|bytes: &[u8]| {
    let id = CommitId(Uuid::nil());
    let Ok(commit) = decode(id, bytes) else {
        return;
    };
    let written = encode(&commit).expect("a commit as it is stored holds nothing that is not sealed");
    let again = decode(id, &written).expect("what was written can be read");
    assert_eq!(again, commit);
});
