//! Attacks on proofs of lists, each by name. The honest list is accepted first, so that no refusal is
//! an accident.

mod fixture;

use fixture::{Change, NOW, Vault, list_prefixes, list_vault};
use ledger_proof::tree::{LIST_LEAVES_MAX, bits};
use ledger_proof::{
    DecodeError, KeyProof, ListCheck, ListError, ListItem, ListLeaf, ListProof, PageProof,
    PrefixProof, Presence, ProofError, hash, verify_list,
};
use ledger_types::{Digest, StateKey};
use proptest::prelude::*;

/// The list that the attacks are about: several leaves, with neighbours on both sides.
fn viewers() -> Vec<u8> {
    StateKey::resource_prefix("document:1", Some("viewer"))
}

fn keys_of(vault: &Vault, prefix: &[u8]) -> Vec<Vec<u8>> {
    vault.rows.0.keys().filter(|key| key.starts_with(prefix)).cloned().collect()
}

fn refs(keys: &[Vec<u8>]) -> Vec<&[u8]> {
    keys.iter().map(Vec::as_slice).collect()
}

/// What a plain filter of the rows gives at this time.
fn expected(vault: &Vault, prefix: &[u8], time: u64) -> Vec<ListItem> {
    let rows = vault.rows.0.iter().filter(|(key, _)| key.starts_with(prefix));
    let items = rows.map(|(key, (record, _))| ListItem { key: key.clone(), record: *record });
    items.filter(|item| !item.record.is_expired(time)).collect()
}

fn whole(vault: &mut Vault, prefix: &[u8]) -> PrefixProof {
    match vault.list(prefix, 1000).remove(0) {
        ListProof::Whole(proof) => proof,
        other => panic!("{other:?}"),
    }
}

fn page(proof: &ListProof) -> PageProof {
    match proof {
        ListProof::Page(proof) => proof.clone(),
        other => panic!("{other:?}"),
    }
}

/// A list whose first two pages were accepted, of two new leaves each; more follow.
fn two_pages_on(vault: &mut Vault, prefix: &[u8]) -> (ListCheck, Vec<ListProof>) {
    let pages = vault.list(prefix, 2);
    assert!(pages.len() > 3, "{} pages", pages.len());
    let mut check = ListCheck::new(vault.tree.root(), prefix, 0).expect("a legal prefix");
    for page in &pages[..2] {
        assert_eq!(check.accept(page).map(|items| items.len()), Ok(2));
    }
    (check, pages)
}

/// The answer is refused, and after it the honest one is still accepted.
fn refuse(check: &mut ListCheck, answer: PageProof, honest: &ListProof) -> ListError {
    let before = check.clone();
    let refused = check.accept(&ListProof::Page(answer)).expect_err("an attack");
    assert_eq!(*check, before, "a refused answer leaves no trace");
    assert!(check.clone().accept(honest).is_ok());
    refused
}

#[test]
fn honest_lists_of_every_kind_hold_in_pages_of_every_size() {
    let mut vault = list_vault();
    let root = vault.tree.root();
    for (name, prefix) in list_prefixes() {
        let items = expected(&vault, &prefix, 0);
        assert_eq!(items.is_empty(), name.starts_with("no "), "{name}");
        for size in 1..=items.len() + 1 {
            let pages = vault.list(&prefix, size);
            assert_eq!(pages.len(), items.len().div_ceil(size).max(1), "{name}");
            assert_eq!(verify_list(&root, &prefix, 0, &pages), Ok(items.clone()), "{name}");
        }
    }
}

/// Every run of leaves with honest sides, claimed as each of the lists.
#[test]
fn every_run_of_leaves_is_the_list_itself_or_refused() {
    let mut vault = list_vault();
    let root = vault.tree.root();
    let all = keys_of(&vault, b"");
    for start in 0..all.len() {
        for end in start + 1..=all.len() {
            let run = &all[start..end];
            let proof = vault.page_of(&refs(run));
            for (name, prefix) in list_prefixes() {
                let list = keys_of(&vault, &prefix);
                let claim = [ListProof::Page(proof.clone())];
                let held = verify_list(&root, &prefix, 0, &claim);
                assert_eq!(held.is_ok(), run == list, "{name} {start}..{end}: {held:?}");
                let mut check = ListCheck::new(root, &prefix, 0).unwrap();
                let first = check.accept(&claim[0]);
                let is_first = list.starts_with(run);
                assert_eq!(first.is_ok(), is_first, "{name} {start}..{end}: {first:?}");
            }
        }
    }
}

#[test]
fn an_omitted_item_is_refused() {
    let mut vault = list_vault();
    let root = vault.tree.root();
    for (name, prefix) in list_prefixes() {
        let keys = keys_of(&vault, &prefix);
        for omitted in 0..keys.len() {
            let mut without = whole(&mut vault, &prefix);
            without.leaves.remove(omitted);
            let reason = if keys.len() == 1 { ListError::NoLeaves } else { ListError::WrongRoot };
            assert_eq!(without.verify(&root, &prefix), Err(reason), "{name}");
            let rest = [&keys[..omitted], &keys[omitted + 1..]].concat();
            if rest.is_empty() {
                continue;
            }
            // The sides are those of what is left, as good as they can be made.
            let reason = match omitted {
                0 => ListError::NotTheFirst,
                last if last == keys.len() - 1 => ListError::Unfinished,
                _ => ListError::WrongRoot,
            };
            let claim = [ListProof::Page(vault.page_of(&refs(&rest)))];
            assert_eq!(verify_list(&root, &prefix, 0, &claim), Err(reason), "{name}");
        }
    }
}

#[test]
fn an_unrelated_leaf_does_not_prove_a_list_empty() {
    let mut vault = list_vault();
    let root = vault.tree.root();
    let all = keys_of(&vault, b"");
    for (name, prefix) in list_prefixes() {
        let list = keys_of(&vault, &prefix);
        for key in &all {
            let proof = vault.tree.prove(key, &vault.rows).unwrap();
            let held = verify_list(&root, &prefix, 0, &[ListProof::Empty(proof)]);
            match held {
                Ok(items) => assert!(items.is_empty() && list.is_empty(), "{name}"),
                Err(ListError::NotEmpty) => assert!(key.starts_with(&prefix), "{name}"),
                Err(ListError::Key(ProofError::LeafElsewhere { .. })) => {}
                Err(other) => panic!("{name}: {other}"),
            }
        }
    }
    let honest = vault.list(&StateKey::entity_prefix("team:4"), 5);
    assert_eq!(verify_list(&root, &StateKey::entity_prefix("team:4"), 0, &honest), Ok(vec![]));
    let other = verify_list(&root, &StateKey::entity_prefix("team:3"), 0, &honest);
    assert!(other.is_err(), "an empty list of one prefix is none of another");
    // The prefix is itself a key: its presence is no absence of a list.
    let team = StateKey::entity("team");
    let present = vault.tree.prove(team.as_bytes(), &vault.rows).unwrap();
    let refused = verify_list(&root, team.as_bytes(), 0, &[ListProof::Empty(present)]);
    assert_eq!(refused, Err(ListError::NotEmpty));
}

#[test]
fn path_bits_beyond_the_prefix_are_refused() {
    let mut vault = list_vault();
    let (root, prefix) = (vault.tree.root(), viewers());
    let keys = keys_of(&vault, &prefix);
    assert!(keys.len() > 2);
    for key in &keys {
        let KeyProof { path, leaf_key, record } = vault.tree.prove(key, &vault.rows).unwrap();
        let deeper = PrefixProof { path, leaves: vec![ListLeaf { key: leaf_key, record }] };
        let is_own_list = deeper.verify(&root, key).is_ok();
        assert_eq!(is_own_list, keys_of(&vault, key).len() == 1, "the hashes are right");
        let refused = deeper.verify(&root, &prefix);
        assert!(matches!(refused, Err(ListError::BitBeyondPrefix { .. })), "{refused:?}");
    }
    let mut at_the_edge = whole(&mut vault, &prefix);
    at_the_edge.path.push((bits::count(&prefix), Digest::ZERO));
    let bit = bits::count(&prefix);
    let refused = at_the_edge.verify(&root, &prefix);
    assert_eq!(refused, Err(ListError::BitBeyondPrefix { bit }));
    at_the_edge.path.last_mut().unwrap().0 -= 1;
    assert_eq!(at_the_edge.verify(&root, &prefix), Err(ListError::WrongRoot));
}

#[test]
fn path_bits_cannot_be_played_with() {
    let mut vault = list_vault();
    let (root, prefix) = (vault.tree.root(), viewers());
    let honest = whole(&mut vault, &prefix);
    let with = |change: fn(&mut PrefixProof)| {
        let mut changed = honest.clone();
        change(&mut changed);
        changed.verify(&root, &prefix).unwrap_err()
    };
    let not_increasing = |error: &ListError| matches!(error, ListError::BitsNotIncreasing { .. });
    assert!(not_increasing(&with(|proof| proof.path.swap(0, 1))));
    assert!(not_increasing(&with(|proof| proof.path.insert(0, proof.path[0]))));
    assert_eq!(with(|proof| proof.path.truncate(1)), ListError::WrongRoot);
    assert_eq!(with(|proof| proof.path[0].1.0[3] ^= 1), ListError::WrongRoot);
    let middle = keys_of(&vault, &prefix);
    let honest = vault.page_of(&refs(&middle[1..3]));
    assert!(honest.left.len() > 1 && honest.right.len() > 1);
    honest.verify(&root, &prefix).unwrap();
    let with = |change: &dyn Fn(&mut PageProof)| {
        let mut changed = honest.clone();
        change(&mut changed);
        changed.verify(&root, &prefix).unwrap_err()
    };
    assert!(not_increasing(&with(&|page| page.left.swap(0, 1))));
    assert!(not_increasing(&with(&|page| page.right.swap(0, 1))));
    let beyond = (bits::BITS_MAX, Digest::ZERO);
    let out_of_range = ListError::BitOutOfRange { bit: bits::BITS_MAX };
    assert_eq!(with(&|page| page.left.push(beyond)), out_of_range);
    assert_eq!(with(&|page| page.right.push(beyond)), out_of_range);
    let exchanged = with(&|page| std::mem::swap(&mut page.left, &mut page.right));
    assert!(matches!(exchanged, ListError::NotLeft { .. }), "{exchanged}");
    // A branch of the tree, claimed to be on the side on which it is not.
    let wrong_side = with(&|page| page.right = page.left.clone());
    assert!(matches!(wrong_side, ListError::NotRight { .. }), "{wrong_side}");
    assert_eq!(with(&|page| page.left.clear()), ListError::WrongRoot);
    assert_eq!(with(&|page| page.right.clear()), ListError::WrongRoot);
    assert_eq!(with(&|page| page.left[0].1 = page.left[1].1), ListError::WrongRoot);
}

/// A root that splits twice on one bit, which no honest one does. Folding its page as it stands
/// would give the root; where the leaf stands gives the lie away before.
#[test]
fn equal_separators_are_refused() {
    let key = StateKey::entity("x").as_bytes().to_vec();
    let leaf = ListLeaf { key: key.clone(), record: honest_record() };
    let leaf_hash = hash::state_leaf(&key, &hash::plain(&leaf.record));
    let sides = [hash::plain(b"left"), hash::plain(b"right")];
    let (mut not_left, mut not_right) = (0, 0);
    for bit in 0..40 {
        let inner = hash::branch(bit, &sides[0], &leaf_hash);
        let root = hash::branch(bit, &inner, &sides[1]);
        let (left, right) = (vec![(bit, sides[0])], vec![(bit, sides[1])]);
        let twice = PageProof { left, right, leaves: vec![leaf.clone()] };
        match twice.verify(&root, &key) {
            Err(ListError::NotLeft { .. }) => not_left += 1,
            Err(ListError::NotRight { .. }) => not_right += 1,
            other => panic!("bit {bit}: {other:?}"),
        }
        let once =
            PageProof { left: vec![(bit, sides[0])], right: vec![], leaves: vec![leaf.clone()] };
        assert_eq!(once.verify(&inner, &key).is_ok(), bits::side(&key, bit) == 1);
    }
    assert!(not_left > 10 && not_right > 5, "{not_left} and {not_right}");
}

fn honest_record() -> [u8; 93] {
    let mut vault = list_vault();
    whole(&mut vault, &viewers()).leaves[0].record
}

#[test]
fn a_forged_first_page_is_refused() {
    let mut vault = list_vault();
    let (root, prefix) = (vault.tree.root(), viewers());
    let keys = keys_of(&vault, &prefix);
    let prefix_bits = bits::count(&prefix);
    let first = |page: PageProof| {
        let mut check = ListCheck::new(root, &prefix, 0).unwrap();
        check.accept(&ListProof::Page(page))
    };
    assert!(first(vault.page_of(&refs(&keys[..2]))).is_ok());
    let second = vault.page_of(&refs(&keys[1..]));
    assert_eq!(first(second.clone()), Err(ListError::NotTheFirst));
    let mut stripped = second.clone();
    stripped.left.retain(|(bit, _)| *bit < prefix_bits);
    assert!(stripped.left.len() < second.left.len());
    assert_eq!(first(stripped), Err(ListError::WrongRoot));
    let mut relabelled = second.clone();
    let last = relabelled.left.last_mut().unwrap();
    last.0 = (0..prefix_bits).rev().find(|bit| bits::side(&keys[1], *bit) == 1).unwrap();
    assert_eq!(first(relabelled), Err(ListError::WrongRoot));
    let mut hidden = second;
    let (_, folded) = hidden.left.pop().unwrap();
    hidden.left.last_mut().unwrap().1 = folded;
    assert_eq!(first(hidden), Err(ListError::WrongRoot));
}

#[test]
fn a_forged_last_page_is_refused() {
    let mut vault = list_vault();
    let (root, prefix) = (vault.tree.root(), viewers());
    let keys = keys_of(&vault, &prefix);
    let prefix_bits = bits::count(&prefix);
    let only = |page: PageProof| verify_list(&root, &prefix, 0, &[ListProof::Page(page)]);
    assert_eq!(only(vault.page_of(&refs(&keys))).unwrap().len(), keys.len());
    let all_but_one = vault.page_of(&refs(&keys[..keys.len() - 1]));
    assert_eq!(only(all_but_one.clone()), Err(ListError::Unfinished));
    let mut stripped = all_but_one.clone();
    stripped.right.retain(|(bit, _)| *bit < prefix_bits);
    assert!(stripped.right.len() < all_but_one.right.len());
    assert_eq!(only(stripped), Err(ListError::WrongRoot));
    let mut relabelled = all_but_one;
    let key = &keys[keys.len() - 2];
    let before = relabelled.right.iter().map(|(bit, _)| *bit).filter(|bit| *bit < prefix_bits);
    let free = before.max().map_or(0, |bit| bit + 1);
    relabelled.right.last_mut().unwrap().0 =
        (free..prefix_bits).find(|bit| bits::side(key, *bit) == 0).unwrap();
    assert_eq!(only(relabelled), Err(ListError::WrongRoot));
    assert_eq!(verify_list(&root, &prefix, 0, &[]), Err(ListError::Unfinished));
    let pages = vault.list(&prefix, 1);
    assert_eq!(verify_list(&root, &prefix, 0, &pages[..2]), Err(ListError::Unfinished));
    let again = [&pages[..], &pages[pages.len() - 1..]].concat();
    assert_eq!(verify_list(&root, &prefix, 0, &again), Err(ListError::AfterTheLast));
}

#[test]
fn a_page_from_another_root_is_refused() {
    let mut vault = list_vault();
    let prefix = [&[2], &b"document:"[..]].concat();
    let (check, pages) = two_pages_on(&mut vault, &prefix);
    let before = vault.tree.root();
    vault.commit(&[Change::Grant("document:9", "viewer", "user:z")]);
    assert_ne!(vault.tree.root(), before);
    let newer = vault.list(&prefix, 2);
    assert_eq!(page(&newer[2]).leaves[0], page(&pages[2]).leaves[0], "the kept leaf is the same");
    let refused = refuse(&mut check.clone(), page(&newer[2]), &pages[2]);
    assert_eq!(refused, ListError::WrongRoot);
    let mixed = [&pages[..2], &newer[2..]].concat();
    assert_eq!(verify_list(&before, &prefix, 0, &mixed), Err(ListError::WrongRoot));
    assert_eq!(verify_list(&vault.tree.root(), &prefix, 0, &mixed), Err(ListError::WrongRoot));
    assert_eq!(verify_list(&vault.tree.root(), &prefix, 0, &newer).unwrap().len(), 8);
    let empty = vault.list(&StateKey::entity_prefix("none"), 2);
    let refused = verify_list(&before, &StateKey::entity_prefix("none"), 0, &empty);
    assert_eq!(refused, Err(ListError::Key(ProofError::WrongRoot)));
}

#[test]
fn a_later_page_that_skips_or_repeats_is_refused() {
    let mut vault = list_vault();
    let prefix = [&[2], &b"document:"[..]].concat();
    let keys = keys_of(&vault, &prefix);
    let (mut check, pages) = two_pages_on(&mut vault, &prefix);
    let kept = 3;
    assert_eq!(check.kept_key(), Some(&keys[kept][..]));
    let mut try_run = |keys: &[Vec<u8>]| {
        let answer = vault.page_of(&refs(keys));
        refuse(&mut check, answer, &pages[2])
    };
    assert_eq!(try_run(&keys[kept + 1..]), ListError::NotTheNext, "begins after the kept leaf");
    assert_eq!(try_run(&keys[kept - 1..]), ListError::NotTheNext, "begins before it");
    assert_eq!(try_run(&keys[..2]), ListError::NotTheNext, "begins anew");
    assert_eq!(try_run(&keys[kept..=kept]), ListError::NothingAdded);
    let skipping = [&keys[kept..=kept], &keys[kept + 2..]].concat();
    assert_eq!(try_run(&skipping), ListError::WrongRoot, "a leaf in between is left out");
    let mut posing = vault.page_of(&refs(&keys[kept + 1..]));
    posing.leaves[0].key = keys[kept].clone();
    let refused = refuse(&mut check, posing, &pages[2]);
    assert!(matches!(refused, ListError::NotLeft { .. }), "{refused}");
    let mut altered = page(&pages[2]);
    altered.leaves[0].record[28] ^= 1;
    assert_eq!(refuse(&mut check, altered, &pages[2]), ListError::WrongRoot);
    let swapped = [pages[0].clone(), pages[2].clone(), pages[1].clone(), pages[3].clone()];
    let root = vault.tree.root();
    assert_eq!(verify_list(&root, &prefix, 0, &swapped), Err(ListError::NotTheNext));
    for other in [ListProof::Whole(whole(&mut vault, &prefix)), vault.list(b"\x04", 1).remove(0)] {
        assert_eq!(check.clone().accept(&other), Err(ListError::NotAPage));
    }
}

#[test]
fn keys_that_do_not_begin_with_the_prefix_are_refused() {
    let mut vault = list_vault();
    let (root, prefix) = (vault.tree.root(), viewers());
    let all = keys_of(&vault, b"");
    let start = all.iter().position(|key| key.starts_with(&prefix)).unwrap();
    let count = keys_of(&vault, &prefix).len();
    for (run, index) in [
        (&all[start..=start + count], count),
        (&all[start - 1..start + count], 0),
        (&all[start - 1..=start + count], 0),
        (&all[start + count..], 0),
    ] {
        let claim = vault.page_of(&refs(run));
        assert_eq!(claim.verify(&root, &prefix), Err(ListError::OutsidePrefix { index }));
    }
    let honest = whole(&mut vault, &prefix);
    let other = StateKey::resource_prefix("document:1", Some("viewes"));
    assert_eq!(honest.verify(&root, &other), Err(ListError::OutsidePrefix { index: 0 }));
    let shorter = StateKey::resource_prefix("document:1", None);
    assert_eq!(honest.verify(&root, &prefix).unwrap().len(), count);
    let refused = honest.verify(&root, &shorter);
    assert!(matches!(refused, Err(ListError::BitBeyondPrefix { .. })), "{refused:?}");
}

#[test]
fn reordered_and_repeated_leaves_are_refused() {
    let mut vault = list_vault();
    let (root, prefix) = (vault.tree.root(), viewers());
    let honest = whole(&mut vault, &prefix);
    for first in 0..honest.leaves.len() {
        for second in first..honest.leaves.len() {
            let mut repeated = honest.clone();
            repeated.leaves.insert(second + 1, honest.leaves[first].clone());
            let refused = repeated.verify(&root, &prefix);
            assert_eq!(refused, Err(ListError::NotAscending { index: second + 1 }));
            let mut swapped = honest.clone();
            swapped.leaves.swap(first, second);
            let refused = swapped.verify(&root, &prefix);
            assert_eq!(refused.is_err(), first != second);
            let keys: Vec<&[u8]> = swapped.leaves.iter().map(|leaf| &leaf.key[..]).collect();
            let refused = vault.page_of(&keys).verify(&root, &prefix);
            assert_eq!(refused.is_err(), first != second);
        }
    }
    let mut exchanged = honest.clone();
    exchanged.leaves[0].record = [exchanged.leaves[0].record, exchanged.leaves[1].record][1];
    assert_eq!(exchanged.verify(&root, &prefix), Err(ListError::WrongRoot), "another's record");
}

#[test]
fn malformed_leaves_and_prefixes_are_refused() {
    let mut vault = list_vault();
    let (root, prefix) = (vault.tree.root(), viewers());
    let honest = whole(&mut vault, &prefix);
    let mut versioned = honest.clone();
    versioned.leaves[1].record[0] = 2;
    let refused = versioned.verify(&root, &prefix);
    assert!(matches!(refused, Err(ListError::Record { index: 1, .. })), "{refused:?}");
    let mut long = honest.clone();
    long.leaves[2].key.resize(2049, b'x');
    let refused = long.verify(&root, &prefix);
    assert_eq!(refused, Err(ListError::LeafKeyLength { index: 2, len: 2049 }));
    let none = PageProof { left: vec![], right: vec![], leaves: vec![] };
    assert_eq!(none.verify(&root, &prefix), Err(ListError::NoLeaves));
    assert_eq!(none.verify(&hash::empty_root(), &prefix), Err(ListError::NoLeaves));
    for len in [0, 2049] {
        let prefix = vec![1; len];
        let refused = ListError::PrefixLength { len };
        assert_eq!(honest.verify(&root, &prefix), Err(refused.clone()));
        assert_eq!(none.verify(&root, &prefix), Err(refused.clone()));
        assert_eq!(ListCheck::new(root, &prefix, 0), Err(refused));
    }
}

#[test]
fn expired_items_are_dropped_only_after_the_proof_holds() {
    let mut vault = list_vault();
    let (root, prefix) = (vault.tree.root(), StateKey::entity_prefix("team:"));
    for time in [0, NOW - 3, NOW - 2, NOW - 1, NOW, NOW + 49, NOW + 50, u64::MAX] {
        let items = expected(&vault, &prefix, time);
        // A page at a time, so that pages end with expired items, too.
        for size in 1..=5 {
            let pages = vault.list(&prefix, size);
            assert_eq!(verify_list(&root, &prefix, time, &pages), Ok(items.clone()));
        }
    }
    let counts = [0, NOW - 2, NOW - 1, NOW + 50].map(|time| expected(&vault, &prefix, time).len());
    assert_eq!(counts, [4, 3, 2, 1]);
    // Leaving an expired item out, as a helpful server might, breaks the proof.
    let mut tidied = whole(&mut vault, &prefix);
    tidied.leaves.remove(1);
    let claim = [ListProof::Whole(tidied)];
    assert_eq!(verify_list(&root, &prefix, NOW, &claim), Err(ListError::WrongRoot));
}

/// What lists do not promise: under a root that nobody honest computed, a leaf can stand where no
/// list looks. It cannot be shown to be present there either.
#[test]
fn a_made_up_root_can_hide_a_leaf_from_lists_and_then_from_key_proofs_too() {
    let record = honest_record();
    let [shown, hidden, other] =
        ["p:a", "p:b", "q"].map(|key| StateKey::entity(key).as_bytes().to_vec());
    let leaf = |key: &[u8]| hash::state_leaf(key, &hash::plain(&record));
    let bit = bits::first_difference(&shown, &other).unwrap();
    let deeper = bits::BITS_MAX - 1;
    let misplaced = hash::branch(deeper, &leaf(&hidden), &leaf(&other));
    let root = hash::branch(bit, &leaf(&shown), &misplaced);
    let prefix = StateKey::entity_prefix("p:");
    let leaves = vec![ListLeaf { key: shown, record }];
    let proof = PrefixProof { path: vec![(bit, misplaced)], leaves };
    assert_eq!(proof.verify(&root, &prefix).unwrap().len(), 1, "the list holds and lacks a leaf");
    let path = vec![(bit, leaf(&proof.leaves[0].key)), (deeper, leaf(&other))];
    let key_proof = KeyProof { path, leaf_key: hidden.clone(), record };
    assert_eq!(key_proof.verify(&root, &hidden), Err(ProofError::WrongRoot));
}

/// A page folded by the definition: the root, and the way from it to one of the subtrees.
fn fold(hashes: &[Digest], separators: &[u16], index: usize) -> (Digest, Vec<(u16, Digest)>) {
    let Some(top) = separators.iter().min() else { return (hashes[0], Vec::new()) };
    let split = separators.iter().position(|bit| bit == top).unwrap_or(0);
    let is_once = !separators[split + 1..].contains(top);
    assert!(is_once, "bits on the right sides never meet their equal");
    let is_left = index <= split;
    let at = |side_is_left: bool, index: usize| if is_left == side_is_left { index } else { 0 };
    let (left, left_path) = fold(&hashes[..=split], &separators[..split], at(true, index));
    let right_index = at(false, index.saturating_sub(split + 1));
    let (right, right_path) = fold(&hashes[split + 1..], &separators[split + 1..], right_index);
    let (sibling, rest) = if is_left { (right, left_path) } else { (left, right_path) };
    let path = [vec![(*top, sibling)], rest].concat();
    (hash::branch(*top, &left, &right), path)
}

proptest! {
    /// Pages under roots that nobody computed from a state: whatever a page shows is present for
    /// key proofs, too, so even then a key has one record.
    #[test]
    fn what_a_page_shows_is_present_whatever_the_root(
        keys in proptest::collection::btree_set("\\PC{1,4}", 1..6),
        left in proptest::collection::btree_set(0u16..60, 0..8),
        right in proptest::collection::btree_set(0u16..60, 0..8),
    ) {
        let keys: Vec<Vec<u8>> =
            keys.iter().map(|key| StateKey::entity(key).as_bytes().to_vec()).collect();
        let leaves: Vec<ListLeaf> =
            keys.into_iter().map(|key| ListLeaf { key, record: [1; 93] }).collect();
        let (first, last) = (leaves[0].key.clone(), leaves[leaves.len() - 1].key.clone());
        let steps = |bits_wanted: &std::collections::BTreeSet<u16>, key: &[u8], side: usize| {
            let on_side = bits_wanted.iter().filter(|bit| bits::side(key, **bit) == side);
            on_side.map(|bit| (*bit, hash::plain(&[*bit as u8, side as u8]))).collect::<Vec<_>>()
        };
        let (left, right) = (steps(&left, &first, 1), steps(&right, &last, 0));
        let mut hashes: Vec<Digest> = left.iter().map(|(_, digest)| *digest).collect();
        hashes.extend(leaves.iter().map(|l| hash::state_leaf(&l.key, &hash::plain(&l.record))));
        hashes.extend(right.iter().rev().map(|(_, digest)| *digest));
        let mut separators: Vec<u16> = left.iter().map(|(bit, _)| *bit).collect();
        let differences = leaves.windows(2).map(|pair| bits::first_difference(&pair[0].key, &pair[1].key));
        separators.extend(differences.map(|bit| bit.expect("keys differ")));
        separators.extend(right.iter().rev().map(|(bit, _)| *bit));
        let (root, _) = fold(&hashes, &separators, 0);
        let page = PageProof { left, right, leaves };
        prop_assert!(page.verify(&root, &[1]).is_ok());
        for (number, leaf) in page.leaves.iter().enumerate() {
            let (_, path) = fold(&hashes, &separators, page.left.len() + number);
            let ListLeaf { key, record } = leaf.clone();
            let proof = KeyProof { path, leaf_key: key.clone(), record };
            prop_assert!(matches!(proof.verify(&root, &key), Ok(Presence::Present(_))));
        }
    }
}

#[test]
fn every_changed_byte_of_a_list_is_refused() {
    let mut vault = list_vault();
    let root = vault.tree.root();
    for (prefix, size) in [
        (StateKey::entity_prefix("none"), 1),
        (viewers(), 100),
        (viewers(), 1),
        (StateKey::subject_prefix("user:a", None), 3),
    ] {
        let pages = vault.list(&prefix, size);
        verify_list(&root, &prefix, 0, &pages).unwrap();
        let (mut unread, mut refused) = (0, 0);
        for number in 0..pages.len() {
            let bytes = pages[number].encode();
            for offset in 0..bytes.len() {
                for bit in [offset % 8, (offset + 3) % 8] {
                    let mut mutated = bytes.clone();
                    mutated[offset] ^= 1 << bit;
                    let Ok(page) = ListProof::decode(&mutated) else {
                        unread += 1;
                        continue;
                    };
                    assert_eq!(page.encode(), mutated);
                    let mut changed = pages.clone();
                    changed[number] = page;
                    let held = verify_list(&root, &prefix, 0, &changed);
                    assert!(held.is_err(), "page {number}, byte {offset}, bit {bit}");
                    refused += 1;
                }
            }
        }
        assert!(unread > 5 && refused > 300, "{unread} unread, {refused} refused");
    }
}

#[test]
fn claims_of_more_than_fits_are_refused_before_memory_is_taken() {
    let mut vault = list_vault();
    let honest = ListProof::Page(page(&vault.list(&viewers(), 2)[0])).encode();
    let with = |offset: usize, bytes: &[u8]| {
        let mut claimed = honest.clone();
        claimed[offset..offset + bytes.len()].copy_from_slice(bytes);
        ListProof::decode(&claimed).unwrap_err()
    };
    ListProof::decode(&honest).unwrap();
    assert!(matches!(with(0, &[4]), DecodeError::UnknownValue { value: 4, .. }));
    assert!(matches!(with(0, &[0]), DecodeError::UnknownValue { value: 0, .. }));
    let too_long = |error| matches!(error, DecodeError::TooLong { .. });
    assert!(too_long(with(1, &[0xff, 0xff])));
    assert!(too_long(with(1, &18_433u16.to_be_bytes())));
    assert!(matches!(with(1, &18_432u16.to_be_bytes()), DecodeError::Truncated { .. }));
    let empty_page = |leaves: u16| [&[3, 0, 0, 0, 0][..], &leaves.to_be_bytes()].concat();
    assert!(ListProof::decode(&empty_page(0)).is_ok(), "the form is right, the check refuses it");
    let max = LIST_LEAVES_MAX as u16;
    let refused = ListProof::decode(&empty_page(max + 1)).unwrap_err();
    assert_eq!(
        refused,
        DecodeError::TooLong {
            field: "leaves of the list",
            len: LIST_LEAVES_MAX + 1,
            max: LIST_LEAVES_MAX
        }
    );
    let refused = ListProof::decode(&empty_page(max)).unwrap_err();
    assert!(matches!(refused, DecodeError::Truncated { .. }));
    let long_key = [&empty_page(1)[..], &2049u16.to_be_bytes(), &[7; 3000]].concat();
    assert!(too_long(ListProof::decode(&long_key).unwrap_err()));
    let trailing = ListProof::decode(&[&honest[..], &[0]].concat());
    assert_eq!(trailing, Err(DecodeError::TrailingBytes { count: 1 }));
    assert_eq!(
        ListProof::decode(&[]).map(|_| ()),
        Err(DecodeError::Truncated { field: "form of the list proof" })
    );
}

proptest! {
    #[test]
    fn the_decoder_takes_any_bytes(
        form in 0u8..5,
        counts in proptest::collection::vec(0u16..3, 3),
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut input = vec![form];
        input.extend(counts[..usize::from(form.min(3))].iter().flat_map(|c| c.to_be_bytes()));
        input.extend_from_slice(&bytes);
        if let Ok(proof) = ListProof::decode(&input) {
            prop_assert_eq!(proof.encode(), input);
            let held = verify_list(&Digest([7; 32]), &[1], 0, &[proof]);
            prop_assert!(held.is_err());
        }
    }
}
