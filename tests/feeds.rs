//! Feeds over HTTP: who may be seen, what of them, in which order, and what is on record of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

mod feeds {
    mod beginnings;
    mod connectors;
    pub mod consumer;
    mod dead_letters;
    mod definitions;
    mod delivery;
    mod page;
    mod preferences;
    mod replay;
    mod retention;
    mod status;
    mod stream;
    mod unsubscribe;
    mod watch;
    mod webhooks;
    mod withdrawals;
}
