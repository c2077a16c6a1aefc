//! The one rule of apply, and entries at which a replica must stop.

use ledger_types::{GroupId, Incarnation, OwnerEpoch, VaultRef};

use super::harness::*;
use crate::apply::{Applier, ApplyFault, ApplyOutput, CommandResult};
use crate::effects::Committed;
use crate::entry::{CommandKind, EntryBuilder, EntryKind, LogEntry};
use crate::rows::{OwnedRow, OwnedState, owned_row_key};
use crate::view::{Family, RowWrite};

#[test]
fn a_command_for_another_epoch_or_vault_is_refused() {
    let mut machine = Machine::new();
    let body = write(&[set("a", "1")]).encode();
    let later = command_at(vault(), OwnerEpoch(2), CommandKind::Write, &body);
    let unknown = command(VaultRef::new(1, 2), &write(&[set("a", "1")]));
    let results = machine.commands(&[later, unknown, create_vault(vault())]);
    assert_eq!(results[0], CommandResult::WrongShard { owner_epoch: Some(EPOCH) });
    assert_eq!(results[1], CommandResult::UnknownVault);
    let header = machine.header(vault(), 0).encode();
    assert_eq!(
        results[2],
        CommandResult::VaultCreated { header },
        "creating again changes nothing"
    );
    assert_eq!(machine.vault_row(vault()).height, 0);
}

#[test]
fn clients_cannot_reach_the_directory_and_directory_commands_nothing_else() {
    let mut machine = Machine::new();
    let body = write(&[set("a", "1")]).encode();
    let results = machine.commands(&[
        command_at(VaultRef::SYSTEM, EPOCH, CommandKind::Write, &body),
        create_vault(VaultRef::new(0, 1)),
        command_at(vault(), EPOCH, CommandKind::System, b"anything"),
    ]);
    assert_eq!(results, vec![CommandResult::UnknownVault; 3]);
}

#[test]
fn a_vault_that_the_group_gave_away_is_not_created_again() {
    let mut machine = Machine::empty(Default::default());
    let owned = OwnedRow { owner_epoch: OwnerEpoch(4), state: OwnedState::Released };
    let (family, key) = (Family::Vaults, owned_row_key(GROUP, vault()));
    machine.rows.write([RowWrite { family, key, value: Some(owned.encode()) }]);
    let results =
        machine.commands(&[create_vault(vault()), command(vault(), &write(&[set("a", "1")]))]);
    let wrong = CommandResult::WrongShard { owner_epoch: Some(OwnerEpoch(4)) };
    assert_eq!(results, [wrong.clone(), wrong]);
}

#[test]
fn a_vault_can_be_created_and_written_in_one_entry() {
    let mut machine = Machine::empty(Default::default());
    let results =
        machine.commands(&[create_vault(vault()), command(vault(), &write(&[set("a", "1")]))]);
    assert!(matches!(results[0], CommandResult::VaultCreated { .. }));
    assert!(matches!(results[1], CommandResult::Write(_)));
    assert_eq!(machine.vault_row(vault()).height, 1);
    machine.check(vault());
}

#[test]
fn replayed_entries_change_nothing_and_answer_nobody() {
    let mut machine = Machine::empty(Default::default());
    let mut entries = vec![machine.entry(&[create_vault(vault())])];
    for key in 1..=4 {
        let appended = write(&[set("a", &key.to_string()), set(&format!("k{key}"), "1")]);
        entries.push(machine.entry(&[command(vault(), &appended)]));
    }
    entries.push(LogEntry { data: Vec::new(), ..machine.entry(&[]) });
    machine.round(&entries);
    let before = machine.rows.clone();
    for from in 0..entries.len() {
        machine.restart();
        let output = machine.round(&entries[from..]);
        assert!(output.replies.is_empty() && output.blocks.is_empty());
        assert_eq!(machine.rows, before);
    }
}

#[test]
fn entries_at_which_a_replica_stops() {
    let mut stopped = Vec::new();
    let mut stop = |change: &dyn Fn(&mut Machine) -> LogEntry| {
        let mut machine = Machine::new();
        let entry = change(&mut machine);
        stopped.push(machine.try_round(&[entry]).expect_err("the entry is not known"));
    };
    stop(&|machine| LogEntry { kind: EntryKind::ConfChangeV2, ..machine.entry(&[]) });
    stop(&|machine| {
        let mut entry = machine.entry(&[]);
        entry.data[1..3].copy_from_slice(&9u16.to_be_bytes());
        entry
    });
    stop(&|machine| {
        let mut unknown = create_vault(vault());
        unknown[0] = 200;
        machine.entry(&[unknown])
    });
    stop(&|machine| machine.entry(&[command_at(vault(), EPOCH, CommandKind::Write, b"\x09")]));
    stop(&|machine| {
        machine.last_index += 1;
        machine.entry(&[])
    });
    use ApplyFault::*;
    assert!(matches!(stopped[0], Members { index: 7, .. }));
    assert!(matches!(stopped[1], FeatureLevel { level: 9, .. }));
    assert!(matches!(stopped[2], UnknownCommand { kind: 200, .. }));
    assert!(matches!(stopped[3], Decode { index: 7, .. }));
    assert!(matches!(stopped[4], Gap { applied: 6, found: 8, .. }));
    let other = GroupId(8);
    let data = EntryBuilder::new(Incarnation(1), 0).finish();
    let entry = LogEntry { index: 6, term: 6, kind: EntryKind::Normal, data };
    let committed = [Committed { group: other, entries: vec![entry], members: Vec::new() }];
    let fault = Applier::new(Default::default()).apply(
        &committed,
        &Machine::new().rows,
        &mut ApplyOutput::default(),
    );
    assert_eq!(fault, Err(UnknownGroup(other)));
}
