//! The description of the API (OpenAPI 3.1), generated from the code.

use utoipa::openapi::content::{Content, ContentBuilder};
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::info::{ContactBuilder, InfoBuilder, LicenseBuilder};
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, OpenApi, OpenApiBuilder, PathItem, Ref, RefOr, Required};
use utoipa::{PartialSchema, ToSchema};

use crate::error::{FieldError, Kind, ProblemDocument};

const PROBLEM: &str = "application/problem+json";

/// Requests that are harmless to send again without an `Idempotency-Key`, and take none: asked twice they do no more than
/// asked once, or are refused.
const TAKE_NO_KEY: [&str; 7] = [
    "/v1/projections/{name}/rebuild",
    "/v1/feeds/{feed}/acknowledgements",
    "/v1/feeds/{feed}/webhooks/{webhook}/dead-letters/redrive",
    "/v1/unsubscribe/{token}",
    "/v1/preferences/{token}",
    "/ssf/poll/{stream_id}",
    "/ssf/verification",
];

/// It writes no event.
const GIVES_NO_POSITION: &str = "/v1/projections/{name}/rebuild";

/// The document before routes are added.
pub fn base() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Gatelog")
        .version("1")
        .description(Some(description()))
        .license(Some(
            LicenseBuilder::new()
                .name("Apache-2.0")
                .identifier(Some("Apache-2.0"))
                .build(),
        ))
        .contact(Some(
            ContactBuilder::new()
                .name(Some("The operator of this node"))
                .build(),
        ))
        .build();
    let mut components = Components::new();
    components.add_security_scheme(
        "access_token",
        SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .bearer_format("JWT")
                .description(Some(
                    "A user's access token, from POST /v1/logins: the user's own data only.",
                ))
                .build(),
        ),
    );
    components.add_security_scheme(
        "api_key",
        SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some("An API key with the scopes that are named."))
                .build(),
        ),
    );
    components
        .schemas
        .insert("Problem".to_owned(), ProblemDocument::schema());
    components
        .schemas
        .insert(FieldError::name().into_owned(), FieldError::schema());
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components))
        .build()
}

fn description() -> String {
    let mut text = String::from(
        "Customer identities whose only source of truth is an immutable event log.\n\n\
         Answers to writes under `/v1` carry `Gatelog-Position`. A request with `Gatelog-Min-Position` sees at least what was \
         written there, or is answered 412. A request with an `Idempotency-Key` may be sent again without being carried \
         out twice. Everything that goes wrong is a problem document (RFC 9457) with one of these types:\n\n\
         | type | status | title |\n|---|---|---|\n",
    );
    for kind in Kind::ALL {
        text.push_str(&format!(
            "| `{}` | {} | {} |\n",
            kind.uri(),
            kind.status().as_u16(),
            kind.title()
        ));
    }
    text
}

/// The finished document, as it is served and as it stands in `schemas/openapi.json`.
pub fn render(mut document: OpenApi) -> String {
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            finish(path, method, operation);
        }
    }
    // Serialization of this closed type cannot fail; a test looks at the result.
    document.to_pretty_json().unwrap_or_default() + "\n"
}

fn operations(item: &mut PathItem) -> Vec<(&'static str, &mut Operation)> {
    let PathItem {
        get,
        put,
        post,
        delete,
        patch,
        ..
    } = item;
    [
        ("get", get),
        ("put", put),
        ("post", post),
        ("delete", delete),
        ("patch", patch),
    ]
    .into_iter()
    .filter_map(|(method, operation)| operation.as_mut().map(|o| (method, o)))
    .collect()
}

/// Adds what all operations have in common.
fn finish(path: &str, method: &str, operation: &mut Operation) {
    let id: String = format!("{method}{}", path.replace(['/', '{', '}', '.', '-'], "_"));
    operation.operation_id = Some(
        id.split('_')
            .filter(|s| !s.is_empty())
            .collect::<Vec<_>>()
            .join("_"),
    );
    if knows_its_caller(operation) {
        parameters(operation).push(header(
            "Gatelog-Min-Position",
            "Answer only once this position is folded, also what it says of the caller; 412 if that takes too long.",
        ));
    }
    let writes = method != "get" && (path.starts_with("/v1/") || path.starts_with("/ssf/"));
    if writes && !TAKE_NO_KEY.contains(&path) {
        parameters(operation).push(header(
            "Idempotency-Key",
            "1 to 255 visible ASCII characters; makes it harmless to send the request again.",
        ));
    }
    // Answers of Shared Signals are those of its specification, which knows no positions.
    let gives_position = writes && path.starts_with("/v1/") && path != GIVES_NO_POSITION;
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        if !status.starts_with('2') {
            // Also where a page says no: a request may be refused before it comes to that.
            response.content.insert(PROBLEM.to_owned(), RefOr::T(problem()));
        } else if gives_position {
            response
                .headers
                .insert("Gatelog-Position".to_owned(), RefOr::T(position()));
        }
    }
    for (status, what) in [
        ("4XX", "The request was refused"),
        ("5XX", "Nothing is known to be done"),
    ] {
        let refused = ResponseBuilder::new()
            .description(what)
            .content(PROBLEM, problem())
            .build();
        operation
            .responses
            .responses
            .insert(status.to_owned(), RefOr::T(refused));
    }
}

/// Whether a caller may show who they are. As of which position that is looked up, they may say with it.
fn knows_its_caller(operation: &Operation) -> bool {
    let anybody = SecurityRequirement::default();
    operation.security.iter().flatten().any(|way| *way != anybody)
}

fn problem() -> Content {
    ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .build()
}

fn position() -> Header {
    HeaderBuilder::new()
        .schema(Some(string()))
        .description(Some(
            "Where it stands in the log, such as identity:3:1024. Absent where no one position says so: nothing had to be \
             written, it is still to be recorded, or it stands in several partitions.",
        ))
        .build()
}

fn parameters(operation: &mut Operation) -> &mut Vec<RefOr<Parameter>> {
    operation.parameters.get_or_insert_with(Vec::new)
}

fn header(name: &str, description: &str) -> RefOr<Parameter> {
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(string()))
        .build();
    RefOr::T(parameter)
}

fn string() -> RefOr<Schema> {
    RefOr::T(Schema::Object(
        ObjectBuilder::new().schema_type(Type::String).build(),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    fn document() -> String {
        let (_, document) = crate::http::routes().split_for_parts();
        super::render(document)
    }

    fn each_operation(document: &Value) -> impl Iterator<Item = (String, &Value)> {
        document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| {
                let operations = item.as_object().unwrap().iter();
                operations.map(move |(method, operation)| (format!("{method} {path}"), operation))
            })
    }

    fn each_ref<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(to)) = fields.get("$ref") {
                    found.push(to);
                }
                fields.values().for_each(|v| each_ref(v, found));
            }
            Value::Array(items) => items.iter().for_each(|v| each_ref(v, found)),
            _ => {}
        }
    }

    #[test]
    fn the_checked_in_document_is_that_of_the_code() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/openapi.json");
        let now = document();
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            std::fs::write(&path, &now).unwrap();
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stored == now,
            "schemas/openapi.json is not that of the code; run the tests with UPDATE_SCHEMAS=1"
        );
    }

    /// What OpenAPI 3.1 requires of those parts that are used here.
    #[test]
    fn the_document_is_valid() {
        let document: Value = serde_json::from_str(&document()).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        assert!(document["info"]["title"].is_string() && document["info"]["version"].is_string());
        let mut ids = std::collections::BTreeSet::new();
        for (name, operation) in each_operation(&document) {
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{name}");
            assert!(operation["summary"].is_string(), "{name} has no summary");
            let responses = operation["responses"].as_object().unwrap();
            assert!(
                responses.contains_key("4XX") && responses.contains_key("5XX"),
                "{name}"
            );
            assert!(responses.values().all(|r| r["description"].is_string()), "{name}");
            let declared: Vec<_> = operation["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|p| p["in"] == "path")
                .map(|p| p["name"].as_str().unwrap())
                .collect();
            let path = name.split(' ').nth(1).unwrap();
            let named: Vec<_> = path
                .split('{')
                .skip(1)
                .filter_map(|s| s.split('}').next())
                .collect();
            assert_eq!(declared, named, "{name}");
            assert!(
                operation["security"].is_array(),
                "{name} does not say who may call it"
            );
        }
        let mut refs = Vec::new();
        each_ref(&document, &mut refs);
        assert!(!refs.is_empty());
        for to in refs {
            let pointer = to.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{to} leads nowhere");
        }
    }

    #[test]
    fn what_is_refused_may_be_a_problem_and_stands_nowhere_in_the_log() {
        let document: Value = serde_json::from_str(&document()).unwrap();
        for (name, operation) in each_operation(&document) {
            let responses = operation["responses"].as_object().unwrap().iter();
            for (status, response) in responses.filter(|(status, _)| !status.starts_with('2')) {
                assert!(response["content"][super::PROBLEM].is_object(), "{name} {status}");
                assert!(response["headers"].is_null(), "{name} {status}");
            }
        }
    }

    #[test]
    fn every_route_is_described() {
        let document: Value = serde_json::from_str(&document()).unwrap();
        let described: Vec<String> = each_operation(&document).map(|(name, _)| name).collect();
        for route in [
            "post /v1/registrations",
            "post /v1/logins",
            "post /v1/sessions/refresh",
            "delete /v1/sessions/{id}",
            "get /v1/users/{id}/sessions",
            "get /v1/users",
            "get /v1/users/{id}",
            "delete /v1/users/{id}",
            "patch /v1/users/{id}/profile",
            "put /v1/users/{id}/password",
            "put /v1/users/{id}/email",
            "get /v1/users/{id}/consents",
            "put /v1/users/{id}/consents/{purpose}",
            "put /v1/users/{id}/plan",
            "put /v1/users/{id}/roles/{role}",
            "delete /v1/users/{id}/roles/{role}",
            "delete /v1/users/{id}/lock",
            "put /v1/users/{id}/status",
            "get /v1/users/{id}/timeline",
            "get /v1/statistics",
            "get /v1/settings/plans",
            "put /v1/settings/plans/{plan}",
            "get /v1/settings/purposes",
            "put /v1/settings/purposes/{purpose}",
            "get /v1/settings/notices",
            "put /v1/settings/notices/{id}",
            "post /v1/api-keys",
            "get /v1/api-keys",
            "delete /v1/api-keys/{id}",
            "get /v1/projections",
            "post /v1/projections/{name}/rebuild",
            "get /healthz",
            "get /readyz",
            "get /metrics",
            "get /.well-known/jwks.json",
            "get /openapi.json",
        ] {
            assert!(described.iter().any(|d| d == route), "{route} is not described");
        }
    }
}
