//! The present keys and their root.
//!
//! Owns the comparison of every stored key with its record, and of all of them with the tip. Must never read the
//! stored tree: the root is computed from the keys alone.

use ledger_proof::{Record, hash};
use ledger_types::{StateKey, VaultRef};

use super::{Check, Halt, IssueKind, StateRoot};
use crate::rows::{latest_key, prefix_end, split_latest};
use crate::view::Family;

/// Keys read at once.
const KEYS_AT_ONCE: usize = 1_024;
/// Bytes of values read at once; one more value may be over it.
const BYTES_AT_ONCE: usize = 1 << 20;

impl Check<'_> {
    /// Checks every present key.
    pub(super) fn state(&mut self) -> Result<(), Halt> {
        let mut from = latest_key(self.vault, &[]);
        let end = prefix_end(&from);
        let (mut root, mut count) = (StateRoot::default(), 0u64);
        loop {
            let (mut rows, mut bytes) = (Vec::new(), 0);
            let read = self.view.scan(Family::Latest, &from, &end, &mut |key, value| {
                bytes += value.len();
                rows.push((key.to_vec(), value.to_vec()));
                rows.len() < KEYS_AT_ONCE && bytes < BYTES_AT_ONCE
            });
            if let Err(fault) = read {
                return self.fault(self.row.height, &fault);
            }
            let Some((last, _)) = rows.last() else { break };
            from = [last, &[0][..]].concat();
            for (key, value) in &rows {
                self.step()?;
                count += 1;
                if !self.key(&key[VaultRef::LEN..], value, &mut root)? {
                    // Without one key's record there is no root of all.
                    return Ok(());
                }
            }
        }
        if (count, root.finish()) != (self.row.state_keys, self.row.state_root) {
            let what = "the stored keys do not have the root or number that the tip commits to";
            self.issue(self.row.height, IssueKind::StateRoot, what)?;
        }
        Ok(())
    }

    /// Checks one key and takes it into the root. False if its record cannot be read.
    fn key(&mut self, key: &[u8], value: &[u8], root: &mut StateRoot) -> Result<bool, Halt> {
        let tip = self.row.height;
        let split = split_latest(value).filter(|_| StateKey::from_bytes(key).is_some());
        let Some((record, value)) = split else {
            self.issue(tip, IssueKind::Unreadable, "a stored key or its record is malformed")?;
            return Ok(false);
        };
        let decoded = match Record::decode(record) {
            Ok(decoded) => decoded,
            Err(error) => {
                self.issue(tip, IssueKind::Unreadable, format!("a record: {error}"))?;
                return Ok(false);
            }
        };
        let height = decoded.modified_height.min(tip);
        if decoded.value_hash != hash::plain(value) {
            let what = "a value is not the one that its record commits to";
            self.issue(height, IssueKind::Record, what)?;
        }
        if decoded.modified_height > tip {
            self.issue(tip, IssueKind::Record, "a record is of a block after the tip")?;
        }
        root.push(key, hash::plain(record));
        Ok(true)
    }
}
