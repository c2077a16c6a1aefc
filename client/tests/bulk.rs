//! Imports and exports across broken streams.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use ledger_client::{ClientError, ExportOptions, ImportChunk, Reason, Relationship};
use ledger_proto::v1;
use ledger_proto::v1::import_bulk_request::Message;
use support::{VAULT, connect, refusal, start};
use tonic::{Code, Status};

fn chunk(subject: &str) -> ImportChunk {
    let (resource, relation) = ("doc:1".to_owned(), "viewer".to_owned());
    let one = Relationship { resource, relation, subject: subject.to_owned() };
    ImportChunk { entities: Vec::new(), relationships: vec![one] }
}

fn durable(durable_chunk: u64) -> Option<v1::ImportBulkResponse> {
    Some(v1::ImportBulkResponse { durable_chunk, block_height: durable_chunk })
}

/// What a node saw of an import: its beginnings as 0, its chunks by number and subject.
fn seen(node: &support::Node) -> Vec<(u64, String)> {
    let message = |request: &v1::ImportBulkRequest| match request.message.as_ref().unwrap() {
        Message::Begin(begin) => (0, begin.client_id.as_ref().unwrap().id.clone()),
        Message::Chunk(chunk) => (chunk.number, chunk.relationships[0].subject.clone()),
    };
    node.imports.seen.lock().iter().map(message).collect()
}

#[tokio::test]
async fn a_broken_import_goes_on_where_the_cluster_stopped() {
    let (node, address) = start().await;
    node.imports.answer(|number, request| match (number, request.message.as_ref().unwrap()) {
        (0, Message::Begin(_)) => Ok(durable(0)),
        // The first two became durable, and nobody said so.
        (1 | 2, _) => Ok(None),
        (3, _) => Err(Status::unavailable("gone")),
        (_, Message::Begin(_)) => Ok(durable(2)),
        (_, Message::Chunk(chunk)) => Ok(durable(chunk.number)),
    });
    let client = connect(&[&address]).await;
    let mut import = client.import(VAULT, "load").await.unwrap();
    for subject in ["a", "b", "c", "d"] {
        import.send(chunk(subject)).await.unwrap();
    }
    import.finish().await.unwrap();
    assert_eq!((import.durable(), import.height(), import.next_number()), (4, 4, 5));
    let seen = seen(&node);
    let told: Vec<(u64, &str)> = seen.iter().map(|(n, text)| (*n, text.as_str())).collect();
    assert_eq!(told[..4], [(0, "load"), (1, "a"), (2, "b"), (3, "c")]);
    let again = told[4..].iter().position(|one| *one == (0, "load")).unwrap() + 4;
    assert_eq!(told[again..], [(0, "load"), (3, "c"), (4, "d")]);
}

#[tokio::test]
async fn an_import_counts_on_from_what_is_durable() {
    let (node, address) = start().await;
    node.imports.answer(|_, request| match request.message.as_ref().unwrap() {
        Message::Begin(_) => Ok(durable(7)),
        Message::Chunk(chunk) => Ok(durable(chunk.number)),
    });
    let client = connect(&[&address]).await;
    let mut import = client.import(VAULT, "load").await.unwrap();
    assert_eq!((import.durable(), import.next_number()), (7, 8));
    assert_eq!(import.send(chunk("a")).await.unwrap(), 8);
    import.finish().await.unwrap();
    assert_eq!(import.durable(), 8);
}

#[tokio::test]
async fn a_chunk_that_is_refused_ends_the_import() {
    let (node, address) = start().await;
    node.imports.answer(|_, request| match request.message.as_ref().unwrap() {
        Message::Begin(_) => Ok(durable(0)),
        Message::Chunk(_) => Err(refusal(Code::InvalidArgument, "INVALID_ARGUMENT", &[], None)),
    });
    let client = connect(&[&address]).await;
    let mut import = client.import(VAULT, "load").await.unwrap();
    import.send(chunk("")).await.unwrap();
    let error = import.finish().await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::InvalidArgument), "{error}");
    assert_eq!(node.imports.count(), 2);
}

#[tokio::test]
async fn an_import_follows_its_leader() {
    let (follower, follower_address) = start().await;
    let (leader, leader_address) = start().await;
    follower.imports.answer(move |_, _| {
        let told = [("leader_address", leader_address.as_str()), ("group", "3")];
        Err(refusal(Code::Unavailable, "NOT_LEADER", &told, Some(10)))
    });
    leader.imports.answer(|_, request| match request.message.as_ref().unwrap() {
        Message::Begin(_) => Ok(durable(0)),
        Message::Chunk(chunk) => Ok(durable(chunk.number)),
    });
    let client = connect(&[&follower_address]).await;
    let mut import = client.import(VAULT, "load").await.unwrap();
    import.send(chunk("a")).await.unwrap();
    import.finish().await.unwrap();
    assert_eq!((follower.imports.count(), leader.imports.count()), (1, 2));
}

fn exported(height: u64, subject: &str, cursor: &str) -> Result<v1::ExportBulkResponse, Status> {
    let (resource, relation) = ("doc:1".to_owned(), "viewer".to_owned());
    let one = v1::Relationship { resource, relation, subject: subject.to_owned() };
    let cursor = cursor.to_owned();
    Ok(v1::ExportBulkResponse { height, relationships: vec![one], cursor, ..Default::default() })
}

#[tokio::test]
async fn a_broken_export_goes_on_behind_its_last_chunk() {
    let (node, address) = start().await;
    node.exports.answer(|number, request| match number {
        0 => Ok(vec![exported(5, "a", "after a"), Err(Status::unavailable("gone"))]),
        1 => {
            assert_eq!(request.cursor, "after a");
            // Nor is a stream whole that ends before its last chunk.
            Ok(vec![exported(5, "b", "after b")])
        }
        _ => {
            assert_eq!(request.cursor, "after b");
            Ok(vec![exported(5, "c", "")])
        }
    });
    let client = connect(&[&address]).await;
    let mut export = client.export(VAULT, ExportOptions::default());
    let mut found = Vec::new();
    while let Some(chunk) = export.next().await.unwrap() {
        assert_eq!(chunk.height, 5);
        found.extend(chunk.relationships.into_iter().map(|one| one.subject));
    }
    assert_eq!(found, ["a", "b", "c"]);
    assert!(export.next().await.unwrap().is_none());
    assert_eq!(node.exports.count(), 3);
}

#[tokio::test]
async fn an_export_shows_one_height_or_fails() {
    let (node, address) = start().await;
    node.exports.answer(|_, _| Ok(vec![exported(5, "a", "after a"), exported(6, "b", "")]));
    let client = connect(&[&address]).await;
    let mut export = client.export(VAULT, ExportOptions::default());
    export.next().await.unwrap();
    assert!(matches!(export.next().await, Err(ClientError::Malformed("height"))));
    let gone = || refusal(Code::FailedPrecondition, "HEIGHT_UNAVAILABLE", &[], None);
    node.exports.answer(move |_, _| Ok(vec![exported(5, "a", "after a"), Err(gone())]));
    let mut export = client.export(VAULT, ExportOptions::default());
    export.next().await.unwrap();
    let error = export.next().await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::HeightUnavailable), "{error}");
}
