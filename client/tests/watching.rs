//! A watch gives out every block once and in order, whatever its streams do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use ledger_client::{ClientError, Reason};
use ledger_proto::v1;
use support::{Announcements, VAULT, connect, refusal, start};
use tonic::{Code, Status};

fn block(height: u64) -> Result<v1::BlockAnnouncement, Status> {
    Ok(v1::BlockAnnouncement {
        height,
        block_hash: Some(v1::Hash { value: vec![1; 32] }),
        state_root: Some(v1::Hash { value: vec![2; 32] }),
        timestamp: Some(ledger_proto::convert::times::timestamp(height * 1_000)),
        ..v1::BlockAnnouncement::default()
    })
}

#[tokio::test]
async fn broken_streams_are_resumed_without_gap_or_repeat() {
    let (node, address) = start().await;
    node.watches.answer(|number, request| {
        let start = request.start_height;
        Ok(match number {
            // Breaks after three blocks.
            0 => Announcements {
                items: vec![
                    block(1),
                    block(2),
                    block(3),
                    Err(refusal(Code::Unavailable, "DRAINING", &[], None)),
                ],
                ends: true,
            },
            // Ends, and repeats a block that was given out.
            1 => Announcements { items: vec![block(start - 1), block(start)], ends: true },
            // Skips a block.
            2 => Announcements { items: vec![block(start + 1)], ends: false },
            _ => Announcements { items: vec![block(start), block(start + 1)], ends: false },
        })
    });
    let client = connect(&[&address]).await;
    let mut watch = client.watch_blocks(VAULT, 1);
    for height in 1..=6 {
        let notice = watch.next().await.unwrap();
        assert_eq!((notice.height, notice.timestamp_ns), (height, height * 1_000));
    }
    assert_eq!(watch.next_height(), 7);
    let starts: Vec<u64> =
        node.watches.seen.lock().iter().map(|request| request.start_height).collect();
    assert_eq!(starts, [1, 4, 5, 5]);
}

#[tokio::test]
async fn a_gap_that_stays_is_an_error_and_not_silence() {
    let (node, address) = start().await;
    node.watches.answer(|_, request| {
        let items = vec![block(request.start_height + 1)];
        Ok(Announcements { items, ends: false })
    });
    let client = connect(&[&address]).await;
    let error = client.watch_blocks(VAULT, 4).next().await.unwrap_err();
    assert!(matches!(error, ClientError::WatchGap { expected: 4, found: 5, .. }), "{error}");
}

#[tokio::test]
async fn a_refused_watch_ends() {
    let (node, address) = start().await;
    node.watches.answer(|_, _| Err(refusal(Code::NotFound, "VAULT_NOT_FOUND", &[], None)));
    let client = connect(&[&address]).await;
    let error = client.watch_blocks(VAULT, 1).next().await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::VaultNotFound));
    assert_eq!(node.watches.count(), 1);
}
