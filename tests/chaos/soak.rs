//! Rounds of faults by mix: short ones with every run of the tests, and as many as wanted by `cargo xtask chaos`.
//!
//! Owns the choice of mixes, seeds and times. A failed round leaves a directory behind and says where.

use std::time::{Duration, Instant};

use super::mixes::{MIXES, Mix};
use super::nodes::Nodes;
use super::report::tell;
use super::round::{Plan, cluster_for, run, server_binary};

/// Faults last this long in a round of the tests, and longer in the mix of all.
const TEST_ROUND: Duration = Duration::from_secs(8);
const TEST_ROUND_OF_ALL: Duration = Duration::from_secs(16);
/// Faults last this long in a round of a soak.
const SOAK_ROUND: Duration = Duration::from_secs(45);
/// Rounds of a soak on one cluster; then a new one begins.
const ROUNDS_PER_CLUSTER: u32 = 8;
/// What a soak is told by the environment.
const MIX_VARIABLE: &str = "LEDGER_CHAOS_MIX";
const MINUTES_VARIABLE: &str = "LEDGER_CHAOS_MINUTES";
const SEED_VARIABLE: &str = "LEDGER_CHAOS_SEED";

/// The seed of a run: given, or drawn.
pub(crate) fn seed() -> u64 {
    match std::env::var(SEED_VARIABLE) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED_VARIABLE} must be a number")),
        Err(_) => rand::random(),
    }
}

/// Does a round and fails if anything in it is wrong; where it can be looked at is printed.
pub(crate) async fn must_hold(nodes: &mut Nodes, mix: &'static Mix, seed: u64, time: Duration) {
    let plan = Plan { mix, seed, time, sabotage: None };
    let report = run(nodes, plan).await;
    tell(&report);
    if !report.violations.is_empty() {
        let kept = report.keep(&nodes.log_files());
        panic!("{} violations; everything is in {}", report.violations.len(), kept.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_is_replaced() {
    let mut nodes = Nodes::start(server_binary(), false).await;
    nodes.assert_cuts_cut().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mix_of_faults_is_survived() {
    let first_seed = seed();
    for (number, mix) in MIXES.iter().enumerate() {
        let mut nodes = cluster_for(mix).await;
        let time = if mix.name == "all" { TEST_ROUND_OF_ALL } else { TEST_ROUND };
        let seed = first_seed.wrapping_add(number as u64);
        must_hold(&mut nodes, mix, seed, time).await;
    }
}

/// As long and of such faults as the environment says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs for as many minutes as `cargo xtask chaos` was told"]
async fn soak() {
    let setting = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let name = setting(MIX_VARIABLE);
    let mix = Mix::by_name(&name).unwrap_or_else(|| panic!("there is no mix {name}"));
    let minutes: u32 = setting(MINUTES_VARIABLE).parse().expect("minutes are a number");
    let (begun, time) = (Instant::now(), Duration::from_secs(60) * minutes);
    let first_seed = seed();
    let mut round = 0;
    while begun.elapsed() < time {
        let mut nodes = cluster_for(mix).await;
        for _ in 0..ROUNDS_PER_CLUSTER {
            let left = time.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break;
            }
            let seed = first_seed.wrapping_add(round);
            let time = SOAK_ROUND.min(left);
            must_hold(&mut nodes, mix, seed, time).await;
            round += 1;
        }
    }
    tell(format_args!("{round} rounds of {name} without a violation in {:.0?}", begun.elapsed()));
}
