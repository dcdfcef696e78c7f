//! What a lane has taken from the log and its receiver has not taken yet: in order per subject, withdrawals first, and no
//! further than a bounded window.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use gatelog_events::ids::UserId;
use uuid::Uuid;

use crate::feeds::cursor::Lane as Place;
use crate::feeds::engine::Item;

/// One thing to be told.
#[derive(Debug, Clone)]
pub(in crate::feeds) struct Job {
    pub item: Item,
    pub attempts: u32,
    /// The batch with which it came; none for a dead letter that is sent again.
    batch: Option<u64>,
    /// The record of the dead letter.
    pub redriven: Option<Uuid>,
    /// Not before.
    wake: Option<Instant>,
    /// Whether it was woken before its time.
    woken: bool,
}

/// What one subject has to be told.
#[derive(Debug, Default)]
struct Line {
    jobs: VecDeque<Job>,
    /// Whether the first one is on its way.
    flying: bool,
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
    /// Subjects whose first job may fly, withdrawals first.
    ready: VecDeque<UserId>,
    /// Subjects that wait for their time.
    sleeping: Vec<UserId>,
    open: VecDeque<Open>,
    /// Number of the first open batch.
    first: u64,
    jobs: usize,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.jobs
    }

    /// Takes a batch in; `then` is where the lane goes on after it.
    pub fn take(&mut self, items: impl IntoIterator<Item = Item>, then: Place) {
        let batch = self.first + self.open.len() as u64;
        let mut jobs = 0;
        for item in items {
            jobs += 1;
            self.add(item, Some(batch), None);
        }
        self.open.push_back(Open { then, jobs });
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
        let urgent = matches!(item, Item::Withdrawn { .. });
        let job = Job {
            item,
            attempts: 0,
            batch,
            redriven,
            wake: None,
            woken: false,
        };
        self.jobs += 1;
        let line = self.lines.entry(user).or_default();
        if urgent {
            // Before everything but what is on its way, also before what waits for another attempt.
            let at = usize::from(line.flying);
            line.jobs.insert(at, job);
            if !line.flying {
                self.ready.retain(|u| *u != user);
                self.sleeping.retain(|u| *u != user);
                self.ready.push_front(user);
            }
        } else {
            line.jobs.push_back(job);
            if line.jobs.len() == 1 {
                self.ready.push_back(user);
            }
        }
    }

    /// The next job that may fly.
    pub fn next(&mut self, now: Instant) -> Option<Job> {
        self.wake(now);
        let user = self.ready.pop_front()?;
        let line = self.lines.get_mut(&user)?;
        line.flying = true;
        line.jobs.front().cloned()
    }

    /// Whether the next job that may fly is a withdrawal.
    pub fn is_urgent(&self) -> bool {
        let first = self.ready.front().and_then(|u| self.lines.get(u)?.jobs.front());
        first.is_some_and(|job| matches!(job.item, Item::Withdrawn { .. }))
    }

    /// When a sleeping subject may fly again.
    pub fn next_wake(&self) -> Option<Instant> {
        self.sleeping
            .iter()
            .filter_map(|u| self.lines.get(u)?.jobs.front()?.wake)
            .min()
    }

    /// Whoever sleeps may fly, but only once: what its receiver fails at, back or not, shall not be tried for ever without
    /// a pause.
    pub fn wake_all(&mut self) {
        for user in std::mem::take(&mut self.sleeping) {
            let first = self.lines.get_mut(&user).and_then(|l| l.jobs.front_mut());
            if let Some(job) = first.filter(|job| !job.woken) {
                (job.wake, job.woken) = (None, true);
            }
            self.line_up(user);
        }
    }

    fn wake(&mut self, now: Instant) {
        let lines = &self.lines;
        let is_due = |u: &UserId| {
            let first = lines.get(u).and_then(|l| l.jobs.front());
            first.is_none_or(|j| j.wake.is_none_or(|at| at <= now))
        };
        let (due, rest) = std::mem::take(&mut self.sleeping).into_iter().partition(is_due);
        self.sleeping = rest;
        let due: Vec<_> = due;
        self.ready.extend(due);
    }

    /// The subject's job that flew is done with.
    pub fn done(&mut self, user: UserId) {
        let Some(line) = self.lines.get_mut(&user) else {
            return;
        };
        line.flying = false;
        if let Some(job) = line.jobs.pop_front() {
            self.jobs -= 1;
            let open = job.batch.and_then(|b| usize::try_from(b - self.first).ok());
            if let Some(open) = open.and_then(|i| self.open.get_mut(i)) {
                open.jobs -= 1;
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
            job.attempts += 1;
            job.wake = Some(wake);
        }
        // What withdraws came meanwhile, and goes first.
        if let Some(at) = line
            .jobs
            .iter()
            .position(|j| matches!(j.item, Item::Withdrawn { .. }))
            && let Some(job) = line.jobs.remove(at)
        {
            line.jobs.push_front(job);
        }
        self.line_up(user);
    }

    fn line_up(&mut self, user: UserId) {
        let Some(line) = self.lines.get(&user) else { return };
        match line.jobs.front() {
            None => _ = self.lines.remove(&user),
            Some(Job { wake: Some(_), .. }) => self.sleeping.push(user),
            Some(job) if matches!(job.item, Item::Withdrawn { .. }) => self.ready.push_front(user),
            Some(_) => self.ready.push_back(user),
        }
    }

    /// Where the lane goes on, if everything before is done that was not known to be.
    pub fn passed(&mut self) -> Option<Place> {
        let mut passed = None;
        while self.open.front().is_some_and(|open| open.jobs == 0) {
            passed = self.open.pop_front().map(|open| open.then);
            self.first += 1;
        }
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatelog_events::clock::{self, Timestamp};
    use gatelog_events::ids::{EventId, Partition};
    use gatelog_projections::changes::{Cause, Withdrawal};
    use std::time::Duration;

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
        let job = queue.next(now)?;
        let urgent = matches!(job.item, Item::Withdrawn { .. });
        Some((job.item.user().0.as_u128(), urgent))
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
        let now = clock::monotonic();
        let mut queue = Queue::default();
        queue.take([state(1)], place(1));
        queue.take([state(2)], place(2));
        queue.take([], place(3));
        queue.next(now);
        queue.next(now);
        queue.done(user(2));
        assert_eq!(queue.passed(), None);
        queue.done(user(1));
        assert_eq!(queue.passed(), Some(place(3)));
        queue.redrive(state(5), Uuid::nil());
        queue.redrive(state(5), Uuid::nil());
        assert_eq!(queue.len(), 1);
        assert!(queue.next(now).is_some_and(|j| j.redriven.is_some()));
        queue.done(user(5));
        assert_eq!((queue.len(), queue.passed()), (0, None));
    }
}
