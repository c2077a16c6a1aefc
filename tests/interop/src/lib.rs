//! A cluster of real server processes for clients of other people.
//!
//! Owns a cluster's processes and directory. Must never use the repository's own client or types: the clients under test
//! know nothing of them.

#[path = "../../../src/demo/process.rs"]
pub mod process;

use std::path::Path;

use process::{READY_TIME_MAX, Server};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

/// One cluster at a time: the machines that run these tests are small.
static TURN: Semaphore = Semaphore::const_new(1);

/// Servers in a directory of their own. Dropping it kills them and removes the directory.
#[derive(Debug)]
pub struct Cluster {
    /// The processes.
    pub servers: Vec<Server>,
    _folder: TempDir,
    _turn: SemaphorePermit<'static>,
}

impl Cluster {
    /// Founds a cluster of the given program and waits until all of its nodes serve. Settings are given by environment
    /// variable. Panics if the program is not there or the cluster does not come up.
    pub async fn start(program: &Path, nodes: usize, settings: &[(&str, &str)]) -> Cluster {
        assert!(program.exists(), "{} is not built: make build", program.display());
        let turn = TURN.acquire().await.expect("the semaphore is never closed");
        let folder = tempfile::tempdir().expect("a directory for temporary files");
        let mut specs = process::plan(program, folder.path(), nodes).expect("free ports");
        for spec in &mut specs {
            let pairs = settings.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            spec.environment.extend(pairs);
        }
        let servers = process::start_all(specs).await.expect("the cluster comes up");
        Cluster { servers, _folder: folder, _turn: turn }
    }

    /// The address of a node as clients are given it.
    pub fn url(&self, node: usize) -> String {
        format!("http://{}", self.servers[node].address())
    }

    /// The number of a node by its name.
    pub fn number_of(&self, name: &str) -> usize {
        let found = self.servers.iter().position(|server| server.spec().name == name);
        found.expect("a node of this cluster")
    }

    /// Kills a node with SIGKILL, by its process id.
    pub fn kill(&mut self, node: usize) {
        self.servers[node].kill();
    }

    /// Asks a node to end (SIGTERM) and waits until it has.
    pub async fn stop(&mut self, node: usize) {
        let status = self.servers[node].stop().await.expect("the node ends");
        assert!(status.success(), "{status}");
    }

    /// Starts a killed or stopped node again and waits until it serves.
    pub async fn resume(&mut self, node: usize) {
        self.servers[node].resume().expect("the program starts again");
        self.servers[node].wait_ready(READY_TIME_MAX).await.expect("the node comes back");
    }

    /// Asserts that every node serves.
    pub async fn assert_ready(&self) {
        for server in &self.servers {
            assert!(server.is_ready().await, "{}", server.log_tail());
        }
    }
}
