//! The architecture's rules, as a test: which way imports run, where the time is read, how long a file may be.
//!
//! Needs nothing but the standard library, so that `scripts/check-architecture` can run it in seconds without building
//! the server. A rule is a list of words that a file must not mention; comment lines are not looked at.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

/// Longest file, in lines, that needs no reason.
const MAX_LINES: usize = 600;

/// Files longer than [`MAX_LINES`], each with the reason why it is better whole.
const LONG_FILES: &[(&str, &str)] = &[];

/// What only `events/src/clock.rs` may mention. Clippy bans the calls by type; this also sees what is renamed, behind
/// `allow`, or in code that clippy does not build.
const READS_TIME: &[&str] = &[
    "Utc::now",
    "Local::now",
    "SystemTime::now",
    "Instant::now",
    "UNIX_EPOCH.elapsed",
    "Uuid::now_v7",
    "Uuid::now_v6",
    "Uuid::now_v1",
];

/// Crates that speak HTTP. The log and the read models know nothing of them.
const HTTP_CRATES: &[&str] = &["axum", "hyper", "reqwest", "tower", "tower_http", "utoipa"];

/// What writes to the store of the read models: RocksDB itself, and what folds go through.
const WRITES_STORE: &[&str] = &[
    "rocksdb",
    "WriteBatch",
    "FoldView",
    "Overlay",
    "store.write",
    "drop_table",
    "activate",
];

/// What would make a decision depend on more than its arguments.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::env",
    "std::thread",
    "tokio",
    "SystemRandom",
    "clock::now",
    "clock::monotonic",
];

/// One Rust source file: its path from the root of the repository, and its text.
struct Source {
    path: String,
    text: String,
}

fn root() -> PathBuf {
    let root =
        std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo test or scripts/check-architecture");
    PathBuf::from(root)
}

/// All Rust files below `folder`, in order of their paths. Hidden folders and build output are passed over.
fn sources(folder: &str) -> Vec<Source> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let skipped =
                name.starts_with('.') || matches!(name.as_str(), "target" | "node_modules" | "data");
            if path.is_dir() && !path.is_symlink() && !skipped {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let root = root();
    let mut paths = Vec::new();
    walk(&root.join(folder), &mut paths);
    paths.sort();
    paths
        .into_iter()
        .map(|path| Source {
            text: std::fs::read_to_string(&path).unwrap(),
            path: path
                .strip_prefix(&root)
                .unwrap()
                .to_string_lossy()
                .replace('\\', "/"),
        })
        .collect()
}

fn part_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `line` has `word` as a whole: `gatelog` is not mentioned by `gatelog_events` or `my_gatelog`.
fn mentions(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(part_of_word) && !line[at + word.len()..].starts_with(part_of_word)
    })
}

/// Whether `line` names the crate `name` in a path or an import: not `x::gatelog::y`, where it is a module.
fn imports(line: &str, name: &str) -> bool {
    let statement = line.trim_start().trim_start_matches("pub ");
    let is_import = statement.starts_with("use ") || statement.starts_with("extern crate ");
    line.match_indices(name).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + name.len()..]);
        let begins_path = !before.trim_end_matches("::").ends_with(part_of_word);
        begins_path && (after.starts_with("::") || is_import && !after.starts_with(part_of_word))
    })
}

/// The lines of `source` that are code and for which `broken` is true, as `path:line: code`.
fn findings(source: &Source, broken: impl Fn(&str) -> bool) -> Vec<String> {
    source
        .text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//") && broken(line))
        .map(|(n, line)| format!("{}:{}: {}", source.path, n + 1, line.trim()))
        .collect()
}

/// Fails with every place at which `broken` is true in one of `sources`, the rule, and what to do instead.
fn forbid(sources: &[Source], rule: &str, instead: &str, broken: impl Fn(&str) -> bool) {
    let found: Vec<String> = sources.iter().flat_map(|s| findings(s, &broken)).collect();
    report(&found, rule, instead);
}

fn report(found: &[String], rule: &str, instead: &str) {
    assert!(
        found.is_empty(),
        "\n{rule}\n  {}\n{instead}\n",
        found.join("\n  ")
    );
}

/// The names of the crates that a manifest depends on, in whatever table and under whatever alias.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut in_dependencies = false;
    for line in manifest.lines().map(|l| l.split('#').next().unwrap_or("").trim()) {
        if let Some(table) = line.strip_prefix('[') {
            let table = table.trim_end_matches(']');
            in_dependencies = table.ends_with("dependencies");
            if let Some((parent, name)) = table.rsplit_once('.')
                && parent.ends_with("dependencies")
            {
                names.push(name.trim_matches('"').to_owned());
            }
        } else if in_dependencies && let Some((key, value)) = line.split_once('=') {
            let name = key.trim().split('.').next().unwrap_or("");
            names.push(name.trim_matches('"').to_owned());
            if let Some((_, package)) = value.split_once("package") {
                names.extend(package.split('"').nth(1).map(str::to_owned));
            }
        } else if let Some(package) = line.strip_prefix("package").and_then(|l| l.split('"').nth(1)) {
            names.push(package.to_owned());
        }
    }
    names
}

fn check_dependencies(manifest: &str, forbidden: &[&str]) {
    let text = std::fs::read_to_string(root().join(manifest)).unwrap();
    let names = dependencies(&text);
    assert!(
        names.iter().any(|n| n == "serde"),
        "{manifest}: its dependencies were not understood: {names:?}"
    );
    let found: Vec<String> = names
        .iter()
        .filter(|n| forbidden.contains(&n.replace('-', "_").as_str()))
        .map(|n| format!("{manifest}: {n}"))
        .collect();
    report(
        &found,
        "Dependencies run one way: the server depends on projections, projections on events. HTTP is the server's.",
        "Move what is needed down into the crate that needs it, or what needs it up into the server.",
    );
}

#[test]
fn imports_run_from_server_to_projections_to_events() {
    let rule = "Imports run one way: src → projections → events.";
    let instead = "Move what is needed down, or hand it in as an argument.";
    let events = sources("events");
    let projections = sources("projections");
    assert!(!events.is_empty() && !projections.is_empty());
    forbid(&events, rule, instead, |line| {
        imports(line, "gatelog") || imports(line, "gatelog_projections")
    });
    forbid(&projections, rule, instead, |line| imports(line, "gatelog"));
    check_dependencies(
        "events/Cargo.toml",
        &[HTTP_CRATES, &["gatelog", "gatelog_projections", "rocksdb"]].concat(),
    );
    check_dependencies("projections/Cargo.toml", &[HTTP_CRATES, &["gatelog"]].concat());
}

#[test]
fn events_and_projections_know_nothing_of_http() {
    for folder in ["events", "projections"] {
        forbid(
            &sources(folder),
            "The event log and the read models know nothing of HTTP.",
            "Return a typed value or error; src/http turns it into an answer.",
            |line| mentions(line, "axum") || HTTP_CRATES.iter().any(|name| imports(line, name)),
        );
    }
}

#[test]
fn http_never_writes_to_the_read_models() {
    if !root().join("src/http").is_dir() {
        return;
    }
    forbid(
        &sources("src/http"),
        "src/http never touches the write side of the read models' store.",
        "Send a command to the writer; read through the queries of gatelog_projections.",
        |line| WRITES_STORE.iter().any(|word| mentions(line, word)),
    );
}

#[test]
fn deciding_is_pure() {
    if !root().join("events/src/domain").is_dir() {
        return;
    }
    forbid(
        &sources("events/src/domain"),
        "decide and evolve have no input or output, no clock and no randomness of their own.",
        "Take what is needed from the context that the writer hands in.",
        |line| IMPURE.iter().any(|word| mentions(line, word)),
    );
}

#[test]
fn only_the_clock_reads_the_time() {
    let mut all = sources(".");
    let before = all.len();
    all.retain(|s| !matches!(s.path.as_str(), "events/src/clock.rs" | "tests/architecture.rs"));
    assert_eq!(
        all.len() + 2,
        before,
        "the clock, or this test, has moved: correct the paths here"
    );
    forbid(
        &all,
        "Only events/src/clock.rs reads a clock.",
        "Take the time as an argument; at the edge, call gatelog_events::clock::now() or monotonic().",
        |line| READS_TIME.iter().any(|word| mentions(line, word)),
    );
}

#[test]
fn files_have_one_subject() {
    let mut found = Vec::new();
    let mut listed: Vec<&str> = LONG_FILES.iter().map(|(path, _)| *path).collect();
    for source in sources(".") {
        let lines = source.text.lines().count();
        if lines <= MAX_LINES {
            continue;
        }
        match listed.iter().position(|path| *path == source.path) {
            Some(at) => {
                listed.swap_remove(at);
            }
            None => found.push(format!("{}: {lines} lines", source.path)),
        }
    }
    report(
        &found,
        &format!("A file of more than {MAX_LINES} lines has more than one subject."),
        "Split it by subject; or, if it is better whole, list it in LONG_FILES with the reason.",
    );
    let stale: Vec<String> = listed.iter().map(|path| (*path).to_owned()).collect();
    report(
        &stale,
        "Listed in LONG_FILES, but not that long any more.",
        "Take it off the list.",
    );
    for (path, reason) in LONG_FILES {
        assert!(reason.len() > 20, "{path}: say why it is better whole");
    }
}

#[test]
fn this_test_sees_what_it_should() {
    for (line, word, expected) in [
        ("let t = Utc::now();", "Utc::now", true),
        ("let t = chrono::Utc::now().x", "Utc::now", true),
        ("let t = MyUtc::now();", "Utc::now", false),
        ("Utc::nowhere()", "Utc::now", false),
    ] {
        assert_eq!(mentions(line, word), expected, "{line}");
    }
    for (line, expected) in [
        ("use gatelog::writer;", true),
        ("    pub use gatelog::writer::Writer;", true),
        ("use gatelog as server;", true),
        ("use {gatelog, serde};", true),
        ("let w = ::gatelog::writer::start();", true),
        ("use gatelog_events::ids;", false),
        ("use crate::gatelog::x;", false),
        ("let gatelog = 1;", false),
    ] {
        assert_eq!(imports(line, "gatelog"), expected, "{line}");
    }
    let manifest = "[package]\nname = \"gatelog\"\n[dependencies] # comment\nserde.workspace = true\n\
        x = { path = \"..\", package = \"gatelog\" }\n\"quoted\" = \"1\"\n# axum = \"1\"\n\
        [target.'cfg(unix)'.dev-dependencies.hyper]\nversion = \"1\"\npackage = \"renamed\"\n[features]\nf = []\n";
    assert_eq!(
        dependencies(manifest),
        ["serde", "x", "gatelog", "quoted", "hyper", "renamed"]
    );
    let source = Source {
        path: "a.rs".into(),
        text: "// Utc::now\nfn f() {\n    Utc::now()\n}\n".into(),
    };
    assert_eq!(
        findings(&source, |l| mentions(l, "Utc::now")),
        ["a.rs:3: Utc::now()"]
    );
}

/// ARCHITECTURE.md's walkthroughs name files and functions; each must exist, so that the page stays true.
#[test]
fn walkthroughs_name_functions_that_exist() {
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let walkthroughs = page
        .split("## Walkthroughs")
        .nth(1)
        .expect("the page has walkthroughs");
    assert_eq!(walkthroughs.matches("\n### ").count(), 7, "seven walkthroughs");
    let mut file = String::new();
    let mut checked = 0;
    let mut wrong = Vec::new();
    // Every second piece between back quotes is quoted: a file, or a function of the file named last.
    for quoted in walkthroughs.split('`').skip(1).step_by(2) {
        if quoted.ends_with(".rs") {
            file = std::fs::read_to_string(root().join(quoted)).unwrap_or_else(|e| panic!("{quoted}: {e}"));
        } else if quoted.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') && !file.is_empty() {
            checked += 1;
            if !file.contains(&format!("fn {quoted}(")) && !file.contains(&format!("fn {quoted}<")) {
                wrong.push(quoted.to_owned());
            }
        }
    }
    assert!(checked > 40, "only {checked} functions are named");
    assert_eq!(
        wrong,
        Vec::<String>::new(),
        "no such function in the file named before it"
    );
}
