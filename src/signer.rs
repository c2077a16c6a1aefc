//! Signs states of vaults' logs with this node's key.
//!
//! Owns the rule that a signature leaves only after the record that forbids going back is durable. Must never
//! sign a state that this node has not computed itself, nor with a time that is not the start of a read round
//! whose index this node has applied: the first is what callers vouch for, and so is the second.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ledger_proof::rfc9162::verify_consistency;
use ledger_proof::{
    Checkpoint, Decision, NodeKey, NoteSignature, Origin, ReadFault, SignedRecord, may_sign,
};
use ledger_shard::{Family, QueryError, Reader, RowWrite, ShardHandle, StateView as _};
use ledger_types::{Digest, VaultRef};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::oneshot;
use tracing::error;

use crate::context::NodeIdentity;

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

impl LogState {
    /// The state as it is signed, in a cluster's domain.
    pub fn checkpoint(&self, domain: &str) -> Checkpoint {
        let LogState { vault, log_epoch, size, root } = *self;
        Checkpoint { origin: Origin { domain: domain.to_owned(), vault, log_epoch }, size, root }
    }
}

/// Why a state is not signed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum SignError {
    /// A longer log was signed before.
    #[error("a log of {signed} blocks was signed before")]
    Outdated {
        /// Its size in blocks.
        signed: u64,
    },
    /// The log contradicts what was signed.
    #[error("the log contradicts what this node has signed")]
    Contradiction,
    /// The rows cannot be read.
    #[error(transparent)]
    Store(#[from] ReadFault),
    /// The node stops.
    #[error("the node stops")]
    Stopping,
}

/// A state whose record is durable, so that it may be signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signable {
    checkpoint: Checkpoint,
}

impl Signable {
    /// What may be signed.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
}

/// The durable record of one log, once it was read. Held while it is replaced, so that records of a log come
/// one after the other.
type LogRecord = tokio::sync::Mutex<Option<Option<SignedRecord>>>;

/// Signs for one node. There is one for each node key: two would not know of each other's records.
pub struct Signer {
    domain: String,
    node: String,
    key: Arc<NodeKey>,
    shard: ShardHandle,
    reader: Reader,
    logs: Mutex<HashMap<(VaultRef, u64), Arc<LogRecord>>>,
    cosignatures: AtomicU64,
    contradictions: AtomicU64,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    /// The signer of a node. It remembers nothing but what is durable.
    pub fn new(
        identity: &NodeIdentity,
        key: Arc<NodeKey>,
        shard: &ShardHandle,
        reader: &Reader,
    ) -> Signer {
        Signer {
            domain: identity.domain.clone(),
            node: identity.name.clone(),
            key,
            shard: shard.clone(),
            reader: reader.clone(),
            logs: Mutex::default(),
            cosignatures: AtomicU64::new(0),
            contradictions: AtomicU64::new(0),
        }
    }

    /// Makes the record durable that forbids to sign anything which does not contain `state`. Errors if the
    /// state is behind what was signed, or contradicts it.
    pub async fn record(&self, state: LogState) -> Result<Signable, SignError> {
        let checkpoint = state.checkpoint(&self.domain);
        let log = self.log(state.vault, state.log_epoch);
        let mut record = log.lock().await;
        if record.is_none() {
            *record = Some(self.stored_record(&checkpoint.origin)?);
        }
        let known = record.as_ref().expect("just read");
        let is_prefix = |size: u64, root: &Digest| self.is_prefix(&state, size, root);
        match may_sign(known.as_ref(), &checkpoint, is_prefix)? {
            Decision::Sign => {}
            Decision::SignAfterRecording => {
                let next = SignedRecord::of(&checkpoint);
                #[cfg(feature = "failpoints")]
                fail::fail_point!("signer::record");
                self.make_durable(&next).await?;
                #[cfg(feature = "failpoints")]
                fail::fail_point!("signer::recorded");
                *record = Some(Some(next));
            }
            Decision::Wait => {
                let signed = known.as_ref().map_or(0, |known| known.size);
                return Err(SignError::Outdated { signed });
            }
            Decision::Contradiction => {
                error!(
                    origin = %checkpoint.origin, size = state.size,
                    "the log contradicts what this node has signed; nothing more is signed for it"
                );
                self.contradictions.fetch_add(1, Ordering::Relaxed);
                return Err(SignError::Contradiction);
            }
        }
        Ok(Signable { checkpoint })
    }

    /// Signs as the log.
    pub fn sign_log(&self, state: &Signable) -> NoteSignature {
        self.key.sign_log(&state.checkpoint)
    }

    /// Cosigns under the node's own name, at the second in which a read round began whose index this node had
    /// applied before it computed the state.
    pub fn cosign(&self, state: &Signable, round_seconds: u64) -> NoteSignature {
        self.cosignatures.fetch_add(1, Ordering::Relaxed);
        self.key.cosign(&state.checkpoint, &self.node, round_seconds)
    }

    /// The public half of the key.
    pub fn public_key(&self) -> [u8; 32] {
        self.key.public_key()
    }

    /// How many states were cosigned.
    pub fn cosignatures(&self) -> u64 {
        self.cosignatures.load(Ordering::Relaxed)
    }

    /// How often two histories of one log were met, here or between this node and another.
    pub fn contradictions(&self) -> u64 {
        self.contradictions.load(Ordering::Relaxed)
    }

    /// Counts a contradiction between this node's log and another's.
    pub fn count_contradiction(&self) {
        self.contradictions.fetch_add(1, Ordering::Relaxed);
    }

    fn log(&self, vault: VaultRef, log_epoch: u64) -> Arc<LogRecord> {
        let mut logs = self.logs.lock();
        if logs.len() >= LOGS_MAX {
            // One that nobody holds can be read again; one in use must stay the only one of its log.
            logs.retain(|_, log| Arc::strong_count(log) > 1);
        }
        logs.entry((vault, log_epoch)).or_default().clone()
    }

    /// What was last signed for the origin, as far as the store remembers.
    fn stored_record(&self, origin: &Origin) -> Result<Option<SignedRecord>, ReadFault> {
        let found = self.reader.view().get(Family::Meta, &record_key(origin))?;
        let Some(bytes) = found else { return Ok(None) };
        let record = SignedRecord::decode(&bytes)
            .map_err(|_| ReadFault::Corrupt { what: "a signer's record is malformed" })?;
        if record.origin != *origin {
            return Err(ReadFault::Corrupt { what: "a signer's record names another log" });
        }
        Ok(Some(record))
    }

    async fn make_durable(&self, record: &SignedRecord) -> Result<(), SignError> {
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
        self.shard.record_checkpoint(vec![row], Box::new(completion));
        receiver.await.map_err(|_| SignError::Stopping)
    }

    /// True if the vault's log began with `size` blocks of that root.
    fn is_prefix(&self, state: &LogState, size: u64, root: &Digest) -> Result<bool, ReadFault> {
        match self.reader.consistency(state.vault, size, state.size) {
            Ok(path) => Ok(verify_consistency(size, root, state.size, &state.root, &path).is_ok()),
            Err(QueryError::Fault(fault)) => Err(fault),
            Err(
                QueryError::UnknownVault
                | QueryError::HeightUnavailable { .. }
                | QueryError::TooManyChanges { .. },
            ) => Err(ReadFault::Corrupt { what: "a vault's log is shorter than its row says" }),
        }
    }
}

fn record_key(origin: &Origin) -> Vec<u8> {
    format!("{RECORD_PREFIX}{origin}").into_bytes()
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
