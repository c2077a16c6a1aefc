//! How large a verified read of one key is in a large vault: a chain with one new key per block, and packages as
//! `VerifiedGet` answers with, each checked like a client does.
//!
//! Owns the chain, which is nowhere but in memory. Must never count a package that its check refuses.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use ledger_proof::block_log::{consistency_path, inclusion_path};
use ledger_proof::trust::BundleVoter;
use ledger_proof::{
    BlockHeader, BlockProof, CheckedNotes, Checkpoint, Consistency, Cosignature, EntryPosition,
    Frontier, KnownCheckpoint, LogNodes, NodeKey, Origin, ReadAt, ReadFault, ReadItem, ReadRequest,
    Record, SignedNote, StateTree, Threshold, TimeRule, Trust, TrustBundle, VerifiedRead,
    VerifiedValue, hash, tx_tree,
};
use ledger_types::{Digest, NodeId, StateKey, VaultRef};

use crate::cost::{timed, us_each};
use crate::rows::Rows;
use crate::table::say;
use crate::workload::{Draw, key};

/// What a package without a path of growth may have at most, by the aim.
pub(crate) const PACKAGE_BYTES_MAX: usize = 2_500;
/// Packages of one figure.
const SAMPLES: u64 = 2_000;
/// Bytes of a value.
const VALUE_BYTES: usize = 32;
/// Voters of the shard.
const VOTERS: u8 = 3;
/// A cluster's domain as founding makes it when none is set.
const DOMAIN: &str = "7f3c9d2ab0e15f64.ledger";
/// Unix second of everything that is signed.
const NOW: u64 = 1_800_000_000;

/// Stored nodes of the block log, by level.
#[derive(Default)]
struct Nodes {
    levels: Vec<Vec<Digest>>,
}

impl LogNodes for Nodes {
    fn node(&self, level: u8, index: u64) -> Result<Digest, ReadFault> {
        let missing = ReadFault::Corrupt { what: "a log node is missing" };
        let level = self.levels.get(usize::from(level)).ok_or(missing.clone())?;
        level.get(usize::try_from(index).unwrap_or(usize::MAX)).copied().ok_or(missing)
    }
}

/// Bytes of a package and of its parts.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sizes {
    pub(crate) total: usize,
    pub(crate) note: usize,
    pub(crate) header: usize,
    pub(crate) header_path: usize,
    pub(crate) growth: usize,
    /// Steps from the root to the leaf.
    pub(crate) state_path: usize,
    /// Key and record of the leaf.
    pub(crate) leaf: usize,
    pub(crate) value: usize,
}

/// Bytes of one part of a package.
type Part = fn(&Sizes) -> usize;

/// What the reader knows of the log beforehand.
#[derive(Clone, Copy)]
pub(crate) enum Knows {
    /// Nothing: its first read.
    Nothing,
    /// The log when it had this many blocks.
    Size(u64),
}

/// A vault whose every block adds one key.
pub(crate) struct Chain {
    tree: StateTree,
    rows: Rows,
    nodes: Nodes,
    frontier: Frontier,
    roots: Vec<Digest>,
    tip: BlockHeader,
    bundle: TrustBundle,
    keys: Vec<NodeKey>,
}

impl Chain {
    /// The chain of `blocks` blocks with as many keys, the descriptor's among them.
    pub(crate) fn grown(blocks: u64) -> Chain {
        let keys: Vec<NodeKey> = (1..=VOTERS).map(|seed| NodeKey::from_seed(&[seed; 32])).collect();
        let position = position(0);
        let mut chain = Chain {
            tree: StateTree::empty(),
            rows: Rows::default(),
            nodes: Nodes::default(),
            frontier: Frontier::new(),
            roots: vec![Frontier::new().root()],
            tip: BlockHeader::genesis(vault(), Digest::ZERO, 1, position),
            bundle: bundle(&keys),
            keys,
        };
        let root = chain.set(StateKey::descriptor().as_bytes(), 0);
        chain.append(BlockHeader::genesis(vault(), root, 1, position));
        for height in 1..blocks {
            let root = chain.set(&key(height), height);
            let transaction = hash::leaf(&height.to_be_bytes());
            let EntryPosition { shard, term, index, timestamp_ns } = self::position(height);
            chain.append(BlockHeader {
                vault: vault(),
                height,
                previous_hash: chain.tip.block_hash(),
                tx_root: tx_tree::tx_root(&[transaction]),
                tx_count: 1,
                flags: 0,
                state_root: root,
                state_keys: height + 1,
                timestamp_ns,
                shard,
                term,
                index,
            });
        }
        chain
    }

    fn set(&mut self, key: &[u8], height: u64) -> Digest {
        let record = Record {
            created_height: height,
            modified_height: height,
            modified_tx: 0,
            expires_at: 0,
            previous_record_hash: Digest::ZERO,
            value_hash: hash::plain(&value(height)),
        };
        let changes = [(key, Some(record.hash()))];
        self.tree.apply(&changes, &self.rows).expect("memory does not fail");
        self.rows.records.insert(key.into(), record.encode());
        self.tree.root()
    }

    fn append(&mut self, header: BlockHeader) {
        let levels = &mut self.nodes.levels;
        self.frontier.append(header.block_hash(), |level, index, node| {
            let level = usize::from(level);
            if level == levels.len() {
                levels.push(Vec::new());
            }
            assert_eq!(levels[level].len() as u64, index, "nodes of a level come in order");
            levels[level].push(node);
        });
        self.roots.push(self.frontier.root());
        self.tip = header;
    }

    /// Blocks of the chain.
    pub(crate) fn blocks(&self) -> u64 {
        self.frontier.size()
    }

    /// A checkpoint of the log at an earlier size, cosigned by that many of the voters.
    fn note(&self, size: u64, cosigners: usize) -> Vec<u8> {
        let origin = origin();
        let checkpoint = Checkpoint { origin, size, root: self.roots[size as usize] };
        let mut lines = vec![self.keys[0].sign_log(&checkpoint)];
        let signed = self.keys.iter().zip(&self.bundle.voters).take(cosigners);
        lines.extend(signed.map(|(key, voter)| key.cosign(&checkpoint, &voter.name, NOW)));
        SignedNote::new(&checkpoint, lines).encode()
    }

    /// The answer about the key of a number in the newest block; keys are there below [`Chain::blocks`].
    pub(crate) fn package(&mut self, number: u64, knows: Knows, cosigners: usize) -> VerifiedRead {
        let size = self.blocks();
        let proof = self.tree.prove(&key(number), &self.rows).expect("memory does not fail");
        let consistency = match knows {
            Knows::Nothing => None,
            Knows::Size(from_size) => {
                let path = consistency_path(from_size, size, &self.nodes);
                Some(Consistency { from_size, path: path.expect("memory does not fail") })
            }
        };
        let path = inclusion_path(self.tip.height, size, &self.nodes);
        let block = BlockProof {
            note: self.note(size, cosigners),
            header: self.tip,
            header_path: path.expect("memory does not fail"),
            consistency,
        };
        let value = (1..size).contains(&number).then(|| value(number));
        VerifiedRead { block, items: vec![ReadItem { proof, value }] }
    }

    /// Sizes of an answer, after a client that knows nothing but the bundle has checked its bytes.
    pub(crate) fn checked(&self, number: u64, knows: Knows, read: &VerifiedRead) -> Sizes {
        let bytes = read.encode();
        self.check(number, knows, &bytes, None);
        sizes(read, bytes.len())
    }

    /// Reads and checks the bytes of an answer like a client does. Returns the CPU time of that.
    fn check(
        &self,
        number: u64,
        knows: Knows,
        bytes: &[u8],
        memory: Option<&dyn CheckedNotes>,
    ) -> Duration {
        let key = StateKey::from_bytes(&key(number)).expect("the workload's keys are legal");
        let known = match knows {
            Knows::Nothing => None,
            Knows::Size(size) => {
                let root = self.roots[size as usize];
                Some(KnownCheckpoint { origin: origin(), size, root, note: Vec::new() })
            }
        };
        let voters = [self.bundle.system_voters()];
        let trust =
            Trust { bundle: &self.bundle, voters: &voters, times: TimeRule::Now(NOW), memory };
        let at = ReadAt::Latest { min_height: 0 };
        let request = ReadRequest { origin: &origin(), at, keys: &[key] };
        let mut spent = Duration::ZERO;
        let answer = timed(&mut spent, || {
            let read = VerifiedRead::decode(bytes).expect("an answer decodes");
            read.verify(&request, &trust, known.as_ref()).expect("an answer holds")
        });
        let is_there = (1..self.blocks()).contains(&number);
        let is_present = matches!(answer.values[0], VerifiedValue::Present { .. });
        assert_eq!(is_present, is_there, "key {number}");
        spent
    }
}

fn sizes(read: &VerifiedRead, total: usize) -> Sizes {
    let (block, item) = (&read.block, &read.items[0]);
    let growth = block.consistency.as_ref();
    let leaf_key = item.proof.leaf_key.len();
    Sizes {
        total,
        note: block.note.len(),
        header: block.header.encode().len(),
        header_path: block.header_path.len() * Digest::LEN,
        growth: growth.map_or(0, |growth| size_of::<u64>() + growth.path.len() * Digest::LEN),
        state_path: item.proof.path.len() * (size_of::<u16>() + Digest::LEN),
        leaf: leaf_key + item.proof.record.len(),
        value: item.value.as_ref().map_or(0, Vec::len),
    }
}

fn vault() -> VaultRef {
    VaultRef::new(1_000, 1_000)
}

fn position(height: u64) -> EntryPosition {
    let timestamp_ns = NOW * 1_000_000_000 + height;
    EntryPosition { shard: 3, term: 7, index: height + 10, timestamp_ns }
}

fn origin() -> Origin {
    Origin { domain: DOMAIN.to_owned(), vault: vault(), log_epoch: 0 }
}

fn value(number: u64) -> Vec<u8> {
    let mut value = vec![0; VALUE_BYTES];
    value[..size_of::<u64>()].copy_from_slice(&number.to_be_bytes());
    value
}

/// The bundle that a cluster is founded with: nodes named as a stateful set names them.
fn bundle(keys: &[NodeKey]) -> TrustBundle {
    let voters = (1u64..).zip(keys).map(|(number, key)| BundleVoter {
        node: NodeId(number),
        name: format!("ledger-{}", number - 1),
        public_key: key.public_key(),
    });
    TrustBundle {
        domain: DOMAIN.to_owned(),
        sequence: 1,
        issued_at: NOW,
        expires_at: NOW + 1,
        system_log_epoch: 0,
        threshold: Threshold::Majority,
        floor: 1,
        max_age_seconds: 60,
        skew_seconds: 10,
        voters: voters.collect(),
    }
}

/// Prints what packages of a chain of `blocks` blocks and keys have.
pub(crate) fn measure(blocks: u64) {
    let mut chain = Chain::grown(blocks);
    say(&format!("\n{blocks} blocks, {blocks} keys, {SAMPLES} packages a row\n"));
    say("| package | cosignatures | median | largest |");
    say("| --- | --- | --- | --- |");
    let majority = usize::from(VOTERS / 2 + 1);
    let first = |_: &mut Draw| Knows::Nothing;
    let present = row(&mut chain, "present key, first read", majority, true, first);
    let absent = row(&mut chain, "absent key, first read", majority, false, first);
    let all = usize::from(VOTERS);
    row(&mut chain, "present key, first read, all voters", all, true, first);
    for behind in [1, 100, 10_000] {
        let name = format!("present key, {behind} blocks known less");
        row(&mut chain, &name, majority, true, |_| Knows::Size(blocks - behind.min(blocks - 1)));
    }
    let any = |draw: &mut Draw| Knows::Size(1 + draw.one());
    let grown = row(&mut chain, "present key, any size known", majority, true, any);
    row(&mut chain, "present key, any size known, all voters", all, true, any);
    say("\n| part | present: median, largest | absent | any size known |");
    say("| --- | --- | --- | --- |");
    let parts: [(&str, Part); 8] = [
        ("note", |sizes| sizes.note),
        ("header", |sizes| sizes.header),
        ("header's path", |sizes| sizes.header_path),
        ("growth since the size known", |sizes| sizes.growth),
        ("state path", |sizes| sizes.state_path),
        ("key and record", |sizes| sizes.leaf),
        ("value", |sizes| sizes.value),
        ("all", |sizes| sizes.total),
    ];
    for (name, part) in parts {
        let cell = |sizes: &[Sizes]| {
            let (median, largest) = spread(sizes, part);
            format!("{median}, {largest}")
        };
        say(&format!("| {name} | {} | {} | {} |", cell(&present), cell(&absent), cell(&grown)));
    }
    say("\n| reading and checking a package | CPU us, median | largest |");
    say("| --- | --- | --- |");
    let notes = Notes::default();
    for (name, knows, memory) in [
        ("first read: a note that was never seen", Knows::Nothing, None),
        ("the same with a path of growth", Knows::Size(blocks / 2), None),
        ("a note that was checked before", Knows::Nothing, Some(&notes as &dyn CheckedNotes)),
    ] {
        let (median, largest) = check_times(&mut chain, majority, knows, memory);
        say(&format!("| {name} | {median:.1} | {largest:.1} |"));
    }
}

/// Median and largest CPU time of checking packages of present keys, in microseconds.
fn check_times(
    chain: &mut Chain,
    cosigners: usize,
    knows: Knows,
    memory: Option<&dyn CheckedNotes>,
) -> (f64, f64) {
    let mut draw = Draw::new(chain.blocks() - 1);
    let mut times = Vec::new();
    for _ in 0..=SAMPLES {
        let number = 1 + draw.one();
        let bytes = chain.package(number, knows, cosigners).encode();
        times.push(chain.check(number, knows, &bytes, memory));
    }
    // The first one fills the memory, if there is one.
    times.remove(0);
    times.sort_unstable();
    (us_each(times[times.len() / 2], 1), us_each(times[times.len() - 1], 1))
}

/// The notes that a client has checked.
#[derive(Default)]
struct Notes(Mutex<BTreeMap<Digest, Vec<Cosignature>>>);

impl CheckedNotes for Notes {
    fn recall(&self, question: &Digest) -> Option<Vec<Cosignature>> {
        self.0.lock().expect("nothing panics with it").get(question).cloned()
    }

    fn keep(&self, question: Digest, valid: &[Cosignature]) {
        self.0.lock().expect("nothing panics with it").insert(question, valid.to_vec());
    }
}

/// Measures and prints one row.
fn row(
    chain: &mut Chain,
    name: &str,
    cosigners: usize,
    is_present: bool,
    mut knows: impl FnMut(&mut Draw) -> Knows,
) -> Vec<Sizes> {
    let blocks = chain.blocks();
    let mut draw = Draw::new(blocks - 1);
    let mut found = Vec::new();
    for _ in 0..SAMPLES {
        let number = 1 + draw.one() + if is_present { 0 } else { blocks };
        let knows = knows(&mut draw);
        let read = chain.package(number, knows, cosigners);
        found.push(chain.checked(number, knows, &read));
    }
    let (median, largest) = spread(&found, |sizes| sizes.total);
    let over = if largest > PACKAGE_BYTES_MAX { " (over the aim)" } else { "" };
    say(&format!("| {name} | {cosigners} | {median} | {largest}{over} |"));
    found
}

/// Median and largest of one part.
fn spread(sizes: &[Sizes], part: impl Fn(&Sizes) -> usize) -> (usize, usize) {
    let mut bytes: Vec<usize> = sizes.iter().map(part).collect();
    bytes.sort_unstable();
    (bytes[bytes.len() / 2], bytes[bytes.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_of_a_package() {
        let mut chain = Chain::grown(3_000);
        for (number, knows) in [(7, Knows::Nothing), (3_007, Knows::Size(2_047))] {
            let read = chain.package(number, knows, 2);
            let sizes = chain.checked(number, knows, &read);
            let parts = sizes.note
                + sizes.header
                + sizes.header_path
                + sizes.growth
                + sizes.state_path
                + sizes.leaf
                + sizes.value;
            // The magic, lengths of note, two paths, items, steps and key, and the flags; a value has a length.
            let growth = if sizes.growth == 0 { 0 } else { 2 };
            let value = if sizes.value == 0 { 0 } else { 4 };
            let framing = 16 + 2 + 2 + 1 + growth + 2 + 2 + 2 + 1 + value;
            assert_eq!(sizes.total, parts + framing);
        }
    }

    #[test]
    fn a_first_read_does_not_outgrow_the_aim() {
        // A sixteenth of a million: both paths are four levels shorter, and all else is as large.
        let blocks = 1_000_000 / 16;
        let more = 4 * (size_of::<u16>() + Digest::LEN) + 4 * Digest::LEN;
        let mut chain = Chain::grown(blocks);
        let mut draw = Draw::new(blocks - 1);
        for _ in 0..500 {
            let number = 1 + draw.one();
            let read = chain.package(number, Knows::Nothing, 2);
            let sizes = chain.checked(number, Knows::Nothing, &read);
            assert!(sizes.total + more <= PACKAGE_BYTES_MAX, "{} bytes", sizes.total);
        }
    }
}
