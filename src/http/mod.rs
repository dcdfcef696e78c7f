//! The HTTP API: routes, and how they are served.
//!
//! Reads go through [`crate::views`], writes through [`crate::cluster::Router`] to whoever owns the partition; nothing here touches the log or the read models'
//! store otherwise. Every error becomes a problem document in [`crate::error`].

pub mod api;
mod app;
mod ask;
pub mod bodies;
mod body;
mod caller;
mod check;
mod connections;
mod cursor;
mod envelope;
pub mod internal;
mod lag;
mod measured;
pub mod metrics;
pub mod openapi;
mod operations;
mod pages;
mod params;
mod peer;
mod reply;
mod shape;
pub mod starting;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use self::app::App;
use crate::error::{Kind, Problem};
use crate::node::Node;

/// How often samples of histograms are folded together, so that they do not pile up.
const UPKEEP: Duration = Duration::from_secs(5);

/// All routes that the document describes, with the document.
fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(api::registrations::register))
        .routes(routes!(api::logins::login))
        .routes(routes!(api::logins::refresh))
        .routes(routes!(api::sessions::end))
        .routes(routes!(api::sessions::list))
        .routes(routes!(api::users::find))
        .routes(routes!(api::users::get, api::users::erase))
        .routes(routes!(api::users::patch_profile))
        .routes(routes!(api::users::put_email))
        .routes(routes!(api::passwords::put))
        .routes(routes!(api::consents::list))
        .routes(routes!(api::consents::put))
        .routes(routes!(api::plans::put))
        .routes(routes!(api::roles::grant, api::roles::revoke))
        .routes(routes!(api::roles::put_status))
        .routes(routes!(api::roles::unlock))
        .routes(routes!(api::timeline::list))
        .routes(routes!(api::statistics::get))
        .routes(routes!(api::settings::plans))
        .routes(routes!(api::settings::put_plan))
        .routes(routes!(api::settings::purposes))
        .routes(routes!(api::settings::put_purpose))
        .routes(routes!(api::settings::notices))
        .routes(routes!(api::settings::put_notice))
        .routes(routes!(api::api_keys::create, api::api_keys::list))
        .routes(routes!(api::api_keys::revoke))
        .routes(routes!(api::feeds::list))
        .routes(routes!(api::feeds::get, api::feeds::put, api::feeds::retire))
        .routes(routes!(api::feeds::put_topic, api::feeds::remove_topic))
        .routes(routes!(api::feeds::schema))
        .routes(routes!(api::feeds::document))
        .routes(routes!(api::feed_events::follow))
        .routes(routes!(api::feed_events::acknowledge))
        .routes(routes!(api::feed_status::get))
        .routes(routes!(api::feed_withdrawals::list))
        .routes(routes!(api::feed_webhooks::list))
        .routes(routes!(api::feed_webhooks::put, api::feed_webhooks::remove))
        .routes(routes!(api::feed_webhooks::pause))
        .routes(routes!(api::feed_webhooks::rotate))
        .routes(routes!(api::feed_webhooks::replay))
        .routes(routes!(api::feed_webhooks::dead_letters))
        .routes(routes!(api::feed_webhooks::redrive))
        .routes(routes!(api::unsubscribe::ask, api::unsubscribe::withdraw))
        .routes(routes!(pages::preferences::show, pages::preferences::choose))
        .routes(routes!(api::ssf::configuration::get))
        .routes(routes!(api::ssf::configuration::jwks))
        .routes(routes!(
            api::ssf::streams::create,
            api::ssf::streams::read,
            api::ssf::streams::update,
            api::ssf::streams::replace,
            api::ssf::streams::delete
        ))
        .routes(routes!(api::ssf::status::get, api::ssf::status::set))
        .routes(routes!(api::ssf::status::verify))
        .routes(routes!(api::ssf::poll::poll))
        .routes(routes!(api::ssf::dead_letters::list))
        .routes(routes!(api::ssf::keys::replace))
        .routes(routes!(api::projections::list))
        .routes(routes!(api::projections::rebuild))
        .routes(routes!(operations::healthz))
        .routes(routes!(operations::readyz))
        .routes(routes!(operations::metrics))
        .routes(routes!(operations::jwks))
        .routes(routes!(operations::openapi))
}

/// The whole of what a node answers.
pub fn router(node: Arc<Node>) -> Router {
    metrics::recorder();
    let (routes, document) = routes().split_for_parts();
    let internal = internal::routes(&node);
    let app = App::new(node, openapi::render(document).into());
    let docs = SwaggerUi::new("/docs").config(utoipa_swagger_ui::Config::from("/openapi.json"));
    routes
        .merge(docs)
        .merge(internal)
        .route("/", get(operations::index))
        .route(
            "/.well-known/ssf-configuration/{*path}",
            get(api::ssf::configuration::get_of_path),
        )
        .route("/feeds", get(pages::feeds::show))
        .route("/feeds/{feed}", get(pages::feeds::show))
        .route("/assets/feeds.js", get(pages::feeds::script))
        .route("/assets/gatelog.css", get(pages::style))
        .route("/assets/gatelog.svg", get(pages::icon))
        .fallback(async || not_found())
        .method_not_allowed_fallback(async || method_not_allowed())
        .layer(envelope::EnvelopeLayer)
        .with_state(app)
}

fn not_found() -> Problem {
    Problem::new(Kind::RouteNotFound, "Check the path; /docs lists all there are.")
}

fn method_not_allowed() -> Problem {
    Problem::new(
        Kind::MethodNotAllowed,
        "Use a method that the Allow header names; /docs describes them.",
    )
}

/// Serves until `shutdown`, then answers what has begun and ends. `header_timeout`: how long the head of a request may take to
/// come, and a connection may wait for one.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    header_timeout: Duration,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let upkeep = tokio::spawn(async {
        let mut tick = tokio::time::interval(UPKEEP);
        loop {
            tick.tick().await;
            metrics::recorder().run_upkeep();
        }
    });
    connections::serve(listener, router, header_timeout, shutdown).await;
    upkeep.abort();
}
