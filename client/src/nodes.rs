//! The nodes that a client knows and its connections to them.
//!
//! Connections come up when they are first used and again after they broke. A node that could not be
//! reached is left out for a while if there is another. Must never interpret answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tonic::transport::{Channel, Endpoint};

use crate::config::ClientConfig;
use crate::error::ClientError;

/// Nodes remembered; later ones are ignored.
const NODES_MAX: usize = 1_024;
/// HTTP/2 flow-control window of one stream, in bytes: a largest answer without a pause.
const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// HTTP/2 flow-control window of a connection, in bytes.
const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// A quiet connection is pinged this often, so that a half-open one is noticed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// A ping unanswered for this long ends the connection.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A node that could not be reached is left out for this long; the time doubles with each failure.
const REST_MIN: Duration = Duration::from_millis(200);
/// The longest time for which a node is left out.
const REST_MAX: Duration = Duration::from_secs(10);

/// One node and the connections to it.
#[derive(Debug)]
pub(crate) struct Node {
    address: Arc<str>,
    channels: Vec<Channel>,
    turn: AtomicUsize,
    failures: AtomicU32,
    resting_until_ms: AtomicU64,
}

impl Node {
    /// Its address, `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The connection whose turn it is.
    pub(crate) fn channel(&self) -> Channel {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.channels[turn % self.channels.len()].clone()
    }
}

/// All known nodes.
#[derive(Debug)]
pub(crate) struct Nodes {
    template: Template,
    started: Instant,
    known: RwLock<Known>,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Template {
    connect_timeout: Duration,
    connections: usize,
}

#[derive(Debug, Default)]
struct Known {
    in_order: Vec<Arc<Node>>,
    by_address: HashMap<Arc<str>, Arc<Node>>,
}

impl Nodes {
    /// Prepares connections to the configured addresses. Errors: an address that is none.
    pub(crate) fn new(config: &ClientConfig) -> Result<Nodes, ClientError> {
        let nodes = Nodes {
            template: Template {
                connect_timeout: config.connect_timeout,
                connections: config.connections_per_node,
            },
            started: Instant::now(),
            known: RwLock::new(Known::default()),
            turn: AtomicUsize::new(rand::random_range(0..NODES_MAX)),
        };
        for address in &config.addresses {
            let node = nodes.get_or_add(address);
            node.ok_or_else(|| ClientError::Config(format!("{address:?} is no address")))?;
        }
        Ok(nodes)
    }

    /// The node at `address`, which becomes known. `None` if that is no address, or there are too many.
    pub(crate) fn get_or_add(&self, address: &str) -> Option<Arc<Node>> {
        let address = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
        if let Some(node) = self.known.read().by_address.get(address) {
            return Some(node.clone());
        }
        let endpoint = self.template.endpoint(address)?;
        let mut known = self.known.write();
        if let Some(node) = known.by_address.get(address) {
            return Some(node.clone());
        }
        if known.in_order.len() >= NODES_MAX {
            return None;
        }
        let node = Arc::new(Node {
            address: address.into(),
            channels: (0..self.template.connections).map(|_| endpoint.connect_lazy()).collect(),
            turn: AtomicUsize::new(0),
            failures: AtomicU32::new(0),
            resting_until_ms: AtomicU64::new(0),
        });
        known.in_order.push(node.clone());
        known.by_address.insert(node.address.clone(), node.clone());
        Some(node)
    }

    /// The next node in turn that is not left out; `avoid` only if it is the only one.
    pub(crate) fn next(&self, avoid: Option<&str>) -> Arc<Node> {
        let known = self.known.read();
        let count = known.in_order.len();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..count).map(|step| &known.in_order[first.wrapping_add(step) % count]);
        let others = in_turn.filter(|node| Some(node.address()) != avoid);
        let mut fallback = None;
        for node in others {
            if !self.is_resting(node) {
                return node.clone();
            }
            fallback = fallback.or(Some(node));
        }
        fallback.unwrap_or(&known.in_order[first % count]).clone()
    }

    /// Addresses of all known nodes, in the order in which they became known.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.known.read().in_order.iter().map(|node| node.address().to_owned()).collect()
    }

    /// True while the node is left out.
    pub(crate) fn is_resting(&self, node: &Node) -> bool {
        let until_ms = node.resting_until_ms.load(Ordering::Relaxed);
        until_ms != 0 && until_ms > self.elapsed_ms()
    }

    /// The node could not be reached: leaves it out for a while.
    pub(crate) fn failed(&self, node: &Node) {
        let failures = node.failures.fetch_add(1, Ordering::Relaxed).min(16);
        let rest = REST_MIN.saturating_mul(1 << failures).min(REST_MAX);
        let rest_ms = u64::try_from(rest.as_millis()).expect("the longest rest is seconds");
        node.resting_until_ms.store(self.elapsed_ms() + rest_ms, Ordering::Relaxed);
    }

    /// The node answered.
    pub(crate) fn answered(&self, node: &Node) {
        if node.failures.load(Ordering::Relaxed) != 0 {
            node.failures.store(0, Ordering::Relaxed);
            node.resting_until_ms.store(0, Ordering::Relaxed);
        }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Template {
    fn endpoint(&self, address: &str) -> Option<Endpoint> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
        endpoint.uri().host().filter(|host| !host.is_empty())?;
        endpoint.uri().port_u16()?;
        Some(
            endpoint
                .connect_timeout(self.connect_timeout)
                .tcp_nodelay(true)
                .tcp_keepalive(Some(KEEPALIVE_INTERVAL))
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
                .keep_alive_timeout(KEEPALIVE_TIMEOUT)
                .keep_alive_while_idle(true),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(addresses: &[&str]) -> Nodes {
        let addresses = addresses.iter().map(|&text| text.to_owned()).collect();
        Nodes::new(&ClientConfig::new(addresses)).unwrap()
    }

    #[tokio::test]
    async fn one_node_has_one_name() {
        let nodes = nodes(&["127.0.0.1:1", "http://127.0.0.1:1/"]);
        assert_eq!(nodes.addresses(), ["127.0.0.1:1"]);
        assert!(nodes.get_or_add("no port").is_none());
        assert!(nodes.get_or_add("host").is_none());
        assert!(nodes.get_or_add("").is_none());
    }

    #[tokio::test]
    async fn a_node_that_failed_is_asked_last() {
        let nodes = nodes(&["127.0.0.1:1", "127.0.0.1:2"]);
        let down = nodes.get_or_add("127.0.0.1:1").unwrap();
        nodes.failed(&down);
        for _ in 0..4 {
            assert_eq!(nodes.next(None).address(), "127.0.0.1:2");
            assert_eq!(nodes.next(Some("127.0.0.1:2")).address(), "127.0.0.1:1");
        }
        nodes.answered(&down);
        let seen = [nodes.next(None), nodes.next(None)].map(|node| node.address().to_owned());
        assert!(seen.contains(&"127.0.0.1:1".to_owned()), "{seen:?}");
    }
}
