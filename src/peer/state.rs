//! What this node is to other nodes, and the durable facts behind it.
//!
//! Owns the node's standing (alone, promised, member), the one lock under which it changes, and the
//! highest boot counters seen. Every change is on disk before anyone is told. Must never ask the network
//! for anything.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ledger_proof::encoding::DecodeError;
use ledger_proto::internal;
use ledger_shard::{JoinError, Store, StoreError};
use ledger_types::{ClusterId, NodeId, StoreId};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::watch;

use super::{AddressBook, DirectoryService, FrameSink, MetNodes, PeerClocks, PeerMetrics};
use crate::bootstrap::decide::{Refused, Standing, Write, answer_adopt, answer_promise};
use crate::bootstrap::record::{
    MembershipRow, ROW_ADDRESSES, ROW_FOUNDED, ROW_MEMBERSHIP, ROW_PROMISE, ROW_TURNED_AWAY,
    SeenBoots, TurnedAway, decode_addresses, encode_addresses,
};
use crate::bootstrap::{BootstrapError, Established, Founder, GenesisPromise};
use crate::context::NodeIdentity;

mod introductions;
mod live;
#[cfg(test)]
mod tests;

pub(super) use introductions::OpenStream;
pub(crate) use live::SILENCE;
pub(super) use live::Speaker;
use live::{InstanceId, LiveStores};

/// The durable rows in which a node keeps who it is. A returned write is on disk.
pub trait NodeRows: Send + Sync {
    /// Reads a row.
    fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Writes a row durably.
    fn put_meta(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError>;
    /// The cluster that the store belongs to.
    fn cluster(&self) -> Result<Option<ClusterId>, StoreError>;
    /// Makes the store part of a cluster, durably and for good.
    fn join_cluster(&self, cluster: ClusterId) -> Result<(), JoinError>;
}

impl NodeRows for Store {
    fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Store::meta(self, key)
    }

    fn put_meta(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        Store::put_meta(self, key, value)
    }

    fn cluster(&self) -> Result<Option<ClusterId>, StoreError> {
        Store::cluster(self)
    }

    fn join_cluster(&self, cluster: ClusterId) -> Result<(), JoinError> {
        Store::join_cluster(self, cluster)
    }
}

/// Why a node's standing cannot be read or changed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum StateError {
    /// The database failed. The node must stop.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store belongs to another cluster.
    #[error("the data directory belongs to cluster {found}")]
    OtherCluster {
        /// The cluster it belongs to.
        found: ClusterId,
    },
    /// A row is not in its format.
    #[error("the row {row} is damaged: {source}")]
    Damaged {
        /// The row's key.
        row: &'static str,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The store belongs to a cluster and does not say as which node.
    #[error("the data directory belongs to cluster {cluster} but does not say as which node")]
    NoMembership {
        /// The cluster.
        cluster: ClusterId,
    },
    /// The node was registered under another name.
    #[error("this data directory belongs to the node named {stored}, not to {configured}")]
    NameChanged {
        /// The name in the directory.
        stored: String,
        /// The configured name.
        configured: String,
    },
    /// Another node of the cluster says that this store was removed. The node must stop.
    #[error(
        "this node was removed from the cluster and must start with an empty data directory: {detail}"
    )]
    Removed {
        /// What the other node said.
        detail: String,
    },
    /// Another node of the cluster knows this store from a later time, or from another process. The node must
    /// stop.
    #[error("this data directory is a copy or was rolled back and must not be used: {detail}")]
    RolledBack {
        /// What the other node said.
        detail: String,
    },
    /// What was to be changed is not as it was when the change was decided.
    #[error("the node's standing changed meanwhile")]
    Superseded,
}

impl From<TurnedAway> for StateError {
    fn from(TurnedAway { is_removed, detail }: TurnedAway) -> StateError {
        match is_removed {
            true => StateError::Removed { detail },
            false => StateError::RolledBack { detail },
        }
    }
}

impl From<JoinError> for StateError {
    fn from(error: JoinError) -> StateError {
        match error {
            JoinError::OtherCluster { found } => StateError::OtherCluster { found },
            JoinError::Store(error) => StateError::Store(error),
        }
    }
}

/// What a node knows about itself before it belongs to anything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalNode {
    /// Its configured name.
    pub name: String,
    /// Its data directory.
    pub store: StoreId,
    /// The public half of its Ed25519 key.
    pub public_key: [u8; 32],
    /// Where others reach it, host:port.
    pub address: String,
    /// Its failure zone; empty if none is configured.
    pub zone: String,
    /// How often its store was opened.
    pub boot_counter: u64,
    /// How many founders it waits for; at least 1.
    pub bootstrap_expect: u32,
    /// The highest feature level that this build supports.
    pub feature_level: u32,
}

impl LocalNode {
    /// The node as a possible founder.
    pub fn founder(&self) -> Founder {
        Founder {
            name: self.name.clone(),
            store: self.store,
            public_key: self.public_key,
            address: self.address.clone(),
            zone: self.zone.clone(),
        }
    }
}

/// What the internal service needs once the node is more than a bootstrapping one.
#[derive(Clone)]
pub struct Serving {
    /// Takes Raft messages.
    pub sink: Arc<dyn FrameSink>,
    /// Knows the nodes of the cluster.
    pub book: Arc<dyn AddressBook>,
    /// Answers from the directory.
    pub directory: Arc<dyn DirectoryService>,
}

/// What changes under the one lock.
#[derive(Default)]
struct Inner {
    standing: Standing,
    membership: Option<MembershipRow>,
    is_founding_done: bool,
    seen_cluster: Option<ClusterId>,
    boots: BTreeMap<StoreId, SeenBoots>,
}

/// A node's standing among the others; shared by the service, the transport and the bootstrap.
pub struct PeerState {
    rows: Arc<dyn NodeRows>,
    local: LocalNode,
    instance: InstanceId,
    live: Mutex<LiveStores>,
    /// When this process was first told that an earlier one of its store is still heard.
    doubted: Mutex<Option<(Instant, Instant)>>,
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
    fault: watch::Sender<Option<StateError>>,
    closed: watch::Sender<bool>,
    serving: OnceLock<Serving>,
    arrivals: Mutex<BTreeMap<NodeId, watch::Sender<u64>>>,
    metrics: Arc<PeerMetrics>,
    clocks: Arc<PeerClocks>,
    met: Arc<MetNodes>,
}

impl std::fmt::Debug for PeerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PeerState({}, {})", self.local.name, self.local.store)
    }
}

impl PeerState {
    /// Reads the node's standing from its rows, and completes what a crash left half done. Errors if another
    /// node has turned the store away for good.
    pub fn open(
        rows: Arc<dyn NodeRows>,
        local: LocalNode,
    ) -> Result<Arc<PeerState>, BootstrapError> {
        assert!(local.bootstrap_expect >= 1, "configuration refuses fewer founders than one");
        let inner = Inner {
            membership: read_row(&*rows, ROW_MEMBERSHIP, "membership", MembershipRow::decode)?,
            is_founding_done: rows.meta(ROW_FOUNDED).map_err(StateError::from)?.is_some(),
            ..Inner::default()
        };
        let state = PeerState {
            rows,
            local,
            instance: InstanceId(rand::random()),
            live: Mutex::new(LiveStores::new(Instant::now())),
            doubted: Mutex::default(),
            inner: Mutex::new(inner),
            changes: watch::channel(0).0,
            fault: watch::channel(None).0,
            closed: watch::channel(false).0,
            serving: OnceLock::new(),
            arrivals: Mutex::default(),
            metrics: Arc::default(),
            clocks: Arc::default(),
            met: Arc::default(),
        };
        state.recover()?;
        Ok(Arc::new(state))
    }

    fn recover(&self) -> Result<(), StateError> {
        let row = read_row(&*self.rows, ROW_TURNED_AWAY, "turned away", TurnedAway::decode)?;
        if let Some(turned_away) = row {
            return Err(turned_away.into());
        }
        let mut inner = self.inner.lock();
        if let Some(membership) = &inner.membership {
            if membership.name != self.local.name {
                let (stored, configured) = (membership.name.clone(), self.local.name.clone());
                return Err(StateError::NameChanged { stored, configured });
            }
            let cluster = membership.genesis.cluster();
            self.rows.join_cluster(cluster)?;
            inner.standing = Standing::Member(cluster);
            return Ok(());
        }
        if let Some(cluster) = self.rows.cluster()? {
            return Err(StateError::NoMembership { cluster });
        }
        let decode = |bytes: &[u8]| {
            if bytes.is_empty() { Ok(None) } else { GenesisPromise::decode(bytes).map(Some) }
        };
        if let Some(promise) = read_row(&*self.rows, ROW_PROMISE, "promise", decode)?.flatten() {
            inner.standing = Standing::Promised(promise);
        }
        Ok(())
    }

    /// What the node knows about itself.
    pub fn local(&self) -> &LocalNode {
        &self.local
    }

    /// Nodes that this one has met and that its directory may not know yet.
    pub fn met(&self) -> &Arc<MetNodes> {
        &self.met
    }

    /// The transport's counters.
    pub fn metrics(&self) -> &Arc<PeerMetrics> {
        &self.metrics
    }

    /// The clocks of other nodes.
    pub fn clocks(&self) -> &Arc<PeerClocks> {
        &self.clocks
    }

    /// The node's standing now.
    pub fn standing(&self) -> Standing {
        self.inner.lock().standing.clone()
    }

    /// The node's place in its cluster, once it has one.
    pub fn established(&self) -> Option<Established> {
        let inner = self.inner.lock();
        let membership = inner.membership.as_ref()?;
        let genesis = &membership.genesis;
        let is_founder = genesis.node_of(self.local.store) == Some(membership.node);
        let founding = (is_founder && !inner.is_founding_done).then(|| genesis.clone());
        let identity = NodeIdentity {
            node: membership.node,
            name: self.local.name.clone(),
            store: self.local.store,
            cluster: genesis.cluster(),
            domain: genesis.domain().to_owned(),
            advertise_addr: self.local.address.clone(),
            boot_counter: self.local.boot_counter,
        };
        Some(Established { identity, genesis: genesis.clone(), founding })
    }

    /// Sees every later change of the standing.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits for a reason why the node must stop: a failed write of its rows, or other nodes that turn its
    /// store away for good.
    pub async fn failed(&self) -> StateError {
        let mut fault = self.fault.subscribe();
        let seen = fault.wait_for(Option::is_some).await.expect("the sender lives in self");
        seen.clone().expect("waited for a fault")
    }

    /// The reason to stop, if there is one.
    pub fn fault(&self) -> Option<StateError> {
        self.fault.borrow().clone()
    }

    /// Lets the service carry Raft messages and answer from the directory. Called once.
    pub fn serve(&self, serving: Serving) {
        assert!(self.serving.set(serving).is_ok(), "a node begins to serve once");
    }

    /// What serves, once it does.
    pub(super) fn serving(&self) -> Option<&Serving> {
        self.serving.get()
    }

    /// Ends every stream of the internal service, so that a server can finish.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Turns true once the node ends.
    pub(super) fn closing(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// Changes whenever the node opens a stream to this one: it is there and can be reached again.
    pub(super) fn arrivals(&self, node: NodeId) -> watch::Receiver<u64> {
        let mut arrivals = self.arrivals.lock();
        arrivals.entry(node).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    /// Tells that a node has opened a stream, to those who asked for it.
    pub(super) fn arrived(&self, node: NodeId) {
        if let Some(arrivals) = self.arrivals.lock().get(&node) {
            arrivals.send_modify(|count| *count += 1);
        }
    }

    /// Notes that a cluster exists: this node will promise no genesis of another one.
    pub fn note_cluster(&self, cluster: ClusterId) {
        self.inner.lock().seen_cluster = Some(cluster);
    }

    /// Makes a genesis of this node's own making durable. Errors if the node is not alone any more.
    pub fn propose(&self, promise: &GenesisPromise) -> Result<(), StateError> {
        assert!(promise.proposer().store == self.local.store, "only the proposer makes a genesis");
        let mut inner = self.inner.lock();
        if inner.standing != Standing::Alone {
            return Err(StateError::Superseded);
        }
        self.store_promise(&mut inner, promise)
    }

    /// Lets go of a promise, if it is still the one held.
    pub fn release(&self, promise: &GenesisPromise) -> Result<(), StateError> {
        let mut inner = self.inner.lock();
        if inner.standing.promise() != Some(promise) {
            return Err(StateError::Superseded);
        }
        self.put(ROW_PROMISE, &[])?;
        inner.standing = Standing::Alone;
        self.changed();
        Ok(())
    }

    /// Answers another node that asks for a promise; a granted one is on disk.
    pub fn take_promise(
        &self,
        promise: &GenesisPromise,
    ) -> Result<Result<(), Refused>, StateError> {
        let mut inner = self.inner.lock();
        let expect = self.local.bootstrap_expect as usize;
        let me = self.local.founder();
        let decided = answer_promise(&inner.standing, (&me, expect), inner.seen_cluster, promise);
        match decided {
            Ok(Write::Nothing) => Ok(Ok(())),
            Ok(Write::Genesis) => self.store_promise(&mut inner, promise).map(Ok),
            Err(refused) => Ok(Err(refused)),
        }
    }

    /// Makes a promised genesis hold, durably. It must be the one held, or hold already.
    pub fn adopt(&self, promise: &GenesisPromise) -> Result<Result<(), Refused>, StateError> {
        let mut inner = self.inner.lock();
        match answer_adopt(&inner.standing, promise) {
            Ok(Write::Nothing) => Ok(Ok(())),
            Ok(Write::Genesis) => {
                let node = promise.node_of(self.local.store);
                let node = node.expect("a node promises only a genesis that names it");
                let genesis = promise.clone();
                self.store_membership(&mut inner, node, genesis).map(Ok)
            }
            Err(refused) => Ok(Err(refused)),
        }
    }

    /// Records that the directory gave this node a number. Errors if it promised a genesis meanwhile.
    pub fn join(&self, node: NodeId, genesis: GenesisPromise) -> Result<(), StateError> {
        let mut inner = self.inner.lock();
        match &inner.standing {
            Standing::Alone => self.store_membership(&mut inner, node, genesis),
            Standing::Promised(_) | Standing::Member(_) => Err(StateError::Superseded),
        }
    }

    /// Records that this founder has made the directory's group; it is never made again.
    pub fn finish_founding(&self) -> Result<(), BootstrapError> {
        let mut inner = self.inner.lock();
        self.put(ROW_FOUNDED, &[1])?;
        inner.is_founding_done = true;
        Ok(())
    }

    /// Keeps addresses of nodes for a start without configured peers.
    pub fn remember_addresses(&self, addresses: &[(NodeId, String)]) -> Result<(), StateError> {
        self.put(ROW_ADDRESSES, &encode_addresses(addresses))
    }

    /// The addresses kept last.
    pub fn remembered_addresses(&self) -> Result<Vec<(NodeId, String)>, StateError> {
        let read = read_row(&*self.rows, ROW_ADDRESSES, "addresses", decode_addresses)?;
        Ok(read.unwrap_or_default())
    }

    /// Keeps that the store must not be used any more, and stops the node.
    fn leave(&self, turned_away: TurnedAway) {
        // A failed write has stopped the node already.
        if self.put(ROW_TURNED_AWAY, &turned_away.encode()).is_ok() {
            self.break_down(&turned_away.into());
        }
    }

    fn store_promise(&self, inner: &mut Inner, promise: &GenesisPromise) -> Result<(), StateError> {
        self.put(ROW_PROMISE, &promise.encode())?;
        inner.standing = Standing::Promised(promise.clone());
        self.changed();
        Ok(())
    }

    fn store_membership(
        &self,
        inner: &mut Inner,
        node: NodeId,
        genesis: GenesisPromise,
    ) -> Result<(), StateError> {
        let cluster = genesis.cluster();
        let membership = MembershipRow { node, name: self.local.name.clone(), genesis };
        self.put(ROW_MEMBERSHIP, &membership.encode())?;
        let joined = self.rows.join_cluster(cluster).map_err(StateError::from);
        joined.inspect_err(|error| self.break_down(error))?;
        inner.membership = Some(membership);
        inner.standing = Standing::Member(cluster);
        self.changed();
        Ok(())
    }

    fn put(&self, row: &[u8], value: &[u8]) -> Result<(), StateError> {
        let written = self.rows.put_meta(row, value).map_err(StateError::from);
        written.inspect_err(|error| self.break_down(error))
    }

    fn break_down(&self, error: &StateError) {
        tracing::error!(%error, "the node cannot go on");
        // The first reason counts; later ones may follow from it.
        self.fault.send_if_modified(|fault| {
            let is_first = fault.is_none();
            fault.get_or_insert_with(|| error.clone());
            is_first
        });
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

fn read_row<T>(
    rows: &dyn NodeRows,
    key: &[u8],
    row: &'static str,
    decode: impl FnOnce(&[u8]) -> Result<T, DecodeError>,
) -> Result<Option<T>, StateError> {
    let Some(value) = rows.meta(key)? else { return Ok(None) };
    decode(&value).map(Some).map_err(|source| StateError::Damaged { row, source })
}

/// A founder as probes tell it. The zone is not among it.
pub(crate) fn wire_founder(founder: &Founder) -> internal::Founder {
    internal::Founder {
        name: founder.name.clone(),
        store_id: founder.store.0.to_vec(),
        public_key: founder.public_key.to_vec(),
        address: founder.address.clone(),
    }
}
