//! A checkpoint by itself: its note, and how the log grew since the client last looked.
//!
//! Must never be believed for anything below the note: a block and its state have proofs of their own.

use crate::block_proof::{Consistency, Trust, VerifyError, check_note};
use crate::checkpoint::Origin;
use crate::known_checkpoint::KnownCheckpoint;
use crate::trust::Counted;

/// A signed note and the way to it from an earlier size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointProof {
    /// Bytes of the note.
    pub note: Vec<u8>,
    /// How the log grew from the size that the client named, if it named one.
    pub consistency: Option<Consistency>,
}

/// A checkpoint that holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthenticatedCheckpoint {
    /// The checkpoint to keep before anything else is answered.
    pub checkpoint: KnownCheckpoint,
    /// How many keys vouch for it, and how old their word is.
    pub counted: Counted,
}

impl CheckpointProof {
    /// Checks that the note is about the log `expected`, counts, and extends what is known.
    pub fn verify(
        &self,
        expected: &Origin,
        trust: &Trust<'_>,
        known: Option<&KnownCheckpoint>,
    ) -> Result<AuthenticatedCheckpoint, VerifyError> {
        let growth = self.consistency.as_ref();
        let (checkpoint, counted) = check_note(&self.note, growth, expected, trust, known)?;
        Ok(AuthenticatedCheckpoint { checkpoint, counted })
    }
}
