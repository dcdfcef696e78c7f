//! Named places at which a test may end the process, to show that a crash there loses nothing.
//!
//! Built only with the feature `failpoints`. `GATELOG_FAILPOINT=name:n` aborts the process, as SIGKILL would, the n-th
//! time (from 1) that the place is passed.

/// Ends the process here if `GATELOG_FAILPOINT` says so. Does nothing without the feature `failpoints`.
#[inline]
pub fn hit(name: &'static str) {
    #[cfg(feature = "failpoints")]
    armed::hit(name);
    #[cfg(not(feature = "failpoints"))]
    let _ = name;
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ARMED: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let spec = std::env::var("GATELOG_FAILPOINT").ok()?;
        let (name, n) = spec.split_once(':').unwrap_or((&spec, "1"));
        Some((name.to_owned(), n.parse().unwrap_or(1)))
    });
    static HITS: AtomicU64 = AtomicU64::new(0);

    pub fn hit(name: &str) {
        if let Some((armed, n)) = &*ARMED
            && armed == name
            && HITS.fetch_add(1, Ordering::Relaxed) + 1 == *n
        {
            std::process::abort();
        }
    }
}
