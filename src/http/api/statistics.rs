//! `GET /v1/statistics`.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use chrono::NaiveDate;
use gatelog_events::clock;
use gatelog_projections::statistics;
use serde::{Deserialize, Serialize};

use crate::auth::api_keys::Scope;
use crate::error::{Kind, Problem};
use crate::http::app::App;
use crate::http::ask::MinPosition;
use crate::http::caller::Caller;
use crate::http::params::Query;
use crate::http::reply::ok;

/// Days shown where nothing else is asked for.
const DEFAULT_DAYS: i32 = 30;
const MAX_DAYS: i32 = 1100;

/// Which days.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Range {
    /// First day (UTC), such as 2026-11-01; 30 days before `to` if absent.
    #[param(format = Date)]
    pub from: Option<String>,
    /// Last day (UTC); today if absent.
    #[param(format = Date)]
    pub to: Option<String>,
}

/// Counters per day.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Statistics)]
pub struct StatisticsBody {
    #[schema(value_type = String, format = Date)]
    pub from: NaiveDate,
    #[schema(value_type = String, format = Date)]
    pub to: NaiveDate,
    /// The days on which anything happened, oldest first.
    pub days: Vec<Day>,
}

/// One day's counters, by name, such as `registrations`, `active_users`, `logins.password.succeeded`,
/// `consent.newsletter.granted`, `plan_moves.upgraded`. Those that end in `.total` are the state at the day's end.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Day {
    #[schema(value_type = String, format = Date)]
    pub date: NaiveDate,
    pub counters: BTreeMap<String, i64>,
}

/// What happened per day, in numbers.
#[utoipa::path(
    get, path = "/v1/statistics", tag = "statistics", params(Range),
    responses((status = 200, description = "Counters per day", body = StatisticsBody)),
    security(("api_key" = ["statistics:read"]))
)]
pub async fn get(
    State(app): State<App>,
    caller: Caller,
    Query(range): Query<Range>,
    min: MinPosition,
) -> Result<Response, Problem> {
    caller.needs(Scope::StatisticsRead)?;
    let (from, to) = days(&range, clock::now().day())?;
    min.reached(&app, &[statistics::NAME]).await?;
    // Reads all counters up to the last day, so it must not hold up other requests.
    let reader = app.clone();
    let days = tokio::task::spawn_blocking(move || reader.node.views.statistics(reader.tenant(), from, to))
        .await??;
    let days = days
        .into_iter()
        .filter_map(|(day, counters)| {
            Some(Day {
                date: date(day)?,
                counters,
            })
        })
        .collect();
    let (Some(from), Some(to)) = (date(from), date(to)) else {
        return Err(wrong("to", "It must be a day, such as 2026-11-24."));
    };
    ok(&StatisticsBody { from, to, days })
}

/// First and last day, since 1970-01-01.
fn days(range: &Range, today: i32) -> Result<(i32, i32), Problem> {
    let to = match &range.to {
        Some(text) => number("to", text)?,
        None => today,
    };
    let from = match &range.from {
        Some(text) => number("from", text)?,
        None => to - DEFAULT_DAYS,
    };
    if from > to {
        return Err(wrong("from", "It must not be later than `to`."));
    }
    if to - from > MAX_DAYS {
        return Err(wrong("from", "Ask for at most 1100 days at once."));
    }
    Ok((from, to))
}

fn number(field: &'static str, text: &str) -> Result<i32, Problem> {
    let expected = "It must be a day, such as 2026-11-24.";
    let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").map_err(|_| wrong(field, expected))?;
    let days = day.signed_duration_since(NaiveDate::default()).num_days();
    i32::try_from(days)
        .ok()
        .filter(|_| text.len() == 10 && days >= 0)
        .ok_or_else(|| wrong(field, expected))
}

fn date(day: i32) -> Option<NaiveDate> {
    NaiveDate::default().checked_add_signed(chrono::Duration::days(day.into()))
}

fn wrong(field: &'static str, detail: &'static str) -> Problem {
    Problem::new(Kind::InvalidQuery, "Correct the parameter named in `errors`.").field(field, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(from: Option<&str>, to: Option<&str>) -> Option<(i32, i32)> {
        let range = Range {
            from: from.map(Into::into),
            to: to.map(Into::into),
        };
        days(&range, 20_000).ok()
    }

    #[test]
    fn ranges() {
        assert_eq!(ask(None, None), Some((19_970, 20_000)));
        assert_eq!(ask(Some("1970-01-01"), Some("1970-01-02")), Some((0, 1)));
        assert_eq!(ask(Some("2024-10-04"), None), Some((20_000, 20_000)));
        for (from, to) in [
            (Some("2026-01-02"), Some("2026-01-01")),
            (Some("1970-01-01"), Some("2026-01-01")),
            (Some("1969-12-31"), Some("1970-01-01")),
            (Some("2026-1-1"), None),
            (Some("24.11.2026"), None),
            (None, Some("2026-02-30")),
            (None, Some("+262142-01-01")),
        ] {
            assert_eq!(ask(from, to), None, "{from:?} {to:?}");
        }
        assert_eq!(date(0).unwrap().to_string(), "1970-01-01");
    }
}
