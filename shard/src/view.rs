//! How the state machine and readers see the database: as one consistent view of rows.
//!
//! Owns the translation between [`StateView`] and the engine. Must never write.

use std::ops::Range;

use ledger_proof::ReadFault;
use ledger_shard_core::view::{Family, StateView};
use rocksdb::{ReadOptions, Snapshot};

use crate::store::{Store, StoreError, engine};

/// The rows as they are now. Consistent only for a reader that no writer overtakes, such as the
/// apply stage, which is the one writer of what it reads.
#[derive(Clone, Copy, Debug)]
pub struct LiveView<'a> {
    store: &'a Store,
}

impl<'a> LiveView<'a> {
    /// Views a store.
    pub fn new(store: &'a Store) -> LiveView<'a> {
        LiveView { store }
    }
}

impl StateView for LiveView<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, ReadFault> {
        let found = self.store.db().get_cf(self.store.family(family), key);
        found.map_err(|error| fault(engine("read")(error)))
    }

    fn multi_get(
        &self,
        family: Family,
        keys: &[Vec<u8>],
    ) -> Result<Vec<Option<Vec<u8>>>, ReadFault> {
        multi_get(self.store, &ReadOptions::default(), family, keys)
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ReadFault> {
        scan(self.store, None, family, from..to, visit).map_err(fault)
    }
}

/// The rows as they were at one moment. Short-lived: a view that is kept holds back compaction.
pub struct SnapshotView<'a> {
    store: &'a Store,
    snapshot: Snapshot<'a>,
}

impl<'a> SnapshotView<'a> {
    /// Views a store as it is now, for as long as the view lives.
    pub fn new(store: &'a Store) -> SnapshotView<'a> {
        SnapshotView { store, snapshot: store.db().snapshot() }
    }

    /// Visits a long range that nobody will read again soon, without displacing the block cache.
    pub(crate) fn scan_cold(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let mut options = self.options();
        options.fill_cache(false);
        scan_with(self.store, options, family, from..to, visit)
    }

    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        options
    }
}

impl StateView for SnapshotView<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, ReadFault> {
        let found = self.snapshot.get_cf(self.store.family(family), key);
        found.map_err(|error| fault(engine("read")(error)))
    }

    fn multi_get(
        &self,
        family: Family,
        keys: &[Vec<u8>],
    ) -> Result<Vec<Option<Vec<u8>>>, ReadFault> {
        multi_get(self.store, &self.options(), family, keys)
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ReadFault> {
        scan(self.store, Some(&self.snapshot), family, from..to, visit).map_err(fault)
    }
}

fn fault(error: StoreError) -> ReadFault {
    ReadFault::Io(error.to_string())
}

fn multi_get(
    store: &Store,
    options: &ReadOptions,
    family: Family,
    keys: &[Vec<u8>],
) -> Result<Vec<Option<Vec<u8>>>, ReadFault> {
    let is_sorted = keys.is_sorted();
    let found = store.db().batched_multi_get_cf_opt(store.family(family), keys, is_sorted, options);
    let value = |one: Result<Option<rocksdb::DBPinnableSlice<'_>>, rocksdb::Error>| match one {
        Ok(value) => Ok(value.map(|bytes| bytes.to_vec())),
        Err(error) => Err(fault(engine("read")(error))),
    };
    found.into_iter().map(value).collect()
}

/// Visits the rows of a key range in order until `visit` answers false.
pub(crate) fn scan(
    store: &Store,
    snapshot: Option<&Snapshot<'_>>,
    family: Family,
    range: Range<&[u8]>,
    visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<(), StoreError> {
    let mut options = ReadOptions::default();
    if let Some(snapshot) = snapshot {
        options.set_snapshot(snapshot);
    }
    scan_with(store, options, family, range, visit)
}

fn scan_with(
    store: &Store,
    mut options: ReadOptions,
    family: Family,
    range: Range<&[u8]>,
    visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<(), StoreError> {
    if range.start >= range.end {
        return Ok(());
    }
    options.set_iterate_range(range);
    let mut rows = store.db().raw_iterator_cf_opt(store.family(family), options);
    rows.seek_to_first();
    while let Some((key, value)) = rows.item() {
        if !visit(key, value) {
            return Ok(());
        }
        rows.next();
    }
    rows.status().map_err(engine("scan"))
}

/// The key of a range's first row, if it has one.
pub(crate) fn first_key(
    store: &Store,
    family: Family,
    range: Range<&[u8]>,
) -> Result<Option<Vec<u8>>, StoreError> {
    let mut first = None;
    scan(store, None, family, range, &mut |key, _| {
        first = Some(key.to_vec());
        false
    })?;
    Ok(first)
}

/// The key of a range's last row, if it has one.
pub(crate) fn last_key(
    store: &Store,
    family: Family,
    range: Range<&[u8]>,
) -> Result<Option<Vec<u8>>, StoreError> {
    if range.start >= range.end {
        return Ok(None);
    }
    let mut options = ReadOptions::default();
    options.set_iterate_range(range);
    let mut rows = store.db().raw_iterator_cf_opt(store.family(family), options);
    rows.seek_to_last();
    let last = rows.key().map(<[u8]>::to_vec);
    rows.status().map_err(engine("seek"))?;
    Ok(last)
}

#[cfg(test)]
mod tests;
