//! The list of common passwords: a sorted file in the binary, searched as it is.

const LIST: &str = include_str!("passwords.txt");

/// Whether a word, in lower case, is on the list.
pub fn contains(word: &str) -> bool {
    let list = LIST.as_bytes();
    let (mut low, mut high) = (0, list.len());
    // Invariant: if the word is there, its line starts in low..high; both lie at the starts of lines.
    while low < high {
        let middle = line_start(list, low + (high - low) / 2);
        let end = line_end(list, middle);
        match list[middle..end].cmp(word.as_bytes()) {
            std::cmp::Ordering::Equal => return true,
            std::cmp::Ordering::Less => low = end + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    false
}

fn line_start(list: &[u8], at: usize) -> usize {
    list[..at].iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1)
}

fn line_end(list: &[u8], at: usize) -> usize {
    list[at..]
        .iter()
        .position(|b| *b == b'\n')
        .map_or(list.len(), |n| at + n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_found_and_nothing_beside_it() {
        let lines: Vec<&str> = LIST.lines().collect();
        assert!(lines.len() >= 30_000);
        assert!(lines.is_sorted());
        assert!(LIST.ends_with('\n'));
        for line in &lines {
            assert!(contains(line), "{line}");
            assert_eq!(*line, line.to_lowercase());
        }
        for absent in [
            "",
            "\n",
            "passwordqqq",
            "passwordd\n",
            "~~~~~~~~~",
            "\u{10ffff}",
            "!!!!!!!!!!!!!!!!!!x",
        ] {
            assert!(!contains(absent), "{absent:?}");
        }
    }
}
