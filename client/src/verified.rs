//! Verified reads of keys. Must never return a value whose proof did not hold.

use std::sync::Arc;
use std::time::Duration;

use ledger_proof::{
    KnownCheckpoint, Origin, ReadAt, ReadRequest, Trust, VerifiedRead, VerifiedValue, VerifyError,
};
use ledger_proto::convert::Consistency;
use ledger_proto::convert::reads::wire_verified_key;
use ledger_proto::v1;
use ledger_types::{StateKey, VaultRef};

use crate::call::CallKind;
use crate::client::Client;
use crate::error::ClientError;
use crate::leaders::Route;
use crate::method;
use crate::proving::{Held, Question, VaultTrust};
use crate::read::wire_consistency;
use crate::saved_proof::{SavedProof, Step, Subject};
use crate::verification::Proved;
use crate::write::wire_vault;

/// What a verified read asks for besides its keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VerifiedOptions {
    /// How fresh.
    pub consistency: Consistency,
    /// The least height to answer at, for example that of the client's own write.
    pub min_height: u64,
    /// Exactly this height instead of the newest; `min_height` is of no account then.
    pub at_height: Option<u64>,
}

impl VerifiedOptions {
    /// The newest state, and every write that was acknowledged before.
    pub const fn linearizable() -> VerifiedOptions {
        let consistency = Consistency::Linearizable;
        VerifiedOptions { consistency, min_height: 0, at_height: None }
    }

    /// The state after the block of this height.
    pub const fn at_height(height: u64) -> VerifiedOptions {
        let consistency = Consistency::Eventual;
        VerifiedOptions { consistency, min_height: 0, at_height: Some(height) }
    }

    /// Which block an answer must be of, for somebody who knows this checkpoint: what was known is not gone.
    pub(crate) fn read_at(&self, known: Option<&KnownCheckpoint>) -> ReadAt {
        let known_height = known.map_or(0, |known| known.size.saturating_sub(1));
        match self.at_height {
            Some(height) => ReadAt::Height(height),
            None => ReadAt::Latest { min_height: self.min_height.max(known_height) },
        }
    }
}

/// A verified answer.
#[derive(Clone, Debug)]
pub struct VerifiedGet {
    /// What is proved: the block, the checkpoint over it, and one result for each key.
    pub proved: Proved,
    /// Bytes of the answer's proof.
    pub package_bytes: usize,
    /// How long checking took, fetching left out.
    pub check_time: Duration,
    at_height: Option<u64>,
    voters: Arc<VaultTrust>,
    step: Step,
}

impl VerifiedGet {
    /// One result for each key, in order.
    pub fn values(&self) -> &[VerifiedValue] {
        &self.proved.values
    }

    /// The value of the only key of the read; `None` if it is absent or has expired.
    pub fn into_single_value(mut self) -> Option<Vec<u8>> {
        match self.proved.values.pop() {
            Some(VerifiedValue::Present { value, .. }) => Some(value),
            _ => None,
        }
    }

    /// The answer with everything that is needed to check it without a network.
    pub fn saved_proof(&self) -> SavedProof {
        let subject = match self.at_height {
            None => Subject::Latest(self.step.clone()),
            Some(height) => Subject::AtHeight(height, self.step.clone()),
        };
        SavedProof::new(self.voters.steps.clone(), subject)
    }
}

/// A read of keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadQuestion<'a> {
    keys: &'a [StateKey],
    options: VerifiedOptions,
}

impl<'a> ReadQuestion<'a> {
    /// A read of the newest state.
    pub(crate) fn latest(keys: &'a [StateKey]) -> ReadQuestion<'a> {
        ReadQuestion { keys, options: VerifiedOptions::default() }
    }
}

impl Question for ReadQuestion<'_> {
    type Package = Vec<u8>;
    type Answer = (VerifiedRead, Proved);

    async fn fetch(
        &self,
        client: &Client,
        vault: VaultRef,
        known: Option<&KnownCheckpoint>,
    ) -> Result<Vec<u8>, ClientError> {
        let (namespace_id, vault_id) = wire_vault(vault)?;
        let keys: Option<Vec<_>> = self.keys.iter().map(wire_verified_key).collect();
        let keys = keys.ok_or_else(|| {
            ClientError::Config("only entities and relationships can be read".to_owned())
        })?;
        let (min_height, at_height) = wire_height(self.options.read_at(known));
        let request = v1::VerifiedGetRequest {
            namespace_id,
            vault_id,
            keys,
            min_height,
            known_size: known.map(|known| known.size),
            consistency: wire_consistency(self.options.consistency),
            at_height,
        };
        let kind = CallKind::reads(Route::Leader(vault));
        Ok(client.call(method::VERIFIED_GET, kind, &request).await?.package)
    }

    fn check(
        &self,
        package: &Vec<u8>,
        origin: &Origin,
        trust: &Trust<'_>,
        known: Option<&KnownCheckpoint>,
    ) -> Result<Held<(VerifiedRead, Proved)>, VerifyError> {
        let read = VerifiedRead::decode(package)?;
        let at = self.options.read_at(known);
        let request = ReadRequest { origin, at, keys: self.keys };
        let verified = read.verify(&request, trust, known)?;
        let checkpoint = verified.block.checkpoint.clone();
        let proved = Proved { block: verified.block, values: verified.values };
        Ok(Held { answer: (read, proved), checkpoint })
    }
}

/// The least height and the exact one, as a request says them.
pub(crate) fn wire_height(at: ReadAt) -> (Option<u64>, Option<u64>) {
    match at {
        ReadAt::Latest { min_height } => ((min_height > 0).then_some(min_height), None),
        ReadAt::Height(height) => (None, Some(height)),
    }
}

impl Client {
    /// Reads keys of a vault, present or absent, and checks the proof. The checkpoint that the answer
    /// brought is remembered, on disk if there is a state directory, before this returns.
    pub async fn verified_get(
        &self,
        vault: VaultRef,
        keys: &[StateKey],
        options: VerifiedOptions,
    ) -> Result<VerifiedGet, ClientError> {
        let question = ReadQuestion { keys, options };
        let (checked, voters) = self.prove(vault, &question).await?;
        let (read, proved) = checked.answer;
        Ok(VerifiedGet {
            proved,
            package_bytes: checked.package.len(),
            check_time: checked.check_time,
            at_height: options.at_height,
            voters,
            step: Step { vault, keys: keys.to_vec(), read },
        })
    }
}
