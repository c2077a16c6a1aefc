//! Damage to an input: one bit of each byte, a cut at every byte, numbers of every width at their ends, a byte too
//! many, pieces left out and repeated.

/// Targets that check signatures or run a cluster: how many damaged forms of each file are tried. They are taken evenly.
const COSTLY: &[(&str, usize)] = &[
    ("raft_messages", 150),
    ("receipt", 60),
    ("saved_proof", 60),
    ("signed_note", 200),
    ("verified_list", 60),
    ("verified_read", 60),
];
/// The same for all others.
const FORMS_MAX: usize = 1500;

/// Damaged forms of an input, in an order that does not change.
pub(crate) fn all(target: &str, input: &[u8]) -> Vec<Vec<u8>> {
    let mut damaged = Vec::new();
    for place in 0..input.len() {
        // Which bit is flipped differs from byte to byte, so that all are, somewhere.
        damaged.push(with(input, place, &[input[place] ^ (1 << (place % 8))]));
        damaged.push(input[..place].to_vec());
        for (width, byte) in [(1, 0xFF), (2, 0xFF), (4, 0xFF), (8, 0xFF), (4, 0x00), (8, 0x7F)] {
            if place + width <= input.len() {
                damaged.push(with(input, place, &[byte; 8][..width]));
            }
        }
        if place % 16 == 0 {
            let after = &input[(place + 16).min(input.len())..];
            damaged.push([&input[..place], after].concat());
            damaged.push([input, &input[place..]].concat());
        }
    }
    let most = COSTLY.iter().find(|(name, _)| *name == target).map_or(FORMS_MAX, |(_, most)| *most);
    let mut tried: Vec<Vec<u8>> = evenly(damaged, most);
    tried.push([input, &[0]].concat());
    tried.push([input, input].concat());
    tried.push([&[0], input].concat());
    tried
}

/// At most this many, the same distance apart; the distance is odd, so that every kind of damage is among them.
fn evenly(all: Vec<Vec<u8>>, most: usize) -> Vec<Vec<u8>> {
    let stride = all.len().div_ceil(most).max(1) | 1;
    all.into_iter().step_by(stride).collect()
}

fn with(input: &[u8], place: usize, bytes: &[u8]) -> Vec<u8> {
    let mut changed = input.to_vec();
    changed[place..place + bytes.len()].copy_from_slice(bytes);
    changed
}
