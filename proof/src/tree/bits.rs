//! The bits of a state key and the byte strings that stand for bit prefixes.
//!
//! Each byte counts as a 1 followed by its eight bits; after the last byte come zeros. Bit order is
//! therefore byte order, and no key is a prefix of another.

use ledger_types::limits::STATE_KEY_BYTES_MAX;

/// Bits that each byte of a key takes.
const BITS_PER_BYTE: usize = 9;

/// Every branch of the tree splits on a bit below this.
pub const BITS_MAX: u16 = (STATE_KEY_BYTES_MAX * BITS_PER_BYTE) as u16;

const _: () = assert!(STATE_KEY_BYTES_MAX * BITS_PER_BYTE == 18_432);

/// Bit `index` of a key as the side (0 or 1) that the key takes at a branch on that bit.
#[inline]
pub fn side(key: &[u8], index: u16) -> usize {
    let index = usize::from(index);
    match (key.get(index / BITS_PER_BYTE), index % BITS_PER_BYTE) {
        (None, _) => 0,
        (Some(_), 0) => 1,
        (Some(byte), offset) => usize::from(byte >> (8 - offset) & 1),
    }
}

/// The first bit on which two keys differ; `None` for equal keys.
pub fn first_difference(left: &[u8], right: &[u8]) -> Option<u16> {
    let shared = shared_bytes(left, right);
    let bit = match (left.get(shared), right.get(shared)) {
        (None, None) => return None,
        (Some(a), Some(b)) => BITS_PER_BYTE * shared + 1 + (a ^ b).leading_zeros() as usize,
        _ => BITS_PER_BYTE * shared,
    };
    Some(u16::try_from(bit).expect("state keys have at most 2,048 bytes"))
}

/// How many bits the bytes of a key or of a prefix of keys take. Keys that begin with these bytes are
/// those that have the same first bits.
pub fn count(bytes: &[u8]) -> u16 {
    u16::try_from(bytes.len() * BITS_PER_BYTE).expect("state keys have at most 2,048 bytes")
}

/// How many bytes two strings share at the front.
pub fn shared_bytes(left: &[u8], right: &[u8]) -> usize {
    let words = left.as_chunks::<8>().0.iter().zip(right.as_chunks::<8>().0);
    let words = words.take_while(|(a, b)| a == b).count();
    let (left, right) = (&left[8 * words..], &right[8 * words..]);
    8 * words + left.iter().zip(right).take_while(|(a, b)| a == b).count()
}

/// The shortest byte string that has the first `bits` bits of `key`, later bits cleared. It is at
/// or below every key with that prefix, so a scan for them starts there.
pub fn prefix(key: &[u8], bits: u16) -> Box<[u8]> {
    let mut bytes = Vec::new();
    prefix_into(key, bits, &mut bytes);
    bytes.into()
}

/// The same, in place of what `bytes` held.
pub(super) fn prefix_into(key: &[u8], bits: u16, bytes: &mut Vec<u8>) {
    let bits = usize::from(bits);
    let (whole, partial) = (bits / BITS_PER_BYTE, bits % BITS_PER_BYTE);
    let len = whole + usize::from(partial > 0);
    bytes.clear();
    bytes.extend_from_slice(&key[..len.min(key.len())]);
    if partial > 0 && bytes.len() == len {
        // The group's first bit only says that the byte is there.
        bytes[whole] &= !(0xff >> (partial - 1));
    }
}

/// Whether `key` has the same first `bits` bits as `prefix`.
pub fn has_prefix(key: &[u8], prefix: &[u8], bits: u16) -> bool {
    match first_difference(key, prefix) {
        None => true,
        Some(difference) => difference >= bits,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(0), Just(1), Just(0xff), any::<u8>()], 0..6)
    }

    /// The definition, bit by bit.
    fn all_bits(key: &[u8]) -> Vec<usize> {
        let mut bits = Vec::new();
        for byte in key {
            bits.push(1);
            bits.extend((0..8).map(|shift| usize::from(byte >> (7 - shift) & 1)));
        }
        bits.resize(7 * BITS_PER_BYTE, 0);
        bits
    }

    proptest! {
        #[test]
        fn bits_differences_and_order_follow_the_definition(a in key(), b in key()) {
            let (bits_a, bits_b) = (all_bits(&a), all_bits(&b));
            for (index, bit) in bits_a.iter().enumerate() {
                prop_assert_eq!(side(&a, index as u16), *bit);
            }
            let difference = bits_a.iter().zip(&bits_b).position(|(x, y)| x != y);
            prop_assert_eq!(first_difference(&a, &b).map(usize::from), difference);
            prop_assert_eq!(a.cmp(&b), bits_a.cmp(&bits_b));
            prop_assert_eq!(has_prefix(&b, &a, count(&a)), b.starts_with(&a));
        }

        #[test]
        fn a_prefix_starts_the_run_of_keys_that_have_it(a in key(), b in key(), bits in 0u16..60) {
            let start = prefix(&a, bits);
            let expected = all_bits(&a)[..usize::from(bits)] == all_bits(&b)[..usize::from(bits)];
            prop_assert_eq!(has_prefix(&b, &start, bits), expected);
            prop_assert!(has_prefix(&a, &start, bits));
            prop_assert!(*start <= a[..]);
            if expected {
                prop_assert!(*start <= b[..]);
            }
            prop_assert_eq!(prefix(&start, bits), start);
        }
    }
}
