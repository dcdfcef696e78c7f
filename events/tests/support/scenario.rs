//! Given what happened, when somebody asks for something, then this follows.

use std::fmt::Debug;

use gatelog_events::clock::Timestamp;
use gatelog_events::domain::Event;

use super::{NOON, rendered};

/// Something that decides, as the tests drive it.
pub trait Aggregate: Default {
    type Command;
    type Rejection: Debug + PartialEq;

    fn evolve(&mut self, event: &Event, time: Timestamp, sequence: u64);
    fn decide(&self, command: Self::Command, now: Timestamp) -> Result<Vec<Event>, Self::Rejection>;
}

/// What is so before the command.
pub struct Given<A> {
    state: A,
    now: Timestamp,
}

/// Folds events that happened at noon; the command comes at noon too, unless [`Given::at`] says otherwise.
pub fn given<A: Aggregate>(history: impl IntoIterator<Item = Event>) -> Given<A> {
    let mut state = A::default();
    for (event, sequence) in history.into_iter().zip(1..) {
        state.evolve(&event, NOON, sequence);
    }
    Given { state, now: NOON }
}

impl<A: Aggregate> Given<A> {
    /// Changes what is not told by events.
    pub fn and(mut self, change: impl FnOnce(&mut A)) -> Self {
        change(&mut self.state);
        self
    }

    /// When the command comes.
    pub fn at(self, now: Timestamp) -> Self {
        Self { now, ..self }
    }

    pub fn when(self, command: A::Command) -> Outcome<A::Rejection> {
        Outcome(self.state.decide(command, self.now))
    }
}

/// What a command led to.
#[must_use]
pub struct Outcome<R>(Result<Vec<Event>, R>);

impl<R: Debug + PartialEq> Outcome<R> {
    #[track_caller]
    pub fn then(self, expected: impl IntoIterator<Item = Event>) {
        let events = self.0.unwrap_or_else(|r| panic!("rejected: {r:?}"));
        // Compared as JSON, so that a failure shows personal parts too.
        let expected: Vec<_> = expected.into_iter().map(|e| rendered(&e)).collect();
        assert_eq!(events.iter().map(rendered).collect::<Vec<_>>(), expected);
    }

    #[track_caller]
    pub fn then_nothing(self) {
        self.then([]);
    }

    #[track_caller]
    pub fn then_rejected(self, expected: impl Into<R>) {
        assert_eq!(self.0.map(|e| e.len()), Err(expected.into()));
    }
}
