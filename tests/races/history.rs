//! What was asked and what was answered, and the judge of it.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One call of one client, as `tests/linearizability/history.go` reads it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Call {
    pub ask: &'static str,
    pub who: String,
    pub token: u32,
    /// Nanoseconds since the test began.
    pub begin: u64,
    /// None where it is not known whether it was carried out: it may take effect at any time.
    pub end: Option<u64>,
    pub answer: String,
    pub given: u32,
    pub client: usize,
    pub node: usize,
}

pub const DONE: &str = "done";
pub const REFUSED: &str = "refused";

impl Call {
    pub fn is_unknown(&self) -> bool {
        self.end.is_none()
    }
}

/// All that was asked about one key.
#[derive(Debug, Clone, Serialize)]
pub struct History {
    pub model: &'static str,
    pub key: String,
    pub calls: Vec<Call>,
}

#[derive(Debug, Deserialize)]
pub struct Verdict {
    pub verdict: String,
    #[serde(default)]
    pub witness: Vec<Value>,
}

impl Verdict {
    pub fn is_linearizable(&self) -> bool {
        self.verdict == "linearizable"
    }
}

/// Porcupine with our models: a Go program, to which histories are given one by one.
pub struct Checker {
    _dir: tempfile::TempDir,
    child: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

pub fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/linearizability")
}

/// Go in the checker's folder, or none where Go is missing, which is said.
pub fn go(args: &[&str]) -> Option<Command> {
    let mut command = Command::new("go");
    if let Err(e) = command.arg("version").stdout(Stdio::null()).status() {
        let demanded = std::env::var_os("GATELOG_REQUIRE_KAFKA").is_some_and(|v| v == "1");
        assert!(!demanded, "GATELOG_REQUIRE_KAFKA=1, but there is no Go: {e}");
        // Not by eprintln!, which the harness swallows where a test passes.
        let _ = writeln!(
            std::io::stderr(),
            "LEFT OUT, as there is no Go to build the checker of histories: {e}"
        );
        return None;
    }
    let mut command = Command::new("go");
    command.args(args).current_dir(source()).stdin(Stdio::null());
    Some(command)
}

impl Checker {
    pub fn build() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("linearizability");
        let built = go(&["build", "-o", program.to_str().unwrap()])?.output().unwrap();
        assert!(
            built.status.success(),
            "the checker does not build: {}",
            String::from_utf8_lossy(&built.stderr)
        );
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pipes = (
            child.stdin.take().unwrap(),
            BufReader::new(child.stdout.take().unwrap()),
        );
        Some(Self {
            _dir: dir,
            child,
            pipes: Mutex::new(pipes),
        })
    }

    /// Judges a history. If it is not linearizable, `picture` becomes a page that shows why.
    pub fn judge(&self, history: &History, picture: Option<&Path>) -> Verdict {
        let mut asked = serde_json::to_value(history).unwrap();
        if let Some(path) = picture {
            asked["picture"] = path.to_str().unwrap().into();
        }
        let mut pipes = self.pipes.lock().unwrap();
        writeln!(pipes.0, "{asked}").unwrap();
        pipes.0.flush().unwrap();
        let mut line = String::new();
        pipes.1.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("the checker ended: {e}"))
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
