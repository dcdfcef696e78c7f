//! `gatelog serve`: one node, until it is told to stop.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Failure;
use crate::auth::api_keys::NewApiKey;
use crate::auth::private_file;
use crate::cluster::{Gate, NodeId};
use crate::config::Config;
use crate::config::options::{Loaded, read_key};
use crate::http;
use crate::node::{Folders, Started};
use crate::telemetry;

/// How long requests that have begun may go on after no more are taken.
const GRACE: Duration = Duration::from_secs(10);

/// Where a bootstrap key lies that was made at the first start.
pub fn bootstrap_key_file(data_dir: &Path) -> PathBuf {
    Folders::under(data_dir).secrets.join("bootstrap-api-key")
}

/// How the node came by its bootstrap key.
enum Bootstrap {
    Configured,
    Found(PathBuf),
    /// Made just now; to be stored and shown once.
    Made(PathBuf, SecretString),
}

pub fn run(mut loaded: Loaded) -> Result<(), Failure> {
    telemetry::start(loaded.effective.log_format, &loaded.effective.log_level);
    let bootstrap = bootstrap(&mut loaded)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(serve(loaded, bootstrap));
    // All is closed. What may still run rewrites or checks files, and begins again at the next start.
    runtime.shutdown_timeout(LAST_WORK);
    served
}

fn bootstrap(loaded: &mut Loaded) -> Result<Bootstrap, Failure> {
    if loaded.config.bootstrap_api_key.is_some() {
        return Ok(Bootstrap::Configured);
    }
    let file = bootstrap_key_file(&loaded.config.data_dir);
    if file.exists() {
        loaded.config.bootstrap_api_key = Some(read_key(&file)?);
        return Ok(Bootstrap::Found(file));
    }
    let key = NewApiKey::generate().map_err(Failure::other)?.text;
    loaded.config.bootstrap_api_key = Some(key.clone());
    Ok(Bootstrap::Made(file, key))
}

async fn serve(loaded: Loaded, bootstrap: Bootstrap) -> Result<(), Failure> {
    // Both before the node opens, so that neither a taken port nor a signal finds it half open.
    let mut stop = std::pin::pin!(stop_signal()?);
    let listener = listen(&loaded).await?;
    let address = listener.local_addr()?;
    let (opened, meanwhile) = answer_meanwhile(&listener, &loaded.config)?;
    let config = loaded.config;
    let header_timeout = config.header_timeout;
    let opening = tokio::task::spawn_blocking(move || Started::open(config));
    let started = tokio::select! {
        started = opening => started.map_err(Failure::other)??,
        () = &mut stop => {
            // As after a kill, the next start goes on where this one was: nothing was answered yet.
            tracing::info!("stopped before the node was open");
            std::process::exit(0);
        }
    };
    introduce(bootstrap)?;
    let router = http::router(started.node.clone());
    let _ = opened.send(());
    // Whoever hears that the node is ready must not be told any more that it is starting.
    let _ = tokio::time::timeout(LAST_ANSWERS, meanwhile).await;
    tracing::info!(%address, issuer = %started.node.config.issuer, "ready");
    let served = {
        let (handed_over, last_request) = oneshot::channel();
        let (stopping, stopped) = oneshot::channel();
        let serving = http::serve(listener, router, header_timeout, async {
            let _ = last_request.await;
        });
        let ending = async {
            stop.await;
            tracing::info!("stopping; requests that have begun are finished");
            started.hand_over().await;
            let _ = (handed_over.send(()), stopping.send(()));
            std::future::pending().await
        };
        tokio::select! {
            () = serving => Ok(()),
            never = ending => never,
            damage = started.housekeeping() => Err(Failure::from(damage)),
            () = after(stopped, GRACE) => {
                tracing::warn!("some requests did not end in time and were cut off");
                Ok(())
            }
        }
    };
    started.close().await?;
    served?;
    tracing::info!("stopped");
    Ok(())
}

/// How long work that nobody waits for may go on after all is closed.
const LAST_WORK: Duration = Duration::from_secs(2);

/// How long a node that is open waits until what was asked before is answered.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Answers on the node's port until it is told that the node is open, and then ends. What comes after that is taken by the
/// node itself.
fn answer_meanwhile(
    port: &TcpListener,
    config: &Config,
) -> Result<(oneshot::Sender<()>, JoinHandle<()>), Failure> {
    let gate = match &config.cluster {
        Some(cluster) => {
            let run = NodeId::random().map_err(Failure::other)?;
            Some(Arc::new(Gate::new(run, &cluster.secret)))
        }
        None => None,
    };
    // The same port by another handle.
    let handle = port.as_fd().try_clone_to_owned()?;
    let listener = TcpListener::from_std(handle.into())?;
    let (opened, open) = oneshot::channel();
    let meanwhile = tokio::spawn(http::serve(
        listener,
        http::starting::router(gate),
        config.header_timeout,
        async {
            let _ = open.await;
        },
    ));
    Ok((opened, meanwhile))
}

async fn listen(loaded: &Loaded) -> Result<TcpListener, Failure> {
    let address = loaded.config.listen;
    TcpListener::bind(address).await.map_err(|e| {
        Failure::Other(format!(
            "cannot listen on {address}: {e}; choose another with --listen"
        ))
    })
}

/// Resolves once the process is told to stop.
fn stop_signal() -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Resolves when `grace` has passed since no more requests are taken; never if there is no signal.
async fn after(stopped: oneshot::Receiver<()>, grace: Duration) {
    match stopped.await {
        Ok(()) => tokio::time::sleep(grace).await,
        Err(_) => std::future::pending().await,
    }
}

/// Stores a key that was made, and shows it this once; later only says where it lies.
fn introduce(bootstrap: Bootstrap) -> Result<(), Failure> {
    match bootstrap {
        Bootstrap::Configured => {}
        Bootstrap::Found(file) => {
            tracing::info!(file = %file.display(), "the bootstrap API key is in this file")
        }
        Bootstrap::Made(file, key) => {
            private_file::create(&file, format!("{}\n", key.expose_secret()).as_bytes())
                .map_err(Failure::other)?;
            let mut out = std::io::stderr().lock();
            writeln!(
                out,
                "\nAn API key with all scopes was made. It is shown only now, and lies in {}:\n\n    {}\n",
                file.display(),
                key.expose_secret()
            )?;
        }
    }
    Ok(())
}
