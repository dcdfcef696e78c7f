//! `gatelog api-key`: keys of other systems, by the API of a running node.

use std::io::Write;

use gatelog_events::ids::ApiKeyId;
use reqwest::Method;
use serde_json::{Value, json};

use super::remote::Node;
use super::{Failure, block_on, print_json};

/// What to do with keys.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Create a key. It is shown once, here
    Create {
        /// What the key may do, such as users:read; may be given several times
        #[arg(long = "scope", required = true, value_name = "SCOPE")]
        scopes: Vec<String>,
        /// What the key is for
        #[arg(long)]
        name: String,
        #[command(flatten)]
        node: Node,
    },
    /// List all keys, without their secrets
    List {
        #[command(flatten)]
        node: Node,
    },
    /// Revoke a key
    Revoke {
        /// The key's id, as listed
        id: ApiKeyId,
        #[command(flatten)]
        node: Node,
    },
}

pub fn run(args: Args) -> Result<(), Failure> {
    block_on(async {
        match args.action {
            Action::Create { scopes, name, node } => {
                let body = json!({"name": name, "scopes": scopes});
                let created = node
                    .connect()?
                    .call(Method::POST, "/v1/api-keys", Some(body))
                    .await?;
                if node.json {
                    return print_json(&created);
                }
                let mut out = std::io::stdout().lock();
                writeln!(out, "{}", text(&created, "api_key"))?;
                writeln!(
                    std::io::stderr(),
                    "Key {} was created. It is not shown again.",
                    text(&created, "key_id")
                )?;
                Ok(())
            }
            Action::List { node } => {
                let keys = node.connect()?.call(Method::GET, "/v1/api-keys", None).await?;
                if node.json {
                    return print_json(&keys);
                }
                let mut out = std::io::stdout().lock();
                for key in keys["api_keys"].as_array().into_iter().flatten() {
                    writeln!(out, "{}", line(key))?;
                }
                Ok(())
            }
            Action::Revoke { id, node } => {
                let path = format!("/v1/api-keys/{id}");
                let done = node.connect()?.call(Method::DELETE, &path, None).await?;
                if node.json {
                    return print_json(&done);
                }
                writeln!(std::io::stdout(), "Key {id} gives no access any more.")?;
                Ok(())
            }
        }
    })
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn line(key: &Value) -> String {
    let scopes: Vec<_> = key["scopes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let state = match key["revoked_at"].as_str() {
        Some(at) => format!("revoked {at}"),
        None => format!("since {}", text(key, "created_at")),
    };
    format!(
        "{}  {}  [{}]  {state}",
        text(key, "key_id"),
        text(key, "name"),
        scopes.join(" ")
    )
}
