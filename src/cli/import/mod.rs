//! `gatelog import`: users of another system, with the password hashes they have.
//!
//! ```text
//!  reader ──batches──▶ workers: check, look up, make ids, store keys (one sync per batch)
//!     └──────order of batches──────▶ submitter ──▶ writer, several batches in flight ──▶ counts, bookmark
//! ```
//!
//! Memory is bounded by the batches in flight. What was imported is known by its address, so a second run never
//! duplicates; ids are random, so that nobody can tell from the log whether an address was ever here.

mod bookmark;
mod prepare;
mod row;
mod source;

use std::fs::File;
use std::io::{BufReader, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{self, BoxFuture};
use gatelog_events::domain::{Rejection, user};
use gatelog_events::ids::{Partition, Stream};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use self::bookmark::{Bookmark, Store};
use self::prepare::{Prepared, Row};
use self::row::Problem;
use self::source::{Batch, Source};
use super::progress::Progress;
use super::{Exit, Failure, block_on, data, print_json};
use crate::node::{Node, Started};
use crate::writer::WriteError;

/// Batches that are read ahead of the writer, and batches in flight there.
const AHEAD: usize = 8;
/// Batches between two bookmarks.
const BOOKMARK_EVERY: u64 = 64;

/// What to import.
#[derive(Debug, clap::Args)]
#[command(after_help = FORMAT)]
pub struct Args {
    /// File with one JSON object per line
    file: PathBuf,
    #[command(flatten)]
    data: data::Args,
    /// Where to write one line for each rejected row, instead of standard error
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
}

const FORMAT: &str = r#"A row: {"email", "password_hash"?, "email_verified"?, "created_at"?, "locale"?, "profile"?: {"given_name", …},
  "plan"?, "roles"?: […], "disabled"?, "external_id"?,
  "consents"?: [{"purpose", "channel", "granted", "notice": {"id", "version", "language"}, "time"?}]}
The choice of a consent counts from created_at on, or from now where that is absent; its time is kept as a note of evidence.
Hashes: Argon2, bcrypt, scrypt, PBKDF2 and other common forms; they are renewed at the next login.
A second run goes on where the first ended, or near its first rejected row. Rows are known by their addresses: none is
imported twice, but for who changed theirs or was erased since.
The node must not be running meanwhile.
The log must be the embedded one; `gatelog log copy` moves it to Kafka afterwards."#;

/// What became of the rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    imported: u64,
    present: u64,
    rejected: u64,
}

impl Counts {
    fn rows(&self) -> u64 {
        self.imported + self.present + self.rejected
    }
}

/// In Kafka a node owns nothing before its group says so, and an import does not wait for that.
fn only_embedded() -> Failure {
    Failure::Usage(
        "users are imported into an embedded log: import with GATELOG_LOG=embedded first, and then move it \
         with `gatelog log copy --to kafka`"
            .to_owned(),
    )
}

pub fn run(args: Args) -> Result<(), Failure> {
    let mut config = args.data.load()?.config;
    if config.kafka.is_some() {
        return Err(only_embedded());
    }
    // A new folder is created; an existing one keeps its partitions.
    if let Ok(existing) = args.data.existing() {
        config.partitions = existing.partitions;
    }
    let mut file = File::open(&args.file)
        .map_err(|e| Failure::Usage(format!("{} cannot be read: {e}", args.file.display())))?;
    let mark = bookmark::path(&config.data_dir, &args.file);
    let started = Started::open(config)?;
    // Only now: what an earlier run rejected stays where this one cannot begin.
    let rejects = Rejects::open(args.rejects.as_deref(), &file)?;
    let found = futures::executor::block_on(store(&started.node))?;
    let begun = Bookmark::load(&mark, &mut file, &found);
    let import = Import {
        mark,
        file: args.file.clone(),
        rejects,
        counts: Counts::default(),
        settled: None,
        progress: Progress::new("rows", 0),
    };
    let (line, offset) = begun.map_or((1, 0), |b| (b.line, b.offset));
    file.seek(SeekFrom::Start(offset))?;
    let source = Source::new(BufReader::with_capacity(1 << 20, file), line, offset);
    let node = started.node.clone();
    let counts = block_on(async {
        let imported = import.run(node, source).await;
        started.close().await?;
        imported
    })?;
    tell(&counts, line - 1, args.json)
}

/// The store of a node as it is now.
async fn store(node: &Node) -> Result<Store, Failure> {
    let log = node.backend.embedded().ok_or_else(only_embedded)?.log_id();
    let mut records = 0;
    for partition in (0..node.log.partitions()).map(Partition) {
        records += node.log.end(Stream::Identity, partition).await?;
    }
    Ok(Store { log, records })
}

fn tell(counts: &Counts, passed_over: u64, as_json: bool) -> Result<(), Failure> {
    if as_json {
        print_json(&json!({
            "imported": counts.imported,
            "already_there": counts.present,
            "rejected": counts.rejected,
            "lines_of_an_earlier_run": passed_over,
        }))?;
    } else {
        writeln!(
            std::io::stdout(),
            "{} imported, {} already there, {} rejected; {passed_over} lines were settled by an earlier run.",
            counts.imported,
            counts.present,
            counts.rejected
        )?;
    }
    if counts.rejected > 0 {
        return Err(Failure::Told(Exit::Rejected));
    }
    Ok(())
}

/// Where rejected rows are told.
struct Rejects(Box<dyn Write + Send>);

impl Rejects {
    /// A file is begun anew: no earlier run goes past a row that it rejected, so each is told again.
    fn open(path: Option<&Path>, input: &File) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self(Box::new(std::io::stderr())));
        };
        let of = |found: std::fs::Metadata| (found.dev(), found.ino());
        if std::fs::metadata(path).is_ok_and(|there| input.metadata().is_ok_and(|it| of(there) == of(it))) {
            return Err(Failure::Usage(format!(
                "--rejects names {}, which is the file to import; name another",
                path.display()
            )));
        }
        let file = File::create(path)
            .map_err(|e| Failure::Usage(format!("{} cannot be written: {e}", path.display())))?;
        Ok(Self(Box::new(BufWriter::new(file))))
    }

    fn tell(&mut self, line: u64, found: &Problem) -> Result<(), Failure> {
        let told = json!({"line": line, "field": found.field, "problem": found.problem});
        writeln!(self.0, "{told}")?;
        Ok(())
    }
}

/// What a batch came to, row by row.
struct Settled {
    rows: Vec<(u64, Result<Fate, Problem>)>,
    end: u64,
}

enum Fate {
    Imported,
    Present,
    Empty,
}

struct Import {
    mark: PathBuf,
    file: PathBuf,
    rejects: Rejects,
    counts: Counts,
    /// Up to where nothing has to be looked at again: offset, and number of the line there.
    settled: Option<(u64, u64)>,
    progress: Progress,
}

type InOrder<T> = mpsc::Receiver<oneshot::Receiver<T>>;

impl Import {
    async fn run<R: std::io::BufRead + Send + 'static>(
        mut self,
        node: Arc<Node>,
        source: Source<R>,
    ) -> Result<Counts, Failure> {
        let prepared = read_and_prepare(&node, source);
        let mut settled = submit(node.clone(), prepared);
        let mut batches = 0u64;
        while let Some(batch) = settled.recv().await {
            let batch = batch.await.map_err(|_| ended_early())??;
            let line = batch.rows.last().map_or(0, |(line, _)| line + 1);
            self.count(&batch)?;
            // What was rejected is looked at again when its cause was mended, with all that follows.
            if self.counts.rejected == 0 {
                self.settled = Some((batch.end, line));
            }
            batches += 1;
            if batches.is_multiple_of(BOOKMARK_EVERY) {
                self.bookmark(&node).await?;
            }
        }
        self.bookmark(&node).await?;
        self.progress.finish();
        Ok(self.counts)
    }

    fn count(&mut self, batch: &Settled) -> Result<(), Failure> {
        for (line, fate) in &batch.rows {
            match fate {
                Ok(Fate::Imported) => self.counts.imported += 1,
                Ok(Fate::Present) => self.counts.present += 1,
                Ok(Fate::Empty) => {}
                Err(found) => {
                    self.counts.rejected += 1;
                    self.rejects.tell(*line, found)?;
                }
            }
        }
        self.progress.set(self.counts.rows());
        Ok(())
    }

    /// Keeps how far all is settled, and tells what was rejected so far.
    async fn bookmark(&mut self, node: &Node) -> Result<(), Failure> {
        self.rejects.0.flush()?;
        if let Some((offset, line)) = self.settled {
            let store = store(node).await?;
            Bookmark::new(&mut File::open(&self.file)?, offset, line, store)?.save(&self.mark)?;
        }
        Ok(())
    }
}

fn ended_early() -> Failure {
    Failure::Other("a part of the import ended early; run it again to go on".to_owned())
}

type Work = (Batch, oneshot::Sender<Result<Prepared, Failure>>);

/// Starts the reader and the workers; their batches come in the order of the file.
fn read_and_prepare<R: std::io::BufRead + Send + 'static>(
    node: &Arc<Node>,
    mut source: Source<R>,
) -> InOrder<Result<Prepared, Failure>> {
    let (order, ordered) = mpsc::channel(AHEAD);
    let (work, todo) = std::sync::mpsc::sync_channel::<Work>(AHEAD);
    let todo = Arc::new(parking_lot::Mutex::new(todo));
    for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get().clamp(1, 4)) {
        let (node, todo) = (node.clone(), todo.clone());
        tokio::task::spawn_blocking(move || {
            loop {
                let next = todo.lock().recv();
                let Ok((batch, done)) = next else { return };
                let _ = done.send(prepare::prepare(&node, batch));
            }
        });
    }
    tokio::task::spawn_blocking(move || {
        loop {
            let (done, result) = oneshot::channel();
            let batch = match source.next() {
                Ok(Some(batch)) => batch,
                Ok(None) => return,
                Err(e) => {
                    let _ = done.send(Err(e.into()));
                    let _ = order.blocking_send(result);
                    return;
                }
            };
            // Either fails only when the import has failed elsewhere.
            if order.blocking_send(result).is_err() || work.send((batch, done)).is_err() {
                return;
            }
        }
    });
    ordered
}

/// Hands the batches to the writer, several at once, and settles them in their order.
fn submit(
    node: Arc<Node>,
    mut prepared: InOrder<Result<Prepared, Failure>>,
) -> InOrder<Result<Settled, Failure>> {
    let (order, ordered) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        while let Some(batch) = prepared.recv().await {
            let (done, result) = oneshot::channel();
            if order.send(result).await.is_err() {
                return;
            }
            let batch = match batch.await {
                Ok(Ok(batch)) => batch,
                Ok(Err(e)) => {
                    let _ = done.send(Err(e));
                    return;
                }
                Err(_) => return,
            };
            // Handed in here, in the order of the file: of two rows with one address the first is taken.
            let handed = hand_in(&node, batch).await;
            tokio::spawn(async move {
                let _ = done.send(settle(handed).await);
            });
        }
    });
    ordered
}

/// A batch of which the new rows are with the writer.
struct Handed {
    rows: Vec<(u64, Answer)>,
    end: u64,
}

type Answer = BoxFuture<'static, Result<Fate, Outcome>>;

/// Why a row did not become a user.
enum Outcome {
    Wrong(Problem),
    Failed(Failure),
}

async fn hand_in(node: &Node, batch: Prepared) -> Result<Handed, Failure> {
    let mut rows = Vec::with_capacity(batch.rows.len());
    for (line, row) in batch.rows {
        let answer: Answer = match row {
            Row::Wrong(found) => future::ready(Err(Outcome::Wrong(found))).boxed(),
            Row::Present => future::ready(Ok(Fate::Present)).boxed(),
            Row::Empty => future::ready(Ok(Fate::Empty)).boxed(),
            Row::New(request) => {
                let answer = node.writer.hand_in(*request).await.map_err(Failure::other)?;
                answer
                    .map(|answer| answer.map(|_| Fate::Imported).map_err(refused_row))
                    .boxed()
            }
        };
        rows.push((line, answer));
    }
    Ok(Handed { rows, end: batch.end })
}

fn refused_row(e: WriteError) -> Outcome {
    match e {
        WriteError::Rejected(rejection) => Outcome::Wrong(refused(&rejection)),
        WriteError::TooLarge { .. } => Outcome::Wrong(Problem::new("", "the row is too large")),
        e => Outcome::Failed(Failure::other(e)),
    }
}

async fn settle(handed: Result<Handed, Failure>) -> Result<Settled, Failure> {
    let Handed { rows, end } = handed?;
    let mut settled = Vec::with_capacity(rows.len());
    for (line, answer) in rows {
        let fate = match answer.await {
            Ok(fate) => Ok(fate),
            Err(Outcome::Wrong(found)) => Err(found),
            Err(Outcome::Failed(e)) => return Err(e),
        };
        settled.push((line, fate));
    }
    Ok(Settled { rows: settled, end })
}

/// What the domain refused, without values.
fn refused(rejection: &Rejection) -> Problem {
    match rejection {
        Rejection::User(user::Rejection::AddressTaken) => Problem::new(
            "email",
            "the address belongs to another account, or stands in an earlier row",
        ),
        Rejection::Plan(_) => Problem::new("plan", "there is no such plan in the catalogue"),
        Rejection::Consent(_) => Problem::new("consents", "a purpose or a notice is not defined"),
        other => Problem::new("", other),
    }
}
