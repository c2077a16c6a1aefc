//! The client-facing edge: gRPC services, their limits and deadlines, and the way to whoever leads.
//!
//! Owns the public API. Must never decide what a command does or whether a proof holds, and never trust its
//! own route: the owner of a vault is checked where commands are proposed and applied.

mod admin;
mod at_leader;
mod blocks;
mod cluster;
mod deadline;
mod deletion;
mod discovery;
mod expired;
mod export;
mod health;
mod historical;
mod import;
mod integrity;
mod ledger;
mod log_files;
mod namespaces;
mod page_token;
mod passed_metadata;
mod read;
mod receipts;
mod report;
mod resources;
mod route;
mod server;
mod slot;
pub mod status;
mod trust;
mod vault_snapshot;
mod vaults;
mod verified;
mod verified_list;
mod verified_past;
mod watch;
mod watch_changes;
mod window;
mod write;
mod write_stream;

use std::sync::{Arc, OnceLock};

pub use log_files::LogFileError;
pub use route::{FORWARDED, GROUP, LEADER};
pub use server::serve;
pub use slot::{BEAT_INTERVAL, Check, NodeSlot, Stage};

use ledger_types::limits::{DATA_STREAMS_PER_NODE_MAX, WATCHES_PER_NODE_MAX};
use page_token::PageTokens;
use status::Failure;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use verified::Queues;

use crate::context::NodeContext;
use crate::peer::PeerState;

/// The public services of one node. Cheap to clone.
#[derive(Clone)]
pub struct Edge {
    slot: Arc<NodeSlot>,
    peers: Arc<PeerState>,
    late: Arc<OnceLock<Late>>,
    watches: Arc<Semaphore>,
    data_streams: Arc<Semaphore>,
    checks: Arc<Semaphore>,
    snapshots: Arc<Semaphore>,
    removals: Arc<Semaphore>,
}

/// What can only be made once the node belongs to a cluster.
struct Late {
    tokens: PageTokens,
    queues: Queues,
}

impl Edge {
    /// The services of the node in `slot`, whenever it comes.
    pub fn new(slot: Arc<NodeSlot>, peers: Arc<PeerState>) -> Edge {
        let watches = Arc::new(Semaphore::new(WATCHES_PER_NODE_MAX));
        let data_streams = Arc::new(Semaphore::new(DATA_STREAMS_PER_NODE_MAX));
        let checks = Arc::new(Semaphore::new(integrity::CHECKS_MAX));
        let snapshots = Arc::new(Semaphore::new(vault_snapshot::SNAPSHOTS_MAX));
        let removals = Arc::new(Semaphore::new(expired::REMOVALS_MAX));
        let late = Arc::new(OnceLock::new());
        Edge { slot, peers, late, watches, data_streams, checks, snapshots, removals }
    }

    /// The node that it serves.
    pub fn slot(&self) -> &Arc<NodeSlot> {
        &self.slot
    }

    /// A place among the streams of data of this node.
    fn data_stream(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let max = DATA_STREAMS_PER_NODE_MAX as u64;
        self.data_streams.clone().try_acquire_owned().map_err(|_| Failure::TooManyStreams { max })
    }

    fn late(&self, context: &Arc<NodeContext>) -> &Late {
        self.late.get_or_init(|| Late {
            tokens: PageTokens::new(context.identity.cluster),
            queues: Queues::default(),
        })
    }

    fn tokens(&self, context: &Arc<NodeContext>) -> &PageTokens {
        &self.late(context).tokens
    }

    fn queues(&self, context: &Arc<NodeContext>) -> &Queues {
        &self.late(context).queues
    }
}
