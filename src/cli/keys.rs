//! `gatelog keys`: whether Kafka has let go of the keys of erased persons, and new keys that sign tokens.

use std::io::Write;
use std::time::Duration;

use gatelog_events::clock::{self, Timestamp};
use gatelog_events::ids::Partition;
use gatelog_events::log::EventLog;
use gatelog_projections::erasures::{Erasures, erasures};
use serde_json::{Value, json};

use super::{Failure, data, print_json};
use crate::auth::keys::{KeyRing, PUBLISHED};
use crate::backend::Backend;
use crate::node::{Folders, NodeError};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Say how many keys of erased persons Kafka's disks may still hold, by partition and since when; a node may run meanwhile
    Status(data::Printed),
    /// Make a new key that signs access tokens. Nodes publish it within a minute and sign with it 7 minutes after it was made;
    /// what older keys signed stays good until their files are removed
    RotateSigning(data::Printed),
}

pub fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Status(args) => status(&args),
        Command::RotateSigning(args) => rotate_signing(&args),
    }
}

fn rotate_signing(args: &data::Printed) -> Result<(), Failure> {
    let config = args.data.load()?.config;
    let folder = Folders::under(&config.data_dir).secrets.join("signing");
    if !folder.exists() {
        return Err(Failure::Usage(format!(
            "there is no {}; start a node once, or name its data folder with --data-dir",
            folder.display()
        )));
    }
    let now = clock::now();
    let ring = KeyRing::read(&folder, config.signing_algorithm).map_err(NodeError::from)?;
    if !ring.has_own() {
        return Err(Failure::Usage(format!(
            "there is no key for {} in {}; set GATELOG_SIGNING_ALGORITHM as the nodes have it",
            config.signing_algorithm.name(),
            folder.display()
        )));
    }
    let new = ring.rotate(now).map_err(NodeError::from)?;
    let from = now.plus(PUBLISHED);
    if args.json {
        return print_json(&json!({"kid": new.kid(), "signs_from": from.to_string()}));
    }
    let mut out = std::io::stdout().lock();
    Ok(writeln!(out, "key {} signs from {from} on", new.kid())?)
}

fn status(args: &data::Printed) -> Result<(), Failure> {
    let config = args.data.load()?.config;
    let Some(kafka) = &config.kafka else {
        return Err(Failure::Usage(
            "the log is not in Kafka (GATELOG_LOG), and no keys are: they leave the data folder after compaction_delay, or \
             with `gatelog compact`"
                .to_owned(),
        ));
    };
    let backend = Backend::open_read_only(&config, &Folders::under(&config.data_dir).log)?;
    let Backend::Kafka(log) = &backend else {
        return Ok(());
    };
    let topic = log.subject_keys();
    let found: Vec<Erasures> = (0..log.partitions())
        .map(|p| erasures(&topic, Partition(p)))
        .collect::<Result<_, _>>()?;
    let (now, lag) = (clock::now(), kafka.log.key_compaction_lag);
    backend.close_now()?;
    if args.json {
        print_json(&as_json(&found, lag, now))
    } else {
        tell(&found, lag, now)
    }
}

fn age(oldest: Option<Timestamp>, now: Timestamp) -> Option<u64> {
    oldest.map(|at| now.since(at).as_secs())
}

fn first(found: &[Erasures]) -> Option<Timestamp> {
    found.iter().filter_map(|f| f.oldest).min()
}

fn as_json(found: &[Erasures], lag: Duration, now: Timestamp) -> Value {
    let partitions: Vec<_> = found
        .iter()
        .map(|f| {
            json!({
                "partition": f.partition.0,
                "erased": f.erased,
                "pending": f.pending,
                "oldest_seconds": age(f.oldest, now),
            })
        })
        .collect();
    json!({
        "compaction_lag_seconds": lag.as_secs(),
        "erased": found.iter().map(|f| f.erased).sum::<u64>(),
        "pending": found.iter().map(|f| f.pending).sum::<u64>(),
        "oldest_seconds": age(first(found), now),
        "partitions": partitions,
    })
}

fn tell(found: &[Erasures], lag: Duration, now: Timestamp) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    for f in found.iter().filter(|f| f.pending > 0) {
        writeln!(
            out,
            "partition {}: {} of {} erased keys may still be on Kafka's disks, the oldest for {} s",
            f.partition,
            f.pending,
            f.erased,
            age(f.oldest, now).unwrap_or(0)
        )?;
    }
    let erased: u64 = found.iter().map(|f| f.erased).sum();
    let pending: u64 = found.iter().map(|f| f.pending).sum();
    writeln!(
        out,
        "{erased} keys erased, {pending} pending; they leave within {} s (kafka_key_compaction_lag)",
        lag.as_secs()
    )?;
    Ok(())
}
