//! State trees of earlier heights: opened at the nearest anchor and brought to the height.
//!
//! Owns which way is taken to a height and how much it may cost. Must never keep a view, nor answer below a
//! vault's floor.

use std::collections::BTreeSet;

use ledger_proof::{ReadFault, StateTree, TreeAnchor};
use ledger_types::{StateKey, VaultRef};

use super::state_proof::{ListRequest, LogSizes, ProvedList, StateAt, StateProof};
use super::{QueryError, read_height, vault_row};
use crate::apply::anchors::Anchors;
use crate::apply::changed_keys::add_changed_keys;
use crate::apply::vault_state::{stored_body, stored_header};
use crate::view::StateView;

/// Keys that a tree on its way takes in at once.
const RECONCILE_KEYS: usize = 1024;

/// The state tree of a vault as it was after one block.
///
/// It keeps no view: each call brings one, of the same store at any time. That is right because the rows that
/// show a height never change once its block is written. Later blocks move a record from `latest` to `history`
/// and leave both to say the same of this height, a page is written once under its height, and a row goes only
/// when the floor has passed every height that needs it, which each call looks at. A view that shows other pages
/// (pruned, older, or installed with a snapshot) is noticed by their hashes: then the tree is opened anew.
pub struct PastTree {
    vault: VaultRef,
    height: u64,
    keys_max: usize,
    /// `None` after a fault, until it is opened again.
    tree: Option<StateTree>,
}

impl PastTree {
    /// Opens the tree of a height, which may be the tip. Errors if the vault is unknown, the height is not
    /// available, or more than `keys_max` keys changed between it and the nearest anchor (a block counts as at
    /// least one).
    pub fn open(
        view: &dyn StateView,
        vault: VaultRef,
        height: u64,
        keys_max: usize,
    ) -> Result<PastTree, QueryError> {
        let mut past = PastTree { vault, height, keys_max, tree: None };
        past.on_tree(view, |_, _| Ok(()))?;
        Ok(past)
    }

    /// The vault.
    pub fn vault(&self) -> VaultRef {
        self.vault
    }

    /// The height.
    pub fn height(&self) -> u64 {
        self.height
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> usize {
        self.tree.as_ref().map_or(0, StateTree::memory_bytes)
    }

    /// Gives memory back until about `target_bytes` remain; what was changed on the way stays.
    pub(super) fn evict(&mut self, target_bytes: usize) {
        if let Some(tree) = &mut self.tree {
            tree.evict(target_bytes);
        }
    }

    /// Proves what the state held for `keys`. Errors as [`PastTree::open`] does, and if a size is not one that
    /// the block log had since this block.
    pub fn prove(
        &mut self,
        view: &dyn StateView,
        keys: &[StateKey],
        sizes: LogSizes,
    ) -> Result<StateProof, QueryError> {
        self.on_tree(view, |state, tree| {
            let proof = state.in_log(sizes)?;
            Ok(StateProof { keys: state.prove_keys(tree, keys)?, ..proof })
        })
    }

    /// Proves a list, or a page of it, with its values. `None` if the key that the caller kept was not there.
    /// Errors as [`PastTree::prove`] does.
    pub fn prove_list(
        &mut self,
        view: &dyn StateView,
        request: &ListRequest<'_>,
        sizes: LogSizes,
    ) -> Result<Option<ProvedList>, QueryError> {
        self.on_tree(view, |state, tree| {
            let proof = state.in_log(sizes)?;
            let proved = state.prove_list(tree, request)?;
            Ok(proved.map(|(list, values)| ProvedList { state: proof, list, values }))
        })
    }

    /// Runs `work` on the tree. A fault of a tree that was opened from another view may be that view's, so it
    /// counts only if a tree opened from this one has it too.
    fn on_tree<T>(
        &mut self,
        view: &dyn StateView,
        work: impl Fn(&StateAt<'_>, &mut StateTree) -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        let PastTree { vault, height, keys_max, .. } = *self;
        let row = vault_row(view, vault)?;
        read_height(&row, Some(height))?;
        let state = StateAt { view, vault, row: &row, height };
        if let Some(mut tree) = self.tree.take() {
            let header = stored_header(view, vault, height)?;
            let done = match tree.root() == header.state_root {
                true => work(&state, &mut tree),
                false => Err(ReadFault::Corrupt { what: "the tree is of another history" }.into()),
            };
            if !matches!(done, Err(QueryError::Fault(_))) {
                self.tree = Some(tree);
                return done;
            }
        }
        let mut tree = open_tree(&state, keys_max)?;
        let done = work(&state, &mut tree);
        if !matches!(done, Err(QueryError::Fault(_))) {
            self.tree = Some(tree);
        }
        done
    }
}

/// Opens the tree of a state and compares it with the header.
fn open_tree(state: &StateAt<'_>, keys_max: usize) -> Result<StateTree, QueryError> {
    let StateAt { view, vault, height, .. } = *state;
    let (anchor, keys) = nearest_anchor(state, keys_max)?;
    let mut tree = StateTree::open(&anchor);
    let keys = Vec::from_iter(keys);
    for some in keys.chunks(RECONCILE_KEYS) {
        tree.reconcile(some, state)?;
    }
    let header = stored_header(view, vault, height)?;
    if (tree.root(), tree.leaf_count()) != (header.state_root, header.state_keys) {
        let what = "the state tree of a height has another root than its header";
        return Err(ReadFault::Corrupt { what }.into());
    }
    Ok(tree)
}

/// One of the two ways to a height.
struct Way {
    anchor: TreeAnchor,
    /// Blocks between, of which the bodies are still to be read.
    from: u64,
    to: u64,
    keys: BTreeSet<StateKey>,
    /// Keys that the blocks changed; a block counts as at least one.
    cost: usize,
}

impl Way {
    fn new(anchor: TreeAnchor, height: u64) -> Way {
        let from = anchor.height.min(height) + 1;
        let to = anchor.height.max(height);
        // The empty tree lacks what the vault was born with.
        let keys = (anchor.leaf_count == 0).then(StateKey::descriptor).into_iter().collect();
        Way { anchor, from, to, keys, cost: 0 }
    }

    /// Reads the next body.
    fn advance(&mut self, state: &StateAt<'_>) -> Result<(), ReadFault> {
        let before = self.keys.len();
        add_changed_keys(&stored_body(state.view, state.vault, self.from)?, &mut self.keys)?;
        self.cost += (self.keys.len() - before).max(1);
        self.from += 1;
        Ok(())
    }
}

/// The anchor from which the fewest keys lead to a state's height, and these keys. Both ways are gone side by
/// side, the cheaper one first, so that not much more is read than the cheaper one takes.
fn nearest_anchor(
    state: &StateAt<'_>,
    keys_max: usize,
) -> Result<(TreeAnchor, BTreeSet<StateKey>), QueryError> {
    let StateAt { view, vault, row, height } = *state;
    let anchors = Anchors { view, vault, row };
    let below = Way::new(anchors.at_or_below(height)?, height);
    let above = anchors.at_or_above(height)?.map(|anchor| Way::new(anchor, height));
    let mut ways: Vec<Way> = [Some(below), above].into_iter().flatten().collect();
    loop {
        let cheapest = (0..ways.len()).min_by_key(|index| ways[*index].cost);
        let Some(index) = cheapest else {
            return Err(QueryError::TooManyChanges { height, keys_max });
        };
        let way = &mut ways[index];
        if way.from > way.to {
            let Way { anchor, keys, .. } = ways.swap_remove(index);
            return Ok((anchor, keys));
        }
        way.advance(state)?;
        if way.cost > keys_max {
            ways.swap_remove(index);
        }
    }
}
