//! What Gatelog knows: read models in RocksDB, each a pure fold of the event log.

pub mod all;
pub mod answers;
pub mod applied;
pub mod catch_up;
pub mod changes;
pub mod consents;
pub mod erasures;
pub mod folder;
pub mod handovers;
pub mod hot;
pub mod identifiers;
mod key_topic;
pub mod keys;
pub mod logins;
pub mod projection;
pub mod rebuild;
pub mod sessions;
pub mod settings;
pub mod signals;
pub mod statistics;
pub mod store;
pub mod subject_keys;
pub mod timeline;
pub mod users;
pub mod verify;
pub mod view;
pub mod webhooks;
