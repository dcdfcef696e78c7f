//! Whether a consumer may see a subject, and what of it: the one rule, asked at each delivery.

use gatelog_events::domain::feed::{Definition, Field};
use gatelog_events::domain::tenant::Settings;
use gatelog_events::domain::user::{Status, User};
use gatelog_projections::changes::Happened;
use gatelog_projections::details::PURPOSE;
use serde_json::{Map, Value, json};

/// Whether the feed's consumer may see this user now: neither disabled nor erased, and with the feed's consent.
pub fn is_open(definition: &Definition, user: &User) -> bool {
    let consented = |purpose: &String| user.consents.get(purpose).is_some_and(|c| c.granted);
    user.exists() && user.status == Status::Active && definition.purpose.as_ref().is_none_or(consented)
}

/// The named fields that have a value, as they are now. Only for those for whom the gate [`is_open`]. `link` gives
/// those that are links.
pub fn fields(
    definition: &Definition,
    user: &User,
    settings: &Settings,
    link: impl Fn(Field) -> Option<String>,
) -> Map<String, Value> {
    let mut out = Map::new();
    for field in &definition.fields {
        let value = match field {
            Field::UnsubscribeUrl | Field::PreferencesUrl => link(*field).map(Value::String),
            field => value(*field, user, settings),
        };
        if let Some(value) = value {
            out.insert(field.name().to_owned(), value);
        }
    }
    out
}

/// What an event says of itself.
pub fn details(event: &Happened) -> Map<String, Value> {
    let purpose = event.purpose.iter().map(|purpose| (PURPOSE, purpose));
    let others = event.details.iter().map(|(name, text)| (&**name, text));
    purpose
        .chain(others)
        .map(|(name, text)| (name.to_owned(), text.as_str().into()))
        .collect()
}

fn value(field: Field, user: &User, settings: &Settings) -> Option<Value> {
    let plan = || match &user.plan {
        Some(plan) => plan.name.as_str(),
        None => settings.default_plan(),
    };
    match field {
        Field::Email => user.email.as_ref().map(|e| json!(e.typed())),
        Field::EmailVerified => Some(json!(user.email_verified)),
        Field::Locale => user.locale.as_ref().map(|l| json!(l)),
        Field::Plan => Some(json!(plan())),
        Field::Entitlements => {
            let entitlements = settings.plans.get(plan()).map(|p| &p.entitlements);
            entitlements.map(|e| json!(e))
        }
        Field::Roles => Some(json!(user.roles)),
        Field::CreatedAt => Some(json!(user.created_at)),
        Field::Consents => {
            let granted = user.consents.iter().filter(|(_, c)| c.granted);
            Some(granted.map(|(purpose, _)| json!(purpose)).collect())
        }
        Field::UnsubscribeUrl | Field::PreferencesUrl => None,
        Field::Profile(field) => user.profile.0.get(&field).map(|v| json!(v)),
    }
}
