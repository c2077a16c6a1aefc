//! The verifier where there is no operating system: a WebAssembly module that judges golden vectors.
//!
//! Owns nothing but the judging of key proofs and verified reads, signatures included, by the
//! vectors in `proof/vectors/`. Must never import anything: `check.mjs` refuses a module that does,
//! so a clock, a random number or a file in the verifier is found here.

use std::process::ExitCode;

use ledger_proof::{
    KeyProof, KnownCheckpoint, Origin, Presence, ReadAt, ReadRequest, TimeRule, Trust, TrustBundle,
    VerifiedRead, VerifiedValue, Voter, VoterSet,
};
use ledger_types::{Digest, StateKey};
use serde_json::{Value, json};

/// Fewest vectors in a file. One that lost them would pass otherwise.
const VECTORS_MIN: usize = 15;

/// Succeeds if every vector is judged as it expects. A malformed vector ends the program.
fn main() -> ExitCode {
    let agrees = agrees_on(include_str!("../../vectors/key_proof.json"), judge_key_proof)
        && agrees_on(include_str!("../../vectors/verified_read.json"), judge_read);
    if agrees { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn agrees_on(file: &str, judge: fn(&Value) -> Value) -> bool {
    let vectors: Vec<Value> = serde_json::from_str(file).expect("vectors are JSON");
    vectors.len() >= VECTORS_MIN && vectors.iter().all(|vector| judge(vector) == vector["expect"])
}

fn judge_key_proof(vector: &Value) -> Value {
    let Ok(proof) = KeyProof::decode(&bytes(vector, "proof")) else { return json!("refused") };
    let root = Digest::from_slice(&bytes(vector, "state_root")).expect("a root has 32 bytes");
    match proof.verify(&root, &bytes(vector, "key")) {
        Ok(Presence::Present(_)) => json!("present"),
        Ok(Presence::Absent) => json!("absent"),
        Err(_) => json!("refused"),
    }
}

fn judge_read(vector: &Value) -> Value {
    let Ok(read) = VerifiedRead::decode(&bytes(vector, "answer")) else { return json!("refused") };
    let origin = Origin::parse(text(vector, "origin")).expect("an origin");
    let bundle = TrustBundle::decode(&bytes(vector, "bundle")).expect("a bundle");
    let voters: Vec<VoterSet> = items(vector, "voter_sets").iter().map(voter_set).collect();
    let times = TimeRule::Now(vector["now"].as_u64().expect("a time"));
    let trust = Trust { bundle: &bundle, voters: &voters, times, memory: None };
    let keys = items(vector, "keys").iter().map(|key| StateKey::from_bytes(&unhex(key)));
    let Some(keys) = keys.collect::<Option<Vec<StateKey>>>() else { return json!("refused") };
    let at = match vector["at"]["height"].as_u64() {
        Some(height) => ReadAt::Height(height),
        None => {
            let min_height = vector["at"]["latest"]["min_height"].as_u64().expect("a height");
            ReadAt::Latest { min_height }
        }
    };
    let known = (!vector["known"].is_null())
        .then(|| KnownCheckpoint::decode(&bytes(vector, "known")).expect("a checkpoint"));
    let request = ReadRequest { origin: &origin, at, keys: &keys };
    let say = |value: &VerifiedValue| match value {
        VerifiedValue::Present { value, .. } => json!({"present": hex::encode(value)}),
        VerifiedValue::Expired { .. } => json!("expired"),
        VerifiedValue::Absent => json!("absent"),
    };
    match read.verify(&request, &trust, known.as_ref()) {
        Ok(answer) => answer.values.iter().map(say).collect(),
        Err(_) => json!("refused"),
    }
}

fn voter_set(set: &Value) -> VoterSet {
    let voter = |voter: &Value| Voter {
        name: text(voter, "name").to_owned(),
        public_key: bytes(voter, "public_key").try_into().expect("a key has 32 bytes"),
    };
    VoterSet { voters: set.as_array().expect("a list").iter().map(voter).collect() }
}

fn items<'a>(vector: &'a Value, field: &str) -> &'a [Value] {
    vector[field].as_array().expect("a list")
}

fn text<'a>(vector: &'a Value, field: &str) -> &'a str {
    vector[field].as_str().expect("a text")
}

fn bytes(vector: &Value, field: &str) -> Vec<u8> {
    unhex(&vector[field])
}

fn unhex(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("a text")).expect("hexadecimal digits")
}
