//! Every invariant is shown what it must refuse, and what it must not.

use ledger_proof::encoding::Writer;
use ledger_shard_core::apply::{CommandResult, NewBlock};
use ledger_shard_core::command::write::{CommittedWrite, WriteResult};
use ledger_shard_core::effects::{Replica, SnapshotPhase};
use ledger_shard_core::entry::{EntryKind, LogEntry};
use ledger_types::{Digest, NodeId, TxId};

use super::*;
use crate::workload::Ending;

const GROUP: GroupId = GroupId(1);

fn name(verdict: Verdict) -> &'static str {
    verdict.err().map_or("", |(name, _)| name)
}

fn replicas() -> Vec<Replica> {
    (1..=3).map(|id| Replica { incarnation: Incarnation(id), node: NodeId(id) }).collect()
}

fn started() -> Oracle {
    let mut oracle = Oracle::new(false);
    for id in 1..=3 {
        let record = BootRecord::new_group(GROUP, Incarnation(id), replicas());
        assert_eq!(name(oracle.booted(&record)), "");
    }
    oracle
}

fn entry(index: u64, term: u64, data: &[u8]) -> LogEntry {
    LogEntry { index, term, kind: EntryKind::Normal, data: data.to_vec() }
}

fn persist(entries: Vec<LogEntry>, hard_state: HardState) -> Persist {
    let (ready, hard_state) = (1, Some(hard_state));
    Persist { group: GROUP, ready, hard_state, entries, delete: None, must_sync: true }
}

fn hard_state(term: u64, vote: u64) -> HardState {
    HardState { term, vote, commit: 5 }
}

fn message(kind: u8, from: u64, to: u64, (term, index): (u64, u64)) -> GroupMessage {
    let fields = [(8, kind.into()), (16, to), (24, from), (32, term), (48, index)];
    let mut payload = Vec::new();
    let mut out = Writer::new(&mut payload);
    for (tag, value) in fields {
        out.u8(tag);
        out.u8(u8::try_from(value).expect("small numbers take one byte"));
    }
    let (from, to) = (Incarnation(from), Incarnation(to));
    GroupMessage { group: GROUP, from, to, payload, log_floor: 0, is_catching_up: false }
}

fn status(id: u64, role: Role, term: u64) -> GroupStatus {
    GroupStatus {
        group: GROUP,
        incarnation: Incarnation(id),
        role,
        term,
        leader: None,
        commit: 9,
        applied: 8,
        last_index: 10,
        replicas: replicas(),
        voters: vec![1, 2, 3],
        lag_max: 0,
        conf_state: ConfState { voters: vec![1, 2, 3], ..ConfState::default() },
        members: Vec::new(),
        first_index: 6,
        log_bytes: 0,
        oldest_entry_ns: 0,
        snapshot: SnapshotPhase::None,
        is_asleep: false,
        is_conf_settled: false,
    }
}

fn committed(entries: Vec<LogEntry>) -> Committed {
    Committed { group: GROUP, entries, members: Vec::new() }
}

#[test]
fn a_vote_is_durable_before_it_leaves_and_is_given_once_a_term() {
    let mut oracle = started();
    let vote = |to| message(VOTE_RESPONSE as u8, 1, to, (6, 0));
    assert_eq!(name(oracle.sent(&vote(2))), "voted before durable");
    oracle.persisted(Incarnation(1), &persist(Vec::new(), hard_state(6, 2)));
    assert_eq!(name(oracle.sent(&vote(2))), "");
    assert_eq!(name(oracle.sent(&vote(3))), "voted before durable");
    oracle.persisted(Incarnation(1), &persist(Vec::new(), hard_state(6, 3)));
    assert_eq!(name(oracle.sent(&vote(3))), "one vote a term");
}

#[test]
fn an_acknowledgement_is_of_durable_entries_of_a_living_replica() {
    let mut oracle = started();
    let ack = |term, index| message(APPEND_RESPONSE as u8, 2, 1, (term, index));
    assert_eq!(name(oracle.sent(&ack(5, 5))), "");
    assert_eq!(name(oracle.sent(&ack(5, 7))), "acknowledged before durable");
    assert_eq!(name(oracle.sent(&ack(6, 5))), "acknowledged before durable");
    let entries = vec![entry(6, 6, b"a"), entry(7, 6, b"b")];
    oracle.persisted(Incarnation(2), &persist(entries, hard_state(6, 0)));
    assert_eq!(name(oracle.sent(&ack(6, 7))), "");
    assert_eq!(name(oracle.sent(&ack(6, 8))), "acknowledged before durable");
    oracle.buried(Incarnation(2));
    assert_eq!(name(oracle.sent(&ack(6, 6))), "buried");
}

/// Seeds 717038 and 806636: entries of a term and those of the next term in their place became durable in one sync,
/// and the acknowledgement of the first left after it.
#[test]
fn an_acknowledgement_of_a_term_that_ended_is_late_and_one_of_a_term_to_come_is_false() {
    let mut oracle = started();
    let ack = |term, index| message(APPEND_RESPONSE as u8, 2, 1, (term, index));
    oracle.persisted(Incarnation(2), &persist(vec![entry(6, 7, b"c")], hard_state(7, 0)));
    assert_eq!(name(oracle.sent(&ack(6, 8))), "");
    assert_eq!(name(oracle.sent(&ack(7, 6))), "");
    assert_eq!(name(oracle.sent(&ack(7, 7))), "acknowledged before durable");
    assert_eq!(name(oracle.sent(&ack(8, 6))), "acknowledged before durable", "its term is not");
}

#[test]
fn a_replica_starts_with_everything_that_was_durable() {
    let mut oracle = started();
    oracle.persisted(Incarnation(2), &persist(vec![entry(6, 6, b"a")], hard_state(6, 3)));
    let mut record = BootRecord::new_group(GROUP, Incarnation(2), replicas());
    for (term, vote, expected) in [(6, 3, ""), (6, 1, "hard state is kept"), (7, 0, "")] {
        record.hard_state = HardState { term, vote, ..HardState::default() };
        assert_eq!(name(oracle.booted(&record)), expected, "term {term}, vote {vote}");
    }
    record.hard_state.term = 6;
    assert_eq!(name(oracle.booted(&record)), "hard state is kept");
    record.hard_state.term = 8;
    record.applied += 3;
    assert_eq!(name(oracle.booted(&record)), "");
    record.applied -= 1;
    assert_eq!(name(oracle.booted(&record)), "applied goes on");
}

#[test]
fn a_term_has_one_leader_and_it_was_chosen_by_a_quorum() {
    let mut oracle = started();
    assert_eq!(name(oracle.status(&status(1, Role::Leader, 6))), "elected by a quorum");
    let mut oracle = started();
    oracle.persisted(Incarnation(2), &persist(Vec::new(), hard_state(6, 1)));
    assert_eq!(name(oracle.sent(&message(VOTE_RESPONSE as u8, 2, 1, (6, 0)))), "");
    assert_eq!(name(oracle.status(&status(1, Role::Leader, 6))), "");
    assert_eq!(name(oracle.status(&status(1, Role::Leader, 6))), "");
    assert_eq!(name(oracle.status(&status(3, Role::Leader, 6))), "one leader a term");
}

#[test]
fn a_joint_configuration_needs_both_majorities() {
    let mut oracle = started();
    for voter in [2, 4] {
        let record = BootRecord::new_group(GROUP, Incarnation(voter), replicas());
        assert_eq!(name(oracle.booted(&record)), "");
        oracle.persisted(Incarnation(voter), &persist(Vec::new(), hard_state(6, 1)));
    }
    let mut joint = status(1, Role::Leader, 6);
    joint.conf_state = ConfState { voters: vec![1, 4, 5], ..ConfState::default() };
    joint.conf_state.voters_outgoing = vec![1, 2, 3];
    assert_eq!(name(oracle.sent(&message(VOTE_RESPONSE as u8, 4, 1, (6, 0)))), "");
    assert_eq!(name(oracle.status(&joint)), "elected by a quorum");
    joint.term = 7;
    for voter in [2, 4] {
        oracle.persisted(Incarnation(voter), &persist(Vec::new(), hard_state(7, 1)));
        assert_eq!(name(oracle.sent(&message(VOTE_RESPONSE as u8, voter, 1, (7, 0)))), "");
    }
    assert_eq!(name(oracle.status(&joint)), "");
}

#[test]
fn committed_entries_are_the_same_everywhere_and_durable_on_a_quorum() {
    let mut oracle = started();
    let seen = |role| Seen {
        incarnation: Incarnation(1),
        role,
        term: 6,
        conf: ConfState { voters: vec![1, 2, 3], ..ConfState::default() },
        conf_before: ConfState::default(),
    };
    let first = committed(vec![entry(6, 6, b"a")]);
    assert_eq!(name(oracle.committed(&first, Some(&seen(Role::Follower)))), "");
    assert_eq!(
        name(oracle.committed(&first, Some(&seen(Role::Leader)))),
        "committed before durable"
    );
    for id in [1, 3] {
        let persist = persist(vec![entry(6, 6, b"a")], hard_state(6, 1));
        oracle.persisted(Incarnation(id), &persist);
    }
    assert_eq!(name(oracle.committed(&first, Some(&seen(Role::Leader)))), "");
    for other in [entry(6, 6, b"b"), entry(6, 7, b"a"), entry(8, 6, b"c")] {
        assert_eq!(name(oracle.committed(&committed(vec![other]), None)), "committed prefix");
    }
    assert_eq!(oracle.last_committed(GROUP), 6);
}

#[test]
fn indexes_keep_their_order_and_logs_their_bounds() {
    let mut oracle = started();
    let follower = |applied, commit| {
        let mut one = status(1, Role::Follower, 6);
        (one.applied, one.commit, one.last_index) = (applied, commit, 2_000);
        one
    };
    assert_eq!(name(oracle.looked_at(&follower(9, 8), 10)), "applied, commit, last");
    assert_eq!(name(oracle.looked_at(&follower(9, 2_001), 10)), "applied, commit, last");
    assert_eq!(name(oracle.looked_at(&follower(100, 100), 10)), "");
    assert_eq!(name(oracle.looked_at(&follower(99, 100), 10)), "applied goes on");
    assert_eq!(name(oracle.looked_at(&follower(1_000, 1_000), 10)), "bounded log");
}

#[test]
fn a_start_has_all_that_was_durable() {
    let mut oracle = started();
    oracle.persisted(Incarnation(1), &persist(Vec::new(), hard_state(8, 2)));
    let mut record = BootRecord::new_group(GROUP, Incarnation(1), replicas());
    assert_eq!(name(oracle.booted(&record)), "hard state is kept");
    let mut oracle = started();
    oracle.persisted(Incarnation(1), &persist(Vec::new(), hard_state(8, 2)));
    record.hard_state = hard_state(8, 0);
    assert_eq!(name(oracle.booted(&record)), "hard state is kept");
    let mut oracle = started();
    oracle.applied_durably(Incarnation(1), 7);
    assert_eq!(name(oracle.booted(&record)), "applied goes on");
}

#[test]
fn a_height_has_one_block() {
    let mut oracle = Oracle::new(false);
    let block = |height, root| NewBlock {
        vault: VaultRef::new(1, 0),
        height,
        block_hash: Digest([1; 32]),
        state_root: Digest([root; 32]),
        timestamp_ns: 0,
        soonest_expiry: None,
    };
    assert_eq!(name(oracle.block(&block(1, 1), &[], &mut [])), "one block a height");
    assert_eq!(name(oracle.block(&block(0, 1), &[], &mut [])), "");
    assert_eq!(name(oracle.block(&block(0, 1), &[], &mut [])), "");
    assert_eq!(name(oracle.block(&block(0, 2), &[], &mut [])), "one block a height");
    assert_eq!(name(oracle.block(&block(1, 1), &[], &mut [])), "chain", "it has no body");
}

#[test]
fn answers_are_held_against_the_chain() {
    let told = |height| {
        CommandResult::Write(WriteResult::Committed(CommittedWrite {
            tx_id: TxId([1; 16]),
            height,
            tx_index: 0,
            sequence: 0,
            outcomes: Vec::new(),
            repeated: false,
        }))
    };
    let asked = |placed, floor| crate::workload::Asked::for_test(placed, floor);
    let mut oracle = Oracle::new(false);
    assert_eq!(name(oracle.answered(&asked(None, 0), 0, &told(3))), "answers", "it is nowhere");
    assert_eq!(name(oracle.answered(&asked(Some((4, 0)), 0), 0, &told(3))), "answers");
    assert_eq!(name(oracle.answered(&asked(Some((3, 0)), 3), 0, &told(3))), "answers", "too old");
    let last = CommandResult::Write(WriteResult::SequenceDuplicate { last: 7 });
    assert_eq!(name(oracle.answered(&asked(None, 0), 0, &last)), "answers");
    assert_eq!(name(oracle.answered(&asked(None, 0), 0, &CommandResult::UnknownVault)), "answers");
    assert_eq!(name(oracle.answered(&asked(Some((3, 0)), 2), 0, &told(3))), "");
    assert_eq!(oracle.known_height(VaultRef::new(1, 0)), 3);
    assert_eq!(name(oracle.read(&asked(None, 3), 2, None)), "fresh reads");
    let wrong = (3, b"nobody wrote this".to_vec());
    assert_eq!(name(oracle.read(&asked(None, 3), 3, Some(&wrong))), "right reads");
    assert_eq!(name(oracle.read(&asked(None, 3), 3, None)), "");
}

#[test]
fn a_vault_ends_once_for_who_asked_and_for_ever() {
    let vault = VaultRef::new(1, 0);
    let block = |height| NewBlock {
        vault,
        height,
        block_hash: Digest([1; 32]),
        state_root: Digest([1; 32]),
        timestamp_ns: 0,
        soonest_expiry: None,
    };
    let asked = |ending, is_late| {
        let mut asked = crate::workload::Asked::for_test(None, 0);
        (asked.ending, asked.is_late) = (ending, is_late);
        asked
    };
    let (delete, purge) = (Some(Ending::Delete), Some(Ending::Purge));
    let mut oracle = Oracle::new(false);
    let told = |oracle: &mut Oracle, ending, is_late, result: &CommandResult| {
        name(oracle.answered(&asked(ending, is_late), 0, result))
    };
    assert_eq!(name(oracle.block(&block(0), &[], &mut [])), "");
    // Nobody has asked yet.
    assert_eq!(told(&mut oracle, None, false, &CommandResult::VaultDeleted), "answers");
    let mut oracle = Oracle::new(false);
    assert_eq!(name(oracle.block(&block(0), &[], &mut [])), "");
    oracle.asked_to_end(vault, Ending::Purge);
    assert_eq!(told(&mut oracle, purge, false, &CommandResult::VaultNotDeleted), "");
    assert_eq!(told(&mut oracle, None, false, &CommandResult::VaultNotDeleted), "answers");
    assert!(!oracle.may_be_purged(vault), "it is not deleted");
    oracle.asked_to_end(vault, Ending::Delete);
    assert_eq!(told(&mut oracle, None, false, &CommandResult::VaultDeleted), "");
    assert_eq!(told(&mut oracle, delete, true, &CommandResult::VaultDeleted), "");
    assert!(oracle.is_ended(vault) && oracle.may_be_purged(vault) && !oracle.is_purged(vault));
    assert_eq!(told(&mut oracle, purge, true, &CommandResult::VaultNotDeleted), "answers");
    assert_eq!(told(&mut oracle, None, true, &CommandResult::CheckpointRecorded), "answers");
    assert_eq!(name(oracle.block(&block(1), &[], &mut [])), "nothing after the end");
    assert_eq!(name(oracle.block(&block(0), &[], &mut [])), "", "another replica seals it");
    assert_eq!(told(&mut oracle, purge, true, &CommandResult::VaultPurged), "");
    assert!(oracle.is_purged(vault));
}
