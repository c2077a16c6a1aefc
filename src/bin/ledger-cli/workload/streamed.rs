//! Clients of a workload that share a pipeline of writes.

use std::collections::VecDeque;
use std::time::Instant;

use ledger_client::{PendingWrite, WritePipeline};

use super::Worker;
use super::request::{Numbers, Template};

impl Worker {
    /// Keeps as many writes under way as the options say, and awaits them in the order in which they were sent.
    pub(super) async fn run_streamed(self, pipeline: WritePipeline) {
        let mut numbers = Numbers::new(self.number);
        let mut template =
            Template::new(&self.options, self.vault, self.client.client_id(), &mut numbers);
        let operations = template.operations();
        let mut pace = self.pace();
        let mut under_way: VecDeque<(Instant, PendingWrite)> = VecDeque::new();
        while !self.measurement.is_over() {
            while under_way.len() < self.options.in_flight {
                if let Some(pace) = &mut pace {
                    pace.tick().await;
                }
                let began = Instant::now();
                let body = template.next(&mut numbers);
                match pipeline.submit_encoded(self.vault, body).await {
                    Ok(pending) => under_way.push_back((began, pending)),
                    Err(error) => {
                        self.measurement.record(self.vault_index, began, operations, Err(error));
                    }
                }
            }
            let Some((began, pending)) = under_way.pop_front() else { continue };
            let outcome = pending.await.map(drop);
            self.measurement.record(self.vault_index, began, operations, outcome);
        }
    }
}
