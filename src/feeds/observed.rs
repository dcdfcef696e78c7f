//! What this node has seen of the consumers whose lanes it runs: how far they are, what was sent last and what came of it.
//!
//! Kept in memory and bounded; it begins anew with the process. Nothing of it tells who somebody is: a delivery names its
//! subject as the feed does, and neither address nor content of what was sent.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatelog_events::clock::{self, Timestamp};
use gatelog_events::ids::Partition;
use metrics::{Counter, counter};
use parking_lot::{Mutex, RwLock};
use uuid::Uuid;

use super::cursor::Lane;
use super::record::Record;

/// Deliveries that are remembered of each consumer.
pub const REMEMBERED: usize = 50;
/// Seconds over which the throughput is averaged.
const WINDOW: usize = 60;

/// What came of one record, or of one attempt at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The consumer has it.
    Taken,
    /// The receiver wants nothing any more.
    Gone,
    /// The receiver asks for a pause.
    AskedToWait,
    /// It is tried again.
    Failed,
    /// It was tried in vain, and waits until somebody sends it again.
    DeadLettered,
    /// When it was its turn, nobody might see it.
    Withheld,
}

impl Outcome {
    /// Its name in metrics and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Taken => "taken",
            Outcome::Gone => "gone",
            Outcome::AskedToWait => "asked_to_wait",
            Outcome::Failed => "failed",
            Outcome::DeadLettered => "dead_lettered",
            Outcome::Withheld => "withheld",
        }
    }

    /// Those that settle a record; the others are attempts, after which the record still waits.
    const SETTLING: [Self; 3] = [Outcome::Taken, Outcome::DeadLettered, Outcome::Withheld];
}

/// One attempt to deliver a record.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub time: Timestamp,
    /// The id of the record, `webhook-id` of its deliveries.
    pub record: Uuid,
    pub kind: Cow<'static, str>,
    /// Whom the feed's consumer knows the subject as.
    pub subject: Uuid,
    pub outcome: Outcome,
    /// Status of the answer, where there was one.
    pub status: Option<u16>,
    pub took: Duration,
}

impl Delivery {
    pub fn of(record: &Record, outcome: Outcome, status: Option<u16>, took: Duration) -> Self {
        Self {
            time: clock::now(),
            record: record.id,
            kind: record.kind.clone(),
            subject: record.subject,
            outcome,
            status,
            took,
        }
    }
}

/// What is known of one consumer at a moment.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Partitions whose lanes run here, with the beginning that they count from and the place up to which everything is done.
    pub places: BTreeMap<Partition, (u64, Lane)>,
    /// Since when the rest is counted.
    pub since: Option<Timestamp>,
    /// Records that were taken per second over the last minute, or since the beginning if that is less.
    pub taken_per_second: f64,
    pub totals: BTreeMap<Outcome, u64>,
    /// Newest first.
    pub deliveries: Vec<Delivery>,
}

/// What is seen of one consumer.
#[derive(Debug)]
pub struct Meter {
    /// `gatelog_feed_records_total`, by outcome.
    settled: BTreeMap<Outcome, Counter>,
    since: Timestamp,
    began: Instant,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    places: BTreeMap<Partition, (u64, Lane)>,
    totals: BTreeMap<Outcome, u64>,
    last: VecDeque<Delivery>,
    taken: Minute,
}

impl Counts {
    fn remember(&mut self, delivery: Delivery) {
        self.last.truncate(REMEMBERED - 1);
        self.last.push_front(delivery);
    }
}

/// Counts of the last seconds, each with the second that it is of.
#[derive(Debug)]
struct Minute([(u64, u64); WINDOW]);

impl Default for Minute {
    fn default() -> Self {
        Self([(0, 0); WINDOW])
    }
}

impl Minute {
    fn add(&mut self, second: u64, n: u64) {
        let slot = &mut self.0[(second % WINDOW as u64) as usize];
        if slot.0 != second {
            *slot = (second, 0);
        }
        slot.1 += n;
    }

    /// Per second, over the whole window or as much of it as has passed.
    fn rate(&self, second: u64) -> f64 {
        let oldest = (second + 1).saturating_sub(WINDOW as u64);
        let current = self.0.iter().filter(|(of, _)| (oldest..=second).contains(of));
        let sum: u64 = current.map(|(_, n)| n).sum();
        sum as f64 / (second + 1).min(WINDOW as u64) as f64
    }
}

impl Meter {
    fn new(feed: &str, consumer: &str) -> Self {
        let counter = |outcome: Outcome| {
            let (feed, consumer) = (feed.to_owned(), consumer.to_owned());
            counter!("gatelog_feed_records_total", "feed" => feed, "consumer" => consumer, "outcome" => outcome.name())
        };
        Self {
            settled: Outcome::SETTLING
                .map(|outcome| (outcome, counter(outcome)))
                .into(),
            since: clock::now(),
            began: clock::monotonic(),
            counts: Mutex::default(),
        }
    }

    fn second(&self) -> u64 {
        clock::monotonic().saturating_duration_since(self.began).as_secs()
    }

    /// Notes one attempt.
    pub fn delivered(&self, delivery: Delivery) {
        let outcome = delivery.outcome;
        let mut counts = self.counts.lock();
        counts.remember(delivery);
        self.add(&mut counts, outcome, 1);
    }

    /// Notes records that a topic took together: how many, and the last of them.
    pub fn landed(&self, last: Vec<Delivery>, records: u64, took: Duration) {
        let time = clock::now();
        let mut counts = self.counts.lock();
        for delivery in last {
            counts.remember(Delivery {
                time,
                took,
                ..delivery
            });
        }
        self.add(&mut counts, Outcome::Taken, records);
    }

    /// Counts records or attempts with an outcome.
    pub fn count(&self, outcome: Outcome, n: u64) {
        self.add(&mut self.counts.lock(), outcome, n);
    }

    fn add(&self, counts: &mut Counts, outcome: Outcome, n: u64) {
        if n == 0 {
            return;
        }
        *counts.totals.entry(outcome).or_default() += n;
        if outcome == Outcome::Taken {
            counts.taken.add(self.second(), n);
        }
        if let Some(counter) = self.settled.get(&outcome) {
            counter.increment(n);
        }
    }

    /// Notes up to where a lane of this node is done, counted from a beginning of the consumer.
    pub fn at(&self, partition: Partition, generation: u64, place: Lane) {
        self.counts.lock().places.insert(partition, (generation, place));
    }

    /// Notes that a lane does not run here any more.
    pub fn left(&self, partition: Partition) {
        self.counts.lock().places.remove(&partition);
    }

    /// What is known now.
    pub fn seen(&self) -> Seen {
        let counts = self.counts.lock();
        Seen {
            places: counts.places.clone(),
            since: Some(self.since),
            taken_per_second: counts.taken.rate(self.second()),
            totals: counts.totals.clone(),
            deliveries: counts.last.iter().cloned().collect(),
        }
    }
}

/// All consumers that this node has seen, and the partitions whose lanes it runs.
#[derive(Debug, Default)]
pub struct Observed {
    meters: RwLock<HashMap<(String, String), Arc<Meter>>>,
    serves: RwLock<BTreeSet<Partition>>,
    /// Feeds and consumers whose lag was measured last, for metrics.
    measured: Mutex<BTreeSet<(String, String)>>,
}

impl Observed {
    /// The meter of a consumer: a webhook by its name, or the topic.
    pub fn meter(&self, feed: &str, consumer: &str) -> Arc<Meter> {
        let name = (feed.to_owned(), consumer.to_owned());
        let mut meters = self.meters.write();
        let meter = meters
            .entry(name)
            .or_insert_with(|| Arc::new(Meter::new(feed, consumer)));
        meter.clone()
    }

    /// What is known of a consumer, if a lane of it ever ran here.
    pub fn seen(&self, feed: &str, consumer: &str) -> Seen {
        let name = (feed.to_owned(), consumer.to_owned());
        let meter = self.meters.read().get(&name).cloned();
        meter.map(|m| m.seen()).unwrap_or_default()
    }

    /// Forgets consumers that are not there any more.
    pub fn keep(&self, is_there: impl Fn(&str, &str) -> bool) {
        self.meters
            .write()
            .retain(|(feed, consumer), _| is_there(feed, consumer));
    }

    /// Notes the partitions whose lanes run here.
    pub fn serve(&self, partitions: impl IntoIterator<Item = Partition>) {
        *self.serves.write() = partitions.into_iter().collect();
    }

    /// Notes whose lag was measured now; whose was measured before and is not any more.
    pub fn measured(&self, now: BTreeSet<(String, String)>) -> Vec<(String, String)> {
        let mut measured = self.measured.lock();
        let before = std::mem::replace(&mut *measured, now);
        before.into_iter().filter(|c| !measured.contains(c)).collect()
    }

    /// The partitions whose lanes run here.
    pub fn serves(&self) -> BTreeSet<Partition> {
        self.serves.read().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(n: u128, outcome: Outcome) -> Delivery {
        Delivery {
            time: Timestamp::EPOCH,
            record: Uuid::from_u128(n),
            kind: "plan.upgraded".into(),
            subject: Uuid::nil(),
            outcome,
            status: Some(204),
            took: Duration::from_millis(3),
        }
    }

    #[test]
    fn the_last_deliveries_are_remembered_newest_first_and_no_more_of_them() {
        let observed = Observed::default();
        let meter = observed.meter("f", "crm");
        for n in 0..200 {
            meter.delivered(delivery(n, Outcome::Taken));
        }
        meter.delivered(delivery(200, Outcome::Failed));
        let seen = observed.seen("f", "crm");
        assert_eq!(seen.deliveries.len(), REMEMBERED);
        assert_eq!(seen.deliveries[0].record.as_u128(), 200);
        assert_eq!(
            (seen.totals[&Outcome::Taken], seen.totals[&Outcome::Failed]),
            (200, 1)
        );
        assert!(observed.seen("f", "other").since.is_none());
        observed.keep(|_, consumer| consumer == "other");
        assert!(observed.seen("f", "crm").since.is_none());
    }

    #[test]
    fn throughput_is_that_of_the_last_minute() {
        let mut minute = Minute::default();
        minute.add(0, 10);
        assert_eq!(minute.rate(0), 10.0);
        assert_eq!(minute.rate(9), 1.0);
        minute.add(59, 50);
        assert_eq!(minute.rate(59), 1.0);
        // The first second is over, and its slot is another's.
        assert_eq!(minute.rate(60), 50.0 / 60.0);
        minute.add(60, 10);
        assert_eq!(minute.rate(60), 1.0);
        assert_eq!(minute.rate(1000), 0.0);
    }

    #[test]
    fn a_lane_that_left_is_at_no_place() {
        let meter = Meter::new("f", "crm");
        meter.at(Partition(3), 7, Lane::default());
        assert_eq!(meter.seen().places.len(), 1);
        meter.left(Partition(3));
        assert!(meter.seen().places.is_empty());
    }
}
