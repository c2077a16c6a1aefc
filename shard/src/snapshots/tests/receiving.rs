//! Receiving bytes: order, broken connections, restarts, two receivers.

use super::super::files::file_path;
use super::*;

#[test]
fn a_broken_transfer_goes_on_where_it_ended_and_so_does_one_over_a_restart() {
    let source = source();
    let outgoing = source.snapshots();
    let manifest = cut_small(&source, &outgoing);
    let node = Node::added();
    let snapshots = node.snapshots();
    let mut staging = snapshots.receive(&manifest).unwrap();
    assert_eq!(staging.next(), Some((0, 0)));
    // Into the middle of a later file.
    while staging.next().is_some_and(|(file, offset)| file == 0 || offset == 0) {
        assert!(!transfer(&outgoing, &mut staging, 1));
    }
    let (next, bytes) = (staging.next().unwrap(), staging.bytes());
    drop(staging);
    let mut staging = snapshots.receive(&manifest).unwrap();
    assert_eq!((staging.next(), staging.bytes()), (Some(next), bytes));
    assert!(!transfer(&outgoing, &mut staging, 3));
    let next = staging.next();
    drop((staging, snapshots));
    let snapshots = node.snapshots();
    let mut staging = snapshots.receive(&manifest).unwrap();
    assert_eq!(staging.next(), next);
    assert!(transfer(&outgoing, &mut staging, usize::MAX));
    staging.finish().unwrap();
    assert_eq!(node.metrics.snapshot().snapshot_bytes_in, manifest.bytes());
}

#[test]
fn a_prefix_from_before_a_restart_is_believed_only_with_the_whole_file() {
    let source = source();
    let outgoing = source.snapshots();
    let manifest = cut_small(&source, &outgoing);
    let node = Node::added();
    let snapshots = node.snapshots();
    let mut staging = snapshots.receive(&manifest).unwrap();
    while staging.next().is_some_and(|(file, offset)| (file, offset) < (2, 1)) {
        assert!(!transfer(&outgoing, &mut staging, 1));
    }
    drop((staging, snapshots));
    let directory = incoming_directory(node.directory.path(), manifest.id);
    let spoil = |file: u32| {
        let path = file_path(&directory, file);
        let mut bytes = fs::read(&path).unwrap();
        bytes[7] ^= 1;
        fs::write(&path, bytes).unwrap();
    };
    spoil(1);
    spoil(2);
    let snapshots = node.snapshots();
    let mut staging = snapshots.receive(&manifest).unwrap();
    // The partial one shows when it is complete, and is emptied.
    let error = loop {
        let (file, offset) = staging.next().unwrap();
        let bytes = outgoing.read_chunk(manifest.id, file, offset, 5000).unwrap();
        if let Err(error) = staging.write(file, offset, &bytes, &hash::plain(&bytes)) {
            break error;
        }
    };
    assert!(matches!(error, SnapshotError::FileDigest { file: 2 }), "{error}");
    assert_eq!(staging.next(), Some((2, 0)));
    assert!(transfer(&outgoing, &mut staging, usize::MAX));
    // The complete one shows at the end.
    let error = staging.finish().unwrap_err();
    assert!(matches!(error, SnapshotError::FileDigest { file: 1 }), "{error}");
    let mut staging = snapshots.receive(&manifest).unwrap();
    assert_eq!(staging.next(), Some((1, 0)));
    assert!(transfer(&outgoing, &mut staging, usize::MAX));
    staging.finish().unwrap();
    assert_eq!(node.metrics.snapshot().snapshots_refused, 1);
}

#[test]
fn bytes_go_exactly_where_they_belong() {
    let source = source();
    let outgoing = source.snapshots();
    let manifest = cut_small(&source, &outgoing);
    let node = Node::added();
    let snapshots = node.snapshots();
    let mut staging = snapshots.receive(&manifest).unwrap();
    let bytes = outgoing.read_chunk(manifest.id, 0, 0, 100).unwrap();
    let digest = hash::plain(&bytes);
    for (file, offset) in [(0, 1), (1, 0), (99, 0)] {
        let error = staging.write(file, offset, &bytes, &digest).unwrap_err();
        assert!(matches!(error, SnapshotError::WrongPlace { .. }), "{error}");
    }
    let error = staging.write(0, 0, &bytes, &hash::plain(b"other")).unwrap_err();
    assert!(matches!(error, SnapshotError::ChunkDigest { .. }), "{error}");
    let long = vec![0; manifest.files[0].bytes as usize + 1];
    for wrong in [&long[..], &[]] {
        let error = staging.write(0, 0, wrong, &hash::plain(wrong)).unwrap_err();
        assert!(matches!(error, SnapshotError::ChunkLength { .. }), "{error}");
    }
    staging.write(0, 0, &bytes, &digest).unwrap();
    assert_eq!(staging.next(), Some((0, 100)));
    let error = staging.finish().unwrap_err();
    assert!(matches!(error, SnapshotError::Incomplete { file: 0, offset: 100 }), "{error}");
}

#[test]
fn a_newer_receiver_of_the_group_takes_over() {
    let source = source();
    let outgoing = source.snapshots();
    let (first, second) = (cut_small(&source, &outgoing), cut_small(&source, &outgoing));
    let node = Node::added();
    let snapshots = node.snapshots();
    let mut old = snapshots.receive(&first).unwrap();
    assert!(!transfer(&outgoing, &mut old, 4));
    let mut new = snapshots.receive(&second).unwrap();
    let directory = |one: &SnapshotManifest| incoming_directory(node.directory.path(), one.id);
    assert!(!directory(&first).exists() && directory(&second).exists());
    let (file, offset) = old.next().unwrap();
    let bytes = outgoing.read_chunk(first.id, file, offset, 100).unwrap();
    let error = old.write(file, offset, &bytes, &hash::plain(&bytes)).unwrap_err();
    assert!(matches!(error, SnapshotError::Replaced(GROUP)), "{error}");
    assert!(matches!(old.finish().unwrap_err(), SnapshotError::Replaced(GROUP)));
    assert!(transfer(&outgoing, &mut new, usize::MAX));
    // The same snapshot once more: the earlier receiver is out as well, what it has is kept.
    let again = snapshots.receive(&second).unwrap();
    assert!(matches!(new.finish().unwrap_err(), SnapshotError::Replaced(GROUP)));
    assert!(snapshots.begin_install(&second).is_err(), "nobody verified it");
    assert_eq!(again.next(), None);
    again.finish().unwrap();
    snapshots.begin_install(&second).unwrap();
    assert!(matches!(snapshots.receive(&first).unwrap_err(), SnapshotError::Installing(GROUP)));
    assert_eq!(snapshots.discard(GROUP, second.id), None, "it is being installed");
    let path = snapshots.end_install(GROUP, second.id);
    assert_eq!(path, directory(&second));
    snapshots.receive(&first).unwrap();
    assert_eq!(snapshots.discard(GROUP, second.id), None, "not what the group receives");
    assert_eq!(snapshots.discard(GROUP, first.id), Some(directory(&first)));
}

#[test]
fn what_cannot_be_gone_on_with_is_removed_at_the_start() {
    let source = source();
    let outgoing = source.snapshots();
    let manifest = cut_small(&source, &outgoing);
    let node = Node::added();
    let mut staging = node.snapshots().receive(&manifest).unwrap();
    assert!(!transfer(&outgoing, &mut staging, 4));
    drop(staging);
    let kept = incoming_directory(node.directory.path(), manifest.id);
    let without = incoming_directory(node.directory.path(), SnapshotId([1; 16]));
    fs::create_dir_all(&without).unwrap();
    let damaged = incoming_directory(node.directory.path(), SnapshotId([2; 16]));
    fs::create_dir_all(&damaged).unwrap();
    fs::write(damaged.join("manifest"), b"no manifest").unwrap();
    let misplaced = incoming_directory(node.directory.path(), SnapshotId([5; 16]));
    copy_directory(&kept, &misplaced);
    let snapshots = node.snapshots();
    assert!(kept.exists() && !without.exists() && !damaged.exists() && !misplaced.exists());
    assert!(snapshots.receive(&manifest).unwrap().bytes() > 0);
}
