//! The report, in Markdown.

use std::fmt::{self, Write};

use super::measure::Series;

/// What a figure must keep to.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// Shown for what it says.
    None,
}

/// A figure of all repetitions.
#[derive(Debug, Clone)]
pub struct Figure {
    pub what: String,
    pub unit: &'static str,
    pub series: Series,
    pub target: Target,
}

impl Figure {
    pub fn new(what: impl Into<String>, unit: &'static str, series: Series, target: Target) -> Self {
        Self {
            what: what.into(),
            unit,
            series,
            target,
        }
    }

    fn verdict(&self) -> String {
        let median = self.series.median();
        let (text, kept) = match self.target {
            Target::AtLeast(n) => (format!("≥ {}", number(n)), median >= n),
            Target::AtMost(n) => (format!("≤ {}", number(n)), median <= n),
            Target::None => return String::new(),
        };
        format!("{text} {}", if kept { "✓" } else { "✗ missed" })
    }
}

/// One benchmark: how it was measured and what came out.
#[derive(Debug, Clone)]
pub struct Section {
    pub title: &'static str,
    pub method: String,
    pub figures: Vec<Figure>,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## {}\n\n{}\n", self.title, self.method)?;
        writeln!(f, "| figure | median | min | max | unit | target |")?;
        writeln!(f, "|---|---:|---:|---:|---|---|")?;
        for figure in &self.figures {
            let s = &figure.series;
            let (median, min, max) = (number(s.median()), number(s.min()), number(s.max()));
            let (what, unit, verdict) = (&figure.what, figure.unit, figure.verdict());
            writeln!(f, "| {what} | {median} | {min} | {max} | {unit} | {verdict} |")?;
        }
        Ok(())
    }
}

/// Three digits that matter.
fn number(n: f64) -> String {
    match n.abs() {
        a if a >= 100.0 => {
            let whole = format!("{:.0}", n.abs());
            let mut out = String::new();
            for (i, digit) in whole.chars().enumerate() {
                if i > 0 && (whole.len() - i).is_multiple_of(3) {
                    out.push(',');
                }
                out.push(digit);
            }
            if n < 0.0 { format!("-{out}") } else { out }
        }
        a if a >= 10.0 => format!("{n:.1}"),
        _ => format!("{n:.2}"),
    }
}

/// The whole report.
pub fn document(facts: &[(&'static str, String)], sections: &[Section]) -> String {
    let mut out = String::from(
        "# Benchmarks\n\n\
         Written by `make bench`. Every ratio is of two things measured in one run, in turn (A B A B …); the table \
         shows the median of all repetitions with the least and the greatest, which is the noise. A ratio is computed \
         per repetition, from the pair that was measured back to back. ✓ and ✗ judge the median.\n\n\
         | machine | |\n|---|---|\n",
    );
    for (name, value) in facts {
        let _ = writeln!(out, "| {name} | {value} |");
    }
    for section in sections {
        let _ = write!(out, "\n{section}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_show_what_matters() {
        for (n, shown) in [
            (0.456, "0.46"),
            (12.34, "12.3"),
            (123.4, "123"),
            (1_234_567.0, "1,234,567"),
            (0.0, "0.00"),
        ] {
            assert_eq!(number(n), shown);
        }
    }

    #[test]
    fn a_missed_target_is_said() {
        let figure = |target| Figure::new("f", "", [0.5].into_iter().collect(), target).verdict();
        assert_eq!(figure(Target::AtLeast(0.5)), "≥ 0.50 ✓");
        assert_eq!(figure(Target::AtMost(0.4)), "≤ 0.40 ✗ missed");
    }
}
