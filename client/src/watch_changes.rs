//! Watching what changes: the keys that each block of a vault changes, in order, across broken streams.
//!
//! Owns where a watch goes on. Must never hand out part of a block: a cache that has applied a block's changes knows
//! that it has all of them.

use ledger_proto::v1;
use ledger_types::{Digest, VaultRef};
use tonic::Streaming;

use crate::call::CallKind;
use crate::client::Client;
use crate::error::ClientError;
use crate::leaders::Route;
use crate::method;
use crate::read::digest;
use crate::reopened::Reopened;
use crate::write::wire_vault;

/// What a watch of changes asks for.
#[derive(Clone, Debug, Default)]
pub struct ChangeOptions {
    /// The first block to tell of, at least 1; `None` for the block after the tip.
    pub start_height: Option<u64>,
    /// Changes that one of these lets through; all without any.
    pub filters: Vec<v1::ChangeFilter>,
    /// Whether values of entities come along.
    pub include_values: bool,
    /// Longest silence of the server in milliseconds, from 1,000 to 60,000; `None` for its default.
    pub heartbeat_ms: Option<u32>,
}

/// What a watch of changes tells.
#[derive(Clone, PartialEq, Debug)]
pub enum ChangeNotice {
    /// A block changed these keys, in this order.
    Block {
        /// Its height.
        height: u64,
        /// Its hash.
        block_hash: Digest,
        /// The changes that the filters let through.
        changes: Vec<v1::Change>,
    },
    /// Every block below this height has been told of, or changed nothing that the filters let through.
    Heartbeat {
        /// Where the watch is.
        next_height: u64,
        /// The newest height that the answering node knows.
        tip_height: u64,
    },
}

/// A watch of one vault's changes. Dropping it ends the stream.
#[derive(Debug)]
pub struct ChangeWatch {
    client: Client,
    vault: VaultRef,
    options: ChangeOptions,
    stream: Reopened<v1::WatchChangesResponse>,
    place: Place,
}

/// Where a watch is.
#[derive(Debug, Default)]
struct Place {
    /// The first block that is not told of to its end, if it is known.
    next_height: Option<u64>,
    /// Height and changes of a block of which the rest is to come.
    begun: Option<(u64, Vec<v1::Change>)>,
}

impl Client {
    /// Watches what the blocks of a vault change.
    pub fn watch_changes(&self, vault: VaultRef, options: ChangeOptions) -> ChangeWatch {
        let stream = Reopened::new(&self.inner.config.retry, "watch changes");
        let place = Place { next_height: options.start_height, begun: None };
        ChangeWatch { client: self.clone(), vault, options, stream, place }
    }
}

impl ChangeWatch {
    /// The block at which another watch would have to begin to go on; `None` until the first notice of a watch
    /// that began at the tip.
    pub fn next_height(&self) -> Option<u64> {
        self.place.next_height
    }

    /// Waits for the next block with changes, or a heartbeat. A broken stream is opened again where it broke.
    /// Errors: a refusal that repeating cannot mend; an answer that is none; no node takes the watch within the
    /// client's deadline. After an error the watch can be asked again and goes on at the same block.
    pub async fn next(&mut self) -> Result<ChangeNotice, ClientError> {
        loop {
            let open = open(&self.client, self.vault, &self.options, self.place.next_height);
            let message = self.stream.message(open).await;
            let Ok(Some(answer)) = message else {
                // The rest of a block that has begun will not come; the next stream tells it from its beginning.
                self.place.begun = None;
                message?;
                continue;
            };
            let accepted = self.place.accept(answer);
            if accepted.is_err() {
                self.place.begun = None;
                self.stream.close();
            }
            if let Some(notice) = accepted? {
                self.stream.succeeded();
                return Ok(notice);
            }
        }
    }
}

async fn open(
    client: &Client,
    vault: VaultRef,
    options: &ChangeOptions,
    start_height: Option<u64>,
) -> Result<Streaming<v1::WatchChangesResponse>, ClientError> {
    let (namespace_id, vault_id) = wire_vault(vault)?;
    let request = v1::WatchChangesRequest {
        namespace_id,
        vault_id,
        start_height,
        filters: options.filters.clone(),
        include_values: options.include_values,
        heartbeat_ms: options.heartbeat_ms,
    };
    let kind = CallKind::reads(Route::Any(Some(vault)));
    client.open_stream(method::WATCH_CHANGES, kind, &request).await
}

impl Place {
    /// Takes an answer; `None` if its block goes on in the next one, or was told of before.
    fn accept(
        &mut self,
        answer: v1::WatchChangesResponse,
    ) -> Result<Option<ChangeNotice>, ClientError> {
        let v1::WatchChangesResponse { resume_height, tip_height, block } = answer;
        let next = self.next_height.unwrap_or(0);
        let Some(block) = block else {
            if resume_height < next || self.begun.is_some() {
                return Err(ClientError::Malformed("resume_height"));
            }
            self.next_height = Some(resume_height);
            return Ok(Some(ChangeNotice::Heartbeat { next_height: resume_height, tip_height }));
        };
        let (height, end) = (block.height, block.height.saturating_add(1));
        if height < next {
            return Ok(None);
        }
        if resume_height != if block.is_continued { height } else { end } {
            return Err(ClientError::Malformed("resume_height"));
        }
        let mut changes = match self.begun.take() {
            Some((begun, changes)) if begun == height => changes,
            Some(_) => return Err(ClientError::Malformed("height")),
            None => Vec::new(),
        };
        changes.extend(block.changes);
        if block.is_continued {
            self.begun = Some((height, changes));
            return Ok(None);
        }
        let block_hash = digest("block_hash", block.block_hash.as_ref())?;
        self.next_height = Some(resume_height);
        Ok(Some(ChangeNotice::Block { height, block_hash, changes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(height: u64, keys: &[&str], is_continued: bool) -> v1::WatchChangesResponse {
        let change = |key: &&str| v1::Change {
            key: Some(v1::change::Key::Entity((*key).to_owned())),
            ..Default::default()
        };
        let block = v1::BlockChanges {
            height,
            block_hash: Some(Digest([1; 32]).into()),
            timestamp: None,
            changes: keys.iter().map(change).collect(),
            is_continued,
        };
        let resume_height = if is_continued { height } else { height + 1 };
        v1::WatchChangesResponse { resume_height, tip_height: 9, block: Some(block) }
    }

    #[test]
    fn a_block_is_handed_out_whole_and_once() {
        let mut watch = Place { next_height: Some(3), begun: None };
        let keys = |notice: Option<ChangeNotice>| match notice {
            Some(ChangeNotice::Block { height, changes, .. }) => Some((height, changes.len())),
            _ => None,
        };
        assert_eq!(watch.accept(answer(2, &["old"], false)).expect("told before"), None);
        assert_eq!(watch.accept(answer(4, &["a", "b"], true)).expect("its beginning"), None);
        assert_eq!(watch.next_height, Some(3), "a part is not behind the client");
        let whole = watch.accept(answer(4, &["c"], false)).expect("its end");
        assert_eq!((keys(whole), watch.next_height), (Some((4, 3)), Some(5)));
        watch.accept(answer(5, &["a"], true)).expect("its beginning");
        assert!(watch.accept(answer(6, &["a"], false)).is_err(), "the rest of 5 is missing");
        let heartbeat =
            |resume_height| v1::WatchChangesResponse { resume_height, tip_height: 9, block: None };
        assert!(watch.accept(heartbeat(4)).is_err(), "a watch does not go back");
        assert!(watch.accept(heartbeat(8)).is_ok());
        assert_eq!(watch.next_height, Some(8));
        let mut wrong = answer(9, &["a"], false);
        wrong.resume_height = 12;
        assert!(watch.accept(wrong).is_err(), "blocks would be left out");
    }
}
