//! The data directory with real files and a real database.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;

const HERE: ClusterId = ClusterId([7; 16]);
const ELSEWHERE: ClusterId = ClusterId([8; 16]);

fn open(directory: &TempDir) -> Result<Store, OpenError> {
    Store::open(directory.path(), None, &StoreConfig::default())
}

/// Opens the database itself, around everything that this module checks.
fn raw(directory: &TempDir) -> DB {
    let path = directory.path().join(DATABASE_DIRECTORY);
    let families = Family::ALL.map(Family::name);
    DB::open_cf(&Options::default(), path, families).expect("no one else has it open")
}

#[test]
fn a_directory_keeps_its_identity_and_counts_its_boots() {
    let directory = TempDir::new().unwrap();
    let first = open(&directory).unwrap();
    let (id, key) = (first.id(), first.node_key().0);
    assert_eq!(first.boots(), 1);
    assert_ne!(id, StoreId::default());
    first.put_meta(b"founding", b"promise").unwrap();
    drop(first);
    let mode = fs::metadata(directory.path().join("node.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for boots in 2..4 {
        let again = open(&directory).unwrap();
        assert_eq!((again.id(), again.boots(), again.node_key().0), (id, boots, key));
        assert_eq!(again.meta(b"founding").unwrap().as_deref(), Some(&b"promise"[..]));
    }
    let other = TempDir::new().unwrap();
    let other = open(&other).unwrap();
    assert_ne!(other.id(), id);
    assert_ne!(other.node_key().0, key);
    assert!(!format!("{:?}", other.node_key()).contains(char::is_numeric));
}

#[test]
fn an_index_is_stored_in_pieces_that_a_seek_reads_one_of() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).unwrap();
    for family in Family::ALL {
        let handle = store.family(family);
        store.db.put_cf(handle, b"key", b"value").unwrap();
        store.flush(&[family]).unwrap();
        let told = store.db.property_value_cf(handle, "rocksdb.aggregated-table-properties");
        let told = told.unwrap().expect("the engine has this property");
        let pieces =
            told.split(';').find_map(|part| part.trim().strip_prefix("# index partitions="));
        // An index that is in one piece whatever its size has none.
        assert_eq!(pieces, Some("1"), "{}: {told}", family.name());
    }
}

#[test]
fn a_second_server_on_the_directory_is_refused() {
    let directory = TempDir::new().unwrap();
    let first = open(&directory).unwrap();
    let error = open(&directory).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("another server runs on this data directory"));
    drop(first);
    open(&directory).expect("the lock goes with the store");
}

#[test]
fn a_store_belongs_to_one_cluster_for_good() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path(), Some(HERE), &StoreConfig::default()).unwrap();
    assert_eq!(store.cluster().unwrap(), None);
    store.join_cluster(HERE).unwrap();
    store.join_cluster(HERE).unwrap();
    assert_eq!(store.join_cluster(ELSEWHERE), Err(JoinError::OtherCluster { found: HERE }));
    drop(store);
    let refused = Store::open(directory.path(), Some(ELSEWHERE), &StoreConfig::default());
    match refused.unwrap_err() {
        OpenError::OtherCluster { found, expected } => {
            assert_eq!((found, expected), (HERE, ELSEWHERE));
        }
        other => panic!("{other}"),
    }
    let store = Store::open(directory.path(), Some(HERE), &StoreConfig::default()).unwrap();
    assert_eq!(store.cluster().unwrap(), Some(HERE));
}

#[test]
fn a_newer_format_is_refused_by_file_by_row_and_by_family() {
    let directory = TempDir::new().unwrap();
    let id = open(&directory).unwrap().id();
    let file = directory.path().join("ledger.identity");
    let written = fs::read(&file).unwrap();
    fs::write(&file, format!("ledger-store 2 {id}\n")).unwrap();
    let is_newer = |error: OpenError| match error {
        OpenError::NewerFormat { found, supported } => assert_eq!((found, supported), (2, 1)),
        other => panic!("{other}"),
    };
    is_newer(open(&directory).unwrap_err());
    fs::write(&file, &written).unwrap();
    {
        let db = raw(&directory);
        let meta = db.cf_handle("meta").unwrap();
        db.put_cf(meta, ROW_FORMAT, 2u32.to_be_bytes()).unwrap();
    }
    is_newer(open(&directory).unwrap_err());
    {
        let mut db = raw(&directory);
        let meta = db.cf_handle("meta").unwrap();
        db.put_cf(meta, ROW_FORMAT, 1u32.to_be_bytes()).unwrap();
        db.create_cf("invented", &Options::default()).unwrap();
    }
    is_newer(open(&directory).unwrap_err());
    raw_without(&directory, "invented");
    assert_eq!(open(&directory).unwrap().id(), id);
}

fn raw_without(directory: &TempDir, family: &str) {
    let path = directory.path().join(DATABASE_DIRECTORY);
    let mut families = Family::ALL.map(Family::name).to_vec();
    families.push(family);
    let mut db = DB::open_cf(&Options::default(), path, families).unwrap();
    db.drop_cf(family).unwrap();
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let (directory, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    drop((open(&directory).unwrap(), open(&other).unwrap()));
    let path = |name| directory.path().join(name);
    let identity = fs::read(path("ledger.identity")).unwrap();
    fs::copy(other.path().join("ledger.identity"), path("ledger.identity")).unwrap();
    let error = open(&directory).unwrap_err();
    assert!(matches!(error, OpenError::Mismatch { .. }), "{error}");
    for damaged in [&identity[..identity.len() - 1], b"", b"ledger-store 1 xyz\n", b"\xff\n"] {
        fs::write(path("ledger.identity"), damaged).unwrap();
        let error = open(&directory).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    }
    fs::write(path("ledger.identity"), &identity).unwrap();
    let key = fs::read(path("node.key")).unwrap();
    fs::write(path("node.key"), &key[1..]).unwrap();
    assert!(matches!(open(&directory).unwrap_err(), OpenError::Damaged { .. }));
    fs::remove_file(path("node.key")).unwrap();
    assert!(matches!(open(&directory).unwrap_err(), OpenError::KeyMissing { .. }));
    fs::write(path("node.key"), &key).unwrap();
    open(&directory).unwrap();
    fs::remove_dir_all(path(DATABASE_DIRECTORY)).unwrap();
    let error = open(&directory).unwrap_err();
    assert!(matches!(error, OpenError::Mismatch { .. }), "{error}");
}

#[test]
fn making_a_store_survives_being_cut_short() {
    let directory = TempDir::new().unwrap();
    let first = open(&directory).unwrap();
    let (id, key) = (first.id(), first.node_key().0);
    drop(first);
    // Cut before the identity file: the row in the database says who it is.
    fs::remove_file(directory.path().join("ledger.identity")).unwrap();
    assert_eq!(open(&directory).unwrap().id(), id);
    // Cut before the database: the key is kept, a new id is drawn.
    fs::remove_file(directory.path().join("ledger.identity")).unwrap();
    fs::remove_dir_all(directory.path().join(DATABASE_DIRECTORY)).unwrap();
    let again = open(&directory).unwrap();
    assert_ne!(again.id(), id);
    assert_eq!((again.node_key().0, again.boots()), (key, 1));
}

#[test]
fn meta_rows_are_found_by_prefix() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).unwrap();
    for (key, value) in [("checkpoint/a", "1"), ("checkpoint/b", "2"), ("checkpoinu", "3")] {
        store.put_meta(key.as_bytes(), value.as_bytes()).unwrap();
    }
    let mut found = Vec::new();
    store
        .scan_meta(b"checkpoint/", &mut |key, value| found.push((key.to_vec(), value.to_vec())))
        .unwrap();
    let expected =
        [(b"checkpoint/a".to_vec(), b"1".to_vec()), (b"checkpoint/b".to_vec(), b"2".to_vec())];
    assert_eq!(found, expected);
    assert_eq!(store.meta(b"absent").unwrap(), None);
}

#[test]
fn a_copy_is_a_store_of_its_own_content() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).unwrap();
    store.put_meta(b"founding", b"promise").unwrap();
    let target = directory.path().join("copy");
    store.copy_to(&target).unwrap();
    store.put_meta(b"founding", b"later").unwrap();
    let db = DB::open_cf(&Options::default(), target, Family::ALL.map(Family::name)).unwrap();
    let value = db.get_cf(db.cf_handle("meta").unwrap(), b"founding").unwrap();
    assert_eq!(value.as_deref(), Some(&b"promise"[..]));
}

fn row(family: Family, vault: VaultRef, number: u64, value: &[u8]) -> RowWrite {
    let key = [&vault.to_bytes()[..], &number.to_be_bytes()].concat();
    RowWrite { family, key, value: Some(value.to_vec()) }
}

fn count(store: &Store, family: Family, vault: VaultRef) -> usize {
    let ((from, to), mut count) = (vault_range(vault), 0);
    crate::view::scan(store, None, family, &from..&to, &mut |_, _| {
        count += 1;
        true
    })
    .unwrap();
    count
}

#[test]
fn an_erased_vault_leaves_its_neighbours_and_what_comes_with_the_same_round() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).unwrap();
    let vaults = [VaultRef::new(1, 6), VaultRef::new(1, 7), VaultRef::new(1, 8)];
    let families = || VAULT_FAMILIES.into_iter().chain([Family::Vaults]);
    let rows: Vec<_> = families()
        .flat_map(|family| vaults.map(|vault| [1, u64::MAX].map(|n| row(family, vault, n, b"1"))))
        .flatten()
        .collect();
    store.write(&rows).unwrap();
    let late = [row(Family::Latest, vaults[1], 5, b"2"), row(Family::Vaults, vaults[1], 1, b"2")];
    store.write_round(&[vaults[1]], &late).unwrap();
    for (vault, expected) in vaults.into_iter().zip([[2; 6], [1, 0, 0, 0, 0, 2], [2; 6]]) {
        let found: Vec<usize> = families().map(|family| count(&store, family, vault)).collect();
        assert_eq!(found, expected, "{vault}");
    }
}

#[test]
fn the_room_of_an_erased_vault_is_given_back() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).unwrap();
    let (gone, stays) = (VaultRef::new(1, 7), VaultRef::new(1, 8));
    for vault in [gone, stays] {
        let rows = (0..2_000u64).map(|number| {
            let value: Vec<u8> = (0..1_000).map(|_| rand::random()).collect();
            row(Family::Latest, vault, number, &value)
        });
        store.write(&rows.collect::<Vec<_>>()).unwrap();
    }
    store.flush(&[Family::Latest]).unwrap();
    let held = |vault| {
        let (from, to) = vault_range(vault);
        store.approximate_bytes(Family::Latest, &from, &to)
    };
    store.write_round(&[gone], &[]).unwrap();
    assert!(held(gone) > 1_000_000, "the file still has what nobody can read");
    assert_eq!(count(&store, Family::Latest, gone), 0);
    let before = held(stays);
    assert!(store.reclaim(gone) > 1_000_000);
    assert!(held(gone) < 100_000, "{} bytes are left", held(gone));
    assert!(held(stays) > before / 2);
    assert_eq!(count(&store, Family::Latest, stays), 2_000);
}
