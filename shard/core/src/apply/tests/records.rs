//! What a block leaves behind for a key: one record, one history row.

use ledger_proof::Record;
use ledger_types::{Digest, StateKey};

use super::harness::*;
use crate::rows::split_history_key;
use crate::view::Family;

#[test]
fn a_key_changed_many_times_in_a_block_gets_one_record() {
    let mut machine = Machine::new();
    machine.writes(&[
        write(&[set("a", "1"), set("b", "1")]),
        write(&[set("a", "2"), set("a", "3")]),
        write(&[delete("missing"), relate("r", "l", "s")]),
        write(&[relate("r", "l", "s")]),
    ]);
    let first = machine.record("a");
    assert_eq!((first.created_height, first.modified_height, first.modified_tx), (1, 1, 1));
    assert_eq!(first.previous_record_hash, Digest::ZERO, "absent under the state before");
    assert_eq!(machine.record("b").modified_tx, 0);
    let (relationship, _) = machine.state(&StateKey::by_resource("r", "l", "s")).unwrap();
    assert_eq!(relationship.modified_tx, 2, "a no-op is no change");
    machine.writes(&[write(&[set("a", "4")]), write(&[set("a", "5")])]);
    let second = machine.record("a");
    assert_eq!((second.created_height, second.modified_height, second.modified_tx), (1, 2, 1));
    assert_eq!(second.previous_record_hash, first.hash());
    let history: Vec<_> = machine.rows.family(Family::History).collect();
    assert_eq!(history.len(), 1, "one row for the one key that had a record");
    let (key, height, tx) = split_history_key(history[0].0).unwrap();
    assert_eq!((key, height, tx), (StateKey::entity("a").as_bytes().to_vec(), 2, 1));
    assert_eq!(Record::decode(history[0].1), Ok(first));
    machine.check(vault());
}

#[test]
fn deleting_and_creating_again_in_one_block_begins_a_life_and_keeps_the_link() {
    let mut machine = Machine::new();
    machine.commit(&[set("a", "1"), relate("r", "l", "s")]);
    let old = machine.record("a");
    machine.commit(&[delete("a"), set("a", "2"), unrelate("r", "l", "s"), relate("r", "l", "s")]);
    let new = machine.record("a");
    assert_eq!((new.created_height, new.modified_height), (2, 2));
    assert_eq!(new.previous_record_hash, old.hash());
    let by_resource = machine.state(&StateKey::by_resource("r", "l", "s")).unwrap();
    let by_subject = machine.state(&StateKey::by_subject("r", "l", "s")).unwrap();
    assert_eq!(by_resource, by_subject, "twins have the same record");
    assert_eq!(by_resource.0.created_height, 2);
    machine.check(vault());
}

#[test]
fn a_key_that_comes_and_goes_inside_a_block_leaves_nothing() {
    let mut machine = Machine::new();
    let committed = machine.commit(&[set("a", "1"), delete("a")]);
    assert_eq!(committed.height, 1);
    assert_eq!(machine.state(&StateKey::entity("a")), None);
    assert_eq!(machine.rows.family(Family::History).count(), 0);
    assert_eq!(machine.header(vault(), 1).state_keys, 1);
    machine.check(vault());
}

#[test]
fn setting_the_same_value_is_a_change() {
    let mut machine = Machine::new();
    machine.commit(&[set("a", "1")]);
    machine.commit(&[set("a", "1")]);
    assert_eq!(machine.record("a").modified_height, 2);
}
