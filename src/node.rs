//! One node: its log, keys, views and writer, and what it needs to let people in.

mod data;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use gatelog_events::clock;
use gatelog_events::commit::Subject;
use gatelog_events::directory::Directory;
use gatelog_events::domain::{Actor, tenant};
use gatelog_events::ids::{Partition, Position};
use gatelog_events::log::kafka::Membership;
use gatelog_events::log::{EventLog, LogError};
use gatelog_events::seal::KeySourceError;
use gatelog_projections::catch_up::CatchUpError;
use gatelog_projections::store::{Store, StoreError};
use gatelog_projections::subject_keys::SubjectKeys;
use tokio::sync::watch;
use uuid::Uuid;

pub use self::data::{Data, Folders, remove_scratch};
use crate::auth::keys::{KeyError, KeyRing};
use crate::auth::pool::{HashPool, PoolError};
use crate::auth::refresh::RefreshTokens;
use crate::auth::secrets::{Secrets, SecretsError};
use crate::auth::throttle::Throttle;
use crate::auth::tokens::{TokenConfig, Tokens};
use crate::backend::Backend;
use crate::cluster::auth::TOLERANCE;
use crate::cluster::{Cluster, ClusterError, Forwarder, Gate, NodeAddress, NodeUrl, Router};
use crate::config::Config;
use crate::feeds::keys::FeedKeys;
use crate::feeds::links::Links;
use crate::feeds::observed::Observed;
use crate::feeds::push::Pushes;
use crate::feeds::seal::{NoSeal, Seal};
use crate::feeds::signals::keys::{NoSignalKeys, SignalKeys};
use crate::feeds::signals::offers::Offers;
use crate::feeds::signals::push::Transmitter;
use crate::spool::drain::Drain;
use crate::spool::{Spool, SpoolError};
use crate::upkeep;
use crate::views::Views;
use crate::writer::rebuild::Rebuilds;
use crate::writer::{
    self, Command, Options, Owned, Parts, Request, Running, TakeoverError, WriteError, Writer,
};

/// How long a node that stops waits for others to take over: two rounds of the group, and their claims.
const HAND_OVER: Duration = Duration::from_secs(3);

/// How long a node that was relieved goes on to serve: others may read the claims, their own included, a moment later.
const FAREWELL: Duration = Duration::from_millis(300);

/// Keys that a throttle remembers.
const THROTTLE_KEYS: usize = 100_000;

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Keys(#[from] KeySourceError),
    #[error("{0}")]
    Secrets(#[from] SecretsError),
    #[error("{0}")]
    SigningKeys(#[from] KeyError),
    #[error("{0}")]
    Seal(#[from] NoSeal),
    #[error("{0}")]
    SignalKeys(#[from] NoSignalKeys),
    #[error("{0}")]
    Passwords(#[from] PoolError),
    #[error("{0}")]
    Takeover(#[from] TakeoverError),
    #[error("{0}")]
    Cluster(#[from] ClusterError),
    #[error("{0}")]
    Spool(#[from] SpoolError),
    #[error("the first settings could not be written: {0}")]
    Seed(#[from] WriteError),
    /// Nothing it decided is lost, but others would be refused their writes for as long as this node keeps its partitions.
    #[error(
        "the writer broke; the node stops, so that it, or another node, can begin anew. The log says above where that was: \
         please report it"
    )]
    WriterBroke,
    #[error("{place} cannot be created: {source}")]
    DataDir { place: PathBuf, source: std::io::Error },
    #[error("{0}")]
    CatchUp(#[from] CatchUpError),
    /// What was sealed or derived under other secrets would be nothing but noise here, and the other way round.
    #[error(
        "the secrets of this node are not those of the store in {store}: {names} differ. Replace {folder} by a copy of that \
         folder of a node of this store, or from its backup (or correct the GATELOG_… variables that hold them)",
        folder = .folder.display()
    )]
    OtherSecrets {
        names: String,
        store: String,
        folder: PathBuf,
    },
    #[error("the read model {view} cannot fold what stands at {position}: {reason}")]
    Stopped {
        view: &'static str,
        position: Position,
        reason: String,
    },
    /// Commands that were acknowledged are not in it yet.
    #[error(
        "`gatelog log copy` has begun to copy a log into these topics, and has not ended: run it again, to its end, or remove the topics"
    )]
    HalfCopied,
    #[error("{place} cannot be read, or is not what a node wrote there: {what}", place = .place.display())]
    Mark { place: PathBuf, what: String },
    #[error(
        "this node's clock is {millis} ms {} that of Kafka's brokers, and at most {} s are allowed: synchronize the clocks of \
         all machines, for example with chrony",
        if *.ahead { "ahead of" } else { "behind" },
        TOLERANCE.as_secs()
    )]
    Clock { millis: u64, ahead: bool },
    #[error(
        "another node answers at {url}, which is this node's node_advertise: give each node the address at which it alone \
         is reached"
    )]
    Address { url: NodeUrl },
}

/// The parts of a node that requests need. Cheap to share, never changed.
pub struct Node {
    pub config: Config,
    pub backend: Backend,
    pub log: Arc<dyn EventLog>,
    pub keys: Arc<SubjectKeys>,
    pub views: Arc<Views>,
    /// This node's own writer; what comes from outside goes through the router.
    pub writer: Writer,
    pub router: Router,
    /// Lets other nodes in, if there are any.
    pub gate: Option<Arc<Gate>>,
    pub rebuilds: Rebuilds,
    pub directory: Arc<Directory>,
    pub secrets: Secrets,
    pub passwords: HashPool,
    /// Told to stop: still serves, and hands its partitions over.
    pub stopping: AtomicBool,
    pub tokens: Tokens,
    pub refresh_tokens: RefreshTokens,
    /// What subjects and records are called in each feed.
    pub feed_keys: FeedKeys,
    /// Seals where consumers of feeds stand.
    pub cursors: Seal,
    /// Seals what connectors prove themselves with.
    pub credentials: Seal,
    /// Links by which consents are withdrawn and changed.
    pub links: Links,
    /// What signs security events.
    pub signal_keys: SignalKeys,
    /// What polls of streams give in vain.
    pub signal_offers: Offers,
    /// What is seen of the consumers whose lanes run here.
    pub observed: Observed,
    /// Logins that wait for the log, where they are to or where some still do.
    pub spool: Option<Arc<Spool>>,
    /// Guesses at one account.
    pub account_limits: Throttle,
    /// Guesses and registrations from one network.
    pub network_limits: Throttle,
}

impl Node {
    /// Whether it was told to stop, and only finishes what it has begun.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }
}

/// What only the one who started a node may do: stop it.
pub struct Started {
    pub node: Arc<Node>,
    backend: Backend,
    /// Which partitions are this node's, where nodes share them out.
    membership: Option<Arc<Membership>>,
    /// Where other nodes are told to reach this one.
    advertised: Option<(Forwarder, NodeAddress)>,
    taken: watch::Receiver<Option<Result<(), TakeoverError>>>,
    /// Held until the node has stopped.
    _lock: Option<File>,
    store: Arc<Store>,
    parts: Arc<Parts>,
    running: Running,
    /// Counts erasures whose bytes may still be on disk.
    erasures: watch::Receiver<u64>,
}

impl Started {
    /// Starts a node: folds what is missing, takes over the partitions, and writes the first settings. Blocks.
    pub fn open(config: Config) -> Result<Self, NodeError> {
        let data = Data::open(&config)?;
        if let Backend::Kafka(log) = &data.backend {
            upkeep::check_clock(log)?;
        }
        let cluster = match &config.kafka {
            None => Cluster::of_one(&config)?,
            Some(_) => {
                if config.cluster.as_ref().is_none_or(|c| c.advertise.is_none()) {
                    tracing::warn!(
                        "without node_advertise and a cluster secret other nodes cannot reach this one; run it alone, or set both"
                    );
                }
                Cluster::of_many(&config, data.secrets.replaceable())?
            }
        };
        // Before anything is claimed, so that a damaged one stops nobody else.
        let spool = Spool::open(&Folders::under(&config.data_dir).spool, config.spool)?.map(Arc::new);
        let (erasures_out, erasures) = watch::channel(0);
        let (taken_out, taken) = watch::channel(None);
        let views = Arc::new(Views::new(data.store.clone()));
        let parts = Arc::new(Parts {
            log: data.log.clone(),
            store: data.store.clone(),
            keys: data.keys.clone(),
            directory: data.directory.clone(),
            views: views.clone(),
            max_record_bytes: data.backend.max_record_bytes(&config),
            erasures: erasures_out,
            undestroyed: parking_lot::Mutex::default(),
            taken: taken_out,
            claims: cluster.claims(),
        });
        // In a cluster nothing is ours before the group says so.
        let owned = match &config.kafka {
            None => (0..data.log.partitions()).map(Partition).collect(),
            Some(_) => Owned::new(),
        };
        let options = Options {
            queue: config.queue,
            policy: config.session,
        };
        let signing = Folders::under(&config.data_dir).secrets.join("signing");
        let ring = Arc::new(KeyRing::open(&signing, config.signing_algorithm, clock::now())?);
        let token_config = TokenConfig {
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            lifetime: config.access_token_lifetime,
        };
        let passwords = HashPool::start(config.pool.clone())?;
        let running = writer::start(parts.clone(), data.projections.clone(), options, owned)?;
        let membership = match (&data.backend, &config.kafka) {
            (Backend::Kafka(log), Some(kafka)) => Some(Arc::new(log.join(&kafka.membership)?)),
            _ => None,
        };
        if membership.is_none() && views.settings(&config.tenant)?.version == 0 {
            futures::executor::block_on(running.writer.submit(seed(&config)))?;
        }
        let node = Arc::new(Node {
            router: cluster.router(
                running.writer.clone(),
                views.clone(),
                data.directory.clone(),
                data.log.partitions(),
            ),
            gate: cluster.gate(),
            backend: data.backend.clone(),
            log: data.log.clone(),
            keys: data.keys,
            views,
            rebuilds: Rebuilds::new(parts.clone(), data.projections, &running.writer),
            writer: running.writer.clone(),
            directory: data.directory,
            passwords,
            tokens: Tokens::new(token_config, ring),
            refresh_tokens: RefreshTokens::new(&data.secrets.refresh_secret),
            feed_keys: FeedKeys::new(&data.secrets.routing_secret),
            cursors: Seal::new(&data.secrets.routing_secret, "gatelog cursors v1")?,
            credentials: Seal::new(&data.secrets.routing_secret, "gatelog credentials v1")?,
            links: Links::new(&data.secrets.routing_secret)?,
            signal_keys: SignalKeys::new(&data.secrets.routing_secret)?,
            signal_offers: Offers::default(),
            observed: Observed::default(),
            spool,
            account_limits: Throttle::new(config.account_limits, THROTTLE_KEYS),
            network_limits: Throttle::new(config.network_limits, THROTTLE_KEYS),
            secrets: data.secrets,
            stopping: AtomicBool::new(false),
            config,
        });
        Ok(Self {
            node,
            backend: data.backend,
            membership,
            advertised: cluster.advertised(),
            taken,
            _lock: data.lock,
            store: data.store,
            parts,
            running,
            erasures,
        })
    }

    /// Work that goes on beside requests: flushing the views, compacting after erasures, checking the log's bytes, and what
    /// [`upkeep`] does. Ends only when it turns out that the node must stop: the log is damaged, or the node is set up so
    /// that it cannot do its work.
    pub async fn housekeeping(&self) -> NodeError {
        let closed = NodeError::Log(LogError::Closed);
        let kafka = match &self.backend {
            Backend::Kafka(log) => Some(log),
            Backend::Embedded(_) => None,
        };
        tokio::select! {
            damage = self.scrub() => damage.into(),
            failure = self.log_fails() => failure.into(),
            () = self.node.writer.ended() => NodeError::WriterBroke,
            () = self.flush_views() => closed,
            () = self.own_what_is_given() => closed,
            () = self.seed_at_last() => closed,
            () = self.drain_spool() => closed,
            () = self.push_feeds() => closed,
            () = self.transmit_signals() => closed,
            () = self.compact_after_erasures() => closed,
            () = upkeep::destroy_at_last(self.parts.clone()) => closed,
            () = upkeep::reload_signing_keys(self.node.tokens.keys()) => closed,
            wrong = upkeep::meet_oneself(self.advertised.as_ref()) => wrong,
            refused = upkeep::may_join(self.membership.as_deref()) => refused.into(),
            refused = upkeep::may_write(self.taken.clone()) => refused.into(),
            () = upkeep::watch_clock(kafka) => closed,
            () = upkeep::let_erased_keys_leave(kafka, self.membership.as_deref(), &self.node) => closed,
        }
    }

    /// Bounds what a start after a crash must fold again.
    async fn flush_views(&self) {
        let mut every = tokio::time::interval(Duration::from_secs(30));
        loop {
            every.tick().await;
            let store = self.store.clone();
            if let Ok(Err(e)) = tokio::task::spawn_blocking(move || store.flush()).await {
                tracing::error!(error = %e, "the read models could not be flushed");
            }
        }
    }

    async fn compact_after_erasures(&self) {
        let mut erasures = self.erasures.clone();
        // A start may follow a crash between an erasure and its compaction.
        let mut pending = true;
        loop {
            if !pending && erasures.changed().await.is_err() {
                return std::future::pending().await;
            }
            tokio::time::sleep(self.node.config.compaction_delay).await;
            erasures.mark_unchanged();
            let (store, keys) = (self.store.clone(), self.node.keys.clone());
            let compacted = tokio::task::spawn_blocking(move || compact(&store, &keys)).await;
            if let Ok(Err(e)) = &compacted {
                tracing::error!(error = %e, "the files could not be compacted after an erasure; it is tried again");
            }
            pending = !matches!(compacted, Ok(Ok(())));
        }
    }

    /// Tells the writer what the group of nodes decides.
    async fn own_what_is_given(&self) {
        if let Some(membership) = &self.membership {
            let mut owned = membership.owned();
            loop {
                let mut now = owned.borrow_and_update().clone();
                // Somebody may have given the topic more partitions than the log has.
                now.retain(|p| p.0 < self.node.log.partitions());
                self.node.writer.own(now);
                if owned.changed().await.is_err() {
                    if self.node.is_stopping() {
                        break;
                    }
                    // Nobody tells any more what is given to others: this node must not go on with it.
                    return;
                }
            }
        }
        std::future::pending().await
    }

    /// Records logins that were spooled while the log was away.
    async fn drain_spool(&self) {
        let Some(spool) = self.node.spool.clone() else {
            return std::future::pending().await;
        };
        let drain = Drain {
            spool,
            router: self.node.router.clone(),
            keys: self.node.keys.clone(),
            backend: self.backend.clone(),
        };
        drain.run().await;
    }

    /// Posts the records of feeds to webhooks, for the partitions that are this node's.
    async fn push_feeds(&self) {
        let owned = self.membership.as_ref().map(|m| m.owned());
        Pushes::new(self.node.clone(), owned).run().await;
    }

    /// Posts security events to those who want them, for the partitions that are this node's.
    async fn transmit_signals(&self) {
        let owned = self.membership.as_ref().map(|m| m.owned());
        Transmitter::new(self.node.clone(), owned).run().await;
    }

    /// In a cluster the first settings are written by whoever owns their partition.
    async fn seed_at_last(&self) {
        let config = &self.node.config;
        let are_there = || {
            self.node
                .views
                .settings(&config.tenant)
                .is_ok_and(|s| s.version > 0)
        };
        while self.membership.is_some() && !are_there() {
            if let Err(e) = self.node.writer.submit(seed(config)).await {
                tracing::debug!(error = %e, "the first settings are not written yet");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        std::future::pending().await
    }

    /// What the log cannot take any more, no other attempt of this process can write either.
    async fn log_fails(&self) -> LogError {
        match self.backend.embedded() {
            Some(log) => log.failed().await,
            None => std::future::pending().await,
        }
    }

    /// The start checks the newest segments; the rest is checked here.
    async fn scrub(&self) -> LogError {
        let Some(log) = self.backend.embedded().cloned() else {
            return std::future::pending().await;
        };
        match tokio::task::spawn_blocking(move || log.scrub()).await {
            Ok(Err(damage)) => return damage,
            Ok(Ok(found)) => tracing::info!(records = found.records, "every byte of the log is as written"),
            Err(_) => {}
        }
        std::future::pending().await
    }

    /// How many partitions the group has given to this node; all where there is no group.
    pub fn owned(&self) -> usize {
        let given = self.membership.as_ref().map(|m| m.owned().borrow().len());
        given.unwrap_or(usize::from(self.node.log.partitions()))
    }

    /// The log, as its own kind knows it.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Lets other nodes take over what this one writes, before it stops to serve: until they have, commands come to this
    /// node that only it could write. Bounded, should nobody come.
    pub async fn hand_over(&self) {
        self.node.stopping.store(true, Relaxed);
        let Some(membership) = self.membership.clone() else {
            return;
        };
        let asked = membership.clone();
        let others = tokio::task::spawn_blocking(move || asked.has_others()).await;
        // A node that is alone finishes first what it was asked, and leaves then.
        if !others.unwrap_or(false) {
            return;
        }
        let relieved = tokio::time::timeout(HAND_OVER, self.node.router.is_relieved());
        let ((), relieved) = tokio::join!(membership.close(), relieved);
        match relieved {
            Ok(()) => tokio::time::sleep(FAREWELL).await,
            Err(_) => tracing::warn!("no other node has taken over all partitions yet"),
        }
    }

    /// Finishes what was handed in, writes the views out, and closes the log as clean.
    pub async fn close(self) -> Result<(), LogError> {
        // Others may take over at once, if they did not before.
        if let Some(membership) = &self.membership {
            membership.close().await;
        }
        let running = self.running;
        let _ = tokio::task::spawn_blocking(move || running.stop()).await;
        self.backend.close().await
    }
}

/// The documented compaction step: afterwards no byte of an erased person is left in views or keys.
pub fn compact(store: &Store, keys: &SubjectKeys) -> Result<(), CompactError> {
    store.compact()?;
    keys.compact()?;
    Ok(())
}

#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Keys(#[from] KeySourceError),
}

/// The settings with which a new log begins; nothing happens where there are any.
fn seed(config: &Config) -> Request {
    Request {
        tenant: config.tenant.clone(),
        subject: Subject::Tenant,
        partition: None,
        command: Command::Tenant(tenant::Command::Seed),
        actor: Actor::System,
        correlation_id: Uuid::nil(),
        idempotency: None,
        time: None,
        after: None,
    }
}
