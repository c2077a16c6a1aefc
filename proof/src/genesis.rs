//! The genesis that founders promise each other, and its canonical bytes.
//!
//! Owns the format and every rule that a genesis must meet. Must never accept two encodings of one
//! genesis: founders compare promises byte by byte.
//!
//! Version 1: `version u8 ‖ cluster id 16 ‖ founded_at_ns u64 ‖ domain (u16 len) ‖ founder count u8 ‖
//! founders`, founders strictly ascending by name, each `name (u16 len) ‖ store id 16 ‖ public key 32 ‖
//! address (u16 len) ‖ zone (u16 len)`. Integers are big-endian.

use ledger_types::limits::NAME_BYTES_MAX;
use ledger_types::{ClusterId, Incarnation, NodeId, StoreId, check_name};

use crate::encoding::{DecodeError, Reader, Writer};
use crate::system_entity::ADDRESS_BYTES_MAX;

/// Most founders of a cluster.
pub const FOUNDERS_MAX: usize = 7;
/// Longest encoding of a genesis in bytes.
pub const PROMISE_BYTES_MAX: usize = 8 * 1024;

const VERSION: u8 = 1;
/// Bytes of the smallest founder: one character each of name and address, no zone.
const FOUNDER_BYTES_MIN: usize = 2 + 1 + 16 + 32 + 2 + 1 + 2;

/// A node that founds, or may found, the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Founder {
    /// Its configured name.
    pub name: String,
    /// Its data directory.
    pub store: StoreId,
    /// The public half of its Ed25519 key.
    pub public_key: [u8; 32],
    /// Where it is reached, host:port.
    pub address: String,
    /// Its failure zone; empty if none is configured.
    pub zone: String,
}

impl Founder {
    /// Checks the fields against the rules of the directory.
    pub fn check(&self) -> Result<(), DecodeError> {
        name("founder name", &self.name)?;
        if !is_address(&self.address) {
            return Err(invalid("founder address", "is not a host and port of at most 256 bytes"));
        }
        if self.zone.is_empty() { Ok(()) } else { name("founder zone", &self.zone) }
    }
}

/// True for what a directory takes as an address: printable ASCII without spaces, bounded, not empty.
pub fn is_address(text: &str) -> bool {
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    !text.is_empty() && text.len() <= ADDRESS_BYTES_MAX && printable
}

/// The beginning of a cluster: what every founder makes durable before anyone acts on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GenesisPromise {
    cluster: ClusterId,
    domain: String,
    founded_at_ns: u64,
    founders: Vec<Founder>,
}

impl GenesisPromise {
    /// Puts a genesis together. Errors if a field breaks its rule, or if the founders are none, too
    /// many, not strictly ascending by name, or share a store or key.
    pub fn new(
        cluster: ClusterId,
        domain: String,
        founded_at_ns: u64,
        founders: Vec<Founder>,
    ) -> Result<GenesisPromise, DecodeError> {
        let promise = GenesisPromise { cluster, domain, founded_at_ns, founders };
        promise.check()?;
        Ok(promise)
    }

    /// The cluster's id.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The domain in the cluster's signed notes.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// When the genesis was made, in Unix nanoseconds: the time of the directory's first header.
    pub fn founded_at_ns(&self) -> u64 {
        self.founded_at_ns
    }

    /// The founders, ascending by name. The one at place `i` is node and incarnation `i + 1`.
    pub fn founders(&self) -> &[Founder] {
        &self.founders
    }

    /// The founder that made the genesis and alone may bring it to adoption.
    pub fn proposer(&self) -> &Founder {
        &self.founders[0]
    }

    /// The number of the founder with this store; `None` if it is no founder.
    pub fn node_of(&self, store: StoreId) -> Option<NodeId> {
        let place = self.founders.iter().position(|founder| founder.store == store)?;
        Some(NodeId(place as u64 + 1))
    }

    /// Every founder with its number and the Raft id of its replica of the directory.
    pub fn numbered(&self) -> impl Iterator<Item = (NodeId, Incarnation, &Founder)> {
        let number = |(place, founder)| {
            let number = place as u64 + 1;
            (NodeId(number), Incarnation(number), founder)
        };
        self.founders.iter().enumerate().map(number)
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut out = Writer::new(&mut bytes);
        out.u8(VERSION);
        out.raw(&self.cluster.0);
        out.u64(self.founded_at_ns);
        out.bytes_u16(self.domain.as_bytes());
        out.u8(u8::try_from(self.founders.len()).expect("checked: at most FOUNDERS_MAX"));
        for founder in &self.founders {
            out.bytes_u16(founder.name.as_bytes());
            out.raw(&founder.store.0);
            out.raw(&founder.public_key);
            out.bytes_u16(founder.address.as_bytes());
            out.bytes_u16(founder.zone.as_bytes());
        }
        assert!(bytes.len() <= PROMISE_BYTES_MAX, "the bounds of the fields keep a genesis small");
        bytes
    }

    /// Reads what [`GenesisPromise::encode`] wrote, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<GenesisPromise, DecodeError> {
        let mut reader = Reader::new(bytes);
        match reader.u8("genesis version")? {
            VERSION => {}
            other => {
                let field = "genesis version";
                return Err(DecodeError::UnknownValue { field, value: other.into() });
            }
        }
        let cluster = ClusterId(reader.array("cluster id")?);
        let founded_at_ns = reader.u64("founding time")?;
        let domain = reader.text_u16("cluster domain", NAME_BYTES_MAX)?.to_owned();
        let count = usize::from(reader.u8("founder count")?);
        let count = reader.count("founder count", count, FOUNDERS_MAX, FOUNDER_BYTES_MIN)?;
        let mut founders = Vec::with_capacity(count);
        for _ in 0..count {
            founders.push(Founder {
                name: reader.text_u16("founder name", NAME_BYTES_MAX)?.to_owned(),
                store: StoreId(reader.array("founder store")?),
                public_key: reader.array("founder key")?,
                address: reader.text_u16("founder address", ADDRESS_BYTES_MAX)?.to_owned(),
                zone: reader.text_u16("founder zone", NAME_BYTES_MAX)?.to_owned(),
            });
        }
        reader.finish()?;
        GenesisPromise::new(cluster, domain, founded_at_ns, founders)
    }

    fn check(&self) -> Result<(), DecodeError> {
        name("cluster domain", &self.domain)?;
        let field = "founder count";
        if self.founders.is_empty() {
            return Err(invalid(field, "is zero"));
        }
        if self.founders.len() > FOUNDERS_MAX {
            let len = self.founders.len();
            return Err(DecodeError::TooLong { field, len, max: FOUNDERS_MAX });
        }
        for founder in &self.founders {
            founder.check()?;
        }
        if !self.founders.is_sorted_by(|low, high| low.name < high.name) {
            return Err(invalid("founders", "are not strictly ascending by name"));
        }
        for (place, founder) in self.founders.iter().enumerate() {
            let shares = |other: &Founder| {
                other.store == founder.store || other.public_key == founder.public_key
            };
            if self.founders[..place].iter().any(shares) {
                return Err(invalid("founders", "share a store or a key"));
            }
        }
        Ok(())
    }
}

fn name(field: &'static str, text: &str) -> Result<(), DecodeError> {
    check_name(field, text).map_err(|_| invalid(field, "breaks the rule of names"))
}

fn invalid(field: &'static str, rule: &'static str) -> DecodeError {
    DecodeError::Invalid { field, rule }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    fn two() -> GenesisPromise {
        let mut founders = vec![founder("a", 1), founder("b", 2)];
        founders[1].zone = "z1".to_owned();
        let domain = "d.ledger".to_owned();
        GenesisPromise::new(ClusterId([0xc1; 16]), domain, 0x0102, founders).expect("valid")
    }

    #[test]
    fn golden_bytes() {
        let mut expected = String::from("01");
        expected += &"c1".repeat(16);
        expected += "0000000000000102";
        expected += "0008642e6c6564676572";
        expected += "02";
        expected += "000161";
        expected += &"01".repeat(48);
        expected += "000f612e6578616d706c653a3530303531";
        expected += "0000";
        expected += "000162";
        expected += &"02".repeat(48);
        expected += "000f622e6578616d706c653a3530303531";
        expected += "00027a31";
        assert_eq!(hex::encode(two().encode()), expected);
        assert_eq!(GenesisPromise::decode(&two().encode()), Ok(two()));
    }

    #[test]
    fn every_cut_and_every_addition_is_refused() {
        let bytes = two().encode();
        for end in 0..bytes.len() {
            assert!(GenesisPromise::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(GenesisPromise::decode(&longer), Err(DecodeError::TrailingBytes { count: 1 }));
        let mut newer = bytes;
        newer[0] = 2;
        let field = "genesis version";
        let error = DecodeError::UnknownValue { field, value: 2 };
        assert_eq!(GenesisPromise::decode(&newer), Err(error));
    }

    #[test]
    fn founders_are_distinct_and_in_order() {
        let make = |founders| GenesisPromise::new(ClusterId([1; 16]), "d".to_owned(), 1, founders);
        assert!(make(vec![]).is_err());
        assert!(make(vec![founder("b", 1), founder("a", 2)]).is_err());
        assert!(make(vec![founder("a", 1), founder("a", 2)]).is_err());
        assert!(make(vec![founder("a", 1), founder("b", 1)]).is_err());
        let mut bad = founder("a", 1);
        bad.address = "a b".to_owned();
        assert!(make(vec![bad]).is_err());
        let domain = "D".to_owned();
        assert!(GenesisPromise::new(ClusterId([1; 16]), domain, 1, vec![founder("a", 1)]).is_err());
        let genesis = make(vec![founder("a", 9), founder("b", 3)]).expect("valid");
        assert_eq!(genesis.node_of(StoreId([3; 16])), Some(NodeId(2)));
        assert_eq!(genesis.node_of(StoreId([4; 16])), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn what_decodes_is_canonical(
            place in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            noise in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut near = two().encode();
            let place = place.index(near.len());
            near[place] = byte;
            for candidate in [near, noise] {
                if let Ok(promise) = GenesisPromise::decode(&candidate) {
                    prop_assert_eq!(promise.encode(), candidate);
                }
            }
        }
    }

    /// Bytes of ids, keys and the time may have any value, so the property above is about something.
    #[test]
    fn another_founding_time_is_another_genesis() {
        let mut later = two().encode();
        later[1 + 16 + 7] ^= 1;
        assert_eq!(GenesisPromise::decode(&later).expect("valid").founded_at_ns(), 0x0103);
    }

    #[test]
    fn the_largest_genesis_round_trips_and_one_founder_more_is_refused() {
        let long = |place: u8| Founder {
            name: format!("{place}{}", "n".repeat(NAME_BYTES_MAX - 1)),
            address: "a".repeat(ADDRESS_BYTES_MAX),
            zone: "z".repeat(NAME_BYTES_MAX),
            ..founder("x", place)
        };
        let domain = "d".repeat(NAME_BYTES_MAX);
        let make = |count: u8| {
            let founders = (1..=count).map(long).collect();
            GenesisPromise::new(ClusterId([1; 16]), domain.clone(), u64::MAX, founders)
        };
        let largest = make(7).expect("valid");
        assert_eq!(GenesisPromise::decode(&largest.encode()), Ok(largest));
        let field = "founder count";
        assert_eq!(make(8), Err(DecodeError::TooLong { field, len: 8, max: FOUNDERS_MAX }));
    }
}
