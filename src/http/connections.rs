//! Connections of clients: taken, served one request after the other, and closed where none comes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use axum::response::Response;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tower::Service;

/// Serves until `shutdown`, and returns when what had begun is answered. A connection on which the head of a request is not
/// there after `header_timeout` is closed.
pub(super) async fn serve(
    mut listener: TcpListener,
    router: Router,
    header_timeout: Duration,
    shutdown: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    // Or whoever opens connections and sends nothing would keep them, until the process may open no more.
    http.timer(TokioTimer::new()).header_read_timeout(header_timeout);
    let open = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, peer) = tokio::select! {
            // Tries again by itself where no connection can be taken.
            taken = Listener::accept(&mut listener) => taken,
            () = &mut shutdown => break,
        };
        // Answers are small and written at once; without this some would wait for an acknowledgement.
        if let Err(e) = stream.set_nodelay(true) {
            tracing::debug!(%e, "TCP_NODELAY was not set");
        }
        let router = router.clone();
        let service = service_fn(move |request| answer(router.clone(), request, peer));
        // A client that goes away in the middle is no error of this node.
        tokio::spawn(open.watch(http.serve_connection(TokioIo::new(stream), service)));
    }
    // First, so that whoever comes now is refused and asks another node.
    drop(listener);
    open.shutdown().await;
}

fn answer(
    mut router: Router,
    request: Request<Incoming>,
    peer: SocketAddr,
) -> impl Future<Output = Result<Response, Infallible>> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(peer));
    router.call(request)
}
