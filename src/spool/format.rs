//! The stored bytes of the spool. Frozen: a change of anything here is a new [`VERSION`].
//!
//! All numbers are little-endian. CRC is CRC-32 (IEEE, as in zlib).
//!
//! ```text
//! file     header | entry | entry | …
//! header   magic 8 · version u16 · 0 u16 · CRC u32 (over all before)
//! entry    length of its body u32 · CRC of its body u32 · CRC u32 (over the eight bytes before) | body: JSON
//! ```
//!
//! A crash may leave the last entry cut off, or with zeros where bytes never reached the disk. JSON ends in `}`, so an
//! entry that is whole never ends in a zero: the file's end is its last byte that is not zero. What is cut off there was
//! never acknowledged. The length has a CRC of its own, so that a damaged length is not taken for a cut.

use std::ops::Range;

pub const VERSION: u16 = 1;
const MAGIC: [u8; 8] = *b"\xff\xfeGLSPL\n";
/// Bytes of the file's header.
pub const HEADER: usize = 16;
/// Bytes of an entry without its body.
pub const ENTRY_HEADER: usize = 12;

/// The first bytes of each file.
pub fn header() -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..12]);
    bytes[12..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Appends an entry to `out`. Its body is JSON and far shorter than 4 GiB: it is made of one request.
pub fn put(out: &mut Vec<u8>, body: &[u8]) {
    let at = out.len();
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    let crc = crc32fast::hash(&out[at..]);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(body);
}

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Scan {
    /// Where the bodies stand, in order.
    pub bodies: Vec<Range<usize>>,
    /// Where the last whole entry ends; what follows was never acknowledged.
    pub end: usize,
}

/// Why a file is not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is of another form.
    Foreign,
    /// What stands at a byte is not what was written.
    Damaged {
        at: usize,
        what: &'static str,
        /// Entries before it.
        sound: usize,
    },
}

/// Reads a whole file.
pub fn scan(bytes: &[u8]) -> Result<Scan, Fault> {
    if bytes.get(..HEADER) != Some(&header()[..]) {
        return Err(Fault::Foreign);
    }
    let written = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    let mut bodies = Vec::new();
    let mut at = HEADER;
    while at < written {
        match entry(&bytes[at..written]) {
            Entry::Whole(len) => {
                bodies.push(at + ENTRY_HEADER..at + len);
                at += len;
            }
            Entry::Cut => break,
            Entry::Damaged(what) => {
                return Err(Fault::Damaged {
                    at,
                    what,
                    sound: bodies.len(),
                });
            }
        }
    }
    Ok(Scan { bodies, end: at })
}

enum Entry {
    /// Of so many bytes.
    Whole(usize),
    Cut,
    Damaged(&'static str),
}

/// The entry at the front of what was written.
fn entry(written: &[u8]) -> Entry {
    let Some((head, rest)) = written.split_first_chunk::<ENTRY_HEADER>() else {
        return Entry::Cut;
    };
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if number(8) != crc32fast::hash(&head[..8]) {
        return Entry::Damaged("the checksum of an entry's length is wrong");
    }
    match rest.get(..number(0) as usize) {
        None => Entry::Cut,
        Some(body) if crc32fast::hash(body) == number(4) => Entry::Whole(ENTRY_HEADER + body.len()),
        Some(_) => Entry::Damaged("an entry's checksum is wrong"),
    }
}

/// The body at a place, if it is still what was written.
pub fn body(entry_bytes: &[u8]) -> Option<&[u8]> {
    match entry(entry_bytes) {
        Entry::Whole(len) if len == entry_bytes.len() => entry_bytes.get(ENTRY_HEADER..),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BODIES: [&[u8]; 3] = [br#"{"a":1}"#, br#"{"b":"two"}"#, br#"{"c":[3,3,3]}"#];

    fn file() -> (Vec<u8>, Vec<usize>) {
        let mut bytes = header().to_vec();
        let mut ends = vec![bytes.len()];
        for body in BODIES {
            put(&mut bytes, body);
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    fn found(bytes: &[u8]) -> Vec<&[u8]> {
        scan(bytes)
            .unwrap()
            .bodies
            .into_iter()
            .map(|r| &bytes[r])
            .collect()
    }

    #[test]
    fn the_bytes_are_frozen() {
        let mut bytes = header().to_vec();
        put(&mut bytes, b"{}");
        assert_eq!(
            hex::encode(bytes),
            "fffe474c53504c0a01000000ebbf53a00200000043bfa6a3d77f26d77b7d"
        );
    }

    #[test]
    fn what_was_put_is_found() {
        let (bytes, ends) = file();
        assert_eq!(found(&bytes), BODIES);
        assert_eq!(scan(&bytes).unwrap().end, bytes.len());
        for (i, body) in BODIES.iter().enumerate() {
            assert_eq!(super::body(&bytes[ends[i]..ends[i + 1]]), Some(*body));
        }
        assert_eq!(
            scan(&header()),
            Ok(Scan {
                bodies: vec![],
                end: HEADER
            })
        );
    }

    #[test]
    fn a_tail_that_is_torn_at_any_byte_is_cut_off() {
        let (bytes, ends) = file();
        for cut in HEADER..bytes.len() {
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            // Cut short, or with zeros where the rest never reached the disk.
            let mut zeros = bytes[..cut].to_vec();
            zeros.resize(bytes.len() + 4096, 0);
            for torn in [&bytes[..cut], &zeros] {
                let scan = scan(torn).unwrap();
                assert_eq!((scan.bodies.len(), scan.end), (whole, ends[whole]), "{cut}");
            }
        }
    }

    #[test]
    fn a_changed_byte_anywhere_is_damage_and_named() {
        let (bytes, ends) = file();
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                let fault = scan(&changed).unwrap_err();
                if at < HEADER {
                    assert_eq!(fault, Fault::Foreign);
                    continue;
                }
                let entry = ends.iter().filter(|end| **end <= at).count() - 1;
                assert!(
                    matches!(fault, Fault::Damaged { at, sound, .. } if at == ends[entry] && sound == entry),
                    "{at}: {fault:?}"
                );
            }
        }
    }

    #[test]
    fn zeros_between_entries_are_damage() {
        let (bytes, ends) = file();
        let mut hole = bytes.clone();
        hole[ends[1]..ends[2]].fill(0);
        assert!(matches!(scan(&hole), Err(Fault::Damaged { at, sound: 1, .. }) if at == ends[1]));
    }

    #[test]
    fn what_is_no_spool_is_not_taken() {
        for bytes in [&b""[..], b"{}", &header()[..HEADER - 1], &[0; 64]] {
            assert_eq!(scan(bytes), Err(Fault::Foreign));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_fail_hard(tail in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = scan(&tail);
            let _ = body(&tail);
            let _ = scan(&[&header()[..], &tail].concat());
        }
    }
}
