//! Every read model there is.

use std::sync::Arc;

use gatelog_events::directory::Directory;

use crate::projection::Projection;
use crate::{
    answers, changes, consents, handovers, identifiers, logins, sessions, settings, signals, statistics,
    timeline, users, webhooks,
};

/// All projections, in a fixed order.
pub fn all(directory: &Arc<Directory>) -> Vec<Arc<dyn Projection>> {
    vec![
        Arc::new(users::Users),
        Arc::new(identifiers::Identifiers {
            directory: directory.clone(),
        }),
        Arc::new(sessions::Sessions),
        Arc::new(settings::TenantSettings),
        Arc::new(logins::Logins {
            directory: directory.clone(),
        }),
        Arc::new(answers::Answers),
        Arc::new(consents::Consents),
        Arc::new(timeline::Timeline),
        Arc::new(statistics::Statistics),
        Arc::new(changes::Changes),
        Arc::new(handovers::Handovers),
        Arc::new(webhooks::Webhooks),
        Arc::new(signals::Signals),
    ]
}
