//! What nodes tell each other about themselves, and Raft messages in frames.

use bytes::Bytes;
use ledger_types::{ClusterId, GroupId, Incarnation, StoreId};

use super::ConvertError;
use crate::internal;

/// Length of an Ed25519 public key in bytes.
const PUBLIC_KEY_BYTES: usize = 32;
/// Length of a cluster or store id in bytes.
const ID_BYTES: usize = 16;

/// Reads a store's id. Errors: another length than 16 bytes.
pub fn store(field: &'static str, bytes: &[u8]) -> Result<StoreId, ConvertError> {
    StoreId::from_slice(bytes).ok_or(wrong_length(field, bytes, ID_BYTES))
}

/// Reads a cluster's id; empty means that the node belongs to none. Errors: any other length than 0
/// and 16 bytes.
pub fn cluster(field: &'static str, bytes: &[u8]) -> Result<Option<ClusterId>, ConvertError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    ClusterId::from_slice(bytes).map(Some).ok_or(wrong_length(field, bytes, ID_BYTES))
}

/// The wire form of a cluster's id that may not be known yet.
pub fn wire_cluster(cluster: Option<ClusterId>) -> Vec<u8> {
    cluster.map(|id| id.0.to_vec()).unwrap_or_default()
}

/// Reads a public key. Errors: another length than 32 bytes. Whether it is a point is its owner's
/// question.
pub fn public_key(field: &'static str, bytes: &[u8]) -> Result<[u8; 32], ConvertError> {
    bytes.try_into().map_err(|_| wrong_length(field, bytes, PUBLIC_KEY_BYTES))
}

/// Reads the lane of a stream's first message. Errors: none, or an unknown one.
pub fn lane(wire: i32) -> Result<internal::Lane, ConvertError> {
    match internal::Lane::try_from(wire) {
        Ok(internal::Lane::Unspecified) => Err(ConvertError::Missing { field: "lane" }),
        Ok(lane) => Ok(lane),
        Err(_) => Err(ConvertError::UnknownValue { field: "lane", value: wire }),
    }
}

/// A Raft message on its way between two lives of replicas.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// The group.
    pub group: GroupId,
    /// The sending replica.
    pub from: Incarnation,
    /// The replica it is meant for.
    pub to: Incarnation,
    /// The message, opaque here.
    pub payload: Bytes,
    /// From a leader: no member needs the log up to this index any more. Else 0.
    pub log_floor: u64,
    /// The sending node is far behind in one of its groups.
    pub is_catching_up: bool,
}

impl From<internal::GroupMessage> for Envelope {
    fn from(wire: internal::GroupMessage) -> Envelope {
        Envelope {
            group: GroupId(wire.group),
            from: Incarnation(wire.from_incarnation),
            to: Incarnation(wire.to_incarnation),
            payload: wire.payload,
            log_floor: wire.log_floor,
            is_catching_up: wire.is_catching_up,
        }
    }
}

impl From<Envelope> for internal::GroupMessage {
    fn from(envelope: Envelope) -> internal::GroupMessage {
        internal::GroupMessage {
            group: envelope.group.0,
            from_incarnation: envelope.from.0,
            to_incarnation: envelope.to.0,
            payload: envelope.payload,
            log_floor: envelope.log_floor,
            is_catching_up: envelope.is_catching_up,
        }
    }
}

fn wrong_length(field: &'static str, bytes: &[u8], expected: usize) -> ConvertError {
    ConvertError::WrongLength { field, len: bytes.len(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_length() {
        assert_eq!(store("store_id", &[1; 16]), Ok(StoreId([1; 16])));
        let error = ConvertError::WrongLength { field: "store_id", len: 0, expected: 16 };
        assert_eq!(store("store_id", &[]), Err(error));
        assert_eq!(cluster("cluster_id", &[]), Ok(None));
        assert_eq!(cluster("cluster_id", &[2; 16]), Ok(Some(ClusterId([2; 16]))));
        assert_eq!(cluster("cluster_id", &[2; 17]).unwrap_err().field(), "cluster_id");
        assert_eq!(wire_cluster(None), Vec::<u8>::new());
        assert_eq!(public_key("public_key", &[0; 31]).unwrap_err().field(), "public_key");
    }

    #[test]
    fn an_envelope_loses_nothing_on_the_wire() {
        let envelope = Envelope {
            group: GroupId(1),
            from: Incarnation(2),
            to: Incarnation(3),
            payload: Bytes::from_static(b"raft"),
            log_floor: 4,
            is_catching_up: true,
        };
        let wire = internal::GroupMessage::from(envelope.clone());
        assert_eq!(Envelope::from(wire), envelope);
    }

    #[test]
    fn lane_must_be_told() {
        assert_eq!(lane(2), Ok(internal::Lane::Control));
        assert_eq!(lane(0), Err(ConvertError::Missing { field: "lane" }));
        assert_eq!(lane(9), Err(ConvertError::UnknownValue { field: "lane", value: 9 }));
    }
}
