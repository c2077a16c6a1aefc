//! The command that puts a signed checkpoint into the vault's group: the signed history of its blocks, and the
//! means by which replicas notice that they differ.
//!
//! Owns the command's body, its apply and what it answers. Must never judge signatures: voters' keys are not
//! part of this group's state. Nor does it compare roots: that would make what is written depend on what a
//! replica has computed; whoever writes the rows compares afterwards.
//!
//! Body: `0x01 ‖ note length u32 ‖ note`.

use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_proof::note::NOTE_BYTES_MAX;
use ledger_proof::{Checkpoint, SignedNote};

use crate::apply::round::VaultRound;
use crate::apply::{CommandResult, NotedCheckpoint};
use crate::rows::{VaultRow, checkpoint_key, encode_checkpoint};
use crate::view::{Family, RowWrite};

/// Version of the body.
const VERSION: u8 = 1;

/// The command's body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordCheckpointCommand {
    /// A signed note over a state of the vault's log.
    pub note: Vec<u8>,
}

/// Why a note is not recorded. The same on every replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckpointRefusal {
    /// It is no note over a checkpoint.
    Malformed,
    /// It is over another vault, or another log epoch of this one.
    OtherLog,
    /// It is over no block, or over more than the vault has.
    BeyondTip,
}

impl RecordCheckpointCommand {
    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(5 + self.note.len());
        let mut writer = Writer::new(&mut out);
        writer.u8(VERSION);
        writer.bytes_u32(&self.note);
        out
    }

    /// Reads a body. Errors on an unknown version, a note longer than notes are, or bytes left over.
    pub fn decode(body: &[u8]) -> Result<RecordCheckpointCommand, DecodeError> {
        let mut reader = Reader::new(body);
        let field = "record checkpoint version";
        match reader.u8(field)? {
            VERSION => {}
            value => return Err(DecodeError::UnknownValue { field, value: value.into() }),
        }
        let note = reader.bytes_u32("checkpoint note", NOTE_BYTES_MAX)?.to_vec();
        reader.finish()?;
        Ok(RecordCheckpointCommand { note })
    }
}

/// Records a note over a state that the vault's log has had before this entry.
pub(crate) fn apply(
    command: RecordCheckpointCommand,
    round: &VaultRound,
    rows: &mut Vec<RowWrite>,
    noted: &mut Vec<NotedCheckpoint>,
) -> CommandResult {
    let state = round.state().expect("the owner check found the vault");
    let vault = round.vault();
    let checkpoint = match read(&command.note, &state.row) {
        Ok(checkpoint) if checkpoint.origin.vault == vault => checkpoint,
        Ok(_) => return CommandResult::CheckpointRefused(CheckpointRefusal::OtherLog),
        Err(refusal) => return CommandResult::CheckpointRefused(refusal),
    };
    let Checkpoint { size, root, .. } = checkpoint;
    rows.push(RowWrite {
        family: Family::Blocks,
        key: checkpoint_key(vault, size),
        value: Some(encode_checkpoint(&command.note)),
    });
    noted.push(NotedCheckpoint { vault, size, root });
    CommandResult::CheckpointRecorded
}

fn read(note: &[u8], row: &VaultRow) -> Result<Checkpoint, CheckpointRefusal> {
    let note = SignedNote::parse(note).map_err(|_| CheckpointRefusal::Malformed)?;
    let checkpoint = note.checkpoint().map_err(|_| CheckpointRefusal::Malformed)?;
    if checkpoint.origin.log_epoch != row.log_epoch {
        return Err(CheckpointRefusal::OtherLog);
    }
    if checkpoint.size == 0 || checkpoint.size > row.log_size {
        return Err(CheckpointRefusal::BeyondTip);
    }
    Ok(checkpoint)
}

#[cfg(test)]
mod tests {
    use ledger_proof::{NodeKey, Origin};
    use ledger_types::{Digest, VaultRef};

    use super::*;
    use crate::apply::tests_harness::{EPOCH, Machine, command_at, set, vault};
    use crate::entry::CommandKind;
    use crate::query;
    use crate::rows::decode_checkpoint;
    use crate::view::StateView as _;

    #[test]
    fn body_round_trips_and_is_bounded() {
        let command = RecordCheckpointCommand { note: b"a note".to_vec() };
        let body = command.encode();
        assert_eq!(RecordCheckpointCommand::decode(&body), Ok(command));
        for end in 0..body.len() {
            assert!(RecordCheckpointCommand::decode(&body[..end]).is_err(), "cut at {end}");
        }
        assert!(RecordCheckpointCommand::decode(&[&body[..], &[0]].concat()).is_err());
        assert!(RecordCheckpointCommand::decode(&[&[2], &body[1..]].concat()).is_err());
        let long = RecordCheckpointCommand { note: vec![b'x'; NOTE_BYTES_MAX + 1] };
        let error = RecordCheckpointCommand::decode(&long.encode());
        assert!(matches!(error, Err(DecodeError::TooLong { .. })), "{error:?}");
    }

    fn note(of: VaultRef, log_epoch: u64, size: u64, root: Digest) -> Vec<u8> {
        let origin = Origin { domain: "a.ledger".to_owned(), vault: of, log_epoch };
        let checkpoint = Checkpoint { origin, size, root };
        let line = NodeKey::from_seed(&[1; 32]).cosign(&checkpoint, "n1", 100);
        SignedNote::new(&checkpoint, vec![line]).encode()
    }

    fn record(machine: &mut Machine, note: &[u8]) -> (CommandResult, Vec<NotedCheckpoint>) {
        let body = RecordCheckpointCommand { note: note.to_vec() }.encode();
        let entry =
            machine.entry(&[command_at(vault(), EPOCH, CommandKind::RecordCheckpoint, &body)]);
        let mut output = machine.round(&[entry]);
        assert!(output.blocks.is_empty(), "a checkpoint makes no block");
        (output.replies.remove(0).result, output.checkpoints)
    }

    #[test]
    fn a_note_over_the_vaults_log_is_kept_under_its_size() {
        let mut machine = Machine::new();
        machine.commit(&[set("a", "1")]);
        machine.commit(&[set("a", "2")]);
        for size in [3, 2, 3] {
            let root = query::log_root(&machine.rows, vault(), size).expect("it has had that size");
            let note = note(vault(), 0, size, root);
            let (result, noted) = record(&mut machine, &note);
            assert_eq!(result, CommandResult::CheckpointRecorded);
            assert_eq!(noted, [NotedCheckpoint { vault: vault(), size, root }]);
            let row = machine.rows.get(Family::Blocks, &checkpoint_key(vault(), size)).unwrap();
            assert_eq!(decode_checkpoint(&row.expect("it is kept")), Ok(&note[..]));
        }
        machine.commit(&[set("a", "3")]);
        assert_eq!(machine.vault_row(vault()).height, 3, "blocks go on");
    }

    #[test]
    fn what_is_no_note_over_this_log_leaves_nothing() {
        let mut machine = Machine::new();
        machine.commit(&[set("a", "1")]);
        let other = VaultRef::new(1, 2);
        let root = Digest([7; 32]);
        let cases = [
            (b"no note".to_vec(), CheckpointRefusal::Malformed),
            (note(other, 0, 1, root), CheckpointRefusal::OtherLog),
            (note(vault(), 1, 1, root), CheckpointRefusal::OtherLog),
            (note(vault(), 0, 0, root), CheckpointRefusal::BeyondTip),
            (note(vault(), 0, 3, root), CheckpointRefusal::BeyondTip),
        ];
        for (note, refusal) in cases {
            let (result, noted) = record(&mut machine, &note);
            assert_eq!(result, CommandResult::CheckpointRefused(refusal));
            assert!(noted.is_empty());
        }
        let rows = machine.rows.family(Family::Blocks);
        let prefix = checkpoint_key(vault(), 0);
        let kept = rows.filter(|(key, _)| key.starts_with(&prefix[..prefix.len() - 8])).count();
        assert_eq!(kept, 0);
    }

    #[test]
    fn another_root_is_kept_too_and_told_for_whoever_compares() {
        let mut machine = Machine::new();
        machine.commit(&[set("a", "1")]);
        let root = Digest([7; 32]);
        let (result, noted) = record(&mut machine, &note(vault(), 0, 2, root));
        assert_eq!(result, CommandResult::CheckpointRecorded);
        assert_eq!(noted, [NotedCheckpoint { vault: vault(), size: 2, root }]);
        assert_ne!(query::log_root(&machine.rows, vault(), 2), Ok(root));
    }
}
