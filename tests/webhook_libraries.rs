//! Lets the published Standard Webhooks libraries check our signatures. `scripts/webhook-libraries` installs them and runs this.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use gatelog::feeds::webhook::signature::{Secret, Signer};
use gatelog_events::clock::{self, Timestamp};
use serde_json::{Value, json};

const BODY: &str = r#"{"type":"user.created","data":{"name":"Zoë 🦊","n":1.50,"space":" . "}}"#;
const ID: &str = "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W";

const OLD: &str = "WebhookVerificationError: Message timestamp too old";
const NEW: &str = "WebhookVerificationError: Message timestamp too new";
const UNSIGNED: &str = "WebhookVerificationError: No matching signature found";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/webhook_libraries")
}

/// Where the libraries are.
fn libraries() -> PathBuf {
    let folder = std::env::var_os("WEBHOOK_LIBRARIES").expect("run scripts/webhook-libraries");
    folder.into()
}

/// What the library says of the delivery.
fn ask(program: &str, script: &str, delivery: &Value) -> String {
    let mut child = Command::new(program)
        .arg(folder().join(script))
        .env("PYTHONPATH", libraries().join("python"))
        .env("NODE_PATH", libraries().join("node_modules"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program} does not start: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(delivery.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} fails; does scripts/webhook-libraries succeed? {errors}"
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn delivery(signer: &Signer, verified_with: &Secret, at: Timestamp) -> Value {
    let signed = signer.sign(&ID.parse().unwrap(), at, BODY.as_bytes());
    let headers: serde_json::Map<_, _> = signed
        .headers()
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    json!({"secret": *verified_with.reveal(), "headers": headers, "body": BODY})
}

fn edited(mut delivery: Value, pointer: &str, value: &str) -> Value {
    *delivery.pointer_mut(pointer).unwrap() = json!(value);
    delivery
}

#[test]
#[ignore = "needs the published libraries, which scripts/webhook-libraries installs"]
fn the_published_libraries_agree() {
    let now = clock::now();
    let ago = |seconds| now.minus(Duration::from_secs(seconds));
    let ahead = |seconds| now.plus(Duration::from_secs(seconds));
    let old = Secret::new((0..24).collect()).unwrap();
    let new = Secret::new((100..164).collect()).unwrap();
    let other = Secret::new(vec![9; 32]).unwrap();

    let before = Signer::new(&old, &[]);
    let during = Signer::new(&new, std::slice::from_ref(&old));
    let after = Signer::new(&new, &[]);
    let good = || delivery(&before, &old, now);

    let cases = [
        ("good", good(), "accepted"),
        ("4 minutes old", delivery(&before, &old, ago(240)), "accepted"),
        ("over 5 minutes old", delivery(&before, &old, ago(310)), OLD),
        ("over 5 minutes ahead", delivery(&before, &old, ahead(330)), NEW),
        (
            "body edited",
            edited(good(), "/body", &BODY.replace("1.50", "1.51")),
            UNSIGNED,
        ),
        ("body shortened", edited(good(), "/body", "{}"), UNSIGNED),
        (
            "id edited",
            edited(good(), "/headers/webhook-id", "msg_other"),
            UNSIGNED,
        ),
        (
            "timestamp edited",
            edited(
                good(),
                "/headers/webhook-timestamp",
                &ago(1).seconds().to_string(),
            ),
            UNSIGNED,
        ),
        ("another secret", delivery(&before, &other, now), UNSIGNED),
        ("rotation, old secret", delivery(&during, &old, now), "accepted"),
        ("rotation, new secret", delivery(&during, &new, now), "accepted"),
        (
            "rotation, another secret",
            delivery(&during, &other, now),
            UNSIGNED,
        ),
        (
            "after rotation, old secret",
            delivery(&after, &old, now),
            UNSIGNED,
        ),
        (
            "after rotation, new secret",
            delivery(&after, &new, now),
            "accepted",
        ),
    ];
    for (name, delivery, expected) in cases {
        for (program, script) in [("node", "verify.cjs"), ("python3", "verify.py")] {
            let said = ask(program, script, &delivery);
            assert_eq!(said, expected, "{name}, {program}");
        }
    }
}
