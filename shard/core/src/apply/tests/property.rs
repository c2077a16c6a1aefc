//! Random logs: however they are folded into rounds, and wherever the process dies, the rows are the same.

use ledger_types::{Condition, Operation, TxId, VaultRef};
use proptest::prelude::*;

use super::harness::*;
use crate::apply::{ApplyConfig, ApplyOutput, CommandReply};
use crate::command::write::WriteCommand;
use crate::effects::Committed;
use crate::entry::LogEntry;
use crate::rows::{VaultRow, split_vault_row_key};
use crate::view::{Family, MemoryRows};

/// Vaults of a random log; the second one is created by it.
pub(super) fn vaults() -> [VaultRef; 2] {
    [vault(), VaultRef::new(1, 2)]
}

fn key() -> impl Strategy<Value = String> {
    (0..12u8).prop_map(|number| format!("key-{number}"))
}

fn condition() -> impl Strategy<Value = Option<Condition>> {
    prop_oneof![
        4 => Just(None),
        1 => Just(Some(Condition::NotExists)),
        1 => Just(Some(Condition::MustExist)),
        1 => (0..20u64).prop_map(|version| Some(Condition::Version(version))),
        1 => (0..3u8).prop_map(|value| Some(Condition::ValueEquals(vec![value]))),
    ]
}

fn expiry() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0), 1 => START_S..START_S + 40]
}

fn operation() -> impl Strategy<Value = Operation> {
    let set =
        (key(), 0..3u8, expiry(), condition()).prop_map(|(key, value, expires_at, condition)| {
            let value = vec![value];
            Operation::SetEntity { key, value, expires_at, condition }
        });
    let parts = (0..3u8, 0..2u8, 0..3u8);
    let name = |(resource, relation, subject)| {
        (format!("doc:{resource}"), format!("r{relation}"), format!("user:{subject}"))
    };
    prop_oneof![
        4 => set,
        2 => key().prop_map(|key| Operation::DeleteEntity { key }),
        1 => (key(), expiry()).prop_map(|(key, expired_at)| {
            Operation::ExpireEntity { key, expired_at }
        }),
        2 => parts.clone().prop_map(name).prop_map(|(resource, relation, subject)| {
            Operation::CreateRelationship { resource, relation, subject }
        }),
        1 => parts.prop_map(name).prop_map(|(resource, relation, subject)| {
            Operation::DeleteRelationship { resource, relation, subject }
        }),
    ]
}

fn write_command() -> impl Strategy<Value = WriteCommand> {
    let dedup = prop_oneof![
        2 => Just(ledger_types::Dedup::None),
        3 => (0..20u8).prop_map(|key| ledger_types::Dedup::IdempotencyKey([key; 16])),
        1 => (1..8u64).prop_map(ledger_types::Dedup::Sequence),
    ];
    let operations = prop::collection::vec(operation(), 1..5);
    (any::<u8>(), 0..3u8, dedup, operations).prop_map(|(id, client, dedup, operations)| {
        let (client, actor) = (format!("client-{client}"), String::new());
        WriteCommand { tx_id: TxId([id; 16]), client, dedup, actor, operations }
    })
}

/// Entries as (milliseconds since the one before, writes with their vault).
pub(super) type Log = Vec<(i64, Vec<(usize, WriteCommand)>)>;

pub(super) fn log() -> impl Strategy<Value = Log> {
    let writes = prop::collection::vec((0..2usize, write_command()), 0..4);
    prop::collection::vec((-2000..5000i64, writes), 1..30)
}

pub(super) fn entries(machine: &mut Machine, log: &Log) -> Vec<LogEntry> {
    let mut entries = vec![machine.entry(&[create_vault(vaults()[1])])];
    for (step_ms, writes) in log {
        machine.time_ns = machine.time_ns.checked_add_signed(step_ms * 1_000_000).unwrap();
        let commands: Vec<_> =
            writes.iter().map(|(number, write)| command(vaults()[*number], write)).collect();
        entries.push(machine.entry(&commands));
    }
    entries
}

pub(super) fn config(tree_flush_blocks: u64, tree_cache_bytes: usize) -> ApplyConfig {
    ApplyConfig {
        tree_flush_blocks,
        tree_cache_bytes,
        session_retention_ns: 8 * SECOND,
        session_rows_max: 12,
        ..ApplyConfig::default()
    }
}

/// Every row that replicas must agree on, and every answer.
fn comparable(rows: &MemoryRows) -> Vec<(Family, Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    for family in [Family::Latest, Family::History, Family::Blocks, Family::Sessions] {
        all.extend(rows.family(family).map(|(key, value)| (family, key.to_vec(), value.to_vec())));
    }
    for (key, value) in rows.family(Family::Vaults) {
        let mut value = value.to_vec();
        if split_vault_row_key(key).is_some() {
            // Which pages are stored is a replica's own business.
            let row = VaultRow::decode(&value).unwrap();
            let tree_anchor = ledger_proof::TreeAnchor::empty();
            value = VaultRow { tree_anchor, ..row }.encode();
        }
        all.push((Family::Vaults, key.to_vec(), value));
    }
    all
}

/// What happens to a round.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It is applied and written.
    Written,
    /// The process dies before the round is written.
    Lost,
    /// The process dies after it, and the log is replayed from some way back.
    Replayed(usize),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        2 => Just(Fate::Written),
        1 => Just(Fate::Lost),
        1 => (0..8usize).prop_map(Fate::Replayed),
    ]
}

/// Applies the entries with crashes; returns the answers that somebody waited for.
fn run_with_crashes(
    machine: &mut Machine,
    all: &[LogEntry],
    fates: &[(usize, Fate)],
) -> Vec<CommandReply> {
    let (mut next, mut replies) = (0, Vec::new());
    let mut fates = fates.iter().cycle();
    while next < all.len() {
        let (size, fate) = *fates.next().expect("an endless iterator");
        let end = (next + size).min(all.len());
        match fate {
            Fate::Lost if next % 2 == 0 => {
                let committed = [Committed {
                    group: GROUP,
                    entries: all[next..end].to_vec(),
                    members: Vec::new(),
                }];
                let mut lost = ApplyOutput::default();
                machine.applier.apply(&committed, &machine.rows, &mut lost).unwrap();
                machine.restart();
            }
            Fate::Replayed(back) => {
                machine.restart();
                replies.extend(machine.round(&all[next.saturating_sub(back)..end]).replies);
                next = end;
                continue;
            }
            _ => {}
        }
        replies.extend(machine.round(&all[next..end]).replies);
        next = end;
    }
    replies
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn folding_and_crashes_change_nothing(
        log in log(),
        folds in prop::collection::vec(1..6usize, 1..8),
        fates in prop::collection::vec((1..5usize, fate()), 1..8),
        flush_blocks in 1..8u64,
        cache_bytes in prop_oneof![Just(0usize), Just(4096), Just(1 << 20)],
    ) {
        let mut single = Machine::with(config(256, 1 << 20));
        let all = entries(&mut single, &log);
        let mut single_replies = Vec::new();
        for entry in &all {
            single_replies.extend(single.round(std::slice::from_ref(entry)).replies);
        }
        for vault in vaults() {
            single.check(vault);
        }
        let expected = comparable(&single.rows);

        let mut folded = Machine::with(config(flush_blocks, cache_bytes));
        let (mut rest, mut replies) = (&all[..], Vec::new());
        for size in folds.iter().cycle() {
            let (round, after) = rest.split_at((*size).min(rest.len()));
            replies.extend(folded.round(round).replies);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(&replies, &single_replies);
        prop_assert_eq!(comparable(&folded.rows), expected.clone());

        let mut crashing = Machine::with(config(flush_blocks, cache_bytes));
        let replies = run_with_crashes(&mut crashing, &all, &fates);
        prop_assert_eq!(&replies, &single_replies);
        prop_assert_eq!(comparable(&crashing.rows), expected);
        crashing.restart();
        for vault in vaults() {
            crashing.check(vault);
            let tip = crashing.vault_row(vault);
            let proof = crashing.applier.prove(vault, &[], None, &crashing.rows).unwrap();
            prop_assert_eq!(proof.log_root, tip.log_root);
        }
    }
}
