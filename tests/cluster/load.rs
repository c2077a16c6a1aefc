//! Writers that go on while a test does its worst, and what they know to be acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ledger::demo::replicas::Replica;
use ledger_client::Client;
use ledger_types::{Operation, VaultRef};
use tokio::task::JoinSet;

use super::harness::WAIT_MAX;

/// What the keys of the writers begin with.
pub(crate) const PREFIX: &str = "load/";

/// Acknowledged writes by vault: the key and the value of each.
pub(crate) type Acknowledged = BTreeMap<VaultRef, BTreeMap<String, Vec<u8>>>;

/// Writers over several vaults.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    counts: Vec<(VaultRef, Arc<AtomicU64>)>,
    writers: JoinSet<(VaultRef, BTreeMap<String, Vec<u8>>)>,
}

impl Load {
    /// Starts this many writers for each vault. Every write is one transaction with a key of its own, a
    /// key that all writers of the vault change, and a relationship.
    pub(crate) fn start(client: &Client, vaults: &[VaultRef], writers_per_vault: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        let mut counts = Vec::new();
        for &vault in vaults {
            for number in 0..writers_per_vault {
                let count = Arc::new(AtomicU64::new(0));
                counts.push((vault, count.clone()));
                let writing = write(client.clone(), vault, number, (count, stop.clone()));
                writers.spawn(writing);
            }
        }
        Load { stop, counts, writers }
    }

    /// Waits until every writer has had `more` writes acknowledged from now on.
    pub(crate) async fn wait_more(&mut self, more: u64) {
        let targets: Vec<u64> =
            self.counts.iter().map(|(_, count)| count.load(Ordering::Relaxed) + more).collect();
        let begun = Instant::now();
        for ((vault, count), target) in self.counts.iter().zip(targets) {
            while count.load(Ordering::Relaxed) < target {
                if let Some(ended) = self.writers.try_join_next() {
                    panic!("a writer ended: {:?}", ended.map(|(vault, _)| vault));
                }
                let found = count.load(Ordering::Relaxed);
                assert!(begun.elapsed() < WAIT_MAX, "vault {vault}: {found} of {target} writes");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// Ends the load and tells what was acknowledged.
    pub(crate) async fn finish(mut self) -> Acknowledged {
        self.stop.store(true, Ordering::Relaxed);
        let mut acknowledged = Acknowledged::new();
        while let Some(done) = self.writers.join_next().await {
            let (vault, written) = done.unwrap();
            acknowledged.entry(vault).or_default().extend(written);
        }
        acknowledged
    }
}

async fn write(
    client: Client,
    vault: VaultRef,
    writer: usize,
    (count, stop): (Arc<AtomicU64>, Arc<AtomicBool>),
) -> (VaultRef, BTreeMap<String, Vec<u8>>) {
    let mut written = BTreeMap::new();
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let key = format!("{PREFIX}{writer}/{number:08}");
        let value = format!("{vault} {writer} {number}").into_bytes();
        let set = |key: &str| Operation::SetEntity {
            key: key.to_owned(),
            value: value.clone(),
            expires_at: 0,
            condition: None,
        };
        let grant = Operation::CreateRelationship {
            resource: format!("doc:{number}"),
            relation: "writer".to_owned(),
            subject: format!("user:{writer}"),
        };
        let receipt = client.write(vault, vec![set(&key), set("changing"), grant]).await;
        receipt.unwrap_or_else(|error| panic!("vault {vault}, {key}: {error}"));
        written.insert(key, value);
        number += 1;
        count.store(number, Ordering::Relaxed);
    }
    (vault, written)
}

/// Asserts that a node itself holds every acknowledged write, and nothing of the writers besides.
pub(crate) async fn assert_held(replicas: &[Replica], acknowledged: &Acknowledged) {
    for replica in replicas {
        for (&vault, written) in acknowledged {
            let held = replica.entities(vault, PREFIX).await.unwrap();
            let held: BTreeMap<String, Vec<u8>> =
                held.into_iter().map(|entity| (entity.key, entity.value)).collect();
            for (key, value) in written {
                let found = held.get(key);
                assert_eq!(found, Some(value), "{replica} lost {key} of vault {vault}");
            }
            assert_eq!(held.len(), written.len(), "{replica}: vault {vault} has writes of nobody");
        }
    }
}
