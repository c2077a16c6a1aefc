//! Pipelines of writes: over real streams.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use ledger_client::{Client, ClientError, PipelineOptions, RejectionCode};
use ledger_proto::v1;
use ledger_types::limits::REQUEST_BYTES_MAX;
use support::{VAULT, config, connect, refusal, set, start, streamed, streamed_refusal, written};
use tonic::{Code, Status};

/// The key that a write sets, as the number it names.
fn number_of(message: &v1::WriteStreamRequest) -> u64 {
    let write = message.write.as_ref().unwrap();
    let Some(v1::operation::Op::SetEntity(set)) = &write.operations[0].op else { panic!() };
    set.key.parse().unwrap()
}

fn key_of(message: &v1::WriteStreamRequest) -> Vec<u8> {
    message.write.as_ref().unwrap().idempotency_key.clone()
}

fn rejected(code: v1::WriteErrorCode) -> v1::WriteResponse {
    let error = v1::WriteError { code: code.into(), ..v1::WriteError::default() };
    v1::WriteResponse { result: Some(v1::write_response::Result::Error(error)) }
}

#[tokio::test]
async fn many_writes_share_a_stream_and_each_gets_its_own_answer() {
    let (node, address) = start().await;
    node.streamed.answer(|_, message| Ok(streamed(written(number_of(message)))));
    let client = connect(&[&address]).await;
    let pipeline = client.write_pipeline(PipelineOptions::default());
    let mut pending = Vec::new();
    for number in 1..=300_u64 {
        pending.push((number, pipeline.submit(VAULT, set(&number.to_string())).await.unwrap()));
    }
    for (number, write) in pending.into_iter().rev() {
        assert_eq!(write.await.unwrap().height, number);
    }
    assert_eq!(node.streams_opened.load(Ordering::SeqCst), 1);
    assert_eq!(node.writes.count(), 0);
    let seen = node.streamed.seen.lock();
    let keys: std::collections::BTreeSet<_> = seen.iter().map(key_of).collect();
    assert_eq!(keys.len(), 300, "each write has a key of its own");
    assert!(seen.iter().all(|message| message.timeout_ms > 0));
}

#[tokio::test]
async fn a_refused_write_follows_the_hint_and_the_others_stay() {
    let (follower, follower_address) = start().await;
    let (leader, leader_address) = start().await;
    let hint = leader_address.clone();
    follower.streamed.answer(move |_, _| {
        let told = [("leader_address", hint.as_str()), ("group", "3")];
        Ok(streamed_refusal(Code::Unavailable, "NOT_LEADER", &told))
    });
    leader.streamed.answer(|_, message| Ok(streamed(written(number_of(message)))));
    let client = connect(&[&follower_address]).await;
    let pipeline = client.write_pipeline(PipelineOptions::default());
    assert_eq!(pipeline.submit(VAULT, set("4")).await.unwrap().await.unwrap().height, 4);
    assert_eq!(pipeline.submit(VAULT, set("5")).await.unwrap().await.unwrap().height, 5);
    assert_eq!((follower.streamed.count(), leader.streamed.count()), (1, 2));
    let keys = [&follower, &leader].map(|node| key_of(&node.streamed.seen.lock()[0]));
    assert_eq!(keys[0], keys[1], "a repetition is the same write");
}

#[tokio::test]
async fn an_answer_that_was_forwarded_teaches_the_leader() {
    let (follower, follower_address) = start().await;
    let (leader, leader_address) = start().await;
    follower.streamed.answer(move |_, _| {
        let mut answer = streamed(written(1)).unwrap();
        (answer.leader_address, answer.group) = (Some(leader_address.clone()), Some(3));
        Ok(Some(answer))
    });
    leader.streamed.answer(|_, _| Ok(streamed(written(2))));
    let client = connect(&[&follower_address]).await;
    let pipeline = client.write_pipeline(PipelineOptions::default());
    assert_eq!(pipeline.submit(VAULT, set("1")).await.unwrap().await.unwrap().height, 1);
    assert_eq!(pipeline.submit(VAULT, set("2")).await.unwrap().await.unwrap().height, 2);
    assert_eq!((follower.streamed.count(), leader.streamed.count()), (1, 1));
}

async fn first_write_ends_with(
    first: impl Fn() -> Result<Option<v1::WriteStreamResponse>, Status> + Send + Sync + 'static,
    second: v1::WriteResponse,
) -> (Result<ledger_client::WriteReceipt, ClientError>, Vec<v1::WriteStreamRequest>) {
    let (node, address) = start().await;
    node.streamed.answer(move |number, _| match number {
        0 => first(),
        _ => Ok(streamed(second.clone())),
    });
    let mut config = config(&[&address]);
    config.attempt_timeout = Duration::from_millis(200);
    let client = Client::connect(config).await.unwrap();
    let pipeline = client.write_pipeline(PipelineOptions::default());
    let outcome = pipeline.submit(VAULT, set("1")).await.unwrap().await;
    let seen = node.streamed.seen.lock().clone();
    (outcome, seen)
}

/// A stream that breaks, a node that is silent and one that does not know: the write is sent again as it was.
#[tokio::test]
async fn an_unanswered_write_is_sent_again_with_the_same_key() {
    let unknown = || Ok(streamed_refusal(Code::Unknown, "OUTCOME_UNKNOWN", &[]));
    let broken = || Err(Status::unavailable("gone"));
    let drained = || Err(refusal(Code::Unavailable, "DRAINING", &[], None));
    let outcomes = [
        first_write_ends_with(unknown, written(5)).await,
        first_write_ends_with(broken, written(5)).await,
        first_write_ends_with(drained, written(5)).await,
        first_write_ends_with(|| Ok(None), written(5)).await,
    ];
    for (outcome, seen) in outcomes {
        assert_eq!(outcome.unwrap().height, 5);
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0].write, seen[1].write);
    }
}

/// What holds for single writes holds here: see `calls.rs`.
#[tokio::test]
async fn a_failed_condition_is_no_verdict_on_an_attempt_without_an_answer() {
    use v1::WriteErrorCode::{AlreadyCommitted, KeyExists};
    let unknown = || Ok(streamed_refusal(Code::Unknown, "OUTCOME_UNKNOWN", &[]));
    let broken = || Err(Status::unavailable("gone"));
    let drained = || Err(refusal(Code::Unavailable, "DRAINING", &[], None));
    let leaderless = || Ok(streamed_refusal(Code::Unavailable, "NO_LEADER", &[]));
    let is_unknown = |outcome: Result<_, ClientError>| outcome.unwrap_err().outcome_unknown();
    assert!(is_unknown(first_write_ends_with(unknown, rejected(KeyExists)).await.0));
    assert!(is_unknown(first_write_ends_with(broken, rejected(KeyExists)).await.0));
    assert!(is_unknown(first_write_ends_with(|| Ok(None), rejected(KeyExists)).await.0));
    assert!(!is_unknown(first_write_ends_with(broken, rejected(AlreadyCommitted)).await.0));
    // These say that nothing was done, so the condition is a verdict.
    for verdict in [
        first_write_ends_with(drained, rejected(KeyExists)).await.0,
        first_write_ends_with(leaderless, rejected(KeyExists)).await.0,
    ] {
        let Err(ClientError::Rejected(rejection)) = verdict else { panic!("{verdict:?}") };
        assert_eq!(rejection.code, RejectionCode::KeyExists);
    }
}

#[tokio::test]
async fn a_full_window_holds_the_next_write_back() {
    let (node, address) = start().await;
    node.streamed.answer(|number, _| match number {
        0..2 => Ok(None),
        _ => Ok(streamed(written(1))),
    });
    let mut config = config(&[&address]);
    config.attempt_timeout = Duration::from_millis(300);
    let client = Client::connect(config).await.unwrap();
    let options = PipelineOptions { writes_max: 2, ..PipelineOptions::default() };
    let pipeline = client.write_pipeline(options);
    let first = pipeline.submit(VAULT, set("1")).await.unwrap();
    let second = pipeline.submit(VAULT, set("2")).await.unwrap();
    {
        let mut third = std::pin::pin!(pipeline.submit(VAULT, set("3")));
        tokio::select! {
            biased;
            _ = &mut third => panic!("there was room for a third write"),
            () = std::future::ready(()) => {}
        }
        // The first two are sent again after their attempt's time, and make room.
        third.await.unwrap().await.unwrap();
    }
    first.await.unwrap();
    second.await.unwrap();
}

#[tokio::test]
async fn what_is_under_way_comes_to_its_end_without_the_pipeline() {
    let (node, address) = start().await;
    *node.streamed.delay.lock() = Duration::from_millis(50);
    node.streamed.answer(|number, _| match number {
        0 => Ok(streamed_refusal(Code::Unavailable, "NO_LEADER", &[])),
        _ => Ok(streamed(written(9))),
    });
    let client = connect(&[&address]).await;
    let pipeline = client.write_pipeline(PipelineOptions::default());
    let pending = pipeline.submit(VAULT, set("1")).await.unwrap();
    drop(pipeline);
    assert_eq!(pending.await.unwrap().height, 9);
}

#[tokio::test]
async fn a_write_beyond_the_limit_is_not_sent_and_harms_no_other() {
    let (node, address) = start().await;
    node.streamed.answer(|_, message| Ok(streamed(written(number_of(message)))));
    let client = connect(&[&address]).await;
    let pipeline = client.write_pipeline(PipelineOptions::default());
    let body = vec![0; REQUEST_BYTES_MAX + 1].into();
    let refused = pipeline.submit_encoded(VAULT, body).await.unwrap_err();
    assert!(matches!(refused, ClientError::InvalidInput(_)), "{refused}");
    assert_eq!(pipeline.submit(VAULT, set("7")).await.unwrap().await.unwrap().height, 7);
    assert_eq!(node.streamed.count(), 1);
}

#[tokio::test]
async fn plain_writes_share_a_stream_while_many_are_under_way() {
    let (node, address) = start().await;
    node.streamed.answer(|_, message| Ok(streamed(written(number_of(message)))));
    node.writes.answer(|_, request| {
        let Some(v1::operation::Op::SetEntity(set)) = &request.operations[0].op else { panic!() };
        Ok(written(set.key.parse().unwrap()))
    });
    // Requests are answered when all writes have begun.
    *node.writes.delay.lock() = Duration::from_millis(300);
    let mut config = config(&[&address]);
    config.stream_writes_from = 8;
    let client = Client::connect(config).await.unwrap();
    let one = |number: u64| {
        let client = client.clone();
        tokio::spawn(async move { client.write(VAULT, set(&number.to_string())).await })
    };
    for (number, write) in (1..=64).map(|number| (number, one(number))).collect::<Vec<_>>() {
        assert_eq!(write.await.unwrap().unwrap().height, number);
    }
    assert_eq!((node.writes.count(), node.streamed.count()), (7, 57));
    assert_eq!(node.streams_opened.load(Ordering::SeqCst), 1);
    // With few under way a write is a request again, and afterwards another crowd has a stream again.
    assert_eq!(one(65).await.unwrap().unwrap().height, 65);
    assert_eq!((node.writes.count(), node.streamed.count()), (8, 57));
    for write in (66..=80).map(one).collect::<Vec<_>>() {
        write.await.unwrap().unwrap();
    }
    assert_eq!((node.writes.count(), node.streamed.count()), (15, 65));
}

#[tokio::test]
async fn a_write_that_went_by_stream_keeps_its_own_deadline_and_its_meaning() {
    let (node, address) = start().await;
    let mut config = config(&[&address]);
    config.stream_writes_from = 1;
    let client = Client::connect(config).await.unwrap();
    node.streamed.answer(|_, _| Ok(streamed(rejected(v1::WriteErrorCode::KeyExists))));
    let error = client.write(VAULT, set("1")).await.unwrap_err();
    assert!(matches!(error, ClientError::Rejected(_)), "{error:?}");
    // No answer: the caller's deadline ends it, and nobody knows whether it happened.
    node.streamed.answer(|_, _| Ok(None));
    let hurried = client.with_deadline(Duration::from_millis(200));
    let error = hurried.write(VAULT, set("2")).await.unwrap_err();
    assert!(
        matches!(error, ClientError::DeadlineExceeded { outcome_unknown: true, .. }),
        "{error:?}"
    );
    assert_eq!(node.writes.count(), 0);
    let too_large = vec![b'v'; REQUEST_BYTES_MAX];
    let operations = vec![ledger_types::Operation::SetEntity {
        key: "3".to_owned(),
        value: too_large,
        condition: None,
        expires_at: 0,
    }];
    assert!(client.write(VAULT, operations).await.is_err());
}
