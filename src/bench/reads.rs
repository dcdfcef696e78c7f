//! Reads of a user over HTTP, against a handler that has the answer ready; and reads while passwords are hashed.

use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use bytes::Bytes;

use super::client::{Connection, Done, Job, Load};
use super::measure::{Series, Watch};
use super::report::{Figure, Section, Target};
use super::server::{Server, listen};
use super::world::Scratch;
use super::{BenchError, Options};

const USERS: usize = 5_000;
const CONNECTIONS: usize = 32;
const TIME: Duration = Duration::from_secs(3);
/// Reads per second at which latencies are compared: little enough that reads do not wait for one another.
const CALM: f64 = 200.0;

pub async fn run(options: &Options) -> Result<Section, BenchError> {
    let scratch = Scratch::new(&options.scratch)?;
    let server = Server::start(&scratch, USERS).await?;
    let reads = server.reads();
    let body = one_body(&server.http.address, &reads).await?;
    let bytes = body.len();
    let bare = listen(Router::new().route(
        "/v1/users/{id}",
        get(async move || ([(CONTENT_TYPE, "application/json")], body.clone())),
    ))
    .await?;
    let threads = server.started.node.config.pool.threads;
    let mut results = Results::default();
    for n in 0..=options.repetitions {
        let ours = measured(job(&server.http.address, &reads, Load::Closed)).await?;
        let base = measured(job(&bare.address, &reads, Load::Closed)).await?;
        let calm = job(&server.http.address, &reads, Load::Open { per_second: CALM });
        let idle = calm.run().await?;
        let mut logins = job(&server.http.address, &server.logins(), Load::Closed);
        logins.connections = threads * 4;
        let (busy, logins) = tokio::try_join!(calm.run(), logins.run())?;
        if n > 0 {
            results.add(ours, base, &idle, &busy, &logins);
        }
    }
    bare.stop().await;
    server.stop().await?;
    Ok(results.section(bytes))
}

fn job(address: &str, requests: &[String], load: Load) -> Job {
    Job {
        address: address.to_owned(),
        requests: requests.to_vec(),
        connections: CONNECTIONS,
        load,
        time: TIME,
    }
}

/// What a job came to, and the server's processor time for one request in seconds.
async fn measured(job: Job) -> Result<(Done, f64), BenchError> {
    let watch = Watch::start();
    let done = job.run().await?;
    Ok((done, watch.stop(0.0).cpu / done.answers.max(1) as f64))
}

async fn one_body(address: &str, reads: &[String]) -> Result<Bytes, BenchError> {
    let mut connection = Connection::open(address).await?;
    let first = reads.first().map_or("", String::as_str);
    if !connection.ask(first).await? {
        return Err(BenchError::Ended("a user could not be read".to_owned()));
    }
    Ok(Bytes::copy_from_slice(connection.body()))
}

#[derive(Default)]
struct Results {
    ratio: Series,
    per_core: Series,
    ours: Series,
    bare: Series,
    cpu: Series,
    bare_cpu: Series,
    idle: Series,
    busy: Series,
    slower: Series,
    logins: Series,
}

impl Results {
    fn add(&mut self, ours: (Done, f64), bare: (Done, f64), idle: &Done, busy: &Done, logins: &Done) {
        let rate = |d: &Done| d.answers as f64 / d.wall;
        self.ratio.push(rate(&ours.0) / rate(&bare.0));
        self.per_core.push(bare.1 / ours.1);
        self.ours.push(rate(&ours.0));
        self.bare.push(rate(&bare.0));
        self.cpu.push(ours.1 * 1e6);
        self.bare_cpu.push(bare.1 * 1e6);
        self.idle.push(idle.p99 * 1e3);
        self.busy.push(busy.p99 * 1e3);
        self.slower.push(busy.p99 / idle.p99);
        self.logins.push(rate(logins));
    }

    fn section(self, bytes: usize) -> Section {
        let figure = |what: &str, unit, series| Figure::new(what, unit, series, Target::None);
        Section {
            title: "Reads of a user",
            method: format!(
                "`GET /v1/users/{{id}}` of {USERS} users, of whom most are in memory after the \
                 first round, by an API key, over {CONNECTIONS} connections of a client in a \
                 process of its own, for {} s. Bare: an axum handler without middleware that answers {bytes} bytes of \
                 the same body, in the same process and runtime, asked by the same client with the same requests. *Per \
                 core* compares the server's processor time per request, which leaves the client out. Then {CALM} \
                 reads per second at random moments, while nothing else is asked of the node (idle), and while logins \
                 over 4 connections per thread keep the password pool saturated (busy).",
                TIME.as_secs(),
            ),
            figures: vec![
                Figure::new("reads ÷ bare handler", "", self.ratio, Target::AtLeast(0.6)),
                Figure::new("reads ÷ bare handler, per core", "", self.per_core, Target::None),
                figure("reads", "/s", self.ours),
                figure("bare handler", "/s", self.bare),
                figure("the server's processor time per read", "µs", self.cpu),
                figure("the same of the bare handler", "µs", self.bare_cpu),
                Figure::new("p99 busy ÷ p99 idle", "", self.slower, Target::AtMost(3.0)),
                figure("p99 of a read, idle", "ms", self.idle),
                figure("p99 of a read, busy", "ms", self.busy),
                figure("logins meanwhile", "/s", self.logins),
            ],
        }
    }
}
