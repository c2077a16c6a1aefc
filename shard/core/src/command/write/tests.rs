//! The write command's bytes: round trips, limits, golden vectors. How it applies is tested with the blocks.

use ledger_types::limits::KEY_BYTES_MAX;
use ledger_types::{Condition, Incarnation, OwnerEpoch, VaultRef};

use super::*;
use crate::command::create_vault::CreateVaultCommand;
use crate::command::delete_vault::DeleteVaultCommand;
use crate::command::purge_vault::PurgeVaultCommand;
use crate::entry::{Command, CommandKind, EntryBuilder};
use crate::vectors::check;

fn set(key: &str, condition: Option<Condition>) -> Operation {
    let (key, value) = (key.to_owned(), b"value".to_vec());
    Operation::SetEntity { key, value, expires_at: 77, condition }
}

fn write(dedup: Dedup) -> WriteCommand {
    let (resource, relation, subject) =
        ("doc:1".to_owned(), "viewer".to_owned(), "user:a".to_owned());
    let parts = (resource.clone(), relation.clone(), subject.clone());
    WriteCommand {
        tx_id: TxId([0x11; 16]),
        client: "client".to_owned(),
        dedup,
        actor: "actor".to_owned(),
        operations: vec![
            set("plain", None),
            set("absent", Some(Condition::NotExists)),
            set("present", Some(Condition::MustExist)),
            set("version", Some(Condition::Version(9))),
            set("value", Some(Condition::ValueEquals(b"old".to_vec()))),
            Operation::DeleteEntity { key: "gone".to_owned() },
            Operation::ExpireEntity { key: "due".to_owned(), expired_at: 5 },
            Operation::CreateRelationship { resource, relation, subject },
            Operation::DeleteRelationship {
                resource: parts.0,
                relation: parts.1,
                subject: parts.2,
            },
        ],
    }
}

#[test]
fn bodies_round_trip_and_refuse_damage() {
    for dedup in [Dedup::None, Dedup::Sequence(3), Dedup::IdempotencyKey([7; 16])] {
        let command = write(dedup);
        let body = command.encode();
        assert_eq!(WriteCommand::decode(&body), Ok(command));
        for end in 0..body.len() {
            assert!(WriteCommand::decode(&body[..end]).is_err(), "cut at {end}");
        }
        assert!(WriteCommand::decode(&[&body[..], &[0]].concat()).is_err());
        let mut newer = body;
        newer[0] = 2;
        assert!(WriteCommand::decode(&newer).is_err());
    }
}

#[test]
fn the_payload_is_what_was_asked_and_not_who_asked_when() {
    let command = write(Dedup::IdempotencyKey([7; 16]));
    let other = WriteCommand {
        tx_id: TxId([9; 16]),
        client: "another".to_owned(),
        dedup: Dedup::Sequence(1),
        ..command.clone()
    };
    let changed = WriteCommand { actor: "another".to_owned(), ..command.clone() };
    let payload = |command: &WriteCommand| {
        WriteCommand::decode_with_payload(&command.encode()).unwrap().1.to_vec()
    };
    assert_eq!(payload(&command), payload(&other));
    assert_ne!(payload(&command), payload(&changed));
}

#[test]
fn what_must_not_enter_the_log_is_refused() {
    let decode = |command: &WriteCommand| WriteCommand::decode(&command.encode());
    let base = write(Dedup::None);
    let empty = WriteCommand { operations: Vec::new(), ..base.clone() };
    assert!(decode(&empty).is_err());
    let long = "x".repeat(KEY_BYTES_MAX);
    for operation in [
        Operation::DeleteEntity { key: String::new() },
        Operation::DeleteEntity { key: "a\0b".to_owned() },
        Operation::DeleteEntity { key: "x".repeat(KEY_BYTES_MAX + 1) },
        Operation::CreateRelationship {
            resource: long.clone(),
            relation: "r".to_owned(),
            subject: long,
        },
    ] {
        let command = WriteCommand { operations: vec![operation], ..base.clone() };
        assert!(decode(&command).is_err());
    }
    let client = WriteCommand { client: "x".repeat(257), ..base };
    assert!(decode(&client).is_err());
}

#[test]
fn commands_and_entries_are_the_golden_bytes() {
    let envelope = |kind, body: &[u8]| {
        let (vault, owner_epoch) = (VaultRef::new(0x0102, 0x0304), OwnerEpoch(5));
        Command { kind: kind as u8, vault, owner_epoch, body }.encode()
    };
    let plain = write(Dedup::None).encode();
    let create = CreateVaultCommand::default().encode();
    let mut entry = EntryBuilder::new(Incarnation(0x0607), 0x0809);
    entry.push(&envelope(CommandKind::Write, &plain));
    entry.push(&envelope(CommandKind::CreateVault, &create));
    check(
        "commands",
        &[
            ("write", plain),
            ("write_sequence", write(Dedup::Sequence(3)).encode()),
            ("write_idempotency_key", write(Dedup::IdempotencyKey([7; 16])).encode()),
            ("create_vault", create),
            ("delete_vault", envelope(CommandKind::DeleteVault, &DeleteVaultCommand.encode())),
            ("purge_vault", envelope(CommandKind::PurgeVault, &PurgeVaultCommand.encode())),
            ("entry", entry.finish()),
            ("entry_empty", EntryBuilder::new(Incarnation(1), 2).finish()),
        ],
    );
}
