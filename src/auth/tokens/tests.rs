use super::*;
use crate::auth::keys::{PUBLISHED, SigningAlgorithm};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Value, json};
use uuid::Uuid;

const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);
const LIFETIME: Duration = Duration::from_secs(600);

struct Fixture {
    tokens: Tokens,
    keys: Arc<KeyRing>,
    _dir: tempfile::TempDir,
}

fn config() -> TokenConfig {
    TokenConfig {
        issuer: "https://id.example".into(),
        audience: "https://api.example".into(),
        lifetime: LIFETIME,
    }
}

fn fixture(algorithm: SigningAlgorithm) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let keys = Arc::new(KeyRing::open(dir.path(), algorithm, NOW).unwrap());
    Fixture {
        tokens: Tokens::new(config(), Arc::clone(&keys)),
        keys,
        _dir: dir,
    }
}

fn grant() -> Grant {
    Grant {
        user: UserId(Uuid::from_u128(1)),
        session: SessionId(Uuid::from_u128(2)),
        tenant: TenantId::default(),
        client_id: "first-party".into(),
        scope: ["users:read", "openid"].map(String::from).into(),
        roles: ["admin".to_owned()].into(),
        entitlements: BTreeSet::new(),
    }
}

/// Signs any claims under a key of the ring, as a thief of the format but not of the key could not.
fn sign(f: &Fixture, payload: &str) -> String {
    let key = f.keys.signs(NOW).unwrap();
    let signed = format!("{}.{}", key.header(), URL_SAFE_NO_PAD.encode(payload));
    let signature = key.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn payload(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[test]
fn round_trip_under_both_algorithms() {
    for algorithm in [SigningAlgorithm::EdDsa, SigningAlgorithm::Es256] {
        let f = fixture(algorithm);
        let token = f.tokens.issue(&grant(), NOW).unwrap();
        for _ in 0..2 {
            let claims = f.tokens.verify(&token, NOW).unwrap();
            assert_eq!((claims.sub, claims.sid), (grant().user, grant().session));
            assert_eq!(claims.scope, "openid users:read");
            assert_eq!(claims.roles, grant().roles);
            assert_eq!(claims.exp - claims.iat, 600);
        }
        assert_ne!(
            token,
            f.tokens.issue(&grant(), NOW).unwrap(),
            "each has its own jti"
        );
    }
}

/// A stock library, given only the published keys, agrees.
#[test]
fn others_can_verify_by_the_jwks() {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    for (algorithm, alg) in [
        (SigningAlgorithm::EdDsa, Algorithm::EdDSA),
        (SigningAlgorithm::Es256, Algorithm::ES256),
    ] {
        let f = fixture(algorithm);
        let token = f.tokens.issue(&grant(), NOW).unwrap();
        let set: JwkSet = serde_json::from_value(f.keys.jwks()).unwrap();
        let header = jsonwebtoken::decode_header(&token).unwrap();
        assert_eq!(header.typ.as_deref(), Some("at+jwt"));
        let jwk = set.find(header.kid.as_deref().unwrap()).unwrap();
        let mut validation = Validation::new(alg);
        validation.validate_exp = false;
        validation.set_audience(&[config().audience]);
        validation.set_issuer(&[config().issuer]);
        let key = DecodingKey::from_jwk(jwk).unwrap();
        let decoded = jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap();
        for claim in [
            "iss",
            "exp",
            "aud",
            "sub",
            "client_id",
            "iat",
            "jti",
            "sid",
            "tenant",
        ] {
            assert!(decoded.claims.get(claim).is_some(), "{claim}");
        }
    }
}

#[test]
fn validity_ends_with_exp_even_if_cached() {
    let f = fixture(SigningAlgorithm::EdDsa);
    let token = f.tokens.issue(&grant(), NOW).unwrap();
    let check = |at| f.tokens.verify(&token, at).map(drop);
    assert_eq!(check(NOW), Ok(()));
    assert_eq!(check(NOW.plus(LIFETIME - Duration::from_secs(1))), Ok(()));
    assert_eq!(check(NOW.plus(LIFETIME)), Err(TokenError::Expired));
    assert_eq!(check(NOW.minus(LEEWAY)), Ok(()));
    assert_eq!(
        check(NOW.minus(LEEWAY + Duration::from_secs(1))),
        Err(TokenError::NotYetValid)
    );
}

#[test]
fn rotation_keeps_old_tokens_and_taking_the_key_away_ends_them() {
    let f = fixture(SigningAlgorithm::EdDsa);
    let old = f.tokens.issue(&grant(), NOW).unwrap();
    f.tokens.verify(&old, NOW).unwrap();
    f.keys.rotate(NOW).unwrap();
    let later = NOW.plus(PUBLISHED);
    let new = f.tokens.issue(&grant(), later).unwrap();
    assert_ne!(old.split('.').next(), new.split('.').next());
    f.tokens.verify(&old, later).unwrap();
    f.tokens.verify(&new, later).unwrap();
    let first = f.keys.signs(NOW).unwrap();
    std::fs::remove_file(f._dir.path().join(format!("{}.key", first.kid()))).unwrap();
    f.keys.reload().unwrap();
    assert_eq!(f.tokens.verify(&old, later), Err(TokenError::Malformed));
    f.tokens.verify(&new, later).unwrap();
}

/// "JWT alg none / HS256 with public key / kid path or URL / embedded jwk, jku, x5u / crit".
#[test]
fn forged_headers_are_refused() {
    let f = fixture(SigningAlgorithm::EdDsa);
    let token = f.tokens.issue(&grant(), NOW).unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let payload_part = signed.split('.').nth(1).unwrap();
    let jwks = f.keys.jwks();
    let jwk = &jwks["keys"][0];
    let kid = jwk["kid"].as_str().unwrap();
    let headers = [
        json!({"alg": "none"}),
        json!({"typ": "at+jwt", "alg": "none", "kid": kid}),
        json!({"typ": "at+jwt", "alg": "NONE", "kid": kid}),
        json!({"typ": "at+jwt", "alg": "HS256", "kid": kid}),
        json!({"typ": "at+jwt", "alg": "ES256", "kid": kid}),
        json!({"typ": "JWT", "alg": "EdDSA", "kid": kid}),
        json!({"typ": "logout+jwt", "alg": "EdDSA", "kid": kid}),
        json!({"alg": "EdDSA", "kid": kid}),
        json!({"typ": "at+jwt", "alg": "EdDSA"}),
        json!({"typ": "at+jwt", "alg": "EdDSA", "kid": "../../etc/passwd"}),
        json!({"typ": "at+jwt", "alg": "EdDSA", "kid": "https://evil.example/key"}),
        json!({"typ": "at+jwt", "alg": "EdDSA", "kid": kid, "jwk": jwk}),
        json!({"typ": "at+jwt", "alg": "EdDSA", "kid": kid, "jku": "https://evil.example"}),
        json!({"typ": "at+jwt", "alg": "EdDSA", "kid": kid, "x5u": "https://evil.example"}),
        json!({"typ": "at+jwt", "alg": "EdDSA", "kid": kid, "crit": ["exp"]}),
        json!({"typ": "at+jwt", "alg": "EdDSA", "kid": kid, "b64": false}),
    ];
    let key = f.keys.signs(NOW).unwrap();
    for header in headers {
        let signed = format!("{}.{payload_part}", URL_SAFE_NO_PAD.encode(header.to_string()));
        // Even a genuine signature does not help.
        let genuine = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).unwrap());
        for signature in ["", signature, &genuine] {
            let forged = format!("{signed}.{signature}");
            assert_eq!(
                f.tokens.verify(&forged, NOW),
                Err(TokenError::Malformed),
                "{header}"
            );
        }
    }

    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let mut header = Header::new(Algorithm::HS256);
    header.typ = Some("at+jwt".into());
    header.kid = Some(kid.into());
    let public = URL_SAFE_NO_PAD.decode(jwk["x"].as_str().unwrap()).unwrap();
    let confused =
        jsonwebtoken::encode(&header, &payload(&token), &EncodingKey::from_secret(&public)).unwrap();
    assert_eq!(f.tokens.verify(&confused, NOW), Err(TokenError::Malformed));
}

#[test]
fn altered_forms_are_refused() {
    let f = fixture(SigningAlgorithm::EdDsa);
    let token = f.tokens.issue(&grant(), NOW).unwrap();
    f.tokens.verify(&token, NOW).unwrap();
    for n in 0..token.len() {
        assert!(f.tokens.verify(&token[..n], NOW).is_err());
        let c = token.as_bytes()[n] as char;
        let other = if c == 'A' { 'B' } else { 'A' };
        let altered = format!("{}{other}{}", &token[..n], &token[n + 1..]);
        assert!(f.tokens.verify(&altered, NOW).is_err(), "{n}");
    }
    for altered in [
        format!("{token}="),
        format!("{token}."),
        format!("{token}.x"),
        format!(" {token}"),
    ] {
        assert!(f.tokens.verify(&altered, NOW).is_err());
    }
    for text in ["", ".", "..", "a.b.c", &"x.".repeat(4000), &"A".repeat(8193)] {
        assert!(f.tokens.verify(text, NOW).is_err());
    }
    assert_eq!(f.tokens.verify(&"A".repeat(8193), NOW), Err(TokenError::TooLong));
}

#[test]
fn claims_are_checked() {
    let f = fixture(SigningAlgorithm::EdDsa);
    let genuine = payload(&f.tokens.issue(&grant(), NOW).unwrap());
    let with = |name: &str, value: Value| {
        let mut claims = genuine.clone();
        claims[name] = value;
        f.tokens.verify(&sign(&f, &claims.to_string()), NOW).err()
    };
    assert_eq!(with("jti", json!("x")), None);
    assert_eq!(
        with("iss", json!("https://id.example/")),
        Some(TokenError::Foreign)
    );
    assert_eq!(
        with("aud", json!("https://other.example")),
        Some(TokenError::Foreign)
    );
    assert_eq!(with("aud", json!([])), Some(TokenError::Claims));
    assert_eq!(
        with("nbf", json!(NOW.seconds() + 61)),
        Some(TokenError::NotYetValid)
    );
    assert_eq!(with("nbf", json!(NOW.seconds() + 60)), None);
    assert_eq!(with("exp", json!("1895000000")), Some(TokenError::Claims));
    assert_eq!(with("exp", json!(NOW.seconds())), Some(TokenError::Expired));
    assert_eq!(with("sub", json!("not-a-user")), Some(TokenError::Claims));
    for claim in [
        "iss",
        "exp",
        "aud",
        "sub",
        "client_id",
        "iat",
        "jti",
        "sid",
        "tenant",
    ] {
        let mut claims = genuine.clone();
        claims.as_object_mut().unwrap().remove(claim);
        let refused = f.tokens.verify(&sign(&f, &claims.to_string()), NOW);
        assert_eq!(refused, Err(TokenError::Claims), "{claim}");
    }
    let text = genuine.to_string();
    let twice = text.replacen('{', &format!("{{\"sub\":\"{}\",", Uuid::from_u128(9)), 1);
    assert_eq!(f.tokens.verify(&sign(&f, &twice), NOW), Err(TokenError::Claims));
}

#[test]
fn keys_of_another_installation_do_not_count() {
    let (ours, theirs) = (fixture(SigningAlgorithm::EdDsa), fixture(SigningAlgorithm::EdDsa));
    let token = theirs.tokens.issue(&grant(), NOW).unwrap();
    assert_eq!(ours.tokens.verify(&token, NOW), Err(TokenError::Malformed));
    let spliced = format!(
        "{}.{}",
        ours.keys.signs(NOW).unwrap().header(),
        token.split_once('.').unwrap().1
    );
    assert_eq!(ours.tokens.verify(&spliced, NOW), Err(TokenError::Signature));
}
