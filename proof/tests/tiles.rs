//! Tiles judged by the reader of `tlog_tiles`: what it makes of our files alone is the log that we
//! say it is.

#![expect(clippy::unwrap_used, reason = "a failed test stops and says why")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use ledger_proof::block_log::{self, Frontier, LogNodes};
use ledger_proof::rfc9162::{verify_consistency, verify_inclusion};
use ledger_proof::{LogResource, ReadFault, Tile, hash, tx_tree};
use ledger_types::Digest;
use proptest::prelude::*;
use tlog_tiles::{
    Error, Hash, TileHashReader, TileReader, check_record, check_tree, prove_record, prove_tree,
    tree_hash,
};

/// Tiles of three levels: the third begins with entry 65,536.
const SIZE_MAX: u64 = 70_000;
const HEIGHT: u8 = 8;

#[derive(Default)]
struct Nodes(BTreeMap<(u8, u64), Digest>);

impl LogNodes for Nodes {
    fn node(&self, level: u8, index: u64) -> Result<Digest, ReadFault> {
        Ok(self.0[&(level, index)])
    }
}

fn leaf(number: u64) -> Digest {
    hash::leaf(&number.to_be_bytes())
}

/// The longest log; every shorter one is its beginning.
static LOG: LazyLock<Nodes> = LazyLock::new(|| {
    let (mut nodes, mut frontier) = (Nodes::default(), Frontier::new());
    for number in 0..SIZE_MAX {
        frontier.append(leaf(number), |level, index, node| {
            nodes.0.insert((level, index), node);
        });
    }
    nodes
});

/// Files of the log of one size, as a monitor fetches them: by path, bytes only.
struct Files {
    size: u64,
    /// A tile whose first hash is damaged.
    damaged: Option<String>,
    fetched: RefCell<Vec<String>>,
}

impl Files {
    fn of(size: u64) -> Files {
        Files { size, damaged: None, fetched: RefCell::new(Vec::new()) }
    }

    fn get(&self, path: &str) -> Vec<u8> {
        let LogResource::Hashes(tile) = LogResource::parse(path).unwrap() else { panic!("{path}") };
        let mut bytes = tile.hashes(self.size, &*LOG).unwrap();
        if self.damaged.as_deref() == Some(path) {
            bytes[0] ^= 1;
        }
        self.fetched.borrow_mut().push(path.to_owned());
        bytes
    }
}

/// The path in our layout, where all tiles have one height and it is not said.
fn our_path(tile: &tlog_tiles::Tile) -> String {
    tile.path().replacen("tile/8/", "tile/", 1)
}

impl TileReader for Files {
    fn height(&self) -> u8 {
        HEIGHT
    }

    fn read_tiles(&self, tiles: &[tlog_tiles::Tile]) -> Result<Vec<Vec<u8>>, Error> {
        Ok(tiles.iter().map(|tile| self.get(&our_path(tile))).collect())
    }

    fn save_tiles(&self, _: &[tlog_tiles::Tile], _: &[Vec<u8>]) {}
}

fn root(size: u64) -> Digest {
    block_log::root_at(size, &*LOG).unwrap()
}

fn ours(hashes: &[Hash]) -> Vec<Digest> {
    hashes.iter().map(|hash| Digest(hash.0)).collect()
}

/// Root, inclusion of an entry and growth from a smaller size, all from tiles, as both sides judge.
fn assert_monitored(size: u64, index: u64, old_size: u64) {
    let files = Files::of(size);
    let root = root(size);
    // The reader checks what it loads against the root that it is told.
    let reader = TileHashReader::new(size, Hash(root.0), &files);
    assert_eq!(tree_hash(size, &reader).unwrap(), Hash(root.0));

    let path = prove_record(size, index, &reader).unwrap();
    check_record(&path, size, Hash(root.0), index, Hash(leaf(index).0)).unwrap();
    assert_eq!(verify_inclusion(&leaf(index), index, size, &ours(&path), &root), Ok(()));
    assert_eq!(ours(&path), block_log::inclusion_path(index, size, &*LOG).unwrap());

    let old_root = self::root(old_size);
    let path = prove_tree(size, old_size, &reader).unwrap();
    check_tree(&path, size, Hash(root.0), old_size, Hash(old_root.0)).unwrap();
    let verified = verify_consistency(old_size, &old_root, size, &root, &ours(&path));
    assert_eq!(verified, Ok(()));
    assert!(!files.fetched.borrow().is_empty());
}

#[test]
fn logs_are_read_from_their_tiles_at_every_edge() {
    for edge in [1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 65_791, 65_792, SIZE_MAX] {
        for (index, old_size) in [(0, 1), (edge - 1, edge), (edge / 2, edge / 2 + 1)] {
            assert_monitored(edge, index, old_size);
        }
    }
    let leaves: Vec<Digest> = (0..SIZE_MAX).map(leaf).collect();
    assert_eq!(root(SIZE_MAX), tx_tree::tx_root(&leaves), "another builder says the same");
}

#[test]
fn a_damaged_tile_is_noticed() {
    let size = 66_000;
    for damaged in ["tile/2/000.p/1", "tile/1/000", "tile/1/001.p/1", "tile/0/007"] {
        let mut files = Files::of(size);
        files.damaged = Some(damaged.to_owned());
        let (root, index) = (Hash(root(size).0), 7 * 256 + 9);
        let reader = TileHashReader::new(size, root, &files);
        // The reader does not compare every tile with the one above; the proof shows what it missed.
        let checked = prove_record(size, index, &reader)
            .and_then(|path| check_record(&path, size, root, index, Hash(leaf(index).0)));
        assert!(checked.is_err(), "{damaged}");
    }
}

#[test]
fn every_tile_that_a_growing_log_gets_is_there_and_no_other() {
    for size in [1, 255, 256, 300, 65_536, SIZE_MAX] {
        for theirs in tlog_tiles::Tile::new_tiles(HEIGHT, 0, size) {
            let resource = LogResource::parse(&our_path(&theirs)).unwrap();
            let tile = resource.tile().unwrap();
            assert!(tile.is_in(size), "{tile:?} of {size}");
            let width = usize::try_from(theirs.width()).unwrap();
            assert_eq!(tile.hashes(size, &*LOG).unwrap().len(), width * 32);
            let wider = Tile::new(tile.level(), tile.index(), tile.width() + 1);
            let next = Tile::new(tile.level(), tile.index() + 1, 1);
            if !tile.is_full() {
                assert!(!wider.unwrap().is_in(size), "{wider:?} of {size}");
                assert!(!next.unwrap().is_in(size), "{next:?} of {size}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn logs_of_any_size_are_read_from_their_tiles(
        (size, index, old_size) in (1..=SIZE_MAX).prop_flat_map(|size| (Just(size), 0..size, 1..=size))
    ) {
        assert_monitored(size, index, old_size);
    }
}

proptest! {
    #[test]
    fn paths_are_those_of_tlog_tiles(level in 0u8..64, index: u64, width in 1u16..=256, bits in 0u32..64) {
        let index = index >> bits;
        let theirs = tlog_tiles::Tile::new(HEIGHT, level, index, u32::from(width), false);
        let tile = Tile::new(level, index, width).unwrap();
        let path = LogResource::Hashes(tile).to_string();
        prop_assert_eq!(&path, &our_path(&theirs));
        prop_assert_eq!(LogResource::parse(&path), Ok(LogResource::Hashes(tile)));
        prop_assert_eq!(tlog_tiles::Tile::from_path(&path.replacen("tile/", "tile/8/", 1)).unwrap(), theirs);
    }

    /// Anything that nearly is a path is refused, or is the one form of what it names.
    #[test]
    fn what_is_accepted_is_canonical(path in "(tile/)?(0|00|1|63|64|entries)/(x0{0,2}[0-9]{1,3}/){0,7}x?[0-9]{2,4}(\\.p/[0-9]{1,4})?/?") {
        if let Ok(resource) = LogResource::parse(&path) {
            prop_assert_eq!(resource.to_string(), path);
        }
    }
}
