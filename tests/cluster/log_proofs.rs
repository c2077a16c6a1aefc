//! Receipts, checkpoints and reads of earlier heights on real servers, through every node.

use ledger_client::{CheckedProof, SavedProof, VerificationError};
use ledger_proof::{TimeRule, TransactionChoice};
use ledger_proto::convert::block;
use ledger_proto::v1;
use ledger_types::{Operation, VaultRef};

use super::harness::{Cluster, Node, wire};
use super::proofs::{client, set};

/// Reads one key at a height, with all headers up to it.
async fn read_at(node: &Node, vault: VaultRef, at_height: u64) -> v1::HistoricalReadResponse {
    let (namespace_id, vault_id) = wire(vault);
    let request = v1::HistoricalReadRequest {
        namespace_id,
        vault_id,
        key: "k".to_owned(),
        at_height,
        include_proof: true,
        include_chain_proof: true,
        trusted_height: None,
    };
    node.reads().historical_read(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_have_receipts_through_every_node() {
    let mut cluster = Cluster::start(3).await;
    let vault = cluster.vaults("receipts", 1).await[0];
    let state_dir = cluster.directory("remembers");
    let everyone = client(cluster.addresses(), &state_dir).await;
    let mut written = Vec::new();
    for round in 0..3 {
        let operations = vec![set("k", format!("{round}").as_bytes()), set("other", b"")];
        written.push(everyone.write(vault, operations).await.unwrap());
    }
    for (number, server) in cluster.servers.iter().enumerate() {
        let newcomer_dir = cluster.directory(&format!("newcomer-{number}"));
        let newcomer = client(vec![server.address()], &newcomer_dir).await;
        for (round, receipt) in written.iter().enumerate() {
            let by_id = TransactionChoice::Id(receipt.tx_id);
            let proved = newcomer.receipt(vault, receipt.height, by_id).await.unwrap();
            let transaction = &proved.proved.transaction;
            assert_eq!(transaction.tx_id, receipt.tx_id);
            assert_eq!(proved.proved.block.header.height, receipt.height);
            let Some(ledger_proof::AppliedOperation::State { operation, .. }) =
                transaction.operations.first()
            else {
                panic!("{transaction:?}")
            };
            let Operation::SetEntity { value, .. } = operation else { panic!("{operation:?}") };
            assert_eq!(value, format!("{round}").as_bytes());
            let by_index = TransactionChoice::Index(proved.index());
            let same = newcomer.receipt(vault, receipt.height, by_index).await.unwrap();
            assert_eq!(same.proved.transaction, *transaction);
        }
    }
    let last = &written[2];
    let by_id = TransactionChoice::Id(last.tx_id);
    let saved = everyone.receipt(vault, last.height, by_id).await.unwrap().saved_proof().encode();
    let bundle = everyone.trust_bundle().await.unwrap();
    let check = |bytes: &[u8]| -> Result<CheckedProof, VerificationError> {
        SavedProof::decode(bytes)?.verify(&bundle, TimeRule::Any)
    };
    assert!(matches!(check(&saved), Ok(CheckedProof::Transaction(_))));
    // The directory's own transactions have receipts as well.
    let first = TransactionChoice::Index(0);
    everyone.receipt(VaultRef::SYSTEM, 1, first).await.unwrap();

    // A checkpoint from before a crash of everybody is extended by the one after it.
    let before = everyone.extend_checkpoint(vault).await.unwrap();
    assert_eq!(before.checkpoint.size, last.height + 1);
    for server in &mut cluster.servers {
        server.kill();
    }
    for number in 0..cluster.servers.len() {
        cluster.servers[number].resume().unwrap();
    }
    cluster.assert_ready().await;
    let later = client(cluster.addresses(), &state_dir).await;
    later.write(vault, vec![set("k", b"after")]).await.unwrap();
    let after = later.extend_checkpoint(vault).await.unwrap();
    assert_eq!(after.extended_from, Some(before.checkpoint.size));
    assert_eq!(after.checkpoint.size, before.checkpoint.size + 1);
    later.compare_checkpoints(&before.checkpoint, &after.checkpoint).await.unwrap();
    later.receipt(vault, last.height, by_id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_published_reads_show_every_height_with_its_headers() {
    let cluster = Cluster::start(3).await;
    let vault = cluster.vaults("heights", 1).await[0];
    let node = cluster.node(0);
    let mut heights = Vec::new();
    for round in 0..4u8 {
        heights.push(node.put(vault, "k", &[round]).await.unwrap());
    }
    for node in cluster.nodes() {
        for (round, &height) in heights.iter().enumerate() {
            let answer = read_at(&node, vault, height).await;
            assert_eq!(answer.value.as_deref(), Some(&[round as u8][..]));
            assert_eq!((answer.block_height, answer.merkle_proof), (height, None));
            let header = block::header(&answer.block_header.unwrap()).unwrap();
            assert_eq!((header.vault, header.height), (vault, height));
            let chain = answer.chain_proof.unwrap().headers;
            let chain: Vec<_> = chain.iter().map(|wire| block::header(wire).unwrap()).collect();
            assert_eq!(chain.len() as u64, height);
            assert_eq!(chain.last(), Some(&header));
            for pair in chain.windows(2) {
                assert_eq!(pair[1].previous_hash, pair[0].block_hash());
            }
        }
        let (namespace_id, vault_id) = wire(vault);
        let request = v1::VerifiedReadRequest {
            namespace_id,
            vault_id,
            key: "k".to_owned(),
            at_height: None,
            include_chain_proof: true,
            trusted_height: Some(heights[1]),
        };
        let answer = node.reads().verified_read(request.clone()).await.unwrap().into_inner();
        let newest = answer.block_height;
        assert!(newest >= heights[1]);
        assert_eq!(answer.chain_proof.unwrap().headers.len() as u64, newest - heights[1]);
        let at_height = Some(heights[2]);
        let past = v1::VerifiedReadRequest { at_height, ..request };
        let answer = node.reads().verified_read(past).await.unwrap().into_inner();
        assert_eq!((answer.value, answer.block_height), (Some(vec![2]), heights[2]));
        assert_eq!(block::header(&answer.block_header.unwrap()).unwrap().height, heights[2]);
    }
}
