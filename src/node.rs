//! A node from start to stop: which part starts after which, and which stops before which.
//!
//! Owns the order. Must never hold logic of a part: what a part does is its own file's business.

use std::net::TcpListener as StdListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ledger_proof::{EntryPosition, NodeKey};
use ledger_router::LeaderHints;
use ledger_shard::boot::{self, Boot, BootError};
use ledger_shard::{
    ApplyConfig, BootRecord, CoreConfig, Driver, DriverConfig, DriverError, DriverParts,
    FIRST_OWNER_EPOCH, OpenError, Replica, ShardHandle, Store, StoreConfig, SystemClock,
    abort_process, genesis_rows,
};
use ledger_types::{ClusterId, GroupId, Incarnation, NodeId, VaultRef};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::admission::Admission;
use crate::bootstrap::{
    self, BootstrapError, BootstrapSettings, Established, FounderBook, GenesisPromise, PeerSource,
};
use crate::checkpoints::Checkpoints;
use crate::config::Config;
use crate::context::{BlockFeed, ChannelPool, NodeContext};
use crate::cosigning::RecentRounds;
use crate::directory::{DirectoryCache, LocalDirectory, LocalSource, NodeBook, follow};
use crate::edge::{self, Edge, NodeSlot, Stage};
use crate::metrics::RequestMetrics;
use crate::peer::{
    AddressBook, FrameSink, LocalNode, PeerState, Serving, StateError, Transport, TransportLimits,
};
use crate::purge::PurgeBook;
use crate::quarantine::{Quarantine, QuarantineError};
use crate::signer::Signer;
use crate::snapshots::{Asking, FetchLimits, Fetcher, ServeLimits, SnapshotServer};
use crate::vault_snapshots::VaultSnapshots;
use crate::{clock_guard, expiry, http, leadership, purge, reconciler, signed_history};

/// Time that moving leaders away may take before a stop goes on.
const HAND_OVER_TIME: Duration = Duration::from_secs(2);
/// Time that open requests may take before a stop goes on without them.
const DRAIN_TIME: Duration = Duration::from_secs(6);
/// Pause between looks at group statuses, for leader hints.
const STATUS_EVERY: Duration = Duration::from_millis(50);
/// Looks between two renewals of everything that a status tells beside the leader.
const LOOKS_PER_REFRESH: u64 = 10;

/// Why a node does not start, or stops with an error.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The store cannot be opened.
    #[error("the data directory {path} cannot be used")]
    Store {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: OpenError,
    },
    /// A listener cannot be opened, or the runtime not be started.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The node cannot become part of a cluster.
    #[error("the node cannot join a cluster")]
    Bootstrap(#[from] BootstrapError),
    /// What the store knows of other nodes cannot be read or written.
    #[error("the store's knowledge of other nodes failed")]
    Peers(#[from] StateError),
    /// The groups on disk cannot be started.
    #[error("the groups on disk cannot be started")]
    Boot(#[from] BootError),
    /// The list of vaults in quarantine cannot be read.
    #[error("the node's list of vaults in quarantine cannot be read")]
    Quarantine(#[from] QuarantineError),
    /// A listener ended although nobody stopped it.
    #[error("the {listener} listener ended")]
    ListenerEnded {
        /// Which one.
        listener: &'static str,
    },
    /// The driver cannot be started or stopped.
    #[error("the groups' driver failed")]
    Driver(#[from] DriverError),
}

/// The machine's host name; `localhost` if it has none.
pub fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// Runs a node until the process is told to stop.
pub fn run(config: Config) -> Result<(), NodeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.worker_threads)
        .enable_all()
        .thread_name("serve")
        .build()
        .map_err(|source| NodeError::Io {
            what: "the runtime cannot be started".to_owned(),
            source,
        })?;
    let signals = {
        let _inside = runtime.enter();
        StopSignals::listen()
    };
    let store_config = StoreConfig {
        write_buffer_bytes: config.write_buffer_bytes,
        block_cache_bytes: config.block_cache_bytes,
        ..StoreConfig::default()
    };
    let store = Store::open(&config.data_dir, None, &store_config)
        .map_err(|source| NodeError::Store { path: config.data_dir.clone(), source })?;
    runtime.block_on(serve(config, Arc::new(store), signals))
}

async fn serve(
    config: Config,
    store: Arc<Store>,
    mut signals: StopSignals,
) -> Result<(), NodeError> {
    let grpc = listen(config.listen_addr)?;
    let web = listen(config.http_addr)?;
    let advertise_addr = advertised(&config);
    info!(name = config.name, store = %store.id(), boots = store.boots(), address = advertise_addr, "node starts");

    let (stop, stopped) = watch::channel(false);
    let slot = NodeSlot::new();
    let metrics = Arc::new(RequestMetrics::new());
    let node_key = Arc::new(NodeKey::from_seed(&store.node_key().0));
    let local = local_node(&config, &store, node_key.public_key(), advertise_addr);
    let peers = PeerState::open(store.clone(), local)?;
    // One for both listeners: a node signs in one place.
    let edge = Edge::new(slot.clone(), peers.clone());
    let mut http =
        tokio::spawn(http::serve(edge.clone(), metrics.clone(), web, until(stopped.clone())));
    let mut server = tokio::spawn(edge::serve(edge, metrics.clone(), grpc, until(stopped.clone())));

    slot.enter(Stage::Bootstrapping);
    let settings = BootstrapSettings::new(peer_source(&config), config.cluster_domain.clone());
    let established = tokio::select! {
        established = bootstrap::establish(&peers, &settings) => established?,
        () = signals.received() => {
            info!("stopped before a cluster was found");
            return Ok(());
        }
    };
    let running = start(&config, &store, &peers, &established, (node_key, metrics))?;
    slot.fill(running.context.clone());
    slot.enter(Stage::Ready);
    info!(
        cluster = %established.identity.cluster, node = established.identity.node.0,
        "node serves; raft groups are running"
    );
    let ending = tokio::select! {
        () = signals.received() => Ok(()),
        fault = peers.failed() => Err(NodeError::Peers(fault)),
        _ = &mut server => Err(NodeError::ListenerEnded { listener: "gRPC" }),
        _ = &mut http => Err(NodeError::ListenerEnded { listener: "HTTP" }),
    };
    if ending.is_ok() {
        info!("node stops");
        slot.enter(Stage::Draining);
        running.context.draining.store(true, Ordering::Relaxed);
        hand_over(&running.context).await;
    }
    slot.enter(Stage::Stopping);
    stop.send_replace(true);
    peers.close();
    running.context.snapshots.close();
    running.context.fetcher.close();
    // A client that holds a stream open does not hold up the stop.
    let _ = tokio::time::timeout(DRAIN_TIME, server).await;
    http.abort();
    running.stop().await?;
    // Everything is durable; room that is being given back is so at the next start.
    store.stop_rewriting();
    info!("node stopped");
    ending
}

/// What this node says of itself.
fn local_node(
    config: &Config,
    store: &Store,
    public_key: [u8; 32],
    advertise_addr: String,
) -> LocalNode {
    LocalNode {
        name: config.name.clone(),
        store: store.id(),
        public_key,
        address: advertise_addr,
        zone: config.zone.clone(),
        boot_counter: store.boots(),
        bootstrap_expect: u32::try_from(config.bootstrap_expect).expect("at most 7"),
        feature_level: u32::from(ledger_shard::FEATURE_LEVEL),
    }
}

/// What runs once the node belongs to a cluster.
struct Running {
    context: Arc<NodeContext>,
    driver: Driver,
    transport: Arc<Transport>,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// Ends the tasks, then the driver, which makes everything durable.
    async fn stop(self) -> Result<(), NodeError> {
        self.transport.close();
        for task in self.tasks {
            task.abort();
        }
        let stopping = tokio::task::spawn_blocking(move || self.driver.shutdown());
        Ok(stopping.await.expect("stopping the driver does not panic")?)
    }
}

fn start(
    config: &Config,
    store: &Arc<Store>,
    peers: &Arc<PeerState>,
    established: &Established,
    (node_key, metrics): (Arc<NodeKey>, Arc<RequestMetrics>),
) -> Result<Running, NodeError> {
    let identity = established.identity.clone();
    if let Some(genesis) = &established.founding {
        found(store, genesis, identity.node)?;
        peers.finish_founding()?;
    }
    let boot = boot::load(store, identity.node)?;
    report_left_alone(&boot);
    let directory = Arc::new(DirectoryCache::new(has_directory(&boot.records)));
    let founders = FounderBook::new(&established.genesis);
    let book: Arc<dyn AddressBook> =
        Arc::new(NodeBook::new(directory.clone(), founders, peers.met().clone()));
    let transport = Transport::new(peers, book.clone(), TransportLimits::default());
    let feed = Arc::new(BlockFeed::default());
    let fetcher = Fetcher::new(Asking::from(&identity), book.clone(), FetchLimits::default());
    let parts = DriverParts {
        store: store.clone(),
        node: identity.node,
        records: boot.records,
        sleeping: boot.sleeping,
        outbox: transport.clone(),
        blocks: feed.clone(),
        fetcher: fetcher.clone(),
        clock: Arc::new(SystemClock),
        fatal: abort_process(),
    };
    let driver = Driver::start(parts, driver_config(config))?;
    let (shard, reader) = (driver.handle(), driver.reader());
    let sink: Arc<dyn FrameSink> = Arc::new(shard.clone());
    transport.attach(sink.clone());
    fetcher.attach(shard.snapshots(), Arc::new(shard.clone()));
    let snapshots = snapshot_server(config, identity.cluster, &shard, book.clone());
    let source = LocalSource { shard: shard.clone(), reader: reader.clone(), feed: feed.clone() };
    let service = LocalDirectory::new(directory.clone(), source.clone(), peers.clone());
    peers.serve(Serving { sink, book, directory: Arc::new(service) });
    let context = Arc::new(NodeContext {
        admission: Admission::new(config.namespace_operations_per_second),
        config: config.clone(),
        signer: Signer::new(&identity, node_key, &shard, &reader),
        quarantine: Quarantine::load(&reader)?,
        identity,
        shard,
        reader,
        directory: directory.clone(),
        leaders: Arc::new(LeaderHints::new()),
        checkpoints: Checkpoints::default(),
        read_rounds: RecentRounds::default(),
        blocks: feed,
        channels: Arc::new(ChannelPool::default()),
        draining: AtomicBool::new(false),
        started: Instant::now(),
        metrics,
        peer_metrics: peers.metrics().clone(),
        clocks: peers.clocks().clone(),
        purges: PurgeBook::default(),
        snapshots,
        fetcher,
        vault_snapshots: Arc::new(VaultSnapshots::open(&config.data_dir)),
    });
    let addresses = known_addresses(&established.genesis, peers)?;
    let mut tasks = vec![tokio::spawn(follow(directory, source, addresses))];
    tasks.extend(keep_up(&context, store, peers, established.genesis.clone()));
    Ok(Running { context, driver, transport, tasks })
}

/// True if the directory's rows are here. An added replica that still waits for its first snapshot shows nothing yet.
fn has_directory(records: &[BootRecord]) -> bool {
    records.iter().any(|record| record.group == GroupId::SYSTEM && record.applied > 0)
}

/// The node's own work, beside what it is asked for.
fn keep_up(
    context: &Arc<NodeContext>,
    store: &Arc<Store>,
    peers: &Arc<PeerState>,
    genesis: GenesisPromise,
) -> [JoinHandle<()>; 6] {
    let context = || context.clone();
    [
        tokio::spawn(learn_leaders(context())),
        tokio::spawn(signed_history::run(context())),
        tokio::spawn(expiry::run(context())),
        tokio::spawn(clock_guard::run(context())),
        tokio::spawn(purge::run(context(), store.clone())),
        tokio::spawn(reconciler::run(context(), store.clone(), peers.clone(), genesis)),
    ]
}

/// Says which groups on disk are not started.
fn report_left_alone(boot: &Boot) {
    for orphan in &boot.orphans {
        warn!(
            group = orphan.0,
            "a group on disk belongs to no replica of this node; it is left alone"
        );
    }
    for removed in &boot.removed {
        warn!(group = removed.0, "this node has left a group whose rows are still here");
    }
}

/// Where the directory can be heard from before anything is known of it.
fn known_addresses(genesis: &GenesisPromise, peers: &PeerState) -> Result<Vec<String>, NodeError> {
    let founders = genesis.founders().iter().map(|founder| founder.address.clone());
    let remembered = peers.remembered_addresses()?;
    Ok(founders.chain(remembered.into_iter().map(|(_, address)| address)).collect())
}

/// Makes this founder's replica of `_system`, if a crash did not come after that.
fn found(store: &Store, genesis: &GenesisPromise, node: NodeId) -> Result<(), BootError> {
    let table: Vec<Replica> = (1..)
        .zip(genesis.founders())
        .map(|(number, _)| Replica { incarnation: Incarnation(number), node: NodeId(number) })
        .collect();
    let record = BootRecord::new_group(GroupId::SYSTEM, Incarnation(node.0), table);
    let (index, term) = BootRecord::FIRST;
    let (shard, timestamp_ns) = (GroupId::SYSTEM.0, genesis.founded_at_ns());
    let position = EntryPosition { shard, term, index, timestamp_ns };
    let rows = genesis_rows(VaultRef::SYSTEM, FIRST_OWNER_EPOCH, position);
    match boot::create_group(store, &record, &rows) {
        Ok(()) | Err(BootError::Exists { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Hands out what the shard cuts.
fn snapshot_server(
    config: &Config,
    cluster: ClusterId,
    shard: &ShardHandle,
    book: Arc<dyn AddressBook>,
) -> Arc<SnapshotServer> {
    let limits = ServeLimits::at_rate(config.snapshot_bytes_per_second);
    SnapshotServer::new(cluster, shard.snapshots(), book, Arc::new(shard.clone()), limits)
}

fn driver_config(config: &Config) -> DriverConfig {
    DriverConfig {
        core: CoreConfig {
            tick_ms: config.tick_ms,
            log_entries_max: config.raft_log_entries_max,
            log_bytes_max: config.raft_log_bytes_max,
            ..CoreConfig::default()
        },
        apply: ApplyConfig {
            tree_cache_bytes: config.tree_cache_bytes,
            history_blocks: config.history_blocks,
            ..ApplyConfig::default()
        },
        mode: config.driver_mode,
        apply_threads: config.apply_threads,
        ..DriverConfig::default()
    }
}

/// Keeps leader hints current from this node's own replicas, and wakes watchers after a snapshot.
async fn learn_leaders(context: Arc<NodeContext>) {
    let mut installed = 0;
    for look in 0_u64.. {
        if look.is_multiple_of(LOOKS_PER_REFRESH) {
            context.shard.refresh();
        }
        for (group, term, leader) in context.shard.leaders() {
            context.leaders.learn(group, term, leader);
        }
        let now_installed = context.shard.metrics().snapshots_installed;
        if std::mem::replace(&mut installed, now_installed) < now_installed {
            context.blocks.refresh(|vault| Some(context.reader.tip(vault).ok()?.height));
        }
        tokio::time::sleep(STATUS_EVERY).await;
    }
}

/// Gives leadership of every group to another voter, for as long as there is time.
async fn hand_over(context: &NodeContext) {
    let deadline = Instant::now() + HAND_OVER_TIME;
    let mut attempt = 0;
    while Instant::now() < deadline {
        if leadership::give_away(context, attempt) {
            return;
        }
        attempt += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn listen(address: std::net::SocketAddr) -> Result<TcpListener, NodeError> {
    let failed = |source| NodeError::Io { what: format!("cannot listen on {address}"), source };
    let listener = StdListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    TcpListener::from_std(listener).map_err(failed)
}

/// Where others reach this node: as configured, else the listen address, else the host's name.
fn advertised(config: &Config) -> String {
    if let Some(address) = &config.advertise_addr {
        return address.clone();
    }
    if config.listen_addr.ip().is_unspecified() {
        return format!("{}:{}", host_name(), config.listen_addr.port());
    }
    config.listen_addr.to_string()
}

fn peer_source(config: &Config) -> PeerSource {
    if config.peers.is_empty() {
        PeerSource::Service(config.headless_service.clone())
    } else {
        PeerSource::Listed(config.peers.clone())
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop as well.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// SIGTERM and SIGINT, from the beginning of the process on: one that comes while something else is waited for is kept
/// until somebody asks.
struct StopSignals {
    kinds: Option<(Signal, Signal)>,
}

impl StopSignals {
    /// Inside of a runtime.
    fn listen() -> StopSignals {
        let (terminate, interrupt) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
        let kinds = terminate.ok().zip(interrupt.ok());
        if kinds.is_none() {
            warn!("signals cannot be received; stop the process to stop the node");
        }
        StopSignals { kinds }
    }

    /// Waits for one of them, which may have come already.
    async fn received(&mut self) {
        let Some((terminate, interrupt)) = &mut self.kinds else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}
