//! Signed checkpoints of vaults, made on demand: the log's own line, this node's cosignature and those of other
//! voters.
//!
//! Owns the notes that are handed out again. Must never hand out one that too few voters cosigned for clients to
//! count it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger_proof::SignedNote;
use ledger_types::{GroupId, VaultRef};
use parking_lot::Mutex;

use crate::context::NodeContext;
use crate::cosigning::{Voters, collect};
use crate::edge::status::Failure;
use crate::quarantine::give_up_leadership;
use crate::signer::{LogState, SignError};

/// A signed note is handed out again for this long.
pub const NOTE_AGE_MAX: Duration = Duration::from_secs(1);
/// Notes kept at once.
const NOTES_MAX: usize = 4096;

/// A signed checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedCheckpoint {
    /// What is signed.
    pub state: LogState,
    /// The note's bytes.
    pub note: Vec<u8>,
    made: Instant,
}

/// Makes signed checkpoints for one node.
#[derive(Default)]
pub struct Checkpoints {
    notes: Mutex<HashMap<(VaultRef, u64), Arc<SignedCheckpoint>>>,
}

impl std::fmt::Debug for Checkpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Checkpoints")
    }
}

impl Checkpoints {
    /// The newest note of the vault's log, if it is young enough to be handed out again.
    pub fn cached(&self, vault: VaultRef, log_epoch: u64) -> Option<Arc<SignedCheckpoint>> {
        let newest = self.notes.lock().get(&(vault, log_epoch)).cloned()?;
        (newest.made.elapsed() < NOTE_AGE_MAX).then_some(newest)
    }

    /// Signs a state that this node, a voter of the group, has computed, and has it cosigned.
    /// `round_seconds` is when a read round began whose index this node had applied before it computed the
    /// state. Errors if the state is behind what was signed or contradicts it, and if too few voters cosign it.
    pub async fn make(
        &self,
        context: &NodeContext,
        group: GroupId,
        state: LogState,
        round_seconds: u64,
    ) -> Result<Arc<SignedCheckpoint>, Failure> {
        if context.quarantine.holds(state.vault) {
            return Err(Failure::VaultUnavailable(state.vault));
        }
        let voters = Voters::of(context.directory.current(), group);
        let voters =
            voters.ok_or_else(|| Failure::not_ready("the shard's voters are not known here"))?;
        let own =
            async { context.signer.record(state).await.map_err(|error| refused(error, state)) };
        let others = async {
            let collected = collect(context, &voters, group, state).await;
            collected.map_err(|shortage| {
                if shortage.contradicting > 0 {
                    // The others may be the ones that are right, and then one of them must lead.
                    give_up_leadership(context, group);
                }
                Failure::from(shortage)
            })
        };
        let (signable, cosignatures) = tokio::try_join!(own, others)?;
        let signer = &context.signer;
        let mut lines = vec![signer.sign_log(&signable), signer.cosign(&signable, round_seconds)];
        lines.extend(cosignatures);
        let note = SignedNote::new(signable.checkpoint(), lines).encode();
        let signed = Arc::new(SignedCheckpoint { state, note, made: Instant::now() });
        let mut notes = self.notes.lock();
        if notes.len() >= NOTES_MAX {
            notes.retain(|_, note| note.made.elapsed() < NOTE_AGE_MAX);
        }
        notes.insert((state.vault, state.log_epoch), signed.clone());
        Ok(signed)
    }
}

fn refused(error: SignError, state: LogState) -> Failure {
    match error {
        SignError::Outdated { .. } => {
            Failure::HeightUnavailable { floor: 0, tip: state.size.saturating_sub(1) }
        }
        SignError::Contradiction => Failure::VaultUnavailable(state.vault),
        SignError::Store(fault) => Failure::Store(fault.to_string()),
        SignError::Stopping => Failure::Draining,
    }
}
