//! Manifests of snapshots, which a leader sends before any file, and the records in the files.

use ledger_shard_core::records::{RecordFault, RecordReader, record_at, record_header};
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

/// A file of records, as its reader and as a search in it see it.
pub(crate) fn records(input: &[u8]) -> Verdict {
    let len = input.len() as u64;
    let verdict = read_records(input, len);
    for other in [len.saturating_sub(1), len + 1].into_iter().filter(|other| *other != len) {
        assert_eq!(read_records(input, other), Verdict::Refused, "its length is another one");
    }
    verdict
}

fn read_records(input: &[u8], len: u64) -> Verdict {
    let mut reader = RecordReader::new(input, len);
    let (mut written, mut at) = (Vec::new(), 0);
    loop {
        match reader.next_record() {
            Ok(Some((key, value))) => {
                let place = record_at(input, at).expect("a record that was read can be found");
                assert_eq!(&input[place.key_at..place.value_at], key);
                assert_eq!(&input[place.value_at..place.end], value);
                at = place.end;
                written.extend(record_header(key.len(), value.len()));
                written.extend([key, value].concat());
            }
            Ok(None) => {
                assert_eq!(written, input, "two encodings of one record are accepted");
                return Verdict::Accepted;
            }
            Err(RecordFault::Framing) => return Verdict::Refused,
            Err(RecordFault::Io(error)) => panic!("bytes in memory can be read: {error}"),
        }
    }
}
