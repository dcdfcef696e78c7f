use serde_json::json;

use super::*;

#[test]
fn definitions_say_what_must_be_corrected() {
    let url = "https://x.example";
    for (definition, credential, expected) in [
        (
            json!({ "vendor": "segment" }),
            bearer_token(),
            "credential: Segment takes a write key",
        ),
        (
            json!({ "vendor": "segment" }),
            Credential::WriteKey {
                write_key: Secret::new("k"),
                public_api: None,
            },
            "credential: erasures need a token",
        ),
        (
            json!({ "vendor": "hubspot" }),
            basic_pair(),
            "credential: HubSpot takes",
        ),
        (
            json!({ "vendor": "hubspot" }),
            Credential::Bearer(Secret::new("a\nb")),
            "credential: empty, or with blanks",
        ),
        (
            json!({ "vendor": "hubspot" }),
            Credential::Bearer(Secret::new("")),
            "credential: empty, or with blanks",
        ),
        (
            json!({ "vendor": "hubspot", "id_property": "A b" }),
            bearer_token(),
            "id_property: must be",
        ),
        (
            json!({ "vendor": "hubspot", "subscription_id": "x" }),
            bearer_token(),
            "subscription_id: must be",
        ),
        (
            json!({ "vendor": "hubspot", "id_property": "email" }),
            bearer_token(),
            "mapping.email: the property `email`",
        ),
        (
            json!({ "vendor": "hubspot", "base_url": "ftp://x" }),
            bearer_token(),
            "base_url: not an absolute",
        ),
        (
            json!({ "vendor": "hubspot", "base_url": "https://u@x" }),
            bearer_token(),
            "base_url: not an absolute",
        ),
        (
            json!({ "vendor": "hubspot", "base_url": "https://" }),
            bearer_token(),
            "base_url: not an absolute",
        ),
        (
            json!({ "vendor": "salesforce", "base_url": url }),
            write_key(),
            "credential: Salesforce takes",
        ),
        (
            json!({ "vendor": "salesforce", "base_url": url, "version": "v62" }),
            client(),
            "version: must be like",
        ),
        (
            json!({ "vendor": "salesforce", "base_url": url, "external_id": "a/b" }),
            client(),
            "external_id: must be",
        ),
        (
            json!({ "vendor": "salesforce", "base_url": url, "external_id": "Id" }),
            client(),
            "external_id: must be",
        ),
        (
            json!({ "vendor": "salesforce", "base_url": url, "purpose": "" }),
            client(),
            "purpose: must have",
        ),
        (
            json!({ "vendor": "salesforce", "base_url": url, "data_use_purpose": "7" }),
            client(),
            "data_use_purpose: must",
        ),
        (
            json!({ "vendor": "zendesk", "base_url": url }),
            client(),
            "credential: Zendesk takes",
        ),
        (
            json!({ "vendor": "zendesk", "base_url": url }),
            bearer_token(),
            "withdrawal: say `delete`, or `clear`",
        ),
        (
            json!({ "vendor": "customer_io" }),
            bearer_token(),
            "credential: Customer.io takes",
        ),
    ] {
        let error = connect(definition.clone(), credential).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{definition}: {error}");
    }
    for wrong in [
        json!({ "vendor": "mailchimp" }),
        json!({ "vendor": "segment", "basé_url": url }),
        json!({}),
    ] {
        assert!(
            serde_json::from_value::<Definition>(wrong.clone()).is_err(),
            "{wrong}"
        );
    }
}

#[test]
fn base_urls_lose_their_slash() {
    let made = connect(
        json!({ "vendor": "hubspot", "base_url": "http://127.0.0.1:8/hub/" }),
        bearer_token(),
    );
    assert_eq!(made.unwrap().base_url(Base::Api), "http://127.0.0.1:8/hub");
}

#[test]
fn definitions_are_read_as_they_are_written() {
    let url = "https://x.example";
    for (definition, defaults) in [
        (
            json!({ "vendor": "segment" }),
            json!({ "base_url": "https://api.segment.io", "regulations": true }),
        ),
        (
            json!({ "vendor": "hubspot", "mapping": { "email": "email" } }),
            json!({ "id_property": "gatelog_id" }),
        ),
        (
            json!({ "vendor": "salesforce", "base_url": url, "object": "Lead", "purpose": "news" }),
            json!({ "version": "62.0", "external_id": "Gatelog_Id__c", "channel": "Email", "capture_source": "Gatelog" }),
        ),
        (
            json!({ "vendor": "zendesk", "base_url": url, "withdrawal": "delete" }),
            json!({ "suspend_disabled": false, "permanent": true }),
        ),
        (
            json!({ "vendor": "customer_io" }),
            json!({ "base_url": "https://track.customer.io" }),
        ),
    ] {
        let read: Definition = serde_json::from_value(definition.clone()).unwrap();
        let written = serde_json::to_value(&read).unwrap();
        for (key, value) in definition
            .as_object()
            .unwrap()
            .iter()
            .chain(defaults.as_object().unwrap())
        {
            assert_eq!(written[key], *value, "{key}");
        }
        assert_eq!(serde_json::from_value::<Definition>(written).unwrap(), read);
    }
    let read = |credential: Value| serde_json::from_value::<Credential>(credential).unwrap();
    assert_eq!(read(json!({ "bearer": "s3cret" })), bearer_token());
    assert_eq!(
        read(json!({ "basic": { "user": "s3cret-user", "password": "s3cret" } })),
        basic_pair()
    );
    assert_eq!(
        read(json!({ "write_key": { "write_key": "s3cret", "public_api": "s3cret-2" } })),
        write_key()
    );
    assert_eq!(
        read(json!({ "client": { "id": "s3cret-id", "secret": "s3cret" } })),
        client()
    );
}
