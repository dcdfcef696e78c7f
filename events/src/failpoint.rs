//! Named places at which a test may end the process, to show that a crash there loses nothing.
//!
//! A clock that is wrong is one, too: `GATELOG_CLOCK_ERROR_FILE` names a file with the milliseconds that it is ahead. So is
//! a node that falls behind: while there is a file that `GATELOG_BEHIND_FILE` names, it folds nothing of what others write.
//!
//! Built only with the feature `failpoints`. `GATELOG_FAILPOINT=name:n` aborts the process, as SIGKILL would, the n-th
//! time (from 1) that the place is passed; `name:n:panic` has it panic there, as a fault of the program would.

/// Ends the process here if `GATELOG_FAILPOINT` says so. Does nothing without the feature `failpoints`.
#[inline]
pub fn hit(name: &'static str) {
    #[cfg(feature = "failpoints")]
    armed::hit(name);
    #[cfg(not(feature = "failpoints"))]
    let _ = name;
}

/// By how many milliseconds a test has this process's clock go ahead. 0 without the feature `failpoints`.
#[inline]
pub fn clock_error() -> i64 {
    #[cfg(feature = "failpoints")]
    return armed::clock_error();
    #[cfg(not(feature = "failpoints"))]
    0
}

/// Whether a test has this process stay behind what other nodes write. `false` without the feature `failpoints`.
#[inline]
pub fn stays_behind() -> bool {
    #[cfg(feature = "failpoints")]
    return armed::stays_behind();
    #[cfg(not(feature = "failpoints"))]
    false
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::path::PathBuf;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Armed {
        name: String,
        nth: u64,
        panics: bool,
    }

    static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
        let spec = std::env::var("GATELOG_FAILPOINT").ok()?;
        let mut parts = spec.split(':');
        Some(Armed {
            name: parts.next()?.to_owned(),
            nth: parts.next().and_then(|n| n.parse().ok()).unwrap_or(1),
            panics: parts.next() == Some("panic"),
        })
    });
    static CLOCK: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| Some(std::env::var_os("GATELOG_CLOCK_ERROR_FILE")?.into()));

    /// Read each time, so that a clock may go wrong while the process runs.
    pub fn clock_error() -> i64 {
        let text = CLOCK.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    static BEHIND: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| Some(std::env::var_os("GATELOG_BEHIND_FILE")?.into()));

    pub fn stays_behind() -> bool {
        BEHIND.as_ref().is_some_and(|file| file.exists())
    }

    static HITS: AtomicU64 = AtomicU64::new(0);

    #[allow(clippy::panic)]
    pub fn hit(name: &str) {
        if let Some(armed) = &*ARMED
            && armed.name == name
            && HITS.fetch_add(1, Ordering::Relaxed) + 1 == armed.nth
        {
            if armed.panics {
                panic!("a test wants it to break here");
            }
            std::process::abort();
        }
    }
}
