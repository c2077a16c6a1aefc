//! Commands that change the directory (`_system`), and what each of them answers.
//!
//! Owns the commands' kinds, the checks that their fields pass before they are encoded, and the dispatch to
//! their files. Must never change anything but through the set and delete operations of a [`Planned`]:
//! they are the command's complete result and become one transaction of the directory's own chain.
//!
//! Body: `kind u8 ‖ fields`; each command's file tells its fields. Integers are big-endian.

use ledger_proof::ReadFault;
use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_proof::system_entity::{ADDRESS_BYTES_MAX, REPLICAS_MAX};
use ledger_types::{
    ClusterId, GroupId, Incarnation, InvalidInput, NamespaceId, NodeId, Operation, OwnerEpoch,
    VaultRef,
};
use thiserror::Error;

mod bundle_link;
mod create_namespace;
mod create_shards;
mod create_vault;
mod delete_namespace;
mod delete_vault;
mod draft;
pub mod entity;
mod found;
mod members;
mod refusal;
mod register_node;
#[cfg(test)]
mod script;
mod vault_active;
mod vault_deleted;

pub use bundle_link::{BUNDLE_LINK_BYTES_MAX, StoreBundleLink};
pub use create_namespace::{CreateNamespace, check_namespace_name};
pub use create_shards::{CreateShards, SHARDS_PER_COMMAND_MAX};
pub use create_vault::{CreateVault, Retention};
pub use delete_namespace::{DeleteNamespace, LIVE_VAULTS_COUNTED_MAX};
pub use delete_vault::DeleteVault;
pub use found::{FIRST_BUNDLE, FOUNDERS_MAX, Found, Founder};
pub use members::{FinishReplacement, ReplaceReplica};
pub use refusal::SystemRefusal;
pub use register_node::RegisterNode;
pub use vault_active::VaultActive;
pub use vault_deleted::VaultDeleted;

use draft::Draft;

/// The owner epoch of every new vault, the directory's own included.
pub const FIRST_OWNER_EPOCH: OwnerEpoch = OwnerEpoch(1);
/// The first Raft id that is not a founder's.
pub const FIRST_INCARNATION: u64 = 1000;
/// The highest id that the API's signed numbers can carry.
pub const PUBLIC_ID_MAX: u64 = i64::MAX as u64;

/// The directory's entities as a command sees them: the chain's tip and the earlier commands of its entry.
pub trait EntityView {
    /// The value of the entity with this key, if it is present.
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, ReadFault>;

    /// Visits the entities whose keys begin with `prefix`, in key order, until `visit` answers false.
    fn scan(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(&str, &[u8]) -> bool,
    ) -> Result<(), ReadFault>;
}

/// Why a command cannot be planned. Fatal to the replica: the others do the same or this one is damaged.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum SystemFault {
    /// Stored state could not be read.
    #[error(transparent)]
    Read(#[from] ReadFault),
    /// The body is no command that this build knows.
    #[error("directory command: {0}")]
    Command(#[from] DecodeError),
    /// A stored entity is not what its key says.
    #[error("directory entity {key}: {source}")]
    Entity {
        /// The entity's key.
        key: String,
        /// What is wrong with its value.
        source: DecodeError,
    },
    /// An entity that another one refers to is missing.
    #[error("directory entity {key} is missing")]
    Missing {
        /// The missing entity's key.
        key: String,
    },
}

/// A planned command: its complete effect and its answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planned {
    /// Set and delete operations in key order. Empty if nothing changes: then there is no transaction.
    pub operations: Vec<Operation>,
    /// The answer to whoever proposed the command.
    pub result: SystemResult,
}

/// Answer to a directory command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SystemResult {
    /// The cluster is recorded.
    Founded {
        /// The cluster.
        cluster: ClusterId,
    },
    /// The node is registered.
    NodeRegistered {
        /// Its number.
        node: NodeId,
        /// True if it was not registered before.
        created: bool,
    },
    /// The directory has the shards.
    ShardsReady {
        /// Data shards there are now; fewer than wanted if one command may not make so many.
        data_shards: u64,
        /// Those that this command made, ascending.
        created: Vec<GroupId>,
    },
    /// The namespace exists; its vault 0 awaits its first block.
    NamespaceCreated {
        /// The namespace.
        namespace: NamespaceId,
        /// The shard of its vault 0.
        shard: GroupId,
        /// The owner epoch of its vault 0.
        owner_epoch: OwnerEpoch,
    },
    /// The vault has a place.
    VaultPlaced {
        /// The vault.
        vault: VaultRef,
        /// Its shard.
        shard: GroupId,
        /// Its owner epoch.
        owner_epoch: OwnerEpoch,
        /// True if it still awaits its first block.
        pending: bool,
        /// True if it was not there before.
        created: bool,
    },
    /// The vault is in use.
    VaultActive {
        /// The vault.
        vault: VaultRef,
        /// Its owner epoch.
        owner_epoch: OwnerEpoch,
    },
    /// The vault is deleted, now or before. Its shard may still have to end it.
    VaultDeleting {
        /// The vault.
        vault: VaultRef,
        /// When it was deleted, Unix nanoseconds.
        deleted_at_ns: u64,
    },
    /// The namespace is deleted, now or before. The shard of its own entities may still have to end them.
    NamespaceDeleting {
        /// The namespace.
        namespace: NamespaceId,
        /// When it was deleted, Unix nanoseconds.
        deleted_at_ns: u64,
    },
    /// The vault's shard has ended it.
    VaultDeleted {
        /// The vault.
        vault: VaultRef,
    },
    /// The shard is to take in a replica.
    ReplacementBegun {
        /// The shard.
        shard: GroupId,
        /// The new replica.
        incarnation: Incarnation,
        /// The shard's epoch.
        epoch: u64,
    },
    /// The shard has one voter set again.
    ReplacementFinished {
        /// The shard.
        shard: GroupId,
        /// The shard's epoch.
        epoch: u64,
    },
    /// The link to the bundle is kept, this one or an earlier one.
    BundleLinkStored {
        /// The bundle.
        sequence: u64,
    },
    /// Nothing changed.
    Refused(SystemRefusal),
}

/// A change of the directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SystemCommand {
    /// Records the cluster and its founders.
    Found(Found),
    /// Gives a node its number, or takes its new address.
    RegisterNode(RegisterNode),
    /// Makes data shards until there are enough.
    CreateShards(CreateShards),
    /// Makes a namespace.
    CreateNamespace(CreateNamespace),
    /// Gives a vault its id and its place.
    CreateVault(CreateVault),
    /// Records that a vault has its first block.
    VaultActive(VaultActive),
    /// Ends a vault for clients; its shard then ends it for good.
    DeleteVault(DeleteVault),
    /// Ends a namespace without vaults.
    DeleteNamespace(DeleteNamespace),
    /// Records that a vault's shard has ended it.
    VaultDeleted(VaultDeleted),
    /// Gives a replica's place in a shard to another node.
    ReplaceReplica(ReplaceReplica),
    /// Records that a shard's group has its new voters.
    FinishReplacement(FinishReplacement),
    /// Keeps the proof of a trust bundle.
    StoreBundleLink(StoreBundleLink),
}

const KIND_FOUND: u8 = 1;
const KIND_REGISTER_NODE: u8 = 2;
const KIND_CREATE_SHARDS: u8 = 3;
const KIND_CREATE_NAMESPACE: u8 = 4;
const KIND_CREATE_VAULT: u8 = 5;
const KIND_VAULT_ACTIVE: u8 = 6;
const KIND_REPLACE_REPLICA: u8 = 7;
const KIND_FINISH_REPLACEMENT: u8 = 8;
const KIND_STORE_BUNDLE_LINK: u8 = 9;
const KIND_DELETE_VAULT: u8 = 10;
const KIND_DELETE_NAMESPACE: u8 = 11;
const KIND_VAULT_DELETED: u8 = 12;

impl SystemCommand {
    /// The command's bytes. Errors if a field breaks its rule, so that no such command enters the log,
    /// where it would stop every replica.
    pub fn encode(&self) -> Result<Vec<u8>, InvalidCommand> {
        let mut body = Vec::new();
        let mut out = Writer::new(&mut body);
        match self {
            SystemCommand::Found(command) => {
                command.check()?;
                out.u8(KIND_FOUND);
                command.write(&mut out);
            }
            SystemCommand::RegisterNode(command) => {
                command.check()?;
                out.u8(KIND_REGISTER_NODE);
                command.write(&mut out);
            }
            SystemCommand::CreateShards(command) => {
                command.check()?;
                out.u8(KIND_CREATE_SHARDS);
                command.write(&mut out);
            }
            SystemCommand::CreateNamespace(command) => {
                command.check()?;
                out.u8(KIND_CREATE_NAMESPACE);
                command.write(&mut out);
            }
            SystemCommand::CreateVault(command) => {
                command.check()?;
                out.u8(KIND_CREATE_VAULT);
                command.write(&mut out);
            }
            SystemCommand::VaultActive(command) => {
                out.u8(KIND_VAULT_ACTIVE);
                command.write(&mut out);
            }
            SystemCommand::DeleteVault(command) => {
                command.check()?;
                out.u8(KIND_DELETE_VAULT);
                command.write(&mut out);
            }
            SystemCommand::DeleteNamespace(command) => {
                out.u8(KIND_DELETE_NAMESPACE);
                command.write(&mut out);
            }
            SystemCommand::VaultDeleted(command) => {
                out.u8(KIND_VAULT_DELETED);
                command.write(&mut out);
            }
            SystemCommand::ReplaceReplica(command) => {
                out.u8(KIND_REPLACE_REPLICA);
                command.write(&mut out);
            }
            SystemCommand::FinishReplacement(command) => {
                out.u8(KIND_FINISH_REPLACEMENT);
                command.write(&mut out);
            }
            SystemCommand::StoreBundleLink(command) => {
                command.check()?;
                out.u8(KIND_STORE_BUNDLE_LINK);
                command.write(&mut out);
            }
        }
        Ok(body)
    }

    /// Reads a command. Errors on an unknown kind, a field over its limit, or bytes left over.
    pub fn decode(body: &[u8]) -> Result<SystemCommand, DecodeError> {
        let mut reader = Reader::new(body);
        let command = match reader.u8("directory command kind")? {
            KIND_FOUND => SystemCommand::Found(Found::read(&mut reader)?),
            KIND_REGISTER_NODE => SystemCommand::RegisterNode(RegisterNode::read(&mut reader)?),
            KIND_CREATE_SHARDS => SystemCommand::CreateShards(CreateShards::read(&mut reader)?),
            KIND_CREATE_NAMESPACE => {
                SystemCommand::CreateNamespace(CreateNamespace::read(&mut reader)?)
            }
            KIND_CREATE_VAULT => SystemCommand::CreateVault(CreateVault::read(&mut reader)?),
            KIND_VAULT_ACTIVE => SystemCommand::VaultActive(VaultActive::read(&mut reader)?),
            KIND_DELETE_VAULT => SystemCommand::DeleteVault(DeleteVault::read(&mut reader)?),
            KIND_DELETE_NAMESPACE => {
                SystemCommand::DeleteNamespace(DeleteNamespace::read(&mut reader)?)
            }
            KIND_VAULT_DELETED => SystemCommand::VaultDeleted(VaultDeleted::read(&mut reader)?),
            KIND_REPLACE_REPLICA => {
                SystemCommand::ReplaceReplica(ReplaceReplica::read(&mut reader)?)
            }
            KIND_FINISH_REPLACEMENT => {
                SystemCommand::FinishReplacement(FinishReplacement::read(&mut reader)?)
            }
            KIND_STORE_BUNDLE_LINK => {
                SystemCommand::StoreBundleLink(StoreBundleLink::read(&mut reader)?)
            }
            value => {
                let field = "directory command kind";
                return Err(DecodeError::UnknownValue { field, value: value.into() });
            }
        };
        reader.finish()?;
        Ok(command)
    }
}

/// Decides what the command in `body` changes and answers, at the entry's time in Unix nanoseconds.
pub fn plan(body: &[u8], time_ns: u64, view: &dyn EntityView) -> Result<Planned, SystemFault> {
    let command = SystemCommand::decode(body)?;
    let mut draft = Draft::new(view);
    let answer = match &command {
        SystemCommand::Found(command) => command.plan(&mut draft)?,
        _ if !draft.is_founded()? => Err(SystemRefusal::NotFounded),
        SystemCommand::RegisterNode(command) => command.plan(&mut draft)?,
        SystemCommand::CreateShards(command) => command.plan(&mut draft)?,
        SystemCommand::CreateNamespace(command) => command.plan(time_ns, &mut draft)?,
        SystemCommand::CreateVault(command) => command.plan(time_ns, &mut draft)?,
        SystemCommand::VaultActive(command) => command.plan(&mut draft)?,
        SystemCommand::DeleteVault(command) => command.plan(time_ns, &mut draft)?,
        SystemCommand::DeleteNamespace(command) => command.plan(time_ns, &mut draft)?,
        SystemCommand::VaultDeleted(command) => command.plan(&mut draft)?,
        SystemCommand::ReplaceReplica(command) => command.plan(time_ns, &mut draft)?,
        SystemCommand::FinishReplacement(command) => command.plan(time_ns, &mut draft)?,
        SystemCommand::StoreBundleLink(command) => command.plan(&mut draft)?,
    };
    Ok(match answer {
        Ok(result) => Planned { operations: draft.into_operations()?, result },
        Err(refusal) => Planned { operations: Vec::new(), result: SystemResult::Refused(refusal) },
    })
}

/// What a command's plan answers: refusals leave no operations behind.
type Answer = Result<Result<SystemResult, SystemRefusal>, SystemFault>;

/// Why a command's fields are refused before it is encoded.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum InvalidCommand {
    /// A text breaks its rule.
    #[error(transparent)]
    Text(#[from] InvalidInput),
    /// A number is out of its range.
    #[error("{field} must be from {min} to {max}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// The lowest legal number.
        min: u64,
        /// The highest legal number.
        max: u64,
    },
    /// The founders are not in strictly ascending order of their names, or two share a store or a key.
    #[error("founders must have different stores and keys, and ascend by name")]
    Founders,
}

/// Checks `host:port` as far as the directory cares: not empty, bounded, printable ASCII without spaces.
fn check_address(text: &str) -> Result<(), InvalidInput> {
    let field = "address";
    if text.is_empty() {
        return Err(InvalidInput::Empty { field });
    }
    if text.len() > ADDRESS_BYTES_MAX {
        return Err(InvalidInput::TooLong { field, len: text.len(), max: ADDRESS_BYTES_MAX });
    }
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    if printable { Ok(()) } else { Err(InvalidInput::BadName { field }) }
}

/// Checks the name of a failure zone, which may be missing.
fn check_zone(text: &str) -> Result<(), InvalidInput> {
    if text.is_empty() { Ok(()) } else { ledger_types::check_name("zone", text) }
}

/// Checks a replication factor: at least one, at most what a shard entity lists.
fn check_replication_factor(factor: u8) -> Result<(), InvalidCommand> {
    let (field, min, max) = ("replication_factor", 1, REPLICAS_MAX as u64);
    let legal = (min..=max).contains(&u64::from(factor));
    if legal { Ok(()) } else { Err(InvalidCommand::OutOfRange { field, min, max }) }
}

/// Turns a broken rule of a decoded field into a decode error: nothing that `encode` refuses is accepted.
fn checked(check: Result<(), InvalidCommand>) -> Result<(), DecodeError> {
    check.map_err(|error| {
        let field = match error {
            InvalidCommand::Text(
                InvalidInput::Empty { field }
                | InvalidInput::TooLong { field, .. }
                | InvalidInput::Nul { field, .. }
                | InvalidInput::BadName { field },
            )
            | InvalidCommand::OutOfRange { field, .. } => field,
            InvalidCommand::Founders => "founders",
        };
        DecodeError::Invalid { field, rule: "breaks its rule" }
    })
}

#[cfg(test)]
mod tests;
