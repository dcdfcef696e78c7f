//! How far the read models are behind the log.

use futures::future::try_join_all;
use gatelog_events::ids::{Partition, Stream};
use gatelog_events::log::LogError;
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

/// The lag of every projection, by name.
pub async fn measure(node: &Node) -> Result<Vec<Lag>, LogError> {
    let places: Vec<(Stream, Partition)> = Stream::ALL
        .into_iter()
        .flat_map(|s| (0..node.log.partitions()).map(move |p| (s, Partition(p))))
        .collect();
    let ends = try_join_all(places.iter().map(|(s, p)| node.log.end(*s, *p))).await?;
    let lags = node.views.progress().into_iter().map(|applied| {
        let folded = streams(applied.projection());
        let records = places
            .iter()
            .zip(&ends)
            .filter(|((stream, _), _)| folded.contains(stream))
            .map(|((stream, partition), end)| end.saturating_sub(applied.next(*stream, *partition)))
            .sum();
        Lag {
            projection: applied.projection(),
            records,
            stopped: applied.stopped(),
        }
    });
    Ok(lags.collect())
}

/// What is known of the lag.
pub struct Known {
    /// Whether the log could be asked.
    pub log_reachable: bool,
    pub lags: Vec<Lag>,
}

/// As [`measure`], but while the log cannot be reached it is not asked, and only tells where read models stand still.
pub async fn known(node: &Node) -> Result<Known, LogError> {
    if node.backend.is_reachable() {
        match measure(node).await {
            Ok(lags) => {
                return Ok(Known {
                    log_reachable: true,
                    lags,
                });
            }
            Err(LogError::Io { .. } | LogError::Unreachable { .. } | LogError::Refused { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(Known {
        log_reachable: false,
        lags: unmeasured(node),
    })
}

fn unmeasured(node: &Node) -> Vec<Lag> {
    let all = node.views.progress().into_iter();
    all.map(|applied| Lag {
        projection: applied.projection(),
        records: 0,
        stopped: applied.stopped(),
    })
    .collect()
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
