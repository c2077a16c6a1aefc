//! Other people's implementations judge ours: logs and transaction trees with `tlog_tiles` and, where
//! they are installed, Python's `aics-tlog` and `pymerkle`; notes with `signed_note` and `aics-tlog`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixture;
mod judges;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fixture::{DOMAIN, NOW, bundle, node_key, node_name, vault, voters};
use ledger_proof::block_log::{consistency_path, inclusion_path};
use ledger_proof::note::log_key_id;
use ledger_proof::rfc9162::{verify_consistency, verify_inclusion};
use ledger_proof::{
    BlockHeader, EntryPosition, Frontier, LogNodes, ReadFault, SignedNote, TimeRule, hash, tx_tree,
};
use ledger_types::{Digest, VaultRef};
use serde_json::{Value, json};
use signed_note::{Note, StandardVerifier, VerifierList};
use tlog_tiles::{Hash, check_record, check_tree, record_hash};

/// Every tree of up to this many leaves is judged.
const LEAVES_MAX: usize = 130;

#[derive(Default)]
struct Nodes(BTreeMap<(u8, u64), Digest>);

impl LogNodes for Nodes {
    fn node(&self, level: u8, index: u64) -> Result<Digest, ReadFault> {
        Ok(self.0[&(level, index)])
    }
}

/// A block log or a transaction tree, with its proofs by our code.
struct Tree {
    data: Vec<Vec<u8>>,
    leaves: Vec<Digest>,
    /// The root for each number of leaves.
    roots: Vec<Digest>,
    /// The nodes of a block log; a transaction tree has none and proves no growth.
    nodes: Option<Nodes>,
}

impl Tree {
    /// The log of a chain of blocks.
    fn block_log() -> Tree {
        let (mut nodes, mut frontier) = (Nodes::default(), Frontier::new());
        let (mut data, mut leaves) = (Vec::new(), Vec::new());
        let mut roots = vec![frontier.root()];
        let position = EntryPosition { shard: 1, term: 2, index: 3, timestamp_ns: NOW };
        let genesis = BlockHeader::genesis(VaultRef::new(7, 9), hash::empty_root(), 1, position);
        for height in 0..LEAVES_MAX as u64 {
            let previous_hash = leaves.last().copied().unwrap_or(Digest::ZERO);
            let header = BlockHeader { height, previous_hash, ..genesis };
            frontier.append(header.block_hash(), |level, index, node| {
                nodes.0.insert((level, index), node);
            });
            data.push(header.encode().to_vec());
            leaves.push(header.block_hash());
            roots.push(frontier.root());
        }
        Tree { data, leaves, roots, nodes: Some(nodes) }
    }

    /// The tree over a block's transactions, which may have any length.
    fn transactions() -> Tree {
        let data: Vec<Vec<u8>> = (0..LEAVES_MAX).map(|n| vec![n as u8; n * 5]).collect();
        let leaves: Vec<Digest> = data.iter().map(|bytes| tx_tree::tx_leaf(bytes)).collect();
        let roots = (0..=LEAVES_MAX).map(|size| tx_tree::tx_root(&leaves[..size])).collect();
        Tree { data, leaves, roots, nodes: None }
    }

    fn inclusion_path(&self, index: usize, size: usize) -> Vec<Digest> {
        match &self.nodes {
            Some(nodes) => inclusion_path(index as u64, size as u64, nodes).unwrap(),
            None => tx_tree::inclusion_path(&self.leaves[..size], index),
        }
    }

    fn consistency_path(&self, old: usize, new: usize) -> Option<Vec<Digest>> {
        let nodes = self.nodes.as_ref()?;
        Some(consistency_path(old as u64, new as u64, nodes).unwrap())
    }
}

/// A tree and what is claimed about it, with what we say to each claim.
struct Judged {
    tree: Tree,
    inclusion: Vec<(InclusionClaim, bool)>,
    consistency: Vec<(ConsistencyClaim, bool)>,
}

/// Made once for all judges, because it takes a while.
static JUDGED: LazyLock<[Judged; 2]> = LazyLock::new(|| {
    [Tree::block_log(), Tree::transactions()].map(|tree| {
        let inclusion = inclusion_claims(&tree).into_iter();
        let inclusion = inclusion.map(|claim| (claim.clone(), claim.we_accept(&tree))).collect();
        let consistency = consistency_claims(&tree).into_iter();
        let consistency = consistency.map(|claim| (claim.clone(), claim.we_accept())).collect();
        Judged { tree, inclusion, consistency }
    })
});

fn theirs(digests: &[Digest]) -> Vec<Hash> {
    digests.iter().map(|digest| Hash(digest.0)).collect()
}

/// Says that a leaf is at a place of a tree of a size.
#[derive(Clone)]
struct InclusionClaim {
    size: usize,
    index: usize,
    leaf: usize,
    path: Vec<Digest>,
    root: Digest,
}

/// Says that a log grew from one size to another.
#[derive(Clone)]
struct ConsistencyClaim {
    old: usize,
    new: usize,
    old_root: Digest,
    root: Digest,
    path: Vec<Digest>,
}

/// A path of digests, damaged in every way that keeps it one.
fn damaged_paths(path: &[Digest]) -> Vec<Vec<Digest>> {
    let mut all = vec![[path, &[Digest([7; 32])]].concat(), [path, path].concat()];
    for place in 0..path.len() {
        let mut flipped = path.to_vec();
        flipped[place].0[place % 32] ^= 1;
        let mut shorter = path.to_vec();
        shorter.remove(place);
        all.extend([flipped, shorter]);
    }
    all.retain(|damaged| damaged != path);
    all
}

/// All honest claims, and around some of them what a liar would make of them.
fn inclusion_claims(tree: &Tree) -> Vec<InclusionClaim> {
    let mut claims = Vec::new();
    for size in 1..=LEAVES_MAX {
        let root = tree.roots[size];
        let claim = |index| {
            let path = tree.inclusion_path(index, size);
            InclusionClaim { size, index, leaf: index, path, root }
        };
        claims.extend((0..size).map(claim));
        let honest = claim(size * 7 % size.max(2) % size);
        let places = [honest.index.saturating_sub(1), honest.index + 1, size, size * 2];
        claims.extend(places.map(|index| InclusionClaim { index, ..honest.clone() }));
        let leaf = (honest.leaf + 1) % LEAVES_MAX;
        claims.push(InclusionClaim { leaf, ..honest.clone() });
        let sizes = (size.saturating_sub(8)..=size + 8).filter(|other| *other <= LEAVES_MAX);
        claims.extend(sizes.map(|size| InclusionClaim { size, ..honest.clone() }));
        let damaged = damaged_paths(&honest.path).into_iter();
        claims.extend(damaged.map(|path| InclusionClaim { path, ..honest.clone() }));
    }
    claims
}

fn consistency_claims(tree: &Tree) -> Vec<ConsistencyClaim> {
    let mut claims = Vec::new();
    for new in 0..=LEAVES_MAX {
        for old in 0..=new {
            let Some(path) = tree.consistency_path(old, new) else { return claims };
            let (old_root, root) = (tree.roots[old], tree.roots[new]);
            let honest = ConsistencyClaim { old, new, old_root, root, path };
            if (old * 31 + new) % 17 == 0 {
                let damaged = damaged_paths(&honest.path).into_iter();
                claims.extend(damaged.map(|path| ConsistencyClaim { path, ..honest.clone() }));
                let (old_root, root) = (honest.root, honest.old_root);
                claims.push(ConsistencyClaim { old_root, ..honest.clone() });
                claims.push(ConsistencyClaim { root, ..honest.clone() });
                claims.push(ConsistencyClaim { old: old + 1, ..honest.clone() });
                claims.push(ConsistencyClaim { new: new + 1, ..honest.clone() });
            }
            claims.push(honest);
        }
    }
    claims
}

impl InclusionClaim {
    fn we_accept(&self, tree: &Tree) -> bool {
        let (leaf, index, size) = (&tree.leaves[self.leaf], self.index as u64, self.size as u64);
        verify_inclusion(leaf, index, size, &self.path, &self.root).is_ok()
    }
}

impl ConsistencyClaim {
    fn we_accept(&self) -> bool {
        let (old, new) = (self.old as u64, self.new as u64);
        verify_consistency(old, &self.old_root, new, &self.root, &self.path).is_ok()
    }
}

#[test]
fn logs_and_transaction_trees_agree_with_tlog_tiles() {
    for Judged { tree, inclusion, consistency } in &*JUDGED {
        for (data, leaf) in tree.data.iter().zip(&tree.leaves) {
            assert_eq!(record_hash(data), Hash(leaf.0));
        }
        for (claim, ours) in inclusion {
            let InclusionClaim { size, index, leaf, path, root } = claim;
            let (path, leaf) = (theirs(path), Hash(tree.leaves[*leaf].0));
            let judged = check_record(&path, *size as u64, Hash(root.0), *index as u64, leaf);
            assert_eq!(judged.is_ok(), *ours, "leaf {index} of {size}");
        }
        let accepted = inclusion.iter().filter(|(_, ours)| *ours).count();
        assert!(accepted >= LEAVES_MAX * (LEAVES_MAX + 1) / 2, "every honest claim");
        // A log without blocks is nothing that it checks.
        for (claim, ours) in consistency.iter().filter(|(claim, _)| claim.old > 0) {
            let ConsistencyClaim { old, new, old_root, root, path } = claim;
            let (path, old_root) = (theirs(path), Hash(old_root.0));
            let judged = check_tree(&path, *new as u64, Hash(root.0), *old as u64, old_root);
            assert_eq!(judged.is_ok(), *ours, "from {old} to {new}");
        }
    }
}

fn hexes(digests: &[Digest]) -> Vec<String> {
    digests.iter().map(|digest| hex::encode(digest.0)).collect()
}

/// What is claimed about a tree, as the Python judges read it.
fn shown(judged: &Judged) -> Value {
    let inclusion = judged.inclusion.iter().map(|(claim, _)| {
        let InclusionClaim { size, index, leaf, path, root } = claim;
        json!([size, index, leaf, hexes(path), hex::encode(root.0)])
    });
    let consistency = judged.consistency.iter().map(|(claim, _)| {
        let ConsistencyClaim { old, new, old_root, root, path } = claim;
        json!([old, new, hex::encode(old_root.0), hex::encode(root.0), hexes(path)])
    });
    let leaves: Vec<String> = judged.tree.data.iter().map(hex::encode).collect();
    let (inclusion, consistency): (Vec<_>, Vec<_>) = (inclusion.collect(), consistency.collect());
    json!({ "leaves": leaves, "inclusion": inclusion, "consistency": consistency })
}

fn assert_agrees<Claim>(judge: &str, verdicts: &Value, ours: &[(Claim, bool)]) {
    let verdicts = verdicts.as_array().unwrap();
    assert_eq!(verdicts.len(), ours.len(), "{judge}");
    for (place, (verdict, (_, ours))) in verdicts.iter().zip(ours).enumerate() {
        assert_eq!(*verdict, *ours, "{judge}: claim {place}");
    }
    let count = |wanted| ours.iter().filter(|(_, ours)| *ours == wanted).count();
    assert!(count(true) > 8000 && count(false) > 1000, "both kinds are among the claims");
}

#[test]
fn logs_transaction_trees_and_notes_agree_with_python() {
    let notes = note_claims();
    let shown_trees: Vec<Value> = JUDGED.iter().map(shown).collect();
    let shown_notes: Vec<Value> = notes.iter().map(|(_, claim, _)| claim.clone()).collect();
    let question = json!({ "trees": shown_trees, "notes": shown_notes });
    let Some(answers) = judges::python("logs and notes", &question) else { return };
    for (judge, answer) in answers.as_object().unwrap() {
        if answer.is_null() {
            judges::say(&format!("logs and notes: this Python has no {judge}, it is left out"));
            continue;
        }
        for (judged, answer) in JUDGED.iter().zip(answer["trees"].as_array().unwrap()) {
            assert_eq!(answer["roots"], json!(hexes(&judged.tree.roots)), "{judge}");
            assert_agrees(judge, &answer["inclusion"], &judged.inclusion);
            if judge == "aics-tlog" && !judged.consistency.is_empty() {
                assert_agrees(judge, &answer["consistency"], &judged.consistency);
            }
        }
        if judge == "aics-tlog" {
            for (place, (name, _, ours)) in notes.iter().enumerate() {
                let wrong = &answer["notes"][place];
                assert_eq!(wrong.is_null(), *ours, "{judge}: {name}: {wrong}");
            }
        }
    }
    assert!(answers.as_object().unwrap().values().any(|answer| !answer.is_null()));
}

/// Notes with what a judge must say under the voters 1, 2 and 3 of whom two must have cosigned.
fn note_claims() -> Vec<(&'static str, Value, bool)> {
    let vault = vault();
    let checkpoint = vault.checkpoint();
    let honest = || vault.note(&[1, 3], NOW);
    let changed = |change: fn(&mut SignedNote)| {
        let mut note = honest();
        change(&mut note);
        note
    };
    let with = |node: u8, name: &str, time: u64| {
        let mut note = vault.note(&[1], NOW);
        note.signatures.push(node_key(node).cosign(&checkpoint, name, time));
        note
    };
    let notes = [
        ("two of three", honest()),
        ("all", vault.note(&[1, 2, 3], NOW)),
        ("one", vault.note(&[1], NOW)),
        ("at the oldest", with(2, "n2", NOW - 300)),
        ("too old", with(2, "n2", NOW - 301)),
        ("at the latest", with(2, "n2", NOW + 10)),
        ("from the future", with(2, "n2", NOW + 11)),
        ("an old note cosigned anew by one", {
            let mut note = vault.note(&[1, 2, 3], NOW - 1000);
            note.signatures[1] = node_key(1).cosign(&checkpoint, "n1", NOW);
            note
        }),
        ("one key twice", with(1, "n1", NOW - 1)),
        ("one key under two names", with(1, "n2", NOW)),
        ("a removed node's key", with(4, "n4", NOW)),
        ("a stranger under a voter's name", with(9, "n2", NOW)),
        ("another size", changed(|note| note.text = note.text.replacen("\n11\n", "\n12\n", 1))),
        ("a bad cosignature", changed(|note| note.signatures[2].signature[30] ^= 1)),
        ("a bad cosignature, two good ones", {
            let mut note = vault.note(&[1, 2, 3], NOW);
            note.signatures[3].signature[30] ^= 1;
            note
        }),
        ("another time", changed(|note| note.signatures[2].signature[7] ^= 1)),
        ("a bad log signature", changed(|note| note.signatures[0].signature[5] ^= 1)),
    ];
    let cosigners: Vec<_> = (1..=3)
        .map(|number| {
            let name = format!("{DOMAIN}/node/{}", node_name(number));
            (name, hex::encode(node_key(number).public_key()))
        })
        .collect();
    let claim = |note: &SignedNote| {
        let text = String::from_utf8(note.encode()).unwrap();
        json!({
            "text": text, "origin": vault.origin.to_string(), "cosigners": cosigners, "quorum": 2,
            "log_key": hex::encode(node_key(1).public_key()), "now": NOW, "max_age": 300, "skew": 10,
        })
    };
    let ours = |note: &SignedNote| {
        let note = SignedNote::parse(&note.encode()).unwrap();
        bundle().count(&note, &[voters(&[1, 2, 3])], TimeRule::Now(NOW)).is_ok()
    };
    let judged: Vec<_> =
        notes.iter().map(|(name, note)| (*name, claim(note), ours(note))).collect();
    let accepted: Vec<_> =
        judged.iter().filter(|(_, _, ours)| *ours).map(|(name, _, _)| *name).collect();
    assert_eq!(accepted, ["two of three", "all", "at the oldest", "at the latest"]);
    judged
}

#[test]
fn notes_signed_by_the_log_verify() {
    let vault = vault();
    let note = vault.note(&[1, 2], NOW);
    let origin = vault.origin.to_string();
    let public_key = node_key(1).public_key();
    let key_id = hex::encode(log_key_id(&origin, &public_key));
    let encoded = STANDARD.encode([&[1], &public_key[..]].concat());
    let verifier = StandardVerifier::new(&format!("{origin}+{key_id}+{encoded}")).unwrap();
    let parsed = Note::from_bytes(&note.encode()).unwrap();
    assert_eq!(parsed.text(), note.text.as_bytes());
    let (known, unknown) = parsed.verify(&VerifierList::new(vec![Box::new(verifier)])).unwrap();
    assert_eq!((known.len(), unknown.len()), (1, 2), "two cosignatures are of another kind");
}
