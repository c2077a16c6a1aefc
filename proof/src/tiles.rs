//! A block log as the files of the C2SP `tlog-tiles` layout: their paths and their bytes.
//!
//! Owns which path names what, and which nodes of the log a tile is made of. Must never guess what
//! a path may have meant: every file has one path, and any other is refused.

use std::fmt;
use std::ops::Range;

use ledger_types::VaultRef;
use thiserror::Error;

use crate::block_log::LogNodes;
use crate::checkpoint::parse_decimal;
use crate::read_fault::ReadFault;

/// Hashes of a full tile, and entries of a full bundle.
pub const TILE_WIDTH: u16 = 256;
/// Levels of the log between two levels of tiles: a tile of 256 hashes has one hash above it.
const TILE_HEIGHT: u8 = 8;
/// The highest level that a path may name; no log is large enough for it.
const LEVEL_MAX: u8 = 63;
/// A tile's number is written in groups of so many decimal digits.
const GROUP_DIGITS: usize = 3;
/// Longest path that is looked at; the longest legal one is shorter.
const PATH_BYTES_MAX: usize = 160;

/// A file of a vault's log, as `ns/<namespace>/vault/<vault>/<log epoch>/<file>` names it. The part
/// before the file is the log's origin without the domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogPath {
    /// The vault.
    pub vault: VaultRef,
    /// Which of the vault's logs.
    pub log_epoch: u64,
    /// The file.
    pub resource: LogResource,
}

/// What one file of a log holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogResource {
    /// `checkpoint`: the newest signed note.
    Checkpoint,
    /// `tile/<L>/<N>[.p/<W>]`: hashes of the log.
    Hashes(Tile),
    /// `tile/entries/<N>[.p/<W>]`: the entries whose hashes are in this tile, which is of level 0.
    Entries(Tile),
}

/// Some hashes of the log that lie side by side, the first of them at a multiple of 256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tile {
    level: u8,
    index: u64,
    width: u16,
}

/// Why a path names no file of any log.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum LogPathError {
    /// The path is longer than any that names a file.
    #[error("the path is longer than any file of a log has")]
    TooLong,
    /// The path does not begin with the name of a vault's log.
    #[error(
        "a log is named ns/<namespace>/vault/<vault>/<log epoch>, in numbers without leading zeros"
    )]
    Log,
    /// A log has no file of this kind.
    #[error("a log has checkpoint, tile/<L>/<N>[.p/<W>] and tile/entries/<N>[.p/<W>]")]
    File,
    /// The level is not a number from 0 to 63 without leading zeros.
    #[error("a tile's level is a number from 0 to 63 without leading zeros")]
    Level,
    /// The tile's number is not in the only form that it has, or beyond 64 bits.
    #[error(
        "a tile's number is below 2^64, in groups of three digits, all but the last after an x"
    )]
    Index,
    /// The width is not a number from 1 to 255 without leading zeros.
    #[error("a partial tile's width is a number from 1 to 255 without leading zeros")]
    Width,
}

/// Why a tile cannot be made.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum TileError {
    /// The log has not all of its hashes yet.
    #[error("the log has {size} entries, too few for this tile")]
    BeyondLog {
        /// Entries of the log.
        size: u64,
    },
    /// The log's nodes or entries could not be read.
    #[error(transparent)]
    Fault(#[from] ReadFault),
}

impl LogPath {
    /// Reads the form that `Display` writes and no other. Looks at a bounded number of bytes.
    pub fn parse(path: &str) -> Result<LogPath, LogPathError> {
        if path.len() > PATH_BYTES_MAX {
            return Err(LogPathError::TooLong);
        }
        let parts: Vec<&str> = path.splitn(6, '/').collect();
        let ["ns", namespace, "vault", vault, log_epoch, ref file @ ..] = parts[..] else {
            return Err(LogPathError::Log);
        };
        let number = |digits| parse_decimal(digits).ok_or(LogPathError::Log);
        let vault = VaultRef::new(number(namespace)?, number(vault)?);
        let log_epoch = number(log_epoch)?;
        let file = file.first().ok_or(LogPathError::File)?;
        Ok(LogPath { vault, log_epoch, resource: LogResource::parse(file)? })
    }
}

impl fmt::Display for LogPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LogPath { vault: VaultRef { namespace, vault }, log_epoch, resource } = self;
        write!(f, "ns/{namespace}/vault/{vault}/{log_epoch}/{resource}")
    }
}

impl LogResource {
    /// Reads the form that `Display` writes and no other.
    pub fn parse(path: &str) -> Result<LogResource, LogPathError> {
        if path == "checkpoint" {
            return Ok(LogResource::Checkpoint);
        }
        let (level, place) = path
            .strip_prefix("tile/")
            .and_then(|path| path.split_once('/'))
            .ok_or(LogPathError::File)?;
        let is_entries = level == "entries";
        let level = if is_entries { Some(0) } else { parse_decimal(level) };
        let level = level.and_then(|level| u8::try_from(level).ok());
        let level = level.filter(|level| *level <= LEVEL_MAX).ok_or(LogPathError::Level)?;
        let (index, width) = match place.split_once(".p/") {
            None => (place, TILE_WIDTH),
            Some((index, width)) => (index, parse_width(width)?),
        };
        let tile = Tile { level, index: parse_index(index)?, width };
        Ok(if is_entries { LogResource::Entries(tile) } else { LogResource::Hashes(tile) })
    }

    /// The tile, if this is a file of hashes or entries.
    pub fn tile(&self) -> Option<Tile> {
        match self {
            LogResource::Checkpoint => None,
            LogResource::Hashes(tile) | LogResource::Entries(tile) => Some(*tile),
        }
    }
}

impl fmt::Display for LogResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tile = match self {
            LogResource::Checkpoint => return f.write_str("checkpoint"),
            LogResource::Entries(tile) => {
                f.write_str("tile/entries/")?;
                tile
            }
            LogResource::Hashes(tile) => {
                write!(f, "tile/{}/", tile.level)?;
                tile
            }
        };
        write_index(f, tile.index)?;
        if tile.is_full() { Ok(()) } else { write!(f, ".p/{}", tile.width) }
    }
}

impl Tile {
    /// A tile of `width` hashes, which begins with hash `index * 256` of its level. `None` if no
    /// path can name it: the level is above 63, or the width not from 1 to 256.
    pub fn new(level: u8, index: u64, width: u16) -> Option<Tile> {
        let is_legal = level <= LEVEL_MAX && (1..=TILE_WIDTH).contains(&width);
        is_legal.then_some(Tile { level, index, width })
    }

    /// Which hashes it has: those of entries are level 0, and one of level `l` covers `256^l`
    /// entries.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Its number among the tiles of its level.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Hashes in it, 1 to 256.
    pub fn width(&self) -> u16 {
        self.width
    }

    /// True if it has all hashes that it ever can.
    pub fn is_full(&self) -> bool {
        self.width == TILE_WIDTH
    }

    /// True if a log of `size` entries has all of its hashes. Such a tile never changes.
    pub fn is_in(&self, size: u64) -> bool {
        self.nodes().is_some_and(|(level, range)| range.end <= size >> level)
    }

    /// Its hashes: 32 bytes each, in order. `size` is that of the log.
    pub fn hashes(&self, size: u64, nodes: &dyn LogNodes) -> Result<Vec<u8>, TileError> {
        let (level, range) = self.nodes_in(size)?;
        let mut bytes = Vec::with_capacity(usize::from(self.width) * 32);
        for index in range {
            bytes.extend_from_slice(&nodes.node(level, index)?.0);
        }
        Ok(bytes)
    }

    /// The bundle of its entries: for each a 16-bit big-endian length and then its bytes. `size` is
    /// that of the log; an entry longer than 65,535 bytes is a fault.
    ///
    /// # Panics
    ///
    /// If the tile is not of level 0, which has no entries.
    pub fn entries<E: AsRef<[u8]>>(
        &self,
        size: u64,
        mut entry: impl FnMut(u64) -> Result<E, ReadFault>,
    ) -> Result<Vec<u8>, TileError> {
        assert_eq!(self.level, 0, "entries are below level 0 only");
        let (_, range) = self.nodes_in(size)?;
        let mut bytes = Vec::new();
        for index in range {
            let data = entry(index)?;
            let data = data.as_ref();
            let too_long = |_| ReadFault::corrupt("a log entry is longer than a bundle can say");
            let length = u16::try_from(data.len()).map_err(too_long)?;
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(data);
        }
        Ok(bytes)
    }

    /// The nodes of the block log that make up the tile: their level, and their indexes there.
    /// `None` if no log has so many entries.
    fn nodes(&self) -> Option<(u8, Range<u64>)> {
        let level = self.level.checked_mul(TILE_HEIGHT).filter(|level| *level < 64)?;
        let first = self.index.checked_mul(u64::from(TILE_WIDTH))?;
        let end = first.checked_add(u64::from(self.width))?;
        Some((level, first..end))
    }

    fn nodes_in(&self, size: u64) -> Result<(u8, Range<u64>), TileError> {
        let nodes = self.nodes().filter(|(level, range)| range.end <= size >> level);
        nodes.ok_or(TileError::BeyondLog { size })
    }
}

/// A partial tile's width.
fn parse_width(digits: &str) -> Result<u16, LogPathError> {
    let width = parse_decimal(digits).and_then(|width| u16::try_from(width).ok());
    width.filter(|width| (1..TILE_WIDTH).contains(width)).ok_or(LogPathError::Width)
}

/// A tile's number: groups of three digits, each but the last an `x` before it, and no group of
/// zeros before others.
fn parse_index(text: &str) -> Result<u64, LogPathError> {
    let mut index = 0u64;
    let mut groups = text.split('/').peekable();
    let mut is_first = true;
    while let Some(group) = groups.next() {
        let is_last = groups.peek().is_none();
        let digits = if is_last { Some(group) } else { group.strip_prefix('x') };
        let is_group = |digits: &&str| {
            digits.len() == GROUP_DIGITS && digits.bytes().all(|digit| digit.is_ascii_digit())
        };
        let digits = digits.filter(is_group).ok_or(LogPathError::Index)?;
        if is_first && !is_last && digits == "000" {
            return Err(LogPathError::Index);
        }
        let value: u64 = digits.parse().map_err(|_| LogPathError::Index)?;
        let next = index.checked_mul(1000).and_then(|index| index.checked_add(value));
        index = next.ok_or(LogPathError::Index)?;
        is_first = false;
    }
    Ok(index)
}

fn write_index(f: &mut fmt::Formatter<'_>, index: u64) -> fmt::Result {
    let mut groups = vec![index % 1000];
    let mut above = index / 1000;
    while above > 0 {
        groups.push(above % 1000);
        above /= 1000;
    }
    for group in groups[1..].iter().rev() {
        write!(f, "x{group:03}/")?;
    }
    write!(f, "{:03}", groups[0])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ledger_types::Digest;

    use super::*;
    use crate::Frontier;
    use crate::hash;

    fn hashes(level: u8, index: u64, width: u16) -> LogResource {
        LogResource::Hashes(Tile::new(level, index, width).unwrap())
    }

    fn entries(index: u64, width: u16) -> LogResource {
        LogResource::Entries(Tile::new(0, index, width).unwrap())
    }

    #[test]
    fn every_file_has_its_path() {
        let cases = [
            ("checkpoint", LogResource::Checkpoint),
            ("tile/0/000", hashes(0, 0, 256)),
            ("tile/0/000.p/1", hashes(0, 0, 1)),
            ("tile/7/999.p/255", hashes(7, 999, 255)),
            ("tile/63/x001/000", hashes(63, 1000, 256)),
            ("tile/2/x001/x234/067", hashes(2, 1_234_067, 256)),
            ("tile/2/x001/x234/067.p/8", hashes(2, 1_234_067, 8)),
            ("tile/entries/x010/x000/000", entries(10_000_000, 256)),
            ("tile/entries/000.p/44", entries(0, 44)),
            ("tile/0/x018/x446/x744/x073/x709/x551/615", hashes(0, u64::MAX, 256)),
        ];
        for (path, resource) in cases {
            assert_eq!(LogResource::parse(path), Ok(resource), "{path}");
            assert_eq!(resource.to_string(), path);
            let log_path = LogPath { vault: VaultRef::new(0, u64::MAX), log_epoch: 7, resource };
            let text = format!("ns/0/vault/{}/7/{path}", u64::MAX);
            assert_eq!(LogPath::parse(&text), Ok(log_path));
            assert_eq!(log_path.to_string(), text);
        }
    }

    #[test]
    fn any_other_path_is_refused() {
        let files = [
            ("", LogPathError::File),
            ("checkpoint/", LogPathError::File),
            ("Checkpoint", LogPathError::File),
            ("checkpoints", LogPathError::File),
            ("tile", LogPathError::File),
            ("tile/", LogPathError::File),
            ("tile/0", LogPathError::File),
            ("/tile/0/000", LogPathError::File),
            ("tiles/0/000", LogPathError::File),
            ("tile//000", LogPathError::Level),
            ("tile/00/000", LogPathError::Level),
            ("tile/64/000", LogPathError::Level),
            ("tile/256/000", LogPathError::Level),
            ("tile/-1/000", LogPathError::Level),
            ("tile/+1/000", LogPathError::Level),
            ("tile/data/000", LogPathError::Level),
            ("tile/Entries/000", LogPathError::Level),
            ("tile/8/0/000", LogPathError::Index),
            ("tile/0/", LogPathError::Index),
            ("tile/0/0", LogPathError::Index),
            ("tile/0/00", LogPathError::Index),
            ("tile/0/0000", LogPathError::Index),
            ("tile/0/x000", LogPathError::Index),
            ("tile/0/+01", LogPathError::Index),
            ("tile/0/0١", LogPathError::Index),
            ("tile/0/000/", LogPathError::Index),
            ("tile/0/000/000", LogPathError::Index),
            ("tile/0/x000/001", LogPathError::Index),
            ("tile/0/x001/x000", LogPathError::Index),
            ("tile/0/001/000", LogPathError::Index),
            ("tile/0/xx01/000", LogPathError::Index),
            ("tile/0/x001//000", LogPathError::Index),
            ("tile/0/000.p", LogPathError::Index),
            ("tile/0/000.P/1", LogPathError::Index),
            ("tile/0/x018/x446/x744/x073/x709/x551/616", LogPathError::Index),
            ("tile/0/x001/x000/x000/x000/x000/x000/x000/000", LogPathError::Index),
            ("tile/0/.p/1", LogPathError::Index),
            ("tile/0/000.p/", LogPathError::Width),
            ("tile/0/000.p/0", LogPathError::Width),
            ("tile/0/000.p/01", LogPathError::Width),
            ("tile/0/000.p/256", LogPathError::Width),
            ("tile/0/000.p/65537", LogPathError::Width),
            ("tile/0/000.p/1/", LogPathError::Width),
            ("tile/0/000.p/1.p/1", LogPathError::Width),
        ];
        for (path, error) in files {
            assert_eq!(LogResource::parse(path), Err(error.clone()), "{path:?}");
            let path = format!("ns/1/vault/2/0/{path}");
            assert_eq!(LogPath::parse(&path), Err(error), "{path:?}");
        }
    }

    #[test]
    fn a_path_begins_with_its_log() {
        let logs = [
            "",
            "checkpoint",
            "ns/1/vault/2",
            "ns/1/vault/2/checkpoint",
            "ns/01/vault/2/0/checkpoint",
            "ns/1/vault//0/checkpoint",
            "ns/1/vault/2/+0/checkpoint",
            "ns/1/vaults/2/0/checkpoint",
            "/ns/1/vault/2/0/checkpoint",
            "ns/18446744073709551616/vault/2/0/checkpoint",
        ];
        for path in logs {
            assert_eq!(LogPath::parse(path), Err(LogPathError::Log), "{path:?}");
        }
        assert_eq!(LogPath::parse("ns/1/vault/2/0"), Err(LogPathError::File));
        let long = format!("ns/1/vault/2/0/tile/0/{}000", "x001/".repeat(28));
        assert_eq!(LogPath::parse(&long), Err(LogPathError::TooLong));
        assert_eq!(Tile::new(64, 0, 1), None);
        assert_eq!(Tile::new(0, 0, 0), None);
        assert_eq!(Tile::new(0, 0, 257), None);
    }

    #[test]
    fn a_tile_is_there_once_the_log_has_all_of_it() {
        let tile = |level, index, width| Tile::new(level, index, width).unwrap();
        for (tile, size_min) in [
            (tile(0, 0, 1), 1),
            (tile(0, 0, 256), 256),
            (tile(0, 3, 7), 775),
            (tile(1, 0, 1), 256),
            (tile(1, 0, 255), 65_280),
            (tile(1, 1, 2), 66_048),
            (tile(2, 0, 1), 65_536),
            (tile(7, 0, 255), 255 << 56),
            (tile(0, (1 << 56) - 1, 255), u64::MAX),
        ] {
            assert!(!tile.is_in(size_min - 1), "{tile:?}");
            assert!(tile.is_in(size_min), "{tile:?}");
            assert!(tile.is_in(u64::MAX), "{tile:?}");
        }
        // More than 64 bits count, though a path can name them.
        for tile in [
            tile(7, 0, 256),
            tile(7, 1, 1),
            tile(8, 0, 1),
            tile(63, 0, 1),
            tile(0, 1 << 56, 1),
            tile(0, (1 << 56) - 1, 256),
            tile(0, u64::MAX, 1),
        ] {
            assert!(!tile.is_in(u64::MAX), "{tile:?}");
        }
    }

    #[derive(Default)]
    struct Stored(BTreeMap<(u8, u64), Digest>);

    impl LogNodes for Stored {
        fn node(&self, level: u8, index: u64) -> Result<Digest, ReadFault> {
            let missing = ReadFault::corrupt("a log node is missing");
            self.0.get(&(level, index)).copied().ok_or(missing)
        }
    }

    #[test]
    fn bundles_hold_the_entries_of_their_tile() {
        let data = |number: u64| vec![number as u8; number as usize * 3];
        let (mut stored, mut frontier) = (Stored::default(), Frontier::new());
        for number in 0..300 {
            frontier.append(hash::leaf(&data(number)), |level, index, node| {
                stored.0.insert((level, index), node);
            });
        }
        let read = |number| Ok(data(number));
        for (tile, numbers) in [
            (Tile::new(0, 0, 256).unwrap(), 0..256u64),
            (Tile::new(0, 1, 44).unwrap(), 256..300),
            (Tile::new(0, 1, 3).unwrap(), 256..259),
        ] {
            let expected: Vec<u8> = numbers
                .clone()
                .flat_map(|number| [&(number as u16 * 3).to_be_bytes(), &data(number)[..]].concat())
                .collect();
            assert_eq!(tile.entries(300, read), Ok(expected));
            let hashes: Vec<u8> = numbers.flat_map(|number| hash::leaf(&data(number)).0).collect();
            assert_eq!(tile.hashes(300, &stored), Ok(hashes));
        }
        let beyond = Tile::new(0, 1, 45).unwrap();
        assert_eq!(beyond.hashes(300, &stored), Err(TileError::BeyondLog { size: 300 }));
        assert_eq!(beyond.entries(300, read), Err(TileError::BeyondLog { size: 300 }));
        let above = Tile::new(1, 0, 1).unwrap();
        assert_eq!(above.hashes(300, &stored), Ok(stored.0[&(8, 0)].0.to_vec()));
        let one = Tile::new(0, 0, 1).unwrap();
        assert!(one.entries(1, |_| Ok(vec![0; 65_535])).is_ok());
        let too_long = one.entries(1, |_| Ok(vec![0; 65_536]));
        assert!(matches!(too_long, Err(TileError::Fault(_))), "{too_long:?}");
    }
}
