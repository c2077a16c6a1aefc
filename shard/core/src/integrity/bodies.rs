//! The transactions of blocks: those that the headers commit to, and what they come to.
//!
//! Owns which blocks are looked at. Must never carry a block out whose transactions are not all there.

use ledger_proof::replay::Replay;
use ledger_proof::{BlockHeader, tx_tree};
use ledger_types::Digest;

use super::{BODIES_QUICK, Check, Halt, IssueKind};
use crate::rows::{block_body_key, block_header_key, decode_body};
use crate::view::Family;

impl Check<'_> {
    /// Checks the transactions of the newest blocks, or of all, which are carried out again then.
    pub(super) fn bodies(&mut self, is_full: bool) -> Result<(), Halt> {
        let tip = self.row.height;
        let first = if is_full { 0 } else { (tip + 1).saturating_sub(BODIES_QUICK) };
        let mut replay = is_full.then(|| Replay::new(self.vault));
        for height in first..=tip {
            self.step()?;
            let whole = self.body(height, replay.as_mut())?;
            if !whole {
                // Later blocks are checked as they are; what they come to is not known any more.
                replay = None;
            }
        }
        if let Some(mut replay) = replay
            && replay.state_root() != self.row.state_root
        {
            let what = "the blocks come to another state root than the tip's";
            self.issue(tip, IssueKind::Replay, what)?;
        }
        Ok(())
    }

    /// Checks one block. True if it could be replayed.
    fn body(&mut self, height: u64, replay: Option<&mut Replay>) -> Result<bool, Halt> {
        let header = self.view.get(Family::Blocks, &block_header_key(self.vault, height));
        // That a header is missing or malformed was told with the chain.
        let Ok(Some(header_bytes)) = header else { return Ok(false) };
        let Ok(header) = BlockHeader::decode(&header_bytes) else { return Ok(false) };
        let body = match self.view.get(Family::Blocks, &block_body_key(self.vault, height)) {
            Ok(body) => body,
            Err(fault) => {
                self.fault(height, &fault)?;
                return Ok(false);
            }
        };
        let Some(body) = body else { return self.without_body(height, &header_bytes, replay) };
        let transactions = match decode_body(&body) {
            Ok(transactions) => transactions,
            Err(error) => {
                self.issue(height, IssueKind::Unreadable, format!("its transactions: {error}"))?;
                return Ok(false);
            }
        };
        let leaves: Vec<Digest> = transactions.iter().map(|tx| tx_tree::tx_leaf(tx)).collect();
        if (tx_tree::tx_root(&leaves), leaves.len()) != (header.tx_root, header.tx_count as usize) {
            let what = "its transactions are not those that its header commits to";
            self.issue(height, IssueKind::Body, what)?;
            return Ok(false);
        }
        self.replay(replay, &header_bytes, &transactions)
    }

    /// A block without stored transactions: the first one has none, and below the retention floor they may be gone.
    fn without_body(
        &mut self,
        height: u64,
        header_bytes: &[u8],
        replay: Option<&mut Replay>,
    ) -> Result<bool, Halt> {
        if height == 0 {
            return self.replay(replay, header_bytes, &[]);
        }
        if height >= self.row.retention_floor {
            self.issue(height, IssueKind::Body, "its transactions are missing")?;
        }
        Ok(false)
    }

    fn replay(
        &mut self,
        replay: Option<&mut Replay>,
        header: &[u8],
        transactions: &[&[u8]],
    ) -> Result<bool, Halt> {
        let Some(replay) = replay else { return Ok(false) };
        for finding in replay.block(header, transactions) {
            self.issue(finding.height, IssueKind::Replay, finding.kind.to_string())?;
        }
        Ok(true)
    }
}
