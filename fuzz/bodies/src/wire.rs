//! Messages on the wire: requests of clients, answers that clients read, frames between nodes.
//!
//! Protobuf has many encodings of one message, so nothing is canonical here; but what was read is written and read
//! again without loss.

use std::fmt::Debug;

use ledger_proto::convert::peers::{self, Envelope};
use ledger_proto::convert::snapshots::{Fetch, Piece};
use ledger_proto::convert::writes::WriteInput;
use ledger_proto::convert::{ConvertError, block, consistency, ids, reads};
use ledger_proto::{internal, v1};
use prost::Message;

use crate::Verdict;

/// Reads a message and checks that writing it loses nothing.
fn read<M: Message + Default + PartialEq + Debug>(input: &[u8]) -> Option<M> {
    let message = M::decode(input).ok()?;
    let written = message.encode_to_vec();
    assert_eq!(written.len(), message.encoded_len(), "a message knows its length");
    assert_eq!(M::decode(written.as_slice()).as_ref(), Ok(&message), "a message reads back");
    Some(message)
}

fn verdict<T>(result: Result<T, ConvertError>) -> Verdict {
    match result {
        Ok(_) => Verdict::Accepted,
        Err(error) => {
            assert!(!error.to_string().is_empty(), "an error says something");
            assert!(!error.field().is_empty(), "an error names a field");
            Verdict::Refused
        }
    }
}

/// A request of a client, or an answer to one. The first byte says which.
pub(crate) fn client_requests(input: &[u8]) -> Verdict {
    let Some((kind, message)) = input.split_first() else { return Verdict::Refused };
    let read_message = match kind {
        0 => read(message).map(write_request),
        1 => read(message).map(|wire: v1::BatchWriteRequest| verdict(WriteInput::try_from(wire))),
        2 => read(message).map(read_request),
        3 => read(message).map(list_relationships),
        4 => read(message).map(|wire: v1::BlockHeader| verdict(block::header(&wire))),
        5 => read(message).map(|wire: v1::Transaction| verdict(block::transaction(&wire))),
        6 => read(message).map(|wire: v1::MerkleProof| verdict(block::path(&wire))),
        7 => read(message).map(verified_get_request),
        _ => None,
    };
    read_message.unwrap_or(Verdict::Refused)
}

fn write_request(wire: v1::WriteRequest) -> Verdict {
    let input = WriteInput::try_from(wire);
    if let Ok(input) = &input {
        let again = WriteInput::try_from(v1::WriteRequest::from(input.clone()));
        assert_eq!(again.as_ref(), Ok(input), "a write survives the wire");
    }
    verdict(input)
}

fn read_request(wire: v1::ReadRequest) -> Verdict {
    let vault = ids::vault_ref(wire.namespace_id, wire.vault_id);
    let consistency = consistency::consistency(wire.consistency);
    verdict(vault.and(consistency).and(reads::key(wire.key)))
}

fn verified_get_request(wire: v1::VerifiedGetRequest) -> Verdict {
    let keys = reads::verified_keys(&wire.keys);
    for key in keys.iter().flatten() {
        let shown = reads::wire_verified_key(key).expect("a key of a client can be shown");
        let again = reads::verified_keys(&[shown]);
        assert_eq!(again.as_deref(), Ok(std::slice::from_ref(key)), "a key survives the wire");
    }
    verdict(keys)
}

fn list_relationships(wire: v1::ListRelationshipsRequest) -> Verdict {
    verdict(reads::relationship_filter(&wire))
}

/// A message between nodes. The first byte says which.
pub(crate) fn peer_frames(input: &[u8]) -> Verdict {
    let Some((kind, message)) = input.split_first() else { return Verdict::Refused };
    let read_message = match kind {
        0 => read(message).map(frame),
        1 => read(message).map(hello),
        2 => read(message).map(fetch),
        3 => read(message).map(piece),
        4 => read(message).map(|_: internal::DirectoryDelta| Verdict::Accepted),
        5 => read(message).map(|_: internal::FrameReply| Verdict::Accepted),
        6 => read(message).map(join),
        7 => read(message).map(propose),
        _ => None,
    };
    read_message.unwrap_or(Verdict::Refused)
}

fn frame(wire: internal::Frame) -> Verdict {
    for message in &wire.messages {
        let envelope = Envelope::from(message.clone());
        assert_eq!(&internal::GroupMessage::from(envelope), message, "an envelope loses nothing");
    }
    verdict(peers::store("sender_store", &wire.sender_store).and(peers::lane(wire.lane)))
}

fn hello(wire: internal::HelloRequest) -> Verdict {
    let Some(identity) = &wire.identity else { return Verdict::Refused };
    let cluster = peers::cluster("cluster_id", &identity.cluster_id);
    if let Ok(cluster) = &cluster {
        assert_eq!(peers::wire_cluster(*cluster), identity.cluster_id, "a cluster's id survives");
    }
    let store = peers::store("store_id", &identity.store_id);
    verdict(cluster.and(store).and(peers::lane(wire.lane)))
}

fn fetch(wire: internal::FetchRequest) -> Verdict {
    let fetch = Fetch::try_from(wire.clone());
    if let Ok(fetch) = &fetch {
        assert_eq!(internal::FetchRequest::from(*fetch), wire, "a question survives the wire");
    }
    verdict(fetch)
}

fn piece(wire: internal::Chunk) -> Verdict {
    let piece = Piece::try_from(wire.clone());
    if let Ok(piece) = &piece {
        assert_eq!(internal::Chunk::from(piece.clone()), wire, "a piece survives the wire");
    }
    verdict(piece)
}

fn join(wire: internal::JoinRequest) -> Verdict {
    let store = peers::store("store_id", &wire.store_id);
    verdict(store.and(peers::public_key("public_key", &wire.public_key)))
}

fn propose(wire: internal::ProposeRequest) -> Verdict {
    let cluster = peers::cluster("cluster_id", &wire.cluster_id);
    verdict(cluster.and(peers::store("store_id", &wire.store_id)))
}
