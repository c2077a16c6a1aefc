//! Earlier heights, proved from stored pages and rows, compared with what was there when each was the tip.

use std::collections::{BTreeMap, BTreeSet};

use ledger_proof::{
    BlockHeader, ListCheck, ListLimits, PageSummary, Presence, Record, TreeAnchor, rfc9162, tx_tree,
};
use ledger_types::limits::PAST_KEYS_MAX;
use ledger_types::{Operation, StateKey};
use proptest::prelude::*;

use super::harness::*;
use crate::apply::ApplyConfig;
use crate::query::{
    EntityQuery, ListRequest, LogSizes, PageLimits, PastTree, PastTrees, QueryError, StateProof,
    entities,
};
use crate::rows::{RetiredPage, TreeRow, split_history_key, split_latest, split_tree_key};
use crate::view::{Family, MemoryRows, RowWrite};

/// A small generator, so that one proptest seed makes a long history.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// The rows of one height: state key -> record and value.
type State = BTreeMap<Vec<u8>, Vec<u8>>;

/// A vault with everything that it ever was.
struct Lived {
    machine: Machine,
    /// By height.
    states: Vec<State>,
    dice: Dice,
}

impl Lived {
    fn new(config: ApplyConfig, seed: u64) -> Lived {
        Lived::in_machine(Machine::with(config), seed)
    }

    fn in_machine(machine: Machine, seed: u64) -> Lived {
        let states = vec![latest(&machine.rows)];
        Lived { machine, states, dice: Dice(seed | 1) }
    }

    fn tip(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    fn floor(&self) -> u64 {
        self.machine.vault_row(vault()).history_floor
    }

    fn name(&mut self) -> String {
        match self.dice.roll(5) {
            0 => format!("k{:03}", self.dice.roll(400)),
            1 => format!("hot{}", self.dice.roll(3)),
            _ => format!("group/{:02}/{:02}", self.dice.roll(8), self.dice.roll(40)),
        }
    }

    fn operation(&mut self) -> Operation {
        let (doc, user) =
            (format!("doc:{}", self.dice.roll(9)), format!("user:{}", self.dice.roll(12)));
        let now_s = self.machine.time_ns / SECOND;
        match self.dice.roll(10) {
            0..=3 => set(&self.name(), &self.dice.roll(1000).to_string()),
            4 => set_until(&self.name(), "mortal", now_s + self.dice.roll(5)),
            5 => delete(&self.name()),
            6 => expire(&self.name(), now_s),
            7..=8 => relate(&doc, "viewer", &user),
            _ => unrelate(&doc, "viewer", &user),
        }
    }

    /// Applies one entry with some transactions.
    fn block(&mut self) {
        self.machine.time_ns += self.dice.roll(2 * SECOND);
        let most = if self.tip() == 0 { 150 } else { 24 };
        let writes: Vec<_> = (0..=self.dice.roll(3))
            .map(|_| {
                let operations: Vec<_> =
                    (0..=self.dice.roll(most)).map(|_| self.operation()).collect();
                write(&operations)
            })
            .collect();
        self.machine.writes(&writes);
        self.states.push(latest(&self.machine.rows));
        assert_eq!(self.machine.vault_row(vault()).height, self.tip());
    }

    fn blocks(&mut self, count: u64) {
        for _ in 0..count {
            self.block();
        }
    }

    fn open(&self, height: u64) -> PastTree {
        PastTree::open(&self.machine.rows, vault(), height, PAST_KEYS_MAX).unwrap()
    }

    /// Compares everything that can be asked of a height with what it was.
    fn check_height(&mut self, height: u64, tree: &mut PastTree) {
        let tip = self.tip();
        let log_size = height + 1 + self.dice.roll(tip - height + 1);
        let known = self.dice.roll(log_size + 1);
        let sizes = LogSizes { log_size: Some(log_size), known_size: Some(known) };
        let mut keys = vec![StateKey::descriptor(), StateKey::entity("absent")];
        for _ in 0..12 {
            keys.push(StateKey::entity(&self.name()));
            let (doc, user) =
                (format!("doc:{}", self.dice.roll(9)), format!("user:{}", self.dice.roll(12)));
            keys.push(StateKey::by_resource(&doc, "viewer", &user));
            keys.push(StateKey::by_subject(&doc, "viewer", &user));
        }
        let rows = &self.machine.rows;
        let proof = tree.prove(rows, &keys, sizes).unwrap();
        let header = self.check_place(&proof, height, sizes);
        assert_eq!(proof.keys.len(), keys.len());
        for (key, proved) in keys.iter().zip(&proof.keys) {
            let presence = proved.proof.verify(&header.state_root, key.as_bytes()).unwrap();
            let expected = self.states[height as usize].get(key.as_bytes());
            let expected = expected.map(|row| split_latest(row).unwrap());
            match expected {
                None => assert_eq!((presence, &proved.value), (Presence::Absent, &None)),
                Some((record, value)) => {
                    let record = Record::decode(record).unwrap();
                    assert_eq!(presence, Presence::Present(record), "{key:?} at {height}");
                    assert_eq!(proved.value.as_deref(), Some(value));
                }
            }
        }
        let prefix = match self.dice.roll(6) {
            0 => StateKey::entity_prefix(""),
            1 => StateKey::entity_prefix("group/"),
            2 => StateKey::entity_prefix(&format!("group/{:02}/", self.dice.roll(9))),
            3 => StateKey::all_by_resource(),
            4 => StateKey::subject_prefix(&format!("user:{}", self.dice.roll(13)), None),
            _ => StateKey::resource_prefix(&format!("doc:{}", self.dice.roll(10)), None),
        };
        let expected = self.expected(height, &prefix);
        // A few pages each time, ended by one limit or another.
        let some = 1 + expected.len() / 4;
        let limits = ListLimits {
            items: [some, 10_000][self.dice.roll(2) as usize],
            leaf_bytes: [0, 100 * some, 1 << 20][self.dice.roll(3) as usize],
        };
        let value_bytes = [0, 3 * some, 1 << 20][self.dice.roll(3) as usize];
        let is_slow = expected.len() > 20 && (limits.leaf_bytes == 0 || value_bytes == 0);
        let (limits, value_bytes) = match is_slow {
            true => (ListLimits { leaf_bytes: 1 << 20, ..limits }, 1 << 20),
            false => (limits, value_bytes),
        };
        let listed = list(&header, &prefix, |kept| {
            let request = ListRequest { prefix: &prefix, kept, limits, value_bytes };
            let page =
                tree.prove_list(rows, &request, sizes).unwrap().expect("the kept key is there");
            self.check_place(&page.state, height, sizes);
            (page.list, page.values)
        });
        assert_eq!(listed, expected, "{prefix:?} at {height}");
    }

    /// What a list must show: keys, records, and values of all but relationships.
    fn expected(&self, height: u64, prefix: &[u8]) -> Vec<Listed> {
        let rows = self.states[height as usize].iter().filter(|(key, _)| key.starts_with(prefix));
        rows.map(|(key, row)| {
            let (record, value) = split_latest(row).unwrap();
            let value = StateKey::as_relationship(key).is_none().then(|| value.to_vec());
            (key.clone(), Record::decode(record).unwrap(), value)
        })
        .collect()
    }

    /// Checks header and paths against the chain.
    fn check_place(&self, proof: &StateProof, height: u64, sizes: LogSizes) -> BlockHeader {
        let root = |size: u64| {
            let leaves = (0..size).map(|at| self.machine.header(vault(), at).block_hash());
            tx_tree::tx_root(&leaves.collect::<Vec<_>>())
        };
        let header = BlockHeader::decode(&proof.header).unwrap();
        assert_eq!(header, self.machine.header(vault(), height));
        let size = sizes.log_size.unwrap_or(self.tip() + 1);
        assert_eq!((proof.height, proof.log_size, proof.log_root), (height, size, root(size)));
        let leaf = header.block_hash();
        let included =
            rfc9162::verify_inclusion(&leaf, height, size, &proof.inclusion, &proof.log_root);
        assert_eq!(included, Ok(()));
        if let Some(known) = sizes.known_size.filter(|known| *known > 0) {
            let (old, new) = (root(known), &proof.log_root);
            let path = &proof.consistency;
            assert_eq!(rfc9162::verify_consistency(known, &old, size, new, path), Ok(()));
        }
        header
    }

    /// Every height from the floor on, and the refusal of the one below it.
    fn check_all(&mut self) {
        let floor = self.floor();
        for height in floor..=self.tip() {
            let mut tree = self.open(height);
            self.check_height(height, &mut tree);
            self.check_height(height, &mut tree);
            self.check_reads(height);
        }
        self.check_below_floor();
        check_tree_rows(&self.machine);
    }

    fn check_below_floor(&self) {
        let (floor, tip) = (self.floor(), self.tip());
        let refused = QueryError::HeightUnavailable { floor, tip };
        for height in [floor.checked_sub(1), Some(tip + 1)].into_iter().flatten() {
            let opened = PastTree::open(&self.machine.rows, vault(), height, PAST_KEYS_MAX);
            assert_eq!(opened.err(), Some(refused.clone()));
        }
    }

    /// Reads without proofs.
    fn check_reads(&self, height: u64) {
        let query = EntityQuery {
            vault: vault(),
            prefix: "",
            at_height: Some(height),
            time_s: 0,
            include_expired: true,
        };
        let (bytes_max, rows_max) = (usize::MAX, usize::MAX);
        let limits = PageLimits { after: None, items_max: 100_000, bytes_max, rows_max };
        let page = entities(&self.machine.rows, query, limits).unwrap();
        let found = page.items.into_iter().map(|one| (one.key, one.value));
        let expected = self.expected(height, &StateKey::entity_prefix(""));
        let expected = expected
            .into_iter()
            .map(|(key, _, value)| (StateKey::as_entity(&key).unwrap().to_owned(), value.unwrap()));
        assert!(found.eq(expected), "height {height}");
    }
}

type Listed = (Vec<u8>, Record, Option<Vec<u8>>);

/// All pages of a list, verified.
fn list(
    header: &BlockHeader,
    prefix: &[u8],
    mut page: impl FnMut(Option<&[u8]>) -> (ledger_proof::ListProof, Vec<Option<Vec<u8>>>),
) -> Vec<Listed> {
    let mut check = ListCheck::new(header.state_root, prefix, 0).unwrap();
    let mut listed = Vec::new();
    while !check.is_complete() {
        let kept = check.kept_key().map(<[u8]>::to_vec);
        let (proof, values) = page(kept.as_deref());
        let items = check.accept(&proof).unwrap();
        let kept_leaves = usize::from(kept.is_some());
        assert_eq!(items.len() + kept_leaves, values.len().max(kept_leaves));
        assert!(kept.is_none() || values[0].is_none(), "the caller has this value");
        for (item, value) in items.into_iter().zip(values.into_iter().skip(kept_leaves)) {
            if let Some(value) = &value {
                assert_eq!(ledger_proof::hash::plain(value), item.record.value_hash);
            }
            listed.push((item.key, item.record, value));
        }
    }
    listed
}

fn latest(rows: &MemoryRows) -> State {
    let rows = rows.family(Family::Latest);
    rows.map(|(key, row)| (key[16..].to_vec(), row.to_vec())).collect()
}

fn tree_rows(rows: &MemoryRows) -> Vec<TreeRow> {
    let keys = rows.family(Family::Tree).map(|(key, _)| split_tree_key(key));
    keys.map(|row| row.expect("a row of the tree family")).collect()
}

/// The pages that an anchor leads to.
fn reach(rows: &BTreeMap<(u64, u64), Vec<u8>>, anchor: &TreeAnchor) -> BTreeSet<(u64, u64)> {
    let mut reached = BTreeSet::new();
    let mut waiting: Vec<_> = anchor.root_page.into_iter().collect();
    while let Some(place) = waiting.pop() {
        let summary = PageSummary::read(&rows[&place]).unwrap();
        waiting.extend(summary.pages.iter().map(|page| (page.id, page.height)));
        assert!(reached.insert(place), "a page has one parent");
    }
    reached
}

/// There are exactly the pages that the anchors lead to, and it is told of each when it was retired. Returns the
/// heights of the anchors.
fn check_tree_rows(machine: &Machine) -> Vec<u64> {
    let (mut anchors, mut pages, mut retired) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
    for (key, value) in machine.rows.family(Family::Tree) {
        match split_tree_key(key).expect("a row of the tree family") {
            TreeRow::Anchor { height } => {
                let anchor = TreeAnchor::decode(value).unwrap();
                assert_eq!(anchor.height, height);
                anchors.push(anchor);
            }
            TreeRow::Page { id, height } => {
                pages.insert((id, height), value.to_vec());
            }
            TreeRow::Retired(page) => {
                assert!(value.is_empty());
                retired.insert(page);
            }
        }
    }
    anchors.push(machine.vault_row(vault()).tree_anchor);
    let (mut all, mut gone) = (reach(&pages, &anchors[0]), BTreeSet::new());
    for pair in anchors.windows(2) {
        assert!(pair[0].height < pair[1].height);
        let (old, new) = (reach(&pages, &pair[0]), reach(&pages, &pair[1]));
        let retired_height = pair[1].height;
        gone.extend(old.difference(&new).map(|&(id, height)| RetiredPage {
            retired_height,
            id,
            height,
        }));
        all.extend(new);
    }
    assert!(pages.keys().eq(all.iter()), "pages are reached from an anchor");
    assert_eq!(retired, gone);
    for anchor in &anchors {
        let header = machine.header(vault(), anchor.height);
        assert_eq!((anchor.root, anchor.leaf_count), (header.state_root, header.state_keys));
    }
    anchors.iter().map(|anchor| anchor.height).collect()
}

fn config(tree_flush_blocks: u64, tree_cache_bytes: usize, history: Option<u64>) -> ApplyConfig {
    ApplyConfig {
        tree_flush_blocks,
        tree_cache_bytes,
        history_blocks: history,
        ..ApplyConfig::default()
    }
}

/// Makes the rows of a directory as an older version would have left them: without anchors, and without the
/// pages that they lead to.
fn forget_anchors(rows: &mut MemoryRows) {
    let mut deleted = Vec::new();
    for (key, _) in rows.family(Family::Tree) {
        match split_tree_key(key).unwrap() {
            TreeRow::Page { .. } => continue,
            TreeRow::Anchor { .. } => {}
            TreeRow::Retired(page) => {
                deleted.push(crate::rows::tree_page_key(vault(), page.id, page.height));
            }
        }
        deleted.push(key.to_vec());
    }
    rows.write(deleted.into_iter().map(|key| RowWrite { family: Family::Tree, key, value: None }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn every_height_is_proved_as_it_was(
        seed in any::<u64>(),
        flush_blocks in 1..6u64,
        cache_bytes in prop_oneof![Just(0usize), Just(4096), Just(1 << 20)],
        history in prop_oneof![Just(None), (0..12u64).prop_map(Some)],
        ages in prop::collection::vec((1..6u64, any::<bool>(), any::<bool>()), 1..4),
    ) {
        let mut lived = Lived::new(config(flush_blocks, cache_bytes, history), seed);
        for (blocks, is_restarted, is_old_directory) in ages {
            lived.blocks(blocks);
            if is_old_directory {
                forget_anchors(&mut lived.machine.rows);
            }
            if is_restarted {
                lived.machine.restart();
            }
        }
        lived.check_all();
        lived.machine.check(vault());
    }

    #[test]
    fn history_is_kept_from_the_floor_on_and_no_further(
        seed in any::<u64>(),
        flush_blocks in 1..4u64,
        history in 0..12u64,
    ) {
        let mut kept = Lived::new(config(flush_blocks, 1 << 20, None), seed);
        let mut pruned = Lived::new(config(flush_blocks, 1 << 20, Some(history)), seed);
        kept.blocks(20);
        pruned.blocks(20);
        let floor = pruned.floor();
        // What the last flush could see ended one block before it.
        let last_flush = 20 - 20 % flush_blocks;
        prop_assert_eq!(floor, (last_flush - history.min(last_flush)).min(last_flush - 1));
        let still_needed = |key: &[u8]| split_history_key(key).unwrap().1 > floor;
        let all = kept.machine.rows.family(Family::History);
        let expected: Vec<_> = all.filter(|(key, _)| still_needed(key)).collect();
        prop_assert_eq!(expected, pruned.machine.rows.family(Family::History).collect::<Vec<_>>());
        let anchors = check_tree_rows(&pruned.machine);
        prop_assert!(anchors[0] <= floor || anchors[0] == flush_blocks);
        prop_assert!(anchors.get(1).is_none_or(|next| *next > floor), "{anchors:?} {floor}");
    }

    #[test]
    fn a_vault_forgets_what_it_or_its_node_does_not_keep(
        seed in any::<u64>(),
        flush_blocks in 1..4u64,
        kept in 1..12u64,
        more in 0..4u64,
    ) {
        let lived = |of_node, of_vault| {
            let machine = Machine::keeping(config(flush_blocks, 1 << 20, of_node), of_vault);
            let mut lived = Lived::in_machine(machine, seed);
            lived.blocks(8);
            // The rule is in the vault's row, and so outlives the process.
            lived.machine.restart();
            lived.blocks(12);
            lived
        };
        // `kept` newest blocks are the tip and `kept - 1` heights below it.
        let by_node = lived(Some(kept - 1), 0);
        prop_assert!(by_node.floor() > 0);
        for (of_node, of_vault) in [(None, kept), (Some(kept - 1 + more), kept), (Some(kept - 1), kept + more)] {
            let mut same = lived(of_node, of_vault);
            prop_assert_eq!(same.floor(), by_node.floor());
            for family in [Family::History, Family::Tree, Family::Latest] {
                let rows = |lived: &Lived| -> Vec<_> {
                    let rows = lived.machine.rows.family(family);
                    rows.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
                };
                prop_assert_eq!(rows(&same), rows(&by_node));
            }
            prop_assert_eq!(same.machine.vault_row(vault()).retention_blocks, of_vault);
            same.check_all();
        }
    }
}

#[test]
fn trees_of_many_pages_are_proved_at_every_height() {
    let mut lived = Lived::new(config(3, 1 << 20, Some(8)), 5);
    for block in 0..14u64 {
        let operations: Vec<_> = (0..if block == 0 { 3000 } else { 60 })
            .map(|number| {
                let key = format!("user/{:04}", (number * 7919 + block * 131) % 3000);
                if block > 0 && number % 3 == 0 {
                    delete(&key)
                } else {
                    set(&key, &block.to_string())
                }
            })
            .collect();
        lived.machine.commit(&operations);
        lived.states.push(latest(&lived.machine.rows));
    }
    assert!(lived.floor() > 0);
    let pages = tree_rows(&lived.machine.rows);
    let pages = pages.iter().filter(|row| matches!(row, TreeRow::Page { .. })).count();
    assert!(pages > 12, "{pages} pages");
    lived.check_all();
}

#[test]
fn the_way_with_fewer_keys_is_taken_and_its_length_is_limited() {
    // Anchors at 10 and 20; the tip is at 25.
    let mut lived = Lived::new(config(10, 1 << 20, None), 3);
    for height in 1..=25u64 {
        let keys = if height == 12 { 50 } else { 1 };
        let operations: Vec<_> =
            (0..keys).map(|n| set(&format!("k{n}"), &height.to_string())).collect();
        lived.machine.commit(&operations);
        lived.states.push(latest(&lived.machine.rows));
    }
    assert_eq!(check_tree_rows(&lived.machine), [10, 20]);
    let rows = &lived.machine.rows;
    let open = |height, keys_max| PastTree::open(rows, vault(), height, keys_max).map(|_| ());
    assert_eq!(open(10, 0), Ok(()), "an anchor is no way at all");
    assert_eq!(open(11, 1), Ok(()));
    let limited = |height, keys_max| Err(QueryError::TooManyChanges { height, keys_max });
    assert_eq!(open(12, 7), limited(12, 7));
    assert_eq!(open(12, 8), Ok(()), "back from 20, not over the 50 keys of block 12");
    assert_eq!(open(11, 0), limited(11, 0));
    assert_eq!(open(24, 3), limited(24, 3), "there is no anchor above");
    assert_eq!(open(24, 4), Ok(()));
    assert_eq!(open(3, 3), Ok(()), "from the beginning");
    lived.check_all();
}

#[test]
fn a_tree_serves_other_views_and_never_below_the_floor() {
    let mut lived = Lived::new(config(4, 1 << 20, Some(2)), 9);
    lived.blocks(7);
    let earlier = lived.machine.rows.clone();
    let mut from_below = lived.open(6);
    lived.blocks(1);
    assert_eq!(lived.floor(), 6);
    lived.check_height(6, &mut from_below);
    // In the earlier view the anchor that this tree was opened at is not there, and none of its pages.
    let mut from_above = lived.open(7);
    let now = std::mem::replace(&mut lived.machine.rows, earlier);
    let eighth = lived.states.pop().unwrap();
    for _ in 0..3 {
        lived.check_height(7, &mut from_above);
    }
    lived.machine.rows = now;
    lived.states.push(eighth);
    lived.check_height(7, &mut from_above);
    lived.blocks(4);
    assert_eq!(lived.floor(), 10);
    let refused = QueryError::HeightUnavailable { floor: 10, tip: 12 };
    let sizes = LogSizes::default();
    assert_eq!(from_above.prove(&lived.machine.rows, &[], sizes), Err(refused));
}

#[test]
fn a_page_that_a_view_lacks_makes_the_tree_open_anew() {
    let mut lived = Lived::new(config(4, 1 << 20, None), 1);
    let mut other = Machine::with(config(3, 1 << 20, None));
    let mut earlier = None;
    for height in 1..=8u64 {
        let operations: Vec<_> = match height {
            1 => (0..3000).map(|n| set(&format!("k{n:04}"), "1")).collect(),
            5 => (0..3000).step_by(50).map(|n| set(&format!("k{n:04}"), "5")).collect(),
            _ => vec![set("k0000", &height.to_string())],
        };
        lived.machine.commit(&operations);
        other.commit(&operations);
        lived.states.push(latest(&lived.machine.rows));
        if height == 7 {
            earlier = Some(lived.machine.rows.clone());
        }
    }
    // Opened at the flush of block 8, which wrote all that block 5 changed.
    let keys: Vec<_> =
        (0..3000).step_by(50).map(|n| StateKey::entity(&format!("k{n:04}"))).collect();
    let root = lived.machine.header(vault(), 7).state_root;
    for view in [&earlier.unwrap(), &other.rows] {
        let mut tree = lived.open(7);
        let proof = tree.prove(view, &keys, LogSizes::default()).unwrap();
        for (key, proved) in keys.iter().zip(&proof.keys) {
            let presence = proved.proof.verify(&root, key.as_bytes()).unwrap();
            assert!(matches!(presence, Presence::Present(_)));
        }
    }
}

#[test]
fn a_tree_serves_the_pages_of_another_replica() {
    let mut here = Lived::new(config(2, 1 << 20, None), 11);
    let mut there = Lived::new(config(3, 1 << 20, None), 11);
    here.blocks(13);
    there.blocks(13);
    for height in 0..=13 {
        let mut tree = here.open(height);
        here.check_height(height, &mut tree);
        there.check_height(height, &mut tree);
        here.check_height(height, &mut tree);
    }
}

#[test]
fn damaged_history_is_corrupt_and_never_a_proof() {
    let mut lived = Lived::new(config(100, 1 << 20, None), 2);
    lived.blocks(4);
    let changed = |key: &[u8]| split_history_key(key).unwrap().1 == 4;
    let family = lived.machine.rows.family(Family::History);
    let key = family.map(|(key, _)| key.to_vec()).find(|key| changed(key)).unwrap();
    lived.machine.rows.write([RowWrite { family: Family::History, key, value: None }]);
    let opened = PastTree::open(&lived.machine.rows, vault(), 3, PAST_KEYS_MAX);
    assert!(matches!(opened.err(), Some(QueryError::Fault(_))));
    lived.open(4);
}

#[test]
fn retention_set_late_catches_up_in_bounded_steps() {
    let mut lived = Lived::new(config(1, 1 << 20, None), 21);
    let all: Vec<_> = (0..3000).map(|number| set(&format!("k{number}"), "1")).collect();
    for _ in 0..4 {
        lived.machine.commit(&all);
    }
    lived.machine.config.history_blocks = Some(0);
    lived.machine.restart();
    let mut floors = Vec::new();
    for _ in 0..6 {
        let mut output_deletes = 0;
        let entry = lived.machine.entry(&[command(vault(), &write(&[set("one", "1")]))]);
        for row in lived.machine.round(&[entry]).rows {
            output_deletes += usize::from(row.value.is_none());
        }
        floors.push(lived.floor());
        assert!(output_deletes < 3000 + 1024 + 100, "{output_deletes} deletes at once");
    }
    assert_eq!(floors, [1, 2, 3, 4, 8, 9], "one large block at a time");
    check_tree_rows(&lived.machine);
}

#[test]
fn past_trees_stay_within_their_budget_and_those_used_last_stay() {
    let mut lived = Lived::new(config(4, 1 << 20, None), 31);
    lived.blocks(12);
    let bytes: usize = (4..=12).map(|height| lived.open(height).memory_bytes()).sum();
    let mut trees = PastTrees::new(bytes / 10);
    for height in 4..=12 {
        trees.put(lived.open(height));
        assert!(trees.memory_bytes() <= bytes / 10, "of {bytes}");
        if let Some(tree) = trees.take(vault(), 4) {
            trees.put(tree);
        }
    }
    let kept: Vec<u64> = (5..=11).filter(|height| trees.take(vault(), *height).is_some()).collect();
    assert!(!kept.is_empty() && kept.len() < 7, "{kept:?}");
    assert!(
        kept.iter().copied().eq(12 - kept.len() as u64..=11),
        "the rest was unused for longest"
    );
    let mut tree = trees.take(vault(), 4).expect("it was used again and again");
    lived.check_height(4, &mut tree);
    trees.put(tree);
    let mut newest = trees.take(vault(), 12).expect("it was put in last");
    lived.check_height(12, &mut newest);
    trees.put(newest);
    trees.forget(vault());
    assert_eq!((trees.memory_bytes(), trees.take(vault(), 4).is_none()), (0, true));
    let mut none = PastTrees::new(100);
    none.put(lived.open(3));
    assert_eq!((none.memory_bytes(), none.take(vault(), 3).is_none()), (0, true));
}

#[test]
fn a_list_of_the_tip_is_proved_with_its_values() {
    let mut lived = Lived::new(config(4, 0, None), 41);
    lived.blocks(7);
    for prefix in [StateKey::entity_prefix(""), StateKey::all_by_resource(), b"\x01none".to_vec()] {
        let limits = ListLimits { items: 9, leaf_bytes: 1 << 20 };
        let header = lived.machine.header(vault(), 7);
        let expected = lived.expected(7, &prefix);
        let Machine { applier, rows, .. } = &mut lived.machine;
        let listed = list(&header, &prefix, |kept| {
            let request = ListRequest { prefix: &prefix, kept, limits, value_bytes: 1 << 20 };
            let page = applier.prove_list(vault(), &request, Some(3), rows).unwrap().unwrap();
            assert_eq!((page.state.height, page.state.log_size), (7, 8));
            assert!(!page.state.consistency.is_empty());
            (page.list, page.values)
        });
        assert_eq!(listed, expected);
        let request =
            ListRequest { prefix: &prefix, kept: Some(b"\x01nowhere"), limits, value_bytes: 9 };
        assert_eq!(applier.prove_list(vault(), &request, None, rows), Ok(None));
    }
}
