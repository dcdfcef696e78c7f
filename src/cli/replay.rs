//! `gatelog replay`: the events of the log as NDJSON, or one user's state as it was.

use std::io::{BufWriter, Write};

use gatelog_events::clock::Timestamp;
use gatelog_events::codec;
use gatelog_events::commit::Commit;
use gatelog_events::ids::{Partition, Position, Stream, UserId};
use gatelog_events::log::fence::{Progress, Verdict};
use gatelog_events::log::{Entry, EntryIter};
use gatelog_events::seal::KeySource;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::HashMap;

use super::{Failure, as_of, data};

/// What to print.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: data::Args,
    /// Start at this position; only its partition is printed
    #[arg(long, value_name = "STREAM:PARTITION:OFFSET", conflicts_with_all = ["stream", "partition"])]
    from: Option<Position>,
    /// Only this stream: identity or activity
    #[arg(long, value_parser = stream)]
    stream: Option<Stream>,
    /// Only this partition
    #[arg(long)]
    partition: Option<u16>,
    /// Only events about this user
    #[arg(long, value_name = "ID")]
    user: Option<UserId>,
    /// Print at most this many events
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Also print records that do not count, such as those of a writer that was replaced, marked "void": true
    #[arg(long)]
    all: bool,
    /// Open the personal parts; whoever sees the output sees personal data
    #[arg(long)]
    open: bool,
    /// Print this user's state at a moment in the past, as GET /v1/users/{id} would have answered
    #[arg(long, value_name = "TIME", requires = "user", conflicts_with_all = ["from", "stream", "partition", "limit", "all", "open"])]
    as_of: Option<Timestamp>,
    /// Output is JSON in any case; for symmetry with other commands
    #[arg(long)]
    json: bool,
}

fn stream(text: &str) -> Result<Stream, String> {
    Stream::ALL
        .into_iter()
        .find(|s| s.name() == text)
        .ok_or_else(|| "expected identity or activity".to_owned())
}

pub fn run(args: Args) -> Result<(), Failure> {
    let config = args.data.load()?.config;
    if let (Some(time), Some(user)) = (args.as_of, args.user) {
        return as_of::run(&config, user, time);
    }
    let backend = data::read_only(&config)?;
    // Whether a record counts follows from all before it, so all is read, whatever is printed.
    let entries = backend.log().read_to_end(&[])?;
    let keys = if args.open {
        let secrets = data::secrets(&config)?;
        Some(data::read_keys(&config, &secrets, &backend, args.user)?)
    } else {
        None
    };
    let printer = Printer {
        out: BufWriter::with_capacity(1 << 16, std::io::stdout().lock()),
        keys: keys.as_deref(),
        left: args.limit.unwrap_or(u64::MAX),
    };
    print(&args, entries, printer)
}

struct Printer<'a, W> {
    out: W,
    keys: Option<&'a dyn KeySource>,
    left: u64,
}

fn print<W: Write>(args: &Args, entries: EntryIter, mut printer: Printer<'_, W>) -> Result<(), Failure> {
    let wanted_user = args.user.map(|id| format!("\"subject\":\"{id}\""));
    let mut places: HashMap<(Stream, Partition), Progress> = HashMap::new();
    for entry in entries {
        let entry = entry?;
        let at = entry.position;
        let verdict = places
            .entry((at.stream, at.partition))
            .or_default()
            .pass(at.offset, &entry.record.header);
        let shown = match verdict {
            Verdict::Claim => false,
            Verdict::Commit => true,
            Verdict::Void => args.all,
        };
        if !shown || !args.wants(at) {
            continue;
        }
        if wanted_user.as_ref().is_some_and(|w| !contains(&entry, w)) {
            continue;
        }
        printer.commit(&entry, verdict == Verdict::Void)?;
        if printer.left == 0 {
            break;
        }
    }
    printer.out.flush()?;
    Ok(())
}

impl Args {
    fn wants(&self, at: Position) -> bool {
        match self.from {
            Some(from) => {
                at.stream == from.stream && at.partition == from.partition && at.offset >= from.offset
            }
            None => {
                self.stream.is_none_or(|s| s == at.stream)
                    && self.partition.is_none_or(|p| p == at.partition.0)
            }
        }
    }
}

/// Whether a record's value mentions a text. A quotation mark within a string is escaped, so a member's name and value
/// are found as such only.
pub fn contains(entry: &Entry, text: &str) -> bool {
    std::str::from_utf8(&entry.record.value).is_ok_and(|value| value.contains(text))
}

impl<W: Write> Printer<'_, W> {
    fn commit(&mut self, entry: &Entry, void: bool) -> Result<(), Failure> {
        let damaged =
            |e: &dyn std::fmt::Display| Failure::Other(format!("the commit at {}: {e}", entry.position));
        let events: Vec<&RawValue> = serde_json::from_slice(&entry.record.value)
            .map_err(|_| damaged(&"it is not a batch of CloudEvents"))?;
        let mut opened = match self.keys {
            Some(keys) => {
                let mut commit = codec::decode(entry.record.header.commit_id, &entry.record.value)
                    .map_err(|e| damaged(&e))?;
                codec::open(&mut commit, keys).map_err(|e| damaged(&e))?;
                Some(commit)
            }
            None => None,
        };
        for (i, event) in events.iter().enumerate() {
            if self.left == 0 {
                return Ok(());
            }
            self.left -= 1;
            let header = &entry.record.header;
            write!(
                self.out,
                "{{\"position\":\"{}\",\"commitid\":\"{}\",\"epoch\":{},\"seq\":{},",
                entry.position, header.commit_id, header.epoch, header.seq
            )?;
            if void {
                self.out.write_all(b"\"void\":true,")?;
            }
            let text = match &mut opened {
                Some(commit) => with_content(event.get(), commit, i).map_err(|e| damaged(&e))?,
                None => event.get().to_owned(),
            };
            // What the members above are put before is the rest of the same object.
            self.out.write_all(&text.as_bytes()[1..])?;
            self.out.write_all(b"\n")?;
        }
        Ok(())
    }
}

/// The event with its personal part opened, or null where it was erased.
fn with_content(event: &str, commit: &mut Commit, i: usize) -> Result<String, serde_json::Error> {
    let mut value: Value = serde_json::from_str(event)?;
    let personal = commit.events.get_mut(i).and_then(|e| e.event.personal());
    if let (Some(personal), Some(data)) = (personal, value["data"].as_object_mut()) {
        data.remove("sealed");
        data.insert("opened".to_owned(), json!(personal.content()));
    }
    serde_json::to_string(&value)
}
