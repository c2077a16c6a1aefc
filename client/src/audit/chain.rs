//! Reading a chain from one replica, range by range, and what each block of it is. Holds the bodies of one
//! answer at a time. Must never take another node's answer for the replica's.

use std::time::Duration;

use ledger_proof::block_log::Frontier;
use ledger_proof::{Replay, hash};
use ledger_proto::convert::block;
use ledger_proto::v1;
use ledger_types::{Digest, VaultRef};

use super::finding::{AuditFinding, AuditFindingKind};
use super::members::Member;
use crate::client::Client;
use crate::error::ClientError;
use crate::method;
use crate::read::{Tip, tip_of};
use crate::retry::Backoff;
use crate::write::wire_vault;

/// Blocks asked for at a time; an answer holds fewer if they are large.
const RANGE_BLOCKS: u64 = 1_000;
/// Findings after which one look at a replica ends: more would tell nothing new.
pub(super) const FINDINGS_MAX: usize = 200;

/// A block as the bytes that are hashed.
pub(super) struct RawBlock {
    pub header: Vec<u8>,
    pub transactions: Vec<Vec<u8>>,
    /// What its readable fields say otherwise.
    pub contradiction: Option<String>,
}

impl RawBlock {
    fn new(wire: v1::Block) -> RawBlock {
        let header = wire.header.unwrap_or_default();
        let mut contradiction = block::header(&header).err().map(|error| error.to_string());
        for transaction in &wire.transactions {
            let error = || block::transaction(transaction).err().map(|error| error.to_string());
            contradiction = contradiction.or_else(error);
        }
        let bytes = |transaction: v1::Transaction| transaction.canonical;
        let transactions = wire.transactions.into_iter().map(bytes).collect();
        RawBlock { header: header.canonical, transactions, contradiction }
    }

    /// The block hash.
    pub(super) fn hash(&self) -> Digest {
        hash::leaf(&self.header)
    }

    /// Root over the transactions.
    pub(super) fn transaction_root(&self) -> Digest {
        let mut tree = Frontier::new();
        for bytes in &self.transactions {
            tree.append(hash::leaf(bytes), |_, _, _| {});
        }
        tree.root()
    }
}

/// One vault on one replica. Each question is repeated until the client's deadline.
pub(super) struct ReplicaReader<'a> {
    pub client: &'a Client,
    pub member: &'a Member,
    pub vault: VaultRef,
}

impl ReplicaReader<'_> {
    /// The replica's newest block.
    pub(super) async fn tip(&self) -> Result<Tip, ClientError> {
        let (namespace_id, vault_id) = wire_vault(self.vault)?;
        let request = v1::GetTipRequest { namespace_id, vault_id };
        self.ask(async || {
            tip_of(self.client.call_replica(method::GET_TIP, self.address(), &request).await?)
        })
        .await
    }

    /// Blocks from `first` on, at least one and none from `end` on.
    pub(super) async fn blocks(&self, first: u64, end: u64) -> Result<Vec<RawBlock>, ClientError> {
        let (namespace_id, vault_id) = wire_vault(self.vault)?;
        let end_height = end.min(first + RANGE_BLOCKS) - 1;
        let start_height = first;
        let request = v1::GetBlockRangeRequest { namespace_id, vault_id, start_height, end_height };
        let asked = async || {
            let method = method::GET_BLOCK_RANGE;
            self.client.call_replica(method, self.address(), &request).await
        };
        let blocks = self.ask(asked).await?.blocks;
        if blocks.is_empty() || blocks.len() as u64 > end_height - first + 1 {
            return Err(ClientError::Malformed("blocks"));
        }
        Ok(blocks.into_iter().map(RawBlock::new).collect())
    }

    /// Waits until the replica has `size` blocks. Errors: it has not, within the client's deadline.
    pub(super) async fn wait_for(&self, size: u64) -> Result<Tip, ClientError> {
        let mut backoff = Backoff::new(&self.client.inner.config.retry);
        let waiting = async {
            loop {
                let tip = self.tip().await?;
                if tip.height + 1 >= size {
                    return Ok(tip);
                }
                tokio::time::sleep(backoff.wait()).await;
            }
        };
        match tokio::time::timeout(self.client.deadline, waiting).await {
            Ok(answered) => answered,
            Err(_) => self.tip().await.and_then(|tip| {
                let message = format!("it has {} of {size} blocks", tip.height + 1);
                Err(ClientError::Unreachable { address: self.address().to_owned(), message })
            }),
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.member.address
    }

    /// Asks until there is an answer or the deadline has passed. What is malformed is an answer.
    pub(super) async fn ask<R>(
        &self,
        asked: impl AsyncFn() -> Result<R, ClientError>,
    ) -> Result<R, ClientError> {
        let mut backoff = Backoff::new(&self.client.inner.config.retry);
        let begun = std::time::Instant::now();
        loop {
            let error = match asked().await {
                Err(error @ (ClientError::Unreachable { .. } | ClientError::Server(_))) => error,
                answered => return answered,
            };
            let pause: Duration = backoff.wait();
            if !may_pass(&error) || begun.elapsed() + pause >= self.client.deadline {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// Whether asking again may help.
fn may_pass(error: &ClientError) -> bool {
    match error {
        ClientError::Server(error) => matches!(
            error.code,
            tonic::Code::Unavailable
                | tonic::Code::ResourceExhausted
                | tonic::Code::DeadlineExceeded
        ),
        _ => true,
    }
}

/// A replay of what one replica shows.
pub(super) struct Attempt {
    pub replay: Replay,
    /// Block hashes, by height: 32 bytes a block.
    pub hashes: Vec<Digest>,
    pub findings: Vec<AuditFinding>,
}

impl Attempt {
    pub(super) fn new(vault: VaultRef) -> Attempt {
        Attempt { replay: Replay::new(vault), hashes: Vec::new(), findings: Vec::new() }
    }

    /// Replays up to `size` blocks, and stops early only where so much is wrong that more tells nothing.
    pub(super) async fn go_on(
        &mut self,
        reader: &ReplicaReader<'_>,
        size: u64,
        mut told: impl FnMut(u64),
    ) -> Result<(), ClientError> {
        while self.replay.size() < size && self.findings.len() < FINDINGS_MAX {
            for block in reader.blocks(self.replay.size(), size).await? {
                self.take(&reader.member.name, &block);
            }
            told(self.replay.size());
        }
        Ok(())
    }

    fn take(&mut self, node: &str, block: &RawBlock) {
        let height = self.replay.size();
        if let Some(text) = &block.contradiction {
            let kind = AuditFindingKind::ReadableFields(text.clone());
            self.findings.push(AuditFinding::at(node, height, kind));
        }
        let found = self.replay.block(&block.header, &block.transactions);
        self.findings
            .extend(found.into_iter().map(|finding| AuditFinding::of_chain(Some(node), finding)));
        self.hashes.push(self.replay.tip_hash());
    }

    /// The log's root when it had `size` blocks, which are there.
    pub(super) fn log_root_at(&self, size: u64) -> Digest {
        let mut log = Frontier::new();
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        self.hashes.iter().take(size).for_each(|hash| log.append(*hash, |_, _, _| {}));
        log.root()
    }
}
