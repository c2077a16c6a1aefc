//! Writing without end to every vault while a node dies, and how long each vault went without an
//! acknowledgement.
//!
//! Owns the writers and what they know to be acknowledged. Must never count a write whose answer did not
//! arrive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ledger_client::{Client, ClientError};
use ledger_types::{Operation, VaultRef};
use thiserror::Error;
use tokio::task::JoinSet;

/// What the keys of the writers begin with.
pub(super) const PULSE_PREFIX: &str = "pulse/";
/// Pause of a writer between two writes.
const PULSE_PAUSE: Duration = Duration::from_millis(5);
/// Longest time in which every vault must acknowledge the writes that are waited for.
const PROGRESS_TIME_MAX: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Why the writers gave up.
#[derive(Debug, Error)]
pub(super) enum PulseError {
    /// A write failed although the client could retry it.
    #[error("writing to vault {vault}: {source}")]
    Write {
        /// The vault.
        vault: VaultRef,
        /// Why.
        source: ClientError,
    },
    /// A vault takes no writes.
    #[error("vault {vault} acknowledged {count} of {awaited} writes within {PROGRESS_TIME_MAX:?}")]
    NoProgress {
        /// The vault.
        vault: VaultRef,
        /// Acknowledged.
        count: u64,
        /// Waited for.
        awaited: u64,
    },
}

/// What one vault's writer saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct VaultPulse {
    /// Writes acknowledged: the keys of numbers 0 to `acknowledged - 1`.
    pub(super) acknowledged: u64,
    /// The longest time between two acknowledgements.
    pub(super) longest_gap: Duration,
}

/// One writer for each vault.
#[derive(Debug)]
pub(super) struct Pulse {
    stop: Arc<AtomicBool>,
    counts: BTreeMap<VaultRef, Arc<AtomicU64>>,
    writers: JoinSet<Result<(VaultRef, VaultPulse), PulseError>>,
}

/// The key that a vault's writer uses for its write of this number.
pub(super) fn pulse_key(number: u64) -> String {
    format!("{PULSE_PREFIX}{number:08}")
}

impl Pulse {
    /// Starts writing.
    pub(super) fn start(client: &Client, vaults: &[VaultRef]) -> Pulse {
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        let mut counts = BTreeMap::new();
        for &vault in vaults {
            let count = Arc::new(AtomicU64::new(0));
            counts.insert(vault, count.clone());
            writers.spawn(beat(client.clone(), vault, count, stop.clone()));
        }
        Pulse { stop, counts, writers }
    }

    /// Waits until every vault has acknowledged `more` writes from now on.
    pub(super) async fn wait_progress(&mut self, more: u64) -> Result<(), PulseError> {
        let read = |count: &Arc<AtomicU64>| count.load(Ordering::Relaxed);
        let targets: Vec<(VaultRef, u64)> =
            self.counts.iter().map(|(vault, count)| (*vault, read(count) + more)).collect();
        let begun = Instant::now();
        for (vault, awaited) in targets {
            loop {
                let count = read(&self.counts[&vault]);
                if count >= awaited {
                    break;
                }
                // A writer ends before it is told to only with an error.
                if let Some(Ok(Err(error))) = self.writers.try_join_next() {
                    return Err(error);
                }
                if begun.elapsed() >= PROGRESS_TIME_MAX {
                    return Err(PulseError::NoProgress { vault, count, awaited });
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
        Ok(())
    }

    /// Stops writing after the writes under way and tells what each vault's writer saw.
    pub(super) async fn finish(mut self) -> Result<BTreeMap<VaultRef, VaultPulse>, PulseError> {
        self.stop.store(true, Ordering::Relaxed);
        let mut seen = BTreeMap::new();
        while let Some(done) = self.writers.join_next().await {
            let (vault, pulse) = done.expect("a writer does not panic")?;
            seen.insert(vault, pulse);
        }
        Ok(seen)
    }
}

async fn beat(
    client: Client,
    vault: VaultRef,
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> Result<(VaultRef, VaultPulse), PulseError> {
    let mut pulse = VaultPulse { acknowledged: 0, longest_gap: Duration::ZERO };
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let operation = Operation::SetEntity {
            key: pulse_key(pulse.acknowledged),
            value: pulse.acknowledged.to_be_bytes().to_vec(),
            expires_at: 0,
            condition: None,
        };
        let written = client.write(vault, vec![operation]).await;
        written.map_err(|source| PulseError::Write { vault, source })?;
        pulse.longest_gap = pulse.longest_gap.max(last.elapsed());
        last = Instant::now();
        pulse.acknowledged += 1;
        count.store(pulse.acknowledged, Ordering::Relaxed);
        tokio::time::sleep(PULSE_PAUSE).await;
    }
    Ok((vault, pulse))
}
