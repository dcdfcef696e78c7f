//! Answers: JSON, and the position of what was written.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use gatelog_events::ids::{Position, UserId};
use serde::Serialize;

use crate::error::Problem;
use crate::writer::Outcome;

const POSITION: HeaderName = HeaderName::from_static("gatelog-position");

/// Room for what every answer carries.
const HEADERS: usize = 12;

/// An answer in JSON.
pub fn json<T: Serialize + ?Sized>(status: StatusCode, body: &T) -> Result<Response, Problem> {
    let mut bytes = Vec::with_capacity(1024);
    serde_json::to_writer(&mut bytes, body)?;
    let mut response = Response::new(bytes.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.reserve(HEADERS);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The answer to a read.
pub fn ok<T: Serialize + ?Sized>(body: &T) -> Result<Response, Problem> {
    json(StatusCode::OK, body)
}

/// The answer to a write, with its position as a header too.
pub fn written<T: Serialize>(status: StatusCode, position: Position, body: &T) -> Result<Response, Problem> {
    Ok(at(json(status, body)?, position))
}

/// The answer to a write of any number of commits, with the position of the last as a header.
///
/// Without one if they stand in more than one partition: none of these positions would say that the others are folded.
pub fn written_in<T: Serialize>(positions: &[Position], body: &T) -> Result<Response, Problem> {
    let response = ok(body)?;
    Ok(match last_of_one_partition(positions) {
        Some(position) => at(response, position),
        None => response,
    })
}

fn last_of_one_partition(positions: &[Position]) -> Option<Position> {
    let last = *positions.iter().max_by_key(|p| p.offset)?;
    let beside = |p: &Position| (p.stream, p.partition) == (last.stream, last.partition);
    positions.iter().all(beside).then_some(last)
}

/// The answer with the position of what was written.
pub fn at(mut response: Response, position: Position) -> Response {
    if let Ok(value) = HeaderValue::try_from(position.to_string()) {
        response.headers_mut().insert(POSITION, value);
    }
    response
}

/// What was written, for whom and where.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Done {
    /// The user it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    pub user_id: Option<UserId>,
    /// Where it stands in the log; a read with `Gatelog-Min-Position` sees at least this.
    #[schema(value_type = String, example = "identity:3:1024")]
    pub position: Position,
}

/// The plain answer to a write.
pub fn done(outcome: &Outcome) -> Result<Response, Problem> {
    let position = outcome.answer.position();
    let body = Done {
        user_id: outcome.answer.user,
        position,
    };
    written(StatusCode::OK, position, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_position_stands_for_several_of_one_partition_only() {
        let last = |texts: &[&str]| {
            let positions: Vec<Position> = texts.iter().map(|text| text.parse().unwrap()).collect();
            last_of_one_partition(&positions).map(|p| p.to_string())
        };
        assert_eq!(last(&[]), None);
        assert_eq!(
            last(&["activity:3:9", "activity:3:11", "activity:3:10"]),
            Some("activity:3:11".to_owned())
        );
        assert_eq!(last(&["activity:3:9", "activity:4:11"]), None);
        assert_eq!(last(&["activity:3:9", "identity:3:9"]), None);
    }
}
