//! What costs much to find out and anybody may ask for: measured once for all who ask.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gatelog_events::clock;
use tokio::sync::Mutex;

/// For how long what was measured serves those who ask next.
const KEPT: Duration = Duration::from_secs(1);

/// One measurement at a time, however many ask, and none again within a second. What it finds it puts where they look.
pub struct Measured {
    /// When it was measured last.
    last: Arc<Mutex<Option<Instant>>>,
    kept: Duration,
}

impl Default for Measured {
    fn default() -> Self {
        Self {
            last: Arc::default(),
            kept: KEPT,
        }
    }
}

impl Measured {
    /// Returns once it was measured a moment ago: before, by another who asks now, or by `measure`.
    pub async fn again(&self, measure: impl Future<Output = ()> + Send + 'static) {
        let mut last = self.last.clone().lock_owned().await;
        if last.is_some_and(|at| at.elapsed() < self.kept) {
            return;
        }
        // A task of its own, which others wait for also when whoever began it has gone: else each who comes and goes
        // would begin another one, and a thread that reads the disk cannot be called back. One that panics is made anew.
        let measuring = tokio::spawn(async move {
            measure.await;
            *last = Some(clock::monotonic());
        });
        let _ = measuring.await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use futures::future::join_all;
    use tokio::sync::oneshot;

    use super::*;

    /// Counts how often it is measured.
    #[derive(Clone, Default)]
    struct Count(Arc<AtomicU32>);

    impl Count {
        async fn measure(self) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.0.fetch_add(1, Relaxed);
        }

        fn times(&self) -> u32 {
            self.0.load(Relaxed)
        }
    }

    fn kept(kept: Duration) -> Measured {
        Measured {
            kept,
            ..Measured::default()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn all_who_ask_at_the_same_time_share_one_measurement() {
        let (measured, count) = (kept(Duration::from_secs(600)), Count::default());
        let asked = (0..1000).map(|_| async {
            measured.again(count.clone().measure()).await;
            count.times()
        });
        assert_eq!(join_all(asked).await, [1; 1000]);
        measured.again(count.clone().measure()).await;
        assert_eq!(count.times(), 1);
    }

    #[tokio::test]
    async fn after_its_time_it_is_measured_anew() {
        let (measured, count) = (kept(Duration::from_millis(50)), Count::default());
        measured.again(count.clone().measure()).await;
        assert_eq!(count.times(), 1);
        tokio::time::sleep(Duration::from_millis(60)).await;
        measured.again(count.clone().measure()).await;
        assert_eq!(count.times(), 2);
    }

    #[tokio::test]
    async fn whoever_goes_away_leaves_the_measurement_to_the_others() {
        let (measured, count) = (kept(Duration::from_secs(600)), Count::default());
        let (tell, told) = oneshot::channel::<()>();
        let counted = count.clone();
        let first = measured.again(async move {
            told.await.unwrap();
            counted.measure().await;
        });
        let gone = tokio::time::timeout(Duration::from_millis(20), first).await;
        assert!(gone.is_err());
        tell.send(()).unwrap();
        measured.again(async { panic!("it is measured already") }).await;
        assert_eq!(count.times(), 1);
    }

    #[tokio::test]
    async fn after_a_measurement_that_breaks_another_is_made() {
        let (measured, count) = (kept(Duration::from_secs(600)), Count::default());
        measured.again(async { panic!("this one breaks") }).await;
        measured.again(count.clone().measure()).await;
        assert_eq!(count.times(), 1);
    }
}
