//! Requests for cosignatures between nodes.

use ledger_types::{ClusterId, Digest, GroupId, StoreId, VaultRef};

use super::{ConvertError, peers};
use crate::internal;

/// Length of an Ed25519 signature in bytes.
const SIGNATURE_BYTES: usize = 64;

/// A node's request to cosign a state that it has computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cosign {
    /// The cluster of the asking node.
    pub cluster: ClusterId,
    /// The asking node's data directory.
    pub store: StoreId,
    /// The group that owns the vault.
    pub group: GroupId,
    /// The vault.
    pub vault: VaultRef,
    /// The number in the origin of its log.
    pub log_epoch: u64,
    /// Blocks in the log; at least one.
    pub size: u64,
    /// The log's root.
    pub root: Digest,
}

impl TryFrom<internal::CosignRequest> for Cosign {
    type Error = ConvertError;

    /// Errors: an id or a root of another length, an empty log.
    fn try_from(wire: internal::CosignRequest) -> Result<Cosign, ConvertError> {
        let cluster = peers::cluster("cluster_id", &wire.cluster_id)?;
        let cluster = cluster.ok_or(ConvertError::Missing { field: "cluster_id" })?;
        let store = peers::store("store_id", &wire.store_id)?;
        let (field, len) = ("root", wire.root.len());
        let wrong = ConvertError::WrongLength { field, len, expected: Digest::LEN };
        let root = Digest::from_slice(&wire.root).ok_or(wrong)?;
        if wire.size == 0 {
            let (field, value) = ("size", wire.size);
            return Err(ConvertError::OutOfRange { field, value, min: 1, max: u64::MAX });
        }
        Ok(Cosign {
            cluster,
            store,
            group: GroupId(wire.group),
            vault: VaultRef::new(wire.namespace, wire.vault),
            log_epoch: wire.log_epoch,
            size: wire.size,
            root,
        })
    }
}

impl From<Cosign> for internal::CosignRequest {
    fn from(cosign: Cosign) -> internal::CosignRequest {
        internal::CosignRequest {
            cluster_id: cosign.cluster.0.to_vec(),
            store_id: cosign.store.0.to_vec(),
            group: cosign.group.0,
            namespace: cosign.vault.namespace.0,
            vault: cosign.vault.vault.0,
            log_epoch: cosign.log_epoch,
            size: cosign.size,
            root: cosign.root.0.to_vec(),
        }
    }
}

/// Reads a cosignature: its time and its signature. Errors: a signature of another length than 64 bytes.
/// Whether it holds is for whoever knows the key to find out.
pub fn cosigned(wire: &internal::Cosigned) -> Result<(u64, [u8; SIGNATURE_BYTES]), ConvertError> {
    let (field, len) = ("signature", wire.signature.len());
    let wrong = |_| ConvertError::WrongLength { field, len, expected: SIGNATURE_BYTES };
    let signature = wire.signature.as_slice().try_into().map_err(wrong)?;
    Ok((wire.time, signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_wire_and_lacks_nothing() {
        let cosign = Cosign {
            cluster: ClusterId([1; 16]),
            store: StoreId([2; 16]),
            group: GroupId(3),
            vault: VaultRef::new(4, 5),
            log_epoch: 6,
            size: 7,
            root: Digest([8; 32]),
        };
        let wire = internal::CosignRequest::from(cosign);
        assert_eq!(Cosign::try_from(wire.clone()), Ok(cosign));
        type Damage = fn(&mut internal::CosignRequest);
        let damages: [(&str, Damage); 6] = [
            ("cluster_id", |wire| wire.cluster_id.clear()),
            ("cluster_id", |wire| wire.cluster_id.push(0)),
            ("store_id", |wire| wire.store_id.clear()),
            ("root", |wire| wire.root.truncate(31)),
            ("root", |wire| wire.root.push(0)),
            ("size", |wire| wire.size = 0),
        ];
        for (field, damage) in damages {
            let mut damaged = wire.clone();
            damage(&mut damaged);
            assert_eq!(Cosign::try_from(damaged).expect_err("refused").field(), field);
        }
    }

    #[test]
    fn a_signature_has_64_bytes() {
        let wire = |len| internal::Cosigned { time: 9, signature: vec![7; len] };
        assert_eq!(cosigned(&wire(64)), Ok((9, [7; 64])));
        for len in [0, 63, 65] {
            assert_eq!(cosigned(&wire(len)).expect_err("refused").field(), "signature");
        }
    }
}
