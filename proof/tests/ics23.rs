//! State proofs exported as ICS23, judged by two implementations of it that are not ours: the `ics23`
//! crate, and npm's `@confio/ics23` where it is installed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixture;
mod judges;

use std::collections::BTreeSet;

use fixture::Rows;
use ics23::commitment_proof::Proof;
use ics23::{CommitmentProof, HostFunctionsProvider, InnerOp, LeafOp, ProofSpec};
use ics23_prost::Message as _;
use ledger_proof::ics23::{Existence, NonExistence, spec};
use ledger_proof::tree::bits;
use ledger_proof::{KeyProof, Presence, Record, StateTree, hash};
use ledger_types::{Digest, StateKey};
use serde_json::json;

/// The one hash that our spec names.
struct Sha256Only;

impl HostFunctionsProvider for Sha256Only {
    fn sha2_256(message: &[u8]) -> [u8; 32] {
        hash::plain(message).0
    }
    fn sha2_512(_: &[u8]) -> [u8; 64] {
        [0; 64]
    }
    fn sha2_512_truncated(_: &[u8]) -> [u8; 32] {
        [0; 32]
    }
    fn keccak_256(_: &[u8]) -> [u8; 32] {
        [0; 32]
    }
    fn ripemd160(_: &[u8]) -> [u8; 20] {
        [0; 20]
    }
    fn blake2b_512(_: &[u8]) -> [u8; 64] {
        [0; 64]
    }
    fn blake2s_256(_: &[u8]) -> [u8; 32] {
        [0; 32]
    }
    fn blake3(_: &[u8]) -> [u8; 32] {
        [0; 32]
    }
}

/// A claim about a key with its proof, and whether it is to be believed.
struct Case {
    name: String,
    root: Digest,
    key: Vec<u8>,
    /// The record, or `None` if the key is said to be absent.
    value: Option<Vec<u8>>,
    proof: Vec<u8>,
    is_true: bool,
}

/// Lets every judge decide every case under `spec`, and compares.
fn judge_under(test: &str, spec: &[u8], cases: &[Case]) {
    assert!(!cases.is_empty());
    let rules = ProofSpec::decode(spec).unwrap();
    for case in cases {
        assert_eq!(crate_accepts(&rules, case), case.is_true, "{test}: ics23: {}", case.name);
    }
    let shown = |case: &Case| {
        json!({
            "root": hex::encode(case.root.0),
            "key": hex::encode(&case.key),
            "value": case.value.as_ref().map(hex::encode),
            "proof": hex::encode(&case.proof),
        })
    };
    let shown: Vec<_> = cases.iter().map(shown).collect();
    let input = json!({ "spec": hex::encode(spec), "cases": shown });
    let Some(verdicts) = judges::node(test, &input) else { return };
    let verdicts = verdicts.as_array().unwrap();
    assert_eq!(verdicts.len(), cases.len());
    for (case, verdict) in cases.iter().zip(verdicts) {
        assert_eq!(*verdict, case.is_true, "{test}: @confio/ics23: {}", case.name);
    }
}

fn judge(test: &str, cases: &[Case]) {
    judge_under(test, &spec(), cases);
}

fn crate_accepts(spec: &ProofSpec, case: &Case) -> bool {
    let Ok(proof) = CommitmentProof::decode(&case.proof[..]) else { return false };
    let root = case.root.0.to_vec();
    match &case.value {
        Some(value) => {
            ics23::verify_membership::<Sha256Only>(&proof, spec, &root, &case.key, value)
        }
        None => ics23::verify_non_membership::<Sha256Only>(&proof, spec, &root, &case.key),
    }
}

/// A state tree with rows.
struct State {
    tree: StateTree,
    rows: Rows,
}

fn record(number: u64) -> Record {
    Record {
        created_height: number,
        modified_height: number + 1,
        modified_tx: 2,
        expires_at: 0,
        previous_record_hash: Digest::ZERO,
        value_hash: hash::plain(&number.to_be_bytes()),
    }
}

/// Keys of all kinds: short, long, one the beginning of another, beyond ASCII.
fn some_keys(count: usize) -> Vec<StateKey> {
    let key = |number: usize| match number % 5 {
        0 if number == 0 => StateKey::descriptor(),
        0 => StateKey::entity(&"ab".repeat(number)),
        1 => StateKey::entity(&format!("user/{}", number * 7919 % 1009)),
        2 => StateKey::by_resource(&format!("doc:{}", number / 10), &number.to_string(), "user:ä"),
        3 => StateKey::by_subject(&format!("doc:{number}"), "owner", "user:b"),
        _ => StateKey::entity(&format!("{}\u{10ffff}", "x".repeat(number))),
    };
    (0..count).map(key).collect::<BTreeSet<_>>().into_iter().collect()
}

impl State {
    fn new(keys: &[StateKey]) -> State {
        let mut state = State { tree: StateTree::empty(), rows: Rows::default() };
        for (number, key) in keys.iter().enumerate() {
            let record = record(number as u64);
            state.tree.apply(&[(key, Some(record.hash()))], &state.rows).unwrap();
            state.rows.0.insert(key.as_bytes().to_vec(), (record, Vec::new()));
        }
        state
    }

    fn root(&mut self) -> Digest {
        self.tree.root()
    }

    fn keys(&self) -> Vec<Vec<u8>> {
        self.rows.0.keys().cloned().collect()
    }

    fn prove(&mut self, key: &[u8]) -> KeyProof {
        self.tree.prove(key, &self.rows).unwrap()
    }

    /// The proof of presence of `key`, which is present.
    fn existence(&mut self, key: &[u8]) -> Existence {
        let proof = self.prove(key);
        assert_eq!(proof.leaf_key, key);
        assert!(matches!(proof.verify(&self.root(), key), Ok(Presence::Present(_))));
        Existence::of_leaf(&proof)
    }

    fn presence_case(&mut self, key: &[u8]) -> Case {
        let existence = self.existence(key);
        let value = Some(existence.value.to_vec());
        let (name, proof) = (format!("{} is present", hex::encode(key)), existence.encode());
        Case { name, root: self.root(), key: key.to_vec(), value, proof, is_true: true }
    }

    /// The honest proof that `key`, which is absent, is absent.
    fn absence(&mut self, key: &[u8]) -> NonExistence {
        assert_eq!(self.prove(key).verify(&self.root(), key), Ok(Presence::Absent));
        let left = self.rows.0.range(..key.to_vec()).next_back().map(|(key, _)| key.clone());
        let right = self.rows.0.range(key.to_vec()..).next().map(|(key, _)| key.clone());
        let [left, right] = [left, right].map(|key| key.map(|key| self.prove(&key)));
        NonExistence::between(key, left.as_ref(), right.as_ref()).expect("there is a neighbour")
    }

    fn absence_case(&mut self, key: &[u8], proof: NonExistence, is_true: bool) -> Case {
        let neighbour = |side: Option<&Existence>| side.map(|found| hex::encode(&found.key));
        let (left, right) = (neighbour(proof.left.as_ref()), neighbour(proof.right.as_ref()));
        let name = format!("{} is absent between {left:?} and {right:?}", hex::encode(key));
        let (root, proof) = (self.root(), proof.encode());
        Case { name, root, key: key.to_vec(), value: None, proof, is_true }
    }

    /// Keys that are absent: before the first, after the last, and close to present ones.
    fn absent_keys(&self) -> Vec<Vec<u8>> {
        let mut absent = BTreeSet::from([vec![0x00, 0x00], vec![0xff; 40]]);
        for key in self.keys() {
            absent.insert([&key[..], &[0]].concat());
            absent.insert([&key[..key.len() - 1], &[key[key.len() - 1].wrapping_sub(1)]].concat());
            absent.insert(key[..key.len() - 1].to_vec());
        }
        let is_absent = |key: &Vec<u8>| !key.is_empty() && !self.rows.0.contains_key(key);
        absent.into_iter().filter(is_absent).collect()
    }
}

/// A state of 40 keys, for attacks.
fn forty() -> State {
    State::new(&some_keys(40))
}

#[test]
fn presence_and_absence_hold_in_trees_of_all_sizes() {
    for count in [1, 2, 3, 4, 7, 16, 33, 100, 400] {
        let mut state = State::new(&some_keys(count));
        let mut cases = Vec::new();
        for key in state.keys() {
            cases.push(state.presence_case(&key));
        }
        let absent = state.absent_keys();
        let first_and_last =
            |key: &&Vec<u8>| state.keys()[0] > **key || state.keys()[count - 1] < **key;
        assert_eq!(state.keys().len(), count);
        assert!(absent.iter().filter(first_and_last).count() > 0, "the ends are among them");
        for key in absent.iter().step_by(if count > 100 { 3 } else { 1 }) {
            let proof = state.absence(key);
            cases.push(state.absence_case(key, proof, true));
        }
        judge("presence_and_absence", &cases);
    }
}

#[test]
fn the_descriptor_is_always_a_neighbour_on_the_left() {
    // Key 0x00 is the first of all keys that there can be, so in a vault nothing is absent before it.
    let mut state = forty();
    let absence = state.absence(&[0x00, 0x00]);
    assert_eq!(absence.left.unwrap().key, StateKey::descriptor().as_bytes());
    let mut headless = State::new(&some_keys(40)[1..]);
    let key = StateKey::descriptor().as_bytes().to_vec();
    let absence = headless.absence(&key);
    assert_eq!(absence.left, None);
    let case = headless.absence_case(&key, absence, true);
    judge("before_all", &[case]);
    assert_eq!(NonExistence::between(&key, None, None), None);
}

#[test]
fn absence_between_leaves_that_are_no_neighbours_is_refused() {
    let mut state = forty();
    let keys = state.keys();
    let mut cases = Vec::new();
    for (place, gap) in [(0, 2), (3, 2), (10, 5), (20, 19), (0, 39)] {
        let (left, right) = (&keys[place], &keys[place + gap]);
        let (left_proof, right_proof) = (state.prove(left), state.prove(right));
        // A key that is there, and one that is not but has other neighbours.
        let hidden = keys[place + 1].clone();
        for key in [hidden.clone(), [&hidden[..], &[0]].concat()] {
            let forged = NonExistence::between(&key, Some(&left_proof), Some(&right_proof));
            cases.push(state.absence_case(&key, forged.unwrap(), false));
        }
    }
    judge("no_neighbours", &cases);
}

#[test]
fn absence_beyond_an_end_that_is_not_the_end_is_refused() {
    let mut state = forty();
    let keys = state.keys();
    let mut cases = Vec::new();
    for place in [1, 5, 20, 38] {
        let proof = state.prove(&keys[place]);
        let after = NonExistence::between(&keys[place + 1], Some(&proof), None).unwrap();
        cases.push(state.absence_case(&keys[place + 1], after, false));
        let before = NonExistence::between(&keys[place - 1], None, Some(&proof)).unwrap();
        cases.push(state.absence_case(&keys[place - 1], before, false));
    }
    judge("not_the_end", &cases);
}

#[test]
fn absence_of_a_present_key_by_its_own_leaf_is_refused() {
    let mut state = forty();
    let keys = state.keys();
    let mut cases = Vec::new();
    for place in [0, 7, 20, 39] {
        let own = state.prove(&keys[place]);
        let left = place.checked_sub(1).map(|place| state.prove(&keys[place]));
        let right = keys.get(place + 1).cloned().map(|key| state.prove(&key));
        for (left, right) in [(left.as_ref(), Some(&own)), (Some(&own), right.as_ref())] {
            let forged = NonExistence::between(&keys[place], left, right).unwrap();
            cases.push(state.absence_case(&keys[place], forged, false));
        }
        // With no neighbour at all, and with neighbours the wrong way round.
        let none = NonExistence { key: keys[place].clone(), left: None, right: None };
        cases.push(state.absence_case(&keys[place], none, false));
        if left.is_some() && right.is_some() {
            let turned = NonExistence::between(&keys[place], right.as_ref(), left.as_ref());
            cases.push(state.absence_case(&keys[place], turned.unwrap(), false));
        }
    }
    judge("own_leaf", &cases);
}

#[test]
fn another_key_value_or_root_is_refused() {
    let mut state = forty();
    let keys = state.keys();
    let honest = |state: &mut State| state.presence_case(&keys[9]);
    let other = state.presence_case(&keys[10]);
    let mut cases = vec![honest(&mut state)];
    let mut forge = |name: &str, change: &dyn Fn(&mut Case)| {
        let mut case = Case { is_true: false, name: name.to_owned(), ..honest(&mut state) };
        change(&mut case);
        cases.push(case);
    };
    forge("another key", &|case| case.key = other.key.clone());
    forge("another record", &|case| case.value = other.value.clone());
    forge("another record in claim and proof", &|case| {
        case.value = other.value.clone();
        case.proof = changed(&case.proof, |proof| proof.value = other.value.clone().unwrap());
    });
    forge("another key in claim and proof", &|case| {
        case.key = other.key.clone();
        case.proof = changed(&case.proof, |proof| proof.key = other.key.clone());
    });
    forge("another root", &|case| case.root.0[0] ^= 1);
    forge("the empty root", &|case| case.root = hash::empty_root());
    forge("another leaf's proof", &|case| case.proof = other.proof.clone());
    forge("presence shown as absence", &|case| case.value = None);
    forge("no proof", &|case| case.proof.clear());
    judge("another", &cases);
}

/// The proof of presence with something changed.
fn changed(proof: &[u8], change: impl FnOnce(&mut ics23::ExistenceProof)) -> Vec<u8> {
    let proof = CommitmentProof::decode(proof).unwrap();
    let Some(Proof::Exist(mut existence)) = proof.proof else { panic!("not a proof of presence") };
    change(&mut existence);
    CommitmentProof { proof: Some(Proof::Exist(existence)) }.encode_to_vec()
}

#[test]
fn steps_and_leaves_of_another_form_are_refused() {
    type Change = fn(&mut ics23::ExistenceProof);
    let changes: [(&str, Change); 12] = [
        ("a step left out", |proof| drop(proof.path.remove(0))),
        ("the last step left out", |proof| drop(proof.path.pop())),
        ("a step twice", |proof| proof.path.insert(1, proof.path[0].clone())),
        ("steps in another order", |proof| proof.path.swap(0, 1)),
        ("no steps", |proof| proof.path.clear()),
        ("no leaf", |proof| proof.leaf = None),
        ("a leaf without hashed key", |proof| leaf(proof).prehash_key = 0),
        ("a leaf without hashed value", |proof| leaf(proof).prehash_value = 0),
        ("a leaf without lengths", |proof| leaf(proof).length = 0),
        ("a leaf of another domain", |proof| leaf(proof).prefix = vec![2]),
        ("a leaf of a longer domain", |proof| leaf(proof).prefix = vec![0, 0]),
        ("a step that does not hash", |proof| proof.path[0].hash = 0),
    ];
    let mut state = forty();
    let key = state.keys()[9].clone();
    assert!(state.existence(&key).path.len() > 2);
    let mut cases = vec![state.presence_case(&key)];
    for (name, change) in changes {
        let honest = state.presence_case(&key);
        let proof = changed(&honest.proof, change);
        assert_ne!(proof, honest.proof, "{name}");
        cases.push(Case { name: name.to_owned(), proof, is_true: false, ..honest });
    }
    judge("another_form", &cases);
}

fn leaf(proof: &mut ics23::ExistenceProof) -> &mut LeafOp {
    proof.leaf.as_mut().unwrap()
}

#[test]
fn a_branch_posing_as_a_leaf_and_a_leaf_as_a_branch_are_refused() {
    let mut state = forty();
    let (root, key) = (state.root(), state.keys()[9].clone());
    let honest = state.existence(&key);
    // What the top branch hashes is 0x02, the bit and two hashes; a leaf hashes as many bytes. The
    // leaf op leaves the forger its prefix, if that begins as the spec says.
    let top = honest.path.last().unwrap().clone();
    let pose = |prefix: Vec<u8>| {
        changed(&honest.encode(), |proof| {
            leaf(proof).prefix = prefix;
            (proof.key, proof.value) = (b"forged".to_vec(), b"forged".to_vec());
            proof.path.clear();
        })
    };
    let case = |name: &str, key: &[u8], value: &[u8], proof| {
        let (name, key, value) = (name.to_owned(), key.to_vec(), Some(value.to_vec()));
        Case { name, root, key, value, proof, is_true: false }
    };
    let prefixes = [top.prefix.clone(), [&[0][..], &top.prefix].concat(), vec![0]];
    let mut cases: Vec<Case> = prefixes
        .into_iter()
        .map(|prefix| case("a branch as a leaf", b"forged", b"forged", pose(prefix)))
        .collect();
    // The other way: bytes of the leaf stand as a step's prefix, its last hash as the child.
    let as_step = changed(&honest.encode(), |proof| {
        let mut prefix = vec![0, 0x20];
        prefix.extend(hash::plain(&key).0);
        prefix.push(0x20);
        proof.path.insert(0, InnerOp { hash: 1, prefix, suffix: Vec::new() });
    });
    cases.push(case("a leaf as a branch", &key, &honest.value, as_step));
    judge("posing", &cases);
}

/// The export's spec, but for a tree whose leaves take the key as it is.
fn spec_with_plain_keys() -> Vec<u8> {
    let mut spec = ProofSpec::decode(&spec()[..]).unwrap();
    spec.leaf_spec.as_mut().unwrap().prehash_key = 0;
    spec.encode_to_vec()
}

#[test]
fn a_keys_tail_posing_as_a_key_is_refused_because_leaves_hash_keys() {
    // The key's owner ends it with a length and the key that is to be forged. Where leaves take keys as
    // they are, the front of the key moves into the leaf's prefix, and the root holds a key that nobody
    // set: both judges believe it. The record stays, which is all that a grant is.
    let forged = StateKey::by_resource("doc:1", "owner", "user:eve");
    let front = StateKey::entity("note");
    let mut tail = vec![u8::try_from(forged.as_bytes().len()).unwrap()];
    tail.extend(forged.as_bytes());
    let long = [front.as_bytes(), &tail].concat();
    let value = record(1).encode();
    let mut prefix = vec![0, u8::try_from(long.len()).unwrap()];
    prefix.extend(front.as_bytes());
    let forge = |honest: &[u8], prehash_key| {
        changed(honest, |proof| {
            leaf(proof).prefix = prefix.clone();
            leaf(proof).prehash_key = prehash_key;
            proof.key = forged.as_bytes().to_vec();
        })
    };
    let honest = Existence { key: long.clone(), value, path: Vec::new() };
    let case = |name: &str, root, key: &[u8], proof, is_true| {
        let (name, key, value) = (name.to_owned(), key.to_vec(), Some(value.to_vec()));
        Case { name, root, key, value, proof, is_true }
    };

    let mut plain_leaf = vec![u8::try_from(long.len()).unwrap()];
    plain_leaf.extend(&long);
    plain_leaf.push(0x20);
    plain_leaf.extend(hash::plain(&value).0);
    let plain_root = hash::leaf(&plain_leaf);
    let plain_honest = changed(&honest.encode(), |proof| leaf(proof).prehash_key = 0);
    let plain_forged = forge(&honest.encode(), 0);
    judge_under(
        "tail_of_plain_keys",
        &spec_with_plain_keys(),
        &[
            case("the key itself", plain_root, &long, plain_honest, true),
            case("its tail", plain_root, forged.as_bytes(), plain_forged, true),
        ],
    );

    let root = hash::state_leaf(&long, &hash::plain(&value));
    judge(
        "tail",
        &[
            case("the key itself", root, &long, honest.encode(), true),
            case("its tail", root, forged.as_bytes(), forge(&honest.encode(), 1), false),
            case(
                "its tail, not hashed",
                root,
                forged.as_bytes(),
                forge(&honest.encode(), 0),
                false,
            ),
        ],
    );
}

#[test]
fn two_records_under_one_root_are_believed_by_ics23_and_refused_by_ours() {
    // A root made for it, with a leaf of the same key on both sides. This is why the export is for
    // others and not what a client of the ledger checks.
    let key = StateKey::entity("grant");
    let records = [record(1), record(2)].map(|record| record.encode());
    let leaves = records.map(|record| hash::state_leaf(key.as_bytes(), &hash::plain(&record)));
    let bit = 12;
    let root = hash::branch(bit, &leaves[0], &leaves[1]);
    let branch = |side: usize| {
        let bytes = [&[2, 0, 12], &leaves[1 - side].0[..]].concat();
        let (prefix, suffix) = match side {
            0 => (bytes[..3].to_vec(), bytes[3..].to_vec()),
            _ => (bytes, Vec::new()),
        };
        ledger_proof::ics23::Step { prefix, suffix }
    };
    let case = |side: usize| {
        let existence = Existence {
            key: key.as_bytes().to_vec(),
            value: records[side],
            path: vec![branch(side)],
        };
        let value = Some(records[side].to_vec());
        let (name, key) = (format!("record {side}"), key.as_bytes().to_vec());
        Case { name, root, key, value, proof: existence.encode(), is_true: true }
    };
    judge("equivocation", &[case(0), case(1)]);
    let ours = |side: usize| {
        let path = vec![(bit, leaves[1 - side])];
        let proof = KeyProof { path, leaf_key: key.as_bytes().to_vec(), record: records[side] };
        proof.verify(&root, key.as_bytes()).is_ok()
    };
    assert_eq!([ours(0), ours(1)].iter().filter(|held| **held).count(), 1);
    assert!(ours(bits::side(key.as_bytes(), bit)));
}

#[test]
fn every_changed_byte_of_a_key_record_or_step_is_refused() {
    let mut state = forty();
    let key = state.keys()[9].clone();
    let absent = [&key[..], &[0]].concat();
    let (existence, absence) = (state.existence(&key), state.absence(&absent));
    let mut cases = vec![state.presence_case(&key), state.absence_case(&absent, absence, true)];
    let claim = |name: &str, value: Option<[u8; 93]>, proof| {
        let key = if value.is_some() { &key } else { &absent };
        let (name, key, value) = (name.to_owned(), key.clone(), value.map(Vec::from));
        Case { name, root: cases[0].root, key, value, proof, is_true: false }
    };
    let mut forged = Vec::new();
    for (place, changed) in changed_bytes(&existence).into_iter().enumerate() {
        let name = format!("change {place}");
        forged.push(claim(&name, Some(existence.value), changed.encode()));
    }
    let absence = state.absence(&absent);
    let [left, right] = [&absence.left, &absence.right].map(|side| side.as_ref().unwrap());
    for (place, changed) in changed_bytes(left).into_iter().enumerate() {
        let absence = NonExistence { left: Some(changed), ..absence.clone() };
        forged.push(claim(&format!("change {place} on the left"), None, absence.encode()));
    }
    for (place, changed) in changed_bytes(right).into_iter().enumerate() {
        let absence = NonExistence { right: Some(changed), ..absence.clone() };
        forged.push(claim(&format!("change {place} on the right"), None, absence.encode()));
    }
    assert!(forged.len() > 1000);
    cases.extend(forged);
    judge("changed_bytes", &cases);
}

/// The proof with one bit changed, once for each byte of its parts.
fn changed_bytes(honest: &Existence) -> Vec<Existence> {
    let mut all = Vec::new();
    let mut flip = |bytes: fn(&mut Existence, usize) -> &mut [u8], part: usize| {
        for offset in 0..bytes(&mut honest.clone(), part).len() {
            let mut changed = honest.clone();
            bytes(&mut changed, part)[offset] ^= 1 << (offset % 8);
            all.push(changed);
        }
    };
    flip(|proof, _| &mut proof.key, 0);
    flip(|proof, _| &mut proof.value, 0);
    for step in 0..honest.path.len() {
        flip(|proof, step| &mut proof.path[step].prefix, step);
        flip(|proof, step| &mut proof.path[step].suffix, step);
    }
    all
}
