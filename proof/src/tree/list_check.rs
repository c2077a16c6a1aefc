//! Checking a list from its first page to its last.
//!
//! Owns what ties pages together: one root, one prefix, one time, and the last leaf of the page
//! before. Must never return anything of a proof that did not hold, nor drop an expired item before
//! it did.

use ledger_types::Digest;

use super::list_proof::{ListError, ListItem, ListProof, checked_bits, verify_empty};

/// A list under way. Everything in it is the caller's own: nothing is taken from a proof that did
/// not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListCheck {
    state_root: Digest,
    prefix: Vec<u8>,
    expiry_time: u64,
    /// The last leaf so far, expired or not: the next page begins with it.
    kept: Option<ListItem>,
    is_complete: bool,
}

impl ListCheck {
    /// Begins a list of what begins with `prefix` under an authenticated state root. Items that
    /// expired at or before `expiry_time` (Unix seconds) are left out, on every page by the same
    /// time.
    pub fn new(
        state_root: Digest,
        prefix: &[u8],
        expiry_time: u64,
    ) -> Result<ListCheck, ListError> {
        checked_bits(prefix)?;
        let prefix = prefix.to_vec();
        Ok(ListCheck { state_root, prefix, expiry_time, kept: None, is_complete: false })
    }

    /// Checks the answer to the next request and returns its new items. After an error the list is
    /// where it was, and another answer may be tried.
    pub fn accept(&mut self, proof: &ListProof) -> Result<Vec<ListItem>, ListError> {
        let mut items = self.accept_leaves(proof)?;
        items.retain(|item| !item.record.is_expired(self.expiry_time));
        Ok(items)
    }

    /// The same with the new items that have expired as well.
    pub(crate) fn accept_leaves(&mut self, proof: &ListProof) -> Result<Vec<ListItem>, ListError> {
        if self.is_complete {
            return Err(ListError::AfterTheLast);
        }
        let (items, is_last) = match &self.kept {
            None => self.first(proof)?,
            Some(kept) => self.later(kept, proof)?,
        };
        if let Some(last) = items.last() {
            self.kept = Some(last.clone());
        }
        self.is_complete = is_last;
        Ok(items)
    }

    /// Whether the last page was checked.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The key that the next page is asked to begin with; `None` before the first page.
    pub fn kept_key(&self) -> Option<&[u8]> {
        self.kept.as_ref().map(|kept| &kept.key[..])
    }

    fn first(&self, proof: &ListProof) -> Result<(Vec<ListItem>, bool), ListError> {
        match proof {
            ListProof::Empty(proof) => {
                verify_empty(proof, &self.state_root, &self.prefix)?;
                Ok((Vec::new(), true))
            }
            ListProof::Whole(proof) => Ok((proof.verify(&self.state_root, &self.prefix)?, true)),
            ListProof::Page(proof) => {
                let page = proof.verify(&self.state_root, &self.prefix)?;
                if !page.is_first {
                    return Err(ListError::NotTheFirst);
                }
                Ok((page.items, page.is_last))
            }
        }
    }

    fn later(
        &self,
        kept: &ListItem,
        proof: &ListProof,
    ) -> Result<(Vec<ListItem>, bool), ListError> {
        let ListProof::Page(proof) = proof else { return Err(ListError::NotAPage) };
        let page = proof.verify(&self.state_root, &self.prefix)?;
        let mut items = page.items;
        if items.first() != Some(kept) {
            return Err(ListError::NotTheNext);
        }
        if items.len() == 1 && !page.is_last {
            return Err(ListError::NothingAdded);
        }
        items.remove(0);
        Ok((items, page.is_last))
    }
}

/// Checks a whole list, page by page, and returns its items that are not expired at `expiry_time`
/// (Unix seconds), in key order.
pub fn verify_list(
    state_root: &Digest,
    prefix: &[u8],
    expiry_time: u64,
    pages: &[ListProof],
) -> Result<Vec<ListItem>, ListError> {
    let mut check = ListCheck::new(*state_root, prefix, expiry_time)?;
    let mut items = Vec::new();
    for page in pages {
        items.append(&mut check.accept(page)?);
    }
    if check.is_complete() { Ok(items) } else { Err(ListError::Unfinished) }
}
