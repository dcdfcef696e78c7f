//! The spool's file: appended by one thread, with one fsync for all that came while the last one ran.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use gatelog_events::failpoint;
use gatelog_events::ids::{CommitId, SessionId, UserId};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::entry::Entry;
use super::format::{self, Fault, HEADER};
use super::waiting::{Place, Waiting, Window};
use super::{SpoolConfig, SpoolError, io as io_error};
use crate::auth::private_file;

/// The file's name in the spool's folder.
const FILE: &str = "logins";

/// Logins that may wait for the disk.
const QUEUE: usize = 4096;

/// Logins that share one fsync at most.
const BATCH: usize = 1024;

struct Shared {
    path: PathBuf,
    file: File,
    waiting: Mutex<Waiting>,
    /// How many wait.
    count: watch::Sender<usize>,
}

impl Shared {
    fn read(&self, place: Place) -> Result<Entry, SpoolError> {
        let mut bytes = vec![0; place.len];
        self.file
            .read_exact_at(&mut bytes, place.at)
            .map_err(|e| io_error(&self.path, e))?;
        let body = format::body(&bytes).ok_or_else(|| SpoolError::Damaged {
            place: self.path.display().to_string(),
            at: place.at,
            what: "an entry is not what was written",
            sound: 0,
        })?;
        let entry = Entry::read(body)?;
        // The file may have been emptied meanwhile, and been written anew.
        if entry.session_id() != place.session {
            return Err(SpoolError::Entry("another one stands in its place".to_owned()));
        }
        Ok(entry)
    }

    fn change(&self, change: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.waiting.lock();
        change(&mut waiting);
        self.count.send_replace(waiting.len());
    }
}

type Reply = oneshot::Sender<Result<(), SpoolError>>;

/// An entry on its way to the disk.
struct Append {
    body: Vec<u8>,
    user: UserId,
    session: SessionId,
    commit: Option<CommitId>,
    reply: Reply,
}

enum Job {
    Append(Append),
    /// What stands at these places is in the log, or will never be.
    Drained(Vec<u64>, oneshot::Sender<()>),
}

/// Logins that wait to be recorded.
pub struct Spool {
    shared: Arc<Shared>,
    jobs: Option<mpsc::SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Spool {
    /// Opens the spool in a folder, and repairs a torn tail. Without a configuration it is opened only if it is there, to
    /// be drained, and takes nothing. Blocks.
    pub fn open(folder: &Path, config: Option<SpoolConfig>) -> Result<Option<Self>, SpoolError> {
        let path = folder.join(FILE);
        let exists = path.try_exists().map_err(|e| io_error(&path, e))?;
        if !exists && config.is_none() {
            return Ok(None);
        }
        if !exists {
            private_file::create_folder(folder)?;
            private_file::create(&path, &format::header())?;
        }
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        let file = opened.map_err(|e| io_error(&path, e))?;
        let (waiting, end) = recover(&path, &file)?;
        let shared = Arc::new(Shared {
            count: watch::channel(waiting.len()).0,
            path,
            file,
            waiting: Mutex::new(waiting),
        });
        let appender = Appender {
            shared: shared.clone(),
            end,
            max_bytes: config.map_or(0, |c| c.max_bytes),
            broken: false,
        };
        let (jobs, queue) = mpsc::sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || appender.run(&queue))
            .map_err(|e| io_error(&shared.path, e))?;
        Ok(Some(Self {
            shared,
            jobs: Some(jobs),
            thread: Some(thread),
        }))
    }

    /// Appends an entry; it is durable when this returns.
    pub async fn append(
        &self,
        body: Vec<u8>,
        session: SessionId,
        commit: Option<CommitId>,
    ) -> Result<(), SpoolError> {
        // What could not be read again must not be acknowledged.
        let user = Entry::read(&body)?.user();
        let (reply, answer) = oneshot::channel();
        let append = Append {
            body,
            user,
            session,
            commit,
            reply,
        };
        let jobs = self.jobs.as_ref().ok_or(SpoolError::Broken)?;
        jobs.try_send(Job::Append(append)).map_err(|e| match e {
            mpsc::TrySendError::Full(_) => SpoolError::Busy,
            mpsc::TrySendError::Disconnected(_) => SpoolError::Broken,
        })?;
        answer.await.unwrap_or(Err(SpoolError::Broken))
    }

    /// Entries in a part of the file that may be sent at once: see [`Waiting::window`].
    pub fn window(&self, part: Range<u64>, at_most: usize, is_blocked: impl Fn(UserId) -> bool) -> Window {
        self.shared.waiting.lock().window(part, at_most, is_blocked)
    }

    /// A place behind all entries that wait now.
    pub fn end(&self) -> u64 {
        self.shared.waiting.lock().end()
    }

    /// Reads an entry that waits.
    ///
    /// Errors: `Io`, `Damaged`, or `Entry` where it is not of its form.
    pub fn read(&self, place: Place) -> Result<Entry, SpoolError> {
        self.shared.read(place)
    }

    /// Takes note that the entries at these places are settled.
    pub async fn drained(&self, settled: Vec<u64>) {
        let (done, is_done) = oneshot::channel();
        let Some(jobs) = self.jobs.clone() else { return };
        // The queue may be full of logins, and each needs the disk.
        let _ = tokio::task::spawn_blocking(move || jobs.send(Job::Drained(settled, done))).await;
        let _ = is_done.await;
    }

    /// Whether a session waits here.
    pub fn holds(&self, session: SessionId) -> bool {
        self.shared.waiting.lock().holds(session)
    }

    /// The entry of a request with an idempotency key, if it waits here.
    pub fn entry_of(&self, commit: CommitId) -> Option<Entry> {
        let place = self.shared.waiting.lock().of(commit)?;
        // It may have been drained, and the file emptied, just now.
        self.shared.read(place).ok()
    }

    /// How many entries wait.
    pub fn len(&self) -> usize {
        self.shared.waiting.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the entries that wait.
    pub fn bytes(&self) -> u64 {
        self.shared.waiting.lock().bytes()
    }

    /// Tells of every change of their number.
    pub fn count(&self) -> watch::Receiver<usize> {
        self.shared.count.subscribe()
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads what the file holds, cuts a torn tail off, and says where the next entry goes.
fn recover(path: &Path, file: &File) -> Result<(Waiting, u64), SpoolError> {
    let bytes = std::fs::read(path).map_err(|e| io_error(path, e))?;
    let damaged = |at: usize, what, sound| SpoolError::Damaged {
        place: path.display().to_string(),
        at: at as u64,
        what,
        sound,
    };
    let scan = format::scan(&bytes).map_err(|fault| match fault {
        Fault::Foreign => SpoolError::Foreign {
            place: path.display().to_string(),
        },
        Fault::Damaged { at, what, sound } => damaged(at, what, sound),
    })?;
    let mut waiting = Waiting::default();
    for (sound, body) in scan.bodies.into_iter().enumerate() {
        let at = body.start - format::ENTRY_HEADER;
        let entry = Entry::read(&bytes[body.clone()])
            .map_err(|_| damaged(at, "an entry is not of its form, or of a newer version", sound))?;
        waiting.push(Place {
            at: at as u64,
            len: body.end - at,
            user: entry.user(),
            session: entry.session_id(),
            commit: entry.commit_id(),
        });
    }
    if scan.end < bytes.len() {
        let cut = bytes.len() - scan.end;
        tracing::warn!(file = %path.display(), at = scan.end, bytes = cut, "an entry that was never finished is cut off");
        file.set_len(scan.end as u64)
            .and_then(|()| file.sync_all())
            .map_err(|e| io_error(path, e))?;
    }
    if !waiting.is_empty() {
        tracing::info!(
            logins = waiting.len(),
            "logins of an earlier run wait to be recorded"
        );
    }
    Ok((waiting, scan.end as u64))
}

/// The only one who changes the file.
struct Appender {
    shared: Arc<Shared>,
    /// Where the next entry goes; all before is durable.
    end: u64,
    max_bytes: u64,
    /// The file could not be brought back to what is known of it.
    broken: bool,
}

impl Appender {
    fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let mut batch = Vec::new();
            let mut next = Some(first);
            while let Some(job) = next.take() {
                match job {
                    Job::Append(append) => batch.push(append),
                    Job::Drained(settled, done) => {
                        self.write(std::mem::take(&mut batch));
                        self.remove(&settled);
                        let _ = done.send(());
                    }
                }
                if batch.len() < BATCH {
                    next = jobs.try_recv().ok();
                }
            }
            self.write(batch);
        }
    }

    fn write(&mut self, batch: Vec<Append>) {
        let mut bytes = Vec::new();
        let mut taken = Vec::with_capacity(batch.len());
        for Append {
            body,
            user,
            session,
            commit,
            reply,
        } in batch
        {
            let at = self.end + bytes.len() as u64;
            let len = format::ENTRY_HEADER + body.len();
            if self.broken || at + len as u64 > self.max_bytes {
                let why = if self.broken {
                    SpoolError::Broken
                } else {
                    SpoolError::Full
                };
                let _ = reply.send(Err(why));
                continue;
            }
            format::put(&mut bytes, &body);
            let place = Place {
                at,
                len,
                user,
                session,
                commit,
            };
            taken.push((place, reply));
        }
        if taken.is_empty() {
            return;
        }
        match self.try_write(&bytes) {
            Ok(()) => {
                self.shared
                    .change(|waiting| taken.iter().for_each(|(place, _)| waiting.push(*place)));
                for (_, reply) in taken {
                    let _ = reply.send(Ok(()));
                }
            }
            Err(e) => {
                tracing::error!(file = %self.shared.path.display(), error = %e, "logins could not be kept");
                self.cut_back();
                for (_, reply) in taken {
                    let _ = reply.send(Err(io_error(&self.shared.path, io::Error::from(e.kind()))));
                }
            }
        }
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.shared.file.write_all_at(bytes, self.end)?;
        self.shared.file.sync_data()?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// What was not acknowledged must not stay: its login was refused.
    fn cut_back(&mut self) {
        let file = &self.shared.file;
        if let Err(e) = file.set_len(self.end).and_then(|()| file.sync_all()) {
            self.broken = true;
            tracing::error!(file = %self.shared.path.display(), error = %e, "the spool takes no more logins until the next start");
        }
    }

    /// Forgets what is settled, and empties the file with the last. A crash before that sends all again.
    fn remove(&mut self, settled: &[u64]) {
        self.shared
            .change(|waiting| settled.iter().for_each(|at| waiting.settle(*at)));
        if !self.shared.waiting.lock().is_empty() || self.end == HEADER as u64 {
            return;
        }
        failpoint::hit("spool.before_removal");
        let file = &self.shared.file;
        match file.set_len(HEADER as u64).and_then(|()| file.sync_all()) {
            Ok(()) => self.end = HEADER as u64,
            Err(e) => {
                tracing::error!(file = %self.shared.path.display(), error = %e, "the spool could not be emptied; its logins are in the log all the same");
            }
        }
    }
}

#[cfg(test)]
mod tests;
