//! Exactly-once: idempotency keys, sequences, and when keys are forgotten.

use ledger_types::{Condition, Outcome, TxId};

use super::harness::*;
use crate::apply::ApplyConfig;
use crate::command::write::{CommittedWrite, WriteCommand, WriteResult};
use crate::rows::SequenceContract;
use crate::view::Family;

#[test]
fn a_retry_gets_the_first_answer_and_another_payload_a_conflict() {
    let mut machine = Machine::new();
    let first = keyed(1, &[set("a", "1"), delete("missing")]);
    let answer = committed(machine.write(&first));
    assert_eq!((answer.sequence, answer.repeated), (1, false));
    machine.commit(&[set("a", "9")]);
    for _ in 0..2 {
        // The retry has an id of its own; the answer names the first one.
        let retry = WriteCommand { tx_id: TxId([99; 16]), ..first.clone() };
        let again = committed(machine.write(&retry));
        assert_eq!(again, CommittedWrite { repeated: true, ..answer.clone() });
        machine.restart();
    }
    let other = WriteCommand { tx_id: TxId([98; 16]), ..keyed(1, &[set("a", "2")]) };
    let reused = WriteResult::IdempotencyKeyReused { tx_id: TxId([1; 16]), height: 1, sequence: 1 };
    assert_eq!(machine.write(&other), reused);
    let other_actor = WriteCommand { actor: "another".to_owned(), ..first };
    assert_eq!(machine.write(&other_actor), reused, "the actor is part of the payload");
    assert_eq!(machine.record("a").modified_height, 2, "nothing happened twice");
    machine.check(vault());
}

#[test]
fn a_repeat_inside_one_entry_or_round_is_found() {
    let mut machine = Machine::new();
    let write = keyed(1, &[set("a", "1"), delete("missing")]);
    let results = machine.writes(&[write.clone(), write.clone(), keyed(1, &[set("a", "2")])]);
    let first = committed(results[0].clone());
    assert_eq!(committed(results[1].clone()), CommittedWrite { repeated: true, ..first.clone() });
    let reused = WriteResult::IdempotencyKeyReused { tx_id: TxId([1; 16]), height: 1, sequence: 1 };
    assert_eq!(results[2], reused);
    assert_eq!(machine.header(vault(), 1).tx_count, 1);
    let fresh = keyed(2, &[set("b", "1")]);
    let entries: Vec<_> = (0..2).map(|_| machine.entry(&[command(vault(), &fresh)])).collect();
    let replies = machine.round(&entries).replies;
    let results: Vec<_> = replies.into_iter().map(|reply| reply.result).collect();
    let [crate::apply::CommandResult::Write(one), crate::apply::CommandResult::Write(two)] =
        &results[..]
    else {
        panic!("two writes, two answers: {results:?}");
    };
    let one = committed(one.clone());
    assert_eq!(committed(two.clone()), CommittedWrite { repeated: true, ..one });
}

#[test]
fn a_failed_condition_is_not_remembered() {
    let mut machine = Machine::new();
    let conditional = keyed(1, &[set_if("a", "2", Condition::MustExist)]);
    assert!(matches!(machine.write(&conditional), WriteResult::ConditionFailed(_)));
    assert_eq!(machine.rows.family(Family::Sessions).count(), 0);
    machine.commit(&[set("a", "1")]);
    let answer = committed(machine.write(&conditional));
    assert_eq!((answer.height, answer.sequence), (2, 1), "it used no sequence");
    assert_eq!(answer.outcomes, [Outcome::Updated]);
}

#[test]
fn sequences_count_strictly_by_one() {
    let mut machine = Machine::new();
    let write = |sequence| numbered(sequence, &[set("a", "1")]);
    assert_eq!(machine.write(&write(0)), WriteResult::SequenceDuplicate { last: 0 });
    assert_eq!(machine.write(&write(2)), WriteResult::SequenceGap { last: 0 });
    assert_eq!(committed(machine.write(&write(1))).sequence, 1);
    let failing = numbered(2, &[set_if("a", "1", Condition::NotExists)]);
    assert!(matches!(machine.write(&failing), WriteResult::ConditionFailed(_)));
    let results = machine.writes(&[write(2), write(2), write(3), write(5)]);
    assert_eq!(committed(results[0].clone()).sequence, 2);
    assert_eq!(results[1], WriteResult::SequenceDuplicate { last: 2 });
    assert_eq!(committed(results[2].clone()).sequence, 3);
    assert_eq!(results[3], WriteResult::SequenceGap { last: 3 });
    machine.restart();
    assert_eq!(machine.write(&write(3)), WriteResult::SequenceDuplicate { last: 3 });
    let sequence = crate::query::client_sequence(&machine.rows, vault(), "client");
    assert_eq!(sequence, Ok(3));
}

#[test]
fn a_client_keeps_to_its_contract_and_has_one_counter() {
    let mut machine = Machine::new();
    let operations = [set("a", "1")];
    for (key, sequence) in [(1, 1), (2, 2)] {
        assert_eq!(committed(machine.write(&keyed(key, &operations))).sequence, sequence);
    }
    let contract = SequenceContract::Keyed;
    let mixed = WriteResult::ContractMixed { contract, last: 2 };
    assert_eq!(machine.write(&numbered(3, &operations)), mixed);
    let other = |write: WriteCommand| WriteCommand { client: "other".to_owned(), ..write };
    assert_eq!(committed(machine.write(&other(numbered(1, &operations)))).sequence, 1);
    let contract = SequenceContract::Counted;
    let mixed = WriteResult::ContractMixed { contract, last: 1 };
    assert_eq!(machine.write(&other(keyed(1, &operations))), mixed);
    let third = committed(machine.write(&keyed(3, &operations)));
    assert_eq!(third.sequence, 3, "rising for each client");
}

#[test]
fn keys_are_forgotten_by_block_time_and_the_counter_stays() {
    let config = ApplyConfig { session_retention_ns: 10 * SECOND, ..ApplyConfig::default() };
    let mut machine = Machine::with(config);
    let write = keyed(1, &[set("a", "1")]);
    committed(machine.write(&write));
    machine.time_ns += 9 * SECOND;
    machine.commit(&[set("b", "1")]);
    assert!(committed(machine.write(&write)).repeated, "not due yet");
    machine.restart();
    machine.time_ns += SECOND;
    machine.commit(&[set("b", "2")]);
    assert_eq!(machine.vault_row(vault()).session_rows, 0);
    let again = committed(machine.write(&write));
    assert_eq!((again.repeated, again.sequence), (false, 2));
    assert_eq!(machine.vault_row(vault()).session_rows, 1);
    machine.time_ns += 5 * SECOND;
    let younger = keyed(2, &[set("a", "2")]);
    committed(machine.write(&younger));
    machine.time_ns += 5 * SECOND;
    machine.commit(&[set("b", "3")]);
    assert_eq!(machine.vault_row(vault()).session_rows, 1, "only the older one is due");
    assert!(committed(machine.write(&younger)).repeated);
    machine.check(vault());
}

#[test]
fn a_full_vault_forgets_the_oldest_keys_first() {
    let config = ApplyConfig { session_rows_max: 3, ..ApplyConfig::default() };
    let mut machine = Machine::with(config);
    for key in 1..=5 {
        committed(machine.write(&keyed(key, &[set("a", "1")])));
    }
    assert_eq!(machine.vault_row(vault()).session_rows, 3);
    assert_eq!(machine.rows.family(Family::Sessions).count(), 4, "three keys and the counter");
    for key in 3..=5 {
        assert!(committed(machine.write(&keyed(key, &[set("a", "1")]))).repeated);
    }
    let forgotten = committed(machine.write(&keyed(1, &[set("a", "1")])));
    assert_eq!((forgotten.repeated, forgotten.sequence), (false, 6));
}
