//! Leaders, retries, deadlines: over real connections.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::{Duration, Instant};

use ledger_client::{Client, ClientError, ListOptions, Reason, RejectionCode};
use ledger_proof::{BlockHeader, EntryPosition};
use ledger_proto::convert::block;
use ledger_proto::v1;
use ledger_types::Digest;
use support::{VAULT, config, connect, refusal, set, start, written};
use tokio::net::TcpListener;
use tonic::Code;

#[tokio::test]
async fn a_hint_leads_to_the_leader_and_is_remembered() {
    let (follower, follower_address) = start().await;
    let (leader, leader_address) = start().await;
    let hint = leader_address.clone();
    follower.writes.answer(move |_, _| {
        let told = [("leader_address", hint.as_str()), ("group", "3")];
        Err(refusal(Code::Unavailable, "NOT_LEADER", &told, Some(10)))
    });
    leader.writes.answer(|number, _| Ok(written(number as u64 + 1)));
    *leader.leader_told.lock() = Some((leader_address, 3));
    let client = connect(&[&follower_address]).await;
    for height in 1..=4 {
        let receipt = client.write(VAULT, set("key")).await.unwrap();
        assert_eq!(receipt.height, height);
    }
    assert_eq!(follower.writes.count(), 1);
    assert_eq!(leader.writes.count(), 4);
}

#[tokio::test]
async fn an_answer_that_was_forwarded_teaches_the_leader() {
    let (follower, follower_address) = start().await;
    let (leader, leader_address) = start().await;
    follower.writes.answer(|_, _| Ok(written(1)));
    *follower.leader_told.lock() = Some((leader_address, 3));
    leader.writes.answer(|_, _| Ok(written(2)));
    let client = connect(&[&follower_address]).await;
    assert_eq!(client.write(VAULT, set("key")).await.unwrap().height, 1);
    assert_eq!(client.write(VAULT, set("key")).await.unwrap().height, 2);
    assert_eq!(follower.writes.count(), 1);
}

#[tokio::test]
async fn two_nodes_that_name_each_other_do_not_make_the_client_spin() {
    let (first, first_address) = start().await;
    let (second, second_address) = start().await;
    for (node, other) in [(&first, &second_address), (&second, &first_address)] {
        let other = other.clone();
        node.writes.answer(move |_, _| {
            let told = [("leader_address", other.as_str()), ("group", "3")];
            Err(refusal(Code::Unavailable, "NOT_LEADER", &told, None))
        });
    }
    let client = connect(&[&first_address]).await.with_deadline(Duration::from_millis(300));
    let error = client.write(VAULT, set("key")).await.unwrap_err();
    assert!(matches!(error, ClientError::DeadlineExceeded { outcome_unknown: false, .. }));
    assert_eq!(error.reason(), Some(&Reason::NotLeader));
    let asked = first.writes.count() + second.writes.count();
    assert!((4..100).contains(&asked), "{asked} requests in 300 ms with waits of 5 to 20 ms");
}

#[tokio::test]
async fn a_retry_carries_the_same_key_and_the_next_write_another() {
    let (node, address) = start().await;
    node.writes.answer(|number, _| match number {
        0 => Err(refusal(Code::Unknown, "OUTCOME_UNKNOWN", &[], None)),
        1 => Err(refusal(Code::Unavailable, "NO_LEADER", &[], Some(1))),
        _ => Ok(written(5)),
    });
    let client = connect(&[&address]).await;
    assert_eq!(client.write(VAULT, set("key")).await.unwrap().height, 5);
    client.write(VAULT, set("key")).await.unwrap();
    let seen = node.writes.seen.lock();
    assert_eq!(seen.len(), 4);
    assert_eq!(seen[0].idempotency_key.len(), 16);
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0], seen[2]);
    assert_ne!(seen[0].idempotency_key, seen[3].idempotency_key);
}

/// What the cluster answers to a write that had no effect.
fn rejected(code: v1::WriteErrorCode) -> v1::WriteResponse {
    let error = v1::WriteError { code: code.into(), ..v1::WriteError::default() };
    v1::WriteResponse { result: Some(v1::write_response::Result::Error(error)) }
}

/// A failed condition is not remembered by the cluster. If an earlier attempt is still on its way, it may find the
/// condition true and commit: the caller must not be told that nothing happened.
#[tokio::test]
async fn a_failed_condition_is_no_verdict_on_an_attempt_without_an_answer() {
    use v1::WriteErrorCode as Rejected;
    for (code, first_reason, is_known) in [
        (Rejected::KeyExists, "OUTCOME_UNKNOWN", false),
        (Rejected::VersionMismatch, "OUTCOME_UNKNOWN", false),
        (Rejected::SequenceGap, "OUTCOME_UNKNOWN", false),
        (Rejected::KeyExists, "NO_LEADER", true),
        (Rejected::AlreadyCommitted, "OUTCOME_UNKNOWN", true),
        (Rejected::IdempotencyKeyReused, "OUTCOME_UNKNOWN", true),
    ] {
        let (node, address) = start().await;
        node.writes.answer(move |number, _| match number {
            0 => Err(refusal(Code::Unavailable, first_reason, &[], None)),
            _ => Ok(rejected(code)),
        });
        let client = connect(&[&address]).await;
        let error = client.write(VAULT, set("key")).await.unwrap_err();
        assert_eq!(error.outcome_unknown(), !is_known, "{code:?} after {first_reason}: {error}");
        assert_eq!(matches!(error, ClientError::Rejected(_)), is_known, "{error}");
        assert_eq!(node.writes.count(), 2);
    }
}

#[tokio::test]
async fn making_a_namespace_is_not_repeated_once_it_may_have_happened() {
    let (node, address) = start().await;
    let client = connect(&[&address]).await;
    node.namespaces.answer(|_, _| Err(refusal(Code::Unknown, "OUTCOME_UNKNOWN", &[], None)));
    let error = client.create_namespace("n").await.unwrap_err();
    assert!(matches!(error, ClientError::OutcomeUnknown(_)) && error.outcome_unknown());
    assert_eq!(node.namespaces.count(), 1);
    node.namespaces.answer(|number, _| match number {
        1 => Err(refusal(Code::Unavailable, "NO_LEADER", &[], Some(1))),
        _ => Ok(v1::CreateNamespaceResponse {
            namespace_id: Some(v1::NamespaceId { id: 4 }),
            shard_id: None,
        }),
    });
    assert_eq!(client.create_namespace("n").await.unwrap().0, 4);
    assert_eq!(node.namespaces.count(), 3);
}

#[tokio::test]
async fn a_namespace_can_be_asked_for_until_it_is_there() {
    let (node, address) = start().await;
    let client = connect(&[&address]).await;
    // Nobody knows what became of the first attempt; it comes to be after it was looked for in vain.
    node.namespaces.answer(|number, _| match number {
        0 => Err(refusal(Code::Unknown, "OUTCOME_UNKNOWN", &[], None)),
        _ => Err(refusal(Code::AlreadyExists, "NAMESPACE_EXISTS", &[], None)),
    });
    node.namespaces_by_name.answer(|number, _| match number {
        0 => Err(refusal(Code::NotFound, "NAMESPACE_NOT_FOUND", &[], None)),
        _ => Ok(v1::GetNamespaceResponse {
            namespace_id: Some(v1::NamespaceId { id: 9 }),
            name: "n".to_owned(),
            shard_id: Some(v1::ShardId { id: 0 }),
            status: v1::NamespaceStatus::Active.into(),
            ..v1::GetNamespaceResponse::default()
        }),
    });
    assert_eq!(client.ensure_namespace("n").await.unwrap().0, 9);
    assert_eq!((node.namespaces.count(), node.namespaces_by_name.count()), (2, 2));
    // What is certain is told at once.
    node.namespaces
        .answer(|_, _| Err(refusal(Code::InvalidArgument, "INVALID_ARGUMENT", &[], None)));
    let error = client.ensure_namespace("n").await.unwrap_err();
    assert!(matches!(error, ClientError::Server(_)), "{error}");
    assert_eq!((node.namespaces.count(), node.namespaces_by_name.count()), (3, 2));
    // Nor does it go on for ever.
    node.namespaces.answer(|_, _| Err(refusal(Code::Unknown, "OUTCOME_UNKNOWN", &[], None)));
    node.namespaces_by_name
        .answer(|_, _| Err(refusal(Code::NotFound, "NAMESPACE_NOT_FOUND", &[], None)));
    let error = client.with_deadline(Duration::from_millis(50)).ensure_namespace("n").await;
    assert!(error.is_err());
}

#[tokio::test]
async fn a_new_vault_is_told_with_its_first_block_even_if_the_node_did_not_wait_for_it() {
    let (node, address) = start().await;
    let client = connect(&[&address]).await;
    let position = EntryPosition { shard: 1, term: 5, index: 6, timestamp_ns: 7 };
    let genesis = BlockHeader::genesis(VAULT, Digest::ZERO, 1, position);
    node.vaults.answer(|_, _| {
        Ok(v1::CreateVaultResponse { vault_id: Some(VAULT.vault.into()), genesis: None })
    });
    node.blocks.answer(move |number, _| match number {
        0 => Err(refusal(Code::NotFound, "VAULT_NOT_FOUND", &[], None)),
        1 => Err(refusal(Code::Unavailable, "NO_LEADER", &[], None)),
        _ => {
            let header = Some(block::wire_header(&genesis, "1"));
            let block = Some(v1::Block { header, transactions: Vec::new() });
            Ok(v1::GetBlockResponse { block })
        }
    });
    assert_eq!(client.create_vault(VAULT.namespace).await.unwrap(), (VAULT, genesis));
    assert_eq!((node.vaults.count(), node.blocks.count()), (1, 3));
    // The vault is there then, but nobody can say as what.
    node.blocks.answer(|_, _| Err(refusal(Code::NotFound, "VAULT_NOT_FOUND", &[], None)));
    let impatient = client.with_deadline(Duration::from_millis(80));
    let error = impatient.create_vault(VAULT.namespace).await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
}

#[tokio::test]
async fn a_range_of_blocks_is_the_one_that_was_asked_for() {
    let (node, address) = start().await;
    let client = connect(&[&address]).await;
    let told = |height: u64| {
        let position = EntryPosition { shard: 1, term: 5, index: 6 + height, timestamp_ns: 7 };
        let genesis = BlockHeader::genesis(VAULT, Digest::ZERO, 1, position);
        let header = Some(block::wire_header(&BlockHeader { height, ..genesis }, "1"));
        v1::Block { header, transactions: Vec::new() }
    };
    let answer = move |heights: &'static [u64]| {
        node.block_ranges.answer(move |_, _| {
            let blocks = heights.iter().map(|height| told(*height)).collect();
            Ok(v1::GetBlockRangeResponse { blocks, current_tip: 9 })
        });
    };
    for fits in [&[3, 4, 5][..], &[3], &[]] {
        answer(fits);
        let blocks = client.blocks(VAULT, (3, 5)).await.unwrap();
        assert!(blocks.iter().map(|block| block.header.height).eq(fits.iter().copied()));
    }
    for wrong in [&[3, 5][..], &[4], &[3, 4, 5, 6]] {
        answer(wrong);
        let error = client.blocks(VAULT, (3, 5)).await.unwrap_err();
        assert!(matches!(error, ClientError::Malformed(_)), "{error}");
    }
}

#[tokio::test]
async fn an_overloaded_node_is_left_alone_as_long_as_it_asks() {
    let (node, address) = start().await;
    node.writes.answer(|number, _| match number {
        0 => Err(refusal(Code::ResourceExhausted, "OVERLOADED", &[], Some(120))),
        _ => Ok(written(1)),
    });
    let client = connect(&[&address]).await;
    let began = Instant::now();
    client.write(VAULT, set("key")).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(120), "{:?}", began.elapsed());
    assert_eq!(node.writes.count(), 2);
}

#[tokio::test]
async fn what_repeating_cannot_mend_is_not_repeated() {
    let (node, address) = start().await;
    let client = connect(&[&address]).await;
    node.writes.answer(|_, _| Err(refusal(Code::NotFound, "VAULT_NOT_FOUND", &[], None)));
    let error = client.write(VAULT, set("key")).await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::VaultNotFound));
    assert_eq!(node.writes.count(), 1);
    node.writes.answer(|_, _| {
        let metadata = [("limit", "value_bytes_max"), ("max", "1048576")];
        Err(refusal(Code::InvalidArgument, "LIMIT_EXCEEDED", &metadata, None))
    });
    let Err(ClientError::Server(error)) = client.write(VAULT, set("key")).await else {
        panic!("not a refusal")
    };
    assert_eq!((error.code, error.reason), (Code::InvalidArgument, Reason::LimitExceeded));
    assert_eq!(error.metadata["max"], "1048576");
    assert_eq!(node.writes.count(), 2);
}

#[tokio::test]
async fn a_failed_condition_is_a_rejection_with_the_current_state() {
    let (node, address) = start().await;
    node.writes.answer(|_, _| {
        let error = v1::WriteError {
            code: v1::WriteErrorCode::VersionMismatch.into(),
            key: "key".to_owned(),
            current_version: Some(8),
            ..v1::WriteError::default()
        };
        Ok(v1::WriteResponse { result: Some(v1::write_response::Result::Error(error)) })
    });
    let client = connect(&[&address]).await;
    let Err(ClientError::Rejected(rejection)) = client.write(VAULT, set("key")).await else {
        panic!("not a rejection")
    };
    assert_eq!(rejection.code, RejectionCode::VersionMismatch);
    assert_eq!((rejection.key.as_str(), rejection.current_version), ("key", Some(8)));
}

#[tokio::test]
async fn the_deadline_holds_and_tells_whether_the_write_may_have_happened() {
    let (node, address) = start().await;
    let client = connect(&[&address]).await.with_deadline(Duration::from_millis(300));
    node.writes.answer(|_, _| Err(refusal(Code::Unavailable, "NO_LEADER", &[], Some(1))));
    let began = Instant::now();
    let error = client.write(VAULT, set("key")).await.unwrap_err();
    assert!(matches!(error, ClientError::DeadlineExceeded { outcome_unknown: false, .. }));
    assert!(node.writes.count() > 2, "{} attempts", node.writes.count());
    *node.writes.delay.lock() = Duration::from_secs(30);
    let error = client.write(VAULT, set("key")).await.unwrap_err();
    assert!(matches!(error, ClientError::DeadlineExceeded { outcome_unknown: true, .. }));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_deadline_that_passes_tells_what_was_in_the_way_before() {
    let (node, address) = start().await;
    let client = connect(&[&address]).await.with_deadline(Duration::from_millis(200));
    node.writes.answer(|attempt, _| match attempt {
        0 | 1 => Err(refusal(Code::Unavailable, "NO_LEADER", &[], Some(1))),
        _ => Err(refusal(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", &[], None)),
    });
    let error = client.write(VAULT, set("key")).await.unwrap_err();
    assert!(node.writes.count() > 2, "{} attempts", node.writes.count());
    assert!(matches!(error, ClientError::DeadlineExceeded { .. }), "{error:?}");
    assert_eq!(error.reason(), Some(&Reason::NoLeader), "{error:?}");

    // Nor does a node that is down hide it, which is asked in between.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nowhere = free.local_addr().unwrap().to_string();
    drop(free);
    let client = connect(&[&address, &nowhere]).await.with_deadline(Duration::from_millis(200));
    node.writes.answer(|_, _| Err(refusal(Code::Unavailable, "NO_LEADER", &[], Some(1))));
    let error = client.write(VAULT, set("key")).await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::NoLeader), "{error:?}");
}

#[tokio::test]
async fn a_node_that_is_down_is_passed_over() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let down = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (node, address) = start().await;
    node.writes.answer(|number, _| Ok(written(number as u64 + 1)));
    let client = connect(&[&down, &address]).await;
    for height in 1..=5 {
        assert_eq!(client.write(VAULT, set("key")).await.unwrap().height, height);
    }
    let alone = config(&[&down]);
    let unreachable = Client::unconnected(alone).unwrap().with_deadline(Duration::from_millis(100));
    let error = unreachable.status().await.unwrap_err();
    let ClientError::DeadlineExceeded { last: Some(last), outcome_unknown: false, .. } = error
    else {
        panic!("{error}")
    };
    assert!(matches!(*last, ClientError::Unreachable { .. }), "{last}");
}

#[tokio::test]
async fn the_budget_bounds_repetitions_of_all_calls_together() {
    let (node, address) = start().await;
    let mut settings = config(&[&address]);
    settings.retry.budget = 3;
    settings.retry.budget_per_second = 0;
    let client = Client::connect(settings).await.unwrap();
    node.writes.answer(|_, _| Err(refusal(Code::Unavailable, "NO_LEADER", &[], Some(1))));
    let error = client.write(VAULT, set("key")).await.unwrap_err();
    assert!(matches!(error, ClientError::RetryBudgetSpent { outcome_unknown: false, .. }));
    assert_eq!(node.writes.count(), 4);
    client.write(VAULT, set("key")).await.unwrap_err();
    assert_eq!(node.writes.count(), 5);
}

#[tokio::test]
async fn status_teaches_the_other_nodes() {
    let (node, address) = start().await;
    let (_other, other_address) = start().await;
    *node.nodes_told.lock() = vec![address.clone(), other_address.clone()];
    let client = connect(&[&address]).await;
    assert_eq!(client.addresses(), [address, other_address]);
}

#[tokio::test]
async fn a_list_goes_on_where_its_page_ended() {
    let (node, address) = start().await;
    node.entities.answer(|_, request| {
        let (key, next) = match request.page_token.as_str() {
            "" => ("a", "token"),
            "token" => ("b", ""),
            other => panic!("{other}"),
        };
        let entity = v1::Entity { key: key.to_owned(), version: 2, ..v1::Entity::default() };
        Ok(v1::ListEntitiesResponse {
            entities: vec![entity],
            block_height: 6,
            next_page_token: next.to_owned(),
        })
    });
    let client = connect(&[&address]).await;
    let mut pages = client.list_entities(VAULT, "", ListOptions::default()).unwrap();
    let mut keys = Vec::new();
    while let Some(page) = pages.next_page().await.unwrap() {
        assert_eq!(page.height, 6);
        keys.extend(page.items.into_iter().map(|entity| entity.key));
    }
    assert_eq!(keys, ["a", "b"]);
    assert_eq!(pages.next_page().await.unwrap(), None);
}
