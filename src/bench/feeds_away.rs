//! Logins while nobody takes what feeds post, against logins while nothing is posted.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use gatelog_events::domain::feed::{Definition, Field};
use gatelog_events::domain::tenant::{self, FeedDefined};
use gatelog_events::domain::webhook::{self, SetWebhook};

use super::client::{Done, Job, Load};
use super::measure::Series;
use super::report::{Figure, Section, Target};
use super::server::{Server, listen, listener};
use super::world::Scratch;
use super::{BenchError, Options};
use crate::feeds::push::Pushes;
use crate::feeds::webhook::WebhookConfig;

const USERS: usize = 5_000;
const FEED: &str = "away";
const CONCURRENCY: u16 = 64;
const CONNECTIONS_PER_THREAD: usize = 8;
const TIME: Duration = Duration::from_secs(5);

pub async fn run(options: &Options) -> Result<Section, BenchError> {
    let scratch = Scratch::new(&options.scratch)?;
    let here = "127.0.0.0/8"
        .parse()
        .map_err(|_| BenchError::Ended("a network".to_owned()))?;
    let webhooks = WebhookConfig::new(true, vec![here], Duration::from_secs(3600));
    let server = Server::start_with(&scratch, USERS, webhooks).await?;
    let refusing = listen(Router::new().fallback(async || StatusCode::INTERNAL_SERVER_ERROR)).await?;
    // Connections are made, and nobody ever answers.
    let (_silent, silent) = listener().await?;
    let (closed, gone) = listener().await?;
    drop(closed);
    define(
        &server,
        &[
            ("refuses", &refusing.address),
            ("silent", &silent),
            ("gone", &gone),
        ],
    )
    .await?;
    let (mut ratio, mut without, mut with, mut p99) = (
        Series::default(),
        Series::default(),
        Series::default(),
        Series::default(),
    );
    for n in 0..=options.repetitions {
        let calm = load(&server).await?;
        let pushing = tokio::spawn(Pushes::new(server.started.node.clone(), None).run());
        let pushed = load(&server).await?;
        pushing.abort();
        if n > 0 {
            let rate = |done: &Done| done.answers as f64 / done.wall;
            ratio.push(rate(&pushed) / rate(&calm));
            without.push(rate(&calm));
            with.push(rate(&pushed));
            p99.push(pushed.p99 / calm.p99);
        }
    }
    refusing.stop().await;
    server.stop().await?;
    let figure = |what: &str, unit, series| Figure::new(what, unit, series, Target::None);
    Ok(Section {
        title: "Logins while every consumer is away",
        method: format!(
            "`POST /v1/logins` of {USERS} users for {} s while a feed of all users and of each login is posted to three \
             webhooks of {CONCURRENCY} requests at a time: one whose receiver answers 500, one that never answers, one \
             where nobody listens. Before it, in turn, the same with nothing posted.",
            TIME.as_secs(),
        ),
        figures: vec![
            Figure::new("logins, consumers away ÷ none", "", ratio, Target::AtLeast(0.95)),
            figure("logins, nothing posted", "/s", without),
            figure("logins, consumers away", "/s", with),
            figure("p99 of a login, consumers away ÷ none", "", p99),
        ],
    })
}

async fn define(server: &Server, hooks: &[(&str, &str)]) -> Result<(), BenchError> {
    let events = ["login.succeeded", "plan.upgraded"].map(str::to_owned);
    let definition = Definition {
        description: None,
        purpose: None,
        fields: BTreeSet::from([Field::Plan]),
        events: events.into(),
        retention_seconds: None,
    };
    let defined = FeedDefined {
        name: FEED.to_owned(),
        definition,
    };
    server
        .world
        .settings(tenant::Command::DefineFeed(defined))
        .await?;
    for (name, address) in hooks {
        let set = SetWebhook {
            feed: FEED.to_owned(),
            name: (*name).to_owned(),
            url: format!("http://{address}/"),
            version: None,
            concurrency: CONCURRENCY,
            connector: None,
        };
        let command = tenant::Command::Webhook(webhook::Command::Set(set));
        server.world.settings(command).await?;
    }
    Ok(())
}

async fn load(server: &Server) -> Result<Done, BenchError> {
    let threads = server.started.node.config.pool.threads;
    let job = Job {
        address: server.http.address.clone(),
        requests: server.logins(),
        connections: threads * CONNECTIONS_PER_THREAD,
        load: Load::Closed,
        time: TIME,
    };
    job.run().await
}
