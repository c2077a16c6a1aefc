//! Golden vectors: the files in `vectors/` on which every implementation of the formats must agree.
//!
//! Each is first compared with what this code produces, so that no byte changes unnoticed, and then
//! judged from its JSON alone, as another implementation would. `UPDATE_VECTORS=1` writes them
//! anew.

#![allow(clippy::unwrap_used, reason = "a vector of another form fails its test")]
#![allow(clippy::disallowed_methods, reason = "the golden files are read and written here")]

mod fixture;

use std::path::PathBuf;

use fixture::{
    Change, NOW, bundle, list_prefixes, list_vault, node_key, node_name, system, vault, voters,
};
use ledger_proof::block_log::{consistency_path, inclusion_path, root_at};
use ledger_proof::note::{KnownSigner, NodeKey, SignedNote, cosigner_key_id, cosigner_name};
use ledger_proof::rfc9162::{verify_consistency, verify_inclusion};
use ledger_proof::system_entity::{
    ClusterEntity, NamespaceEntity, NamespaceNameEntity, NamespaceState, NodeEntity, NodeState,
    ReplicaRole, RetentionMode, SequenceEntity, ShardEntity, ShardReplica, SystemEntity,
    TombstoneEntity, VaultEntity, VaultState,
};
use ledger_proof::tree::bits;
use ledger_proof::{
    AppliedOperation, BlockHeader, Checkpoint, Descriptor, EntryPosition, Frontier, KeyProof,
    KnownCheckpoint, ListError, ListPage, ListProof, ListQuestion, LogNodes, Origin, PageProof,
    Presence, ReadAt, ReadFault, ReadItem, ReadRequest, Receipt, ReceiptRequest, Record, Recovery,
    StateTree, Threshold, TimeRule, Transaction, TransactionChoice, TreeStore, Trust, TrustBundle,
    VerifiedItem, VerifiedList, VerifiedRead, VerifiedValue, VerifyError, Voter, VoterSet, hash,
    tx_tree, verify_list,
};
use ledger_types::{
    ClusterId, Condition, Dedup, Digest, GroupId, Incarnation, NamespaceId, NodeId, Operation,
    Outcome, OwnerEpoch, StateKey, StoreId, TxId, VaultRef,
};
use serde_json::{Value, json};

/// What is wrong, and how it is done.
type Damage<'a, T> = (&'static str, &'a dyn Fn(&mut T));

/// The same for the pages of a list.
type ListDamage = (&'static str, fn(&mut Vec<ListProof>));

/// Compares or writes `vectors/<name>.json` and hands each vector to `judge` with what it says is
/// right.
fn golden(name: &str, vectors: Vec<Value>, judge: impl Fn(&Value) -> Value) {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(format!("{name}.json"));
    let mut text = serde_json::to_string_pretty(&vectors).unwrap();
    text.push('\n');
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap();
    assert!(stored == text, "{} differs from what the code produces", path.display());
    let stored: Vec<Value> = serde_json::from_str(&stored).unwrap();
    assert!(stored.iter().any(|vector| vector["expect"] != json!("refused")), "{name}: none holds");
    assert!(stored.iter().any(|vector| vector["expect"] == json!("refused")), "{name}: none fails");
    for vector in &stored {
        assert_eq!(judge(vector), vector["expect"], "{name}: {}", vector["name"]);
    }
}

fn refused<T, E>(result: Result<T, E>, say: impl FnOnce(T) -> Value) -> Value {
    result.map_or(json!("refused"), say)
}

fn text(vector: &Value, field: &str) -> String {
    vector[field].as_str().unwrap_or_else(|| panic!("{field} of {vector}")).to_owned()
}

fn number(vector: &Value, field: &str) -> u64 {
    vector[field].as_u64().unwrap_or_else(|| panic!("{field} of {vector}"))
}

fn bytes(vector: &Value, field: &str) -> Vec<u8> {
    hex::decode(text(vector, field)).unwrap()
}

fn digest(vector: &Value, field: &str) -> Digest {
    Digest::from_slice(&bytes(vector, field)).unwrap()
}

fn digests(vector: &Value, field: &str) -> Vec<Digest> {
    let list = vector[field].as_array().unwrap();
    let one = |item: &Value| Digest::from_slice(&hex::decode(item.as_str().unwrap()).unwrap());
    list.iter().map(|item| one(item).unwrap()).collect()
}

fn list(digests: &[Digest]) -> Value {
    json!(digests.iter().map(Digest::to_string).collect::<Vec<_>>())
}

/// The honest bytes, then damaged ones that must be refused.
fn with_damage(name: &str, honest: &[u8], expect: Value, damage: &[(&str, Vec<u8>)]) -> Vec<Value> {
    let mut vectors = vec![json!({"name": name, "hex": hex::encode(honest), "expect": expect})];
    let generic = [
        ("cut short", honest[..honest.len() - 1].to_vec()),
        ("a byte too many", [honest, &[0]].concat()),
        ("nothing", vec![]),
    ];
    for (damage, bytes) in generic.iter().chain(damage) {
        let name = format!("{name}: {damage}");
        vectors.push(json!({"name": name, "hex": hex::encode(bytes), "expect": "refused"}));
    }
    vectors
}

fn changed(honest: &[u8], offset: usize, byte: u8) -> Vec<u8> {
    let mut bytes = honest.to_vec();
    assert_ne!(bytes[offset], byte);
    bytes[offset] = byte;
    bytes
}

fn transactions() -> Vec<(&'static str, Transaction)> {
    let state = |operation, outcome| AppliedOperation::State { operation, outcome };
    let set = |condition| Operation::SetEntity {
        key: "config".into(),
        value: b"{}".to_vec(),
        expires_at: 77,
        condition,
    };
    let [resource, relation, subject] =
        ["document:7", "viewer", "user:\u{e5}sa"].map(str::to_owned);
    let base = Transaction {
        tx_id: TxId([0xab; 16]),
        client: "client-1".into(),
        dedup: Dedup::Sequence(5),
        assigned_sequence: 5,
        actor: "user:admin".into(),
        timestamp_ns: 1_900_000_000_123_456_789,
        operations: vec![state(set(None), Outcome::Created)],
    };
    let create = Operation::CreateRelationship {
        resource: resource.clone(),
        relation: relation.clone(),
        subject: subject.clone(),
    };
    let delete = Operation::DeleteRelationship { resource, relation, subject };
    let all = vec![
        state(set(Some(Condition::NotExists)), Outcome::Created),
        state(set(Some(Condition::MustExist)), Outcome::Updated),
        state(set(Some(Condition::Version(9))), Outcome::Updated),
        state(set(Some(Condition::ValueEquals(b"x".to_vec()))), Outcome::Updated),
        state(Operation::DeleteEntity { key: "config".into() }, Outcome::Deleted),
        state(Operation::ExpireEntity { key: "config".into(), expired_at: 77 }, Outcome::Expired),
        state(create.clone(), Outcome::Created),
        state(create, Outcome::AlreadyExists),
        state(delete.clone(), Outcome::Deleted),
        state(delete, Outcome::NotFound),
    ];
    let recovery = Recovery {
        who: "operator".into(),
        why: "disk lost".into(),
        log_epoch: 2,
        from_height: 41,
        from_hash: Digest([4; 32]),
        old_note: Digest::ZERO,
    };
    let keyed = Transaction {
        dedup: Dedup::IdempotencyKey([3; 16]),
        assigned_sequence: 6,
        operations: all,
        ..base.clone()
    };
    let own = Transaction {
        client: String::new(),
        actor: String::new(),
        dedup: Dedup::None,
        assigned_sequence: 0,
        operations: vec![AppliedOperation::Recovery(recovery)],
        ..base.clone()
    };
    vec![("one set", base), ("every operation", keyed), ("recovery", own)]
}

#[test]
fn transaction() {
    let mut vectors = Vec::new();
    for (name, transaction) in transactions() {
        let honest = transaction.encode();
        let expect = json!({
            "leaf": tx_tree::tx_leaf(&honest).to_string(),
            "operations": transaction.operations.len(),
            "assigned_sequence": transaction.assigned_sequence,
        });
        let last = honest.len() - 1;
        let damage = [
            ("another version", changed(&honest, 0, 2)),
            ("an unknown outcome", changed(&honest, last, 8)),
            ("another count", {
                let dedup_len = match transaction.dedup {
                    Dedup::None => 1,
                    Dedup::Sequence(_) => 9,
                    Dedup::IdempotencyKey(_) => 17,
                };
                let names = transaction.client.len() + transaction.actor.len();
                changed(&honest, 1 + 16 + 2 + 2 + names + dedup_len + 8 + 8 + 3, 200)
            }),
        ];
        vectors.extend(with_damage(name, &honest, expect, &damage));
    }
    golden("transaction", vectors, |vector| {
        let bytes = bytes(vector, "hex");
        refused(Transaction::decode(&bytes), |transaction| {
            assert_eq!(transaction.encode(), bytes);
            json!({
                "leaf": tx_tree::tx_leaf(&bytes).to_string(),
                "operations": transaction.operations.len(),
                "assigned_sequence": transaction.assigned_sequence,
            })
        })
    });
}

fn say_header(header: &BlockHeader) -> Value {
    json!({
        "namespace": header.vault.namespace.0, "vault": header.vault.vault.0,
        "height": header.height, "previous_hash": header.previous_hash.to_string(),
        "tx_root": header.tx_root.to_string(), "tx_count": header.tx_count, "flags": header.flags,
        "state_root": header.state_root.to_string(), "state_keys": header.state_keys,
        "timestamp_ns": header.timestamp_ns, "shard": header.shard, "term": header.term,
        "index": header.index, "block_hash": header.block_hash().to_string(),
    })
}

#[test]
fn header() {
    let position = EntryPosition { shard: 3, term: 4, index: 5, timestamp_ns: 6 };
    let genesis = BlockHeader::genesis(VaultRef::new(1, 2), Digest([9; 32]), 1, position);
    let recovery = BlockHeader {
        height: 10,
        previous_hash: genesis.block_hash(),
        tx_root: Digest([8; 32]),
        tx_count: 1,
        flags: 1,
        ..genesis
    };
    let mut vectors = Vec::new();
    for (name, header) in [("genesis", genesis), ("recovery", recovery)] {
        let honest = header.encode();
        let damage = [
            ("another magic", changed(&honest, 13, b'2')),
            ("an unknown flag", changed(&honest, 111, 2)),
            ("a reserved byte", changed(&honest, 199, 1)),
        ];
        vectors.extend(with_damage(name, &honest, say_header(&header), &damage));
    }
    golden("header", vectors, |vector| {
        refused(BlockHeader::decode(&bytes(vector, "hex")), |header| say_header(&header))
    });
}

#[test]
fn record() {
    let record = Record {
        created_height: 1,
        modified_height: 2,
        modified_tx: 3,
        expires_at: 4,
        previous_record_hash: Digest([5; 32]),
        value_hash: hash::plain(b"value"),
    };
    let say = |record: &Record| {
        json!({
            "created_height": record.created_height, "modified_height": record.modified_height,
            "modified_tx": record.modified_tx, "expires_at": record.expires_at,
            "previous_record_hash": record.previous_record_hash.to_string(),
            "value_hash": record.value_hash.to_string(), "hash": record.hash().to_string(),
            "leaf_of_key_01": hash::state_leaf(&[1], &record.hash()).to_string(),
        })
    };
    let honest = record.encode();
    let damage = [("another version", changed(&honest, 0, 0))];
    let vectors = with_damage("record", &honest, say(&record), &damage);
    golden("record", vectors, |vector| {
        refused(Record::decode(&bytes(vector, "hex")), |record| say(&record))
    });
    let descriptor = Descriptor {
        vault: VaultRef::new(1, 2),
        log_epoch: 3,
        last_recovery_height: 4,
        old_note: Digest([5; 32]),
    };
    let say = |descriptor: &Descriptor| {
        json!({
            "namespace": descriptor.vault.namespace.0, "vault": descriptor.vault.vault.0,
            "log_epoch": descriptor.log_epoch, "old_note": descriptor.old_note.to_string(),
            "last_recovery_height": descriptor.last_recovery_height,
        })
    };
    let honest = descriptor.encode();
    let damage = [("another version", changed(&honest, 0, 2))];
    let vectors = with_damage("descriptor", &honest, say(&descriptor), &damage);
    golden("descriptor", vectors, |vector| {
        refused(Descriptor::decode(&bytes(vector, "hex")), |descriptor| say(&descriptor))
    });
}

#[derive(Default)]
struct Nodes(std::collections::BTreeMap<(u8, u64), Digest>);

impl LogNodes for Nodes {
    fn node(&self, level: u8, index: u64) -> Result<Digest, ReadFault> {
        Ok(self.0[&(level, index)])
    }
}

#[test]
fn log_inclusion() {
    let (nodes, leaves) = log();
    let mut vectors = Vec::new();
    for (index, size) in
        [(0, 1), (0, 2), (1, 2), (2, 3), (4, 7), (6, 7), (0, 8), (11, 13), (12, 13)]
    {
        let path = inclusion_path(index, size, &nodes).unwrap();
        let root = root_at(size, &nodes).unwrap();
        let vector = |name: &str, index: u64, size: u64, path: &[Digest], expect: &str| {
            let name = format!("{name}: {index} of {size}");
            json!({"name": name, "leaf": leaves[index.min(12) as usize].to_string(), "index": index,
                "size": size, "path": list(path), "root": root.to_string(), "expect": expect})
        };
        vectors.push(vector("holds", index, size, &path, "holds"));
        let longer = [&path[..], &[root]].concat();
        vectors.push(vector("a hash too many", index, size, &longer, "refused"));
        vectors.push(vector("outside", size, size, &path, "refused"));
        if let Some((_, shorter)) = path.split_last() {
            vectors.push(vector("a hash too few", index, size, shorter, "refused"));
            vectors.push(vector("another leaf", index ^ 1, size, &path, "refused"));
        }
    }
    vectors.push(json!({"name": "the first entry of an empty log", "leaf": leaves[0].to_string(),
        "index": 0, "size": 0, "path": [], "root": hash::empty_root().to_string(),
        "expect": "refused"}));
    golden("log_inclusion", vectors, |vector| {
        let (index, size) = (number(vector, "index"), number(vector, "size"));
        let path = digests(vector, "path");
        let (leaf, root) = (digest(vector, "leaf"), digest(vector, "root"));
        refused(verify_inclusion(&leaf, index, size, &path, &root), |()| json!("holds"))
    });
}

fn log() -> (Nodes, Vec<Digest>) {
    let (mut nodes, mut frontier) = (Nodes::default(), Frontier::new());
    let leaves: Vec<Digest> = (0..13u8).map(|number| hash::leaf(&[number])).collect();
    for leaf in &leaves {
        frontier.append(*leaf, |level, index, node| {
            nodes.0.insert((level, index), node);
        });
    }
    (nodes, leaves)
}

#[test]
fn log_consistency() {
    let (nodes, _) = log();
    let mut vectors = Vec::new();
    let pairs = [
        (0, 0),
        (0, 5),
        (1, 1),
        (1, 2),
        (2, 3),
        (3, 7),
        (4, 8),
        (4, 7),
        (6, 13),
        (8, 13),
        (13, 13),
    ];
    for (old, new) in pairs {
        let path = consistency_path(old, new, &nodes).unwrap();
        let roots = [old, new].map(|size| root_at(size, &nodes).unwrap());
        let vector = |name: &str, roots: [Digest; 2], path: &[Digest], expect: &str| {
            let name = format!("{name}: {old} to {new}");
            json!({"name": name, "old_size": old, "old_root": roots[0].to_string(), "new_size": new,
                "new_root": roots[1].to_string(), "path": list(path), "expect": expect})
        };
        vectors.push(vector("holds", roots, &path, "holds"));
        let longer = [&path[..], &roots[..1]].concat();
        vectors.push(vector("a hash too many", roots, &longer, "refused"));
        let other = Digest([7; 32]);
        vectors.push(vector("another old root", [other, roots[1]], &path, "refused"));
        if old > 0 {
            vectors.push(vector("another new root", [roots[0], other], &path, "refused"));
        }
        if let Some((_, shorter)) = path.split_last() {
            vectors.push(vector("a hash too few", roots, shorter, "refused"));
        }
    }
    let root = root_at(4, &nodes).unwrap().to_string();
    vectors.push(json!({"name": "a log that shrinks", "old_size": 5, "old_root": root,
        "new_size": 4, "new_root": root, "path": [], "expect": "refused"}));
    golden("log_consistency", vectors, |vector| {
        let (old, new) = (number(vector, "old_size"), number(vector, "new_size"));
        let (old_root, new_root) = (digest(vector, "old_root"), digest(vector, "new_root"));
        let path = digests(vector, "path");
        let checked = verify_consistency(old, &old_root, new, &new_root, &path);
        refused(checked, |()| json!("holds"))
    });
}

fn tree_keys() -> Vec<Vec<u8>> {
    let mut keys = vec![vec![0]];
    keys.extend(["a", "ab", "b", "\u{e5}"].map(|key| StateKey::entity(key).as_bytes().to_vec()));
    for (document, user) in [(1, "x"), (1, "y"), (2, "x"), (10, "x")] {
        let document = format!("document:{document}");
        keys.push(StateKey::by_resource(&document, "viewer", user).as_bytes().to_vec());
        keys.push(StateKey::by_subject(&document, "viewer", user).as_bytes().to_vec());
    }
    keys.push(vec![1; 2048]);
    keys
}

fn tree_record(number: u8) -> Record {
    Record {
        created_height: 1,
        modified_height: number.into(),
        modified_tx: 0,
        expires_at: 0,
        previous_record_hash: Digest::ZERO,
        value_hash: hash::plain(&[number]),
    }
}

struct NoRows;

impl TreeStore for NoRows {
    fn page(&self, _: u64, _: u64) -> Result<Option<Vec<u8>>, ReadFault> {
        Ok(None)
    }

    fn scan(&self, _: &[u8], _: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), ReadFault> {
        Ok(())
    }
}

#[test]
fn state_tree() {
    let keys = tree_keys();
    let mut vectors = Vec::new();
    for count in 0..=keys.len() {
        let entries: Vec<Value> = keys[..count]
            .iter()
            .enumerate()
            .map(|(number, key)| {
                let record = tree_record(number as u8).encode();
                json!({"key": hex::encode(key), "record": hex::encode(record)})
            })
            .collect();
        let changes: Vec<_> = keys[..count]
            .iter()
            .enumerate()
            .rev()
            .map(|(number, key)| (key, Some(tree_record(number as u8).hash())))
            .collect();
        let mut tree = StateTree::empty();
        tree.apply(&changes, &NoRows).unwrap();
        let root = tree.root().to_string();
        vectors.push(json!({"name": format!("{count} keys"), "entries": entries, "expect": root}));
    }
    vectors.push(json!({
        "name": "a record of another length", "expect": "refused",
        "entries": [{"key": "00", "record": "01"}],
    }));
    golden("state_tree", vectors, |vector| {
        let mut tree = StateTree::empty();
        for entry in vector["entries"].as_array().unwrap() {
            let Ok(record) = Record::decode(&bytes(entry, "record")) else {
                return json!("refused");
            };
            tree.apply(&[(bytes(entry, "key"), Some(record.hash()))], &NoRows).unwrap();
        }
        json!(tree.root().to_string())
    });
}

#[test]
fn key_proof() {
    let mut vault = vault();
    let root = vault.tree.root();
    let mut vectors = Vec::new();
    let keys = [
        StateKey::descriptor(),
        StateKey::entity("config"),
        StateKey::entity("gone"),
        StateKey::by_resource("document:3", "viewer", "user:alice"),
        StateKey::by_subject("document:3", "viewer", "user:nobody"),
    ];
    for key in &keys {
        let proof = vault.prove(key).proof;
        let expect = if proof.leaf_key == key.as_bytes() { "present" } else { "absent" };
        let vector = |name: &str, key: &[u8], proof: &KeyProof, expect: &str| {
            json!({"name": name, "state_root": root.to_string(), "key": hex::encode(key),
                "proof": hex::encode(proof.encode()), "expect": expect})
        };
        let name = format!("{key:?}");
        vectors.push(vector(&name, key.as_bytes(), &proof, expect));
        for (damage, damaged) in damaged_proofs(&proof) {
            vectors.push(vector(&format!("{name}: {damage}"), key.as_bytes(), &damaged, "refused"));
        }
        let bit = proof.path.last().unwrap().0;
        let elsewhere = keys
            .iter()
            .find(|other| bits::side(other.as_bytes(), bit) != bits::side(key.as_bytes(), bit));
        if let Some(other) = elsewhere {
            let name = format!("{name}: for {other:?}");
            vectors.push(vector(&name, other.as_bytes(), &proof, "refused"));
        }
    }
    vectors.extend(key_proofs_beside_an_unknown_kind());
    golden("key_proof", vectors, |vector| {
        let Ok(proof) = KeyProof::decode(&bytes(vector, "proof")) else { return json!("refused") };
        let verified = proof.verify(&digest(vector, "state_root"), &bytes(vector, "key"));
        refused(verified, |presence| match presence {
            Presence::Present(_) => json!("present"),
            Presence::Absent => json!("absent"),
        })
    });
}

/// A first byte that means nothing yet. To the state tree it is a byte like any other, in the key asked about and in
/// a leaf.
const UNKNOWN_KIND: &[u8] = b"\x7flater";

/// The vault with such a key in its state.
fn vault_with_an_unknown_kind() -> fixture::Vault {
    let mut vault = vault();
    let record = vault.rows.0[StateKey::entity("config").as_bytes()].0;
    vault.tree.apply(&[(UNKNOWN_KIND, Some(record.hash()))], &vault.rows).unwrap();
    vault.rows.0.insert(UNKNOWN_KIND.to_vec(), (record, Vec::new()));
    vault
}

fn key_proofs_beside_an_unknown_kind() -> Vec<Value> {
    let mut vault = vault_with_an_unknown_kind();
    let root = vault.tree.root();
    let cases: [(&str, &[u8], &str); 4] = [
        ("a key of an unknown kind", UNKNOWN_KIND, "present"),
        ("absent beside a leaf of an unknown kind", b"\x7fother", "absent"),
        ("an absent key of an unknown kind", b"\x04", "absent"),
        ("a known key beside an unknown kind", b"\x01config", "present"),
    ];
    let vector = |(name, key, expect): (&str, &[u8], &str)| {
        let proof = vault.tree.prove(key, &vault.rows).unwrap();
        json!({"name": name, "state_root": root.to_string(), "key": hex::encode(key),
            "proof": hex::encode(proof.encode()), "expect": expect})
    };
    cases.map(vector).to_vec()
}

fn damaged_proofs(proof: &KeyProof) -> Vec<(&'static str, KeyProof)> {
    let with = |change: fn(&mut KeyProof)| {
        let mut damaged = proof.clone();
        change(&mut damaged);
        damaged
    };
    vec![
        ("no path", with(|proof| proof.path.clear())),
        ("a step left out", with(|proof| _ = proof.path.remove(1))),
        ("steps swapped", with(|proof| proof.path.swap(0, 1))),
        ("a step repeated", with(|proof| proof.path.insert(0, proof.path[0]))),
        ("a bit out of range", with(|proof| proof.path.push((18_432, Digest::ZERO)))),
        ("another bit", with(|proof| proof.path.last_mut().unwrap().0 += 1)),
        ("another sibling", with(|proof| proof.path[0].1.0[0] ^= 1)),
        ("another record", with(|proof| proof.record[92] ^= 1)),
        ("another record version", with(|proof| proof.record[0] = 2)),
        ("another leaf key", with(|proof| *proof.leaf_key.last_mut().unwrap() ^= 1)),
        ("no leaf key", with(|proof| proof.leaf_key.clear())),
    ]
}

fn list_vector(
    name: &str,
    root: &Digest,
    asked: (&[u8], u64),
    pages: &[Vec<u8>],
    expect: Value,
) -> Value {
    json!({"name": name, "state_root": root.to_string(), "prefix": hex::encode(asked.0),
        "time": asked.1, "pages": pages.iter().map(hex::encode).collect::<Vec<_>>(),
        "expect": expect})
}

fn encoded(pages: &[ListProof]) -> Vec<Vec<u8>> {
    pages.iter().map(ListProof::encode).collect()
}

#[test]
fn list_proof() {
    let mut vault = list_vault();
    let root = vault.tree.root();
    let mut vectors = Vec::new();
    for (name, prefix) in list_prefixes() {
        for (size, time) in [(1000, NOW - 10), (2, NOW)] {
            let pages = vault.list(&prefix, size);
            if size == 2 && pages.len() < 2 {
                continue;
            }
            let held =
                vault.rows.0.iter().filter(|(key, (record, _))| {
                    key.starts_with(&prefix) && !record.is_expired(time)
                });
            let expect: Vec<String> = held.map(|(key, _)| hex::encode(key)).collect();
            let name = format!("{name}, {} pages", pages.len());
            let asked = (&prefix[..], time);
            vectors.push(list_vector(&name, &root, asked, &encoded(&pages), json!(expect)));
        }
    }
    vectors.extend(refused_lists(&mut vault));
    let mut vault = vault_with_an_unknown_kind();
    let (pages, expect) =
        (vault.list(&UNKNOWN_KIND[..1], 1000), json!([hex::encode(UNKNOWN_KIND)]));
    let (root, asked) = (vault.tree.root(), (&UNKNOWN_KIND[..1], NOW));
    vectors.push(list_vector("keys of an unknown kind", &root, asked, &encoded(&pages), expect));
    golden("list_proof", vectors, |vector| {
        let pages = vector["pages"].as_array().unwrap().iter();
        let pages =
            pages.map(|page| ListProof::decode(&hex::decode(page.as_str().unwrap()).unwrap()));
        let Ok(pages) = pages.collect::<Result<Vec<_>, _>>() else { return json!("refused") };
        let (root, time) = (digest(vector, "state_root"), number(vector, "time"));
        refused(verify_list(&root, &bytes(vector, "prefix"), time, &pages), |items| {
            json!(items.iter().map(|item| hex::encode(&item.key)).collect::<Vec<_>>())
        })
    });
}

fn refused_lists(vault: &mut fixture::Vault) -> Vec<Value> {
    let root = vault.tree.root();
    let prefix = StateKey::resource_prefix("document:1", Some("viewer"));
    let mut vectors = Vec::new();
    let mut add = |name: &str, pages: &[Vec<u8>]| {
        vectors.push(list_vector(name, &root, (&prefix, 0), pages, json!("refused")));
    };
    let keys: Vec<Vec<u8>> =
        vault.rows.0.keys().filter(|key| key.starts_with(&prefix)).cloned().collect();
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    let mut run = |keys: &[&[u8]]| ListProof::Page(vault.page_of(keys)).encode();
    add("the first item is left out", &[run(&keys[1..])]);
    add("the last item is left out", &[run(&keys[..2])]);
    add("an item in between is left out", &[run(&[keys[0], keys[2]])]);
    add("items swapped", &[run(&[keys[1], keys[0], keys[2]])]);
    add("an item twice", &[run(&[keys[0], keys[1], keys[1], keys[2]])]);
    let outside = StateKey::by_resource("document:10", "viewer", "user:a");
    add("an item of the list after it", &[run(&[keys[0], keys[1], keys[2], outside.as_bytes()])]);
    add("a later page that skips a leaf", &[run(&keys[..1]), run(&keys[1..])]);
    add("a later page that leaves one out", &[run(&keys[..1]), run(&[keys[0], keys[2]])]);
    add("a later page that begins too early", &[run(&keys[..2]), run(&keys)]);
    add("a later page that adds nothing", &[run(&keys[..1]), run(&keys[..1]), run(&keys)]);
    for pages in [vault.list(&prefix, 1000), vault.list(&prefix, 1)] {
        for (name, damage) in damaged_lists() {
            let mut damaged = pages.clone();
            damage(&mut damaged);
            if damaged != pages {
                add(&format!("{name}, {} pages", pages.len()), &encoded(&damaged));
            }
        }
        let honest = encoded(&pages);
        let (last, before) = honest.split_last().unwrap();
        for (name, bytes) in [
            ("cut short", last[..last.len() - 1].to_vec()),
            ("a byte too many", [&last[..], &[0]].concat()),
            ("an unknown form", changed(last, 0, 4)),
            ("nothing", vec![]),
        ] {
            add(&format!("{name}, {} pages", pages.len()), &[before, &[bytes]].concat());
        }
    }
    let whole = vault.list(&prefix, 1000).remove(0);
    add("a whole list after a page", &encoded(&[vault.list(&prefix, 1).remove(0), whole]));
    for (name, key) in [("an item", keys[1]), ("a neighbour", outside.as_bytes())] {
        let proof = vault.tree.prove(key, &vault.rows).unwrap();
        let name = format!("the key proof of {name} for an empty list");
        add(&name, &encoded(&[ListProof::Empty(proof)]));
    }
    // The key that is the prefix itself: what begins with it and goes on lies on side 1 of its very next bit.
    let own_key = StateKey::entity_prefix("team");
    let alone = vault.page_of(&[&own_key[..]]);
    assert!(alone.right.iter().any(|(bit, _)| usize::from(*bit) == 9 * own_key.len()));
    let alone = [ListProof::Page(alone).encode()];
    let name = "the key that is the prefix itself, alone";
    vectors.push(list_vector(name, &root, (&own_key, 0), &alone, json!("refused")));
    let empty = StateKey::entity_prefix("team:4");
    let pages = encoded(&vault.list(&empty, 1));
    let asked = StateKey::entity_prefix("team:3");
    let vector =
        |name, root, prefix| list_vector(name, root, (prefix, 0), &pages, json!("refused"));
    vectors.push(vector("an empty list of another prefix", &root, &asked));
    vectors.push(vector("an empty list under another root", &Digest([7; 32]), &empty));
    vectors.push(vector("a list of everything", &root, &[]));
    vectors.push(vector("a prefix longer than any key", &root, &[b'a'; 2049]));
    // The count is refused before the leaves are looked for.
    let many = [&[2, 0, 0][..], &10_002u16.to_be_bytes()].concat();
    let asked = (&prefix[..], 0);
    vectors.push(list_vector("one leaf too many", &root, asked, &[many], json!("refused")));
    vectors
}

/// Changes of a whole list and of one in pages; what does not apply changes nothing.
fn damaged_lists() -> Vec<ListDamage> {
    fn page(pages: &mut [ListProof], change: impl Fn(&mut PageProof)) {
        for page in pages {
            if let ListProof::Page(page) = page {
                change(page);
            }
        }
    }
    vec![
        ("the last page is missing", |pages| drop(pages.pop())),
        ("the last page twice", |pages| pages.push(pages[pages.len() - 1].clone())),
        ("the first pages swapped", |pages| {
            if pages.len() > 1 {
                pages.swap(0, 1);
            }
        }),
        ("no left sides", |pages| page(pages, |page| page.left.clear())),
        ("no right sides", |pages| page(pages, |page| page.right.clear())),
        ("sides exchanged", |pages| {
            page(pages, |page| std::mem::swap(&mut page.left, &mut page.right));
        }),
        ("left bits in the wrong order", |pages| page(pages, |page| page.left.reverse())),
        ("a right bit repeated", |pages| page(pages, |page| page.right.insert(0, page.right[0]))),
        ("a bit out of range", |pages| {
            page(pages, |page| page.left.push((18_432, Digest::ZERO)));
        }),
        ("the same bits on both sides", |pages| page(pages, |page| page.right = page.left.clone())),
        ("another record", |pages| {
            for proof in pages {
                match proof {
                    ListProof::Page(page) => page.leaves[0].record[92] ^= 1,
                    ListProof::Whole(whole) => whole.leaves[0].record[92] ^= 1,
                    ListProof::Empty(_) => {}
                }
            }
        }),
        ("a path bit beyond the prefix", |pages| {
            if let ListProof::Whole(whole) = &mut pages[0] {
                whole.path.push((18_000, Digest::ZERO));
            }
        }),
        ("a path step left out", |pages| {
            if let ListProof::Whole(whole) = &mut pages[0] {
                whole.path.pop();
            }
        }),
        ("a leaf of the path left out", |pages| {
            if let ListProof::Whole(whole) = &mut pages[0] {
                whole.leaves.remove(1);
            }
        }),
        ("no leaves", |pages| {
            if let ListProof::Whole(whole) = &mut pages[0] {
                whole.leaves.clear();
            }
        }),
    ]
}

fn note_vectors() -> Vec<Value> {
    let vault = vault();
    let known: Vec<Value> = [1, 2]
        .iter()
        .map(|n| {
            let name = cosigner_name(fixture::DOMAIN, &node_name(*n));
            json!({"name": name, "public_key": hex::encode(node_key(*n).public_key())})
        })
        .collect();
    let mut vectors = Vec::new();
    let mut add = |name: &str, note: String, expect: Value| {
        vectors.push(json!({"name": name, "note": note, "known": known, "expect": expect}));
    };
    let says = |keys: &[u8]| -> Value {
        json!(
            keys.iter()
                .map(|n| json!({"public_key": hex::encode(node_key(*n).public_key()), "time": NOW}))
                .collect::<Vec<_>>()
        )
    };
    let encode = |note: &SignedNote| String::from_utf8(note.encode()).unwrap();
    let honest = vault.note(&[1, 2], NOW);
    add("two known cosigners", encode(&honest), says(&[1, 2]));
    add("one known, one unknown", encode(&vault.note(&[1, 3], NOW)), says(&[1]));
    add("unknown cosigners only", encode(&vault.note(&[3, 4], NOW)), says(&[]));
    let with = |change: &dyn Fn(&mut SignedNote)| {
        let mut note = honest.clone();
        change(&mut note);
        encode(&note)
    };
    let cases: [Damage<'_, SignedNote>; 4] = [
        ("a known cosigner's signature is bad", &|note| note.signatures[2].signature[9] ^= 1),
        ("a known cosigner's time is another", &|note| note.signatures[2].signature[7] ^= 1),
        ("a known key's log signature is bad", &|note| note.signatures[0].signature[9] ^= 1),
        ("another root", &|note| note.text = note.text.replacen("11\n", "12\n", 1)),
    ];
    for (name, change) in cases {
        add(name, with(change), json!("refused"));
    }
    let good = encode(&honest);
    let forms = [
        ("no final newline", good.trim_end().to_owned()),
        ("carriage returns", good.replace('\n', "\r\n")),
        ("a leading zero in the size", good.replacen("\n11\n", "\n011\n", 1)),
        ("a fourth line", good.replacen("\n\n", "\nmore\n\n", 1)),
        ("no signatures", honest.text.clone()),
        ("a hyphen for the dash", good.replace('\u{2014}', "-")),
        (
            "seventeen signatures",
            with(&|note| {
                let line = note.signatures[1].clone();
                note.signatures.resize(17, line);
            }),
        ),
    ];
    for (name, note) in forms {
        add(name, note, json!("refused"));
    }
    vectors.extend(colliding_note_vectors());
    vectors
}

/// Two keys of one cosigner whose four bytes of key id are the same.
fn colliding_note_vectors() -> Vec<Value> {
    let key = |number: u32| {
        let mut seed = [0; 32];
        seed[28..].copy_from_slice(&number.to_be_bytes());
        NodeKey::from_seed(&seed)
    };
    let keys = [key(20_150), key(111_358)];
    let (vault, name) = (vault(), cosigner_name(fixture::DOMAIN, "n1"));
    let ids = keys.each_ref().map(|key| cosigner_key_id(&name, &key.public_key()));
    assert_eq!(ids[0], ids[1], "four bytes do not tell them apart");
    let public_keys = keys.each_ref().map(|key| hex::encode(key.public_key()));
    let known = public_keys.each_ref().map(|key| json!({"name": name, "public_key": key}));
    let note = |key: &NodeKey| {
        let mut note = vault.note(&[2], NOW);
        note.signatures.push(key.cosign(&vault.checkpoint(), "n1", NOW));
        note
    };
    let vector = |name: &str, note: &SignedNote, known: &[Value], expect: Value| {
        let note = String::from_utf8(note.encode()).unwrap();
        json!({"name": name, "note": note, "known": known, "expect": expect})
    };
    let says = |key: usize| json!([{"public_key": public_keys[key], "time": NOW}]);
    let mut neither = note(&keys[0]);
    neither.signatures.last_mut().unwrap().signature[9] ^= 1;
    vec![
        vector("a shared key id, signed by the first", &note(&keys[0]), &known, says(0)),
        vector("a shared key id, signed by the second", &note(&keys[1]), &known, says(1)),
        vector("a shared key id, signed by neither", &neither, &known, json!("refused")),
        // Nothing shows that the line is not the known key's.
        vector("a stranger with a known key id", &note(&keys[1]), &known[..1], json!("refused")),
    ]
}

#[test]
fn note() {
    golden("note", note_vectors(), |vector| {
        let known: Vec<KnownSigner> = vector["known"]
            .as_array()
            .unwrap()
            .iter()
            .map(|signer| {
                let public_key = bytes(signer, "public_key").try_into().unwrap();
                KnownSigner { name: text(signer, "name"), public_key }
            })
            .collect();
        let judged = SignedNote::parse(text(vector, "note").as_bytes())
            .and_then(|note| note.checkpoint().and_then(|_| note.cosignatures(&known)));
        refused(judged, |valid| {
            json!(
                valid
                    .iter()
                    .map(|signature| {
                        let key = hex::encode(signature.public_key);
                        json!({"public_key": key, "time": signature.time})
                    })
                    .collect::<Vec<_>>()
            )
        })
    });
}

fn sets_json(sets: &[VoterSet]) -> Value {
    let voter =
        |voter: &Voter| json!({"name": voter.name, "public_key": hex::encode(voter.public_key)});
    json!(
        sets.iter().map(|set| set.voters.iter().map(voter).collect()).collect::<Vec<Vec<Value>>>()
    )
}

fn sets_from(vector: &Value) -> Vec<VoterSet> {
    let voter = |voter: &Value| Voter {
        name: text(voter, "name"),
        public_key: bytes(voter, "public_key").try_into().unwrap(),
    };
    let sets = vector["voter_sets"].as_array().unwrap();
    sets.iter()
        .map(|set| VoterSet { voters: set.as_array().unwrap().iter().map(voter).collect() })
        .collect()
}

#[test]
fn trust_bundle() {
    let fixed = TrustBundle { threshold: Threshold::Fixed(3), floor: 2, ..bundle() };
    let say = |bundle: &TrustBundle| {
        json!({
            "domain": bundle.domain, "sequence": bundle.sequence, "issued_at": bundle.issued_at,
            "expires_at": bundle.expires_at, "system_log_epoch": bundle.system_log_epoch,
            "floor": bundle.floor, "max_age_seconds": bundle.max_age_seconds,
            "skew_seconds": bundle.skew_seconds,
            "required_of_1_to_5": (1..=5).map(|voters| bundle.required(voters)).collect::<Vec<_>>(),
            "voters": bundle.voters.iter().map(|voter| json!({"node": voter.node.0,
                "name": voter.name, "public_key": hex::encode(voter.public_key)})).collect::<Vec<_>>(),
        })
    };
    let mut vectors = Vec::new();
    for (name, bundle) in [("majority", bundle()), ("fixed", fixed)] {
        let honest = bundle.encode();
        let twice = {
            let mut twice = bundle.clone();
            twice.voters[1].public_key = twice.voters[0].public_key;
            twice.encode()
        };
        let one_name = {
            let mut one_name = bundle.clone();
            one_name.voters[2].name = one_name.voters[0].name.clone();
            one_name.encode()
        };
        let one_node = {
            let mut one_node = bundle.clone();
            one_node.voters[1].node = one_node.voters[0].node;
            one_node.encode()
        };
        let unordered = {
            let mut unordered = bundle.clone();
            unordered.voters.swap(0, 1);
            unordered.encode()
        };
        let damage = [
            ("another magic", changed(&honest, 0, b'T')),
            ("an upper-case domain", changed(&honest, 18, b'T')),
            ("no floor", TrustBundle { floor: 0, ..bundle.clone() }.encode()),
            ("a key twice", twice),
            ("voters out of order", unordered),
            ("a name twice", one_name),
            ("a node twice", one_node),
        ];
        vectors.extend(with_damage(name, &honest, say(&bundle), &damage));
    }
    // Readers take the number as it is; that the first bundle is 1 is the founders' affair.
    let zeroth = TrustBundle { sequence: 0, ..bundle() };
    let hex = hex::encode(zeroth.encode());
    vectors.push(json!({"name": "sequence 0", "hex": hex, "expect": say(&zeroth)}));
    golden("trust_bundle", vectors, |vector| {
        refused(TrustBundle::decode(&bytes(vector, "hex")), |bundle| say(&bundle))
    });
}

#[test]
fn note_count() {
    let vault = vault();
    let three = vec![voters(&[1, 2, 3])];
    let both = vec![voters(&[1, 2, 3]), voters(&[4, 5, 6])];
    let mut vectors = Vec::new();
    let mut add = |name: &str, note: &SignedNote, sets: &[VoterSet], expect: Value| {
        let note = String::from_utf8(note.encode()).unwrap();
        let bundle = hex::encode(bundle().encode());
        vectors.push(json!({"name": name, "bundle": bundle, "note": note, "now": NOW,
            "voter_sets": sets_json(sets), "expect": expect}));
    };
    let counts = |keys: u64, oldest: u64| json!({"keys": keys, "oldest_time": oldest});
    add("two of three", &vault.note(&[1, 2], NOW), &three, counts(2, NOW));
    add("three of three", &vault.note(&[1, 2, 3], NOW - 300), &three, counts(3, NOW - 300));
    add("the new set", &vault.note(&[4, 6], NOW + 10), &both, counts(2, NOW + 10));
    add("one of three", &vault.note(&[1], NOW), &three, json!("refused"));
    add("too old", &vault.note(&[1, 2], NOW - 301), &three, json!("refused"));
    add("too far ahead", &vault.note(&[1, 2], NOW + 11), &three, json!("refused"));
    add("one of each set", &vault.note(&[1, 4], NOW), &both, json!("refused"));
    add("strangers", &vault.note(&[4, 5, 6], NOW), &three, json!("refused"));
    add("no voters", &vault.note(&[1, 2], NOW), &[], json!("refused"));
    let mut twice = vault.note(&[1], NOW);
    twice.signatures.push(node_key(1).cosign(&vault.checkpoint(), "n1", NOW - 1));
    add("one key twice", &twice, &three, json!("refused"));
    golden("note_count", vectors, |vector| {
        let bundle = TrustBundle::decode(&bytes(vector, "bundle")).unwrap();
        let note = SignedNote::parse(text(vector, "note").as_bytes()).unwrap();
        let counted = bundle.count(&note, &sets_from(vector), TimeRule::Now(number(vector, "now")));
        refused(
            counted,
            |counted| json!({"keys": counted.keys, "oldest_time": counted.oldest_time}),
        )
    });
}

fn entities() -> Vec<(&'static str, Vec<u8>)> {
    let replica = |number: u64, in_old_set, in_new_set| ShardReplica {
        node: NodeId(number),
        incarnation: Incarnation(100 + number),
        role: if number == 3 { ReplicaRole::Learner } else { ReplicaRole::Voter },
        in_old_set,
        in_new_set,
        is_added: false,
    };
    let replicas = vec![replica(1, true, true), replica(2, true, false), replica(3, false, true)];
    let added = ShardReplica { is_added: true, ..replica(3, false, true) };
    let added = vec![replica(1, true, true), replica(2, true, false), added];
    let tombstone = TombstoneEntity {
        shard: GroupId(3),
        incarnation: Incarnation(102),
        node: NodeId(2),
        store_id: StoreId([2; 16]),
        removed_at_ns: 1_900_000_000_000_000_000,
    };
    let cluster =
        ClusterEntity { id: ClusterId([1; 16]), domain: "test.ledger".into(), feature_level: 1 };
    let node = NodeEntity {
        id: NodeId(2),
        name: "n2".into(),
        store_id: StoreId([2; 16]),
        address: "127.0.0.1:7400".into(),
        public_key: node_key(2).public_key(),
        state: NodeState::Active,
        zone: "a".into(),
    };
    let vault = VaultEntity {
        vault: VaultRef::new(7, 9),
        shard: GroupId(3),
        owner_epoch: OwnerEpoch(2),
        log_epoch: 1,
        state: VaultState::Active,
        created_at_ns: 1_900_000_000_000_000_000,
        retention: RetentionMode::KeepBlocks,
        retention_blocks: 1000,
    };
    let namespace = NamespaceEntity {
        id: NamespaceId(7),
        name: "Acme \u{e5}".into(),
        state: NamespaceState::Active,
        created_at_ns: 1_900_000_000_000_000_000,
        config_version: 3,
    };
    vec![
        ("cluster", cluster.encode()),
        ("node/2", node.encode()),
        ("shard/3", ShardEntity { id: GroupId(3), epoch: 4, replicas }.encode()),
        ("vault/7/9", vault.encode()),
        ("namespace/7", namespace.encode()),
        ("namespace-name/acme", NamespaceNameEntity { id: NamespaceId(7) }.encode()),
        ("sequence/node", SequenceEntity { next: 8 }.encode()),
        ("shard/5", ShardEntity { id: GroupId(5), epoch: 2, replicas: added }.encode()),
        ("tombstone/3/102", tombstone.encode()),
    ]
}

#[test]
fn system_entity() {
    let mut vectors = Vec::new();
    for (key, honest) in entities() {
        let damage = [("another version", changed(&honest, 0, 2))];
        for mut vector in with_damage(key, &honest, json!("holds"), &damage) {
            vector["key"] = json!(key);
            vectors.push(vector);
        }
    }
    golden("system_entity", vectors, |vector| {
        fn judge<E: SystemEntity>(bytes: &[u8]) -> Value {
            refused(E::decode(bytes), |entity| {
                assert_eq!(entity.encode(), bytes);
                json!("holds")
            })
        }
        let bytes = bytes(vector, "hex");
        match text(vector, "key").split('/').next().unwrap() {
            "cluster" => judge::<ClusterEntity>(&bytes),
            "node" => judge::<NodeEntity>(&bytes),
            "shard" => judge::<ShardEntity>(&bytes),
            "vault" => judge::<VaultEntity>(&bytes),
            "namespace" => judge::<NamespaceEntity>(&bytes),
            "namespace-name" => judge::<NamespaceNameEntity>(&bytes),
            "sequence" => judge::<SequenceEntity>(&bytes),
            "tombstone" => judge::<TombstoneEntity>(&bytes),
            other => panic!("no entity begins with {other}"),
        }
    });
}

/// The parts of a vector about an answer that are the same for reads and receipts.
fn answer_vector(
    name: &str,
    known: Option<&KnownCheckpoint>,
    answer: &[u8],
    expect: Value,
) -> Value {
    json!({
        "name": name, "bundle": hex::encode(bundle().encode()), "now": NOW,
        "voter_sets": sets_json(&[voters(&[1, 2, 3])]),
        "known": known.map(|known| hex::encode(known.encode())),
        "answer": hex::encode(answer), "expect": expect,
    })
}

fn known_from(vector: &Value) -> Option<KnownCheckpoint> {
    let known = vector["known"].as_str()?;
    Some(KnownCheckpoint::decode(&hex::decode(known).unwrap()).unwrap())
}

#[test]
fn verified_read() {
    let mut vault = vault();
    let keys = [StateKey::entity("config"), StateKey::entity("gone"), StateKey::entity("session")];
    let old = vault.checkpoint();
    let old_note = vault.note(&[1, 2], NOW - 60);
    vault.commit(&[Change::Set("config", b"new", 0)]);
    vault.commit(&[Change::Grant("document:1", "owner", "user:eve")]);
    let Checkpoint { origin, size, root } = old;
    let known = KnownCheckpoint { origin, size, root, note: old_note.encode() };
    let forked = KnownCheckpoint { root: Digest([9; 32]), ..known.clone() };
    let ahead = KnownCheckpoint { size: 99, ..known.clone() };
    let mut vectors = Vec::new();
    let mut add =
        |name: &str, at: Value, known: Option<&KnownCheckpoint>, answer: &[u8], expect| {
            let mut vector = answer_vector(name, known, answer, expect);
            vector["origin"] = json!("test.ledger/ns/7/vault/9/0");
            vector["at"] = at;
            vector["keys"] = json!(keys.iter().map(hex::encode).collect::<Vec<_>>());
            vectors.push(vector);
        };
    let latest = json!({"latest": {"min_height": 0}});
    let found = json!([{"present": hex::encode(b"new")}, "absent", "expired"]);
    let read = vault.read(&keys, None);
    let grown = vault.read(&keys, Some(known.size));
    add("latest, nothing known", latest.clone(), None, &read.encode(), found.clone());
    add("latest, grown", latest.clone(), Some(&known), &grown.encode(), found.clone());
    let high_enough = json!({"latest": {"min_height": 12}});
    add("latest, own write", high_enough, None, &read.encode(), found);
    let no = || json!("refused");
    let too_high = json!({"latest": {"min_height": 13}});
    add("latest, later write", too_high, None, &read.encode(), no());
    add("another height", json!({"height": 11}), None, &read.encode(), no());
    add("no consistency path", latest.clone(), Some(&known), &read.encode(), no());
    add("a path nobody asked for", latest.clone(), None, &grown.encode(), no());
    add("a fork", latest.clone(), Some(&forked), &grown.encode(), no());
    add("behind", latest.clone(), Some(&ahead), &read.encode(), no());
    let past = json!([{"present": hex::encode(b"new")}, "absent", {"present": hex::encode(b"s")}]);
    add("a past height", json!({"height": 12}), None, &read.encode(), past);
    let with = |change: &dyn Fn(&mut VerifiedRead)| {
        let mut read = read.clone();
        change(&mut read);
        read.encode()
    };
    let cases: [Damage<'_, VerifiedRead>; 8] = [
        ("another value", &|read| read.items[0].value = Some(b"old".to_vec())),
        ("no value", &|read| read.items[0].value = None),
        ("a value for an absent key", &|read| read.items[1].value = Some(vec![])),
        ("an answer too few", &|read| drop(read.items.pop())),
        ("answers swapped", &|read| read.items.swap(0, 2)),
        ("another state root", &|read| read.block.header.state_root.0[0] ^= 1),
        ("another vault's header", &|read| read.block.header.vault = VaultRef::new(7, 8)),
        ("a header path too short", &|read| _ = read.block.header_path.pop()),
    ];
    for (name, change) in cases {
        add(name, latest.clone(), None, &with(change), no());
    }
    add("a byte too many", latest.clone(), None, &[&read.encode()[..], &[0]].concat(), no());
    // Nobody may ask about such a key, though the answer would hold under the state root.
    let proof = vault.tree.prove(UNKNOWN_KIND, &vault.rows).unwrap();
    let items = vec![ReadItem { proof, value: None }];
    let strange = VerifiedRead { items, ..read.clone() };
    add("a key of an unknown kind", latest, None, &strange.encode(), no());
    let last = vectors.last_mut().expect("it was added above");
    last["keys"] = json!([hex::encode(UNKNOWN_KIND)]);
    golden("verified_read", vectors, judge_read);
}

fn judge_read(vector: &Value) -> Value {
    let Ok(read) = VerifiedRead::decode(&bytes(vector, "answer")) else { return json!("refused") };
    let origin = Origin::parse(&text(vector, "origin")).unwrap();
    let bundle = TrustBundle::decode(&bytes(vector, "bundle")).unwrap();
    let sets = sets_from(vector);
    let times = TimeRule::Now(number(vector, "now"));
    let trust = Trust { bundle: &bundle, voters: &sets, times, memory: None };
    let keys = vector["keys"].as_array().unwrap().iter();
    let keys = keys.map(|key| StateKey::from_bytes(&hex::decode(key.as_str().unwrap()).unwrap()));
    let Some(keys) = keys.collect::<Option<Vec<StateKey>>>() else { return json!("refused") };
    let at = match vector["at"]["height"].as_u64() {
        Some(height) => ReadAt::Height(height),
        None => ReadAt::Latest { min_height: number(&vector["at"]["latest"], "min_height") },
    };
    let request = ReadRequest { origin: &origin, at, keys: &keys };
    refused(read.verify(&request, &trust, known_from(vector).as_ref()), |answer| {
        let say = |value: &VerifiedValue| match value {
            VerifiedValue::Present { value, .. } => json!({"present": hex::encode(value)}),
            VerifiedValue::Expired { .. } => json!("expired"),
            VerifiedValue::Absent => json!("absent"),
        };
        json!(answer.values.iter().map(say).collect::<Vec<_>>())
    })
}

#[test]
fn verified_list() {
    let mut vault = list_vault();
    let team = StateKey::entity_prefix("team:");
    let other = vault.verified_list(&StateKey::entity_prefix("tea"), 2);
    let (first, later) = vault.verified_list(&team, 2);
    let (whole, nothing) = vault.verified_list(&team, 100);
    assert!(!later.is_empty() && nothing.is_empty());
    let mut vectors = Vec::new();
    let mut add = |name: &str, at: Value, prefix: &[u8], pages: Vec<Vec<u8>>, expect: Value| {
        let mut vector = answer_vector(name, None, &pages[0], expect);
        vector["origin"] = json!("test.ledger/ns/7/vault/9/0");
        vector["at"] = at;
        vector["prefix"] = json!(hex::encode(prefix));
        vector["later"] = json!(pages[1..].iter().map(hex::encode).collect::<Vec<_>>());
        vectors.push(vector);
    };
    let latest = || json!({"latest": {"min_height": 0}});
    let no = || json!("refused");
    let item = |key: &str, value: &[u8]| json!({"key": hex::encode(StateKey::entity(key)), "value": hex::encode(value)});
    let lasting = json!([item("team:1", b"one"), item("team:3", b"three")]);
    let pages = |first: &VerifiedList, later: &[ListPage]| {
        let later = later.iter().map(ListPage::encode);
        [first.encode()].into_iter().chain(later).collect::<Vec<_>>()
    };
    add("in pages", latest(), &team, pages(&first, &later), lasting.clone());
    add("at once", latest(), &team, pages(&whole, &[]), lasting);
    // At a height the block's time counts, at which two more had not expired.
    let then = json!([
        item("team:1", b"one"),
        item("team:10", b"ten"),
        item("team:2", b"two"),
        item("team:3", b"three"),
    ]);
    add("at its height", json!({"height": 2}), &team, pages(&first, &later), then);
    for (name, prefix) in
        [("a subject", StateKey::subject_prefix("user:b", None)), ("no resource", vec![2, b'x', 0])]
    {
        let (list, _) = vault.verified_list(&prefix, 100);
        let keys = match &list.page.proof {
            ListProof::Whole(proof) => proof.leaves.iter().map(|leaf| leaf.key.clone()).collect(),
            _ => Vec::new(),
        };
        let items: Vec<Value> =
            keys.iter().map(|key| json!({"key": hex::encode(key), "value": ""})).collect();
        add(name, latest(), &prefix, pages(&list, &[]), json!(items));
    }
    add("another height", json!({"height": 1}), &team, pages(&first, &later), no());
    add("without its last page", latest(), &team, pages(&first, &later[..later.len() - 1]), no());
    let doubled: Vec<ListPage> = later.iter().chain(&later).cloned().collect();
    add("pages twice", latest(), &team, pages(&first, &doubled), no());
    let fewer = vault.verified_list(&team, 1);
    add("a page left out", latest(), &team, pages(&fewer.0, &fewer.1[1..]), no());
    add("of another prefix", latest(), &team, pages(&other.0, &other.1), no());
    for (name, change) in damaged_first_pages() {
        let mut damaged = first.clone();
        change(&mut damaged);
        add(name, latest(), &team, pages(&damaged, &later), no());
    }
    let mut longer = pages(&first, &later);
    longer[0].push(0);
    add("a byte too many", latest(), &team, longer, no());
    golden("verified_list", vectors, judge_list);
}

/// What may be wrong with the first page of a list.
fn damaged_first_pages() -> [Damage<'static, VerifiedList>; 6] {
    [
        ("another value", &|list| list.page.values[0] = b"two".to_vec()),
        ("values swapped", &|list| list.page.values.swap(0, 1)),
        ("a value too few", &|list| drop(list.page.values.pop())),
        ("a value too many", &|list| list.page.values.push(Vec::new())),
        ("another state root", &|list| list.block.header.state_root = Digest([1; 32])),
        ("an item left out", &|list| {
            let ListProof::Page(proof) = &mut list.page.proof else { panic!("not a page") };
            proof.leaves.remove(0);
            list.page.values.remove(0);
        }),
    ]
}

fn judge_list(vector: &Value) -> Value {
    let origin = Origin::parse(&text(vector, "origin")).unwrap();
    let bundle = TrustBundle::decode(&bytes(vector, "bundle")).unwrap();
    let sets = sets_from(vector);
    let times = TimeRule::Now(number(vector, "now"));
    let trust = Trust { bundle: &bundle, voters: &sets, times, memory: None };
    let at = match vector["at"]["height"].as_u64() {
        Some(height) => ReadAt::Height(height),
        None => ReadAt::Latest { min_height: number(&vector["at"]["latest"], "min_height") },
    };
    let prefix = bytes(vector, "prefix");
    let question = ListQuestion { origin: &origin, at, prefix: &prefix };
    let whole = || -> Result<Vec<VerifiedItem>, VerifyError> {
        let first = VerifiedList::decode(&bytes(vector, "answer"))?;
        let (mut progress, mut items) = first.verify(&question, &trust, None)?;
        for page in vector["later"].as_array().unwrap() {
            let page = ListPage::decode(&hex::decode(page.as_str().unwrap()).unwrap())?;
            items.append(&mut progress.accept(&page)?);
        }
        if progress.is_complete() { Ok(items) } else { Err(ListError::Unfinished.into()) }
    };
    refused(whole(), |items| {
        let item = |item: &VerifiedItem| json!({"key": hex::encode(&item.key), "value": hex::encode(&item.value)});
        json!(items.iter().map(item).collect::<Vec<_>>())
    })
}

#[test]
fn bundle_link() {
    let mut next = bundle();
    next.sequence = 2;
    next.voters.remove(0);
    let read = system(&next).read(&[StateKey::entity("bundle/2")], None);
    let mut unsigned = read.clone();
    let note = SignedNote::parse(&read.block.note).unwrap();
    let signatures = note.signatures[..2].to_vec();
    unsigned.block.note = SignedNote { signatures, ..note }.encode();
    let proved = |next: &TrustBundle| system(next).read(&[StateKey::entity("bundle/2")], None);
    let one_is_enough = TrustBundle { threshold: Threshold::Fixed(1), ..next.clone() };
    // As many as before of the three voters of today, fewer of four.
    let fewer_of_many = TrustBundle { threshold: Threshold::Fixed(2), ..next.clone() };
    let all_three = TrustBundle { floor: 3, ..next.clone() };
    let same_number = TrustBundle { sequence: 1, ..next.clone() };
    let mut renumbered = system(&next);
    renumbered.commit(&[Change::Set("bundle/2", &same_number.encode(), 0)]);
    let renumbered = renumbered.read(&[StateKey::entity("bundle/2")], None);
    let vector = |name: &str, link: &VerifiedRead, expect: Value| {
        json!({"name": name, "bundle": hex::encode(bundle().encode()),
            "link": hex::encode(link.encode()), "expect": expect})
    };
    let vectors = vec![
        vector("the next bundle", &read, json!(hex::encode(next.encode()))),
        vector("too few signatures", &unsigned, json!("refused")),
        vector("a higher floor", &proved(&all_three), json!(hex::encode(all_three.encode()))),
        vector("a lowered rule: one is enough", &proved(&one_is_enough), json!("refused")),
        vector("a lowered rule: fewer of many", &proved(&fewer_of_many), json!("refused")),
        vector("another number inside", &renumbered, json!("refused")),
    ];
    golden("bundle_link", vectors, |vector| {
        use ledger_proof::bundle_link::{Lowering, follow_link};
        let bundle = TrustBundle::decode(&bytes(vector, "bundle")).unwrap();
        let link = VerifiedRead::decode(&bytes(vector, "link")).unwrap();
        let next = follow_link(&bundle, &link, Lowering::Refused);
        refused(next, |next| json!(hex::encode(next.encode())))
    });
}

#[test]
fn receipt() {
    let vault = vault();
    let receipt = vault.receipt(1, 2);
    let mut vectors = Vec::new();
    let mut add = |name: &str, tx_id: u8, receipt: &[u8], expect: Value| {
        let mut vector = answer_vector(name, None, receipt, expect);
        vector["origin"] = json!("test.ledger/ns/7/vault/9/0");
        vector["height"] = json!(1);
        vector["tx_id"] = json!(hex::encode([tx_id; 16]));
        vectors.push(vector);
    };
    add("the third of its block", 3, &receipt.encode(), json!({"index": 2, "tx_count": 3}));
    add("another transaction", 2, &receipt.encode(), json!("refused"));
    let cases: [Damage<'_, Receipt>; 4] = [
        ("another index", &|receipt| receipt.index = 1),
        ("another count", &|receipt| receipt.block.header.tx_count = 4),
        ("a hash too many", &|receipt| receipt.path.push(Digest::ZERO)),
        ("another byte", &|receipt| receipt.transaction[18] ^= 1),
    ];
    for (name, change) in cases {
        let mut damaged = receipt.clone();
        change(&mut damaged);
        add(name, 3, &damaged.encode(), json!("refused"));
    }
    golden("receipt", vectors, |vector| {
        let receipt = Receipt::decode(&bytes(vector, "answer")).unwrap();
        let origin = Origin::parse(&text(vector, "origin")).unwrap();
        let bundle = TrustBundle::decode(&bytes(vector, "bundle")).unwrap();
        let sets = sets_from(vector);
        let times = TimeRule::Now(number(vector, "now"));
        let trust = Trust { bundle: &bundle, voters: &sets, times, memory: None };
        let tx_id = TxId::from_slice(&bytes(vector, "tx_id")).unwrap();
        let height = number(vector, "height");
        let request =
            ReceiptRequest { origin: &origin, height, transaction: TransactionChoice::Id(tx_id) };
        refused(
            receipt.verify(&request, &trust, None),
            |verified| json!({"index": receipt.index, "tx_count": verified.block.header.tx_count}),
        )
    });
}
