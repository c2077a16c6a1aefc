//! What a vault holds, as any node shows it: values at one height, expiry, counted writes, blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ledger_client::{Client, ClientConfig, TrustSource, VerifiedOptions};
use ledger_proof::{BlockHeader, Transaction, VerifiedValue, hash, rfc9162, tx_tree};
use ledger_proto::convert::{block, ids};
use ledger_proto::v1;
use ledger_proto::v1::ReadConsistency::{Eventual, Linearizable};
use ledger_proto::v1::set_condition::Condition;
use ledger_types::{Digest, StateKey, VaultRef};
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::harness::{
    Cluster, Node, WAIT_MAX, eventually, grant, set, set_if, why, wire, write_request,
};

const READS: usize = 40;
const BLOCK_WRITERS: usize = 60;

async fn write(node: &Node, request: v1::WriteRequest) -> v1::WriteSuccess {
    match node.writes().write(request).await.unwrap().into_inner().result {
        Some(v1::write_response::Result::Success(success)) => success,
        other => panic!("{other:?}"),
    }
}

/// One writer keeps two keys equal, one block for each change, so a height tells what must be read at it.
async fn batch_reads_see_one_height(nodes: &[Node], vault: VaultRef) {
    let change = move |number: u64| {
        let value = number.to_string();
        write_request(vault, vec![set("left", value.as_bytes()), set("right", value.as_bytes())])
    };
    let first = write(&nodes[0], change(0)).await.block_height;
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (node, stopped, counted) = (nodes[1].clone(), stop.clone(), acknowledged.clone());
    let writer = tokio::spawn(async move {
        for number in 1.. {
            let height = write(&node, change(number)).await.block_height;
            assert_eq!(height, first + number, "one block for each change");
            counted.store(number, Ordering::SeqCst);
            if stopped.load(Ordering::SeqCst) {
                break;
            }
        }
    });
    let (namespace_id, vault_id) = wire(vault);
    let keys = ["right", "absent", "left", "right"].map(str::to_owned).to_vec();
    for round in 0..READS {
        for node in nodes {
            let wanted = if round % 2 == 0 { Eventual } else { Linearizable };
            let (keys, consistency) = (keys.clone(), wanted.into());
            let request = v1::BatchReadRequest { namespace_id, vault_id, keys, consistency };
            let before = acknowledged.load(Ordering::SeqCst);
            let answer = node.reads().batch_read(request).await.unwrap().into_inner();
            // A replica may not have the first write yet, and then shows a height before it.
            let number = answer.block_height.checked_sub(first);
            if wanted == Linearizable {
                assert!(number >= Some(before), "{number:?} after {before} was acknowledged");
            }
            let value = number.map(|number| number.to_string().into_bytes());
            let expected = keys_and_values(&[
                ("right", value.clone()),
                ("absent", None),
                ("left", value.clone()),
                ("right", value),
            ]);
            assert_eq!(answer.results, expected);
        }
    }
    stop.store(true, Ordering::SeqCst);
    writer.await.unwrap();
    assert!(acknowledged.load(Ordering::SeqCst) > 1, "nothing changed while it was read");
}

fn keys_and_values(pairs: &[(&str, Option<Vec<u8>>)]) -> Vec<v1::BatchReadResult> {
    let result = |(key, value): &(&str, Option<Vec<u8>>)| v1::BatchReadResult {
        key: (*key).to_owned(),
        found: value.is_some(),
        value: value.clone(),
    };
    pairs.iter().map(result).collect()
}

/// What is past its time counts as absent wherever it is asked for, and is shown where that is asked.
async fn expired_entities_count_as_absent(node: &Node, client: &Client, place: (VaultRef, usize)) {
    let (vault, number) = place;
    let key = format!("ttl/{number}");
    let mut operation = set(&key, b"old");
    let Some(v1::operation::Op::SetEntity(entity)) = &mut operation.op else { unreachable!() };
    entity.expires_at = Some(1);
    let height = write(node, write_request(vault, vec![operation])).await.block_height;
    let (namespace_id, vault_id) = wire(vault);
    let list = |include_expired| async move {
        let request = v1::ListEntitiesRequest {
            namespace_id,
            vault_id,
            key_prefix: format!("ttl/{number}"),
            include_expired,
            consistency: Linearizable.into(),
            ..v1::ListEntitiesRequest::default()
        };
        node.reads().list_entities(request).await.unwrap().into_inner().entities
    };
    assert_eq!(node.read(vault, &key).await.unwrap(), None);
    let keys = vec![key.clone()];
    let consistency = Linearizable.into();
    let request = v1::BatchReadRequest { namespace_id, vault_id, keys, consistency };
    let answer = node.reads().batch_read(request).await.unwrap().into_inner();
    assert_eq!(answer.results, keys_and_values(&[(&key, None)]));
    assert_eq!(list(false).await, []);
    let (value, expires_at, version) = (b"old".to_vec(), Some(1), height);
    let expired = v1::Entity { key: key.clone(), value, expires_at, version };
    assert_eq!(list(true).await, [expired]);
    let options = VerifiedOptions { min_height: height, ..VerifiedOptions::default() };
    let wanted = [StateKey::entity(&key)];
    let proved = client.verified_get(vault, &wanted, options).await.unwrap();
    assert!(matches!(proved.values(), [VerifiedValue::Expired { .. }]), "{:?}", proved.values());
    assert_eq!(proved.into_single_value(), None);

    let again = vec![set_if(&key, b"new", Some(Condition::NotExists(true)))];
    let success = write(node, write_request(vault, again)).await;
    assert_eq!(success.operation_outcomes, [v1::OperationOutcome::Created as i32]);
    assert_eq!(node.read(vault, &key).await.unwrap().as_deref(), Some(&b"new"[..]));
    assert_eq!(list(false).await.len(), 1);
    let options = VerifiedOptions { min_height: success.block_height, ..options };
    let proved = client.verified_get(vault, &wanted, options).await.unwrap();
    assert_eq!(proved.into_single_value().as_deref(), Some(&b"new"[..]));
}

/// A batch of one set, recognised again by a number or by a key.
async fn batch(
    node: &Node,
    vault: VaultRef,
    client_id: &str,
    (sequence, value): (Option<u64>, &[u8]),
) -> Result<v1::batch_write_response::Result, Status> {
    let (namespace_id, vault_id) = wire(vault);
    let key = if sequence.is_none() { rand::random::<[u8; 16]>().to_vec() } else { Vec::new() };
    let request = v1::BatchWriteRequest {
        namespace_id,
        vault_id,
        client_id: Some(v1::ClientId { id: client_id.to_owned() }),
        idempotency_key: key,
        operations: vec![v1::BatchWriteOperation { operations: vec![set(client_id, value)] }],
        include_tx_proofs: false,
        sequence,
    };
    Ok(node.writes().batch_write(request).await?.into_inner().result.unwrap())
}

/// Asserts that a client is held to the way in which it began to count.
fn assert_mixed(status: &Status, contract: &str, last: u64) {
    let expected = (Code::FailedPrecondition, "SEQUENCE_CONTRACT_MIXED".to_owned());
    assert_eq!(why(status), expected, "{status:?}");
    let facts = status.get_details_error_info().unwrap().metadata;
    assert_eq!(facts["contract"], contract);
    assert_eq!(facts["last_sequence"], last.to_string());
}

async fn counted_batches_are_taken_in_turn(nodes: &[Node], vault: VaultRef) {
    use v1::batch_write_response::Result::{Error, Success};
    for (number, value) in [(1, b"1"), (2, b"2")] {
        let node = &nodes[number as usize];
        match batch(node, vault, "counts", (Some(number), value)).await.unwrap() {
            Success(success) => assert_eq!(success.assigned_sequence, number),
            Error(error) => panic!("{error:?}"),
        }
    }
    for node in nodes {
        for (number, code, next) in [
            (4, v1::WriteErrorCode::SequenceGap, Some(3)),
            (u64::MAX, v1::WriteErrorCode::SequenceGap, Some(3)),
            (2, v1::WriteErrorCode::AlreadyCommitted, None),
            (1, v1::WriteErrorCode::AlreadyCommitted, None),
        ] {
            match batch(node, vault, "counts", (Some(number), b"refused")).await.unwrap() {
                Error(error) => {
                    assert_eq!((error.code(), error.expected_sequence), (code, next), "{number}");
                }
                Success(success) => panic!("{number}: {success:?}"),
            }
        }
        let mixed = batch(node, vault, "counts", (None, b"refused")).await.unwrap_err();
        assert_mixed(&mixed, "sequence", 2);
        let (namespace_id, vault_id) = wire(vault);
        let client_id = Some(v1::ClientId { id: "counts".to_owned() });
        let request = v1::GetClientStateRequest { namespace_id, vault_id, client_id };
        let state = node.reads().get_client_state(request).await.unwrap().into_inner();
        assert_eq!(state.last_committed_sequence, 2, "refusals count nothing");
        assert_eq!(node.read(vault, "counts").await.unwrap().as_deref(), Some(&b"2"[..]));
    }
    let keyed = batch(&nodes[0], vault, "keyed", (None, b"1")).await.unwrap();
    assert!(matches!(keyed, Success(_)), "{keyed:?}");
    let mixed = batch(&nodes[1], vault, "keyed", (Some(2), b"refused")).await.unwrap_err();
    assert_mixed(&mixed, "idempotency_key", 1);
}

/// Writes from all sides at once, so that some blocks hold several transactions, with their proofs.
async fn proved_writes(nodes: &[Node], vault: VaultRef) -> Vec<v1::WriteSuccess> {
    let mut writers = JoinSet::new();
    for number in 0..BLOCK_WRITERS {
        let (node, key) = (nodes[number % nodes.len()].clone(), format!("block/{number}"));
        writers.spawn(async move {
            let operations = vec![set(&key, b"1"), grant("doc:1", "viewer", &key)];
            let mut request = write_request(vault, operations);
            request.include_tx_proof = true;
            write(&node, request).await
        });
    }
    writers.join_all().await
}

/// Checks every block that a node shows, from genesis to the tip, and returns them.
async fn chain(node: &Node, vault: VaultRef, height: u64) -> Vec<(BlockHeader, Vec<Digest>)> {
    let (namespace_id, vault_id) = wire(vault);
    let tip = eventually("the node shows all blocks", || async {
        let request = v1::GetTipRequest { namespace_id, vault_id };
        let tip = node.reads().get_tip(request).await.map_err(|status| status.to_string())?;
        let tip = tip.into_inner();
        if tip.height >= height { Ok(tip) } else { Err(format!("{} of {height}", tip.height)) }
    })
    .await;
    assert_eq!(tip.height, height, "nobody writes any more");
    let mut blocks: Vec<(BlockHeader, Vec<Digest>)> = Vec::new();
    for height in 0..=height {
        let request = v1::GetBlockRequest { namespace_id, vault_id, height };
        let told = node.reads().get_block(request).await.unwrap().into_inner().block.unwrap();
        let wire_header = told.header.unwrap();
        let header = BlockHeader::decode(&wire_header.canonical).unwrap();
        assert_eq!(block::header(&wire_header), Ok(header), "the readable fields say the same");
        assert_eq!((header.vault, header.height), (vault, height));
        let previous = blocks.last().map_or(Digest::ZERO, |(before, _)| before.block_hash());
        assert_eq!(header.previous_hash, previous, "height {height}");
        let leaves: Vec<Digest> =
            told.transactions.iter().map(|told| tx_tree::tx_leaf(&told.canonical)).collect();
        assert_eq!(header.tx_root, tx_tree::tx_root(&leaves), "height {height}");
        assert_eq!(header.tx_count as usize, leaves.len());
        assert_eq!(leaves.is_empty(), height == 0, "only genesis has no transaction");
        for told in &told.transactions {
            let transaction: Transaction = block::transaction(told).unwrap();
            assert_eq!(transaction.encode(), told.canonical);
        }
        blocks.push((header, leaves));
    }
    let (last, _) = blocks.last().unwrap();
    assert_eq!(tip.block_hash, Some(last.block_hash().into()));
    assert_eq!(tip.state_root, Some(last.state_root.into()));
    let request = v1::GetBlockRequest { namespace_id, vault_id, height: height + 1 };
    assert_eq!(node.reads().get_block(request).await.unwrap().into_inner().block, None);
    blocks
}

async fn block_range(
    node: &Node,
    vault: VaultRef,
    (start_height, end_height): (u64, u64),
) -> Result<v1::GetBlockRangeResponse, Status> {
    let (namespace_id, vault_id) = wire(vault);
    let request = v1::GetBlockRangeRequest { namespace_id, vault_id, start_height, end_height };
    Ok(node.reads().get_block_range(request).await?.into_inner())
}

/// Every range holds the blocks that are told one by one, ends early where it would grow too large, and has no gap.
async fn ranges_hold_the_blocks(nodes: &[Node], vault: VaultRef) {
    let large = vec![7; 1 << 20];
    for number in 0..10 {
        write(&nodes[0], write_request(vault, vec![set(&format!("large/{number}"), &large)])).await;
    }
    let tip = write(&nodes[0], write_request(vault, vec![set("small", b"1")])).await.block_height;
    for node in nodes {
        let range = block_range(node, vault, (0, tip - 11)).await.unwrap();
        let expected = chain(node, vault, tip).await;
        assert!(range.current_tip <= tip && range.blocks.len() as u64 == tip - 10);
        for (told, (header, _)) in range.blocks.iter().zip(&expected) {
            assert_eq!(block::header(told.header.as_ref().unwrap()), Ok(*header));
        }
        let whole = block_range(node, vault, (0, u64::MAX)).await.unwrap();
        assert_eq!(whole.current_tip, tip);
        assert!((whole.blocks.len() as u64) < tip, "ten of a MiB are more than an answer holds");
        // Who proposed a block is not known everywhere, what it holds is.
        let held = |block: &v1::Block| {
            (block.header.as_ref().unwrap().canonical.clone(), block.transactions.clone())
        };
        assert!(
            whole
                .blocks
                .iter()
                .map(held)
                .take(range.blocks.len())
                .eq(range.blocks.iter().map(held))
        );
        let mut heights: Vec<u64> = Vec::new();
        while (heights.len() as u64) <= tip {
            let next = block_range(node, vault, (heights.len() as u64, tip)).await.unwrap();
            assert!(!next.blocks.is_empty(), "a range holds a block at least");
            heights.extend(next.blocks.iter().map(|told| told.header.as_ref().unwrap().height));
        }
        assert_eq!(heights, (0..=tip).collect::<Vec<_>>());
        assert!(block_range(node, vault, (tip + 1, tip + 5)).await.unwrap().blocks.is_empty());
        let inverted = block_range(node, vault, (5, 4)).await.unwrap_err();
        assert_eq!(inverted.code(), Code::InvalidArgument);
        let details = inverted.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "end_height");
    }
}

async fn blocks_prove_what_they_hold(nodes: &[Node], vault: VaultRef) {
    let written = proved_writes(nodes, vault).await;
    let height = written.iter().map(|success| success.block_height).max().unwrap();
    let expected = chain(&nodes[0], vault, height).await;
    let transactions: usize = expected.iter().map(|(_, leaves)| leaves.len()).sum();
    assert_eq!(transactions, written.len(), "each write is in one block");
    for node in &nodes[1..] {
        assert_eq!(chain(node, vault, height).await, expected);
    }
    for success in written {
        let told = block::header(&success.block_header.unwrap()).unwrap();
        let (header, leaves) = &expected[success.block_height as usize];
        assert_eq!(told, *header);
        let proof = success.tx_proof.unwrap();
        let (leaf, path) = block::path(&proof).unwrap();
        let index = leaves.iter().position(|other| *other == leaf).expect("a leaf of the block");
        let (index, count) = (index as u64, u64::from(header.tx_count));
        assert_eq!(rfc9162::verify_inclusion(&leaf, index, count, &path, &header.tx_root), Ok(()));
        // The sides told lead to the root as well.
        let root = proof.siblings.iter().fold(leaf, |below, sibling| {
            let beside = ids::digest("hash", sibling.hash.as_ref()).unwrap();
            match sibling.direction() {
                v1::Direction::Left => hash::node(&beside, &below),
                v1::Direction::Right => hash::node(&below, &beside),
                v1::Direction::Unspecified => panic!("a sibling without a side"),
            }
        });
        assert_eq!(root, header.tx_root);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_shows_the_same_contents() {
    let cluster = Cluster::start(3).await;
    let vaults = cluster.vaults("contents", 4).await;
    let nodes = cluster.nodes();
    batch_reads_see_one_height(&nodes, vaults[0]).await;
    for (number, node) in nodes.iter().enumerate() {
        let mut config = ClientConfig::new(vec![cluster.servers[number].address()]);
        config.trust = TrustSource::FirstUse;
        config.state_dir = Some(cluster.directory(&format!("client-{number}")));
        config.deadline = WAIT_MAX;
        let client = Client::connect(config).await.unwrap();
        expired_entities_count_as_absent(node, &client, (vaults[1], number)).await;
    }
    counted_batches_are_taken_in_turn(&nodes, vaults[2]).await;
    blocks_prove_what_they_hold(&nodes, vaults[3]).await;
    ranges_hold_the_blocks(&nodes, vaults[3]).await;
    cluster.assert_ready().await;
}
