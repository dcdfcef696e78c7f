//! With what a connector proves who it is.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::DefinitionError;

/// Text that no log may show.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// With what a connector proves who it is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Credential {
    /// HubSpot's private app, Zendesk's OAuth, or any of Salesforce's flows whose token comes from elsewhere.
    Bearer(Secret),
    /// Customer.io's site id and Track API key; Zendesk's `address/token` and API token.
    Basic { user: Secret, password: Secret },
    /// Segment's write key of the source, and a token of the Public API for erasures.
    WriteKey {
        write_key: Secret,
        public_api: Option<Secret>,
    },
    /// Salesforce's OAuth client-credentials flow.
    Client { id: Secret, secret: Secret },
}

impl Credential {
    /// What goes into a header must be fit for one.
    pub(super) fn check(&self) -> Result<(), DefinitionError> {
        let parts = match self {
            Credential::Bearer(token) => vec![token],
            Credential::Basic { user, password } => vec![user, password],
            Credential::WriteKey {
                write_key,
                public_api,
            } => [Some(write_key), public_api.as_ref()]
                .into_iter()
                .flatten()
                .collect(),
            Credential::Client { id, secret } => vec![id, secret],
        };
        let fit = |s: &&Secret| !s.reveal().is_empty() && s.reveal().bytes().all(|b| b.is_ascii_graphic());
        if parts.iter().all(fit) {
            Ok(())
        } else {
            Err(DefinitionError::Credential(
                "empty, or with blanks or other than ASCII characters; copy it anew from the vendor",
            ))
        }
    }
}

pub(super) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

pub(super) fn bearer(token: &Secret) -> String {
    format!("Bearer {}", token.reveal())
}
