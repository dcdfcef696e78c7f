//! One node against three of them on the same machine, asked over HTTP. The nodes share one process and one runtime.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gatelog_events::ids::UserId;
use tokio::task::JoinHandle;

use super::super::client::{Done, Job, Load};
use super::super::measure::Series;
use super::super::report::{Figure, Section, Target};
use super::super::server::{self, Listening};
use super::super::world::{Scratch, World};
use super::super::{BenchError, Options};
use super::{TIME, USERS, brokers, config, ready};
use crate::cluster::{ClusterConfig, ClusterSecret};
use crate::config::Config;
use crate::http;
use crate::node::{Folders, Started};

const NODES: usize = 3;
/// Over all nodes.
const CONNECTIONS: usize = 85 * NODES;
/// Proves nothing to anybody but the nodes of this process.
const SECRET: &[u8] = b"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

struct Node {
    started: Arc<Started>,
    keeper: JoinHandle<()>,
    http: Listening,
}

/// Nodes of one store.
struct Nodes {
    nodes: Vec<Node>,
    users: Vec<UserId>,
}

impl Nodes {
    async fn start(scratch: &Scratch, bootstrap: &str, count: usize) -> Result<Self, BenchError> {
        let (base, _) = config(&scratch.folder(&format!("of-{count}-0"))?, bootstrap)?;
        let mut nodes = vec![Node::start(base.clone()).await?];
        for n in 1..count {
            let data_dir = scratch.folder(&format!("of-{count}-{n}"))?;
            share_secrets(&base.data_dir, &data_dir)?;
            nodes.push(
                Node::start(Config {
                    data_dir,
                    ..base.clone()
                })
                .await?,
            );
        }
        let mut users = ready(&World::new(&nodes[0].started), USERS).await?;
        // Each connection has users of its own, so that every request changes something.
        users.truncate(users.len() - users.len() % CONNECTIONS);
        let all = Self { nodes, users };
        all.share_out().await;
        Ok(all)
    }

    /// Waits until each node writes some partitions, as the group gives them out.
    async fn share_out(&self) {
        while self.nodes.iter().any(|n| n.started.owned() == 0) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Consent changes by so many connections in all, evenly over the nodes; and the longest median of any.
    async fn work(&self) -> Result<(f64, f64), BenchError> {
        let jobs = self.nodes.iter().map(|node| {
            let job = Job {
                address: node.http.address.clone(),
                requests: server::consents(&self.users),
                connections: CONNECTIONS / self.nodes.len(),
                load: Load::Closed,
                time: TIME,
            };
            async move { job.run().await }
        });
        let done: Vec<Done> = futures::future::try_join_all(jobs).await?;
        let rate = done.iter().map(|d| d.answers as f64 / d.wall).sum();
        let p50 = done.iter().map(|d| d.p50).fold(0.0, f64::max);
        Ok((rate, p50))
    }

    async fn stop(self) -> Result<(), BenchError> {
        for node in self.nodes {
            node.stop().await?;
        }
        Ok(())
    }
}

impl Node {
    async fn start(mut config: Config) -> Result<Self, BenchError> {
        let (listener, address) = server::listener().await?;
        let url = format!("http://{address}").parse();
        config.bootstrap_api_key = Some(server::API_KEY.into());
        config.cluster = Some(ClusterConfig {
            secret: ClusterSecret::parse(SECRET).map_err(|e| BenchError::Ended(e.to_string()))?,
            advertise: Some(url.map_err(|e| BenchError::Ended(format!("{address}: {e}")))?),
            forward_timeout: Duration::from_secs(10),
            view_wait: Duration::from_secs(5),
        });
        let started = Arc::new(tokio::task::block_in_place(|| Started::open(config))?);
        let kept = started.clone();
        let keeper = tokio::spawn(async move { drop(kept.housekeeping().await) });
        let http = server::serve(listener, address, http::router(started.node.clone()));
        Ok(Self {
            started,
            keeper,
            http,
        })
    }

    async fn stop(self) -> Result<(), BenchError> {
        self.http.stop().await;
        self.keeper.abort();
        let _ = self.keeper.await;
        let started = Arc::into_inner(self.started)
            .ok_or_else(|| BenchError::Ended("the node is still used".to_owned()))?;
        Ok(started.close().await?)
    }
}

/// Gives a further node the secrets that the first one made.
fn share_secrets(first: &Path, other: &Path) -> Result<(), BenchError> {
    let (from, to) = (Folders::under(first).secrets, Folders::under(other).secrets);
    copy(&from, &to).map_err(BenchError::io(to.display()))
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    std::fs::set_permissions(to, std::fs::metadata(from)?.permissions())?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

pub async fn run(options: &Options) -> Result<Section, BenchError> {
    let bootstrap = brokers()?;
    let scratch = Scratch::new(&options.scratch)?;
    let one = Nodes::start(&scratch, &bootstrap, 1).await?;
    let three = Nodes::start(&scratch, &bootstrap, NODES).await?;
    let mut results = Results::default();
    for n in 0..=options.repetitions {
        let (alone, alone_p50) = one.work().await?;
        let (shared, shared_p50) = three.work().await?;
        if n > 0 {
            results.ratio.push(shared / alone);
            results.one.push(alone);
            results.three.push(shared);
            results.one_p50.push(alone_p50 * 1e3);
            results.three_p50.push(shared_p50 * 1e3);
        }
    }
    one.stop().await?;
    three.stop().await?;
    Ok(results.section())
}

#[derive(Default)]
struct Results {
    ratio: Series,
    one: Series,
    three: Series,
    one_p50: Series,
    three_p50: Series,
}

impl Results {
    fn section(self) -> Section {
        let figure = |what: &str, unit, series| Figure::new(what, unit, series, Target::None);
        Section {
            title: "One node and three, on Kafka",
            method: format!(
                "`PUT /v1/users/{{id}}/consents/newsletter` by clients in processes of their own over {CONNECTIONS} connections in \
                 all, for {} s: to one node, and evenly to {NODES} nodes of another store, of which each owns a third of the \
                 partitions and forwards two thirds of what it is asked. Nodes, clients and brokers share this machine's \
                 processors, so this shows what sharing costs; three machines are not faster here because there are none.",
                TIME.as_secs()
            ),
            figures: vec![
                figure("three nodes ÷ one", "", self.ratio),
                figure("one node", "changes/s", self.one),
                figure("three nodes", "changes/s", self.three),
                figure("one node, p50", "ms", self.one_p50),
                figure("three nodes, p50", "ms", self.three_p50),
            ],
        }
    }
}
