//! Cursors: where a list goes on. Opaque, and good only for the list that gave them out.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::app::App;
use crate::error::{Kind, Problem};

const TAG: usize = 16;
const MAX_CURSOR: usize = 512;
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 200;

/// `?limit=&after=`.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Entries wanted, 1 to 200; 50 if absent.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200)]
    pub limit: Option<String>,
    /// `next` of the page before.
    pub after: Option<String>,
}

/// The list that a cursor belongs to: its route, and whose data it is.
#[derive(Clone, Copy)]
pub struct List<'a> {
    pub route: &'static str,
    pub owner: &'a [u8],
}

impl PageQuery {
    pub fn limit(&self) -> Result<usize, Problem> {
        let Some(text) = &self.limit else {
            return Ok(DEFAULT_LIMIT);
        };
        match text.parse() {
            Ok(n) if (1..=MAX_LIMIT).contains(&n) => Ok(n),
            _ => Err(
                Problem::new(Kind::InvalidQuery, "Correct the parameter named in `errors`.")
                    .field("limit", "It must be a whole number from 1 to 200."),
            ),
        }
    }

    /// The key after which the page begins.
    pub fn after(&self, app: &App, list: List<'_>) -> Result<Option<Vec<u8>>, Problem> {
        self.after
            .as_deref()
            .map(|cursor| open(app, list, cursor))
            .transpose()
    }
}

/// The cursor for what follows `key`.
pub fn issue(app: &App, list: List<'_>, key: &[u8]) -> String {
    let mut bytes = key.to_vec();
    bytes.extend_from_slice(&tag(app, list, key));
    URL_SAFE_NO_PAD.encode(bytes)
}

fn open(app: &App, list: List<'_>, cursor: &str) -> Result<Vec<u8>, Problem> {
    let refused = || {
        Problem::new(
            Kind::InvalidCursor,
            "Use `next` of the page before, unchanged and for the same list, or leave `after` out to begin anew.",
        )
        .field("after", "It is not a cursor of this list.")
    };
    if cursor.len() > MAX_CURSOR {
        return Err(refused());
    }
    let mut bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| refused())?;
    let at = bytes.len().checked_sub(TAG).ok_or_else(refused)?;
    let given = bytes.split_off(at);
    let expected = tag(app, list, &bytes);
    if bool::from(subtle::ConstantTimeEq::ct_eq(&expected[..], &given[..])) {
        Ok(bytes)
    } else {
        Err(refused())
    }
}

fn tag(app: &App, list: List<'_>, key: &[u8]) -> [u8; TAG] {
    let tenant = app.tenant().as_str().as_bytes();
    let mac = app.mac("cursor", &[tenant, list.route.as_bytes(), list.owner, key]);
    let mut tag = [0; TAG];
    tag.copy_from_slice(&mac[..TAG]);
    tag
}
