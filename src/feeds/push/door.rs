//! The way to a receiver: shut while its breaker is open. Who waits before it hears at once of what changes.

use gatelog_events::clock;
use tokio::sync::watch;

use crate::feeds::webhook::breaker::{Breaker, Limits, Paused};

pub struct Door {
    breaker: watch::Sender<Breaker>,
    limits: Limits,
    /// How often the receiver was away and came back.
    back: watch::Sender<u64>,
}

impl Door {
    pub fn new(limits: Limits) -> Self {
        Self {
            breaker: watch::Sender::new(Breaker::default()),
            limits,
            back: watch::Sender::new(0),
        }
    }

    /// Waits until a message may be sent.
    pub async fn pass(&self) {
        if self.admit().is_ok() {
            return;
        }
        let mut breaker = self.breaker.subscribe();
        while let Err(Paused(pause)) = self.admit() {
            // Whoever was let through may find that the receiver is back before the pause is over.
            let _ = tokio::time::timeout(pause, breaker.changed()).await;
        }
    }

    fn admit(&self) -> Result<(), Paused> {
        let mut admitted = Ok(());
        self.learn(|breaker| match breaker.admit(clock::now(), &self.limits) {
            Ok(after) => after,
            Err(paused) => {
                admitted = Err(paused);
                breaker
            }
        });
        admitted
    }

    /// What became of a message that passed.
    pub fn learn(&self, after: impl FnOnce(Breaker) -> Breaker) {
        let mut back = false;
        self.breaker.send_if_modified(|breaker| {
            let before = std::mem::replace(breaker, after(*breaker));
            back = breaker.is_closed() && !before.is_closed();
            before != *breaker
        });
        if back {
            self.back.send_modify(|times| *times += 1);
        }
    }

    /// Changes each time the receiver is back that was away.
    pub fn back(&self) -> watch::Receiver<u64> {
        self.back.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    const HOUR: Duration = Duration::from_secs(3600);

    fn shut() -> Arc<Door> {
        let limits = Limits {
            failures: 1,
            pause: HOUR,
            longest: HOUR,
            trial: HOUR,
            ..Limits::ENDPOINT
        };
        let door = Arc::new(Door::new(limits));
        door.learn(|breaker| breaker.failed(clock::now(), &limits));
        door
    }

    /// Who waits before a door; they are there already.
    async fn waits(door: &Arc<Door>) -> tokio::task::JoinHandle<()> {
        let waiting = tokio::spawn({
            let door = door.clone();
            async move { door.pass().await }
        });
        while door.breaker.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(!waiting.is_finished());
        waiting
    }

    #[tokio::test]
    async fn who_waits_need_not_wait_to_the_end_when_the_receiver_is_back() {
        let door = shut();
        let mut back = door.back();
        let waiting = waits(&door).await;
        door.learn(Breaker::succeeded);
        waiting.await.unwrap();
        assert!(back.has_changed().unwrap());
        back.mark_unchanged();
        door.learn(Breaker::succeeded);
        assert!(!back.has_changed().unwrap(), "it was not away");
    }

    #[tokio::test]
    async fn who_sends_nothing_in_the_end_lets_the_next_one_through() {
        let door = shut();
        door.learn(Breaker::succeeded);
        door.learn(|breaker| breaker.told_to_wait(clock::now(), Duration::ZERO));
        door.pass().await;
        let waiting = waits(&door).await;
        door.learn(Breaker::released);
        waiting.await.unwrap();
    }
}
