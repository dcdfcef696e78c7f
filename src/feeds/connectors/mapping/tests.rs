use proptest::prelude::*;
use serde_json::json;

use super::super::tests::{all_fields, basic_pair, bearer_token, connect, write_key};
use super::super::{Credential, DefinitionError};
use super::*;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(f, p)| (f.to_owned(), p.to_owned())).collect()
}

fn error(vendor: &str, pairs: &[(&str, &str)]) -> Option<MappingError> {
    let credential: Credential = match vendor {
        "segment" => write_key(),
        "customer_io" | "zendesk" => basic_pair(),
        _ => bearer_token(),
    };
    let mut definition = json!({ "vendor": vendor, "mapping": map(pairs) });
    if matches!(vendor, "salesforce" | "zendesk") {
        definition["base_url"] = json!("https://x.example");
    }
    if vendor == "zendesk" {
        definition["withdrawal"] = json!("delete");
    }
    match connect(definition, credential) {
        Ok(_) => None,
        Err(DefinitionError::Mapping(error)) => Some(error),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn mappings_are_checked_by_each_vendors_rules() {
    let field = || "email".to_owned();
    let long = "a".repeat(151);
    let ill = |vendor: &str, name: &str| {
        let found = error(vendor, &[("email", name)]);
        assert!(
            matches!(found, Some(MappingError::IllFormed { .. })),
            "{vendor} {name}: {found:?}"
        );
    };
    for vendor in ["segment", "hubspot", "salesforce", "zendesk", "customer_io"] {
        assert_eq!(error(vendor, &[]), None);
        assert_eq!(
            error(vendor, &[("mail", "x")]),
            Some(MappingError::UnknownField {
                field: "mail".to_owned()
            })
        );
        assert_eq!(
            error(vendor, &[("email", "")]),
            Some(MappingError::Empty { field: field() })
        );
        assert!(matches!(
            error(vendor, &[("email", &long)]),
            Some(MappingError::TooLong { .. })
        ));
        for name in [
            "a b",
            "1a",
            "é",
            "a/b",
            "a\"b",
            "a\n",
            "_update",
            "user_fields.",
            "user_fields.a-b",
        ] {
            ill(vendor, name);
        }
    }
    ill("hubspot", "Email");
    ill("zendesk", "role");
    for (vendor, name) in [
        ("segment", "userId"),
        ("segment", "company"),
        ("hubspot", "hs_object_id"),
        ("salesforce", "IndividualId"),
        ("salesforce", "hasOptedOutOfEmail"),
        ("customer_io", "unsubscribed"),
    ] {
        let expected = MappingError::Reserved {
            field: field(),
            name: name.to_owned(),
        };
        assert_eq!(error(vendor, &[("email", name)]), Some(expected));
    }
    assert_eq!(
        error("zendesk", &[("plan", "user_fields.plan"), ("email", "email")]),
        None
    );
    assert_eq!(error("salesforce", &[("plan", "Plan__c")]), None);
}

#[test]
fn a_property_is_taken_once() {
    let taken = |name: &str| MappingError::Taken {
        field: "locale".to_owned(),
        other: "email".to_owned(),
        name: name.to_owned(),
    };
    assert_eq!(
        error("segment", &[("email", "x"), ("locale", "x")]),
        Some(taken("x"))
    );
    // Where a vendor takes no notice of case, neither do we.
    assert_eq!(
        error("salesforce", &[("email", "Xy__c"), ("locale", "xY__C")]),
        Some(taken("xY__C"))
    );
    assert_eq!(error("customer_io", &[("email", "xy"), ("locale", "xY")]), None);
}

#[test]
fn errors_name_field_and_remedy() {
    let all = [
        error("segment", &[("mail", "x")]),
        error("segment", &[("email", "")]),
        error("segment", &[("email", &"a".repeat(101))]),
        error("segment", &[("email", "a b")]),
        error("segment", &[("email", "id")]),
        error("segment", &[("email", "x"), ("locale", "x")]),
    ];
    for error in all.map(Option::unwrap) {
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("mapping.{}: ", error.field())),
            "{text}"
        );
    }
}

#[test]
fn only_what_the_feed_names_is_mapped() {
    const NAMES: Names = Names {
        longest: 9,
        valid: is_identifier,
        rule: "",
        reserved: &[],
        any_case: false,
        defaults: &[("email", "email"), ("plan", "tier")],
    };
    let fields: BTreeSet<_> = ["plan".to_owned()].into();
    let mapping = Mapping::new(&NAMES, None, &fields).unwrap();
    assert_eq!(mapping.properties().collect::<Vec<_>>(), ["tier"]);
    let asked = map(&[("email", "x")]);
    let expected = MappingError::NotInFeed {
        field: "email".to_owned(),
    };
    assert_eq!(Mapping::new(&NAMES, Some(&asked), &fields), Err(expected));
    // What is missing in a state is null, and what is not mapped is not there.
    let mapping = Mapping::new(&NAMES, None, &all_fields()).unwrap();
    let state = json!({ "email": "e", "locale": "l" });
    let values: Vec<_> = mapping.values(state.as_object().unwrap()).collect();
    assert_eq!(values, [("email", &json!("e")), ("tier", &Value::Null)]);
}

#[test]
fn default_mappings_are_fit() {
    for vendor in ["segment", "hubspot", "salesforce", "zendesk", "customer_io"] {
        let names = match vendor {
            "segment" => super::super::segment::NAMES,
            "hubspot" => super::super::hubspot::NAMES,
            "salesforce" => super::super::salesforce::settings::NAMES,
            "zendesk" => super::super::zendesk::NAMES,
            _ => super::super::customer_io::NAMES,
        };
        assert_eq!(error(vendor, names.defaults), None, "{vendor}");
    }
}

#[test]
fn texts() {
    for (value, expected) in [
        (json!(null), ""),
        (json!("a"), "a"),
        (json!(true), "true"),
        (json!(1.5), "1.5"),
        (json!(["a", 1, null]), "a;1;"),
        (json!([["a"]]), r#"[["a"]]"#),
        (json!({ "a": 1 }), r#"{"a":1}"#),
    ] {
        assert_eq!(text(&value, ";"), expected);
    }
}

#[test]
fn times() {
    for (time, expected) in [
        ("1970-01-01T00:00:00Z", Some(0)),
        ("2026-01-01T00:00:00.000Z", Some(1_767_225_600)),
        ("2026-01-01t01:30:00.5+01:30", Some(1_767_225_600)),
        ("2025-12-31T23:00:00-01:00", Some(1_767_225_600)),
        ("2024-02-29T12:00:00Z", Some(1_709_208_000)),
        ("1969-12-31T23:59:59Z", Some(-1)),
        ("2026-13-01T00:00:00Z", None),
        ("2026-01-01T24:00:00Z", None),
        ("2026-01-01T00:00:00", None),
        ("2026-01-01", None),
        ("2026-01-01T00:00:00+0100", None),
        ("2026-01-01T00:00:00é00", None),
        ("", None),
    ] {
        assert_eq!(unix_seconds(time), expected, "{time}");
    }
}

proptest! {
    #[test]
    fn no_time_panics(time in "[0-9]{0,4}-?[0-9]{0,2}.{0,24}") {
        let _ = unix_seconds(&time);
    }
}
