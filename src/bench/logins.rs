//! Password logins over HTTP, against Argon2id alone.

use std::time::Duration;

use gatelog_events::clock;

use super::client::{Done, Job, Load};
use super::measure::{Series, Took, Watch};
use super::report::{Figure, Section, Target};
use super::server::{PASSWORD, Server};
use super::world::Scratch;
use super::{BenchError, Options};
use crate::auth::imported::argon2id;
use crate::auth::pool::{PoolConfig, lower_priority};

const USERS: usize = 5_000;
/// Per thread of the pool: enough that none is ever without work.
const CONNECTIONS_PER_THREAD: usize = 8;
const TIME: Duration = Duration::from_secs(5);

pub async fn run(options: &Options) -> Result<Section, BenchError> {
    let scratch = Scratch::new(&options.scratch)?;
    let server = Server::start(&scratch, USERS).await?;
    let pool = server.started.node.config.pool.clone();
    let threads = pool.threads as f64;
    let mut results = Results::default();
    for n in 0..=options.repetitions {
        let watch = Watch::start();
        let logins = load(&server, pool.threads, Load::Closed).await?;
        let server_cpu = watch.stop(0.0).cpu;
        let raw = tokio::task::block_in_place(|| hash(&pool))?;
        let per_second = raw.rate() / 2.0;
        let calm = load(&server, pool.threads, Load::Open { per_second }).await?;
        if n > 0 {
            results.add(&logins, server_cpu, &raw, &calm, threads);
        }
    }
    server.stop().await?;
    Ok(results.section(pool.threads))
}

async fn load(server: &Server, threads: usize, load: Load) -> Result<Done, BenchError> {
    let job = Job {
        address: server.http.address.clone(),
        requests: server.logins(),
        connections: threads * CONNECTIONS_PER_THREAD,
        load,
        time: TIME,
    };
    job.run().await
}

/// Hashes on as many threads as the pool has, at the same priority, each with memory that it keeps.
fn hash(pool: &PoolConfig) -> Result<Took, BenchError> {
    let cost = pool.params;
    let params = argon2::Params::new(cost.memory_kib, cost.iterations, cost.lanes, None)
        .map_err(|e| BenchError::Ended(e.to_string()))?;
    let until = clock::monotonic() + TIME;
    let watch = Watch::start();
    let done: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..pool.threads)
            .map(|_| {
                scope.spawn(|| {
                    lower_priority(pool.niceness);
                    let argon2 = argon2id(params.clone());
                    let mut memory = vec![argon2::Block::default(); params.block_count()];
                    let (mut out, mut done) = ([0; 32], 0);
                    while clock::monotonic() < until {
                        let salt = [done as u8; 16];
                        let hashed = argon2.hash_password_into_with_memory(
                            PASSWORD.as_bytes(),
                            &salt,
                            &mut out,
                            &mut memory,
                        );
                        done += u64::from(hashed.is_ok());
                    }
                    done
                })
            })
            .collect();
        threads.into_iter().filter_map(|t| t.join().ok()).sum()
    });
    Ok(watch.stop(done as f64))
}

#[derive(Default)]
struct Results {
    ratio: Series,
    apart: Series,
    per_core: Series,
    logins: Series,
    hashes: Series,
    client: Series,
    one_hash: Series,
    p50: Series,
    beyond: Series,
}

impl Results {
    fn add(&mut self, logins: &Done, server_cpu: f64, raw: &Took, calm: &Done, threads: f64) {
        let answers = logins.answers as f64;
        let per_second = answers / logins.wall;
        // What was left of the threads' time when the client had taken its own.
        let left = logins.wall - logins.cpu / threads;
        let one_hash = threads / raw.rate() * 1e3;
        self.ratio.push(per_second / raw.rate());
        self.apart.push(answers / left / raw.rate());
        self.per_core.push(answers / server_cpu / raw.per_core());
        self.logins.push(per_second);
        self.hashes.push(raw.rate());
        self.client.push(logins.cpu / (logins.wall * threads) * 100.0);
        self.one_hash.push(one_hash);
        self.p50.push(calm.p50 * 1e3);
        self.beyond.push(calm.p50 * 1e3 - one_hash);
    }

    fn section(self, threads: usize) -> Section {
        let figure = |what: &str, unit, series| Figure::new(what, unit, series, Target::None);
        Section {
            title: "Password logins",
            method: format!(
                "`POST /v1/logins` of {USERS} users with Argon2id hashes of the default cost, over {} connections of \
                 a client in a process of its own, for {} s; each login is verified, recorded durably and answered \
                 with signed tokens. Bare: Argon2id alone with the same cost, on as many threads ({threads}), at the \
                 same priority, each with memory that it keeps. As measured, the client shares the cores. *Client \
                 apart* divides the logins by the wall time less the client's processor time per thread of the pool: \
                 what the server does with the cores that the client leaves it. *Per core* compares logins per second \
                 of the server's processor time with hashes per second of processor time; it does not depend on what \
                 else the machine does. *Half load*: random arrivals at half the bare rate of the same repetition, \
                 whether or not earlier ones are answered; one hash is the threads divided by the bare rate.",
                threads * CONNECTIONS_PER_THREAD,
                TIME.as_secs(),
            ),
            figures: vec![
                Figure::new(
                    "logins ÷ bare hashes, client apart",
                    "",
                    self.apart,
                    Target::AtLeast(0.9),
                ),
                figure("logins ÷ bare hashes, as measured", "", self.ratio),
                figure("logins ÷ bare hashes, per core", "", self.per_core),
                figure("logins", "/s", self.logins),
                figure("bare hashes", "/s", self.hashes),
                figure("processor time of the client", "% of all", self.client),
                figure("one hash", "ms", self.one_hash),
                figure("p50 of a login at half load", "ms", self.p50),
                Figure::new(
                    "p50 at half load, beyond one hash",
                    "ms",
                    self.beyond,
                    Target::AtMost(5.0),
                ),
            ],
        }
    }
}
