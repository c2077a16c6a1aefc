//! The rows in which a node keeps what it promised and which cluster it belongs to.
//!
//! Owns their keys and their bytes. The membership row is the one that decides: once it is durable, the
//! node belongs to its cluster, whatever else a crash left undone.

use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_proof::genesis::{GenesisPromise, PROMISE_BYTES_MAX, is_address};
use ledger_proof::system_entity::ADDRESS_BYTES_MAX;
use ledger_types::limits::NAME_BYTES_MAX;
use ledger_types::{NodeId, StoreId, check_name};

/// Row of the promised genesis; empty once it was withdrawn.
pub const ROW_PROMISE: &[u8] = b"node/promise";
/// Row of a [`MembershipRow`].
pub const ROW_MEMBERSHIP: &[u8] = b"node/membership";
/// Row that is there once a founder has made the directory's group.
pub const ROW_FOUNDED: &[u8] = b"node/founded";
/// Row that is there once other nodes have turned the store away for good: a [`TurnedAway`].
pub const ROW_TURNED_AWAY: &[u8] = b"node/turned-away";
/// Row of remembered addresses.
pub const ROW_ADDRESSES: &[u8] = b"node/addresses";
/// The rows of the highest boot counters seen begin with this; a store id follows.
const ROWS_BOOTS: &[u8] = b"peer/boots/";

const VERSION: u8 = 1;
const WHY_REMOVED: u8 = 1;
const WHY_ROLLED_BACK: u8 = 2;
/// Longest text that is kept of what another node said, in bytes.
const DETAIL_BYTES_MAX: usize = 1024;
/// Most addresses that are remembered.
const ADDRESSES_MAX: usize = 4096;

/// The row of the highest boot counter that a store was seen with.
pub fn boots_row(store: StoreId) -> Vec<u8> {
    [ROWS_BOOTS, &store.0].concat()
}

/// The highest boot counter that a store was seen with, and by which process: a store counts each start, so
/// another process with the same counter runs on a copy. Row: `boots u64 ‖ process id 16`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SeenBoots {
    /// The counter; 0 if the store was never seen.
    pub boots: u64,
    /// What the process drew when it started; none if it did not say.
    pub instance: Option<[u8; 16]>,
}

impl SeenBoots {
    /// The row's value.
    pub fn encode(&self) -> Vec<u8> {
        let instance: &[u8] = self.instance.as_ref().map_or(&[], |instance| instance);
        [&self.boots.to_be_bytes(), instance].concat()
    }

    /// Reads the row's value. Errors on any other length than 8 or 24 bytes.
    pub fn decode(value: &[u8]) -> Result<SeenBoots, DecodeError> {
        let mut reader = Reader::new(value);
        let boots = reader.u64("boot counter")?;
        let instance = match reader.remaining() {
            0 => None,
            _ => Some(reader.array("process id")?),
        };
        reader.finish()?;
        Ok(SeenBoots { boots, instance })
    }
}

/// A node's place in its cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MembershipRow {
    /// Its number.
    pub node: NodeId,
    /// The name under which it was registered.
    pub name: String,
    /// The cluster's beginning.
    pub genesis: GenesisPromise,
}

impl MembershipRow {
    /// `version u8 ‖ node u64 ‖ name (u16 len) ‖ genesis (u32 len)`.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut out = Writer::new(&mut bytes);
        out.u8(VERSION);
        out.u64(self.node.0);
        out.bytes_u16(self.name.as_bytes());
        out.bytes_u32(&self.genesis.encode());
        bytes
    }

    /// Reads what [`MembershipRow::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<MembershipRow, DecodeError> {
        let mut reader = versioned(bytes, "membership version")?;
        let node = NodeId(reader.u64("node")?);
        let name = reader.text_u16("node name", NAME_BYTES_MAX)?.to_owned();
        let genesis = GenesisPromise::decode(reader.bytes_u32("genesis", PROMISE_BYTES_MAX)?)?;
        reader.finish()?;
        if node == NodeId(0) || check_name("node name", &name).is_err() {
            return Err(DecodeError::Invalid { field: "membership", rule: "names no node" });
        }
        Ok(MembershipRow { node, name, genesis })
    }
}

/// That the store must not be used again, and what another node said about it. Kept, because a process that is
/// started again and again would look newer each time, until its counter of starts passed the true one's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TurnedAway {
    /// True if the node was removed, false if the directory is a copy or went back in time.
    pub is_removed: bool,
    /// In words.
    pub detail: String,
}

impl TurnedAway {
    /// `version u8 ‖ why u8 ‖ detail (u16 len)`; a detail over its limit is cut.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut out = Writer::new(&mut bytes);
        out.u8(VERSION);
        out.u8(if self.is_removed { WHY_REMOVED } else { WHY_ROLLED_BACK });
        let end = self.detail.floor_char_boundary(DETAIL_BYTES_MAX);
        out.bytes_u16(&self.detail.as_bytes()[..end]);
        bytes
    }

    /// Reads what [`TurnedAway::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<TurnedAway, DecodeError> {
        let mut reader = versioned(bytes, "turned away version")?;
        let is_removed = match reader.u8("why it was turned away")? {
            WHY_REMOVED => true,
            WHY_ROLLED_BACK => false,
            other => {
                let (field, value) = ("why it was turned away", other.into());
                return Err(DecodeError::UnknownValue { field, value });
            }
        };
        let detail = reader.text_u16("detail", DETAIL_BYTES_MAX)?.to_owned();
        reader.finish()?;
        Ok(TurnedAway { is_removed, detail })
    }
}

/// `version u8 ‖ count u32 ‖ (node u64 ‖ address (u16 len))…`.
pub fn encode_addresses(addresses: &[(NodeId, String)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut out = Writer::new(&mut bytes);
    let kept = addresses.iter().filter(|(_, address)| is_address(address)).take(ADDRESSES_MAX);
    out.u8(VERSION);
    out.u32(u32::try_from(kept.clone().count()).expect("at most ADDRESSES_MAX"));
    for (node, address) in kept {
        out.u64(node.0);
        out.bytes_u16(address.as_bytes());
    }
    bytes
}

/// Reads what [`encode_addresses`] wrote.
pub fn decode_addresses(bytes: &[u8]) -> Result<Vec<(NodeId, String)>, DecodeError> {
    let mut reader = versioned(bytes, "addresses version")?;
    let count = reader.u32("address count")? as usize;
    let count = reader.count("address count", count, ADDRESSES_MAX, 8 + 2 + 1)?;
    let mut addresses = Vec::with_capacity(count);
    for _ in 0..count {
        let node = NodeId(reader.u64("node")?);
        addresses.push((node, reader.text_u16("address", ADDRESS_BYTES_MAX)?.to_owned()));
    }
    reader.finish()?;
    Ok(addresses)
}

fn versioned<'a>(bytes: &'a [u8], field: &'static str) -> Result<Reader<'a>, DecodeError> {
    let mut reader = Reader::new(bytes);
    match reader.u8(field)? {
        VERSION => Ok(reader),
        other => Err(DecodeError::UnknownValue { field, value: other.into() }),
    }
}

#[cfg(test)]
mod tests {
    use ledger_types::ClusterId;

    use super::*;
    use ledger_proof::genesis::Founder;

    fn membership() -> MembershipRow {
        let founder = Founder {
            name: "a".to_owned(),
            store: StoreId([1; 16]),
            public_key: [1; 32],
            address: "a:1".to_owned(),
            zone: String::new(),
        };
        let domain = "d".to_owned();
        let genesis = GenesisPromise::new(ClusterId([2; 16]), domain, 3, vec![founder]);
        MembershipRow { node: NodeId(7), name: "n".to_owned(), genesis: genesis.expect("valid") }
    }

    #[test]
    fn membership_golden_bytes() {
        let row = membership();
        let genesis = row.genesis.encode();
        let expected =
            format!("01000000000000000700016e{:08x}{}", genesis.len(), hex::encode(&genesis));
        assert_eq!(hex::encode(row.encode()), expected);
        assert_eq!(MembershipRow::decode(&row.encode()), Ok(row));
    }

    #[test]
    fn cut_rows_are_refused() {
        let row = membership().encode();
        for end in 0..row.len() {
            assert!(MembershipRow::decode(&row[..end]).is_err(), "cut at {end}");
        }
        assert!(MembershipRow::decode(&[row.as_slice(), &[0]].concat()).is_err());
        for instance in [None, Some([9; 16])] {
            let seen = SeenBoots { boots: 5, instance };
            assert_eq!(SeenBoots::decode(&seen.encode()), Ok(seen));
        }
        for len in [0, 7, 9, 23, 25] {
            assert!(SeenBoots::decode(&vec![0; len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn being_turned_away_is_kept_in_bounded_words() {
        for is_removed in [true, false] {
            let row = TurnedAway { is_removed, detail: "é".repeat(600) };
            let read = TurnedAway::decode(&row.encode()).expect("reads what it wrote");
            assert_eq!((read.is_removed, read.detail), (is_removed, "é".repeat(512)));
        }
        let row = TurnedAway { is_removed: false, detail: "x".to_owned() }.encode();
        assert_eq!(hex::encode(&row), "0102000178");
        assert!(TurnedAway::decode(&[1, 3, 0, 0]).is_err());
        assert!((0..row.len()).all(|end| TurnedAway::decode(&row[..end]).is_err()));
    }

    #[test]
    fn addresses_round_trip_and_are_bounded() {
        let addresses = vec![(NodeId(1), "a:1".to_owned()), (NodeId(2), "b:2".to_owned())];
        let bytes = encode_addresses(&addresses);
        assert_eq!(decode_addresses(&bytes), Ok(addresses));
        let mut forged = bytes;
        forged[1..5].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(matches!(decode_addresses(&forged), Err(DecodeError::TooLong { .. })));
    }
}
