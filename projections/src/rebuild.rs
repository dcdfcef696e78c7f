//! Tables of a projection: which one to fold into, and a new one beside the one that serves.

use crate::projection::Projection;
use crate::store::{Store, StoreError, Table};

/// The table that this version of a projection folds into: the one that serves, if it is of that version; otherwise one that
/// was begun, or a new one.
pub fn table_for(store: &Store, projection: &dyn Projection) -> Result<Table, StoreError> {
    match store.active(projection.name()) {
        Some(table) if is_of_version(projection, &table) => Ok(table),
        _ => match begun(store, projection) {
            Some(table) => Ok(table),
            None => new_table(store, projection),
        },
    }
}

fn is_of_version(projection: &dyn Projection, table: &Table) -> bool {
    table.version().is_some_and(|(v, _)| v == projection.version())
}

/// The last build of this version that does not serve. What is folded into it is consistent with its checkpoint, wherever
/// that ended.
fn begun(store: &Store, projection: &dyn Projection) -> Option<Table> {
    let serving = store.active(projection.name());
    let tables = store.tables(projection.name()).into_iter();
    let of_version = tables.filter_map(|table| Some((table.version()?, table)));
    of_version
        .filter(|((version, _), table)| *version == projection.version() && Some(table) != serving.as_ref())
        .max_by_key(|((_, build), _)| *build)
        .map(|(_, table)| table)
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

/// Lets a table serve that is as far as the log, and drops what an older version of its projection folded: erasures would
/// not reach that.
pub fn let_serve(store: &Store, projection: &str, table: &Table) -> Result<(), StoreError> {
    let before = store.active(projection);
    if before.as_ref() == Some(table) {
        return Ok(());
    }
    store.activate(projection, table)?;
    before.map_or(Ok(()), |before| store.drop_table(&before))
}

/// Drops what was left when a process ended: tables that neither serve nor will be folded into. An erasure would not reach
/// them. For a process that begins, before anything is rebuilt.
pub fn drop_forgotten(store: &Store, projection: &dyn Projection) -> Result<(), StoreError> {
    let serving = store.active(projection.name());
    let wanted = match &serving {
        Some(table) if is_of_version(projection, table) => None,
        _ => begun(store, projection),
    };
    for table in store.tables(projection.name()) {
        if Some(&table) != serving.as_ref() && Some(&table) != wanted.as_ref() {
            store.drop_table(&table)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use gatelog_events::ids::Stream;

    use super::*;
    use crate::projection::Located;
    use crate::store::StoreOptions;
    use crate::view::FoldView;

    struct Version(u32);

    impl Projection for Version {
        fn name(&self) -> &'static str {
            "users"
        }
        fn version(&self) -> u32 {
            self.0
        }
        fn streams(&self) -> &'static [Stream] {
            &[]
        }
        fn apply(&self, _: &mut FoldView<'_>, _: Located<'_>) -> Result<(), StoreError> {
            Ok(())
        }
    }

    fn names(store: &Store) -> Vec<String> {
        let mut all: Vec<_> = store.tables("users").iter().map(|t| t.0.to_string()).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn what_was_begun_is_gone_on_with_and_what_is_forgotten_goes() {
        type Case<'a> = (&'a [&'a str], Option<&'a str>, u32, &'a str, &'a [&'a str]);
        // Tables, the one that serves, the code's version; which one is folded into, and what is left before that.
        let cases: [Case<'_>; 7] = [
            (&[], None, 2, "users.v2.0", &[]),
            (
                &["users.v2.0"],
                Some("users.v2.0"),
                2,
                "users.v2.0",
                &["users.v2.0"],
            ),
            // A rebuild was cut off.
            (
                &["users.v2.0", "users.v2.1"],
                Some("users.v2.0"),
                2,
                "users.v2.0",
                &["users.v2.0"],
            ),
            // An upgrade begins, and was cut off before.
            (
                &["users.v1.3"],
                Some("users.v1.3"),
                2,
                "users.v2.0",
                &["users.v1.3"],
            ),
            (
                &["users.v1.3", "users.v1.4", "users.v2.9", "users.v2.10"],
                Some("users.v1.3"),
                2,
                "users.v2.10",
                &["users.v1.3", "users.v2.10"],
            ),
            // The very first start was cut off.
            (&["users.v2.0"], None, 2, "users.v2.0", &["users.v2.0"]),
            // Back to an older version.
            (
                &["users.v1.3", "users.v2.0"],
                Some("users.v2.0"),
                1,
                "users.v1.3",
                &["users.v1.3", "users.v2.0"],
            ),
        ];
        for (tables, serving, version, into, left) in cases {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
            for name in tables.iter().chain(&["usersettings.v1.0"]) {
                store.create(&Table((*name).into())).unwrap();
            }
            if let Some(name) = serving {
                store.activate("users", &Table(name.into())).unwrap();
            }
            drop_forgotten(&store, &Version(version)).unwrap();
            assert_eq!(names(&store), left, "{tables:?} {serving:?}");
            let table = table_for(&store, &Version(version)).unwrap();
            assert_eq!(&*table.0, into, "{tables:?} {serving:?}");
            assert!(names(&store).contains(&into.to_owned()));
            assert_eq!(store.tables("usersettings").len(), 1);
        }
    }
}
