//! Signs checkpoints of vaults on demand: the log's own line and this node's timestamped cosignature.
//!
//! Owns the rule that a signature leaves only after the record that forbids going back is durable, the
//! cache of signed notes, and that one signature serves everybody who waits for it. Must never sign a state
//! that this node has not computed itself, nor with a time that is not the start of a read round whose index
//! this node has applied.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger_proof::rfc9162::verify_consistency;
use ledger_proof::{Checkpoint, Decision, Origin, ReadFault, SignedNote, SignedRecord, may_sign};
use ledger_shard::{Family, QueryError, RowWrite, StateView as _};
use ledger_types::{Digest, VaultRef};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::error;

use crate::context::NodeContext;
use crate::edge::status::Failure;

/// A signed note is handed out again for this long; its cosignature is never older.
pub const NOTE_AGE_MAX: Duration = Duration::from_secs(1);
/// Logs remembered at once. What is forgotten is read from its durable record again.
const LOGS_MAX: usize = 4096;
/// Rows of signed checkpoints begin with this in the meta family.
const RECORD_PREFIX: &str = "checkpoint/";

/// A state of a vault's log that this node has computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogState {
    /// The vault.
    pub vault: VaultRef,
    /// The number in the origin of its log.
    pub log_epoch: u64,
    /// Blocks in the log.
    pub size: u64,
    /// Its root.
    pub root: Digest,
}

/// A signed checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedCheckpoint {
    /// What is signed.
    pub state: LogState,
    /// The note's bytes.
    pub note: Vec<u8>,
    /// Unix seconds of the cosignature.
    pub time_seconds: u64,
    made: Instant,
}

/// What is known of one log's signatures.
#[derive(Default)]
struct Log {
    newest: Mutex<Option<Arc<SignedCheckpoint>>>,
    /// The durable record, once it was read. Held while signing, so that signatures of a log come one
    /// after the other.
    record: tokio::sync::Mutex<Option<Option<SignedRecord>>>,
}

/// Signs for one node.
pub struct Signer {
    context: Arc<NodeContext>,
    logs: Mutex<HashMap<(VaultRef, u64), Arc<Log>>>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    /// A signer with the node's key. It remembers nothing but what is durable.
    pub fn new(context: Arc<NodeContext>) -> Signer {
        Signer { context, logs: Mutex::new(HashMap::new()) }
    }

    /// The newest note of the vault's log, if it is young enough to be handed out again.
    pub fn cached(&self, vault: VaultRef, log_epoch: u64) -> Option<Arc<SignedCheckpoint>> {
        let log = self.logs.lock().get(&(vault, log_epoch)).cloned()?;
        let newest = log.newest.lock().clone()?;
        (newest.made.elapsed() < NOTE_AGE_MAX).then_some(newest)
    }

    /// Signs the state, or hands out a young note of the same state that was signed meanwhile.
    /// `round_seconds` is when a read round began whose index this node had applied before it computed the
    /// state. Errors if the state is behind what was signed, or contradicts it.
    pub async fn sign(
        &self,
        state: LogState,
        round_seconds: u64,
    ) -> Result<Arc<SignedCheckpoint>, Failure> {
        let log = self.log(state.vault, state.log_epoch);
        let mut record = log.record.lock().await;
        if let Some(signed) = log.newest.lock().clone()
            && signed.state == state
            && signed.time_seconds >= round_seconds
        {
            return Ok(signed);
        }
        let checkpoint = self.checkpoint(&state);
        if record.is_none() {
            *record = Some(self.stored_record(&checkpoint.origin)?);
        }
        let known = record.as_ref().expect("just read");
        let is_prefix = |size: u64, root: &Digest| self.is_prefix(&state, size, root);
        match may_sign(known.as_ref(), &checkpoint, is_prefix).map_err(store_failure)? {
            Decision::Sign => {}
            Decision::SignAfterRecording => {
                let next = SignedRecord::of(&checkpoint);
                self.make_durable(&next).await?;
                *record = Some(Some(next));
            }
            Decision::Wait => {
                let tip = state.size.saturating_sub(1);
                return Err(Failure::HeightUnavailable { floor: 0, tip });
            }
            Decision::Contradiction => {
                error!(
                    origin = %checkpoint.origin, size = state.size,
                    "the log contradicts what this node has signed; nothing more is signed for it"
                );
                return Err(Failure::VaultUnavailable(state.vault));
            }
        }
        let signed = Arc::new(self.make_note(state, &checkpoint, round_seconds));
        *log.newest.lock() = Some(signed.clone());
        Ok(signed)
    }

    fn log(&self, vault: VaultRef, log_epoch: u64) -> Arc<Log> {
        let mut logs = self.logs.lock();
        if logs.len() >= LOGS_MAX {
            // One that nobody holds can be read again; one in use must stay the only one of its log.
            logs.retain(|_, log| Arc::strong_count(log) > 1);
        }
        logs.entry((vault, log_epoch)).or_default().clone()
    }

    fn checkpoint(&self, state: &LogState) -> Checkpoint {
        let LogState { vault, log_epoch, size, root } = *state;
        let domain = self.context.identity.domain.clone();
        Checkpoint { origin: Origin { domain, vault, log_epoch }, size, root }
    }

    fn make_note(
        &self,
        state: LogState,
        checkpoint: &Checkpoint,
        time_seconds: u64,
    ) -> SignedCheckpoint {
        let key = &self.context.node_key;
        let signatures = vec![
            key.sign_log(checkpoint),
            key.cosign(checkpoint, &self.context.identity.name, time_seconds),
        ];
        let note = SignedNote::new(checkpoint, signatures).encode();
        SignedCheckpoint { state, note, time_seconds, made: Instant::now() }
    }

    /// What was last signed for the origin, as far as the store remembers.
    fn stored_record(&self, origin: &Origin) -> Result<Option<SignedRecord>, Failure> {
        let found = self.context.reader.view().get(Family::Meta, &record_key(origin));
        let Some(bytes) = found.map_err(store_failure)? else { return Ok(None) };
        let record = SignedRecord::decode(&bytes)
            .map_err(|error| Failure::Store(format!("a signer's record: {error}")))?;
        if record.origin != *origin {
            return Err(Failure::Store("a signer's record names another log".to_owned()));
        }
        Ok(Some(record))
    }

    async fn make_durable(&self, record: &SignedRecord) -> Result<(), Failure> {
        let (sender, receiver) = oneshot::channel();
        let row = RowWrite {
            family: Family::Meta,
            key: record_key(&record.origin),
            value: Some(record.encode()),
        };
        // The waiter may have left; the record stays, and forbids nothing that was not computed here.
        let completion = move || {
            let _ = sender.send(());
        };
        self.context.shard.record_checkpoint(vec![row], Box::new(completion));
        receiver.await.map_err(|_| Failure::Draining)
    }

    /// True if the vault's log began with `size` blocks of that root.
    fn is_prefix(&self, state: &LogState, size: u64, root: &Digest) -> Result<bool, ReadFault> {
        match self.context.reader.consistency(state.vault, size, state.size) {
            Ok(path) => Ok(verify_consistency(size, root, state.size, &state.root, &path).is_ok()),
            Err(QueryError::Fault(fault)) => Err(fault),
            Err(QueryError::UnknownVault | QueryError::HeightUnavailable { .. }) => {
                Err(ReadFault::Corrupt { what: "a vault's log is shorter than its row says" })
            }
        }
    }
}

fn record_key(origin: &Origin) -> Vec<u8> {
    format!("{RECORD_PREFIX}{origin}").into_bytes()
}

fn store_failure(fault: ReadFault) -> Failure {
    Failure::Store(fault.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_origin_has_its_own_record() {
        let origin = |vault, log_epoch| Origin {
            domain: "a.ledger".into(),
            vault: VaultRef::new(1, vault),
            log_epoch,
        };
        assert_eq!(record_key(&origin(2, 0)), b"checkpoint/a.ledger/ns/1/vault/2/0");
        assert_ne!(record_key(&origin(2, 0)), record_key(&origin(2, 1)));
        assert_ne!(record_key(&origin(2, 0)), record_key(&origin(3, 0)));
    }
}
