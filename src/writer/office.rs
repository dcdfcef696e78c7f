//! The decider's thread, from tenure to tenure: what is ours may change, a take-over may fail and is tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc as channel;
use std::sync::mpsc::RecvTimeoutError;
use std::thread::JoinHandle;
use std::time::Duration;

use gatelog_events::clock;
use gatelog_events::ids::{Partition, Stream};
use gatelog_events::log::{AppendError, LogError};
use gatelog_projections::catch_up::CatchUpError;
use gatelog_projections::projection::Projection;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::applier::Unresolved;
use super::claims::is_claimable;
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
    let (own, mut ours) = watch::channel(owned);
    let owned = ours.borrow_and_update().clone();
    let mut office = Office {
        parts,
        projections,
        options,
        wake: queue.downgrade(),
        owned,
        ours,
        waits: Arc::default(),
    };
    let tenure = office.begin(&Waiting::default())?;
    let thread = spawn("decider", move || office.hold(tenure, messages))?;
    Ok(Running {
        writer: Writer { queue, owned: own },
        thread: Some(thread),
    })
}

/// What stays from tenure to tenure.
#[derive(Clone)]
struct Office {
    parts: Arc<Parts>,
    projections: Vec<Arc<dyn Projection>>,
    options: Options,
    wake: mpsc::WeakSender<Message>,
    /// What this tenure writes.
    owned: Owned,
    /// What shall be ours.
    ours: watch::Receiver<Owned>,
    /// How often it was waited until what was left out can be claimed.
    waits: Arc<AtomicU64>,
}

/// Between two attempts to take over; doubles up to the longest. Two nodes that both believe to own a partition must not
/// void each other's claims without end.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// After a failure that is this machine's own, and each attempt leaves claims in the log that is kept for ever.
const OWN_FAULT: Duration = Duration::from_secs(30);

/// How soon what took no claim is tried again, once it is said to be writable; doubles up to the longest, as others wait
/// meanwhile.
const UNCLAIMED: Duration = Duration::from_secs(1);
const LONGEST_UNCLAIMED: Duration = Duration::from_secs(30);

/// How long the group's word may be behind the log.
const WORD: Duration = Duration::from_secs(1);

/// How long commands wait for a take-over before they are refused.
const HOLD: Duration = Duration::from_secs(2);
/// How often an attempt that takes longer is looked at.
const LOOK: Duration = Duration::from_millis(20);

type Place = (Stream, Partition);

/// Commits whose callers wait for what the log says of them.
type Waiting = Arc<Mutex<Vec<Unresolved>>>;

impl Office {
    fn hold(&mut self, mut tenure: Tenure, mut messages: mpsc::Receiver<Message>) {
        let mut pause = UNCLAIMED;
        loop {
            metrics::gauge!("gatelog_unclaimed_partitions").set(tenure.left_out.len() as f64);
            if !takes_any(&self.parts, &tenure.left_out) {
                pause = UNCLAIMED;
            }
            if !tenure.left_out.is_empty() {
                self.wait_until_claimable(tenure.left_out.clone(), pause);
                pause = LONGEST_UNCLAIMED.min(pause * 2);
            }
            let end = tenure.serve(&mut self.ours, &mut messages);
            let handover = tenure.end();
            let stopping = matches!(end, End::Shutdown);
            if let End::Reassigned = end {
                metrics::counter!("gatelog_rebalances_total").increment(1);
            }
            if stopping && handover.failure.is_none() {
                return self.leave();
            }
            if matches!(end, End::SteppedDown) {
                self.wait_for_word();
            }
            let waiting = Arc::new(Mutex::new(handover.unresolved));
            match self.take_over(&waiting, stopping, &mut messages) {
                Some(next) if !stopping => tenure = next,
                Some(last) => {
                    last.end();
                    return self.leave();
                }
                None => {
                    refuse_waiting(&waiting);
                    return self.leave();
                }
            }
        }
    }

    /// Who fails because another has claimed a partition hears soon that it is not theirs any more. A claim of ours would
    /// only void the new owner's.
    fn wait_for_word(&self) {
        let until = clock::monotonic() + WORD;
        while clock::monotonic() < until && !self.ours.has_changed().unwrap_or(true) {
            std::thread::sleep(LOOK);
        }
    }

    /// Has a take-over begun anew when what was left out may take a claim, for as long as anybody is there to do it.
    fn wait_until_claimable(&self, places: Vec<Place>, pause: Duration) {
        tracing::error!(
            ?places,
            "these partitions take no claim; what they own is refused until they do"
        );
        let (wake, parts) = (self.wake.clone(), Arc::downgrade(&self.parts));
        let not_before = clock::monotonic() + pause;
        let (waits, mine) = (self.waits.clone(), self.waits.fetch_add(1, Relaxed) + 1);
        let spawned = spawn("claims", move || {
            // Until another take-over left something out, too.
            while waits.load(Relaxed) == mine {
                std::thread::sleep(UNCLAIMED / 10);
                let (Some(queue), Some(parts)) = (wake.upgrade(), parts.upgrade()) else {
                    return;
                };
                if clock::monotonic() >= not_before && takes_any(&parts, &places) {
                    let _ = queue.blocking_send(Message::Claimable);
                    return;
                }
            }
        });
        if let Err(e) = spawned {
            tracing::error!(error = %e, "they are not claimed before the next take-over");
        }
    }

    fn begin(&self, waiting: &Waiting) -> Result<Tenure, TakeoverError> {
        metrics::gauge!("gatelog_owned_partitions").set(self.owned.len() as f64);
        let tenure = Tenure::begin(
            &self.parts,
            &self.projections,
            &self.options,
            &self.owned,
            self.wake.clone(),
            waiting,
        );
        if !self.owned.is_empty() {
            let taken = tenure.as_ref().map(|_| ()).map_err(Clone::clone);
            self.parts.taken.send_replace(Some(taken));
        }
        tenure
    }

    /// Begins the next tenure, however often that must be tried. Whoever waits for it is refused when it takes long.
    /// None: it was told to stop.
    fn take_over(
        &mut self,
        waiting: &Waiting,
        stopping: bool,
        messages: &mut mpsc::Receiver<Message>,
    ) -> Option<Tenure> {
        let patience = clock::monotonic() + HOLD;
        let mut pause = PAUSE;
        loop {
            self.owned = self.ours.borrow_and_update().clone();
            let attempt = self.attempt(waiting);
            let result = loop {
                let attempt = match &attempt {
                    Ok(attempt) => attempt,
                    Err(e) => break Err(e.clone()),
                };
                match attempt.recv_timeout(LOOK) {
                    Ok(result) => break result,
                    Err(RecvTimeoutError::Disconnected) => {
                        break Err(TakeoverError::Thread("it ended early".to_owned()));
                    }
                    Err(RecvTimeoutError::Timeout) if clock::monotonic() < patience => {}
                    Err(RecvTimeoutError::Timeout) => {
                        refuse_waiting(waiting);
                        if stopping || !self.refuse("the log cannot be reached", messages) {
                            return None;
                        }
                    }
                }
            };
            match result {
                Ok(tenure) if !self.ours.has_changed().unwrap_or(false) => return Some(tenure),
                // What is ours has changed meanwhile.
                Ok(tenure) => drop(tenure.end()),
                Err(e) => {
                    tracing::error!(error = %e, "the writer could not take over; writes are refused, and it tries again");
                    refuse_waiting(waiting);
                    let until = clock::monotonic() + pause;
                    while clock::monotonic() < until && !self.ours.has_changed().unwrap_or(false) {
                        if stopping || !self.refuse(&e.to_string(), messages) {
                            return None;
                        }
                        std::thread::sleep(LOOK);
                    }
                    let longest = if is_own_fault(&e) {
                        OWN_FAULT
                    } else {
                        LONGEST_PAUSE
                    };
                    pause = longest.min(pause * 2);
                }
            }
        }
    }

    /// Begins a tenure in a thread of its own: while the log is away, that may take as long as the log is.
    fn attempt(
        &self,
        waiting: &Waiting,
    ) -> Result<channel::Receiver<Result<Tenure, TakeoverError>>, TakeoverError> {
        let (done, attempt) = channel::channel();
        let (office, waiting) = (self.clone(), waiting.clone());
        spawn("takeover", move || {
            // Nobody listens any more if the node is stopping.
            let _ = done.send(office.begin(&waiting));
        })?;
        Ok(attempt)
    }

    /// Refuses what has come. `false`: it was told to stop.
    fn refuse(&mut self, reason: &str, messages: &mut mpsc::Receiver<Message>) -> bool {
        loop {
            match messages.try_recv() {
                Ok(Message::Command(submission)) => {
                    let _ = submission.reply.send(Err(WriteError::Unavailable {
                        reason: reason.to_owned(),
                    }));
                }
                Ok(Message::Swap(swap)) => swap.fail(reason.to_owned()),
                Ok(Message::Wake | Message::Claimable) => {}
                Ok(Message::Shutdown) | Err(mpsc::error::TryRecvError::Disconnected) => return false,
                Err(mpsc::error::TryRecvError::Empty) => return true,
            }
        }
    }

    fn leave(&self) {
        if let Err(e) = self.parts.store.flush() {
            tracing::error!(error = %e, "the read models could not be flushed; the next start folds more");
        }
    }
}

/// Whether it is this node's disk, keys or rights that failed, or what the log holds, and not another node, nor a log that is
/// away: another attempt would leave no more than another claim.
fn is_own_fault(e: &TakeoverError) -> bool {
    let lasts = |e: &LogError| {
        matches!(
            e,
            LogError::Refused { .. } | LogError::Damaged { .. } | LogError::Mismatch { .. }
        )
    };
    match e {
        TakeoverError::Store(_) | TakeoverError::Keys(_) | TakeoverError::Claim(AppendError::Refused(_)) => {
            true
        }
        TakeoverError::CatchUp(CatchUpError::Store(_) | CatchUpError::Key { .. }) => true,
        TakeoverError::CatchUp(CatchUpError::Log(e)) => lasts(e),
        _ => false,
    }
}

/// Whether one of these may be claimed at present.
fn takes_any(parts: &Parts, places: &[Place]) -> bool {
    places
        .iter()
        .any(|(stream, partition)| is_claimable(parts.log.as_ref(), *stream, *partition))
}

/// Only the log can tell what became of these, and it does not in time.
fn refuse_waiting(waiting: &Waiting) {
    for Unresolved { reply, .. } in waiting.lock().drain(..) {
        let _ = reply.send(Err(WriteError::Unavailable {
            reason: "what became of the commit is not known yet".to_owned(),
        }));
    }
}
