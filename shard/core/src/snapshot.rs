//! What a snapshot of a group consists of: its manifest, and the records in its files.
//!
//! Owns their bytes and their bounds. Must never read or write a file, nor decide when a snapshot is taken.
//!
//! Manifest: `0x01 ‖ id 16 ‖ cluster id 16 ‖ group u64 ‖ sender incarnation u64 ‖ sender node u64 ‖ group row
//! (u32 len) ‖ file count u32 ‖ files`. File: `family u8 ‖ rows u64 ‖ bytes u64 ‖ SHA-256 32`. A file is a run of
//! records `key length u16 ‖ value length u32 ‖ key ‖ value`, its keys strictly ascending; the files of one
//! family follow each other in key order. All integers are big-endian.

use std::fmt;

use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_types::{ClusterId, Digest, GroupId, Incarnation, NodeId};

use crate::effects::Replica;
use crate::rows::GroupRow;
use crate::view::Family;

const VERSION: u8 = 1;
/// Bytes of one file's line in a manifest.
const FILE_LEN: usize = 1 + 8 + 8 + 32;
/// Most files of one snapshot: at 64 MiB each, 4 TiB.
pub const FILES_MAX: usize = 65_536;
/// Largest group row in a manifest, in bytes.
const GROUP_ROW_BYTES_MAX: usize = 128 * 1024;
/// Largest manifest in bytes; it travels in one Raft message.
pub const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest file in bytes. A file with a single larger record may exceed what is aimed for, never this.
pub const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Bytes before a record's key.
pub const RECORD_HEADER_LEN: usize = 6;
/// Longest key of a record.
pub const RECORD_KEY_BYTES_MAX: usize = u16::MAX as usize;
/// Largest value of a record.
pub const RECORD_VALUE_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Names one snapshot; drawn at random when it is cut.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub [u8; 16]);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One file of a snapshot: rows of one family, in key order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotFile {
    /// The family of its rows.
    pub family: Family,
    /// How many rows it has.
    pub rows: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// SHA-256 of its bytes.
    pub digest: Digest,
}

/// All that a receiver must know of a snapshot before it asks for the first byte.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotManifest {
    /// The snapshot.
    pub id: SnapshotId,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// The replica that cut it and has its files.
    pub sender: Replica,
    /// The group's row at the snapshot: applied index and term, configuration, replica table.
    pub row: GroupRow,
    /// Its files, by family and key.
    pub files: Vec<SnapshotFile>,
}

impl SnapshotManifest {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The manifest's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let row = self.row.encode();
        assert!(self.files.len() <= FILES_MAX, "a snapshot is cut into a bounded number of files");
        assert!(row.len() <= GROUP_ROW_BYTES_MAX, "groups have few members");
        let mut bytes = Vec::with_capacity(80 + row.len() + FILE_LEN * self.files.len());
        let mut out = Writer::new(&mut bytes);
        out.u8(VERSION);
        out.raw(&self.id.0);
        out.raw(&self.cluster.0);
        out.u64(self.group.0);
        out.u64(self.sender.incarnation.0);
        out.u64(self.sender.node.0);
        out.bytes_u32(&row);
        out.u32(self.files.len() as u32);
        for file in &self.files {
            out.u8(file.family as u8);
            out.u64(file.rows);
            out.u64(file.bytes);
            out.digest(&file.digest);
        }
        bytes
    }

    /// Reads a manifest. Errors on an unknown version or family, a length or count over its limit, or
    /// bytes left over.
    pub fn decode(bytes: &[u8]) -> Result<SnapshotManifest, DecodeError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            let (field, len, max) = ("snapshot manifest", bytes.len(), MANIFEST_BYTES_MAX);
            return Err(DecodeError::TooLong { field, len, max });
        }
        let mut reader = Reader::new(bytes);
        let version = reader.u8("snapshot manifest version")?;
        if version != VERSION {
            let (field, value) = ("snapshot manifest version", version.into());
            return Err(DecodeError::UnknownValue { field, value });
        }
        let id = SnapshotId(reader.array("snapshot id")?);
        let cluster = ClusterId(reader.array("cluster id")?);
        let group = GroupId(reader.u64("group")?);
        let incarnation = Incarnation(reader.u64("sender incarnation")?);
        let sender = Replica { incarnation, node: NodeId(reader.u64("sender node")?) };
        let row = GroupRow::decode(reader.bytes_u32("group row", GROUP_ROW_BYTES_MAX)?)?;
        let count = reader.u32("snapshot files")? as usize;
        let count = reader.count("snapshot files", count, FILES_MAX, FILE_LEN)?;
        let mut files = Vec::with_capacity(count);
        for _ in 0..count {
            files.push(SnapshotFile::read(&mut reader)?);
        }
        reader.finish()?;
        Ok(SnapshotManifest { id, cluster, group, sender, row, files })
    }
}

impl SnapshotFile {
    fn read(reader: &mut Reader<'_>) -> Result<SnapshotFile, DecodeError> {
        let code = reader.u8("snapshot file family")?;
        let unknown =
            DecodeError::UnknownValue { field: "snapshot file family", value: code.into() };
        let family = Family::ALL.into_iter().find(|family| *family as u8 == code);
        // Identity and logs are each replica's own and never travel.
        let family = family.filter(|family| !matches!(family, Family::Meta | Family::Raft));
        let (rows, bytes) = (reader.u64("snapshot file rows")?, reader.u64("snapshot file bytes")?);
        if bytes > FILE_BYTES_MAX {
            return Err(DecodeError::Invalid {
                field: "snapshot file bytes",
                rule: "is over the limit",
            });
        }
        let digest = reader.digest("snapshot file digest")?;
        Ok(SnapshotFile { family: family.ok_or(unknown)?, rows, bytes, digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::ConfState;

    fn manifest() -> SnapshotManifest {
        let replica = |id| Replica { incarnation: Incarnation(id), node: NodeId(id + 10) };
        SnapshotManifest {
            id: SnapshotId([7; 16]),
            cluster: ClusterId([8; 16]),
            group: GroupId(3),
            sender: replica(1),
            row: GroupRow {
                applied_index: 99,
                applied_term: 6,
                conf_state: ConfState { voters: vec![1, 2], ..ConfState::default() },
                replicas: vec![replica(1), replica(2)],
            },
            files: vec![
                SnapshotFile {
                    family: Family::Vaults,
                    rows: 4,
                    bytes: 321,
                    digest: Digest([9; 32]),
                },
                SnapshotFile {
                    family: Family::Latest,
                    rows: 1,
                    bytes: 44,
                    digest: Digest([1; 32]),
                },
            ],
        }
    }

    #[test]
    fn manifests_round_trip_and_every_cut_is_refused() {
        let bytes = manifest().encode();
        assert_eq!(SnapshotManifest::decode(&bytes), Ok(manifest()));
        assert_eq!(manifest().bytes(), 365);
        for end in 0..bytes.len() {
            assert!(SnapshotManifest::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(SnapshotManifest::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
    }

    #[test]
    fn counts_lengths_and_families_are_checked_before_they_are_used() {
        let bytes = manifest().encode();
        let lines_at = bytes.len() - 2 * FILE_LEN;
        let change = |at: usize, new: &[u8]| {
            let mut forged = bytes.clone();
            forged[at..at + new.len()].copy_from_slice(new);
            SnapshotManifest::decode(&forged)
        };
        let count = change(lines_at - 4, &u32::MAX.to_be_bytes());
        assert!(matches!(count, Err(DecodeError::TooLong { field: "snapshot files", .. })));
        for family in [Family::Meta as u8, Family::Raft as u8, 99] {
            let field = "snapshot file family";
            let refused = DecodeError::UnknownValue { field, value: family.into() };
            assert_eq!(change(lines_at, &[family]), Err(refused));
        }
        let over = change(lines_at + 9, &(FILE_BYTES_MAX + 1).to_be_bytes());
        assert!(matches!(over, Err(DecodeError::Invalid { field: "snapshot file bytes", .. })));
        let long = vec![0; MANIFEST_BYTES_MAX + 1];
        let refused = SnapshotManifest::decode(&long);
        assert!(matches!(refused, Err(DecodeError::TooLong { field: "snapshot manifest", .. })));
    }
}
