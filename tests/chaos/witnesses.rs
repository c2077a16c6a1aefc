//! Those who look on while clients write: watchers of blocks, readers of each replica's tip, and a client that believes
//! nothing without a proof.
//!
//! Owns what they record. A proof that does not hold is a violation; an answer that does not come is none.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger::demo::replicas::Replica;
use ledger_client::{ClientError, TrustSource, VerificationError, VerifiedGet, VerifiedOptions};
use ledger_history::record::{Call, Operation, SeenBlock};
use ledger_proof::{CountError, VerifyError};
use ledger_types::{StateKey, VaultRef};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::recorder::Recorder;
use super::workload::{Load, sdk_client, sdk_config};

/// Pause between two looks at a replica's tip.
const TIP_EVERY: Duration = Duration::from_millis(40);
/// Pause between two reads with proof.
const PROOF_EVERY: Duration = Duration::from_millis(60);
/// A watcher looks this often whether it may end.
const WATCH_LOOK_EVERY: Duration = Duration::from_millis(200);
/// Longest time until a watcher has the last block.
const WATCH_MAX: Duration = Duration::from_secs(30);
/// The height from which watchers watch.
pub(crate) const WATCH_FROM: u64 = 1;

/// What the name of a vault's watcher is in the record.
pub(crate) fn watcher_name(vault: VaultRef) -> String {
    format!("watcher of {vault}")
}

/// Everybody who looks on.
pub(crate) struct Witnesses {
    tasks: JoinSet<()>,
    watchers: JoinSet<()>,
    last_heights: watch::Sender<Option<Vec<(VaultRef, u64)>>>,
}

impl Witnesses {
    /// Starts all of them. `clocks_are_wrong` if nodes' clocks will be set wrong, so that a note may look too old.
    pub(crate) fn start(
        load: &Arc<Load>,
        replicas: &[Replica],
        folder: &Path,
        (seed, clocks_are_wrong): (u64, bool),
    ) -> Witnesses {
        let last_heights = watch::channel(None).0;
        let (mut tasks, mut watchers) = (JoinSet::new(), JoinSet::new());
        for replica in replicas {
            let vaults = load.vaults.clone();
            tasks.spawn(look_at_tips(load.recorder.clone(), replica.clone(), vaults));
        }
        for &vault in &load.vaults {
            watchers.spawn(follow(load.clone(), vault, last_heights.subscribe()));
        }
        let mut config = sdk_config(&load.addresses, "verifier");
        config.trust = TrustSource::FirstUse;
        config.state_dir = Some(folder.join(format!("verifier-{:08x}", rand::random::<u32>())));
        let client = ledger_client::Client::unconnected(config).unwrap();
        let random = StdRng::seed_from_u64(!seed);
        let verifier = Verifier { load: load.clone(), client, random, clocks_are_wrong };
        tasks.spawn(verifier.run());
        Witnesses { tasks, watchers, last_heights }
    }

    /// Waits until the recorder's stop has reached those who only look from time to time.
    pub(crate) async fn finish_looking(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }

    /// Tells the watchers what the last blocks are and waits until they have them, or had time enough.
    pub(crate) async fn finish_watching(&mut self, last: Vec<(VaultRef, u64)>) {
        self.last_heights.send_replace(Some(last));
        while let Some(ended) = self.watchers.join_next().await {
            ended.unwrap();
        }
    }
}

async fn look_at_tips(recorder: Arc<Recorder>, replica: Replica, vaults: Vec<VaultRef>) {
    let witness = format!("tip at {replica}");
    while !recorder.is_stopped() {
        for &vault in &vaults {
            let asked = tokio::time::timeout(TIP_EVERY * 10, replica.tip(vault)).await;
            let Ok(Ok(tip)) = asked else { continue };
            recorder.count("tips seen");
            recorder.block(SeenBlock {
                witness: witness.clone(),
                vault,
                height: tip.height,
                block_hash: tip.block_hash,
                state_root: tip.state_root,
            });
        }
        tokio::time::sleep(TIP_EVERY).await;
    }
}

async fn follow(
    load: Arc<Load>,
    vault: VaultRef,
    last_heights: watch::Receiver<Option<Vec<(VaultRef, u64)>>>,
) {
    let recorder = &load.recorder;
    let mut blocks = sdk_client(&load.addresses, "watcher").watch_blocks(vault, WATCH_FROM);
    let mut told: Option<(u64, Instant)> = None;
    loop {
        if told.is_none() {
            let last = last_heights.borrow();
            told = last.as_ref().map(|last| {
                // A vault on whose last block the replicas do not agree has none to wait for.
                let own = last.iter().find(|(other, _)| *other == vault);
                (own.map_or(0, |(_, height)| *height), Instant::now())
            });
        }
        if let Some((last, since)) = told
            && (blocks.next_height() > last || since.elapsed() > WATCH_MAX)
        {
            return;
        }
        match tokio::time::timeout(WATCH_LOOK_EVERY, blocks.next()).await {
            Ok(Ok(notice)) => {
                recorder.count("blocks watched");
                recorder.block(SeenBlock {
                    witness: watcher_name(vault),
                    vault,
                    height: notice.height,
                    block_hash: notice.block_hash,
                    state_root: notice.state_root,
                });
            }
            Ok(Err(error @ ClientError::WatchGap { .. })) => recorder.violation(error.to_string()),
            Ok(Err(_)) => tokio::time::sleep(WATCH_LOOK_EVERY / 10).await,
            Err(_) => {}
        }
    }
}

/// Reads with proof.
struct Verifier {
    load: Arc<Load>,
    client: ledger_client::Client,
    random: StdRng,
    clocks_are_wrong: bool,
}

impl Verifier {
    async fn run(mut self) {
        let recorder = self.load.recorder.clone();
        let options = VerifiedOptions::linearizable();
        while !recorder.is_stopped() {
            let vault = self.load.vaults[self.random.random_range(0..self.load.vaults.len())];
            let key = self.load.key(&mut self.random);
            let invoked_ns = recorder.now_ns();
            let answer = self.client.verified_get(vault, &[StateKey::entity(&key)], options).await;
            let answer = match answer {
                Ok(answer) => {
                    self.take(vault, &answer);
                    Ok(answer.into_single_value())
                }
                Err(error) => {
                    self.judge(vault, &error);
                    Err(error.to_string())
                }
            };
            let outcome = self.load.read_outcome(answer);
            let call = Call::Read;
            recorder.operation(Operation {
                client: VERIFIER,
                vault,
                key,
                call,
                invoked_ns,
                outcome,
            });
            tokio::time::sleep(PROOF_EVERY).await;
        }
    }

    fn take(&self, vault: VaultRef, answer: &VerifiedGet) {
        let recorder = &self.load.recorder;
        recorder.count("proofs verified");
        recorder.header("verifier", vault, &answer.proved.block.header);
    }

    fn judge(&self, vault: VaultRef, error: &ClientError) {
        let recorder = &self.load.recorder;
        recorder.count("verified reads unanswered");
        match error {
            ClientError::Verification(refused) if self.is_wrong_time(refused) => {
                recorder.count("notes of a wrong time");
            }
            ClientError::Verification(refused) => {
                recorder.violation(format!("a proof of vault {vault} does not hold: {refused}"));
            }
            ClientError::VaultAbsent(_)
            | ClientError::Malformed(_)
            | ClientError::StateDamaged { .. } => {
                recorder.violation(format!("a verified read of vault {vault}: {error}"));
            }
            _ => {}
        }
    }

    /// True if a signature's time is the only thing wrong, which wrong clocks make so.
    fn is_wrong_time(&self, refused: &VerificationError) -> bool {
        let by_time = matches!(
            refused,
            VerificationError::Refused(VerifyError::Count(
                CountError::TooFew { .. } | CountError::BundleExpired { .. }
            ))
        );
        self.clocks_are_wrong && by_time
    }
}

/// The verifier's number among the clients.
const VERIFIER: u32 = 1_000;
