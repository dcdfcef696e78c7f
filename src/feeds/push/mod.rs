//! Webhooks: records that are posted to whoever takes them.
//!
//! Each webhook has a *lane* per partition. A lane runs on the node that owns the partition and says in the log how far it
//! has come, so another node goes on from there. A lane holds up nobody else's, nor a login: it only reads.

mod endpoint;
mod lane;
mod queue;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use gatelog_events::domain::tenant::Settings;
use gatelog_events::domain::webhook::Webhook;
use gatelog_events::ids::Partition;
use gatelog_projections::settings;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::endpoint::Endpoint;
use self::lane::Lane;
use crate::node::Node;
use crate::writer::Owned;

/// How often it is looked whether lanes must begin or end, where nothing says so.
const LOOK: Duration = Duration::from_secs(1);

/// Which lane: a webhook as it is set now, and a partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    feed: String,
    name: String,
    partition: Partition,
}

struct Running {
    /// As it was when the lane began; once it differs, the lane begins anew.
    webhook: Webhook,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// All lanes of this node.
pub struct Pushes {
    node: Arc<Node>,
    /// The partitions that are this node's; all where there is no group.
    owned: Option<watch::Receiver<Owned>>,
    lanes: HashMap<Key, Running>,
    endpoints: HashMap<(String, String), Arc<Endpoint>>,
}

impl Pushes {
    pub fn new(node: Arc<Node>, owned: Option<watch::Receiver<Owned>>) -> Self {
        Self {
            node,
            owned,
            lanes: HashMap::new(),
            endpoints: HashMap::new(),
        }
    }

    /// Keeps the lanes running that must be. Never ends.
    pub async fn run(mut self) {
        loop {
            match self.node.views.settings(&self.node.config.tenant) {
                Ok(settings) => self.reconcile(&settings).await,
                Err(e) => {
                    tracing::error!(error = %e, "the settings cannot be read; webhooks stay as they are")
                }
            }
            self.wait().await;
        }
    }

    async fn wait(&mut self) {
        let applied = self.node.views.applied(settings::NAME);
        let moved = async {
            match &applied {
                Some(applied) => applied.moved().await,
                None => std::future::pending().await,
            }
        };
        let owned = async {
            if let Some(owned) = &mut self.owned
                && owned.changed().await.is_ok()
            {
                return;
            }
            std::future::pending().await
        };
        tokio::select! {
            () = moved => {}
            () = owned => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }

    fn partitions(&self) -> Vec<Partition> {
        let all = (0..self.node.log.partitions()).map(Partition);
        match &self.owned {
            Some(owned) => {
                let owned = owned.borrow();
                all.filter(|p| owned.contains(p)).collect()
            }
            None => all.collect(),
        }
    }

    async fn reconcile(&mut self, settings: &Settings) {
        let partitions = self.partitions();
        let mut wanted: HashMap<Key, Webhook> = HashMap::new();
        let live = settings
            .feeds
            .iter()
            .filter(|(_, feed)| feed.retired_at.is_none());
        for (feed, name, webhook) in
            live.flat_map(|(n, f)| f.webhooks.iter().map(move |(w, hook)| (n, w, hook)))
        {
            if webhook.paused.is_some() || self.node.is_stopping() {
                continue;
            }
            for partition in &partitions {
                let key = Key {
                    feed: feed.clone(),
                    name: name.clone(),
                    partition: *partition,
                };
                wanted.insert(key, webhook.clone());
            }
        }
        self.end_others(&wanted).await;
        for (key, webhook) in wanted {
            if !self.lanes.contains_key(&key) {
                self.begin(key, webhook);
            }
        }
    }

    /// Ends the lanes that are not wanted as they run; they say how far they have come.
    async fn end_others(&mut self, wanted: &HashMap<Key, Webhook>) {
        let over = self.lanes.extract_if(|key, running| {
            running.task.is_finished() || wanted.get(key) != Some(&running.webhook)
        });
        let over: Vec<_> = over.collect();
        for (_, running) in &over {
            running.stop.cancel();
        }
        for (key, running) in over {
            let _ = running.task.await;
            self.endpoints.remove(&(key.feed, key.name));
        }
    }

    fn begin(&mut self, key: Key, webhook: Webhook) {
        let name = (key.feed.clone(), key.name.clone());
        let endpoint = match self.endpoints.get(&name) {
            Some(endpoint) => endpoint.clone(),
            None => match Endpoint::new(&self.node, &key.feed, &key.name, &webhook) {
                Ok(endpoint) => {
                    let endpoint = Arc::new(endpoint);
                    self.endpoints.insert(name, endpoint.clone());
                    endpoint
                }
                Err(e) => {
                    tracing::warn!(feed = key.feed, webhook = key.name, error = %e, "the webhook cannot be used");
                    return;
                }
            },
        };
        let stop = CancellationToken::new();
        let lane = Lane::new(self.node.clone(), endpoint, &key, webhook.clone());
        let task = tokio::spawn(lane.run(stop.clone()));
        self.lanes.insert(key, Running { webhook, stop, task });
    }
}

impl Drop for Pushes {
    fn drop(&mut self) {
        for running in self.lanes.values() {
            running.stop.cancel();
        }
    }
}
