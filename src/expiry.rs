//! Removal of entities that have expired, on behalf of nobody: by the leader, in batches, at a bounded rate.
//!
//! Owns when a vault is looked through, and the rate of the node. Reads hide an expired entity at once, so nobody waits
//! for this; an operator may ask for it at once. Must never cost anything for a vault in which nothing expires, nor
//! remove what the log does not find expired: the block's time decides, not this node's clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ledger_shard::query::StepLimits;
use ledger_shard::{
    Command, CommandKind, CommandResult, NewBlock, QueryError, Refusal, Role, VaultRow,
    VaultStatus, WriteCommand, WriteResult, query, wall_clock_ns,
};
use ledger_types::{Dedup, GroupId, Operation, Outcome, TxId, VaultRef};
use parking_lot::Mutex;
use tracing::{debug, warn};

use crate::commands::propose_here;
use crate::context::NodeContext;
use crate::quarantine::leads;

/// The client name in transactions that remove expired entities.
pub const EXPIRY_CLIENT: &str = "_expiry";
/// Most entities that one transaction removes.
const BATCH_MAX: usize = 250;
/// Most entities that one look through a vault brings.
const FOUND_MAX: usize = 5_000;
/// Most vaults that are looked through between two pauses.
const VAULTS_PER_LOOK: usize = 32;
/// How often groups that are led are asked for vaults not looked through yet.
const LIST_EVERY: Duration = Duration::from_secs(5);
/// A vault rests this many times as long as the last look through it took.
const REST_FACTOR: u32 = 20;
/// How far one step of a look goes that was asked for.
const STEP_LIMITS: StepLimits =
    StepLimits { rows_max: 20_000, bytes_max: 32 * 1024 * 1024, found_max: BATCH_MAX };
/// Vaults remembered; beyond it the memory starts anew.
const VAULTS_MAX: usize = 1_000_000;

/// What is known of a vault that was looked through.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Unix second at which the next entity expires; `u64::MAX` for none.
    soonest: u64,
    /// It is not looked through before.
    rests_until: Instant,
}

/// When entities expire. Told by the apply stage, so every method is cheap.
#[derive(Debug, Default)]
pub struct ExpiryBook {
    known: Mutex<BTreeMap<VaultRef, Known>>,
    removed: AtomicU64,
    /// Held by whoever waits for the turn of a batch, so that batches go in order.
    pace: tokio::sync::Mutex<Pace>,
}

/// When batches may go, so that a node removes no more than its rate. Time without batches is not saved up.
#[derive(Debug, Default)]
struct Pace {
    /// When the batches that went are paid for, once there was one.
    free_from: Option<Instant>,
}

impl Pace {
    /// When the next batch may go.
    fn next(&self, now: Instant) -> Instant {
        self.free_from.map_or(now, |at| at.max(now))
    }

    /// A batch of so many entities went at `begin`, at a rate of so many a second.
    fn went(&mut self, begin: Instant, entities: usize, rate: u64) {
        self.free_from = Some(begin + Duration::from_secs_f64(entities as f64 / rate as f64));
    }
}

impl ExpiryBook {
    /// These blocks are new. Vaults that were not looked through yet will be, with all they hold by then.
    pub fn blocks(&self, blocks: &[NewBlock]) {
        if blocks.iter().all(|block| block.soonest_expiry.is_none()) {
            return;
        }
        let mut known = self.known.lock();
        for block in blocks {
            if let (Some(expiry), Some(vault)) = (block.soonest_expiry, known.get_mut(&block.vault))
            {
                vault.soonest = vault.soonest.min(expiry);
            }
        }
    }

    /// Rows came by other means than blocks: every vault is looked through again.
    pub fn forget(&self) {
        self.known.lock().clear();
    }

    /// Entities that were removed because they had expired.
    pub fn removed(&self) -> u64 {
        self.removed.load(Ordering::Relaxed)
    }

    /// Waits until a batch of so many entities may go, so that the node removes no more than `rate` a second.
    async fn pace(&self, entities: usize, rate: u64) {
        let mut pace = self.pace.lock().await;
        let begin = pace.next(Instant::now());
        // Whoever gives up here has used nothing.
        tokio::time::sleep_until(begin.into()).await;
        pace.went(begin, entities, rate);
    }

    fn due(&self, time_s: u64) -> Vec<VaultRef> {
        let now = Instant::now();
        let known = self.known.lock();
        let due =
            known.iter().filter(|(_, vault)| vault.soonest <= time_s && vault.rests_until <= now);
        due.map(|(vault, _)| *vault).collect()
    }

    fn is_known(&self, vault: VaultRef) -> bool {
        self.known.lock().contains_key(&vault)
    }

    /// A vault is about to be looked through: whatever its next blocks say counts in addition.
    fn begin(&self, vault: VaultRef) {
        let mut known = self.known.lock();
        if known.len() >= VAULTS_MAX {
            known.clear();
        }
        known.insert(vault, Known { soonest: u64::MAX, rests_until: Instant::now() });
    }

    /// A vault was looked through, in this time.
    fn end(&self, vault: VaultRef, soonest: Option<u64>, took: Duration) {
        if let Some(known) = self.known.lock().get_mut(&vault) {
            known.soonest = known.soonest.min(soonest.unwrap_or(u64::MAX));
            known.rests_until = Instant::now() + took * REST_FACTOR;
        }
    }

    /// Nothing can be removed from a vault of this status. It is remembered all the same: were it forgotten, it would
    /// be listed again each time and stand before the vaults that come after it.
    fn pass_over(&self, vault: VaultRef, status: VaultStatus) {
        self.begin(vault);
        // A deleted vault stays so.
        let soonest = (!status.is_deleted()).then_some(0);
        self.end(vault, soonest, LIST_EVERY);
    }

    fn drop_vault(&self, vault: VaultRef) {
        self.known.lock().remove(&vault);
    }
}

fn clock_s() -> u64 {
    wall_clock_ns() / 1_000_000_000
}

/// Removes what has expired for as long as the node runs.
pub async fn run(context: Arc<NodeContext>) {
    let (pause, rate) = (context.config.expiry_interval, context.config.expiry_rate);
    if pause.is_zero() {
        return;
    }
    let mut listed: Option<Instant> = None;
    loop {
        tokio::time::sleep(pause).await;
        // What a wrong clock takes for expired may not be.
        if context.clocks.is_off() {
            continue;
        }
        let mut vaults = context.blocks.expiry.due(clock_s());
        if listed.is_none_or(|at| at.elapsed() >= LIST_EVERY) {
            vaults.extend(not_looked_through(&context));
            listed = Some(Instant::now());
        }
        let mut looks = 0;
        for vault in vaults {
            let row = context.reader.tip(vault).ok();
            // Whoever leads does it. A leader that comes later looks through the vault itself.
            let Some(row) = row.filter(|row| leads(&context, row.owner)) else {
                context.blocks.expiry.drop_vault(vault);
                continue;
            };
            if row.status != VaultStatus::Active {
                context.blocks.expiry.pass_over(vault, row.status);
                continue;
            }
            look_through(&context, vault, row, rate).await;
            looks += 1;
            if looks == VAULTS_PER_LOOK {
                break;
            }
        }
    }
}

/// Vaults of groups that are led here and that nobody has looked through.
fn not_looked_through(context: &NodeContext) -> Vec<VaultRef> {
    let statuses = context.shard.statuses();
    let led = statuses.iter().filter(|status| status.role == Role::Leader);
    let mut vaults = Vec::new();
    for group in led.map(|status| status.group).filter(|group| *group != GroupId::SYSTEM) {
        match context.reader.owned_vaults(group) {
            Ok(owned) => {
                let new = owned.into_iter().filter(|vault| !context.blocks.expiry.is_known(*vault));
                vaults.extend(new.take(VAULTS_PER_LOOK));
            }
            Err(error) => warn!(%group, %error, "a group's vaults cannot be listed"),
        }
    }
    vaults
}

/// Looks through a vault and removes what has expired, not faster than `rate` entities a second.
async fn look_through(context: &Arc<NodeContext>, vault: VaultRef, row: VaultRow, rate: u64) {
    let book = &context.blocks.expiry;
    book.begin(vault);
    let (reader, began) = (context.reader.clone(), Instant::now());
    let look = move || query::expiry(&reader.view(), vault, clock_s(), FOUND_MAX);
    let found = tokio::task::spawn_blocking(look).await.expect("looking does not panic");
    let took = began.elapsed();
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            warn!(%vault, %error, "a vault cannot be looked through for what has expired");
            book.end(vault, Some(0), Duration::from_secs(1));
            return;
        }
    };
    let mut soonest = found.soonest;
    for batch in found.expired.chunks(BATCH_MAX) {
        book.pace(batch.len(), rate).await;
        if let Err(kept) = remove(context, vault, &row, batch).await {
            debug!(%vault, ?kept, "expired entities are not removed now");
            soonest = Some(0);
            break;
        }
    }
    book.end(vault, soonest, took);
}

/// What a removal that was asked for has come to.
#[derive(Debug)]
pub struct Removal {
    /// Entities that the log found expired and removed.
    pub removed: u64,
    /// Why it is not done: `None` if everything was removed that had expired when it began.
    pub stopped: Option<Stopped>,
}

/// Why a removal that was asked for has ended early.
#[derive(Debug)]
pub enum Stopped {
    /// There was no more time.
    Time,
    /// The vault cannot be read here.
    Query(QueryError),
    /// A batch was not removed, or it is not known whether it was. Asking again does no harm.
    Kept(Kept),
}

/// Why a batch is not known to be removed.
#[derive(Debug)]
pub enum Kept {
    /// The group took no command.
    Refused(Refusal),
    /// The group removed nothing from this vault.
    Answered(CommandResult),
}

/// Removes at once what has expired in a vault that this node leads, in steps until `until`, at the rate of the node.
pub async fn remove_now(
    context: &Arc<NodeContext>,
    vault: VaultRef,
    row: &VaultRow,
    until: Instant,
) -> Removal {
    let (mut removed, mut after, time_s) = (0, None::<String>, clock_s());
    loop {
        let reader = context.reader.clone();
        let look = move || {
            query::expiry_step(&reader.view(), vault, after.as_deref(), time_s, STEP_LIMITS)
        };
        let step = tokio::task::spawn_blocking(look).await.expect("looking does not panic");
        let step = match step {
            Ok(step) => step,
            Err(error) => return Removal { removed, stopped: Some(Stopped::Query(error)) },
        };
        if !step.expired.is_empty() {
            let pace = context.blocks.expiry.pace(step.expired.len(), context.config.expiry_rate);
            if tokio::time::timeout_at(until.into(), pace).await.is_err() {
                return Removal { removed, stopped: Some(Stopped::Time) };
            }
            let batch = remove(context, vault, row, &step.expired);
            match tokio::time::timeout_at(until.into(), batch).await {
                Ok(Ok(more)) => removed += more,
                Ok(Err(kept)) => return Removal { removed, stopped: Some(Stopped::Kept(kept)) },
                // It may be removed still; who asks again finds nothing then.
                Err(_) => return Removal { removed, stopped: Some(Stopped::Time) },
            }
        }
        match step.next {
            None => return Removal { removed, stopped: None },
            next if Instant::now() < until => after = next,
            _ => return Removal { removed, stopped: Some(Stopped::Time) },
        }
    }
}

/// Proposes the removal of some entities, counts how many the log found expired, and tells.
async fn remove(
    context: &NodeContext,
    vault: VaultRef,
    row: &VaultRow,
    batch: &[(String, u64)],
) -> Result<u64, Kept> {
    let operation = |(key, expired_at): &(String, u64)| Operation::ExpireEntity {
        key: key.clone(),
        expired_at: *expired_at,
    };
    let body = WriteCommand {
        tx_id: TxId(rand::random()),
        client: EXPIRY_CLIENT.to_owned(),
        // A repetition finds nothing to remove.
        dedup: Dedup::None,
        actor: String::new(),
        operations: batch.iter().map(operation).collect(),
    };
    let body = body.encode();
    let (kind, owner_epoch) = (CommandKind::Write as u8, row.owner_epoch);
    let command = Command { kind, vault, owner_epoch, body: &body }.encode();
    match propose_here(&context.shard, row.owner, command).await {
        Ok(CommandResult::Write(WriteResult::Committed(committed))) => {
            let expired = |outcome: &&Outcome| matches!(outcome, Outcome::Expired);
            let removed = committed.outcomes.iter().filter(expired).count() as u64;
            context.blocks.expiry.removed.fetch_add(removed, Ordering::Relaxed);
            Ok(removed)
        }
        Ok(result) => Err(Kept::Answered(result)),
        Err(refusal) => Err(Kept::Refused(refusal)),
    }
}

#[cfg(test)]
mod tests {
    use ledger_types::Digest;

    use super::*;

    fn block(vault: VaultRef, soonest_expiry: Option<u64>) -> NewBlock {
        let (block_hash, state_root) = (Digest::ZERO, Digest::ZERO);
        NewBlock { vault, height: 1, block_hash, state_root, timestamp_ns: 0, soonest_expiry }
    }

    #[test]
    fn a_vault_is_due_when_its_next_entity_expires_and_it_has_rested() {
        let (book, vault) = (ExpiryBook::default(), VaultRef::new(1, 2));
        book.blocks(&[block(vault, Some(5))]);
        assert!(book.due(9).is_empty(), "it is not looked through yet");
        book.begin(vault);
        assert!(book.is_known(vault) && book.due(u64::MAX - 1).is_empty());
        book.blocks(&[block(vault, Some(50)), block(vault, None)]);
        book.end(vault, Some(70), Duration::ZERO);
        assert!(book.due(49).is_empty());
        assert_eq!(book.due(50), [vault], "a block came while it was looked through");
        book.begin(vault);
        book.end(vault, Some(70), Duration::from_secs(60));
        assert!(book.due(80).is_empty(), "it rests");
        book.forget();
        assert!(!book.is_known(vault));
    }

    #[test]
    fn batches_go_at_the_rate_and_a_quiet_time_is_not_saved_up() {
        const RATE: u64 = 100;
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut pace = Pace::default();
        assert_eq!(pace.next(start), start, "the first goes at once");
        pace.went(start, 250, RATE);
        assert_eq!(pace.next(at(0.1)), at(2.5));
        assert_eq!(pace.next(at(60.0)), at(60.0));
        pace.went(at(60.0), 50, RATE);
        assert_eq!(pace.next(at(60.0)), at(60.5), "no more than one that came at once");
        // Whoever always asks at once: what has gone before a moment is never more than the rate allows until then.
        let (mut now, mut gone) = (at(100.0), 0);
        for entities in [250, 1, 250, 17, 3, 250, 250, 99].repeat(20) {
            now = pace.next(now);
            let elapsed = now.duration_since(at(100.0)).as_secs_f64();
            assert!(
                (elapsed - f64::from(gone) / RATE as f64).abs() < 1e-3,
                "{gone} in {elapsed} s"
            );
            pace.went(now, entities as usize, RATE);
            gone += entities;
        }
    }

    #[tokio::test]
    async fn a_batch_waits_for_its_turn_and_one_that_gives_up_uses_none() {
        // Eleven days for the first one, so that the second cannot have its turn in this test's time.
        let (book, rate) = (ExpiryBook::default(), 1);
        book.pace(1_000_000, rate).await;
        let free_from = book.pace.lock().await.free_from;
        let waits = tokio::time::timeout(Duration::ZERO, book.pace(1, rate)).await;
        assert!(waits.is_err());
        assert_eq!(book.pace.lock().await.free_from, free_from);
    }
}
