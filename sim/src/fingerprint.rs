//! A running digest of everything that happened: two runs of a seed must end with the same one.
//!
//! Owns its arithmetic. Not a cryptographic hash: nobody tries to make two runs collide.

const LOW: u64 = 0x9e37_79b9_7f4a_7c15;
const HIGH: u64 = 0xc2b2_ae3d_27d4_eb4f;

/// 128 bits that depend on every number and byte taken in, and on their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint {
    low: u64,
    high: u64,
}

impl Default for Fingerprint {
    fn default() -> Fingerprint {
        Fingerprint { low: LOW, high: HIGH }
    }
}

impl Fingerprint {
    /// Takes a number in.
    pub(crate) fn number(&mut self, number: u64) {
        let product = u128::from(self.low ^ number) * u128::from(HIGH | 1);
        self.low = (product as u64) ^ self.high.rotate_left(23);
        self.high = ((product >> 64) as u64 ^ number).wrapping_mul(LOW).wrapping_add(self.low);
    }

    /// Takes bytes in, with their length.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.number(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.number(u64::from_le_bytes(last));
    }

    /// The digest as one number.
    pub fn value(&self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }
}

/// The digest of one run of bytes after a number.
pub(crate) fn of(number: u64, bytes: &[u8]) -> u128 {
    let mut print = Fingerprint::default();
    print.number(number);
    print.bytes(bytes);
    print.value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_and_their_order_count() {
        let mut seen = std::collections::BTreeSet::new();
        for len in 0..20 {
            for place in 0..len {
                let mut bytes = vec![0; len];
                bytes[place] = 1;
                assert!(seen.insert(of(0, &bytes)), "{len} {place}");
            }
        }
        assert_ne!(of(1, b"a"), of(2, b"a"));
    }
}
