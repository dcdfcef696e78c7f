//! Tables of a projection: which one to fold into, and a new one beside the one that serves.

use crate::projection::Projection;
use crate::store::{Store, StoreError, Table};

/// The table that this version of a projection folds into: the one that serves, if this code can read it, or a new one.
pub fn table_for(store: &Store, projection: &dyn Projection) -> Result<Table, StoreError> {
    match store.active(projection.name()) {
        Some(table) if is_readable(projection, &table) => Ok(table),
        _ => new_table(store, projection),
    }
}

fn is_readable(projection: &dyn Projection, table: &Table) -> bool {
    table
        .version()
        .is_some_and(|(v, _)| v == projection.version() || projection.readable().contains(&v))
}

/// An empty table for another build of a projection. One that was begun and never finished is dropped.
pub fn new_table(store: &Store, projection: &dyn Projection) -> Result<Table, StoreError> {
    let serving = store.active(projection.name());
    let mut build = 0;
    for table in store.tables(projection.name()) {
        if let Some((version, n)) = table.version()
            && version == projection.version()
        {
            build = build.max(n + 1);
        }
        if Some(&table) != serving.as_ref() {
            store.drop_table(&table)?;
        }
    }
    let table = Table::new(projection.name(), projection.version(), build);
    store.create(&table)?;
    Ok(table)
}
