//! The threads that cut, install and remove snapshots, so that the driver never waits for one.
//!
//! Owns their queue and how each job's end is told. Must never answer for an install before it is durable.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam::channel::Sender;
use ledger_shard_core::apply::Applier;
use ledger_shard_core::effects::{CutSnapshot, Input, InstallSnapshot};
use ledger_shard_core::snapshot::SnapshotId;
use ledger_types::GroupId;
use parking_lot::{Condvar, Mutex};
use tracing::{info, warn};

use super::error::SnapshotError;
use super::files::remove_directory;
use super::install::{Install, run};
use super::store::SnapshotStore;
use crate::Fatal;
use crate::ingress::Event;
use crate::metrics::{Metrics, add};
use crate::pipeline::spawn;
use crate::store::Store;

/// Snapshots cut at the same time.
const CUTS_MAX: usize = 2;

/// What the threads work with.
pub(crate) struct WorkerParts {
    pub(crate) store: Arc<Store>,
    pub(crate) snapshots: Arc<SnapshotStore>,
    pub(crate) applier: Arc<Mutex<Applier>>,
    pub(crate) events: Sender<Event>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) fatal: Fatal,
}

/// What waits for a thread. Bounded by the core: at most one cut for each member of a group and one install
/// for each group are asked for at a time, and each kept snapshot is removed once.
#[derive(Default)]
struct Queue {
    cuts: VecDeque<CutSnapshot>,
    installs: VecDeque<InstallSnapshot>,
    removals: VecDeque<PathBuf>,
}

struct Jobs {
    queue: Mutex<Queue>,
    changed: Condvar,
    stop: AtomicBool,
}

impl Jobs {
    fn push(&self, add: impl FnOnce(&mut Queue)) {
        add(&mut self.queue.lock());
        self.changed.notify_all();
    }

    /// Waits for what `take` takes; `None` once the node stops.
    fn next<T>(&self, mut take: impl FnMut(&mut Queue) -> Option<T>) -> Option<T> {
        let mut queue = self.queue.lock();
        loop {
            if self.stop.load(Ordering::Acquire) {
                return None;
            }
            if let Some(job) = take(&mut queue) {
                return Some(job);
            }
            self.changed.wait(&mut queue);
        }
    }
}

/// The way to the installing thread for the stages in front of it.
#[derive(Clone)]
pub(crate) struct InstallQueue(Arc<Jobs>);

impl InstallQueue {
    /// Everything of the group that was written before this call is in the store.
    pub(crate) fn push(&self, install: InstallSnapshot) {
        self.0.push(|queue| queue.installs.push_back(install));
    }
}

/// The running threads. Dropped, they stop where they are: a cut is given up, an install goes on at the next
/// start.
pub(crate) struct Workers {
    jobs: Arc<Jobs>,
    snapshots: Arc<SnapshotStore>,
    threads: Vec<JoinHandle<()>>,
}

enum DiskJob {
    Install(InstallSnapshot),
    Remove(PathBuf),
}

impl Workers {
    pub(crate) fn start(parts: WorkerParts) -> io::Result<Workers> {
        let (queue, stop) = (Mutex::new(Queue::default()), AtomicBool::new(false));
        let jobs = Arc::new(Jobs { queue, changed: Condvar::new(), stop });
        let (snapshots, threads) = (parts.snapshots.clone(), Vec::new());
        let mut workers = Workers { jobs: jobs.clone(), snapshots, threads };
        let parts = Arc::new(parts);
        for _ in 0..CUTS_MAX {
            let (jobs, parts) = (jobs.clone(), parts.clone());
            workers.threads.push(spawn("ledger-cut", parts.fatal.clone(), move || {
                super::stand_back();
                while let Some(wanted) = jobs.next(|queue| queue.cuts.pop_front()) {
                    cut(&parts, &wanted, &jobs.stop);
                }
            })?);
        }
        let fatal = parts.fatal.clone();
        workers.threads.push(spawn("ledger-install", fatal, move || {
            super::stand_back();
            let take = |queue: &mut Queue| match queue.installs.pop_front() {
                Some(wanted) => Some(DiskJob::Install(wanted)),
                None => queue.removals.pop_front().map(DiskJob::Remove),
            };
            while let Some(job) = jobs.next(take) {
                match job {
                    DiskJob::Install(wanted) => install(&parts, &wanted, &jobs.stop),
                    DiskJob::Remove(path) => remove(&path),
                }
            }
        })?);
        Ok(workers)
    }

    /// Cuts a snapshot some time soon; [`Input::SnapshotCut`] answers. One that waits for the same replica
    /// is replaced.
    pub(crate) fn cut(&self, wanted: CutSnapshot) {
        self.jobs.push(|queue| {
            let is_same = |one: &CutSnapshot| (one.group, one.to) == (wanted.group, wanted.to);
            queue.cuts.retain(|one| !is_same(one));
            queue.cuts.push_back(wanted);
        });
    }

    /// The way to install.
    pub(crate) fn installs(&self) -> InstallQueue {
        InstallQueue(self.jobs.clone())
    }

    /// Forgets a snapshot that was cut here.
    pub(crate) fn release(&self, id: SnapshotId) {
        if let Some(path) = self.snapshots.release(id) {
            self.jobs.push(|queue| queue.removals.push_back(path));
        }
    }

    /// Forgets a snapshot that was received.
    pub(crate) fn discard(&self, group: GroupId, id: SnapshotId) {
        if let Some(path) = self.snapshots.discard(group, id) {
            self.jobs.push(|queue| queue.removals.push_back(path));
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs.stop.store(true, Ordering::Release);
        // Under the lock, so that a thread between its look and its wait is not missed.
        self.jobs.push(|_| {});
        for thread in self.threads.drain(..) {
            // One that panicked has told so already.
            let _ = thread.join();
        }
    }
}

fn cut(parts: &WorkerParts, wanted: &CutSnapshot, stop: &AtomicBool) {
    let begin = Instant::now();
    let (group, to) = (wanted.group, wanted.to.incarnation);
    let manifest = match parts.snapshots.cut(&parts.store, wanted, stop) {
        Ok(manifest) => {
            add(&parts.metrics.snapshots_cut, 1);
            info!(
                group = group.0,
                to = to.0,
                index = manifest.row.applied_index,
                bytes = manifest.bytes(),
                files = manifest.files.len(),
                ms = begin.elapsed().as_millis(),
                id = %manifest.id,
                "snapshot cut"
            );
            Some(Box::new(manifest))
        }
        Err(SnapshotError::Stopped) => return,
        Err(error) => {
            add(&parts.metrics.snapshots_cut_failed, 1);
            warn!(group = group.0, to = to.0, %error, "snapshot not cut");
            None
        }
    };
    // A driver that is gone has stopped listening on purpose.
    let _ = parts.events.send(Event::Control(Input::SnapshotCut { group, to, manifest }));
}

fn install(parts: &WorkerParts, wanted: &InstallSnapshot, stop: &AtomicBool) {
    let begin = Instant::now();
    let manifest = &*wanted.manifest;
    let (group, id) = (manifest.group, manifest.id);
    let installed = parts.snapshots.begin_install(manifest).and_then(|()| {
        let applier = Some(&*parts.applier);
        let marker = super::install::Marker::of(wanted);
        let install = Install::new(&parts.store, manifest, marker, applier)?;
        run(install, stop)
    });
    match installed {
        Ok(()) => {}
        Err(SnapshotError::Stopped) => return,
        // The group's rows are gone and the others are not all there: only the next start mends that.
        Err(error) => parts.fatal.end(&format!("group {group}, snapshot {id}: {error}")),
    }
    let elapsed = begin.elapsed();
    add(&parts.metrics.snapshots_installed, 1);
    let ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
    add(&parts.metrics.snapshot_install_ns, ns);
    info!(
        group = group.0,
        index = manifest.row.applied_index,
        bytes = manifest.bytes(),
        files = manifest.files.len(),
        ms = elapsed.as_millis(),
        %id,
        "snapshot installed"
    );
    let path = parts.snapshots.end_install(group, id);
    let _ = parts.events.send(Event::Control(Input::Persisted { group, ready: wanted.ready }));
    remove(&path);
}

/// A directory that stays takes room and harms nobody.
fn remove(path: &std::path::Path) {
    if let Err(error) = remove_directory(path) {
        warn!(%error, "a snapshot's files stay");
    }
}
