//! Checkpoints by themselves: that the log which is remembered is the beginning of the log of now, and that
//! of two checkpoints in hand the larger contains the smaller.

use ledger_proof::rfc9162::{PATH_LEN_MAX, verify_consistency};
use ledger_proof::{
    AuthenticatedCheckpoint, CheckpointProof, Consistency, Fork, KnownCheckpoint, Origin, Trust,
    VerifyError,
};
use ledger_proto::v1;
use ledger_types::{Digest, VaultRef};

use crate::call::CallKind;
use crate::client::Client;
use crate::error::ClientError;
use crate::leaders::Route;
use crate::method;
use crate::proving::{Held, Question};
use crate::read::digest;
use crate::write::wire_vault;

/// A checkpoint that was checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckedCheckpoint {
    /// The checkpoint, with its note.
    pub checkpoint: KnownCheckpoint,
    /// How many voters vouch for it.
    pub signers: usize,
    /// Unix seconds of the oldest of their signatures.
    pub signed_at: u64,
    /// Number of blocks that the client knew before; `None` if this is its first checkpoint of the log.
    pub extended_from: Option<u64>,
}

/// A question for the newest checkpoint.
struct CheckpointQuestion;

impl Question for CheckpointQuestion {
    type Package = CheckpointProof;
    type Answer = CheckedCheckpoint;

    async fn fetch(
        &self,
        client: &Client,
        vault: VaultRef,
        known: Option<&KnownCheckpoint>,
    ) -> Result<CheckpointProof, ClientError> {
        let from_size = known.map_or(0, |known| known.size);
        let route = Route::Leader(vault);
        let answer = client.consistency_path(vault, (from_size, None), route).await?;
        let note = answer.note.ok_or(ClientError::Malformed("note"))?;
        let consistency = known.map(|_| Consistency { from_size, path: answer.path });
        Ok(CheckpointProof { note, consistency })
    }

    fn check(
        &self,
        package: &CheckpointProof,
        origin: &Origin,
        trust: &Trust<'_>,
        known: Option<&KnownCheckpoint>,
    ) -> Result<Held<CheckedCheckpoint>, VerifyError> {
        let AuthenticatedCheckpoint { checkpoint, counted } =
            package.verify(origin, trust, known)?;
        let answer = CheckedCheckpoint {
            checkpoint: checkpoint.clone(),
            signers: counted.keys,
            signed_at: counted.oldest_time,
            extended_from: known.map(|known| known.size),
        };
        Ok(Held { answer, checkpoint })
    }
}

/// A path as a node told it.
struct WirePath {
    path: Vec<Digest>,
    note: Option<Vec<u8>>,
}

impl Client {
    /// Asks for a checkpoint that is signed now, checks that its log contains what this client remembers of
    /// it, and remembers it instead, on disk if there is a state directory, before this returns.
    pub async fn extend_checkpoint(
        &self,
        vault: VaultRef,
    ) -> Result<CheckedCheckpoint, ClientError> {
        Ok(self.prove(vault, &CheckpointQuestion).await?.0.answer)
    }

    /// The newest checkpoint of a vault's log that this client remembers, without asking anybody. Errors:
    /// no trust bundle, a damaged state directory.
    pub async fn known_checkpoint(
        &self,
        vault: VaultRef,
    ) -> Result<Option<KnownCheckpoint>, ClientError> {
        let bundle = self.trust_bundle().await?;
        self.inner.checkpoints.log(&bundle.domain, vault).known()
    }

    /// Checks that the log of the smaller of two checkpoints is the beginning of that of the larger. Both
    /// must have been checked before, by this client or another one: this is how two clients find out that
    /// they were shown two histories. Errors: a fork, of which both notes are kept; checkpoints of two logs;
    /// a larger one that the cluster does not have.
    pub async fn compare_checkpoints(
        &self,
        one: &KnownCheckpoint,
        other: &KnownCheckpoint,
    ) -> Result<(), ClientError> {
        let (old, new) = if one.size <= other.size { (one, other) } else { (other, one) };
        let vault = old.origin.vault;
        if old.origin != new.origin {
            let (expected, known) = (new.origin.to_string(), old.origin.to_string());
            return Err(self.refused(vault, VerifyError::KnownOtherLog { expected, known }));
        }
        let fork = |path_error| {
            let (known, offered) = (old.clone(), new.clone());
            VerifyError::Fork(Box::new(Fork { known, offered, path_error }))
        };
        if old.size == new.size {
            return if old.root == new.root {
                Ok(())
            } else {
                Err(self.refused(vault, fork(None)))
            };
        }
        let route = Route::Any(Some(vault));
        let answer = self.consistency_path(vault, (old.size, Some(new.size)), route).await?;
        verify_consistency(old.size, &old.root, new.size, &new.root, &answer.path)
            .map_err(|error| self.refused(vault, fork(Some(error))))
    }

    async fn consistency_path(
        &self,
        vault: VaultRef,
        (from_size, to_size): (u64, Option<u64>),
        route: Route,
    ) -> Result<WirePath, ClientError> {
        let (namespace_id, vault_id) = wire_vault(vault)?;
        let request = v1::GetConsistencyProofRequest { namespace_id, vault_id, from_size, to_size };
        let kind = CallKind::reads(route);
        let answer = self.call(method::GET_CONSISTENCY_PROOF, kind, &request).await?;
        if answer.path.len() > PATH_LEN_MAX {
            return Err(ClientError::Malformed("path"));
        }
        let path = answer.path.iter().map(|hash| digest("path", Some(hash)));
        Ok(WirePath { path: path.collect::<Result<_, _>>()?, note: answer.note })
    }
}
