//! The chain of headers and the block log over them.
//!
//! Owns that the chain ends where the vault's row says. Must never hold more than one header and the log's peaks.

use ledger_proof::{BlockHeader, Frontier, hash};
use ledger_types::Digest;

use super::{Check, Halt, IssueKind};
use crate::rows::{LogNodeRow, block_header_key, block_log_node_key};
use crate::view::Family;

impl Check<'_> {
    /// Checks every header and every node of the block log above them.
    pub(super) fn chain(&mut self) -> Result<(), Halt> {
        let mut log = Frontier::new();
        let (mut previous, mut time_ns) = (Digest::ZERO, 0);
        let mut tip = None;
        for height in 0..=self.row.height {
            self.step()?;
            let Some((header, block_hash)) = self.header(height)? else {
                // What follows could only be compared with what is not there.
                return Ok(());
            };
            if header.previous_hash != previous {
                let what = "its header names another block as the one before";
                self.issue(height, IssueKind::Chain, what)?;
            }
            if header.timestamp_ns < time_ns {
                let what = "its time is before that of the block before";
                self.issue(height, IssueKind::Chain, what)?;
            }
            let mut nodes = Vec::new();
            log.append(block_hash, |level, index, node| nodes.push((level, index, node)));
            self.log_nodes(height, &nodes)?;
            (previous, time_ns) = (block_hash, header.timestamp_ns);
            tip = Some((header, block_hash));
        }
        let row = self.row;
        let Some((header, block_hash)) = tip else { return Ok(()) };
        let named = (row.block_hash, row.state_root, row.state_keys, row.block_time_ns);
        if (block_hash, header.state_root, header.state_keys, header.timestamp_ns) != named {
            let what = "the vault's row names another tip than the last header";
            self.issue(row.height, IssueKind::VaultRow, what)?;
        }
        if (log.size(), log.root()) != (row.log_size, row.log_root) {
            let what = "the vault's row names another size or root of the block log";
            self.issue(row.height, IssueKind::VaultRow, what)?;
        }
        Ok(())
    }

    /// A block's header and its hash; `None`, and an issue, if it is not there or another one.
    pub(super) fn header(&mut self, height: u64) -> Result<Option<(BlockHeader, Digest)>, Halt> {
        let found = self.view.get(Family::Blocks, &block_header_key(self.vault, height));
        let bytes = match found {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                self.issue(height, IssueKind::Chain, "its header is missing")?;
                return Ok(None);
            }
            Err(fault) => {
                self.fault(height, &fault)?;
                return Ok(None);
            }
        };
        match BlockHeader::decode(&bytes) {
            Ok(header) if (header.vault, header.height) == (self.vault, height) => {
                Ok(Some((header, hash::leaf(&bytes))))
            }
            Ok(_) => {
                self.issue(height, IssueKind::Chain, "its header is that of another block")?;
                Ok(None)
            }
            Err(error) => {
                self.issue(height, IssueKind::Unreadable, format!("its header: {error}"))?;
                Ok(None)
            }
        }
    }

    /// Compares the nodes that a block completes; the leaves are the headers' hashes and not stored.
    fn log_nodes(&mut self, height: u64, nodes: &[(u8, u64, Digest)]) -> Result<(), Halt> {
        for (level, index, node) in nodes.iter().copied().filter(|(level, ..)| *level > 0) {
            self.step()?;
            let key = block_log_node_key(self.vault, LogNodeRow { level, index });
            match self.view.get(Family::Blocks, &key) {
                Ok(stored) if stored.as_deref() == Some(&node.0[..]) => {}
                Ok(_) => {
                    let what = format!("node {index} of level {level} is not that of its headers");
                    self.issue(height, IssueKind::BlockLog, what)?;
                }
                Err(fault) => self.fault(height, &fault)?,
            }
        }
        Ok(())
    }
}
