//! An audit of one vault: its chain replayed from genesis, compared with a checkpoint that counts, with
//! every replica and, if asked for, with the values that replicas hold.
//!
//! Owns the order of the work and the verdict. What a block must be is the replay's to say, whose
//! signatures count is the verified read's. An answer that does not come is an obstacle and never a
//! finding. Must never take a chain for the truth that has another root than the checkpoint, if there is a
//! replica with a better one.

mod chain;
mod finding;
mod members;
mod replicas;
mod values;

use ledger_proof::{FindingKind, KnownCheckpoint, SignedNote};
use ledger_types::{Digest, StateKey, VaultRef};

use crate::client::Client;
use crate::error::ClientError;
use crate::read::Tip;
use crate::verified::VerifiedOptions;
use crate::watch::BlockNotice;
use chain::{Attempt, ReplicaReader};
use finding::{Meaning, meaning};
use replicas::{Truth, bad_signers};

pub use finding::{AuditFinding, AuditFindingKind, Obstacle, Verdict};
pub use members::{Member, Signer};

/// What an audit looks at besides the chain itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AuditOptions {
    /// Read every block of every replica; otherwise only the newest common one.
    pub all_blocks: bool,
    /// Compare the entities and relationships that replicas hold with the replayed state.
    pub values: bool,
}

/// What was found out about a replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaReport {
    /// The node.
    pub member: Member,
    /// Its newest block when it was asked.
    pub tip: Option<Tip>,
    /// Blocks of it that were compared.
    pub blocks_compared: u64,
    /// Keys of it that were compared with the replayed state.
    pub keys_compared: u64,
    /// Blocks in the note that it gave out itself, if it did.
    pub note_size: Option<u64>,
    /// Who signed that note.
    pub signers: Vec<Signer>,
    /// What there is to say about it.
    pub verdict: Verdict,
}

/// The audit of one vault. Steps can be repeated as the vault grows.
pub struct Audit {
    client: Client,
    vault: VaultRef,
    options: AuditOptions,
    /// Number of the trust bundle.
    bundle_sequence: Option<u64>,
    checkpoint: Option<KnownCheckpoint>,
    signers: Vec<Signer>,
    members: Vec<Member>,
    /// The chain that was replayed, and which member showed it.
    accepted: Option<(Attempt, Member)>,
    /// The checkpoint's root is that of the replay.
    is_signed: bool,
    replicas: Vec<ReplicaReport>,
    findings: Vec<AuditFinding>,
    obstacles: Vec<Obstacle>,
}

/// Progress of a long step, for people and logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Blocks replayed.
    pub blocks: u64,
    /// Blocks in the checkpoint.
    pub of: u64,
}

impl Audit {
    /// Begins an audit. Nothing is asked yet.
    pub fn new(client: Client, vault: VaultRef, options: AuditOptions) -> Audit {
        Audit {
            client,
            vault,
            options,
            bundle_sequence: None,
            checkpoint: None,
            signers: Vec::new(),
            members: Vec::new(),
            accepted: None,
            is_signed: false,
            replicas: Vec::new(),
            findings: Vec::new(),
            obstacles: Vec::new(),
        }
    }

    /// The whole of it, once: checkpoint, chain, replicas, values. What keeps a step from being taken is
    /// among the obstacles afterwards. If the future is dropped on the way, the next run begins at genesis.
    pub async fn run(&mut self, told: impl FnMut(Progress)) {
        self.obstacles.clear();
        if let Err(error) = self.fetch_checkpoint().await {
            return self.note(None, &error);
        }
        self.replay(told).await;
        self.compare_replicas().await;
    }

    /// Gets a checkpoint that counts, and who holds the vault. A fork is a finding; its notes are kept in
    /// the client's state directory. Errors: it cannot be had, or is not believed.
    async fn fetch_checkpoint(&mut self) -> Result<(), ClientError> {
        let bundle = self.client.trust_bundle().await?;
        self.bundle_sequence = Some(bundle.sequence);
        self.members = members::members(&self.client, self.vault).await?;
        // Any key will do: what counts is the note that the answer comes with.
        let key = StateKey::entity("audit");
        let options = VerifiedOptions::linearizable();
        let read = self.client.verified_get(self.vault, &[key], options).await?;
        let checkpoint = read.proved.block.checkpoint;
        // The newest bundle, if the read has followed links to one.
        let bundle = self.client.trust_bundle().await?;
        self.bundle_sequence = Some(bundle.sequence);
        if let Ok(note) = SignedNote::parse(&checkpoint.note) {
            self.signers = members::signers(&note, &bundle, &self.members);
            let bad = bad_signers(&self.signers).map(|kind| AuditFinding {
                node: None,
                height: None,
                transaction: None,
                operation: None,
                kind,
            });
            self.findings.extend(bad);
        }
        self.checkpoint = Some(checkpoint);
        Ok(())
    }

    /// Brings the replay to the checkpoint: from where it is, or from genesis on with one replica after
    /// the other until one shows the signed log without a finding.
    async fn replay(&mut self, mut told: impl FnMut(Progress)) {
        let Some(checkpoint) = self.checkpoint.clone() else { return };
        let of = checkpoint.size;
        let mut told = |blocks| told(Progress { blocks, of });
        if let Some((mut attempt, source)) = self.accepted.take() {
            let others = self.members.iter().filter(|member| **member != source).cloned();
            for member in std::iter::once(source.clone()).chain(others.collect::<Vec<_>>()) {
                match self.read_on(&mut attempt, &member, of, &mut told).await {
                    Ok(()) => break,
                    Err(error) => self.note(Some(&member.name), &error),
                }
            }
            let is_whole = attempt.replay.size() >= of;
            self.is_signed = is_whole && attempt.log_root_at(of) == checkpoint.root;
            if !is_whole || self.is_signed && attempt.findings.is_empty() {
                self.accepted = Some((attempt, source));
                return;
            }
        }
        self.replay_anew(&checkpoint, &mut told).await;
    }

    async fn replay_anew(&mut self, checkpoint: &KnownCheckpoint, told: &mut impl FnMut(u64)) {
        let of = checkpoint.size;
        self.is_signed = false;
        let mut best: Option<(Attempt, Member)> = None;
        for member in self.members.clone() {
            let mut attempt = Attempt::new(self.vault);
            if let Err(error) = self.read_on(&mut attempt, &member, of, told).await {
                self.note(Some(&member.name), &error);
                // What it showed until then counts only if nobody shows more.
                if attempt.findings.is_empty() {
                    continue;
                }
            }
            let is_whole = attempt.replay.size() == of;
            if is_whole && let Some(finding) = attempt.replay.check_checkpoint(&as_text(checkpoint))
            {
                attempt.findings.push(AuditFinding::of_chain(Some(&member.name), finding));
            }
            let is_signed = is_whole && attempt.replay.log_root() == checkpoint.root;
            if is_signed && attempt.findings.is_empty() {
                self.is_signed = true;
                self.accepted = Some((attempt, member));
                return;
            }
            let is_better = match &best {
                None => true,
                Some((before, _)) => attempt.findings.len() < before.findings.len(),
            };
            if is_signed && !self.is_signed || is_signed == self.is_signed && is_better {
                self.is_signed = is_signed;
                best = Some((attempt, member));
            }
        }
        // Nobody shows a chain without a finding: what the best one shows is what is wrong. If it is the
        // signed log, with the transactions that its headers commit to, it is no single node's doing.
        if let Some((attempt, member)) = best {
            let is_everybodys = self.is_signed && !attempt.findings.iter().any(is_of_one_node);
            self.findings.extend(attempt.findings.iter().cloned().map(|finding| AuditFinding {
                node: finding.node.filter(|_| !is_everybodys),
                ..finding
            }));
            self.accepted = Some((attempt, member));
        }
    }

    /// Replays what a member shows, up to `size` blocks, which it is waited for.
    async fn read_on(
        &self,
        attempt: &mut Attempt,
        member: &Member,
        size: u64,
        told: &mut impl FnMut(u64),
    ) -> Result<(), ClientError> {
        let reader = ReplicaReader { client: &self.client, member, vault: self.vault };
        reader.wait_for(size).await?;
        attempt.go_on(&reader, size, told).await
    }

    /// Takes in a block that was announced: replays up to it and compares it with the announcement.
    /// Nothing happens before a first run has accepted a chain.
    pub async fn follow(&mut self, notice: &BlockNotice) {
        let Some((mut attempt, source)) = self.accepted.take() else { return };
        let known = attempt.findings.len();
        let size = notice.height + 1;
        if let Err(error) = self.read_on(&mut attempt, &source, size, &mut |_| {}).await {
            self.note(Some(&source.name), &error);
        }
        self.findings.extend(attempt.findings[known..].iter().cloned());
        if let Some(&expected) = attempt.hashes.get(notice.height as usize)
            && expected != notice.block_hash
        {
            let kind = AuditFindingKind::OtherBlock { expected, found: notice.block_hash };
            let finding = AuditFinding::at(&source.name, notice.height, kind);
            self.findings.push(AuditFinding { node: None, ..finding });
        }
        self.accepted = Some((attempt, source));
    }

    /// Compares every replica with the replayed chain.
    async fn compare_replicas(&mut self) {
        self.replicas.clear();
        let Some((attempt, source)) = self.accepted.take() else {
            let silent = self
                .members
                .iter()
                .cloned()
                .map(|member| ReplicaReport::new(member, Verdict::Unavailable));
            self.replicas = silent.collect();
            return;
        };
        let bundle = match self.client.trust_bundle().await {
            Ok(bundle) => bundle,
            Err(error) => return self.note(None, &error),
        };
        for member in self.members.clone() {
            let truth = Truth {
                vault: self.vault,
                attempt: &attempt,
                bundle: &bundle,
                members: &self.members,
                // What the source shows has been read already, block by block.
                all_blocks: self.options.all_blocks && member != source,
            };
            let mut report = ReplicaReport::new(member.clone(), Verdict::Verified);
            let mut findings = Vec::new();
            let mut went =
                replicas::compare(&self.client, truth, &member, &mut report, &mut findings).await;
            if self.options.values && went.is_ok() {
                let reader =
                    ReplicaReader { client: &self.client, member: &member, vault: self.vault };
                went = match values::compare(&reader, &attempt.replay).await {
                    Ok((compared, more)) => {
                        report.keys_compared = compared;
                        findings.extend(more);
                        Ok(())
                    }
                    Err(error) => Err(error),
                };
            }
            if member == source {
                report.blocks_compared = attempt.replay.size();
            }
            if let Err(error) = went {
                report.verdict = Verdict::Unavailable;
                let before = self.findings.len();
                self.note(Some(&member.name), &error);
                if self.findings.len() > before {
                    report.verdict = Verdict::Tampered;
                }
            }
            let own = |finding: &AuditFinding| finding.node.as_ref() == Some(&member.name);
            if !findings.is_empty() || self.findings.iter().any(own) {
                report.verdict = Verdict::Tampered;
            }
            for finding in findings {
                if !self.findings.contains(&finding) {
                    self.findings.push(finding);
                }
            }
            self.replicas.push(report);
        }
        self.accepted = Some((attempt, source));
    }

    /// Keeps an error as what it means.
    fn note(&mut self, node: Option<&str>, error: &ClientError) {
        let node = node.map(str::to_owned);
        match meaning(error) {
            Meaning::Contradicts(kind) => {
                let (height, transaction, operation) = (None, None, None);
                let finding = AuditFinding { node, height, transaction, operation, kind };
                if !self.findings.contains(&finding) {
                    self.findings.push(finding);
                }
            }
            Meaning::Hinders(message) => {
                let obstacle = Obstacle { node, message };
                if !self.obstacles.contains(&obstacle) {
                    self.obstacles.push(obstacle);
                }
            }
        }
    }

    /// What it comes to, by the last run; findings of earlier runs stay.
    pub fn verdict(&self) -> Verdict {
        if !self.findings.is_empty() {
            return Verdict::Tampered;
        }
        // A run that was dropped on the way has let go of its chain.
        let is_whole = self.is_signed && self.checkpoint.is_some() && self.accepted.is_some();
        match (is_whole, self.obstacles.is_empty()) {
            (false, _) => Verdict::Unavailable,
            (true, false) => Verdict::Incomplete,
            (true, true) => Verdict::Verified,
        }
    }

    /// The vault.
    pub fn vault(&self) -> VaultRef {
        self.vault
    }

    /// Number of the trust bundle that checkpoints were counted with.
    pub fn bundle_sequence(&self) -> Option<u64> {
        self.bundle_sequence
    }

    /// The last checkpoint that counted.
    pub fn checkpoint(&self) -> Option<&KnownCheckpoint> {
        self.checkpoint.as_ref()
    }

    /// Who signed that checkpoint.
    pub fn signers(&self) -> &[Signer] {
        &self.signers
    }

    /// Blocks, transactions, operations and keys replayed, and the state root after them.
    pub fn replayed(&mut self) -> Replayed {
        let Some((attempt, _)) = &mut self.accepted else { return Replayed::default() };
        let replay = &mut attempt.replay;
        Replayed {
            blocks: replay.size(),
            transactions: replay.transaction_count(),
            operations: replay.operation_count(),
            keys: replay.key_count() as u64,
            log_root: replay.log_root(),
            state_root: replay.state_root(),
        }
    }

    /// The replicas, in the order of their nodes.
    pub fn replicas(&self) -> &[ReplicaReport] {
        &self.replicas
    }

    /// Everything that contradicts, of all runs.
    pub fn findings(&self) -> &[AuditFinding] {
        &self.findings
    }

    /// Everything that could not be asked or looked at, of the last run.
    pub fn obstacles(&self) -> &[Obstacle] {
        &self.obstacles
    }
}

/// What a replay has gone through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Replayed {
    /// Blocks, genesis among them.
    pub blocks: u64,
    /// Their transactions.
    pub transactions: u64,
    /// The operations of these.
    pub operations: u64,
    /// Keys that are present after them, the descriptor among them.
    pub keys: u64,
    /// Root of the block log.
    pub log_root: Digest,
    /// Root of the state.
    pub state_root: Digest,
}

impl ReplicaReport {
    fn new(member: Member, verdict: Verdict) -> ReplicaReport {
        ReplicaReport {
            member,
            tip: None,
            blocks_compared: 0,
            keys_compared: 0,
            note_size: None,
            signers: Vec::new(),
            verdict,
        }
    }
}

/// Whether a finding is about what a node adds to signed headers.
fn is_of_one_node(finding: &AuditFinding) -> bool {
    matches!(
        finding.kind,
        AuditFindingKind::ReadableFields(_)
            | AuditFindingKind::Chain(
                FindingKind::TransactionRoot { .. } | FindingKind::TransactionCount { .. }
            )
    )
}

/// The checkpoint without its note.
fn as_text(known: &KnownCheckpoint) -> ledger_proof::Checkpoint {
    let KnownCheckpoint { origin, size, root, .. } = known.clone();
    ledger_proof::Checkpoint { origin, size, root }
}
