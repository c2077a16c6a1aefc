//! Servers that lie to the command line. It refuses every lie with an exit code of its own, says what is wrong,
//! remembers nothing of it, keeps both notes of a fork, and believes the truth afterwards.

use std::path::PathBuf;
use std::sync::Arc;

use ledger_client::{read_bundle, write_bundle};
use ledger_proof::system_entity::bundle_key;
use ledger_proof::{ListProof, Receipt, Threshold, TrustBundle, VerifiedList, VerifiedRead};
use ledger_proto::v1;
use ledger_types::{StateKey, VaultRef};
use tonic::Status;

use super::harness::{Said, Scene};
use crate::support::VAULT;
use crate::support::chain::{Cluster, Log, bundle, bundle_of, convicting, now};

/// Something was checked and is not believed.
const REFUSED: Option<i32> = Some(2);
/// It did not work, which says nothing about what is true.
const FAILED: Option<i32> = Some(1);
/// Every command whose answer is proved.
const PROVED: [&str; 5] = [
    "get --key config",
    "list entities",
    "receipt --height 2 --index 1",
    "history --key config",
    "checkpoint",
];
/// The newest block of the honest log.
const TIP: u64 = 3;

fn entity(key: &str, value: &[u8]) -> (StateKey, Vec<u8>) {
    (StateKey::entity(key), value.to_vec())
}

/// Adds the blocks of the honest log up to a height: block 2 sets three entities, block 3 changes two.
fn grow(log: &mut Log, height: u64) {
    if height >= 2 {
        log.commit(&[entity("a", b"1"), entity("b", b"2"), entity("c", b"3")]);
    }
    if height >= 3 {
        log.commit(&[entity("config", b"new"), entity("b", b"22")]);
    }
}

/// A cluster whose vault has come to this height.
fn honest(height: u64) -> Arc<Cluster> {
    let cluster = Cluster::new();
    grow(&mut cluster.vault.lock(), height);
    cluster
}

/// The same cluster with another log in place of the vault's.
fn with_vault(log: Log) -> Arc<Cluster> {
    let cluster = honest(TIP);
    *cluster.vault.lock() = log;
    cluster
}

/// A log of its own with this many blocks after the first, which say something else than the honest ones.
fn forked(blocks: u64) -> Log {
    let mut log = Log::new(VAULT);
    for _ in 0..blocks {
        log.commit(&[entity("config", b"other"), entity("d", b"4")]);
    }
    log
}

/// A log that is like the honest one but for what it says it is the log of.
fn posing(vault: VaultRef, log_epoch: u64) -> Log {
    let mut log = Log::new(vault);
    log.origin.log_epoch = log_epoch;
    log.commit(&[entity("config", b"{}")]);
    grow(&mut log, TIP);
    log
}

/// From now on answers of `get` about the vault are honest ones with this change, and so are those behind `history`.
fn in_reads(scene: &Scene, change: impl Fn(&mut VerifiedRead) + Send + Sync + 'static) {
    let cluster = honest(TIP);
    scene.node.verified.answer(move |_, request| {
        let mut answer = cluster.answer(request);
        if request.namespace_id != Some(v1::NamespaceId { id: 0 }) {
            let mut read = VerifiedRead::decode(&answer.package).unwrap();
            change(&mut read);
            answer.package = read.encode();
        }
        Ok(answer)
    });
}

fn in_receipts(scene: &Scene, change: impl Fn(&mut Receipt) + Send + Sync + 'static) {
    let cluster = honest(TIP);
    scene.node.receipts.answer(move |_, request| {
        let mut receipt = Receipt::decode(&cluster.receipt(request).package).unwrap();
        change(&mut receipt);
        Ok(v1::GetReceiptResponse { package: receipt.encode() })
    });
}

/// From now on lists come in pages of three, and the first is an honest one with this change.
fn in_lists(scene: &Scene, change: impl Fn(&mut VerifiedList) + Send + Sync + 'static) {
    let cluster = honest(TIP);
    scene.node.lists.answer(move |_, request| {
        let request = v1::VerifiedListRequest { limit: 3, ..request.clone() };
        let mut answer = cluster.list(&request);
        if request.page_token.is_empty() {
            let mut list = VerifiedList::decode(&answer.package).unwrap();
            change(&mut list);
            answer.package = list.encode();
        }
        Ok(answer)
    });
}

/// Some bytes of answers are lost on the way, so that they are no packages.
fn cut_short(scene: &Scene) {
    let cluster = honest(TIP);
    scene.node.lists.answer(move |_, request| {
        let mut answer = cluster.list(request);
        answer.package.pop();
        Ok(answer)
    });
}

/// A lie, the lines that hear it, and what each must say.
struct Lie {
    name: &'static str,
    lines: &'static [&'static str],
    words: &'static str,
    tell: fn(&Scene),
}

const GET: &[&str] = &["get --key config"];
const LIST: &[&str] = &["list entities"];
const RECEIPT: &[&str] = &["receipt --height 2 --index 1"];
const HISTORY: &[&str] = &["history --key config"];

const LIES: &[Lie] = &[
    Lie {
        name: "a stale block under a new checkpoint",
        lines: GET,
        words: "the header is of block 1, not 3",
        tell: |scene| {
            let (header, path) = honest(TIP).vault.lock().block(1);
            in_reads(scene, move |read| {
                (read.block.header, read.block.header_path) = (header, path.clone());
            });
        },
    },
    Lie {
        name: "a stale value with its old proof under a new checkpoint",
        lines: GET,
        words: "proof of key 0: the path leads to another state root",
        tell: |scene| {
            let stale = honest(2).vault.lock().read(&[StateKey::entity("config")], None);
            in_reads(scene, move |read| read.items.clone_from(&stale.items));
        },
    },
    Lie {
        name: "a stale value under a new checkpoint",
        lines: GET,
        words: "the value of key 0 is not the committed one",
        tell: |scene| in_reads(scene, |read| read.items[0].value = Some(b"{}".to_vec())),
    },
    Lie {
        name: "another vault's proof",
        lines: &PROVED,
        words: "the note is about test.ledger/ns/7/vault/8/0, not test.ledger/ns/7/vault/9/0",
        tell: |scene| with_vault(posing(VaultRef::new(7, 8), 0)).serve(&scene.node),
    },
    Lie {
        name: "a log of another epoch, so that memory begins anew",
        lines: &PROVED,
        words: "log epoch is 1, not 0: history may have been lost",
        tell: |scene| with_vault(posing(VAULT, 1)).serve(&scene.node),
    },
    Lie {
        name: "a checkpoint that went back",
        lines: &PROVED,
        words: "the note has 3 blocks, 4 are known",
        tell: |scene| honest(2).serve(&scene.node),
    },
    Lie {
        name: "an absence forged by leaving the value out",
        lines: GET,
        words: "key 0 is present but has no value",
        tell: |scene| in_reads(scene, |read| read.items[0].value = None),
    },
    Lie {
        name: "an absence forged with the leaf of another key",
        lines: GET,
        words: "the leaf's key takes another side",
        tell: |scene| {
            let other = honest(TIP).vault.lock().read(&[StateKey::entity("c")], None).items;
            in_reads(scene, move |read| {
                read.items[0].value = None;
                read.items[0].proof = other[0].proof.clone();
            });
        },
    },
    Lie {
        name: "a list item left out",
        lines: LIST,
        words: "the list leads to another state root",
        tell: |scene| {
            in_lists(scene, |list| {
                let ListProof::Page(proof) = &mut list.page.proof else { panic!("not a page") };
                proof.leaves.remove(1);
                list.page.values.remove(1);
            });
        },
    },
    Lie {
        name: "a list item with a forged value",
        lines: LIST,
        words: "is not the committed one",
        tell: |scene| in_lists(scene, |list| list.page.values[1] = b"forged".to_vec()),
    },
    Lie { name: "an answer that is none", lines: LIST, words: "malformed", tell: cut_short },
    Lie {
        name: "a changed transaction in a receipt",
        lines: RECEIPT,
        words: "the transaction is not in the block",
        tell: |scene| in_receipts(scene, |receipt| receipt.transaction[20] ^= 1),
    },
    Lie {
        name: "the receipt of another block",
        lines: RECEIPT,
        words: "the header is of block 3, not 2",
        tell: |scene| {
            let other = honest(TIP).vault.lock().receipt(3, 1, Some(TIP + 1));
            in_receipts(scene, move |receipt| *receipt = other.clone());
        },
    },
    Lie {
        name: "a history with a version left out",
        lines: HISTORY,
        words: "the header is of block 1, not 2",
        tell: |scene| {
            let cluster = honest(TIP);
            scene.node.verified.answer(move |_, request| {
                let at_height = request.at_height.map(|height| height.min(1));
                Ok(cluster.answer(&v1::VerifiedGetRequest { at_height, ..request.clone() }))
            });
        },
    },
];

/// A reader from the command line who has once heard the truth.
async fn scene_of_one() -> Scene {
    let scene = Scene::new(&bundle()).await;
    honest(TIP).serve(&scene.node);
    PROVED.iter().for_each(|line| assert_believed(&scene, line));
    scene
}

fn assert_believed(scene: &Scene, line: &str) {
    let answer = scene.says(line);
    assert!(answer.contains("verified"), "{line}: {answer}");
}

/// Nothing of a lie is shown, nothing of it is remembered, and whoever asked is told that it was one.
fn assert_refused(scene: &Scene, name: &str, line: &str, words: &str) -> Said {
    let before = scene.remembered();
    let said = scene.run(line);
    assert_eq!(said.exit_code, REFUSED, "{name}: {line}: {said:?}");
    let begin = "ledger-cli: VERIFICATION REFUSED: ";
    assert!(said.complaint.starts_with(begin), "{name}: {line}: {}", said.complaint);
    assert!(said.complaint.contains(words), "{name}: {line}: not `{words}`: {}", said.complaint);
    assert_eq!(said.answer, "", "{name}: {line}");
    assert_eq!(scene.remembered(), before, "{name}: {line}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_refuses_every_lie_and_says_what_is_wrong() {
    let scene = scene_of_one().await;
    for Lie { name, lines, words, tell } in LIES {
        tell(&scene);
        for line in *lines {
            assert_refused(&scene, name, line, words);
        }
        honest(TIP).serve(&scene.node);
        lines.iter().for_each(|line| assert_believed(&scene, line));
    }
}

/// The file that a complaint about a fork names.
fn evidence(said: &Said) -> PathBuf {
    let (_, path) = said.complaint.split_once("both notes are kept in ").unwrap();
    PathBuf::from(path.trim_end())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_keeps_both_notes_of_a_forked_history() {
    let scene = scene_of_one().await;
    // As long as the known history, and longer with a path that is honest in itself.
    for (name, blocks) in [("a fork of the same length", TIP), ("a longer fork", TIP + 2)] {
        with_vault(forked(blocks)).serve(&scene.node);
        for line in PROVED {
            let said = assert_refused(&scene, name, line, "FORK of the log of vault 7/9");
            let evidence = evidence(&said);
            assert_eq!(evidence.parent().unwrap(), scene.state(), "{line}");
            let [first, second] = convicting(&evidence, &bundle());
            assert_eq!((first.size, second.size), (TIP + 1, blocks + 1), "{line}");
            assert_eq!(first.root, honest(TIP).vault.lock().checkpoint().root, "{line}");
            assert_eq!(second.root, forked(blocks).checkpoint().root, "{line}");
            std::fs::remove_file(evidence).unwrap();
        }
    }
    honest(TIP).serve(&scene.node);
    PROVED.iter().for_each(|line| assert_believed(&scene, line));
}

/// Nodes that cosign besides, each with the age of its signature in seconds.
type Cosigners = &'static [(u8, u64)];

/// Three nodes vote, of whom two must sign. Directory and vault have different accomplices.
fn cluster_of_three(vault_cosigned_by: Cosigners) -> Arc<Cluster> {
    let cluster = Cluster::of(&[1, 2, 3]);
    grow(&mut cluster.vault.lock(), TIP);
    cluster.system.lock().cosigned_by = vec![(2, 0)];
    cluster.vault.lock().cosigned_by = vault_cosigned_by.to_vec();
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_node_convinces_no_command() {
    let scene = Scene::new(&bundle_of(&[1, 2, 3], Threshold::Majority)).await;
    let truth = || cluster_of_three(&[(3, 0)]);
    truth().serve(&scene.node);
    PROVED.iter().for_each(|line| assert_believed(&scene, line));
    let too_few = "the note does not count: 1 voters cosigned in time, 2 must have";
    let cosigned: [(&str, Cosigners, &str); 4] = [
        ("one signature", &[], "\n"),
        ("one key twice", &[(1, 5)], "; left out: 1 of a key that counts already\n"),
        ("a node that no longer votes", &[(4, 0)], "; left out: 1 of no voter\n"),
        (
            "an old note freshly cosigned by one bad node",
            &[(2, 10_000), (3, 10_000)],
            "; left out: 2 too old\n",
        ),
    ];
    for (name, cosigned_by, why) in cosigned {
        cluster_of_three(cosigned_by).serve(&scene.node);
        for line in PROVED {
            assert_refused(&scene, name, line, &format!("{too_few}{why}"));
        }
    }
    // A directory of the bad node's own.
    honest(TIP).serve(&scene.node);
    for line in PROVED {
        assert_refused(&scene, "a directory that one node signs", line, too_few);
    }
    truth().serve(&scene.node);
    PROVED.iter().for_each(|line| assert_believed(&scene, line));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_lowers_the_rule_is_refused_until_an_operator_hands_it_over() {
    let first = bundle_of(&[1, 2, 3], Threshold::Majority);
    let second = TrustBundle { sequence: 2, threshold: Threshold::Fixed(1), ..first.clone() };
    let scene = Scene::new(&first).await;
    let cluster = cluster_of_three(&[]);
    let key = StateKey::entity(&bundle_key(2));
    cluster.system.lock().commit(&[(key.clone(), second.encode())]);
    let link = cluster.system.lock().read(&[key], None).encode();
    cluster.serve(&scene.node);
    scene.node.bundles.answer(move |_, request| {
        let bundles = if request.from_sequence == 1 { vec![link.clone()] } else { Vec::new() };
        Ok(v1::GetTrustBundleResponse { bundles, voter_sets: Vec::new() })
    });
    // The directory is signed by two, the vault's log by one: enough for the second bundle only.
    let said = scene.run("get --key config");
    assert_eq!((said.exit_code, said.answer.as_str()), (REFUSED, ""), "{said:?}");
    let words = "bundle 2 asks for fewer signatures than the one before";
    assert!(said.complaint.contains(words), "{said:?}");
    let file = scene.folder.path().join("cluster.trust");
    assert_eq!(read_bundle(&file).unwrap(), Some(first));
    write_bundle(&file, &second).unwrap();
    assert_believed(&scene, "get --key config");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_grant_in_an_idle_vault_is_shown_as_none() {
    let scene = Scene::new(&bundle()).await;
    let cluster = honest(TIP);
    let over = now() - 10;
    cluster.vault.lock().commit_until(&[entity("grant", b"yes")], over);
    cluster.serve(&scene.node);
    let shown = scene.says("get --key grant");
    assert!(shown.starts_with(&format!("grant\tabsent (expired at {over})\n")), "{shown}");
    let listed = scene.says("list entities --prefix grant");
    assert!(listed.starts_with("verified: all 0"), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_ends_too_early_is_not_called_complete() {
    let scene = scene_of_one().await;
    let cluster = honest(TIP);
    scene.node.lists.answer(move |_, request| {
        let mut answer = cluster.list(&v1::VerifiedListRequest { limit: 2, ..request.clone() });
        answer.next_page_token.clear();
        Ok(answer)
    });
    let said = scene.run("list entities");
    assert_eq!(said.exit_code, FAILED, "{said:?}");
    assert!(said.complaint.contains("next_page_token"), "{said:?}");
    assert!(said.answer.starts_with("a\t1\n") && !said.answer.contains("verified"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_answer_is_not_called_a_liar() {
    let scene = scene_of_one().await;
    let gone = || Status::unavailable("the node stops");
    scene.node.verified.answer(move |_, _| Err(gone()));
    scene.node.lists.answer(move |_, _| Err(gone()));
    scene.node.receipts.answer(move |_, _| Err(gone()));
    scene.node.growths.answer(move |_, _| Err(gone()));
    for line in PROVED {
        let said = scene.run(&format!("--deadline 300ms {line}"));
        assert_eq!(said.exit_code, FAILED, "{line}: {said:?}");
        assert!(!said.complaint.contains("REFUSED"), "{line}: {said:?}");
        assert!(said.complaint.contains("the node stops"), "{line}: {said:?}");
        assert_eq!(said.answer, "", "{line}");
    }
}
