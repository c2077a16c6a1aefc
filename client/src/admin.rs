//! Namespaces and vaults. Making one is not repeated once it may have happened: a second request would
//! make a second.

use std::num::NonZeroU64;
use std::time::Instant;

use ledger_proof::BlockHeader;
use ledger_proto::convert::{block, ids, times};
use ledger_proto::v1;
use ledger_types::{Digest, GroupId, NamespaceId, VaultId, VaultRef};

use crate::attempt::Effect;
use crate::call::CallKind;
use crate::client::Client;
use crate::error::ClientError;
use crate::leaders::Route;
use crate::method;
use crate::read::digest;
use crate::reason::Reason;
use crate::retry::Backoff;
use crate::write::wire_vault;

/// Items asked for in a page of a whole list.
const PAGE_ITEMS: u32 = 1_000;

/// A namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Namespace {
    /// Its id.
    pub id: NamespaceId,
    /// Its name.
    pub name: String,
    /// The group of its own entities.
    pub shard: GroupId,
    /// Names of the nodes of that group.
    pub nodes: Vec<String>,
    /// What it is doing.
    pub status: v1::NamespaceStatus,
}

/// A vault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vault {
    /// Its full name.
    pub vault: VaultRef,
    /// The newest height, as far as the node that answered knows.
    pub height: u64,
    /// The state root at that height.
    pub state_root: Digest,
    /// Names of the nodes of its group.
    pub nodes: Vec<String>,
    /// Name of its group's leader; empty if unknown.
    pub leader: String,
    /// What it is doing.
    pub status: v1::VaultStatus,
}

/// Asks the directory, to read.
const ASKS_DIRECTORY: CallKind = CallKind { route: Route::Directory, effect: Effect::Reads };
/// Changes the directory.
const CHANGES_DIRECTORY: CallKind =
    CallKind { route: Route::Directory, effect: Effect::WritesEachTime };
/// Changes the directory in a way that can be repeated: an id is deleted once, however often that is asked for.
const DELETES: CallKind = CallKind { route: Route::Directory, effect: Effect::WritesOnce };

impl Client {
    /// Makes a namespace. Errors: its name is taken, among others; after an unknown outcome
    /// [`Client::namespace_by_name`] tells whether it was made. [`Client::ensure_namespace`] needs no such care.
    pub async fn create_namespace(&self, name: &str) -> Result<NamespaceId, ClientError> {
        let request = v1::CreateNamespaceRequest { name: name.to_owned(), shard_id: None };
        let answer = self.call(method::CREATE_NAMESPACE, CHANGES_DIRECTORY, &request).await?;
        namespace_id(answer.namespace_id)
    }

    /// The namespace of this name, made if there is none. Safe to repeat: whatever became of an attempt whose outcome
    /// is unknown, the next one finds it. Errors: those of [`Client::create_namespace`], but not that the name is taken.
    pub async fn ensure_namespace(&self, name: &str) -> Result<NamespaceId, ClientError> {
        let begun = Instant::now();
        let mut backoff = Backoff::new(&self.inner.config.retry);
        loop {
            let has_time = begun.elapsed() < self.deadline;
            match self.create_namespace(name).await {
                Err(error) if error.reason() == Some(&Reason::NamespaceExists) => {}
                Err(error) if error.outcome_unknown() && has_time => {}
                made => return made,
            }
            match self.namespace_by_name(name).await {
                // What is unknown may still be on its way, or never come.
                Err(error) if error.reason() == Some(&Reason::NamespaceNotFound) && has_time => {}
                found => return Ok(found?.id),
            }
            tokio::time::sleep(backoff.wait()).await;
        }
    }

    /// A namespace by its id.
    pub async fn namespace(&self, id: NamespaceId) -> Result<Namespace, ClientError> {
        let (id, _) = wire_vault(VaultRef { namespace: id, vault: VaultId(0) })?;
        let id = id.expect("wire_vault sets the namespace");
        self.lookup_namespace(v1::get_namespace_request::Lookup::NamespaceId(id)).await
    }

    /// A namespace by its name.
    pub async fn namespace_by_name(&self, name: &str) -> Result<Namespace, ClientError> {
        self.lookup_namespace(v1::get_namespace_request::Lookup::Name(name.to_owned())).await
    }

    async fn lookup_namespace(
        &self,
        lookup: v1::get_namespace_request::Lookup,
    ) -> Result<Namespace, ClientError> {
        let request = v1::GetNamespaceRequest { lookup: Some(lookup) };
        namespace(self.call(method::GET_NAMESPACE, ASKS_DIRECTORY, &request).await?)
    }

    /// Deletes a namespace whose vaults are deleted, and tells since when it is, in Unix nanoseconds. Once more
    /// tells the same. Its id is never used again; its name is free. Errors: it has vaults, among others.
    pub async fn delete_namespace(&self, namespace: NamespaceId) -> Result<u64, ClientError> {
        let (namespace_id, _) = wire_vault(VaultRef { namespace, vault: VaultId(0) })?;
        let request = v1::DeleteNamespaceRequest { namespace_id };
        let answer = self.call(method::DELETE_NAMESPACE, DELETES, &request).await?;
        let deleted_at = answer.deleted_at.as_ref().and_then(times::unix_ns);
        deleted_at.ok_or(ClientError::Malformed("deleted_at"))
    }

    /// All namespaces, by id.
    pub async fn namespaces(&self) -> Result<Vec<Namespace>, ClientError> {
        self.list_namespaces(false).await
    }

    /// All namespaces, deleted ones too, by id.
    pub async fn namespaces_with_deleted(&self) -> Result<Vec<Namespace>, ClientError> {
        self.list_namespaces(true).await
    }

    async fn list_namespaces(&self, include_deleted: bool) -> Result<Vec<Namespace>, ClientError> {
        let mut all = Vec::new();
        let (page_token, page_size) = (None, PAGE_ITEMS);
        let mut request = v1::ListNamespacesRequest { page_token, page_size, include_deleted };
        loop {
            let page = self.call(method::LIST_NAMESPACES, ASKS_DIRECTORY, &request).await?;
            for wire in page.namespaces {
                all.push(namespace(wire)?);
            }
            request.page_token = page.next_page_token.filter(|token| !token.is_empty());
            if request.page_token.is_none() {
                return Ok(all);
            }
        }
    }

    /// Makes a vault that keeps its past, and its genesis block. After an unknown outcome the namespace may have one
    /// vault more than the caller knows of.
    pub async fn create_vault(
        &self,
        namespace: NamespaceId,
    ) -> Result<(VaultRef, BlockHeader), ClientError> {
        self.make_vault(namespace, None).await
    }

    /// The same of a vault whose newest `blocks` blocks stay readable: nodes may forget what its state was before.
    pub async fn create_vault_retaining(
        &self,
        namespace: NamespaceId,
        blocks: NonZeroU64,
    ) -> Result<(VaultRef, BlockHeader), ClientError> {
        let mode = v1::BlockRetentionMode::Compacted.into();
        let policy = v1::BlockRetentionPolicy { mode, retention_blocks: blocks.get() };
        self.make_vault(namespace, Some(policy)).await
    }

    async fn make_vault(
        &self,
        namespace: NamespaceId,
        retention_policy: Option<v1::BlockRetentionPolicy>,
    ) -> Result<(VaultRef, BlockHeader), ClientError> {
        let begun = Instant::now();
        let (namespace_id, _) = wire_vault(VaultRef { namespace, vault: VaultId(0) })?;
        let rest = v1::CreateVaultRequest::default();
        let request = v1::CreateVaultRequest { namespace_id, retention_policy, ..rest };
        let answer = self.call(method::CREATE_VAULT, CHANGES_DIRECTORY, &request).await?;
        let vault = answer.vault_id.ok_or(ClientError::Malformed("vault_id"))?;
        let vault = ids::vault(Some(vault)).map_err(|_| ClientError::Malformed("vault_id"))?;
        let vault = VaultRef { namespace, vault };
        let Some(genesis) = answer.genesis else {
            return Ok((vault, self.wait_genesis(vault, begun).await?));
        };
        let genesis = block::header(&genesis).ok().filter(|genesis| genesis.vault == vault);
        Ok((vault, genesis.ok_or(ClientError::Malformed("genesis"))?))
    }

    /// The first block of a vault that the directory has placed since `begun`: a node that cannot wait for it answers
    /// without it. Errors: it is still not there at the deadline.
    async fn wait_genesis(
        &self,
        vault: VaultRef,
        begun: Instant,
    ) -> Result<BlockHeader, ClientError> {
        let mut backoff = Backoff::new(&self.inner.config.retry);
        loop {
            let error = match self.block(vault, 0).await {
                Ok(Some(block)) => return Ok(block.header),
                Ok(None) => ClientError::Malformed("block"),
                Err(error) if error.reason() == Some(&Reason::VaultNotFound) => error,
                Err(error) => return Err(ClientError::OutcomeUnknown(Box::new(error))),
            };
            let pause = backoff.wait();
            if begun.elapsed() + pause >= self.deadline {
                return Err(ClientError::OutcomeUnknown(Box::new(error)));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// A vault.
    pub async fn vault(&self, vault: VaultRef) -> Result<Vault, ClientError> {
        let (namespace_id, vault_id) = wire_vault(vault)?;
        let request = v1::GetVaultRequest { namespace_id, vault_id };
        let kind = CallKind::reads(Route::Any(Some(vault)));
        vault_of(self.call(method::GET_VAULT, kind, &request).await?)
    }

    /// Deletes a vault, and tells since when it is, in Unix nanoseconds. Once more tells the same. From then on it
    /// is neither read nor written, and its id is never used again. Vault 0 is deleted with its namespace.
    pub async fn delete_vault(&self, vault: VaultRef) -> Result<u64, ClientError> {
        let (namespace_id, vault_id) = wire_vault(vault)?;
        let request = v1::DeleteVaultRequest { namespace_id, vault_id };
        let answer = self.call(method::DELETE_VAULT, DELETES, &request).await?;
        let deleted_at = answer.deleted_at.as_ref().and_then(times::unix_ns);
        deleted_at.ok_or(ClientError::Malformed("deleted_at"))
    }

    /// All vaults, or those of one namespace, by namespace and id.
    pub async fn vaults(&self, namespace: Option<NamespaceId>) -> Result<Vec<Vault>, ClientError> {
        self.list_vaults(namespace, false).await
    }

    /// The same with deleted ones.
    pub async fn vaults_with_deleted(
        &self,
        namespace: Option<NamespaceId>,
    ) -> Result<Vec<Vault>, ClientError> {
        self.list_vaults(namespace, true).await
    }

    async fn list_vaults(
        &self,
        namespace: Option<NamespaceId>,
        include_deleted: bool,
    ) -> Result<Vec<Vault>, ClientError> {
        let namespace_id = match namespace {
            Some(namespace) => wire_vault(VaultRef { namespace, vault: VaultId(0) })?.0,
            None => None,
        };
        let mut all = Vec::new();
        let mut request = v1::ListVaultsRequest {
            page_size: Some(PAGE_ITEMS),
            page_token: None,
            namespace_id,
            include_deleted,
        };
        loop {
            let page = self.call(method::LIST_VAULTS, ASKS_DIRECTORY, &request).await?;
            for wire in page.vaults {
                all.push(vault_of(wire)?);
            }
            request.page_token = page.next_page_token.filter(|token| !token.is_empty());
            if request.page_token.is_none() {
                return Ok(all);
            }
        }
    }
}

fn namespace_id(wire: Option<v1::NamespaceId>) -> Result<NamespaceId, ClientError> {
    ids::namespace(wire).map_err(|_| ClientError::Malformed("namespace_id"))
}

fn names(nodes: Vec<v1::NodeId>) -> Vec<String> {
    nodes.into_iter().map(|node| node.id).collect()
}

fn namespace(wire: v1::GetNamespaceResponse) -> Result<Namespace, ClientError> {
    let status = wire.status();
    Ok(Namespace {
        id: namespace_id(wire.namespace_id)?,
        name: wire.name,
        shard: GroupId(u64::from(wire.shard_id.map_or(0, |shard| shard.id))),
        nodes: names(wire.member_nodes),
        status,
    })
}

fn vault_of(wire: v1::GetVaultResponse) -> Result<Vault, ClientError> {
    let status = wire.status();
    let vault = ids::named_vault_ref(wire.namespace_id, wire.vault_id);
    // A vault that is registered but not made yet has no state.
    let state_root = match &wire.state_root {
        None => Digest::ZERO,
        some => digest("state_root", some.as_ref())?,
    };
    Ok(Vault {
        vault: vault.map_err(|_| ClientError::Malformed("vault_id"))?,
        height: wire.height,
        state_root,
        nodes: names(wire.nodes),
        leader: wire.leader.map_or_else(String::new, |leader| leader.id),
        status,
    })
}
