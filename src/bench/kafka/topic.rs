//! The topic of a feed, against a loop that consumes, looks up what is to be said, and produces the same bytes.

use std::collections::BTreeSet;
use std::time::Duration;

use gatelog_events::clock;
use gatelog_events::domain::feed::{Definition, Field};
use gatelog_events::domain::profile::ProfileField;
use gatelog_events::domain::tenant::{Command, FeedDefined, FeedTopicRemoved};
use gatelog_events::log::kafka::KafkaConfig;

use super::bare::{self, Counter, Loop};
use super::{PARTITIONS, PATIENCE, brokers, config, ready};
use crate::bench::measure::{Series, Watch};
use crate::bench::report::{Figure, Section, Target};
use crate::bench::world::{Scratch, World};
use crate::bench::{BenchError, Options};
use crate::feeds::push::topic_name;
use crate::node::Started;

const USERS: usize = 50_000;
const FEED: &str = "bench";
/// How often it is looked how much is in the topic.
const LOOK: Duration = Duration::from_millis(5);

pub async fn run(options: &Options) -> Result<Section, BenchError> {
    let bootstrap = brokers()?;
    let scratch = Scratch::new(&options.scratch)?;
    let (config, log) = config(&scratch.folder("node")?, &bootstrap)?;
    let started = tokio::task::block_in_place(|| Started::open(config))?;
    let measured = tokio::select! {
        measured = measure(&started, &log, options.repetitions) => measured,
        damage = started.housekeeping() => Err(damage.into()),
    };
    started.close().await?;
    Ok(measured?.section())
}

async fn measure(started: &Started, log: &KafkaConfig, repetitions: u32) -> Result<Results, BenchError> {
    let world = World::new(started);
    ready(&world, USERS).await?;
    world.settings(Command::DefineFeed(definition())).await?;
    let topic = Counter::new(log, bare::topic(log, &topic_name(FEED)))?;
    let mut results = Results::default();
    let (mut there, mut bare_loop) = (0, None);
    for n in 0..=repetitions {
        let feed = FEED.to_owned();
        world
            .settings(Command::SetFeedTopic { feed, version: None })
            .await?;
        // From the first to the last, so that the moment in which lanes begin is no part of it.
        let first = until(&topic, there + 1).await?;
        let watch = Watch::start();
        let all = there + USERS as u64;
        until(&topic, all).await?;
        let ours = watch.stop((all - first) as f64);
        let feed = FEED.to_owned();
        world
            .settings(Command::RemoveFeedTopic(FeedTopicRemoved { feed }))
            .await?;
        let bare = match &mut bare_loop {
            Some(made) => made,
            none => none.insert(Loop::new(log, &topic.topic, USERS).await?),
        };
        let bare = tokio::task::block_in_place(|| bare.run(log))?;
        there = all;
        if n > 0 {
            results.ratio.push(ours.rate() / bare.rate());
            results.per_core.push(ours.per_core() / bare.per_core());
            results.ours.push(ours.rate());
            results.bare.push(bare.rate());
        }
    }
    Ok(results)
}

fn definition() -> FeedDefined {
    let fields = [
        Field::Email,
        Field::Locale,
        Field::Plan,
        Field::Profile(ProfileField::GivenName),
    ];
    FeedDefined {
        name: FEED.to_owned(),
        definition: Definition {
            description: None,
            purpose: Some("newsletter".to_owned()),
            fields: BTreeSet::from(fields),
            events: BTreeSet::from(["plan.upgraded".to_owned()]),
            retention_seconds: None,
        },
    }
}

/// Waits until so many messages are in a topic; how many there are then.
async fn until(topic: &Counter, count: u64) -> Result<u64, BenchError> {
    let deadline = clock::monotonic() + PATIENCE;
    loop {
        let there = tokio::task::block_in_place(|| topic.count())?;
        if there >= count {
            return Ok(there);
        }
        if clock::monotonic() > deadline {
            return Err(BenchError::Ended(format!(
                "{} has {there} messages, not {count}",
                topic.topic
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[derive(Default)]
struct Results {
    ratio: Series,
    per_core: Series,
    ours: Series,
    bare: Series,
}

impl Results {
    fn section(self) -> Section {
        let figure = |what: &str, unit, series| Figure::new(what, unit, series, Target::None);
        Section {
            title: "A feed's topic on Kafka",
            method: format!(
                "The state of {USERS} users is written to the compacted topic of a feed of {PARTITIONS} partitions, with \
                 consent looked at for each. Bare: one thread consumes as many records of the log, and for each produces \
                 to another topic what the feed had said, key, headers and value, by a producer of the same settings. \
                 Brokers and both share the processors.",
            ),
            figures: vec![
                Figure::new("feed ÷ bare loop", "", self.ratio, Target::AtLeast(0.5)),
                figure(
                    "feed ÷ bare loop, per second of processor time",
                    "",
                    self.per_core,
                ),
                figure("feed", "records/s", self.ours),
                figure("bare loop", "records/s", self.bare),
            ],
        }
    }
}
