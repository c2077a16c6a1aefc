//! `workload run`: a closed loop of clients, measured.
//!
//! The generator shares its machine with the servers it measures, so it does little itself: requests are
//! encoded once and only their keys are written anew, calls go straight to each vault's leader, and only
//! verified reads are verified.

mod measure;
mod prepare;
mod request;
mod streamed;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ledger_client::{
    CallKind, Client, ClientError, Effect, PipelineOptions, Route, VerifiedOptions, method,
};
use ledger_types::{StateKey, VaultRef};
use tokio::time::{Interval, MissedTickBehavior};

use crate::args::{Global, Work, WorkloadOptions};
use crate::failure::Failure;
use crate::output::Format;
use crate::session;
use crate::workload::measure::Measurement;
use crate::workload::request::{Numbers, Template};

/// Measures.
pub(crate) async fn run(options: &WorkloadOptions, global: &Global) -> Result<(), Failure> {
    check(options)?;
    let mut config = session::config(global);
    config.connections_per_node = options.connections;
    let client = Client::connect(config).await?;
    let vaults = prepare::vaults(&client, options).await?;
    if matches!(options.op, Work::ReadEventual | Work::ReadLinearizable | Work::Verified) {
        prepare::fill(&client, options, &vaults).await?;
    }
    let begin = Instant::now() + options.warmup;
    let measurement = Arc::new(Measurement::new(begin, options.duration, vaults.len()));
    let pipeline = options.stream.then(|| client.write_pipeline(PipelineOptions::default()));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..options.clients {
        let worker = Worker {
            client: client.clone(),
            vault: vaults[number % vaults.len()],
            vault_index: number % vaults.len(),
            number: u64::try_from(number).expect("clients are few"),
            options: options.clone(),
            measurement: measurement.clone(),
        };
        match &pipeline {
            Some(pipeline) => tasks.spawn(worker.run_streamed(pipeline.clone())),
            None => tasks.spawn(worker.run()),
        };
    }
    let progress = tokio::spawn(measure::show_progress(measurement.clone()));
    while let Some(ended) = tasks.join_next().await {
        ended
            .map_err(|error| Failure::failed(format!("a client of the workload ended: {error}")))?;
    }
    progress.abort();
    let report = measurement.report(options, &vaults, &client.addresses());
    report.show(global.output.unwrap_or(Format::Json));
    report.verdict()
}

fn check(options: &WorkloadOptions) -> Result<(), Failure> {
    let counts = [
        ("--clients", options.clients),
        ("--connections", options.connections),
        ("--batch", options.batch),
        ("--vault-count", options.vault_count),
        ("--in-flight", options.in_flight),
    ];
    if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
        return Err(Failure::failed(format!("{name} must be at least 1")));
    }
    if options.stream && !matches!(options.op, Work::Write | Work::Batch | Work::Relationship) {
        return Err(Failure::failed("--stream is for writes"));
    }
    if options.rate == Some(0) {
        return Err(Failure::failed("--rate must be at least 1"));
    }
    if options.keys == 0 {
        return Err(Failure::failed("--keys must be at least 1"));
    }
    Ok(())
}

/// One client of the loop.
struct Worker {
    client: Client,
    vault: VaultRef,
    vault_index: usize,
    number: u64,
    options: WorkloadOptions,
    measurement: Arc<Measurement>,
}

impl Worker {
    async fn run(self) {
        let mut numbers = Numbers::new(self.number);
        let mut template =
            Template::new(&self.options, self.vault, self.client.client_id(), &mut numbers);
        let operations = template.operations();
        let mut pace = self.pace();
        while !self.measurement.is_over() {
            if let Some(pace) = &mut pace {
                pace.tick().await;
            }
            let began = Instant::now();
            let outcome = self.once(&mut template, &mut numbers).await;
            self.measurement.record(self.vault_index, began, operations, outcome);
        }
    }

    /// When this client may send its next request; a late one is not made up for.
    fn pace(&self) -> Option<Interval> {
        let rate = self.options.rate?;
        let clients = u32::try_from(self.options.clients).unwrap_or(u32::MAX);
        let mut pace = tokio::time::interval(Duration::from_secs(1) * clients / rate);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(pace)
    }

    async fn once(
        &self,
        template: &mut Template,
        numbers: &mut Numbers,
    ) -> Result<(), ClientError> {
        let kind = |route, effect| CallKind { route, effect };
        match self.options.op {
            Work::Write | Work::Batch | Work::Relationship => {
                let body: Bytes = template.next(numbers);
                let kind = kind(Route::Leader(self.vault), Effect::WritesOnce);
                let answer = self.client.call_encoded(method::WRITE, kind, body).await?;
                ledger_client::write_receipt(answer).map(drop)
            }
            Work::ReadEventual => {
                let body = template.next(numbers);
                let kind = kind(Route::Any(Some(self.vault)), Effect::Reads);
                found(self.client.call_encoded(method::READ, kind, body).await?.value)
            }
            Work::ReadLinearizable => {
                let body = template.next(numbers);
                let kind = kind(Route::Leader(self.vault), Effect::Reads);
                found(self.client.call_encoded(method::READ, kind, body).await?.value)
            }
            Work::Verified => {
                let key = request::entity_key(numbers.below(self.options.keys));
                let keys = [StateKey::entity(&key)];
                let wanted = VerifiedOptions::default();
                let answer = self.client.verified_get(self.vault, &keys, wanted).await?;
                found(answer.into_single_value())
            }
        }
    }
}

/// Every key that a workload reads was written before, so an absent one is an error to count.
fn found(value: Option<Vec<u8>>) -> Result<(), ClientError> {
    value.map(drop).ok_or(ClientError::Malformed("value"))
}

/// Time as whole microseconds.
fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
