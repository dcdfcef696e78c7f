//! Consent changes through the whole write path, against bare appends of the same bytes in the same groups.

use std::sync::Arc;
use std::time::Duration;

use gatelog_events::clock;
use gatelog_events::ids::UserId;
use gatelog_events::log::embedded::Written;

use super::log_bytes::RawLog;
use super::measure::{Series, Took, Watch};
use super::report::{Figure, Section, Target};
use super::world::{self, Scratch, World};
use super::{BenchError, Options};
use crate::node::Started;

const AT_ONCE: usize = 256;
const USERS: usize = 10_000;
/// How long one measurement lasts.
const TIME: Duration = Duration::from_secs(3);

pub async fn run(options: &Options) -> Result<Section, BenchError> {
    let scratch = Scratch::new(&options.scratch)?;
    let config = world::config(&scratch.folder("node")?);
    let raw = RawLog::create(&scratch.folder("raw")?)?;
    let started = tokio::task::block_in_place(|| Started::open(config))?;
    let world = World::new(&started);
    let users: Arc<[UserId]> = world.register_all(0..USERS, "").await?.into();
    let mut results = Results::default();
    // The first pair warms up and is not counted.
    for n in 0..=options.repetitions {
        let (ours, written) = change(&started, &world, &users, n).await?;
        let bytes = written.bytes / written.groups.max(1);
        let grouping = written.records as f64 / written.groups.max(1) as f64;
        let bare = tokio::task::block_in_place(|| raw.append(written.groups, bytes, written.records as f64))?;
        if n > 0 {
            results.add(&ours, &bare, grouping, &written);
        }
    }
    drop(world);
    started.close().await?;
    Ok(results.section())
}

/// 256 callers in turn change consents of users, each waiting for its answer.
async fn change(
    started: &Started,
    world: &Arc<World>,
    users: &Arc<[UserId]>,
    round: u32,
) -> Result<(Took, Written), BenchError> {
    let before = started.written();
    let watch = Watch::start();
    let until = clock::monotonic() + TIME;
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..AT_ONCE {
        let (world, users) = (world.clone(), users.clone());
        callers.spawn(async move {
            // Each caller has users of its own, so that every command changes something.
            let own: Vec<UserId> = users.iter().skip(caller).step_by(AT_ONCE).copied().collect();
            let (mut done, mut granted) = (0u64, round % 2 == 1);
            loop {
                for user in &own {
                    if clock::monotonic() >= until {
                        return Ok::<u64, BenchError>(done);
                    }
                    let outcome = world.consent(*user, granted).await?;
                    done += u64::from(outcome.commit.is_some());
                }
                granted = !granted;
            }
        });
    }
    let mut done = 0;
    while let Some(caller) = callers.join_next().await {
        done += caller.map_err(|e| BenchError::Ended(e.to_string()))??;
    }
    let took = watch.stop(done as f64);
    let after = started.written();
    let written = Written {
        groups: after.groups - before.groups,
        records: after.records - before.records,
        bytes: after.bytes - before.bytes,
    };
    Ok((took, written))
}

#[derive(Default)]
struct Results {
    ratio: Series,
    ours: Series,
    bare: Series,
    grouping: Series,
    bytes: Series,
    cpu: Series,
}

impl Results {
    fn add(&mut self, ours: &Took, bare: &Took, grouping: f64, written: &Written) {
        self.ratio.push(ours.rate() / bare.rate());
        self.ours.push(ours.rate());
        self.bare.push(bare.rate());
        self.grouping.push(grouping);
        self.bytes.push(written.bytes as f64 / written.records.max(1) as f64);
        self.cpu.push(ours.cpu / ours.amount.max(1.0) * 1e6);
    }

    fn section(self) -> Section {
        let figure = |what: &str, unit, series| Figure::new(what, unit, series, Target::None);
        Section {
            title: "Consent changes",
            method: format!(
                "{AT_ONCE} callers in one process change the consents of {USERS} users for {} s; each waits until its \
                 change is decided, sealed, durable in the log and applied to the read models. Bare: the same bytes in \
                 as many writes to the end of a file, each followed by `fdatasync`. The grouping is what the log did in \
                 the measurement just before.",
                TIME.as_secs()
            ),
            figures: vec![
                Figure::new("write path ÷ bare appends", "", self.ratio, Target::AtLeast(0.5)),
                figure("write path", "changes/s", self.ours),
                figure("bare appends", "records/s", self.bare),
                figure("records per fdatasync", "", self.grouping),
                figure("bytes per record", "B", self.bytes),
                figure("processor time per change, callers included", "µs", self.cpu),
            ],
        }
    }
}
