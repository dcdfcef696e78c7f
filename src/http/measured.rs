//! What costs much to find out and anybody may ask for: measured once for all who ask.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gatelog_events::clock;
use tokio::sync::Mutex;

/// How long what was measured is given out again: as often as a load balancer asks whether a node is ready.
const KEPT: Duration = Duration::from_secs(1);

/// One measurement at a time, however many ask; what it found, an error too, is kept for a second.
pub struct Measured<T> {
    /// What was found last, and when.
    last: Arc<Mutex<Option<(Instant, T)>>>,
    kept: Duration,
}

impl<T> Default for Measured<T> {
    fn default() -> Self {
        Self {
            last: Arc::default(),
            kept: KEPT,
        }
    }
}

impl<T: Clone + Send + 'static> Measured<T> {
    /// What was found a moment ago, what others are finding out now, or else what `measure` finds. `None`: it panicked.
    pub async fn get(&self, measure: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let mut last = self.last.clone().lock_owned().await;
        if let Some((at, found)) = &*last
            && at.elapsed() < self.kept
        {
            return Some(found.clone());
        }
        // A task of its own, which others wait for also when whoever began it has gone: else each who comes and goes
        // would begin another one, and a thread that asks a broker cannot be called back.
        let measuring = tokio::spawn(async move {
            let found = measure.await;
            *last = Some((clock::monotonic(), found.clone()));
            found
        });
        measuring.await.ok()
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
        async fn measure(self) -> u32 {
            let count = self.0.fetch_add(1, Relaxed) + 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
            count
        }
    }

    fn kept(kept: Duration) -> Measured<u32> {
        Measured {
            kept,
            ..Measured::default()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn all_who_ask_at_the_same_time_share_one_measurement() {
        let (measured, count) = (kept(Duration::from_secs(600)), Count::default());
        let asked = (0..1000).map(|_| measured.get(count.clone().measure()));
        assert_eq!(join_all(asked).await, [Some(1); 1000]);
        assert_eq!(measured.get(count.clone().measure()).await, Some(1));
    }

    #[tokio::test]
    async fn after_its_time_it_is_measured_anew() {
        let (measured, count) = (kept(Duration::from_millis(50)), Count::default());
        assert_eq!(measured.get(count.clone().measure()).await, Some(1));
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(measured.get(count.clone().measure()).await, Some(2));
    }

    #[tokio::test]
    async fn whoever_goes_away_leaves_the_measurement_to_the_others() {
        let measured = kept(Duration::from_secs(600));
        let (tell, told) = oneshot::channel();
        let first = measured.get(async move { told.await.unwrap() });
        let gone = tokio::time::timeout(Duration::from_millis(20), first).await;
        assert!(gone.is_err());
        tell.send(7).unwrap();
        assert_eq!(measured.get(async { 8 }).await, Some(7));
    }

    async fn broken() -> u32 {
        panic!("this one breaks")
    }

    #[tokio::test]
    async fn a_measurement_that_breaks_is_none_and_the_next_is_made() {
        let measured = kept(Duration::from_secs(600));
        assert_eq!(measured.get(broken()).await, None);
        assert_eq!(measured.get(async { 1 }).await, Some(1));
    }
}
