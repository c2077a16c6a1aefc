//! The directory's vaults: all of them, or those that this node was asked for lately.
//!
//! Owns the choice between the two and the rule that older knowledge never replaces newer. Must never
//! answer that a vault does not exist when it only is not cached.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Bound;

use ledger_proof::system_entity::VaultEntity;
use ledger_types::{NamespaceId, OwnerEpoch, VaultRef};
use lru::LruCache;

/// Which vaults a directory holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VaultScope {
    /// All: what voters of `_system` hold, who see every change anyway.
    All,
    /// The given number of vaults asked for last; others are looked up when they are needed.
    Cached(NonZeroUsize),
}

/// What a directory knows about a vault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VaultLookup {
    /// The vault's entity, as of this directory's revision or of an earlier lookup.
    Known(VaultEntity),
    /// There is no such vault at this directory's revision.
    Absent,
    /// Not known here: a voter of `_system` must be asked.
    NotCached,
}

#[derive(Debug)]
pub(crate) enum VaultTable {
    All(BTreeMap<VaultRef, VaultEntity>),
    Cached(LruCache<VaultRef, CachedVault>),
}

#[derive(Debug)]
pub(crate) struct CachedVault {
    entity: VaultEntity,
    /// The revision that the entity was read at or changed by.
    revision: u64,
}

impl VaultTable {
    pub(crate) fn new(scope: VaultScope) -> VaultTable {
        match scope {
            VaultScope::All => VaultTable::All(BTreeMap::new()),
            VaultScope::Cached(capacity) => VaultTable::Cached(LruCache::new(capacity)),
        }
    }

    pub(crate) fn clear(&mut self) {
        match self {
            VaultTable::All(vaults) => vaults.clear(),
            VaultTable::Cached(vaults) => vaults.clear(),
        }
    }

    /// Takes in a change that `revision` made.
    pub(crate) fn change(&mut self, revision: u64, vault: VaultRef, entity: Option<VaultEntity>) {
        match (self, entity) {
            (VaultTable::All(vaults), Some(entity)) => {
                vaults.insert(vault, entity);
            }
            (VaultTable::All(vaults), None) => {
                vaults.remove(&vault);
            }
            (VaultTable::Cached(vaults), entity) => {
                let known = vaults.peek(&vault);
                if known.is_none_or(|known| known.revision > revision) {
                    return;
                }
                match entity {
                    Some(entity) => vaults.put(vault, CachedVault { entity, revision }),
                    None => vaults.pop(&vault),
                };
            }
        }
    }

    /// Takes in an entity that was looked up elsewhere at `revision`. A full table needs none.
    pub(crate) fn learn(&mut self, revision: u64, entity: VaultEntity) {
        if let VaultTable::Cached(vaults) = self {
            let known = vaults.peek(&entity.vault);
            if known.is_none_or(|known| known.revision <= revision) {
                vaults.put(entity.vault, CachedVault { entity, revision });
            }
        }
    }

    /// Drops a cached vault that was found to be owned otherwise, unless a later owner is known already.
    pub(crate) fn forget(&mut self, vault: VaultRef, owner_epoch: OwnerEpoch) {
        if let VaultTable::Cached(vaults) = self
            && vaults.peek(&vault).is_some_and(|known| known.entity.owner_epoch <= owner_epoch)
        {
            vaults.pop(&vault);
        }
    }

    pub(crate) fn get(&mut self, vault: VaultRef) -> VaultLookup {
        match self {
            VaultTable::All(vaults) => match vaults.get(&vault) {
                Some(entity) => VaultLookup::Known(entity.clone()),
                None => VaultLookup::Absent,
            },
            VaultTable::Cached(vaults) => match vaults.get(&vault) {
                Some(known) => VaultLookup::Known(known.entity.clone()),
                None => VaultLookup::NotCached,
            },
        }
    }

    /// Up to `limit` vaults after `after` in order, of one namespace or of all; `None` unless all are held.
    pub(crate) fn page(
        &self,
        after: Option<VaultRef>,
        namespace: Option<NamespaceId>,
        limit: usize,
    ) -> Option<Vec<VaultEntity>> {
        let VaultTable::All(vaults) = self else { return None };
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let first = namespace.map(|namespace| VaultRef::new(namespace.0, 0));
        let from = match (first, after) {
            (Some(first), Bound::Excluded(after)) if after >= first => Bound::Excluded(after),
            (Some(first), _) => Bound::Included(first),
            (None, after) => after,
        };
        let page = vaults.range((from, Bound::Unbounded)).map(|(_, entity)| entity);
        let of_namespace = |entity: &&VaultEntity| {
            namespace.is_none_or(|namespace| entity.vault.namespace == namespace)
        };
        Some(page.take_while(of_namespace).take(limit).cloned().collect())
    }
}
