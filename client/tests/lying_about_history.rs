//! Servers that lie about receipts, checkpoints, lists and earlier heights. The client refuses every lie, says
//! what is wrong, remembers nothing of it, and believes the truth afterwards.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use ledger_client::{
    CheckedProof, CheckedReceipt, Client, ClientError, HistoryEnd, ListOf, SavedProof, TrustSource,
    VerificationError, VerifiedOptions, write_bundle,
};
use ledger_proof::{
    KnownCheckpoint, ListPage, ListProof, Receipt, TimeRule, TransactionChoice, VerifiedItem,
    VerifiedList, VerifiedRead, VerifiedValue,
};
use ledger_proto::v1;
use ledger_types::{Digest, StateKey, VaultRef};
use support::chain::{Cluster, Log, bundle, now, remembered};
use support::{Node, VAULT, config, refusal, start};
use tempfile::TempDir;
use tonic::Code;

/// Every how many bytes of a proof one is changed: not a divisor of what repeats in it.
const STRIDE: usize = 29;

/// A reader with a memory and the server that it asks.
struct Scene {
    node: Arc<Node>,
    cluster: Arc<Cluster>,
    state: TempDir,
    reader: Client,
}

fn entity(key: &str, value: &[u8]) -> (StateKey, Vec<u8>) {
    (StateKey::entity(key), value.to_vec())
}

impl Scene {
    /// Block 1 sets `config`, block 2 three entities, block 3 changes `config` and `b`.
    async fn new() -> Scene {
        let state = tempfile::tempdir().unwrap();
        let (node, address) = start().await;
        let cluster = Cluster::new();
        cluster.serve(&node);
        {
            let mut vault = cluster.vault.lock();
            vault.commit(&[entity("a", b"1"), entity("b", b"2"), entity("c", b"3")]);
            vault.commit(&[entity("config", b"new"), entity("b", b"22")]);
        }
        let file = state.path().join("handed-over.bundle");
        write_bundle(&file, &bundle()).unwrap();
        let mut settings = config(&[&address]);
        settings.trust = TrustSource::File(file);
        settings.state_dir = Some(state.path().to_owned());
        let reader = Client::connect(settings).await.unwrap();
        Scene { node, cluster, state, reader }
    }

    fn assert_refused<T: std::fmt::Debug>(
        &self,
        before: &BTreeMap<String, Vec<u8>>,
        outcome: Result<T, ClientError>,
        words: &str,
    ) {
        let error = outcome.expect_err(words);
        assert!(error.is_verification_refusal(), "{error}");
        assert!(error.to_string().contains(words), "`{error}` does not say `{words}`");
        assert_eq!(&self.remembered(), before, "{words}");
    }

    /// The files of what the reader remembers.
    fn remembered(&self) -> BTreeMap<String, Vec<u8>> {
        remembered(self.state.path())
    }

    fn known(&self) -> KnownCheckpoint {
        let all = self.remembered().into_values();
        let all = all.map(|bytes| KnownCheckpoint::decode(&bytes).unwrap());
        all.into_iter().find(|known| known.origin.vault == VAULT).unwrap()
    }

    async fn receipt(&self, height: u64, index: u32) -> Result<CheckedReceipt, ClientError> {
        self.reader.receipt(VAULT, height, TransactionChoice::Index(index)).await
    }

    /// From now on receipts are honest ones with this change.
    fn lie_in_receipts(&self, change: impl Fn(&mut Receipt) + Send + Sync + 'static) {
        let cluster = self.cluster.clone();
        self.node.receipts.answer(move |_, request| {
            let mut receipt = Receipt::decode(&cluster.receipt(request).package).unwrap();
            change(&mut receipt);
            Ok(v1::GetReceiptResponse { package: receipt.encode() })
        });
    }

    /// From now on the `n`-th pages of lists are honest ones with this change; a first page is a later one
    /// with a block before it.
    fn lie_in_page(&self, n: usize, change: impl Fn(&mut ListPage) + Send + Sync + 'static) {
        let cluster = self.cluster.clone();
        let asked_before = self.node.lists.count();
        self.node.lists.answer(move |number, request| {
            let mut answer = cluster.list(request);
            if number - asked_before != n {
                return Ok(answer);
            }
            if n == 0 {
                let mut list = VerifiedList::decode(&answer.package).unwrap();
                change(&mut list.page);
                answer.package = list.encode();
            } else {
                let mut page = ListPage::decode(&answer.package).unwrap();
                change(&mut page);
                answer.package = page.encode();
            }
            Ok(answer)
        });
    }

    /// All items of a list, in pages of two.
    async fn list(&self, list: ListOf) -> Result<Vec<VerifiedItem>, ClientError> {
        let mut pages =
            self.reader.verified_list(VAULT, list, 2, VerifiedOptions::default()).unwrap();
        let mut items = Vec::new();
        while let Some(mut page) = pages.next_page().await? {
            items.append(&mut page);
        }
        assert!(pages.is_complete());
        Ok(items)
    }
}

fn everything() -> ListOf {
    ListOf::Entities(String::new())
}

fn names(items: &[VerifiedItem]) -> Vec<String> {
    let name = |item: &VerifiedItem| StateKey::as_entity(&item.key).unwrap().to_owned();
    items.iter().map(name).collect()
}

#[tokio::test]
async fn a_receipt_is_of_the_transaction_asked_for_or_refused() {
    let scene = Scene::new().await;
    let wanted = scene.cluster.vault.lock().transaction(2, 1);
    let by_id = TransactionChoice::Id(wanted.tx_id);
    let receipt = scene.reader.receipt(VAULT, 2, by_id).await.unwrap();
    assert_eq!((receipt.index(), &receipt.proved.transaction), (1, &wanted));
    assert_eq!(receipt.proved.block.header.height, 2);
    assert_eq!(scene.known().size, 4);
    assert_eq!(scene.receipt(2, 1).await.unwrap().proved.transaction, wanted);
    let before = scene.remembered();

    type Lie = Box<dyn Fn(&mut Receipt) + Send + Sync>;
    let other = scene.cluster.vault.lock().receipt(2, 0, Some(4));
    let of_another_block = scene.cluster.vault.lock().receipt(3, 1, Some(4));
    let (other_block, path) = (of_another_block.block.clone(), other.path.clone());
    let mut neighbour = Log::new(VaultRef::new(7, 8));
    neighbour.commit(&[entity("a", b"1")]);
    neighbour.commit(&[entity("a", b"1"), entity("b", b"1"), entity("c", b"1")]);
    let foreign = neighbour.receipt(2, 1, None);
    let lies: Vec<(&str, Lie)> = vec![
        // One byte of the transaction, past its id: what it did, or for whom.
        ("the transaction is not in the block", Box::new(|receipt| receipt.transaction[20] ^= 1)),
        ("about another transaction", Box::new(move |receipt| *receipt = other.clone())),
        (
            "the header is of block 3, not 2",
            Box::new(move |receipt| {
                *receipt = of_another_block.clone();
            }),
        ),
        (
            "the header is of block 3, not 2",
            Box::new(move |receipt| {
                receipt.block = other_block.clone();
            }),
        ),
        ("is not in the block", Box::new(|receipt| receipt.index = 2)),
        ("is not in the block", Box::new(|receipt| receipt.index = 5)),
        ("is not in the block", Box::new(move |receipt| receipt.path.clone_from(&path))),
        ("is not in the block", Box::new(|receipt| receipt.path.push(Digest::ZERO))),
        ("the header is not in the log", Box::new(|receipt| receipt.block.header.tx_count = 4)),
        (
            "the header is not in the log",
            Box::new(|receipt| receipt.block.header.tx_root.0[3] ^= 1),
        ),
        ("the note is about", Box::new(move |receipt| *receipt = foreign.clone())),
    ];
    for (words, lie) in lies {
        scene.lie_in_receipts(lie);
        let refused = scene.reader.receipt(VAULT, 2, by_id).await;
        scene.assert_refused(&before, refused, words);
    }
    // By index a server could hide which transaction it shows no more than by id.
    scene.lie_in_receipts(|receipt| receipt.index = 0);
    scene.assert_refused(&before, scene.receipt(2, 1).await, "is not in the block");
    scene.cluster.serve(&scene.node);
    assert_eq!(scene.receipt(2, 1).await.unwrap().proved.transaction, wanted);
}

#[tokio::test]
async fn a_receipt_under_a_forked_log_is_refused_with_both_notes() {
    let scene = Scene::new().await;
    scene.receipt(1, 0).await.unwrap();
    let before = scene.remembered();
    let mut forked = Log::new(VAULT);
    for _ in 0..4 {
        forked.commit(&[entity("config", b"{}")]);
    }
    let honest = std::mem::replace(&mut *scene.cluster.vault.lock(), forked);
    scene.assert_refused(&before, scene.receipt(1, 0).await, "FORK of the log of vault 7/9");
    scene.assert_refused(&before, scene.reader.extend_checkpoint(VAULT).await, "FORK");
    let list = scene.list(everything()).await;
    scene.assert_refused(&before, list, "FORK");
    *scene.cluster.vault.lock() = honest;
    scene.receipt(1, 0).await.unwrap();
}

#[tokio::test]
async fn a_checkpoint_is_remembered_only_if_it_extends_the_one_before() {
    let scene = Scene::new().await;
    let first = scene.reader.extend_checkpoint(VAULT).await.unwrap();
    assert_eq!((first.checkpoint.size, first.extended_from, first.signers), (4, None, 1));
    assert_eq!(scene.known(), first.checkpoint);
    scene.cluster.vault.lock().commit(&[entity("a", b"4")]);
    let before = scene.remembered();
    let lie = |change: fn(&mut v1::GetConsistencyProofResponse)| {
        let cluster = scene.cluster.clone();
        scene.node.growths.answer(move |_, request| {
            let mut answer = cluster.growth(request);
            change(&mut answer);
            Ok(answer)
        });
    };
    let extend = || scene.reader.extend_checkpoint(VAULT);
    lie(|answer| answer.path.clear());
    scene.assert_refused(&before, extend().await, "FORK");
    lie(|answer| answer.path.push(Digest::ZERO.into()));
    scene.assert_refused(&before, extend().await, "FORK");
    lie(|answer| answer.note.as_mut().unwrap()[40] ^= 1);
    assert!(extend().await.unwrap_err().is_verification_refusal());
    lie(|answer| answer.note = None);
    assert!(matches!(extend().await, Err(ClientError::Malformed("note"))));
    lie(|answer| answer.path = vec![Digest::ZERO.into(); 66]);
    assert!(matches!(extend().await, Err(ClientError::Malformed("path"))));
    assert_eq!(scene.remembered(), before);
    scene.cluster.serve(&scene.node);
    let second = extend().await.unwrap();
    assert_eq!((second.checkpoint.size, second.extended_from), (5, Some(4)));
    // The old note once more: no contradiction, but nothing to be taken for the newest.
    let before = scene.remembered();
    let note = first.checkpoint.note.clone();
    scene.node.growths.answer(move |_, _| {
        let note = Some(note.clone());
        Ok(v1::GetConsistencyProofResponse { from_size: 4, to_size: 4, path: Vec::new(), note })
    });
    scene.assert_refused(&before, extend().await, "the note has 4 blocks, 5 are known");
}

#[tokio::test]
async fn two_checkpoints_in_hand_are_of_one_history_or_convict() {
    let scene = Scene::new().await;
    let small = scene.reader.extend_checkpoint(VAULT).await.unwrap().checkpoint;
    scene.cluster.vault.lock().commit(&[entity("a", b"4")]);
    let large = scene.reader.extend_checkpoint(VAULT).await.unwrap().checkpoint;
    assert_eq!(scene.reader.known_checkpoint(VAULT).await.unwrap().as_ref(), Some(&large));
    for (one, other) in [(&small, &large), (&large, &small), (&small, &small)] {
        scene.reader.compare_checkpoints(one, other).await.unwrap();
    }
    let mut forked = small.clone();
    forked.root.0[0] ^= 1;
    for other in [&small, &large] {
        let refused = scene.reader.compare_checkpoints(&forked, other).await.unwrap_err();
        let ClientError::Verification(error) = refused else { panic!("{refused}") };
        let VerificationError::Fork { evidence: Some(evidence), .. } = *error else {
            panic!("{error}")
        };
        assert!(evidence.exists());
    }
    let mut elsewhere = small.clone();
    elsewhere.origin.log_epoch = 1;
    let refused = scene.reader.compare_checkpoints(&elsewhere, &large).await.unwrap_err();
    assert!(refused.to_string().contains("the known checkpoint is of"), "{refused}");
}

#[tokio::test]
async fn an_earlier_height_is_answered_from_its_own_state_or_refused() {
    let scene = Scene::new().await;
    let keys = [StateKey::entity("b"), StateKey::entity("absent")];
    let read = |height| scene.reader.verified_get(VAULT, &keys, VerifiedOptions::at_height(height));
    let answer = read(2).await.unwrap();
    assert_eq!(answer.proved.block.header.height, 2);
    let VerifiedValue::Present { record, value } = &answer.values()[0] else { panic!() };
    assert_eq!((&value[..], record.modified_height), (&b"2"[..], 2));
    assert_eq!(answer.values()[1], VerifiedValue::Absent);
    assert_eq!(read(1).await.unwrap().values()[0], VerifiedValue::Absent);
    let before = scene.remembered();
    assert_eq!(scene.known().size, 4);

    let lie = |change: Box<dyn Fn(&mut VerifiedRead) + Send + Sync>| {
        let cluster = scene.cluster.clone();
        scene.node.verified.answer(move |_, request| {
            let mut answer = cluster.answer(request);
            if request.namespace_id != Some(v1::NamespaceId { id: 0 }) {
                let mut read = VerifiedRead::decode(&answer.package).unwrap();
                change(&mut read);
                answer.package = read.encode();
            }
            Ok(answer)
        });
    };
    let of_newest = scene.cluster.vault.lock().read_at(&keys, None, Some(4));
    let (items, values) = (of_newest.items.clone(), of_newest.items.clone());
    lie(Box::new(move |read| *read = of_newest.clone()));
    scene.assert_refused(&before, read(2).await, "the header is of block 3, not 2");
    lie(Box::new(move |read| read.items.clone_from(&items)));
    scene.assert_refused(&before, read(2).await, "proof of key 0");
    lie(Box::new(move |read| read.items[0].value.clone_from(&values[0].value)));
    scene.assert_refused(&before, read(2).await, "the value of key 0 is not the committed one");
    lie(Box::new(|read| read.items[0].value = None));
    scene.assert_refused(&before, read(2).await, "key 0 is present but has no value");
    scene.cluster.serve(&scene.node);
    read(2).await.unwrap();
}

#[tokio::test]
async fn a_list_is_of_the_height_of_its_first_page() {
    let scene = Scene::new().await;
    let all = ["a", "b", "c", "config"];
    assert_eq!(names(&scene.list(everything()).await.unwrap()), all);
    assert_eq!(names(&scene.list(ListOf::Entities("c".to_owned())).await.unwrap()), all[2..]);
    assert!(scene.list(ListOf::ResourceType("doc".to_owned())).await.unwrap().is_empty());
    // What is written while the list is read is not in it.
    let options = VerifiedOptions::default();
    let mut pages = scene.reader.verified_list(VAULT, everything(), 2, options).unwrap();
    let mut items = pages.next_page().await.unwrap().unwrap();
    scene.cluster.vault.lock().commit(&[entity("aa", b"late"), entity("c", b"late")]);
    while let Some(mut page) = pages.next_page().await.unwrap() {
        items.append(&mut page);
    }
    assert_eq!(names(&items), all);
    assert_eq!(pages.block().unwrap().header.height, 3);
    assert_eq!(items[2].value, b"3");
}

/// Leaves out the second leaf of a page, and what must be its value.
fn omit(page: &mut ListPage) {
    let ListProof::Page(proof) = &mut page.proof else { panic!("not a page") };
    proof.leaves.remove(1);
    page.values.remove(0);
}

#[tokio::test]
async fn a_list_is_complete_or_refused() {
    let scene = Scene::new().await;
    scene.cluster.vault.lock().commit(&[entity("aa", b"late"), entity("c", b"late")]);
    scene.list(everything()).await.unwrap();
    let before = scene.remembered();

    type Lie = Box<dyn Fn(&mut ListPage) + Send + Sync>;
    let whole = |vault: &Log, prefix: &[u8], height| vault.page(prefix, None, Some(height), 100);
    let prefix = everything().prefix();
    let (of_another_height, narrower, skipping, stray) = {
        let vault = scene.cluster.vault.lock();
        (
            vault.page(&prefix, Some(b"\x01aa"), Some(4), 2),
            whole(&vault, b"\x01c", 4),
            vault.page(&prefix, Some(b"\x01b"), Some(4), 2),
            vault.page(&prefix, None, Some(3), 2),
        )
    };
    let empty = whole(&scene.cluster.vault.lock(), b"\x02", 4);
    let lies: Vec<(usize, &str, Lie)> = vec![
        (0, "the list leads to another state root", Box::new(omit)),
        (0, "the list leads to another state root", Box::new(move |page| *page = stray.clone())),
        (0, "the list does not hold", Box::new(move |page| *page = narrower.clone())),
        (0, "the list does not hold", Box::new(move |page| *page = empty.clone())),
        (0, "is not the committed one", Box::new(|page| page.values[1] = b"forged".to_vec())),
        (0, "1 values come with 2 new leaves", Box::new(|page| drop(page.values.pop()))),
        (0, "3 values come with 2 new leaves", Box::new(|page| page.values.push(Vec::new()))),
        (
            1,
            "does not begin with the leaf that was last before",
            Box::new(move |page| {
                *page = skipping.clone();
            }),
        ),
        (1, "the list leads to another state root", Box::new(omit)),
        (1, "is not the committed one", Box::new(|page| page.values.swap(0, 1))),
    ];
    for (number, words, lie) in lies {
        scene.lie_in_page(number, lie);
        scene.assert_refused(&before, scene.list(everything()).await, words);
    }
    // A later page of another height.
    let height = VerifiedOptions::at_height(3);
    scene.lie_in_page(1, move |page| *page = of_another_height.clone());
    let mut pages = scene.reader.verified_list(VAULT, everything(), 2, height).unwrap();
    pages.next_page().await.unwrap();
    let refused = pages.next_page().await;
    scene.assert_refused(&before, refused, "the list leads to another state root");
    // After the truth the same list goes on.
    scene.cluster.serve(&scene.node);
    assert_eq!(names(&pages.next_page().await.unwrap().unwrap()), ["c", "config"]);
    assert!(pages.is_complete());
}

#[tokio::test]
async fn a_list_that_a_server_ends_too_early_is_not_called_complete() {
    let scene = Scene::new().await;
    let cluster = scene.cluster.clone();
    scene.node.lists.answer(move |_, request| {
        let mut answer = cluster.list(request);
        answer.next_page_token = String::new();
        Ok(answer)
    });
    let error = scene.list(everything()).await.unwrap_err();
    assert!(matches!(error, ClientError::Malformed("next_page_token")), "{error}");
}

#[tokio::test]
async fn expired_items_are_left_out_of_lists_by_the_readers_clock() {
    let scene = Scene::new().await;
    scene.cluster.vault.lock().commit_until(&[entity("b", b"over")], now() - 10);
    scene.cluster.vault.lock().commit_until(&[entity("c", b"still")], now() + 1000);
    let items = scene.list(everything()).await.unwrap();
    assert_eq!(names(&items), ["a", "c", "config"]);
    // At a height it is the block's time that counts, and the last block is older than the expiry.
    let list =
        scene.reader.whole_verified_list(VAULT, everything(), 10, VerifiedOptions::at_height(4));
    assert_eq!(names(&list.await.unwrap().items), ["a", "b", "c", "config"]);
}

#[tokio::test]
async fn every_version_of_a_key_is_proved_back_to_its_creation() {
    let scene = Scene::new().await;
    for value in [&b"third"[..], b"fourth"] {
        scene.cluster.vault.lock().commit(&[entity("config", value)]);
        scene.cluster.vault.lock().commit(&[entity("other", value)]);
    }
    let key = StateKey::entity("config");
    let latest = VerifiedOptions::default();
    let history = scene.reader.key_history(VAULT, &key, 100, latest).await.unwrap();
    let versions: Vec<(u64, &[u8])> = history
        .versions
        .iter()
        .map(|version| (version.record.modified_height, version.value.as_deref().unwrap()))
        .collect();
    assert_eq!(versions, [(6, &b"fourth"[..]), (4, b"third"), (3, b"new"), (1, b"{}")]);
    assert_eq!(history.end, HistoryEnd::Created);
    let some = scene.reader.key_history(VAULT, &key, 2, latest).await.unwrap();
    assert_eq!((some.versions.len(), some.end), (2, HistoryEnd::Limit));
    let from = VerifiedOptions::at_height(3);
    let earlier = scene.reader.key_history(VAULT, &key, 100, from).await.unwrap();
    assert_eq!(earlier.versions.len(), 2);
    let absent = StateKey::entity("absent");
    let none = scene.reader.key_history(VAULT, &absent, 9, latest).await.unwrap();
    assert_eq!((none.versions.len(), none.end), (0, HistoryEnd::Absent));

    // A server that skips versions or ends the history too early is refused; one that refuses to show more
    // does not make it look complete.
    let before = scene.remembered();
    for shown in [0, 1, 2] {
        let cluster = scene.cluster.clone();
        scene.node.verified.answer(move |_, request| {
            let at_height = request.at_height.map(|height| height.min(shown));
            Ok(cluster.answer(&v1::VerifiedGetRequest { at_height, ..request.clone() }))
        });
        let refused = scene.reader.key_history(VAULT, &key, 100, latest).await;
        scene.assert_refused(&before, refused, &format!("the header is of block {shown}"));
    }
    let cluster = scene.cluster.clone();
    scene.node.verified.answer(move |_, request| match request.at_height {
        Some(height) if height < 4 => {
            let facts = [("floor", "4"), ("tip", "7")];
            Err(refusal(Code::FailedPrecondition, "HEIGHT_UNAVAILABLE", &facts, None))
        }
        _ => Ok(cluster.answer(request)),
    });
    let short = scene.reader.key_history(VAULT, &key, 100, latest).await.unwrap();
    assert_eq!(short.versions.len(), 2);
    assert_eq!(short.end, HistoryEnd::NotKept { floor: Some(4) });
}

/// Checks a saved proof as `verify` does.
fn check(bytes: &[u8]) -> Result<CheckedProof, VerificationError> {
    SavedProof::decode(bytes).and_then(|proof| proof.verify(&bundle(), TimeRule::Any))
}

#[tokio::test]
async fn every_kind_of_saved_proof_is_checked_without_a_network() {
    let scene = Scene::new().await;
    let wanted = scene.cluster.vault.lock().transaction(2, 1);
    let by_id = TransactionChoice::Id(wanted.tx_id);
    let receipt = scene.reader.receipt(VAULT, 2, by_id).await.unwrap().saved_proof();
    let by_index = scene.receipt(2, 1).await.unwrap().saved_proof();
    let keys = [StateKey::entity("b"), StateKey::entity("config")];
    let at_height = VerifiedOptions::at_height(2);
    let read = scene.reader.verified_get(VAULT, &keys, at_height).await.unwrap().saved_proof();
    let list = scene.reader.whole_verified_list(VAULT, everything(), 10, at_height).await.unwrap();
    assert_eq!(names(&list.items), ["a", "b", "c", "config"]);
    let latest = VerifiedOptions::default();
    let empty = ListOf::Subject { subject: "user:a".to_owned(), resource: None };
    let empty = scene.reader.whole_verified_list(VAULT, empty, 10, latest).await.unwrap();
    let of_system = ListOf::Entities("vault/".to_owned());
    let of_system = scene.reader.whole_verified_list(VaultRef::SYSTEM, of_system, 10, latest).await;
    for proof in [receipt, by_index] {
        let checked = check(&proof.encode()).unwrap();
        let CheckedProof::Transaction(checked) = checked else { panic!("{checked:?}") };
        assert_eq!((checked.vault, checked.index), (VAULT, 1));
        assert_eq!(checked.proved.transaction, wanted);
        assert_no_byte_can_change(&proof);
    }
    let checked = check(&read.encode()).unwrap().into_values().unwrap();
    assert_eq!((checked.at_height, checked.proved.block.header.height), (Some(2), 2));
    assert!(
        matches!(&checked.proved.values[0], VerifiedValue::Present { value, .. } if value == b"2")
    );
    assert_no_byte_can_change(&read);
    for (list, count) in [(list, 4), (empty, 0), (of_system.unwrap(), 1)] {
        let checked = check(&list.saved_proof.encode()).unwrap();
        let CheckedProof::List(checked) = checked else { panic!("{checked:?}") };
        assert_eq!((checked.items.len(), &checked.items), (count, &list.items));
        assert_no_byte_can_change(&list.saved_proof);
    }
    let too_few = scene.reader.whole_verified_list(VAULT, everything(), 3, latest).await;
    assert!(matches!(too_few, Err(ClientError::ListTooLong { max: 3 })));
}

/// A changed byte is noticed, or what is proved is the same: the log's own signature may be any, and a list of
/// nothing under one prefix proves that there is nothing under others on the same path.
fn assert_no_byte_can_change(proof: &SavedProof) {
    let bytes = proof.encode();
    let said = |checked: CheckedProof| match checked {
        CheckedProof::Values(values) => format!("{:?}", values.proved.values),
        CheckedProof::Transaction(checked) => format!("{:?}", checked.proved.transaction),
        CheckedProof::List(list) => format!("{:?}", list.items),
    };
    let honest = said(check(&bytes).unwrap());
    let (mut tried, mut refused) = (0, 0);
    for place in (0..bytes.len()).step_by(STRIDE) {
        tried += 1;
        let mut changed = bytes.clone();
        changed[place] ^= 1 << (place % 8);
        match check(&changed) {
            Err(_) => refused += 1,
            Ok(checked) => assert_eq!(said(checked), honest, "byte {place}"),
        }
    }
    assert!(refused * 10 > tried * 8, "{refused} of {tried}");
    assert!(check(&bytes[..bytes.len() - 1]).is_err());
    assert!(check(&[&bytes[..], &[0]].concat()).is_err());
}

#[tokio::test]
async fn a_saved_list_without_its_last_page_is_refused() {
    let scene = Scene::new().await;
    // Pages of one leaf, so that the list has four.
    let cluster = scene.cluster.clone();
    scene.node.lists.answer(move |_, request| {
        Ok(cluster.list(&v1::VerifiedListRequest { limit: 1, ..request.clone() }))
    });
    let latest = VerifiedOptions::default();
    let list = scene.reader.whole_verified_list(VAULT, everything(), 10, latest).await.unwrap();
    let bytes = list.saved_proof.encode();
    assert!(check(&bytes).is_ok());
    let last = scene.cluster.vault.lock().page(
        &everything().prefix(),
        Some(StateKey::entity("c").as_bytes()),
        Some(3),
        1,
    );
    let last = last.encode();
    assert!(bytes.ends_with(&last));
    let mut cut = bytes[..bytes.len() - last.len() - 4].to_vec();
    // The number of later pages stands before the length of the first of them.
    let magic = b"list-page/v1\0\0\0\0";
    let first = cut.windows(magic.len()).position(|part| part == magic).unwrap();
    let count = &mut cut[first - 8..first - 4];
    assert_eq!(count, 3u32.to_be_bytes());
    count.copy_from_slice(&2u32.to_be_bytes());
    let error = check(&cut).unwrap_err();
    assert!(error.to_string().contains("pages of the list are missing"), "{error}");
}
