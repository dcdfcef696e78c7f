//! Progress of long work: a bar where a terminal is attached, a plain line now and then otherwise.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use gatelog_events::clock;
use indicatif::{ProgressBar, ProgressStyle};

/// Time between two plain lines.
const EVERY: Duration = Duration::from_secs(10);

/// Shows how far something is. On standard error, so that output stays clean.
pub struct Progress {
    what: &'static str,
    bar: Option<ProgressBar>,
    total: u64,
    begun: Instant,
    told: Instant,
}

impl Progress {
    /// Starts to show `what`, such as `records`, out of `total`; 0 if that is not known.
    pub fn new(what: &'static str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| bar(what, total));
        let now = clock::monotonic();
        Self {
            what,
            bar,
            total,
            begun: now,
            told: now,
        }
    }

    /// Says that `done` are done.
    pub fn set(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            return;
        }
        let now = clock::monotonic();
        if now.duration_since(self.told) >= EVERY {
            self.told = now;
            let rate = done as f64 / now.duration_since(self.begun).as_secs_f64();
            let of = if self.total > 0 {
                format!(" of {}", self.total)
            } else {
                String::new()
            };
            let _ = writeln!(
                std::io::stderr(),
                "{done}{of} {}, {rate:.0} per second",
                self.what
            );
        }
    }

    /// Ends the display.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &str, total: u64) -> ProgressBar {
    let template = if total > 0 {
        format!("{{bar:30}} {{human_pos}} of {{human_len}} {what}, {{per_sec}}, {{eta}} left")
    } else {
        format!("{{spinner}} {{human_pos}} {what}, {{per_sec}}")
    };
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}
