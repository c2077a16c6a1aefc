//! Which node leads the group of a vault, as answers have told. A cache of hints: a wrong one costs a
//! detour, never a wrong answer.

use std::collections::HashMap;
use std::sync::Arc;

use ledger_types::{GroupId, VaultRef};
use parking_lot::Mutex;

/// Vaults remembered; beyond it the cache starts anew.
const VAULTS_MAX: usize = 65_536;
/// Groups remembered; beyond it the cache starts anew.
const GROUPS_MAX: usize = 16_384;

/// What a call is about, which decides whom to ask first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// The leader of the vault's group.
    Leader(VaultRef),
    /// The leader of the directory's group.
    Directory,
    /// Any node; what the answer tells about the vault's leader is still learnt.
    Any(Option<VaultRef>),
}

impl Route {
    /// The vault that the call is about, if it is about one.
    pub(crate) fn vault(self) -> Option<VaultRef> {
        match self {
            Route::Leader(vault) | Route::Any(Some(vault)) => Some(vault),
            Route::Directory | Route::Any(None) => None,
        }
    }
}

impl Known {
    fn set_leader(&mut self, group: GroupId, leader: &str) {
        if self.groups.get(&group).is_some_and(|current| **current == *leader) {
            return;
        }
        if self.groups.len() >= GROUPS_MAX {
            self.groups.clear();
        }
        self.groups.insert(group, leader.into());
    }
}

/// The hints learnt so far.
#[derive(Debug, Default)]
pub(crate) struct Leaders {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    groups: HashMap<GroupId, Arc<str>>,
    vaults: HashMap<VaultRef, GroupId>,
}

impl Leaders {
    /// The address to ask first, if there is one.
    pub(crate) fn lookup(&self, route: Route) -> Option<Arc<str>> {
        let known = self.known.lock();
        let group = match route {
            Route::Leader(vault) => *known.vaults.get(&vault)?,
            Route::Directory => GroupId::SYSTEM,
            Route::Any(_) => return None,
        };
        known.groups.get(&group).cloned()
    }

    /// Notes the group that answered for `route`, and its leader.
    pub(crate) fn learn(&self, route: Route, group: Option<GroupId>, leader: Option<&str>) {
        let vault = route.vault();
        let mut known = self.known.lock();
        let group = group.or(match (route, vault) {
            (Route::Directory, _) => Some(GroupId::SYSTEM),
            (_, Some(vault)) => known.vaults.get(&vault).copied(),
            _ => None,
        });
        let Some(group) = group else { return };
        if let Some(vault) = vault
            && known.vaults.get(&vault) != Some(&group)
        {
            if known.vaults.len() >= VAULTS_MAX {
                known.vaults.clear();
            }
            known.vaults.insert(vault, group);
        }
        if let Some(leader) = leader {
            known.set_leader(group, leader);
        }
    }

    /// Notes the leader of a group.
    pub(crate) fn learn_group(&self, group: GroupId, leader: &str) {
        self.known.lock().set_leader(group, leader);
    }

    /// Forgets that `address` leads what `route` needs, if that is what is believed.
    pub(crate) fn forget(&self, route: Route, address: &str) {
        let mut known = self.known.lock();
        let group = match route {
            Route::Leader(vault) | Route::Any(Some(vault)) => known.vaults.get(&vault).copied(),
            Route::Directory => Some(GroupId::SYSTEM),
            Route::Any(None) => None,
        };
        if let Some(group) = group
            && known.groups.get(&group).is_some_and(|leader| **leader == *address)
        {
            known.groups.remove(&group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_teaches_every_vault_of_the_group() {
        let leaders = Leaders::default();
        let (first, second) = (VaultRef::new(1, 1), VaultRef::new(1, 2));
        leaders.learn(Route::Leader(first), Some(GroupId(4)), Some("a:1"));
        leaders.learn(Route::Any(Some(second)), Some(GroupId(4)), None);
        assert_eq!(leaders.lookup(Route::Leader(second)).as_deref(), Some("a:1"));
        leaders.learn(Route::Leader(second), None, Some("b:1"));
        assert_eq!(leaders.lookup(Route::Leader(first)).as_deref(), Some("b:1"));
        assert_eq!(leaders.lookup(Route::Any(Some(first))), None);
        leaders.forget(Route::Leader(first), "a:1");
        assert_eq!(leaders.lookup(Route::Leader(first)).as_deref(), Some("b:1"));
        leaders.forget(Route::Leader(first), "b:1");
        assert_eq!(leaders.lookup(Route::Leader(second)), None);
    }

    #[test]
    fn the_directory_is_group_zero() {
        let leaders = Leaders::default();
        leaders.learn(Route::Directory, None, Some("c:1"));
        assert_eq!(leaders.lookup(Route::Directory).as_deref(), Some("c:1"));
        leaders.learn(Route::Leader(VaultRef::SYSTEM), Some(GroupId::SYSTEM), None);
        assert_eq!(leaders.lookup(Route::Leader(VaultRef::SYSTEM)).as_deref(), Some("c:1"));
    }
}
