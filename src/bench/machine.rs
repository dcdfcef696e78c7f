//! What the system says of the machine and of processes, from `/proc`.

use std::path::Path;

/// Ticks per second in `/proc/PID/stat`; Linux has shown 100 to user space on every architecture since 2.6.
const TICKS: f64 = 100.0;

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Processor time of a process and its threads in seconds, to a hundredth; `pid` may be `self`.
pub fn cpu_seconds(pid: &str) -> f64 {
    let stat = read(format!("/proc/{pid}/stat"));
    // The second field is the program's name and may hold anything but ends at the last parenthesis.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = |n: usize| -> f64 {
        let field = fields.split_whitespace().nth(n);
        field.and_then(|f| f.parse().ok()).unwrap_or_default()
    };
    (ticks(11) + ticks(12)) / TICKS
}

/// A line such as `VmRSS:  1234 kB` of a file, in bytes.
fn kib_line(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    let kib: Option<u64> =
        line.and_then(|l| l.trim_start_matches(':').split_whitespace().next()?.parse().ok());
    kib.unwrap_or_default() * 1024
}

/// Resident memory of a process in bytes.
pub fn resident(pid: &str) -> u64 {
    kib_line(&read(format!("/proc/{pid}/status")), "VmRSS")
}

/// Name and value of what may bear on the figures.
pub fn facts() -> Vec<(&'static str, String)> {
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown", |(_, name)| name.trim());
    let cores = cpuinfo.lines().filter(|l| l.starts_with("processor")).count();
    let memory = kib_line(&read("/proc/meminfo"), "MemTotal") as f64 / (1u64 << 30) as f64;
    let load = read("/proc/loadavg");
    let load = load.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    vec![
        ("processor", model.to_owned()),
        ("cores", cores.to_string()),
        ("memory", format!("{memory:.1} GiB")),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("load at the end", load),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        assert!(resident("self") > 1 << 20);
        assert!(facts().iter().all(|(_, value)| !value.is_empty()));
        assert_eq!(kib_line("A: 1 kB\nVmRSS:\t  12 kB\n", "VmRSS"), 12 * 1024);
    }
}
