//! Tokens and keys that are nearly right.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::node::Home;
use crate::support::server::{BOOTSTRAP, PASSWORD};

/// Prefixes, suffixes, padding and other case of a secret text.
fn near(text: &str) -> Vec<String> {
    let mut all = vec![text.to_uppercase(), text.to_lowercase()];
    for cut in (0..text.len())
        .step_by(text.len().div_ceil(40))
        .chain([text.len() - 1])
    {
        all.push(text[..cut].to_owned());
        all.push(text[text.len() - cut..].to_owned());
        let mut flipped = text.as_bytes().to_vec();
        flipped[cut] ^= if flipped[cut].is_ascii_alphabetic() {
            0x20
        } else {
            1
        };
        all.push(String::from_utf8(flipped).unwrap());
    }
    for tail in ["=", "==", "A", ".", "%00", "%20", "/", "\""] {
        all.push(format!("{text}{tail}"));
        all.push(format!("{tail}{text}"));
    }
    all.push(text.repeat(2));
    // The last character of unpadded base64 has bits that say nothing: a second spelling of the same bytes.
    let last = text.as_bytes()[text.len() - 1];
    for c in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" {
        if *c != last {
            all.push(format!("{}{}", &text[..text.len() - 1], char::from(*c)));
        }
    }
    all.retain(|t| t != text);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn line_22_truncated_padded_and_flipped_tokens() {
    let home = Home::new();
    let node = home.serve(&[]).await;
    let id = node.register("ada@example.com").await;
    let tokens = node.login("ada@example.com", PASSWORD).await.expect(200);
    let (_, key) = node.api_key(&["users:read"]).await;
    let before = home.log();
    for secret in [tokens.text("access_token"), &key, BOOTSTRAP] {
        for forged in near(secret) {
            let answer = node.user(&id, &forged).await;
            assert_eq!(answer.status, 401, "{forged:?} for {secret}");
        }
        node.user(&id, secret).await.expect(200);
    }
    for forged in near(tokens.text("refresh_token")) {
        node.refresh(&forged).await.problem(401, "session-ended");
        node.user(&id, &forged).await.expect(401);
    }
    // One kind of secret is no other kind.
    for other in [tokens.text("access_token"), &key, BOOTSTRAP] {
        node.refresh(other).await.problem(401, "session-ended");
    }
    node.user(&id, tokens.text("refresh_token"))
        .await
        .problem(401, "invalid-token");
    assert!(before == home.log());
    node.refresh(tokens.text("refresh_token")).await.expect(200);
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn class_forged_jwts() {
    let home = Home::new();
    let node = home.serve(&[]).await;
    let id = node.register("ada@example.com").await;
    let tokens = node.login("ada@example.com", PASSWORD).await.expect(200);
    let token = tokens.text("access_token");
    let parts: Vec<&str> = token.split('.').collect();
    let decoded =
        |part: &str| -> Value { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap() };
    let (header, claims) = (decoded(parts[0]), decoded(parts[1]));
    let jwks = node.get("/.well-known/jwks.json").send().await.expect(200).body;
    let jwk = jwks["keys"][0].clone();
    assert!(jwk.get("d").is_none());
    let public = URL_SAFE_NO_PAD.decode(jwk["x"].as_str().unwrap()).unwrap();

    let with = |changes: &[(&str, Value)]| {
        let mut header = header.clone();
        for (name, value) in changes {
            header[*name] = value.clone();
        }
        part(&header)
    };
    let mut forged = Vec::new();
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let head = with(&[("alg", json!(alg))]);
        forged.push(format!("{head}.{}.", parts[1]));
        forged.push(format!("{head}.{}.{}", parts[1], parts[2]));
    }
    // Every header that names where to find another key, with the genuine signature.
    for (name, value) in [
        ("kid", json!("../../../../dev/null")),
        ("kid", json!("https://evil.test/key")),
        ("kid", json!("' OR 1=1 --")),
        ("kid", Value::Null),
        ("jwk", jwk.clone()),
        ("jku", json!("https://evil.test/jwks.json")),
        ("x5u", json!("https://evil.test/cert")),
        ("x5c", json!(["MIIB"])),
        ("crit", json!(["exp"])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("typ", json!("JWT")),
        ("typ", json!("logout+jwt")),
        ("alg", json!("ES256")),
        ("alg", json!("HS256")),
    ] {
        forged.push(format!("{}.{}.{}", with(&[(name, value)]), parts[1], parts[2]));
    }
    // HMAC with what everybody knows as the key.
    let jwk_text = jwk.to_string();
    for secret in [
        public.as_slice(),
        jwk_text.as_bytes(),
        jwk["x"].as_str().unwrap().as_bytes(),
        b"",
        b"secret",
    ] {
        for alg in [Algorithm::HS256, Algorithm::HS512] {
            let mut head = Header::new(alg);
            head.typ = header["typ"].as_str().map(str::to_owned);
            head.kid = header["kid"].as_str().map(str::to_owned);
            forged.push(jsonwebtoken::encode(&head, &claims, &EncodingKey::from_secret(secret)).unwrap());
        }
    }
    // Claims that were changed, added or doubled under the genuine signature.
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    for payload in [
        text.replacen('{', r#"{"sub":"0193e0a1-7c5a-8000-8000-00000000002a","#, 1),
        text.replacen('{', r#"{"roles":["admin"],"#, 1),
        format!(" {text}"),
        text.replace(&id, "0193e0a1-7c5a-8000-8000-00000000002a"),
    ] {
        let payload = URL_SAFE_NO_PAD.encode(payload);
        forged.push(format!("{}.{payload}.{}", parts[0], parts[2]));
    }
    // Signatures that are none, of other lengths, or all zero (CVE-2022-21449).
    for signature in [
        String::new(),
        URL_SAFE_NO_PAD.encode([0; 64]),
        URL_SAFE_NO_PAD.encode([0; 63]),
        "A".repeat(9000),
    ] {
        forged.push(format!("{}.{}.{signature}", parts[0], parts[1]));
    }
    forged.push(format!("{token}.{}", parts[2]));
    forged.push(format!(
        "{}.{}.{}.{}.{}",
        parts[0], parts[1], parts[2], parts[1], parts[2]
    ));
    let before = home.log();
    for forged in &forged {
        node.user(&id, forged).await.problem(401, "invalid-token");
    }
    assert!(before == home.log());
    node.user(&id, token).await.expect(200);
}
