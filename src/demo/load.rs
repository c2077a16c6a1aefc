//! Writes the harvest into the vaults and measures it.
//!
//! Owns batching, what is in flight, and the latencies. Must never count a relationship that was not
//! acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ledger_client::{Client, ClientError};
use ledger_types::{Operation, Outcome, VaultRef};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::harvest::{FileGrants, GRANTS_PER_FILE};

/// Files in one write.
pub(super) const FILES_PER_WRITE: usize = 100;
/// Writes that wait for an answer at one time.
pub(super) const WRITES_IN_FLIGHT: usize = 32;
/// Latencies are kept up to this many microseconds.
const LATENCY_US_MAX: u64 = 60_000_000;

/// Why loading stopped.
#[derive(Debug, Error)]
pub(super) enum LoadError {
    /// A write failed for good.
    #[error("writing to vault {vault}: {source}")]
    Write {
        /// The vault.
        vault: VaultRef,
        /// Why.
        source: ClientError,
    },
    /// A relationship that was new was not answered as new.
    #[error(
        "vault {vault}: {created} of {sent} relationships were new, although all were sent once"
    )]
    Outcomes {
        /// The vault.
        vault: VaultRef,
        /// Answered as created.
        created: usize,
        /// Sent.
        sent: usize,
    },
}

/// What was loaded and how long it took.
#[derive(Clone, Debug)]
pub(super) struct LoadReport {
    /// Relationships that were acknowledged.
    pub(super) relationships: u64,
    /// Writes (transactions) that were acknowledged.
    pub(super) writes: u64,
    /// From the first write to the last acknowledgement.
    pub(super) elapsed: Duration,
    /// Microseconds from a write to its acknowledgement.
    pub(super) latency_us: Histogram<u64>,
    /// Relationships by vault.
    pub(super) by_vault: BTreeMap<VaultRef, u64>,
}

impl LoadReport {
    /// Transactions acknowledged each second.
    pub(super) fn writes_per_second(&self) -> f64 {
        self.writes as f64 / self.elapsed.as_secs_f64()
    }

    /// Relationships acknowledged each second.
    pub(super) fn operations_per_second(&self) -> f64 {
        self.relationships as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency below which `share` (0 to 1) of the writes stayed.
    pub(super) fn latency(&self, share: f64) -> Duration {
        Duration::from_micros(self.latency_us.value_at_quantile(share))
    }
}

/// One acknowledged write.
struct Written {
    vault: VaultRef,
    files: usize,
    latency: Duration,
}

/// Writes all files' relationships, each file into its vault.
pub(super) async fn load(
    client: &Client,
    vaults: &[VaultRef],
    files: &[FileGrants],
) -> Result<LoadReport, LoadError> {
    let bar = progress_bar(files.len() as u64);
    let begun = Instant::now();
    let mut report = LoadReport {
        relationships: 0,
        writes: 0,
        elapsed: Duration::ZERO,
        latency_us: Histogram::new_with_max(LATENCY_US_MAX, 3).expect("legal bounds"),
        by_vault: vaults.iter().map(|&vault| (vault, 0)).collect(),
    };
    let places = Arc::new(Semaphore::new(WRITES_IN_FLIGHT));
    let mut writes = JoinSet::new();
    for (vault, batch) in batches(vaults, files) {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let client = client.clone();
        let operations: Vec<Operation> =
            batch.into_iter().flat_map(FileGrants::operations).collect();
        writes.spawn(async move {
            let written = write(&client, vault, operations).await;
            drop(place);
            written
        });
        while let Some(done) = writes.try_join_next() {
            report.add(done.expect("a write does not panic")?, &bar);
        }
    }
    while let Some(done) = writes.join_next().await {
        report.add(done.expect("a write does not panic")?, &bar);
    }
    report.elapsed = begun.elapsed();
    bar.finish_and_clear();
    Ok(report)
}

impl LoadReport {
    fn add(&mut self, written: Written, bar: &ProgressBar) {
        let relationships = (written.files * GRANTS_PER_FILE) as u64;
        self.relationships += relationships;
        self.writes += 1;
        *self.by_vault.entry(written.vault).or_default() += relationships;
        let latency_us = u64::try_from(written.latency.as_micros()).unwrap_or(u64::MAX);
        self.latency_us.saturating_record(latency_us);
        bar.inc(written.files as u64);
    }
}

async fn write(
    client: &Client,
    vault: VaultRef,
    operations: Vec<Operation>,
) -> Result<Written, LoadError> {
    let sent = operations.len();
    let begun = Instant::now();
    let receipt = client.write(vault, operations).await;
    let receipt = receipt.map_err(|source| LoadError::Write { vault, source })?;
    let latency = begun.elapsed();
    let created = receipt.outcomes.iter().filter(|outcome| **outcome == Outcome::Created).count();
    if created != sent {
        return Err(LoadError::Outcomes { vault, created, sent });
    }
    Ok(Written { vault, files: sent / GRANTS_PER_FILE, latency })
}

/// Splits the files into writes, in an order that spreads neighbouring writes over the vaults.
fn batches<'a>(
    vaults: &[VaultRef],
    files: &'a [FileGrants],
) -> impl Iterator<Item = (VaultRef, Vec<&'a FileGrants>)> {
    let mut by_vault: Vec<Vec<&FileGrants>> = vec![Vec::new(); vaults.len()];
    for file in files {
        by_vault[file.vault_index(vaults.len())].push(file);
    }
    let mut order = Vec::new();
    for (index, files) in by_vault.into_iter().enumerate() {
        for (turn, batch) in files.chunks(FILES_PER_WRITE).enumerate() {
            order.push((turn, vaults[index], batch.to_vec()));
        }
    }
    order.sort_by_key(|(turn, vault, _)| (*turn, *vault));
    order.into_iter().map(|(_, vault, batch)| (vault, batch))
}

fn progress_bar(files: u64) -> ProgressBar {
    let template = "  {bar:32} {human_pos}/{human_len} files, {per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template).expect("a legal template");
    ProgressBar::with_draw_target(Some(files), ProgressDrawTarget::stderr()).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_in_one_batch_of_its_vault() {
        let vaults: Vec<VaultRef> = (1..=4).map(|vault| VaultRef::new(1, vault)).collect();
        let file = |number: usize| FileGrants {
            resource: format!("file:/{number}"),
            owner: "user:root".to_owned(),
            group: "group:root".to_owned(),
            parent: format!("dir:/{}", number % 37),
        };
        let files: Vec<FileGrants> = (0..1_000).map(file).collect();
        let mut seen = Vec::new();
        for (vault, batch) in batches(&vaults, &files) {
            assert!((1..=FILES_PER_WRITE).contains(&batch.len()));
            for file in batch {
                assert_eq!(vault, vaults[file.vault_index(4)]);
                seen.push(&file.resource);
            }
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), files.len());
        let first: Vec<VaultRef> =
            batches(&vaults, &files).take(4).map(|(vault, _)| vault).collect();
        assert_eq!(first, vaults);
    }
}
