//! A node that serves HTTP in this process, and requests to it.

use std::sync::Arc;

use axum::Router;
use gatelog_events::ids::UserId;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::BenchError;
use super::world::{self, Scratch, World};
use crate::config::HEADER_TIMEOUT;
use crate::feeds::webhook::WebhookConfig;
use crate::http;
use crate::node::Started;

/// The key under which the benchmark's requests come.
pub const API_KEY: &str = "the-benchmarks-own-bootstrap-key";

pub const PASSWORD: &str = "seven purple otters juggle";

/// Something that listens.
pub struct Listening {
    pub address: String,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Listening {
    pub async fn stop(self) {
        let _ = self.stop.send(());
        self.served.abort();
    }
}

/// A free local port.
pub async fn listener() -> Result<(TcpListener, String), BenchError> {
    let failed = || BenchError::io("a local port");
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed())?;
    let address = listener.local_addr().map_err(failed())?.to_string();
    Ok((listener, address))
}

/// Serves a router as `gatelog serve` does.
pub async fn listen(router: Router) -> Result<Listening, BenchError> {
    let (listener, address) = listener().await?;
    Ok(serve(listener, address, router))
}

/// As [`listen`], where the port is taken already.
pub fn serve(listener: TcpListener, address: String, router: Router) -> Listening {
    let (stop, stopped) = oneshot::channel();
    let served = tokio::spawn(http::serve(listener, router, HEADER_TIMEOUT, async {
        let _ = stopped.await;
    }));
    Listening {
        address,
        stop,
        served,
    }
}

/// A node with users, and HTTP in front of it.
pub struct Server {
    pub started: Started,
    pub world: Arc<World>,
    pub users: Vec<UserId>,
    pub http: Listening,
}

impl Server {
    /// Users 0 to `users` - 1 have the same password.
    pub async fn start(scratch: &Scratch, users: usize) -> Result<Self, BenchError> {
        Self::start_with(scratch, users, WebhookConfig::default()).await
    }

    /// The same, where webhooks may reach other places.
    pub async fn start_with(
        scratch: &Scratch,
        users: usize,
        webhooks: WebhookConfig,
    ) -> Result<Self, BenchError> {
        let mut config = world::config(&scratch.folder("node")?);
        config.bootstrap_api_key = Some(API_KEY.into());
        config.webhooks = webhooks;
        let started = tokio::task::block_in_place(|| Started::open(config))?;
        let hash = started.node.passwords.hash(PASSWORD.into()).await?;
        let world = World::new(&started);
        let users = world.register_all(0..users, hash.as_str()).await?;
        let http = listen(http::router(started.node.clone())).await?;
        Ok(Self {
            started,
            world,
            users,
            http,
        })
    }

    pub async fn stop(self) -> Result<(), BenchError> {
        self.http.stop().await;
        drop(self.world);
        Ok(self.started.close().await?)
    }

    /// One login of each user.
    pub fn logins(&self) -> Vec<String> {
        let body = |n| {
            format!(
                r#"{{"identifier":"{}","password":"{PASSWORD}"}}"#,
                world::address(n)
            )
        };
        let request = |body: String| {
            format!(
                "POST /v1/logins HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        (0..self.users.len()).map(|n| request(body(n))).collect()
    }

    /// One read of each user, by an application's API key.
    pub fn reads(&self) -> Vec<String> {
        let request = |user| {
            format!(
                "GET /v1/users/{user} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {API_KEY}\r\n\r\n"
            )
        };
        self.users.iter().map(request).collect()
    }
}

/// For each user, a grant of the newsletter; then for each of them its withdrawal.
pub fn consents(users: &[UserId]) -> Vec<String> {
    let request = |user: &UserId, granted: bool| {
        let body = format!(
            r#"{{"granted":{granted},"channel":"email","notice":{{"id":"newsletter","version":"2026-01","language":"en"}}}}"#
        );
        format!(
            "PUT /v1/users/{user}/consents/newsletter HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {API_KEY}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let of_all = |granted| users.iter().map(move |user| request(user, granted));
    of_all(true).chain(of_all(false)).collect()
}
