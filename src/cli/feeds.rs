//! `gatelog feed`: defining, watching and auditing feeds, by the API of a running node.

mod status;

use std::io::Write;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::remote::{CallError, Node, Remote};
use super::{Failure, block_on, print_json};
use crate::config::values::Span;

/// What to do with feeds.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Define a feed, or a new version of it
    Create {
        /// The feed's name
        name: String,
        /// The purpose whose consent gates it; needed for fields that tell who somebody is
        #[arg(long)]
        purpose: Option<String>,
        /// Fields, separated by commas, such as email,given_name,locale,plan; none are in by themselves
        #[arg(long, value_delimiter = ',', value_name = "FIELD,…")]
        fields: Vec<String>,
        /// Kinds of events, separated by commas, such as user.profile_changed,plan.upgraded
        #[arg(long, value_delimiter = ',', value_name = "KIND,…")]
        events: Vec<String>,
        /// How long what happened is told, such as 30d; without end if absent
        #[arg(long, value_name = "TIME")]
        retention: Option<Span>,
        /// What it is for, for people
        #[arg(long)]
        description: Option<String>,
        #[command(flatten)]
        node: Node,
    },
    /// List all feeds
    List {
        #[command(flatten)]
        node: Node,
    },
    /// Print how far each consumer is behind, what was taken, and what waits; the page /feeds/NAME shows the same
    Status {
        /// The feed's name
        name: String,
        #[command(flatten)]
        node: Node,
    },
    /// Retire a feed: nothing leaves by it any more
    Retire {
        /// The feed's name
        name: String,
        #[command(flatten)]
        node: Node,
    },
    /// Print records as they come, one per line, until interrupted; what is personal is not shown
    Watch {
        /// The feed's name
        name: String,
        /// Begin with everyone's present state, not with what happens from now on
        #[arg(long)]
        snapshot: bool,
        /// Show the fields, too
        #[arg(long)]
        open: bool,
        #[command(flatten)]
        node: Node,
    },
    /// Print the auditor's report: who withdrew when, when the consumer was told, when it acknowledged
    Withdrawals {
        /// The feed's name
        name: String,
        /// Only those that the consumer has not acknowledged
        #[arg(long)]
        open: bool,
        #[command(flatten)]
        node: Node,
    },
}

pub fn run(args: Args) -> Result<(), Failure> {
    block_on(async {
        match args.action {
            Action::Create {
                name,
                purpose,
                fields,
                events,
                retention,
                description,
                node,
            } => {
                let body = json!({
                    "purpose": purpose, "fields": fields, "events": events, "description": description,
                    "retention_seconds": retention.map(|span| span.0.as_secs()),
                });
                let done = node
                    .connect()?
                    .call(Method::PUT, &path(&name, ""), Some(body))
                    .await?;
                if node.json {
                    return print_json(&done);
                }
                Ok(writeln!(
                    std::io::stdout(),
                    "Feed {name} is defined, at {}.",
                    text(&done, "position")
                )?)
            }
            Action::List { node } => {
                let all = node.connect()?.call(Method::GET, "/v1/feeds", None).await?;
                if node.json {
                    return print_json(&all);
                }
                let mut out = std::io::stdout().lock();
                for (name, feed) in all["feeds"].as_object().into_iter().flatten() {
                    writeln!(out, "{}", line(name, feed))?;
                }
                Ok(())
            }
            Action::Status { name, node } => {
                let status = node
                    .connect()?
                    .call(Method::GET, &path(&name, "/status"), None)
                    .await?;
                if node.json {
                    return print_json(&status);
                }
                Ok(write!(std::io::stdout(), "{}", status::page(&name, &status))?)
            }
            Action::Retire { name, node } => {
                let done = node
                    .connect()?
                    .call(Method::DELETE, &path(&name, ""), None)
                    .await?;
                if node.json {
                    return print_json(&done);
                }
                Ok(writeln!(
                    std::io::stdout(),
                    "Nothing leaves by the feed {name} any more."
                )?)
            }
            Action::Watch {
                name,
                snapshot,
                open,
                node,
            } => watch(&node.connect()?, &name, snapshot, open, node.json).await,
            Action::Withdrawals { name, open, node } => {
                withdrawals(&node.connect()?, &name, open, node.json).await
            }
        }
    })
}

/// A name that is none is refused by the node; it must not change the path.
fn path(name: &str, rest: &str) -> String {
    let encoded: String = name
        .bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b':' => char::from(b).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect();
    format!("/v1/feeds/{encoded}{rest}")
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn names(value: &Value) -> String {
    let all = value.as_array().into_iter().flatten().filter_map(Value::as_str);
    all.collect::<Vec<_>>().join(" ")
}

fn line(name: &str, feed: &Value) -> String {
    let newest = feed["versions"]
        .as_array()
        .and_then(|v| v.last())
        .unwrap_or(&Value::Null);
    let state = match feed["retired_at"].as_str() {
        Some(at) => format!("retired {at}"),
        None => format!("version {}", feed["newest"]),
    };
    let purpose = newest["purpose"].as_str().unwrap_or("no purpose");
    format!(
        "{name}  {state}  {purpose}  [{}]  [{}]",
        names(&newest["fields"]),
        names(&newest["events"])
    )
}

/// Follows page by page: each waits at the node until there is something to tell. Once it is told something it goes on where
/// it was, though the node may be away for a while.
async fn watch(node: &Remote, name: &str, snapshot: bool, open: bool, json: bool) -> Result<(), Failure> {
    let from = if snapshot { "snapshot" } else { "now" };
    let mut page = events(node, name, &format!("from={from}")).await?;
    loop {
        let mut out = std::io::stdout().lock();
        for event in page["events"].as_array().into_iter().flatten() {
            let shown = if open { event.clone() } else { redacted(event) };
            if json {
                writeln!(out, "{shown}")?;
            } else {
                writeln!(out, "{}", told(&shown))?;
            }
        }
        out.flush()?;
        drop(out);
        page = next(node, name, &format!("after={}", text(&page, "next"))).await?;
    }
}

async fn events(node: &Remote, name: &str, query: &str) -> Result<Value, CallError> {
    let page = node
        .call(
            Method::GET,
            &path(name, &format!("/events?wait=20&{query}")),
            None,
        )
        .await?;
    match page["next"].as_str() {
        Some(_) => Ok(page),
        None => Err(CallError::Refused("what answers there is no node".to_owned())),
    }
}

/// Between two attempts to reach a node that is away.
const BETWEEN: Duration = Duration::from_secs(1);

/// A page from a node that may be away, which is said once.
async fn next(node: &Remote, name: &str, query: &str) -> Result<Value, Failure> {
    let mut said = false;
    loop {
        match events(node, name, query).await {
            Err(CallError::Away(why)) => {
                if !std::mem::replace(&mut said, true) {
                    writeln!(
                        std::io::stderr(),
                        "gatelog: {why} It is asked again until it answers."
                    )?;
                }
                tokio::time::sleep(BETWEEN).await;
            }
            answer => return Ok(answer?),
        }
    }
}

/// The record with the names of its fields only.
fn redacted(event: &Value) -> Value {
    let mut event = event.clone();
    if let Some(fields) = event.pointer_mut("/data/fields").and_then(Value::as_object_mut) {
        let hidden: Map<_, _> = fields.keys().map(|name| (name.clone(), json!("…"))).collect();
        *fields = hidden;
    }
    event
}

fn told(event: &Value) -> String {
    let kind = text(event, "type");
    let kind = kind.strip_prefix("com.gatelog.feed.").unwrap_or(kind);
    let kind = kind.rsplit_once(".v").map_or(kind, |(kind, _)| kind);
    let data = &event["data"];
    let said = ["details", "fields"]
        .into_iter()
        .flat_map(|part| pairs(&data[part]));
    let what = match data["reason"].as_str() {
        Some(reason) => reason.to_owned(),
        None => said.collect::<Vec<_>>().join(" "),
    };
    let time = event["time"].as_str().unwrap_or("-                       ");
    format!("{time}  {kind:<24}  {}  {what}", text(event, "subject"))
}

/// `name=value` of each member.
fn pairs(object: &Value) -> impl Iterator<Item = String> + '_ {
    object.as_object().into_iter().flatten().map(|(name, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{name}={value}")
    })
}

async fn withdrawals(node: &Remote, name: &str, open: bool, json: bool) -> Result<(), Failure> {
    let mut after = String::new();
    loop {
        let page = node
            .call(
                Method::GET,
                &path(name, &format!("/withdrawals?limit=200{after}")),
                None,
            )
            .await?;
        let mut out = std::io::stdout().lock();
        for line in page["withdrawals"].as_array().into_iter().flatten() {
            if open && line["acknowledged_at"].is_string() {
                continue;
            }
            if json {
                writeln!(out, "{line}")?;
                continue;
            }
            let at = |field: &str| line[field].as_str().unwrap_or("not yet").to_owned();
            writeln!(
                out,
                "{}  {}  {}  told {}  acknowledged {}",
                at("withdrawn_at"),
                text(line, "user_id"),
                line["purpose"].as_str().unwrap_or(text(line, "reason")),
                at("delivered_at"),
                at("acknowledged_at")
            )?;
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_change_the_path() {
        assert_eq!(path("crm.eu-1", "/events"), "/v1/feeds/crm.eu-1/events");
        assert_eq!(path("../users?x", ""), "/v1/feeds/..%2Fusers%3Fx");
    }

    #[test]
    fn what_is_personal_is_not_shown_unless_asked_for() {
        let event = json!({
            "type": "com.gatelog.feed.plan.upgraded.v1", "subject": "s", "time": "2026-11-27T12:00:00Z",
            "data": {"details": {"from": "free"}, "fields": {"email": "ada@example.com", "plan": "pro"}},
        });
        let shown = told(&redacted(&event));
        assert!(
            shown.contains("plan.upgraded") && shown.contains("from=free email=…"),
            "{shown}"
        );
        assert!(!shown.contains("ada"), "{shown}");
        assert!(told(&event).contains("email=ada@example.com plan=pro"));
        let left = json!({"type": "com.gatelog.feed.subject.withdrawn.v1", "data": {"reason": "erased"}});
        assert!(told(&redacted(&left)).ends_with("erased"));
    }
}
