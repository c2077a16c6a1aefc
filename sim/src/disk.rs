//! A node's disk: rows, batches that are written and not synced, and rows whose bits have flipped.
//!
//! Owns what a crash leaves. A batch is whole or gone, as with the real store, whose records carry
//! checksums. Must never give out a damaged row: its checksum shows the damage.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ledger_proof::ReadFault;
use ledger_shard_core::rows::{VAULT_FAMILIES, vault_range};
use ledger_shard_core::view::{Family, RowWrite, StateView};
use ledger_types::VaultRef;

/// Why a damaged row is not given out.
pub(crate) const DAMAGE: ReadFault = ReadFault::Corrupt { what: "a row has another checksum" };

/// A row as it was before a batch.
type Before = (Family, Vec<u8>, Option<Vec<u8>>);

struct Batch {
    number: u64,
    before: Vec<Before>,
}

/// Rows of a node, in memory in place of a disk.
#[derive(Default)]
pub(crate) struct Disk {
    families: [BTreeMap<Vec<u8>, Vec<u8>>; 8],
    unsynced: VecDeque<Batch>,
    batches: u64,
    damaged: BTreeSet<(Family, Vec<u8>)>,
}

impl Disk {
    /// Writes a batch: readable at once, durable with the next sync. Tells its number.
    pub(crate) fn write(&mut self, rows: impl IntoIterator<Item = RowWrite>) -> u64 {
        let mut before = Vec::new();
        for row in rows {
            if !self.damaged.is_empty() {
                self.damaged.remove(&(row.family, row.key.clone()));
            }
            let family = &mut self.families[row.family as usize];
            let old = match row.value {
                Some(value) => family.insert(row.key.clone(), value),
                None => family.remove(&row.key),
            };
            before.push((row.family, row.key, old));
        }
        self.batches += 1;
        self.unsynced.push_back(Batch { number: self.batches, before });
        self.batches
    }

    /// Writes a round of the state machine as one batch: the rows of these vaults go, then rows come and go.
    pub(crate) fn write_round(&mut self, erased: &[VaultRef], rows: Vec<RowWrite>) -> u64 {
        let mut batch = Vec::new();
        for &vault in erased {
            let (from, to) = vault_range(vault);
            for family in VAULT_FAMILIES {
                let gone = self.range(family, &from, &to).map(|(key, _)| key.to_vec());
                batch.extend(gone.map(|key| RowWrite { family, key, value: None }));
            }
        }
        batch.extend(rows);
        self.write(batch)
    }

    /// Writes rows past the log of writes; durable at once, as after a flush. For rows that no unsynced
    /// batch has touched.
    pub(crate) fn write_flushed(&mut self, rows: impl IntoIterator<Item = RowWrite>) {
        for row in rows {
            let family = &mut self.families[row.family as usize];
            match row.value {
                Some(value) => drop(family.insert(row.key, value)),
                None => drop(family.remove(&row.key)),
            }
        }
    }

    /// The number of the last batch.
    pub(crate) fn last_batch(&self) -> u64 {
        self.batches
    }

    /// Batches that are not durable.
    pub(crate) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Everything up to this batch is durable.
    pub(crate) fn synced(&mut self, number: u64) {
        while self.unsynced.front().is_some_and(|batch| batch.number <= number) {
            self.unsynced.pop_front();
        }
    }

    /// Everything is durable.
    pub(crate) fn sync(&mut self) {
        self.unsynced.clear();
    }

    /// The power goes: of the batches that are not durable, the first `kept` stay.
    pub(crate) fn crash(&mut self, kept: usize) {
        while self.unsynced.len() > kept {
            let batch = self.unsynced.pop_back().expect("just counted");
            for (family, key, value) in batch.before.into_iter().rev() {
                let rows = &mut self.families[family as usize];
                match value {
                    Some(value) => drop(rows.insert(key, value)),
                    None => drop(rows.remove(&key)),
                }
            }
        }
        self.unsynced.clear();
    }

    /// Flips bits in one of the durable rows, counted over all families. False if there are none.
    pub(crate) fn damage(&mut self, pick: u64) -> bool {
        let count: usize = self.families.iter().map(BTreeMap::len).sum();
        let Some(mut place) = (pick as usize).checked_rem(count) else { return false };
        for family in Family::ALL {
            let rows = &self.families[family as usize];
            if let Some(key) = rows.keys().nth(place) {
                self.damaged.insert((family, key.clone()));
                return true;
            }
            place -= rows.len();
        }
        false
    }

    /// True if a row is damaged, known or not.
    pub(crate) fn is_damaged(&self) -> bool {
        !self.damaged.is_empty()
    }

    /// The rows of a range, damaged or not.
    pub(crate) fn range<'a>(
        &'a self,
        family: Family,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], &'a [u8])> {
        use std::ops::Bound::{Excluded, Included};
        let rows = &self.families[family as usize];
        let range = rows.range::<[u8], _>((Included(from), Excluded(to)));
        range.map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    fn check(&self, family: Family, key: &[u8]) -> Result<(), ReadFault> {
        if self.damaged.is_empty() || !self.damaged.contains(&(family, key.to_vec())) {
            return Ok(());
        }
        Err(DAMAGE)
    }
}

impl StateView for Disk {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, ReadFault> {
        self.check(family, key)?;
        Ok(self.families[family as usize].get(key).cloned())
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ReadFault> {
        for (key, value) in self.range(family, from, to) {
            self.check(family, key)?;
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: u8, value: u8) -> RowWrite {
        RowWrite { family: Family::Raft, key: vec![key], value: Some(vec![value]) }
    }

    fn rows(disk: &Disk) -> Vec<(u8, u8)> {
        disk.range(Family::Raft, &[0], &[9]).map(|(key, value)| (key[0], value[0])).collect()
    }

    #[test]
    fn a_crash_keeps_a_prefix_of_whole_batches() {
        for kept in 0..=3 {
            let mut disk = Disk::default();
            let first = disk.write([put(1, 1), put(2, 1)]);
            disk.synced(first);
            disk.write([put(1, 2), put(1, 3), put(3, 1)]);
            disk.write([RowWrite { family: Family::Raft, key: vec![2], value: None }]);
            disk.write([put(2, 7)]);
            disk.crash(kept);
            let expected: &[&[(u8, u8)]] = &[
                &[(1, 1), (2, 1)],
                &[(1, 3), (2, 1), (3, 1)],
                &[(1, 3), (3, 1)],
                &[(1, 3), (2, 7), (3, 1)],
            ];
            assert_eq!(rows(&disk), expected[kept]);
            disk.crash(0);
            assert_eq!(rows(&disk), expected[kept], "what a crash left is durable");
        }
    }

    #[test]
    fn erased_rows_are_back_after_a_crash_and_nothing_else_is_erased() {
        let (vault, next) = (VaultRef::new(1, 7), VaultRef::new(1, 8));
        let row = |family, vault: VaultRef, value| {
            let key = [&vault.to_bytes()[..], &[5]].concat();
            RowWrite { family, key, value: Some(vec![value]) }
        };
        let mut disk = Disk::default();
        let all = VAULT_FAMILIES.into_iter().chain([Family::Vaults]);
        disk.write(all.flat_map(|family| [row(family, vault, 1), row(family, next, 1)]));
        disk.sync();
        let count = |disk: &Disk, vault: VaultRef| {
            let (from, to) = vault_range(vault);
            Family::ALL.map(|family| disk.range(family, &from, &to).count()).iter().sum::<usize>()
        };
        disk.write_round(&[vault], vec![row(Family::Vaults, vault, 2)]);
        assert_eq!((count(&disk, vault), count(&disk, next)), (1, 6));
        disk.crash(0);
        assert_eq!((count(&disk, vault), count(&disk, next)), (6, 6));
    }

    #[test]
    fn a_damaged_row_is_refused_until_it_is_written_again() {
        let mut disk = Disk::default();
        assert!(!disk.damage(3));
        disk.write([put(1, 1), put(2, 1)]);
        disk.sync();
        assert!(disk.damage(3));
        assert!(disk.is_damaged());
        assert_eq!(disk.get(Family::Raft, &[1]), Ok(Some(vec![1])));
        assert_eq!(disk.get(Family::Raft, &[2]), Err(DAMAGE));
        assert!(disk.scan(Family::Raft, &[0], &[9], &mut |_, _| true).is_err());
        disk.write([put(2, 5)]);
        assert_eq!(disk.get(Family::Raft, &[2]), Ok(Some(vec![5])));
    }
}
