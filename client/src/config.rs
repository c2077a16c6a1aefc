//! What a client is told before it connects: addresses, times, trust and where it remembers.
//!
//! Holds values and checks them. Must never read the environment or the disk.

use std::path::PathBuf;
use std::time::Duration;

use ledger_types::limits::CLIENT_ID_BYTES_MAX;

use crate::error::ClientError;
use crate::retry::RetryPolicy;

/// By default writes go by stream from here on: enough that a stream has company on its way, few enough that a busy
/// service gets there.
const STREAM_WRITES_FROM: usize = 32;

/// Where the client's trust in a cluster comes from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum TrustSource {
    /// From what `state_dir` has pinned, if anything; without it verified reads are refused.
    #[default]
    Pinned,
    /// From a trust file that an operator handed over.
    File(PathBuf),
    /// The first answer of the cluster is believed and pinned in `state_dir`; later ones must agree with it.
    FirstUse,
}

/// Settings of a [`Client`](crate::Client). Start from [`ClientConfig::verifying`], or from [`ClientConfig::new`] for a
/// client that writes and believes what it reads.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Nodes to begin with, each `host:port` or `http://host:port`; or one address behind which any of them answers.
    /// A host is an IP address or a name. Other nodes are learnt from them.
    pub addresses: Vec<String>,
    /// Whose signatures count in verified reads.
    pub trust: TrustSource,
    /// Directory for checkpoints, pinned trust and evidence of forks, made if it is missing. It belongs to one
    /// client or to several on one machine. There is no default: a library does not choose where to write.
    pub state_dir: Option<PathBuf>,
    /// Lets a client with a trust file do without `state_dir`. It remembers checkpoints only as long as it lives, so
    /// a history that was taken back is not noticed after a restart, and it keeps no evidence of forks.
    pub forgets_checkpoints: bool,
    /// Longest time a call may take, retries included.
    pub deadline: Duration,
    /// Longest time a single attempt may take before another node is asked.
    pub attempt_timeout: Duration,
    /// Longest time for a TCP and HTTP/2 connection to come up.
    pub connect_timeout: Duration,
    /// HTTP/2 connections to each node; calls are spread over them.
    pub connections_per_node: usize,
    /// From how many writes under way at once on, of this client and its clones, further ones go by one stream to each
    /// leader instead of a request each; `usize::MAX` never does that.
    pub stream_writes_from: usize,
    /// Name under which the cluster counts this client's writes, at most 256 bytes.
    pub client_id: String,
    /// How failed attempts are repeated.
    pub retry: RetryPolicy,
}

impl ClientConfig {
    /// Settings for a client that verifies: signatures count as the trust file says, and what was checked is
    /// remembered in `state_dir`.
    pub fn verifying(
        addresses: Vec<String>,
        trust_file: impl Into<PathBuf>,
        state_dir: impl Into<PathBuf>,
    ) -> ClientConfig {
        ClientConfig {
            trust: TrustSource::File(trust_file.into()),
            state_dir: Some(state_dir.into()),
            ..ClientConfig::new(addresses)
        }
    }

    /// Settings for the cluster behind `addresses`, with a client id drawn at random. They name neither whom to trust
    /// nor where to remember: verified calls are refused with [`ClientError::NoTrust`] until `trust` and `state_dir`
    /// are set.
    pub fn new(addresses: Vec<String>) -> ClientConfig {
        ClientConfig {
            addresses,
            trust: TrustSource::default(),
            state_dir: None,
            forgets_checkpoints: false,
            deadline: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(4),
            connect_timeout: Duration::from_secs(2),
            connections_per_node: 1,
            stream_writes_from: STREAM_WRITES_FROM,
            client_id: format!("client-{:016x}", rand::random::<u64>()),
            retry: RetryPolicy::default(),
        }
    }

    /// Checks what can be checked without a cluster.
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        let refuse = |what: &str| Err(ClientError::Config(what.to_owned()));
        if self.addresses.is_empty() {
            return refuse("no address is given");
        }
        if self.client_id.is_empty() || self.client_id.len() > CLIENT_ID_BYTES_MAX {
            return refuse("client_id must have 1 to 256 bytes");
        }
        if self.connections_per_node == 0 {
            return refuse("connections_per_node must be at least 1");
        }
        if self.deadline.is_zero() || self.attempt_timeout.is_zero() {
            return refuse("deadline and attempt_timeout must be longer than zero");
        }
        if self.trust == TrustSource::FirstUse && self.state_dir.is_none() {
            return refuse("trust on first use needs state_dir, where the first answer is pinned");
        }
        let verifies = matches!(self.trust, TrustSource::File(_));
        if verifies && self.state_dir.is_none() && !self.forgets_checkpoints {
            return refuse(
                "a trust file needs state_dir, where checkpoints are remembered; set forgets_checkpoints to do without",
            );
        }
        Ok(())
    }
}
