//! The write path and a rebuild on Kafka, against a bare producer and a bare consumer of the same records.

mod bare;
pub mod nodes;
pub mod topic;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gatelog_events::clock;
use gatelog_events::ids::UserId;
use gatelog_events::log::kafka::{KafkaConfig, MembershipOptions};
use gatelog_projections::catch_up::catch_up;
use uuid::Uuid;

use self::bare::{Bare, Setup};
use super::measure::{Series, Took, Watch};
use super::rebuild::fresh;
use super::report::{Figure, Section, Target};
use super::world::{self, PASSWORD_HASH, Scratch, World};
use super::{BenchError, Options};
use crate::auth::random;
use crate::config::Config;
use crate::config::kafka::Kafka;
use crate::node::{Data, Started};

const PARTITIONS: u16 = 8;
const USERS: usize = 4096;
const AT_ONCE: usize = 256;
/// At which latencies are compared: nothing waits for anything else.
const CALM: usize = 8;
const TIME: Duration = Duration::from_secs(3);
/// How long the group may take to give the node its partitions.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the environment names brokers.
pub fn has_brokers() -> bool {
    brokers().is_ok()
}

fn brokers() -> Result<String, BenchError> {
    let named = std::env::var("KAFKA_BOOTSTRAP").ok().filter(|b| !b.is_empty());
    named.ok_or_else(|| BenchError::Ended("KAFKA_BOOTSTRAP names no brokers".to_owned()))
}

/// A node of its own on topics of its own, which stay: whoever started the brokers removes them.
fn config(data_dir: &Path, bootstrap: &str) -> Result<(Config, KafkaConfig), BenchError> {
    let mut config = world::config(data_dir);
    config.partitions = PARTITIONS;
    let number = Uuid::from_bytes(random()?).simple();
    let log = KafkaConfig {
        bootstrap_servers: bootstrap.to_owned(),
        topic_prefix: format!("bench.{number}."),
        partitions: PARTITIONS,
        replication_factor: 1,
        min_insync_replicas: 1,
        ..KafkaConfig::default()
    };
    config.kafka = Some(Kafka {
        log: log.clone(),
        membership: MembershipOptions {
            group: format!("bench.{number}"),
            ..MembershipOptions::default()
        },
    });
    Ok((config, log))
}

pub async fn run(options: &Options) -> Result<Section, BenchError> {
    let bootstrap = brokers()?;
    let scratch = Scratch::new(&options.scratch)?;
    let (config, log) = config(&scratch.folder("node")?, &bootstrap)?;
    let mut results = Results::default();
    let started = tokio::task::block_in_place(|| Started::open(config.clone()))?;
    let written = tokio::select! {
        written = write(&started, &log, options.repetitions, &mut results) => written,
        damage = started.housekeeping() => Err(damage.into()),
    };
    started.close().await?;
    written?;
    tokio::task::block_in_place(|| rebuild(&scratch, &config, &log, options.repetitions, &mut results))?;
    Ok(results.section())
}

async fn write(
    started: &Started,
    log: &KafkaConfig,
    repetitions: u32,
    results: &mut Results,
) -> Result<(), BenchError> {
    let world = World::new(started);
    let users: Arc<[UserId]> = ready(&world, USERS).await?.into();
    // What is sent barely is what this wrote.
    change(&world, &users, AT_ONCE, false).await?;
    let bare = Bare::new(log).await?;
    let mut granted = true;
    // The first pair warms up and is not counted.
    for n in 0..=repetitions {
        let ours = change(&world, &users, AT_ONCE, granted).await?;
        let default = bare.produce(Setup::Default, AT_ONCE).await?;
        let same = bare.produce(Setup::Same, AT_ONCE).await?;
        let calm = change(&world, &users, CALM, !granted).await?;
        let same_calm = bare.produce(Setup::Same, CALM).await?;
        if n > 0 {
            results.by_default.push(ours.took.rate() / default.took.rate());
            results.default.push(default.took.rate());
            results.add(&ours, &same, &calm, &same_calm);
        }
        granted = !granted;
    }
    Ok(())
}

/// Users, once the node owns its partitions.
async fn ready(world: &Arc<World>, users: usize) -> Result<Vec<UserId>, BenchError> {
    let until = clock::monotonic() + PATIENCE;
    let mut registered = loop {
        match world.register_all(0..1, PASSWORD_HASH).await {
            Ok(first) => break first,
            Err(e) if clock::monotonic() > until => return Err(e),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    registered.extend(world.register_all(1..users, PASSWORD_HASH).await?);
    Ok(registered)
}

/// What a number of callers did, and the median of how long each waited for one, in seconds.
struct Worked {
    took: Took,
    p50: f64,
}

/// Callers in turn change consents of users of their own, each waiting for its answer.
async fn change(
    world: &Arc<World>,
    users: &Arc<[UserId]>,
    at_once: usize,
    granted: bool,
) -> Result<Worked, BenchError> {
    each(at_once, |caller| {
        let (world, users) = (world.clone(), users.clone());
        async move {
            let own: Vec<UserId> = users.iter().skip(caller).step_by(at_once).copied().collect();
            let (until, mut granted) = (clock::monotonic() + TIME, granted);
            let mut latencies = Vec::new();
            loop {
                for user in &own {
                    if clock::monotonic() >= until {
                        return Ok(latencies);
                    }
                    let begun = clock::monotonic();
                    let outcome = world.consent(*user, granted).await?;
                    // A user who had chosen so before is not counted.
                    if outcome.commit.is_some() {
                        latencies.push(begun.elapsed().as_secs_f64());
                    }
                }
                granted = !granted;
            }
        }
    })
    .await
}

/// Runs so many tasks at once, each of which tells how long it waited each time.
async fn each<F>(at_once: usize, task: impl Fn(usize) -> F) -> Result<Worked, BenchError>
where
    F: Future<Output = Result<Vec<f64>, BenchError>> + Send + 'static,
{
    let watch = Watch::start();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..at_once {
        tasks.spawn(task(n));
    }
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        all.extend(done.map_err(|e| BenchError::Ended(e.to_string()))??);
    }
    let took = watch.stop(all.len() as f64);
    let p50 = all.into_iter().collect::<Series>().median();
    Ok(Worked { took, p50 })
}

/// All read models from Kafka, against a consumer that only reads.
fn rebuild(
    scratch: &Scratch,
    config: &Config,
    log: &KafkaConfig,
    repetitions: u32,
    results: &mut Results,
) -> Result<(), BenchError> {
    let data = Data::open(config)?;
    for n in 0..=repetitions {
        let mut folder = fresh(&scratch.folder("rebuilt")?, &data.projections, PARTITIONS)?;
        let watch = Watch::start();
        let records = catch_up(&mut folder, data.log.as_ref(), data.keys.as_ref(), |_, _| {})?;
        folder.store().flush()?;
        let ours = watch.stop(records as f64);
        let raw = bare::consume(log, records)?;
        if n > 0 {
            results.rebuild.push(ours.rate() / raw.rate());
            results.rebuilt.push(ours.rate());
            results.rebuild_cpu.push(ours.micros_each());
            results.consumed.push(raw.rate());
        }
    }
    data.backend.close_now()?;
    Ok(())
}

#[derive(Default)]
struct Results {
    by_default: Series,
    ratio: Series,
    ours: Series,
    default: Series,
    bare: Series,
    added: Series,
    calm: Series,
    cpu: Series,
    bare_cpu: Series,
    rebuild: Series,
    rebuilt: Series,
    rebuild_cpu: Series,
    consumed: Series,
}

impl Results {
    fn add(&mut self, ours: &Worked, raw: &Worked, calm: &Worked, raw_calm: &Worked) {
        self.ratio.push(ours.took.rate() / raw.took.rate());
        self.ours.push(ours.took.rate());
        self.bare.push(raw.took.rate());
        self.added.push((calm.p50 - raw_calm.p50) * 1e3);
        self.calm.push(calm.p50 * 1e3);
        self.cpu.push(ours.took.micros_each());
        self.bare_cpu.push(raw.took.micros_each());
    }

    fn section(self) -> Section {
        let figure = |what: &str, unit, series| Figure::new(what, unit, series, Target::None);
        Section {
            title: "On Kafka",
            method: format!(
                "One node with {PARTITIONS} partitions of one copy each on the brokers of KAFKA_BOOTSTRAP. {AT_ONCE} callers \
                 in the node's process change consents of {USERS} users for {} s. Bare: librdkafka's idempotent producer \
                 with acks=all sends records that the node had written, headers and all, to as many partitions of another \
                 topic, with as many in flight: once as it is by default (it waits 5 ms for more to send, and does not \
                 compress), once set up as the node's own (no waiting, LZ4). Latency: against the latter, with {CALM} at once. \
                 Rebuild: all read models from the topics into new tables, against a consumer that reads the same records \
                 and drops them. Brokers, callers and node share the processors.",
                TIME.as_secs()
            ),
            figures: vec![
                Figure::new(
                    "consent changes ÷ bare producer, by default",
                    "",
                    self.by_default,
                    Target::AtLeast(0.6),
                ),
                Figure::new(
                    "consent changes ÷ bare producer, as the node's own",
                    "",
                    self.ratio,
                    Target::AtLeast(0.6),
                ),
                figure("consent changes", "/s", self.ours),
                figure("bare producer, by default", "records/s", self.default),
                figure("bare producer, as the node's own", "records/s", self.bare),
                Figure::new("latency added at p50", "ms", self.added, Target::AtMost(1.0)),
                figure("consent change at p50", "ms", self.calm),
                figure("processor time per change, callers included", "µs", self.cpu),
                figure(
                    "processor time per record of the bare producer",
                    "µs",
                    self.bare_cpu,
                ),
                Figure::new("rebuild ÷ bare consumer", "", self.rebuild, Target::AtLeast(0.4)),
                figure("rebuild", "records/s", self.rebuilt),
                figure("processor time per record rebuilt", "µs", self.rebuild_cpu),
                figure("bare consumer", "records/s", self.consumed),
            ],
        }
    }
}
