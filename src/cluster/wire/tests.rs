use gatelog_events::clock::Timestamp;
use gatelog_events::domain::consent::{self, ConsentChange, Evidence, LawfulBasis, Method, NoticeRef, SetConsent};
use gatelog_events::domain::plan::{self, ChangePlan, Intent};
use gatelog_events::domain::profile::{Profile, ProfileField, ProfilePatch};
use gatelog_events::domain::session::{self, Client, EndReason, FailureReason, LoginMethod};
use gatelog_events::domain::tenant::{self, ApiKeyCreated, NoticePublished, PlanDefined, PurposeDefined};
use gatelog_events::domain::user::{self, Origin, PasswordReason, Register, Verification};
use gatelog_events::email::Email;
use gatelog_events::ids::ApiKeyId;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,24}"
}

fn maybe() -> impl Strategy<Value = Option<String>> {
    option::of(text())
}

fn email() -> impl Strategy<Value = Email> {
    "[A-Za-zß-ö]{1,12}@[a-z]{1,8}\\.test".prop_map(|a| Email::parse(&a).unwrap())
}

fn uuid() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn time() -> impl Strategy<Value = Timestamp> {
    (0..4_000_000_000_000i64).prop_map(Timestamp::from_millis)
}

fn position() -> impl Strategy<Value = Position> {
    (select(&Stream::ALL[..]), any::<u16>(), any::<u64>()).prop_map(|(stream, p, offset)| Position {
        stream,
        partition: Partition(p),
        offset,
    })
}

fn field() -> impl Strategy<Value = ProfileField> {
    select(vec![ProfileField::GivenName, ProfileField::Country, ProfileField::PhoneNumber])
}

fn client() -> impl Strategy<Value = Client> {
    (maybe(), maybe()).prop_map(|(ip, user_agent)| Client { ip, user_agent })
}

fn wish() -> impl Strategy<Value = SetConsent> {
    let notice = (text(), text(), text()).prop_map(|(id, version, language)| NoticeRef { id, version, language });
    let basis = select(vec![
        LawfulBasis::Consent,
        LawfulBasis::Contract,
        LawfulBasis::LegalObligation,
        LawfulBasis::VitalInterests,
        LawfulBasis::PublicTask,
        LawfulBasis::LegitimateInterests,
    ]);
    let method = select(vec![
        Method::RegistrationForm,
        Method::SelfService,
        Method::Recorded,
        Method::Import,
    ]);
    let evidence = (maybe(), maybe(), maybe()).prop_map(|(ip, user_agent, note)| Evidence { ip, user_agent, note });
    (any::<bool>(), text(), text(), notice, basis, method, evidence).prop_map(
        |(granted, purpose, channel, notice, lawful_basis, method, evidence)| SetConsent {
            granted,
            change: ConsentChange {
                purpose,
                channel,
                notice,
                lawful_basis,
                method,
                personal: evidence.into(),
            },
        },
    )
}

fn register() -> impl Strategy<Value = Register> {
    let who = (
        select(vec![Origin::SelfService, Origin::Api, Origin::Import]),
        email(),
        maybe(),
        any::<bool>(),
        maybe(),
        btree_map(field(), text(), 0..3),
    );
    let what = (maybe(), btree_set(text(), 0..3), vec(wish(), 0..3), any::<bool>());
    (who, what).prop_map(
        |((origin, email, password_hash, email_verified, locale, profile), (plan, roles, consents, disabled))| {
            Register {
                origin,
                email,
                password_hash,
                email_verified,
                locale,
                profile: Profile(profile),
                plan,
                roles,
                consents,
                disabled,
            }
        },
    )
}

fn user_command() -> impl Strategy<Value = user::Command> {
    use user::Command as C;
    let reasons = vec![
        PasswordReason::Registered,
        PasswordReason::Imported,
        PasswordReason::Changed,
        PasswordReason::Reset,
        PasswordReason::Rehashed,
    ];
    let plan = (
        text(),
        option::of(select(vec![Intent::Cancel, Intent::Renew])),
        option::of(time()),
        text(),
        maybe(),
    );
    prop_oneof![
        register().prop_map(C::Register),
        (text(), select(reasons), any::<Option<u32>>()).prop_map(|(hash, reason, instead_of)| C::SetPassword {
            hash,
            reason,
            instead_of
        }),
        email().prop_map(|email| C::ChangeEmail { email }),
        select(vec![Verification::Mail, Verification::Asserted]).prop_map(|method| C::VerifyEmail { method }),
        (maybe(), btree_map(field(), maybe(), 0..3)).prop_map(|(locale, changes)| C::ChangeProfile {
            locale,
            changes: ProfilePatch(changes)
        }),
        wish().prop_map(C::SetConsent),
        plan.prop_map(|(to, intent, effective_at, source, reason)| C::ChangePlan(ChangePlan {
            to,
            intent,
            effective_at,
            source,
            reason
        })),
        text().prop_map(|role| C::GrantRole { role }),
        text().prop_map(|role| C::RevokeRole { role }),
        maybe().prop_map(|reason| C::Disable { reason }),
        maybe().prop_map(|reason| C::Enable { reason }),
        maybe().prop_map(|reason| C::Erase { reason }),
    ]
}

fn session_command() -> impl Strategy<Value = session::Command> {
    use session::Command as C;
    let method = LoginMethod::Password;
    let failures = vec![
        FailureReason::WrongPassword,
        FailureReason::UnknownIdentifier,
        FailureReason::NoPassword,
        FailureReason::Disabled,
    ];
    let ends = vec![EndReason::LoggedOut, EndReason::RefreshTokenReused, EndReason::Revoked];
    prop_oneof![
        (uuid(), client(), any::<u32>()).prop_map(move |(id, client, credential_version)| C::Login {
            session_id: SessionId(id),
            method,
            client,
            credential_version
        }),
        (select(failures), client()).prop_map(move |(reason, client)| C::FailLogin { reason, method, client }),
        (uuid(), any::<u32>()).prop_map(|(id, generation)| C::Refresh {
            session_id: SessionId(id),
            generation
        }),
        (uuid(), select(ends)).prop_map(|(id, reason)| C::End {
            session_id: SessionId(id),
            reason
        }),
        maybe().prop_map(|reason| C::Unlock { reason }),
    ]
}

fn tenant_command() -> impl Strategy<Value = tenant::Command> {
    use tenant::Command as C;
    prop_oneof![
        Just(C::Seed),
        (text(), any::<u32>(), btree_set(text(), 0..3)).prop_map(|(name, rank, entitlements)| C::DefinePlan(
            PlanDefined {
                name,
                rank,
                entitlements
            }
        )),
        (text(), text()).prop_map(|(name, description)| C::DefinePurpose(PurposeDefined { name, description })),
        (text(), text(), text(), maybe(), maybe()).prop_map(|(id, version, language, url, text)| {
            C::PublishNotice(NoticePublished {
                id,
                version,
                language,
                url,
                text,
            })
        }),
        (uuid(), text(), btree_set(text(), 0..3), text()).prop_map(|(id, name, scopes, secret_sha256)| {
            C::CreateApiKey(ApiKeyCreated {
                key_id: ApiKeyId(id),
                name,
                scopes,
                secret_sha256,
            })
        }),
        uuid().prop_map(|id| C::RevokeApiKey { key_id: ApiKeyId(id) }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        user_command().prop_map(Command::User),
        email().prop_map(Command::Claim),
        session_command().prop_map(Command::Session),
        tenant_command().prop_map(Command::Tenant),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let subject = prop_oneof![
        uuid().prop_map(|id| Subject::User(UserId(id))),
        Just(Subject::Tenant),
        Just(Subject::Nobody),
    ];
    let actor = prop_oneof![
        Just(Actor::Visitor),
        Just(Actor::System),
        uuid().prop_map(|id| Actor::User(UserId(id))),
        uuid().prop_map(|id| Actor::ApiKey(ApiKeyId(id))),
    ];
    let idempotency = option::of((uuid(), vec(any::<u8>(), 0..40))).prop_map(|i| {
        i.map(|(id, request)| Idempotency {
            commit_id: CommitId(id),
            request: request.into(),
        })
    });
    (
        "[a-z0-9][a-z0-9-]{0,20}",
        subject,
        option::of(any::<u16>()),
        command(),
        actor,
        uuid(),
        idempotency,
        option::of(time()),
        option::of(position()),
    )
        .prop_map(
            |(tenant, subject, partition, command, actor, correlation_id, idempotency, time, after)| Request {
                tenant: TenantId::new(&tenant).unwrap(),
                subject,
                partition: partition.map(Partition),
                command,
                actor,
                correlation_id,
                idempotency,
                time,
                after,
            },
        )
}

fn rejection() -> impl Strategy<Value = Rejection> {
    let (u, s, t) = (uuid_free_user(), session_rejection(), tenant_rejection());
    let consent = prop_oneof![
        text().prop_map(consent::Rejection::UnknownPurpose),
        (text(), text(), text()).prop_map(|(id, version, language)| consent::Rejection::UnknownNotice {
            id,
            version,
            language
        }),
    ];
    let plan = prop_oneof![
        text().prop_map(plan::Rejection::UnknownPlan),
        Just(plan::Rejection::NotYetEffective),
        text().prop_map(plan::Rejection::NotACancellation),
        text().prop_map(plan::Rejection::NotARenewal),
    ];
    prop_oneof![
        u.prop_map(Rejection::User),
        s.prop_map(Rejection::Session),
        t.prop_map(Rejection::Tenant),
        consent.prop_map(Rejection::Consent),
        plan.prop_map(Rejection::Plan),
    ]
}

fn uuid_free_user() -> impl Strategy<Value = user::Rejection> {
    use user::Rejection as R;
    select(vec![R::AddressTaken, R::NotFound, R::AlreadyExists, R::Disabled])
}

fn session_rejection() -> impl Strategy<Value = session::Rejection> {
    use session::Rejection as R;
    prop_oneof![
        select(vec![R::NotFound, R::Ended, R::NotAllowed, R::CredentialChanged]),
        time().prop_map(R::Locked),
    ]
}

fn tenant_rejection() -> impl Strategy<Value = tenant::Rejection> {
    use tenant::Rejection as R;
    prop_oneof![
        (text(), text(), text()).prop_map(|(id, version, language)| R::NoticeChanged { id, version, language }),
        Just(R::ApiKeyExists),
        Just(R::ApiKeyNotFound),
    ]
}

fn failure() -> impl Strategy<Value = WriteError> {
    prop_oneof![
        rejection().prop_map(WriteError::Rejected),
        Just(WriteError::KeyReused),
        any::<u32>().prop_map(|ms| WriteError::Overloaded {
            retry_after: Duration::from_millis(ms.into())
        }),
        text().prop_map(|reason| WriteError::Unavailable { reason }),
        position().prop_map(|p| WriteError::NotOwner {
            stream: p.stream,
            partition: p.partition
        }),
        (any::<u32>(), any::<u32>()).prop_map(|(size, limit)| WriteError::TooLarge {
            size: size as usize,
            limit: limit as usize
        }),
        text().prop_map(WriteError::Internal),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    (
        position(),
        option::of(uuid()),
        option::of(uuid()),
        any::<u32>(),
        time(),
        any::<[u8; 16]>(),
        any::<bool>(),
    )
        .prop_map(|(at, user, session, generation, time, tag, replayed)| Outcome {
            answer: Answer {
                stream: at.stream.code(),
                partition: at.partition,
                offset: at.offset,
                user: user.map(UserId),
                session: session.map(SessionId),
                generation,
                time,
                tag,
            },
            commit: None,
            replayed,
        })
}

proptest! {
    #[test]
    fn commands_arrive_as_they_were_sent(request in request(), seen in option::of(position())) {
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
    fn outcomes_arrive_as_they_were_sent(outcome in outcome()) {
        let bytes = encode_result(&Ok(outcome.clone())).unwrap();
        match decode_reply(&bytes) {
            Ok(Reply::Done(arrived)) => {
                prop_assert_eq!(arrived.answer, outcome.answer);
                prop_assert_eq!(arrived.replayed, outcome.replayed);
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn errors_arrive_as_they_were_sent(e in failure()) {
        let bytes = encode_result(&Err(e.clone())).unwrap();
        match decode_reply(&bytes) {
            // What callers see follows from the variant and its content alone.
            Ok(Reply::Failed(arrived)) => prop_assert_eq!(format!("{arrived:?}"), format!("{e:?}")),
            other => prop_assert!(false, "{other:?}"),
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
        format!(r#"{{"create_api_key":{{"key_id":{id},"name":"crm","scopes":["users:read"],"secret_sha256":"00"}}}}"#),
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
        (r#"{"rejected":{"user":"address_taken"}}"#, "Rejected(User(AddressTaken))"),
        (
            r#"{"rejected":{"session":{"locked":"1970-01-01T00:00:01.000Z"}}}"#,
            "Rejected(Session(Locked(Timestamp(1000))))",
        ),
        (r#""key_reused""#, "KeyReused"),
        (r#"{"overloaded":{"retry_after_ms":1500}}"#, "Overloaded { retry_after: 1.5s }"),
        (
            r#"{"not_owner":{"stream":"identity","partition":3}}"#,
            "NotOwner { stream: Identity, partition: Partition(3) }",
        ),
        (r#"{"too_large":{"size":3,"limit":2}}"#, "TooLarge { size: 3, limit: 2 }"),
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
        assert_eq!(refusal(&sent(command)), Some(Refused::UnknownCommand), "{command}");
    }
    assert_eq!(refusal(&known[..known.len() - 1]), Some(Refused::Malformed));
    assert_eq!(refusal(b"\x01{}"), Some(Refused::Malformed));
    assert!(matches!(decode_reply(b"\x02{}"), Err(Unreadable::Form)));
    assert!(matches!(decode_reply(b"\x01{\"maybe\":1}"), Err(Unreadable::Malformed)));
}

#[test]
fn what_is_not_readable_any_more_is_not_sent() {
    let mut request = decode_command(&sent(&frozen_commands()[5])).ok().unwrap().request;
    if let Command::User(user::Command::SetConsent(wish)) = &mut request.command {
        wish.change.personal = gatelog_events::personal::Personal::Erased;
    }
    assert!(encode_command(&request, None).is_err());
}
