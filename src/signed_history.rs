//! The signed history of vaults: checkpoints that go into the log of the vault's group, where every replica
//! compares them with its own chain.
//!
//! Owns which vaults are due and what follows when a recorded checkpoint is not this node's history. Must never
//! cost anything for a vault that nothing is written to, nor quarantine a vault on a note that does not count.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger_proof::SignedNote;
use ledger_shard::{
    Command, CommandKind, Family, NewBlock, NotedCheckpoint, RecordCheckpoint, StateView as _,
    VaultRow, checkpoint_key, decode_checkpoint,
};
use ledger_types::VaultRef;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{debug, error};

use crate::commands::propose_here;
use crate::context::NodeContext;
use crate::cosigning::Voters;
use crate::edge::status::Failure;
use crate::quarantine::{give_up_leadership, leads};
use crate::signer::LogState;

/// Pause between looks at what is due.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Most vaults whose checkpoints are made in one look, so that a node with many busy vaults spreads them.
const VAULTS_PER_LOOK: usize = 64;
/// Checkpoints that are made at a time.
const MADE_AT_ONCE: usize = 8;
/// Vaults remembered as changed. One more is remembered when it changes again.
const CHANGED_MAX: usize = 100_000;
/// Contradictions that wait to be judged; of a vault one is enough.
const CONTRADICTIONS_MAX: usize = 1_024;
/// Longest wait for a read round.
const ROUND_TIME_MAX: Duration = Duration::from_secs(2);

/// A vault with blocks that no recorded checkpoint covers.
#[derive(Clone, Copy, Debug)]
struct Changed {
    height: u64,
    since: Instant,
}

/// What the signed history has yet to hear of. Told by the apply stage, so every method is cheap.
#[derive(Debug, Default)]
pub struct Changes {
    changed: Mutex<BTreeMap<VaultRef, Changed>>,
    contradictions: Mutex<BTreeMap<VaultRef, NotedCheckpoint>>,
    contradicted: Notify,
}

impl Changes {
    /// These blocks are new.
    pub fn blocks(&self, blocks: &[NewBlock]) {
        let mut changed = self.changed.lock();
        for &NewBlock { vault, height, .. } in blocks {
            let has_room = changed.len() < CHANGED_MAX;
            match changed.get_mut(&vault) {
                Some(known) => known.height = height,
                None if has_room => {
                    changed.insert(vault, Changed { height, since: Instant::now() });
                }
                None => {}
            }
        }
    }

    /// These checkpoints are recorded: what they cover is not due any more.
    pub fn checkpoints(&self, checkpoints: &[NotedCheckpoint]) {
        let mut changed = self.changed.lock();
        for noted in checkpoints {
            match changed.get_mut(&noted.vault) {
                Some(known) if noted.size > known.height => drop(changed.remove(&noted.vault)),
                Some(known) => known.since = Instant::now(),
                None => {}
            }
        }
    }

    /// A recorded checkpoint is not the history here.
    pub fn contradiction(&self, noted: &NotedCheckpoint) {
        let mut contradictions = self.contradictions.lock();
        if contradictions.len() < CONTRADICTIONS_MAX {
            contradictions.insert(noted.vault, *noted);
        }
        drop(contradictions);
        self.contradicted.notify_one();
    }

    /// Vaults that have had blocks without a checkpoint for as long as `interval`.
    fn due(&self, interval: Duration) -> Vec<VaultRef> {
        let changed = self.changed.lock();
        let due = changed.iter().filter(|(_, changed)| changed.since.elapsed() >= interval);
        due.map(|(vault, _)| *vault).collect()
    }

    /// Leaves a vault until it has waited for another interval.
    fn postpone(&self, vault: VaultRef) {
        if let Some(changed) = self.changed.lock().get_mut(&vault) {
            changed.since = Instant::now();
        }
    }

    /// Nothing of the vault is due any more.
    fn forget(&self, vault: VaultRef) {
        self.changed.lock().remove(&vault);
    }

    fn take_contradictions(&self) -> Vec<NotedCheckpoint> {
        std::mem::take(&mut *self.contradictions.lock()).into_values().collect()
    }
}

/// Keeps the signed history for as long as the node runs.
pub async fn run(context: Arc<NodeContext>) {
    let interval = context.config.checkpoint_interval;
    loop {
        tokio::select! {
            () = context.blocks.changes.contradicted.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        for noted in context.blocks.changes.take_contradictions() {
            judge(&context, noted).await;
        }
        step_down(&context);
        if !interval.is_zero() {
            record_due(&context, interval).await;
        }
    }
}

/// Puts a vault into quarantine if the note that contradicts it counts; else only says so.
async fn judge(context: &NodeContext, noted: NotedCheckpoint) {
    let NotedCheckpoint { vault, size, root } = noted;
    context.signer.count_contradiction();
    let counts = match recorded_note(context, vault, size) {
        Ok(note) => owner(context, vault)
            .and_then(|row| Voters::of(context.directory.current(), row.owner))
            .is_some_and(|voters| voters.count(&note)),
        Err(failure) => {
            error!(%vault, size, %failure, "a recorded checkpoint cannot be read");
            false
        }
    };
    if !counts {
        error!(%vault, size, %root, "a recorded checkpoint that too few cosigned is not the history here");
        return;
    }
    error!(%vault, size, %root, "a majority signed another history than this node's: the vault goes into quarantine");
    if context.quarantine.take_in(context, vault, size).await {
        context.shard.set_unfit(true);
    }
}

fn recorded_note(context: &NodeContext, vault: VaultRef, size: u64) -> Result<SignedNote, Failure> {
    let store = |what: String| Failure::Store(what);
    let view = context.reader.view();
    let row = view.get(Family::Blocks, &checkpoint_key(vault, size));
    let row = row.map_err(|fault| store(fault.to_string()))?;
    let row = row.ok_or_else(|| store("a recorded checkpoint is missing".to_owned()))?;
    let note = decode_checkpoint(&row).map_err(|error| store(error.to_string()))?;
    SignedNote::parse(note).map_err(|error| store(error.to_string()))
}

fn owner(context: &NodeContext, vault: VaultRef) -> Option<VaultRow> {
    context.reader.tip(vault).ok()
}

/// Groups with a vault in quarantine here are led by others.
fn step_down(context: &NodeContext) {
    let vaults = context.quarantine.vaults();
    if vaults.is_empty() {
        return;
    }
    // Said again and again, because it does not outlive the process.
    context.shard.set_unfit(true);
    for vault in vaults {
        if let Some(row) = owner(context, vault) {
            give_up_leadership(context, row.owner);
        }
    }
}

/// Makes and proposes checkpoints of vaults that are due and led from here.
async fn record_due(context: &Arc<NodeContext>, interval: Duration) {
    let mut due: Vec<(VaultRef, VaultRow)> = Vec::new();
    for vault in context.blocks.changes.due(interval) {
        match owner(context, vault) {
            // Its log takes nothing in any more, and may be gone.
            Some(row) if row.status.is_deleted() => context.blocks.changes.forget(vault),
            Some(row) if leads(context, row.owner) => due.push((vault, row)),
            // Whoever leads does it; this node looks again later, in case that leader is gone by then.
            _ => context.blocks.changes.postpone(vault),
        }
        if due.len() == VAULTS_PER_LOOK {
            break;
        }
    }
    let mut tasks = JoinSet::new();
    for (vault, row) in due {
        if tasks.len() == MADE_AT_ONCE {
            tasks.join_next().await;
        }
        let context = context.clone();
        tasks.spawn(async move {
            if let Err(failure) = record(&context, vault, &row).await {
                debug!(%vault, %failure, "a checkpoint is not recorded now");
                context.blocks.changes.postpone(vault);
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// Has the vault's log signed as it is, and puts the note into the log of its group.
async fn record(context: &NodeContext, vault: VaultRef, row: &VaultRow) -> Result<(), Failure> {
    let group = row.owner;
    let cached = context.checkpoints.cached(vault, row.log_epoch);
    let signed = match cached.filter(|signed| signed.state.size == row.log_size) {
        Some(signed) => signed,
        None => {
            // What is read after the round shows everything acknowledged before it began.
            let round = context.read_rounds.young(&context.shard, group, ROUND_TIME_MAX).await;
            let round = round.map_err(|_| Failure::NotLeader { group, leader: None })?;
            let row = owner(context, vault).ok_or(Failure::UnknownVault(vault))?;
            let (log_epoch, size, root) = (row.log_epoch, row.log_size, row.log_root);
            let state = LogState { vault, log_epoch, size, root };
            context.checkpoints.make(context, group, state, round.began_seconds).await?
        }
    };
    let body = RecordCheckpoint { note: signed.note.clone() }.encode();
    let (kind, owner_epoch) = (CommandKind::RecordCheckpoint as u8, row.owner_epoch);
    let command = Command { kind, vault, owner_epoch, body: &body }.encode();
    match propose_here(&context.shard, group, command).await {
        Ok(_) => Ok(()),
        Err(refusal) => {
            debug!(%vault, ?refusal, "a checkpoint was not proposed");
            Err(Failure::NotLeader { group, leader: None })
        }
    }
}

#[cfg(test)]
mod tests {
    use ledger_types::Digest;

    use super::*;

    fn vault() -> VaultRef {
        VaultRef::new(1, 2)
    }

    fn block(height: u64) -> NewBlock {
        NewBlock {
            vault: vault(),
            height,
            block_hash: Digest::ZERO,
            state_root: Digest::ZERO,
            timestamp_ns: 0,
            soonest_expiry: None,
        }
    }

    fn noted(size: u64) -> NotedCheckpoint {
        NotedCheckpoint { vault: vault(), size, root: Digest::ZERO }
    }

    #[test]
    fn a_vault_is_due_until_a_checkpoint_covers_its_last_block() {
        let (changes, at_once) = (Changes::default(), Duration::ZERO);
        assert!(changes.due(at_once).is_empty());
        changes.blocks(&[block(1), block(2)]);
        assert_eq!(changes.due(at_once), [vault()]);
        assert!(changes.due(Duration::from_secs(3600)).is_empty(), "not yet");
        changes.checkpoints(&[noted(2)]);
        assert_eq!(changes.due(at_once), [vault()], "block 2 is the third");
        changes.checkpoints(&[noted(3)]);
        assert!(changes.due(at_once).is_empty());
        changes.checkpoints(&[noted(4)]);
        changes.blocks(&[block(3)]);
        assert_eq!(changes.due(at_once), [vault()]);
        changes.forget(vault());
        assert!(changes.due(at_once).is_empty(), "it was deleted");
    }

    #[test]
    fn a_contradiction_is_told_once() {
        let changes = Changes::default();
        changes.contradiction(&noted(2));
        changes.contradiction(&noted(3));
        assert_eq!(changes.take_contradictions(), [noted(3)]);
        assert!(changes.take_contradictions().is_empty());
    }
}
