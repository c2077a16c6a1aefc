//! Which snapshots are brought here now, and which wait.
//!
//! Owns the order (`_system` first, then by number), the bound on how many at a time, and that a group has one
//! fetch at most. Called by the driver's thread: must never block it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ledger_shard::{FetchSnapshot, SnapshotFetcher, SnapshotId, SnapshotManifest, SnapshotStore};
use ledger_types::{GroupId, NodeId};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::download::{Download, FetchError};
use super::hold::hold;
use super::{Asking, SnapshotReports};
use crate::peer::AddressBook;

/// Bounds of fetching.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchLimits {
    /// Fetches at a time.
    pub fetches_max: usize,
    /// First pause before a broken stream is opened again.
    pub backoff_min: Duration,
    /// Longest pause.
    pub backoff_max: Duration,
    /// Longest wait for the next piece of an open stream.
    pub piece_wait_max: Duration,
    /// Time between two words to the senders of snapshots that wait here or are being verified.
    pub hold_every: Duration,
    /// Longest time without a piece, over any number of streams, after which a fetch is given up.
    pub silence_max: Duration,
}

impl Default for FetchLimits {
    fn default() -> FetchLimits {
        FetchLimits {
            fetches_max: 2,
            backoff_min: Duration::from_millis(250),
            backoff_max: Duration::from_secs(2),
            piece_wait_max: Duration::from_secs(10),
            hold_every: Duration::from_secs(3),
            silence_max: Duration::from_secs(30),
        }
    }
}

/// What a fetch works with.
pub(super) struct Links {
    pub(super) asking: Asking,
    pub(super) book: Arc<dyn AddressBook>,
    pub(super) limits: FetchLimits,
}

/// Where fetched snapshots go.
struct Target {
    store: Arc<SnapshotStore>,
    reports: Arc<dyn SnapshotReports>,
}

struct Running {
    id: SnapshotId,
    sender: NodeId,
    stop: watch::Sender<bool>,
}

#[derive(Default)]
struct Queue {
    waiting: BTreeMap<GroupId, Box<SnapshotManifest>>,
    running: BTreeMap<GroupId, Running>,
    is_closed: bool,
}

pub(super) struct Shared {
    pub(super) links: Arc<Links>,
    target: OnceLock<Target>,
    queue: Mutex<Queue>,
    runtime: Handle,
}

/// Brings snapshots here, as the groups of this node ask for them.
pub struct Fetcher {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fetcher({} running)", self.running())
    }
}

impl Fetcher {
    /// A fetcher for this node; `book` knows where senders are. Made inside a runtime, on which it works. What
    /// is asked for waits until [`Fetcher::attach`].
    pub fn new(asking: Asking, book: Arc<dyn AddressBook>, limits: FetchLimits) -> Arc<Fetcher> {
        assert!(limits.fetches_max > 0, "a fetcher fetches");
        let links = Arc::new(Links { asking, book, limits });
        let (target, queue) = (OnceLock::new(), Mutex::default());
        let shared = Shared { links, target, queue, runtime: Handle::current() };
        Arc::new(Fetcher { shared: Arc::new(shared) })
    }

    /// Tells where snapshots are kept and who hears of their end. Called once.
    pub fn attach(&self, store: Arc<SnapshotStore>, reports: Arc<dyn SnapshotReports>) {
        let is_first = self.shared.target.set(Target { store, reports }).is_ok();
        assert!(is_first, "a fetcher serves one shard");
        self.shared.runtime.spawn(hold(Arc::downgrade(&self.shared)));
        self.shared.pump();
    }

    /// Gives up every fetch, without a word to the shard, and begins none any more.
    pub fn close(&self) {
        let mut queue = self.shared.queue.lock();
        queue.is_closed = true;
        queue.waiting.clear();
        for running in queue.running.values() {
            running.stop.send_replace(true);
        }
    }

    /// Fetches under way.
    pub fn running(&self) -> usize {
        self.shared.queue.lock().running.len()
    }
}

impl SnapshotFetcher for Fetcher {
    fn fetch(&self, wanted: FetchSnapshot) {
        let manifest = wanted.manifest;
        let (group, id) = (manifest.group, manifest.id);
        let mut queue = self.shared.queue.lock();
        if queue.is_closed {
            return;
        }
        if let Some(running) = queue.running.get(&group) {
            if running.id == id && !*running.stop.borrow() {
                // Asked for again: it is on its way.
                queue.waiting.remove(&group);
                return;
            }
            running.stop.send_replace(true);
        }
        queue.waiting.insert(group, manifest);
        drop(queue);
        self.shared.pump();
    }
}

impl Shared {
    /// The snapshots that are wanted, by their senders; `None` once the fetcher is closed.
    pub(super) fn wanted(&self) -> Option<BTreeMap<NodeId, Vec<SnapshotId>>> {
        let queue = self.queue.lock();
        let mut wanted: BTreeMap<NodeId, Vec<SnapshotId>> = BTreeMap::new();
        let running = queue.running.values().map(|one| (one.sender, one.id));
        for (sender, id) in
            running.chain(queue.waiting.values().map(|one| (one.sender.node, one.id)))
        {
            wanted.entry(sender).or_default().push(id);
        }
        (!queue.is_closed).then_some(wanted)
    }

    /// Gives up what waits for its turn and is not there any more. One that is being fetched finds out by itself,
    /// or is here already.
    pub(super) fn lose(&self, lost: &[SnapshotId]) {
        let mut queue = self.queue.lock();
        let gone: Vec<(GroupId, SnapshotId)> = queue
            .waiting
            .extract_if(.., |_, manifest| lost.contains(&manifest.id))
            .map(|(group, manifest)| (group, manifest.id))
            .collect();
        drop(queue);
        let target = self.target.get().expect("nothing is lost before there is a target");
        for (group, id) in gone {
            warn!(%group, snapshot = %id, "a snapshot went before its turn to be fetched");
            target.reports.fetched(group, id, false);
        }
    }

    /// Begins what may begin. A group's next fetch waits for the end of the one before: both write to the
    /// group's staging.
    fn pump(self: &Arc<Self>) {
        if self.target.get().is_none() {
            return;
        }
        let mut queue = self.queue.lock();
        while !queue.is_closed && queue.running.len() < self.links.limits.fetches_max {
            let Queue { waiting, running, .. } = &mut *queue;
            let next = waiting.keys().find(|group| !running.contains_key(group)).copied();
            let Some(group) = next else { return };
            let manifest = waiting.remove(&group).expect("the key was found a line above");
            let (stop, stopped) = watch::channel(false);
            running.insert(group, Running { id: manifest.id, sender: manifest.sender.node, stop });
            self.runtime.spawn(self.clone().run(manifest, stopped));
        }
    }

    async fn run(self: Arc<Self>, manifest: Box<SnapshotManifest>, stopped: watch::Receiver<bool>) {
        let target = self.target.get().expect("nothing begins before there is a target");
        let (group, id, index) = (manifest.group, manifest.id, manifest.row.applied_index);
        let bytes = manifest.bytes();
        info!(%group, index, snapshot = %id, bytes, from = %manifest.sender.node,
            "fetching a snapshot");
        let begun = Instant::now();
        let download = Download::new(self.links.clone(), manifest, stopped);
        let outcome = download.run(target.store.clone()).await;
        self.queue.lock().running.remove(&group);
        let seconds = begun.elapsed().as_secs_f64();
        match &outcome {
            Ok(()) => info!(%group, index, snapshot = %id, bytes, seconds, "fetched a snapshot"),
            Err(FetchError::Stopped) => {
                info!(%group, index, snapshot = %id, seconds, "stopped fetching a snapshot");
            }
            Err(error) => {
                warn!(%group, index, snapshot = %id, seconds, %error, "a snapshot was not fetched");
            }
        }
        // One that was stopped is nobody's any more.
        if !matches!(outcome, Err(FetchError::Stopped)) {
            target.reports.fetched(group, id, outcome.is_ok());
        }
        self.pump();
    }
}
