//! Proved answers: fetched, checked, and remembered before they are answered.
//!
//! Voters of a vault's shard come from the directory, with proofs, and are believed until the signatures
//! under which they were learnt are too old. Must never return an answer whose proof did not hold.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ledger_proof::{KnownCheckpoint, Origin, TimeRule, Trust, TrustBundle, VerifyError, VoterSet};
use ledger_types::VaultRef;
use parking_lot::Mutex;

use crate::checkpoint_store::{LogMemory, Remembered};
use crate::client::Client;
use crate::error::ClientError;
use crate::saved_proof::Step;
use crate::verification::{
    VerificationError, shard_entity, shard_entity_key, vault_entity, vault_entity_key,
    voter_entity_keys, voter_sets,
};
use crate::verified::ReadQuestion;

/// How often a question is asked again because another reader of the same log was faster.
const RACES_MAX: u32 = 8;
/// Vaults whose voters are remembered; beyond it the memory starts anew.
const VAULTS_MAX: usize = 16_384;

/// A question whose answer is proved under a checkpoint of a vault's log.
pub(crate) trait Question: Send + Sync {
    /// The answer as it travels.
    type Package: Send + Sync;
    /// What an answer that holds says.
    type Answer: Send;

    /// Asks the cluster, as somebody who knows this checkpoint of the log.
    fn fetch(
        &self,
        client: &Client,
        vault: VaultRef,
        known: Option<&KnownCheckpoint>,
    ) -> impl Future<Output = Result<Self::Package, ClientError>> + Send;

    /// Checks an answer.
    fn check(
        &self,
        package: &Self::Package,
        origin: &Origin,
        trust: &Trust<'_>,
        known: Option<&KnownCheckpoint>,
    ) -> Result<Held<Self::Answer>, VerifyError>;
}

/// An answer that holds.
#[derive(Debug)]
pub(crate) struct Held<A> {
    pub(crate) answer: A,
    /// The checkpoint under which it holds, to be remembered first.
    pub(crate) checkpoint: KnownCheckpoint,
}

/// An answer that was checked and whose checkpoint is remembered.
#[derive(Debug)]
pub(crate) struct Checked<Q: Question> {
    pub(crate) package: Q::Package,
    pub(crate) answer: Q::Answer,
    /// How long checking took, fetching left out.
    pub(crate) check_time: Duration,
}

/// Whose signatures count for a vault's log, and how that is known.
#[derive(Debug)]
pub(crate) struct VaultTrust {
    pub(crate) origin: Origin,
    pub(crate) voters: Vec<VoterSet>,
    /// The proved reads of the directory that say so.
    pub(crate) steps: Vec<Step>,
    /// Unix seconds until which it may be believed.
    valid_until: u64,
}

/// The voters learnt so far.
#[derive(Debug, Default)]
pub(crate) struct VoterMemory {
    vaults: Mutex<HashMap<VaultRef, Arc<VaultTrust>>>,
}

impl Client {
    /// Asks and checks. The checkpoint that the answer brought is remembered, on disk if there is a state
    /// directory, before this returns. Also returns whose signatures counted.
    pub(crate) async fn prove<Q: Question>(
        &self,
        vault: VaultRef,
        question: &Q,
    ) -> Result<(Checked<Q>, Arc<VaultTrust>), ClientError> {
        let bundle = self.trust_bundle().await?;
        match self.prove_under(&bundle, vault, question).await {
            // The directory's own voters may have changed since the bundle was made.
            Err(error) if is_about_voters(&error) => match self.follow_bundle(&bundle).await? {
                Some(newer) => self.prove_under(&newer, vault, question).await,
                None => Err(error),
            },
            answered => answered,
        }
    }

    /// The same in the trust of one bundle.
    async fn prove_under<Q: Question>(
        &self,
        bundle: &TrustBundle,
        vault: VaultRef,
        question: &Q,
    ) -> Result<(Checked<Q>, Arc<VaultTrust>), ClientError> {
        let cached = self.cached_trust(vault)?;
        let was_cached = cached.is_some();
        let voters = match cached {
            Some(voters) => voters,
            None => self.learn_trust(vault, bundle).await?,
        };
        match self.checked(bundle, &voters, question).await {
            Ok(checked) => Ok((checked, voters)),
            // Voters may have changed since they were learnt; they are fetched once more.
            Err(error) if was_cached && is_about_voters(&error) => {
                let voters = self.learn_trust(vault, bundle).await?;
                Ok((self.checked(bundle, &voters, question).await?, voters))
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
        let mut steps = Vec::with_capacity(3);
        let mut oldest_time = u64::MAX;
        let mut keep = |keys, checked: Checked<ReadQuestion<'_>>| {
            let (read, proved) = checked.answer;
            oldest_time = oldest_time.min(proved.block.counted.oldest_time);
            steps.push(Step { vault: VaultRef::SYSTEM, keys, read });
            proved.values
        };
        let keys = vec![vault_entity_key(vault)];
        let checked = self.checked(bundle, system, &ReadQuestion::latest(&keys)).await?;
        let values = keep(keys.clone(), checked);
        let entity = vault_entity(vault, &values)?.ok_or(ClientError::VaultAbsent(vault))?;
        let keys = vec![shard_entity_key(entity.shard)];
        let checked = self.checked(bundle, system, &ReadQuestion::latest(&keys)).await?;
        let values = keep(keys.clone(), checked);
        let shard = shard_entity(entity.shard, &values)?;
        let keys = voter_entity_keys(&shard);
        let checked = self.checked(bundle, system, &ReadQuestion::latest(&keys)).await?;
        let values = keep(keys.clone(), checked);
        let voters = voter_sets(&shard, &values)?;
        let valid_until = oldest_time.saturating_add(bundle.max_age_seconds);
        let origin = origin(bundle, vault, entity.log_epoch);
        Ok(VaultTrust { origin, voters, steps, valid_until })
    }

    /// Asks and checks once more while other readers are faster, and remembers the checkpoint.
    async fn checked<Q: Question>(
        &self,
        bundle: &TrustBundle,
        trust: &VaultTrust,
        question: &Q,
    ) -> Result<Checked<Q>, ClientError> {
        let vault = trust.origin.vault;
        let log = self.inner.checkpoints.log(&bundle.domain, vault);
        for race in 0..RACES_MAX {
            // A reader that was overtaken goes on alone, so that nobody is overtaken for ever.
            let (_shared, _alone) = match race {
                0 => (Some(log.gate.read().await), None),
                _ => (None, Some(log.gate.write().await)),
            };
            if let Some(checked) = self.checked_once(bundle, trust, question, &log).await? {
                return Ok(checked);
            }
        }
        Err(ClientError::CheckpointContended(vault))
    }

    /// One fetch and check; `None` if another reader has moved the remembered checkpoint meanwhile.
    async fn checked_once<Q: Question>(
        &self,
        bundle: &TrustBundle,
        trust: &VaultTrust,
        question: &Q,
        log: &Arc<LogMemory>,
    ) -> Result<Option<Checked<Q>>, ClientError> {
        let vault = trust.origin.vault;
        let known = log.known()?;
        if let Some(known) = &known
            && known.origin != trust.origin
        {
            let (expected, offered) = (known.origin.log_epoch, trust.origin.log_epoch);
            let refused = VerifyError::LogEpoch { expected, offered };
            return Err(VerificationError::Refused(refused).into());
        }
        let package = question.fetch(self, vault, known.as_ref()).await?;
        let began = Instant::now();
        let times = TimeRule::Now(unix_seconds()?);
        let trusted = Trust { bundle, voters: &trust.voters, times, memory: Some(&log.notes) };
        let held = question.check(&package, &trust.origin, &trusted, known.as_ref());
        let Held { answer, checkpoint } = held.map_err(|error| self.refused(vault, error))?;
        let check_time = began.elapsed();
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
        Ok(Some(Checked { package, answer, check_time }))
    }

    /// The error of an answer that is not believed. Both notes of a fork are kept.
    pub(crate) fn refused(&self, vault: VaultRef, error: VerifyError) -> ClientError {
        let VerifyError::Fork(fork) = error else {
            return VerificationError::Refused(error).into();
        };
        let evidence = match self.inner.checkpoints.keep_evidence(&fork) {
            Ok(evidence) => evidence,
            Err(error) => return error,
        };
        let (known_size, offered_size) = (fork.known.size, fork.offered.size);
        VerificationError::Fork { vault, known_size, offered_size, evidence }.into()
    }
}

fn origin(bundle: &TrustBundle, vault: VaultRef, log_epoch: u64) -> Origin {
    Origin { domain: bundle.domain.clone(), vault, log_epoch }
}

/// Refusals that other voters or a new log epoch would explain.
fn is_about_voters(error: &ClientError) -> bool {
    let ClientError::Verification(error) = error else { return false };
    matches!(
        **error,
        VerificationError::Refused(VerifyError::Count(_) | VerifyError::LogEpoch { .. })
    )
}

pub(crate) fn unix_seconds() -> Result<u64, ClientError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_err(|_| ClientError::Config("the clock stands before 1970".to_owned()))?;
    Ok(now.as_secs())
}
