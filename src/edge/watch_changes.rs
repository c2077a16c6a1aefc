//! `WatchChanges`: which keys the blocks of a vault change.
//!
//! Owns how a block's changes are cut into answers, and where a stream that ends can go on. Must never tell of part
//! of a block as if it were the whole.

use std::time::Duration;

use ledger_proto::convert::changes::{ChangeSelection, heartbeat_ms};
use ledger_proto::convert::times::timestamp;
use ledger_proto::convert::{Consistency, ids};
use ledger_proto::v1;
use ledger_types::VaultRef;
use prost::Message as _;
use tonic::{Request, Response};

use super::Edge;
use super::ledger::client;
use super::read::apart;
use super::route::{Call, Freshness, ReadPlace, query_failure};
use super::status::Failure;
use super::watch::{AnswerStream, Telling, endless, held};

/// Changed keys and values on their way to one client.
pub(super) type ChangeStream = AnswerStream<v1::WatchChangesResponse>;

/// Bytes of changes after which an answer ends, about: far below what any client takes in one message, unless a
/// single value is that large.
const ANSWER_BYTES: usize = 1 << 20;

/// Tells what blocks change.
struct TellingChanges {
    selection: ChangeSelection,
    heartbeat: Duration,
}

impl Telling for TellingChanges {
    type Answer = v1::WatchChangesResponse;

    fn tell(
        &self,
        call: &Call,
        vault: VaultRef,
        height: u64,
        tip: u64,
    ) -> Result<Vec<v1::WatchChangesResponse>, Failure> {
        let block = apart(usize::MAX, || call.context.reader.block(vault, height));
        let block = block.map_err(query_failure)?;
        let transactions = block.transactions.into_iter().map(|(transaction, _)| transaction);
        let mut parts = parts(self.selection.changes(transactions));
        let Some(last) = parts.pop() else { return Ok(Vec::new()) };
        let answer = |changes, is_continued| v1::WatchChangesResponse {
            // Only a block that is told of to its end is behind the client.
            resume_height: if is_continued { height } else { height + 1 },
            tip_height: tip,
            block: Some(v1::BlockChanges {
                height,
                block_hash: Some(block.header.block_hash().into()),
                timestamp: Some(timestamp(block.header.timestamp_ns)),
                changes,
                is_continued,
            }),
        };
        let mut answers: Vec<_> = parts.into_iter().map(|changes| answer(changes, true)).collect();
        answers.push(answer(last, false));
        Ok(answers)
    }

    fn heartbeat(&self, next: u64, tip: u64) -> Option<(Duration, v1::WatchChangesResponse)> {
        let answer = v1::WatchChangesResponse { resume_height: next, tip_height: tip, block: None };
        Some((self.heartbeat, answer))
    }
}

/// Changes in parts of bounded size; none for none.
fn parts(changes: impl Iterator<Item = v1::Change>) -> Vec<Vec<v1::Change>> {
    let mut parts: Vec<Vec<v1::Change>> = Vec::new();
    let mut bytes = 0;
    for change in changes {
        let length = change.encoded_len();
        match parts.last_mut() {
            Some(part) if bytes + length <= ANSWER_BYTES => part.push(change),
            _ => {
                bytes = 0;
                parts.push(vec![change]);
            }
        }
        bytes += length;
    }
    parts
}

impl Edge {
    pub(super) async fn changes(
        &self,
        request: Request<v1::WatchChangesRequest>,
    ) -> Result<Response<ChangeStream>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let vault = ids::vault_ref(message.namespace_id, message.vault_id)?;
        if message.start_height == Some(0) {
            let problem = "must be at least 1: the genesis block 0 changes nothing of clients";
            return Err(Failure::field("start_height", problem));
        }
        let heartbeat = Duration::from_millis(heartbeat_ms(message.heartbeat_ms)?);
        let selection = ChangeSelection::new(message.filters.clone(), message.include_values)?;
        let place = self.watch_place(&call)?;
        let freshness = Freshness { consistency: Consistency::Eventual, height_min: 0 };
        match call.read_place(vault, freshness, 0).await? {
            ReadPlace::There(remote) => {
                let send = |channel, request| async move {
                    client(channel).watch_changes(endless(request)).await
                };
                let response = call.forward(remote, message, send).await?;
                Ok(response.map(|stream| held(stream, place)))
            }
            ReadPlace::Here(owner, _) => {
                let start = match message.start_height {
                    Some(height) => height,
                    None => call.owned_row(owner)?.height + 1,
                };
                let telling = TellingChanges { selection, heartbeat };
                let answer = self.clone().follow_apart(&call, owner, start, telling);
                Ok(call.answer(owner.group, held(answer, place)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_bounded_and_hold_everything_in_order() {
        let change = |number: usize, bytes: usize| v1::Change {
            key: Some(v1::change::Key::Entity(number.to_string())),
            value: Some(vec![7; bytes]),
            ..Default::default()
        };
        assert!(parts(std::iter::empty()).is_empty());
        let sizes = [10, 600_000, 600_000, ANSWER_BYTES + 5, 1, 1, 400_000];
        let changes: Vec<_> = sizes.iter().enumerate().map(|(n, size)| change(n, *size)).collect();
        let parts = parts(changes.clone().into_iter());
        let lengths: Vec<usize> = parts.iter().map(Vec::len).collect();
        assert_eq!(lengths, [2, 1, 1, 3]);
        assert_eq!(parts.concat(), changes);
    }
}
