//! The write path and a rebuild on Kafka, against a bare producer and a bare consumer of the same records.
//!
//! Measured only where `KAFKA_BOOTSTRAP` names brokers (`scripts/kafka run -- make bench` starts one).

use std::sync::Arc;
use std::time::Duration;

use gatelog_events::clock;
use gatelog_events::ids::UserId;
use gatelog_events::log::kafka::{KafkaConfig, MembershipOptions};
use gatelog_projections::catch_up::catch_up;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::measure::{Series, Took, Watch};
use super::rebuild::fresh;
use super::report::{Figure, Section, Target};
use super::world::{self, Scratch, World};
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

/// Where brokers are, if there are any.
pub fn brokers() -> Option<String> {
    std::env::var("KAFKA_BOOTSTRAP").ok().filter(|b| !b.is_empty())
}

fn config(scratch: &Scratch, bootstrap: &str) -> Result<Config, BenchError> {
    let mut config = world::config(&scratch.folder("node")?);
    config.partitions = PARTITIONS;
    let number = Uuid::from_bytes(random()?).simple();
    config.kafka = Some(Kafka {
        log: KafkaConfig {
            bootstrap_servers: bootstrap.to_owned(),
            topic_prefix: format!("bench.{number}."),
            partitions: PARTITIONS,
            replication_factor: 1,
            min_insync_replicas: 1,
            ..KafkaConfig::default()
        },
        membership: MembershipOptions {
            group: format!("bench.{number}"),
            ..MembershipOptions::default()
        },
    });
    Ok(config)
}

pub async fn run(options: &Options) -> Result<Section, BenchError> {
    let bootstrap =
        brokers().ok_or_else(|| BenchError::Ended("KAFKA_BOOTSTRAP names no brokers".to_owned()))?;
    let scratch = Scratch::new(&options.scratch)?;
    let config = config(&scratch, &bootstrap)?;
    let opened = config.clone();
    let started = tokio::task::spawn_blocking(move || Started::open(opened))
        .await
        .map_err(|e| BenchError::Ended(e.to_string()))??;
    let started = Arc::new(started);
    let keeper = tokio::spawn({
        let started = started.clone();
        async move { started.housekeeping().await }
    });
    let mut results = Results::default();
    {
        let world = World::new(&started);
        let users: Arc<[UserId]> = ready(&world).await?.into();
        let bare = Bare::new(&config, &bootstrap)?;
        for n in 0..=options.repetitions {
            let ours = change(&world, &users, AT_ONCE, n).await?;
            let raw = bare.produce(AT_ONCE).await?;
            let calm = change(&world, &users, CALM, n).await?;
            let raw_calm = bare.produce(CALM).await?;
            if n > 0 {
                results.ratio.push(ours.took.rate() / raw.took.rate());
                results.ours.push(ours.took.rate());
                results.bare.push(raw.took.rate());
                results.added.push((calm.p50 - raw_calm.p50) * 1e3);
                results.cpu.push(ours.took.cpu / ours.took.amount.max(1.0) * 1e6);
            }
        }
    }
    keeper.abort();
    let _ = keeper.await;
    let started =
        Arc::into_inner(started).ok_or_else(|| BenchError::Ended("the node is still used".to_owned()))?;
    started.close().await?;
    let (repetitions, at) = (options.repetitions, bootstrap);
    let rebuilt = tokio::task::spawn_blocking(move || rebuild(&scratch, &config, &at, repetitions))
        .await
        .map_err(|e| BenchError::Ended(e.to_string()))??;
    Ok(results.section(rebuilt))
}

/// Users, once the node owns its partitions.
async fn ready(world: &Arc<World>) -> Result<Vec<UserId>, BenchError> {
    let until = clock::monotonic() + Duration::from_secs(30);
    loop {
        match world.register_all(0..1, "").await {
            Ok(_) => break,
            Err(e) if clock::monotonic() > until => return Err(e),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    world.register_all(1..USERS, "").await
}

struct Worked {
    took: Took,
    p50: f64,
}

/// Callers in turn change consents of users of their own, each waiting for its answer.
async fn change(
    world: &Arc<World>,
    users: &Arc<[UserId]>,
    at_once: usize,
    round: u32,
) -> Result<Worked, BenchError> {
    each(at_once, |caller| {
        let (world, users) = (world.clone(), users.clone());
        async move {
            let own: Vec<UserId> = users.iter().skip(caller).step_by(at_once).copied().collect();
            let until = clock::monotonic() + TIME;
            // Both rounds of one repetition change something: the calm one begins where the other may have ended.
            let mut granted = round.is_multiple_of(2) == (at_once == AT_ONCE);
            let mut latencies = Vec::new();
            loop {
                for user in &own {
                    if clock::monotonic() >= until {
                        return Ok(latencies);
                    }
                    let begun = clock::monotonic();
                    let outcome = world.consent(*user, granted).await?;
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

/// Runs so many tasks that answer latencies, and counts them.
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
    let series: Series = all.into_iter().collect();
    Ok(Worked {
        took,
        p50: series.quantile(0.5),
    })
}

/// librdkafka alone, with the same promises: idempotent, acknowledged by all copies.
struct Bare {
    producer: FutureProducer,
    topic: String,
    value: Arc<[u8]>,
}

impl Bare {
    fn new(config: &Config, bootstrap: &str) -> Result<Self, BenchError> {
        let kafka = config
            .kafka
            .as_ref()
            .ok_or_else(|| BenchError::Ended("no Kafka".to_owned()))?;
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", bootstrap)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "0")
            .set("compression.type", "lz4")
            .set_log_level(RDKafkaLogLevel::Error);
        Ok(Self {
            producer: client.create().map_err(failed)?,
            // Beside the node's own records: nobody reads this log any more when they are there.
            topic: format!("{}activity", kafka.log.topic_prefix),
            value: VALUE.bytes().cycle().take(BYTES).collect(),
        })
    }

    async fn produce(&self, at_once: usize) -> Result<Worked, BenchError> {
        each(at_once, |n| {
            let (producer, topic, value) = (self.producer.clone(), self.topic.clone(), self.value.clone());
            async move {
                let partition = (n % usize::from(PARTITIONS)) as i32;
                let until = clock::monotonic() + TIME;
                let mut latencies = Vec::new();
                while clock::monotonic() < until {
                    let begun = clock::monotonic();
                    let record: FutureRecord<'_, [u8], [u8]> =
                        FutureRecord::to(&topic).partition(partition).payload(&value);
                    producer
                        .send(record, Duration::from_secs(5))
                        .await
                        .map_err(|(e, _)| failed(e))?;
                    latencies.push(begun.elapsed().as_secs_f64());
                }
                Ok(latencies)
            }
        })
        .await
    }
}

/// As long as a record of a consent change, and as little compressible.
const BYTES: usize = 932;
const VALUE: &str = "7Zk1vXqT0bWm3RyPu8LsAeGfHdJiKoCnMtBv5Qw2ExUzYlSrNp6Oa9Fg4Ih\
{\"specversion\":\"1.0\",\"source\":\"/tenants/default\"}Vb8Kj3Hy6Tf1Rd5Es0Wa9Zq2Xc7Nu4Mi";

struct Rebuilt {
    ratio: Series,
    ours: Series,
    bare: Series,
}

/// All read models from Kafka, against a consumer that only reads.
fn rebuild(
    scratch: &Scratch,
    config: &Config,
    bootstrap: &str,
    repetitions: u32,
) -> Result<Rebuilt, BenchError> {
    let mut rebuilt = Rebuilt {
        ratio: Series::default(),
        ours: Series::default(),
        bare: Series::default(),
    };
    let data = Data::open(config)?;
    for _ in 0..repetitions {
        let mut folder = fresh(&scratch.folder("rebuilt")?, &data.projections, PARTITIONS)?;
        let watch = Watch::start();
        let records = catch_up(&mut folder, data.log.as_ref(), data.keys.as_ref(), |_| {})?;
        folder.store().flush()?;
        let ours = watch.stop(records as f64);
        let bare = consume(config, bootstrap, records)?;
        rebuilt.ratio.push(ours.rate() / bare.rate());
        rebuilt.ours.push(ours.rate());
        rebuilt.bare.push(bare.rate());
    }
    data.backend.close_now()?;
    Ok(rebuilt)
}

fn consume(config: &Config, bootstrap: &str, records: u64) -> Result<Took, BenchError> {
    let kafka = config
        .kafka
        .as_ref()
        .ok_or_else(|| BenchError::Ended("no Kafka".to_owned()))?;
    let watch = Watch::start();
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "bench.bare")
        .set("enable.auto.commit", "false")
        .set_log_level(RDKafkaLogLevel::Error)
        .create()
        .map_err(failed)?;
    let mut list = TopicPartitionList::new();
    for topic in ["identity", "activity"] {
        for partition in 0..PARTITIONS {
            let name = format!("{}{topic}", kafka.log.topic_prefix);
            list.add_partition_offset(&name, i32::from(partition), Offset::Beginning)
                .map_err(failed)?;
        }
    }
    consumer.assign(&list).map_err(failed)?;
    let mut read = 0;
    while read < records {
        match consumer.poll(Duration::from_secs(10)) {
            Some(Ok(_)) => read += 1,
            Some(Err(e)) => return Err(failed(e)),
            None => {
                return Err(BenchError::Ended(
                    "Kafka holds fewer records than were folded".to_owned(),
                ));
            }
        }
    }
    Ok(watch.stop(read as f64))
}

fn failed(e: impl std::fmt::Display) -> BenchError {
    BenchError::Ended(format!("Kafka: {e}"))
}

#[derive(Default)]
struct Results {
    ratio: Series,
    ours: Series,
    bare: Series,
    added: Series,
    cpu: Series,
}

impl Results {
    fn section(self, rebuilt: Rebuilt) -> Section {
        let figure = |what: &str, unit, series| Figure::new(what, unit, series, Target::None);
        Section {
            title: "On Kafka",
            method: format!(
                "One node and {PARTITIONS} partitions on the brokers of KAFKA_BOOTSTRAP, one copy. {AT_ONCE} callers in the \
                 node's process change consents for {} s. Bare: an idempotent producer with acks=all sends records of \
                 {BYTES} bytes to as many partitions, with as many in flight. Latency: the same with {CALM} at once. \
                 Rebuild: all read models from the topics into new tables, against a consumer that reads the same records \
                 and drops them. The brokers share the processors with both.",
                TIME.as_secs()
            ),
            figures: vec![
                Figure::new(
                    "consent changes ÷ bare producer",
                    "",
                    self.ratio,
                    Target::AtLeast(0.6),
                ),
                figure("consent changes", "/s", self.ours),
                figure("bare producer", "records/s", self.bare),
                Figure::new("latency added at p50", "ms", self.added, Target::AtMost(1.0)),
                figure("processor time per change, callers included", "µs", self.cpu),
                Figure::new("rebuild ÷ bare consumer", "", rebuilt.ratio, Target::AtLeast(0.4)),
                figure("rebuild", "records/s", rebuilt.ours),
                figure("bare consumer", "records/s", rebuilt.bare),
            ],
        }
    }
}
