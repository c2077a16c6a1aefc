//! Pieces of snapshots between nodes: what is asked for, and what comes.

use bytes::Bytes;
use ledger_types::{ClusterId, Digest, NodeId, StoreId};

use super::{ConvertError, peers};
use crate::internal;

/// Most bytes of a file in one message.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Most snapshots in one question whether they are kept.
pub const HELD_MAX: usize = 1024;
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
        let (cluster, node, store) = asking(&wire.cluster_id, wire.node_id, &wire.store_id)?;
        let snapshot = snapshot_id("snapshot_id", &wire.snapshot_id)?;
        let (file, offset) = (wire.file, wire.offset);
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

/// The snapshots that a node still wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hold {
    /// The cluster of the asking node.
    pub cluster: ClusterId,
    /// The asking node.
    pub node: NodeId,
    /// Its data directory.
    pub store: StoreId,
    /// The snapshots, at most [`HELD_MAX`].
    pub snapshots: Vec<[u8; SNAPSHOT_ID_BYTES]>,
}

impl TryFrom<internal::HoldRequest> for Hold {
    type Error = ConvertError;

    /// Errors: an id that is missing or has another length than 16 bytes, no node, or too many snapshots.
    fn try_from(wire: internal::HoldRequest) -> Result<Hold, ConvertError> {
        let (cluster, node, store) = asking(&wire.cluster_id, wire.node_id, &wire.store_id)?;
        let count = wire.snapshot_ids.len();
        if count > HELD_MAX {
            let (value, max) = (count as u64, HELD_MAX as u64);
            return Err(ConvertError::OutOfRange { field: "snapshot_ids", value, min: 0, max });
        }
        let ids = wire.snapshot_ids.iter();
        let snapshots = ids.map(|id| snapshot_id("snapshot_ids", id)).collect::<Result<_, _>>()?;
        Ok(Hold { cluster, node, store, snapshots })
    }
}

impl From<Hold> for internal::HoldRequest {
    fn from(hold: Hold) -> internal::HoldRequest {
        internal::HoldRequest {
            cluster_id: hold.cluster.0.to_vec(),
            node_id: hold.node.0,
            store_id: hold.store.0.to_vec(),
            snapshot_ids: hold.snapshots.iter().map(|id| id.to_vec()).collect(),
        }
    }
}

/// A snapshot's id on the wire.
pub fn snapshot_id(
    field: &'static str,
    id: &[u8],
) -> Result<[u8; SNAPSHOT_ID_BYTES], ConvertError> {
    let wrong = |_| ConvertError::WrongLength { field, len: id.len(), expected: SNAPSHOT_ID_BYTES };
    id.try_into().map_err(wrong)
}

fn asking(
    cluster: &[u8],
    node: u64,
    store: &[u8],
) -> Result<(ClusterId, NodeId, StoreId), ConvertError> {
    let cluster = peers::cluster("cluster_id", cluster)?;
    let cluster = cluster.ok_or(ConvertError::Missing { field: "cluster_id" })?;
    let store = peers::store("store_id", store)?;
    match node {
        0 => Err(ConvertError::Missing { field: "node_id" }),
        _ => Ok((cluster, NodeId(node), store)),
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
