//! Pieces of snapshots between nodes: what is asked for, and what comes.

use bytes::Bytes;
use ledger_types::{ClusterId, Digest, NodeId, StoreId};

use super::{ConvertError, peers};
use crate::internal;

/// Most bytes of a file in one message.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Length of a snapshot's id in bytes.
const SNAPSHOT_ID_BYTES: usize = 16;

/// A node's question for a snapshot's files, from one place on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// The cluster of the asking node.
    pub cluster: ClusterId,
    /// The asking node.
    pub node: NodeId,
    /// Its data directory.
    pub store: StoreId,
    /// The snapshot.
    pub snapshot: [u8; SNAPSHOT_ID_BYTES],
    /// The first file wanted, from 0.
    pub file: u32,
    /// Where to begin in it, in bytes.
    pub offset: u64,
}

impl TryFrom<internal::FetchRequest> for Fetch {
    type Error = ConvertError;

    /// Errors: an id that is missing or has another length than 16 bytes, or no node.
    fn try_from(wire: internal::FetchRequest) -> Result<Fetch, ConvertError> {
        let cluster = peers::cluster("cluster_id", &wire.cluster_id)?;
        let cluster = cluster.ok_or(ConvertError::Missing { field: "cluster_id" })?;
        let store = peers::store("store_id", &wire.store_id)?;
        if wire.node_id == 0 {
            return Err(ConvertError::Missing { field: "node_id" });
        }
        let id = &wire.snapshot_id;
        let snapshot = id.as_slice().try_into().map_err(|_| ConvertError::WrongLength {
            field: "snapshot_id",
            len: id.len(),
            expected: SNAPSHOT_ID_BYTES,
        })?;
        let (node, file, offset) = (NodeId(wire.node_id), wire.file, wire.offset);
        Ok(Fetch { cluster, node, store, snapshot, file, offset })
    }
}

impl From<Fetch> for internal::FetchRequest {
    fn from(fetch: Fetch) -> internal::FetchRequest {
        internal::FetchRequest {
            cluster_id: fetch.cluster.0.to_vec(),
            node_id: fetch.node.0,
            store_id: fetch.store.0.to_vec(),
            snapshot_id: fetch.snapshot.to_vec(),
            file: fetch.file,
            offset: fetch.offset,
        }
    }
}

/// A piece of a snapshot's file. The digest is the sender's word; whoever writes the piece checks it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The file, from 0.
    pub file: u32,
    /// Where the piece begins in it, in bytes.
    pub offset: u64,
    /// Its bytes, at least one.
    pub data: Bytes,
    /// Their SHA-256.
    pub digest: Digest,
}

impl TryFrom<internal::Chunk> for Piece {
    type Error = ConvertError;

    /// Errors: no bytes, more than [`CHUNK_BYTES_MAX`], a digest of another length than 32 bytes, or a place
    /// beyond what a file can have.
    fn try_from(wire: internal::Chunk) -> Result<Piece, ConvertError> {
        let len = wire.data.len();
        if len == 0 || len > CHUNK_BYTES_MAX {
            let (value, max) = (len as u64, CHUNK_BYTES_MAX as u64);
            return Err(ConvertError::OutOfRange { field: "data", value, min: 1, max });
        }
        let offset_max = u64::MAX - CHUNK_BYTES_MAX as u64;
        if wire.offset > offset_max {
            let (field, value) = ("offset", wire.offset);
            return Err(ConvertError::OutOfRange { field, value, min: 0, max: offset_max });
        }
        let digest = Digest::from_slice(&wire.digest).ok_or(ConvertError::WrongLength {
            field: "digest",
            len: wire.digest.len(),
            expected: Digest::LEN,
        })?;
        Ok(Piece { file: wire.file, offset: wire.offset, data: wire.data, digest })
    }
}

impl From<Piece> for internal::Chunk {
    fn from(piece: Piece) -> internal::Chunk {
        internal::Chunk {
            file: piece.file,
            offset: piece.offset,
            data: piece.data,
            digest: piece.digest.0.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch() -> Fetch {
        Fetch {
            cluster: ClusterId([1; 16]),
            node: NodeId(7),
            store: StoreId([2; 16]),
            snapshot: [3; 16],
            file: 4,
            offset: 5,
        }
    }

    #[test]
    fn a_question_survives_the_wire_and_lacks_nothing() {
        let wire = internal::FetchRequest::from(fetch());
        assert_eq!(Fetch::try_from(wire.clone()), Ok(fetch()));
        type Damage = fn(&mut internal::FetchRequest);
        let damages: [(&str, Damage); 6] = [
            ("cluster_id", |wire| wire.cluster_id.clear()),
            ("cluster_id", |wire| wire.cluster_id.push(0)),
            ("store_id", |wire| wire.store_id.clear()),
            ("snapshot_id", |wire| wire.snapshot_id.clear()),
            ("snapshot_id", |wire| wire.snapshot_id.push(0)),
            ("node_id", |wire| wire.node_id = 0),
        ];
        for (field, damage) in damages {
            let mut damaged = wire.clone();
            damage(&mut damaged);
            let error = Fetch::try_from(damaged).expect_err("refused");
            assert_eq!(error.field(), field);
        }
    }

    #[test]
    fn a_piece_survives_the_wire_and_is_bounded() {
        let data = Bytes::from(vec![9; CHUNK_BYTES_MAX]);
        let piece = Piece { file: 2, offset: 1 << 20, data, digest: Digest([6; 32]) };
        let wire = internal::Chunk::from(piece.clone());
        assert_eq!(Piece::try_from(wire.clone()), Ok(piece));
        type Damage = fn(&mut internal::Chunk);
        let damages: [(&str, Damage); 4] = [
            ("data", |wire| wire.data = Bytes::new()),
            ("data", |wire| wire.data = Bytes::from(vec![0; CHUNK_BYTES_MAX + 1])),
            ("digest", |wire| wire.digest.truncate(31)),
            ("offset", |wire| wire.offset = u64::MAX),
        ];
        for (field, damage) in damages {
            let mut damaged = wire.clone();
            damage(&mut damaged);
            assert_eq!(Piece::try_from(damaged).expect_err("refused").field(), field);
        }
    }
}
