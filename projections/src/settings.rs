//! `settings`: each tenant's settings. State of the writer.

use std::sync::Arc;

use bytes::Bytes;
use gatelog_events::domain::Event;
use gatelog_events::domain::tenant::Settings;
use gatelog_events::ids::{Stream, TenantId};

use crate::hot::Hot;
use crate::keys::{KeyKind, key};
use crate::projection::{Located, Projection};
use crate::store::StoreError;
use crate::view::{FoldView, View};

/// The projection.
#[derive(Debug, Default)]
pub struct TenantSettings;

pub const NAME: &str = "settings";

impl Projection for TenantSettings {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        // 2: feeds. 3: streams of signals. 4: what is kept of webhooks that were removed. 5: from when on keys sign.
        // 6: since when webhooks and topics are there. 7: since when types of signals are asked for.
        7
    }

    fn streams(&self) -> &'static [Stream] {
        &[Stream::Identity]
    }

    fn apply(&self, rows: &mut FoldView<'_>, at: Located<'_>) -> Result<(), StoreError> {
        let changes: Vec<_> = at
            .commit
            .events
            .iter()
            .filter_map(|e| match &e.event {
                Event::Tenant(event) => Some((event, e)),
                _ => None,
            })
            .collect();
        if changes.is_empty() {
            return Ok(());
        }
        let row = settings_key(&at.commit.tenant);
        let mut settings: Settings = rows.get(&row)?.unwrap_or_default();
        for (event, e) in changes {
            settings.evolve(event, e.time, e.sequence);
        }
        rows.put(row, &settings)
    }
}

fn settings_key(tenant: &TenantId) -> Bytes {
    key(KeyKind::Settings, tenant).done()
}

/// A tenant's settings; empty for a tenant that has none.
pub fn get(view: View<'_>, tenant: &TenantId) -> Result<Settings, StoreError> {
    Ok(view.get(&settings_key(tenant))?.unwrap_or_default())
}

/// As [`get`], from memory where it can be.
pub fn get_hot(view: View<'_>, hot: &Hot<Settings>, tenant: &TenantId) -> Result<Arc<Settings>, StoreError> {
    Ok(hot.get(view, &settings_key(tenant))?.unwrap_or_default())
}
