//! Entities of `_system` that other parts and verifiers read: exact keys and value bytes.
//!
//! Every value starts with the version of its own kind. Must never hold anything but names, numbers
//! and bytes: what they mean for placement or trust is decided elsewhere.

use ledger_types::limits::NAME_BYTES_MAX;
use ledger_types::{
    ClusterId, GroupId, Incarnation, NamespaceId, NodeId, OwnerEpoch, StoreId, VaultRef, check_name,
};

use crate::encoding::{DecodeError, Reader, Writer};

/// First byte of every value.
const VERSION: u8 = 1;
/// Longest network address in bytes.
pub const ADDRESS_BYTES_MAX: usize = 256;
/// Most replicas that a shard entity lists.
pub const REPLICAS_MAX: usize = 64;
/// Bytes of one listed replica.
const REPLICA_LEN: usize = 18;
/// Bits of a replica's byte of sets.
const IN_OLD_SET: u8 = 1;
const IN_NEW_SET: u8 = 2;
const IS_ADDED: u8 = 4;
const SETS_MAX: u8 = IN_OLD_SET | IN_NEW_SET | IS_ADDED;

/// Key of the cluster's entity.
pub const CLUSTER_KEY: &str = "cluster";

/// Key of a node.
pub fn node_key(id: NodeId) -> String {
    format!("node/{id}")
}

/// Key of a shard.
pub fn shard_key(id: GroupId) -> String {
    format!("shard/{id}")
}

/// Key of a vault.
pub fn vault_key(vault: VaultRef) -> String {
    format!("vault/{}/{}", vault.namespace, vault.vault)
}

/// Prefix of the keys of a namespace's vaults.
pub fn vault_prefix(namespace: NamespaceId) -> String {
    format!("vault/{namespace}/")
}

/// Key of a trust bundle; the value is the bundle's own canonical form.
pub fn bundle_key(sequence: u64) -> String {
    format!("bundle/{sequence}")
}

/// Key of the proof that a trust bundle was vouched for by the voters of the one before; the value is a
/// verified read's own canonical form.
pub fn bundle_link_key(sequence: u64) -> String {
    format!("bundle-link/{sequence}")
}

/// Key of the record of a replica that was taken out of its shard.
pub fn tombstone_key(shard: GroupId, incarnation: Incarnation) -> String {
    format!("tombstone/{shard}/{incarnation}")
}

/// Key of a namespace.
pub fn namespace_key(id: NamespaceId) -> String {
    format!("namespace/{id}")
}

/// Key under which a namespace's id is found by its name.
pub fn namespace_name_key(name: &str) -> String {
    format!("namespace-name/{name}")
}

/// Key of a counter that ids are drawn from.
pub fn sequence_key(name: &str) -> String {
    format!("sequence/{name}")
}

/// A value of `_system` with its canonical bytes.
pub trait SystemEntity: Sized {
    /// Name of the kind, for errors.
    const KIND: &'static str;

    /// Writes the fields after the version.
    fn write(&self, writer: &mut Writer<'_>);

    /// Reads the fields after the version.
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// The value's bytes.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.u8(VERSION);
        self.write(&mut writer);
        bytes
    }

    /// Reads one value and nothing else.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8(Self::KIND)?;
        if version != VERSION {
            return Err(unknown(Self::KIND, version));
        }
        let value = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(value)
    }
}

macro_rules! coded_enum {
    ($(#[$doc:meta])* $name:ident, $field:literal, {
        $($(#[$variant_doc:meta])* $variant:ident = $code:literal,)+
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$variant_doc])* $variant = $code,)+
        }

        impl $name {
            fn read(reader: &mut Reader<'_>) -> Result<$name, DecodeError> {
                match reader.u8($field)? {
                    $($code => Ok($name::$variant),)+
                    other => Err(unknown($field, other)),
                }
            }
        }
    };
}

coded_enum!(
    /// Whether a node takes part.
    NodeState, "node state", {
        /// It serves and is given replicas.
        Active = 1,
        /// It serves, its replicas are moving away.
        Draining = 2,
        /// It left for good; its key counts no more.
        Removed = 3,
    }
);

coded_enum!(
    /// What a replica may do in its group.
    ReplicaRole, "replica role", {
        /// It votes.
        Voter = 1,
        /// It only follows.
        Learner = 2,
    }
);

coded_enum!(
    /// Where a vault is in its life.
    VaultState, "vault state", {
        /// Its genesis is on its way.
        Creating = 1,
        /// It is in use.
        Active = 2,
        /// Its data is being removed.
        Deleting = 3,
        /// It is gone; the number is never used again.
        Deleted = 4,
    }
);

coded_enum!(
    /// Where a namespace is in its life.
    NamespaceState, "namespace state", {
        /// It is in use.
        Active = 1,
        /// Its vaults are being removed.
        Deleting = 2,
        /// It is gone; the number is never used again.
        Deleted = 3,
    }
);

coded_enum!(
    /// Which blocks of a vault keep their bodies.
    RetentionMode, "retention mode", {
        /// All of them.
        KeepAll = 1,
        /// The last `blocks`.
        KeepBlocks = 2,
    }
);

/// The cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterEntity {
    /// Its id, drawn at bootstrap.
    pub id: ClusterId,
    /// The domain that origins and signer names begin with.
    pub domain: String,
    /// What all nodes understand; raised when every node does.
    pub feature_level: u32,
}

impl SystemEntity for ClusterEntity {
    const KIND: &'static str = "cluster entity";

    fn write(&self, writer: &mut Writer<'_>) {
        writer.raw(&self.id.0);
        writer.bytes_u16(self.domain.as_bytes());
        writer.u32(self.feature_level);
    }

    fn read(reader: &mut Reader<'_>) -> Result<ClusterEntity, DecodeError> {
        Ok(ClusterEntity {
            id: ClusterId(reader.array("cluster id")?),
            domain: read_name(reader, "cluster domain")?,
            feature_level: reader.u32("feature level")?,
        })
    }
}

/// A node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeEntity {
    /// Its number.
    pub id: NodeId,
    /// Its name, last part of its signer name.
    pub name: String,
    /// The store it registered with.
    pub store_id: StoreId,
    /// Where peers and clients reach it, host and port.
    pub address: String,
    /// Its Ed25519 public key.
    pub public_key: [u8; 32],
    /// Whether it takes part.
    pub state: NodeState,
    /// What fails together with it; may be empty.
    pub zone: String,
}

impl SystemEntity for NodeEntity {
    const KIND: &'static str = "node entity";

    fn write(&self, writer: &mut Writer<'_>) {
        writer.u64(self.id.0);
        writer.bytes_u16(self.name.as_bytes());
        writer.raw(&self.store_id.0);
        writer.bytes_u16(self.address.as_bytes());
        writer.raw(&self.public_key);
        writer.u8(self.state as u8);
        writer.bytes_u16(self.zone.as_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<NodeEntity, DecodeError> {
        Ok(NodeEntity {
            id: NodeId(reader.u64("node id")?),
            name: read_name(reader, "node name")?,
            store_id: StoreId(reader.array("store id")?),
            address: reader.text_u16("node address", ADDRESS_BYTES_MAX)?.to_owned(),
            public_key: reader.array("node public key")?,
            state: NodeState::read(reader)?,
            zone: reader.text_u16("node zone", NAME_BYTES_MAX)?.to_owned(),
        })
    }
}

/// One replica of a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardReplica {
    /// The node it is on.
    pub node: NodeId,
    /// Its Raft id.
    pub incarnation: Incarnation,
    /// What it may do now.
    pub role: ReplicaRole,
    /// During a change of members: it votes in the set that is being left.
    pub in_old_set: bool,
    /// It votes in the current set, or in the one being entered.
    pub in_new_set: bool,
    /// It came after the shard's beginning: it starts with nothing and needs a snapshot. Without effect on
    /// whose signatures count.
    pub is_added: bool,
}

impl ShardReplica {
    fn sets(&self) -> u8 {
        let bits = [
            (self.in_old_set, IN_OLD_SET),
            (self.in_new_set, IN_NEW_SET),
            (self.is_added, IS_ADDED),
        ];
        bits.into_iter().filter(|(holds, _)| *holds).map(|(_, bit)| bit).sum()
    }
}

/// A shard: the replicas of one Raft group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardEntity {
    /// The group.
    pub id: GroupId,
    /// Counts changes of this entity.
    pub epoch: u64,
    /// Its replicas by ascending incarnation.
    pub replicas: Vec<ShardReplica>,
}

impl ShardEntity {
    /// Whether the shard is between two voter sets.
    pub fn is_changing(&self) -> bool {
        self.replicas.iter().any(|replica| replica.in_old_set)
    }

    /// The replica on a node, if there is one.
    pub fn replica_on(&self, node: NodeId) -> Option<&ShardReplica> {
        self.replicas.iter().find(|replica| replica.node == node)
    }

    /// The replica that a change of members takes out.
    pub fn leaving(&self) -> Option<&ShardReplica> {
        self.replicas.iter().find(|replica| replica.in_old_set && !replica.in_new_set)
    }

    /// The replica that a change of members brings in and that does not vote yet.
    pub fn incoming(&self) -> Option<&ShardReplica> {
        self.replicas.iter().find(|replica| {
            replica.role == ReplicaRole::Learner && replica.in_new_set && !replica.in_old_set
        })
    }

    /// The nodes of each voter set that counts: the new (or only) one, then the old one during a
    /// change. The new one counts from before the group's own configuration changes, so a replica that is
    /// still to be promoted is in it.
    pub fn voter_sets(&self) -> Vec<Vec<NodeId>> {
        let nodes = |is_in: fn(&&ShardReplica) -> bool| -> Vec<NodeId> {
            self.replicas.iter().filter(is_in).map(|replica| replica.node).collect()
        };
        let mut sets = vec![nodes(|replica| replica.in_new_set)];
        if self.is_changing() {
            sets.push(nodes(|replica| replica.in_old_set));
        }
        sets
    }
}

impl SystemEntity for ShardEntity {
    const KIND: &'static str = "shard entity";

    fn write(&self, writer: &mut Writer<'_>) {
        writer.u64(self.id.0);
        writer.u64(self.epoch);
        assert!(self.replicas.len() <= REPLICAS_MAX, "a shard has few replicas");
        writer.u16(self.replicas.len() as u16);
        for replica in &self.replicas {
            writer.u64(replica.node.0);
            writer.u64(replica.incarnation.0);
            writer.u8(replica.role as u8);
            writer.u8(replica.sets());
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<ShardEntity, DecodeError> {
        let id = GroupId(reader.u64("shard id")?);
        let epoch = reader.u64("shard epoch")?;
        let count = usize::from(reader.u16("shard replicas")?);
        let count = reader.count("shard replicas", count, REPLICAS_MAX, REPLICA_LEN)?;
        let mut replicas: Vec<ShardReplica> = Vec::with_capacity(count);
        for _ in 0..count {
            let node = NodeId(reader.u64("replica node")?);
            let incarnation = Incarnation(reader.u64("replica incarnation")?);
            if replicas.last().is_some_and(|before| before.incarnation >= incarnation) {
                let rule = "must ascend";
                return Err(DecodeError::Invalid { field: "replica incarnation", rule });
            }
            let role = ReplicaRole::read(reader)?;
            let sets = reader.u8("replica sets")?;
            if sets > SETS_MAX {
                return Err(unknown("replica sets", sets));
            }
            replicas.push(ShardReplica {
                node,
                incarnation,
                role,
                in_old_set: sets & IN_OLD_SET != 0,
                in_new_set: sets & IN_NEW_SET != 0,
                is_added: sets & IS_ADDED != 0,
            });
        }
        Ok(ShardEntity { id, epoch, replicas })
    }
}

/// A replica that was taken out of its shard. Its incarnation is never used again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TombstoneEntity {
    /// The shard.
    pub shard: GroupId,
    /// The replica's Raft id.
    pub incarnation: Incarnation,
    /// The node it was on.
    pub node: NodeId,
    /// That node's store.
    pub store_id: StoreId,
    /// When it was taken out, Unix nanoseconds.
    pub removed_at_ns: u64,
}

impl SystemEntity for TombstoneEntity {
    const KIND: &'static str = "tombstone entity";

    fn write(&self, writer: &mut Writer<'_>) {
        writer.u64(self.shard.0);
        writer.u64(self.incarnation.0);
        writer.u64(self.node.0);
        writer.raw(&self.store_id.0);
        writer.u64(self.removed_at_ns);
    }

    fn read(reader: &mut Reader<'_>) -> Result<TombstoneEntity, DecodeError> {
        Ok(TombstoneEntity {
            shard: GroupId(reader.u64("shard")?),
            incarnation: Incarnation(reader.u64("replica incarnation")?),
            node: NodeId(reader.u64("replica node")?),
            store_id: StoreId(reader.array("store id")?),
            removed_at_ns: reader.u64("removed_at_ns")?,
        })
    }
}

/// A vault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VaultEntity {
    /// The vault.
    pub vault: VaultRef,
    /// The group that owns it.
    pub shard: GroupId,
    /// Counts changes of the owning group.
    pub owner_epoch: OwnerEpoch,
    /// The number in its log's origin.
    pub log_epoch: u64,
    /// Where it is in its life.
    pub state: VaultState,
    /// When it was created, Unix nanoseconds.
    pub created_at_ns: u64,
    /// Which block bodies are kept.
    pub retention: RetentionMode,
    /// How many, if only the last ones are; otherwise 0.
    pub retention_blocks: u64,
}

impl SystemEntity for VaultEntity {
    const KIND: &'static str = "vault entity";

    fn write(&self, writer: &mut Writer<'_>) {
        writer.raw(&self.vault.to_bytes());
        writer.u64(self.shard.0);
        writer.u64(self.owner_epoch.0);
        writer.u64(self.log_epoch);
        writer.u8(self.state as u8);
        writer.u64(self.created_at_ns);
        writer.u8(self.retention as u8);
        writer.u64(self.retention_blocks);
    }

    fn read(reader: &mut Reader<'_>) -> Result<VaultEntity, DecodeError> {
        let entity = VaultEntity {
            vault: VaultRef::new(reader.u64("namespace")?, reader.u64("vault")?),
            shard: GroupId(reader.u64("shard")?),
            owner_epoch: OwnerEpoch(reader.u64("owner epoch")?),
            log_epoch: reader.u64("log epoch")?,
            state: VaultState::read(reader)?,
            created_at_ns: reader.u64("created_at_ns")?,
            retention: RetentionMode::read(reader)?,
            retention_blocks: reader.u64("retention blocks")?,
        };
        if entity.retention == RetentionMode::KeepAll && entity.retention_blocks != 0 {
            let rule = "must be 0 when all are kept";
            return Err(DecodeError::Invalid { field: "retention blocks", rule });
        }
        Ok(entity)
    }
}

/// A namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamespaceEntity {
    /// Its number.
    pub id: NamespaceId,
    /// Its name.
    pub name: String,
    /// Where it is in its life.
    pub state: NamespaceState,
    /// When it was created, Unix nanoseconds.
    pub created_at_ns: u64,
    /// Counts changes of its settings.
    pub config_version: u64,
}

impl SystemEntity for NamespaceEntity {
    const KIND: &'static str = "namespace entity";

    fn write(&self, writer: &mut Writer<'_>) {
        writer.u64(self.id.0);
        writer.bytes_u16(self.name.as_bytes());
        writer.u8(self.state as u8);
        writer.u64(self.created_at_ns);
        writer.u64(self.config_version);
    }

    fn read(reader: &mut Reader<'_>) -> Result<NamespaceEntity, DecodeError> {
        Ok(NamespaceEntity {
            id: NamespaceId(reader.u64("namespace id")?),
            name: reader.text_u16("namespace name", NAME_BYTES_MAX)?.to_owned(),
            state: NamespaceState::read(reader)?,
            created_at_ns: reader.u64("created_at_ns")?,
            config_version: reader.u64("config version")?,
        })
    }
}

/// What a namespace's name leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NamespaceNameEntity {
    /// The namespace that has the name.
    pub id: NamespaceId,
}

impl SystemEntity for NamespaceNameEntity {
    const KIND: &'static str = "namespace name entity";

    fn write(&self, writer: &mut Writer<'_>) {
        writer.u64(self.id.0);
    }

    fn read(reader: &mut Reader<'_>) -> Result<NamespaceNameEntity, DecodeError> {
        Ok(NamespaceNameEntity { id: NamespaceId(reader.u64("namespace id")?) })
    }
}

/// A counter that ids are drawn from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SequenceEntity {
    /// The next number to give out.
    pub next: u64,
}

impl SystemEntity for SequenceEntity {
    const KIND: &'static str = "sequence entity";

    fn write(&self, writer: &mut Writer<'_>) {
        writer.u64(self.next);
    }

    fn read(reader: &mut Reader<'_>) -> Result<SequenceEntity, DecodeError> {
        Ok(SequenceEntity { next: reader.u64("next")? })
    }
}

fn read_name(reader: &mut Reader<'_>, field: &'static str) -> Result<String, DecodeError> {
    let name = reader.text_u16(field, NAME_BYTES_MAX)?;
    match check_name(field, name) {
        Ok(()) => Ok(name.to_owned()),
        Err(_) => Err(DecodeError::Invalid { field, rule: "may only have a-z, 0-9, '.' and '-'" }),
    }
}

fn unknown(field: &'static str, value: u8) -> DecodeError {
    DecodeError::UnknownValue { field, value: value.into() }
}

#[cfg(test)]
mod tests;
