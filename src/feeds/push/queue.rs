//! What a lane has taken from the log and its receiver has not taken yet: in order per subject, withdrawals first, and no
//! further than a bounded window.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use gatelog_events::clock::{self, Timestamp};
use gatelog_events::ids::UserId;
use uuid::Uuid;

use super::pause;
use crate::feeds::cursor::Lane as Place;
use crate::feeds::engine::Item;
use crate::feeds::webhook::schedule::{Attempts, Next, SHORTEST};

/// One thing to be told.
#[derive(Debug, Clone)]
pub(in crate::feeds) struct Job {
    pub item: Item,
    pub attempts: u32,
    /// When the first attempt was made that its receiver failed, whatever the job said then.
    pub first: Option<Timestamp>,
    /// The batch with which it came; none for a dead letter that is sent again.
    batch: Option<u64>,
    /// The record of the dead letter.
    pub redriven: Option<Uuid>,
    /// Not before.
    wake: Option<Instant>,
    /// Whether it was woken before its time.
    woken: bool,
}

impl Job {
    fn is_urgent(&self) -> bool {
        matches!(self.item, Item::Withdrawn { .. })
    }
}

/// What one subject has to be told. What withdraws stands together, behind nothing but what is on its way.
#[derive(Debug)]
struct Line {
    jobs: VecDeque<Job>,
    /// Whether the first one is on its way.
    flying: bool,
}

impl Line {
    /// How many jobs withdraw, from this one on.
    fn urgent_from(&self, first: usize) -> usize {
        self.jobs.iter().skip(first).take_while(|j| j.is_urgent()).count()
    }
}

/// A batch of which not everything is done.
#[derive(Debug)]
struct Open {
    /// Where the lane goes on once it is.
    then: Place,
    jobs: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(in crate::feeds) struct Queue {
    lines: HashMap<UserId, Line>,
    /// Subjects whose first job may fly and withdraws.
    urgent: VecDeque<UserId>,
    /// Subjects whose first job may fly and does not.
    ready: VecDeque<UserId>,
    /// Subjects that wait for their time, with it.
    sleeping: BTreeSet<(Instant, UserId)>,
    /// By number. Of those behind the first only the ones with jobs are kept: who is stuck shall not cost memory.
    open: BTreeMap<u64, Open>,
    /// Number of the next batch.
    batches: u64,
    jobs: usize,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.jobs
    }

    /// Takes a batch in; `then` is where the lane goes on after it.
    pub fn take(&mut self, items: impl IntoIterator<Item = Item>, then: Place) {
        let batch = self.batches;
        self.batches += 1;
        let mut jobs = 0;
        for item in items {
            jobs += 1;
            self.add(item, Some(batch), None);
        }
        self.open.insert(batch, Open { then, jobs });
        self.close(batch);
    }

    /// A batch of which everything is done goes into the one before it, where there is one.
    fn close(&mut self, batch: u64) {
        let done = self.open.get(&batch).filter(|open| open.jobs == 0);
        if let Some(then) = done.map(|open| open.then)
            && let Some((_, before)) = self.open.range_mut(..batch).next_back()
        {
            before.then = then;
            self.open.remove(&batch);
        }
    }

    /// Takes a dead letter in that is to be sent again.
    pub fn redrive(&mut self, item: Item, record: Uuid) {
        let known = self
            .lines
            .values()
            .flat_map(|l| &l.jobs)
            .any(|j| j.redriven == Some(record));
        if !known {
            self.add(item, None, Some(record));
        }
    }

    fn add(&mut self, item: Item, batch: Option<u64>, redriven: Option<Uuid>) {
        let user = item.user();
        let job = Job {
            item,
            attempts: 0,
            first: None,
            batch,
            redriven,
            wake: None,
            woken: false,
        };
        self.jobs += 1;
        let line = self.lines.entry(user).or_insert_with(|| Line {
            // Mostly there is one thing to be told.
            jobs: VecDeque::with_capacity(1),
            flying: false,
        });
        if job.is_urgent() {
            // Also before what waits for another attempt.
            let first = usize::from(line.flying);
            let at = first + line.urgent_from(first);
            line.jobs.insert(at, job);
            if at == 0 {
                self.ready.retain(|u| *u != user);
                self.sleeping.retain(|(_, u)| *u != user);
                self.urgent.push_back(user);
            }
        } else {
            line.jobs.push_back(job);
            if line.jobs.len() == 1 {
                self.ready.push_back(user);
            }
        }
    }

    /// The next job that may fly: see [`wake`](Self::wake).
    pub fn next(&mut self) -> Option<Job> {
        let user = self.urgent.pop_front().or_else(|| self.ready.pop_front())?;
        let line = self.lines.get_mut(&user)?;
        line.flying = true;
        line.jobs.front().cloned()
    }

    /// Whether any job may fly.
    pub fn is_ready(&self) -> bool {
        self.is_urgent() || !self.ready.is_empty()
    }

    /// Whether the next job that may fly is a withdrawal.
    pub fn is_urgent(&self) -> bool {
        !self.urgent.is_empty()
    }

    /// When a sleeping subject may fly again.
    pub fn next_wake(&self) -> Option<Instant> {
        self.sleeping.first().map(|(at, _)| *at)
    }

    /// Whoever sleeps may fly, but only once: what its receiver fails at, back or not, shall not be tried for ever without
    /// a pause.
    pub fn wake_all(&mut self) {
        for (_, user) in std::mem::take(&mut self.sleeping) {
            let first = self.lines.get_mut(&user).and_then(|l| l.jobs.front_mut());
            if let Some(job) = first.filter(|job| !job.woken) {
                (job.wake, job.woken) = (None, true);
            }
            self.line_up(user);
        }
    }

    /// Whoever has slept long enough may fly.
    pub fn wake(&mut self, now: Instant) {
        while let Some((at, user)) = self.sleeping.pop_first() {
            if at > now {
                self.sleeping.insert((at, user));
                return;
            }
            let first = self.lines.get_mut(&user).and_then(|l| l.jobs.front_mut());
            if let Some(job) = first {
                job.wake = None;
            }
            self.line_up(user);
        }
    }

    /// The subject's job that flew is done with.
    pub fn done(&mut self, user: UserId) {
        let Some(line) = self.lines.get_mut(&user) else {
            return;
        };
        line.flying = false;
        if let Some(job) = line.jobs.pop_front() {
            self.jobs -= 1;
            if let Some(batch) = job.batch
                && let Some(open) = self.open.get_mut(&batch)
            {
                open.jobs -= 1;
                self.close(batch);
            }
        }
        self.line_up(user);
    }

    /// The subject's job that flew is to fly again.
    pub fn again(&mut self, user: UserId, wake: Instant) {
        let Some(line) = self.lines.get_mut(&user) else {
            return;
        };
        line.flying = false;
        if let Some(job) = line.jobs.front_mut() {
            job.wake = Some(wake);
        }
        // What withdraws came meanwhile, and goes first.
        if line.urgent_from(0) == 0 {
            let withdrawals = line.urgent_from(1);
            if let Some(head) = line.jobs.make_contiguous().get_mut(..=withdrawals) {
                head.rotate_left(1);
            }
        }
        self.line_up(user);
    }

    /// The subject's job that flew since `began` failed at its receiver. Whether it is to fly again, as the schedule says; if
    /// not, it is still on its way, for whoever gives it up.
    pub fn failed(
        &mut self,
        job: &Job,
        began: Timestamp,
        retry_after: Option<Duration>,
        lifetime: Duration,
    ) -> bool {
        let attempts = Attempts {
            first: job.first.unwrap_or(began),
            made: job.attempts + 1,
        };
        let now = clock::now();
        let Next::At(at) = attempts.next(now, retry_after, pause::random(), lifetime) else {
            return false;
        };
        let user = job.item.user();
        if let Some(job) = self.lines.get_mut(&user).and_then(|l| l.jobs.front_mut()) {
            job.first = Some(attempts.first);
            job.attempts = attempts.made;
        }
        self.again(user, clock::monotonic() + at.since(now));
        true
    }

    /// The receiver asked to wait so long, whatever is sent. That is no attempt; but from the first one on the lifetime runs.
    pub fn asked_to_wait(&mut self, job: &Job, began: Timestamp, wait: Duration, lifetime: Duration) -> bool {
        let (first, now) = (job.first.unwrap_or(began), clock::now());
        if now >= first.plus(lifetime) {
            return false;
        }
        let user = job.item.user();
        if let Some(job) = self.lines.get_mut(&user).and_then(|l| l.jobs.front_mut()) {
            job.first = Some(first);
        }
        self.again(user, clock::monotonic() + wait.max(SHORTEST));
        true
    }

    fn line_up(&mut self, user: UserId) {
        let Some(line) = self.lines.get(&user) else { return };
        match line.jobs.front() {
            None => _ = self.lines.remove(&user),
            Some(Job { wake: Some(at), .. }) => _ = self.sleeping.insert((*at, user)),
            Some(job) if job.is_urgent() => self.urgent.push_back(user),
            Some(_) => self.ready.push_back(user),
        }
    }

    /// Where the lane goes on, if everything before is done that was not known to be.
    pub fn passed(&mut self) -> Option<Place> {
        let first = self.open.first_entry().filter(|open| open.get().jobs == 0)?;
        Some(first.remove().then)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatelog_events::ids::{EventId, Partition};
    use gatelog_projections::changes::{Cause, Withdrawal};

    fn user(n: u128) -> UserId {
        UserId(Uuid::from_u128(n))
    }

    fn state(n: u128) -> Item {
        Item::State { user: user(n) }
    }

    fn withdrawn(n: u128) -> Item {
        Item::Withdrawn {
            partition: Partition(0),
            offset: 1,
            withdrawal: Withdrawal {
                user: user(n),
                id: EventId(Uuid::from_u128(n)),
                time: Timestamp::EPOCH,
                sequence: 1,
                cause: Cause::Erased,
                purposes: std::collections::BTreeSet::new(),
            },
        }
    }

    fn place(n: u64) -> Place {
        Place {
            identity: n,
            ..Place::default()
        }
    }

    fn next(queue: &mut Queue, now: Instant) -> Option<(u128, bool)> {
        queue.wake(now);
        let job = queue.next()?;
        Some((job.item.user().0.as_u128(), job.is_urgent()))
    }

    #[test]
    fn one_subject_is_told_in_order_and_others_meanwhile() {
        let now = clock::monotonic();
        let mut queue = Queue::default();
        queue.take([state(1), state(1), state(2)], place(10));
        assert_eq!(next(&mut queue, now), Some((1, false)));
        assert_eq!(next(&mut queue, now), Some((2, false)));
        assert_eq!(next(&mut queue, now), None);
        queue.done(user(2));
        assert_eq!(queue.passed(), None);
        queue.done(user(1));
        assert_eq!(next(&mut queue, now), Some((1, false)));
        queue.done(user(1));
        assert_eq!((queue.passed(), queue.len()), (Some(place(10)), 0));
        assert_eq!(queue.passed(), None);
    }

    #[test]
    fn a_withdrawal_goes_before_everything_that_is_not_on_its_way() {
        let now = clock::monotonic();
        let mut queue = Queue::default();
        queue.take([state(1), state(2), state(3), state(3)], place(1));
        assert_eq!(next(&mut queue, now), Some((1, false)));
        queue.take([withdrawn(3), withdrawn(1)], place(2));
        assert_eq!(next(&mut queue, now), Some((3, true)));
        queue.done(user(1));
        assert_eq!(next(&mut queue, now), Some((1, true)));
        assert_eq!(next(&mut queue, now), Some((2, false)));
    }

    #[test]
    fn a_withdrawal_does_not_wait_for_another_attempt_at_something_else() {
        let now = clock::monotonic();
        let later = now + Duration::from_secs(60);
        let mut queue = Queue::default();
        queue.take([state(1)], place(1));
        assert_eq!(next(&mut queue, now), Some((1, false)));
        queue.again(user(1), later);
        assert_eq!((next(&mut queue, now), queue.next_wake()), (None, Some(later)));
        queue.take([withdrawn(1)], place(2));
        assert_eq!(next(&mut queue, now), Some((1, true)));
        queue.done(user(1));
        assert_eq!(queue.passed(), None, "the state is still to be told");
        assert_eq!(next(&mut queue, now), None);
        assert_eq!(next(&mut queue, later), Some((1, false)));
        // Also where it came while the other was on its way.
        queue.take([withdrawn(1)], place(3));
        queue.again(user(1), later + Duration::from_secs(60));
        assert_eq!(next(&mut queue, later), Some((1, true)));
    }

    #[test]
    fn who_is_woken_early_sleeps_to_the_end_the_next_time() {
        let now = clock::monotonic();
        let later = now + Duration::from_secs(60);
        let mut queue = Queue::default();
        queue.take([state(1), state(1), state(2)], place(1));
        assert_eq!(next(&mut queue, now), Some((1, false)));
        queue.again(user(1), later);
        queue.wake_all();
        assert_eq!(next(&mut queue, now), Some((2, false)));
        assert_eq!(next(&mut queue, now), Some((1, false)));
        queue.again(user(1), later);
        queue.wake_all();
        assert_eq!((next(&mut queue, now), queue.next_wake()), (None, Some(later)));
        assert_eq!(next(&mut queue, later), Some((1, false)));
    }

    #[test]
    fn a_lane_passes_only_what_is_done_with() {
        let mut queue = Queue::default();
        queue.take([state(1)], place(1));
        queue.take([state(2)], place(2));
        queue.take([], place(3));
        queue.next();
        queue.next();
        queue.done(user(2));
        assert_eq!(queue.passed(), None);
        queue.done(user(1));
        assert_eq!(queue.passed(), Some(place(3)));
        queue.redrive(state(5), Uuid::nil());
        queue.redrive(state(5), Uuid::nil());
        assert_eq!(queue.len(), 1);
        assert!(queue.next().is_some_and(|j| j.redriven.is_some()));
        queue.done(user(5));
        assert_eq!((queue.len(), queue.passed()), (0, None));
    }
    fn withdrawn_at(n: u128, sequence: u64) -> Item {
        let Item::Withdrawn {
            partition,
            offset,
            withdrawal,
        } = withdrawn(n)
        else {
            unreachable!()
        };
        Item::Withdrawn {
            partition,
            offset,
            withdrawal: Withdrawal {
                sequence,
                ..withdrawal
            },
        }
    }

    fn sequence(job: &Job) -> u64 {
        match &job.item {
            Item::Withdrawn { withdrawal, .. } => withdrawal.sequence,
            _ => 0,
        }
    }

    #[test]
    fn withdrawals_of_one_subject_are_told_in_their_order() {
        let now = clock::monotonic();
        let later = now + Duration::from_secs(60);
        let rest = |queue: &mut Queue| {
            let told = std::iter::from_fn(|| {
                let job = queue.next()?;
                queue.done(job.item.user());
                Some(sequence(&job))
            });
            told.collect::<Vec<_>>()
        };
        let mut queue = Queue::default();
        queue.take([state(1)], place(1));
        queue.take([withdrawn_at(1, 2), withdrawn_at(1, 3)], place(2));
        assert_eq!(rest(&mut queue), [2, 3, 0]);

        queue.take([state(1)], place(3));
        assert_eq!(next(&mut queue, now), Some((1, false)));
        queue.take([withdrawn_at(1, 2), withdrawn_at(1, 3)], place(4));
        queue.again(user(1), later);
        assert_eq!(rest(&mut queue), [2, 3], "the state waits for its time");
        queue.wake(later);
        assert_eq!(rest(&mut queue), [0]);

        queue.take([withdrawn_at(1, 2)], place(5));
        assert_eq!(next(&mut queue, now), Some((1, true)));
        queue.again(user(1), later);
        queue.take([withdrawn_at(1, 3)], place(6));
        assert_eq!(rest(&mut queue), [0; 0], "the second waits for the first");
        queue.wake(later);
        assert_eq!(rest(&mut queue), [2, 3]);
        assert_eq!((queue.passed(), queue.len()), (Some(place(6)), 0));
    }

    #[test]
    fn a_withdrawal_that_is_tried_again_goes_before_what_waits() {
        let now = clock::monotonic();
        let later = now + Duration::from_secs(60);
        let mut queue = Queue::default();
        queue.take([withdrawn(1), state(2)], place(1));
        assert_eq!(next(&mut queue, now), Some((1, true)));
        queue.again(user(1), later);
        assert!(!queue.is_urgent());
        queue.wake(later);
        assert!(queue.is_urgent());
        assert_eq!(next(&mut queue, later), Some((1, true)));
    }

    #[test]
    fn what_is_stuck_costs_no_memory_for_what_passes_behind_it() {
        let now = clock::monotonic();
        let mut queue = Queue::default();
        queue.take([state(1)], place(1));
        assert_eq!(next(&mut queue, now), Some((1, false)));
        for n in 2..1000 {
            queue.take((n % 2 == 0).then(|| state(2)), place(n));
            if next(&mut queue, now).is_some() {
                queue.done(user(2));
            }
        }
        assert_eq!((queue.open.len(), queue.passed()), (1, None));
        queue.done(user(1));
        assert_eq!(queue.passed(), Some(place(999)));
    }
}
