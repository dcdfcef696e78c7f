//! Plans: which one a user has, and how it changed.

use serde::{Deserialize, Serialize};

use super::{Context, Event, Payload, events};
use crate::clock::Timestamp;

events! {
    /// What happened to a user's plan.
    PlanEvent {
        /// The first plan.
        Assigned(PlanChange) = "com.gatelog.plan.assigned.v1",
        /// To a plan of higher rank.
        Upgraded(PlanChange) = "com.gatelog.plan.upgraded.v1",
        /// To a plan of lower rank.
        Downgraded(PlanChange) = "com.gatelog.plan.downgraded.v1",
        /// To another plan of the same rank.
        Switched(PlanChange) = "com.gatelog.plan.switched.v1",
        /// The paid plan was given up.
        Cancelled(PlanChange) = "com.gatelog.plan.cancelled.v1",
        /// The same plan for another term.
        Renewed(PlanChange) = "com.gatelog.plan.renewed.v1",
    }
}

/// One change of plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PlanChange {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    pub to: String,
    /// From when it counts.
    pub effective_at: Timestamp,
    /// Where it came from, such as `billing`, `support`, `api`.
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Payload for PlanChange {}

impl PlanEvent {
    /// The change, whichever kind it is.
    pub fn change(&self) -> &PlanChange {
        match self {
            PlanEvent::Assigned(c)
            | PlanEvent::Upgraded(c)
            | PlanEvent::Downgraded(c)
            | PlanEvent::Switched(c)
            | PlanEvent::Cancelled(c)
            | PlanEvent::Renewed(c) => c,
        }
    }
}

/// The plan that a user has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanState {
    pub name: String,
    pub since: Timestamp,
}

impl PlanState {
    pub(crate) fn after(event: &PlanEvent, before: Option<PlanState>) -> Self {
        let change = event.change();
        match (event, before) {
            // A renewal goes on with the same plan, so it does not move its start.
            (PlanEvent::Renewed(_), Some(before)) => before,
            _ => Self {
                name: change.to.clone(),
                since: change.effective_at,
            },
        }
    }
}

/// What the caller says that it is, where the plans' ranks cannot tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    Cancel,
    Renew,
}

/// A wish to change the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangePlan {
    pub to: String,
    pub intent: Option<Intent>,
    /// Now, if absent.
    pub effective_at: Option<Timestamp>,
    pub source: String,
    pub reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    #[error("there is no plan {0:?} in the catalogue; PUT /v1/settings/plans/{{plan}} defines one")]
    UnknownPlan(String),
    #[error("a plan cannot take effect in the future; send the change when it does")]
    NotYetEffective,
    #[error("a cancellation must lead to a plan of lower rank than {0:?}")]
    NotACancellation(String),
    #[error("a renewal must name the present plan, {0:?}")]
    NotARenewal(String),
}

/// Decides on a change of plan. The plan that the user already has is no event, unless it is renewed.
pub(crate) fn decide(
    current: Option<&PlanState>,
    wish: ChangePlan,
    ctx: &Context<'_>,
) -> Result<Option<Event>, Rejection> {
    let Some(to) = ctx.settings.plans.get(&wish.to) else {
        return Err(Rejection::UnknownPlan(wish.to));
    };
    let effective_at = wish.effective_at.unwrap_or(ctx.now);
    if effective_at > ctx.now {
        return Err(Rejection::NotYetEffective);
    }
    let change = PlanChange {
        from: current.map(|p| p.name.clone()),
        to: wish.to,
        effective_at,
        source: wish.source,
        reason: wish.reason,
    };
    let Some(current) = current else {
        return Ok(Some(PlanEvent::Assigned(change).into()));
    };
    let rank = ctx.settings.plans.get(&current.name).map_or(0, |p| p.rank);
    let event = match wish.intent {
        Some(Intent::Renew) if change.to == current.name => PlanEvent::Renewed(change),
        Some(Intent::Renew) => return Err(Rejection::NotARenewal(current.name.clone())),
        _ if change.to == current.name => return Ok(None),
        Some(Intent::Cancel) if to.rank < rank => PlanEvent::Cancelled(change),
        Some(Intent::Cancel) => return Err(Rejection::NotACancellation(current.name.clone())),
        None if to.rank > rank => PlanEvent::Upgraded(change),
        None if to.rank < rank => PlanEvent::Downgraded(change),
        None => PlanEvent::Switched(change),
    };
    Ok(Some(event.into()))
}
