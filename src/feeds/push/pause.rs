//! Pauses of lanes.

use std::time::{Duration, Instant};

/// How long what is on its way may take to land when a lane ends.
pub const LAND: Duration = Duration::from_millis(500);

/// Until a time, if there is one; else for ever.
pub async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// For jitter. Without randomness there is none.
pub fn random() -> u64 {
    crate::auth::random::<8>().map_or(u64::MAX, u64::from_le_bytes)
}
