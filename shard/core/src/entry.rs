//! The replicated log's encoding: entries, the commands in them, and their envelope.
//!
//! Owns the bytes of the log. Must never look into a command's body: that is each command's own file.
//!
//! Entry data: `0x01 ‖ feature level u16 ‖ proposer incarnation u64 ‖ time u64 (Unix ns) ‖ command count
//! u32 ‖ commands`. Command: `kind u8 ‖ namespace u64 ‖ vault u64 ‖ owner epoch u64 ‖ length u32 ‖ body`.
//! All integers big-endian.

use ledger_proof::encoding::{DecodeError, Reader};
use ledger_types::{Incarnation, OwnerEpoch, VaultRef};

/// Version byte of entry data.
const ENTRY_VERSION: u8 = 1;
/// The feature level this build proposes under.
pub const FEATURE_LEVEL: u16 = 1;
/// Bytes before the first command of an entry.
const HEADER_LEN: usize = 1 + 2 + 8 + 8 + 4;
/// Bytes of a command before its body.
const COMMAND_HEADER_LEN: usize = 1 + 8 + 8 + 8 + 4;
/// Most commands in one entry.
pub const COMMANDS_PER_ENTRY_MAX: u32 = 4096;

/// An entry of a group's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// Its index.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
    /// Whether it carries commands or a change of configuration.
    pub kind: EntryKind,
    /// The data; empty for a new leader's first entry.
    pub data: Vec<u8>,
}

/// What an entry carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EntryKind {
    /// Commands.
    Normal = 0,
    /// A configuration change in Raft's first form; never proposed here.
    ConfChange = 1,
    /// A (joint) configuration change.
    ConfChangeV2 = 2,
}

impl EntryKind {
    /// Reads the stored number; `None` for an unknown one.
    pub fn from_code(code: u8) -> Option<EntryKind> {
        match code {
            0 => Some(EntryKind::Normal),
            1 => Some(EntryKind::ConfChange),
            2 => Some(EntryKind::ConfChangeV2),
            _ => None,
        }
    }
}

/// Who handles a command's body. The numbers are in the log and never change meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum CommandKind {
    /// A client's transaction on one vault.
    Write = 1,
    /// The first block of a vault.
    CreateVault = 2,
    /// A change of the directory; group 0 only.
    System = 3,
    /// A signed checkpoint of a vault's log.
    RecordCheckpoint = 4,
    /// The end of a vault.
    DeleteVault = 6,
    /// The removal of what is stored of a deleted vault.
    PurgeVault = 7,
}

impl CommandKind {
    /// Reads the logged number; `None` for an unknown one, at which a replica stops.
    pub fn from_code(code: u8) -> Option<CommandKind> {
        match code {
            1 => Some(CommandKind::Write),
            2 => Some(CommandKind::CreateVault),
            3 => Some(CommandKind::System),
            4 => Some(CommandKind::RecordCheckpoint),
            6 => Some(CommandKind::DeleteVault),
            7 => Some(CommandKind::PurgeVault),
            _ => None,
        }
    }
}

/// A command and the vault it is for, borrowed from an entry or about to be encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command<'a> {
    /// Who handles the body; unknown kinds are kept as numbers until apply refuses them.
    pub kind: u8,
    /// The vault it changes.
    pub vault: VaultRef,
    /// The owner epoch under which it was proposed.
    pub owner_epoch: OwnerEpoch,
    /// The command's own bytes.
    pub body: &'a [u8],
}

impl<'a> Command<'a> {
    /// Reads one encoded command. Errors on bytes missing or left over; the body is not looked into.
    pub fn decode(bytes: &'a [u8]) -> Result<Command<'a>, DecodeError> {
        let mut reader = Reader::new(bytes);
        let command = Command::read(&mut reader)?;
        reader.finish()?;
        Ok(command)
    }

    fn read(reader: &mut Reader<'a>) -> Result<Command<'a>, DecodeError> {
        let kind = reader.u8("command kind")?;
        let vault = VaultRef::from_prefix(reader.take("vault", VaultRef::LEN)?)
            .expect("the reader returned as many bytes as asked");
        let owner_epoch = OwnerEpoch(reader.u64("owner epoch")?);
        let len = reader.u32("command length")? as usize;
        let body = reader.take("command body", len)?;
        Ok(Command { kind, vault, owner_epoch, body })
    }

    /// The command's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(COMMAND_HEADER_LEN + self.body.len());
        out.push(self.kind);
        out.extend_from_slice(&self.vault.to_bytes());
        out.extend_from_slice(&self.owner_epoch.0.to_be_bytes());
        let len = u32::try_from(self.body.len()).expect("bodies are bounded by the request limit");
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(self.body);
        out
    }
}

/// Puts commands into one entry.
#[derive(Debug)]
pub struct EntryBuilder {
    data: Vec<u8>,
    count: u32,
}

impl EntryBuilder {
    /// Begins an entry proposed by `proposer` at `time_ns`.
    pub fn new(proposer: Incarnation, time_ns: u64) -> EntryBuilder {
        let mut data = Vec::with_capacity(4096);
        data.push(ENTRY_VERSION);
        data.extend_from_slice(&FEATURE_LEVEL.to_be_bytes());
        data.extend_from_slice(&proposer.0.to_be_bytes());
        data.extend_from_slice(&time_ns.to_be_bytes());
        data.extend_from_slice(&0u32.to_be_bytes());
        EntryBuilder { data, count: 0 }
    }

    /// Adds an encoded command and tells its place in the entry.
    pub fn push(&mut self, command: &[u8]) -> u32 {
        assert!(self.count < COMMANDS_PER_ENTRY_MAX, "the folder stops at the limit");
        self.data.extend_from_slice(command);
        self.count += 1;
        self.count - 1
    }

    /// True if another command of this size may join: the entry stays within `bytes_max`, or is empty.
    pub fn has_room(&self, command_len: usize, bytes_max: usize) -> bool {
        let fits = self.data.len() + command_len <= bytes_max;
        self.count == 0 || (fits && self.count < COMMANDS_PER_ENTRY_MAX)
    }

    /// The entry's data.
    pub fn finish(mut self) -> Vec<u8> {
        self.data[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&self.count.to_be_bytes());
        self.data
    }
}

/// Entry data, decoded as far as its envelope goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryData<'a> {
    /// The feature level whose rules apply to the commands.
    pub feature_level: u16,
    /// The leader that proposed it.
    pub proposer: Incarnation,
    /// When it was proposed, Unix nanoseconds.
    pub time_ns: u64,
    /// The commands, in order.
    pub commands: Vec<Command<'a>>,
}

impl<'a> EntryData<'a> {
    /// Decodes entry data. Errors on an unknown version, a count over the limit, or bytes left over.
    pub fn decode(data: &'a [u8]) -> Result<EntryData<'a>, DecodeError> {
        let mut reader = Reader::new(data);
        let version = reader.u8("entry version")?;
        if version != ENTRY_VERSION {
            let (field, value) = ("entry version", version.into());
            return Err(DecodeError::UnknownValue { field, value });
        }
        let feature_level = reader.u16("feature level")?;
        let proposer = Incarnation(reader.u64("proposer")?);
        let time_ns = reader.u64("entry time")?;
        let count = reader.u32("command count")?;
        if count > COMMANDS_PER_ENTRY_MAX {
            let (len, max) = (count as usize, COMMANDS_PER_ENTRY_MAX as usize);
            return Err(DecodeError::TooLong { field: "command count", len, max });
        }
        let fits = data.len() / COMMAND_HEADER_LEN;
        let mut commands = Vec::with_capacity((count as usize).min(fits));
        for _ in 0..count {
            commands.push(Command::read(&mut reader)?);
        }
        reader.finish()?;
        Ok(EntryData { feature_level, proposer, time_ns, commands })
    }
}

/// When entry data was proposed, Unix nanoseconds, without reading its commands; `None` for data of another
/// kind.
pub fn proposal_time_ns(data: &[u8]) -> Option<u64> {
    let time = data.get(HEADER_LEN - 12..HEADER_LEN - 4)?;
    let is_entry = data.first() == Some(&ENTRY_VERSION);
    is_entry.then(|| u64::from_be_bytes(time.try_into().expect("eight bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_round_trip_and_refuse_damage() {
        let command = Command {
            kind: CommandKind::Write as u8,
            vault: VaultRef::new(3, 7),
            owner_epoch: OwnerEpoch(2),
            body: b"body",
        };
        let mut builder = EntryBuilder::new(Incarnation(9), 1_700_000_000_000_000_000);
        assert_eq!(builder.push(&command.encode()), 0);
        assert_eq!(builder.push(&command.encode()), 1);
        assert_eq!(Command::decode(&command.encode()), Ok(command));
        let data = builder.finish();
        let decoded = EntryData::decode(&data).expect("just encoded");
        assert_eq!(decoded.commands, vec![command, command]);
        assert_eq!(decoded.proposer, Incarnation(9));
        for end in 0..data.len() {
            assert!(EntryData::decode(&data[..end]).is_err(), "cut at {end}");
        }
        let mut longer = data.clone();
        longer.push(0);
        assert!(EntryData::decode(&longer).is_err());
        let mut newer = data;
        newer[0] = 2;
        assert!(EntryData::decode(&newer).is_err());
    }
}
