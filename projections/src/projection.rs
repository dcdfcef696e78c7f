//! A projection: a name, a version, and a pure fold from commits to rows.

use std::collections::BTreeMap;

use gatelog_events::commit::Commit;
use gatelog_events::ids::{Partition, Position, Stream};
use gatelog_events::log::fence::Progress;
use serde::{Deserialize, Serialize};

use crate::keys::{KeyKind, global};
use crate::store::{Store, StoreError, Table};
use crate::view::{FoldView, View};

/// A commit and where it stands.
#[derive(Debug, Clone, Copy)]
pub struct Located<'a> {
    pub position: Position,
    pub commit: &'a Commit,
}

/// A read model.
pub trait Projection: Send + Sync {
    /// Its name, as in tables, metrics and the command line. Frozen.
    fn name(&self) -> &'static str;

    /// Grows whenever the same log would give other rows. Code reads its own version only: a node that begins with another is
    /// not open before its tables are built.
    fn version(&self) -> u32;

    /// The streams that it folds.
    fn streams(&self) -> &'static [Stream];

    /// Folds one commit. The order of commits of different partitions must not matter to the rows in the end.
    fn apply(&self, rows: &mut FoldView<'_>, at: Located<'_>) -> Result<(), StoreError>;
}

/// How far a projection has come in all partitions; stored with its rows, in the same write.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Checkpoint(BTreeMap<(u8, u16), Progress>);

impl Checkpoint {
    pub fn get(&self, stream: Stream, partition: Partition) -> Progress {
        self.0
            .get(&(stream.code(), partition.0))
            .copied()
            .unwrap_or_default()
    }

    pub fn set(&mut self, stream: Stream, partition: Partition, progress: Progress) {
        self.0.insert((stream.code(), partition.0), progress);
    }

    /// Where a table stands; the beginning for a new one.
    pub fn load(store: &Store, table: &Table) -> Result<Self, StoreError> {
        let view = View {
            store,
            table,
            overlay: None,
        };
        Ok(view.get(&global(KeyKind::Checkpoint).done())?.unwrap_or_default())
    }

    /// The change that stores it.
    pub(crate) fn change(&self, table: &Table) -> Result<crate::store::Change, StoreError> {
        let value = crate::view::encode_row(self, table)?;
        Ok((global(KeyKind::Checkpoint).done(), Some(value)))
    }
}
