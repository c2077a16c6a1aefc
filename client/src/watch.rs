//! Watching a vault: every block from a height on, each once, in order, across broken streams.

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

/// A stream that skips blocks is opened anew at most this often before the watch ends with an error.
const GAPS_MAX: u32 = 3;

/// A block that exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockNotice {
    /// Its vault.
    pub vault: VaultRef,
    /// Its height.
    pub height: u64,
    /// Its hash.
    pub block_hash: Digest,
    /// The state root after it.
    pub state_root: Digest,
    /// Its time, nanoseconds since 1970.
    pub timestamp_ns: u64,
}

/// A watch of one vault. Dropping it ends the stream.
#[derive(Debug)]
pub struct BlockWatch {
    client: Client,
    vault: VaultRef,
    next_height: u64,
    stream: Reopened<v1::BlockAnnouncement>,
    gaps: u32,
}

impl Client {
    /// Watches a vault from block `start_height` on, which is at least 1.
    pub fn watch_blocks(&self, vault: VaultRef, start_height: u64) -> BlockWatch {
        let stream = Reopened::new(&self.inner.config.retry, "watch");
        BlockWatch { client: self.clone(), vault, next_height: start_height, stream, gaps: 0 }
    }
}

impl BlockWatch {
    /// The height of the block that comes next: where another watch would have to begin to go on.
    pub fn next_height(&self) -> u64 {
        self.next_height
    }

    /// Waits for the next block. A broken stream is opened again where it broke. Errors: a refusal that
    /// repeating cannot mend; no node takes the watch within the client's deadline. After an error the
    /// watch can be asked again and goes on at the same block.
    pub async fn next(&mut self) -> Result<BlockNotice, ClientError> {
        loop {
            let open = open(&self.client, self.vault, self.next_height);
            if let Some(announcement) = self.stream.message(open).await?
                && let Some(notice) = self.accept(&announcement)?
            {
                return Ok(notice);
            }
        }
    }

    /// Takes the block that is due, passes over one already given out, and drops a stream that skips.
    fn accept(
        &mut self,
        announcement: &v1::BlockAnnouncement,
    ) -> Result<Option<BlockNotice>, ClientError> {
        let found = announcement.height;
        if found < self.next_height {
            return Ok(None);
        }
        if found > self.next_height {
            self.stream.close();
            self.gaps += 1;
            if self.gaps <= GAPS_MAX {
                return Ok(None);
            }
            self.gaps = 0;
            let (vault, expected) = (self.vault, self.next_height);
            return Err(ClientError::WatchGap { vault, expected, found });
        }
        let time = announcement.timestamp.ok_or(ClientError::Malformed("timestamp"))?;
        let seconds_ns =
            u64::try_from(time.seconds).ok().and_then(|s| s.checked_mul(1_000_000_000));
        let nanos = u64::try_from(time.nanos).ok();
        let timestamp_ns = seconds_ns.zip(nanos).and_then(|(s, n)| s.checked_add(n));
        let notice = BlockNotice {
            vault: self.vault,
            height: found,
            block_hash: digest("block_hash", announcement.block_hash.as_ref())?,
            state_root: digest("state_root", announcement.state_root.as_ref())?,
            timestamp_ns: timestamp_ns.ok_or(ClientError::Malformed("timestamp"))?,
        };
        self.next_height += 1;
        self.gaps = 0;
        self.stream.succeeded();
        Ok(Some(notice))
    }
}

async fn open(
    client: &Client,
    vault: VaultRef,
    start_height: u64,
) -> Result<Streaming<v1::BlockAnnouncement>, ClientError> {
    let (namespace_id, vault_id) = wire_vault(vault)?;
    let request = v1::WatchBlocksRequest { namespace_id, vault_id, start_height };
    let kind = CallKind::reads(Route::Any(Some(vault)));
    client.open_stream(method::WATCH_BLOCKS, kind, &request).await
}
