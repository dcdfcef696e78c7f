//! Importing users with the hashes they have, against bare appends and bare writes of the same bytes; and what so many
//! users cost once they are there. Both drive this very program as a process.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use gatelog_events::clock;
use gatelog_projections::store::{Change, Store, StoreOptions, Table};

use super::client::{Job, Load};
use super::log_bytes::{RawLog, embedded};
use super::measure::{Series, Took, Watch};
use super::report::{Figure, Section, Target};
use super::world::{self, PASSWORD_HASH, Scratch, World};
use super::{BenchError, Options, machine};
use crate::node::{Data, Folders, Started};

/// Users of the repeated measurement.
const USERS: usize = 100_000;
/// Rows written at once by the bare store.
const BATCH: usize = 4096;
const API_KEY: &str = "the-benchmarks-own-bootstrap-key";
const LOOK_UPS: usize = 50_000;

/// Import against the bare log and the bare store.
pub async fn run(options: &Options) -> Result<Section, BenchError> {
    tokio::task::block_in_place(|| {
        let scratch = Scratch::new(&options.scratch)?;
        let file = write_rows(scratch.path(), USERS)?;
        let (mut ratio, mut minute, mut ours, mut bare) = (
            Series::default(),
            Series::default(),
            Series::default(),
            Series::default(),
        );
        for _ in 0..options.repetitions {
            let dir = scratch.folder("node")?;
            let imported = import(&file, &dir, USERS)?;
            let raw = raw(&scratch, &dir)?;
            ratio.push(imported.rate() / raw.rate());
            minute.push(imported.rate() * 60.0);
            ours.push(imported.rate());
            bare.push(raw.rate());
        }
        let figure = |what: &str, unit, series| Figure::new(what, unit, series, Target::None);
        Ok(Section {
            title: "Import",
            method: format!(
                "`gatelog import` of {USERS} users with names, one consent and an Argon2id hash each, from start to \
                 end of the process. Bare, side by side on two threads: as many bytes in the very groups that the log \
                 made, each followed by `fdatasync`; and the rows of all read models as they were in the end, {BATCH} \
                 at once, written to new tables with the write-ahead log off, and flushed."
            ),
            figures: vec![
                Figure::new("import ÷ bare", "", ratio, Target::AtLeast(0.4)),
                Figure::new("users per minute", "", minute, Target::AtLeast(1e6)),
                figure("import", "users/s", ours),
                figure("bare", "users/s", bare),
            ],
        })
    })
}

/// A file of users to import.
fn write_rows(dir: &Path, users: usize) -> Result<PathBuf, BenchError> {
    let path = dir.join(format!("{users}.ndjson"));
    let failed = || BenchError::io(path.display());
    let mut out = BufWriter::new(std::fs::File::create(&path).map_err(failed())?);
    for n in 0..users {
        let row = serde_json::json!({
            "email": world::address(n),
            "password_hash": PASSWORD_HASH,
            "email_verified": true,
            "locale": "en",
            "profile": {"given_name": format!("Given{n}"), "family_name": format!("Family{n}")},
            "consents": [{
                "purpose": "newsletter", "channel": "email", "granted": true,
                "notice": {"id": "newsletter", "version": "1", "language": "en"},
            }],
        });
        writeln!(out, "{row}").map_err(failed())?;
    }
    out.flush().map_err(failed())?;
    Ok(path)
}

fn program() -> Result<Command, BenchError> {
    Ok(Command::new(
        std::env::current_exe().map_err(BenchError::io("this program"))?,
    ))
}

fn import(file: &Path, data_dir: &Path, users: usize) -> Result<Took, BenchError> {
    let watch = Watch::start();
    let status = program()?
        .arg("import")
        .arg(file)
        .arg("--data-dir")
        .arg(data_dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(BenchError::io("gatelog import"))?;
    if !status.success() {
        return Err(BenchError::Ended(format!("gatelog import: {status}")));
    }
    Ok(watch.stop(users as f64))
}

/// Appends what the log of `data_dir` holds, and beside it writes what its read models hold.
fn raw(scratch: &Scratch, data_dir: &Path) -> Result<Took, BenchError> {
    let data = Data::open(&world::config(data_dir))?;
    let groups = embedded(&data.backend)?.group_lengths()?;
    let mut tables = Vec::new();
    for projection in &data.projections {
        if let Some(table) = data.store.active(projection.name()) {
            let mut rows: Vec<Change> = Vec::new();
            data.store.each(&table, &[], &[], |key, value| {
                rows.push((key.to_vec().into(), Some(value.to_vec().into())));
                true
            })?;
            tables.push((table, rows));
        }
    }
    let log = RawLog::create(&scratch.folder("raw-log")?)?;
    let store = Store::open(&scratch.folder("raw-views")?, StoreOptions::default())?;
    for (table, _) in &tables {
        store.create(table)?;
    }
    let watch = Watch::start();
    std::thread::scope(|scope| {
        let appending = scope.spawn(|| log.append(&groups, 0.0));
        write_all(&store, &tables)?;
        let appended = appending.join();
        appended.map_err(|_| BenchError::Ended("the bare log".to_owned()))?
    })?;
    Ok(watch.stop(USERS as f64))
}

fn write_all(store: &Store, tables: &[(Table, Vec<Change>)]) -> Result<(), BenchError> {
    for (table, rows) in tables {
        for some in rows.chunks(BATCH) {
            store.write([(table, some)])?;
        }
    }
    Ok(store.flush()?)
}

/// What ten thousand, a hundred thousand and a million users cost a node.
pub async fn scale(options: &Options) -> Result<Section, BenchError> {
    let mut figures = Vec::new();
    for users in &options.users {
        let scratch = Scratch::new(&options.scratch)?;
        let file = tokio::task::block_in_place(|| write_rows(scratch.path(), *users))?;
        let dir = scratch.folder("node")?;
        let imported = tokio::task::block_in_place(|| import(&file, &dir, *users))?;
        let mut served = Served::default();
        for _ in 0..options.repetitions {
            served.once(&dir, *users).await?;
        }
        let look_ups = tokio::task::block_in_place(|| look_up(&dir, *users))?;
        let name = |what: &str| format!("{what}, {users} users");
        let once = |n: f64| std::iter::once(n).collect::<Series>();
        let folders = Folders::under(&dir);
        let per_user = |folder: &Path| once(bytes_under(folder) as f64 / *users as f64);
        let shown = |what: &str, unit, series| Figure::new(name(what), unit, series, Target::None);
        figures.extend([
            Figure::new(
                name("ready after a clean stop"),
                "s",
                served.clean,
                Target::AtMost(2.0),
            ),
            Figure::new(
                name("ready after SIGKILL"),
                "s",
                served.killed,
                Target::AtMost(2.0),
            ),
            Figure::new(
                name("resident memory while serving"),
                "MiB",
                served.memory,
                Target::AtMost(512.0),
            ),
            Figure::new(
                name("p99 of a look-up in `logins`"),
                "µs",
                look_ups,
                Target::AtMost(100.0),
            ),
            shown("read models on disk per user", "B", per_user(&folders.views)),
            shown("log on disk per user", "B", per_user(&folders.log)),
            shown("keys on disk per user", "B", per_user(&folders.keys)),
            shown("imported", "users/min", once(imported.rate() * 60.0)),
        ]);
    }
    Ok(Section {
        title: "Many users",
        method: format!(
            "Users come by `gatelog import`. `gatelog serve` is started on them, from its start to the first \
             `/readyz` of status 200; random users are read by their address for 3 s over 32 connections, after which \
             resident memory is taken; then it is killed, started again, and told to stop. Look-ups are of \
             {LOOK_UPS} random addresses in process; p99 per repetition of a fifth of them."
        ),
        figures,
    })
}

#[derive(Default)]
struct Served {
    clean: Series,
    killed: Series,
    memory: Series,
}

impl Served {
    /// The node was stopped cleanly before.
    async fn once(&mut self, dir: &Path, users: usize) -> Result<(), BenchError> {
        let (mut node, address, ready) = start(dir).await?;
        self.clean.push(ready);
        let worked = read_some(&address, users).await;
        self.memory
            .push(machine::resident(&node.0.id().to_string()) as f64 / f64::from(1 << 20));
        worked?;
        node.kill();
        let (node, _, ready) = start(dir).await?;
        self.killed.push(ready);
        node.terminate()
    }
}

/// A server's process, which does not outlive this.
struct Node(Child);

impl Node {
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    fn terminate(mut self) -> Result<(), BenchError> {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        self.0.wait().map(drop).map_err(BenchError::io("gatelog serve"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A node, its address, and the seconds until it was ready.
async fn start(dir: &Path) -> Result<(Node, String, f64), BenchError> {
    let address = free_address()?;
    let begun = clock::monotonic();
    let child = program()?
        .args(["serve", "--listen", &address, "--data-dir"])
        .arg(dir)
        .env("GATELOG_BOOTSTRAP_API_KEY", API_KEY)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(BenchError::io("gatelog serve"))?;
    let mut node = Node(child);
    let ask = "GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    loop {
        if let Ok(mut connection) = super::client::Connection::open(&address).await
            && connection.ask(ask).await.unwrap_or(false)
        {
            return Ok((node, address, begun.elapsed().as_secs_f64()));
        }
        let ended = node.0.try_wait().map_err(BenchError::io("gatelog serve"))?;
        if ended.is_some() || begun.elapsed() > Duration::from_secs(60) {
            return Err(BenchError::Ended("gatelog serve did not become ready".to_owned()));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn free_address() -> Result<String, BenchError> {
    let failed = || BenchError::io("a local port");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(failed())?;
    Ok(listener.local_addr().map_err(failed())?.to_string())
}

/// A number below `users` that follows no order, for each `n`.
fn scattered(n: usize, users: usize) -> usize {
    (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16) % users
}

async fn read_some(address: &str, users: usize) -> Result<(), BenchError> {
    let request = |n| {
        format!(
            "GET /v1/users?email={} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {API_KEY}\r\n\r\n",
            world::address(scattered(n, users))
        )
    };
    let job = Job {
        address: address.to_owned(),
        requests: (0..20_000).map(request).collect(),
        connections: 32,
        load: Load::Closed,
        time: Duration::from_secs(3),
    };
    job.run().await.map(drop)
}

/// The p99 of look-ups in microseconds, five times.
fn look_up(dir: &Path, users: usize) -> Result<Series, BenchError> {
    let started = Started::open(world::config(dir))?;
    let world = World::new(&started);
    let mut all = Series::default();
    for round in 0..5 {
        let mut took = Series::default();
        for n in 0..LOOK_UPS / 5 {
            let digest = world.digest(scattered(round * LOOK_UPS + n, users))?;
            let begun = clock::monotonic();
            let row = world.node.views.login(&world.node.config.tenant, digest)?;
            took.push(begun.elapsed().as_secs_f64() * 1e6);
            if row.is_none() {
                return Err(BenchError::Ended("an imported user was not found".to_owned()));
            }
        }
        all.push(took.quantile(0.99));
    }
    drop(world);
    futures::executor::block_on(started.close())?;
    Ok(all)
}

fn bytes_under(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |e: std::fs::DirEntry| e.metadata().map_or(0, |m| m.len());
    entries.map(size).sum()
}
