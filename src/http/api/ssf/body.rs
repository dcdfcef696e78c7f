//! Bodies of requests of receivers: JSON, whatever they call it, and members that are not known are passed over, for other
//! versions of the protocol have others.

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::invalid;
use crate::error::{Kind, Problem};
use crate::http::app::App;
use crate::http::body;

/// A body, and its bytes.
pub struct Body<T> {
    pub value: T,
    pub raw: Bytes,
}

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let raw = body::read(request, app.node.config.max_body_bytes).await?;
        let value = body::parse(&raw).map_err(|problem| match problem.kind() {
            Kind::InvalidInput => invalid(problem.errors().to_vec()),
            _ => problem,
        })?;
        Ok(Self { value, raw })
    }
}
