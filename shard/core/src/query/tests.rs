//! Reads at every height, compared with what was there when the height was the tip.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use ledger_proof::{Tile, block_log, hash, rfc9162};
use ledger_types::{Digest, Operation, StateKey, VaultRef};

use super::*;
use crate::apply::tests_harness::*;
use crate::view::MemoryRows;

mod lists;

/// Limits that end no page.
const ALL: PageLimits<'static> =
    PageLimits { after: None, items_max: 10_000, bytes_max: 1 << 20, rows_max: usize::MAX };

fn entity_query(prefix: &str, at_height: Option<u64>, time_s: u64) -> EntityQuery<'_> {
    EntityQuery { vault: vault(), prefix, at_height, time_s, include_expired: false }
}

fn relationship_query<'a>(
    resource: Option<&'a str>,
    relation: Option<&'a str>,
    subject: Option<&'a str>,
    at_height: Option<u64>,
) -> RelationshipQuery<'a> {
    RelationshipQuery { vault: vault(), resource, relation, subject, at_height }
}

/// All pages of a list, each of at most `items_max` items.
fn paged<T>(items_max: usize, page: impl Fn(PageLimits<'_>) -> Page<T>) -> Vec<T> {
    let (mut items, mut after) = (Vec::new(), None::<Vec<u8>>);
    loop {
        let next = page(PageLimits { after: after.as_deref(), items_max, ..ALL });
        assert!(next.items.len() <= items_max);
        assert!(next.next.is_none() || next.items.len() == items_max, "only limits end a page");
        items.extend(next.items);
        match next.next {
            Some(cursor) => after = Some(cursor),
            None => return items,
        }
    }
}

/// Entities and relationships at one height.
type Snapshot = (BTreeMap<String, Vec<u8>>, Vec<Relationship>);

/// A vault with 60 blocks of changes, and the entities and relationships as they were at each height.
fn history() -> (Machine, Vec<Snapshot>) {
    let mut machine = Machine::new();
    let mut states = vec![(BTreeMap::new(), Vec::new())];
    let mut entities = BTreeMap::new();
    let mut relationships: BTreeMap<StateKey, Relationship> = BTreeMap::new();
    for height in 1..=60u64 {
        let mut operations = Vec::new();
        for step in 0..5 {
            let number = (height * 7 + step * 11) % 23;
            let key = format!("{}/{number:02}", ["a", "b"][number as usize % 2]);
            if (height + step) % 4 == 0 {
                operations.push(delete(&key));
                entities.remove(&key);
            } else {
                let value = format!("{height}.{step}");
                operations.push(set(&key, &value));
                entities.insert(key, value.into_bytes());
            }
            let (resource, subject) =
                (format!("doc:{}", number % 5), format!("user:{}", (height + step) % 4));
            let relation = ["viewer", "editor"][step as usize % 2];
            let state_key = StateKey::by_resource(&resource, relation, &subject);
            if (height * step) % 3 == 1 {
                operations.push(unrelate(&resource, relation, &subject));
                relationships.remove(&state_key);
            } else {
                operations.push(relate(&resource, relation, &subject));
                let (relation, created_height) = (relation.to_owned(), height);
                relationships.entry(state_key).or_insert(Relationship {
                    resource,
                    relation,
                    subject,
                    created_height,
                });
            }
        }
        machine.commit(&operations);
        states.push((entities.clone(), relationships.values().cloned().collect()));
    }
    (machine, states)
}

#[test]
fn every_height_reads_as_it_was() {
    let (machine, states) = history();
    let view = &machine.rows;
    for (height, (expected, related)) in (0u64..).zip(&states) {
        let at = Some(height);
        for items_max in [1, 3, 10_000] {
            let listed =
                paged(items_max, |limits| entities(view, entity_query("", at, 0), limits).unwrap());
            let listed: BTreeMap<_, _> =
                listed.into_iter().map(|entity| (entity.key, entity.value)).collect();
            assert_eq!(&listed, expected, "height {height}");
            let query = relationship_query(None, None, None, at);
            let listed = paged(items_max, |limits| relationships(view, query, limits).unwrap());
            assert_eq!(&listed, related, "height {height}");
        }
        for number in 0..23 {
            let key = format!("{}/{number:02}", ["a", "b"][number % 2]);
            let (read_at, found) = entity(view, vault(), &key, at, 0).unwrap();
            assert_eq!(read_at, height);
            assert_eq!(found.map(|entity| entity.value).as_ref(), expected.get(&key));
        }
    }
}

#[test]
fn filters_and_prefixes_select_and_keep_the_order() {
    let (machine, states) = history();
    let view = &machine.rows;
    for (at, (expected, related)) in [(None, &states[60]), (Some(31), &states[31])] {
        let page = entities(view, entity_query("b/", at, 0), ALL).unwrap();
        let keys: Vec<_> = page.items.iter().map(|entity| &entity.key).collect();
        let wanted: Vec<_> = expected.keys().filter(|key| key.starts_with("b/")).collect();
        assert!(!wanted.is_empty() && keys == wanted);
        for resource in [None, Some("doc:1"), Some("doc:9")] {
            for relation in [None, Some("viewer")] {
                for subject in [None, Some("user:2")] {
                    let query = relationship_query(resource, relation, subject, at);
                    let mut found = relationships(view, query, ALL).unwrap().items;
                    found.sort();
                    let matches =
                        |wanted: Option<&str>, part: &str| wanted.is_none_or(|w| w == part);
                    let mut wanted: Vec<_> = related
                        .iter()
                        .filter(|one| {
                            matches(resource, &one.resource)
                                && matches(relation, &one.relation)
                                && matches(subject, &one.subject)
                        })
                        .cloned()
                        .collect();
                    wanted.sort();
                    assert_eq!(found, wanted, "{resource:?} {relation:?} {subject:?}");
                }
            }
        }
    }
}

fn resource_query(resource_type: &str, at_height: Option<u64>) -> ResourceQuery<'_> {
    ResourceQuery { vault: vault(), resource_type, at_height }
}

/// The resources of a type in a list of relationships, each once.
fn resources_of(related: &[Relationship], resource_type: &str) -> Vec<String> {
    let prefix = format!("{resource_type}:");
    let names = related.iter().map(|one| one.resource.clone());
    names.filter(|name| name.starts_with(&prefix)).collect::<BTreeSet<_>>().into_iter().collect()
}

#[test]
fn resources_are_listed_once_at_every_height() {
    let (machine, states) = history();
    for (height, (_, related)) in (0u64..).zip(&states) {
        for items_max in [1, 2, 10_000] {
            let query = resource_query("doc", Some(height));
            let listed =
                paged(items_max, |limits| resources(&machine.rows, query, limits).unwrap());
            assert_eq!(listed, resources_of(related, "doc"), "height {height}");
        }
    }
    let tip =
        paged(2, |limits| resources(&machine.rows, resource_query("doc", None), limits).unwrap());
    assert!(tip.len() > 2 && tip == resources_of(&states[60].1, "doc"), "{tip:?}");
    for other in ["do", "docs", "user"] {
        let page = resources(&machine.rows, resource_query(other, None), ALL).unwrap();
        assert_eq!((page.items, page.next), (Vec::new(), None), "{other}");
    }
}

/// Rows with a count of how many of them were looked at.
struct CountedRows<'a> {
    rows: &'a MemoryRows,
    read: AtomicUsize,
}

impl StateView for CountedRows<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, ReadFault> {
        self.rows.get(family, key)
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ReadFault> {
        self.rows.scan(family, from, to, &mut |key, row| {
            self.read.fetch_add(1, Ordering::Relaxed);
            visit(key, row)
        })
    }
}

#[test]
fn a_list_of_resources_steps_over_their_relationships() {
    const SUBJECTS: usize = 2_000;
    let mut machine = Machine::new();
    let mut names = ["a", "a b", "a.1", "a:b", "z"].map(|name| format!("doc:{name}"));
    names.sort();
    for name in &names {
        let grants: Vec<Operation> = (0..SUBJECTS)
            .map(|number| relate(name, "viewer", &format!("user:{number:04}")))
            .collect();
        machine.commit(&grants);
    }
    // Others that the list must not wander into, and one that makes the tip another height.
    machine.commit(&[relate("docs:1", "viewer", "user:1"), relate("do:1", "viewer", "user:1")]);
    for at_height in [None, Some(names.len() as u64)] {
        for items_max in [1, 2, 100] {
            let view = CountedRows { rows: &machine.rows, read: AtomicUsize::new(0) };
            let query = resource_query("doc", at_height);
            let listed = paged(items_max, |limits| resources(&view, query, limits).unwrap());
            assert_eq!(listed, names);
            let read = view.read.load(Ordering::Relaxed);
            assert!(read < SUBJECTS / 2, "{read} rows for {} resources", names.len());
        }
    }
}

#[test]
fn a_page_ends_at_its_bytes_and_the_next_goes_on() {
    let mut machine = Machine::new();
    let large = "x".repeat(1000);
    machine.commit(&[set("a", &large), set("b", &large), set("c", "1"), set("d", "1")]);
    let page = |after| {
        let limits = PageLimits { after, items_max: 10, bytes_max: 1500, ..ALL };
        entities(&machine.rows, entity_query("", None, 0), limits).unwrap()
    };
    let first = page(None);
    assert_eq!(first.items.len(), 1, "a second large one would be too much");
    let second = page(first.next.as_deref());
    let keys: Vec<_> = second.items.iter().map(|entity| entity.key.as_str()).collect();
    assert_eq!((keys, second.next), (vec!["b", "c", "d"], None));
    let tiny = PageLimits { items_max: 10, bytes_max: 1, ..ALL };
    let page = entities(&machine.rows, entity_query("", None, 0), tiny).unwrap();
    assert_eq!(page.items.len(), 1, "a page makes progress");
}

#[test]
fn lists_larger_than_a_chunk_are_whole_at_an_earlier_height() {
    let mut machine = Machine::new();
    let operations: Vec<Operation> =
        (0..3000).map(|number| set(&format!("k{number:04}"), "1")).collect();
    machine.commit(&operations);
    let deletes: Vec<Operation> = (0..3000)
        .filter(|number| number % 3 != 0)
        .map(|number| delete(&format!("k{number:04}")))
        .collect();
    machine.commit(&deletes);
    let count = |at| {
        let pages =
            paged(700, |limits| entities(&machine.rows, entity_query("k", at, 0), limits).unwrap());
        assert!(pages.windows(2).all(|pair| pair[0].key < pair[1].key));
        pages.len()
    };
    assert_eq!(
        (count(Some(1)), count(Some(2)), count(None), count(Some(0))),
        (3000, 1000, 1000, 0)
    );
}

#[test]
fn expired_entities_are_hidden_from_their_second_on() {
    let mut machine = Machine::new();
    let until = START_S + 10;
    machine.commit(&[set_until("a", "1", until), set("b", "1")]);
    let view = &machine.rows;
    let read = |time_s| entity(view, vault(), "a", None, time_s).unwrap().1.is_some();
    assert!(read(until - 1) && !read(until));
    let listed = |time_s| entities(view, entity_query("", None, time_s), ALL).unwrap().items.len();
    assert_eq!((listed(until - 1), listed(until)), (2, 1));
    let query = EntityQuery { include_expired: true, ..entity_query("", None, until) };
    assert_eq!(entities(view, query, ALL).unwrap().items.len(), 2);
    let keys = ["b", "a", "c"].map(str::to_owned);
    let (height, found) = tip_entities(view, vault(), &keys, until).unwrap();
    let present: Vec<_> = found.iter().map(Option::is_some).collect();
    assert_eq!((height, present), (1, vec![true, false, false]));
    let time = |at, clock_s: u64| read_time_s(view, vault(), at, clock_s * SECOND).unwrap();
    assert_eq!(time(None, until), until, "at the tip the later clock counts");
    assert_eq!(time(None, 5), START_S);
    assert_eq!(time(Some(1), until), START_S, "a past height has its own time");
}

#[test]
fn blocks_and_errors() {
    let mut machine = Machine::new();
    machine.commit(&[set("a", "1")]);
    let view = &machine.rows;
    let stored = block(view, vault(), 1).unwrap();
    assert_eq!(stored.header_bytes, machine.header(vault(), 1).encode());
    assert_eq!(stored.transactions.len(), 1);
    let (transaction, bytes) = &stored.transactions[0];
    assert_eq!(&transaction.encode(), bytes);
    assert!(block(view, vault(), 0).unwrap().transactions.is_empty());
    let beyond = QueryError::HeightUnavailable { floor: 0, tip: 1 };
    assert_eq!(block(view, vault(), 2), Err(beyond.clone()));
    assert_eq!(entity(view, vault(), "a", Some(2), 0), Err(beyond.clone()));
    assert_eq!(inclusion(view, vault(), 1, 3), Err(beyond.clone()));
    assert_eq!(inclusion(view, vault(), 1, 1), Err(beyond.clone()));
    assert_eq!(consistency(view, vault(), 2, 1), Err(beyond.clone()));
    assert!(consistency(view, vault(), 1, 2).is_ok());
    let tile = |width| Tile::new(0, 0, width).unwrap();
    assert_eq!(log_hashes(view, vault(), &tile(3)), Err(beyond.clone()));
    assert_eq!(log_entries(view, vault(), &tile(3)), Err(beyond));
    assert!(log_entries(view, vault(), &tile(2)).is_ok());
    let unknown = VaultRef::new(5, 5);
    assert_eq!(log_hashes(view, unknown, &tile(1)), Err(QueryError::UnknownVault));
    assert_eq!(log_entries(view, unknown, &tile(1)), Err(QueryError::UnknownVault));
    assert_eq!(vault_row(view, unknown), Err(QueryError::UnknownVault));
    assert_eq!(client_sequence(view, unknown, "c"), Err(QueryError::UnknownVault));
    assert_eq!(client_sequence(view, vault(), "client"), Ok(0));
}

/// The 32-byte hashes of a tile.
fn digests(bytes: &[u8]) -> Vec<Digest> {
    bytes.chunks(32).map(|chunk| Digest::from_slice(chunk).unwrap()).collect()
}

#[test]
fn tiles_hold_the_log_and_bundles_its_headers() {
    const BLOCKS: u64 = 258;
    let mut machine = Machine::new();
    for number in 0..BLOCKS {
        machine.commit(&[set("a", &number.to_string())]);
    }
    let view = &machine.rows;
    let row = vault_row(view, vault()).unwrap();
    assert_eq!(row.log_size, BLOCKS + 1, "and the genesis");
    let tile = |level, index, width| Tile::new(level, index, width).unwrap();
    let mut leaves = Vec::new();
    for tile in [tile(0, 0, 256), tile(0, 1, 3)] {
        let hashes = digests(&log_hashes(view, vault(), &tile).unwrap());
        assert_eq!(hashes.len(), usize::from(tile.width()));
        let bundle = log_entries(view, vault(), &tile).unwrap();
        let first = tile.index() * 256;
        for (number, (entry, leaf)) in bundle.chunks(202).zip(&hashes).enumerate() {
            let (length, header) = entry.split_at(2);
            assert_eq!(length, [0, 200]);
            assert_eq!(header, machine.header(vault(), first + number as u64).encode());
            assert_eq!(hash::leaf(header), *leaf);
        }
        leaves.extend(hashes);
    }
    let mut frontier = block_log::Frontier::new();
    leaves.iter().for_each(|leaf| frontier.append(*leaf, |_, _, _| {}));
    assert_eq!(frontier.root(), row.log_root);
    let above = digests(&log_hashes(view, vault(), &tile(1, 0, 1)).unwrap());
    assert_eq!(above, frontier.peaks()[..1]);
    let path = consistency(view, vault(), 256, row.log_size).unwrap();
    let grown = rfc9162::verify_consistency(256, &above[0], row.log_size, &row.log_root, &path);
    assert_eq!(grown, Ok(()));
}
