//! Servers that are made to lie, to show that the judges notice.
//!
//! Owns the lies: a write that is acknowledged while only the memory of processes holds it, one that is acknowledged
//! before the sync, a read that waits for nothing, and a leader that does not ask whether it still leads. SIGKILL does
//! not lose what the system has in its caches, so the first lie keeps rows from the system and the second one needs
//! power cuts. Each must end in a violation of the kind that it is, or the other tests here are worth nothing.

use std::time::Duration;

use super::disk::Disk;
use super::mixes::{Kind, Mix};
use super::report::tell;
use super::round::{Plan, cluster_for, run};

/// Acknowledges rows that are not in the log on disk yet.
const EARLY_ACK: &str = "sabotage::early_ack";
/// Acknowledges rows that the disk may still lose.
const UNSYNCED_ACK: &str = "sabotage::unsynced_ack";
/// Serves linearizable reads from whatever the node holds.
const STALE_READ: &str = "sabotage::stale_read";
/// Serves linearizable reads from whatever the leader holds, or one that takes itself for the leader.
const NO_BARRIER: &str = "sabotage::no_barrier";
/// Time of faults in a round.
const TIME: Duration = Duration::from_secs(6);
/// Rounds in which a lie must be noticed.
const ROUNDS_MAX: u64 = 6;

/// All nodes die at once: what none of them has written is gone.
static KILLS_OF_ALL: Mix =
    Mix { name: "sabotaged-kills", kinds: &[(Kind::KillAll, 1)], overlaps: false };
/// All nodes lose power at once: what none of them has synced is gone.
static POWER_CUTS: Mix =
    Mix { name: "sabotaged-power", kinds: &[(Kind::PowerCut, 1)], overlaps: false };
/// One node is behind for a while, and is asked.
static CUTS: Mix = Mix {
    name: "sabotaged-cuts",
    kinds: &[(Kind::Isolate, 2), (Kind::Deafen, 1)],
    overlaps: false,
};

/// A leader that was frozen goes on as if it still led.
static PAUSES: Mix = Mix { name: "sabotaged-pauses", kinds: &[(Kind::Pause, 1)], overlaps: false };

/// What a write that was acknowledged and then lost looks like. If its loss leaves replicas that disagree for ever, no
/// chain can be read back from all of them, and the reads that missed it are what tells.
const LOST: &[&str] = &["lost write", "not linearizable"];
/// What a read of the past looks like.
const STALE: &[&str] = &["not linearizable"];

/// Does rounds with a lie until one has a violation that says one of these words. Chance decides whether the one wrong
/// read happens that a round needs, so there may be several; a lie that is not noticed in the last one is not noticed.
/// Each round has a cluster of its own, as a lie may leave one that cannot go on.
async fn assert_noticed(point: &'static str, mix: &'static Mix, words: &[&str]) {
    for seed in 1..=ROUNDS_MAX {
        let mut nodes = cluster_for(mix).await;
        let plan = Plan { mix, seed, time: TIME, sabotage: Some(point) };
        let report = run(&mut nodes, plan).await;
        let (found, mut all) = (report.violations.len(), report.violations.iter());
        if let Some(violation) = all.find(|told| words.iter().any(|words| told.contains(words))) {
            let first_line = violation.lines().next().unwrap_or_default();
            return tell(format_args!("{point} is noticed, {found} violations: {first_line}"));
        }
        tell(&report);
    }
    panic!("nobody noticed: no violation of {ROUNDS_MAX} rounds says {words:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_before_the_disk_is_noticed() {
    assert_noticed(EARLY_ACK, &KILLS_OF_ALL, LOST).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_before_the_sync_is_noticed() {
    if let Some(why) = Disk::missing() {
        return tell(format_args!("no power can be cut here, so this is skipped: {why}"));
    }
    assert_noticed(UNSYNCED_ACK, &POWER_CUTS, LOST).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_read_is_noticed() {
    assert_noticed(STALE_READ, &CUTS, STALE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_asks_nobody_before_it_reads_is_noticed() {
    assert_noticed(NO_BARRIER, &PAUSES, STALE).await;
}
