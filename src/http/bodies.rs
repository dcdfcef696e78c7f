//! The bodies that requests may have, each with what is checked of it before anything else is looked at: for tests and
//! fuzzing, which need neither a node nor a connection for this.

use gatelog_events::domain::consent::Method;
use gatelog_events::domain::session::Client;

use super::api::api_keys::KeyInput;
use super::api::consents::ConsentInput;
use super::api::logins::{Login, Refresh};
use super::api::passwords::{self, NewPassword};
use super::api::plans::PlanInput;
use super::api::registrations;
use super::api::roles::StatusInput;
use super::api::settings::{NoticePublication, PlanDefinition, PurposeDefinition};
use super::api::users::{self, NewEmail};
use super::body::parse;
use crate::auth::policy::{Context, Policy};
use crate::error::Problem;

/// A kind of body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// `POST /v1/registrations`
    Registration,
    /// `POST /v1/logins`
    Login,
    /// `POST /v1/sessions/refresh`
    Refresh,
    /// `PATCH /v1/users/{id}/profile`
    Profile,
    /// `PUT /v1/users/{id}/email`
    Email,
    /// `PUT /v1/users/{id}/password`
    Password,
    /// `PUT /v1/users/{id}/consents/{purpose}`
    Consent,
    /// `PUT /v1/users/{id}/plan`
    Plan,
    /// `PUT /v1/users/{id}/status`
    Status,
    /// `PUT /v1/settings/plans/{plan}`
    PlanDefinition,
    /// `PUT /v1/settings/purposes/{purpose}`
    PurposeDefinition,
    /// `PUT /v1/settings/notices/{id}`
    Notice,
    /// `POST /v1/api-keys`
    ApiKey,
}

impl Body {
    /// All kinds. The seeds of the fuzz target count on the order.
    pub const ALL: [Body; 13] = [
        Body::Registration,
        Body::Login,
        Body::Refresh,
        Body::Profile,
        Body::Email,
        Body::Password,
        Body::Consent,
        Body::Plan,
        Body::Status,
        Body::PlanDefinition,
        Body::PurposeDefinition,
        Body::Notice,
        Body::ApiKey,
    ];

    /// Reads and checks a body as its handler does, with a name in the path that is valid and the policy `asvs-l1`.
    pub fn check(self, raw: &[u8]) -> Result<(), Problem> {
        let policy = Policy::ASVS_L1;
        let client = Client::default();
        let name = || "name".to_owned();
        match self {
            Body::Registration => registrations::check(parse(raw)?, &policy, &client, true).map(drop),
            Body::Login => parse::<Login>(raw)?.check().map(drop),
            Body::Refresh => parse::<Refresh>(raw).map(drop),
            Body::Profile => users::check_profile(parse(raw)?).map(drop),
            Body::Email => parse::<NewEmail>(raw)?.check().map(drop),
            Body::Password => check_password(&parse(raw)?, &policy),
            Body::Consent => {
                let body: ConsentInput = parse(raw)?;
                body.check(name(), Method::SelfService, &client).map(drop)
            }
            Body::Plan => parse::<PlanInput>(raw)?.check().map(drop),
            Body::Status => parse::<StatusInput>(raw)?.check().map(drop),
            Body::PlanDefinition => parse::<PlanDefinition>(raw)?.check(name()).map(drop),
            Body::PurposeDefinition => parse::<PurposeDefinition>(raw)?.check(name()).map(drop),
            Body::Notice => parse::<NoticePublication>(raw)?.check(name()).map(drop),
            Body::ApiKey => parse::<KeyInput>(raw)?.check().map(drop),
        }
    }
}

fn check_password(body: &NewPassword, policy: &Policy) -> Result<(), Problem> {
    policy.check(body.password.expose(), &Context::default())?;
    match &body.current_password {
        Some(current) => passwords::Given::new(current).map(drop),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// The seeds of fuzz/fuzz_targets/json_bodies.rs: a letter for the kind, and a body.
    #[test]
    fn seeds_of_fuzzing_are_accepted_unless_they_are_named_wrong() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/json_bodies");
        let mut accepted = HashSet::new();
        for seed in std::fs::read_dir(folder).unwrap() {
            let path = seed.unwrap().path();
            let input = std::fs::read(&path).unwrap();
            let result = Body::ALL[usize::from(input[0] - b'a')].check(&input[1..]);
            let wrong = path.file_name().unwrap().to_str().unwrap().contains("-wrong-");
            assert_eq!(result.is_err(), wrong, "{}: {result:?}", path.display());
            if !wrong {
                accepted.insert(input[0]);
            }
        }
        assert_eq!(
            accepted.len(),
            Body::ALL.len(),
            "a kind has no seed that is accepted"
        );
    }
}
