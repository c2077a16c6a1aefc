//! Outcomes, conditions, atomicity, expiry, and when there is a block.

use ledger_proof::{Descriptor, hash};
use ledger_types::{Condition, Digest, Outcome, StateKey};

use super::harness::*;
use crate::apply::{ConditionFailure, FailedCondition};
use crate::command::write::WriteResult;
use crate::query::block;
use crate::view::Family;

#[test]
fn genesis_holds_the_descriptor_and_nothing_else() {
    let machine = Machine::new();
    let header = machine.header(vault(), 0);
    assert_eq!((header.previous_hash, header.tx_count), (Digest::ZERO, 0));
    assert_eq!((header.tx_root, header.state_keys), (hash::plain(b""), 1));
    assert_eq!((header.shard, header.term, header.index), (GROUP.0, 6, 6));
    let (record, value) = machine.state(&StateKey::descriptor()).expect("always present");
    let old_note = Digest::ZERO;
    let descriptor = Descriptor { vault: vault(), log_epoch: 0, last_recovery_height: 0, old_note };
    assert_eq!(value, descriptor.encode());
    assert_eq!((record.modified_height, record.value_hash), (0, hash::plain(&value)));
    machine.check(vault());
}

#[test]
fn creating_what_exists_and_deleting_what_is_missing_are_outcomes() {
    let mut machine = Machine::new();
    let first = machine.commit(&[
        set("a", "1"),
        set("a", "2"),
        delete("a"),
        delete("a"),
        relate("doc:1", "viewer", "user:a"),
        relate("doc:1", "viewer", "user:a"),
        unrelate("doc:1", "editor", "user:a"),
    ]);
    use Outcome::*;
    let expected = [Created, Updated, Deleted, NotFound, Created, AlreadyExists, NotFound];
    assert_eq!(first.outcomes, expected);
    let second = machine.commit(&[
        relate("doc:1", "viewer", "user:a"),
        unrelate("doc:1", "viewer", "user:a"),
        unrelate("doc:1", "viewer", "user:a"),
    ]);
    assert_eq!(second.outcomes, [AlreadyExists, Deleted, NotFound]);
    for key in [
        StateKey::by_resource("doc:1", "viewer", "user:a"),
        StateKey::by_subject("doc:1", "viewer", "user:a"),
    ] {
        assert_eq!(machine.state(&key), None);
    }
    machine.check(vault());
}

#[test]
fn a_no_op_transaction_commits_and_leaves_the_state_root() {
    let mut machine = Machine::new();
    machine.commit(&[relate("doc:1", "viewer", "user:a")]);
    let before = machine.header(vault(), 1);
    let committed = machine.commit(&[relate("doc:1", "viewer", "user:a"), delete("missing")]);
    assert_eq!(committed.height, 2);
    assert_eq!(machine.header(vault(), 2).state_root, before.state_root);
    machine.check(vault());
}

#[test]
fn conditions_see_earlier_operations_of_the_transaction_and_of_the_block() {
    let mut machine = Machine::new();
    let chained = write(&[
        set_if("a", "1", Condition::NotExists),
        set_if("a", "2", Condition::Version(1)),
        set_if("a", "3", Condition::ValueEquals(b"2".to_vec())),
        set_if("a", "4", Condition::MustExist),
    ]);
    let next = write(&[set_if("a", "5", Condition::ValueEquals(b"4".to_vec()))]);
    let late = write(&[set_if("a", "6", Condition::NotExists)]);
    let results = machine.writes(&[chained, next, late]);
    use Outcome::{Created, Updated};
    let first = committed(results[0].clone());
    assert_eq!(first.outcomes, [Created, Updated, Updated, Updated]);
    assert_eq!(committed(results[1].clone()).tx_index, 1);
    let failure = ConditionFailure {
        operation: 0,
        failed: FailedCondition::KeyExists,
        key: "a".to_owned(),
        current_version: Some(1),
        current_value: Some(b"5".to_vec()),
    };
    assert_eq!(results[2], WriteResult::ConditionFailed(failure));
    assert_eq!(machine.header(vault(), 1).tx_count, 2);
    assert_eq!(machine.record("a").modified_tx, 1);
    machine.check(vault());
}

#[test]
fn a_failed_condition_undoes_the_whole_transaction_and_nothing_else() {
    let mut machine = Machine::new();
    machine.commit(&[set("kept", "1"), relate("r", "l", "s")]);
    let before = machine.rows.clone();
    let failing = write(&[
        set("kept", "2"),
        delete("kept"),
        set("new", "1"),
        unrelate("r", "l", "s"),
        relate("r", "l", "s"),
        set_if("new", "2", Condition::Version(9)),
    ]);
    let WriteResult::ConditionFailed(failure) = machine.write(&failing) else {
        panic!("the condition does not hold");
    };
    assert_eq!((failure.operation, failure.failed), (5, FailedCondition::VersionMismatch));
    assert_eq!(failure.current_version, Some(2), "it tells what the transaction itself had set");
    for family in [Family::Latest, Family::History] {
        assert!(machine.rows.family(family).eq(before.family(family)));
    }
    assert_eq!(machine.vault_row(vault()).height, 1, "no committed transaction, no block");
    let mixed = machine.writes(&[failing.clone(), write(&[set("other", "1")]), failing]);
    assert!(matches!(mixed[0], WriteResult::ConditionFailed(_)));
    assert_eq!(committed(mixed[1].clone()).tx_index, 0);
    assert_eq!(machine.record("kept").modified_height, 1);
    assert_eq!(machine.state(&StateKey::entity("new")), None);
    machine.check(vault());
}

#[test]
fn each_condition_names_what_did_not_hold() {
    let mut machine = Machine::new();
    machine.commit(&[set("a", "1"), set("long", &"x".repeat(2000))]);
    let cases = [
        ("a", Condition::NotExists, FailedCondition::KeyExists),
        ("b", Condition::MustExist, FailedCondition::KeyNotFound),
        ("a", Condition::Version(2), FailedCondition::VersionMismatch),
        ("b", Condition::Version(0), FailedCondition::VersionMismatch),
        ("a", Condition::ValueEquals(b"2".to_vec()), FailedCondition::ValueMismatch),
        ("b", Condition::ValueEquals(Vec::new()), FailedCondition::ValueMismatch),
        ("long", Condition::NotExists, FailedCondition::KeyExists),
    ];
    for (key, condition, expected) in cases {
        let result = machine.write(&write(&[set_if(key, "9", condition.clone())]));
        let WriteResult::ConditionFailed(failure) = result else { panic!("{condition:?} holds") };
        assert_eq!(failure.failed, expected);
        assert_eq!(failure.current_version, (key != "b").then_some(1));
        assert_eq!(failure.current_value.is_some(), key == "a", "long values are not shown");
    }
}

#[test]
fn an_expired_entity_counts_as_absent_while_its_row_is_still_there() {
    let mut machine = Machine::new();
    let until = START_S + 10;
    machine.commit(&[set_until("a", "1", until), set_until("b", "1", until)]);
    let old = machine.record("a");
    machine.time_ns = until * SECOND - 1;
    let early = machine.write(&write(&[set_if("a", "2", Condition::NotExists)]));
    assert!(matches!(early, WriteResult::ConditionFailed(_)), "not due before its second");
    machine.time_ns = until * SECOND;
    let late = machine.write(&write(&[set_if("a", "2", Condition::MustExist)]));
    assert!(matches!(
        late,
        WriteResult::ConditionFailed(ConditionFailure {
            failed: FailedCondition::KeyNotFound,
            current_version: None,
            current_value: None,
            ..
        })
    ));
    let both = machine.commit(&[set_if("a", "2", Condition::NotExists), delete("b")]);
    assert_eq!(both.outcomes, [Outcome::Created, Outcome::NotFound]);
    let new = machine.record("a");
    assert_eq!((new.created_height, new.modified_height), (2, 2));
    assert_eq!(new.previous_record_hash, old.hash());
    assert_eq!(machine.state(&StateKey::entity("b")), None, "the delete removed the row");
    machine.check(vault());
}

#[test]
fn expire_removes_only_the_row_that_was_seen_and_is_due() {
    let mut machine = Machine::new();
    let until = START_S + 10;
    machine.commit(&[set_until("a", "1", until), set("never", "1")]);
    let operations =
        [expire("a", until), expire("a", until + 1), expire("never", 0), expire("missing", until)];
    use Outcome::{Expired, NotFound};
    let early = machine.commit(&operations);
    assert_eq!(early.outcomes, [NotFound; 4]);
    assert_eq!(machine.record("a").modified_height, 1, "no change");
    machine.time_ns = until * SECOND;
    let due = machine.commit(&operations);
    assert_eq!(due.outcomes, [Expired, NotFound, NotFound, NotFound]);
    assert_eq!(machine.state(&StateKey::entity("a")), None);
    machine.check(vault());
}

#[test]
fn block_time_never_goes_back_and_decides_expiry() {
    let mut machine = Machine::new();
    machine.time_ns = (START_S + 100) * SECOND + 5;
    machine.commit(&[set_until("a", "1", START_S + 90)]);
    machine.time_ns = START_S * SECOND;
    let again = machine.commit(&[set_if("a", "2", Condition::NotExists)]);
    let header = machine.header(vault(), again.height);
    assert_eq!(header.timestamp_ns, (START_S + 100) * SECOND + 5);
    let block = block(&machine.rows, vault(), again.height).unwrap();
    assert_eq!(block.transactions[0].0.timestamp_ns, START_S * SECOND, "the entry's own time");
}
