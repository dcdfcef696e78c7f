//! The decider's thread, from tenure to tenure: what is ours may change, a take-over may fail and is tried again.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use gatelog_events::clock;
use gatelog_projections::projection::Projection;
use tokio::sync::mpsc;

use super::applier::Unresolved;
use super::takeover::{End, Message, Options, Owned, Parts, TakeoverError, Tenure, spawn};
use super::{WriteError, Writer};

/// A writer at work.
pub struct Running {
    pub writer: Writer,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Finishes what was handed in and ends. Blocks.
    pub fn stop(mut self) {
        let _ = self.writer.queue.blocking_send(Message::Shutdown);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes over the partitions that are ours and starts to write. Returns once it can decide. Blocks.
pub fn start(
    parts: Arc<Parts>,
    projections: Vec<Arc<dyn Projection>>,
    options: Options,
    owned: Owned,
) -> Result<Running, TakeoverError> {
    let (queue, messages) = mpsc::channel(options.queue);
    let mut office = Office {
        parts,
        projections,
        options,
        wake: queue.downgrade(),
        owned,
    };
    let tenure = office.begin(Vec::new())?;
    let thread = spawn("decider", move || office.hold(tenure, messages))?;
    Ok(Running {
        writer: Writer { queue },
        thread: Some(thread),
    })
}

/// What stays from tenure to tenure.
struct Office {
    parts: Arc<Parts>,
    projections: Vec<Arc<dyn Projection>>,
    options: Options,
    wake: mpsc::WeakSender<Message>,
    owned: Owned,
}

/// Between two attempts to take over. Two nodes that both believe to own a partition must not void each other's claims
/// without end.
const PAUSE: Duration = Duration::from_millis(300);

impl Office {
    fn hold(&mut self, mut tenure: Tenure, mut messages: mpsc::Receiver<Message>) {
        loop {
            let end = tenure.serve(&self.owned, &mut messages);
            let handover = tenure.end();
            let shutdown = matches!(end, End::Shutdown);
            if let End::Reassigned(owned) = end {
                self.owned = owned;
                metrics::counter!("gatelog_rebalances_total").increment(1);
            }
            if shutdown && handover.failure.is_none() {
                return self.leave();
            }
            let begun = self.begin(handover.unresolved);
            if shutdown {
                if let Ok(last) = begun {
                    last.end();
                }
                return self.leave();
            }
            match self.begin_at_last(begun, &mut messages) {
                Some(next) => tenure = next,
                None => return self.leave(),
            }
        }
    }

    fn begin(&mut self, unresolved: Vec<Unresolved>) -> Result<Tenure, TakeoverError> {
        metrics::gauge!("gatelog_owned_partitions").set(self.owned.len() as f64);
        Tenure::begin(
            &self.parts,
            &self.projections,
            &self.options,
            &self.owned,
            self.wake.clone(),
            unresolved,
        )
    }

    /// Tries again until it succeeds, and refuses meanwhile. None: it was told to stop.
    fn begin_at_last(
        &mut self,
        mut begun: Result<Tenure, TakeoverError>,
        messages: &mut mpsc::Receiver<Message>,
    ) -> Option<Tenure> {
        loop {
            match begun {
                Ok(tenure) => return Some(tenure),
                Err(e) => {
                    tracing::error!(error = %e, "the writer could not take over; writes are refused, and it tries again");
                    if !self.refuse_for(PAUSE, &e.to_string(), messages) {
                        return None;
                    }
                    begun = self.begin(Vec::new());
                }
            }
        }
    }

    /// Refuses what comes for a while. `false`: it was told to stop.
    fn refuse_for(&mut self, time: Duration, reason: &str, messages: &mut mpsc::Receiver<Message>) -> bool {
        let until = clock::monotonic() + time;
        while clock::monotonic() < until {
            match messages.try_recv() {
                Ok(Message::Command(submission)) => {
                    let _ = submission.reply.send(Err(WriteError::Unavailable {
                        reason: reason.to_owned(),
                    }));
                }
                Ok(Message::Swap(swap)) => swap.fail(reason.to_owned()),
                Ok(Message::Own(owned)) => self.owned = owned,
                Ok(Message::Wake) => {}
                Ok(Message::Shutdown) | Err(mpsc::error::TryRecvError::Disconnected) => return false,
                Err(mpsc::error::TryRecvError::Empty) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        true
    }

    fn leave(&self) {
        if let Err(e) = self.parts.store.flush() {
            tracing::error!(error = %e, "the read models could not be flushed; the next start folds more");
        }
    }
}
