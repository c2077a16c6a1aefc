//! Which keys there are and which of them change: the same for both trees, from fixed seeds.

use std::collections::BTreeSet;

use ledger_proof::{Record, hash};

/// First words of entity keys.
const KINDS: [&str; 8] =
    ["account", "document", "folder", "group", "invoice", "project", "session", "user"];
/// What follows the identifier, cut to length.
const DETAIL: &str = "settings/notifications/email";

/// A state key of an entity, 30 to 60 bytes long. Neighbouring numbers are no neighbours as keys.
pub(crate) fn key(number: u64) -> Vec<u8> {
    let mixed = mix(number);
    let kind = KINDS[(mixed % 8) as usize];
    let detail = &DETAIL[..6 + (mix(mixed) % 23) as usize];
    let key = format!("\x01{kind}:{mixed:016x}/{detail}/{:03}", mixed % 1000).into_bytes();
    assert!((30..=60).contains(&key.len()), "{} bytes", key.len());
    key
}

/// The record that a change of block `height` leaves.
pub(crate) fn record(number: u64, height: u64) -> Record {
    Record {
        created_height: 1,
        modified_height: height,
        modified_tx: 0,
        expires_at: 0,
        previous_record_hash: hash::plain(b"before"),
        value_hash: hash::plain(&number.to_be_bytes()),
    }
}

/// Numbers of keys in random order.
pub(crate) struct Draw {
    keys: u64,
    state: u64,
}

impl Draw {
    /// Draws among `keys` keys, always the same ones.
    pub(crate) fn new(keys: u64) -> Draw {
        Draw { keys, state: 0x5eed }
    }

    /// One number below the number of keys.
    pub(crate) fn one(&mut self) -> u64 {
        self.state += 1;
        mix(self.state) % self.keys
    }

    /// `count` different numbers, in the order drawn.
    pub(crate) fn batch(&mut self, count: u64) -> Vec<u64> {
        let mut seen = BTreeSet::new();
        let mut numbers = Vec::new();
        while (numbers.len() as u64) < count {
            let number = self.one();
            if seen.insert(number) {
                numbers.push(number);
            }
        }
        numbers
    }
}

/// The last step of SplitMix64, a bijection.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}
