//! Watches of changes: what a cache would have after applying all of them is what the vault holds.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use ledger_client::{ChangeNotice, ChangeOptions, ChangeWatch, RemoveIn};
use ledger_proto::v1;
use ledger_proto::v1::change::Key;
use ledger_proto::v1::change_filter::Of;
use ledger_proto::v1::{ChangeKind, ReadConsistency};
use ledger_types::VaultRef;
use tonic::{Code, Status};

use super::command_line::Tool;
use super::harness::{Cluster, Node, WAIT_MAX, eventually, grant, set, why, wire, write_request};
use super::load::Load;

/// The entities of a vault, expired ones that are not removed yet among them.
async fn entities(node: &Node, vault: VaultRef) -> BTreeMap<String, Vec<u8>> {
    // A list whose leader was just killed is asked for again.
    eventually("the entities are listed", async || listed(node, vault).await).await
}

async fn listed(node: &Node, vault: VaultRef) -> Result<BTreeMap<String, Vec<u8>>, Status> {
    let (namespace_id, vault_id) = wire(vault);
    let (mut found, mut page_token) = (BTreeMap::new(), String::new());
    loop {
        let request = v1::ListEntitiesRequest {
            namespace_id,
            vault_id,
            include_expired: true,
            consistency: ReadConsistency::Linearizable.into(),
            limit: 1_000,
            page_token,
            ..Default::default()
        };
        let page = node.reads().list_entities(request).await?.into_inner();
        found.extend(page.entities.into_iter().map(|entity| (entity.key, entity.value)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}

/// What a cache of entities does with a change.
fn apply(cache: &mut BTreeMap<String, Vec<u8>>, change: v1::Change) {
    let (kind, value) = (change.kind(), change.value);
    let Some(Key::Entity(key)) = change.key else { panic!("only entities were asked for") };
    let before = match kind {
        ChangeKind::Created | ChangeKind::Updated => {
            cache.insert(key.clone(), value.expect("values were asked for"))
        }
        _ => cache.remove(&key),
    };
    assert_eq!(before.is_none(), kind == ChangeKind::Created, "{key} was {kind:?}");
}

async fn next(watch: &mut ChangeWatch) -> ChangeNotice {
    let notice = tokio::time::timeout(WAIT_MAX, watch.next()).await.expect("the watch goes on");
    notice.expect("the watch lives")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_applies_every_change_holds_what_the_vault_holds() {
    let mut cluster = Cluster::start(3).await;
    let vault = cluster.vaults("changes", 1).await[0];
    let client = cluster.client().await;
    let filters =
        vec![v1::ChangeFilter { of: Some(Of::EntityPrefix(String::new())), relation: None }];
    let options = ChangeOptions {
        start_height: Some(1),
        filters,
        include_values: true,
        heartbeat_ms: Some(1_000),
    };
    let mut watch = client.watch_changes(vault, options);
    let mut load = Load::start(&client, &[vault], 2);
    // Each in turn, so that the one that serves the watch is among them.
    for victim in 0..3 {
        load.wait_more(20).await;
        cluster.servers[victim].kill();
        load.wait_more(20).await;
        cluster.resume(victim).await;
    }
    load.finish().await;
    // Large enough for several answers, in one block.
    let value = vec![9; 300_000];
    let large = (0..12).map(|number| set(&format!("large/{number}"), &value)).collect();
    let request = write_request(vault, large);
    let answer = cluster.node(1).writes().write(request).await.unwrap().into_inner();
    let Some(v1::write_response::Result::Success(success)) = answer.result else {
        panic!("it is written: {answer:?}")
    };
    let (mut cache, mut heights) = (BTreeMap::new(), Vec::new());
    while heights.last() != Some(&success.block_height) {
        if let ChangeNotice::Block { height, changes, .. } = next(&mut watch).await {
            assert!(!changes.is_empty());
            heights.push(height);
            changes.into_iter().for_each(|change| apply(&mut cache, change));
        }
    }
    assert!(heights.is_sorted_by(|a, b| a < b), "each block once, in order");
    assert_eq!(cache, entities(&cluster.node(0), vault).await);
    // What no filter lets through is passed over, and the watch says so.
    let ignored = write_request(vault, vec![grant("document:1", "viewer", "user:1")]);
    cluster.node(2).writes().write(ignored).await.unwrap();
    loop {
        let ChangeNotice::Heartbeat { next_height, .. } = next(&mut watch).await else {
            panic!("nothing changed that was asked for")
        };
        if next_height == success.block_height + 2 {
            break;
        }
    }
    assert_eq!(watch.next_height(), Some(success.block_height + 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_changes_that_makes_no_sense_is_refused() {
    let cluster = Cluster::start(1).await;
    let vault = cluster.vaults("changes", 1).await[0];
    let (namespace_id, vault_id) = wire(vault);
    let good = v1::WatchChangesRequest { namespace_id, vault_id, ..Default::default() };
    let filter = |of| v1::ChangeFilter { of, relation: None };
    let all = filter(Some(Of::Relationships(true)));
    let bad = [
        v1::WatchChangesRequest { start_height: Some(0), ..good.clone() },
        v1::WatchChangesRequest { heartbeat_ms: Some(0), ..good.clone() },
        v1::WatchChangesRequest { heartbeat_ms: Some(60_001), ..good.clone() },
        v1::WatchChangesRequest { filters: vec![filter(None)], ..good.clone() },
        v1::WatchChangesRequest { filters: vec![all; 65], ..good.clone() },
        v1::WatchChangesRequest { namespace_id: None, ..good.clone() },
    ];
    for request in bad {
        let status = cluster.node(0).ledger().watch_changes(request.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{request:?}: {status:?}");
        assert!(!why(&status).1.is_empty(), "{status:?}");
    }
    let nowhere =
        v1::WatchChangesRequest { vault_id: Some(v1::VaultId { id: 99 }), ..good.clone() };
    let status = cluster.node(0).ledger().watch_changes(nowhere).await.unwrap_err();
    assert_eq!(why(&status), (Code::NotFound, "VAULT_NOT_FOUND".to_owned()));
    // Without a height it begins behind the tip.
    cluster.node(0).put(vault, "before", b"1").await.unwrap();
    let mut stream = cluster.node(0).ledger().watch_changes(good).await.unwrap().into_inner();
    let height = cluster.node(0).put(vault, "after", b"1").await.unwrap();
    let first = tokio::time::timeout(WAIT_MAX, stream.message()).await.unwrap().unwrap().unwrap();
    let block = first.block.expect("a change comes before the first heartbeat");
    assert_eq!((block.height, block.changes.len(), first.resume_height), (height, 1, height + 1));
}

fn set_until(key: &str, expires_at: u64) -> v1::Operation {
    let (key, value) = (key.to_owned(), b"1".to_vec());
    let set = v1::SetEntity { key, value, expires_at: Some(expires_at), condition: None };
    v1::Operation { op: Some(v1::operation::Op::SetEntity(set)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_is_removed_once_whoever_leads() {
    const COUNT: usize = 600;
    let environment = [("LEDGER_EXPIRY_INTERVAL_MS", "100"), ("LEDGER_EXPIRY_RATE", "100000")];
    let mut cluster = Cluster::start_with(3, &environment).await;
    let vault = cluster.vaults("expiry", 1).await[0];
    let client = cluster.client().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let (soon, later) = (now + 3, now + 3_600);
    let mut operations: Vec<_> =
        (0..COUNT).map(|number| set_until(&format!("soon/{number:03}"), soon)).collect();
    operations.push(set_until("later", later));
    operations.push(set_until("renewed", soon));
    operations.push(set("for ever", b"1"));
    for batch in operations.chunks(200) {
        cluster.node(0).writes().write(write_request(vault, batch.to_vec())).await.unwrap();
    }
    cluster.node(0).put(vault, "renewed", b"2").await.unwrap();
    // Whoever leads next was told of nothing and looks through the vault.
    let victim = leader_of(&cluster, vault).await;
    cluster.servers[victim].kill();
    let left = (0..3).find(|number| *number != victim).unwrap();
    let kept: BTreeSet<String> = ["for ever", "later", "renewed"].map(str::to_owned).into();
    let node = cluster.node(left);
    eventually("what has expired is removed", async || {
        let found: BTreeSet<String> = entities(&node, vault).await.into_keys().collect();
        if found == kept { Ok(()) } else { Err(found.len()) }
    })
    .await;
    cluster.resume(victim).await;
    let options = ChangeOptions { start_height: Some(1), ..ChangeOptions::default() };
    let mut watch = client.watch_changes(vault, options);
    let tip = node.put(vault, "end", b"1").await.unwrap();
    let mut expired = BTreeMap::new();
    while watch.next_height().is_none_or(|height| height <= tip) {
        let ChangeNotice::Block { changes, .. } = next(&mut watch).await else { continue };
        for change in changes.into_iter().filter(|one| one.kind() == ChangeKind::Expired) {
            let Some(Key::Entity(key)) = change.key else { panic!("only entities expire") };
            *expired.entry(key).or_insert(0) += 1;
        }
    }
    assert_eq!(expired.len(), COUNT);
    assert!(expired.iter().all(|(key, times)| key.starts_with("soon/") && *times == 1));
    // Nobody waits behind all of them: they go in transactions of their own of bounded size.
    let batches = expiry_batches(&node, vault).await;
    // A leader that was killed may have begun with some.
    assert!(batches.iter().sum::<usize>() >= COUNT, "{batches:?}");
    assert!(batches.iter().all(|count| (1..=EXPIRY_BATCH_MAX).contains(count)), "{batches:?}");
    assert!(batches.len() < COUNT / 2, "one by one takes longer: {batches:?}");
}

/// Most entities that one transaction removes because they have expired.
const EXPIRY_BATCH_MAX: usize = 250;

/// How many entities each transaction of the expiry removes.
async fn expiry_batches(node: &Node, vault: VaultRef) -> Vec<usize> {
    let (namespace_id, vault_id) = wire(vault);
    let (start_height, end_height) = (1, 10_000);
    let request = v1::GetBlockRangeRequest { namespace_id, vault_id, start_height, end_height };
    let range = node.reads().get_block_range(request).await.unwrap().into_inner();
    let tip = range.current_tip;
    assert_eq!(range.blocks.last().and_then(|block| block.header.as_ref()).unwrap().height, tip);
    let mut batches = Vec::new();
    for transaction in range.blocks.into_iter().flat_map(|block| block.transactions) {
        if transaction.client_id.is_some_and(|client| client.id == "_expiry") {
            for operation in &transaction.operations {
                let op = operation.op.as_ref().unwrap();
                assert!(matches!(op, v1::operation::Op::ExpireEntity(_)), "{op:?}");
            }
            batches.push(transaction.operations.len());
        }
    }
    batches
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_vaults_do_not_keep_others_from_being_looked_through() {
    // More than are looked through at a time, all before the one that matters.
    const DELETED: usize = 33;
    let environment = [("LEDGER_EXPIRY_INTERVAL_MS", "100"), ("LEDGER_SHARDS", "1")];
    let mut cluster = Cluster::start_with(1, &environment).await;
    let vaults = cluster.vaults("expiry", DELETED + 1).await;
    let last = vaults[DELETED];
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    // Far enough for the restart: whoever serves then was told of no block.
    let set = set_until("soon", now + 5);
    cluster.node(0).writes().write(write_request(last, vec![set])).await.unwrap();
    for vault in &vaults[..DELETED] {
        let (namespace_id, vault_id) = wire(*vault);
        let request = v1::DeleteVaultRequest { namespace_id, vault_id };
        cluster.node(0).admin().delete_vault(request).await.unwrap();
    }
    cluster.servers[0].kill();
    cluster.resume(0).await;
    let node = cluster.node(0);
    eventually("what has expired is removed", async || {
        let found = entities(&node, last).await;
        if found.is_empty() { Ok(()) } else { Err(found) }
    })
    .await;
    assert_eq!(cluster.metric(0, "ledger_expired_entities_total").await, 1.0);
}

/// Asks a node to remove what has expired, until it says that it was done to the end.
async fn force_gc(node: &Node, asked: v1::ForceGcRequest) -> v1::ForceGcResponse {
    let removed = Cell::new(0);
    let mut told = eventually("what has expired is removed", async || {
        let answer = node.admin().force_gc(asked).await.map_err(|status| status.to_string())?;
        let answer = answer.into_inner();
        removed.set(removed.get() + answer.expired_count);
        if answer.success { Ok(answer) } else { Err(answer.message) }
    })
    .await;
    told.expired_count = removed.get();
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_is_removed_when_that_is_asked_for() {
    const COUNT: u64 = 300;
    // Nothing is removed unasked, and not more than the rate when asked.
    let environment = [("LEDGER_EXPIRY_INTERVAL_MS", "0"), ("LEDGER_EXPIRY_RATE", "1000")];
    let cluster = Cluster::start_with(3, &environment).await;
    let vaults = cluster.vaults("asked", 6).await;
    let other = cluster.vaults("other", 1).await[0];
    let own = VaultRef { vault: ledger_types::VaultId(0), ..other };
    let node = cluster.node(0);
    let mut every: Vec<VaultRef> = vaults.clone();
    every.extend([other, own]);
    for vault in &every {
        let mut operations: Vec<_> =
            (0..COUNT).map(|number| set_until(&format!("old/{number:03}"), 1)).collect();
        operations.push(set_until("later", u64::MAX));
        operations.push(set("for ever", b"1"));
        node.writes().write(write_request(*vault, operations)).await.unwrap();
    }
    let left: BTreeSet<String> = ["for ever", "later"].map(str::to_owned).into();
    let found = async |vault| entities(&node, vault).await.into_keys().collect::<BTreeSet<_>>();
    // One vault, by nodes that do not lead it too.
    for (node, vault) in cluster.nodes().iter().zip(&vaults) {
        let (namespace_id, vault_id) = wire(*vault);
        let asked = v1::ForceGcRequest { namespace_id, vault_id };
        let told = force_gc(node, asked).await;
        assert_eq!((told.expired_count, told.vaults_scanned), (COUNT, 1));
        assert_eq!(found(*vault).await, left);
        assert_eq!(force_gc(node, asked).await.expired_count, 0, "nothing is left to remove");
    }
    assert_eq!(found(vaults[3]).await.len() as u64, COUNT + 2, "nobody asked for that");
    // A namespace with its own entities, then everything; a deleted vault is no obstacle.
    let (namespace_id, _) = wire(other);
    let told = force_gc(&node, v1::ForceGcRequest { namespace_id, vault_id: None }).await;
    assert_eq!((told.expired_count, told.vaults_scanned), (2 * COUNT, 2));
    assert_eq!((found(other).await, found(own).await), (left.clone(), left.clone()));
    let (namespace_id, vault_id) = wire(vaults[5]);
    let request = v1::DeleteVaultRequest { namespace_id, vault_id };
    node.admin().delete_vault(request).await.unwrap();
    let told = force_gc(&cluster.node(1), v1::ForceGcRequest::default()).await;
    // Five vaults and one, and the own entities of two namespaces.
    assert_eq!((told.expired_count, told.vaults_scanned), (2 * COUNT, 8));
    assert_eq!(found(vaults[4]).await, left);
    let request = v1::ForceGcRequest { namespace_id, vault_id };
    let status = node.admin().force_gc(request).await.unwrap_err();
    assert_eq!(why(&status), (Code::NotFound, "VAULT_DELETED".to_owned()));
    let nowhere = Some(v1::NamespaceId { id: 4_711 });
    let request = v1::ForceGcRequest { namespace_id: nowhere, vault_id: None };
    let status = node.admin().force_gc(request).await.unwrap_err();
    assert_eq!(why(&status), (Code::NotFound, "NAMESPACE_NOT_FOUND".to_owned()));
    let mut removed = 0.0;
    for number in 0..3 {
        removed += cluster.metric(number, "ledger_expired_entities_total").await;
    }
    assert_eq!(removed, (7 * COUNT) as f64, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tool_and_the_sdk_have_it_removed_to_the_end() {
    const COUNT: usize = 300;
    // So slow that one call of the tool is not enough for a vault.
    let environment = [("LEDGER_EXPIRY_INTERVAL_MS", "0"), ("LEDGER_EXPIRY_RATE", "50")];
    let cluster = Cluster::start_with(3, &environment).await;
    let vaults = cluster.vaults("tool", 3).await;
    let own = VaultRef { vault: ledger_types::VaultId(0), ..vaults[0] };
    let node = cluster.node(0);
    for (vault, count) in [(vaults[0], COUNT), (vaults[1], 3), (vaults[2], 4), (own, 5)] {
        let old = (0..count).map(|number| set_until(&format!("old/{number}"), 1));
        let operations = old.chain([set("for ever", b"1")]).collect();
        node.writes().write(write_request(vault, operations)).await.unwrap();
    }
    let folder = cluster.directory("tool");
    let tool = Tool { folder: &folder, endpoints: cluster.addresses().join(",") };
    let removed = |place: &str| {
        let line = format!("remove-expired {place} --deadline 4s -o json");
        let output = tool.command(&line).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{line}: {said}");
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (told["entities"].clone(), told["vaults"].clone(), said)
    };
    let (entities_removed, _, said) = removed("-n tool -v 1");
    assert_eq!(entities_removed, COUNT);
    assert!(said.contains("not to the end"), "one call was enough: {said}");
    assert_eq!(entities(&node, vaults[0]).await.len(), 1);
    assert_eq!(entities(&node, vaults[1]).await.len(), 4, "nobody asked for that");
    let client = cluster.client().await;
    let told = client.remove_expired(RemoveIn::Vault(vaults[1])).await.unwrap();
    assert_eq!((told.is_complete, told.entities, told.vaults), (true, 3, 1), "{told:?}");
    assert_eq!(removed("-n tool").0, 4 + 5);
    let (entities_removed, vaults_told, _) = removed("--all");
    assert_eq!((entities_removed, vaults_told), (0.into(), 4.into()));
    let said = tool.fails("remove-expired -n tool -v 9", 1);
    assert!(said.contains("VAULT_NOT_FOUND"), "{said}");
    tool.fails("remove-expired", 64);
}

/// The node that leads a vault's group.
async fn leader_of(cluster: &Cluster, vault: VaultRef) -> usize {
    let (namespace_id, vault_id) = wire(vault);
    let request = v1::GetVaultRequest { namespace_id, vault_id };
    eventually("the vault has a leader", async || {
        let answer = cluster.node(0).admin().get_vault(request).await.unwrap().into_inner();
        let leader = answer.leader.map(|node| node.id).unwrap_or_default();
        let place = cluster.servers.iter().position(|server| server.spec().name == leader);
        place.ok_or(leader)
    })
    .await
}
