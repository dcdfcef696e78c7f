//! `statistics`: counters per tenant and day. They outlive an erasure: they say nothing about a person.
//!
//! Each partition has counters of its own, added up when they are read, so that the order of partitions does not
//! matter. A name that ends in `.total` is a change of a running total: its sum up to a day is the state on that day.

use std::collections::{BTreeMap, BTreeSet};

use gatelog_events::clock::Timestamp;
use gatelog_events::domain::Event;
use gatelog_events::domain::consent::ConsentEvent;
use gatelog_events::domain::plan::PlanEvent;
use gatelog_events::domain::session::SessionEvent;
use gatelog_events::domain::user::UserEvent;
use gatelog_events::ids::{Stream, TenantId, UserId};
use serde::{Deserialize, Serialize};

use crate::keys::{KeyKind, key};
use crate::projection::{Located, Projection};
use crate::store::StoreError;
use crate::view::{FoldView, View};

/// The projection.
#[derive(Debug, Default)]
pub struct Statistics;

pub const NAME: &str = "statistics";

/// What a user counts for in the running totals, to be taken off when it changes or the user is erased.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counted {
    plan: Option<String>,
    consents: BTreeSet<String>,
}

impl Projection for Statistics {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        1
    }

    fn streams(&self) -> &'static [Stream] {
        &[Stream::Identity, Stream::Activity]
    }

    fn apply(&self, rows: &mut FoldView<'_>, at: Located<'_>) -> Result<(), StoreError> {
        let mut count = Counters { rows, at };
        match at.position.stream {
            Stream::Identity => identity(&mut count),
            Stream::Activity => activity(&mut count),
        }
    }
}

struct Counters<'a, 'b> {
    rows: &'a mut FoldView<'b>,
    at: Located<'a>,
}

impl Counters<'_, '_> {
    fn add(&mut self, time: Timestamp, name: &str, n: i64) -> Result<(), StoreError> {
        let row = key(KeyKind::Counter, &self.at.commit.tenant)
            .u32(day_number(time.day()))
            .text(name)
            .fixed(&[self.at.position.stream.code()])
            .u16(self.at.position.partition.0)
            .done();
        let sum = self.rows.get::<i64>(&row)?.unwrap_or(0) + n;
        self.rows.put(row, &sum)
    }

    fn active(&mut self, user: UserId, time: Timestamp) -> Result<(), StoreError> {
        let row = key(KeyKind::ActiveOn, &self.at.commit.tenant)
            .u32(day_number(time.day()))
            .fixed(user.as_bytes())
            .done();
        if self.rows.view().contains(&row)? {
            return Ok(());
        }
        self.rows.put(row, &())?;
        self.add(time, "active_users", 1)
    }
}

fn day_number(day: i32) -> u32 {
    day.max(0) as u32
}

fn identity(count: &mut Counters<'_, '_>) -> Result<(), StoreError> {
    let Some(user) = count.at.commit.subject.user() else {
        return Ok(());
    };
    let row = key(KeyKind::Counted, &count.at.commit.tenant)
        .fixed(user.as_bytes())
        .done();
    let mut loaded: Option<Counted> = None;
    for e in &count.at.commit.events {
        let time = e.time;
        match &e.event {
            Event::User(UserEvent::Registered(_)) => {
                count.add(time, "registrations", 1)?;
                count.add(time, "users.total", 1)?;
            }
            Event::User(UserEvent::Erased(_)) => {
                count.add(time, "erasures", 1)?;
                count.add(time, "users.total", -1)?;
                let counted = match loaded.take() {
                    Some(c) => c,
                    None => count.rows.get(&row)?.unwrap_or_default(),
                };
                if let Some(plan) = counted.plan {
                    count.add(time, &format!("plan.{plan}.total"), -1)?;
                }
                for purpose in counted.consents {
                    count.add(time, &format!("consent.{purpose}.total"), -1)?;
                }
                count.rows.delete(row.clone());
            }
            Event::Consent(event) => {
                let counted = load(&mut loaded, count, &row)?;
                consent(count, counted, event, time)?;
            }
            Event::Plan(event) => {
                let counted = load(&mut loaded, count, &row)?;
                plan(count, counted, event, time)?;
            }
            _ => {}
        }
    }
    match loaded {
        Some(counted) => count.rows.put(row, &counted),
        None => Ok(()),
    }
}

fn load<'c>(
    loaded: &'c mut Option<Counted>,
    count: &Counters<'_, '_>,
    row: &[u8],
) -> Result<&'c mut Counted, StoreError> {
    if loaded.is_none() {
        *loaded = Some(count.rows.get(row)?.unwrap_or_default());
    }
    Ok(loaded.get_or_insert_default())
}

fn consent(
    count: &mut Counters<'_, '_>,
    counted: &mut Counted,
    event: &ConsentEvent,
    time: Timestamp,
) -> Result<(), StoreError> {
    match event {
        ConsentEvent::Granted(c) => {
            count.add(time, &format!("consent.{}.granted", c.purpose), 1)?;
            if counted.consents.insert(c.purpose.clone()) {
                count.add(time, &format!("consent.{}.total", c.purpose), 1)?;
            }
        }
        ConsentEvent::Withdrawn(c) => {
            count.add(time, &format!("consent.{}.withdrawn", c.purpose), 1)?;
            if counted.consents.remove(&c.purpose) {
                count.add(time, &format!("consent.{}.total", c.purpose), -1)?;
            }
        }
    }
    Ok(())
}

fn plan(
    count: &mut Counters<'_, '_>,
    counted: &mut Counted,
    event: &PlanEvent,
    time: Timestamp,
) -> Result<(), StoreError> {
    let kind = match event {
        PlanEvent::Assigned(_) => "assigned",
        PlanEvent::Upgraded(_) => "upgraded",
        PlanEvent::Downgraded(_) => "downgraded",
        PlanEvent::Switched(_) => "switched",
        PlanEvent::Cancelled(_) => "cancelled",
        PlanEvent::Renewed(_) => "renewed",
    };
    let to = &event.change().to;
    count.add(time, &format!("plan_moves.{kind}"), 1)?;
    if counted.plan.as_ref() != Some(to) {
        if let Some(from) = counted.plan.replace(to.clone()) {
            count.add(time, &format!("plan.{from}.total"), -1)?;
        }
        count.add(time, &format!("plan.{to}.total"), 1)?;
    }
    Ok(())
}

fn activity(count: &mut Counters<'_, '_>) -> Result<(), StoreError> {
    let user = count.at.commit.subject.user();
    for e in &count.at.commit.events {
        let Event::Session(event) = &e.event else { continue };
        match event {
            SessionEvent::LoginSucceeded(l) => {
                count.add(e.time, &format!("logins.{}.succeeded", l.method.name()), 1)?;
                if let Some(user) = user {
                    count.active(user, e.time)?;
                }
            }
            SessionEvent::LoginFailed(l) => {
                let name = format!("logins.{}.failed.{}", l.method.name(), l.reason.name());
                count.add(e.time, &name, 1)?;
            }
            SessionEvent::Refreshed(_) => {
                if let Some(user) = user {
                    count.active(user, e.time)?;
                }
            }
            SessionEvent::Locked(_) => count.add(e.time, "logins.locked", 1)?,
            SessionEvent::Reused(_) => count.add(e.time, "refresh_tokens.reused", 1)?,
            SessionEvent::Unlocked(_) | SessionEvent::Started(_) | SessionEvent::Ended(_) => {}
        }
    }
    Ok(())
}

/// One day's counters, by name. Those that end in `.total` are the state at the end of the day.
pub type Day = (i32, BTreeMap<String, i64>);

/// The days from `from` to `to` (days since 1970-01-01, both included) on which anything was counted, oldest first.
pub fn days(view: View<'_>, tenant: &TenantId, from: i32, to: i32) -> Result<Vec<Day>, StoreError> {
    let prefix = key(KeyKind::Counter, tenant).done();
    let mut totals: BTreeMap<String, i64> = BTreeMap::new();
    let mut days: Vec<Day> = Vec::new();
    for (row, n) in view.scan::<i64>(&prefix)? {
        let Some((day, name)) = parse(&row[prefix.len()..]) else {
            continue;
        };
        if day > to {
            break;
        }
        if day >= from && days.last().is_none_or(|(d, _)| *d != day) {
            days.push((day, totals.clone()));
        }
        if name.ends_with(".total") {
            *totals.entry(name.to_owned()).or_default() += n;
        }
        if let Some((_, counters)) = days.last_mut() {
            *counters.entry(name.to_owned()).or_default() += n;
        }
    }
    Ok(days)
}

fn parse(rest: &[u8]) -> Option<(i32, &str)> {
    let (day, rest) = rest.split_first_chunk::<4>()?;
    let end = rest.iter().position(|b| *b == 0)?;
    let name = std::str::from_utf8(&rest[..end]).ok()?;
    Some((i32::try_from(u32::from_be_bytes(*day)).ok()?, name))
}
