//! A tree many times larger than the memory it may take, kept within it as a node keeps it.

use super::*;

/// What the tree may take between rounds.
const BUDGET_BYTES: usize = 96 * 1024;
/// Keys that a round touches at most.
const ROUND_KEYS: u64 = 50;
/// What a touched key loads at most while its round runs: a bucket and the pages above it, most of
/// which keys of one round share.
const LOADED_BYTES_PER_KEY: usize = 4 * 1024;
/// Changed keys after which pages are written, if the budget does not ask for it before.
const FLUSH_KEYS: usize = 400;

/// Like `VaultCache` of the node: over budget, changed pages are written and half of the budget is
/// given back, so that the next rounds do not have to.
fn trim(replica: &mut Replica) {
    if replica.changed_since_anchor.len() >= FLUSH_KEYS {
        replica.flush();
    }
    let held = replica.tree.memory_bytes();
    assert!(held <= BUDGET_BYTES + ROUND_KEYS as usize * LOADED_BYTES_PER_KEY, "{held} bytes");
    if held > BUDGET_BYTES {
        replica.flush();
        replica.tree.evict(BUDGET_BYTES / 2);
    }
    let held = replica.tree.memory_bytes();
    assert!(held <= BUDGET_BYTES, "{held} bytes after giving back");
}

fn entity(number: u64) -> Vec<u8> {
    let identifier = hash::plain(&number.to_be_bytes());
    format!("\x01account:{identifier}").into_bytes()[..40].to_vec()
}

#[test]
fn a_tree_larger_than_its_budget_stays_within_it_and_keeps_the_root() {
    const KEYS: u64 = 10_000;
    let (mut replica, mut dice) = (Replica::new(), Dice(7));
    // In key order, so that most of the time goes into the rounds below, which are random.
    let entities: BTreeSet<Vec<u8>> = (0..KEYS).map(entity).collect();
    let entities = Vec::from_iter(entities);
    for some in entities.chunks(ROUND_KEYS as usize) {
        replica.block(some.iter().map(|key| (key.clone(), Some(record(1)))).collect());
        trim(&mut replica);
    }
    replica.check_root();
    // All of it takes nearly twenty times the budget.
    replica.flush();
    let mut whole = StateTree::empty();
    let hashes: Vec<_> =
        replica.rows.records.iter().map(|(key, record)| (key, Some(hash::plain(record)))).collect();
    whole.apply(&hashes, &replica.rows).unwrap();
    assert!(whole.memory_bytes() > 15 * BUDGET_BYTES, "{} bytes", whole.memory_bytes());
    for round in 0..60 {
        let change = |dice: &mut Dice| {
            let number = dice.roll(KEYS + KEYS / 10);
            (entity(number), (dice.roll(4) > 0).then(|| record(round * 1_000 + number)))
        };
        replica.block((0..ROUND_KEYS).map(|_| change(&mut dice)).collect());
        trim(&mut replica);
        if round % 20 == 19 {
            replica.check_root();
        }
        let key = entity(dice.roll(KEYS));
        replica.check_proof(&key);
        trim(&mut replica);
    }
    replica.crash();
    replica.check_root();
    replica.flush();
    replica.check_pages();
}
