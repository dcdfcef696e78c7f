//! Webhooks, and the topics of feeds: records that are sent to whoever takes them.
//!
//! Each webhook and topic has a *lane* per partition. A lane runs on the node that owns the partition and says in the log how far it
//! has come, so another node goes on from there. A lane holds up nobody else's, nor a login: it only reads.

pub(in crate::feeds) mod door;
mod endpoint;
mod lane;
pub(in crate::feeds) mod pause;
mod post;
pub(in crate::feeds) mod queue;
pub(in crate::feeds) mod say;
mod topic;
pub(crate) mod vendor;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatelog_events::clock;
use gatelog_events::domain::feed::{TOPIC, Topic};
use gatelog_events::domain::tenant::Settings;
use gatelog_events::domain::webhook::Webhook;
use gatelog_events::ids::Partition;
use gatelog_events::log::kafka::Outlet;
use gatelog_projections::settings;
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::endpoint::Endpoint;
use self::lane::Lane;
pub(super) use self::lane::place;
use self::topic::TopicLane;
use crate::backend::Backend;
use crate::feeds::own::Own;
use crate::node::Node;
use crate::writer::Owned;

/// How often it is looked whether lanes must begin or end, where nothing says so.
const LOOK: Duration = Duration::from_secs(1);

/// When it is tried again to make use of a webhook that could not be used: what it names may be there by then.
const ANOTHER_TRY: Duration = Duration::from_secs(60);

/// Which lane: a webhook as it is set now, and a partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    feed: String,
    name: String,
    partition: Partition,
}

/// Where a lane leads.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Webhook(Webhook),
    Topic(Topic),
}

struct Running {
    /// As it was when the lane began; once it differs, the lane begins anew.
    target: Target,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// All lanes of this node.
pub struct Pushes {
    node: Arc<Node>,
    own: Own,
    lanes: HashMap<Key, Running>,
    endpoints: HashMap<(String, String), Arc<Endpoint>>,
    outlets: HashMap<String, Arc<OnceCell<Outlet>>>,
    /// Webhooks that cannot be used as they are, and when that was found.
    unusable: HashMap<(String, String), (Webhook, Instant)>,
}

impl Pushes {
    pub fn new(node: Arc<Node>, owned: Option<watch::Receiver<Owned>>) -> Self {
        Self {
            own: Own::new(node.log.partitions(), owned),
            node,
            lanes: HashMap::new(),
            endpoints: HashMap::new(),
            outlets: HashMap::new(),
            unusable: HashMap::new(),
        }
    }

    /// Keeps the lanes running that must be. Never ends.
    pub async fn run(mut self) {
        loop {
            // Before looking, so that nothing in between is missed.
            let moved = self.node.views.moved(settings::NAME);
            match self.node.views.settings(&self.node.config.tenant) {
                Ok(settings) => self.reconcile(&settings).await,
                Err(e) => {
                    tracing::error!(error = %e, "the settings cannot be read; webhooks stay as they are")
                }
            }
            tokio::select! {
                () = moved => {}
                () = self.own.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn reconcile(&mut self, settings: &Settings) {
        let observed = &self.node.observed;
        observed.serve(self.own.all());
        observed.keep(|feed, name| {
            let feed = settings.feeds.get(feed);
            feed.is_some_and(|f| f.webhooks.contains_key(name) || name == TOPIC && f.topic.is_some())
        });
        let wanted = self.wanted(settings);
        self.end_others(&wanted).await;
        for (key, target) in wanted {
            if !self.lanes.contains_key(&key) {
                self.begin(settings, key, target);
            }
        }
    }

    fn wanted(&self, settings: &Settings) -> HashMap<Key, Target> {
        let mut wanted = HashMap::new();
        if self.node.is_stopping() {
            return wanted;
        }
        let partitions = self.own.all();
        for (feed, f) in settings.feeds.iter().filter(|(_, f)| f.retired_at.is_none()) {
            let hooks = f.webhooks.iter().filter(|(_, hook)| hook.paused.is_none());
            let hooks = hooks.map(|(name, hook)| (name.as_str(), Target::Webhook(hook.clone())));
            let topic = f.topic.map(|topic| (TOPIC, Target::Topic(topic)));
            for (name, target) in hooks.chain(topic) {
                for partition in &partitions {
                    let key = Key {
                        feed: feed.clone(),
                        name: name.to_owned(),
                        partition: *partition,
                    };
                    wanted.insert(key, target.clone());
                }
            }
        }
        wanted
    }

    /// Ends the lanes that are not wanted as they run; they say how far they have come.
    async fn end_others(&mut self, wanted: &HashMap<Key, Target>) {
        let over = self.lanes.extract_if(|key, running| {
            running.task.is_finished() || wanted.get(key) != Some(&running.target)
        });
        let over: Vec<_> = over.collect();
        for (_, running) in &over {
            running.stop.cancel();
        }
        for (key, running) in over {
            let _ = running.task.await;
            // The lanes that stay share its breaker and what may be on its way.
            let stays = |other: &Key| other.feed == key.feed && other.name == key.name;
            if !self.lanes.keys().any(stays) {
                self.endpoints.remove(&(key.feed, key.name));
            }
        }
    }

    fn begin(&mut self, settings: &Settings, key: Key, target: Target) {
        let stop = CancellationToken::new();
        let task = match &target {
            Target::Webhook(webhook) => {
                let Some(endpoint) = self.endpoint(settings, &key, webhook) else {
                    return;
                };
                let lane = Lane::new(self.node.clone(), endpoint, &key, webhook.clone(), stop.clone());
                tokio::spawn(lane.run())
            }
            Target::Topic(topic) => {
                let Backend::Kafka(log) = &self.node.backend else {
                    return;
                };
                let lane = TopicLane {
                    node: self.node.clone(),
                    log: log.clone(),
                    outlet: self.outlets.entry(key.feed.clone()).or_default().clone(),
                    feed: key.feed.clone(),
                    topic: *topic,
                    partition: key.partition,
                };
                tokio::spawn(lane.run(stop.clone()))
            }
        };
        self.lanes.insert(key, Running { target, stop, task });
    }

    fn endpoint(&mut self, settings: &Settings, key: &Key, webhook: &Webhook) -> Option<Arc<Endpoint>> {
        let name = (key.feed.clone(), key.name.clone());
        if let Some(endpoint) = self.endpoints.get(&name) {
            return Some(endpoint.clone());
        }
        let tried = self.unusable.get(&name);
        if tried.is_some_and(|(as_was, at)| as_was == webhook && at.elapsed() < ANOTHER_TRY) {
            return None;
        }
        let version = settings.feeds.get(&key.feed)?.version(webhook.version)?;
        match Endpoint::new(&self.node, &key.feed, &key.name, webhook, &version.definition) {
            Ok(endpoint) => {
                let endpoint = Arc::new(endpoint);
                self.unusable.remove(&name);
                self.endpoints.insert(name, endpoint.clone());
                Some(endpoint)
            }
            Err(e) => {
                tracing::warn!(feed = key.feed, webhook = key.name, error = %e, "the webhook cannot be used");
                self.unusable.insert(name, (webhook.clone(), clock::monotonic()));
                None
            }
        }
    }
}

/// What a feed's topic is called, after the prefix of all topics.
pub fn topic_name(feed: &str) -> String {
    format!("feed.{feed}")
}

impl Drop for Pushes {
    fn drop(&mut self) {
        for running in self.lanes.values() {
            running.stop.cancel();
        }
    }
}
