//! Guessing passwords, and learning who has an account.

use std::sync::Arc;

use gatelog_events::clock;
use serde_json::{Value, json};

use crate::node::{Home, Node};
use crate::support::server::{Answer, PASSWORD};

/// A wrong login that claims to come from somewhere else each time.
async fn disguised(node: &Node, email: &str, i: u32) -> Answer {
    let address = format!("203.0.{}.{}", i / 250, 1 + i % 250);
    let body = json!({"identifier": email, "password": "a wrong password it is"});
    node.post("/v1/logins")
        .with("x-forwarded-for", &address)
        .with("x-real-ip", &address)
        .with("forwarded", &format!("for={address};proto=https"))
        .with("true-client-ip", &address)
        .with("cf-connecting-ip", &address)
        .json(&body)
        .send()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn line_26_two_hundred_guesses_at_one_account_at_once() {
    let home = Home::new();
    let node = Arc::new(home.serve(&["--account-free-attempts", "5"]).await);
    let id = node.register("ada@example.com").await;
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..200 {
        let node = node.clone();
        // Each spelling is the same account.
        let email = if i % 2 == 0 {
            "ada@example.com"
        } else {
            "ADA@example.com."
        };
        tasks.spawn(async move { disguised(&node, email, i).await });
    }
    let answers = tasks.join_all().await;
    let checked = answers.iter().filter(|a| a.status == 401).count();
    // Five are free. Where the machine is slow a first and a second wait may be over before all have come.
    assert!((5..=8).contains(&checked), "{checked} guesses were checked");
    for refused in answers.iter().filter(|a| a.status != 401) {
        assert_eq!(refused.status, 429, "{}", refused.body);
        assert!(refused.headers.contains_key("retry-after"));
    }
    // Another account is not concerned, and the log says truly where the guesses came from.
    node.register("bob@example.com").await;
    let bob = node.login("bob@example.com", PASSWORD).await.expect(200);
    let sessions = node
        .get(&format!("/v1/users/{}/sessions", bob.text("user_id")))
        .admin();
    let sessions = sessions.send().await.expect(200);
    assert_eq!(sessions.body["sessions"][0]["ip"], "127.0.0.1");
    let events = node.get(&format!("/v1/users/{id}/timeline?limit=200")).admin();
    let events = events.send().await.expect(200).body.to_string();
    assert!(!events.contains("203.0."));
}

#[tokio::test(flavor = "multi_thread")]
async fn line_26_guesses_from_one_peer_at_many_accounts() {
    let home = Home::new();
    let node = home
        .serve(&["--network-free-attempts", "20", "--network-decay", "1h"])
        .await;
    for i in 0..20 {
        let answer = disguised(&node, &format!("u{i}@example.com"), i).await;
        answer.expect(401);
    }
    for i in 20..40 {
        let answer = disguised(&node, &format!("u{i}@example.com"), i).await;
        answer.problem(429, "too-many-attempts");
    }
}

/// One kind of account that cannot be logged in to with the password that is tried.
struct Group {
    name: &'static str,
    emails: Vec<String>,
    millis: Vec<f64>,
}

#[tokio::test(flavor = "multi_thread")]
async fn line_27_all_who_cannot_come_in_look_alike() {
    const ACCOUNTS: usize = 4;
    const ROUNDS: usize = 40;
    let home = Home::new();
    // SHA-1, salted: far cheaper than a hash of ours.
    let cheap = "{SSHA}kZbIQ3hfzHcAAoNEQ1RyYqppz3hzYWx0c2FsdA==";
    let rows: Vec<String> = (0..ACCOUNTS)
        .flat_map(|i| {
            [
                json!({"email": format!("passwordless{i}@example.com")}).to_string(),
                json!({"email": format!("imported{i}@example.com"), "password_hash": cheap}).to_string(),
            ]
        })
        .collect();
    let file = home.data().with_file_name("users.ndjson");
    std::fs::write(&file, rows.join("\n")).unwrap();
    home.serve(&[]).await.stop().await;
    let imported = home
        .command(&["import", file.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(
        imported.status.success(),
        "{}",
        String::from_utf8_lossy(&imported.stderr)
    );
    let lock_after = (ROUNDS + 1).to_string();
    let limits = [
        "--account-free-attempts",
        "100",
        "--lock-after",
        &lock_after,
        "--lock-base",
        "1h",
        "--lock-max",
        "1h",
    ];
    let node = home.serve(&limits).await;
    let mut groups: Vec<Group> = [
        "known",
        "unknown",
        "disabled",
        "locked",
        "passwordless",
        "imported",
    ]
    .map(|name| Group {
        name,
        emails: (0..ACCOUNTS).map(|i| format!("{name}{i}@example.com")).collect(),
        millis: vec![],
    })
    .into();
    for group in groups
        .iter()
        .filter(|g| ["known", "disabled", "locked"].contains(&g.name))
    {
        for email in &group.emails {
            let id = node.register(email).await;
            match group.name {
                "disabled" => node.set_status(&id, "disabled").await,
                "locked" => lock(&node, email, ROUNDS + 1).await,
                _ => {}
            }
        }
    }
    let mut looks: Vec<(u16, Value, Vec<String>)> = Vec::new();
    for _ in 0..ROUNDS {
        for account in 0..ACCOUNTS {
            // Turn by turn, so that whatever else the machine does hits all alike.
            for group in &mut groups {
                // The right password of the disabled and the locked: even that tells nothing.
                let right = ["disabled", "locked"].contains(&group.name);
                let password = if right { PASSWORD } else { "a wrong password it is" };
                let begun = clock::monotonic();
                let answer = node.login(&group.emails[account], password).await;
                group.millis.push(begun.elapsed().as_secs_f64() * 1000.0);
                let mut names: Vec<_> = answer.headers.keys().map(|n| n.as_str().to_owned()).collect();
                names.sort();
                looks.push((answer.status.as_u16(), answer.body, names));
            }
        }
    }
    looks.dedup();
    assert_eq!(looks.len(), 1, "{looks:?}");
    assert_eq!(looks[0].0, 401);
    for group in &groups[1..] {
        alike(&groups[0], group);
    }
}

/// Fails until the log locks the account.
async fn lock(node: &Node, email: &str, failures: usize) {
    for _ in 0..failures {
        node.login(email, "a wrong password it is").await.expect(401);
    }
}

/// Mann and Whitney's statistic as a share: how often a time of one is longer than one of the other; ½ where they are
/// alike. Without a dummy hash it would be near 0 or 1 and the medians a whole hash apart. The bounds are wide, for
/// machines that are busy: a constant tenth of a millisecond would move the share but tell nobody anything over a network.
fn alike(a: &Group, b: &Group) {
    let longer = |x: f64| b.millis.iter().filter(|y| x > **y).count();
    let share =
        a.millis.iter().map(|x| longer(*x)).sum::<usize>() as f64 / (a.millis.len() * b.millis.len()) as f64;
    let (m, n) = (median(&a.millis), median(&b.millis));
    let near = (m - n).abs() < 0.2 * m.max(n);
    assert!(
        (0.3..=0.7).contains(&share) || near,
        "{} and {}: share {share:.2}, medians {m:.2} ms and {n:.2} ms",
        a.name,
        b.name
    );
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn class_lock_survives_a_restart() {
    let home = Home::new();
    let args = [
        "--account-free-attempts",
        "100",
        "--lock-after",
        "3",
        "--lock-base",
        "1h",
        "--lock-max",
        "2h",
    ];
    let node = home.serve(&args).await;
    let id = node.register("ada@example.com").await;
    for _ in 0..3 {
        node.login("ada@example.com", "a wrong password it is")
            .await
            .expect(401);
    }
    node.login("ada@example.com", PASSWORD)
        .await
        .problem(401, "invalid-credentials");
    node.kill();
    let node = home.serve(&args).await;
    node.login("ada@example.com", PASSWORD)
        .await
        .problem(401, "invalid-credentials");
    node.delete(&format!("/v1/users/{id}/lock"))
        .admin()
        .send()
        .await
        .expect(200);
    node.login("ada@example.com", PASSWORD).await.expect(200);
}
