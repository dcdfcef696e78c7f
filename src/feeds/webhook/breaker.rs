//! A circuit breaker per endpoint: after several failures in a row nothing is sent for a while, then one message tries
//! whether the endpoint is back.

use std::time::Duration;

use gatelog_events::clock::Timestamp;

use super::schedule::LONGEST_RETRY_AFTER;

/// When the breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Failures in a row that open it.
    pub failures: u32,
    /// How long it is open the first time.
    pub pause: Duration,
    /// Each further time, without a success between, the pause is multiplied by this.
    pub factor: u32,
    /// The longest pause, also when the receiver asks for a longer one.
    pub longest: Duration,
    /// If nothing is heard of the message that was let through for so long, another is. Must be longer than one attempt
    /// can take.
    pub trial: Duration,
}

impl Limits {
    /// Opens after 5 failures for 5, 10, 20 … s, up to 10 minutes: who is back is found soon, and asked once in that time.
    pub const ENDPOINT: Limits = Limits {
        failures: 5,
        pause: Duration::from_secs(5),
        factor: 2,
        longest: Duration::from_secs(10 * 60),
        trial: Duration::from_secs(30),
    };

    fn pause_after(&self, times_opened: u32) -> Duration {
        let doublings = times_opened.saturating_sub(1);
        let pause = self
            .factor
            .checked_pow(doublings)
            .and_then(|n| self.pause.checked_mul(n));
        pause.unwrap_or(self.longest).min(self.longest)
    }
}

/// What the breaker does with messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// Lets all through.
    #[default]
    Closed,
    /// Lets none through. `asked`: because the receiver asked for a pause.
    Open { until: Timestamp, asked: bool },
    /// Has let one through, and waits to hear of it ("half-open").
    Trial { until: Timestamp },
}

/// What is remembered of one endpoint. Begins closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Breaker {
    state: State,
    /// In a row, while closed.
    failures: u32,
    /// Since the last success.
    times_opened: u32,
}

/// Nothing may be sent to the endpoint now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the endpoint failed too often or asked for a pause; try again in {} s", .0.as_secs_f64().ceil())]
pub struct Paused(pub Duration);

impl Breaker {
    /// Whether a message may be sent now, and the state if it is. What becomes of it must be told by
    /// [`Breaker::succeeded`], [`Breaker::failed`] or [`Breaker::told_to_wait`].
    ///
    /// # Errors
    /// [`Paused`], with how long to wait.
    pub fn admit(self, now: Timestamp, limits: &Limits) -> Result<Self, Paused> {
        match self.state {
            State::Closed => Ok(self),
            State::Open { until, .. } | State::Trial { until } if now < until => {
                Err(Paused(until.since(now)))
            }
            State::Open { .. } | State::Trial { .. } => Ok(Self {
                state: State::Trial {
                    until: now.plus(limits.trial),
                },
                ..self
            }),
        }
    }

    /// The state after nothing was sent of what was admitted: the next may go.
    #[must_use]
    pub fn released(self) -> Self {
        match self.state {
            State::Trial { .. } => Self {
                state: State::Open {
                    until: Timestamp::EPOCH,
                    asked: false,
                },
                ..self
            },
            _ => self,
        }
    }

    /// The state after a success: closed, and all failures forgotten. A pause that the receiver asked for is kept: what
    /// succeeded was sent before.
    #[must_use]
    pub fn succeeded(self) -> Self {
        let kept = matches!(self.state, State::Open { asked: true, .. });
        Self {
            state: if kept { self.state } else { State::Closed },
            failures: 0,
            times_opened: 0,
        }
    }

    /// The state after a failure at `now`.
    #[must_use]
    pub fn failed(self, now: Timestamp, limits: &Limits) -> Self {
        match self.state {
            State::Closed if self.failures.saturating_add(1) < limits.failures => Self {
                failures: self.failures + 1,
                ..self
            },
            State::Closed | State::Trial { .. } => {
                let times_opened = self.times_opened.saturating_add(1);
                Self {
                    state: State::Open {
                        until: now.plus(limits.pause_after(times_opened)),
                        asked: false,
                    },
                    failures: 0,
                    times_opened,
                }
            }
            // It was sent before the breaker opened, and tells nothing new.
            State::Open { .. } => self,
        }
    }

    /// The state after the receiver asked at `now` for a pause ([`Wait`](super::schedule::Verdict::Wait)). That is no
    /// failure: the endpoint is there.
    #[must_use]
    pub fn told_to_wait(self, now: Timestamp, wait: Duration) -> Self {
        let asked = now.plus(wait.min(LONGEST_RETRY_AFTER));
        let until = match self.state {
            State::Open { until, .. } => asked.max(until),
            State::Closed | State::Trial { .. } => asked,
        };
        Self {
            state: State::Open { until, asked: true },
            ..self
        }
    }

    /// Whether the endpoint is not known to be away.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether messages are held back at `now`: for what is shown of the endpoint.
    pub fn is_open(&self, now: Timestamp) -> bool {
        matches!(self.state, State::Open { until, .. } | State::Trial { until } if now < until)
    }
}

#[cfg(test)]
mod tests;
