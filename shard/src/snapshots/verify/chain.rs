//! A vault's blocks in a received snapshot: the chain of headers, the block log, the bodies.
//!
//! Owns that the chain ends where the vault's row says and that nothing on the way is missing. Must never
//! hold more than a few rows at a time.

use ledger_proof::{BlockHeader, Frontier, SignedNote, hash, tx_tree};
use ledger_shard_core::rows::{
    LogNodeRow, VaultRow, block_body_key, block_header_key, block_log_node_key, checkpoint_key,
    decode_body, decode_checkpoint,
};
use ledger_shard_core::view::Family;
use ledger_types::{Digest, VaultRef};

use super::super::error::{SnapshotError, VerifyError};
use super::super::staged_rows::{Cursor, StagedRows};
use super::row_error;

/// Checks a vault's rows of the blocks family; tells how many are as they must be.
pub(super) fn check(
    rows: &StagedRows,
    vault: VaultRef,
    row: &VaultRow,
) -> Result<u64, SnapshotError> {
    let chain = Chain { rows, vault, row };
    Ok(chain.headers()? + chain.log_nodes()? + chain.bodies()? + chain.checkpoints()?)
}

struct Chain<'a> {
    rows: &'a StagedRows,
    vault: VaultRef,
    row: &'a VaultRow,
}

impl<'a> Chain<'a> {
    /// Every header from genesis to the tip, each naming the one before, and the roots at the end.
    fn headers(&self) -> Result<u64, SnapshotError> {
        let Chain { vault, row, .. } = *self;
        let anchor = &row.tree_anchor;
        let mut headers = self.header_rows(0);
        let mut frontier = Frontier::new();
        let (mut previous_hash, mut time_ns) = (Digest::ZERO, 0);
        for height in 0..=row.height {
            let (header, block_hash) = self.next_header(&mut headers, height)?;
            let wrong = |what| VerifyError::Chain { vault, height, what };
            if header.previous_hash != previous_hash {
                return Err(wrong("its header names another block as the one before").into());
            }
            if header.timestamp_ns < time_ns {
                return Err(wrong("its time is before that of the block before").into());
            }
            let is_anchor = height == anchor.height;
            if is_anchor
                && (header.state_root, header.state_keys) != (anchor.root, anchor.leaf_count)
            {
                return Err(wrong("the stored state tree has another root").into());
            }
            frontier.append(block_hash, |_, _, _| {});
            (previous_hash, time_ns) = (block_hash, header.timestamp_ns);
            if height == row.height {
                let state = (header.state_root, header.state_keys, header.timestamp_ns);
                let is_tip = block_hash == row.block_hash
                    && state == (row.state_root, row.state_keys, row.block_time_ns);
                if !is_tip {
                    return Err(wrong("it is not the tip that the vault's row names").into());
                }
            }
        }
        let height = row.height;
        if anchor.height > height {
            let what = "the stored state tree is of a later block";
            return Err(VerifyError::Chain { vault, height, what }.into());
        }
        if (frontier.size(), frontier.root()) != (row.log_size, row.log_root) {
            let what = "the block log has another size or root than its headers";
            return Err(VerifyError::BlockLog { vault, what }.into());
        }
        Ok(frontier.size())
    }

    /// Every node of the block log that is stored, from the level below it.
    fn log_nodes(&self) -> Result<u64, SnapshotError> {
        let Chain { vault, row, .. } = *self;
        let mut count = 0;
        for level in (1..64).take_while(|level| row.log_size >> level > 0) {
            let mut nodes = self.level_rows(level);
            let mut below = match level {
                1 => self.header_rows(0),
                _ => self.level_rows(level - 1),
            };
            for index in 0..row.log_size >> level {
                let left = self.leaf_or_node(&mut below, level)?;
                let right = self.leaf_or_node(&mut below, level)?;
                let key = block_log_node_key(vault, LogNodeRow { level, index });
                let found = nodes.next()?.filter(|(found, _)| *found == key);
                let found = found.and_then(|(_, value)| Digest::from_slice(value));
                if found != Some(hash::node(&left, &right)) {
                    let what = "a node of the block log is missing or is not that of its headers";
                    return Err(VerifyError::BlockLog { vault, what }.into());
                }
                count += 1;
            }
        }
        Ok(count)
    }

    /// The bodies that a state tree catching up, a retry and a reader may ask for, each the one that its
    /// header commits to; those that are kept beyond that too.
    fn bodies(&self) -> Result<u64, SnapshotError> {
        let Chain { vault, row, .. } = *self;
        // Genesis has no body.
        let kept_from = row.retention_floor.min(row.session_floor_height);
        let needed_from = (row.tree_anchor.height + 1).min(kept_from).max(1);
        let (from, to) = (block_body_key(vault, 0), self.tag_end(block_body_key(vault, 0)));
        let mut bodies = self.rows.range(Family::Blocks, &from, &to);
        let mut headers: Option<Cursor<'a>> = None;
        let (mut next, mut count) = (0, 0);
        while let Some((key, value)) = bodies.next()? {
            let height = key.get(VaultRef::LEN + 1..).and_then(|height| height.try_into().ok());
            let height = height.map(u64::from_be_bytes).filter(|&height| height <= row.height);
            let Some(height) = height else {
                return Err(VerifyError::ForeignRows { family: Family::Blocks }.into());
            };
            if height != next && height > needed_from {
                let height = next.max(needed_from);
                return Err(VerifyError::Body { vault, height, what: "is missing" }.into());
            }
            // Bodies may begin above genesis, headers are then read from there on.
            if height != next || headers.is_none() {
                headers = Some(self.header_rows(height));
            }
            let headers = headers.as_mut().expect("it was just set");
            let (header, _) = self.next_header(headers, height)?;
            let transactions = decode_body(value).map_err(row_error(vault, Family::Blocks))?;
            let leaves: Vec<Digest> =
                transactions.iter().map(|bytes| tx_tree::tx_leaf(bytes)).collect();
            let committed = (header.tx_root, header.tx_count as usize);
            if (tx_tree::tx_root(&leaves), leaves.len()) != committed {
                let what = "is not the one that its header commits to";
                return Err(VerifyError::Body { vault, height, what }.into());
            }
            next = height + 1;
            count += 1;
        }
        if next <= row.height && needed_from <= row.height {
            let height = next.max(needed_from);
            return Err(VerifyError::Body { vault, height, what: "is missing" }.into());
        }
        Ok(count)
    }

    /// Every signed checkpoint that is kept is over the log of these headers. Whose signatures it bears is not
    /// looked at: the roots are the same whoever signed them.
    fn checkpoints(&self) -> Result<u64, SnapshotError> {
        let Chain { vault, row, .. } = *self;
        let (from, to) = (checkpoint_key(vault, 0), self.tag_end(checkpoint_key(vault, 0)));
        let mut kept = self.rows.range(Family::Blocks, &from, &to);
        let mut headers = self.header_rows(0);
        let mut frontier = Frontier::new();
        let mut count = 0;
        while let Some((key, value)) = kept.next()? {
            let wrong = |what| VerifyError::BlockLog { vault, what };
            let note = decode_checkpoint(value).map_err(row_error(vault, Family::Blocks))?;
            let checkpoint = SignedNote::parse(note).and_then(|note| note.checkpoint());
            let checkpoint = checkpoint.map_err(|_| wrong("a signed checkpoint is malformed"))?;
            let size = checkpoint.size;
            let is_of_this_log =
                checkpoint.origin.vault == vault && key == checkpoint_key(vault, size);
            if !is_of_this_log || size > row.log_size {
                return Err(wrong("a signed checkpoint is of another log").into());
            }
            while frontier.size() < size {
                let (_, block_hash) = self.next_header(&mut headers, frontier.size())?;
                frontier.append(block_hash, |_, _, _| {});
            }
            if frontier.root() != checkpoint.root {
                return Err(wrong("a signed checkpoint contradicts the headers").into());
            }
            count += 1;
        }
        Ok(count)
    }

    fn header_rows(&self, from: u64) -> Cursor<'a> {
        let to = block_header_key(self.vault, self.row.height.saturating_add(1));
        self.rows.range(Family::Blocks, &block_header_key(self.vault, from), &to)
    }

    fn level_rows(&self, level: u8) -> Cursor<'a> {
        let key = |level| block_log_node_key(self.vault, LogNodeRow { level, index: 0 });
        self.rows.range(Family::Blocks, &key(level), &key(level + 1))
    }

    /// The first key behind all keys with the tag of this one.
    fn tag_end(&self, mut key: Vec<u8>) -> Vec<u8> {
        key.truncate(VaultRef::LEN + 1);
        key[VaultRef::LEN] += 1;
        key
    }

    /// The header of block `height`, which comes next, and the block's hash.
    fn next_header(
        &self,
        rows: &mut Cursor<'_>,
        height: u64,
    ) -> Result<(BlockHeader, Digest), SnapshotError> {
        let vault = self.vault;
        let missing = VerifyError::Chain { vault, height, what: "its header is missing" };
        let Some((key, value)) = rows.next()? else { return Err(missing.into()) };
        if key != block_header_key(vault, height) {
            return Err(missing.into());
        }
        let header = BlockHeader::decode(value).map_err(row_error(vault, Family::Blocks))?;
        if (header.vault, header.height) != (vault, height) {
            let what = "its header is that of another block";
            return Err(VerifyError::Chain { vault, height, what }.into());
        }
        Ok((header, hash::leaf(value)))
    }

    /// The next hash of the level below `level`. That the row is the right one was checked when the level
    /// below was.
    fn leaf_or_node(&self, rows: &mut Cursor<'_>, level: u8) -> Result<Digest, SnapshotError> {
        let what = "a level of the block log has a hole";
        let missing = VerifyError::BlockLog { vault: self.vault, what };
        let found = rows.next()?.and_then(|(_, value)| match level {
            1 => Some(hash::leaf(value)),
            _ => Digest::from_slice(value),
        });
        Ok(found.ok_or(missing)?)
    }
}
