//! The three hash domains and plain SHA-256. Every digest of the ledger is made here.
//!
//! Must never gain a fourth domain: what keeps a leaf from posing as an inner node is that each
//! kind of input starts with its own byte.

use ledger_types::Digest;
use sha2::{Digest as _, Sha256};

/// First byte of hashed list entries and state records.
const LEAF: u8 = 0x00;
/// First byte of inner nodes of lists and logs.
const NODE: u8 = 0x01;
/// First byte of branches of the state tree.
const BRANCH: u8 = 0x02;
/// Precedes each 32-byte half of a state leaf: the length of a digest.
const DIGEST_LENGTH: u8 = 0x20;

/// SHA-256 of the bytes as they are: record hashes, value hashes, key hashes.
pub fn plain(data: &[u8]) -> Digest {
    Digest(Sha256::digest(data).into())
}

/// The root of an empty list or tree, `SHA-256("")`.
pub fn empty_root() -> Digest {
    plain(b"")
}

/// `H(0x00 ‖ data)`: the hash of a transaction, a block header or a state leaf's data.
pub fn leaf(data: &[u8]) -> Digest {
    let mut hasher = Sha256::new();
    hasher.update([LEAF]);
    hasher.update(data);
    Digest(hasher.finalize().into())
}

/// `H(0x01 ‖ left ‖ right)`: an inner node of a transaction tree or block log.
pub fn node(left: &Digest, right: &Digest) -> Digest {
    let mut data = [0; 65];
    data[0] = NODE;
    data[1..33].copy_from_slice(&left.0);
    data[33..].copy_from_slice(&right.0);
    plain(&data)
}

/// `H(0x02 ‖ bit ‖ left ‖ right)`: a branch of the state tree that splits on `bit`.
pub fn branch(bit: u16, left: &Digest, right: &Digest) -> Digest {
    let mut data = [0; 67];
    data[0] = BRANCH;
    data[1..3].copy_from_slice(&bit.to_be_bytes());
    data[3..35].copy_from_slice(&left.0);
    data[35..].copy_from_slice(&right.0);
    plain(&data)
}

/// The leaf of the state tree for a key whose record has hash `record_hash`.
pub fn state_leaf(key: &[u8], record_hash: &Digest) -> Digest {
    let mut data = [0; 67];
    data[0] = LEAF;
    data[1] = DIGEST_LENGTH;
    data[2..34].copy_from_slice(&plain(key).0);
    data[34] = DIGEST_LENGTH;
    data[35..].copy_from_slice(&record_hash.0);
    plain(&data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_the_documented_bytes() {
        let (left, right) = (plain(b"l"), plain(b"r"));
        let joined = [&left.0[..], &right.0[..]].concat();
        assert_eq!(leaf(b"x"), plain(b"\0x"));
        assert_eq!(node(&left, &right), plain(&[&[1], &joined[..]].concat()));
        assert_eq!(branch(0x0102, &left, &right), plain(&[&[2, 1, 2], &joined[..]].concat()));
        let data = [&[0x20], &plain(b"k").0[..], &[0x20], &right.0[..]].concat();
        assert_eq!(state_leaf(b"k", &right), leaf(&data));
        assert_ne!(leaf(&joined), node(&left, &right), "an inner node is no leaf");
        let sha_of_nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(empty_root().to_string(), sha_of_nothing);
    }
}
