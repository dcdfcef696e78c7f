//! Limits on guessing: after some free failures, each further attempt must wait twice as long as the one before.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use gatelog_events::clock::Timestamp;
use parking_lot::Mutex;

/// How fast attempts are slowed down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Failures that cost nothing.
    pub free: u32,
    /// Wait after the first failure beyond those.
    pub base: Duration,
    /// Each further failure multiplies the wait by this.
    pub factor: u32,
    /// The longest wait.
    pub cap: Duration,
    /// One failure is forgotten each time that this has passed.
    pub decay: Duration,
}

impl Limits {
    /// For an account: 5 free, then 1 s, 2 s, 4 s … up to 15 minutes.
    pub const ACCOUNT: Limits = Limits {
        free: 5,
        base: Duration::from_secs(1),
        factor: 2,
        cap: Duration::from_secs(15 * 60),
        decay: Duration::from_secs(15 * 60),
    };

    /// For a network, behind which a whole company may sit: 100 free, one forgotten every 10 seconds.
    pub const NETWORK: Limits = Limits {
        free: 100,
        decay: Duration::from_secs(10),
        ..Limits::ACCOUNT
    };

    fn wait_after(&self, failures: u32) -> Duration {
        let Some(beyond) = failures.checked_sub(self.free) else {
            return Duration::ZERO;
        };
        let wait = self
            .factor
            .checked_pow(beyond)
            .and_then(|n| self.base.checked_mul(n));
        wait.unwrap_or(self.cap).min(self.cap)
    }
}

/// What is remembered of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Strikes {
    failures: u32,
    /// Up to when failures have been forgotten.
    since: Timestamp,
    blocked_until: Timestamp,
}

/// Attempts are refused for this long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many attempts; try again in {} s", .0.as_secs_f64().ceil())]
pub struct RetryAfter(pub Duration);

impl Strikes {
    /// Whether an attempt may be made now.
    pub fn check(&self, now: Timestamp) -> Result<(), RetryAfter> {
        match self.blocked_until.since(now) {
            Duration::ZERO => Ok(()),
            wait => Err(RetryAfter(wait)),
        }
    }

    /// The state after one more failure at `now`.
    #[must_use]
    pub fn failed(self, now: Timestamp, limits: &Limits) -> Self {
        let decayed = self.decayed(now, limits);
        let failures = decayed.failures.saturating_add(1);
        let blocked_until = match limits.wait_after(failures) {
            // Not even up to `now`: another attempt may have read the clock just before.
            Duration::ZERO => decayed.blocked_until,
            wait => decayed.blocked_until.max(now.plus(wait)),
        };
        Self {
            failures,
            blocked_until,
            ..decayed
        }
    }

    /// The state after a failure that was counted in advance turned out not to be one.
    #[must_use]
    pub fn forgiven(self, now: Timestamp, limits: &Limits) -> Self {
        let decayed = self.decayed(now, limits);
        Self {
            failures: decayed.failures.saturating_sub(1),
            ..decayed
        }
    }

    fn decayed(self, now: Timestamp, limits: &Limits) -> Self {
        let steps = now.since(self.since).as_millis() / limits.decay.as_millis().max(1);
        match u32::try_from(steps) {
            Ok(forgotten) if forgotten < self.failures => Self {
                failures: self.failures - forgotten,
                since: self.since.plus(limits.decay.saturating_mul(forgotten)),
                ..self
            },
            _ => Self {
                failures: 0,
                since: now,
                ..self
            },
        }
    }
}

/// Whose attempts are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// An identifier's digest, whether or not anybody has that identifier.
    Identifier([u8; 16]),
    /// One IPv4 address.
    V4(u32),
    /// An IPv6 network of 64 bits, which one customer has to himself.
    V6(u64),
}

impl Key {
    /// The network of a peer's true address. IPv4 written as IPv6 is IPv4.
    pub fn network(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 64) as u64),
        }
    }
}

/// Remembers strikes per key, in memory of bounded size: beyond it, the key that was quiet longest is forgotten.
///
/// One throttle serves one purpose (log-ins by account, log-ins by network, registrations …) under one set of limits.
pub struct Throttle {
    limits: Limits,
    max_keys: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    strikes: HashMap<Key, (Strikes, Timestamp)>,
    /// The same keys by when they were last touched.
    by_age: BTreeSet<(Timestamp, Key)>,
}

impl Throttle {
    /// A throttle that remembers at most `max_keys` keys (some 150 bytes each).
    pub fn new(limits: Limits, max_keys: usize) -> Self {
        Self {
            limits,
            max_keys: max_keys.max(1),
            state: Mutex::default(),
        }
    }

    /// Whether an attempt may be made now. Counts nothing.
    pub fn check(&self, key: Key, now: Timestamp) -> Result<(), RetryAfter> {
        self.state.lock().get(key).check(now)
    }

    /// Admits an attempt and counts it as a failure in advance, so that any number of attempts at once pass no more than
    /// the free number. Follow it with [`succeeded`](Self::succeeded) or [`forgive`](Self::forgive) where it was none.
    pub fn admit(&self, key: Key, now: Timestamp) -> Result<(), RetryAfter> {
        let mut state = self.state.lock();
        let strikes = state.get(key);
        strikes.check(now)?;
        state.put(key, strikes.failed(now, &self.limits), now, self.max_keys);
        Ok(())
    }

    /// Counts a failure of an attempt that was only [`check`](Self::check)ed.
    pub fn failed(&self, key: Key, now: Timestamp) {
        let mut state = self.state.lock();
        let strikes = state.get(key).failed(now, &self.limits);
        state.put(key, strikes, now, self.max_keys);
    }

    /// Forgets the key's failures: whoever is meant by it has proved it. Not for networks, which an attacker shares.
    pub fn succeeded(&self, key: Key) {
        self.state.lock().remove(key);
    }

    /// Takes back one admitted attempt that neither failed nor proved anything, such as one refused for overload.
    pub fn forgive(&self, key: Key, now: Timestamp) {
        let mut state = self.state.lock();
        let strikes = state.get(key).forgiven(now, &self.limits);
        state.put(key, strikes, now, self.max_keys);
    }

    /// Keys remembered.
    pub fn len(&self) -> usize {
        self.state.lock().strikes.len()
    }

    /// Whether no key is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl State {
    fn get(&self, key: Key) -> Strikes {
        self.strikes.get(&key).map(|(s, _)| *s).unwrap_or_default()
    }

    fn put(&mut self, key: Key, strikes: Strikes, now: Timestamp, max_keys: usize) {
        if let Some((_, touched)) = self.strikes.insert(key, (strikes, now)) {
            self.by_age.remove(&(touched, key));
        }
        self.by_age.insert((now, key));
        while self.strikes.len() > max_keys {
            let Some((_, oldest)) = self.by_age.pop_first() else {
                return;
            };
            self.strikes.remove(&oldest);
        }
    }

    fn remove(&mut self, key: Key) {
        if let Some((_, touched)) = self.strikes.remove(&key) {
            self.by_age.remove(&(touched, key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const T0: Timestamp = Timestamp::from_millis(1_795_000_000_000);
    const KEY: Key = Key::Identifier([7; 16]);

    #[test]
    fn a_free_failure_does_not_block_an_attempt_that_read_the_clock_before() {
        let throttle = Throttle::new(Limits::ACCOUNT, 10);
        throttle.failed(KEY, T0.plus(Duration::from_millis(3)));
        assert_eq!(throttle.check(KEY, T0), Ok(()));
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn waits_by_number_of_failures() {
        let table = [
            (0, 0),
            (4, 0),
            (5, 1),
            (6, 2),
            (7, 4),
            (10, 32),
            (14, 512),
            (15, 900),
            (99, 900),
            (u32::MAX, 900),
        ];
        for (failures, wait) in table {
            assert_eq!(Limits::ACCOUNT.wait_after(failures), secs(wait), "{failures}");
        }
    }

    #[test]
    fn slows_down_and_forgets() {
        let throttle = Throttle::new(Limits::ACCOUNT, 10);
        for _ in 0..5 {
            assert_eq!(throttle.admit(KEY, T0), Ok(()));
        }
        assert_eq!(throttle.admit(KEY, T0), Err(RetryAfter(secs(1))));
        assert_eq!(throttle.check(KEY, T0.plus(secs(1))), Ok(()));
        assert_eq!(throttle.admit(KEY, T0.plus(secs(1))), Ok(()));
        assert_eq!(throttle.admit(KEY, T0.plus(secs(1))), Err(RetryAfter(secs(2))));
        // A quarter of an hour forgets one failure, so one attempt is followed by the same wait again.
        let later = T0.plus(secs(15 * 60));
        assert_eq!(throttle.admit(KEY, later), Ok(()));
        assert_eq!(throttle.admit(KEY, later), Err(RetryAfter(secs(2))));
        // Two hours forget them all.
        let much_later = T0.plus(secs(2 * 3600));
        for _ in 0..5 {
            assert_eq!(throttle.admit(KEY, much_later), Ok(()));
        }
        assert!(throttle.admit(KEY, much_later).is_err());
        throttle.succeeded(KEY);
        assert_eq!(throttle.admit(KEY, much_later), Ok(()));
    }

    #[test]
    fn failures_after_the_answer_count_too() {
        let throttle = Throttle::new(
            Limits {
                free: 2,
                ..Limits::NETWORK
            },
            10,
        );
        throttle.failed(KEY, T0);
        assert_eq!(throttle.check(KEY, T0), Ok(()));
        throttle.failed(KEY, T0);
        assert_eq!(throttle.check(KEY, T0), Err(RetryAfter(secs(1))));
    }

    #[test]
    fn forgiven_attempts_do_not_add_up() {
        let throttle = Throttle::new(Limits::ACCOUNT, 10);
        for _ in 0..100 {
            assert_eq!(throttle.admit(KEY, T0), Ok(()));
            throttle.forgive(KEY, T0);
        }
    }

    /// Threat 26: 200 in parallel pass no more than the free number.
    #[test]
    fn parallel_attempts_are_counted_once_each() {
        let throttle = Throttle::new(Limits::ACCOUNT, 10);
        let attempt = || (0..25).filter(|_| throttle.admit(KEY, T0).is_ok()).count();
        let passed: usize = std::thread::scope(|s| {
            let threads: Vec<_> = (0..8).map(|_| s.spawn(attempt)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(passed, 5);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let throttle = Throttle::new(
            Limits {
                free: 1,
                ..Limits::ACCOUNT
            },
            3,
        );
        for n in 0..4 {
            throttle.failed(Key::V4(n), T0.plus(Duration::from_millis(u64::from(n))));
        }
        assert_eq!(throttle.len(), 3);
        let at = T0.plus(Duration::from_millis(9));
        assert_eq!(throttle.check(Key::V4(0), at), Ok(()));
        assert!(throttle.check(Key::V4(1), at).is_err());
        throttle.failed(Key::V4(1), at);
        throttle.failed(Key::V4(9), at);
        assert!(throttle.check(Key::V4(1), at).is_err());
        assert_eq!(throttle.check(Key::V4(2), at), Ok(()));
    }

    #[test]
    fn networks() {
        let network = |a: &str| Key::network(a.parse().unwrap());
        assert_eq!(network("192.0.2.1"), network("::ffff:192.0.2.1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:ffff::9"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
    }

    proptest! {
        /// However attempts are spread, over a span no more pass than the free ones, those forgotten, and those that the
        /// growing waits leave room for; and a refusal always names a moment at which an attempt is admitted.
        #[test]
        fn attempts_are_bounded(gaps in proptest::collection::vec(0u64..3000, 1..300)) {
            let limits = Limits::ACCOUNT;
            let (mut now, mut strikes, mut passed) = (T0, Strikes::default(), 0u64);
            for gap in gaps {
                now = now.plus(Duration::from_millis(gap));
                match strikes.check(now) {
                    Ok(()) => { passed += 1; strikes = strikes.failed(now, &limits); }
                    Err(RetryAfter(wait)) => {
                        prop_assert!(wait > Duration::ZERO && wait <= limits.cap);
                        prop_assert_eq!(strikes.check(now.plus(wait)), Ok(()));
                        prop_assert!(strikes.check(now.plus(wait).minus(Duration::from_millis(1))).is_err());
                    }
                }
            }
            let span = now.since(T0).as_secs() + 1;
            // n waits take 2^n - 1 seconds.
            let waits = u64::from(64 - span.leading_zeros());
            prop_assert!(passed <= 5 + waits + span / limits.decay.as_secs() * 2 + 1, "{} in {} s", passed, span);
        }

        /// A clock that goes back neither unblocks nor panics.
        #[test]
        fn time_may_jump(steps in proptest::collection::vec(-100_000i64..100_000, 1..50)) {
            let mut strikes = Strikes::default();
            let mut now = T0;
            for step in steps {
                now = Timestamp::from_millis(now.millis() + step);
                let next = strikes.failed(now, &Limits::ACCOUNT);
                prop_assert!(next.blocked_until >= strikes.blocked_until);
                strikes = next;
            }
        }
    }
}
