//! An installation that is cut off anywhere ends, after the next start, with the installed state.

use ledger_shard_core::rows::vault_row_key;
use ledger_shard_core::view::StateView;

use super::super::files::file_path;
use super::super::install::run;
use super::*;
use crate::boot::BootError;

/// How far the installation came.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Reached {
    Nothing,
    Marked,
    SomeRows,
    Rows,
    Flushed,
    Finished,
}

const ALL: [Reached; 6] = [
    Reached::Nothing,
    Reached::Marked,
    Reached::SomeRows,
    Reached::Rows,
    Reached::Flushed,
    Reached::Finished,
];

fn install_up_to(install: &Install<'_>, reached: Reached) {
    let never = AtomicBool::new(false);
    if reached >= Reached::Marked {
        install.mark().unwrap();
    }
    if reached >= Reached::SomeRows {
        for family in [Family::Latest, Family::History] {
            install.write_family(family, &never).unwrap();
        }
    }
    if reached >= Reached::Rows {
        install.write_rows(&never).unwrap();
    }
    if reached >= Reached::Flushed {
        install.flush().unwrap();
    }
    if reached >= Reached::Finished {
        install.finish().unwrap();
    }
}

/// The node's directory as a crash right now would leave it.
fn crashed(node: &Node) -> TempDir {
    let directory = TempDir::new().unwrap();
    copy_directory(node.directory.path(), directory.path());
    directory
}

fn old_replica() -> Node {
    let node = Node::added();
    let other = vault(20, 1);
    node.log_and_apply(OTHER, &entry(6, &[create(other)]));
    node
}

#[test]
fn every_crash_ends_with_the_whole_state_or_the_old_one() {
    for reached in ALL {
        let all = received_by(old_replica());
        let before = state_of(&all.node.store);
        install_up_to(&all.install(), reached);
        let directory = crashed(&all.node);
        let store = open_store(directory.path());
        let is_visible = |store: &Store| {
            let view = LiveView::new(store);
            VAULTS
                .iter()
                .any(|&one| view.get(Family::Vaults, &vault_row_key(one)).unwrap().is_some())
        };
        assert_eq!(is_visible(&store), reached == Reached::Finished, "{reached:?}");
        let boot = boot::load(&store, RECEIVER.node).unwrap();
        let opened: Vec<GroupId> = boot.records.iter().map(|record| record.group).collect();
        if reached == Reached::Nothing {
            assert_eq!(state_of(&store), before, "nothing was marked");
            assert_eq!(opened, []);
            continue;
        }
        let expected = match reached {
            // The marker was gone: an ordinary start.
            Reached::Finished => vec![],
            _ => vec![GROUP],
        };
        assert_eq!(opened, expected, "{reached:?}");
        assert_group(&store, &all.manifest);
        assert_installed(&store, &all);
        let staging = incoming_directory(directory.path(), all.manifest.id);
        assert_eq!(staging.exists(), reached == Reached::Finished, "{reached:?}");
        // And the start after that has nothing to do.
        drop(store);
        let store = open_store(directory.path());
        assert_eq!(boot::load(&store, RECEIVER.node).unwrap().records, []);
        assert_installed(&store, &all);
    }
}

/// The source's rows are here, and those of the other group's vault too.
fn assert_installed(store: &Store, all: &Received) {
    let other = vault(20, 1).to_bytes();
    for (here, there) in state_of(store).into_iter().zip(state_of(&all.source.store)) {
        let is_shared = |key: &[u8]| match here.0 {
            Family::Vaults => {
                key[1..].starts_with(&other)
                    || key[1..].starts_with(&OTHER.0.to_be_bytes()) && key[0] != 1
            }
            _ => key.starts_with(&other),
        };
        let split = |rows: &Rows| -> Rows {
            rows.iter().filter(|(key, _)| !is_shared(key)).cloned().collect()
        };
        assert_eq!(split(&here.1), split(&there.1), "{:?}", here.0);
        assert!(here.0 != Family::Latest || here.1.iter().any(|(key, _)| is_shared(key)));
    }
}

#[test]
fn a_crash_in_the_second_try_is_no_worse() {
    let all = received_by(old_replica());
    install_up_to(&all.install(), Reached::SomeRows);
    let directory = crashed(&all.node);
    for reached in [Reached::Marked, Reached::Rows, Reached::Flushed] {
        let store = open_store(directory.path());
        let install = Install::new(&store, &all.manifest, marker(&all.manifest), None).unwrap();
        install_up_to(&install, reached);
        let again = TempDir::new().unwrap();
        copy_directory(directory.path(), again.path());
        let store = open_store(again.path());
        boot::load(&store, RECEIVER.node).unwrap();
        assert_installed(&store, &all);
    }
}

#[test]
fn an_installation_that_is_stopped_goes_on_at_the_next_start() {
    let all = received_by(old_replica());
    all.snapshots.begin_install(&all.manifest).unwrap();
    let stopped = run(all.install(), &AtomicBool::new(true)).unwrap_err();
    assert!(matches!(stopped, SnapshotError::Stopped), "{stopped}");
    let directory = crashed(&all.node);
    let store = open_store(directory.path());
    boot::load(&store, RECEIVER.node).unwrap();
    assert_installed(&store, &all);
}

#[test]
fn files_that_an_end_after_the_last_step_leaves_go_at_the_next_start() {
    for reached in [Reached::Nothing, Reached::Finished] {
        let all = received_by(old_replica());
        install_up_to(&all.install(), reached);
        let directory = crashed(&all.node);
        let store = open_store(directory.path());
        let snapshots =
            SnapshotStore::open(directory.path(), CLUSTER, all.node.metrics.clone()).unwrap();
        snapshots.remove_outdated(&store).unwrap();
        // What is still news to the group can be gone on with.
        let staging = incoming_directory(directory.path(), all.manifest.id);
        assert_eq!(staging.exists(), reached == Reached::Nothing, "{reached:?}");
        let next = snapshots.receive(&all.manifest).unwrap().next();
        assert_eq!(next.is_none(), reached == Reached::Nothing, "{reached:?}: {next:?}");
    }
}

#[test]
fn damaged_files_stop_the_start_in_words() {
    let all = received_by(old_replica());
    install_up_to(&all.install(), Reached::Marked);
    let directory = crashed(&all.node);
    let staged = incoming_directory(directory.path(), all.manifest.id);
    let last = all.manifest.files.len() as u32 - 1;
    let refused = |what: &str| {
        let store = open_store(directory.path());
        let error = boot::load(&store, RECEIVER.node).unwrap_err();
        assert!(matches!(error, BootError::Snapshot { group: GROUP, .. }), "{error}");
        assert!(error.to_string().contains(what), "{what}: {error}");
    };
    let path = file_path(&staged, last);
    let whole = fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, &bytes).unwrap();
    refused("another digest");
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    refused("no run of records");
    fs::remove_file(&path).unwrap();
    refused("cannot read");
    fs::write(&path, &whole).unwrap();
    let path = staged.join("manifest");
    let manifest = fs::read(&path).unwrap();
    fs::write(&path, &manifest[1..]).unwrap();
    refused("not the one that the marker names");
    fs::remove_file(&path).unwrap();
    refused("is missing");
    // Mended, it goes on.
    fs::write(&path, &manifest).unwrap();
    let store = open_store(directory.path());
    boot::load(&store, RECEIVER.node).unwrap();
    assert_installed(&store, &all);
}

#[test]
fn a_snapshot_that_does_not_know_the_replica_changes_nothing() {
    let all = received_by(Node::added());
    let before = state_of(&all.node.store);
    let stranger = Marker { incarnation: Incarnation(99), ..marker(&all.manifest) };
    let error = Install::new(&all.node.store, &all.manifest, stranger, None).err().unwrap();
    assert!(matches!(error, SnapshotError::NotAMember { .. }), "{error}");
    assert_eq!(state_of(&all.node.store), before);
}
