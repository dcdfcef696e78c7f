//! Webhooks, against a bare HTTP client that posts the same bodies; how soon a record arrives; and how soon a withdrawal
//! does that comes behind a backlog.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, FuturesUnordered};
use gatelog_events::clock;
use gatelog_events::domain::feed::{Definition, Field};
use gatelog_events::domain::profile::ProfileField;
use gatelog_events::domain::tenant::{self, FeedDefined};
use gatelog_events::domain::webhook::{self, ReplayFrom, SetWebhook, WebhookReplayed};
use gatelog_events::ids::UserId;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;
use uuid::Uuid;

use super::measure::{Series, Took, Watch};
use super::report::{Figure, Section, Target};
use super::world::{PASSWORD_HASH, Scratch, World, config};
use super::{BenchError, Options};
use crate::feeds::keys::Scope;
use crate::feeds::push::Pushes;
use crate::feeds::webhook::WebhookConfig;
use crate::node::Started;

const USERS: usize = 20_000;
const CONCURRENCY: u16 = 64;
const FEED: &str = "bench";
const HOOK: &str = "receiver";
/// Records whose way is timed one by one.
const SINGLE: usize = 200;
/// Events per second, and for how long, when the way of each is timed under load.
const PER_SECOND: usize = 2_000;
const SECONDS: usize = 4;
/// Events behind which withdrawals come.
const BACKLOG: usize = 500_000;
const WITHDRAWALS: usize = 50;

pub async fn run(options: &Options) -> Result<Section, BenchError> {
    let scratch = Scratch::new(&options.scratch)?;
    let receiver = Receiver::start().await?;
    let mut config = config(&scratch.folder("feeds")?);
    let here = "127.0.0.0/8"
        .parse()
        .map_err(|_| BenchError::Ended("a network".to_owned()))?;
    config.webhooks = WebhookConfig::new(true, vec![here], Duration::from_secs(3600));
    let started = tokio::task::spawn_blocking(move || Started::open(config))
        .await
        .map_err(|e| BenchError::Ended(e.to_string()))??;
    let world = World::new(&started);
    let pushing = tokio::spawn(Pushes::new(started.node.clone(), None).run());
    let bench = Bench {
        users: world.register_all(0..USERS, PASSWORD_HASH).await?,
        world,
        receiver,
    };
    let mut results = Results::default();
    bench.define().await?;
    bench.receiver.until(USERS).await;
    for n in 0..=options.repetitions {
        let (pushed, bodies) = bench.push().await?;
        let bare = bench.post(bodies).await?;
        if n > 0 {
            results.add(&pushed, &bare);
        }
    }
    results.idle = bench.idle().await?;
    results.busy = bench.busy().await?;
    (results.urgent, results.left) = bench.behind_a_backlog().await?;
    pushing.abort();
    drop(bench);
    started.close().await?;
    Ok(results.section())
}

struct Bench {
    world: Arc<World>,
    users: Vec<UserId>,
    receiver: Receiver,
}

impl Bench {
    async fn define(&self) -> Result<(), BenchError> {
        let fields = BTreeSet::from([
            Field::Email,
            Field::Locale,
            Field::Plan,
            Field::Profile(ProfileField::GivenName),
        ]);
        let kinds = ["plan.upgraded", "plan.downgraded"].map(str::to_owned);
        self.world
            .settings(tenant::Command::DefineFeed(FeedDefined {
                name: FEED.to_owned(),
                definition: Definition {
                    description: None,
                    purpose: Some("newsletter".to_owned()),
                    fields,
                    events: kinds.into(),
                    retention_seconds: None,
                },
            }))
            .await?;
        let set = SetWebhook {
            feed: FEED.to_owned(),
            name: HOOK.to_owned(),
            url: self.receiver.url.clone(),
            version: Some(1),
            concurrency: CONCURRENCY,
            connector: None,
        };
        self.world
            .settings(tenant::Command::Webhook(webhook::Command::Set(set)))
            .await
    }

    async fn replay(&self, from: ReplayFrom) -> Result<(), BenchError> {
        let replayed = WebhookReplayed {
            feed: FEED.to_owned(),
            name: HOOK.to_owned(),
            from,
        };
        self.world
            .settings(tenant::Command::Webhook(webhook::Command::Replay(replayed)))
            .await
    }

    /// Everyone's state, posted by the webhook; and what was posted.
    async fn push(&self) -> Result<(Took, Vec<Bytes>), BenchError> {
        self.receiver.keep(Keep::All);
        self.replay(ReplayFrom::Snapshot).await?;
        // From the first to the last, so that the moment in which lanes begin is no part of it.
        self.receiver.until(1).await;
        let watch = Watch::start();
        let before = self.receiver.count();
        self.receiver.until(USERS).await;
        let took = watch.stop((USERS - before) as f64);
        Ok((
            took,
            self.receiver.take().into_iter().map(|(_, body)| body).collect(),
        ))
    }

    /// The same bodies, posted by the same HTTP library and nothing else.
    async fn post(&self, bodies: Vec<Bytes>) -> Result<Took, BenchError> {
        self.receiver.keep(Keep::All);
        let client = reqwest::Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            .build()
            .map_err(|e| BenchError::Ended(e.to_string()))?;
        let amount = bodies.len() as f64;
        let url = &self.receiver.url;
        let watch = Watch::start();
        let posts = stream::iter(bodies).map(|body| {
            let call = client
                .post(url)
                .header("content-type", "application/cloudevents+json")
                .body(body);
            async move { call.send().await.map(|_| ()) }
        });
        let mut posts = posts.buffer_unordered(usize::from(CONCURRENCY));
        while let Some(posted) = posts.next().await {
            posted.map_err(|e| BenchError::Ended(e.to_string()))?;
        }
        Ok(watch.stop(amount))
    }

    /// Milliseconds from the acknowledgement of a change of plan to its arrival, one at a time.
    async fn idle(&self) -> Result<Series, BenchError> {
        self.receiver.keep(Keep::All);
        let mut series = Series::default();
        for (n, user) in self.users.iter().take(SINGLE).enumerate() {
            self.world.plan(*user, "pro").await?;
            let acknowledged = clock::monotonic();
            self.receiver.until(n + 1).await;
            let arrived = self.receiver.last().unwrap_or(acknowledged);
            series.push(arrived.saturating_duration_since(acknowledged).as_secs_f64() * 1e3);
        }
        Ok(series)
    }

    /// The same with many at a time, at a steady rate whether or not earlier ones have arrived.
    async fn busy(&self) -> Result<Series, BenchError> {
        self.receiver.keep(Keep::All);
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        let mut writes = FuturesUnordered::new();
        let mut acknowledged: HashMap<(Uuid, u64), Instant> = HashMap::new();
        let mut users = self.users.iter().skip(SINGLE);
        for _ in 0..SECONDS * 100 {
            tick.tick().await;
            for user in users.by_ref().take(PER_SECOND / 100) {
                let world = self.world.clone();
                let subject = self.subject(*user);
                let user = *user;
                // A task of its own, so that it is noted at once when the write is acknowledged.
                writes.push(tokio::spawn(async move {
                    let outcome = world.plan(user, "pro").await?;
                    let sequence = outcome.commit.map_or(0, |c| c.version());
                    Ok::<_, BenchError>(((subject, sequence), clock::monotonic()))
                }));
            }
        }
        while let Some(written) = writes.next().await {
            let (record, at) = written.map_err(|e| BenchError::Ended(e.to_string()))??;
            acknowledged.insert(record, at);
        }
        self.receiver.until(acknowledged.len()).await;
        let mut series = Series::default();
        for (arrived, body) in self.receiver.take() {
            if let Some(at) = identity(&body).and_then(|record| acknowledged.get(&record)) {
                series.push(arrived.saturating_duration_since(*at).as_secs_f64() * 1e3);
            }
        }
        Ok(series)
    }

    /// Seconds from the acknowledgement of a withdrawal to its arrival while a backlog is posted, and how much of the
    /// backlog was left when the last one had arrived.
    async fn behind_a_backlog(&self) -> Result<(Series, f64), BenchError> {
        self.receiver.keep(Keep::Nothing);
        let known = USERS * 2;
        let mut plan = ["free", "pro"].into_iter().cycle();
        for _ in 0..BACKLOG.saturating_sub(known).div_ceil(USERS) {
            let plan = plan.next().unwrap_or("free");
            let changes = stream::iter(&self.users).map(|user| self.world.plan(*user, plan));
            let mut changes = changes.buffer_unordered(1024);
            while let Some(changed) = changes.next().await {
                changed?;
            }
        }
        self.receiver.keep(Keep::Withdrawals);
        self.replay(ReplayFrom::Beginning).await?;
        self.receiver.posted(2_000).await;
        let mut series = Series::default();
        for (n, user) in self.users.iter().take(WITHDRAWALS).enumerate() {
            self.world.consent(*user, false).await?;
            let acknowledged = clock::monotonic();
            self.receiver.until(n + 1).await;
            let arrived = self.receiver.last().unwrap_or(acknowledged);
            series.push(arrived.saturating_duration_since(acknowledged).as_secs_f64());
        }
        let left = BACKLOG as f64 - self.receiver.seen() as f64;
        Ok((series, left))
    }

    fn subject(&self, user: UserId) -> Uuid {
        let node = &self.world.node;
        let scope = Scope {
            tenant: &node.config.tenant,
            feed: FEED,
        };
        node.feed_keys.subject(scope, user)
    }
}

/// Subject and sequence of a record.
fn identity(body: &[u8]) -> Option<(Uuid, u64)> {
    let event: Value = serde_json::from_slice(body).ok()?;
    let subject = event["subject"].as_str()?.parse().ok()?;
    Some((subject, event["sequence"].as_str()?.parse().ok()?))
}

/// What a receiver remembers.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Keep {
    All,
    Withdrawals,
    #[default]
    Nothing,
}

#[derive(Default)]
struct Kept {
    keep: Keep,
    /// Of all that came since it was said what to keep.
    seen: usize,
    arrived: Vec<(Instant, Bytes)>,
}

/// Takes everything at once, as a receiver does that only puts it into a queue.
#[derive(Clone)]
struct Receiver {
    url: String,
    kept: Arc<Mutex<Kept>>,
}

impl Receiver {
    async fn start() -> Result<Self, BenchError> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .map_err(BenchError::io("a receiver"))?;
        let address = listener.local_addr().map_err(BenchError::io("a receiver"))?;
        let receiver = Self {
            url: format!("http://{address}/"),
            kept: Arc::default(),
        };
        let router = Router::new().route("/", post(take)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(receiver)
    }

    fn keep(&self, keep: Keep) {
        *self.kept.lock() = Kept {
            keep,
            ..Kept::default()
        };
    }

    fn count(&self) -> usize {
        self.kept.lock().arrived.len()
    }

    fn seen(&self) -> usize {
        self.kept.lock().seen
    }

    fn last(&self) -> Option<Instant> {
        self.kept.lock().arrived.last().map(|(at, _)| *at)
    }

    fn take(&self) -> Vec<(Instant, Bytes)> {
        std::mem::take(&mut self.kept.lock().arrived)
    }

    /// Waits until so many were kept, or came where nothing is kept.
    async fn until(&self, count: usize) {
        self.wait(|kept| kept.arrived.len() >= count || (kept.keep == Keep::Nothing && kept.seen >= count))
            .await;
    }

    /// Waits until so many came, kept or not.
    async fn posted(&self, count: usize) {
        self.wait(|kept| kept.seen >= count).await;
    }

    /// Looked at now and then: to be told of each arrival would be work that the bare client does not have.
    async fn wait(&self, so: impl Fn(&Kept) -> bool) {
        while !so(&self.kept.lock()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn take(State(receiver): State<Receiver>, body: Bytes) -> StatusCode {
    let now = clock::monotonic();
    let mut kept = receiver.kept.lock();
    kept.seen += 1;
    let wanted = match kept.keep {
        Keep::All => true,
        Keep::Withdrawals => body.windows(9).any(|part| part == b"withdrawn"),
        Keep::Nothing => false,
    };
    if wanted {
        // As it came it keeps all that was read with it in memory.
        kept.arrived.push((now, Bytes::copy_from_slice(&body)));
    }
    StatusCode::NO_CONTENT
}

#[derive(Default)]
struct Results {
    ratio: Series,
    pushed: Series,
    bare: Series,
    pushed_cpu: Series,
    bare_cpu: Series,
    idle: Series,
    busy: Series,
    urgent: Series,
    left: f64,
}

impl Results {
    fn add(&mut self, pushed: &Took, bare: &Took) {
        self.ratio.push(pushed.rate() / bare.rate());
        self.pushed.push(pushed.rate());
        self.bare.push(bare.rate());
        self.pushed_cpu.push(pushed.micros_each());
        self.bare_cpu.push(bare.micros_each());
    }

    fn section(self) -> Section {
        let one = |n: f64| [n].into_iter().collect::<Series>();
        let figure = |what: &str, unit, series, target| Figure::new(what, unit, series, target);
        let p99 = one(self.busy.quantile(0.99));
        Section {
            title: "Feeds by webhook",
            method: format!(
                "A webhook posts the state of {USERS} users, {CONCURRENCY} requests at a time, signed, in order per user, \
                 with consent looked at for each; from the first to the last arrival. Bare: the same HTTP library posts \
                 the same bodies, as many at a time. The receiver, in the same process on the same cores, counts and \
                 answers 204 in both. *Idle*: one change of plan after another, {SINGLE} in all. *Busy*: {PER_SECOND} \
                 changes a second for {SECONDS} s, whether or not earlier ones have arrived. Both from the \
                 acknowledgement of the write to the arrival. *Behind a backlog*: the webhook begins anew with \
                 {BACKLOG} events to read; meanwhile {WITHDRAWALS} people withdraw, one after another.",
            ),
            figures: vec![
                figure("webhooks ÷ bare client", "", self.ratio, Target::AtLeast(0.7)),
                figure("posted by the webhook", "/s", self.pushed, Target::None),
                figure("posted by the bare client", "/s", self.bare, Target::None),
                figure(
                    "processor time per record, receiver included",
                    "µs",
                    self.pushed_cpu,
                    Target::None,
                ),
                figure("the same of the bare client", "µs", self.bare_cpu, Target::None),
                figure(
                    "acknowledged to arrived, idle",
                    "ms",
                    self.idle.clone(),
                    Target::None,
                ),
                figure("the same, p99", "ms", one(self.idle.quantile(0.99)), Target::None),
                figure("acknowledged to arrived, busy", "ms", self.busy, Target::None),
                figure("the same, p99", "ms", p99, Target::None),
                figure(
                    "withdrawal acknowledged to arrived behind a backlog, longest",
                    "s",
                    one(self.urgent.max()),
                    Target::AtMost(2.0),
                ),
                figure("the same, median", "s", self.urgent, Target::None),
                figure("backlog left then", "events", one(self.left), Target::None),
            ],
        }
    }
}
