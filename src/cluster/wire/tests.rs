mod dice;

use gatelog_events::domain::user;
use proptest::collection::vec;
use proptest::prelude::*;

use self::dice::Dice;
use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn commands_arrive_as_they_were_sent(bytes in vec(any::<u8>(), 0..400)) {
        let mut dice = Dice(bytes.iter());
        let request = dice.request();
        let seen = dice.some(Dice::position);
        let bytes = encode_command(&request, seen).unwrap();
        let Ok(received) = decode_command(&bytes) else { panic!("not read") };
        prop_assert!(received.request.command == request.command);
        prop_assert_eq!(received.seen, seen);
        let of = |i: &Option<Idempotency>| i.as_ref().map(|i| (i.commit_id, i.request.clone()));
        prop_assert_eq!(of(&received.request.idempotency), of(&request.idempotency));
        prop_assert_eq!(received.request.tenant, request.tenant);
        prop_assert_eq!(received.request.subject, request.subject);
        prop_assert_eq!(received.request.partition, request.partition);
        prop_assert_eq!(received.request.actor, request.actor);
        prop_assert_eq!(received.request.correlation_id, request.correlation_id);
        prop_assert_eq!(received.request.time, request.time);
        prop_assert_eq!(received.request.after, request.after);
    }

    #[test]
    fn outcomes_arrive_as_they_were_sent(bytes in vec(any::<u8>(), 0..100)) {
        let outcome = Dice(bytes.iter()).outcome();
        match decode_reply(&encode_result(&Ok(outcome.clone())).unwrap()) {
            Ok(Reply::Done(arrived)) => {
                prop_assert_eq!(arrived.answer, outcome.answer);
                prop_assert_eq!(arrived.replayed, outcome.replayed);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn errors_arrive_as_they_were_sent(bytes in vec(any::<u8>(), 0..100)) {
        let e = Dice(bytes.iter()).failure();
        match decode_reply(&encode_result(&Err(e.clone())).unwrap()) {
            // What callers see follows from the variant and its content alone.
            Ok(Reply::Failed(arrived)) => prop_assert_eq!(format!("{arrived:?}"), format!("{e:?}")),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..200), json in "\\PC{0,100}") {
        let framed = [&[FORM], json.as_bytes()].concat();
        for input in [&bytes, &framed] {
            let _ = decode_command(input);
            let _ = decode_reply(input);
        }
    }
}

#[test]
fn refusals_arrive_as_they_were_sent() {
    for refused in [
        Refused::UnknownForm,
        Refused::UnknownCommand,
        Refused::Malformed,
        Refused::NotAddressed,
        Refused::Stale,
        Refused::Replayed,
        Refused::Busy,
    ] {
        let bytes = encode_refusal(refused).unwrap();
        assert!(matches!(decode_reply(&bytes), Ok(Reply::Refused(r)) if r == refused));
    }
}

fn sent(command: &str) -> Vec<u8> {
    let json = format!(
        r#"{{"tenant":"default","subject":{{"user":"0193e0a1-7c5a-8000-8000-00000000002a"}},"command":{command},
            "actor":{{"User":"0193e0a1-7c5a-8000-8000-00000000002a"}},
            "correlation_id":"00000000-0000-0000-0000-000000000001",
            "idempotency":{{"commit_id":"00000000-0000-0000-0000-000000000002","request":"AQID","more":1}},
            "time":"2026-11-24T10:15:00.000Z","after":"identity:3:1024","seen":"identity:1:7","unknown":[]}}"#
    );
    [&[FORM], json.as_bytes()].concat()
}

const NOTICE: &str = r#"{"id":"privacy","version":"1","language":"en"}"#;

/// What a node of an older version sends is understood. A line may be added, and none may be changed.
fn frozen_commands() -> Vec<String> {
    let email = r#"{"typed":"Ada@x.test","key":"ada@x.test"}"#;
    let consent = format!(
        r#"{{"granted":true,"change":{{"purpose":"newsletter","channel":"email","notice":{NOTICE},
            "lawful_basis":"consent","method":"self_service","evidence":{{"ip":"192.0.2.1"}}}}}}"#
    );
    let user = [
        format!(
            r#"{{"register":{{"origin":"api","email":{email},"password_hash":"$argon2id$…","email_verified":false,
                "locale":"en","profile":{{"given_name":"Ada"}},"plan":null,"roles":["admin"],"consents":[{consent}],
                "disabled":false}}}}"#
        ),
        r#"{"set_password":{"hash":"$argon2id$…","reason":"changed","instead_of":3}}"#.to_owned(),
        format!(r#"{{"change_email":{{"email":{email}}}}}"#),
        r#"{"verify_email":{"method":"asserted"}}"#.to_owned(),
        r#"{"change_profile":{"locale":"de","changes":{"company":null,"country":"GB"}}}"#.to_owned(),
        format!(r#"{{"set_consent":{consent}}}"#),
        r#"{"change_plan":{"to":"pro","intent":"renew","effective_at":null,"source":"api","reason":null}}"#
            .to_owned(),
        r#"{"grant_role":{"role":"admin"}}"#.to_owned(),
        r#"{"revoke_role":{"role":"admin"}}"#.to_owned(),
        r#"{"disable":{"reason":null}}"#.to_owned(),
        r#"{"enable":{"reason":null}}"#.to_owned(),
        r#"{"erase":{"reason":"asked"}}"#.to_owned(),
    ];
    let id = "\"0193e0a1-7c5a-8000-8000-00000000002a\"";
    let session = [
        format!(
            r#"{{"login":{{"session_id":{id},"method":"password","client":{{"user_agent":"x"}},"credential_version":1}}}}"#
        ),
        r#"{"fail_login":{"reason":"wrong_password","method":"password","client":{"ip":"::1"}}}"#.to_owned(),
        format!(r#"{{"refresh":{{"session_id":{id},"generation":2}}}}"#),
        format!(r#"{{"end":{{"session_id":{id},"reason":"logged_out"}}}}"#),
        r#"{"unlock":{"reason":null}}"#.to_owned(),
    ];
    let tenant = [
        "\"seed\"".to_owned(),
        r#"{"define_plan":{"name":"pro","rank":10,"entitlements":["app"]}}"#.to_owned(),
        r#"{"define_purpose":{"name":"newsletter","description":"News"}}"#.to_owned(),
        r#"{"publish_notice":{"id":"privacy","version":"1","language":"en","text":"…"}}"#.to_owned(),
        format!(
            r#"{{"create_api_key":{{"key_id":{id},"name":"crm","scopes":["users:read"],"secret_sha256":"00"}}}}"#
        ),
        format!(r#"{{"revoke_api_key":{{"key_id":{id}}}}}"#),
    ];
    let family = |name: &'static str| move |command: String| format!(r#"{{"{name}":{command}}}"#);
    let users = user.into_iter().map(family("user"));
    let sessions = session.into_iter().map(family("session"));
    let tenants = tenant.into_iter().map(family("tenant"));
    let claim = std::iter::once(format!(r#"{{"claim":{email}}}"#));
    users.chain(sessions).chain(tenants).chain(claim).collect()
}

#[test]
fn the_form_is_frozen() {
    for command in frozen_commands() {
        let Ok(received) = decode_command(&sent(&command)) else {
            panic!("not understood any more: {command}");
        };
        // What is written now is what was written then, but for what may be left out.
        let again = serde_json::to_value(&received.request.command).unwrap();
        let then: serde_json::Value = serde_json::from_str(&command).unwrap();
        assert_eq!(again, then);
        let request = received.request;
        assert_eq!(request.idempotency.unwrap().request[..], [1, 2, 3]);
        assert_eq!(request.after.unwrap().to_string(), "identity:3:1024");
        assert_eq!(received.seen.unwrap().to_string(), "identity:1:7");
    }
}

#[test]
fn the_form_of_answers_is_frozen() {
    let done = "\u{1}{\"done\":{\"position\":\"identity:3:1024\",\"user\":\"0193e0a1-7c5a-8000-8000-00000000002a\",\
        \"generation\":2,\"time\":\"2026-11-24T10:15:00.000Z\",\"tag\":\"AAAAAAAAAAAAAAAAAAAAAA\",\"replayed\":true,\"x\":1}}";
    let Ok(Reply::Done(outcome)) = decode_reply(done.as_bytes()) else {
        panic!("not understood any more");
    };
    assert_eq!(outcome.answer.position().to_string(), "identity:3:1024");
    assert!(outcome.replayed && outcome.commit.is_none());
    for (json, shown) in [
        (
            r#"{"rejected":{"user":"address_taken"}}"#,
            "Rejected(User(AddressTaken))",
        ),
        (
            r#"{"rejected":{"session":{"locked":"1970-01-01T00:00:01.000Z"}}}"#,
            "Rejected(Session(Locked(Timestamp(1000))))",
        ),
        (r#""key_reused""#, "KeyReused"),
        (
            r#"{"overloaded":{"retry_after_ms":1500}}"#,
            "Overloaded { retry_after: 1.5s }",
        ),
        (
            r#"{"not_owner":{"stream":"identity","partition":3}}"#,
            "NotOwner { stream: Identity, partition: Partition(3) }",
        ),
        (
            r#"{"too_large":{"size":3,"limit":2}}"#,
            "TooLarge { size: 3, limit: 2 }",
        ),
    ] {
        let bytes = format!("\u{1}{{\"failed\":{json}}}");
        match decode_reply(bytes.as_bytes()) {
            Ok(Reply::Failed(e)) => assert_eq!(format!("{e:?}"), shown),
            other => panic!("{json}: {other:?}"),
        }
    }
}

#[test]
fn what_is_not_understood_is_refused_by_its_kind() {
    let refusal = |bytes: &[u8]| decode_command(bytes).err();
    let known = sent(r#"{"user":{"grant_role":{"role":"admin"}}}"#);
    let newer = [&[FORM + 1], &known[1..]].concat();
    assert_eq!(refusal(&newer), Some(Refused::UnknownForm));
    assert_eq!(refusal(b""), Some(Refused::UnknownForm));
    for command in [
        r#"{"user":{"merge_with":{"other":"x"}}}"#,
        r#"{"device":{"enrol":{}}}"#,
        r#"{"user":{"grant_role":{}}}"#,
        r#"7"#,
    ] {
        assert_eq!(
            refusal(&sent(command)),
            Some(Refused::UnknownCommand),
            "{command}"
        );
    }
    assert_eq!(refusal(&known[..known.len() - 1]), Some(Refused::Malformed));
    assert_eq!(refusal(b"\x01{}"), Some(Refused::Malformed));
    assert!(matches!(decode_reply(b"\x02{}"), Err(Unreadable::Form)));
    assert!(matches!(
        decode_reply(b"\x01{\"maybe\":1}"),
        Err(Unreadable::Malformed)
    ));
}

#[test]
fn what_is_not_readable_any_more_is_not_sent() {
    let mut request = decode_command(&sent(&frozen_commands()[5])).ok().unwrap().request;
    if let Command::User(user::Command::SetConsent(wish)) = &mut request.command {
        wish.change.personal = gatelog_events::personal::Personal::Erased;
    }
    assert!(encode_command(&request, None).is_err());
}
