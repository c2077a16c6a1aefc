//! What can go wrong with a snapshot, in types.
//!
//! Owns the words. Must never decide what follows from an error.

use std::io;
use std::path::{Path, PathBuf};

use ledger_proof::ReadFault;
use ledger_proof::encoding::DecodeError;
use ledger_shard_core::snapshot::SnapshotId;
use ledger_shard_core::view::Family;
use ledger_types::{ClusterId, GroupId, Incarnation, VaultRef};
use thiserror::Error;

use crate::store::StoreError;

/// Why a snapshot was not cut, served, taken in or installed.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// A file could not be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There is no such snapshot here, or no longer.
    #[error("snapshot {0} is not here")]
    Unknown(SnapshotId),
    /// The snapshot has no file of this number.
    #[error("snapshot {id} has no file {file}")]
    UnknownFile {
        /// The snapshot.
        id: SnapshotId,
        /// The number.
        file: u32,
    },
    /// The place asked for is behind the file's end.
    #[error("file {file} ends at byte {bytes}, before {offset}")]
    BeyondEnd {
        /// The file.
        file: u32,
        /// The byte asked for.
        offset: u64,
        /// The file's length.
        bytes: u64,
    },
    /// The snapshot is of another cluster.
    #[error("the snapshot belongs to cluster {found}")]
    OtherCluster {
        /// Its cluster.
        found: ClusterId,
    },
    /// Another receiver of the group's snapshots began after this one.
    #[error("group {0} receives its snapshot elsewhere by now")]
    Replaced(GroupId),
    /// A snapshot of the group is being made its state; nothing is received meanwhile.
    #[error("group {0} installs a snapshot")]
    Installing(GroupId),
    /// The snapshot was not verified in this life of the process.
    #[error("snapshot {0} was not verified")]
    NotVerified(SnapshotId),
    /// The bytes do not go where they were meant to.
    #[error("bytes for byte {offset} of file {file} came, {} are next", next_text(*.next))]
    WrongPlace {
        /// The file that was named.
        file: u32,
        /// The byte that was named.
        offset: u64,
        /// File and byte that come next; `None` if nothing is missing.
        next: Option<(u32, u64)>,
    },
    /// The chunk's bytes are not those of its digest.
    #[error("the bytes for byte {offset} of file {file} do not have their digest")]
    ChunkDigest {
        /// The file.
        file: u32,
        /// The chunk's first byte.
        offset: u64,
    },
    /// The chunk is empty or reaches over the file's end.
    #[error("{len} bytes for byte {offset} of file {file} do not fit its {bytes}")]
    ChunkLength {
        /// The file.
        file: u32,
        /// The chunk's first byte.
        offset: u64,
        /// The chunk's length.
        len: usize,
        /// The file's length.
        bytes: u64,
    },
    /// A complete file has another digest than its manifest says. It was emptied and can be brought again.
    #[error("file {file} has another digest than its manifest says and was emptied")]
    FileDigest {
        /// The file.
        file: u32,
    },
    /// Bytes are missing.
    #[error("file {file} is not complete at byte {offset}")]
    Incomplete {
        /// The first file that is not complete.
        file: u32,
        /// Its first missing byte.
        offset: u64,
    },
    /// The manifest beside the files, or the row that names it, is damaged.
    #[error("the manifest of a snapshot of group {group} is damaged: {detail}")]
    Manifest {
        /// The group.
        group: GroupId,
        /// What is wrong with it.
        detail: String,
    },
    /// The content is not a state of the group.
    #[error(transparent)]
    Refused(#[from] VerifyError),
    /// The replica that the snapshot is for is in no configuration that it holds.
    #[error("replica {replica} is no member of group {group} at entry {index}")]
    NotAMember {
        /// The group.
        group: GroupId,
        /// The replica.
        replica: Incarnation,
        /// The entry up to which the group is applied.
        index: u64,
    },
    /// The rows to cut contradict each other.
    #[error("group {group} cannot be cut: {detail}")]
    Corrupt {
        /// The group.
        group: GroupId,
        /// What does not fit.
        detail: String,
    },
    /// Rows could not be read.
    #[error(transparent)]
    Read(#[from] ReadFault),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node stops.
    #[error("the node stops")]
    Stopped,
}

fn next_text(next: Option<(u32, u64)>) -> String {
    next.map_or_else(|| "none".to_owned(), |(file, offset)| format!("{offset} of file {file}"))
}

impl SnapshotError {
    /// An error about a file, to be put together where it happens.
    pub(super) fn file(
        doing: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> SnapshotError {
        let path = path.to_owned();
        move |source| SnapshotError::File { doing, path, source }
    }
}

/// Why a snapshot's content is refused. Whoever sent it is wrong, or somebody in between.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// The manifest's files are not in the order of families.
    #[error("file {file} is out of the order of families")]
    FileOrder {
        /// The file.
        file: u32,
    },
    /// A record does not end where its lengths say, or is longer than allowed.
    #[error("file {file} is no run of records at byte {offset}")]
    Framing {
        /// The file.
        file: u32,
        /// Where the record begins.
        offset: u64,
    },
    /// A key is not above the one before.
    #[error("the keys of file {file} do not ascend at row {row}")]
    KeyOrder {
        /// The file.
        file: u32,
        /// The row, from 0.
        row: u64,
    },
    /// A file does not have as many rows as its manifest says.
    #[error("file {file} has {found} rows, not {expected}")]
    RowCount {
        /// The file.
        file: u32,
        /// Rows that it has.
        found: u64,
        /// Rows that it should have.
        expected: u64,
    },
    /// The group's row is missing or is not the manifest's.
    #[error("the group's row is not the manifest's")]
    GroupRow,
    /// A member of the configuration has no line in the table of replicas.
    #[error("member {0} is not in the table of replicas")]
    Member(u64),
    /// Rows belong to no vault of the group.
    #[error("the {} family has rows of others than the group's vaults", family.name())]
    ForeignRows {
        /// The family.
        family: Family,
    },
    /// The table of owned vaults and the vaults' rows do not fit each other.
    #[error("vault {vault}: {what}")]
    Ownership {
        /// The vault.
        vault: VaultRef,
        /// What does not fit.
        what: &'static str,
    },
    /// A row is not in its format.
    #[error("vault {vault}: a row of the {} family is malformed: {source}", family.name())]
    Row {
        /// The vault.
        vault: VaultRef,
        /// The family.
        family: Family,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The chain of headers is broken, or ends elsewhere than the vault's row says.
    #[error("vault {vault}, block {height}: {what}")]
    Chain {
        /// The vault.
        vault: VaultRef,
        /// The block.
        height: u64,
        /// What does not fit.
        what: &'static str,
    },
    /// The block log is not that of the headers.
    #[error("vault {vault}: {what}")]
    BlockLog {
        /// The vault.
        vault: VaultRef,
        /// What does not fit.
        what: &'static str,
    },
    /// A body is missing, or is not the one that its header commits to.
    #[error("vault {vault}: the body of block {height} {what}")]
    Body {
        /// The vault.
        vault: VaultRef,
        /// The block.
        height: u64,
        /// What does not fit.
        what: &'static str,
    },
    /// A row of state does not hold what its record says.
    #[error("vault {vault}: {what}")]
    State {
        /// The vault.
        vault: VaultRef,
        /// What does not fit.
        what: &'static str,
    },
    /// The rows of state have another root than the tip's header.
    #[error("vault {0}: the rows have another state root than the tip")]
    StateRoot(VaultRef),
    /// The pages of the state tree are not those of the rows.
    #[error("vault {vault}: the pages of the state tree do not fit: {detail}")]
    Tree {
        /// The vault.
        vault: VaultRef,
        /// What does not fit.
        detail: String,
    },
}
