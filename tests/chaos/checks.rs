//! The judgement over a round: every check that there is, over everything that was recorded.
//!
//! Owns the list of checks. The judges themselves are in the crate `ledger-history`.

use std::collections::BTreeMap;
use std::time::Duration;

use ledger::demo::replicas::Replica;
use ledger_client::Tip;
use ledger_history::linearizable::CONFIGURATIONS_MAX_DEFAULT;
use ledger_history::record::{Operation, Outcome};
use ledger_history::{Agreement, Watch, exactly_once, linearizable, watched};
use ledger_types::VaultRef;

use super::chain::Chain;
use super::recorder::Recorder;
use super::witnesses::{WATCH_FROM, watcher_name};

/// Longest time until a replica has told all entities of a vault.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// A round that did less than this has shown nothing.
const ACKNOWLEDGED_MIN: u64 = 100;

/// Judges everything, reports findings to the recorder, and tells what was checked and how much of it.
pub(crate) async fn judge(
    recorder: &Recorder,
    replicas: &[Replica],
    tips: &BTreeMap<VaultRef, Tip>,
) -> Vec<(&'static str, u64)> {
    let operations = recorder.operations();
    let mut checks = vec![("operations in one order per key", operations.len() as u64)];
    for finding in linearizable(&operations, CONFIGURATIONS_MAX_DEFAULT) {
        recorder.violation(finding.to_string());
    }
    let written = |one: &&Operation| matches!(one.outcome, Outcome::Done { .. });
    let done = operations.iter().filter(written).count() as u64;
    if done < ACKNOWLEDGED_MIN {
        recorder.violation(format!("only {done} operations were answered: this shows nothing"));
    }
    recorder.note("the order of operations is judged");
    let mut blocks_read = 0;
    for replica in replicas {
        for (&vault, tip) in tips {
            blocks_read += tip.height + 1;
            judge_chain(recorder, &operations, replica, (vault, tip)).await;
        }
    }
    checks.push(("blocks read back", blocks_read));
    checks.extend(judge_sights(recorder, tips));
    checks.push(("entities alike", judge_entities(recorder, replicas, tips).await));
    checks
}

/// Each acknowledged write is once in the replica's chain, and the chain is one.
async fn judge_chain(
    recorder: &Recorder,
    operations: &[Operation],
    replica: &Replica,
    (vault, tip): (VaultRef, &Tip),
) {
    let chain = match Chain::read(replica, vault, tip.height).await {
        Ok(chain) => chain,
        Err(error) => return recorder.violation(error),
    };
    for (header, _) in &chain.blocks {
        recorder.header(&format!("chain at {replica}"), vault, header);
    }
    for found in chain.breaks() {
        recorder.violation(format!("{replica}: {found}"));
    }
    for finding in exactly_once(vault, operations, &chain.writes()) {
        recorder.violation(format!("{replica}: {finding}"));
    }
}

/// Everybody saw the same blocks, and watchers saw each of them.
fn judge_sights(recorder: &Recorder, tips: &BTreeMap<VaultRef, Tip>) -> Vec<(&'static str, u64)> {
    let blocks = recorder.blocks();
    let mut agreement = Agreement::new();
    for block in &blocks {
        if let Err(fork) = agreement.see(block) {
            recorder.violation(fork.to_string());
        }
    }
    let mut watched_blocks = 0;
    for (&vault, tip) in tips {
        let (witness, first, last) = (watcher_name(vault), WATCH_FROM, tip.height);
        watched_blocks += last;
        for finding in watched(&Watch { witness, vault, first, last }, &blocks) {
            recorder.violation(finding.to_string());
        }
    }
    vec![("blocks compared", agreement.seen()), ("blocks watched in order", watched_blocks)]
}

/// All replicas hold the same entities.
async fn judge_entities(
    recorder: &Recorder,
    replicas: &[Replica],
    tips: &BTreeMap<VaultRef, Tip>,
) -> u64 {
    let mut compared = 0;
    for &vault in tips.keys() {
        let mut expected = None;
        for replica in replicas {
            let answer = tokio::time::timeout(ANSWER_MAX, replica.entities(vault, "")).await;
            let held = match answer.map(|answer| answer.map_err(|error| error.to_string())) {
                Ok(Ok(held)) => held,
                failed => {
                    recorder.violation(format!("entities of {vault} at {replica}: {failed:?}"));
                    continue;
                }
            };
            compared += held.len() as u64;
            match &expected {
                None => expected = Some(held),
                Some(expected) if *expected == held => {}
                Some(_) => recorder.violation(format!("{replica} holds other entities of {vault}")),
            }
        }
    }
    compared
}
