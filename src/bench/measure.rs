//! Two things measured in turn, and what their ratios come to.

use std::time::Duration;

use gatelog_events::clock;

use super::machine;

/// Amount, time and processor time of one measurement.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// How many of whatever is counted.
    pub amount: f64,
    pub wall: Duration,
    /// Seconds of processor time, over all threads of this process.
    pub cpu: f64,
}

impl Took {
    /// Amount per second.
    pub fn rate(&self) -> f64 {
        self.amount / self.wall.as_secs_f64().max(1e-9)
    }

    /// Processor time for one of what was done, in microseconds.
    pub fn micros_each(&self) -> f64 {
        self.cpu / self.amount.max(1.0) * 1e6
    }

    /// Amount per second of processor time.
    pub fn per_core(&self) -> f64 {
        self.amount / self.cpu.max(1e-9)
    }
}

/// Runs while the clock of this process runs.
pub struct Watch {
    begun: std::time::Instant,
    cpu: f64,
}

impl Watch {
    pub fn start() -> Self {
        Self {
            begun: clock::monotonic(),
            cpu: machine::cpu_seconds("self"),
        }
    }

    pub fn stop(&self, amount: f64) -> Took {
        Took {
            amount,
            wall: self.begun.elapsed(),
            cpu: machine::cpu_seconds("self") - self.cpu,
        }
    }
}

/// Figures of the same thing, one per repetition.
#[derive(Debug, Clone, Default)]
pub struct Series(Vec<f64>);

impl Series {
    pub fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// The value below which this part of all figures lies; 0 if there are none.
    pub fn quantile(&self, part: f64) -> f64 {
        let sorted = self.sorted();
        let last = sorted.len().saturating_sub(1);
        let index = (part * last as f64).round() as usize;
        sorted.get(index).copied().unwrap_or_default()
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub fn min(&self) -> f64 {
        self.quantile(0.0)
    }

    pub fn max(&self) -> f64 {
        self.quantile(1.0)
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Self {
        Self(figures.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_figures_that_were_measured() {
        let series: Series = [5.0, 1.0, 3.0, 2.0, 4.0].into_iter().collect();
        assert_eq!((series.min(), series.median(), series.max()), (1.0, 3.0, 5.0));
        assert_eq!(series.quantile(0.99), 5.0);
        assert_eq!(Series::default().median(), 0.0);
    }
}
