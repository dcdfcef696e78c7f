//! Attempts on their way to the receiver, and what comes of them.

use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use gatelog_events::clock::{self, Timestamp};
use gatelog_events::domain::feed::Command;
use gatelog_events::ids::{Partition, UserId};
use gatelog_projections::store::StoreError;
use uuid::Uuid;

use super::reading::live;
use super::saying::What;
use super::slots::Slot;
use super::{Lane, SAY};
use crate::feeds::engine::Engine;
use crate::feeds::observed::Outcome as Seen;
use crate::feeds::push::endpoint::{Endpoint, Outcome};
use crate::feeds::push::queue::Job;
use crate::feeds::push::say::is_abreast;
use crate::feeds::record::Record;
use crate::feeds::webhook::schedule::{Verdict, judge};
use crate::node::Node;

/// When it is looked again whether a node has caught up.
const SOON: Duration = Duration::from_millis(250);

/// Why a record stays where it is.
#[derive(Debug, thiserror::Error)]
enum Held {
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The lane ends soon; what it holds is for the one that begins when the webhook goes on.
    #[error("the feed is retired, the webhook paused, or the lane at its end")]
    NotLive,
    /// It does not know what others may have written and told meanwhile.
    #[error("this node stood still, or is cut off from the log")]
    Behind,
}

/// A flight that is over.
pub(super) struct Landed {
    /// The one that it had, and whether it was one for withdrawals.
    slot: Slot,
    urgent: bool,
    parts: Vec<Part>,
}

/// What came of one job of a flight.
struct Part {
    job: Job,
    result: Result<Option<Outcome>, Held>,
    record: Option<Uuid>,
    /// When it left.
    began: Timestamp,
}

impl Lane {
    /// Sends what may fly, as far as there are slots for it.
    pub(super) fn launch(&mut self) {
        self.queue.wake(clock::monotonic());
        while let Some((slot, urgent)) = self.slot() {
            // What fails of the rest must not hold up a withdrawal that flies with it.
            let withdrawals_only = self.queue.is_urgent();
            let next = || match withdrawals_only && !self.queue.is_urgent() {
                true => None,
                false => self.queue.next(),
            };
            let jobs: Vec<_> = std::iter::from_fn(next).take(self.endpoint.batch).collect();
            let flight = self.fly((slot, urgent), jobs);
            self.flights.push(flight);
        }
        if !self.queue.is_ready() {
            self.slots.rest();
        }
        if !self.queue.is_urgent() {
            self.urgent.rest();
        }
    }

    /// A slot for the next job, if there are both; and whether it is one for withdrawals, which may have any.
    fn slot(&mut self) -> Option<(Slot, bool)> {
        if self.queue.is_urgent()
            && let Some(slot) = self.urgent.take()
        {
            return Some((slot, true));
        }
        if self.queue.is_ready() {
            return self.slots.take().map(|slot| (slot, false));
        }
        None
    }

    /// One attempt, at jobs of a subject each. What is said is decided when it is their turn, not before.
    fn fly(&self, (slot, urgent): (Slot, bool), jobs: Vec<Job>) -> BoxFuture<'static, Landed> {
        let (node, endpoint, partition) = (self.node.clone(), self.endpoint.clone(), self.partition);
        let (version, stop) = (self.webhook.version, self.stop.clone());
        async move {
            endpoint.turn().await;
            let began = clock::now();
            let said = if stop.is_cancelled() {
                // They waited for their turn, and the lane ended.
                jobs.iter().map(|_| Err(Held::NotLive)).collect()
            } else {
                records(&node, &endpoint, partition, version, &jobs)
            };
            let told: Vec<_> = jobs
                .iter()
                .zip(&said)
                .filter_map(|(job, s)| Some((job, s.as_ref().ok()?.as_ref()?)))
                .collect();
            let records: Vec<_> = told.iter().map(|(_, record)| *record).collect();
            let holds = |n: usize| match told.get(n) {
                Some((job, _)) => matches!(record(&node, &endpoint, partition, version, job), Ok(Some(_))),
                None => false,
            };
            let mut outcomes = endpoint.deliver(&records, &holds).await.into_iter();
            let parts = jobs.into_iter().zip(said).map(|(job, said)| Part {
                job,
                record: said.as_ref().ok().and_then(|s| Some(s.as_ref()?.id)),
                result: said.map(|record| record.and_then(|_| outcomes.next())),
                began,
            });
            let parts = parts.collect();
            Landed { slot, urgent, parts }
        }
        .boxed()
    }

    pub(super) fn land(&mut self, landed: Landed) {
        let Landed { slot, urgent, parts } = landed;
        let slots = if urgent { &mut self.urgent } else { &mut self.slots };
        slots.give_back(slot);
        for part in parts {
            self.settle(part);
        }
        self.pass();
    }

    fn settle(&mut self, part: Part) {
        let Part {
            job,
            result,
            record,
            began,
        } = part;
        let user = job.item.user();
        match result {
            Err(e) => {
                if let Held::Store(e) = &e {
                    self.complain("a record cannot be made", e);
                }
                let pause = match e {
                    Held::Behind => SOON,
                    _ => SAY,
                };
                self.queue.again(user, clock::monotonic() + pause);
            }
            // Nobody may see it any more.
            Ok(None) => {
                self.endpoint.meter.count(Seen::Withheld, 1);
                self.finish(&job, user);
            }
            Ok(Some(Outcome::Taken(_))) => {
                self.delivered = true;
                self.told.extend(job.item.handed_over().map(|(_, handed)| handed));
                self.finish(&job, user);
            }
            Ok(Some(Outcome::Gone)) => {
                self.queue.again(user, clock::monotonic() + SAY);
                self.gone = true;
            }
            Ok(Some(Outcome::Unsaid)) => self.queue.again(user, clock::monotonic()),
            Ok(Some(Outcome::Rejected { reason })) => {
                let record = record.unwrap_or_default();
                self.bury(&job, record, None, reason);
            }
            Ok(Some(Outcome::Failed {
                status,
                reason,
                retry_after,
            })) => {
                let lifetime = self.node.config.webhooks.lifetime;
                // Whoever asks to wait has nothing against this record.
                let goes_on = match judge(status, retry_after) {
                    Verdict::Wait(wait) => self.queue.asked_to_wait(&job, began, wait, lifetime),
                    _ => self.queue.failed(&job, began, retry_after, lifetime),
                };
                if !goes_on {
                    let record = record.unwrap_or_default();
                    self.bury(&job, record, status, reason);
                }
            }
        }
    }

    fn finish(&mut self, job: &Job, user: UserId) {
        match job.redriven {
            Some(record) => {
                let letters = self.letters(record);
                self.say(What::Redelivered(user), vec![Command::Redelivered(letters)]);
            }
            None => self.queue.done(user),
        }
    }
}

/// What each job says now; nothing where nobody may see it any more.
fn records(
    node: &Node,
    endpoint: &Endpoint,
    partition: Partition,
    version: u32,
    jobs: &[Job],
) -> Vec<Result<Option<Record>, Held>> {
    jobs.iter()
        .map(|job| record(node, endpoint, partition, version, job))
        .collect()
}

fn record(
    node: &Node,
    endpoint: &Endpoint,
    partition: Partition,
    version: u32,
    job: &Job,
) -> Result<Option<Record>, Held> {
    if !is_abreast(node, partition) {
        return Err(Held::Behind);
    }
    let settings = node.views.settings(&node.config.tenant)?;
    let definition = live(&settings, endpoint, version).ok_or(Held::NotLive)?;
    let engine = Engine::of(node, &settings, &endpoint.feed, definition, partition);
    if job.redriven.is_some() && engine.is_over(&job.item)? {
        return Ok(None);
    }
    Ok(engine.record(&job.item)?)
}
