//! Attacks on proofs, each by name. An honest answer is accepted first, so that no refusal is an
//! accident.

mod fixture;

use std::sync::LazyLock;

use fixture::{Change, NOW, Vault, bundle, node_key, node_name, system, vault, voters};
use ledger_proof::bundle_link::{Lowering, follow_link};
use ledger_proof::note::SignedNote;
use ledger_proof::rfc9162::{PathError, verify_inclusion};
use ledger_proof::tree::bits;
use ledger_proof::{
    Consistency, CountError, KeyProof, KnownCheckpoint, LeftOut, Origin, Presence, ProofError,
    ReadAt, ReadRequest, Receipt, ReceiptRequest, Threshold, TimeRule, TransactionChoice, Trust,
    TrustBundle, VerifiedAnswer, VerifiedRead, VerifiedValue, VerifyError, VoterSet, hash, tx_tree,
};
use ledger_types::{Digest, StateKey, TxId, VaultRef};
use proptest::prelude::*;

const LATEST: ReadAt = ReadAt::Latest { min_height: 0 };

fn keys() -> Vec<StateKey> {
    vec![
        StateKey::entity("config"),
        StateKey::entity("gone"),
        StateKey::entity("session"),
        StateKey::by_resource("document:3", "viewer", "user:alice"),
        StateKey::by_subject("document:3", "viewer", "user:bob"),
        StateKey::descriptor(),
    ]
}

fn verify_at(
    read: &VerifiedRead,
    origin: &Origin,
    at: ReadAt,
    known: Option<&KnownCheckpoint>,
) -> Result<VerifiedAnswer, VerifyError> {
    let (bundle, sets, keys) = (bundle(), [voters(&[1, 2, 3])], keys());
    let trust = Trust { bundle: &bundle, voters: &sets, times: TimeRule::Now(NOW), memory: None };
    read.verify(&ReadRequest { origin, at, keys: &keys }, &trust, known)
}

fn verify(vault: &Vault, read: &VerifiedRead) -> Result<VerifiedAnswer, VerifyError> {
    verify_at(read, &vault.origin, LATEST, None)
}

fn presence(value: &VerifiedValue) -> &'static str {
    match value {
        VerifiedValue::Present { .. } => "present",
        VerifiedValue::Expired { .. } => "expired",
        VerifiedValue::Absent => "absent",
    }
}

#[test]
fn an_honest_answer_holds_and_its_file_form_round_trips() {
    let mut vault = vault();
    let read = vault.read(&keys(), None);
    let bytes = read.encode();
    assert_eq!(VerifiedRead::decode(&bytes).as_ref(), Ok(&read));
    let answer = verify(&vault, &read).unwrap();
    let found: Vec<_> = answer.values.iter().map(presence).collect();
    assert_eq!(found, ["present", "absent", "expired", "present", "absent", "present"]);
    assert_eq!(answer.block.counted.keys, 2);
    let known = answer.block.checkpoint;
    assert_eq!(KnownCheckpoint::decode(&known.encode()).as_ref(), Ok(&known));
    let again = verify_at(&read, &vault.origin, LATEST, Some(&known));
    assert!(again.is_ok(), "equal size needs no path");
}

#[test]
fn inner_nodes_do_not_pose_as_transactions() {
    let leaves: Vec<Digest> = (0..4u8).map(|n| tx_tree::tx_leaf(&[n])).collect();
    let halves = [hash::node(&leaves[0], &leaves[1]), hash::node(&leaves[2], &leaves[3])];
    let root = tx_tree::tx_root(&leaves);
    assert_eq!(hash::node(&halves[0], &halves[1]), root);
    let posing = [&leaves[0].0[..], &leaves[1].0[..]].concat();
    assert_ne!(tx_tree::tx_leaf(&posing), halves[0]);
    let forged = verify_inclusion(&tx_tree::tx_leaf(&posing), 0, 2, &halves[1..], &root);
    assert_eq!(forged, Err(PathError::WrongRoot));
}

#[test]
fn duplicate_indices_and_trailing_hashes_are_refused() {
    let leaves: Vec<Digest> = (0..4u8).map(|n| tx_tree::tx_leaf(&[n])).collect();
    let root = tx_tree::tx_root(&leaves);
    let mut path = tx_tree::inclusion_path(&leaves, 0);
    assert_eq!(verify_inclusion(&leaves[0], 0, 4, &path, &root), Ok(()));
    assert_eq!(verify_inclusion(&leaves[1], 0, 4, &path, &root), Err(PathError::WrongRoot));
    path.push(Digest([7; 32]));
    assert_eq!(verify_inclusion(&leaves[0], 0, 4, &path, &root), Err(PathError::TooLong));
}

#[test]
fn a_proof_does_not_serve_another_tree_size_than_the_headers() {
    let vault = vault();
    let receipt = vault.receipt(1, 2);
    let (bundle, sets) = (bundle(), [voters(&[1, 2, 3])]);
    let trust = Trust { bundle: &bundle, voters: &sets, times: TimeRule::Now(NOW), memory: None };
    let verify = |receipt: &Receipt, transaction: TransactionChoice, height: u64| {
        receipt.verify(&ReceiptRequest { origin: &vault.origin, height, transaction }, &trust, None)
    };
    let check = |receipt: &Receipt, tx_id: u8, height: u64| {
        verify(receipt, TransactionChoice::Id(TxId([tx_id; 16])), height)
    };
    assert_eq!(verify(&receipt, TransactionChoice::Index(2), 1), check(&receipt, 3, 1));
    for index in [0, 1, 3] {
        let refused = verify(&receipt, TransactionChoice::Index(index), 1);
        assert_eq!(refused, Err(VerifyError::OtherTransaction));
    }
    assert_eq!(Receipt::decode(&receipt.encode()).as_ref(), Ok(&receipt));
    assert_eq!(check(&receipt, 3, 1).unwrap().transaction.tx_id, TxId([3; 16]));
    assert_eq!(check(&receipt, 4, 1), Err(VerifyError::OtherTransaction));
    assert!(matches!(check(&receipt, 3, 2), Err(VerifyError::OtherHeight { .. })));
    for size in [0, 1, 2, 4, 5, 8] {
        let mut resized = receipt.clone();
        resized.block.header.tx_count = size;
        assert!(check(&resized, 3, 1).is_err(), "{size} transactions claimed");
    }
    for index in [0, 1, 3, u32::MAX] {
        let mut moved = receipt.clone();
        moved.index = index;
        assert!(matches!(check(&moved, 3, 1), Err(VerifyError::TransactionPath(_))));
    }
    let mut altered = receipt.clone();
    altered.transaction[20] ^= 1;
    assert!(matches!(check(&altered, 3, 1), Err(VerifyError::TransactionPath(_))));
    let mut header_as_block = receipt;
    header_as_block.block.header.height = 2;
    assert!(check(&header_as_block, 3, 2).is_err());
}

#[test]
fn a_keys_tail_does_not_pose_as_a_leaf() {
    // The leaf takes the key's hash; with the plain key inside, part of a long key could be read as
    // a branch.
    let inner = hash::branch(3, &Digest([1; 32]), &Digest([2; 32]));
    let mut branch_like = vec![2, 0, 3];
    branch_like.extend([[1; 32], [2; 32]].concat());
    let record = [1; 93];
    assert_ne!(hash::state_leaf(&branch_like, &hash::plain(&record)), inner);
    assert_ne!(hash::leaf(&branch_like), inner);
    let proof = KeyProof { path: vec![], leaf_key: branch_like.clone(), record };
    assert_eq!(proof.verify(&inner, &branch_like), Err(ProofError::WrongRoot));
}

#[test]
fn path_bits_cannot_be_played_with() {
    let mut vault = vault();
    let root = vault.tree.root();
    let key = StateKey::entity("config");
    let proof = vault.prove(&key).proof;
    assert!(matches!(proof.verify(&root, key.as_bytes()), Ok(Presence::Present(_))));
    assert!(proof.path.len() > 2);
    let mut swapped = proof.clone();
    swapped.path.swap(0, 1);
    let refused = swapped.verify(&root, key.as_bytes());
    assert!(matches!(refused, Err(ProofError::BitsNotIncreasing { .. })));
    let mut repeated = proof.clone();
    repeated.path.insert(1, proof.path[0]);
    let refused = repeated.verify(&root, key.as_bytes());
    assert!(matches!(refused, Err(ProofError::BitsNotIncreasing { .. })));
    let mut beyond = proof.clone();
    beyond.path.push((bits::BITS_MAX, Digest::ZERO));
    let refused = beyond.verify(&root, key.as_bytes());
    assert_eq!(refused, Err(ProofError::BitOutOfRange { bit: bits::BITS_MAX }));
    let mut shorter = proof.clone();
    shorter.path.pop();
    assert_eq!(shorter.verify(&root, key.as_bytes()), Err(ProofError::WrongRoot));
    let mut moved = proof.clone();
    moved.path.last_mut().unwrap().0 += 1;
    assert!(moved.verify(&root, key.as_bytes()).is_err());
    let empty = KeyProof { path: vec![], ..proof.clone() };
    assert_eq!(empty.verify(&root, key.as_bytes()), Err(ProofError::WrongRoot));
    assert_eq!(proof.verify(&root, b""), Err(ProofError::KeyLength { len: 0 }));
    let long = vec![1; 2049];
    assert_eq!(proof.verify(&root, &long), Err(ProofError::KeyLength { len: 2049 }));
    let leafless = KeyProof { leaf_key: vec![], ..proof };
    assert_eq!(leafless.verify(&root, b"x"), Err(ProofError::LeafKeyLength { len: 0 }));
}

#[test]
fn no_other_leaf_proves_absence_of_a_present_key() {
    let mut vault = vault();
    let root = vault.tree.root();
    let all: Vec<Vec<u8>> = vault.rows.0.keys().cloned().collect();
    for present in &all {
        for other in all.iter().filter(|other| *other != present) {
            let proof = vault.tree.prove(other, &vault.rows).unwrap();
            let refused = proof.verify(&root, present);
            assert!(matches!(refused, Err(ProofError::LeafElsewhere { .. })), "{refused:?}");
        }
    }
}

#[test]
fn a_malicious_root_holds_one_record_per_key() {
    // Both sides of a branch hold a leaf of the same key: only the side of the key's own bit can be
    // shown.
    let key = StateKey::entity("x");
    let mut records = [[1; 93]; 2];
    records[1][92] = 9;
    let leaves = records.map(|record| hash::state_leaf(key.as_bytes(), &hash::plain(&record)));
    for bit in 0..20 {
        let root = hash::branch(bit, &leaves[0], &leaves[1]);
        let shown: Vec<usize> = (0..2)
            .filter(|side| {
                let path = vec![(bit, leaves[1 - side])];
                let leaf_key = key.as_bytes().to_vec();
                let proof = KeyProof { path, leaf_key, record: records[*side] };
                proof.verify(&root, key.as_bytes()).is_ok()
            })
            .collect();
        assert_eq!(shown, [bits::side(key.as_bytes(), bit)]);
    }
}

#[test]
fn every_changed_byte_of_an_answer_is_refused() {
    let mut vault = Vault::new(VaultRef::new(1, 1));
    let keys = [StateKey::entity("config"), StateKey::entity("gone")];
    vault.commit(&[Change::Set("config", b"2", 0)]);
    let (bundle, sets) = (bundle(), [voters(&[1, 2, 3])]);
    let trust = Trust { bundle: &bundle, voters: &sets, times: TimeRule::Now(NOW), memory: None };
    let origin = vault.origin.clone();
    let request = ReadRequest { origin: &origin, at: LATEST, keys: &keys };
    let known = vault.read(&keys, None).verify(&request, &trust, None).unwrap().block.checkpoint;
    vault.commit(&[Change::Set("other", b"x", 0)]);
    vault.commit(&[Change::Set("other", b"y", 0)]);
    let read = vault.read(&keys, Some(known.size));
    let honest = read.verify(&request, &trust, Some(&known)).unwrap();
    let bytes = read.encode();
    // The log's own line never counts: renaming it makes it a stranger's, which changes nothing.
    let is_log_line = |offset: usize| {
        let start = bytes.windows(3).position(|part| part == "\u{2014}".as_bytes()).unwrap();
        let len = bytes[start..].iter().position(|byte| *byte == b'\n').unwrap();
        (start..start + len).contains(&offset)
    };
    let (mut unread, mut meaningless) = (0, 0);
    for offset in 0..bytes.len() {
        let mut mutated = bytes.clone();
        mutated[offset] ^= 1 << (offset % 8);
        let Ok(read) = VerifiedRead::decode(&mutated) else {
            unread += 1;
            continue;
        };
        let Ok(answer) = read.verify(&request, &trust, Some(&known)) else { continue };
        assert!(is_log_line(offset), "byte {offset}");
        assert_eq!((&answer.values, answer.block.header), (&honest.values, honest.block.header));
        meaningless += 1;
    }
    assert!(unread > 0, "some mutations break the form itself");
    assert!(meaningless < 40, "{meaningless} bytes are the name and key id of the log's line");
}

#[test]
fn equal_size_and_another_root_is_a_fork() {
    let (mut first, mut second) = (vault(), vault());
    first.commit(&[Change::Set("config", b"one", 0)]);
    second.commit(&[Change::Set("config", b"two", 0)]);
    let read = first.read(&keys(), None);
    let known = verify(&first, &read).unwrap().block.checkpoint;
    let read = second.read(&keys(), None);
    let forked = verify_at(&read, &second.origin, LATEST, Some(&known));
    let Err(VerifyError::Fork(fork)) = forked else { panic!("{forked:?}") };
    assert_eq!(fork.known, known);
    assert_eq!(fork.offered.note, read.block.note, "both notes are kept");
    assert_eq!((fork.offered.size, fork.path_error), (known.size, None));
}

#[test]
fn a_rewritten_history_is_a_fork_whatever_path_comes_along() {
    let (mut first, mut second) = (vault(), vault());
    first.commit(&[Change::Set("config", b"one", 0)]);
    let read = first.read(&keys(), None);
    let known = verify(&first, &read).unwrap().block.checkpoint;
    for number in 0..3u8 {
        second.commit(&[Change::Set("config", &[number], 0)]);
    }
    let mut read = second.read(&keys(), Some(known.size));
    let forked = verify_at(&read, &second.origin, LATEST, Some(&known));
    assert!(matches!(forked, Err(VerifyError::Fork(_))), "{forked:?}");
    read.block.consistency = Some(Consistency { from_size: known.size, path: vec![] });
    let forked = verify_at(&read, &second.origin, LATEST, Some(&known));
    assert!(matches!(forked, Err(VerifyError::Fork(_))), "{forked:?}");
    read.block.consistency = None;
    let missing = verify_at(&read, &second.origin, LATEST, Some(&known));
    assert_eq!(missing, Err(VerifyError::ConsistencyMissing { from_size: known.size }));
    let other_start = second.read(&keys(), Some(known.size - 1));
    let refused = verify_at(&other_start, &second.origin, LATEST, Some(&known));
    assert_eq!(refused, Err(VerifyError::ConsistencyUnexpected { from_size: known.size - 1 }));
}

#[test]
fn an_older_checkpoint_or_header_is_not_the_latest() {
    let mut vault = vault();
    let old = vault.read(&keys(), None);
    let old_items = old.items.clone();
    vault.commit(&[Change::Set("config", b"new", 0)]);
    let new = vault.read(&keys(), None);
    let known = verify(&vault, &new).unwrap().block.checkpoint;
    let behind = verify_at(&old, &vault.origin, LATEST, Some(&known));
    let offered = known.size - 1;
    assert_eq!(behind, Err(VerifyError::Behind { known: known.size, offered }));
    let height = offered - 1;
    let stale = VerifiedRead { block: vault.block_proof(height, None), items: old_items };
    let refused = verify(&vault, &stale);
    assert_eq!(refused, Err(VerifyError::OtherHeight { wanted: offered, offered: height }));
    let at_height = verify_at(&stale, &vault.origin, ReadAt::Height(height), None).unwrap();
    assert_eq!(at_height.block.header.height, height, "as history it holds");
    assert_eq!(presence(&at_height.values[2]), "present", "at its own time it had not expired");
    let at = ReadAt::Latest { min_height: known.size };
    let too_old = verify_at(&new, &vault.origin, at, None);
    assert_eq!(too_old, Err(VerifyError::TooOld { min_height: known.size, offered }));
}

#[test]
fn answers_of_another_vault_cluster_or_epoch_are_refused() {
    let mut vault = vault();
    let read = vault.read(&keys(), None);
    let origin = vault.origin.clone();
    let other_vault = Origin { vault: VaultRef::new(7, 8), ..origin.clone() };
    let other_cluster = Origin { domain: "evil.ledger".into(), ..origin.clone() };
    for other in [other_vault, other_cluster] {
        let refused = verify_at(&read, &other, LATEST, None);
        assert!(matches!(refused, Err(VerifyError::OtherLog { .. })), "{refused:?}");
    }
    let epoch = Origin { log_epoch: 1, ..origin.clone() };
    let refused = verify_at(&read, &epoch, LATEST, None);
    assert_eq!(refused, Err(VerifyError::LogEpoch { expected: 1, offered: 0 }));
    let mut known = verify(&vault, &read).unwrap().block.checkpoint;
    known.origin = epoch;
    let refused = verify_at(&read, &origin, LATEST, Some(&known));
    assert!(matches!(refused, Err(VerifyError::KnownOtherLog { .. })));
    let mut foreign = Vault::new(VaultRef::new(7, 8));
    while foreign.size() < vault.size() {
        foreign.commit(&[Change::Set("config", b"{}", 0)]);
    }
    let mut transplanted = read.clone();
    let foreign_block = foreign.block_proof(foreign.size() - 1, None);
    transplanted.block.header = foreign_block.header;
    let refused = verify(&vault, &transplanted);
    assert!(matches!(refused, Err(VerifyError::OtherVault { .. })));
    let mut relabelled = read;
    relabelled.block.header.state_root = foreign_block.header.state_root;
    assert!(matches!(verify(&vault, &relabelled), Err(VerifyError::HeaderPath(_))));
}

#[test]
fn values_are_bound_to_their_keys() {
    let mut vault = vault();
    let read = vault.read(&keys(), None);
    let with = |change: fn(&mut VerifiedRead)| {
        let mut read = read.clone();
        change(&mut read);
        verify(&vault, &read)
    };
    let mismatch = VerifyError::ValueMismatch { index: 0 };
    assert_eq!(with(|read| read.items[0].value = Some(b"{}".to_vec())), Err(mismatch));
    let missing = VerifyError::ValueMissing { index: 0 };
    assert_eq!(with(|read| read.items[0].value = None), Err(missing));
    let unexpected = VerifyError::ValueUnexpected { index: 1 };
    assert_eq!(with(|read| read.items[1].value = Some(vec![])), Err(unexpected));
    let count = VerifyError::ItemCount { asked: 6, answered: 5 };
    assert_eq!(with(|read| drop(read.items.pop())), Err(count));
    let swapped = with(|read| read.items.swap(0, 3));
    assert!(matches!(swapped, Err(VerifyError::Key { index: 0, .. })));
}

#[test]
fn an_expired_grant_in_an_idle_vault_counts_as_absent() {
    let mut vault = Vault::new(VaultRef::new(1, 1));
    vault.commit_at(&[Change::Set("grant", b"yes", NOW - 100)], NOW - 10_000);
    let key = [StateKey::entity("grant")];
    let read = vault.read(&key, None);
    let (bundle, sets) = (bundle(), [voters(&[1, 2, 3])]);
    let trust = Trust { bundle: &bundle, voters: &sets, times: TimeRule::Now(NOW), memory: None };
    let origin = &vault.origin;
    let answer = read.verify(&ReadRequest { origin, at: LATEST, keys: &key }, &trust, None);
    assert_eq!(presence(&answer.unwrap().values[0]), "expired");
    let at = ReadAt::Height(1);
    let answer = read.verify(&ReadRequest { origin, at, keys: &key }, &trust, None);
    assert_eq!(presence(&answer.unwrap().values[0]), "present");
}

fn with_note(note: &SignedNote, sets: &[VoterSet]) -> Result<VerifiedAnswer, VerifyError> {
    let mut vault = vault();
    let mut read = vault.read(&keys(), None);
    read.block.note = note.encode();
    let (bundle, keys) = (bundle(), keys());
    let trust = Trust { bundle: &bundle, voters: sets, times: TimeRule::Now(NOW), memory: None };
    let request = ReadRequest { origin: &vault.origin, at: LATEST, keys: &keys };
    read.verify(&request, &trust, None)
}

#[test]
fn one_bad_node_cannot_make_a_note_count() {
    let vault = vault();
    let checkpoint = vault.checkpoint();
    let three = [voters(&[1, 2, 3])];
    let too_few = |left_out| {
        let (counted, required) = (1, 2);
        Err(VerifyError::Count(CountError::TooFew { counted, required, left_out }))
    };
    let none = LeftOut::default();
    assert!(with_note(&vault.note(&[1, 3], NOW), &three).is_ok());
    let mut old = vault.note(&[1, 2, 3], NOW - 10_000);
    old.signatures.push(node_key(1).cosign(&checkpoint, &node_name(1), NOW));
    let expected = too_few(LeftOut { too_old: 3, ..none });
    assert_eq!(with_note(&old, &three), expected, "old note, freshly cosigned by one");
    let mut twice = vault.note(&[1], NOW);
    twice.signatures.push(node_key(1).cosign(&checkpoint, &node_name(1), NOW - 1));
    let expected = too_few(LeftOut { repeated: 1, ..none });
    assert_eq!(with_note(&twice, &three), expected, "one key counted twice");
    let mut logs = vault.note(&[1], NOW);
    logs.signatures.push(node_key(2).sign_log(&checkpoint));
    logs.signatures.push(node_key(3).sign_log(&checkpoint));
    assert_eq!(with_note(&logs, &three), too_few(none), "log signatures never count");
    let removed = vault.note(&[1, 4], NOW);
    let expected = too_few(LeftOut { of_strangers: 1, ..none });
    assert_eq!(with_note(&removed, &three), expected, "a removed node's key");
    let mut renamed = vault.note(&[1, 2], NOW);
    renamed.signatures[2].signature[20] ^= 1;
    let refused = with_note(&renamed, &three);
    assert!(matches!(refused, Err(VerifyError::Count(CountError::Note(_)))), "{refused:?}");
}

#[test]
fn bundles_follow_one_another_only_with_proof_and_consent() {
    let first = bundle();
    let mut next = bundle();
    next.sequence = 2;
    next.voters.remove(0);
    let lowers = TrustBundle { threshold: Threshold::Fixed(1), ..next.clone() };
    let link = |next: &TrustBundle| {
        let mut system = system(next);
        system.read(&[StateKey::entity("bundle/2")], None)
    };
    assert_eq!(follow_link(&first, &link(&next), Lowering::Refused), Ok(next.clone()));
    let stale = TrustBundle { expires_at: 0, ..first.clone() };
    assert!(
        follow_link(&stale, &link(&next), Lowering::Refused).is_ok(),
        "only the last is current"
    );
    let refused = follow_link(&first, &link(&lowers), Lowering::Refused);
    assert_eq!(refused, Err(VerifyError::LoweredRule { sequence: 2 }));
    assert_eq!(follow_link(&first, &link(&lowers), Lowering::Accepted), Ok(lowers));
    let mut absent = Vault::new(VaultRef::SYSTEM);
    absent.commit(&[Change::Set("bundle/3", &next.encode(), 0)]);
    let read = absent.read(&[StateKey::entity("bundle/2")], None);
    let refused = follow_link(&first, &read, Lowering::Refused);
    assert_eq!(refused, Err(VerifyError::NotTheNextBundle { expected: 2 }));
    let mut unsigned = link(&next);
    let note = SignedNote::parse(&unsigned.block.note).unwrap();
    let lines = note.signatures[..2].to_vec();
    unsigned.block.note = SignedNote { signatures: lines, ..note }.encode();
    assert!(matches!(
        follow_link(&first, &unsigned, Lowering::Accepted),
        Err(VerifyError::Count(CountError::TooFew { .. }))
    ));
}

/// An honest answer's bytes, made once.
static HONEST: LazyLock<Vec<u8>> = LazyLock::new(|| vault().read(&keys(), None).encode());

proptest! {
    #[test]
    fn decoders_take_any_bytes(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        cut in any::<prop::sample::Index>(),
    ) {
        let _ = KeyProof::decode(&bytes);
        let _ = KnownCheckpoint::decode(&bytes);
        let _ = SignedNote::parse(&bytes);
        let mut damaged = HONEST[..cut.index(HONEST.len())].to_vec();
        prop_assert!(VerifiedRead::decode(&damaged).is_err());
        damaged.extend_from_slice(&bytes);
        if let Ok(read) = VerifiedRead::decode(&damaged) {
            prop_assert_eq!(read.encode(), damaged);
        }
    }
}
