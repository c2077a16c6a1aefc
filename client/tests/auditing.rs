//! Audits of clusters that are honest, that lie in one way each, and that do not answer.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ledger_client::audit::{Audit, AuditOptions, Verdict};
use ledger_client::{BlockNotice, Client, TrustSource, write_bundle};
use ledger_proof::{BlockHeader, Threshold, Transaction};
use ledger_proto::convert::block::wire_block;
use ledger_proto::v1;
use ledger_types::{Digest, Outcome, StateKey};
use support::chain::{Cluster, Log, bundle_of};
use support::{Node, VAULT, config, start};
use tempfile::TempDir;
use tonic::Status;

const EVERYTHING: AuditOptions = AuditOptions { all_blocks: true, values: true };

/// Three nodes that hold one vault, each reached at an address of its own.
struct Scene {
    nodes: Vec<Arc<Node>>,
    cluster: Arc<Cluster>,
    client: Client,
    _state: TempDir,
}

impl Scene {
    async fn new() -> Scene {
        let mut started = Vec::new();
        for number in 1..=3u8 {
            let (node, address) = start().await;
            started.push((number, node, address));
        }
        let places: Vec<(u8, &str)> =
            started.iter().map(|(number, _, address)| (*number, address.as_str())).collect();
        let cluster = Cluster::at(&places);
        for value in [b"one", b"two"] {
            let keys = ["config", "other"].map(|key| (StateKey::entity(key), value.to_vec()));
            cluster.vault.lock().commit(&keys);
        }
        let state = tempfile::tempdir().unwrap();
        let client = client(places[0].1, state.path());
        let nodes: Vec<_> = started.into_iter().map(|(_, node, _)| node).collect();
        nodes.iter().for_each(|node| cluster.serve_blocks(node));
        Scene { nodes, cluster, client, _state: state }
    }

    async fn audit(&self) -> Audit {
        let mut audit = Audit::new(self.client.clone(), VAULT, EVERYTHING);
        audit.run(|_| {}).await;
        audit
    }

    /// From now on a node tells blocks with this change.
    fn lie(&self, node: usize, change: impl Fn(&mut v1::Block) + Send + Sync + 'static) {
        let cluster = self.cluster.clone();
        self.nodes[node].block_ranges.answer(move |_, request| {
            let mut answer = cluster.range(request);
            answer.blocks.iter_mut().for_each(&change);
            Ok(answer)
        });
    }
}

fn client(address: &str, state: &Path) -> Client {
    let file = state.join("handed-over.bundle");
    write_bundle(&file, &bundle_of(&[1, 2, 3], Threshold::Fixed(1))).unwrap();
    let mut settings = config(&[address]);
    settings.trust = TrustSource::File(file);
    settings.state_dir = Some(state.to_owned());
    settings.deadline = Duration::from_secs(2);
    Client::unconnected(settings).unwrap()
}

/// Node, height and kind of each finding.
fn findings(audit: &Audit) -> Vec<(Option<&str>, Option<u64>, &'static str)> {
    let one = audit.findings().iter();
    one.map(|it| (it.node.as_deref(), it.height, it.kind.name())).collect()
}

fn verdicts(audit: &Audit) -> Vec<Verdict> {
    audit.replicas().iter().map(|replica| replica.verdict).collect()
}

/// Another value in the transaction of a block, everything readable included.
fn change_value(block: &mut v1::Block) {
    let header = BlockHeader::decode(&block.header.as_ref().unwrap().canonical).unwrap();
    let Some(transaction) = block.transactions.first() else { return };
    let mut transaction = Transaction::decode(&transaction.canonical).unwrap();
    let ledger_proof::AppliedOperation::State {
        operation: ledger_types::Operation::SetEntity { value, .. },
        ..
    } = &mut transaction.operations[0]
    else {
        panic!("a set");
    };
    value.push(b'!');
    *block = wire_block(&header, "", vec![transaction.encode()]).unwrap();
}

#[tokio::test]
async fn an_honest_cluster_is_verified() {
    let scene = Scene::new().await;
    let mut audit = scene.audit().await;
    assert_eq!((findings(&audit), audit.obstacles()), (vec![], &[][..]));
    assert_eq!(audit.verdict(), Verdict::Verified);
    let replayed = audit.replayed();
    assert_eq!((replayed.blocks, replayed.transactions, replayed.operations), (4, 5, 5));
    assert_eq!(replayed.keys, 3);
    assert_eq!(replayed.log_root, audit.checkpoint().unwrap().root);
    for replica in audit.replicas() {
        assert_eq!((replica.blocks_compared, replica.keys_compared), (4, 2), "{replica:?}");
        assert_eq!(replica.tip.unwrap().height, 3);
    }
    let signers: Vec<_> =
        audit.signers().iter().map(|it| (it.member.as_deref(), it.is_valid)).collect();
    assert_eq!(signers, [(Some("n1"), Some(true)), (Some("n1"), Some(true))]);
    assert!(audit.signers()[0].time.is_none() && audit.signers()[1].time.is_some());
}

#[tokio::test]
async fn the_node_with_a_changed_body_is_named_wherever_it_stands() {
    for liar in 0..3 {
        let scene = Scene::new().await;
        scene.lie(liar, |block| {
            if block.header.as_ref().unwrap().height == 2 {
                change_value(block);
            }
        });
        let audit = scene.audit().await;
        let name = ["n1", "n2", "n3"][liar];
        assert_eq!(findings(&audit), [(Some(name), Some(2), "other_transactions")]);
        assert_eq!(audit.verdict(), Verdict::Tampered);
        let mut expected = [Verdict::Verified; 3];
        expected[liar] = Verdict::Tampered;
        assert_eq!(verdicts(&audit), expected);
    }
}

#[tokio::test]
async fn the_node_with_a_forked_header_is_named() {
    let scene = Scene::new().await;
    scene.lie(0, |block| {
        let wire = block.header.as_ref().unwrap();
        if wire.height == 2 {
            let mut header = BlockHeader::decode(&wire.canonical).unwrap();
            header.state_root = Digest([7; 32]);
            let bodies = block.transactions.iter().map(|one| one.canonical.clone()).collect();
            *block = wire_block(&header, "", bodies).unwrap();
        }
    });
    let audit = scene.audit().await;
    assert_eq!(findings(&audit), [(Some("n1"), Some(2), "other_block")]);
    assert_eq!(verdicts(&audit), [Verdict::Tampered, Verdict::Verified, Verdict::Verified]);
}

#[tokio::test]
async fn readable_fields_that_lie_are_found() {
    let scene = Scene::new().await;
    scene.lie(1, |block| block.header.as_mut().unwrap().term += 1);
    let audit = scene.audit().await;
    let expected: Vec<_> =
        (0..4).map(|height| (Some("n2"), Some(height), "readable_fields")).collect();
    assert_eq!(findings(&audit), expected);
}

#[tokio::test]
async fn a_wrong_outcome_that_all_signed_is_found() {
    let scene = Scene::new().await;
    {
        let mut log = scene.cluster.vault.lock();
        log.outcome_told = Some(Outcome::Created);
        log.commit(&[(StateKey::entity("config"), b"three".to_vec())]);
    }
    let audit = scene.audit().await;
    assert_eq!(findings(&audit), [(None, Some(4), "outcome")]);
    let finding = &audit.findings()[0];
    assert_eq!((finding.transaction, finding.operation), (Some(0), Some(0)));
    let texts = finding.kind.expected_and_found().unwrap();
    assert_eq!(texts, ("Updated".to_owned(), "Created".to_owned()));
    assert_eq!(audit.verdict(), Verdict::Tampered);
}

#[tokio::test]
async fn values_that_a_replica_does_not_hold_as_they_were_written_are_found() {
    let scene = Scene::new().await;
    let cluster = scene.cluster.clone();
    scene.nodes[1].entities.answer(move |_, _| {
        let mut answer = cluster.vault.lock().entities();
        answer.entities[0].value = b"forged".to_vec();
        answer.entities[1].key = "stranger".to_owned();
        Ok(answer)
    });
    let cluster = scene.cluster.clone();
    scene.nodes[2].entities.answer(move |_, _| {
        let mut answer = cluster.vault.lock().entities();
        answer.entities[0].version -= 1;
        answer.entities.pop();
        Ok(answer)
    });
    let audit = scene.audit().await;
    let expected = [
        (Some("n2"), Some(3), "other_value"),
        (Some("n2"), Some(3), "key_missing"),
        (Some("n2"), Some(3), "key_unexpected"),
        (Some("n3"), Some(3), "other_record"),
        (Some("n3"), Some(3), "key_missing"),
    ];
    assert_eq!(findings(&audit), expected);
    let chain_only = AuditOptions { values: false, ..EVERYTHING };
    let mut audit = Audit::new(scene.client.clone(), VAULT, chain_only);
    audit.run(|_| {}).await;
    assert_eq!(audit.verdict(), Verdict::Verified);
}

#[tokio::test]
async fn a_tip_that_is_none_is_found() {
    let scene = Scene::new().await;
    let cluster = scene.cluster.clone();
    scene.nodes[2].tips.answer(move |_, _| {
        let mut tip = cluster.vault.lock().tip();
        tip.state_root = Some(Digest([1; 32]).into());
        Ok(tip)
    });
    let audit = scene.audit().await;
    assert_eq!(findings(&audit), [(Some("n3"), Some(3), "other_tip")]);
}

#[tokio::test]
async fn a_log_that_forked_since_the_last_audit_is_found() {
    let scene = Scene::new().await;
    assert_eq!(scene.audit().await.verdict(), Verdict::Verified);
    let mut other = Log::new(VAULT);
    for value in 0..4u8 {
        other.commit(&[(StateKey::entity("config"), vec![value])]);
    }
    *scene.cluster.vault.lock() = other;
    let audit = scene.audit().await;
    assert_eq!(findings(&audit), [(None, None, "refused")]);
    assert!(audit.findings()[0].kind.to_string().contains("FORK"));
    assert_eq!(audit.verdict(), Verdict::Tampered);
}

#[tokio::test]
async fn a_node_that_is_silent_or_behind_is_no_liar() {
    let scene = Scene::new().await;
    scene.nodes[0].tips.answer(|_, _| Err(Status::unavailable("down")));
    let audit = scene.audit().await;
    assert_eq!(findings(&audit), []);
    assert_eq!(audit.verdict(), Verdict::Incomplete);
    assert_eq!(verdicts(&audit), [Verdict::Unavailable, Verdict::Verified, Verdict::Verified]);
    assert!(audit.obstacles().iter().all(|it| it.node.as_deref() == Some("n1")));

    let old = scene.cluster.vault.lock().tip();
    scene.nodes[0].tips.answer(move |_, _| Ok(old.clone()));
    scene.cluster.vault.lock().commit(&[(StateKey::entity("config"), b"new".to_vec())]);
    let audit = scene.audit().await;
    assert_eq!((findings(&audit), audit.verdict()), (vec![], Verdict::Incomplete));
    assert_eq!(audit.replicas()[0].blocks_compared, 4, "as far as it goes");
}

#[tokio::test]
async fn a_cluster_that_is_silent_is_unavailable() {
    let scene = Scene::new().await;
    for node in &scene.nodes {
        node.verified.answer(|_, _| Err(Status::unavailable("down")));
    }
    let audit = scene.audit().await;
    assert_eq!((findings(&audit), audit.verdict()), (vec![], Verdict::Unavailable));
    for node in &scene.nodes {
        scene.cluster.serve_blocks(node);
        node.block_ranges.answer(|_, _| Err(Status::unavailable("down")));
    }
    let audit = scene.audit().await;
    assert_eq!((findings(&audit), audit.verdict()), (vec![], Verdict::Unavailable));
}

#[tokio::test]
async fn new_blocks_are_followed_and_compared_with_their_announcements() {
    let scene = Scene::new().await;
    let mut audit = scene.audit().await;
    scene.cluster.vault.lock().commit(&[(StateKey::entity("config"), b"new".to_vec())]);
    let (header, _) = scene.cluster.vault.lock().block(4);
    let notice = BlockNotice {
        vault: VAULT,
        height: 4,
        block_hash: header.block_hash(),
        state_root: header.state_root,
        timestamp_ns: header.timestamp_ns,
    };
    audit.follow(&notice).await;
    assert_eq!((audit.replayed().blocks, audit.verdict()), (5, Verdict::Verified));
    audit.run(|_| {}).await;
    assert_eq!(audit.verdict(), Verdict::Verified);
    audit.follow(&BlockNotice { block_hash: Digest([1; 32]), ..notice }).await;
    assert_eq!(findings(&audit), [(None, Some(4), "other_block")]);
}
