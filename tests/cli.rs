//! The program as its users meet it: the command line, its output and its exit status.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/ports.rs"]
mod ports;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

fn gatelog(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatelog"));
    command.args(args).current_dir(dir).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GATELOG_")) {
        command.env_remove(name);
    }
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    gatelog(dir, args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn ok(dir: &Path, args: &[&str]) -> String {
    let output = run(dir, args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn a_flag_comes_before_the_environment_before_the_file_before_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gatelog.toml");
    std::fs::write(&file, "queue = 300\naccess_token_lifetime = \"30m\"\n").unwrap();
    let queue = |flag: Option<&str>, env: Option<&str>, with_file: bool| {
        let mut command = gatelog(dir.path(), &["config"]);
        command.args(flag.map(|f| ["--queue", f]).into_iter().flatten());
        command.envs(env.map(|e| ("GATELOG_QUEUE", e)));
        command.envs(with_file.then_some(("GATELOG_CONFIG", &file)));
        let config: toml::Table = stdout(&command.output().unwrap()).parse().unwrap();
        config["queue"].as_integer().unwrap()
    };
    for (flag, env, with_file, expected) in [
        (Some("100"), Some("200"), true, 100),
        (None, Some("200"), true, 200),
        (None, None, true, 300),
        (None, None, false, 8192),
        (Some("100"), None, false, 100),
    ] {
        assert_eq!(
            queue(flag, env, with_file),
            expected,
            "{flag:?} {env:?} {with_file}"
        );
    }
}

#[test]
fn a_wrong_configuration_ends_with_status_2_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("bad.toml"), "lissten = \"127.0.0.1:1\"\n").unwrap();
    for (args, expected) in [
        (&["serve", "--config", "bad.toml"][..], "lissten"),
        (&["serve", "--config", "none.toml"], "none.toml"),
        (&["serve", "--listen", "0.0.0.0:8080"], "--allow-plain-http"),
        (&["serve", "--partitions", "0"], "from 1 to 1024"),
        (&["serve", "--access-token-lifetime", "15"], "15m"),
        (&["serve", "--no-such-flag"], "--no-such-flag"),
        (&["replay"], "--data-dir"),
        (&["verify", "--data-dir", "none"], "--data-dir"),
        (&["import", "none.ndjson"], "none.ndjson"),
        (&["api-key", "list"], "GATELOG_API_KEY"),
    ] {
        let output = run(dir.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(
            stderr(&output).contains(expected),
            "{args:?}: {}",
            stderr(&output)
        );
    }
    assert_eq!(ok(dir.path(), &["--version"]).trim(), "gatelog 0.1.0");
}

#[test]
fn the_environments_secret_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let secret = "a-secret-of-some-length";
    let output = gatelog(dir.path(), &["config"])
        .env("GATELOG_BOOTSTRAP_API_KEY", secret)
        .output()
        .unwrap();
    assert!(stdout(&output).contains("bootstrap_api_key is set"));
    assert!(!format!("{}{}", stdout(&output), stderr(&output)).contains(secret));
    let help = gatelog(dir.path(), &["serve", "--help"])
        .env("GATELOG_ISSUER", "https://not-shown.test")
        .output()
        .unwrap();
    assert!(!stdout(&help).contains("not-shown"));
}

#[test]
fn an_import_into_kafka_is_refused_before_anything_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("users.ndjson"), "").unwrap();
    let output = gatelog(dir.path(), &["import", "users.ndjson"])
        .env("GATELOG_LOG", "kafka")
        // Nobody is there.
        .env("GATELOG_KAFKA_BOOTSTRAP", "127.0.0.1:1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("gatelog log copy"),
        "{}",
        stderr(&output)
    );
}

const HASH: &str = "$2b$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy";

fn row(n: usize) -> Value {
    json!({
        "email": format!("user{n}@example.com"),
        "password_hash": HASH,
        "email_verified": true,
        "created_at": "2020-01-02T03:04:05Z",
        "locale": "de",
        "profile": {"given_name": format!("Given{n}")},
        "plan": "pro",
        "consents": [{"purpose": "newsletter", "channel": "email", "granted": true,
            "notice": {"id": "news", "version": "1", "language": "de"}}],
    })
}

/// Writes rows and imports them; the counts and the exit status.
fn import(dir: &Path, rows: &[String]) -> (Value, Option<i32>) {
    std::fs::write(dir.join("users.ndjson"), rows.join("\n")).unwrap();
    let itself = run(dir, &["import", "users.ndjson", "--rejects", "./users.ndjson"]);
    assert_eq!(itself.status.code(), Some(2), "{}", stderr(&itself));
    assert_ne!(std::fs::read_to_string(dir.join("users.ndjson")).unwrap(), "");
    let args = ["import", "users.ndjson", "--rejects", "rejects.ndjson", "--json"];
    let output = run(dir, &args);
    let counts = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{:?}: {}", output.status, stderr(&output)));
    (counts, output.status.code())
}

#[test]
fn an_import_goes_on_where_it_ended_and_never_duplicates() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut rows: Vec<String> = (0..1200).map(|n| row(n).to_string()).collect();
    rows[3] = r#"{"email":"not an address"}"#.to_owned();
    rows[700] = r#"{"email":"x@example.com","plan":"no-such-plan"}"#.to_owned();
    rows[701] = row(5).to_string();
    rows[702] = String::new();
    let (counts, status) = import(dir, &rows);
    assert_eq!(status, Some(6));
    assert_eq!(counts["imported"], 1196, "{counts}");
    assert_eq!(
        counts["already_there"].as_u64().unwrap() + counts["rejected"].as_u64().unwrap(),
        3
    );
    let rejects = lines(&std::fs::read_to_string(dir.join("rejects.ndjson")).unwrap());
    assert_eq!(
        (&rejects[0]["line"], &rejects[0]["field"]),
        (&json!(4), &json!("email"))
    );
    assert_eq!(
        (&rejects[1]["line"], &rejects[1]["field"]),
        (&json!(701), &json!("plan"))
    );
    assert!(!format!("{rejects:?}").contains("no-such-plan"));

    // What was rejected is taken once it is mended, and what follows is there already.
    rows[3] = row(3).to_string();
    rows[700] = row(700).to_string();
    let (counts, status) = import(dir, &rows);
    assert_eq!(status, Some(0), "{counts}");
    assert_eq!(
        (&counts["imported"], &counts["already_there"]),
        (&json!(2), &json!(1197)),
        "{counts}"
    );
    assert_eq!(std::fs::read_to_string(dir.join("rejects.ndjson")).unwrap(), "");

    // The file grew: only what is new is looked at, until nothing of it is rejected.
    rows.push(String::new());
    rows.push(row(9999).to_string());
    let (counts, status) = import(dir, &rows);
    assert_eq!(status, Some(0));
    assert_eq!(counts["imported"], 1, "{counts}");
    assert!(counts["lines_of_an_earlier_run"].as_u64().unwrap() >= 1199);
    rows.push(r#"{"email":"not an address"}"#.to_owned());
    for _ in 0..2 {
        let (counts, status) = import(dir, &rows);
        assert_eq!((&counts["rejected"], status), (&json!(1), Some(6)), "{counts}");
        let rejects = std::fs::read_to_string(dir.join("rejects.ndjson")).unwrap();
        assert_eq!(lines(&rejects).len(), 1, "{rejects}");
    }
    rows[1202] = row(9998).to_string();
    let (counts, status) = import(dir, &rows);
    assert_eq!((&counts["imported"], status), (&json!(1), Some(0)), "{counts}");
    assert!(counts["lines_of_an_earlier_run"].as_u64().unwrap() >= 1199);

    // Without its bookmark it finds everybody by the address.
    std::fs::remove_dir_all(dir.join("data/import")).unwrap();
    let (counts, _) = import(dir, &rows);
    assert_eq!(
        (&counts["imported"], &counts["already_there"]),
        (&json!(0), &json!(1201)),
        "{counts}"
    );

    let events = lines(&ok(dir, &["replay", "--stream", "identity"]));
    let registered = events
        .iter()
        .filter(|e| e["type"] == "com.gatelog.user.registered.v1")
        .count();
    assert_eq!(registered, 1200);
    let report: Value = serde_json::from_str(&ok(dir, &["verify", "--json"])).unwrap();
    assert_eq!(report["clean"], true);
    assert!(!dir.join("data/verify.tmp").exists());
    ok(dir, &["compact"]);
    assert!(ok(dir, &["verify"]).contains("No difference"));
}

#[test]
fn a_bookmark_of_another_store_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let rows: Vec<String> = (0..3).map(|n| row(n).to_string()).collect();
    let imported = || {
        let (counts, status) = import(dir, &rows);
        assert_eq!(status, Some(0), "{counts}");
        (
            counts["imported"].as_u64().unwrap(),
            counts["lines_of_an_earlier_run"].as_u64().unwrap(),
        )
    };
    assert_eq!(imported(), (3, 0));
    assert_eq!(imported(), (0, 3));
    std::fs::rename(dir.join("data"), dir.join("old")).unwrap();
    std::fs::create_dir(dir.join("data")).unwrap();
    std::fs::rename(dir.join("old/import"), dir.join("data/import")).unwrap();
    assert_eq!(imported(), (3, 0));
}

#[test]
fn replay_prints_events_and_states() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let rows: Vec<String> = (0..3).map(|n| row(n).to_string()).collect();
    import(dir, &rows);
    let events = lines(&ok(dir, &["replay", "--json"]));
    let registered = events
        .iter()
        .find(|e| e["type"] == "com.gatelog.user.registered.v1")
        .unwrap();
    for member in [
        "position",
        "commitid",
        "epoch",
        "seq",
        "specversion",
        "recordedtime",
    ] {
        assert!(!registered[member].is_null(), "{member}: {registered}");
    }
    assert!(registered["data"]["sealed"].is_string());
    assert!(!format!("{events:?}").contains("example.com"));
    let user = registered["subject"].as_str().unwrap();

    let of_user = lines(&ok(dir, &["replay", "--user", user, "--open"]));
    assert!(of_user.iter().all(|e| e["subject"] == user));
    let email = of_user[0]["data"]["opened"]["email"].to_string();
    assert!(email.contains("@example.com"), "{email}");
    let from = registered["position"].as_str().unwrap();
    let after = lines(&ok(dir, &["replay", "--from", from, "--limit", "2"]));
    assert_eq!(after[0]["position"], from);
    assert_eq!(after.len(), 2);

    let recorded = registered["recordedtime"].as_str().unwrap();
    let state: Value = serde_json::from_str(&ok(
        dir,
        &["replay", "--as-of", recorded, "--user", user, "--json"],
    ))
    .unwrap();
    assert_eq!(state["user_id"], user);
    assert_eq!(state["plan"]["name"], "pro");
    assert_eq!(state["created_at"], "2020-01-02T03:04:05.000Z");
    assert_eq!(state["consents"]["newsletter"]["granted"], true);
    assert_eq!(
        state["entitlements"],
        json!(["app", "export", "priority_support"])
    );
    let before = run(
        dir,
        &["replay", "--as-of", "2020-01-01T00:00:00Z", "--user", user],
    );
    assert_eq!(before.status.code(), Some(1));
    assert!(stderr(&before).contains("there was no user"));
}

#[test]
fn damage_in_the_log_ends_with_status_4() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    import(dir, &[row(1).to_string()]);
    let log = std::fs::read_dir(dir.join("data/log"))
        .unwrap()
        .map(|f| f.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "log"))
        .unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    std::fs::write(&log, bytes).unwrap();
    let output = run(dir, &["verify"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
}

/// A running `gatelog serve`, killed if the test fails.
struct Server(std::process::Child, String);

impl Server {
    fn start(dir: &Path) -> Self {
        let address = ports::free_address();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(dir.join("serve.log"))
            .unwrap();
        let child = gatelog(dir, &["serve", "--listen", &address])
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self(child, format!("http://{address}"));
        for _ in 0..600 {
            let client = std::net::TcpStream::connect(&address);
            let started = std::fs::read_to_string(dir.join("serve.log")).unwrap();
            if client.is_ok() && started.contains(&address) {
                return server;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{}", std::fs::read_to_string(dir.join("serve.log")).unwrap());
    }

    /// Ends as an operator would end it.
    fn stop(mut self) -> Option<i32> {
        let id = self.0.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_node_is_served_managed_and_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let server = Server::start(dir);
    let url = server.1.clone();
    let log = std::fs::read_to_string(dir.join("serve.log")).unwrap();
    let key = std::fs::read_to_string(dir.join("data/secrets/bootstrap-api-key")).unwrap();
    assert!(log.contains(key.trim()), "shown at first start");

    let created = ok(
        dir,
        &[
            "api-key",
            "create",
            "--scope",
            "users:read",
            "--name",
            "app",
            "--url",
            &url,
            "--json",
        ],
    );
    let created: Value = serde_json::from_str(&created).unwrap();
    let id = created["key_id"].as_str().unwrap();
    assert!(ok(dir, &["api-key", "list", "--url", &url]).contains(id));
    ok(dir, &["api-key", "revoke", id, "--url", &url]);
    assert!(ok(dir, &["api-key", "list", "--url", &url]).contains("revoked"));

    assert!(ok(dir, &["projections", "list", "--url", &url]).contains("logins"));
    assert!(ok(dir, &["projections", "rebuild", "users", "--url", &url]).contains("serves"));
    // In use: reading is possible, writing is not.
    assert!(ok(dir, &["replay"]).contains("com.gatelog.tenant.api_key_created.v1"));
    let locked = run(dir, &["verify"]);
    assert_eq!(locked.status.code(), Some(3), "{}", stderr(&locked));
    assert_eq!(server.stop(), Some(0));

    assert!(ok(dir, &["verify"]).contains("No difference"));
    assert!(ok(dir, &["projections", "rebuild", "timeline"]).contains("serves"));
    assert!(ok(dir, &["projections", "list", "--json"]).contains("\"timeline\""));

    std::fs::remove_file(dir.join("serve.log")).unwrap();
    let server = Server::start(dir);
    let log = std::fs::read_to_string(dir.join("serve.log")).unwrap();
    assert!(!log.contains(key.trim()), "not shown again");
    assert!(log.contains("bootstrap-api-key"), "{log}");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_store_is_served_under_its_own_secrets_only() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert_eq!(Server::start(dir).stop(), Some(0));
    let (secrets, away) = (dir.join("data/secrets"), dir.join("away"));
    std::fs::rename(&secrets, &away).unwrap();
    // Nothing is made that would pass for what is missing.
    for args in [
        &["serve", "--listen", "127.0.0.1:0"][..],
        &["verify"],
        &["replay", "--open"],
    ] {
        let refused = run(dir, args);
        assert!(!refused.status.success(), "{args:?}");
        assert!(
            stderr(&refused).contains("restore it from your backup"),
            "{}",
            stderr(&refused)
        );
        assert!(!secrets.exists(), "{args:?}");
    }
    // Nor where nothing tells under which secrets the log is written.
    let mark = dir.join("data/log/secrets-mark");
    std::fs::rename(&mark, dir.join("mark")).unwrap();
    let refused = run(dir, &["serve", "--listen", "127.0.0.1:0"]);
    assert!(
        stderr(&refused).contains("restore it from your backup"),
        "{}",
        stderr(&refused)
    );
    std::fs::rename(dir.join("mark"), &mark).unwrap();
    std::fs::rename(&away, &secrets).unwrap();
    for (variable, name) in [
        ("GATELOG_IDENTIFIER_PEPPER", "identifier-pepper"),
        ("GATELOG_MASTER_KEY", "master-key"),
    ] {
        let mut other = gatelog(dir, &["serve", "--listen", "127.0.0.1:0"]);
        let refused = other.env(variable, "07".repeat(32)).output().unwrap();
        assert_eq!(refused.status.code(), Some(10));
        let said = stderr(&refused);
        assert!(
            said.contains(&format!("{name} differ")) && said.contains("data/log"),
            "{said}"
        );
    }
    assert_eq!(Server::start(dir).stop(), Some(0));
}

#[test]
fn a_node_that_is_not_open_yet_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    // It takes connections, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = ports::free_address();
    let kafka = silent.local_addr().unwrap().to_string();
    let mut node = gatelog(dir.path(), &["serve", "--listen", &address, "--log", "kafka"])
        .args(["--kafka-bootstrap", &kafka])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while std::net::TcpStream::connect(&address).is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let id = node.id().to_string();
    Command::new("kill").args(["-TERM", &id]).status().unwrap();
    // It would give Kafka up itself, with another status.
    assert_eq!(node.wait().unwrap().code(), Some(0));
}

#[test]
fn feeds_and_streams_of_security_events_are_looked_after() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let server = Server::start(dir);
    let at = |args: &[&str]| ok(dir, &[args, &["--url", &server.1]].concat());
    let json = |args: &[&str]| lines(&at(&[args, &["--json"]].concat()));

    let told = at(&["feed", "create", "billing", "--events", "plan.upgraded"]);
    assert!(told.starts_with("Feed billing is defined"), "{told}");
    assert!(at(&["feed", "list"]).contains("billing  version 1  no purpose"));
    assert!(at(&["feed", "status", "billing"]).contains("billing  version 1"));
    assert_eq!(at(&["feed", "withdrawals", "billing"]), "");
    let wrong = ["feed", "create", "x", "--fields", "email", "--url", &server.1];
    let refused = run(dir, &wrong);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("purpose"), "{}", stderr(&refused));
    at(&["feed", "retire", "billing"]);
    assert!(at(&["feed", "list"]).contains("billing  retired"));

    assert_eq!(json(&["signals", "list"]), [] as [Value; 0]);
    let key = std::fs::read_to_string(dir.join("data/secrets/bootstrap-api-key")).unwrap();
    let created = reqwest::Client::new()
        .post(format!("{}/ssf/streams", server.1))
        .bearer_auth(key.trim())
        .json(&json!({"delivery": {"method": "urn:ietf:rfc:8936"}}));
    let created = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let answer = created.send().await.unwrap();
        answer.json::<Value>().await.unwrap()
    });
    let id = created["stream_id"].as_str().unwrap();
    assert_eq!(json(&["signals", "list"])[0]["stream_id"], id);
    let line = at(&["signals", "list"]);
    assert!(
        line.starts_with(&format!("{id}  enabled")) && line.contains("polls"),
        "{line}"
    );
    let made = json(&["signals", "replace-key"]);
    assert!(made[0]["signs_from"].is_string(), "{made:?}");
    assert_eq!(json(&["signals", "replace-key"]), made, "it waits to sign");
    let kid = made[0]["kid"].as_str().unwrap();
    assert!(at(&["signals", "replace-key"]).contains(kid));
    assert_eq!(server.stop(), Some(0));
}
