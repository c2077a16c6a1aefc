//! The nodes of a cluster under test: processes, and the disk and the fail points of each.
//!
//! Owns starting, harming and mending single nodes. Which harm is done when is decided in `faults`.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ledger::demo::process::{self, ProcessError, Server, ServerSpec};
use ledger::demo::replicas::Replica;
use ledger::test_hooks::{POINTS_VARIABLE, SEEN_SUFFIX};
use ledger_client::Client;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::disk::Disk;
use super::link::Flow;
use super::network::Network;
use super::workload::sdk_client;

/// Nodes of a cluster.
pub(crate) const NODES: usize = 3;
/// Longest time until nodes that are free of faults serve again.
pub(crate) const READY_MAX: Duration = Duration::from_secs(60);
/// Longest time until a process has taken over its fail points.
const POINTS_MAX: Duration = Duration::from_secs(10);
/// Longest time until the others elect a leader in the place of one that they do not hear.
const ELECTED_MAX: Duration = Duration::from_secs(20);
/// The directory's group.
const DIRECTORY: u64 = 0;
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What every cluster under test is started with: quick elections; few groups, so that each has load; logs so short that
/// a node which is gone for a second may need a snapshot.
const SETTINGS: [(&str, &str); 3] =
    [("LEDGER_TICK_MS", "30"), ("LEDGER_SHARDS", "3"), ("LEDGER_RAFT_LOG_ENTRIES_MAX", "20")];

/// On a disk that will be full: the store takes space for its log in advance, and little of it with small buffers.
const BUFFER: (&str, &str) = ("LEDGER_WRITE_BUFFER_BYTES", "2097152");
/// One cluster at a time: the machines that run these tests are small.
static TURN: Semaphore = Semaphore::const_new(1);

/// Waits until no other test here runs a cluster.
pub(crate) async fn take_turn() -> SemaphorePermit<'static> {
    TURN.acquire().await.expect("the semaphore is never closed")
}

/// How a node is at this moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Health {
    /// Its process runs, or should.
    Running,
    /// Its process was stopped with SIGSTOP.
    Paused,
    /// It has no process.
    Down,
}

/// One node.
pub(crate) struct Node {
    server: Server,
    pub(crate) health: Health,
    /// Bytes in its log file before its process was started.
    said_before: u64,
    points: BTreeMap<String, String>,
    points_file: PathBuf,
}

/// A cluster of processes whose network is in the test's hands.
pub(crate) struct Nodes {
    pub(crate) nodes: Vec<Node>,
    network: Network,
    /// One for each node, or none at all. Dropped after the processes and before the directory.
    disks: Vec<Disk>,
    folder: TempDir,
    _turn: SemaphorePermit<'static>,
}

/// Bytes that a server has written to its log file.
fn said(server: &Server) -> u64 {
    std::fs::metadata(&server.spec().log_file).map_or(0, |file| file.len())
}

impl Nodes {
    /// Founds a cluster and waits until all nodes serve; on disks that can be filled and cut off if asked for.
    pub(crate) async fn start(binary: &Path, on_disks: bool) -> Nodes {
        let turn = take_turn().await;
        let folder = tempfile::tempdir().unwrap();
        let mut specs = process::plan(binary, folder.path(), NODES).unwrap();
        let network = Network::proxies(&mut specs).await;
        Nodes::found(specs, network, on_disks, (folder, turn)).await
    }

    /// Founds a cluster whose nodes have a namespace each. Only for a process that has a network of its own.
    pub(crate) async fn start_in_namespaces(binary: &Path) -> Nodes {
        let turn = take_turn().await;
        let folder = tempfile::tempdir().unwrap();
        let mut specs = process::plan(binary, folder.path(), NODES).unwrap();
        let network = Network::namespaces(&mut specs, folder.path());
        Nodes::found(specs, network, false, (folder, turn)).await
    }

    async fn found(
        specs: Vec<ServerSpec>,
        network: Network,
        on_disks: bool,
        (folder, turn): (TempDir, SemaphorePermit<'static>),
    ) -> Nodes {
        let (mut nodes, mut disks) = (Vec::new(), Vec::new());
        for mut spec in specs {
            if on_disks {
                let disk = Disk::make(folder.path(), &spec.name).unwrap();
                spec.data_dir = disk.directory().join("data");
                spec.environment.push((BUFFER.0.to_owned(), BUFFER.1.to_owned()));
                disks.push(disk);
            }
            let points_file = folder.path().join(format!("node-{}.points", spec.name));
            let settings = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned()));
            spec.environment.extend(settings);
            let points = points_file.display().to_string();
            spec.environment.push((POINTS_VARIABLE.to_owned(), points));
            let server = Server::start(spec).unwrap();
            let points = BTreeMap::new();
            let (health, said_before) = (Health::Running, 0);
            nodes.push(Node { server, health, said_before, points, points_file });
        }
        let mut nodes = Nodes { nodes, network, disks, folder, _turn: turn };
        nodes.wait_ready().await.unwrap();
        nodes
    }

    /// Where the cluster keeps everything.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Every node's gRPC address, by number.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.server.address()).collect()
    }

    /// Every node as a holder of replicas.
    pub(crate) fn replicas(&self) -> Vec<Replica> {
        self.addresses().iter().map(|address| Replica::at(address).unwrap()).collect()
    }

    /// The files into which the nodes write.
    pub(crate) fn log_files(&self) -> Vec<PathBuf> {
        self.nodes.iter().map(|node| node.server.spec().log_file.clone()).collect()
    }

    /// How often the nodes have told of an installed snapshot so far.
    pub(crate) fn snapshots_installed(&self) -> u64 {
        let installed = |file: PathBuf| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            text.matches("snapshot installed").count() as u64
        };
        self.log_files().into_iter().map(installed).sum()
    }

    /// Numbers of the nodes in this state.
    pub(crate) fn in_health(&self, health: Health) -> Vec<usize> {
        (0..NODES).filter(|&number| self.nodes[number].health == health).collect()
    }

    /// Ends a node's process with SIGKILL, also one that is paused.
    pub(crate) fn kill(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.server.kill();
        node.health = Health::Down;
    }

    /// Asks a node's process to end and waits until it has.
    pub(crate) async fn stop(&mut self, number: usize) -> Result<(), String> {
        let node = &mut self.nodes[number];
        node.health = Health::Down;
        let status = node.server.stop().await.map_err(|error| error.to_string())?;
        // Until it listens to signals a process ends as the system has it, and has nothing to end well.
        let has_begun = said(&node.server) > node.said_before;
        let is_early = !has_begun && status.signal() == Some(Signal::TERM.as_raw());
        if status.success() || is_early {
            return Ok(());
        }
        Err(format!("node {number} ended with {status}"))
    }

    /// Starts a node's process. It need not serve yet when this returns.
    pub(crate) fn resume(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        assert_eq!(node.health, Health::Down, "node {number} runs");
        node.said_before = said(&node.server);
        node.server.resume().unwrap();
        node.health = Health::Running;
    }

    /// Freezes a node's process, or lets it go on.
    pub(crate) fn pause(&mut self, number: usize, paused: bool) {
        let node = &mut self.nodes[number];
        let (signal, health) = match paused {
            true => (Signal::STOP, Health::Paused),
            false => (Signal::CONT, Health::Running),
        };
        let id = node.server.process_id().expect("a process to pause");
        let id = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
        kill_process(id, signal).unwrap();
        node.health = health;
    }

    /// True if the nodes' disks can be filled and cut off.
    pub(crate) fn has_disks(&self) -> bool {
        !self.disks.is_empty()
    }

    /// Leaves no free byte on a node's disk.
    pub(crate) fn fill_disk(&self, number: usize) {
        self.disks[number].fill().unwrap();
    }

    /// Takes away again what fills the disk.
    pub(crate) fn free_disk(&self, number: usize) {
        self.disks[number].free().unwrap();
    }

    /// Ends all processes and loses whatever was not synced. The processes first: a sync that runs while the file
    /// system is stopped may succeed and its data be lost all the same, and no process outlives its power to tell of it.
    pub(crate) fn cut_power(&mut self) {
        for number in 0..NODES {
            self.kill(number);
        }
        for disk in &self.disks {
            disk.cut_off().unwrap();
            disk.unmount().unwrap();
        }
    }

    /// Brings the disks back; the processes are still down.
    pub(crate) fn restore_power(&mut self) {
        for disk in &mut self.disks {
            disk.mount().unwrap();
        }
    }

    /// Asserts that a leader which is cut off from the others is replaced: that the network is in our hands.
    pub(crate) async fn assert_cuts_cut(&mut self) {
        let client = sdk_client(&self.addresses(), "cuts");
        client.with_deadline(READY_MAX).ensure_namespace("cuts").await.unwrap();
        let leader =
            self.leader(&client, DIRECTORY).await.expect("the directory just took a write");
        let others: Vec<usize> = (0..NODES).filter(|other| *other != leader).collect();
        for &other in &others {
            self.set_flow(leader, other, Flow::Stall);
            self.set_flow(other, leader, Flow::Stall);
        }
        let begun = Instant::now();
        while self.leader(&client, DIRECTORY).await.is_none_or(|now| now == leader) {
            assert!(
                begun.elapsed() < ELECTED_MAX,
                "node {leader} still leads although it is cut off"
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        self.set_all_flows(Flow::Pass);
    }

    /// What happens to the bytes from one node to another from now on.
    pub(crate) fn set_flow(&mut self, from: usize, to: usize, flow: Flow) {
        self.network.set((from, to), flow);
    }

    /// The same for every pair of nodes.
    pub(crate) fn set_all_flows(&mut self, flow: Flow) {
        for from in 0..NODES {
            for to in (0..NODES).filter(|to| *to != from) {
                self.set_flow(from, to, flow);
            }
        }
    }

    /// Sets a fail point of a node, or takes it away. A process that runs has taken it over on return.
    pub(crate) async fn set_point(&mut self, number: usize, name: &str, action: Option<&str>) {
        let node = &mut self.nodes[number];
        match action {
            Some(action) => node.points.insert(name.to_owned(), action.to_owned()),
            None => node.points.remove(name),
        };
        let lines = node.points.iter().map(|(name, action)| format!("{name}={action}\n"));
        let text: String = lines.collect();
        let fresh = node.points_file.with_extension("new");
        std::fs::write(&fresh, &text).unwrap();
        std::fs::rename(&fresh, &node.points_file).unwrap();
        if node.health != Health::Running {
            return;
        }
        let mut seen = node.points_file.clone().into_os_string();
        seen.push(SEEN_SUFFIX);
        let begun = Instant::now();
        while std::fs::read_to_string(&seen).ok().as_ref() != Some(&text) {
            if self.has_ended(number).await.is_some() {
                return;
            }
            assert!(begun.elapsed() < POINTS_MAX, "node {number} does not follow its fail points");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// True if the node has this fail point set.
    pub(crate) fn has_point(&self, number: usize, name: &str) -> bool {
        self.nodes[number].points.contains_key(name)
    }

    /// How a process ended that nobody has ended; its node counts as down then.
    pub(crate) async fn has_ended(&mut self, number: usize) -> Option<String> {
        let node = &mut self.nodes[number];
        if node.health != Health::Running {
            return None;
        }
        if node.server.process_id().is_none() {
            // Someone waited for it to serve, and saw and told how it ended.
            node.health = Health::Down;
            return Some(format!("node {number} ended by itself before it served"));
        }
        let status = node.server.wait_exit(Duration::ZERO).await.ok()?;
        node.health = Health::Down;
        Some(format!("node {number} ended by itself with {status}; {}", node.server.log_tail()))
    }

    /// Waits until every node serves.
    pub(crate) async fn wait_ready(&mut self) -> Result<(), ProcessError> {
        for node in &mut self.nodes {
            node.server.wait_ready(READY_MAX).await?;
        }
        Ok(())
    }

    /// Number of the node that leads a group, as far as anyone who runs can tell.
    pub(crate) async fn leader(&self, client: &Client, group: u64) -> Option<usize> {
        let addresses = self.addresses();
        for number in self.in_health(Health::Running) {
            let asked = client.with_deadline(POINTS_MAX / 20).status_of(&addresses[number]).await;
            let Ok(status) = asked else { continue };
            let mut groups = status.system.into_iter().chain(status.groups);
            let told = groups.find(|status| status.group == group);
            let Some(leader) = told.map(|group| group.leader_address) else { continue };
            if let Some(number) = addresses.iter().position(|address| *address == leader) {
                return Some(number);
            }
        }
        None
    }
}
