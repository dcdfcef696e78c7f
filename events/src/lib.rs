//! What can happen in Gatelog and what happened: event types, deciding, sealing, and the log itself.
//!
//! Everything here but [`log`] is pure: no I/O, no clock but [`clock`], no randomness but what callers hand in.

pub mod clock;
pub mod failpoint;
pub mod ids;
pub mod log;
