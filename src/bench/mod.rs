//! `gatelog bench`: what Gatelog does, measured against the least that the machine would have to do for it.
//!
//! Every figure is a ratio of two things measured in one run, one after the other and again (A B A B …), so that it
//! says something on any machine, also on one that is busy.

mod client;
mod consents;
mod feeds;
mod feeds_away;
mod import;
mod kafka;
mod log_bytes;
mod logins;
mod machine;
mod measure;
mod reads;
mod rebuild;
mod report;
mod server;
mod world;

use std::path::PathBuf;

use gatelog_events::log::LogError;
use gatelog_events::seal::KeySourceError;
use gatelog_projections::catch_up::CatchUpError;
use gatelog_projections::store::StoreError;

use crate::auth::NoRandomness;
use crate::auth::pool::PoolError;
use crate::node::NodeError;
use crate::writer::WriteError;

use self::report::Section;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Benchmark {
    /// Password logins over HTTP.
    Logins,
    /// Reads of a user over HTTP.
    Reads,
    /// Consent changes through the whole write path.
    Consents,
    /// All read models built anew.
    Rebuild,
    /// Users with hashes from another system.
    Import,
    /// Memory, start and look-ups with many users.
    Scale,
    /// Records of feeds posted to a webhook.
    Feeds,
    /// Logins while nobody takes what feeds post.
    FeedsAway,
    /// Writing and rebuilding on Kafka; by default only where KAFKA_BOOTSTRAP names brokers.
    Kafka,
    /// A feed's topic on Kafka; by default only where KAFKA_BOOTSTRAP names brokers.
    FeedTopic,
    /// One node and three on Kafka; by default only where KAFKA_BOOTSTRAP names brokers.
    Nodes,
}

/// Options of `gatelog bench`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Measure only these; by default all
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Benchmark>,
    /// How often each pair is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repetitions: u32,
    /// Folder for the data of the measurements; it should lie on the disk that will hold the log
    #[arg(long, default_value = ".")]
    pub scratch: PathBuf,
    /// Where to write the report; by default to standard output
    #[arg(long)]
    pub output: Option<PathBuf>,
    /// Numbers of users for `scale`
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000, 1_000_000])]
    pub users: Vec<usize>,
    /// Be the client of a measurement: a job from standard input, its outcome to standard output
    #[arg(long, hide = true)]
    pub client: bool,
}

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    CatchUp(#[from] CatchUpError),
    #[error(transparent)]
    Keys(#[from] KeySourceError),
    #[error(transparent)]
    Passwords(#[from] PoolError),
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("a part of the benchmark ended early: {0}")]
    Ended(String),
}

impl BenchError {
    fn io(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io {
            what: what.to_string(),
            source,
        }
    }
}

/// Measures and writes the report.
pub async fn run(options: Options) -> Result<(), BenchError> {
    if options.client {
        return client::serve_job().await;
    }
    let all = [
        Benchmark::Logins,
        Benchmark::Reads,
        Benchmark::Consents,
        Benchmark::Rebuild,
        Benchmark::Import,
        Benchmark::Scale,
        Benchmark::Feeds,
        Benchmark::FeedsAway,
        Benchmark::Kafka,
        Benchmark::FeedTopic,
        Benchmark::Nodes,
    ];
    let by_default =
        |b| !matches!(b, Benchmark::Kafka | Benchmark::FeedTopic | Benchmark::Nodes) || kafka::has_brokers();
    let chosen = all
        .into_iter()
        .filter(|b| options.only.contains(b) || (options.only.is_empty() && by_default(*b)));
    let mut sections = Vec::new();
    for benchmark in chosen {
        let section = measure(benchmark, &options).await?;
        eprintln!("{section}");
        sections.push(section);
    }
    let text = report::document(&machine::facts(), &sections);
    match &options.output {
        Some(path) => std::fs::write(path, text).map_err(BenchError::io(path.display())),
        None => {
            println!("{text}");
            Ok(())
        }
    }
}

async fn measure(benchmark: Benchmark, options: &Options) -> Result<Section, BenchError> {
    match benchmark {
        Benchmark::Logins => logins::run(options).await,
        Benchmark::Reads => reads::run(options).await,
        Benchmark::Consents => consents::run(options).await,
        Benchmark::Rebuild => rebuild::run(options).await,
        Benchmark::Import => import::run(options).await,
        Benchmark::Scale => import::scale(options).await,
        Benchmark::Feeds => feeds::run(options).await,
        Benchmark::FeedsAway => feeds_away::run(options).await,
        Benchmark::Kafka => kafka::run(options).await,
        Benchmark::FeedTopic => kafka::topic::run(options).await,
        Benchmark::Nodes => kafka::nodes::run(options).await,
    }
}
