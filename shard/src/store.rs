//! The node's one database: opening it, who it is, and the few ways rows get in and out of it.
//!
//! Owns the database handle and the data directory's lock. Must never decide what rows mean; every
//! write of the node goes through [`Store::write`] or [`Store::put_meta`].

mod identity;
mod options;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use ledger_shard_core::rows::{VAULT_FAMILIES, vault_range};
use ledger_shard_core::view::{Family, RowWrite};
use ledger_types::{ClusterId, StoreId, VaultRef};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{ColumnFamily, CompactOptions, DB, Options, WriteBatch, WriteOptions};
use thiserror::Error;

use crate::view::first_key;

pub use identity::{FORMAT_VERSION, NodeKeySeed};
pub use options::StoreConfig;

/// Directory of the database inside the data directory.
const DATABASE_DIRECTORY: &str = "db";
/// Meta rows that only this module writes begin with this.
const RESERVED_PREFIX: &[u8] = b"store/";
const ROW_STORE_ID: &[u8] = b"store/id";
const ROW_FORMAT: &[u8] = b"store/format";
const ROW_BOOTS: &[u8] = b"store/boots";
const ROW_CLUSTER: &[u8] = b"store/cluster";

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process (or another store in this one) holds the directory's lock.
    #[error("another server runs on this data directory: {}", directory.display())]
    Locked {
        /// The data directory.
        directory: PathBuf,
    },
    /// A later build wrote the directory.
    #[error("the data directory has format {found}, this build reads up to {supported}")]
    NewerFormat {
        /// The directory's format version.
        found: u32,
        /// The highest that this build reads.
        supported: u32,
    },
    /// The directory belongs to another cluster.
    #[error("the data directory belongs to cluster {found}, not to {expected}")]
    OtherCluster {
        /// The cluster it belongs to.
        found: ClusterId,
        /// The cluster that was asked for.
        expected: ClusterId,
    },
    /// The identity file and the database are not of one store, or one of them is gone.
    #[error("the identity file and the database in {} do not belong together: {detail}", directory.display())]
    Mismatch {
        /// The data directory.
        directory: PathBuf,
        /// What does not fit.
        detail: &'static str,
    },
    /// A store without its node key cannot sign as the node that it was.
    #[error("the node key is missing from {}", directory.display())]
    KeyMissing {
        /// The data directory.
        directory: PathBuf,
    },
    /// A file or row of the identity does not have its format.
    #[error("the {what} is damaged: {}", path.display())]
    Damaged {
        /// Which.
        what: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OpenError {
    fn file(doing: &'static str, path: &Path, source: io::Error) -> OpenError {
        OpenError::File { doing, path: path.to_owned(), source }
    }
}

/// The database failed. After a failed write or sync nothing may be retried: the node must stop.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("the database failed to {doing}: {detail}")]
pub struct StoreError {
    /// What was tried.
    pub doing: &'static str,
    /// The engine's words.
    pub detail: String,
}

/// Why a store did not take a cluster's id.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum JoinError {
    /// The store belongs to another cluster for good.
    #[error("the store belongs to cluster {found}")]
    OtherCluster {
        /// The cluster it belongs to.
        found: ClusterId,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Turns the engine's error into ours.
pub(crate) fn engine(doing: &'static str) -> impl FnOnce(rocksdb::Error) -> StoreError {
    move |error| StoreError { doing, detail: error.into_string() }
}

/// An open data directory. Dropping it closes the database and gives up the lock; it flushes nothing.
pub struct Store {
    db: DB,
    memory: options::SharedMemory,
    id: StoreId,
    boots: u64,
    key: NodeKeySeed,
    directory: PathBuf,
    // Declared last: the lock outlives the database.
    _lock: File,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({}, boot {}, {})", self.id, self.boots, self.directory.display())
    }
}

impl Store {
    /// Opens a data directory, making it if it is empty or absent, and counts the boot durably.
    /// With `cluster`, refuses a directory that belongs to another one.
    pub fn open(
        directory: &Path,
        cluster: Option<ClusterId>,
        config: &StoreConfig,
    ) -> Result<Store, OpenError> {
        let lock = identity::lock(directory)?;
        let from_file = identity::read(directory)?;
        let memory = options::SharedMemory::new(config);
        let path = directory.join(DATABASE_DIRECTORY);
        let is_there = path.join("CURRENT").exists();
        if from_file.is_some() && !is_there {
            let directory = directory.to_owned();
            return Err(OpenError::Mismatch { directory, detail: "the database is gone" });
        }
        let key = match identity::read_key(directory)? {
            Some(key) => key,
            None if is_there => {
                return Err(OpenError::KeyMissing { directory: directory.to_owned() });
            }
            None => identity::create_key(directory)?,
        };
        let options = options::database(config, &memory, !is_there);
        if is_there {
            refuse_unknown_families(&options, &path)?;
        }
        let families = options::families(config, &memory);
        let db = DB::open_cf_descriptors(&options, &path, families).map_err(engine("open"))?;
        let directory = directory.to_owned();
        let id = StoreId::default();
        let mut store = Store { db, memory, id, boots: 0, key, directory, _lock: lock };
        store.identify(from_file)?;
        store.count_boot()?;
        if let (Some(expected), Some(found)) = (cluster, store.cluster()?)
            && expected != found
        {
            return Err(OpenError::OtherCluster { found, expected });
        }
        Ok(store)
    }

    /// The store's id, drawn when the directory was made.
    pub fn id(&self) -> StoreId {
        self.id
    }

    /// How often the directory was opened, this time included. A peer that remembers a higher number
    /// knows that the disk went back in time.
    pub fn boots(&self) -> u64 {
        self.boots
    }

    /// Seed of the node's signing key.
    pub fn node_key(&self) -> &NodeKeySeed {
        &self.key
    }

    /// The data directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The cluster that the store belongs to, once it belongs to one.
    pub fn cluster(&self) -> Result<Option<ClusterId>, StoreError> {
        let Some(value) = self.meta(ROW_CLUSTER)? else { return Ok(None) };
        let detail = || "the cluster row is damaged".to_owned();
        let id = ClusterId::from_slice(&value);
        id.map(Some).ok_or_else(|| StoreError { doing: "read the cluster id", detail: detail() })
    }

    /// Makes the store part of a cluster, durably and for good. The same cluster again is no error.
    pub fn join_cluster(&self, cluster: ClusterId) -> Result<(), JoinError> {
        match self.cluster()? {
            Some(found) if found != cluster => Err(JoinError::OtherCluster { found }),
            Some(_) => Ok(()),
            None => Ok(self.put_durably(Family::Meta, &[(ROW_CLUSTER, &cluster.0)])?),
        }
    }

    /// Reads a row of the meta family.
    pub fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get_cf(self.family(Family::Meta), key).map_err(engine("read a meta row"))
    }

    /// Writes a row of the meta family and syncs it. Not for the rows of the store's own identity.
    pub fn put_meta(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        assert!(!key.starts_with(RESERVED_PREFIX), "the store's own rows are written by the store");
        self.put_durably(Family::Meta, &[(key, value)])
    }

    /// Visits the meta rows whose keys begin with `prefix`, in key order.
    pub fn scan_meta(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), StoreError> {
        let end = ledger_shard_core::rows::prefix_end(prefix);
        crate::view::scan(self, None, Family::Meta, prefix..&end, &mut |key, value| {
            visit(key, value);
            true
        })
    }

    /// Writes rows in one batch, in order. They are in the log's buffer of the system when this
    /// returns, and durable after the next [`Store::sync`].
    pub fn write(&self, rows: &[RowWrite]) -> Result<u64, StoreError> {
        let mut batch = self.batch(rows.iter().map(row_bytes).sum());
        batch.extend(rows);
        batch.write()
    }

    /// Writes a round of the state machine as one batch, as [`Store::write`] does: all rows of some vaults go, then
    /// rows come and go. A range without rows is left alone, because what deletes it would slow readers down.
    pub(crate) fn write_round(
        &self,
        erased: &[VaultRef],
        rows: &[RowWrite],
    ) -> Result<u64, StoreError> {
        let mut batch = self.batch(rows.iter().map(row_bytes).sum());
        for &vault in erased {
            let (from, to) = vault_range(vault);
            for family in VAULT_FAMILIES {
                if first_key(self, family, &from..&to)?.is_some() {
                    batch.delete_range(family, &from, &to);
                }
            }
        }
        batch.extend(rows);
        batch.write()
    }

    /// Gives the room of an erased vault's rows back now, where files still hold them; without this they go when their
    /// files are next rewritten. Takes as long as rewriting those files does. Tells how many bytes of rows files
    /// held, about.
    pub fn reclaim(&self, vault: VaultRef) -> u64 {
        let (from, to) = vault_range(vault);
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        let mut held = 0;
        for family in VAULT_FAMILIES {
            let bytes = self.approximate_bytes(family, &from, &to);
            if bytes > 0 {
                let (from, to) = (Some(from.as_slice()), Some(to.as_slice()));
                self.db.compact_range_cf_opt(self.family(family), from, to, &options);
                held += bytes;
            }
        }
        held
    }

    /// Gives up rewriting files, also where [`Store::reclaim`] waits for that. Nothing may be written afterwards.
    pub fn stop_rewriting(&self) {
        self.db.cancel_all_background_work(false);
    }

    /// Makes everything written so far durable.
    pub fn sync(&self) -> Result<(), StoreError> {
        #[cfg(feature = "failpoints")]
        {
            fail::fail_point!("store::sync");
            fail::fail_point!("sabotage::unsynced_ack", |_| Ok(()));
        }
        self.db.flush_wal(true).map_err(engine("sync its log"))
    }

    /// Writes the families' rows from memory into files, durably; done when it returns.
    pub(crate) fn flush(&self, families: &[Family]) -> Result<(), StoreError> {
        for &family in families {
            self.db.flush_cf(self.family(family)).map_err(engine("flush a family"))?;
        }
        Ok(())
    }

    /// Bytes that the rows `from <= key < to` take in files, about. Cheap: only indexes are looked at.
    pub(crate) fn approximate_bytes(&self, family: Family, from: &[u8], to: &[u8]) -> u64 {
        if from >= to {
            return 0;
        }
        let ranges = [rocksdb::Range::new(from, to)];
        self.db.get_approximate_sizes_cf(self.family(family), &ranges).iter().sum()
    }

    /// Writes a consistent copy of the database below `target`, which must not exist.
    pub fn copy_to(&self, target: &Path) -> Result<(), StoreError> {
        let checkpoint = Checkpoint::new(&self.db).map_err(engine("begin a copy"))?;
        checkpoint.create_checkpoint(target).map_err(engine("copy itself"))
    }

    /// Bytes of memory held by unflushed rows and by the block cache.
    pub fn memory_bytes(&self) -> (usize, usize) {
        (self.memory.write_buffers.get_usage(), self.memory.cache.get_usage())
    }

    /// A batch to be filled row by row.
    pub(crate) fn batch(&self, bytes: usize) -> StoreBatch<'_> {
        let families = Family::ALL.map(|family| self.family(family));
        let batch = WriteBatch::with_capacity_bytes(bytes + 64);
        StoreBatch { db: &self.db, families, batch, has_ranges: false }
    }

    pub(crate) fn db(&self) -> &DB {
        &self.db
    }

    pub(crate) fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("every family is opened with the database")
    }

    /// Settles which store this is. The row is written first and the file last, so that a file always
    /// has its database; a database without either is one whose making was cut short.
    fn identify(&mut self, from_file: Option<StoreId>) -> Result<(), OpenError> {
        let damaged = |what| OpenError::Damaged { what, path: self.directory.clone() };
        if let Some(value) = self.meta(ROW_FORMAT)? {
            let bytes = value.try_into().map_err(|_| damaged("format row"))?;
            identity::check_format(u32::from_be_bytes(bytes))?;
        }
        let from_row = match self.meta(ROW_STORE_ID)? {
            Some(value) => {
                Some(StoreId::from_slice(&value).ok_or_else(|| damaged("store id row"))?)
            }
            None => None,
        };
        let mismatch = |detail| OpenError::Mismatch { directory: self.directory.clone(), detail };
        self.id = match (from_file, from_row) {
            (Some(file), Some(row)) if file == row => row,
            (Some(_), Some(_)) => return Err(mismatch("they carry different store ids")),
            (Some(_), None) => return Err(mismatch("the database has no store id")),
            (None, Some(row)) => {
                identity::write(&self.directory, row)?;
                row
            }
            (None, None) => {
                let id = identity::random_store_id()?;
                let format = FORMAT_VERSION.to_be_bytes();
                let rows: [(&[u8], &[u8]); 2] = [(ROW_FORMAT, &format), (ROW_STORE_ID, &id.0)];
                self.put_durably(Family::Meta, &rows)?;
                identity::write(&self.directory, id)?;
                id
            }
        };
        Ok(())
    }

    fn count_boot(&mut self) -> Result<(), OpenError> {
        let before = match self.meta(ROW_BOOTS)? {
            None => 0,
            Some(value) => {
                let path = self.directory.clone();
                let damaged = |_| OpenError::Damaged { what: "boot counter", path };
                u64::from_be_bytes(value.try_into().map_err(damaged)?)
            }
        };
        self.boots = before + 1;
        Ok(self.put_durably(Family::Meta, &[(ROW_BOOTS, &self.boots.to_be_bytes())])?)
    }

    fn put_durably(&self, family: Family, rows: &[(&[u8], &[u8])]) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for (key, value) in rows {
            batch.put_cf(self.family(family), key, value);
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(batch, &options).map_err(engine("write durably"))
    }
}

/// A newer build may add families; opening without them would fail with less clear words.
fn refuse_unknown_families(options: &Options, path: &Path) -> Result<(), OpenError> {
    let names = DB::list_cf(options, path).map_err(engine("list its families"))?;
    let known = |name: &String| {
        name == rocksdb::DEFAULT_COLUMN_FAMILY_NAME
            || Family::ALL.iter().any(|family| family.name() == name)
    };
    if names.iter().all(known) {
        return Ok(());
    }
    Err(OpenError::NewerFormat { found: FORMAT_VERSION + 1, supported: FORMAT_VERSION })
}

fn row_bytes(row: &RowWrite) -> usize {
    24 + row.key.len() + row.value.as_ref().map_or(0, Vec::len)
}

/// True while a test makes this node acknowledge rows that only its own memory holds.
#[cfg(feature = "failpoints")]
fn is_sabotaged() -> bool {
    fail::fail_point!("sabotage::early_ack", |_| true);
    false
}

/// Rows on their way into the database, all or none.
pub(crate) struct StoreBatch<'a> {
    db: &'a DB,
    families: [&'a ColumnFamily; Family::ALL.len()],
    batch: WriteBatch,
    has_ranges: bool,
}

impl StoreBatch<'_> {
    pub(crate) fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        self.batch.put_cf(self.families[family as usize], key, value);
    }

    pub(crate) fn delete(&mut self, family: Family, key: &[u8]) {
        self.batch.delete_cf(self.families[family as usize], key);
    }

    /// Deletes the rows `from <= key < to`.
    pub(crate) fn delete_range(&mut self, family: Family, from: &[u8], to: &[u8]) {
        self.has_ranges = true;
        self.batch.delete_range_cf(self.families[family as usize], from, to);
    }

    /// Bytes in the batch so far.
    pub(crate) fn bytes(&self) -> usize {
        self.batch.size_in_bytes()
    }

    pub(crate) fn extend(&mut self, rows: &[RowWrite]) {
        for row in rows {
            match &row.value {
                Some(value) => self.put(row.family, &row.key, value),
                None => self.delete(row.family, &row.key),
            }
        }
    }

    /// Writes the batch unsynced and tells its size in bytes.
    pub(crate) fn write(self) -> Result<u64, StoreError> {
        let bytes = self.batch.size_in_bytes() as u64;
        if !self.batch.is_empty() {
            let mut options = WriteOptions::default();
            // Rows of a family come in key order, mostly, so each finds its place near the last one. Deleted ranges
            // are kept apart from rows, and the engine's hint does not tell the two places apart.
            options.set_memtable_insert_hint_per_batch(!self.has_ranges);
            #[cfg(feature = "failpoints")]
            options.disable_wal(is_sabotaged());
            self.db.write_opt(self.batch, &options).map_err(engine("write"))?;
        }
        Ok(bytes)
    }

    /// Writes the batch past the write-ahead log: a crash takes it back unless its families were flushed.
    /// When compaction is behind, others' writes go first.
    pub(crate) fn write_unlogged(self) -> Result<(), StoreError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        options.set_low_pri(true);
        self.db.write_opt(self.batch, &options).map_err(engine("write past its log"))
    }
}

#[cfg(test)]
mod tests;
