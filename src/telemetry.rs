//! What the program says about itself while it runs: one line per event on standard error.
//!
//! Names and addresses that callers send end up in log lines, so nothing that would move a cursor, hide text or begin a
//! new line leaves this module unescaped.

use std::fmt;
use std::io::{self, Write};

use gatelog_events::clock;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line, for collectors.
    Json,
}

/// Which events are logged: a level, or directives such as `info,gatelog::http=debug`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct LogLevel(String);

/// The text is neither a level nor a list of directives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a level (error, warn, info, debug, trace) or directives such as info,gatelog::http=debug")]
pub struct InvalidLogLevel;

impl std::str::FromStr for LogLevel {
    type Err = InvalidLogLevel;
    fn from_str(text: &str) -> Result<Self, InvalidLogLevel> {
        // A lone word that is no level would be taken for the name of a crate, and silence everything else.
        let lone_word =
            !text.contains(['=', ',']) && text.parse::<tracing::level_filters::LevelFilter>().is_err();
        if text.is_empty() || lone_word || EnvFilter::try_new(text).is_err() {
            return Err(InvalidLogLevel);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Default for LogLevel {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl<'de> Deserialize<'de> for LogLevel {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Starts logging, and the logging of panics, for the whole process. A second call changes nothing.
pub fn start(format: LogFormat, level: &LogLevel) {
    let filter = EnvFilter::try_new(&level.0).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(Clock)
        .with_ansi(false)
        .with_writer(move || Escaping { format });
    // An error means that somebody, such as a test, has set up logging already.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        // The message of a panic may quote what was being worked on, so it is left out.
        tracing::error!(
            place,
            thread = thread.name().unwrap_or(""),
            "a part of the program panicked"
        );
    }));
}

struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{}", clock::now())
    }
}

/// Writes whole events to standard error, escaped.
struct Escaping {
    format: LogFormat,
}

impl Write for Escaping {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = escape(&String::from_utf8_lossy(event), self.format);
        io::stderr().lock().write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Whether a character would act on a terminal, or make a line look like something else (UAX #9, UAX #14).
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            | '\u{2028}' | '\u{2029}' | '\u{feff}')
}

/// Makes everything but a last line feed harmless.
fn escape(event: &str, format: LogFormat) -> String {
    let (line, end) = match event.strip_suffix('\n') {
        Some(line) => (line, "\n"),
        None => (event, ""),
    };
    let mut out = String::with_capacity(event.len());
    for c in line.chars() {
        match format {
            _ if !acts(c) => out.push(c),
            LogFormat::Text => out.extend(c.escape_unicode()),
            // All such characters lie in the basic plane. In JSON they can only stand in a string.
            LogFormat::Json => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    out.push_str(end);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_escaped() {
        let hostile = "user\r\n2026 INFO all is well\u{1b}[2J\u{2028}\u{202e}\u{9b}é\n";
        assert_eq!(
            escape(hostile, LogFormat::Text),
            "user\\u{d}\\u{a}2026 INFO all is well\\u{1b}[2J\\u{2028}\\u{202e}\\u{9b}é\n"
        );
        let json = format!("{{\"m\":\"{}\"}}\n", "a\u{2028}\u{9b}\u{202e}b");
        let escaped = escape(&json, LogFormat::Json);
        assert!(escaped.is_ascii());
        let value: serde_json::Value = serde_json::from_str(&escaped).unwrap();
        assert_eq!(value["m"], "a\u{2028}\u{9b}\u{202e}b");
    }

    #[test]
    fn levels() {
        for (text, good) in [
            ("info", true),
            ("WARN", true),
            ("info,gatelog::http=debug", true),
            ("loud", false),
            ("", false),
            ("gatelog=loud", false),
        ] {
            assert_eq!(text.parse::<LogLevel>().is_ok(), good, "{text}");
        }
    }
}
