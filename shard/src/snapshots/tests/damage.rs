//! Every kind of damage is refused, each with its own error.

use ledger_proof::{Record, TreeAnchor, hash};
use ledger_shard_core::records::{record_at, record_header};
use ledger_shard_core::rows::{
    LogNodeRow, RetiredPage, TreeRow, VaultRow, VaultStatus, block_body_key, block_header_key,
    block_log_node_key, latest_key, owned_row_key, retired_page_key, split_tree_key,
    tree_anchor_key, tree_page_key, vault_row_key,
};
use ledger_shard_core::snapshot::SnapshotFile;
use ledger_types::StateKey;

use super::super::files::file_path;
use super::*;

/// A snapshot in memory, to be spoilt.
#[derive(Clone)]
struct Loose {
    manifest: SnapshotManifest,
    files: Vec<Vec<u8>>,
}

fn loose() -> Loose {
    let source = source();
    let snapshots = source.snapshots();
    let manifest = cut_small(&source, &snapshots);
    let directory = snapshots.outgoing_directory(manifest.id);
    let files = (0..manifest.files.len() as u32)
        .map(|file| fs::read(file_path(&directory, file)).unwrap())
        .collect();
    Loose { manifest, files }
}

fn records(bytes: &[u8]) -> Rows {
    let (mut rows, mut at) = (Rows::new(), 0);
    while at < bytes.len() {
        let place = record_at(bytes, at).unwrap();
        let (key, value) = (place.key_at..place.value_at, place.value_at..place.end);
        rows.push((bytes[key].to_vec(), bytes[value].to_vec()));
        at = place.end;
    }
    rows
}

impl Loose {
    /// The first file of a family.
    fn file_of(&self, family: Family) -> usize {
        self.manifest.files.iter().position(|file| file.family == family).unwrap()
    }

    /// Makes the manifest fit a file's bytes.
    fn fix(&mut self, file: usize) {
        let (bytes, line) = (&self.files[file], &mut self.manifest.files[file]);
        line.bytes = bytes.len() as u64;
        line.digest = hash::plain(bytes);
    }

    /// Changes the rows of a family, which become one file, with everything that a manifest says fixed up.
    fn change(&self, family: Family, change: impl FnOnce(&mut Rows)) -> Loose {
        let mut rows = Rows::new();
        let (mut lines, mut files) = (Vec::new(), Vec::new());
        for (line, bytes) in self.manifest.files.iter().zip(&self.files) {
            match line.family == family {
                true => rows.extend(records(bytes)),
                false => {
                    lines.push(*line);
                    files.push(bytes.clone());
                }
            }
        }
        change(&mut rows);
        let mut bytes = Vec::new();
        for (key, value) in &rows {
            bytes.extend_from_slice(&record_header(key.len(), value.len()));
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(value);
        }
        let digest = hash::plain(&bytes);
        let (count, len) = (rows.len() as u64, bytes.len() as u64);
        let at = lines.iter().filter(|line| line.family < family).count();
        if count > 0 {
            lines.insert(at, SnapshotFile { family, rows: count, bytes: len, digest });
            files.insert(at, bytes);
        }
        Loose { manifest: SnapshotManifest { files: lines, ..self.manifest.clone() }, files }
    }

    /// Lets a new replica receive it.
    fn receive(&self) -> Result<(), SnapshotError> {
        let directory = TempDir::new().unwrap();
        let metrics = Arc::new(Metrics::default());
        let snapshots = SnapshotStore::open(directory.path(), CLUSTER, metrics).unwrap();
        let mut staging = snapshots.receive(&self.manifest)?;
        for (file, bytes) in (0..).zip(&self.files) {
            if !bytes.is_empty() {
                staging.write(file, 0, bytes, &hash::plain(bytes))?;
            }
        }
        staging.finish()
    }

    fn refusal(&self) -> VerifyError {
        match self.receive().unwrap_err() {
            SnapshotError::Refused(error) => error,
            other => panic!("{other}"),
        }
    }
}

/// Asserts that the damage is refused in one way.
macro_rules! refused {
    ($damaged:expr, $pattern:pat $(if $guard:expr)?) => {
        let error = $damaged.refusal();
        assert!(matches!(error, $pattern $(if $guard)?), "{error}");
    };
}

fn value_at<'a>(rows: &'a mut Rows, key: &[u8]) -> &'a mut Vec<u8> {
    &mut rows.iter_mut().find(|(found, _)| found == key).unwrap().1
}

fn insert(rows: &mut Rows, key: Vec<u8>, value: Vec<u8>) {
    let at = rows.partition_point(|(found, _)| *found < key);
    rows.insert(at, (key, value));
}

#[test]
fn whole_snapshots_pass_however_they_are_cut() {
    let whole = loose();
    whole.receive().unwrap();
    for family in VAULT_FAMILIES {
        whole.change(family, |_| {}).receive().unwrap();
    }
}

#[test]
fn a_flipped_byte_in_any_family_is_found() {
    let whole = loose();
    let families = [Family::Vaults].into_iter().chain(VAULT_FAMILIES);
    for family in families {
        let file = whole.file_of(family);
        for place in [0, 3, whole.files[file].len() / 2, whole.files[file].len() - 1] {
            let mut damaged = whole.clone();
            damaged.files[file][place] ^= 0x10;
            let error = damaged.receive().unwrap_err();
            let is_it = matches!(error, SnapshotError::FileDigest { file: found } if found as usize == file);
            assert!(is_it, "{family:?}, byte {place}: {error}");
        }
    }
}

#[test]
fn a_file_that_is_no_run_of_records_is_refused() {
    let whole = loose();
    for lost in [1, 5, 100] {
        let mut damaged = whole.clone();
        let len = damaged.files[0].len();
        damaged.files[0].truncate(len - lost);
        damaged.fix(0);
        refused!(damaged, VerifyError::Framing { file: 0, .. });
    }
    let mut damaged = whole.clone();
    damaged.files[0].push(0);
    damaged.fix(0);
    refused!(damaged, VerifyError::Framing { file: 0, .. });
    // A length beyond all limits, and one beyond the file, take no memory.
    for value_len in [u32::MAX, 1 << 20] {
        let mut damaged = whole.clone();
        damaged.files[0][2..6].copy_from_slice(&value_len.to_be_bytes());
        damaged.fix(0);
        refused!(damaged, VerifyError::Framing { file: 0, offset: 0 });
    }
    let mut damaged = whole.clone();
    damaged.manifest.files[0].rows += 1;
    refused!(damaged, VerifyError::RowCount { file: 0, .. });
}

#[test]
fn files_and_keys_keep_their_order() {
    let whole = loose();
    let first = whole.file_of(Family::Latest);
    let mut damaged = whole.clone();
    damaged.manifest.files.swap(first, first + 1);
    damaged.files.swap(first, first + 1);
    refused!(damaged, VerifyError::KeyOrder { .. });
    let mut damaged = whole.clone();
    damaged.files.swap(first, first + 1);
    damaged.fix(first);
    damaged.fix(first + 1);
    let lines = &mut damaged.manifest.files;
    (lines[first].rows, lines[first + 1].rows) = (lines[first + 1].rows, lines[first].rows);
    refused!(damaged, VerifyError::KeyOrder { .. });
    let mut damaged = whole.clone();
    let last = damaged.files.len() - 1;
    damaged.manifest.files.swap(0, last);
    damaged.files.swap(0, last);
    refused!(damaged, VerifyError::FileOrder { .. });
    let twice = whole.change(Family::Sessions, |rows| rows.insert(0, rows[0].clone()));
    refused!(twice, VerifyError::KeyOrder { row: 1, .. });
    let mut empty = whole.clone();
    empty.files.push(Vec::new());
    let (family, digest) = (Family::Sessions, hash::plain(&[]));
    empty.manifest.files.push(SnapshotFile { family, rows: 0, bytes: 0, digest });
    assert!(empty.receive().is_err(), "a file without a row");
}

#[test]
fn another_cluster_or_group_is_refused() {
    let whole = loose();
    let mut damaged = whole.clone();
    damaged.manifest.cluster = ClusterId([4; 16]);
    let error = damaged.receive().unwrap_err();
    assert!(matches!(error, SnapshotError::OtherCluster { .. }), "{error}");
    let mut damaged = whole.clone();
    damaged.manifest.group = OTHER;
    refused!(damaged, VerifyError::GroupRow);
    let mut damaged = whole.clone();
    damaged.manifest.row.applied_index += 1;
    refused!(damaged, VerifyError::GroupRow);
    let mut row = whole.manifest.row.clone();
    row.replicas.pop();
    let key = ledger_shard_core::rows::group_row_key(GROUP);
    let mut damaged = whole.change(Family::Vaults, |rows| *value_at(rows, &key) = row.encode());
    damaged.manifest.row = row;
    refused!(damaged, VerifyError::Member(7));
}

#[test]
fn rows_of_others_are_refused_in_every_family() {
    let whole = loose();
    for family in VAULT_FAMILIES {
        for stranger in [vault(9, 1), vault(10, 3), vault(99, 9)] {
            let damaged = whole.change(family, |rows| {
                let (key, value) = rows[0].clone();
                let key = [&stranger.to_bytes()[..], &key[VaultRef::LEN..]].concat();
                insert(rows, key, value);
            });
            let error = damaged.refusal();
            let is_it =
                matches!(error, VerifyError::ForeignRows { family: found } if found == family);
            assert!(is_it, "{family:?}, {stranger}: {error}");
        }
    }
    for key in [
        ledger_shard_core::rows::group_row_key(OTHER),
        owned_row_key(OTHER, VAULTS[0]),
        vec![9],
        vec![0, 1],
    ] {
        let damaged = whole.change(Family::Vaults, |rows| insert(rows, key, vec![1]));
        refused!(damaged, VerifyError::ForeignRows { family: Family::Vaults });
    }
}

#[test]
fn the_table_of_vaults_and_their_rows_fit() {
    let whole = loose();
    let change_row = |change: &dyn Fn(&mut VaultRow)| {
        whole.change(Family::Vaults, |rows| {
            let value = value_at(rows, &vault_row_key(VAULTS[1]));
            let mut row = VaultRow::decode(value).unwrap();
            change(&mut row);
            *value = row.encode();
        })
    };
    let ownership = [
        change_row(&|row| row.owner = OTHER),
        change_row(&|row| row.owner_epoch = OwnerEpoch(2)),
        change_row(&|row| row.applied_index = 67),
        whole.change(Family::Vaults, |rows| {
            rows.retain(|(key, _)| *key != owned_row_key(GROUP, VAULTS[1]));
        }),
        whole.change(Family::Vaults, |rows| {
            rows.retain(|(key, _)| *key != owned_row_key(GROUP, VAULTS[2]));
        }),
        whole.change(Family::Vaults, |rows| {
            rows.retain(|(key, _)| *key != vault_row_key(VAULTS[0]));
        }),
        whole.change(Family::Vaults, |rows| {
            rows.retain(|(key, _)| *key != vault_row_key(VAULTS[2]));
        }),
    ];
    for (number, damaged) in ownership.iter().enumerate() {
        let error = damaged.refusal();
        assert!(matches!(error, VerifyError::Ownership { .. }), "{number}: {error}");
    }
    refused!(change_row(&|row| row.height -= 1), VerifyError::Chain { .. });
    refused!(change_row(&|row| row.height += 1), VerifyError::Chain { .. });
    refused!(change_row(&|row| row.log_size += 1), VerifyError::BlockLog { .. });
    refused!(change_row(&|row| row.log_root.0[0] ^= 1), VerifyError::BlockLog { .. });
    refused!(change_row(&|row| row.state_root.0[0] ^= 1), VerifyError::Chain { .. });
    refused!(change_row(&|row| row.state_keys += 1), VerifyError::Chain { .. });
    refused!(change_row(&|row| row.tree_anchor.height = 1), VerifyError::Chain { .. });
    refused!(change_row(&|row| row.tree_anchor.height = 1000), VerifyError::Chain { .. });
    refused!(
        change_row(&|row| row.tree_anchor.root_page = Some((99, 1))),
        VerifyError::Tree { .. }
    );
    refused!(change_row(&|row| row.session_rows += 1), VerifyError::State { .. });
}

#[test]
fn blocks_are_a_chain_without_a_hole() {
    let whole = loose();
    let without = |key: Vec<u8>| {
        whole.change(Family::Blocks, |rows| {
            let before = rows.len();
            rows.retain(|(found, _)| *found != key);
            assert_eq!(rows.len(), before - 1);
        })
    };
    for height in [0, 1, 30, 60] {
        refused!(without(block_header_key(VAULTS[0], height)), VerifyError::Chain { .. });
    }
    for height in [1, 30, 60] {
        refused!(without(block_body_key(VAULTS[1], height)), VerifyError::Body { .. });
    }
    for (level, index) in [(1, 0), (1, 29), (2, 3), (5, 0)] {
        let key = block_log_node_key(VAULTS[0], LogNodeRow { level, index });
        refused!(without(key.clone()), VerifyError::BlockLog { .. });
        let changed = whole.change(Family::Blocks, |rows| value_at(rows, &key)[0] ^= 1);
        refused!(changed, VerifyError::BlockLog { .. });
    }
    let flip = |key: Vec<u8>, place: usize| {
        whole.change(Family::Blocks, |rows| value_at(rows, &key)[place] ^= 1)
    };
    // Its own hash, and so the next one's way back.
    refused!(flip(block_header_key(VAULTS[0], 30), 140), VerifyError::Chain { .. });
    refused!(flip(block_header_key(VAULTS[0], 60), 140), VerifyError::Chain { .. });
    refused!(flip(block_body_key(VAULTS[0], 30), 60), VerifyError::Body { .. });
    refused!(flip(block_body_key(VAULTS[0], 30), 0), VerifyError::Row { .. });
    let later = whole.change(Family::Blocks, |rows| {
        let body = value_at(rows, &block_body_key(VAULTS[0], 60)).clone();
        insert(rows, block_body_key(VAULTS[0], 61), body);
    });
    refused!(later, VerifyError::ForeignRows { family: Family::Blocks });
}

#[test]
fn state_is_what_the_tip_commits_to() {
    let whole = loose();
    let key = latest_key(VAULTS[0], StateKey::entity("last").as_bytes());
    let other_value = whole.change(Family::Latest, |rows| value_at(rows, &key).push(7));
    refused!(other_value, VerifyError::State { .. });
    // A lie that is consistent in itself: only the root knows.
    let lie = whole.change(Family::Latest, |rows| {
        let row = value_at(rows, &key);
        let record = Record::decode(&row[..93]).unwrap();
        let record = Record { value_hash: hash::plain(b"lie"), ..record };
        *row = [&record.encode()[..], b"lie"].concat();
    });
    refused!(lie, VerifyError::StateRoot(vault) if vault == VAULTS[0]);
    let missing = whole.change(Family::Latest, |rows| rows.retain(|(found, _)| *found != key));
    refused!(missing, VerifyError::StateRoot(_));
    let added = whole.change(Family::Latest, |rows| {
        let value = value_at(rows, &key).clone();
        insert(rows, latest_key(VAULTS[0], StateKey::entity("lasting").as_bytes()), value);
    });
    refused!(added, VerifyError::StateRoot(_));
    let none = whole.change(Family::Latest, |rows| {
        rows.retain(|(found, _)| !found.starts_with(&VAULTS[2].to_bytes()));
    });
    refused!(none, VerifyError::StateRoot(vault) if vault == VAULTS[2]);
    let short = whole.change(Family::Latest, |rows| value_at(rows, &key).truncate(92));
    refused!(short, VerifyError::State { .. });
    let pages = || whole.change(Family::Tree, |_| {}).manifest.files.len();
    assert!(pages() > 0);
    let count = whole.files.iter().zip(&whole.manifest.files);
    let count = count.filter(|(_, line)| line.family == Family::Tree).map(|(_, line)| line.rows);
    let mut kinds = [0; 3];
    for page in 0..count.sum::<u64>() as usize {
        let mut kind = None;
        let changed = whole.change(Family::Tree, |rows| {
            let (key, value) = &mut rows[page];
            kind = split_tree_key(key);
            // In a page's first hash, or an anchor's height. Where the keys of a bucket begin is in no hash, and
            // only of the newest tree are the leaves looked up.
            match value.get_mut(8) {
                Some(byte) => *byte ^= 1,
                None => value.push(1),
            }
        });
        refused!(changed, VerifyError::Tree { .. });
        let mut is_oldest = false;
        let missing = whole.change(Family::Tree, |rows| {
            let is_anchor =
                |row: &Row| matches!(split_tree_key(&row.0), Some(TreeRow::Anchor { .. }));
            let (removed, before) =
                (rows.remove(page), page.checked_sub(1).map(|page| &rows[page]));
            is_oldest = is_anchor(&removed) && !before.is_some_and(is_anchor);
        });
        // Without the oldest anchor there may be less history, and nothing wrong.
        if !is_oldest {
            refused!(missing, VerifyError::Tree { .. });
        }
        match kind.expect("a row of the tree family") {
            TreeRow::Anchor { .. } => kinds[0] += 1,
            TreeRow::Page { .. } => kinds[1] += 1,
            TreeRow::Retired(_) => kinds[2] += 1,
        }
    }
    assert!(kinds.iter().all(|count| *count > 0), "{kinds:?}");
}

#[test]
fn every_row_of_the_tree_belongs_to_an_anchor() {
    let whole = loose();
    let find = |rows: &[Row], wanted: fn(&TreeRow) -> bool| {
        let mut all = rows.iter().filter(|(key, _)| key.starts_with(&VAULTS[0].to_bytes()));
        let found = all.find(|(key, _)| split_tree_key(key).as_ref().is_some_and(wanted));
        found.expect("there is one").clone()
    };
    let added = |wanted: fn(&TreeRow) -> bool, key: &dyn Fn(TreeRow) -> Vec<u8>| {
        whole.change(Family::Tree, |rows| {
            let (like, value) = find(rows, wanted);
            insert(rows, key(split_tree_key(&like).expect("it is a row of the family")), value);
        })
    };
    let vault = VAULTS[0];
    let is_page = |row: &TreeRow| matches!(row, TreeRow::Page { .. });
    let orphan = added(is_page, &|_| tree_page_key(vault, 1 << 40, 3));
    refused!(orphan, VerifyError::Tree { .. });
    let is_retired = |row: &TreeRow| matches!(row, TreeRow::Retired(_));
    let twice = added(is_retired, &|row| match row {
        TreeRow::Retired(page) => {
            retired_page_key(vault, RetiredPage { retired_height: page.retired_height + 1, ..page })
        }
        other => panic!("{other:?}"),
    });
    refused!(twice, VerifyError::Tree { .. });
    let is_anchor = |row: &TreeRow| matches!(row, TreeRow::Anchor { .. });
    for height in [1, 1 << 40] {
        let elsewhere = added(is_anchor, &|_| tree_anchor_key(vault, height));
        refused!(elsewhere, VerifyError::Tree { .. });
    }
    let other_block = whole.change(Family::Tree, |rows| {
        let (key, value) = find(rows, is_anchor);
        rows.retain(|(found, _)| *found != key);
        let mut anchor = TreeAnchor::decode(&value).unwrap();
        anchor.height -= 1;
        insert(rows, tree_anchor_key(vault, anchor.height), anchor.encode());
    });
    refused!(other_block, VerifyError::Tree { .. });
    let unknown = added(is_page, &|_| [&tree_page_key(vault, 5, 3)[..], &[0]].concat());
    refused!(unknown, VerifyError::Tree { .. });
}

#[test]
fn history_and_sessions_are_in_their_format() {
    let whole = loose();
    let history =
        |change: &dyn Fn(&mut Row)| whole.change(Family::History, |rows| change(&mut rows[0]));
    refused!(history(&|(_, value)| value.truncate(92)), VerifyError::Row { .. });
    // A record that is no older than what replaced it.
    refused!(history(&|(_, value)| value[9..17].fill(0xff)), VerifyError::State { .. });
    let sessions =
        |change: &dyn Fn(&mut Row)| whole.change(Family::Sessions, |rows| change(&mut rows[0]));
    refused!(sessions(&|(_, value)| value.truncate(5)), VerifyError::Row { .. });
    refused!(sessions(&|(key, _)| key[VaultRef::LEN] = 0), VerifyError::Row { .. });
    let fewer = whole.change(Family::Sessions, |rows| drop(rows.remove(0)));
    refused!(fewer, VerifyError::State { .. });
    let none = whole.change(Family::Sessions, Vec::clear);
    refused!(none, VerifyError::State { .. });
}

#[test]
fn a_purged_vault_has_a_bare_row_and_no_other() {
    let change_row = |whole: &Loose, change: &dyn Fn(&mut VaultRow)| {
        whole.change(Family::Vaults, |rows| {
            let value = value_at(rows, &vault_row_key(VAULTS[1]));
            let mut row = VaultRow::decode(value).unwrap();
            change(&mut row);
            *value = row.encode();
        })
    };
    let mut purged = change_row(&loose(), &|row| *row = row.purged());
    for family in VAULT_FAMILIES {
        refused!(purged, VerifyError::ForeignRows { .. });
        purged = purged.change(family, |rows| {
            rows.retain(|(key, _)| !key.starts_with(&VAULTS[1].to_bytes()));
        });
    }
    purged.receive().unwrap();
    let not_bare: [&dyn Fn(&mut VaultRow); 3] =
        [&|row| row.session_rows = 1, &|row| row.history_floor = 1, &|row| {
            row.tree_anchor.height -= 1
        }];
    for change in not_bare {
        refused!(change_row(&purged, change), VerifyError::State { .. });
    }
    let with_page = change_row(&purged, &|row| row.tree_anchor.root_page = Some((9, 1)));
    refused!(with_page, VerifyError::Row { .. });
    let only_deleted = change_row(&purged, &|row| row.status = VaultStatus::Deleted);
    refused!(only_deleted, VerifyError::Chain { .. });
}
