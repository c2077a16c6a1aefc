//! Making list proofs: leaves come from the state rows, what is on both sides of them from the tree.
//!
//! Only the pages on the way to the first and to the last leaf are loaded. That the rows in between
//! are what the tree commits to is found out by checking the proof before it is given away.

use ledger_types::Digest;
use ledger_types::limits::PAGE_ITEMS_MAX;

use super::list_proof::{
    LEAF_BYTES_MIN, ListLeaf, ListProof, PageProof, PrefixProof, checked_bits,
};
use super::{RowsAt, StateTree, TreeStore};
use crate::read_fault::ReadFault;
use crate::record::RECORD_LEN;

/// How much of a list one proof may hold. A page has at least one new leaf, whatever the limits say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListLimits {
    /// Most new leaves; more than `PAGE_ITEMS_MAX` counts as that many.
    pub items: usize,
    /// Most bytes of encoded new leaves. The leaf that the caller kept and the hashes on both sides
    /// come on top: a few kilobytes, unless keys were chosen to make the tree deep.
    pub leaf_bytes: usize,
}

/// Neighbouring rows that begin with a prefix.
struct Run {
    leaves: Vec<ListLeaf>,
    /// The list goes on after them.
    has_more: bool,
}

impl StateTree {
    /// Proves what begins with `prefix`: all of it if it fits the limits, else a first page; with
    /// `kept`, the page that begins with this key, which a page before ended with. `None` if there
    /// is no such key. The rows must show the tree's state. An empty tree proves nothing and is a
    /// fault: every vault has its descriptor.
    pub fn prove_list(
        &mut self,
        prefix: &[u8],
        kept: Option<&[u8]>,
        limits: ListLimits,
        store: &dyn TreeStore,
    ) -> Result<Option<ListProof>, ReadFault> {
        let prefix_bits = checked_bits(prefix).expect("prefixes are checked");
        if kept.is_some_and(|kept| !kept.starts_with(prefix)) {
            return Ok(None);
        }
        let Run { leaves, has_more } = read_run(prefix, kept, limits, store)?;
        let Some(first) = leaves.first() else {
            return if kept.is_some() { Ok(None) } else { self.prove_empty(prefix, store) };
        };
        if kept.is_some_and(|kept| kept != first.key) {
            return Ok(None);
        }
        self.rehash();
        self.generation += 1;
        let state_root = self.root_hash;
        self.descend_to(&first.key, store)?;
        if kept.is_none() && !has_more {
            let mut path = self.steps(None);
            path.retain(|(bit, _)| *bit < prefix_bits);
            let proof = PrefixProof { path, leaves };
            proof.verify(&state_root, prefix).map_err(|_| CONTRADICTION)?;
            return Ok(Some(ListProof::Whole(proof)));
        }
        let left = self.steps(Some(1));
        self.descend_to(&leaves[leaves.len() - 1].key, store)?;
        let right = self.steps(Some(0));
        let proof = PageProof { left, right, leaves };
        let page = proof.verify(&state_root, prefix).map_err(|_| CONTRADICTION)?;
        if page.is_last == has_more || (kept.is_none() && !page.is_first) {
            return Err(CONTRADICTION);
        }
        Ok(Some(ListProof::Page(proof)))
    }

    fn prove_empty(
        &mut self,
        prefix: &[u8],
        store: &dyn TreeStore,
    ) -> Result<Option<ListProof>, ReadFault> {
        let proof = self.prove(prefix, store)?;
        if proof.leaf_key.starts_with(prefix) {
            return Err(CONTRADICTION);
        }
        Ok(Some(ListProof::Empty(proof)))
    }

    /// Follows a key whose row is there to its leaf.
    fn descend_to(&mut self, key: &[u8], store: &dyn TreeStore) -> Result<(), ReadFault> {
        match self.descend(key, store, RowsAt::TreeState)? {
            Some(leaf) if *self.leaves[leaf] == *key => Ok(()),
            _ => Err(CONTRADICTION),
        }
    }

    /// The branches of the current path, with the sides not taken; all, or those where this side is
    /// taken.
    fn steps(&self, side: Option<usize>) -> Vec<(u16, Digest)> {
        let steps = self.path.iter().filter(|step| side.is_none_or(|side| step.side == side));
        let steps = steps.map(|step| {
            let bit = self.branches[step.branch].bit;
            (bit, self.branches.hashes(step.branch)[1 - step.side])
        });
        steps.collect()
    }
}

/// Rows that are not the leaves of the tree.
const CONTRADICTION: ReadFault =
    ReadFault::Corrupt { what: "the state rows of a list contradict the tree" };

/// Reads the rows from `kept` on, which counts against no limit, or from the first on.
fn read_run(
    prefix: &[u8],
    kept: Option<&[u8]>,
    limits: ListLimits,
    store: &dyn TreeStore,
) -> Result<Run, ReadFault> {
    let items_max = limits.items.clamp(1, PAGE_ITEMS_MAX);
    let kept_leaves = usize::from(kept.is_some());
    let mut run = Run { leaves: Vec::new(), has_more: false };
    let mut bytes = 0;
    let mut fault = None;
    store.scan(kept.unwrap_or(prefix), &mut |key, record| {
        if !key.starts_with(prefix) {
            return false;
        }
        let Ok(record) = <[u8; RECORD_LEN]>::try_from(record) else {
            fault = Some(ReadFault::corrupt("a state row's record has another length"));
            return false;
        };
        let leaf = ListLeaf { key: key.to_vec(), record };
        if run.leaves.len() < kept_leaves {
            run.leaves.push(leaf);
            return true;
        }
        let items = run.leaves.len() - kept_leaves;
        bytes += LEAF_BYTES_MIN + leaf.key.len();
        run.has_more = items == items_max || (items > 0 && bytes > limits.leaf_bytes);
        if !run.has_more {
            run.leaves.push(leaf);
        }
        !run.has_more
    })?;
    fault.map_or(Ok(run), Err)
}
