//! The file of an import, in batches of lines, with memory that does not grow with it.

use std::io::{self, BufRead};

/// Longest line in bytes.
pub const MAX_LINE: usize = 256 << 10;

/// Lines in a batch.
const LINES: usize = 512;

/// Some lines of the file.
pub struct Batch {
    /// Number of the first line, from 1.
    pub first_line: u64,
    /// Each line, or none where it is too long.
    pub lines: Vec<Option<Vec<u8>>>,
    /// Offset in bytes of what follows.
    pub end: u64,
}

/// Reads batches.
pub struct Source<R> {
    input: R,
    line: u64,
    offset: u64,
}

impl<R: BufRead> Source<R> {
    /// From an input that stands at `offset`, where line `line` begins.
    pub fn new(input: R, line: u64, offset: u64) -> Self {
        Self { input, line, offset }
    }

    /// The next lines; none at the end.
    pub fn next(&mut self) -> io::Result<Option<Batch>> {
        let first_line = self.line;
        let mut lines = Vec::with_capacity(LINES);
        while lines.len() < LINES {
            match self.line()? {
                Some(line) => lines.push(line),
                None => break,
            }
        }
        Ok((!lines.is_empty()).then_some(Batch {
            first_line,
            lines,
            end: self.offset,
        }))
    }

    /// One line without its end; what is too long is passed over in pieces.
    fn line(&mut self) -> io::Result<Option<Option<Vec<u8>>>> {
        let mut line = Vec::new();
        let (mut read, mut too_long) = (0u64, false);
        loop {
            let available = self.input.fill_buf()?;
            if available.is_empty() {
                break;
            }
            let end = available.iter().position(|b| *b == b'\n');
            let piece = &available[..end.unwrap_or(available.len())];
            too_long |= line.len() + piece.len() > MAX_LINE;
            if !too_long {
                line.extend_from_slice(piece);
            }
            let used = piece.len() + usize::from(end.is_some());
            self.input.consume(used);
            read += used as u64;
            if end.is_some() {
                break;
            }
        }
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        self.offset += read;
        Ok(Some((!too_long).then_some(line)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_and_without_an_end_and_one_that_is_too_long() {
        let long = "x".repeat(MAX_LINE + 1);
        let text = format!("a\n\n{long}\nb");
        // A small buffer, so that lines come in pieces.
        let input = io::BufReader::with_capacity(7, text.as_bytes());
        let mut source = Source::new(input, 10, 100);
        let batch = source.next().unwrap().unwrap();
        assert_eq!(batch.first_line, 10);
        assert_eq!(batch.end, 100 + text.len() as u64);
        let expected = [Some(b"a".to_vec()), Some(vec![]), None, Some(b"b".to_vec())];
        assert_eq!(batch.lines, expected);
        assert!(source.next().unwrap().is_none());
    }
}
