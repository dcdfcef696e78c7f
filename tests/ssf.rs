//! Shared Signals over HTTP: streams, what they tell, and how it reaches receivers by push and by poll.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

mod ssf {
    pub mod parties;
    mod poll;
    mod push;
    mod streams;
}
