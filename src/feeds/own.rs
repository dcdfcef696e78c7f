//! The partitions that are this node's, for what runs where a partition is written.

use gatelog_events::ids::Partition;
use tokio::sync::watch;

use crate::writer::Owned;

/// See the module.
pub struct Own {
    /// Of the log.
    partitions: u16,
    /// Those that the group gives this node; all where there is no group.
    owned: Option<watch::Receiver<Owned>>,
}

impl Own {
    pub fn new(partitions: u16, owned: Option<watch::Receiver<Owned>>) -> Self {
        Self { partitions, owned }
    }

    pub fn has(&self, partition: Partition) -> bool {
        let owned = self.owned.as_ref();
        owned.is_none_or(|owned| owned.borrow().contains(&partition))
    }

    pub fn all(&self) -> Vec<Partition> {
        let all = (0..self.partitions).map(Partition);
        all.filter(|p| self.has(*p)).collect()
    }

    /// Completes when they have changed since it did so last. Never where there is no group, or its member is gone.
    pub async fn changed(&mut self) {
        if let Some(owned) = &mut self.owned
            && owned.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}
