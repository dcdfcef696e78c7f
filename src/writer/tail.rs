//! The tail: projections that no login waits for, folded right behind the writer.

use std::sync::mpsc;

use gatelog_projections::folder::{Decoded, Folder};

use super::swap::Swap;
use super::takeover::Parts;

pub(super) enum TailStep {
    Records(Vec<Decoded>),
    /// A rebuilt table takes over.
    Swap(Box<Swap>),
}

/// Batches that may wait for the tail before the applier waits too: the lag is bounded.
pub(super) const QUEUE: usize = 64;

/// Records folded into one write, at the most.
const BATCH: usize = 4096;

/// Folds until the applier ends.
pub(super) fn run(parts: &Parts, mut folder: Folder, steps: mpsc::Receiver<TailStep>) {
    let mut next: Option<TailStep> = None;
    loop {
        let step = match next.take() {
            Some(step) => step,
            None => match steps.recv() {
                Ok(step) => step,
                Err(_) => return,
            },
        };
        match step {
            TailStep::Records(mut records) => {
                while records.len() < BATCH {
                    match steps.try_recv() {
                        Ok(TailStep::Records(more)) => records.extend(more),
                        Ok(other) => {
                            next = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                if let Err(e) = fold(&mut folder, &records) {
                    tracing::error!(error = %e, "the tail ends: its read models cannot be written");
                    return;
                }
            }
            TailStep::Swap(swap) => swap.take_over(parts, &mut folder),
        }
    }
}

fn fold(folder: &mut Folder, records: &[Decoded]) -> Result<(), gatelog_projections::store::StoreError> {
    folder.fold_all(records);
    folder.write(&records.iter().map(Decoded::place).collect())
}
