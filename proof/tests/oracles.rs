//! Other people's implementations judge ours: logs with `tlog_tiles`, notes with `signed_note`.

mod fixture;

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fixture::{NOW, node_key, vault};
use ledger_proof::block_log::{consistency_path, inclusion_path};
use ledger_proof::note::log_key_id;
use ledger_proof::{Frontier, LogNodes, ReadFault, hash, tx_tree};
use ledger_types::Digest;
use signed_note::{Note, StandardVerifier, VerifierList};
use tlog_tiles::{Hash, check_record, check_tree, record_hash};

#[derive(Default)]
struct Nodes(BTreeMap<(u8, u64), Digest>);

impl LogNodes for Nodes {
    fn node(&self, level: u8, index: u64) -> Result<Digest, ReadFault> {
        Ok(self.0[&(level, index)])
    }
}

fn theirs(digests: &[Digest]) -> Vec<Hash> {
    digests.iter().map(|digest| Hash(digest.0)).collect()
}

#[test]
fn logs_and_transaction_trees_agree() {
    let (mut nodes, mut frontier) = (Nodes::default(), Frontier::new());
    let mut roots = vec![frontier.root()];
    let leaves: Vec<Digest> = (0..70u64).map(|n| hash::leaf(&n.to_be_bytes())).collect();
    for (number, leaf) in leaves.iter().enumerate() {
        assert_eq!(record_hash(&number.to_be_bytes()), Hash(leaf.0));
        frontier.append(*leaf, |level, index, node| {
            nodes.0.insert((level, index), node);
        });
        roots.push(frontier.root());
    }
    for size in 1..=leaves.len() {
        let root = Hash(roots[size].0);
        for index in 0..size {
            let leaf = Hash(leaves[index].0);
            let path = inclusion_path(index as u64, size as u64, &nodes).unwrap();
            check_record(&theirs(&path), size as u64, root, index as u64, leaf).unwrap();
            let path = tx_tree::inclusion_path(&leaves[..size], index);
            check_record(&theirs(&path), size as u64, root, index as u64, leaf).unwrap();
        }
        for (old, old_root) in roots[..=size].iter().enumerate().skip(1) {
            let path = consistency_path(old as u64, size as u64, &nodes).unwrap();
            check_tree(&theirs(&path), size as u64, root, old as u64, Hash(old_root.0)).unwrap();
        }
    }
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
