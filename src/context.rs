//! What the parts of a running node share.
//!
//! Owns nothing that changes by itself: handles, caches and identities, put together once at start. Must
//! never grow behaviour; each field's type has its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use ledger_router::LeaderHints;
use ledger_shard::{NotedCheckpoint, Reader, ShardHandle};
use ledger_types::{ClusterId, NodeId, StoreId, VaultRef};
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

use crate::admission::Admission;
use crate::checkpoints::Checkpoints;
use crate::config::Config;
use crate::cosigning::RecentRounds;
use crate::directory::DirectoryCache;
use crate::expiry::ExpiryBook;
use crate::metrics::RequestMetrics;
use crate::peer::{PeerClocks, PeerMetrics};
use crate::purge::PurgeBook;
use crate::quarantine::Quarantine;
use crate::signed_history::Changes;
use crate::signer::Signer;
use crate::snapshots::{Fetcher, SnapshotServer};
use crate::vault_snapshots::VaultSnapshots;

/// Who this node is. Fixed once it belongs to a cluster.
#[derive(Clone, Debug)]
pub struct NodeIdentity {
    /// Its number in the directory.
    pub node: NodeId,
    /// Its configured name.
    pub name: String,
    /// Its data directory.
    pub store: StoreId,
    /// The cluster.
    pub cluster: ClusterId,
    /// The domain in the cluster's signed notes.
    pub domain: String,
    /// Where others reach it, host:port.
    pub advertise_addr: String,
    /// How often its store was opened.
    pub boot_counter: u64,
}

/// Everything that serving a request may need.
pub struct NodeContext {
    /// How much a namespace may ask for.
    pub admission: Admission,
    /// The settings.
    pub config: Config,
    /// Who this node is.
    pub identity: NodeIdentity,
    /// Puts work into the groups.
    pub shard: ShardHandle,
    /// Reads rows and makes proofs.
    pub reader: Reader,
    /// The directory as this node knows it.
    pub directory: Arc<DirectoryCache>,
    /// Who leads what, as far as heard.
    pub leaders: Arc<LeaderHints>,
    /// Signs with this node's key.
    pub signer: Signer,
    /// Signed checkpoints, made and kept for a moment.
    pub checkpoints: Checkpoints,
    /// The vaults whose history here is not that of the others.
    pub quarantine: Quarantine,
    /// The read rounds whose times cosignatures bear.
    pub read_rounds: RecentRounds,
    /// Tells waiting streams of new blocks.
    pub blocks: Arc<BlockFeed>,
    /// Connections to other nodes for forwarded requests.
    pub channels: Arc<ChannelPool>,
    /// Set once the node stops taking requests.
    pub draining: AtomicBool,
    /// When the process began to serve.
    pub started: Instant,
    /// Request counts and durations.
    pub metrics: Arc<RequestMetrics>,
    /// The transport's counters.
    pub peer_metrics: Arc<PeerMetrics>,
    /// The clocks of other nodes.
    pub clocks: Arc<PeerClocks>,
    /// What is known of deleted vaults.
    pub purges: PurgeBook,
    /// Hands out the snapshots that this node has cut.
    pub snapshots: Arc<SnapshotServer>,
    /// Brings snapshots here.
    pub fetcher: Arc<Fetcher>,
    /// Files of single vaults that were asked for.
    pub vault_snapshots: Arc<VaultSnapshots>,
}

/// Lazily connected channels by address, each used by all requests to that node.
#[derive(Default)]
pub struct ChannelPool {
    channels: Mutex<BTreeMap<String, Channel>>,
}

/// HTTP/2 flow-control windows large enough that a batch never waits for an update.
const WINDOW_BYTES: u32 = 8 * 1024 * 1024;

impl ChannelPool {
    /// The channel to `address` (host:port); connects on first use. `None` if the address is malformed.
    pub fn channel(&self, address: &str) -> Option<Channel> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Some(channel.clone());
        }
        let channel = endpoint(address)?.connect_lazy();
        channels.insert(address.to_owned(), channel.clone());
        Some(channel)
    }
}

/// How one node reaches another; `None` if the address is malformed.
pub fn endpoint(address: &str) -> Option<Endpoint> {
    #[cfg(feature = "failpoints")]
    let address = crate::test_hooks::dialled(address);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
    let timeout = std::time::Duration::from_secs(2);
    let endpoint = endpoint
        .tcp_nodelay(true)
        .connect_timeout(timeout)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES)
        .http2_keep_alive_interval(std::time::Duration::from_secs(10))
        .keep_alive_timeout(std::time::Duration::from_secs(5));
    Some(endpoint)
}

/// Tips of the vaults that somebody watches.
#[derive(Default)]
pub struct BlockFeed {
    tips: Mutex<BTreeMap<VaultRef, watch::Sender<u64>>>,
    /// What the signed history has yet to hear of.
    pub changes: Changes,
    /// When entities expire.
    pub expiry: ExpiryBook,
}

impl BlockFeed {
    /// A receiver that sees every later tip of the vault, starting from `tip`.
    pub fn subscribe(&self, vault: VaultRef, tip: u64) -> watch::Receiver<u64> {
        let mut tips = self.tips.lock();
        let sender = tips.entry(vault).or_insert_with(|| watch::channel(tip).0);
        sender.send_if_modified(|seen| std::mem::replace(seen, tip.max(*seen)) < tip);
        sender.subscribe()
    }

    /// Looks up the tips of all watched vaults. After a snapshot was installed: its blocks were announced by
    /// nobody.
    pub fn refresh(&self, tip_of: impl Fn(VaultRef) -> Option<u64>) {
        self.expiry.forget();
        let watched: Vec<VaultRef> = self.tips.lock().keys().copied().collect();
        for vault in watched {
            if let Some(tip) = tip_of(vault) {
                self.advance(vault, tip);
            }
        }
    }

    /// Tells the watchers of the vault, if there are any, of a new tip.
    pub fn advance(&self, vault: VaultRef, tip: u64) {
        let mut tips = self.tips.lock();
        let Some(sender) = tips.get(&vault) else { return };
        if sender.receiver_count() == 0 {
            tips.remove(&vault);
            return;
        }
        sender.send_if_modified(|seen| std::mem::replace(seen, tip.max(*seen)) < tip);
    }
}

impl ledger_shard::BlockListener for BlockFeed {
    fn blocks(&self, blocks: &[ledger_shard::NewBlock]) {
        for block in blocks {
            self.advance(block.vault, block.height);
        }
        self.changes.blocks(blocks);
        self.expiry.blocks(blocks);
    }

    fn checkpoints(&self, checkpoints: &[NotedCheckpoint]) {
        self.changes.checkpoints(checkpoints);
    }

    fn contradiction(&self, checkpoint: &NotedCheckpoint) {
        self.changes.contradiction(checkpoint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_hear_of_blocks_that_came_with_a_snapshot() {
        let feed = BlockFeed::default();
        let (watched, other) = (VaultRef::new(1, 1), VaultRef::new(1, 2));
        let mut tip = feed.subscribe(watched, 5);
        let mut unknown = feed.subscribe(other, 5);
        feed.refresh(|vault| (vault == watched).then_some(9));
        assert!(tip.has_changed().is_ok_and(|changed| changed));
        assert_eq!(*tip.borrow_and_update(), 9);
        assert!(unknown.has_changed().is_ok_and(|changed| !changed));
        // A tip never goes back.
        feed.refresh(|_| Some(7));
        assert_eq!((*tip.borrow_and_update(), *unknown.borrow_and_update()), (9, 7));
    }
}
