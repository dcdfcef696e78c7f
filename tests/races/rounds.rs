//! The races: what many clients want at once and one can have.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine;
use futures::future::{join_all, try_join_all};
use serde_json::{Value, json};

use super::clients::{Answer, Clients, Told, Wish, escaped};
use super::dice::Dice;
use super::history::{Call, History};
use super::spellings::spellings;
use crate::support::cluster::PASSWORD;

/// Clients in a race.
pub const CROWD: usize = 64;

/// How a client goes about it.
struct Manner {
    first: usize,
    patience: Duration,
    key: Option<String>,
}

impl Manner {
    /// One in four gives up where it is told nothing; some have less patience than a paused node is away.
    fn new(name: &str, client: usize, dice: &mut Dice) -> Self {
        Self {
            first: client + dice.below(3),
            patience: dice.millis(5_000, 15_000),
            key: (!dice.once_in(4)).then(|| format!("{name}-{client}")),
        }
    }

    fn wish(self, method: &'static str, path: &str, body: Value, notes: Vec<Call>) -> Wish {
        Wish {
            method,
            path: path.to_owned(),
            body,
            key: self.key,
            first: self.first,
            patience: self.patience,
            notes,
        }
    }
}

fn note(ask: &'static str, client: usize, who: &str) -> Call {
    Call {
        ask,
        client,
        who: who.to_owned(),
        ..Call::default()
    }
}

/// Whom `GET /v1/users?email=` finds: the user's id and the address as typed.
fn found(answer: &Answer) -> Option<(String, String)> {
    let user = answer.body["users"].as_array().unwrap().first()?;
    let text = |name: &str| user[name].as_str().unwrap().to_owned();
    Some((text("user_id"), text("email")))
}

/// Looks an address up and notes who has it, as `who` says. `position`: what was written by the one who won, if known;
/// only from there on is it promised that they are found.
async fn find(
    clients: &Clients,
    node: usize,
    client: usize,
    email: &str,
    position: &str,
    who: &(dyn Fn(&(String, String)) -> String + Sync),
) -> Option<Call> {
    let begin = clients.now();
    let path = format!("/v1/users?email={}", escaped(email));
    let answer = clients.read(node, &path, position).await?;
    let found = found(&answer);
    if found.is_none() && position.is_empty() {
        return None;
    }
    Some(Call {
        begin,
        end: Some(clients.now()),
        answer: found.as_ref().map(who).unwrap_or_default(),
        node: node % clients.nodes(),
        ..note("find", client, "")
    })
}

/// `find` on every node, until each has answered.
async fn find_everywhere(
    clients: &Clients,
    email: &str,
    position: &str,
    who: &(dyn Fn(&(String, String)) -> String + Sync),
) -> Result<Vec<Call>, String> {
    let path = format!("/v1/users?email={}", escaped(email));
    let mut calls = Vec::new();
    for node in 0..clients.nodes() {
        if position.is_empty() {
            clients.await_shown(node, &path, "", found).await?;
        }
        let mut seen = None;
        for _ in 0..1200 {
            seen = find(clients, node, CROWD, email, position, who).await;
            if seen.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        calls.push(seen.ok_or_else(|| format!("node {node} never answers GET {path}"))?);
    }
    Ok(calls)
}

/// Many register one address, each in a spelling of its own, by which the winner is known.
pub async fn registration(clients: &Clients, name: &str, dice: &mut Dice) -> Result<History, String> {
    let spellings = spellings(name, CROWD, dice);
    let who = |(_, typed): &(String, String)| {
        let client = spellings.iter().position(|s| s == typed);
        client.map_or_else(
            || format!("nobody who asked: {typed}"),
            |client| format!("c{client}"),
        )
    };
    let won: OnceLock<(String, String)> = OnceLock::new();
    let tasks = spellings.iter().enumerate().map(|(client, email)| {
        let manner = Manner::new(name, client, dice);
        let (won, who) = (&won, &who);
        async move {
            let first = manner.first;
            let body = json!({"email": email, "password": PASSWORD});
            let notes = vec![note("register", client, &format!("c{client}"))];
            let mut calls = Vec::new();
            let wish = manner.wish("POST", "/v1/registrations", body, notes);
            match clients.ask(wish, &mut calls).await? {
                Told::Done(answer) => {
                    let user = answer.body["user_id"].as_str().unwrap().to_owned();
                    let _ = won.set((user, answer.position.clone()));
                    for node in 0..clients.nodes() {
                        calls.extend(find(clients, node, client, email, &answer.position, who).await);
                    }
                }
                Told::Refused if client.is_multiple_of(8) => {
                    let position = won.get().map_or("", |(_, position)| position.as_str());
                    calls.extend(find(clients, first + 1, client, email, position, who).await);
                }
                Told::Refused | Told::Nothing => {}
            }
            Ok::<_, String>(calls)
        }
    });
    let mut calls = try_join_all(tasks).await?.concat();
    let position = won.get().map_or("", |(_, position)| position.as_str());
    calls.extend(find_everywhere(clients, &spellings[0], position, &who).await?);
    if let Some((user, position)) = won.get() {
        let path = format!("/v1/users?email={}", escaped(&spellings[1]));
        let shown = clients.await_shown(0, &path, position, found).await?;
        if shown.0 != *user {
            return Err(format!("{name}: {user} was registered and {} is found", shown.0));
        }
    }
    Ok(History {
        model: "address",
        key: name.to_owned(),
        calls,
    })
}

/// The generation that a refresh token says, after the ids of user and session.
fn generation(tokens: &Value) -> u32 {
    let token = tokens["refresh_token"].as_str().unwrap();
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(token.trim_start_matches("grt_"))
        .unwrap();
    u32::from_be_bytes(bytes[32..36].try_into().unwrap())
}

/// Exchanges a token and notes which generation came of it.
async fn exchange(
    clients: &Clients,
    token: &Value,
    who: &str,
    client: usize,
    manner: Manner,
) -> Result<(Vec<Call>, Told), String> {
    let mut calls = Vec::new();
    let noted = Call {
        token: generation(token),
        ..note("refresh", client, who)
    };
    let body = json!({"refresh_token": token["refresh_token"]});
    let wish = manner.wish("POST", "/v1/sessions/refresh", body, vec![noted]);
    let told = clients.ask(wish, &mut calls).await?;
    if let (Told::Done(answer), Some(last)) = (&told, calls.last_mut()) {
        last.given = generation(&answer.body);
    }
    Ok((calls, told))
}

/// Many exchange one refresh token; whoever wins tries the token that was given.
pub async fn rotation(
    clients: &Clients,
    name: &str,
    user: &str,
    email: &str,
    dice: &mut Dice,
) -> Result<History, String> {
    let login = json!({"identifier": email, "password": PASSWORD});
    let mut token = clients.do_it("POST", "/v1/logins", login, name).await?.body;
    let session = token["session_id"].as_str().unwrap().to_owned();
    let mut calls = Vec::new();
    let alone = |what: &str, dice: &mut Dice| Manner {
        key: Some(format!("{name}-{what}")),
        ..Manner::new(name, CROWD, dice)
    };
    for hop in 0..dice.below(3) {
        let who = format!("hop{hop}");
        let manner = alone(&who, dice);
        let (noted, told) = exchange(clients, &token, &who, CROWD, manner).await?;
        calls.extend(noted);
        match told {
            Told::Done(answer) => token = answer.body,
            Told::Refused | Told::Nothing => break,
        }
    }
    let tasks = (0..CROWD).map(|client| {
        let manner = Manner::new(name, client, dice);
        let token = &token;
        async move { exchange(clients, token, &format!("c{client}"), client, manner).await }
    });
    let mut next = None;
    let mut refused = false;
    for (noted, told) in try_join_all(tasks).await? {
        calls.extend(noted);
        match told {
            Told::Done(answer) => next = Some(answer),
            Told::Refused => refused = true,
            Told::Nothing => {}
        }
    }
    if let Some(answer) = &next {
        let (noted, told) = exchange(clients, &answer.body, "next", CROWD, alone("next", dice)).await?;
        calls.extend(noted);
        refused |= matches!(told, Told::Refused);
    }
    if refused {
        let path = format!("/v1/users/{user}/sessions");
        for node in 0..clients.nodes() {
            let begin = clients.now();
            let reason = |answer: &Answer| {
                let sessions = answer.body["sessions"].as_array()?;
                let session = sessions.iter().find(|s| s["session_id"] == session.as_str())?;
                Some(session["end_reason"].as_str()?.to_owned())
            };
            let reason = clients.await_shown(node, &path, "", reason).await?;
            if reason != "refresh_token_reused" {
                return Err(format!("{name}: session {session} ended as {reason}"));
            }
            calls.push(Call {
                begin,
                end: Some(clients.now()),
                answer: "ended".to_owned(),
                node,
                ..note("look", CROWD, "")
            });
        }
    }
    Ok(History {
        model: "session",
        key: name.to_owned(),
        calls,
    })
}

/// Many users want one address as theirs, each in another spelling.
pub async fn attachment(
    clients: &Clients,
    name: &str,
    users: &[String],
    dice: &mut Dice,
) -> Result<History, String> {
    let spellings = spellings(name, users.len(), dice);
    let who = |(user, _): &(String, String)| user.clone();
    let won: OnceLock<String> = OnceLock::new();
    let attach = |client: usize, manner: Manner| {
        let (user, email, won, who) = (&users[client], &spellings[client], &won, &who);
        async move {
            let first = manner.first;
            let notes = vec![note("claim", client, user), note("attach", client, user)];
            let path = format!("/v1/users/{user}/email");
            let mut calls = Vec::new();
            let wish = manner.wish("PUT", &path, json!({"email": email}), notes);
            match clients.ask(wish, &mut calls).await? {
                Told::Done(answer) => {
                    let _ = won.set(answer.position.clone());
                    for node in 0..clients.nodes() {
                        calls.extend(find(clients, node, client, email, &answer.position, who).await);
                    }
                }
                Told::Refused if client.is_multiple_of(8) => {
                    let position = won.get().map_or("", String::as_str);
                    calls.extend(find(clients, first + 1, client, email, position, who).await);
                }
                Told::Refused | Told::Nothing => {}
            }
            Ok::<_, String>(calls)
        }
    };
    let tasks = (0..users.len()).map(|client| attach(client, Manner::new(name, client, dice)));
    let mut calls = try_join_all(tasks).await?.concat();
    if won.get().is_none() {
        // Who claimed it has given up. Whoever may have been that asks again.
        let in_doubt: BTreeSet<usize> = calls
            .iter()
            .filter(|c| c.ask == "claim" && c.is_unknown())
            .map(|c| c.client)
            .collect();
        let again = in_doubt.into_iter().map(|client| {
            let manner = Manner {
                key: Some(format!("{name}-{client}-again")),
                ..Manner::new(name, client, dice)
            };
            attach(client, manner)
        });
        for noted in join_all(again).await {
            calls.extend(noted?);
        }
    }
    let position = won.get().map_or("", String::as_str);
    calls.extend(find_everywhere(clients, &spellings[0], position, &who).await?);
    Ok(History {
        model: "identifier",
        key: name.to_owned(),
        calls,
    })
}
