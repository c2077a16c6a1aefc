//! Raft messages of every kind whose numbers lie where things begin and end: before, in and behind the log, and at the
//! end of the number's type. A fuzzer that knows nothing of the encoding rarely makes such a message whole.

use std::ops::Range;

/// Terms around those of the group that the target runs.
const TERMS: [u64; 6] = [0, 5, 6, 6, 7, u64::MAX];
/// Indexes around its log.
const INDEXES: [u64; 11] = [0, 4, 5, 6, 8, 9, 10, 11, 38, u64::MAX - 1, u64::MAX];
/// Numbers of the kinds of messages, and one that there is not.
const KINDS: Range<u64> = 0..20;

/// Inputs of the target `raft_messages`, the same for the same seed.
pub(crate) fn messages(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut draw = Draw(seed);
    (0..count).map(|_| (0..draw.of(&[1, 1, 2, 4])).flat_map(|_| draw.message()).collect()).collect()
}

/// A source of numbers that are spread well enough (splitmix64).
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }

    fn of(&mut self, choices: &[u64]) -> u64 {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// One message, with the head that the target wants.
    fn message(&mut self) -> Vec<u8> {
        let to = 1 + self.below(3);
        let from = 1 + (to + self.below(2)) % 3;
        let index = self.of(&INDEXES);
        let mut out = Vec::new();
        let term = self.of(&[5, 6, 6, 6, 6, 7, 8, u64::MAX]);
        let (log_term, kind) = (self.of(&TERMS), KINDS.start + self.below(KINDS.end));
        for (number, value) in [(1, kind), (2, to), (3, from), (4, term), (5, log_term), (6, index)]
        {
            field(&mut out, number, value);
        }
        for place in 0..self.of(&[0, 0, 1, 2, 3]) {
            let entry = self.entry(index.saturating_add(1 + place));
            bytes_field(&mut out, 7, &entry);
        }
        field(&mut out, 8, self.of(&INDEXES));
        if self.below(10) == 0 {
            let conf: &[u8] = &[0x12, 4, 0x10, 20, 0x18, 6];
            bytes_field(&mut out, 9, [&[][..], conf, b"\x0a\x03abc"][self.below(3) as usize]);
        }
        field(&mut out, 10, self.below(2));
        field(&mut out, 11, self.of(&INDEXES));
        if self.below(3) == 0 {
            let contexts: [&[u8]; 4] = [b"", b"CampaignTransfer", b"CampaignPreElection", &[0; 8]];
            bytes_field(&mut out, 12, contexts[self.below(4) as usize]);
        }
        if self.below(4) == 0 {
            field(&mut out, 13, self.of(&INDEXES));
            field(&mut out, 15, self.of(&TERMS));
            field(&mut out, 16, self.of(&[0, 1, u64::MAX]));
        }
        let len = u16::try_from(out.len()).expect("messages are small").to_be_bytes();
        [&[(to - 1) as u8, (from - 1) as u8], &len[..], &out].concat()
    }

    fn entry(&mut self, index: u64) -> Vec<u8> {
        let mut out = Vec::new();
        field(&mut out, 1, self.of(&[0, 0, 0, 0, 1, 3]));
        field(&mut out, 2, self.of(&TERMS));
        field(&mut out, 3, self.of(&[index, index, index, index, 0, u64::MAX]));
        if self.below(2) == 0 {
            bytes_field(&mut out, 4, b"x");
        }
        out
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7F {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn field(out: &mut Vec<u8>, number: u64, value: u64) {
    varint(out, number << 3);
    varint(out, value);
}

fn bytes_field(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    varint(out, number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
