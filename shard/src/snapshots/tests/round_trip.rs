//! What was cut on one side is what is installed on the other, byte for byte.

use ledger_shard_core::rows::{VaultRow, VaultStatus, vault_row_key};
use ledger_shard_core::view::StateView;

use super::super::install::run;
use super::*;

fn never() -> AtomicBool {
    AtomicBool::new(false)
}

#[test]
fn an_installed_snapshot_is_the_source_byte_for_byte() {
    let all = received_by(Node::added());
    let files = |family| all.manifest.files.iter().filter(|file| file.family == family).count();
    for family in VAULT_FAMILIES {
        assert!(!rows_of(&all.source.store, family).is_empty(), "{family:?} is tested with rows");
    }
    assert!(files(Family::Latest) > 2 && files(Family::Blocks) > 2, "several files of a family");
    let row = LiveView::new(&all.source.store).get(Family::Vaults, &vault_row_key(VAULTS[0]));
    let row = VaultRow::decode(&row.unwrap().unwrap()).unwrap();
    assert!((1..row.height).contains(&row.tree_anchor.height), "pages lag behind the tip");
    run(all.install(), &never()).unwrap();
    assert_eq!(state_without_other(&all.node.store), state_without_other(&all.source.store));
    assert_group(&all.node.store, &all.manifest);
    let metrics = all.node.metrics.snapshot();
    assert_eq!(metrics.snapshot_bytes_in, all.manifest.bytes());
    assert_eq!(all.source.metrics.snapshot().snapshot_bytes_out, all.manifest.bytes());
    // Both go on in the same way.
    let next = entry(67, &[write(VAULTS[0], 9999, vec![set("key1", b"after".to_vec())])]);
    all.source.apply(GROUP, std::slice::from_ref(&next));
    all.node.apply(GROUP, &[next]);
    all.node.prove_all(&VAULTS);
    let differs = [Family::Tree, Family::Vaults];
    for (here, there) in state_of(&all.node.store).into_iter().zip(state_of(&all.source.store)) {
        assert!(differs.contains(&here.0) || here == there, "{:?} differs", here.0);
    }
}

/// The state without the row of the other group, which names another incarnation on each side.
fn state_without_other(store: &Store) -> Vec<(Family, Rows)> {
    let mut state = state_of(store);
    let key = ledger_shard_core::rows::group_row_key(OTHER);
    state[0].1.retain(|(found, _)| *found != key);
    state
}

#[test]
fn a_replica_far_behind_takes_over_what_is_newer_and_forgets_its_log() {
    let node = Node::added();
    // The replica was here before: it knows two vaults at old heights, and one that the group gave up since.
    let gone = vault(12, 1);
    let record = BootRecord::new_group(GROUP, RECEIVER.incarnation, replicas());
    let mut rows = Vec::new();
    for (family, key, _) in group_rows(&node.store) {
        rows.push(RowWrite { family, key, value: None });
    }
    node.store.write(&rows).unwrap();
    boot::create_group(&node.store, &record, &[]).unwrap();
    let mut old = entries()[..10].to_vec();
    old[0] = entry(6, &[VAULTS.map(create).to_vec(), vec![create(gone)]].concat());
    for one in &old {
        node.log_and_apply(GROUP, one);
    }
    node.prove_all(&VAULTS);
    let all = received_by(node);
    run(all.install(), &never()).unwrap();
    assert_eq!(state_without_other(&all.node.store), state_without_other(&all.source.store));
    assert_group(&all.node.store, &all.manifest);
    // Nothing of the old state is left in memory.
    all.node.prove_all(&VAULTS);
    let view = LiveView::new(&all.node.store);
    assert!(all.node.applier.lock().prove(gone, &[], None, &view).is_err());
}

/// The rows of the group itself.
fn group_rows(store: &Store) -> Vec<(Family, Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    for (key, value) in rows_of(store, Family::Raft) {
        if key.starts_with(&GROUP.0.to_be_bytes()) {
            rows.push((Family::Raft, key, value));
        }
    }
    let key = ledger_shard_core::rows::group_row_key(GROUP);
    if let Some(value) = LiveView::new(store).get(Family::Vaults, &key).unwrap() {
        rows.push((Family::Vaults, key, value));
    }
    rows
}

#[test]
fn a_vault_that_is_newer_here_stays_as_it_is() {
    // Another group owns the first vault here: in a later epoch, in the same one, or in an earlier one.
    for (epoch, is_kept) in [(2, true), (1, true), (0, false)] {
        let node = Node::added();
        let create = Command {
            kind: CommandKind::CreateVault as u8,
            vault: VAULTS[0],
            owner_epoch: OwnerEpoch(epoch),
            body: &CreateVaultCommand::default().encode(),
        };
        node.apply(OTHER, &[entry(6, &[create.encode()])]);
        let before = vault_rows_of(&node.store, VAULTS[0]);
        assert!(!before.is_empty());
        let all = received_by(node);
        run(all.install(), &never()).unwrap();
        let (here, there) = (&all.node.store, &all.source.store);
        let expected = match is_kept {
            true => before,
            false => vault_rows_of(there, VAULTS[0]),
        };
        assert_eq!(vault_rows_of(here, VAULTS[0]), expected, "epoch {epoch}");
        for vault in &VAULTS[1..] {
            assert_eq!(vault_rows_of(here, *vault), vault_rows_of(there, *vault));
        }
        assert_group(here, &all.manifest);
    }
}

fn vault_rows_of(store: &Store, vault: VaultRef) -> Vec<(Family, Rows)> {
    let mut state = state_of(store);
    for (family, rows) in &mut state {
        rows.retain(|(key, _)| match family {
            Family::Vaults => *key == vault_row_key(vault),
            _ => key.starts_with(&vault.to_bytes()),
        });
    }
    state
}

#[test]
fn a_snapshot_shows_one_moment_and_is_refused_to_strangers() {
    let source = source();
    let snapshots = source.snapshots();
    let manifest = cut_small(&source, &snapshots);
    assert_eq!(manifest.row.applied_index, 66);
    assert_eq!(SnapshotManifest::decode(&manifest.encode()).unwrap(), manifest);
    let to = Replica { incarnation: Incarnation(99), node: NodeId(9) };
    let stranger = CutSnapshot { to, ..wanted() };
    let error = snapshots.cut(&source.store, &stranger, &never()).unwrap_err();
    assert!(matches!(error, SnapshotError::NotAMember { index: 66, .. }), "{error}");
    let stopped = snapshots.cut(&source.store, &wanted(), &AtomicBool::new(true)).unwrap_err();
    assert!(matches!(stopped, SnapshotError::Stopped), "{stopped}");
    let unknown = CutSnapshot { group: GroupId(77), ..wanted() };
    let error = snapshots.cut(&source.store, &unknown, &never()).unwrap_err();
    assert!(matches!(error, SnapshotError::Corrupt { .. }), "{error}");
    // What failed left nothing behind.
    let out = source.directory.path().join("snapshots/out");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
}

#[test]
fn chunks_are_read_while_the_snapshot_is_kept() {
    let source = source();
    let snapshots = source.snapshots();
    let manifest = cut_small(&source, &snapshots);
    let (id, bytes) = (manifest.id, manifest.files[0].bytes);
    assert_eq!(snapshots.outgoing(id), Some(GROUP));
    assert_eq!(snapshots.read_chunk(id, 0, 0, 10).unwrap().len(), 10);
    let last = snapshots.read_chunk(id, 0, bytes - 3, 10).unwrap();
    assert_eq!(last.len(), 3);
    assert_eq!(snapshots.read_chunk(id, 0, bytes, 10).unwrap(), [0u8; 0]);
    let beyond = snapshots.read_chunk(id, 0, bytes + 1, 10).unwrap_err();
    assert!(matches!(beyond, SnapshotError::BeyondEnd { .. }), "{beyond}");
    let file = manifest.files.len() as u32;
    let error = snapshots.read_chunk(id, file, 0, 10).unwrap_err();
    assert!(matches!(error, SnapshotError::UnknownFile { .. }), "{error}");
    let directory = snapshots.release(id).unwrap();
    assert!(directory.exists() && snapshots.outgoing(id).is_none());
    let error = snapshots.read_chunk(id, 0, 0, 10).unwrap_err();
    assert!(matches!(error, SnapshotError::Unknown(found) if found == id), "{error}");
    // After a restart nobody asks for what was cut before it.
    drop(source.snapshots());
    assert!(!directory.exists());
}

#[test]
fn a_purged_vault_comes_as_its_row_alone_and_takes_old_rows_away() {
    let is_bare = |store: &Store| {
        let state = vault_rows_of(store, VAULTS[0]);
        let row = VaultRow::decode(&state[0].1[0].1).unwrap();
        assert_eq!(row.status, VaultStatus::Purged);
        state[1..].iter().all(|(_, rows)| rows.is_empty())
    };
    let behind = Node::added();
    let rows: Vec<_> = group_rows(&behind.store)
        .into_iter()
        .map(|(family, key, _)| RowWrite { family, key, value: None })
        .collect();
    behind.store.write(&rows).unwrap();
    let record = BootRecord::new_group(GROUP, RECEIVER.incarnation, replicas());
    boot::create_group(&behind.store, &record, &[]).unwrap();
    for one in &entries()[..10] {
        behind.log_and_apply(GROUP, one);
    }
    behind.prove_all(&VAULTS);
    assert!(vault_rows_of(&behind.store, VAULTS[0])[1..].iter().any(|(_, rows)| !rows.is_empty()));
    for node in [Node::added(), behind] {
        let all = received_from(source_after_purge(), node);
        assert!(is_bare(&all.source.store));
        run(all.install(), &never()).unwrap();
        assert!(is_bare(&all.node.store));
        assert_eq!(state_without_other(&all.node.store), state_without_other(&all.source.store));
        assert_group(&all.node.store, &all.manifest);
        all.node.prove_all(&VAULTS[1..]);
        let view = LiveView::new(&all.node.store);
        assert!(all.node.applier.lock().prove(VAULTS[0], &[], None, &view).is_err());
    }
}
