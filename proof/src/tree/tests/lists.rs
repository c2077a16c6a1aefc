//! Tests of list proofs against the recursive definition of the tree and a plain filter of the rows.

use ledger_types::StateKey;

use super::*;

/// Keys of every kind, many of which share prefixes, some being prefixes of others.
fn list_key(dice: &mut Dice) -> Vec<u8> {
    let resource = resource(dice);
    let relation = RELATIONS[dice.roll(3) as usize];
    let subject = format!("user:{}", dice.roll(12));
    match dice.roll(8) {
        0..=2 => StateKey::by_resource(&resource, relation, &subject).as_bytes().to_vec(),
        3..=5 => StateKey::by_subject(&resource, relation, &subject).as_bytes().to_vec(),
        6 => StateKey::entity(&format!("user:{:04}", dice.roll(3000))).as_bytes().to_vec(),
        _ => vec![[1, b'a'][dice.roll(2) as usize]; 1 + dice.roll(40) as usize],
    }
}

const RELATIONS: [&str; 3] = ["view", "viewer", "owner"];

fn resource(dice: &mut Dice) -> String {
    let kind = ["doc", "document", "folder"][dice.roll(3) as usize];
    format!("{kind}:{}", dice.roll(20))
}

/// Prefixes of every kind, of lists that are empty, short and long.
fn list_prefix(dice: &mut Dice) -> Vec<u8> {
    let resource = resource(dice);
    let subject = format!("user:{}", dice.roll(15));
    match dice.roll(9) {
        0 => StateKey::resource_prefix(&resource, None),
        1 => StateKey::resource_prefix(&resource, Some(RELATIONS[dice.roll(3) as usize])),
        2 => [&[2], &b"document:"[..]].concat(),
        3 => StateKey::subject_prefix(&subject, None),
        4 => StateKey::subject_prefix(&subject, Some(&resource)),
        5 => StateKey::entity_prefix(["", "user:", "user:1", "none"][dice.roll(4) as usize]),
        6 => vec![dice.roll(5) as u8],
        7 => list_key(dice),
        _ => {
            let mut key = list_key(dice);
            key.truncate(1 + dice.roll(key.len() as u64) as usize);
            key
        }
    }
}

fn expiring(number: u64, expires_at: u64) -> Record {
    Record { expires_at, ..record(number) }
}

/// What is left of the leaf at `index` on its way down: the definition of a page's left side.
fn naive_left(leaves: &[(&[u8], Digest)], index: usize) -> Vec<(u16, Digest)> {
    let [(first, _), .., (last, _)] = leaves else { return Vec::new() };
    let bit = bits::first_difference(first, last).expect("keys are distinct");
    let split = leaves.partition_point(|(key, _)| bits::side(key, bit) == 0);
    if index < split {
        return naive_left(&leaves[..split], index);
    }
    let mut path = vec![(bit, naive(&leaves[..split]))];
    path.extend(naive_left(&leaves[split..], index - split));
    path
}

/// The same for the right side.
fn naive_right(leaves: &[(&[u8], Digest)], index: usize) -> Vec<(u16, Digest)> {
    let [(first, _), .., (last, _)] = leaves else { return Vec::new() };
    let bit = bits::first_difference(first, last).expect("keys are distinct");
    let split = leaves.partition_point(|(key, _)| bits::side(key, bit) == 0);
    if index >= split {
        return naive_right(&leaves[split..], index - split);
    }
    let mut path = vec![(bit, naive(&leaves[split..]))];
    path.extend(naive_right(&leaves[..split], index));
    path
}

impl Replica {
    /// Proves a list in pages, compares each with the definition and all with a filter of the rows.
    fn check_list(&mut self, prefix: &[u8], limits: ListLimits, expiry_time: u64) -> usize {
        let root = self.tree.root();
        let mut check = ListCheck::new(root, prefix, expiry_time).unwrap();
        let leaves = self.rows.naive_leaves();
        let (mut items, mut proofs) = (Vec::new(), Vec::new());
        while !check.is_complete() {
            let kept = check.kept_key().map(<[u8]>::to_vec);
            let proof =
                self.tree.prove_list(prefix, kept.as_deref(), limits, &self.rows).unwrap().unwrap();
            assert_eq!(ListProof::decode(&proof.encode()).as_ref(), Ok(&proof));
            check_against_definition(&proof, prefix, kept.as_deref(), limits, &leaves);
            items.extend(check.accept(&proof).unwrap());
            proofs.push(proof);
        }
        let expected: Vec<ListItem> = self
            .rows
            .records
            .iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, record)| ListItem {
                key: key.clone(),
                record: Record::decode(record).unwrap(),
            })
            .filter(|item| !item.record.is_expired(expiry_time))
            .collect();
        assert_eq!(items, expected);
        assert_eq!(verify_list(&root, prefix, expiry_time, &proofs), Ok(expected));
        if let Some((_, before)) = proofs.split_last().filter(|(_, before)| !before.is_empty()) {
            let cut = verify_list(&root, prefix, expiry_time, before);
            assert_eq!(cut, Err(ListError::Unfinished));
        }
        proofs.len()
    }
}

/// Compares one proof with the definition, and what it shows with what the limits ask for.
fn check_against_definition(
    proof: &ListProof,
    prefix: &[u8],
    kept: Option<&[u8]>,
    limits: ListLimits,
    all: &[(&[u8], Digest)],
) {
    let end = all.partition_point(|(key, _)| key.starts_with(prefix) || *key < prefix);
    let start = all.partition_point(|(key, _)| *key < kept.unwrap_or(prefix));
    let (leaves, next) = match proof {
        ListProof::Empty(_) => return assert_eq!(start, end),
        ListProof::Whole(proof) => (&proof.leaves, end),
        ListProof::Page(proof) => {
            let next = start + proof.leaves.len();
            assert_eq!(proof.left, naive_left(all, start));
            assert_eq!(proof.right, naive_right(all, next - 1));
            (&proof.leaves, next)
        }
    };
    let shown: Vec<&[u8]> = leaves.iter().map(|leaf| &leaf.key[..]).collect();
    let expected: Vec<&[u8]> = all[start..next].iter().map(|(key, _)| *key).collect();
    assert_eq!(shown, expected, "no row is left out");
    let new = &shown[usize::from(kept.is_some())..];
    let bytes: usize = new.iter().map(|key| key.len() + 95).sum();
    assert!(new.len() <= limits.items.max(1));
    assert!(new.len() <= 1 || bytes <= limits.leaf_bytes);
    if next < end {
        let with_next = bytes + all[next].0.len() + 95;
        let is_full = new.len() == limits.items.max(1) || with_next > limits.leaf_bytes;
        assert!(is_full, "no page is short");
    }
}

fn run_lists(seed: u64) {
    let mut dice = Dice(seed | 1);
    let mut replica = Replica::new();
    replica.block(vec![(vec![0], Some(record(0)))]);
    for step in 0..4 {
        let changes = (0..dice.roll(300)).map(|number| {
            let record = expiring(step * 1000 + number, dice.roll(3) * dice.roll(100));
            (list_key(&mut dice), (dice.roll(5) > 0).then_some(record))
        });
        let changes: Vec<_> = changes.collect();
        replica.block(changes);
        match dice.roll(4) {
            0 => replica.flush(),
            1 => replica.crash(),
            2 => {
                replica.flush();
                replica.tree.evict(0);
            }
            _ => {}
        }
        for _ in 0..8 {
            let prefix = list_prefix(&mut dice);
            let items = replica.rows.records.keys().filter(|key| key.starts_with(&prefix)).count();
            // Short lists come a leaf at a time as well, long ones in a few pages.
            let items_max = items / 4 + dice.roll(8) as usize;
            let leaf_bytes = 40 * items + dice.roll(2000) as usize;
            replica.check_list(
                &prefix,
                ListLimits { items: items_max, leaf_bytes },
                dice.roll(200),
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn any_list_is_what_the_rows_hold(seed in any::<u64>()) {
        run_lists(seed);
    }
}

const ALL: ListLimits = ListLimits { items: 10_000, leaf_bytes: 1 << 24 };

/// A vault's worth of relationships with nothing in memory.
fn stored_lists() -> Replica {
    let mut replica = Replica::new();
    let mut dice = Dice(77);
    replica.block(vec![(vec![0], Some(record(0)))]);
    replica.block((0..3000).map(|n| (list_key(&mut dice), Some(record(n)))).collect());
    replica.flush();
    replica.crash();
    replica
}

/// Counts the pages that are read.
struct Counting<'a> {
    rows: &'a Rows,
    pages: std::cell::Cell<u32>,
    visited: std::cell::Cell<u32>,
}

impl TreeStore for Counting<'_> {
    fn page(&self, id: u64, height: u64) -> Result<Option<Vec<u8>>, ReadFault> {
        self.pages.set(self.pages.get() + 1);
        self.rows.page(id, height)
    }

    fn scan(
        &self,
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ReadFault> {
        self.rows.scan(from, &mut |key, record| {
            self.visited.set(self.visited.get() + 1);
            visit(key, record)
        })
    }
}

#[test]
fn a_page_reads_its_own_rows_and_the_pages_at_its_ends() {
    let mut replica = Replica::new();
    let key = |number: u64| [&[1], &hash::plain(&number.to_be_bytes()).0[..12]].concat();
    replica.block((0..16_000).map(|number| (key(number), Some(record(number)))).collect());
    replica.flush();
    assert!(replica.rows.pages.len() > 16, "{} pages", replica.rows.pages.len());
    let mut tree = StateTree::open(&replica.anchor);
    let store = Counting {
        rows: &replica.rows,
        pages: std::cell::Cell::new(0),
        visited: std::cell::Cell::new(0),
    };
    let limits = ListLimits { items: 5000, leaf_bytes: 1 << 20 };
    let first = tree.prove_list(&[1], None, limits, &store).unwrap().unwrap();
    let ListProof::Page(first) = first else { panic!("it does not fit") };
    assert_eq!(first.leaves.len(), 5000);
    assert!((1..=6).contains(&store.pages.get()), "{} pages", store.pages.get());
    assert!(store.visited.get() < 5000 + 100, "{} rows", store.visited.get());
    let kept = &first.leaves[4999].key;
    store.pages.set(0);
    let next = tree.prove_list(&[1], Some(kept), limits, &store).unwrap().unwrap();
    let ListProof::Page(next) = next else { panic!("it is a later page") };
    assert_eq!((&next.leaves[0], next.leaves.len()), (&first.leaves[4999], 5001));
    assert!(store.pages.get() <= 3, "{} more pages", store.pages.get());
}

#[test]
fn pages_begin_with_kept_leaves_of_the_list_only() {
    let mut replica = stored_lists();
    let prefix = StateKey::resource_prefix("document:3", None);
    let some = replica.rows.records.keys().find(|key| key.starts_with(&prefix)).unwrap().clone();
    let prove = |replica: &mut Replica, kept: &[u8]| {
        replica.tree.prove_list(&prefix, Some(kept), ALL, &replica.rows).unwrap()
    };
    assert!(prove(&mut replica, &some).is_some());
    assert_eq!(prove(&mut replica, &[&some[..], b"x"].concat()), None, "no such leaf");
    assert_eq!(prove(&mut replica, &prefix), None, "no such leaf, though the list goes on");
    assert_eq!(prove(&mut replica, &[&prefix[..], &[0xff]].concat()), None, "after the list");
    assert_eq!(prove(&mut replica, &[0]), None, "a leaf of another list");
    replica.check_list(&prefix, ALL, 0);
}

#[test]
fn rows_that_contradict_the_tree_make_no_list() {
    let prefix = [&[2], &b"document:1"[..]].concat();
    let mut replica = stored_lists();
    let keys = replica.rows.records.keys().filter(|key| key.starts_with(&prefix));
    let keys: Vec<Vec<u8>> = keys.cloned().collect();
    assert!(keys.len() > 100, "{} keys are in many buckets", keys.len());
    let damages: [fn(&mut Rows, &Vec<u8>); 4] = [
        |rows, key| rows.records.get_mut(key).unwrap()[60] ^= 1,
        |rows, key| rows.records.get_mut(key).unwrap()[0] = 9,
        |rows, key| assert!(rows.records.remove(key).is_some()),
        |rows, key| {
            rows.records.insert([&key[..], b"x"].concat(), record(1).encode());
        },
    ];
    for (number, key) in keys[..keys.len() - 2].iter().enumerate().step_by(5) {
        for (kind, damage) in damages.iter().enumerate() {
            let mut rows = replica.rows.clone();
            damage(&mut rows, key);
            for items in [ALL.items, keys.len() - 1, number + 1] {
                let limits = ListLimits { items, ..ALL };
                let mut tree = StateTree::open(&replica.anchor);
                let made = tree.prove_list(&prefix, None, limits, &rows);
                // A row too many after a page's end is seen only if it is in a bucket on the way.
                let is_beyond = kind == 3 && items == number + 1;
                assert!(made.is_err() || is_beyond, "kind {kind} at {number}: {made:?}");
            }
        }
    }
    replica.rows.records.retain(|key, _| !key.starts_with(&prefix));
    let made = replica.tree.prove_list(&prefix, None, ALL, &replica.rows);
    assert!(made.is_err(), "rows that are all gone are no empty list");
}

/// Both sides of the run and the run itself are as deep as keys are long.
#[test]
fn the_deepest_lists_are_proved() {
    let mut replica = Replica::new();
    let keys: Vec<Vec<u8>> = (1..=2048).map(|len| vec![0xff; len]).collect();
    replica.block(keys.iter().map(|key| (key.clone(), Some(record(1)))).collect());
    replica.flush();
    replica.crash();
    replica.check_list(&keys[2000], ListLimits { items: 30, ..ALL }, 0);
    let last = &keys[2047];
    let proof = replica.tree.prove_list(last, None, ALL, &replica.rows).unwrap().unwrap();
    let ListProof::Whole(proof) = proof else { panic!("it is one leaf") };
    assert_eq!((proof.path.len(), proof.leaves.len()), (2047, 1));
    let lone = replica.tree.prove_list(&[0xff], None, ALL, &replica.rows).unwrap().unwrap();
    let root = replica.tree.root();
    assert_eq!(verify_list(&root, &[0xff], 0, &[lone]).unwrap().len(), 2048);
}
