//! A cluster with clients of the published SDK.

use std::fmt::Debug;
use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use inferadb_ledger_sdk::{
    ClientConfig, LedgerClient, Operation, RetryPolicy, SdkError, ServerSource,
};
use ledger_interop::Cluster;

/// Longest time for anything that a test waits for.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The server that the repository's build has made, or the one that `LEDGER_BIN` names.
fn server_program() -> PathBuf {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../release/ledger");
    std::env::var_os("LEDGER_BIN").map_or(target, PathBuf::from)
}

/// A cluster with a namespace.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) namespace: i64,
}

impl World {
    /// Three nodes and a namespace of this name.
    pub(crate) async fn make(name: &str, settings: &[(&str, &str)]) -> World {
        let cluster = Cluster::start(&server_program(), 3, settings).await;
        let client = connect(&cluster, 0, "maker").await;
        let namespace = client.create_namespace(name).await.unwrap();
        World { cluster, namespace }
    }

    /// A client of one node.
    pub(crate) async fn client(&self, node: usize, name: &str) -> LedgerClient {
        connect(&self.cluster, node, name).await
    }

    /// A new vault.
    pub(crate) async fn vault(&self, client: &LedgerClient) -> i64 {
        client.create_vault(self.namespace).await.unwrap().vault_id
    }

    /// The node that leads a vault's group, once there is one.
    pub(crate) async fn leader_of(&self, client: &LedgerClient, vault: i64) -> usize {
        let asked = async || {
            let told = client.get_vault(self.namespace, vault).await.map_err(|e| e.to_string())?;
            told.leader.ok_or_else(|| "nobody".to_owned())
        };
        self.cluster.number_of(&eventually("the vault has a leader", asked).await)
    }
}

/// How a client asks a node: as anybody would, with a few more attempts than by default, for elections take a second.
pub(crate) fn config(cluster: &Cluster, node: usize, name: &str) -> ClientConfig {
    let policy =
        RetryPolicy::builder().max_attempts(12).max_backoff(Duration::from_secs(1)).build();
    ClientConfig::builder()
        .servers(ServerSource::from_static([cluster.url(node)]))
        .client_id(name)
        .retry_policy(policy)
        .build()
        .unwrap()
}

async fn connect(cluster: &Cluster, node: usize, name: &str) -> LedgerClient {
    LedgerClient::new(config(cluster, node, name)).await.unwrap()
}

/// Sets an entity.
pub(crate) fn set(key: &str, value: &str) -> Operation {
    Operation::set_entity(key, value.as_bytes().to_vec())
}

/// The gRPC code of a refusal by its name.
pub(crate) fn code_of<T: Debug>(outcome: Result<T, SdkError>) -> String {
    let error = outcome.expect_err("a refusal");
    let SdkError::Rpc { code, .. } = &error else { panic!("{error:?}") };
    format!("{code:?}")
}

/// Repeats a question until its answer is there.
pub(crate) async fn eventually<T, E: Debug, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, E>>,
{
    let begun = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(begun.elapsed() < WAIT_MAX, "{what}: not in time: {error:?}"),
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
