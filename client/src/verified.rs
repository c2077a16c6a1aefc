//! Verified reads: fetched, checked, and remembered before they are answered.
//!
//! Voters of a vault's shard come from the directory, with proofs, and are believed until the signatures
//! under which they were learnt are too old. Must never return a value whose proof did not hold.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ledger_proof::{
    Origin, ReadAt, ReadRequest, TimeRule, Trust, TrustBundle, VerifiedRead, VerifiedValue,
    VerifyError, VoterSet,
};
use ledger_proto::convert::Consistency;
use ledger_proto::convert::reads::wire_verified_key;
use ledger_proto::v1;
use ledger_types::{StateKey, VaultRef};
use parking_lot::Mutex;

use crate::call::CallKind;
use crate::checkpoint_store::{LogMemory, Remembered};
use crate::client::Client;
use crate::error::ClientError;
use crate::leaders::Route;
use crate::method;
use crate::read::wire_consistency;
use crate::saved_proof::{SavedProof, Step};
use crate::verification::{
    Proved, VerificationError, shard_entity, shard_entity_key, vault_entity, vault_entity_key,
    voter_entity_keys, voter_sets,
};
use crate::write::wire_vault;

/// How often a read is made again because another reader of the same log was faster.
const RACES_MAX: u32 = 8;
/// Vaults whose voters are remembered; beyond it the memory starts anew.
const VAULTS_MAX: usize = 16_384;

/// What a verified read asks for besides its keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VerifiedOptions {
    /// How fresh.
    pub consistency: Consistency,
    /// The least height to answer at, for example that of the client's own write.
    pub min_height: u64,
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
        let mut steps = self.voters.steps.clone();
        steps.push(self.step.clone());
        SavedProof::new(steps)
    }
}

/// Whose signatures count for a vault's log, and how that is known.
#[derive(Debug)]
struct VaultTrust {
    origin: Origin,
    voters: Vec<VoterSet>,
    /// The proved reads of the directory that say so.
    steps: Vec<Step>,
    /// Unix seconds until which it may be believed.
    valid_until: u64,
}

/// The voters learnt so far.
#[derive(Debug, Default)]
pub(crate) struct VoterMemory {
    vaults: Mutex<HashMap<VaultRef, Arc<VaultTrust>>>,
}

/// One read to be fetched and checked.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    bundle: &'a TrustBundle,
    trust: &'a VaultTrust,
    keys: &'a [StateKey],
    options: VerifiedOptions,
}

/// An answer that was checked.
struct Checked {
    proved: Proved,
    package_bytes: usize,
    check_time: Duration,
    step: Step,
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
        let bundle = self.trust_bundle().await?;
        match self.verified_under(&bundle, vault, keys, options).await {
            // The directory's own voters may have changed since the bundle was made.
            Err(error) if is_about_voters(&error) => match self.follow_bundle(&bundle).await? {
                Some(newer) => self.verified_under(&newer, vault, keys, options).await,
                None => Err(error),
            },
            answered => answered,
        }
    }

    /// The same in the trust of one bundle.
    async fn verified_under(
        &self,
        bundle: &TrustBundle,
        vault: VaultRef,
        keys: &[StateKey],
        options: VerifiedOptions,
    ) -> Result<VerifiedGet, ClientError> {
        let cached = self.cached_trust(vault)?;
        let was_cached = cached.is_some();
        let voters = match cached {
            Some(voters) => voters,
            None => self.learn_trust(vault, bundle).await?,
        };
        let wanted = Wanted { bundle, trust: &voters, keys, options };
        match self.checked_read(wanted).await {
            Ok(checked) => Ok(answer(checked, voters)),
            // Voters may have changed since they were learnt; they are fetched once more.
            Err(error) if was_cached && is_about_voters(&error) => {
                let voters = self.learn_trust(vault, bundle).await?;
                let wanted = Wanted { trust: &voters, ..wanted };
                let checked = self.checked_read(wanted).await?;
                Ok(answer(checked, voters))
            }
            Err(error) => Err(error),
        }
    }

    fn cached_trust(&self, vault: VaultRef) -> Result<Option<Arc<VaultTrust>>, ClientError> {
        let now = unix_seconds()?;
        let vaults = self.inner.voters.vaults.lock();
        Ok(vaults.get(&vault).filter(|trust| trust.valid_until >= now).cloned())
    }

    /// Asks the directory, with proofs, whose signatures count for the vault's log.
    async fn learn_trust(
        &self,
        vault: VaultRef,
        bundle: &TrustBundle,
    ) -> Result<Arc<VaultTrust>, ClientError> {
        let system = VaultTrust {
            origin: origin(bundle, VaultRef::SYSTEM, bundle.system_log_epoch),
            voters: vec![bundle.system_voters()],
            steps: Vec::new(),
            valid_until: bundle.expires_at,
        };
        let trust = match vault {
            VaultRef::SYSTEM => system,
            vault => self.learn_vault_trust(vault, bundle, &system).await?,
        };
        let trust = Arc::new(trust);
        let mut vaults = self.inner.voters.vaults.lock();
        if vaults.len() >= VAULTS_MAX {
            vaults.clear();
        }
        vaults.insert(vault, trust.clone());
        Ok(trust)
    }

    async fn learn_vault_trust(
        &self,
        vault: VaultRef,
        bundle: &TrustBundle,
        system: &VaultTrust,
    ) -> Result<VaultTrust, ClientError> {
        let wanted = |keys| Wanted { bundle, trust: system, keys, options: Default::default() };
        let mut steps = Vec::with_capacity(3);
        let mut oldest_time = u64::MAX;
        let mut keep = |checked: Checked| {
            oldest_time = oldest_time.min(checked.proved.block.counted.oldest_time);
            steps.push(checked.step);
            checked.proved.values
        };
        let key = [vault_entity_key(vault)];
        let values = keep(self.checked_read(wanted(&key)).await?);
        let entity = vault_entity(vault, &values)?.ok_or(ClientError::VaultAbsent(vault))?;
        let key = [shard_entity_key(entity.shard)];
        let values = keep(self.checked_read(wanted(&key)).await?);
        let shard = shard_entity(entity.shard, &values)?;
        let keys = voter_entity_keys(&shard);
        let values = keep(self.checked_read(wanted(&keys)).await?);
        let voters = voter_sets(&shard, &values)?;
        let valid_until = oldest_time.saturating_add(bundle.max_age_seconds);
        let origin = origin(bundle, vault, entity.log_epoch);
        Ok(VaultTrust { origin, voters, steps, valid_until })
    }

    /// Fetches and checks one read, and remembers its checkpoint.
    async fn checked_read(&self, wanted: Wanted<'_>) -> Result<Checked, ClientError> {
        let vault = wanted.trust.origin.vault;
        let log = self.inner.checkpoints.log(&wanted.bundle.domain, vault);
        for race in 0..RACES_MAX {
            // A reader that was overtaken goes on alone, so that nobody is overtaken for ever.
            let (_shared, _alone) = match race {
                0 => (Some(log.gate.read().await), None),
                _ => (None, Some(log.gate.write().await)),
            };
            let checked = self.read_once(wanted, &log).await?;
            if let Some(checked) = checked {
                return Ok(checked);
            }
        }
        Err(ClientError::CheckpointContended(vault))
    }

    /// One fetch and check; `None` if another reader has moved the remembered checkpoint meanwhile.
    async fn read_once(
        &self,
        wanted: Wanted<'_>,
        log: &Arc<LogMemory>,
    ) -> Result<Option<Checked>, ClientError> {
        let Wanted { bundle, trust, keys, options } = wanted;
        let vault = trust.origin.vault;
        let known = log.known()?;
        if let Some(known) = &known
            && known.origin != trust.origin
        {
            let (expected, offered) = (known.origin.log_epoch, trust.origin.log_epoch);
            let refused = VerifyError::LogEpoch { expected, offered };
            return Err(VerificationError::Refused(refused).into());
        }
        let known_height = known.as_ref().map_or(0, |known| known.size.saturating_sub(1));
        let min_height = options.min_height.max(known_height);
        let known_size = known.as_ref().map(|known| known.size);
        let request = request(vault, keys, options.consistency, (min_height, known_size))?;
        let kind = CallKind::reads(Route::Leader(vault));
        let answer = self.call(method::VERIFIED_GET, kind, &request).await?;
        let began = Instant::now();
        let read = VerifiedRead::decode(&answer.package);
        let read =
            read.map_err(|error| VerificationError::Refused(VerifyError::Malformed(error)))?;
        let at = ReadAt::Latest { min_height };
        let question = ReadRequest { origin: &trust.origin, at, keys };
        let times = TimeRule::Now(unix_seconds()?);
        let trusted = Trust { bundle, voters: &trust.voters, times };
        let verified = match read.verify(&question, &trusted, known.as_ref()) {
            Ok(verified) => verified,
            Err(VerifyError::Fork(fork)) => {
                let evidence = self.inner.checkpoints.keep_evidence(&fork)?;
                let (known_size, offered_size) = (fork.known.size, fork.offered.size);
                let fork = VerificationError::Fork { vault, known_size, offered_size, evidence };
                return Err(fork.into());
            }
            Err(error) => return Err(VerificationError::Refused(error).into()),
        };
        let check_time = began.elapsed();
        let checkpoint = verified.block.checkpoint.clone();
        let (size, root) = (checkpoint.size, checkpoint.root);
        let unchanged = known.as_ref().is_some_and(|known| known.size == size);
        if !unchanged {
            let memory = log.clone();
            let remembered =
                tokio::task::spawn_blocking(move || memory.remember(known.as_ref(), checkpoint));
            let remembered = remembered.await.expect("remembering does not panic")?;
            // Overtaken, but by readers whose chain holds this very state of the log.
            if remembered == Remembered::Raced && !log.is_ancestor(size, &root) {
                return Ok(None);
            }
        }
        Ok(Some(Checked {
            proved: Proved { block: verified.block, values: verified.values },
            package_bytes: answer.package.len(),
            check_time,
            step: Step { vault, keys: keys.to_vec(), read },
        }))
    }
}

fn answer(checked: Checked, voters: Arc<VaultTrust>) -> VerifiedGet {
    let Checked { proved, package_bytes, check_time, step } = checked;
    VerifiedGet { proved, package_bytes, check_time, voters, step }
}

fn origin(bundle: &TrustBundle, vault: VaultRef, log_epoch: u64) -> Origin {
    Origin { domain: bundle.domain.clone(), vault, log_epoch }
}

fn request(
    vault: VaultRef,
    keys: &[StateKey],
    consistency: Consistency,
    (min_height, known_size): (u64, Option<u64>),
) -> Result<v1::VerifiedGetRequest, ClientError> {
    let (namespace_id, vault_id) = wire_vault(vault)?;
    let keys: Option<Vec<_>> = keys.iter().map(wire_verified_key).collect();
    let keys = keys.ok_or_else(|| {
        ClientError::Config("only entities and relationships can be read".to_owned())
    })?;
    Ok(v1::VerifiedGetRequest {
        namespace_id,
        vault_id,
        keys,
        min_height: (min_height > 0).then_some(min_height),
        known_size,
        consistency: wire_consistency(consistency),
    })
}

/// Refusals that other voters or a new log epoch would explain.
fn is_about_voters(error: &ClientError) -> bool {
    let ClientError::Verification(error) = error else { return false };
    matches!(
        **error,
        VerificationError::Refused(VerifyError::Count(_) | VerifyError::LogEpoch { .. })
    )
}

fn unix_seconds() -> Result<u64, ClientError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_err(|_| ClientError::Config("the clock stands before 1970".to_owned()))?;
    Ok(now.as_secs())
}
