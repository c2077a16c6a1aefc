//! The founders' addresses, from the genesis that they promised each other.

use ledger_proof::genesis::{FOUNDERS_MAX, Founder, GenesisPromise};
use ledger_types::NodeId;

use crate::peer::{AddressBook, Membership};

// A genesis that is promised can also be recorded.
const _: () = assert!(FOUNDERS_MAX == ledger_shard::system::FOUNDERS_MAX);

/// What the genesis tells of nodes: enough to reach the founders before the directory is read.
#[derive(Clone, Debug)]
pub struct FounderBook {
    genesis: GenesisPromise,
}

impl FounderBook {
    /// A book of this genesis' founders.
    pub fn new(genesis: &GenesisPromise) -> FounderBook {
        FounderBook { genesis: genesis.clone() }
    }

    fn founder(&self, node: NodeId) -> Option<&Founder> {
        let place = usize::try_from(node.0.checked_sub(1)?).ok()?;
        self.genesis.founders().get(place)
    }
}

impl AddressBook for FounderBook {
    fn address(&self, node: NodeId) -> Option<String> {
        self.founder(node).map(|founder| founder.address.clone())
    }

    fn membership(&self, node: NodeId) -> Membership {
        let known = self.founder(node);
        known.map_or(Membership::Unknown, |founder| Membership::Member(founder.store))
    }
}

#[cfg(test)]
mod tests {
    use ledger_types::{ClusterId, StoreId};

    use super::*;

    fn founder(name: &str, number: u8) -> Founder {
        Founder {
            name: name.to_owned(),
            store: StoreId([number; 16]),
            public_key: [number; 32],
            address: format!("{name}.example:50051"),
            zone: String::new(),
        }
    }

    #[test]
    fn founders_are_known_by_their_places() {
        let founders = vec![founder("a", 9), founder("b", 3)];
        let genesis = GenesisPromise::new(ClusterId([1; 16]), "d".to_owned(), 1, founders);
        let book = FounderBook::new(&genesis.expect("valid"));
        assert_eq!(book.address(NodeId(1)).as_deref(), Some("a.example:50051"));
        assert_eq!(book.membership(NodeId(2)), Membership::Member(StoreId([3; 16])));
        assert_eq!(book.membership(NodeId(0)), Membership::Unknown);
        assert_eq!(book.membership(NodeId(3)), Membership::Unknown);
    }
}
