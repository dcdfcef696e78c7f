//! How far the read models are behind the log.

use gatelog_events::ids::{Partition, Stream};
use gatelog_projections::applied::Stopped;
use gatelog_projections::{consents, handovers, identifiers, logins, settings, users, webhooks};

use crate::node::Node;

/// One read model's lag.
pub struct Lag {
    pub projection: &'static str,
    /// Records that are in the log and not folded yet, over all partitions.
    pub records: u64,
    /// Where it stands still, if anywhere.
    pub stopped: Vec<Stopped>,
}

/// The streams that a projection folds. A test compares this with the projections themselves.
pub fn streams(projection: &str) -> &'static [Stream] {
    match projection {
        users::NAME | logins::NAME | identifiers::NAME | settings::NAME | consents::NAME => {
            &[Stream::Identity]
        }
        handovers::NAME | webhooks::NAME => &[Stream::Activity],
        _ => &Stream::ALL,
    }
}

/// What is known of the lag.
pub struct Known {
    /// Whether the log can be reached. While it cannot, nobody knows how far the read models are behind.
    pub log_reachable: bool,
    /// Partitions of which the log has not said since the start where they end.
    pub untold: usize,
    /// By name of the read model.
    pub lags: Vec<Lag>,
}

/// How far the read models are behind where the log ended when it said so last. Nobody is asked: anybody may want to know
/// whether the node is ready, and where some partition is sick an answer takes long.
pub fn known(node: &Node) -> Known {
    let places = Stream::ALL
        .into_iter()
        .flat_map(|s| (0..node.log.partitions()).map(move |p| (s, Partition(p))));
    let heard: Vec<_> = places.map(|(s, p)| (s, p, node.log.heard_end(s, p))).collect();
    let log_reachable = node.backend.is_reachable();
    let lags = node.views.progress().into_iter().map(|applied| {
        let folded = streams(applied.projection());
        let of = heard
            .iter()
            .filter(|(stream, ..)| folded.contains(stream) && log_reachable);
        Lag {
            projection: applied.projection(),
            records: of
                .filter_map(|(s, p, heard)| Some(heard.as_ref()?.end.saturating_sub(applied.next(*s, *p))))
                .sum(),
            stopped: applied.stopped(),
        }
    });
    Known {
        log_reachable,
        untold: heard.iter().filter(|(.., heard)| heard.is_none()).count(),
        lags: lags.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatelog_events::directory::Directory;

    #[test]
    fn streams_are_those_that_are_folded() {
        let directory = std::sync::Arc::new(Directory::new(&[0; 32], &[0; 32]));
        for projection in gatelog_projections::all::all(&directory) {
            assert_eq!(
                streams(projection.name()),
                projection.streams(),
                "{}",
                projection.name()
            );
        }
    }
}
