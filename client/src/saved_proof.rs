//! A proof in a file: the read itself and, before it, the reads of the directory that say whose
//! signatures count for it. With a trust bundle it can be checked anywhere, without a network.
//!
//! Form: `"saved-proof/v1\0\0" ‖ u8 steps ‖ each: namespace u64 ‖ vault u64 ‖ u16 keys ‖ each u16 len ‖ key
//! ‖ u32 len ‖ verified read`. Steps before the last are reads of the directory: the vault's entity, its
//! shard's, its voters'. A read of the directory itself is a single step.

use ledger_proof::{
    DecodeError, Origin, ReadAt, ReadRequest, Reader, TimeRule, Trust, TrustBundle, VerifiedRead,
    VoterSet, Writer,
};
use ledger_types::limits::{KEYS_PER_READ_MAX, STATE_KEY_BYTES_MAX};
use ledger_types::{StateKey, VaultRef};

use crate::verification::{
    Proved, VerificationError, shard_entity, shard_entity_key, vault_entity, vault_entity_key,
    voter_entity_keys, voter_sets,
};

/// First bytes of the file.
const MAGIC: [u8; 16] = *b"saved-proof/v1\0\0";
/// Steps of a proof of a vault: its entity, its shard's, its voters', the read.
const STEPS_MAX: usize = 4;
/// Fewest bytes of a step.
const STEP_BYTES_MIN: usize = 22;
/// Largest read in a step, in bytes.
const READ_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One proved read: what was asked, and the answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    pub(crate) vault: VaultRef,
    pub(crate) keys: Vec<StateKey>,
    pub(crate) read: VerifiedRead,
}

/// A read with everything that is needed to check it later.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavedProof {
    steps: Vec<Step>,
}

/// What a saved proof says, once it is checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckedProof {
    /// The vault that was read.
    pub vault: VaultRef,
    /// The keys that were asked for.
    pub keys: Vec<StateKey>,
    /// What is proved about them.
    pub proved: Proved,
}

impl SavedProof {
    /// A proof of these steps. Growth of logs since some earlier checkpoint is left out: a verifier that
    /// has only the file does not have that checkpoint.
    pub(crate) fn new(mut steps: Vec<Step>) -> SavedProof {
        for step in &mut steps {
            step.read.block.consistency = None;
        }
        SavedProof { steps }
    }

    /// Checks everything. With [`TimeRule::Any`] the proof may be old, and what it says held when it was
    /// signed.
    pub fn verify(
        &self,
        bundle: &TrustBundle,
        times: TimeRule,
    ) -> Result<CheckedProof, VerificationError> {
        let (last, before) =
            self.steps.split_last().ok_or(VerificationError::Incomplete("it has no steps"))?;
        let system = [bundle.system_voters()];
        let (log_epoch, voters) = match (last.vault, before) {
            (VaultRef::SYSTEM, []) => (bundle.system_log_epoch, system.to_vec()),
            (vault, [vault_step, shard_step, nodes_step]) => {
                let check = |step: &Step, keys: &[StateKey]| {
                    if step.vault != VaultRef::SYSTEM || step.keys != keys {
                        let what = "a step asks for something else than the next one needs";
                        return Err(VerificationError::Incomplete(what));
                    }
                    step.check(bundle, bundle.system_log_epoch, &system, times)
                };
                let answer = check(vault_step, &[vault_entity_key(vault)])?;
                let entity = vault_entity(vault, &answer.values)?
                    .ok_or(VerificationError::Incomplete("the vault is proved absent"))?;
                let answer = check(shard_step, &[shard_entity_key(entity.shard)])?;
                let shard = shard_entity(entity.shard, &answer.values)?;
                let answer = check(nodes_step, &voter_entity_keys(&shard))?;
                (entity.log_epoch, voter_sets(&shard, &answer.values)?)
            }
            _ => return Err(VerificationError::Incomplete("it has another number of steps")),
        };
        let proved = last.check(bundle, log_epoch, &voters, times)?;
        Ok(CheckedProof { vault: last.vault, keys: last.keys.clone(), proved })
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.raw(&MAGIC);
        writer.u8(u8::try_from(self.steps.len()).expect("proofs have few steps"));
        for step in &self.steps {
            writer.raw(&step.vault.to_bytes());
            writer.u16(u16::try_from(step.keys.len()).expect("reads are bounded"));
            for key in &step.keys {
                writer.bytes_u16(key.as_bytes());
            }
            writer.bytes_u32(&step.read.encode());
        }
        bytes
    }

    /// Reads a file. What it says is checked by [`SavedProof::verify`] alone.
    pub fn decode(bytes: &[u8]) -> Result<SavedProof, VerificationError> {
        let malformed = |error| VerificationError::Malformed { what: "saved proof", error };
        decode_steps(bytes).map(|steps| SavedProof { steps }).map_err(malformed)
    }
}

impl Step {
    fn check(
        &self,
        bundle: &TrustBundle,
        log_epoch: u64,
        voters: &[VoterSet],
        times: TimeRule,
    ) -> Result<Proved, VerificationError> {
        let origin = Origin { domain: bundle.domain.clone(), vault: self.vault, log_epoch };
        let at = ReadAt::Latest { min_height: 0 };
        let request = ReadRequest { origin: &origin, at, keys: &self.keys };
        let answer = self.read.verify(&request, &Trust { bundle, voters, times }, None)?;
        Ok(Proved { block: answer.block, values: answer.values })
    }
}

fn decode_steps(bytes: &[u8]) -> Result<Vec<Step>, DecodeError> {
    let mut reader = Reader::new(bytes);
    if reader.array::<16>("proof magic")? != MAGIC {
        let rule = "is not saved-proof/v1";
        return Err(DecodeError::Invalid { field: "proof magic", rule });
    }
    let count = usize::from(reader.u8("steps")?);
    let count = reader.count("steps", count, STEPS_MAX, STEP_BYTES_MIN)?;
    let mut steps = Vec::with_capacity(count);
    for _ in 0..count {
        let vault = VaultRef::new(reader.u64("namespace")?, reader.u64("vault")?);
        let keys = usize::from(reader.u16("keys")?);
        let keys = reader.count("keys", keys, KEYS_PER_READ_MAX, 2)?;
        let mut wanted = Vec::with_capacity(keys);
        for _ in 0..keys {
            let key = StateKey::from_bytes(reader.bytes_u16("key", STATE_KEY_BYTES_MAX)?);
            let rule = "is no state key";
            wanted.push(key.ok_or(DecodeError::Invalid { field: "key", rule })?);
        }
        let read = VerifiedRead::decode(reader.bytes_u32("verified read", READ_BYTES_MAX)?)?;
        steps.push(Step { vault, keys: wanted, read });
    }
    reader.finish()?;
    Ok(steps)
}
