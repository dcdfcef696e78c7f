//! `gatelog signals`: streams of security events, by the API of a running node.

use std::io::Write;

use reqwest::Method;
use serde_json::{Value, json};

use super::remote::Node;
use super::{Failure, block_on, print_json};

/// What to do with streams of security events.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the streams, their receivers, and whether they are enabled
    List {
        #[command(flatten)]
        node: Node,
    },
    /// Make another key to sign with: published at once, it signs in five minutes. The former stays published until the
    /// next one is made
    ReplaceKey {
        #[command(flatten)]
        node: Node,
    },
}

pub fn run(args: Args) -> Result<(), Failure> {
    block_on(async {
        match args.action {
            Action::List { node } => list(&node).await,
            Action::ReplaceKey { node } => replace_key(&node).await,
        }
    })
}

async fn list(node: &Node) -> Result<(), Failure> {
    let remote = node.connect()?;
    let streams = remote.call(Method::GET, "/ssf/streams", None).await?;
    let mut out = std::io::stdout().lock();
    for mut stream in streams.as_array().cloned().unwrap_or_default() {
        let path = format!("/ssf/status?stream_id={}", text(&stream, "stream_id"));
        let status = remote.call(Method::GET, &path, None).await?;
        stream["status"] = status["status"].clone();
        match node.json {
            true => writeln!(out, "{stream}")?,
            false => writeln!(out, "{}", line(&stream))?,
        }
    }
    Ok(())
}

fn line(stream: &Value) -> String {
    let delivery = &stream["delivery"];
    let told = stream["events_delivered"].as_array().map_or(0, Vec::len);
    format!(
        "{}  {}  {}  {told} kinds of events  {}",
        text(stream, "stream_id"),
        text(stream, "status"),
        text(stream, "aud"),
        match delivery["method"].as_str() {
            Some("urn:ietf:rfc:8935") => text(delivery, "endpoint_url"),
            _ => "polls",
        }
    )
}

async fn replace_key(node: &Node) -> Result<(), Failure> {
    let remote = node.connect()?;
    let made = remote.call(Method::POST, "/ssf/keys", Some(json!({}))).await?;
    if node.json {
        return print_json(&made);
    }
    let (kid, from) = (text(&made, "kid"), text(&made, "signs_from"));
    Ok(writeln!(std::io::stdout(), "Key {kid} signs from {from} on.")?)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}
