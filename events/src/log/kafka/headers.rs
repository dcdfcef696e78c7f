//! A record's header as headers of a Kafka message: text, so that every tool can read it. Names and forms are frozen.
//!
//! | header | value |
//! |---|---|
//! | `gl_kind` | `commit` or `claim` |
//! | `gl_commit` | the commit's id: a UUID, lower case, with hyphens |
//! | `gl_epoch` | offset of the claim under which this was written, decimal |
//! | `gl_seq` | number within the epoch, decimal |
//! | `gl_version` | the aggregate's version after this commit, decimal |
//! | `content-type` | in commits `application/cloudevents-batch+json` (CloudEvents 1.0, Kafka binding); not read back |
//!
//! Other headers are passed over. One of ours that is missing, given twice or not in its form makes the record unreadable.

use std::fmt::Write;
use std::str::{self, FromStr};

use rdkafka::message::{Header, Headers, OwnedHeaders};
use uuid::Uuid;

use crate::ids::CommitId;
use crate::log::{RecordHeader, RecordKind};

const KIND: &str = "gl_kind";
const COMMIT: &str = "gl_commit";
const EPOCH: &str = "gl_epoch";
const SEQ: &str = "gl_seq";
const VERSION: &str = "gl_version";
const CONTENT_TYPE: &str = "content-type";
const BATCH: &str = "application/cloudevents-batch+json";

pub(super) fn encode(header: &RecordHeader) -> OwnedHeaders {
    fn with(headers: OwnedHeaders, key: &str, value: &str) -> OwnedHeaders {
        headers.insert(Header {
            key,
            value: Some(value),
        })
    }
    let kind = match header.kind {
        RecordKind::Claim => "claim",
        RecordKind::Commit => "commit",
    };
    let mut headers = with(OwnedHeaders::new_with_capacity(6), KIND, kind);
    let mut uuid = Uuid::encode_buffer();
    headers = with(
        headers,
        COMMIT,
        header.commit_id.0.hyphenated().encode_lower(&mut uuid),
    );
    let mut number = String::with_capacity(20);
    for (key, value) in [
        (EPOCH, header.epoch),
        (SEQ, header.seq),
        (VERSION, header.aggregate_version),
    ] {
        number.clear();
        // Writing to a String cannot fail.
        let _ = write!(number, "{value}");
        headers = with(headers, key, &number);
    }
    match header.kind {
        RecordKind::Claim => headers,
        RecordKind::Commit => with(headers, CONTENT_TYPE, BATCH),
    }
}

/// What is wrong, if the headers are not those of a record of this log.
pub(super) fn decode<H: Headers>(headers: Option<&H>) -> Result<RecordHeader, String> {
    let Some(headers) = headers else {
        return Err("it has no headers, so this log did not write it".into());
    };
    let (mut kind, mut commit_id, mut epoch, mut seq, mut version) = (None, None, None, None, None);
    for header in headers.iter() {
        match header.key {
            KIND => set(
                &mut kind,
                &header,
                match header.value {
                    Some(b"commit") => Some(RecordKind::Commit),
                    Some(b"claim") => Some(RecordKind::Claim),
                    _ => None,
                },
            )?,
            COMMIT => set(&mut commit_id, &header, uuid(header.value))?,
            EPOCH => set(&mut epoch, &header, number(header.value))?,
            SEQ => set(&mut seq, &header, number(header.value))?,
            VERSION => set(&mut version, &header, number(header.value))?,
            _ => {}
        }
    }
    let missing = |key: &str| format!("its header {key} is missing, so this log did not write it");
    Ok(RecordHeader {
        kind: kind.ok_or_else(|| missing(KIND))?,
        commit_id: CommitId(commit_id.ok_or_else(|| missing(COMMIT))?),
        epoch: epoch.ok_or_else(|| missing(EPOCH))?,
        seq: seq.ok_or_else(|| missing(SEQ))?,
        aggregate_version: version.ok_or_else(|| missing(VERSION))?,
    })
}

fn set<T>(slot: &mut Option<T>, header: &Header<'_, &[u8]>, value: Option<T>) -> Result<(), String> {
    if slot.is_some() {
        return Err(format!("its header {} is given twice", header.key));
    }
    match value {
        Some(value) => *slot = Some(value),
        None => return Err(format!("its header {} is not in its form", header.key)),
    }
    Ok(())
}

fn uuid(value: Option<&[u8]>) -> Option<Uuid> {
    let text = value.filter(|v| v.len() == 36)?;
    Uuid::try_parse_ascii(text).ok()
}

fn number(value: Option<&[u8]>) -> Option<u64> {
    let text = str::from_utf8(value?).ok()?;
    let canonical = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    canonical.then(|| u64::from_str(text).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(headers: &OwnedHeaders) -> Vec<(String, String)> {
        let pair = |h: Header<'_, &[u8]>| {
            let value = String::from_utf8(h.value.unwrap().to_vec()).unwrap();
            (h.key.to_owned(), value)
        };
        headers.iter().map(pair).collect()
    }

    fn headers(pairs: &[(String, String)]) -> OwnedHeaders {
        pairs.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
            all.insert(Header {
                key,
                value: Some(value),
            })
        })
    }

    fn commit() -> RecordHeader {
        RecordHeader {
            kind: RecordKind::Commit,
            commit_id: CommitId(Uuid::from_u128(0xa1)),
            epoch: 7,
            seq: 0,
            aggregate_version: u64::MAX,
        }
    }

    #[test]
    fn the_form_is_frozen() {
        let expected = [
            ("gl_kind", "commit"),
            ("gl_commit", "00000000-0000-0000-0000-0000000000a1"),
            ("gl_epoch", "7"),
            ("gl_seq", "0"),
            ("gl_version", "18446744073709551615"),
            ("content-type", "application/cloudevents-batch+json"),
        ];
        assert_eq!(
            text(&encode(&commit())),
            expected.map(|(k, v)| (k.to_owned(), v.to_owned()))
        );
    }

    #[test]
    fn what_is_missing_twice_there_or_malformed_is_named() {
        assert!(decode::<OwnedHeaders>(None).is_err());
        let whole = text(&encode(&commit()));
        for i in 0..5 {
            let name = whole[i].0.clone();
            let mut without = whole.clone();
            without.remove(i);
            let mut twice = whole.clone();
            twice.push(whole[i].clone());
            let mut bad = whole.clone();
            bad[i].1 = "+07".into();
            for broken in [without, twice, bad] {
                let what = decode(Some(&headers(&broken))).unwrap_err();
                assert!(what.contains(&name), "{what}");
            }
        }
        let mut more = whole;
        more.push(("traceparent".into(), "00".into()));
        assert_eq!(
            decode(Some(&headers(&more))),
            Ok(commit()),
            "others are passed over"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(claim: bool, id: u128, epoch: u64, seq: u64, aggregate_version: u64) {
            let kind = if claim { RecordKind::Claim } else { RecordKind::Commit };
            let header = RecordHeader { kind, commit_id: CommitId(Uuid::from_u128(id)), epoch, seq, aggregate_version };
            prop_assert_eq!(decode(Some(&encode(&header))), Ok(header));
        }
    }
}
