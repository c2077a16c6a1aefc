//! The directory's commands: one transaction each, and each sees the earlier ones of its entry.

use ledger_proof::{EntryPosition, Record, Threshold, hash};
use ledger_types::{
    ClusterId, Dedup, Digest, GroupId, NamespaceId, Operation, OwnerEpoch, StateKey, StoreId,
    VaultRef,
};

use super::harness::{delete, entry, set};
use crate::apply::block::BlockBuilder;
use crate::apply::round::{RoundEntities, VaultRound};
use crate::apply::vault_state::VaultState;
use crate::apply::{Applier, ApplyOutput, CommandResult, genesis_rows};
use crate::command::system::{
    CreateNamespace, CreateShards, CreateVault, EntityView, Found, Founder, Retention,
    SystemCommand, SystemResult,
};
use crate::effects::Committed;
use crate::entry::{Command, CommandKind};
use crate::query::{EntityQuery, PageLimits, block, entities};
use crate::rows::{GroupRow, group_row_key, latest_key};
use crate::view::{Family, MemoryRows, RowWrite};

const POSITION: EntryPosition = EntryPosition { shard: 0, term: 5, index: 5, timestamp_ns: 77 };

fn founded_rows() -> MemoryRows {
    let mut rows = MemoryRows::default();
    let row = GroupRow { applied_index: 5, applied_term: 5, ..GroupRow::default() };
    let (family, key) = (Family::Vaults, group_row_key(GroupId::SYSTEM));
    rows.write([RowWrite { family, key, value: Some(row.encode()) }]);
    rows.write(genesis_rows(VaultRef::SYSTEM, OwnerEpoch(1), POSITION));
    rows
}

fn commands() -> Vec<Vec<u8>> {
    let founder = Founder {
        name: "node-1".to_owned(),
        store_id: StoreId([1; 16]),
        public_key: [2; 32],
        address: "node-1:9000".to_owned(),
        zone: String::new(),
    };
    let found = Found {
        cluster: ClusterId([9; 16]),
        founded_at_ns: 77,
        feature_level: 1,
        replication_factor: 3,
        data_shards: 2,
        threshold: Threshold::Majority,
        domain: "test.ledger".to_owned(),
        founders: vec![founder],
    };
    let namespace = |name: &str| CreateNamespace { name: name.to_owned(), shard: None };
    let (vault, retention) = (None, Retention::KEEP_ALL);
    let create = CreateVault { namespace: NamespaceId(1), vault, retention };
    let all = [
        SystemCommand::Found(found.clone()),
        SystemCommand::Found(found),
        SystemCommand::CreateShards(CreateShards { count: 2, replication_factor: 3 }),
        SystemCommand::CreateNamespace(namespace("a")),
        SystemCommand::CreateNamespace(namespace("b")),
        SystemCommand::CreateNamespace(namespace("a")),
        SystemCommand::CreateVault(create),
    ];
    let command = |command: &SystemCommand| {
        let body = command.encode().unwrap();
        let kind = CommandKind::System as u8;
        let (vault, owner_epoch) = (VaultRef::SYSTEM, OwnerEpoch(1));
        Command { kind, vault, owner_epoch, body: &body }.encode()
    };
    all.iter().map(command).collect()
}

/// Applies entries with the given commands; returns the rows and the answers.
fn run(entries: &[&[Vec<u8>]]) -> (MemoryRows, Vec<CommandResult>) {
    let mut rows = founded_rows();
    let mut applier = Applier::new(Default::default());
    let mut answers = Vec::new();
    for (index, commands) in (6u64..).zip(entries) {
        let entries = vec![entry(index, 1_700_000_000_000_000_000, commands)];
        let mut output = ApplyOutput::default();
        let committed = [Committed { group: GroupId::SYSTEM, entries, members: Vec::new() }];
        applier.apply(&committed, &rows, &mut output).unwrap();
        rows.write(output.rows);
        applier.written();
        answers.extend(output.replies.into_iter().map(|reply| reply.result));
    }
    (rows, answers)
}

/// Directories after the same commands, in one block and in one for each.
pub(super) fn directories() -> [MemoryRows; 2] {
    let commands = commands();
    let one_by_one: Vec<&[Vec<u8>]> = commands.chunks(1).collect();
    [run(&[&commands]).0, run(&one_by_one).0]
}

#[test]
fn commands_of_one_entry_see_each_other_as_if_they_came_one_by_one() {
    let commands = commands();
    let (together, answers) = run(&[&commands]);
    let one_by_one: Vec<&[Vec<u8>]> = commands.chunks(1).collect();
    let (separate, separate_answers) = run(&one_by_one);
    assert_eq!(answers, separate_answers);
    for place in [1, 5] {
        let answer = &answers[place];
        assert!(matches!(answer, CommandResult::System(SystemResult::Refused(_))), "{answer:?}");
    }
    let query = EntityQuery {
        vault: VaultRef::SYSTEM,
        prefix: "",
        at_height: None,
        time_s: 0,
        include_expired: false,
    };
    let (bytes_max, rows_max) = (1 << 20, usize::MAX);
    let limits = PageLimits { after: None, items_max: 1000, bytes_max, rows_max };
    let all = |rows: &MemoryRows| {
        let items = entities(rows, query, limits).unwrap().items.into_iter();
        items.map(|entity| (entity.key, entity.value)).collect::<Vec<_>>()
    };
    assert!(all(&together).len() > 8);
    assert_eq!(all(&together), all(&separate));
    let one = block(&together, VaultRef::SYSTEM, 1).unwrap();
    assert_eq!(one.transactions.len(), 5, "a refusal is no transaction");
    let (first, _) = &one.transactions[0];
    assert_eq!((first.client.as_str(), first.dedup), ("_system", Dedup::None));
    let mut ids: Vec<_> =
        one.transactions.iter().map(|(transaction, _)| transaction.tx_id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 5);
    let separate_tip = block(&separate, VaultRef::SYSTEM, 5).unwrap();
    assert_eq!(separate_tip.header.index, 12, "entries without effect make no block");
}

#[test]
fn a_scan_shows_the_store_with_the_rounds_changes_in_order() {
    let mut rows = founded_rows();
    let run = |rows: &MemoryRows, operations: &[Operation]| {
        let mut round = VaultRound::new(VaultRef::SYSTEM);
        round.set_state(VaultState::load(VaultRef::SYSTEM, rows).unwrap());
        let targets: Vec<_> =
            operations.iter().map(|operation| round.slots.target(operation)).collect();
        round.load(rows).unwrap();
        let block = BlockBuilder::new(&round, POSITION);
        block.execute(&mut round.slots, operations.to_vec(), &targets).unwrap();
        round
    };
    for key in ["p/b", "p/d", "p/f", "p/h", "q/a"] {
        let record = Record {
            created_height: 0,
            modified_height: 0,
            modified_tx: 0,
            expires_at: 0,
            previous_record_hash: Digest::ZERO,
            value_hash: hash::plain(b"old"),
        };
        let key = latest_key(VaultRef::SYSTEM, StateKey::entity(key).as_bytes());
        let value = Some([&record.encode()[..], b"old"].concat());
        rows.write([RowWrite { family: Family::Latest, key, value }]);
    }
    let changes =
        [set("p/a", "new"), set("p/d", "new"), delete("p/e"), delete("p/h"), set("p/i", "new")];
    let round = run(&rows, &changes);
    let view = RoundEntities { round: &round, view: &rows };
    let scan = |limit: usize| {
        let mut seen = Vec::new();
        let visit = &mut |key: &str, value: &[u8]| {
            seen.push(format!("{key}={}", String::from_utf8_lossy(value)));
            seen.len() < limit
        };
        view.scan("p/", visit).unwrap();
        seen
    };
    let all = ["p/a=new", "p/b=old", "p/d=new", "p/f=old", "p/i=new"];
    for limit in 1..=all.len() {
        assert_eq!(scan(limit), all[..limit], "it stops when told to");
    }
    assert_eq!(view.get("p/a").unwrap().as_deref(), Some(&b"new"[..]));
    assert_eq!(view.get("p/b").unwrap().as_deref(), Some(&b"old"[..]));
    assert_eq!(view.get("p/e").unwrap(), None);
    assert_eq!(view.get("p/h").unwrap(), None);
}
