//! Identifiers and digests. Owns their range on the wire: namespaces and vaults are signed there
//! and never negative.

use ledger_types::limits::{CLIENT_ID_BYTES_MAX, NAME_BYTES_MAX};
use ledger_types::{Digest, GroupId, InvalidInput, NamespaceId, TxId, VaultId, VaultRef};

use super::error::{ConvertError, check_length};
use crate::v1;

/// Name of the field that holds a namespace.
const NAMESPACE: &str = "namespace_id";
/// Name of the field that holds a vault.
const VAULT: &str = "vault_id";
/// Name of the field that holds a client.
const CLIENT: &str = "client_id";
/// Name of the field that holds a shard.
const SHARD: &str = "shard_id";

/// Reads a namespace that must be named. Errors: missing, negative.
pub fn namespace(wire: Option<v1::NamespaceId>) -> Result<NamespaceId, ConvertError> {
    let wire = wire.ok_or(ConvertError::Missing { field: NAMESPACE })?;
    not_negative(NAMESPACE, wire.id).map(NamespaceId)
}

/// Reads a vault; one that is left out is vault 0, the namespace's own entities. Errors: negative.
pub fn vault(wire: Option<v1::VaultId>) -> Result<VaultId, ConvertError> {
    wire.map_or(Ok(0), |wire| not_negative(VAULT, wire.id)).map(VaultId)
}

/// Reads a namespace that must be named and a vault that may be left out.
pub fn vault_ref(
    namespace_id: Option<v1::NamespaceId>,
    vault_id: Option<v1::VaultId>,
) -> Result<VaultRef, ConvertError> {
    Ok(VaultRef { namespace: namespace(namespace_id)?, vault: vault(vault_id)? })
}

/// Reads a namespace and a vault that must both be named.
pub fn named_vault_ref(
    namespace_id: Option<v1::NamespaceId>,
    vault_id: Option<v1::VaultId>,
) -> Result<VaultRef, ConvertError> {
    let vault_ref = vault_ref(namespace_id, vault_id)?;
    match vault_id {
        Some(_) => Ok(vault_ref),
        None => Err(ConvertError::Missing { field: VAULT }),
    }
}

/// Like [`vault_ref`], for a request that changes the vault: refuses the directory's own namespace.
pub fn writable_vault_ref(
    namespace_id: Option<v1::NamespaceId>,
    vault_id: Option<v1::VaultId>,
) -> Result<VaultRef, ConvertError> {
    let vault_ref = vault_ref(namespace_id, vault_id)?;
    if vault_ref.namespace == VaultRef::SYSTEM.namespace {
        return Err(ConvertError::DirectoryNamespace { field: NAMESPACE });
    }
    Ok(vault_ref)
}

/// Reads a vault that may be left out altogether. Errors: a vault without its namespace, negative.
pub fn optional_vault_ref(
    namespace_id: Option<v1::NamespaceId>,
    vault_id: Option<v1::VaultId>,
) -> Result<Option<VaultRef>, ConvertError> {
    if namespace_id.is_none() && vault_id.is_none() {
        return Ok(None);
    }
    vault_ref(namespace_id, vault_id).map(Some)
}

/// Reads a shard that a caller asks for; none is fine. Errors: 0, which is the directory's and
/// takes no vaults.
pub fn data_shard(wire: Option<v1::ShardId>) -> Result<Option<GroupId>, ConvertError> {
    let Some(wire) = wire else { return Ok(None) };
    if u64::from(wire.id) == GroupId::SYSTEM.0 {
        let (min, max) = (GroupId::SYSTEM.0 + 1, u64::from(u32::MAX));
        return Err(ConvertError::OutOfRange { field: SHARD, value: 0, min, max });
    }
    Ok(Some(GroupId(u64::from(wire.id))))
}

/// Reads a client's id. Errors: missing, empty, longer than [`CLIENT_ID_BYTES_MAX`].
pub fn client(wire: Option<v1::ClientId>) -> Result<String, ConvertError> {
    let wire = wire.ok_or(ConvertError::Missing { field: CLIENT })?;
    if wire.id.is_empty() {
        return Err(InvalidInput::Empty { field: CLIENT }.into());
    }
    check_length(CLIENT, wire.id.len(), CLIENT_ID_BYTES_MAX)?;
    Ok(wire.id)
}

/// Checks the name of a namespace: not empty, no NUL, at most [`NAME_BYTES_MAX`] bytes.
pub fn namespace_name(name: String) -> Result<String, ConvertError> {
    let field = "name";
    if name.is_empty() {
        return Err(InvalidInput::Empty { field }.into());
    }
    check_length(field, name.len(), NAME_BYTES_MAX)?;
    match name.bytes().position(|byte| byte == 0) {
        Some(offset) => Err(InvalidInput::Nul { field, offset }.into()),
        None => Ok(name),
    }
}

/// Reads a transaction's id. Errors: missing, another length than 16 bytes.
pub fn transaction(field: &'static str, wire: Option<&v1::TxId>) -> Result<TxId, ConvertError> {
    let wire = wire.ok_or(ConvertError::Missing { field })?;
    let wrong = ConvertError::WrongLength { field, len: wire.id.len(), expected: 16 };
    TxId::from_slice(&wire.id).ok_or(wrong)
}

/// Reads a digest. Errors: missing, another length than 32 bytes.
pub fn digest(field: &'static str, wire: Option<&v1::Hash>) -> Result<Digest, ConvertError> {
    let wire = wire.ok_or(ConvertError::Missing { field })?;
    let wrong = ConvertError::WrongLength { field, len: wire.value.len(), expected: Digest::LEN };
    Digest::from_slice(&wire.value).ok_or(wrong)
}

fn not_negative(field: &'static str, value: i64) -> Result<u64, ConvertError> {
    u64::try_from(value).map_err(|_| ConvertError::Negative { field, value })
}

impl From<NamespaceId> for v1::NamespaceId {
    /// Panics on an id beyond `i64::MAX`, which no request can name and no sequence reaches.
    fn from(id: NamespaceId) -> v1::NamespaceId {
        v1::NamespaceId { id: i64::try_from(id.0).expect("namespace ids fit int64") }
    }
}

impl From<VaultId> for v1::VaultId {
    /// Panics on an id beyond `i64::MAX`, which no request can name and no sequence reaches.
    fn from(id: VaultId) -> v1::VaultId {
        v1::VaultId { id: i64::try_from(id.0).expect("vault ids fit int64") }
    }
}

impl From<GroupId> for v1::ShardId {
    /// Panics on a number beyond `u32::MAX`; the directory assigns none.
    fn from(id: GroupId) -> v1::ShardId {
        v1::ShardId { id: u32::try_from(id.0).expect("shard ids fit uint32") }
    }
}

impl From<TxId> for v1::TxId {
    fn from(id: TxId) -> v1::TxId {
        v1::TxId { id: id.0.to_vec() }
    }
}

impl From<Digest> for v1::Hash {
    fn from(digest: Digest) -> v1::Hash {
        v1::Hash { value: digest.0.to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vault_left_out_is_the_namespace_itself() {
        let namespace_id = Some(v1::NamespaceId { id: 7 });
        let vault_id = Some(v1::VaultId { id: 3 });
        assert_eq!(vault_ref(namespace_id, None), Ok(VaultRef::new(7, 0)));
        assert_eq!(vault_ref(namespace_id, vault_id), Ok(VaultRef::new(7, 3)));
        let missing = Err(ConvertError::Missing { field: "vault_id" });
        assert_eq!(named_vault_ref(namespace_id, None), missing);
        assert_eq!(optional_vault_ref(None, None), Ok(None));
        let missing = Err(ConvertError::Missing { field: "namespace_id" });
        assert_eq!(optional_vault_ref(None, vault_id), missing);
    }

    #[test]
    fn negative_ids_are_refused() {
        let namespace_id = Some(v1::NamespaceId { id: i64::MIN });
        let error = ConvertError::Negative { field: "namespace_id", value: i64::MIN };
        assert_eq!(vault_ref(namespace_id, None), Err(error));
        let vault_id = Some(v1::VaultId { id: -1 });
        let error = ConvertError::Negative { field: "vault_id", value: -1 };
        assert_eq!(vault_ref(Some(v1::NamespaceId { id: 1 }), vault_id), Err(error));
    }

    #[test]
    fn directory_is_read_only_and_takes_no_vaults() {
        let system = Some(v1::NamespaceId { id: 0 });
        assert_eq!(vault_ref(system, None), Ok(VaultRef::SYSTEM));
        let error = writable_vault_ref(system, Some(v1::VaultId { id: 5 })).unwrap_err();
        assert_eq!(error, ConvertError::DirectoryNamespace { field: "namespace_id" });
        assert_eq!(data_shard(Some(v1::ShardId { id: 0 })).unwrap_err().field(), "shard_id");
        assert_eq!(data_shard(Some(v1::ShardId { id: 9 })), Ok(Some(GroupId(9))));
    }

    #[test]
    fn client_has_a_name_of_bounded_length() {
        let of = |len: usize| client(Some(v1::ClientId { id: "c".repeat(len) }));
        assert!(of(1).is_ok() && of(CLIENT_ID_BYTES_MAX).is_ok());
        assert_eq!(of(0), Err(InvalidInput::Empty { field: "client_id" }.into()));
        assert_eq!(of(257).unwrap_err().to_string(), "client_id has 257 bytes, the limit is 256");
        assert_eq!(client(None), Err(ConvertError::Missing { field: "client_id" }));
    }

    #[test]
    fn fixed_lengths_are_checked() {
        let id = TxId([9; 16]);
        assert_eq!(transaction("tx_id", Some(&id.into())), Ok(id));
        let short = v1::Hash { value: vec![0; 31] };
        let error = ConvertError::WrongLength { field: "block_hash", len: 31, expected: 32 };
        assert_eq!(digest("block_hash", Some(&short)), Err(error));
    }
}
