//! The calls of one batch, one after the other, until each record has its verdict.

use std::collections::VecDeque;
use std::time::Duration;

use super::answer::{Outcome, Verdict};
use super::call::{AUTHORIZATION, Call};
use super::{Connector, Plan};

/// A batch under way.
#[derive(Debug, Clone)]
pub struct Run {
    queue: VecDeque<Call>,
    verdicts: Vec<Option<Verdict>>,
}

/// How to go on after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    /// With the next call.
    On,
    /// With the same call, after this pause.
    Wait(Duration),
    /// With the same call, after a login or when somebody has seen to the credential.
    Unauthorized,
}

impl Run {
    /// `records` is how many the batch has.
    pub fn new(plan: Plan, records: usize) -> Self {
        let mut run = Self {
            queue: plan.calls.into(),
            verdicts: vec![None; records],
        };
        for (record, verdict) in plan.refused {
            run.note(record, verdict);
        }
        run
    }

    /// The call to make now, after its delay.
    pub fn call(&self) -> Option<&Call> {
        self.queue.front()
    }

    /// What the call's answer means.
    pub fn answered(&mut self, outcome: Outcome) -> Go {
        match outcome {
            Outcome::Wait(pause) => Go::Wait(pause),
            Outcome::Unauthorized => Go::Unauthorized,
            Outcome::Judged { verdicts, next } => {
                self.queue.pop_front();
                for (record, verdict) in verdicts {
                    self.note(record, verdict);
                }
                for call in next.into_iter().rev() {
                    self.queue.push_front(call);
                }
                Go::On
            }
        }
    }

    /// Gives the calls that are still to be made the connector's credential as it is now.
    pub fn renew(&mut self, connector: &Connector) {
        for call in &mut self.queue {
            let value = connector.authorization(call.base);
            for (_, old) in call.headers.iter_mut().filter(|(name, _)| *name == AUTHORIZATION) {
                old.clone_from(&value);
            }
        }
    }

    /// The verdict of each record. Those whose calls have not all been made, or that no call spoke for, are to be tried
    /// again.
    pub fn finish(mut self) -> Vec<Verdict> {
        let open: Vec<usize> = self
            .queue
            .iter()
            .flat_map(|c| c.records.iter().copied())
            .collect();
        for record in open {
            self.note(record, Verdict::RETRY);
        }
        self.verdicts
            .into_iter()
            .map(|v| v.unwrap_or(Verdict::RETRY))
            .collect()
    }

    fn note(&mut self, record: usize, verdict: Verdict) {
        if let Some(slot) = self.verdicts.get_mut(record) {
            *slot = Some(match slot.take() {
                Some(old) => old.and(verdict),
                None => verdict,
            });
        }
    }
}

#[cfg(test)]
mod tests;
