//! What befalls the nodes while they are asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::dice::Dice;
use crate::support::cluster::Cluster;

/// Longer than the session time-out, so that others take over meanwhile.
const PAUSE: Duration = Duration::from_secs(8);

const KINDS: [&str; 3] = ["restarted", "killed", "paused"];

/// Restarts, kills and pauses one node after the other, until it is over. Says how often.
pub async fn disturb(cluster: &mut Cluster, seed: u64, disturbed: &AtomicBool, over: &AtomicBool) -> String {
    let mut dice = Dice::new(seed, "nodes");
    let mut done: BTreeMap<&str, usize> = BTreeMap::new();
    while !over.load(Ordering::Relaxed) {
        // Each kind once, then by chance.
        let kind = KINDS
            .get(done.len())
            .map_or_else(|| dice.one(&KINDS), |kind| *kind);
        let n = dice.below(cluster.nodes.len());
        match kind {
            "restarted" => {
                let node = cluster.nodes[n].take().unwrap();
                let ended = tokio::task::block_in_place(|| node.stop());
                assert!(ended.success(), "node {n}: {ended}");
                cluster.start_node(n).await;
            }
            "killed" => {
                let node = cluster.nodes[n].take().unwrap();
                tokio::task::block_in_place(|| node.kill());
                cluster.start_node(n).await;
            }
            _ => {
                cluster.node(n).signal("STOP");
                tokio::time::sleep(PAUSE).await;
                cluster.node(n).signal("CONT");
            }
        }
        *done.entry(kind).or_default() += 1;
        disturbed.store(done.len() == KINDS.len(), Ordering::Relaxed);
        tokio::time::sleep(dice.millis(1_000, 6_000)).await;
    }
    let done: Vec<String> = done
        .iter()
        .map(|(kind, times)| format!("{kind} {times}"))
        .collect();
    format!("nodes {}", done.join(", "))
}
