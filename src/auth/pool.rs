//! The password pool: a fixed number of threads that hash and verify, bounded in threads, memory and waiting time.
//!
//! A fresh Argon2 buffer costs up to half of a hash in page faults, so each thread keeps one for its life. Jobs are
//! taken first in, first out; beyond the bound they are refused at once, which keeps the wait of those admitted short.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use gatelog_events::clock;
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use tokio::sync::oneshot;
use zeroize::Zeroize;

use self::queue::Queue;
use super::imported::{self, HashFormatError, StoredHash};
use super::{NoRandomness, Password, random};

mod queue;

/// Cost of a new hash (RFC 9106). The default is OWASP's: 19 MiB, two iterations, one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argon2Params {
    /// Memory in KiB; each thread of the pool holds this much for good.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub iterations: u32,
    /// Lanes; computed one after the other here.
    pub lanes: u32,
}

impl Default for Argon2Params {
    fn default() -> Self {
        Self {
            memory_kib: 19 * 1024,
            iterations: 2,
            lanes: 1,
        }
    }
}

/// Size and bound of a pool.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// Hashing threads.
    pub threads: usize,
    /// Nobody is admitted who would have to wait longer, going by the measured cost of a hash.
    pub max_wait: Duration,
    /// What a new hash costs.
    pub params: Argon2Params,
    /// How far the threads' priority is lowered (Linux nice value), so that cheap requests are not kept waiting.
    pub niceness: i32,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            max_wait: Duration::from_secs(2),
            params: Argon2Params::default(),
            niceness: 5,
        }
    }
}

/// An Argon2id hash as a PHC string. Personal data: no `Debug`, and wiped when dropped.
#[derive(Clone, PartialEq, Eq, zeroize::ZeroizeOnDrop)]
pub struct PhcString(String);

impl PhcString {
    /// The text to store, sealed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a verification found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// The password is right.
    pub ok: bool,
    /// It is right, and the stored hash is of another family or other parameters than new hashes are.
    pub needs_rehash: bool,
}

/// Why the pool gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The queue is as long as it may be. Answer 503 with Retry-After.
    #[error("too many passwords are waiting to be checked; try again in {} s", .retry_after.as_secs_f32().ceil())]
    Overloaded { retry_after: Duration },
    /// The pool has ended.
    #[error("the password pool has ended")]
    Closed,
    /// The stored hash cannot be read; it should have been refused when it was imported.
    #[error("a stored password hash cannot be read: {0}")]
    Stored(#[from] HashFormatError),
    /// The parameters are not valid for Argon2.
    #[error("the configured Argon2 parameters are not valid")]
    InvalidParams,
    /// The system refused a thread.
    #[error("a thread of the password pool could not be started")]
    Threads,
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// The pool. Dropping it drops what is queued, lets running hashes finish and ends its threads.
pub struct HashPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// What an unknown user's password is verified against.
    dummy: PhcString,
}

struct Shared {
    queue: Queue<Job>,
    params: argon2::Params,
    memory_kib: u32,
    threads: usize,
    max_wait: Duration,
    in_flight: AtomicUsize,
    /// Moving average of a job's cost in nanoseconds.
    cost: AtomicU64,
    /// Held by the one job that works outside its thread's own buffer.
    oversize: Mutex<()>,
}

enum Job {
    Hash {
        password: Password,
        salt: [u8; 16],
        reply: oneshot::Sender<Option<PhcString>>,
    },
    Verify {
        password: Password,
        stored: Box<StoredHash>,
        reply: oneshot::Sender<bool>,
    },
}

impl HashPool {
    /// Starts the threads. Each allocates its memory and measures itself with a first hash.
    pub fn start(config: PoolConfig) -> Result<Self, PoolError> {
        let Argon2Params {
            memory_kib,
            iterations,
            lanes,
        } = config.params;
        let output = Some(argon2::Params::DEFAULT_OUTPUT_LEN);
        let params = argon2::Params::new(memory_kib, iterations, lanes, output)
            .map_err(|_| PoolError::InvalidParams)?;
        let dummy = PhcString(imported::write_phc(&params, &random::<16>()?, &random::<32>()?));
        // Our own hashes must be within the bounds that any stored hash must keep.
        StoredHash::parse(dummy.as_str()).map_err(|_| PoolError::InvalidParams)?;
        let shared = Arc::new(Shared {
            queue: Queue::new(),
            params,
            memory_kib,
            threads: config.threads.max(1),
            max_wait: config.max_wait,
            in_flight: AtomicUsize::new(0),
            cost: AtomicU64::new(GUESSED_COST.as_nanos() as u64),
            oversize: Mutex::new(()),
        });
        let mut pool = Self {
            shared,
            threads: Vec::new(),
            dummy,
        };
        for n in 0..pool.shared.threads {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new()
                .name(format!("password-{n}"))
                .spawn(move || shared.work(config.niceness))
                .map_err(|_| PoolError::Threads)?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Hashes a new password with a fresh salt.
    pub async fn hash(&self, password: Password) -> Result<PhcString, PoolError> {
        let (reply, answer) = oneshot::channel();
        let salt = random()?;
        self.shared.submit(Job::Hash {
            password,
            salt,
            reply,
        })?;
        answer.await.ok().flatten().ok_or(PoolError::Closed)
    }

    /// Verifies a password against any stored form that [`StoredHash::parse`] reads.
    pub async fn verify(&self, password: Password, stored: &str) -> Result<Verified, PoolError> {
        let stored = Box::new(StoredHash::parse(stored)?);
        let outdated = !self.shared.is_current(&stored);
        let ok = self.compare(password.clone(), stored).await?;
        if outdated {
            // Most other families are cheaper: how soon it is answered must not tell who was imported, nor, where nobody is let
            // in, that the password was right.
            let dummy = Box::new(StoredHash::parse(self.dummy.as_str())?);
            self.compare(password, dummy).await?;
        }
        Ok(Verified {
            ok,
            needs_rehash: ok && outdated,
        })
    }

    async fn compare(&self, password: Password, stored: Box<StoredHash>) -> Result<bool, PoolError> {
        let (reply, answer) = oneshot::channel();
        self.shared.submit(Job::Verify {
            password,
            stored,
            reply,
        })?;
        answer.await.map_err(|_| PoolError::Closed)
    }

    /// Takes as long as verifying a wrong password of a known user, by doing the same. Call it for unknown users and for
    /// those who have no password, so that time tells nobody which addresses are registered.
    pub async fn verify_dummy(&self, password: Password) -> Result<(), PoolError> {
        self.verify(password, self.dummy.as_str()).await.map(drop)
    }

    /// Jobs waiting.
    pub fn queued(&self) -> usize {
        self.shared.queue.len()
    }

    /// Jobs being computed now.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// Jobs that may wait at present, by the bound on time.
    pub fn queue_limit(&self) -> usize {
        self.shared.queue_limit()
    }

    /// Threads.
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Bytes of Argon2 memory held. One imported hash at a time may use up to 256 MiB more.
    pub fn memory_bytes(&self) -> usize {
        self.shared.threads * self.shared.memory_kib as usize * 1024
    }

    /// Moving average of what a job costs a thread.
    pub fn mean_cost(&self) -> Duration {
        self.shared.mean_cost()
    }
}

impl Drop for HashPool {
    fn drop(&mut self) {
        self.shared.queue.close();
        for thread in self.threads.drain(..) {
            // A worker catches what panics inside it, so there is nothing to learn from joining.
            let _ = thread.join();
        }
    }
}

/// Assumed cost of a hash until the first one is measured.
const GUESSED_COST: Duration = Duration::from_millis(50);

/// However cheap hashing is, no more than this many wait per thread: a bound on memory.
const MAX_QUEUED_PER_THREAD: usize = 1024;

/// A thread without work for this long wipes its buffer. Wiping costs a tenth of a hash, too much to do after each.
const WIPE_AFTER: Duration = Duration::from_millis(50);

impl Shared {
    fn mean_cost(&self) -> Duration {
        Duration::from_nanos(self.cost.load(Ordering::Relaxed))
    }

    fn queue_limit(&self) -> usize {
        let per_thread = self.max_wait.as_nanos() / self.mean_cost().as_nanos().max(1);
        per_thread.clamp(1, MAX_QUEUED_PER_THREAD as u128) as usize * self.threads
    }

    fn submit(&self, job: Job) -> Result<(), PoolError> {
        let limit = self.queue_limit();
        self.queue
            .push(job, limit, Job::is_abandoned)
            .map_err(|refusal| match refusal {
                queue::Refusal::Closed => PoolError::Closed,
                queue::Refusal::Full => PoolError::Overloaded {
                    retry_after: self.mean_cost() * limit as u32 / self.threads as u32,
                },
            })
    }

    fn is_current(&self, stored: &StoredHash) -> bool {
        let p = &self.params;
        matches!(stored, StoredHash::Argon2(h) if h.has_params(p.m_cost(), p.t_cost(), p.p_cost()))
    }

    /// A thread's life.
    fn work(&self, niceness: i32) {
        lower_priority(niceness);
        let mut memory = vec![argon2::Block::default(); self.params.block_count()];
        self.measure(&mut memory);
        // Block by block: wiping a `Vec` as such would also empty it.
        while let Some(job) = self.queue.pop(WIPE_AFTER, || memory.iter_mut().zeroize()) {
            if job.is_abandoned() {
                continue;
            }
            let started = clock::monotonic();
            self.in_flight.fetch_add(1, Ordering::Relaxed);
            // A defect in a hash function must not cost a thread; its caller learns by the dropped reply.
            let answer = catch_unwind(AssertUnwindSafe(|| self.compute(&job, &mut memory)));
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            self.learn(started.elapsed());
            if let Ok(answer) = answer {
                job.answer(answer);
            }
        }
    }

    /// Touches the memory with one hash and takes the time of the next.
    fn measure(&self, memory: &mut [argon2::Block]) {
        let mut once = || self.hash(b"", &[0; 16], memory);
        once();
        let started = clock::monotonic();
        once();
        let cost = started.elapsed().as_nanos() as u64;
        self.cost.store(cost.max(1), Ordering::Relaxed);
    }

    fn learn(&self, cost: Duration) {
        let old = self.cost.load(Ordering::Relaxed);
        let new = (old * 15 + cost.as_nanos() as u64) / 16;
        self.cost.store(new.max(1), Ordering::Relaxed);
    }

    fn compute(&self, job: &Job, memory: &mut [argon2::Block]) -> Answer {
        match job {
            Job::Hash { password, salt, .. } => {
                Answer::Hash(self.hash(password.expose_secret().as_bytes(), salt, memory))
            }
            Job::Verify { password, stored, .. } => {
                let _one_at_a_time = (stored.memory_kib() > self.memory_kib).then(|| self.oversize.lock());
                Answer::Verify(stored.verify_with_memory(password.expose_secret().as_bytes(), memory))
            }
        }
    }

    fn hash(&self, password: &[u8], salt: &[u8; 16], memory: &mut [argon2::Block]) -> Option<PhcString> {
        let mut out = [0u8; argon2::Params::DEFAULT_OUTPUT_LEN];
        imported::argon2id(self.params.clone())
            .hash_password_into_with_memory(password, salt, &mut out, memory)
            .ok()?;
        let phc = imported::write_phc(&self.params, salt, &out);
        out.zeroize();
        Some(PhcString(phc))
    }
}

enum Answer {
    Hash(Option<PhcString>),
    Verify(bool),
}

impl Job {
    /// Whether nobody waits for the answer any more.
    fn is_abandoned(&self) -> bool {
        match self {
            Job::Hash { reply, .. } => reply.is_closed(),
            Job::Verify { reply, .. } => reply.is_closed(),
        }
    }

    /// Sends the answer; the caller may have gone in the meantime.
    fn answer(self, answer: Answer) {
        match (self, answer) {
            (Job::Hash { reply, .. }, Answer::Hash(phc)) => drop(reply.send(phc)),
            (Job::Verify { reply, .. }, Answer::Verify(ok)) => drop(reply.send(ok)),
            _ => {}
        }
    }
}

/// Best effort: a system that refuses leaves the thread at its priority.
#[cfg(target_os = "linux")]
pub(crate) fn lower_priority(niceness: i32) {
    if niceness > 0 {
        // On Linux the priority belongs to the thread, and a thread's id is accepted where POSIX has a process'.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), niceness);
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn lower_priority(_: i32) {}

#[cfg(test)]
mod tests;
