//! What can happen in Gatelog and what happened: event types, deciding, sealing, and the log itself.
//!
//! Everything here but [`log`] is pure: no I/O, no clock but [`clock`], no randomness but what callers hand in.

pub mod clock;
pub mod codec;
pub mod commit;
pub mod directory;
pub mod domain;
pub mod email;
pub mod failpoint;
pub mod ids;
pub mod log;
pub mod personal;
pub mod seal;
pub mod upcast;
