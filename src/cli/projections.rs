//! `gatelog projections`: the read models of a running node, or of a data folder.

use std::io::Write;
use std::time::Duration;

use gatelog_events::ids::Stream;
use gatelog_projections::projection::Checkpoint;
use reqwest::Method;
use serde_json::{Value, json};

use super::progress::Progress;
use super::remote::{self, Remote};
use super::{Failure, block_on, data, print_json};
use crate::node::{Data, Started};

/// Time between two looks at a rebuild.
const LOOK: Duration = Duration::from_millis(200);

/// What to do with read models.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Args)]
struct Place {
    #[command(flatten)]
    remote: remote::Args,
    #[command(flatten)]
    data: data::Args,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the read models and how far each is
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Build a read model anew from the log, beside the one that serves
    Rebuild {
        /// Its name, as listed
        name: String,
        #[command(flatten)]
        place: Place,
    },
}

pub fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Action::List { place } => list(&place),
        Action::Rebuild { name, place } => match &place.remote.url {
            Some(url) => block_on(rebuild_there(&name, url, &place)),
            None => rebuild_here(&name, &place),
        },
    }
}

fn list(place: &Place) -> Result<(), Failure> {
    let all = match &place.remote.url {
        Some(url) => block_on(async {
            let node = Remote::new(url, place.data.data_dir.as_deref())?;
            Ok(node.call(Method::GET, "/v1/projections", None).await?)
        })?,
        None => list_here(place)?,
    };
    if place.json {
        return print_json(&all);
    }
    let mut out = std::io::stdout().lock();
    for p in all["projections"].as_array().into_iter().flatten() {
        let name = p["name"].as_str().unwrap_or_default();
        let stopped = p["stopped"].as_array().map_or(0, Vec::len);
        let state = if stopped > 0 { "  STOPPED" } else { "" };
        writeln!(out, "{name}  {} records behind{state}", p["lag"])?;
    }
    Ok(())
}

/// What the folder's tables say, without changing them.
fn list_here(place: &Place) -> Result<Value, Failure> {
    let data = Data::open(&place.data.existing()?)?;
    let mut all = Vec::new();
    for projection in &data.projections {
        let checkpoint = match data.store.active(projection.name()) {
            Some(table) => Checkpoint::load(&data.store, &table).map_err(Failure::other)?,
            None => Checkpoint::default(),
        };
        let mut lag = 0;
        for stream in Stream::ALL
            .into_iter()
            .filter(|s| projection.streams().contains(s))
        {
            for partition in (0..data.log.partitions()).map(gatelog_events::ids::Partition) {
                let end = futures::executor::block_on(data.log.end(stream, partition))?;
                lag += end.saturating_sub(checkpoint.get(stream, partition).next);
            }
        }
        all.push(
            json!({"name": projection.name(), "version": projection.version(), "lag": lag, "stopped": []}),
        );
    }
    Ok(json!({"projections": all}))
}

fn rebuild_here(name: &str, place: &Place) -> Result<(), Failure> {
    let config = place.data.existing()?;
    let started = Started::open(config)?;
    let rebuild = started.node.rebuilds.start(name).map_err(Failure::other)?;
    let mut progress: Option<Progress> = None;
    let ended = loop {
        if let Some(ended) = rebuild.ended() {
            break ended;
        }
        if rebuild.total() > 0 {
            progress
                .get_or_insert_with(|| Progress::new("records", rebuild.total()))
                .set(rebuild.folded());
        }
        std::thread::sleep(LOOK);
    };
    if let Some(progress) = progress {
        progress.finish();
    }
    block_on(async { Ok(started.close().await?) })?;
    ended.map_err(Failure::Other)?;
    tell(name, rebuild.folded(), place.json)
}

async fn rebuild_there(name: &str, url: &str, place: &Place) -> Result<(), Failure> {
    let remote = Remote::new(url, place.data.data_dir.as_deref())?;
    let path = format!("/v1/projections/{name}/rebuild");
    let mut state = remote.call(Method::POST, &path, None).await?;
    let mut progress = Progress::new("records", state["total"].as_u64().unwrap_or(0));
    while state["status"] == "running" {
        progress.set(state["folded"].as_u64().unwrap_or(0));
        tokio::time::sleep(LOOK).await;
        let all = remote.call(Method::GET, "/v1/projections", None).await?;
        state = all["projections"]
            .as_array()
            .and_then(|all| all.iter().find(|p| p["name"] == name))
            .map(|p| p["rebuild"].clone())
            .unwrap_or_default();
    }
    progress.finish();
    if state["status"] != "done" {
        return Err(Failure::Other(
            "the rebuild did not succeed; the node's log says why, and the old read model goes on serving"
                .to_owned(),
        ));
    }
    tell(name, state["folded"].as_u64().unwrap_or(0), place.json)
}

fn tell(name: &str, folded: u64, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return print_json(&json!({"name": name, "status": "done", "folded": folded}));
    }
    writeln!(
        std::io::stdout(),
        "{name} was built anew from {folded} records and serves."
    )?;
    Ok(())
}
