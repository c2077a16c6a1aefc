//! Verified reads and checkpoints: read round, proof, signature, in that order.
//!
//! Owns the order, and that requests which wait for a signature of one vault share one read round, one
//! proof and one signature. Must never hand out a proof whose note was not signed under the signers' rule.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ledger_proof::{BlockHeader, BlockProof, Consistency as LogGrowth, ReadItem, VerifiedRead};
use ledger_proto::convert::consistency::consistency;
use ledger_proto::convert::{Consistency, ids, reads};
use ledger_proto::v1;
use ledger_shard::{ProvedKey, TipProof};
use ledger_types::limits::PAGE_BYTES_MAX;
use ledger_types::{GroupId, StateKey, VaultRef};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tonic::{Request, Response};

use super::Edge;
use super::ledger::client;
use super::read::clock_ns;
use super::route::{Call, Owner, query_failure};
use super::status::Failure;
use crate::checkpoints::SignedCheckpoint;
use crate::signer::LogState;

/// How long a verified read waits for a height that the vault does not have yet.
const HEIGHT_WAIT_MAX: Duration = Duration::from_millis(500);
/// Keys of several requests that are proved together, because the state machine waits meanwhile.
const KEYS_PER_PROOF_MAX: usize = 256;
/// Keys that are proved without leaving the thread to other requests.
const KEYS_INLINE_MAX: usize = 8;
/// Vaults with a queue at once, above which idle queues are dropped.
const QUEUES_MAX: usize = 4096;

/// What a verified read asks for, checked.
struct Asked {
    vault: VaultRef,
    keys: Vec<StateKey>,
    height_min: u64,
    known_size: Option<u64>,
    consistency: Consistency,
}

/// A block with proofs of some keys, and the note over exactly the log that it is proved in.
pub(super) struct Proved {
    /// The block and its place in the log.
    pub(super) tip: Arc<TipProof>,
    /// One proof for each key, in order.
    pub(super) keys: Vec<ProvedKey>,
    /// The note over the log.
    pub(super) signed: Arc<SignedCheckpoint>,
}

/// A request that waits for a signature.
struct Waiter {
    keys: Vec<StateKey>,
    answer: oneshot::Sender<Proved>,
}

/// The requests that wait for a signature of one vault.
#[derive(Default)]
struct Queue {
    /// Held by whoever proves and signs for all that wait.
    turn: tokio::sync::Mutex<()>,
    waiting: Mutex<Vec<Waiter>>,
}

impl Queue {
    /// Takes those that are proved together, the longest waiting first; a request is never cut.
    fn take(&self) -> Vec<Waiter> {
        let mut waiting = self.waiting.lock();
        let mut keys = 0;
        let fits = |waiter: &&Waiter| {
            let is_first = keys == 0;
            keys += waiter.keys.len();
            is_first || keys <= KEYS_PER_PROOF_MAX
        };
        let count = waiting.iter().take_while(fits).count();
        waiting.drain(..count).collect()
    }
}

/// The queues of all vaults that somebody waits for.
#[derive(Default)]
pub(super) struct Queues {
    queues: Mutex<HashMap<VaultRef, Arc<Queue>>>,
}

impl Queues {
    fn of(&self, vault: VaultRef) -> Arc<Queue> {
        let mut queues = self.queues.lock();
        if queues.len() >= QUEUES_MAX {
            queues.retain(|_, queue| Arc::strong_count(queue) > 1);
        }
        queues.entry(vault).or_default().clone()
    }
}

impl Edge {
    pub(super) async fn checkpoint(
        &self,
        request: Request<v1::GetCheckpointRequest>,
    ) -> Result<Response<v1::GetCheckpointResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let vault = ids::vault_ref(message.namespace_id, message.vault_id)?;
        let local = |owner: Owner| {
            let call = &call;
            async move {
                let signed = self.checkpoint_here(call, owner, message).await?;
                Ok(v1::GetCheckpointResponse { note: signed.note.clone(), size: signed.state.size })
            }
        };
        let send = |channel, request| async move { client(channel).get_checkpoint(request).await };
        call.at_leader(vault, message, local, send).await
    }

    pub(super) async fn checkpoint_here(
        &self,
        call: &Call,
        owner: Owner,
        asked: v1::GetCheckpointRequest,
    ) -> Result<Arc<SignedCheckpoint>, Failure> {
        let size_min = asked.min_size.unwrap_or(0);
        let row = call.owned_row(owner)?;
        if !asked.fresh
            && let Some(cached) = call.context.checkpoints.cached(owner.vault, row.log_epoch)
            && cached.state.size >= size_min
        {
            return Ok(cached);
        }
        let proved = self.prove_in_turn(call, owner, &[]).await?;
        if proved.tip.log_size < size_min {
            let (floor, tip) = (row.history_floor, proved.tip.height);
            return Err(Failure::HeightUnavailable { floor, tip });
        }
        Ok(proved.signed)
    }

    pub(super) async fn get_verified(
        &self,
        request: Request<v1::VerifiedGetRequest>,
    ) -> Result<Response<v1::VerifiedGetResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        if let Some(height) = message.at_height {
            return self.get_verified_at(&call, message, height).await;
        }
        let asked = Asked {
            vault: ids::vault_ref(message.namespace_id, message.vault_id)?,
            keys: reads::verified_keys(&message.keys)?,
            height_min: message.min_height.unwrap_or(0),
            known_size: message.known_size,
            consistency: consistency(message.consistency)?,
        };
        let local = |owner| self.verified_here(&call, owner, &asked);
        let send = |channel, request| async move { client(channel).verified_get(request).await };
        call.at_leader(asked.vault, message, local, send).await
    }

    /// Proves the keys at the tip under a note of exactly that tip: a young one if it fits, else one that is
    /// signed for all who wait.
    async fn verified_here(
        &self,
        call: &Call,
        owner: Owner,
        asked: &Asked,
    ) -> Result<v1::VerifiedGetResponse, Failure> {
        let row = call.owned_row(owner)?;
        if asked.known_size.is_some_and(|size| size > row.log_size) || asked.height_min > row.height
        {
            let size_min = asked.known_size.unwrap_or(0).max(asked.height_min.saturating_add(1));
            self.wait_for_size(call, owner, size_min).await?;
        }
        let proved = match self.prove_under_cached(call, owner, asked).await? {
            Some(proved) => proved,
            None => self.prove_in_turn(call, owner, &asked.keys).await?,
        };
        let known_size = asked.known_size;
        let reader = &call.context.reader;
        let path =
            known_size.map(|size| reader.consistency(asked.vault, size, proved.tip.log_size));
        let path = path.transpose().map_err(query_failure)?;
        let growth = known_size.zip(path).map(|(from_size, path)| LogGrowth { from_size, path });
        package(proved, growth)
    }

    /// Proves under the cached note, if it is young and of the tip that the proof is of.
    async fn prove_under_cached(
        &self,
        call: &Call,
        owner: Owner,
        asked: &Asked,
    ) -> Result<Option<Proved>, Failure> {
        if asked.consistency == Consistency::Linearizable {
            call.barrier(owner.group).await?;
        }
        let row = call.owned_row(owner)?;
        let Some(signed) = call.context.checkpoints.cached(owner.vault, row.log_epoch) else {
            return Ok(None);
        };
        if signed.state.size != row.log_size {
            return Ok(None);
        }
        let mut tip = prove(call, owner.vault, &asked.keys)?;
        if state_of(owner.vault, &tip) != signed.state {
            return Ok(None);
        }
        let keys = std::mem::take(&mut tip.keys);
        Ok(Some(Proved { tip: Arc::new(tip), keys, signed }))
    }

    /// Waits for this vault's turn and proves and signs for everybody who waits by then, or finds that
    /// somebody else has done so.
    async fn prove_in_turn(
        &self,
        call: &Call,
        owner: Owner,
        keys: &[StateKey],
    ) -> Result<Proved, Failure> {
        let queue = self.queues(&call.context).of(owner.vault);
        let (sender, mut receiver) = oneshot::channel();
        queue.waiting.lock().push(Waiter { keys: keys.to_vec(), answer: sender });
        let remaining = call.deadline.check()?;
        let served = async {
            loop {
                let _turn = queue.turn.lock().await;
                match receiver.try_recv() {
                    Ok(proved) => return Ok(proved),
                    Err(oneshot::error::TryRecvError::Empty) => {}
                    // Whoever took this request on gave up; it is put in again.
                    Err(oneshot::error::TryRecvError::Closed) => {
                        let (sender, next) = oneshot::channel();
                        receiver = next;
                        queue.waiting.lock().push(Waiter { keys: keys.to_vec(), answer: sender });
                    }
                }
                self.serve_queue(call, owner, &queue).await?;
            }
        };
        tokio::time::timeout(remaining, served).await.unwrap_or(Err(Failure::Deadline))
    }

    /// One read round, one proof and one signature for those at the head of the queue.
    async fn serve_queue(&self, call: &Call, owner: Owner, queue: &Queue) -> Result<(), Failure> {
        let waiters = queue.take();
        let began_seconds = clock_ns() / 1_000_000_000;
        call.barrier(owner.group).await?;
        call.owned_row(owner)?;
        let keys: Vec<StateKey> =
            waiters.iter().flat_map(|waiter| waiter.keys.iter().cloned()).collect();
        let mut tip = prove(call, owner.vault, &keys)?;
        let state = state_of(owner.vault, &tip);
        let checkpoints = &call.context.checkpoints;
        let signed = checkpoints.make(&call.context, owner.group, state, began_seconds).await?;
        let mut proved = std::mem::take(&mut tip.keys).into_iter();
        let tip = Arc::new(tip);
        for waiter in waiters {
            let keys = proved.by_ref().take(waiter.keys.len()).collect();
            // A client that has left needs no answer.
            let _ = waiter.answer.send(Proved { tip: tip.clone(), keys, signed: signed.clone() });
        }
        Ok(())
    }

    /// Waits until the vault's log here has so many blocks. The leader has every block that was
    /// acknowledged, so one that does not come was never there.
    pub(super) async fn wait_for_size(
        &self,
        call: &Call,
        owner: Owner,
        size: u64,
    ) -> Result<(), Failure> {
        let mut tips = call.context.blocks.subscribe(owner.vault, 0);
        let reached = async {
            loop {
                tips.borrow_and_update();
                if call.owned_row(owner)?.log_size >= size {
                    return Ok(());
                }
                if tips.changed().await.is_err() {
                    return Err(Failure::Draining);
                }
            }
        };
        let time = call.deadline.check()?.min(HEIGHT_WAIT_MAX);
        if let Ok(outcome) = tokio::time::timeout(time, reached).await {
            return outcome;
        }
        let row = call.owned_row(owner)?;
        Err(Failure::HeightUnavailable { floor: row.history_floor, tip: row.height })
    }
}

/// What a signer must have signed for a proof.
pub(super) fn state_of(vault: VaultRef, tip: &TipProof) -> LogState {
    LogState { vault, log_epoch: tip.log_epoch, size: tip.log_size, root: tip.log_root }
}

/// A forwarded request that changes nothing and whose answer was lost can be made again.
pub(super) fn read_outcome<A>(
    group: GroupId,
    outcome: Result<Response<A>, Failure>,
) -> Result<Response<A>, Failure> {
    match outcome {
        Err(Failure::OutcomeUnknown) => Err(Failure::NotLeader { group, leader: None }),
        outcome => outcome,
    }
}

/// Few keys are proved at once if nothing has to be waited for: that takes less than to hand the other requests of
/// this thread to another one. Otherwise a proof waits for the round that is being applied, apart from them.
fn prove(call: &Call, vault: VaultRef, keys: &[StateKey]) -> Result<TipProof, Failure> {
    let reader = &call.context.reader;
    if keys.len() <= KEYS_INLINE_MAX
        && let Some(proved) = reader.try_prove(vault, keys, None)
    {
        return proved.map_err(query_failure);
    }
    tokio::task::block_in_place(|| reader.prove(vault, keys, None)).map_err(query_failure)
}

/// The answer in its canonical form.
pub(super) fn package(
    proved: Proved,
    consistency: Option<LogGrowth>,
) -> Result<v1::VerifiedGetResponse, Failure> {
    let Proved { tip, keys, signed } = proved;
    assert_eq!(tip.log_size, signed.state.size, "the note is of the proof's own log");
    let header = BlockHeader::decode(&tip.header)
        .map_err(|error| Failure::Store(format!("a stored header: {error}")))?;
    let values = keys.iter().filter_map(|key| key.value.as_ref());
    if values.map(Vec::len).sum::<usize>() > PAGE_BYTES_MAX {
        let max = PAGE_BYTES_MAX as u64;
        return Err(Failure::AnswerTooLarge { limit: "page_bytes_max", max });
    }
    let items = keys.into_iter().map(|key| ReadItem { proof: key.proof, value: key.value });
    let block = BlockProof {
        note: signed.note.clone(),
        header,
        header_path: tip.inclusion.clone(),
        consistency,
    };
    let read = VerifiedRead { block, items: items.collect() };
    Ok(v1::VerifiedGetResponse { package: read.encode(), height: tip.height })
}

#[cfg(test)]
mod tests {
    use ledger_types::limits::KEYS_PER_READ_MAX;

    use super::*;

    fn waiter(keys: usize) -> Waiter {
        let keys = (0..keys).map(|number| StateKey::entity(&format!("k{number}"))).collect();
        Waiter { keys, answer: oneshot::channel().0 }
    }

    #[test]
    fn those_that_fit_are_taken_together_in_order() {
        let queue = Queue::default();
        for keys in [KEYS_PER_READ_MAX, 1, 200, 55, 1, 2] {
            queue.waiting.lock().push(waiter(keys));
        }
        let sizes = |taken: Vec<Waiter>| -> Vec<usize> {
            taken.iter().map(|waiter| waiter.keys.len()).collect()
        };
        assert_eq!(sizes(queue.take()), [KEYS_PER_READ_MAX], "a large one is alone");
        assert_eq!(sizes(queue.take()), [1, 200, 55]);
        assert_eq!(sizes(queue.take()), [1, 2]);
        assert!(queue.take().is_empty());
    }

    #[test]
    fn queues_in_use_stay_the_only_ones_of_their_vault() {
        let queues = Queues::default();
        let held = queues.of(VaultRef::new(1, 1));
        for vault in 2..=QUEUES_MAX as u64 + 2 {
            queues.of(VaultRef::new(1, vault));
        }
        assert!(Arc::ptr_eq(&held, &queues.of(VaultRef::new(1, 1))));
        assert!(queues.queues.lock().len() < QUEUES_MAX);
    }
}
