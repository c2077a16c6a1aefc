//! Lists at every height of a history that creates, removes and creates again, against a model; and what a page costs.

use std::ops::Range;

use proptest::prelude::*;

use super::*;

/// Names that are each other's beginnings, of one type and of others beside it.
const RESOURCES: [&str; 8] =
    ["do:a", "doc:a", "doc:a b", "doc:a.1", "doc:a:b", "doc:ab", "doc:b", "docs:a"];
const RELATIONS: [&str; 2] = ["editor", "viewer"];
/// More than a list reads together, and more than it passes over one by one.
const NUMBERS: u8 = 40;
/// More pages than any of these lists has.
const PAGES_MAX: usize = 10_000;

/// What one transaction does with several keys.
#[derive(Clone, Debug)]
enum Change {
    Set(Range<u8>),
    Delete(Range<u8>),
    Relate(usize, usize, Range<u8>),
    Unrelate(usize, usize, Range<u8>),
}

fn numbers() -> impl Strategy<Value = Range<u8>> {
    prop_oneof![
        3 => (0..NUMBERS).prop_map(|number| number..number + 1),
        1 => (0..NUMBERS, 1..NUMBERS).prop_map(|(from, count)| from..NUMBERS.min(from + count)),
        1 => Just(0..NUMBERS),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let grant = || (0..RESOURCES.len(), 0..RELATIONS.len(), numbers());
    prop_oneof![
        2 => numbers().prop_map(Change::Set),
        1 => numbers().prop_map(Change::Delete),
        3 => grant().prop_map(|(resource, relation, to)| Change::Relate(resource, relation, to)),
        2 => grant().prop_map(|(resource, relation, to)| Change::Unrelate(resource, relation, to)),
    ]
}

/// What the vault holds, as a plain map.
#[derive(Clone, Default)]
struct Model {
    entities: BTreeMap<String, Vec<u8>>,
    relationships: BTreeMap<StateKey, Relationship>,
}

impl Model {
    /// Takes a change in and tells the operations that make it.
    fn take(&mut self, change: &Change, height: u64) -> Vec<Operation> {
        let numbers = match change {
            Change::Set(numbers) | Change::Delete(numbers) => numbers.clone(),
            Change::Relate(_, _, to) | Change::Unrelate(_, _, to) => to.clone(),
        };
        numbers.map(|number| self.take_one(change, number, height)).collect()
    }

    fn take_one(&mut self, change: &Change, number: u8, height: u64) -> Operation {
        let (key, subject) = (format!("key/{number:02}"), format!("user:{number:02}"));
        match *change {
            Change::Set(_) => {
                let value = format!("{height}");
                self.entities.insert(key.clone(), value.clone().into_bytes());
                set(&key, &value)
            }
            Change::Delete(_) => {
                self.entities.remove(&key);
                delete(&key)
            }
            Change::Relate(resource, relation, _) => {
                let (resource, relation) = (RESOURCES[resource], RELATIONS[relation]);
                let operation = relate(resource, relation, &subject);
                let key = StateKey::by_resource(resource, relation, &subject);
                self.relationships.entry(key).or_insert_with(|| Relationship {
                    resource: resource.to_owned(),
                    relation: relation.to_owned(),
                    subject,
                    created_height: height,
                });
                operation
            }
            Change::Unrelate(resource, relation, _) => {
                let (resource, relation) = (RESOURCES[resource], RELATIONS[relation]);
                let key = StateKey::by_resource(resource, relation, &subject);
                self.relationships.remove(&key);
                unrelate(resource, relation, &subject)
            }
        }
    }

    fn resources(&self, resource_type: &str) -> Vec<String> {
        let related: Vec<Relationship> = self.relationships.values().cloned().collect();
        resources_of(&related, resource_type)
    }
}

/// All pages of a list. A page may end early for its rows only.
fn whole<T>(limits: PageLimits<'static>, page: impl Fn(PageLimits<'_>) -> Page<T>) -> Vec<T> {
    let (mut items, mut after) = (Vec::new(), None::<Vec<u8>>);
    for _ in 0..PAGES_MAX {
        let next = page(PageLimits { after: after.as_deref(), ..limits });
        let is_full = next.items.len() == limits.items_max;
        assert!(next.items.len() <= limits.items_max);
        assert!(next.next.is_none() || is_full || limits.rows_max < usize::MAX);
        items.extend(next.items);
        match next.next {
            Some(cursor) => after = Some(cursor),
            None => return items,
        }
    }
    panic!("a list goes round in circles after {after:?}")
}

fn compare(machine: &Machine, model: &Model, at: Option<u64>, limits: PageLimits<'static>) {
    let view = &machine.rows;
    let listed =
        whole(limits, |limits| entities(view, entity_query("key/", at, 0), limits).unwrap());
    let listed: Vec<_> = listed.into_iter().map(|entity| (entity.key, entity.value)).collect();
    let wanted: Vec<_> = model.entities.clone().into_iter().collect();
    assert_eq!(listed, wanted, "entities at {at:?} in {limits:?}");
    for resource_type in ["doc", "docs", "do", "d"] {
        let query = resource_query(resource_type, at);
        let listed = whole(limits, |limits| resources(view, query, limits).unwrap());
        assert_eq!(listed, model.resources(resource_type), "at {at:?} in {limits:?}");
    }
    for (resource, relation, subject) in [
        (None, None, None),
        (None, Some("viewer"), None),
        (Some("doc:a"), None, None),
        (Some("doc:a"), Some("editor"), None),
        (Some("doc:a"), None, Some("user:07")),
        (None, None, Some("user:07")),
    ] {
        let query = relationship_query(resource, relation, subject, at);
        let mut listed = whole(limits, |limits| relationships(view, query, limits).unwrap());
        listed.sort();
        let is = |wanted: Option<&str>, part: &str| wanted.is_none_or(|wanted| wanted == part);
        let wanted = model.relationships.values().filter(|one| {
            is(resource, &one.resource) && is(relation, &one.relation) && is(subject, &one.subject)
        });
        let mut wanted: Vec<_> = wanted.cloned().collect();
        wanted.sort();
        assert_eq!(listed, wanted, "{query:?} in {limits:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn lists_of_every_height_are_those_of_a_model(
        blocks in prop::collection::vec(prop::collection::vec(change(), 1..4), 1..14),
        items_max in 1..6usize,
        rows_max in 1..60usize,
    ) {
        let mut machine = Machine::new();
        let (mut model, mut states) = (Model::default(), vec![Model::default()]);
        for (height, changes) in (1..).zip(&blocks) {
            let operations: Vec<Operation> =
                changes.iter().flat_map(|change| model.take(change, height)).collect();
            machine.commit(&operations);
            states.push(model.clone());
        }
        let all_limits = [
            ALL,
            PageLimits { items_max, ..ALL },
            PageLimits { rows_max, ..ALL },
            PageLimits { items_max, rows_max: 1, ..ALL },
        ];
        for limits in all_limits {
            for (height, state) in (0..).zip(&states) {
                compare(&machine, state, Some(height), limits);
            }
            compare(&machine, &model, None, limits);
        }
    }
}

#[test]
fn what_came_after_a_height_does_not_make_a_page_of_it_endless() {
    const LATER: usize = 9_000;
    let mut machine = Machine::new();
    let names = ["doc:a", "doc:z"];
    machine.commit(&names.map(|name| relate(name, "viewer", "user:1")));
    // Between the two, and of the first as well.
    let later: Vec<Operation> = (0..LATER)
        .map(|number| relate(["doc:a", "doc:b"][number % 2], "viewer", &format!("late:{number}")))
        .collect();
    machine.commit(&later);
    let limits = PageLimits { rows_max: 1_000, ..ALL };
    let view = CountedRows { rows: &machine.rows, read: AtomicUsize::new(0) };
    let bounded = || {
        let read = view.read.swap(0, Ordering::Relaxed);
        // What is read together may go past the limit.
        assert!(read < 5_000, "{read} rows for one page");
    };
    let listed = whole(limits, |limits| {
        let page = resources(&view, resource_query("doc", Some(1)), limits).unwrap();
        bounded();
        page
    });
    assert_eq!(listed, names);
    for at in [Some(1), None] {
        let query = relationship_query(None, Some("editor"), None, at);
        let listed = whole(limits, |limits| {
            let page = relationships(&view, query, limits).unwrap();
            bounded();
            page
        });
        assert!(listed.is_empty());
    }
}

#[test]
fn entities_at_the_tip_come_in_whole_pages_whatever_is_passed_over() {
    let mut machine = Machine::new();
    let until = START_S + 10;
    let mut operations: Vec<Operation> =
        (0..500).map(|number| set_until(&format!("a/{number:03}"), "1", until)).collect();
    operations.push(set("z", "1"));
    machine.commit(&operations);
    let limits = PageLimits { items_max: 5, rows_max: 7, ..ALL };
    let page = entities(&machine.rows, entity_query("", None, until), limits).unwrap();
    let keys: Vec<_> = page.items.iter().map(|entity| entity.key.as_str()).collect();
    assert_eq!((keys, page.next), (vec!["z"], None), "clients that read one page have it all");
}
