//! Streams that are pushed (RFC 8935): each has a *lane* per partition, which runs on the node that owns the partition and
//! says in the log how far it has come, so another node goes on from there.

pub mod answer;
mod endpoint;
mod lane;
mod notices;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use gatelog_events::domain::signals::{Delivery, Push, SignalStream, StreamStatus};
use gatelog_events::domain::tenant::Settings;
use gatelog_events::ids::Partition;
use gatelog_projections::settings;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::endpoint::Endpoint;
use self::lane::Lane;
use self::notices::Notices;
use super::{home, is_trusted};
use crate::feeds::own::Own;
use crate::node::Node;
use crate::writer::Owned;

pub use self::lane::{dead_letter, item};
pub use self::notices::taken;

/// How often it is looked whether lanes must begin or end, where nothing says so.
const LOOK: Duration = Duration::from_secs(1);

/// What runs for a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Work {
    /// What happened in a partition.
    Lane(Partition),
    /// What concerns the stream itself.
    Notices,
}

struct Running {
    /// As it was when the work began; once it differs, the work begins anew.
    stream: Arc<SignalStream>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// All streams of this node that are pushed.
pub struct Transmitter {
    node: Arc<Node>,
    own: Own,
    running: HashMap<(Uuid, Work), Running>,
    endpoints: HashMap<Uuid, (Push, Arc<Endpoint>)>,
}

impl Transmitter {
    pub fn new(node: Arc<Node>, owned: Option<watch::Receiver<Owned>>) -> Self {
        Self {
            own: Own::new(node.log.partitions(), owned),
            node,
            running: HashMap::new(),
            endpoints: HashMap::new(),
        }
    }

    /// Keeps running what must be. Never ends.
    pub async fn run(mut self) {
        let mut seen: Option<Arc<Settings>> = None;
        let mut look = tokio::time::interval(LOOK);
        loop {
            // Before looking, so that nothing in between is missed.
            let moved = self.node.views.moved(settings::NAME);
            match self.node.views.settings(&self.node.config.tenant) {
                // Whatever is written wakes this up, and it is seldom a stream that is changed.
                Ok(settings) if seen.as_ref().is_some_and(|s| Arc::ptr_eq(s, &settings)) => {}
                Ok(settings) => {
                    self.reconcile(&settings).await;
                    seen = Some(settings);
                }
                Err(e) => {
                    tracing::error!(error = %e, "the settings cannot be read; streams stay as they are");
                }
            }
            tokio::select! {
                () = moved => {}
                () = self.own.changed() => seen = None,
                // Also what has ended by itself begins again.
                _ = look.tick() => seen = None,
            }
        }
    }

    async fn reconcile(&mut self, settings: &Settings) {
        let wanted = self.wanted(settings);
        self.end_others(&wanted).await;
        self.endpoints
            .retain(|id, _| settings.signals.streams.contains_key(id));
        for (key, stream) in wanted {
            if !self.running.contains_key(&key) {
                self.begin(key, stream);
            }
        }
    }

    fn wanted(&self, settings: &Settings) -> HashMap<(Uuid, Work), Arc<SignalStream>> {
        let mut wanted = HashMap::new();
        if self.node.is_stopping() {
            return wanted;
        }
        let partitions = self.node.log.partitions();
        for (id, stream) in &settings.signals.streams {
            if !matches!(stream.config.delivery, Delivery::Push(_)) || !is_trusted(settings, stream) {
                continue;
            }
            let stream = Arc::new(stream.clone());
            if self.own.has(home(*id, partitions)) {
                wanted.insert((*id, Work::Notices), stream.clone());
            }
            if stream.status == StreamStatus::Enabled {
                for partition in (0..partitions).map(Partition).filter(|p| self.own.has(*p)) {
                    wanted.insert((*id, Work::Lane(partition)), stream.clone());
                }
            }
        }
        wanted
    }

    /// Ends what is not wanted as it runs; lanes say how far they have come.
    async fn end_others(&mut self, wanted: &HashMap<(Uuid, Work), Arc<SignalStream>>) {
        let over = self.running.extract_if(|key, running| {
            running.task.is_finished() || wanted.get(key) != Some(&running.stream)
        });
        let over: Vec<_> = over.collect();
        for (_, running) in &over {
            running.stop.cancel();
        }
        for (_, running) in over {
            let _ = running.task.await;
        }
    }

    fn begin(&mut self, (id, work): (Uuid, Work), stream: Arc<SignalStream>) {
        let Some(endpoint) = self.endpoint(id, &stream) else {
            return;
        };
        let (node, stop) = (self.node.clone(), CancellationToken::new());
        let task = match work {
            Work::Lane(partition) => {
                let lane = Lane::new(node, endpoint, stream.clone(), partition, stop.clone());
                tokio::spawn(lane.run())
            }
            Work::Notices => {
                let notices = Notices {
                    partition: home(id, node.log.partitions()),
                    node,
                    endpoint,
                    stream: stream.clone(),
                };
                tokio::spawn(notices.run(stop.clone()))
            }
        };
        self.running.insert((id, work), Running { stream, stop, task });
    }

    /// The receiver, as it is set now: what was learnt of another address counts no more.
    fn endpoint(&mut self, id: Uuid, stream: &SignalStream) -> Option<Arc<Endpoint>> {
        let Delivery::Push(push) = &stream.config.delivery else {
            return None;
        };
        if let Some((known, endpoint)) = self.endpoints.get(&id)
            && known == push
        {
            return Some(endpoint.clone());
        }
        match Endpoint::new(&self.node, id, push) {
            Ok(endpoint) => {
                let endpoint = Arc::new(endpoint);
                self.endpoints.insert(id, (push.clone(), endpoint.clone()));
                Some(endpoint)
            }
            Err(e) => {
                tracing::warn!(stream = %id, error = %e, "the stream's receiver cannot be used");
                None
            }
        }
    }
}

impl Drop for Transmitter {
    fn drop(&mut self) {
        for running in self.running.values() {
            running.stop.cancel();
        }
    }
}
