//! The tail: projections that no login waits for, folded right behind the writer.

use std::sync::Arc;
use std::sync::mpsc;

use gatelog_events::commit::Commit;
use gatelog_events::ids::Position;
use gatelog_events::log::RecordHeader;
use gatelog_projections::folder::{Folder, Touched};

use super::swap::Swap;
use super::takeover::Parts;

/// A commit that was written here.
pub(super) struct Handed {
    pub position: Position,
    pub header: RecordHeader,
    pub commit: Arc<Commit>,
}

pub(super) enum TailStep {
    Commits(Vec<Handed>),
    /// A rebuilt table takes over.
    Swap(Box<Swap>),
}

/// Batches that may wait for the tail before the applier waits too: the lag is bounded.
pub(super) const QUEUE: usize = 64;

/// Commits folded into one write, at the most.
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
            TailStep::Commits(mut commits) => {
                while commits.len() < BATCH {
                    match steps.try_recv() {
                        Ok(TailStep::Commits(more)) => commits.extend(more),
                        Ok(other) => {
                            next = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                if let Err(e) = fold(&mut folder, &commits) {
                    tracing::error!(error = %e, "the tail ends: its read models cannot be written");
                    return;
                }
            }
            TailStep::Swap(swap) => swap.take_over(parts, &mut folder),
        }
    }
}

fn fold(folder: &mut Folder, commits: &[Handed]) -> Result<(), gatelog_projections::store::StoreError> {
    let mut touched = Touched::new();
    for handed in commits {
        folder.fold_commit(handed.position, &handed.header, &handed.commit);
        touched.insert((handed.position.stream, handed.position.partition));
    }
    folder.write(&touched)
}
