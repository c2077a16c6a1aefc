//! Entities of the directory that only the directory's own commands and jobs read.
//!
//! Owns their keys and bytes. Entities that verifiers or routing read are `ledger_proof::system_entity`'s.

use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_proof::system_entity::SystemEntity;
use ledger_types::{GroupId, NamespaceId, OwnerEpoch, VaultRef};

/// Prefix of the vaults that await their first block, or that their shard ends them.
pub const PENDING_PREFIX: &str = "pending/";
/// Prefix of the shards ordered by their number of vaults, then by id.
pub const SHARD_BY_LOAD_PREFIX: &str = "shard-by-load/";
/// Key of the setting: replicas of a shard, as long as there are as many nodes.
pub const REPLICATION_FACTOR_KEY: &str = "setting/replication-factor";
/// Key of the setting: data shards made at bootstrap.
pub const DATA_SHARDS_KEY: &str = "setting/data-shards";

/// Name of the counter of node numbers.
pub(super) const NODE_SEQUENCE: &str = "node";
/// Name of the counter of Raft ids.
pub(super) const INCARNATION_SEQUENCE: &str = "incarnation";
/// Name of the counter of shard numbers.
pub(super) const SHARD_SEQUENCE: &str = "shard";
/// Name of the counter of namespace ids.
pub(super) const NAMESPACE_SEQUENCE: &str = "namespace";

/// Name of the counter of a namespace's vault ids.
pub(super) fn vault_sequence(namespace: NamespaceId) -> String {
    format!("vault/{namespace}")
}

/// Key of the note that a vault awaits its first block, or its end.
pub fn pending_key(vault: VaultRef) -> String {
    format!("{PENDING_PREFIX}{}/{}", vault.namespace, vault.vault)
}

/// Key of the record of a vault's deletion.
pub fn vault_deletion_key(vault: VaultRef) -> String {
    format!("deletion/vault/{}/{}", vault.namespace, vault.vault)
}

/// Key of the record of a namespace's deletion.
pub fn namespace_deletion_key(namespace: NamespaceId) -> String {
    format!("deletion/namespace/{namespace}")
}

/// Key of a shard's number of vaults.
pub fn shard_vaults_key(shard: GroupId) -> String {
    format!("shard-vaults/{shard}")
}

/// Key of a shard among the shards ordered by load: padded, so that text order is number order.
pub fn shard_by_load_key(vaults: u64, shard: GroupId) -> String {
    format!("{SHARD_BY_LOAD_PREFIX}{vaults:020}/{:020}", shard.0)
}

/// A vault that awaits its first block, or its end. Stays until [`super::VaultActive`] or
/// [`super::VaultDeleted`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PendingEntity {
    /// The vault.
    pub vault: VaultRef,
    /// The shard that is to make its first block, or to end it.
    pub shard: GroupId,
    /// The owner epoch of its shard.
    pub owner_epoch: OwnerEpoch,
}

impl SystemEntity for PendingEntity {
    const KIND: &'static str = "pending vault entity";

    fn write(&self, writer: &mut Writer<'_>) {
        writer.raw(&self.vault.to_bytes());
        writer.u64(self.shard.0);
        writer.u64(self.owner_epoch.0);
    }

    fn read(reader: &mut Reader<'_>) -> Result<PendingEntity, DecodeError> {
        Ok(PendingEntity {
            vault: VaultRef::new(reader.u64("namespace")?, reader.u64("vault")?),
            shard: GroupId(reader.u64("shard")?),
            owner_epoch: OwnerEpoch(reader.u64("owner epoch")?),
        })
    }
}

/// How many vaults a shard has been given, less those taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardVaultsEntity {
    /// The number.
    pub vaults: u64,
}

impl SystemEntity for ShardVaultsEntity {
    const KIND: &'static str = "shard vaults entity";

    fn write(&self, writer: &mut Writer<'_>) {
        writer.u64(self.vaults);
    }

    fn read(reader: &mut Reader<'_>) -> Result<ShardVaultsEntity, DecodeError> {
        Ok(ShardVaultsEntity { vaults: reader.u64("vaults")? })
    }
}

/// A shard's place in the order by load. Its key carries the order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardByLoadEntity {
    /// The shard.
    pub shard: GroupId,
}

impl SystemEntity for ShardByLoadEntity {
    const KIND: &'static str = "shard by load entity";

    fn write(&self, writer: &mut Writer<'_>) {
        writer.u64(self.shard.0);
    }

    fn read(reader: &mut Reader<'_>) -> Result<ShardByLoadEntity, DecodeError> {
        Ok(ShardByLoadEntity { shard: GroupId(reader.u64("shard")?) })
    }
}

/// That a namespace or a vault was deleted. Stays for ever, as its id does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeletionEntity {
    /// When it was asked for, Unix nanoseconds.
    pub deleted_at_ns: u64,
}

impl SystemEntity for DeletionEntity {
    const KIND: &'static str = "deletion entity";

    fn write(&self, writer: &mut Writer<'_>) {
        writer.u64(self.deleted_at_ns);
    }

    fn read(reader: &mut Reader<'_>) -> Result<DeletionEntity, DecodeError> {
        Ok(DeletionEntity { deleted_at_ns: reader.u64("deletion time")? })
    }
}

/// A number that operators chose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SettingEntity {
    /// The number.
    pub value: u64,
}

impl SystemEntity for SettingEntity {
    const KIND: &'static str = "setting entity";

    fn write(&self, writer: &mut Writer<'_>) {
        writer.u64(self.value);
    }

    fn read(reader: &mut Reader<'_>) -> Result<SettingEntity, DecodeError> {
        Ok(SettingEntity { value: reader.u64("setting")? })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    fn check<E: SystemEntity + PartialEq + Debug>(entity: E, hex: &str) {
        let bytes = entity.encode();
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, hex, "{}", E::KIND);
        assert_eq!(E::decode(&bytes), Ok(entity));
        assert!(E::decode(&bytes[1..]).is_err());
        assert!(E::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn bytes_are_fixed() {
        let vault = VaultRef::new(3, 7);
        let pending = PendingEntity { vault, shard: GroupId(2), owner_epoch: OwnerEpoch(1) };
        check(pending, "010000000000000003000000000000000700000000000000020000000000000001");
        check(ShardVaultsEntity { vaults: 258 }, "010000000000000102");
        check(ShardByLoadEntity { shard: GroupId(9) }, "010000000000000009");
        check(DeletionEntity { deleted_at_ns: 4 }, "010000000000000004");
        check(SettingEntity { value: 3 }, "010000000000000003");
    }

    #[test]
    fn keys_are_fixed_and_order_by_load() {
        assert_eq!(pending_key(VaultRef::new(3, 7)), "pending/3/7");
        assert_eq!(vault_deletion_key(VaultRef::new(3, 7)), "deletion/vault/3/7");
        assert_eq!(namespace_deletion_key(NamespaceId(3)), "deletion/namespace/3");
        assert_eq!(shard_vaults_key(GroupId(12)), "shard-vaults/12");
        let key = "shard-by-load/00000000000000000002/00000000000000000010";
        assert_eq!(shard_by_load_key(2, GroupId(10)), key);
        assert!(shard_by_load_key(2, GroupId(10)) < shard_by_load_key(10, GroupId(2)));
        assert!(shard_by_load_key(2, GroupId(2)) < shard_by_load_key(2, GroupId(10)));
        assert_eq!(shard_by_load_key(u64::MAX, GroupId(0)).len(), key.len());
    }
}
