//! When read rounds of groups began, and what they showed.
//!
//! Owns that requests which come together share one round. Must never tell a round whose index is not applied
//! here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger_shard::{Refusal, ShardHandle};
use ledger_types::GroupId;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// A round serves cosignatures for this long; so much older than necessary may their time be.
const ROUND_AGE_MAX: Duration = Duration::from_millis(250);

/// A read round that a quorum confirmed and whose index is applied here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Round {
    /// Unix seconds when it began.
    pub began_seconds: u64,
    /// Everything acknowledged before it began is at or below this index of the group's log, which is applied.
    pub index: u64,
    began: Instant,
}

/// The last round of a group. Held while the next one runs, so that all who wait get that one.
type Last = tokio::sync::Mutex<Option<Round>>;

/// The last round of each group that somebody asked about.
#[derive(Default, Debug)]
pub struct RecentRounds {
    groups: Mutex<BTreeMap<GroupId, Arc<Last>>>,
}

impl RecentRounds {
    /// A round of a group of this node: a young one, or a new one. Errors if no quorum confirms it within
    /// `time_max`.
    pub async fn young(
        &self,
        shard: &ShardHandle,
        group: GroupId,
        time_max: Duration,
    ) -> Result<Round, Refusal> {
        let last = self.groups.lock().entry(group).or_default().clone();
        let give_up_at = Instant::now() + time_max;
        let refused = |_| Refusal::Expired;
        let mut last = tokio::time::timeout(time_max, last.lock()).await.map_err(refused)?;
        if let Some(round) = last.filter(|round| round.began.elapsed() < ROUND_AGE_MAX) {
            return Ok(round);
        }
        let remaining = give_up_at.saturating_duration_since(Instant::now());
        let asking = begin(shard, group, remaining);
        let round = tokio::time::timeout(remaining, asking).await.map_err(refused)??;
        *last = Some(round);
        Ok(round)
    }
}

#[cfg(test)]
impl Round {
    /// A round that began just now.
    pub(super) fn of(began_seconds: u64, index: u64) -> Round {
        Round { began_seconds, index, began: Instant::now() }
    }
}

async fn begin(shard: &ShardHandle, group: GroupId, time_max: Duration) -> Result<Round, Refusal> {
    let began_seconds = ledger_shard::wall_clock_ns() / 1_000_000_000;
    let began = Instant::now();
    let (sender, receiver) = oneshot::channel();
    let time_ms = u64::try_from(time_max.as_millis()).unwrap_or(u64::MAX);
    let deadline_ms = shard.now().monotonic_ms.saturating_add(time_ms);
    // Whoever waited may have given up.
    let completion = move |outcome| {
        let _ = sender.send(outcome);
    };
    shard.read(group, deadline_ms, Box::new(completion));
    let index = receiver.await.unwrap_or(Err(Refusal::NotLeader(None)))?;
    Ok(Round { began_seconds, index, began })
}
