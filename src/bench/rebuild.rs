//! All read models folded anew from the log, against writing their rows to RocksDB without folding anything.

use std::path::Path;
use std::sync::Arc;

use gatelog_events::ids::UserId;
use gatelog_events::seal::KeySource;
use gatelog_projections::catch_up::{BATCH, catch_up};
use gatelog_projections::folder::{Folder, Member, Touched, read_commit};
use gatelog_projections::projection::Projection;
use gatelog_projections::store::{Change, Store, StoreOptions, Table};

use super::measure::{Series, Took, Watch};
use super::report::{Figure, Section, Target};
use super::world::{self, PASSWORD_HASH, Scratch, World};
use super::{BenchError, Options};
use crate::node::{Data, Started};

/// The mix of `make demo`: for each registration two logins, one consent change, and a change of plan for every fourth.
const USERS: usize = 20_000;

/// Changes of all tables that are written as one.
type Batch = Vec<(Table, Vec<Change>)>;

pub async fn run(options: &Options) -> Result<Section, BenchError> {
    let scratch = Scratch::new(&options.scratch)?;
    let config = world::config(&scratch.folder("node")?);
    let started = tokio::task::block_in_place(|| Started::open(config.clone()))?;
    fill(&World::new(&started)).await?;
    started.close().await?;
    tokio::task::block_in_place(|| measure(options, &scratch, &Data::open(&config)?))
}

/// Writes the log that is folded later.
async fn fill(world: &Arc<World>) -> Result<(), BenchError> {
    let users = world.register_all(0..USERS, PASSWORD_HASH).await?;
    for some in users.chunks(512) {
        let each = some.iter().enumerate().map(|(n, user)| of_one(world, n, *user));
        futures::future::try_join_all(each).await?;
    }
    Ok(())
}

async fn of_one(world: &World, n: usize, user: UserId) -> Result<(), BenchError> {
    world.login(user, 1).await?;
    world.consent(user, false).await?;
    if n.is_multiple_of(4) {
        world.plan(user, "pro").await?;
    }
    world.login(user, 1).await?;
    Ok(())
}

fn measure(options: &Options, scratch: &Scratch, data: &Data) -> Result<Section, BenchError> {
    let mut results = Results::default();
    let (batches, events) = record(&scratch.folder("recorded")?, data)?;
    results.describe(&batches, events);
    for n in 0..=options.repetitions {
        let ours = fold(&scratch.folder("folded")?, data, events)?;
        let bare = write(&scratch.folder("written")?, data, &batches, events)?;
        if n > 0 {
            results.add(&ours, &bare);
        }
    }
    Ok(results.section())
}

pub(super) fn fresh(
    dir: &Path,
    projections: &[Arc<dyn Projection>],
    partitions: u16,
) -> Result<Folder, BenchError> {
    let store = Store::open(dir, StoreOptions::default())?;
    let mut members = Vec::with_capacity(projections.len());
    for p in projections {
        let table = Table::new(p.name(), p.version(), 0);
        members.push(Member::open(&store, p.clone(), table, partitions)?);
    }
    Ok(Folder::new(store, members))
}

/// Folds the log once and keeps what is written, batch by batch; and how many events that were.
fn record(dir: &Path, data: &Data) -> Result<(Vec<Batch>, u64), BenchError> {
    let partitions = data.log.partitions();
    let mut folder = fresh(dir, &data.projections, partitions)?;
    let keys: &dyn KeySource = data.keys.as_ref();
    let (mut batches, mut events, mut pending) = (Vec::new(), 0, 0);
    let mut touched = Touched::new();
    let mut write = |folder: &mut Folder, touched: &mut Touched| -> Result<(), BenchError> {
        let batch = folder.drain()?;
        folder
            .store()
            .write(batch.iter().map(|(t, c)| (t, c.as_slice())))?;
        folder.publish(&std::mem::take(touched));
        batches.push(batch);
        Ok(())
    };
    for entry in data.log.read_to_end(&[])? {
        let entry = entry?;
        folder.fold_entry(&entry, keys);
        touched.insert((entry.position.stream, entry.position.partition));
        events += read_commit(&entry, keys).map_or(0, |commit| commit.events.len() as u64);
        pending += 1;
        if pending == BATCH {
            write(&mut folder, &mut touched)?;
            pending = 0;
        }
    }
    write(&mut folder, &mut touched)?;
    Ok((batches, events))
}

fn fold(dir: &Path, data: &Data, events: u64) -> Result<Took, BenchError> {
    let mut folder = fresh(dir, &data.projections, data.log.partitions())?;
    let watch = Watch::start();
    catch_up(&mut folder, data.log.as_ref(), data.keys.as_ref(), |_, _| {})?;
    folder.store().flush()?;
    Ok(watch.stop(events as f64))
}

fn write(dir: &Path, data: &Data, batches: &[Batch], events: u64) -> Result<Took, BenchError> {
    let folder = fresh(dir, &data.projections, data.log.partitions())?;
    let watch = Watch::start();
    for batch in batches {
        folder
            .store()
            .write(batch.iter().map(|(t, c)| (t, c.as_slice())))?;
    }
    folder.store().flush()?;
    Ok(watch.stop(events as f64))
}

#[derive(Default)]
struct Results {
    per_core: Series,
    wall: Series,
    ours: Series,
    bare: Series,
    events: f64,
    rows: f64,
    bytes: f64,
}

impl Results {
    fn describe(&mut self, batches: &[Batch], events: u64) {
        let rows = || batches.iter().flatten().flat_map(|(_, changes)| changes);
        self.events = events as f64;
        self.rows = rows().count() as f64 / self.events;
        let bytes = rows().map(|(k, v)| k.len() + v.as_ref().map_or(0, bytes::Bytes::len));
        self.bytes = bytes.sum::<usize>() as f64 / self.events;
    }

    fn add(&mut self, ours: &Took, bare: &Took) {
        self.per_core.push(ours.per_core() / bare.per_core());
        self.wall.push(ours.rate() / bare.rate());
        self.ours.push(ours.per_core());
        self.bare.push(bare.per_core());
    }

    fn section(self) -> Section {
        let figure = |what: &str, unit, series| Figure::new(what, unit, series, Target::None);
        let once = |what: &str, unit, n: f64| figure(what, unit, std::iter::once(n).collect());
        Section {
            title: "Rebuild of all read models",
            method: format!(
                "A log with the mix of `make demo` ({USERS} registrations, two logins and one consent change each, and \
                 plan changes) is read, checked, opened and folded into new tables of all read models. Bare: the same \
                 keys and values in the same batches, kept in memory, are written to new tables of the same options \
                 with the write-ahead log off. Both end with a flush to disk. Per core: by the processor time of all \
                 threads, RocksDB's own among them.",
            ),
            figures: vec![
                Figure::new(
                    "rebuild ÷ bare writes, per core",
                    "",
                    self.per_core,
                    Target::AtLeast(0.4),
                ),
                figure("rebuild ÷ bare writes, by the clock on the wall", "", self.wall),
                figure("rebuild", "events/s per core", self.ours),
                figure("bare writes", "events/s per core", self.bare),
                once("events", "", self.events),
                once("rows written per event", "", self.rows),
                once("bytes written per event", "B", self.bytes),
            ],
        }
    }
}
