//! Proofs as clients get them: headers, key and list proofs, verified reads, receipts, and the pages that proofs are
//! made of.

use std::cell::Cell;

use ledger_proof::{
    BlockHeader, KeyProof, ListCheck, ListPage, ListProof, ListQuestion, Origin, ReadAt, ReadFault,
    ReadRequest, Receipt, ReceiptRequest, StateTree, TimeRule, Transaction, TransactionChoice,
    TreeAnchor, TreeStore, Trust, VerifiedList, VerifiedRead,
};
use ledger_types::{Digest, StateKey, TxId, VaultRef};

use crate::{Verdict, canonical, trust};

/// A header of a block.
pub(crate) fn block_header(input: &[u8]) -> Verdict {
    canonical(input, BlockHeader::decode, |header| header.encode().to_vec())
}

/// A proof that a key has a record, or none. It is also checked, against a root that it cannot have.
pub(crate) fn key_proof(input: &[u8]) -> Verdict {
    let verdict = canonical(input, KeyProof::decode, KeyProof::encode);
    if let Ok(proof) = KeyProof::decode(input) {
        for key in [proof.leaf_key.as_slice(), &[0], &[1, b'k'], &[]] {
            let checked = proof.verify(&Digest([7; 32]), key);
            assert!(checked.is_err(), "no bytes hash to a root that was made up");
        }
    }
    verdict
}

/// A proof of a list or a page of it, preceded by the root and the prefix (its length in one byte) that it is about. It
/// is also checked, and as itself under a root that it cannot have.
pub(crate) fn list_proof(input: &[u8]) -> Verdict {
    let Some((root, rest)) = input.split_first_chunk() else { return Verdict::Refused };
    let Some((&len, rest)) = rest.split_first() else { return Verdict::Refused };
    let Some((prefix, bytes)) = rest.split_at_checked(usize::from(len)) else {
        return Verdict::Refused;
    };
    let verdict = canonical(bytes, ListProof::decode, ListProof::encode);
    let Ok(proof) = ListProof::decode(bytes) else { return verdict };
    let Ok(mut check) = ListCheck::new(Digest(*root), prefix, 0) else {
        assert!(prefix.is_empty(), "short prefixes are legal");
        return verdict;
    };
    if let Ok(items) = check.accept(&proof) {
        assert!(items.is_sorted_by(|left, right| left.key < right.key), "items ascend");
        assert!(items.iter().all(|item| item.key.starts_with(prefix)), "items are of the list");
        assert_eq!(check.kept_key(), items.last().map(|item| &item.key[..]), "the last is kept");
        assert!(check.accept(&proof).is_err(), "no answer is its own next page");
    }
    let mut elsewhere = ListCheck::new(Digest([7; 32]), prefix, 0).expect("a legal prefix");
    assert!(elsewhere.accept(&proof).is_err(), "no bytes hash to a root that was made up");
    verdict
}

/// The log that samples are about.
fn origin() -> Origin {
    Origin { domain: "test.ledger".to_owned(), vault: VaultRef::new(7, 9), log_epoch: 0 }
}

/// An answer to a read. It is also checked as an answer to a read of the keys that it is about.
pub(crate) fn verified_read(input: &[u8]) -> Verdict {
    let verdict = canonical(input, VerifiedRead::decode, VerifiedRead::encode);
    if let Ok(read) = VerifiedRead::decode(input) {
        let fallback = || StateKey::entity("k");
        let key_of = |key: &[u8]| StateKey::from_bytes(key).unwrap_or_else(fallback);
        let keys: Vec<StateKey> =
            read.items.iter().map(|item| key_of(&item.proof.leaf_key)).collect();
        let (origin, bundle) = (origin(), trust::sample_bundle());
        let voters = [bundle.system_voters()];
        let trust = Trust { bundle: &bundle, voters: &voters, times: TimeRule::Any, memory: None };
        for at in [ReadAt::Latest { min_height: 0 }, ReadAt::Height(read.block.header.height)] {
            let request = ReadRequest { origin: &origin, at, keys: &keys };
            if let Ok(answer) = read.verify(&request, &trust, None) {
                assert_eq!(answer.values.len(), keys.len(), "one value for each key");
                assert_eq!(answer.block.header, read.block.header, "the header that was sent");
            }
        }
    }
    verdict
}

/// The first answer to a list, or a later page of one. A first answer is also checked under prefixes of its own
/// leaves.
pub(crate) fn verified_list(input: &[u8]) -> Verdict {
    if let Ok(page) = ListPage::decode(input) {
        assert_eq!(page.encode(), input, "one list page has one encoding");
        return Verdict::Accepted;
    }
    let verdict = canonical(input, VerifiedList::decode, VerifiedList::encode);
    if let Ok(list) = VerifiedList::decode(input) {
        let (origin, bundle) = (origin(), trust::sample_bundle());
        let voters = [bundle.system_voters()];
        let trust = Trust { bundle: &bundle, voters: &voters, times: TimeRule::Any, memory: None };
        let first = match &list.page.proof {
            ListProof::Empty(proof) => &proof.leaf_key[..],
            ListProof::Whole(proof) => proof.leaves.first().map_or(&[][..], |leaf| &leaf.key[..]),
            ListProof::Page(proof) => proof.leaves.first().map_or(&[][..], |leaf| &leaf.key[..]),
        };
        for len in [1, first.len() / 2, first.len()] {
            let prefix = &first[..len.min(first.len())];
            let at = ReadAt::Height(list.block.header.height);
            let question = ListQuestion { origin: &origin, at, prefix };
            if let Ok((progress, items)) = list.verify(&question, &trust, None) {
                assert!(items.len() <= list.page.values.len(), "no item without its value");
                assert_eq!(progress.block().header, list.block.header, "the header that was sent");
            }
        }
    }
    verdict
}

/// A receipt of a write. It is also checked, for the transaction that it is about.
pub(crate) fn receipt(input: &[u8]) -> Verdict {
    let verdict = canonical(input, Receipt::decode, Receipt::encode);
    if let Ok(receipt) = Receipt::decode(input) {
        let transaction = Transaction::decode(&receipt.transaction);
        let tx_id = transaction.as_ref().map_or(TxId([0; 16]), |transaction| transaction.tx_id);
        let (origin, bundle) = (origin(), trust::sample_bundle());
        let voters = [bundle.system_voters()];
        let trust = Trust { bundle: &bundle, voters: &voters, times: TimeRule::Any, memory: None };
        let height = receipt.block.header.height;
        let request =
            ReceiptRequest { origin: &origin, height, transaction: TransactionChoice::Id(tx_id) };
        if let Ok(verified) = receipt.verify(&request, &trust, None) {
            assert_eq!(Ok(verified.transaction), transaction, "the transaction that was sent");
        }
    }
    verdict
}

/// Rows of a state tree that has the input for every page and no leaves.
struct OnePage<'a> {
    page: &'a [u8],
    pages_read: Cell<u32>,
}

impl TreeStore for OnePage<'_> {
    fn page(&self, _: u64, _: u64) -> Result<Option<Vec<u8>>, ReadFault> {
        self.pages_read.set(self.pages_read.get() + 1);
        Ok(Some(self.page.to_vec()))
    }

    fn scan(&self, _: &[u8], _: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), ReadFault> {
        Ok(())
    }
}

/// A page of a state tree, preceded by the anchor that leads to it (its length in one byte). The tree has to notice
/// whatever is wrong, be it that a page contains itself.
pub(crate) fn tree_page(input: &[u8]) -> Verdict {
    let Some((&len, rest)) = input.split_first() else { return Verdict::Refused };
    let Some((anchor, page)) = rest.split_at_checked(usize::from(len)) else {
        return Verdict::Refused;
    };
    let verdict = canonical(anchor, TreeAnchor::decode, TreeAnchor::encode);
    let Ok(anchor) = TreeAnchor::decode(anchor) else { return verdict };
    let store = OnePage { page, pages_read: Cell::new(0) };
    let mut found = Verdict::Refused;
    for key in [&[0][..], &[1, b'k'], &[2, 0xFF, 0xFF]] {
        let mut tree = StateTree::open(&anchor);
        // Without leaves no proof is complete, but a walk that gets through all pages is reported as a fault of rows.
        let proved = tree.prove(key, &store);
        assert!(proved.is_err(), "there are no leaves");
        if store.pages_read.get() > 0 {
            found = Verdict::Accepted;
        }
    }
    found
}
