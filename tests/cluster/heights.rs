//! Heights that a node has forgotten, that are still to come, and the line between them, by every method that takes one.

use std::fmt::Debug;

use ledger_proto::v1;
use ledger_proto::v1::get_receipt_request::Transaction as Choice;
use ledger_proto::v1::verified_key::Key;
use ledger_proto::v1::verified_list_request::List;
use ledger_types::VaultRef;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::harness::{Cluster, Node, grant, set, why, wire, write_request};

/// Blocks below the tip that are kept.
const KEPT: u64 = 16;
/// Writes, one block each: more than go into memory before a vault's tree is written, which is when heights are
/// forgotten.
const WRITES: u64 = 300;

/// What a method tells of a height: the height that it read, and the value of the entity there, if it tells one.
type Told = (u64, Option<Vec<u8>>);

fn value_at(height: u64) -> Vec<u8> {
    height.to_be_bytes().to_vec()
}

/// The floor and the tip that a refusal tells.
#[track_caller]
fn refused<T: Debug>(what: &str, answer: Result<T, Status>) -> (u64, u64) {
    let status = answer.expect_err(what);
    let expected = (Code::FailedPrecondition, "HEIGHT_UNAVAILABLE".to_owned());
    assert_eq!(why(&status), expected, "{what}: {status:?}");
    let facts = status.get_details_error_info().unwrap().metadata;
    (facts["floor"].parse().unwrap(), facts["tip"].parse().unwrap())
}

/// A vault on a node, asked at heights.
struct Asked {
    node: Node,
    vault: VaultRef,
}

impl Asked {
    /// Every method that reads at a height, by name.
    const METHODS: [&str; 8] = [
        "HistoricalRead",
        "VerifiedRead",
        "ListEntities",
        "ListRelationships",
        "ListResources",
        "VerifiedGet",
        "VerifiedList",
        "ExportBulk",
    ];

    /// What a method tells of a height.
    async fn at(&self, method: &str, height: u64) -> Result<Told, Status> {
        let (namespace_id, vault_id) = wire(self.vault);
        let (key, at_height) = ("key".to_owned(), Some(height));
        match method {
            "HistoricalRead" => {
                let at_height = height;
                let request = v1::HistoricalReadRequest {
                    namespace_id,
                    vault_id,
                    key,
                    at_height,
                    ..Default::default()
                };
                let told = self.node.reads().historical_read(request).await?.into_inner();
                Ok((told.block_height, told.value))
            }
            "VerifiedRead" => {
                let request = v1::VerifiedReadRequest {
                    namespace_id,
                    vault_id,
                    key,
                    at_height,
                    ..Default::default()
                };
                let told = self.node.reads().verified_read(request).await?.into_inner();
                assert_eq!(told.block_header.unwrap().height, told.block_height);
                Ok((told.block_height, told.value))
            }
            "ListEntities" => {
                let request = v1::ListEntitiesRequest {
                    namespace_id,
                    vault_id,
                    at_height,
                    ..Default::default()
                };
                let told = self.node.reads().list_entities(request).await?.into_inner();
                let found = told.entities.into_iter().find(|entity| entity.key == key);
                Ok((told.block_height, found.map(|entity| entity.value)))
            }
            "VerifiedGet" => self.verified_get(|request| request.at_height = at_height).await,
            "VerifiedList" => {
                let request = v1::VerifiedListRequest { at_height, ..self.list(10) };
                let told = self.node.ledger().verified_list(request).await?.into_inner();
                assert!(!told.package.is_empty());
                Ok((told.height, None))
            }
            _ => self.relationships_at(method, height).await,
        }
    }

    async fn relationships_at(&self, method: &str, height: u64) -> Result<Told, Status> {
        let (namespace_id, vault_id) = wire(self.vault);
        let at_height = Some(height);
        match method {
            "ListRelationships" => {
                let request = v1::ListRelationshipsRequest {
                    namespace_id,
                    vault_id,
                    at_height,
                    ..Default::default()
                };
                let told = self.node.reads().list_relationships(request).await?.into_inner();
                assert_eq!(told.relationships.len(), 2);
                Ok((told.block_height, None))
            }
            "ListResources" => {
                let request = v1::ListResourcesRequest {
                    namespace_id,
                    vault_id,
                    at_height,
                    resource_type: "document".to_owned(),
                    ..Default::default()
                };
                let told = self.node.reads().list_resources(request).await?.into_inner();
                assert_eq!(told.resources.len(), 2);
                Ok((told.block_height, None))
            }
            _ => {
                let request = self.export();
                let told = self.exported(v1::ExportBulkRequest { at_height, ..request }).await?;
                let found = told.entities.into_iter().find(|entity| entity.key == "key");
                Ok((told.height, found.map(|entity| entity.value)))
            }
        }
    }

    async fn verified_get(
        &self,
        change: impl Fn(&mut v1::VerifiedGetRequest),
    ) -> Result<Told, Status> {
        let (namespace_id, vault_id) = wire(self.vault);
        let keys = vec![v1::VerifiedKey { key: Some(Key::Entity("key".to_owned())) }];
        let mut request =
            v1::VerifiedGetRequest { namespace_id, vault_id, keys, ..Default::default() };
        change(&mut request);
        let told = self.node.ledger().verified_get(request).await?.into_inner();
        Ok((told.height, None))
    }

    /// A list of all entities.
    fn list(&self, limit: u32) -> v1::VerifiedListRequest {
        let (namespace_id, vault_id) = wire(self.vault);
        let list = Some(List::EntityPrefix(String::new()));
        v1::VerifiedListRequest { namespace_id, vault_id, list, limit, ..Default::default() }
    }

    fn export(&self) -> v1::ExportBulkRequest {
        let (namespace_id, vault_id) = wire(self.vault);
        v1::ExportBulkRequest { namespace_id, vault_id, ..Default::default() }
    }

    /// The first chunk of an export.
    async fn exported(
        &self,
        request: v1::ExportBulkRequest,
    ) -> Result<v1::ExportBulkResponse, Status> {
        let mut chunks = self.node.ledger().export_bulk(request).await?.into_inner();
        Ok(chunks.message().await?.expect("an export has a chunk"))
    }

    async fn receipt(
        &self,
        block_height: u64,
        known_size: Option<u64>,
    ) -> Result<v1::GetReceiptResponse, Status> {
        let (namespace_id, vault_id) = wire(self.vault);
        let transaction = Some(Choice::TxIndex(0));
        let request =
            v1::GetReceiptRequest { namespace_id, vault_id, block_height, transaction, known_size };
        Ok(self.node.ledger().get_receipt(request).await?.into_inner())
    }

    /// One more block.
    async fn write(&self, height: u64) {
        assert_eq!(self.node.put(self.vault, "key", &value_at(height)).await.unwrap(), height);
    }
}

/// A list and an export that begin now, each with what it goes on with.
struct Begun {
    entities: v1::ListEntitiesRequest,
    verified: v1::VerifiedListRequest,
    export: v1::ExportBulkRequest,
}

impl Begun {
    async fn now(asked: &Asked) -> Begun {
        let (namespace_id, vault_id) = wire(asked.vault);
        let mut entities =
            v1::ListEntitiesRequest { namespace_id, vault_id, limit: 1, ..Default::default() };
        let page = asked.node.reads().list_entities(entities.clone()).await.unwrap().into_inner();
        entities.page_token = page.next_page_token;
        let mut verified = asked.list(1);
        let page = asked.node.ledger().verified_list(verified.clone()).await.unwrap().into_inner();
        verified.page_token = page.next_page_token;
        let mut export = asked.export();
        export.cursor = asked.exported(export.clone()).await.unwrap().cursor;
        assert!(!entities.page_token.is_empty() && !verified.page_token.is_empty());
        assert!(!export.cursor.is_empty());
        Begun { entities, verified, export }
    }

    /// What becomes of each when it goes on.
    async fn go_on(&self, asked: &Asked) -> [Result<(), Status>; 3] {
        [
            asked.node.reads().list_entities(self.entities.clone()).await.map(drop),
            asked.node.ledger().verified_list(self.verified.clone()).await.map(drop),
            asked.exported(self.export.clone()).await.map(drop),
        ]
    }
}

/// Sizes of the log that are not reached yet are refused like heights.
async fn sizes_beyond_the_log_are_refused(asked: &Asked, floor: u64, tip: u64) {
    // Blocks are counted from the genesis.
    let size = tip + 1;
    for at_height in [None, Some(tip), Some(floor)] {
        let known = |size| {
            move |request: &mut v1::VerifiedGetRequest| {
                (request.known_size, request.at_height) = (Some(size), at_height);
            }
        };
        let (height, _) = asked.verified_get(known(size)).await.unwrap();
        assert_eq!(height, at_height.unwrap_or(tip));
        let told = refused("a known size", asked.verified_get(known(size + 1)).await);
        assert_eq!(told, (floor, tip));
    }
    assert!(!asked.receipt(tip, Some(size)).await.unwrap().package.is_empty());
    let told = refused("a receipt's known size", asked.receipt(tip, Some(size + 1)).await);
    assert_eq!(told, (floor, tip));
    assert_eq!(refused("a block to come", asked.receipt(tip + 1, None).await), (floor, tip));
    let (namespace_id, vault_id) = wire(asked.vault);
    for fresh in [false, true] {
        let checkpoint = |size| {
            let min_size = Some(size);
            let request = v1::GetCheckpointRequest { namespace_id, vault_id, min_size, fresh };
            let mut ledger = asked.node.ledger();
            async move { Ok(ledger.get_checkpoint(request).await?.into_inner().size) }
        };
        assert_eq!(checkpoint(size).await.map_err(|status: Status| status.to_string()), Ok(size));
        assert_eq!(refused("a checkpoint", checkpoint(size + 1).await), (floor, tip));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn below_its_floor_a_node_refuses_every_read_and_from_there_on_it_answers() {
    let kept = KEPT.to_string();
    let environment = [("LEDGER_HISTORY_BLOCKS", kept.as_str()), ("LEDGER_SHARDS", "1")];
    let cluster = Cluster::start_with(1, &environment).await;
    let vault = cluster.vaults("heights", 1).await[0];
    let asked = Asked { node: cluster.node(0), vault };
    let first = vec![
        set("key", &value_at(1)),
        set("other", b"1"),
        grant("document:1", "viewer", "user:1"),
        grant("document:2", "viewer", "user:2"),
    ];
    asked.node.writes().write(write_request(vault, first)).await.unwrap();
    let begun = Begun::now(&asked).await;
    asked.write(2).await;
    for outcome in begun.go_on(&asked).await {
        outcome.unwrap();
    }
    for height in 3..=WRITES {
        asked.write(height).await;
    }
    let tip = WRITES;

    let (floor, told_tip) = refused("the first height", asked.at("HistoricalRead", 1).await);
    assert_eq!(told_tip, tip);
    assert!(floor > 2 && floor + KEPT <= tip, "{floor}");
    for method in Asked::METHODS {
        for height in [1, floor - 1] {
            let told = refused(method, asked.at(method, height).await);
            assert_eq!(told, (floor, tip), "{method} at {height}");
        }
        for height in [floor, floor + 1, tip - 1, tip] {
            let (told_height, value) = asked.at(method, height).await.unwrap();
            assert_eq!(told_height, height, "{method}");
            if let Some(value) = value {
                assert_eq!(value, value_at(height), "{method} at {height}");
            }
        }
        assert_eq!(refused(method, asked.at(method, tip + 1).await), (floor, tip));
    }
    // What began above the floor and is below it now cannot be gone on with.
    for outcome in begun.go_on(&asked).await {
        assert_eq!(refused("what began before", outcome), (floor, tip));
    }
    sizes_beyond_the_log_are_refused(&asked, floor, tip).await;

    // Blocks are no state: all of them stay, with what was written in them.
    assert!(!asked.receipt(1, None).await.unwrap().package.is_empty());
    let (namespace_id, vault_id) = wire(vault);
    let request = v1::WatchChangesRequest {
        namespace_id,
        vault_id,
        start_height: Some(1),
        include_values: true,
        ..Default::default()
    };
    let mut changes = asked.node.ledger().watch_changes(request).await.unwrap().into_inner();
    for height in 1..=tip {
        let block = changes.message().await.unwrap().unwrap().block.expect("no heartbeat yet");
        assert_eq!(block.height, height);
        assert_eq!(block.changes[0].value.as_deref(), Some(&value_at(height)[..]));
    }
}
