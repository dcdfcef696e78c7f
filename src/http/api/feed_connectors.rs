//! Connectors among the webhooks of a feed: what a request says of one, checked and sealed.

use gatelog_events::domain::tenant::Settings;
use gatelog_events::domain::webhook::SetConnector;
use serde_json::Value;

use crate::error::Problem;
use crate::feeds::connectors::{Base, Connector, Credential, Definition, DefinitionError};
use crate::feeds::push::vendor::granted;
use crate::feeds::webhook::target::Target;
use crate::http::app::App;
use crate::http::check::Check;

const CREDENTIALS: &str = "It must be an object with one of `bearer`, `basic` (`user`, `password`), `write_key` (`write_key`, \
     `public_api`), or `client` (`id`, `secret`), as its vendor needs; docs/connectors.md says which.";

/// Where a connector is to be set.
pub(super) struct Place<'a> {
    pub feed: &'a str,
    pub webhook: &'a str,
    pub version: Option<u32>,
}

/// The connector that a request asks for, and the address of its vendor; nothing if `check` was told what is wrong.
pub(super) fn connector(
    app: &App,
    check: &mut Check,
    place: &Place<'_>,
    definition: Value,
    credential: Option<Value>,
) -> Result<Option<(SetConnector, String)>, Problem> {
    let settings = definition.to_string();
    let vendor = definition["vendor"].as_str().unwrap_or_default().to_owned();
    let definition: Definition = match serde_json::from_value(definition) {
        Ok(definition) => definition,
        Err(e) => {
            check.wrong("connector", format!("It cannot be read: {e}."));
            return Ok(None);
        }
    };
    let sealing = [app.tenant().as_str(), place.feed, place.webhook];
    let sealed = match &credential {
        Some(value) => {
            let bytes = serde_json::to_vec(value).map_err(|e| Problem::internal(&e))?;
            let sealed = app.node.credentials.seal(&sealing, &bytes);
            Some(sealed.ok_or_else(|| Problem::internal(&"a credential cannot be sealed"))?)
        }
        None => None,
    };
    let all = app.node.views.settings(app.tenant())?;
    let credential = match credential {
        Some(value) => match serde_json::from_value(value) {
            Ok(credential) => Some(credential),
            // What it says of the value is not repeated: it is secret.
            Err(_) => {
                check.wrong("credential", CREDENTIALS);
                return Ok(None);
            }
        },
        None => known(app, &all, place, (&vendor, &settings)),
    };
    // Where this node does not know the feed or the credential yet, whoever decides does, or refuses.
    let fields = all.feeds.get(place.feed).and_then(|feed| {
        let version = feed.version(place.version.unwrap_or_else(|| feed.newest()))?;
        Some(granted(&version.definition))
    });
    let url = match (fields, credential) {
        (Some(fields), Some(credential)) => match definition.connect(&fields, credential) {
            Ok(connector) => address(app, check, &connector),
            Err(e) => {
                let field = match e {
                    DefinitionError::Credential(_) => "credential",
                    _ => "connector",
                };
                check.wrong(field, sentence(&e.to_string()));
                return Ok(None);
            }
        },
        _ => String::new(),
    };
    let set = SetConnector {
        vendor,
        settings,
        credential: sealed,
    };
    Ok(Some((set, url)))
}

/// The credential that the connector has, if it would go where it goes now.
fn known(
    app: &App,
    all: &Settings,
    place: &Place<'_>,
    (vendor, settings): (&str, &str),
) -> Option<Credential> {
    let webhook = all.feeds.get(place.feed)?.webhooks.get(place.webhook)?;
    let connector = webhook.connector.as_ref()?;
    let sealed = &connector.credential;
    if !connector.keeps_credential(vendor, settings) {
        return None;
    }
    let sealing = [app.tenant().as_str(), place.feed, place.webhook];
    serde_json::from_slice(&app.node.credentials.open(&sealing, sealed)?).ok()
}

/// Where the vendor is called, if webhooks may go there.
fn address(app: &App, check: &mut Check, connector: &Connector) -> String {
    let policy = &app.node.config.webhooks.policy;
    for base in [Base::Api, Base::Regulations] {
        if let Err(e) = Target::parse(connector.base_url(base), policy) {
            check.wrong("connector", format!("Its address cannot be used: {e}."));
            break;
        }
    }
    connector.base_url(Base::Api).to_owned()
}

/// With a capital letter and a full stop.
pub(super) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string());
    format!("{}{}.", first.unwrap_or_default(), chars.as_str())
}
