//! `gatelog log copy`: the embedded log of a node that is stopped becomes a log in Kafka.
//!
//! Every record goes to the partition it had, in its order, so that positions, epochs and sequences stay what they were.
//! A copy that was broken off goes on where it ended: what the target holds must be what the source begins with.

use std::collections::VecDeque;
use std::io::Write;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use gatelog_events::failpoint;
use gatelog_events::ids::{Offset, Partition, Position, Stream};
use gatelog_events::log::{AppendError, Entry, EventLog, LogError};
use gatelog_events::seal::{KeySourceError, MasterKey};
use gatelog_projections::subject_keys::SubjectKeys;
use serde_json::json;

use super::progress::Progress;
use super::{Failure, data, print_json};
use crate::auth::secrets::Secrets;
use crate::backend::Backend;
use crate::config::Config;
use crate::config::values::LogKind;
use crate::node::Folders;

/// Appends on their way at once.
const IN_FLIGHT: usize = 1024;

/// Their bytes: a part of what librdkafka queues, for none may be refused once later ones are taken.
const BYTES_IN_FLIGHT: usize = 16 << 20;

/// How long Kafka may take for a record.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the ends of a target must stand still before it is gone on with.
const SETTLED: Duration = Duration::from_secs(5);

/// What is done with a whole log.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Copy the log and the keys of a stopped node to Kafka, which must not hold another log yet
    Copy(Args),
}

/// From where to where.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    data: data::Args,
    /// Where the log is now
    #[arg(long, value_name = "KIND", default_value = "embedded")]
    from: LogKind,
    /// Where it shall be; the GATELOG_KAFKA_… options say how to reach it
    #[arg(long, value_name = "KIND")]
    to: LogKind,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
Positions stay what they were, and so do sessions. Afterwards start each node with GATELOG_LOG=kafka, and GATELOG_PARTITIONS
as many as the log has, on a new data folder that holds a copy of secrets/; its read models are built from the log.";

pub fn run(command: Command) -> Result<(), Failure> {
    let Command::Copy(args) = command;
    if (args.from, args.to) != (LogKind::Embedded, LogKind::Kafka) {
        return Err(Failure::Usage(
            "a log can be copied --from embedded --to kafka only".to_owned(),
        ));
    }
    let source_config = args.data.existing_embedded()?;
    let mut target_config = args.data.load_for(LogKind::Kafka, source_config.partitions)?;
    if let Some(kafka) = &mut target_config.kafka {
        // Nobody waits for an answer: a stall of Kafka need not end the copy.
        kafka.log.delivery_timeout = kafka.log.delivery_timeout.max(PATIENCE);
    }
    let folders = Folders::under(&source_config.data_dir);
    // For writing, so that no node appends meanwhile.
    let source = Backend::open(&source_config, &folders.log)?;
    let secrets = data::secrets(&source_config)?;
    // The target is bound to the secrets for ever, so they must be those under which the source was written.
    source.id(&source_config, &secrets)?;
    let target = Backend::open(&target_config, &folders.log)?;
    // The target becomes this store's, or turns out to be another's, before anything is written to it.
    target.id(&target_config, &secrets)?;
    let is_open = begin(&source, &target)?;
    let keys = copy_keys(&source_config, &secrets, &target)?;
    // Only now: while keys are written, a node may have begun to write.
    let begun = begun(&source, &target)?;
    failpoint::hit("copy.before_records");
    let records = copy_records(&source, &target, &begun)?;
    if let (true, Backend::Kafka(log)) = (is_open, &target) {
        log.subject_keys().end_copy()?;
    }
    target.close_now()?;
    source.close_now()?;
    if args.json {
        print_json(&json!({"records": records.copied, "already_there": records.present, "keys": keys}))?;
    } else {
        writeln!(
            std::io::stdout(),
            "{} records copied, {} were there already, {keys} keys, {} partitions. {AFTER_HELP}",
            records.copied,
            records.present,
            source_config.partitions
        )?;
    }
    Ok(())
}

/// Says in the target that it is not whole, so that no node begins on it; whether that is to be taken back at the end. A
/// target that is in use is refused before.
fn begin(source: &Backend, target: &Backend) -> Result<bool, Failure> {
    let mut before = begun(source, target)?;
    let Backend::Kafka(log) = target else {
        return Ok(false);
    };
    let topic = log.subject_keys();
    if before.iter().all(|at| at.offset == 0) {
        // Once is enough: it must stand before all keys.
        if !topic.is_half_copied()? {
            topic.begin_copy()?;
        }
        return Ok(true);
    }
    // What an earlier copy had under way may still come.
    loop {
        std::thread::sleep(SETTLED);
        let now = begun(source, target)?;
        if now == before {
            return Ok(topic.is_half_copied()?);
        }
        before = now;
    }
}

/// How far each partition was copied before. A target that is in use is refused, before anything is written to it: keys that
/// were destroyed there must not come back.
fn begun(source: &Backend, target: &Backend) -> Result<Vec<Position>, Failure> {
    let (from, to) = (source.log(), target.log());
    let mut begun = Vec::new();
    for stream in Stream::ALL {
        for partition in (0..from.partitions()).map(Partition) {
            begun.push(Position {
                stream,
                partition,
                offset: agreed(from.as_ref(), to.as_ref(), stream, partition)?,
            });
        }
    }
    Ok(begun)
}

/// Keys come before records: nobody may read a commit whose key is not there.
fn copy_keys(config: &Config, secrets: &Secrets, target: &Backend) -> Result<u64, Failure> {
    let master = MasterKey::new(*secrets.master_key.expose());
    let folder = Folders::under(&config.data_dir).keys;
    let Backend::Kafka(log) = target else {
        return Ok(0);
    };
    let keys = SubjectKeys::open_read_only(&folder, master).map_err(Failure::other)?;
    keys.copy_to(&log.subject_keys(), log.partitions())
        .map_err(|e| match e {
            KeySourceError::Unavailable(what) => broken_off("the keys", &what),
            e => Failure::other(e),
        })
}

#[derive(Default)]
struct Copied {
    copied: u64,
    present: u64,
}

fn copy_records(source: &Backend, target: &Backend, begun: &[Position]) -> Result<Copied, Failure> {
    let (from, to) = (source.log(), target.log());
    let mut done = Copied::default();
    let mut total = 0;
    for at in begun {
        done.present += at.offset;
        total += futures::executor::block_on(from.end(at.stream, at.partition))?;
    }
    let mut progress = Progress::new("records", total);
    let mut flying: VecDeque<Flying> = VecDeque::new();
    let mut bytes = 0;
    for entry in from.read_to_end(begun)? {
        let entry = entry?;
        let (at, size) = (entry.position, entry.record.value.len());
        let answer = to.append(at.stream, at.partition, entry.record);
        flying.push_back(Flying { at, size, answer });
        bytes += size;
        while flying.len() >= IN_FLIGHT || bytes > BYTES_IN_FLIGHT {
            bytes -= land(&mut flying)?;
        }
        done.copied += 1;
        if done.copied.is_multiple_of(1024) {
            progress.set(done.present + done.copied);
        }
    }
    while !flying.is_empty() {
        land(&mut flying)?;
    }
    progress.finish();
    Ok(done)
}

struct Flying {
    at: Position,
    size: usize,
    answer: BoxFuture<'static, Result<Position, AppendError>>,
}

/// Waits for the oldest append, which must have come to stand where it stood. Its size.
fn land(flying: &mut VecDeque<Flying>) -> Result<usize, Failure> {
    let Some(Flying { at, size, answer }) = flying.pop_front() else {
        return Ok(0);
    };
    match futures::executor::block_on(answer) {
        Ok(position) if position == at => Ok(size),
        Ok(position) => Err(differs(position, "a record came to stand at another offset")),
        Err(AppendError::Refused(what)) => Err(Failure::Log(LogError::Refused {
            place: "Kafka".to_owned(),
            what,
        })),
        Err(e) => Err(broken_off(&format!("the record at {at}"), &e.to_string())),
    }
}

fn broken_off(what: &str, why: &str) -> Failure {
    Failure::Log(LogError::Unreachable {
        place: "Kafka".to_owned(),
        what: format!("{what} could not be copied: {why}. Run the command again to go on"),
    })
}

fn differs(at: Position, what: &str) -> Failure {
    Failure::Other(format!(
        "{what}, at {at} of the target: it is not empty, or somebody else writes it. Remove its topics, or choose another \
         --kafka-topic-prefix (GATELOG_KAFKA_TOPIC_PREFIX)"
    ))
}

/// How many records of a partition the target holds, all as in the source.
fn agreed(
    from: &dyn EventLog,
    to: &dyn EventLog,
    stream: Stream,
    partition: Partition,
) -> Result<Offset, Failure> {
    let end = futures::executor::block_on(to.end(stream, partition))?;
    if end == 0 {
        return Ok(0);
    }
    let last = Position {
        stream,
        partition,
        offset: end - 1,
    };
    // The ends suffice: the target was written in order, by an earlier copy or by somebody else.
    for at in [Position { offset: 0, ..last }, last] {
        if futures::executor::block_on(from.end(stream, partition))? <= at.offset {
            return Err(differs(at, "the target holds more than the source"));
        }
        if one(from, at)?.record != one(to, at)?.record {
            return Err(differs(at, "a record differs"));
        }
    }
    Ok(end)
}

fn one(log: &dyn EventLog, at: Position) -> Result<Entry, Failure> {
    let mut entries = log.read(at.stream, at.partition, at.offset);
    let entry = futures::executor::block_on(entries.next()).unwrap_or(Err(LogError::Closed))?;
    if entry.position == at {
        Ok(entry)
    } else {
        Err(differs(at, "a record is missing"))
    }
}
