//! The ladder: what one write costs, rung by rung, on the product's own interfaces.
//!
//! Rungs: (a) an empty RPC; (b) three nodes, Raft and fsync, with commands that apply refuses; (c) the
//! rows of real writes alone; (d) the whole write: rows, tree, block and session; (e) the same for a
//! relationship, which is two state keys. Each prints CPU per operation and replica beside its budget.
//! No rung runs code that the product does not ship.

#![expect(clippy::print_stdout, reason = "a measurement prints its table")]

mod cluster;
mod cost;
mod rpc;

use std::process::ExitCode;
use std::time::Duration;

use cost::Cost;
use ledger_shard::DriverMode;

/// Budgets in microseconds of CPU for 10,000 single writes per second on two cores: 200 in all.
mod budget {
    /// An empty RPC, both sides.
    pub(crate) const RPC_US: f64 = 30.0;
    /// Raft and log, per replica.
    pub(crate) const LOG_US: f64 = 20.0;
    /// Apply with rows, tree, block and session, per replica.
    pub(crate) const APPLY_US: f64 = 25.0;
    /// The rows' share of it.
    pub(crate) const ROWS_US: f64 = 12.0;
}

/// How long each rung runs.
const RUN_TIME: Duration = Duration::from_secs(4);
/// Requests in flight.
const IN_FLIGHT: usize = 256;

struct Rung {
    name: &'static str,
    cost: Cost,
    replicas: u64,
    budget_us: f64,
}

fn main() -> ExitCode {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let time = seconds.map_or(RUN_TIME, Duration::from_secs);
    let mut rungs = vec![Rung {
        name: "a  empty RPC",
        cost: rpc::measure(time, IN_FLIGHT),
        replicas: 1,
        budget_us: budget::RPC_US,
    }];
    for (mode, label) in [(DriverMode::Inline, "inline"), (DriverMode::Staged, "staged")] {
        println!("driver mode: {label}");
        let mut cluster = cluster::Cluster::start(mode);
        let refused = cluster.run(time, IN_FLIGHT, cluster::Work::Refused);
        let entities = cluster.run(time, IN_FLIGHT, cluster::Work::Entities);
        let relationships = cluster.run(time, IN_FLIGHT, cluster::Work::Relationships);
        cluster.stop();
        rungs.push(Rung {
            name: "b  Raft and log, empty apply",
            cost: refused,
            replicas: cluster::NODES,
            budget_us: budget::LOG_US,
        });
        rungs.push(Rung {
            name: "c  rows alone",
            cost: cluster::rows_alone(time),
            replicas: 1,
            budget_us: budget::ROWS_US,
        });
        rungs.push(Rung {
            name: "d  rows, tree, block, session",
            cost: entities,
            replicas: cluster::NODES,
            budget_us: budget::LOG_US + budget::APPLY_US,
        });
        rungs.push(Rung {
            name: "e  the same, relationship",
            cost: relationships,
            replicas: cluster::NODES,
            budget_us: budget::LOG_US + 2.0 * budget::APPLY_US,
        });
        print(&rungs);
        rungs.truncate(1);
    }
    ExitCode::SUCCESS
}

fn print(rungs: &[Rung]) {
    println!(
        "{:<32} {:>10} {:>14} {:>8} {:>12} {:>10}",
        "rung", "ops/s", "CPU us/op/node", "budget", "switches/op", "within"
    );
    for rung in rungs {
        let us = rung.cost.cpu_us_per_operation() / rung.replicas as f64;
        let within = if us <= rung.budget_us { "yes" } else { "NO" };
        println!(
            "{:<32} {:>10.0} {:>14.1} {:>8.0} {:>12.2} {:>10}",
            rung.name,
            rung.cost.operations_per_second(),
            us,
            rung.budget_us,
            rung.cost.switches_per_operation(),
            within
        );
    }
    println!();
}
