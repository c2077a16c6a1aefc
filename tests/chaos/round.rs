//! One round: load and witnesses, faults, healing, judgement.
//!
//! Owns the order of these. A cluster may serve several rounds; each has vaults of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger::demo::replicas::wait_level;
use ledger::demo::vaults::make_vault;
use ledger_client::Client;
use ledger_types::VaultRef;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::checks::judge;
use super::disk::Disk;
use super::faults::Faults;
use super::mixes::{Kind, Mix};
use super::nodes::{NODES, Nodes};
use super::recorder::Recorder;
use super::report::{Report, tell};
use super::witnesses::Witnesses;
use super::workload::{Load, sdk_client};

/// Longest time of a round beyond its faults: everything in it is bounded, and this bounds their sum.
const ROUND_EXTRA_MAX: Duration = Duration::from_secs(300);
/// Lines of the diary that are shown of a round that does not end.
const DIARY_SHOWN: usize = 12;
/// Vaults of a round.
const VAULTS: usize = 4;
/// Load without faults before the first fault.
const CALM: Duration = Duration::from_millis(500);
/// Longest time, after the last fault, until every vault takes a write.
const HEALED_MAX: Duration = Duration::from_secs(60);
/// Longest time until replicas hold the same after that.
const LEVEL_MAX: Duration = Duration::from_secs(60);
/// Number of the client that reads everything at the end.
const LAST_READER: u32 = 1_001;
/// Longest time for one of these writes.
const SETTLING: Duration = Duration::from_secs(5);

/// The server's program.
pub(crate) fn server_binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_ledger"))
}

/// Starts a cluster for a mix: on disks that can be cut off if the mix needs them and the machine has them.
pub(crate) async fn cluster_for(mix: &Mix) -> Nodes {
    let wants_disks = mix.kinds.iter().any(|(kind, _)| kind.needs_disk());
    let missing = if wants_disks { Disk::missing() } else { None };
    if let Some(why) = &missing {
        tell(format_args!("full disks and power cuts are left out: {why}"));
    }
    Nodes::start(server_binary(), wants_disks && missing.is_none()).await
}

/// What a round is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// The faults.
    pub(crate) mix: &'static Mix,
    /// From which they and the load are drawn.
    pub(crate) seed: u64,
    /// How long faults are done.
    pub(crate) time: Duration,
    /// A fail point that makes every node lie from the moment at which the vaults are there.
    pub(crate) sabotage: Option<&'static str>,
}

/// Does a round and judges it, in bounded time.
pub(crate) async fn run(nodes: &mut Nodes, plan: Plan) -> Report {
    let (name, seed, sabotage) = (plan.mix.name, plan.seed, plan.sabotage.unwrap_or("no sabotage"));
    tell(format_args!("begins mix {name}, seed {seed}, {sabotage}"));
    let recorder = Arc::new(Recorder::new());
    let round = round(nodes, plan, recorder.clone());
    let time = plan.time;
    let report = tokio::time::timeout(time + ROUND_EXTRA_MAX, round).await;
    report.unwrap_or_else(|_| {
        let diary = recorder.diary();
        let last = diary[diary.len().saturating_sub(DIARY_SHOWN)..].join("\n");
        recorder.violation("the round does not end".to_owned());
        let kept = unfinished(name, seed, time, &recorder).keep(&nodes.log_files());
        let kept = kept.display();
        panic!("mix {name}, seed {seed}, {sabotage} does not end; all is in {kept}; the last was:\n{last}")
    })
}

/// What there is to tell of a round that did not end.
fn unfinished(mix: &str, seed: u64, time: Duration, recorder: &Recorder) -> Report {
    Report {
        mix: mix.to_owned(),
        seed,
        time,
        healed_after: Duration::ZERO,
        faults: Default::default(),
        diary: recorder.diary(),
        counts: recorder.counts(),
        checks: Vec::new(),
        violations: recorder.violations(),
        operations: recorder.operations(),
        blocks: recorder.blocks(),
    }
}

async fn round(nodes: &mut Nodes, plan: Plan, recorder: Arc<Recorder>) -> Report {
    let Plan { mix, seed, time, sabotage } = plan;
    let addresses = nodes.addresses();
    let client = sdk_client(&addresses, "driver");
    let vaults = make_vaults(&client, seed).await;
    if let Some(point) = sabotage {
        for number in 0..NODES {
            nodes.set_point(number, point, Some("return")).await;
        }
    }
    let installed_before = nodes.snapshots_installed();
    let load = Load::new(recorder.clone(), vaults.clone(), addresses);
    let replicas = nodes.replicas();
    let folder = nodes.folder().to_owned();
    let clocks_are_wrong = mix.has(Kind::ClockStep);
    let mut clients = load.start(seed);
    let mut witnesses = Witnesses::start(&load, &replicas, &folder, (seed, clocks_are_wrong));
    tokio::time::sleep(CALM).await;

    let random = StdRng::seed_from_u64(seed);
    let mut faults = Faults::new(mix, random, recorder.clone(), client.clone());
    faults.run(nodes, time).await;

    recorder.note("faults are over");
    let healing = Instant::now();
    if let Err(error) = nodes.wait_ready().await {
        recorder.violation(format!("not healed: {error}"));
    }
    recorder.note("all nodes serve");
    settle(&client, &vaults, &recorder).await;
    let healed_after = healing.elapsed();
    recorder.note("healed");
    recorder.stop();
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    recorder.note("clients have ended");
    witnesses.finish_looking().await;
    recorder.note("witnesses have ended");
    load.read_all(LAST_READER).await;
    recorder.note("everything is read");
    // A write that failed on a full disk ends a process when its turn comes, which may be only now.
    faults.notice_ended(nodes).await;
    let level = wait_level(&replicas, &vaults, LEVEL_MAX).await;
    let tips = level.unwrap_or_else(|error| {
        recorder.violation(format!("replicas are not level: {error}"));
        Default::default()
    });
    recorder.note("replicas were compared");
    let heights = tips.iter().map(|(vault, tip)| (*vault, tip.height)).collect();
    witnesses.finish_watching(heights).await;
    recorder.note("watchers have ended");
    recorder.count_many("snapshots installed", nodes.snapshots_installed() - installed_before);
    let checks = judge(&recorder, &replicas, &tips).await;
    recorder.note("all is judged");
    Report {
        mix: mix.name.to_owned(),
        seed,
        time,
        healed_after,
        faults: faults.counts,
        diary: recorder.diary(),
        counts: recorder.counts(),
        checks,
        violations: recorder.violations(),
        operations: recorder.operations(),
        blocks: recorder.blocks(),
    }
}

/// A namespace of its own with its vaults.
async fn make_vaults(client: &Client, seed: u64) -> Vec<VaultRef> {
    let client = client.with_deadline(HEALED_MAX);
    let name = format!("chaos-{seed:016x}-{:04x}", rand::random::<u16>());
    let namespace = client.ensure_namespace(&name).await.unwrap();
    let mut vaults = Vec::new();
    for _ in 0..VAULTS {
        vaults.push(make_vault(&client, namespace).await.unwrap().0);
    }
    vaults
}

/// Waits until every vault takes a write: a relationship, which is no part of the history of keys.
async fn settle(client: &Client, vaults: &[VaultRef], recorder: &Recorder) {
    let begun = Instant::now();
    for &vault in vaults {
        loop {
            let grant = ledger_types::Operation::CreateRelationship {
                resource: "round".to_owned(),
                relation: "healed".to_owned(),
                subject: "everybody".to_owned(),
            };
            let Err(error) = client.with_deadline(SETTLING).write(vault, vec![grant]).await else {
                break;
            };
            if begun.elapsed() > HEALED_MAX {
                recorder
                    .violation(format!("vault {vault} takes no write after the faults: {error}"));
                break;
            }
        }
    }
}
