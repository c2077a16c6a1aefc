//! Forgeries made of honest parts: of other sizes, other heights, other vaults, other leaves. Where
//! `attacks.rs` shows one case of a kind, these try all of a range.

mod fixture;

use fixture::{Change, NOW, Rows, Vault, bundle, vault, voters};
use ledger_proof::rfc9162::{PathError, verify_inclusion};
use ledger_proof::tree::bits;
use ledger_proof::{
    AppliedOperation, BlockHeader, Consistency, KeyProof, KnownCheckpoint, Presence, ReadAt,
    ReadRequest, Record, StateTree, TimeRule, Transaction, Trust, VerifiedAnswer, VerifiedRead,
    VerifyError, hash, tx_tree,
};
use ledger_types::{Dedup, Digest, Operation, Outcome, StateKey, TxId, VaultRef};
use proptest::prelude::*;

fn keys() -> [StateKey; 3] {
    [StateKey::entity("config"), StateKey::entity("gone"), StateKey::descriptor()]
}

fn verify(
    vault: &Vault,
    read: &VerifiedRead,
    known: Option<&KnownCheckpoint>,
) -> Result<VerifiedAnswer, VerifyError> {
    let (bundle, sets, keys) = (bundle(), [voters(&[1, 2, 3])], keys());
    let trust = Trust { bundle: &bundle, voters: &sets, times: TimeRule::Now(NOW), memory: None };
    let at = ReadAt::Latest { min_height: 0 };
    read.verify(&ReadRequest { origin: &vault.origin, at, keys: &keys }, &trust, known)
}

/// What a client remembers of the log as it stands.
fn known(vault: &mut Vault) -> KnownCheckpoint {
    let read = vault.read(&keys(), None);
    verify(vault, &read, None).expect("an honest answer holds").block.checkpoint
}

/// A vault of this many blocks, of which those from `differs` on depend on `variant`.
fn history(blocks: u64, differs: u64, variant: &[u8]) -> Vault {
    let mut vault = Vault::new(VaultRef::new(7, 9));
    while vault.size() < blocks {
        let value = if vault.size() < differs { b"same" } else { variant };
        vault.commit(&[Change::Set("config", value, 0)]);
    }
    vault
}

/// The sides of a leaf's path from the bottom up, by the definition of the tree.
fn sides(index: usize, size: usize) -> Vec<bool> {
    if size == 1 {
        return Vec::new();
    }
    let split = size.next_power_of_two() / 2;
    let is_right = index >= split;
    let mut sides = match is_right {
        false => sides(index, split),
        true => sides(index - split, size - split),
    };
    sides.push(is_right);
    sides
}

#[test]
fn a_proof_holds_for_another_size_only_where_the_way_up_is_the_same() {
    let leaves: Vec<Digest> = (0..64u8).map(|n| tx_tree::tx_leaf(&[n])).collect();
    let (mut held, mut refused) = (0, 0);
    for size in 1..=64usize {
        let root = tx_tree::tx_root(&leaves[..size]);
        for index in 0..size {
            let path = tx_tree::inclusion_path(&leaves[..size], index);
            for other in (size.saturating_sub(8)..=size + 8).filter(|other| *other != size) {
                let is_same = index < other && sides(index, other) == sides(index, size);
                let claimed = (index as u64, other as u64);
                let checked = verify_inclusion(&leaves[index], claimed.0, claimed.1, &path, &root);
                assert_eq!(checked.is_ok(), is_same, "leaf {index} of {size} as of {other}");
                *(if is_same { &mut held } else { &mut refused }) += 1;
            }
        }
    }
    // This is why the size comes from the header or the note and never from the proof.
    assert!(held > 1000 && refused > 1000, "{held} held, {refused} refused");
}

#[test]
fn a_repeated_tail_is_another_tree() {
    for count in 1..=64usize {
        let leaves: Vec<Digest> = (0..count as u8).map(|n| tx_tree::tx_leaf(&[n])).collect();
        let root = tx_tree::tx_root(&leaves);
        for tail in 1..=count {
            let repeated = [&leaves[..], &leaves[count - tail..]].concat();
            assert_ne!(tx_tree::tx_root(&repeated), root, "the last {tail} of {count} twice");
        }
        let inner: Vec<Digest> = leaves
            .chunks(2)
            .map(|pair| pair.get(1).map_or(pair[0], |right| hash::node(&pair[0], right)))
            .collect();
        let relabelled: Vec<Digest> = inner.iter().map(|node| tx_tree::tx_leaf(&node.0)).collect();
        assert_ne!(tx_tree::tx_root(&relabelled), root, "{count} leaves, inner nodes as data");
    }
}

#[test]
fn nothing_empty_or_short_is_an_answer() {
    let mut vault = vault();
    let read = vault.read(&keys(), None);
    assert!(verify(&vault, &read, None).is_ok());
    type Change = fn(&mut VerifiedRead);
    let empty_proof = KeyProof { path: Vec::new(), leaf_key: Vec::new(), record: [0; 93] };
    let changes: [(&str, Change); 9] = [
        ("no note", |read| read.block.note.clear()),
        ("no header path", |read| read.block.header_path.clear()),
        ("a header path a step short", |read| {
            read.block.header_path.pop();
        }),
        ("no state root", |read| read.block.header.state_root = Digest::ZERO),
        ("the empty root", |read| read.block.header.state_root = hash::empty_root()),
        ("no items", |read| read.items.clear()),
        ("no key path", |read| read.items[0].proof.path.clear()),
        ("no leaf", |read| read.items[1].proof.leaf_key.clear()),
        ("no record", |read| read.items[0].proof.record = [0; 93]),
    ];
    for (name, change) in changes {
        let mut changed = read.clone();
        change(&mut changed);
        assert!(verify(&vault, &changed, None).is_err(), "{name}");
    }
    // An empty proof against the empty or the zero root, which no header names.
    for root in [Digest::ZERO, hash::empty_root()] {
        assert!(empty_proof.verify(&root, b"key").is_err());
        let keyed = KeyProof { leaf_key: b"key".to_vec(), ..empty_proof.clone() };
        assert!(keyed.verify(&root, b"key").is_err());
    }
    // A digest has 32 bytes: with one more or less, everything after it is something else.
    let bytes = read.encode();
    let sibling = read.items[0].proof.path[0].1.0;
    let start = bytes.windows(32).position(|part| *part == sibling).unwrap();
    let (before, after) = (&bytes[..start], &bytes[start + 32..]);
    for digest in [&sibling[..31], &[&sibling[..], &[0]].concat()[..], &[]] {
        let read = VerifiedRead::decode(&[before, digest, after].concat());
        assert!(read.is_err() || verify(&vault, &read.unwrap(), None).is_err());
    }
}

#[test]
fn a_history_that_parts_from_the_known_one_is_refused_at_every_height() {
    // The server showed some blocks of one history, then goes on with another that parts from it
    // earlier; its path is honest within that other history.
    for parting in 1..6 {
        for known_size in parting + 1..8 {
            let remembered = known(&mut history(known_size, parting, b"one"));
            for offered in known_size..10 {
                let mut other = history(offered, parting, b"two");
                let read = other.read(&keys(), Some(known_size));
                let refused = verify(&other, &read, Some(&remembered));
                let Err(VerifyError::Fork(fork)) = refused else { panic!("{refused:?}") };
                let sizes = (fork.known.size, fork.offered.size);
                assert_eq!(sizes, (known_size, offered), "parting at {parting}");
            }
            // A history that parts only after what is known is a continuation.
            let mut same = history(9, known_size, b"two");
            let read = same.read(&keys(), Some(known_size));
            let honest = known(&mut history(known_size, known_size, b"one"));
            assert!(verify(&same, &read, Some(&honest)).is_ok());
        }
    }
}

#[test]
fn every_advance_needs_its_own_consistency_path() {
    let mut grown = history(6, 6, b"");
    for size in 1..6 {
        let remembered = known(&mut history(size, size, b""));
        let honest = grown.read(&keys(), Some(size));
        assert!(verify(&grown, &honest, Some(&remembered)).is_ok());
        let with = |consistency: Option<Consistency>| {
            let mut read = honest.clone();
            read.block.consistency = consistency;
            verify(&grown, &read, Some(&remembered))
        };
        assert_eq!(with(None), Err(VerifyError::ConsistencyMissing { from_size: size }));
        let path = honest.block.consistency.clone().unwrap().path;
        for other in (1..6).filter(|other| *other != size) {
            let Some(mut shifted) = grown.block_proof(5, Some(other)).consistency else {
                panic!("a path was asked for")
            };
            let unexpected = VerifyError::ConsistencyUnexpected { from_size: other };
            assert_eq!(with(Some(shifted.clone())), Err(unexpected));
            shifted.from_size = size;
            let is_same = shifted.path == path;
            assert_eq!(with(Some(shifted)).is_ok(), is_same, "{other} relabelled as {size}");
        }
        for place in 0..path.len() {
            let mut path = path.clone();
            path[place].0[place] ^= 1;
            let refused = with(Some(Consistency { from_size: size, path }));
            assert!(matches!(refused, Err(VerifyError::Fork(_))), "{size}: {place}");
        }
        // A client that remembers nothing takes no path for proof of anything.
        let unexpected = VerifyError::ConsistencyUnexpected { from_size: size };
        assert_eq!(verify(&grown, &honest, None), Err(unexpected));
    }
}

#[test]
fn parts_of_vaults_with_the_same_content_do_not_mix() {
    let fill = |vault| {
        let mut vault = Vault::new(vault);
        vault.commit(&[Change::Set("config", b"{}", 0), Change::Set("other", b"x", 0)]);
        vault.commit(&[Change::Set("more", b"x", 0)]);
        vault
    };
    let mut mine = fill(VaultRef::new(7, 9));
    for other in [VaultRef::new(7, 8), VaultRef::new(8, 9)] {
        let mut other = fill(other);
        let (honest, foreign) = (mine.read(&keys(), None), other.read(&keys(), None));
        assert!(verify(&mine, &honest, None).is_ok());
        assert!(verify(&other, &foreign, None).is_ok());
        type Swap = fn(&mut VerifiedRead, &VerifiedRead);
        let swaps: [(&str, Swap); 8] = [
            ("the whole answer", |read, other| *read = other.clone()),
            ("the block", |read, other| read.block = other.block.clone()),
            ("the note", |read, other| read.block.note.clone_from(&other.block.note)),
            ("the header", |read, other| read.block.header = other.block.header),
            ("the header path", |read, other| {
                read.block.header_path.clone_from(&other.block.header_path);
            }),
            ("header and path", |read, other| {
                read.block.header = other.block.header;
                read.block.header_path.clone_from(&other.block.header_path);
            }),
            ("a present key", |read, other| read.items[0] = other.items[0].clone()),
            ("the descriptor", |read, other| read.items[2] = other.items[2].clone()),
        ];
        for (name, swap) in swaps {
            let mut mixed = honest.clone();
            swap(&mut mixed, &foreign);
            assert_ne!(mixed, honest, "{name}");
            assert!(verify(&mine, &mixed, None).is_err(), "{name}");
        }
    }
}

#[test]
fn transactions_headers_and_state_leaves_have_no_bytes_in_common() {
    // All three are hashed in one domain, so their first bytes keep them apart.
    let vault = vault();
    let transaction = &vault.bodies[1][0];
    let header = vault.headers[1].encode();
    let firsts = [transaction[0], header[0], 0x20];
    assert_eq!(firsts, [0x01, b'v', 0x20]);
    assert!(Transaction::decode(&header).is_err());
    assert!(BlockHeader::decode(&[&transaction[..], &[0; 200]].concat()[..200]).is_err());
    let mut leaf = vec![0x20];
    leaf.extend([&hash::plain(b"key").0[..], &[0x20], &hash::plain(b"record").0].concat());
    assert_eq!(hash::leaf(&leaf), hash::state_leaf(b"key", &hash::plain(b"record")));
    assert!(Transaction::decode(&leaf).is_err() && BlockHeader::decode(&leaf).is_err());
    // A block of one transaction is not a log of one block with those bytes.
    let root = tx_tree::tx_root(&[tx_tree::tx_leaf(transaction)]);
    let checked = verify_inclusion(&vault.headers[1].block_hash(), 0, 1, &[], &root);
    assert_eq!(checked, Err(PathError::WrongRoot));
}

fn record(number: u64) -> Record {
    Record {
        created_height: number,
        modified_height: number,
        modified_tx: 0,
        expires_at: 0,
        previous_record_hash: Digest::ZERO,
        value_hash: hash::plain(&number.to_be_bytes()),
    }
}

/// What can be put together from the path of one honest proof and the leaf of another.
fn arrangements(path: &KeyProof, leaf: &KeyProof) -> Vec<KeyProof> {
    let mut paths = Vec::new();
    for cut in 0..=path.path.len() {
        paths.extend([path.path[..cut].to_vec(), path.path[cut..].to_vec()]);
        // A branch taken out, and its bit moved up or down.
        if cut < path.path.len() {
            let mut without = path.path.clone();
            let (bit, sibling) = without.remove(cut);
            paths.push(without);
            for bit in [bit.wrapping_sub(1), bit + 1] {
                let mut moved = path.path.clone();
                moved[cut] = (bit, sibling);
                paths.push(moved);
            }
        }
    }
    let with = |path: &Vec<(u16, Digest)>, leaf_key: &[u8]| KeyProof {
        path: path.clone(),
        leaf_key: leaf_key.to_vec(),
        record: leaf.record,
    };
    let keyed = |steps: &Vec<_>| [with(steps, &path.leaf_key), with(steps, &leaf.leaf_key)];
    paths.iter().flat_map(keyed).collect()
}

fn key_bytes() -> impl Strategy<Value = Vec<u8>> {
    // Few different bytes, so that keys share beginnings and one is often the beginning of another.
    proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0x80), Just(0xff)], 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_arrangement_of_honest_parts_both_includes_and_excludes_a_key(
        keys in proptest::collection::btree_set(key_bytes(), 1..8),
        absent in proptest::collection::vec(key_bytes(), 1..4),
    ) {
        let (mut tree, mut rows) = (StateTree::empty(), Rows::default());
        for (number, key) in keys.iter().enumerate() {
            let text = key.iter().map(|byte| char::from(byte % 126 + 1)).collect::<String>();
            let key = StateKey::entity(&text);
            let record = record(number as u64);
            tree.apply(&[(&key, Some(record.hash()))], &rows).unwrap();
            rows.0.insert(key.as_bytes().to_vec(), (record, Vec::new()));
        }
        let root = tree.root();
        let present: Vec<Vec<u8>> = rows.0.keys().cloned().collect();
        let proofs: Vec<KeyProof> =
            present.iter().map(|key| tree.prove(key, &rows).unwrap()).collect();
        let forged: Vec<KeyProof> = proofs
            .iter()
            .flat_map(|first| proofs.iter().flat_map(|second| arrangements(first, second)))
            .collect();
        for key in present.iter().chain(&absent) {
            let truth = match rows.0.get(key) {
                Some((record, _)) => Presence::Present(*record),
                None => Presence::Absent,
            };
            let honest = tree.prove(key, &rows).unwrap();
            prop_assert_eq!(honest.verify(&root, key), Ok(truth));
            for proof in &forged {
                if let Ok(said) = proof.verify(&root, key) {
                    prop_assert_eq!(said, truth, "{:?} for {:?}", proof, key);
                }
            }
        }
    }

}

proptest! {
    #[test]
    fn fields_of_keys_do_not_run_into_each_other(text in "[a-c]{3,6}", cuts in [1..5usize, 1..5]) {
        // The same letters, cut into resource, relation and subject at every two places.
        let cut = |first: usize, second: usize| {
            let parts = [&text[..first], &text[first..second], &text[second..]];
            StateKey::by_resource(parts[0], parts[1], parts[2])
        };
        let len = text.len();
        let clamp = |cuts: [usize; 2]| {
            let first = cuts[0].min(len - 2);
            (first, (first + cuts[1]).min(len - 1))
        };
        let (mine, mut same) = (clamp(cuts), 0);
        for first in 1..len - 1 {
            for second in first + 1..len {
                let is_same = (first, second) == mine;
                prop_assert_eq!(cut(first, second) == cut(mine.0, mine.1), is_same);
                same += usize::from(is_same);
            }
        }
        prop_assert_eq!(same, 1);
        let (entity, relation) = (StateKey::entity(&text), cut(mine.0, mine.1));
        prop_assert_ne!(entity.as_bytes(), relation.as_bytes());
        let proof_bits = bits::first_difference(entity.as_bytes(), relation.as_bytes());
        prop_assert!(proof_bits.is_some_and(|bit| bit < 9), "kinds differ in the first byte");
    }

    #[test]
    fn fields_of_transactions_do_not_run_into_each_other(
        client in "[a-z]{0,6}",
        actor in "[a-z]{0,6}",
        key in "[a-z]{1,6}",
        value in proptest::collection::vec(any::<u8>(), 0..8),
        expires_at in any::<u64>(),
        sequence in 1..u64::MAX,
    ) {
        let set = |key: &str, value: &[u8]| {
            let (key, value) = (key.to_owned(), value.to_vec());
            let operation = Operation::SetEntity { key, value, expires_at, condition: None };
            vec![AppliedOperation::State { operation, outcome: Outcome::Created }]
        };
        let transaction = Transaction {
            tx_id: TxId([3; 16]),
            client: client.clone(),
            dedup: Dedup::Sequence(sequence),
            assigned_sequence: sequence,
            actor: actor.clone(),
            timestamp_ns: expires_at,
            operations: set(&key, &value),
        };
        let bytes = transaction.encode();
        prop_assert_eq!(Transaction::decode(&bytes), Ok(transaction.clone()));
        // One byte moved over each border.
        let mut others = Vec::new();
        if let Some(last) = client.chars().last() {
            let actor = format!("{last}{actor}");
            let client = client[..client.len() - 1].to_owned();
            others.push(Transaction { client, actor, ..transaction.clone() });
        }
        if key.len() > 1 {
            let (front, last) = key.split_at(key.len() - 1);
            let operations = set(front, &[last.as_bytes(), &value].concat());
            others.push(Transaction { operations, ..transaction.clone() });
        }
        for other in others {
            prop_assert_ne!(other.encode(), bytes.clone());
        }
    }
}
