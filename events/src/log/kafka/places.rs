//! The topics of one log, and its partitions numbered through.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::{Duration, Instant};

use super::config::KafkaConfig;
use crate::clock;
use crate::ids::{Offset, Partition, Stream};
use crate::log::Heard;

/// One of the log's topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Topic {
    Stream(Stream),
    SubjectKeys,
}

impl Topic {
    pub const ALL: [Topic; 3] = [
        Topic::Stream(Stream::Identity),
        Topic::Stream(Stream::Activity),
        Topic::SubjectKeys,
    ];

    const fn index(self) -> usize {
        match self {
            Topic::Stream(Stream::Identity) => 0,
            Topic::Stream(Stream::Activity) => 1,
            Topic::SubjectKeys => 2,
        }
    }

    /// What follows the prefix in the topic's name. Frozen.
    const fn suffix(self) -> &'static str {
        match self {
            Topic::Stream(stream) => stream.name(),
            Topic::SubjectKeys => "subject-keys",
        }
    }
}

/// A partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub topic: Topic,
    pub partition: Partition,
}

/// The names of the topics, and how far each partition is known to reach.
pub(super) struct Topics {
    names: [String; 3],
    partitions: u16,
    /// Per topic: how many copies must be in sync for an append to be taken.
    min_insync: [AtomicUsize; 3],
    /// Per topic: how many partitions it was last seen to have.
    seen: [AtomicUsize; 3],
    /// Per slot: whether it was last seen without a leader, or with too few copies in sync.
    unwritable: Vec<AtomicBool>,
    /// Per slot: the offset after the last record that was acknowledged or read.
    known: Vec<AtomicU64>,
    /// Per slot: where the brokers said last that it ends.
    ends: Vec<AtomicU64>,
    /// Per slot: when they said so, as a number of [`asked`](Self::asked); 0 where they never did.
    told: Vec<AtomicU64>,
    /// How often they were asked.
    asked: AtomicU64,
    begun: Instant,
    /// When that was last, in milliseconds since `begun`.
    asked_at: AtomicU64,
    /// How long what they said then is current: whoever stood still knows nothing when it goes on.
    patience: Duration,
}

impl Topics {
    pub fn new(config: &KafkaConfig) -> Self {
        let slots = Topic::ALL.len() * usize::from(config.partitions);
        Self {
            names: Topic::ALL.map(|t| format!("{}{}", config.topic_prefix, t.suffix())),
            partitions: config.partitions,
            min_insync: Topic::ALL.map(|_| AtomicUsize::new(config.min_insync_replicas.into())),
            seen: Topic::ALL.map(|_| AtomicUsize::new(config.partitions.into())),
            unwritable: (0..slots).map(|_| AtomicBool::new(false)).collect(),
            known: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            ends: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            told: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            asked: AtomicU64::new(0),
            begun: clock::monotonic(),
            asked_at: AtomicU64::new(0),
            // Asking may take as long as the time between two questions.
            patience: config.probe_interval * 2 + Duration::from_secs(1),
        }
    }

    /// The time, for [`saw_ends`](Self::saw_ends).
    pub fn elapsed(&self) -> Duration {
        clock::monotonic().saturating_duration_since(self.begun)
    }

    pub fn partitions(&self) -> u16 {
        self.partitions
    }

    /// How many copies of a partition must be in sync for an append to be taken.
    pub fn min_insync(&self, topic: Topic) -> usize {
        self.min_insync[topic.index()].load(Relaxed)
    }

    /// The topic's own setting, which may be higher than the one that is asked for.
    pub fn set_min_insync(&self, topic: Topic, copies: usize) {
        self.min_insync[topic.index()].store(copies, Relaxed);
    }

    /// Somebody may give a topic more partitions while nodes run. They go on with those they know.
    pub fn has_now(&self, topic: Topic, partitions: usize) {
        // A broker that has just come back may know nothing yet.
        if partitions == 0 {
            return;
        }
        if self.seen[topic.index()].swap(partitions, Relaxed) != partitions
            && partitions != usize::from(self.partitions)
        {
            tracing::error!(
                "topic {} has {partitions} partitions now, but partitions is {}: a node will not start like this. Each user has \
                 a place by that number, so this node goes on with those it knows. Bring the topic back as it was, with its offsets, from a backup",
                self.name(topic),
                self.partitions
            );
        }
    }

    /// Whether a partition takes records, as far as that is known.
    pub fn is_writable(&self, slot: usize) -> bool {
        self.unwritable.get(slot).is_none_or(|sick| !sick.load(Relaxed))
    }

    pub fn set_writable(&self, slot: usize, writable: bool) {
        if let Some(sick) = self.unwritable.get(slot) {
            sick.store(!writable, Relaxed);
        }
    }

    pub fn slots(&self) -> usize {
        self.known.len()
    }

    pub fn name(&self, topic: Topic) -> &str {
        &self.names[topic.index()]
    }

    pub fn slot(&self, place: Place) -> Option<usize> {
        let p = place.partition.0;
        (p < self.partitions).then(|| place.topic.index() * usize::from(self.partitions) + usize::from(p))
    }

    /// The slot of a message.
    pub fn slot_of(&self, topic: &str, partition: i32) -> Option<usize> {
        let topic = Topic::ALL.into_iter().find(|t| self.name(*t) == topic)?;
        let partition = Partition(u16::try_from(partition).ok()?);
        self.slot(Place { topic, partition })
    }

    pub fn place(&self, slot: usize) -> Place {
        let n = usize::from(self.partitions.max(1));
        Place {
            topic: Topic::ALL[(slot / n).min(2)],
            partition: Partition((slot % n) as u16),
        }
    }

    /// Name of the topic and number of the partition, as Kafka's clients want them.
    pub fn address(&self, slot: usize) -> (&str, i32) {
        let place = self.place(slot);
        (self.name(place.topic), i32::from(place.partition.0))
    }

    /// Topic, partition and offset for messages.
    pub fn describe(&self, slot: usize, offset: Offset) -> String {
        let (name, partition) = self.address(slot);
        format!("topic {name}, partition {partition}, offset {offset}")
    }

    /// The offset after the last record that is known to be durable.
    pub fn known_end(&self, slot: usize) -> Offset {
        self.known.get(slot).map_or(0, |known| known.load(Relaxed))
    }

    /// The brokers were asked where partitions end, from this [moment](Self::elapsed) on, and said so of these.
    pub fn saw_ends(&self, since: Duration, ends: impl IntoIterator<Item = (usize, Offset)>) {
        let now = self.asked.load(Relaxed) + 1;
        for (slot, end) in ends {
            if let (Some(known), Some(told)) = (self.ends.get(slot), self.told.get(slot)) {
                known.store(end, Relaxed);
                told.store(now, Release);
            }
        }
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        self.asked_at.store(millis, Relaxed);
        self.asked.store(now, Release);
    }

    /// The brokers were asked where one partition ends.
    pub fn saw_end(&self, slot: usize, end: Offset) {
        if let (Some(known), Some(told)) = (self.ends.get(slot), self.told.get(slot)) {
            known.fetch_max(end, Relaxed);
            told.fetch_max(self.asked.load(Relaxed).max(1), Release);
        }
    }

    /// Where the brokers said last that a partition ends, and a number that grows each time that they say so.
    pub fn seen_end(&self, slot: usize) -> (Offset, u64) {
        let told = self.told.get(slot).map_or(0, |told| told.load(Acquire));
        let end = self.ends.get(slot).map_or(0, |end| end.load(Relaxed));
        (end, told)
    }

    /// As [`EventLog::heard_end`](crate::log::EventLog::heard_end).
    pub fn heard_end(&self, slot: usize) -> Option<Heard> {
        let asked = self.asked.load(Acquire);
        let asked_at = Duration::from_millis(self.asked_at.load(Relaxed));
        let is_fresh = self.elapsed().saturating_sub(asked_at) <= self.patience;
        let (end, told) = self.seen_end(slot);
        (told > 0).then_some(Heard {
            end,
            is_current: told >= asked && is_fresh,
        })
    }

    /// The record at this offset is durable.
    pub fn is_durable(&self, slot: usize, offset: Offset) {
        if let Some(known) = self.known.get(slot) {
            known.fetch_max(offset + 1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_current_that_was_told_when_it_was_asked_for_last() {
        let topics = Topics::new(&KafkaConfig::default());
        assert_eq!(topics.heard_end(3), None);
        topics.saw_ends(topics.elapsed(), [(3, 7), (4, 9)]);
        let heard = |end, is_current| Some(Heard { end, is_current });
        assert_eq!((topics.heard_end(3), topics.heard_end(5)), (heard(7, true), None));
        topics.saw_ends(topics.elapsed(), [(4, 10)]);
        assert_eq!(
            (topics.heard_end(3), topics.heard_end(4)),
            (heard(7, false), heard(10, true))
        );
        topics.saw_ends(topics.elapsed(), []);
        assert_eq!(topics.heard_end(4), heard(10, false));
        // Nothing is current that was told before a pause.
        let brief = KafkaConfig {
            probe_interval: Duration::ZERO,
            ..KafkaConfig::default()
        };
        let topics = Topics::new(&brief);
        topics.saw_ends(topics.elapsed(), [(3, 7)]);
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(topics.heard_end(3), heard(7, false));
        topics.saw_ends(topics.elapsed(), [(3, 7)]);
        assert_eq!(topics.heard_end(3), heard(7, true));
    }

    #[test]
    fn each_partition_has_a_slot_of_its_own() {
        let config = KafkaConfig {
            partitions: 3,
            topic_prefix: "x.".into(),
            ..Default::default()
        };
        let topics = Topics::new(&config);
        assert_eq!(topics.slots(), 9);
        for slot in 0..topics.slots() {
            let (name, partition) = topics.address(slot);
            assert_eq!(topics.slot_of(name, partition), Some(slot));
            assert_eq!(topics.slot(topics.place(slot)), Some(slot));
        }
        assert_eq!(topics.address(8), ("x.subject-keys", 2));
        assert_eq!(topics.slot_of("x.identity", 3), None);
        assert_eq!(topics.slot_of("x.identity", -1), None);
        assert_eq!(topics.slot_of("identity", 0), None);
    }
}
