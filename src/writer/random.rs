//! Randomness for the decider, drawn in blocks: one call to the generator serves many events.

use crate::auth::NoRandomness;

const BLOCK: usize = 4096;

/// A supply of random bytes; each byte is handed out once.
pub(crate) struct Random {
    block: Box<[u8; BLOCK]>,
    used: usize,
}

impl Random {
    pub fn new() -> Self {
        Self {
            block: Box::new([0; BLOCK]),
            used: BLOCK,
        }
    }

    pub fn take<const N: usize>(&mut self) -> Result<[u8; N], NoRandomness> {
        if self.used + N > BLOCK {
            aws_lc_rs::rand::fill(&mut self.block[..]).map_err(|_| NoRandomness)?;
            self.used = 0;
        }
        let mut out = [0; N];
        let taken = &mut self.block[self.used..self.used + N];
        out.copy_from_slice(taken);
        taken.fill(0);
        self.used += N;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn nothing_is_handed_out_twice() {
        let mut random = Random::new();
        let drawn: HashSet<[u8; 12]> = (0..2000).map(|_| random.take().unwrap()).collect();
        assert_eq!(drawn.len(), 2000);
    }
}
