//! One user's state as it was: the fold of what was recorded up to a moment.

use std::collections::HashMap;
use std::io::Write;

use gatelog_events::clock::Timestamp;
use gatelog_events::codec;
use gatelog_events::commit::{Commit, Subject};
use gatelog_events::domain::Event;
use gatelog_events::domain::session::Activity;
use gatelog_events::domain::tenant::Settings;
use gatelog_events::domain::user::User;
use gatelog_events::ids::{Partition, Position, Stream, UserId};
use gatelog_events::log::fence::{Progress, Verdict};

use super::replay::contains;
use super::{Failure, data};
use crate::config::Config;
use crate::http::api::users::UserBody;

/// The three aggregates that a user's state is shown from. Each is folded in the order of its records, up to the first
/// that was recorded later: order comes from the log, never from clocks.
#[derive(Default)]
struct States {
    user: User,
    activity: Activity,
    settings: Settings,
    ended: [bool; 3],
}

impl States {
    fn fold(&mut self, commit: &Commit, user: UserId, until: Timestamp) {
        let which = match (commit.subject, commit.events.first().map(|e| &e.event)) {
            // A claim stands in the address's partition, whose order is not the user's.
            (_, Some(Event::Identifier(_))) => return,
            (Subject::User(id), Some(Event::Session(_))) if id == user => 0,
            (Subject::User(id), Some(_)) if id == user => 1,
            (Subject::Tenant, Some(_)) => 2,
            _ => return,
        };
        self.ended[which] |= commit.recorded_at > until;
        if self.ended[which] {
            return;
        }
        for e in &commit.events {
            match &e.event {
                Event::Session(event) => self.activity.evolve(event, e.time, e.sequence),
                Event::Tenant(event) => self.settings.evolve(event, e.time, e.sequence),
                event => self.user.evolve(event, e.time, e.sequence),
            }
        }
    }
}

/// Prints the state of `user` as of `until`.
pub fn run(config: &Config, user: UserId, until: Timestamp) -> Result<(), Failure> {
    let backend = data::read_only(config)?;
    let log = backend.log();
    let secrets = data::secrets(config)?;
    let partitions = log.partitions();
    let home = user.shard().partition(partitions);
    let settings = data::directory(&secrets)
        .tenant_shard(&config.tenant)
        .partition(partitions);
    let wanted = [
        format!("\"subject\":\"{user}\""),
        "\"subject\":\"tenant\"".to_owned(),
    ];
    let entries = log.read_to_end(&others(partitions, &[home, settings]))?;
    let keys = data::read_keys(config, &secrets, &backend, Some(user))?;
    let mut states = States::default();
    let mut places: HashMap<(Stream, Partition), Progress> = HashMap::new();
    for entry in entries {
        let entry = entry?;
        let at = entry.position;
        let place = places.entry((at.stream, at.partition)).or_default();
        let counts = place.pass(at.offset, &entry.record.header) == Verdict::Commit;
        if !counts || !wanted.iter().any(|w| contains(&entry, w)) {
            continue;
        }
        let mut commit = codec::decode(entry.record.header.commit_id, &entry.record.value)
            .map_err(|e| at_position(at, &e))?;
        if commit.tenant != config.tenant {
            continue;
        }
        codec::open(&mut commit, keys.as_ref()).map_err(|e| at_position(at, &e))?;
        states.fold(&commit, user, until);
    }
    if !states.user.exists() {
        let what = match states.user.version {
            0 => "there was no user",
            _ => "erased by then was user",
        };
        return Err(Failure::Other(format!("{what} {user} at {until}")));
    }
    let body = UserBody::new(
        user,
        &states.user,
        &states.settings,
        states.activity.last_login_at,
    );
    let text = serde_json::to_string(&body).map_err(Failure::other)?;
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

fn at_position(at: Position, e: &dyn std::fmt::Display) -> Failure {
    Failure::Other(format!("the commit at {at}: {e}"))
}

/// Positions that leave out all partitions but `wanted`.
fn others(partitions: u16, wanted: &[Partition]) -> Vec<Position> {
    let unwanted = (0..partitions).map(Partition).filter(|p| !wanted.contains(p));
    unwanted
        .flat_map(|partition| {
            Stream::ALL.map(|stream| Position {
                stream,
                partition,
                offset: u64::MAX,
            })
        })
        .collect()
}
