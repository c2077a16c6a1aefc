//! How the database is opened: every tuning decision in one place.
//!
//! Owns the translation from [`StoreConfig`] to the engine's options. Must never open anything.

use ledger_shard_core::view::Family;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType,
    DBRecoveryMode, LogLevel, Options, WriteBufferManager,
};

const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;

/// Memory and background work that one store may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreConfig {
    /// Bytes of unflushed rows over all families.
    pub write_buffer_bytes: usize,
    /// Bytes of the block cache shared by all families.
    pub block_cache_bytes: usize,
    /// Threads for flushes and compactions.
    pub background_jobs: i32,
    /// Bytes of write-ahead log after which the families that hold the oldest log back are flushed.
    pub wal_bytes_max: u64,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            write_buffer_bytes: 64 * MIB,
            block_cache_bytes: 128 * MIB,
            background_jobs: 2,
            wal_bytes_max: 256 * MIB as u64,
        }
    }
}

/// Memory shared by all families; kept alive by the store for its gauges.
pub(super) struct SharedMemory {
    pub(super) cache: Cache,
    pub(super) write_buffers: WriteBufferManager,
}

impl SharedMemory {
    pub(super) fn new(config: &StoreConfig) -> SharedMemory {
        SharedMemory {
            cache: Cache::new_lru_cache(config.block_cache_bytes),
            write_buffers: WriteBufferManager::new_write_buffer_manager(
                config.write_buffer_bytes,
                false,
            ),
        }
    }
}

/// Options of the database as a whole.
///
/// One log carries every family, so that recovery to a point in time yields one prefix of history.
/// Log files are not reused: the engine's own sources still name a hole in recovery when reuse meets
/// point-in-time recovery.
pub(super) fn database(config: &StoreConfig, memory: &SharedMemory, is_new: bool) -> Options {
    let mut options = Options::default();
    options.create_if_missing(is_new);
    options.create_missing_column_families(true);
    options.set_error_if_exists(false);
    options.set_paranoid_checks(true);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_recycle_log_file_num(0);
    options.set_manual_wal_flush(false);
    options.set_enable_pipelined_write(false);
    options.set_unordered_write(false);
    options.set_max_total_wal_size(config.wal_bytes_max);
    options.set_write_buffer_manager(&memory.write_buffers);
    options.set_max_background_jobs(config.background_jobs);
    options.set_max_subcompactions(1);
    options.set_avoid_unnecessary_blocking_io(true);
    options.set_bytes_per_sync(MIB as u64);
    options.set_wal_bytes_per_sync(512 * KIB as u64);
    options.set_skip_stats_update_on_db_open(true);
    options.set_max_open_files(4096);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(8 * MIB);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

/// The eight families with their own options.
pub(super) fn families(config: &StoreConfig, memory: &SharedMemory) -> Vec<ColumnFamilyDescriptor> {
    let descriptor = |family: Family| {
        ColumnFamilyDescriptor::new(family.name(), family_options(family, config, memory))
    };
    Family::ALL.into_iter().map(descriptor).collect()
}

fn family_options(family: Family, config: &StoreConfig, memory: &SharedMemory) -> Options {
    let mut options = Options::default();
    // The manager flushes by the sum; a single family must not fill it twice over.
    options.set_write_buffer_size((config.write_buffer_bytes / 2).max(MIB));
    options.set_max_write_buffer_number(4);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_target_file_size_base(64 * MIB as u64);
    // Logs, blocks and superseded records are written once, in key order within their group or vault:
    // merging their files early moves bytes and saves no read.
    let files = if is_append_only(family) { 12 } else { 4 };
    options.set_level_zero_file_num_compaction_trigger(files);
    options.set_level_zero_slowdown_writes_trigger(4 * files);
    options.set_level_zero_stop_writes_trigger(8 * files);
    // Log entries live briefly; compressing what is about to be deleted only costs.
    let compression = match family {
        Family::Raft => DBCompressionType::None,
        _ => DBCompressionType::Lz4,
    };
    options.set_compression_type(compression);
    options.set_block_based_table_factory(&table(family, memory));
    options
}

fn is_append_only(family: Family) -> bool {
    matches!(family, Family::Raft | Family::Blocks | Family::History)
}

fn table(family: Family, memory: &SharedMemory) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&memory.cache);
    table.set_format_version(6);
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // An index in one piece is as large as a file is long, and one that the cache cannot hold is read and decompressed
    // again with every seek. In partitions a seek reads what it needs; only their small directory stays in memory.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_metadata_block_size(4 * KIB);
    table.set_pin_top_level_index_and_filter(true);
    let block_bytes = match family {
        Family::Raft => 32 * KIB,
        Family::Blocks | Family::History => 16 * KIB,
        _ => 8 * KIB,
    };
    table.set_block_size(block_bytes);
    if matches!(family, Family::Latest | Family::Sessions | Family::Blocks | Family::Vaults) {
        table.set_bloom_filter(10.0, false);
        table.set_optimize_filters_for_memory(true);
    }
    table
}
