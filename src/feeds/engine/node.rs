//! The engine over what a node has.

use gatelog_events::domain::feed::Definition;
use gatelog_events::domain::tenant::Settings;
use gatelog_events::ids::Partition;

use super::Engine;
use crate::node::Node;

impl<'a> Engine<'a> {
    /// Over a node's read models and keys, for its tenant.
    pub fn of(
        node: &'a Node,
        settings: &'a Settings,
        feed: &'a str,
        definition: &'a Definition,
        first: Partition,
    ) -> Self {
        Self {
            views: &node.views,
            keys: &node.feed_keys,
            links: &node.links,
            issuer: node.config.issuer.as_str(),
            tenant: &node.config.tenant,
            settings,
            feed,
            definition,
            first,
        }
    }
}
