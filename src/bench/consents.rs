//! Consent changes through the whole write path, against bare appends of the same bytes in the same groups.

use std::sync::Arc;
use std::time::Duration;

use gatelog_events::clock;
use gatelog_events::ids::UserId;

use super::log_bytes::{RawLog, embedded};
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
        let before = tokio::task::block_in_place(|| {
            Ok::<_, BenchError>(embedded(started.backend())?.group_lengths()?)
        })?
        .len();
        let ours = change(&world, &users, n).await?;
        let (groups, bare) = tokio::task::block_in_place(|| {
            let groups = embedded(started.backend())?.group_lengths()?.split_off(before);
            let bare = raw.append(&groups, ours.amount)?;
            Ok::<_, BenchError>((groups, bare))
        })?;
        if n > 0 {
            results.add(&ours, &bare, &groups);
        }
    }
    drop(world);
    started.close().await?;
    Ok(results.section())
}

/// 256 callers in turn change consents of users, each waiting for its answer.
async fn change(world: &Arc<World>, users: &Arc<[UserId]>, round: u32) -> Result<Took, BenchError> {
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
    Ok(watch.stop(done as f64))
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
    fn add(&mut self, ours: &Took, bare: &Took, groups: &[u64]) {
        self.ratio.push(ours.rate() / bare.rate());
        self.ours.push(ours.rate());
        self.bare.push(bare.rate());
        self.grouping.push(ours.amount / groups.len().max(1) as f64);
        self.bytes
            .push(groups.iter().sum::<u64>() as f64 / ours.amount.max(1.0));
        self.cpu.push(ours.cpu / ours.amount.max(1.0) * 1e6);
    }

    fn section(self) -> Section {
        let figure = |what: &str, unit, series| Figure::new(what, unit, series, Target::None);
        Section {
            title: "Consent changes",
            method: format!(
                "{AT_ONCE} callers in one process change the consents of {USERS} users for {} s; each waits until its \
                 change is decided, sealed, durable in the log and applied to the read models. Bare: as many \
                 bytes in the very groups that the log made of them just before, each one written to the end of a file \
                 and followed by `fdatasync`.",
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
