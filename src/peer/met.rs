//! Where nodes are reached that this one has met and that its directory does not know yet.
//!
//! Owns a few addresses in memory. A node that was away hears from a leader that joined meanwhile and answers it
//! there, until its copy of the directory has caught up. Must never outweigh what the directory says.

use std::collections::VecDeque;

use ledger_proof::system_entity::ADDRESS_BYTES_MAX;
use ledger_types::NodeId;
use parking_lot::Mutex;

/// Most nodes that are kept; the one longest not met makes room.
const NODES_MAX: usize = 64;

/// The nodes, the one met last at the end.
#[derive(Default, Debug)]
pub struct MetNodes {
    nodes: Mutex<VecDeque<(NodeId, String)>>,
}

impl MetNodes {
    /// Notes what a node says of its own address. One that is too long is not kept.
    pub fn meet(&self, node: NodeId, address: &str) {
        if address.is_empty() || address.len() > ADDRESS_BYTES_MAX {
            return;
        }
        let mut nodes = self.nodes.lock();
        nodes.retain(|(known, _)| *known != node);
        if nodes.len() >= NODES_MAX {
            nodes.pop_front();
        }
        nodes.push_back((node, address.to_owned()));
    }

    /// Where the node said that it is reached, host:port.
    pub fn address(&self, node: NodeId) -> Option<String> {
        let nodes = self.nodes.lock();
        nodes.iter().find(|(known, _)| *known == node).map(|(_, address)| address.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_nodes_are_kept_with_what_they_said_last() {
        let met = MetNodes::default();
        met.meet(NodeId(1), "one:1");
        met.meet(NodeId(2), &"x".repeat(ADDRESS_BYTES_MAX + 1));
        met.meet(NodeId(1), "one:2");
        assert_eq!(met.address(NodeId(1)).as_deref(), Some("one:2"));
        assert_eq!(met.address(NodeId(2)), None);
        for node in 0..NODES_MAX as u64 {
            met.meet(NodeId(100 + node), "other:1");
        }
        assert_eq!(met.address(NodeId(1)), None, "the one longest not met makes room");
        assert_eq!(met.nodes.lock().len(), NODES_MAX);
    }
}
