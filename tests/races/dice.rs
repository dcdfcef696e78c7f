//! Chance that can be had again: one seed, one order of choices.

/// SplitMix64.
pub struct Dice(u64);

impl Dice {
    /// A stream of its own for each `name`, so that what runs at once does not disturb each other's choices.
    pub fn new(seed: u64, name: &str) -> Self {
        let mixed = name
            .bytes()
            .fold(seed, |seed, byte| Dice(seed ^ u64::from(byte)).next());
        Self(mixed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to `below`, which it never is.
    pub fn below(&mut self, below: usize) -> usize {
        (self.next() % below as u64) as usize
    }

    /// From `least` to `most`, in milliseconds.
    pub fn millis(&mut self, least: usize, most: usize) -> std::time::Duration {
        std::time::Duration::from_millis((least + self.below(most - least + 1)) as u64)
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}
