//! Signals to processes.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Sends a signal (`STOP`, `CONT`, `TERM`). Where it stops the process, returns when all of it stands still: the kernel stops
/// a thread only when it is its turn on a processor, and until then the others go on.
pub fn send(signal: &str, pid: u32) {
    let done = Command::new("kill")
        .args([format!("-{signal}"), pid.to_string()])
        .status();
    assert!(done.unwrap().success());
    if signal != "STOP" {
        return;
    }
    for _ in 0..3000 {
        if stands_still(pid) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("process {pid} does not stop");
}

/// Whether each thread is stopped (proc(5): `stat`, the state behind the name in parentheses).
fn stands_still(pid: u32) -> bool {
    let threads = std::fs::read_dir(PathBuf::from(format!("/proc/{pid}/task")));
    threads.unwrap().flatten().all(|thread| {
        // One that has ended meanwhile does nothing either.
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(')')
            .is_none_or(|(_, rest)| rest.trim_start().starts_with('T'))
    })
}
