//! The rows in which a node keeps what it promised and which cluster it belongs to.
//!
//! Owns their keys and their bytes. The membership row is the one that decides: once it is durable, the
//! node belongs to its cluster, whatever else a crash left undone.

use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_types::limits::NAME_BYTES_MAX;
use ledger_types::{NodeId, StoreId, check_name};

use super::promise::{ADDRESS_BYTES_MAX, GenesisPromise, PROMISE_BYTES_MAX, is_address};

/// Row of the promised genesis; empty once it was withdrawn.
pub const ROW_PROMISE: &[u8] = b"node/promise";
/// Row of a [`MembershipRow`].
pub const ROW_MEMBERSHIP: &[u8] = b"node/membership";
/// Row that is there once a founder has made the directory's group.
pub const ROW_FOUNDED: &[u8] = b"node/founded";
/// Row of remembered addresses.
pub const ROW_ADDRESSES: &[u8] = b"node/addresses";
/// The rows of the highest boot counters seen begin with this; a store id follows.
const ROWS_BOOTS: &[u8] = b"peer/boots/";

const VERSION: u8 = 1;
/// Most addresses that are remembered.
const ADDRESSES_MAX: usize = 4096;

/// The row of the highest boot counter that a store was seen with.
pub fn boots_row(store: StoreId) -> Vec<u8> {
    [ROWS_BOOTS, &store.0].concat()
}

/// Reads the value of a boot counter's row.
pub fn decode_boots(value: &[u8]) -> Result<u64, DecodeError> {
    let mut reader = Reader::new(value);
    let boots = reader.u64("boot counter")?;
    reader.finish()?;
    Ok(boots)
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
    use crate::bootstrap::promise::Founder;

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
        assert_eq!(decode_boots(&5_u64.to_be_bytes()), Ok(5));
        assert!(decode_boots(&[0; 9]).is_err());
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
