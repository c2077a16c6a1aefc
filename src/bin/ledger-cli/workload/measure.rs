//! What a workload measures and how it is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ledger_client::ClientError;
use ledger_types::VaultRef;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::micros;
use crate::args::{Work, WorkloadOptions};
use crate::failure::Failure;
use crate::output::{self, Format};

/// Longest time that the histogram tells apart, in microseconds.
const LATENCY_MAX_US: u64 = 120_000_000;
/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Counts and latencies of all clients.
pub(crate) struct Measurement {
    begin: Instant,
    end: Instant,
    counts: Mutex<Counts>,
}

struct Counts {
    latencies_us: Histogram<u64>,
    requests: u64,
    operations: u64,
    errors: BTreeMap<String, u64>,
    refused: u64,
    /// When a request last succeeded, on each vault.
    last_success: Vec<Instant>,
    /// Longest time without a success on any one vault.
    longest_gap: Duration,
}

impl Counts {
    /// Longest time without a success on any one vault, up to `now`.
    fn longest_gap(&self, now: Instant) -> Duration {
        let open = self.last_success.iter().map(|last| now.saturating_duration_since(*last));
        open.max().unwrap_or_default().max(self.longest_gap)
    }
}

impl Measurement {
    /// Measures from `begin` on for `duration`, on this many vaults.
    pub(crate) fn new(begin: Instant, duration: Duration, vaults: usize) -> Measurement {
        let latencies_us = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3);
        let counts = Counts {
            latencies_us: latencies_us.expect("the bounds are legal"),
            requests: 0,
            operations: 0,
            errors: BTreeMap::new(),
            refused: 0,
            last_success: vec![begin; vaults],
            longest_gap: Duration::ZERO,
        };
        Measurement { begin, end: begin + duration, counts: Mutex::new(counts) }
    }

    /// True once the time is up.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Counts one request that ended now, on the vault with this index. What ends during the warm-up or
    /// after the end is not counted.
    pub(crate) fn record(
        &self,
        vault: usize,
        began: Instant,
        operations: u64,
        outcome: Result<(), ClientError>,
    ) {
        let now = Instant::now();
        if now < self.begin || now >= self.end {
            return;
        }
        let mut counts = self.counts.lock();
        match outcome {
            Ok(()) => {
                counts.requests += 1;
                counts.operations += operations;
                counts.latencies_us.saturating_record(micros(now - began));
                let gap = now.saturating_duration_since(counts.last_success[vault]);
                counts.longest_gap = counts.longest_gap.max(gap);
                counts.last_success[vault] = now;
            }
            Err(error) => {
                counts.refused += u64::from(error.is_verification_refusal());
                *counts.errors.entry(kind(&error)).or_default() += 1;
            }
        }
    }

    /// What was measured.
    pub(crate) fn report(
        &self,
        options: &WorkloadOptions,
        vaults: &[VaultRef],
        addresses: &[String],
    ) -> Report {
        let counts = self.counts.lock();
        let seconds = (self.end - self.begin).as_secs_f64();
        let rate = |count: u64| to_float(count) / seconds;
        let latency = &counts.latencies_us;
        let quantile = |q: f64| latency.value_at_quantile(q);
        let json = json!({
            "op": work_name(options.op),
            "clients": options.clients,
            "connections": options.connections,
            "stream": options.stream,
            "in_flight": options.in_flight,
            "vaults": vaults.iter().map(VaultRef::to_string).collect::<Vec<_>>(),
            "addresses": addresses,
            "value_bytes": options.value_bytes,
            "batch": batch(options),
            "keys": options.keys,
            "seconds": seconds,
            "requests": counts.requests,
            "operations": counts.operations,
            "requests_per_second": rate(counts.requests),
            "operations_per_second": rate(counts.operations),
            "latency_us": {
                "mean": latency.mean(),
                "p50": quantile(0.5),
                "p90": quantile(0.9),
                "p99": quantile(0.99),
                "p999": quantile(0.999),
                "max": latency.max(),
            },
            "longest_vault_gap_ms": to_float(micros(counts.longest_gap(self.end))) / 1000.0,
            "errors": counts.errors,
            "errors_total": counts.errors.values().sum::<u64>(),
        });
        Report { json, requests: counts.requests, refused: counts.refused }
    }
}

/// A finished measurement.
pub(crate) struct Report {
    json: Value,
    requests: u64,
    refused: u64,
}

impl Report {
    /// Shows it.
    pub(crate) fn show(&self, format: Format) {
        let number = |name: &str| format!("{:.0}", self.json[name].as_f64().unwrap_or(0.0));
        let latency = &self.json["latency_us"];
        let latencies = ["p50", "p90", "p99", "p999", "max"];
        let latencies: Vec<String> =
            latencies.iter().map(|name| format!("{name} {}", latency[*name])).collect();
        let facts = [
            ("op", self.json["op"].as_str().unwrap_or_default().to_owned()),
            ("operations/s", number("operations_per_second")),
            ("requests/s", number("requests_per_second")),
            ("latency us", latencies.join("  ")),
            ("longest gap ms", number("longest_vault_gap_ms")),
            ("errors", self.json["errors_total"].to_string()),
        ];
        output::facts(format, &facts, &self.json);
    }

    /// Fails if nothing succeeded, or if an answer was not believed.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        if self.refused > 0 {
            return Err(Failure::refused(format!("{} answers of the workload", self.refused)));
        }
        if self.requests == 0 {
            return Err(Failure::failed("no request of the workload succeeded"));
        }
        Ok(())
    }
}

/// Tells the rate of the last second on standard error until it is stopped.
pub(crate) async fn show_progress(measurement: Arc<Measurement>) {
    let mut before = 0;
    let mut interval = tokio::time::interval(PROGRESS_INTERVAL);
    interval.tick().await;
    loop {
        interval.tick().await;
        let (operations, errors) = {
            let counts = measurement.counts.lock();
            (counts.operations, counts.errors.values().sum::<u64>())
        };
        if Instant::now() >= measurement.begin {
            eprintln!("{} operations/s, {errors} errors so far", operations - before);
        }
        before = operations;
    }
}

/// The name under which a failure is counted.
fn kind(error: &ClientError) -> String {
    if let Some(reason) = error.reason() {
        return reason.to_string();
    }
    let name = match error {
        ClientError::Unreachable { .. } => "unreachable",
        ClientError::DeadlineExceeded { .. } => "deadline exceeded",
        ClientError::Rejected(_) => "rejected",
        ClientError::Verification(_) => "verification refused",
        ClientError::Malformed(_) => "malformed or missing answer",
        _ => "other",
    };
    name.to_owned()
}

fn work_name(work: Work) -> &'static str {
    match work {
        Work::Write => "write",
        Work::Batch => "batch",
        Work::Relationship => "relationship",
        Work::ReadEventual => "read-eventual",
        Work::ReadLinearizable => "read-linearizable",
        Work::Verified => "verified",
    }
}

fn batch(options: &WorkloadOptions) -> usize {
    match options.op {
        Work::Batch | Work::Relationship => options.batch,
        _ => 1,
    }
}

/// Counts here are far below 2^53, where every integer is exact.
#[expect(clippy::cast_precision_loss, reason = "counts and microseconds are far below 2^53")]
fn to_float(count: u64) -> f64 {
    count as f64
}
