//! Real server processes on loopback: starting, asking, stopping, killing.
//!
//! Owns the processes it started, by their ids, and the ports it chose for them. Must never signal a
//! process that it did not start, and never wait without a bound.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest time from the start of a process to its readiness.
pub const READY_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest time a process may take to end after it was asked to.
pub const STOP_TIME_MAX: Duration = Duration::from_secs(30);
/// Pause between two looks at something that is awaited.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Longest time for one HTTP answer.
const HTTP_TIME_MAX: Duration = Duration::from_secs(2);
/// Bytes of a process's log that an error shows.
const LOG_TAIL_BYTES: u64 = 4_000;
/// Ports are chosen below the range from which the system takes those of outgoing connections, so
/// that a stopped node's port is still free when it starts again.
const PORT_FIRST: u32 = 20_000;
const PORT_COUNT: u32 = 12_000;

/// Why a process is not as it should be.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// A file, directory, port or process could not be made.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was tried.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// The process ended by itself.
    #[error("node {name} ended with {status}; its log ends with:\n{log}")]
    Ended {
        /// The node.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// The process runs and did not become what was awaited in time.
    #[error("node {name} is not {awaited} after {waited:?}: {answer}; its log ends with:\n{log}")]
    TooLate {
        /// The node.
        name: String,
        /// What was awaited.
        awaited: &'static str,
        /// How long.
        waited: Duration,
        /// What it said last.
        answer: String,
        /// The end of its log.
        log: String,
    },
}

impl ProcessError {
    fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> ProcessError {
        let doing = doing.into();
        move |source| ProcessError::System { doing, source }
    }
}

/// How one server is started.
#[derive(Clone, Debug)]
pub struct ServerSpec {
    /// The program.
    pub binary: PathBuf,
    /// The node's name.
    pub name: String,
    /// Its gRPC listener, also the address it advertises.
    pub grpc_addr: SocketAddr,
    /// Its HTTP listener.
    pub http_addr: SocketAddr,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// gRPC addresses of its peers.
    pub peers: Vec<String>,
    /// Nodes that found the cluster together.
    pub founders: usize,
    /// More settings, by environment variable.
    pub environment: Vec<(String, String)>,
    /// Where its output goes.
    pub log_file: PathBuf,
}

impl ServerSpec {
    /// The command that starts the server, with nothing of our own environment's settings.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        let ours = |name: &str| name.starts_with("LEDGER_") || name == "BOOTSTRAP_EXPECT";
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(ours)) {
            command.env_remove(name);
        }
        command
            .arg("serve")
            .env("LEDGER_NODE_ID", &self.name)
            .env("LEDGER_LISTEN_ADDR", self.grpc_addr.to_string())
            .env("LEDGER_HTTP_ADDR", self.http_addr.to_string())
            .env("LEDGER_ADVERTISE_ADDR", self.grpc_addr.to_string())
            .env("LEDGER_DATA_DIR", &self.data_dir)
            .env("LEDGER_PEERS", self.peers.join(","))
            .env("BOOTSTRAP_EXPECT", self.founders.to_string())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }
}

/// Plans `nodes` servers of one cluster under `root`, each knowing all of them, on ports that are free now.
pub fn plan(binary: &Path, root: &Path, nodes: usize) -> Result<Vec<ServerSpec>, ProcessError> {
    let ports = free_ports(2 * nodes).map_err(ProcessError::system("find free ports"))?;
    let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let peers: Vec<String> = ports[..nodes].iter().map(|&port| local(port).to_string()).collect();
    let spec = |number: usize| ServerSpec {
        binary: binary.to_owned(),
        name: number.to_string(),
        grpc_addr: local(ports[number]),
        http_addr: local(ports[nodes + number]),
        data_dir: root.join(format!("node-{number}")),
        peers: peers.clone(),
        founders: nodes,
        environment: Vec::new(),
        log_file: root.join(format!("node-{number}.log")),
    };
    Ok((0..nodes).map(spec).collect())
}

/// Ports on which nobody listens. No two calls in one process get the same ones.
pub fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let offset = std::process::id().wrapping_mul(97);
    let mut ports = Vec::with_capacity(count);
    for _ in 0..PORT_COUNT {
        if ports.len() == count {
            return Ok(ports);
        }
        let step = offset.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(PORT_FIRST + step % PORT_COUNT).expect("the range is below 65536");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            ports.push(port);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "every port of the range is taken"))
}

/// A server process, or the place of one that is stopped. Dropping it kills the process.
#[derive(Debug)]
pub struct Server {
    spec: ServerSpec,
    child: Option<Child>,
}

impl Server {
    /// Starts a process. It is not ready yet.
    pub fn start(spec: ServerSpec) -> Result<Server, ProcessError> {
        let mut server = Server { spec, child: None };
        server.resume()?;
        Ok(server)
    }

    /// Starts the process again after it was stopped or killed, on the same data.
    pub fn resume(&mut self) -> Result<(), ProcessError> {
        assert!(self.child.is_none(), "node {} runs already", self.spec.name);
        let path = &self.spec.log_file;
        let opened = OpenOptions::new().create(true).append(true).open(path);
        let log = opened.map_err(ProcessError::system(format!("open {}", path.display())))?;
        let copy = log.try_clone().map_err(ProcessError::system("share the log file"))?;
        // A group of its own: what the terminal sends to us is ours to pass on.
        let spawned = self.spec.command().stdout(log).stderr(copy).process_group(0).spawn();
        let doing = format!("start {}", self.spec.binary.display());
        self.child = Some(spawned.map_err(ProcessError::system(doing))?);
        Ok(())
    }

    /// How it is started.
    pub fn spec(&self) -> &ServerSpec {
        &self.spec
    }

    /// How it is started next time.
    pub fn spec_mut(&mut self) -> &mut ServerSpec {
        &mut self.spec
    }

    /// Where it takes gRPC, host:port.
    pub fn address(&self) -> String {
        self.spec.grpc_addr.to_string()
    }

    /// The process id, if it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Ends the process with SIGKILL and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Fails only if the process has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks the process to end (SIGTERM) and waits for it.
    pub async fn stop(&mut self) -> Result<ExitStatus, ProcessError> {
        let child = self.child.as_ref().expect("a running process");
        kill_process(Pid::from_child(child), Signal::TERM)
            .map_err(|errno| ProcessError::system("signal the process")(errno.into()))?;
        self.wait_exit(STOP_TIME_MAX).await
    }

    /// Waits until the process ends by itself.
    pub async fn wait_exit(&mut self, within: Duration) -> Result<ExitStatus, ProcessError> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.exit_status()? {
                self.child = None;
                return Ok(status);
            }
            if begun.elapsed() >= within {
                return Err(self.too_late("ended", begun, "it still runs".to_owned()));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until the process says that it serves.
    pub async fn wait_ready(&mut self, within: Duration) -> Result<(), ProcessError> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.exit_status()? {
                self.child = None;
                let name = self.spec.name.clone();
                return Err(ProcessError::Ended { name, status, log: self.log_tail() });
            }
            let answer = match self.http_get("/readyz").await {
                Ok((200, _)) => return Ok(()),
                Ok((status, body)) => format!("{status} {}", body.trim()),
                Err(error) => error.to_string(),
            };
            if begun.elapsed() >= within {
                return Err(self.too_late("ready", begun, answer));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// True if the process says at this moment that it serves.
    pub async fn is_ready(&self) -> bool {
        matches!(self.http_get("/readyz").await, Ok((200, _)))
    }

    /// Status and body of a path of its HTTP listener.
    pub async fn http_get(&self, path: &str) -> io::Result<(u16, String)> {
        let answer = tokio::time::timeout(HTTP_TIME_MAX, http_get(self.spec.http_addr, path));
        answer.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Resident memory in bytes, if the process runs.
    pub fn resident_bytes(&self) -> Option<u64> {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process_id()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    }

    /// The end of what the process has written.
    pub fn log_tail(&self) -> String {
        read_tail(&self.spec.log_file).unwrap_or_else(|error| format!("(no log: {error})"))
    }

    /// Lets the process go on when this value is gone.
    pub fn release(mut self) {
        self.child = None;
    }

    fn exit_status(&mut self) -> Result<Option<ExitStatus>, ProcessError> {
        let child = self.child.as_mut().expect("a running process");
        child.try_wait().map_err(ProcessError::system("ask for the state of the process"))
    }

    fn too_late(&self, awaited: &'static str, begun: Instant, answer: String) -> ProcessError {
        let (name, waited) = (self.spec.name.clone(), begun.elapsed());
        ProcessError::TooLate { name, awaited, waited, answer, log: self.log_tail() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts every server and waits until all serve.
pub async fn start_all(specs: Vec<ServerSpec>) -> Result<Vec<Server>, ProcessError> {
    let started: Result<Vec<Server>, ProcessError> = specs.into_iter().map(Server::start).collect();
    let mut servers = started?;
    for server in &mut servers {
        server.wait_ready(READY_TIME_MAX).await?;
    }
    Ok(servers)
}

async fn http_get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "no HTTP answer");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok((status.ok_or_else(malformed)?, body.to_owned()))
}

fn read_tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_different() {
        let mut ports = free_ports(8).unwrap();
        ports.extend(free_ports(8).unwrap());
        for &port in &ports {
            assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok(), "{port}");
        }
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 16);
    }

    #[tokio::test]
    async fn a_process_that_ends_is_told_with_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut spec = plan(Path::new("/bin/ls"), folder.path(), 1).unwrap().remove(0);
        spec.environment.push(("LC_ALL".to_owned(), "C".to_owned()));
        let mut server = Server::start(spec).unwrap();
        let error = server.wait_ready(Duration::from_secs(10)).await.unwrap_err();
        let ProcessError::Ended { status, log, .. } = error else { panic!("{error}") };
        assert!(!status.success());
        assert!(log.contains("serve"), "{log}");
    }

    #[tokio::test]
    async fn waiting_ends_and_dropping_kills() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("sleeper");
        std::fs::write(&script, "#!/bin/sh\nexec sleep 60\n").unwrap();
        let mut permissions = std::fs::metadata(&script).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
        std::fs::set_permissions(&script, permissions).unwrap();
        let spec = plan(&script, folder.path(), 1).unwrap().remove(0);
        let mut server = Server::start(spec).unwrap();
        let error = server.wait_ready(Duration::from_millis(100)).await.unwrap_err();
        assert!(matches!(error, ProcessError::TooLate { awaited: "ready", .. }), "{error}");
        assert!(server.resident_bytes().is_some_and(|bytes| bytes > 0));
        let process = server.process_id().unwrap();
        drop(server);
        assert!(!Path::new(&format!("/proc/{process}")).exists());
    }
}
