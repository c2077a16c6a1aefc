//! Manifests of snapshots, which a leader sends before any file.

use ledger_shard_core::snapshot::{FILE_BYTES_MAX, FILES_MAX, SnapshotManifest};

use crate::{Verdict, canonical};

/// A manifest.
pub(crate) fn manifest(input: &[u8]) -> Verdict {
    let verdict = canonical(input, SnapshotManifest::decode, SnapshotManifest::encode);
    if let Ok(manifest) = SnapshotManifest::decode(input) {
        assert!(manifest.bytes() <= FILE_BYTES_MAX * FILES_MAX as u64, "its length is bounded");
    }
    verdict
}
