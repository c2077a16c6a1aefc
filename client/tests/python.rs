//! Proof files of the SDK, judged by the second implementation in `proof/python/`: what one believes the
//! other believes, what one refuses the other refuses.
//!
//! Owns the processes that it runs. Where there is no `python3` with the package for Ed25519 the test is
//! skipped, with the reason printed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use ledger_client::{
    CheckedProof, Client, ListOf, SavedProof, TrustSource, VerificationError, VerifiedOptions,
    write_bundle,
};
use ledger_proof::{
    TimeRule, TransactionChoice, TrustBundle, VerifiedItem, VerifiedValue, tx_tree,
};
use ledger_types::{StateKey, VaultRef};
use support::chain::{Cluster, bundle};
use support::{VAULT, config, start};

/// What the verifier needs beside the standard library.
const NEEDED: &str =
    "from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey";
/// How far apart the changed bytes are; no divisor of any field's length.
const STRIDE: usize = 31;

/// A Python that can run the verifier, as in the proof crate's test of the same name.
fn python() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let candidates = [target.join("python/bin/python3"), PathBuf::from("python3")];
    let mut reasons = String::new();
    for candidate in candidates {
        match Command::new(&candidate).args(["-c", NEEDED]).output() {
            Ok(output) if output.status.success() => return Some(candidate),
            Ok(output) => reasons.push_str(&String::from_utf8_lossy(&output.stderr)),
            Err(error) => reasons.push_str(&format!("{}: {error}\n", candidate.display())),
        }
    }
    // Not by a macro: the harness would keep what it prints to itself.
    let said = format!("python: the second verifier is skipped:\n{reasons}");
    std::io::stderr().write_all(said.as_bytes()).unwrap();
    None
}

/// What is said about a file, line by line, or nothing if it is refused.
type Verdict = Option<Vec<String>>;

/// The verdicts of the SDK.
fn rust_verdict(bytes: &[u8], bundle: &TrustBundle) -> Verdict {
    let checked: Result<_, VerificationError> =
        SavedProof::decode(bytes).and_then(|proof| proof.verify(bundle, TimeRule::Any));
    let lines = match checked.ok()? {
        CheckedProof::Values(values) => {
            let answers = values.keys.iter().zip(&values.proved.values);
            answers
                .map(|(key, value)| format!("{} {}", hex(key.as_bytes()), shown(value)))
                .collect()
        }
        CheckedProof::Transaction(transaction) => {
            let made = &transaction.proved.transaction;
            let (id, leaf) = (hex(&made.tx_id.0), tx_tree::tx_leaf(&made.encode()));
            vec![format!("transaction {id} {} {}", transaction.index, hex(&leaf.0))]
        }
        CheckedProof::List(list) => {
            let items = list.items.iter().map(|VerifiedItem { key, record, value }| {
                format!("{} present {} {}", hex(key), record.modified_height, hex(value))
            });
            let head = format!("list {} {}", hex(&list.prefix), list.items.len());
            std::iter::once(head).chain(items).collect()
        }
    };
    // A value without bytes leaves nothing behind the height.
    Some(lines.into_iter().map(|line: String| line.trim_end().to_owned()).collect())
}

fn shown(value: &VerifiedValue) -> String {
    match value {
        VerifiedValue::Present { record, value } => {
            format!("present {} {}", record.modified_height, hex(value))
        }
        VerifiedValue::Expired { record } => format!("expired {}", record.modified_height),
        VerifiedValue::Absent => "absent".to_owned(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The verdicts of the Python verifier on these files, in one process.
fn python_verdicts(python: &Path, state: &Path, files: &[Vec<u8>]) -> Vec<Verdict> {
    let mut command = Command::new(python);
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proof/python/verify_proof.py");
    command.arg("-B").arg(program).arg("--plain").arg("--bundle").arg(state.join("bundle"));
    for (number, file) in files.iter().enumerate() {
        let path = state.join(format!("{number}.proof"));
        std::fs::write(&path, file).unwrap();
        command.arg(path);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        matches!(output.status.code(), Some(0 | 1)),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut verdicts: Vec<Verdict> = Vec::new();
    for line in said.lines() {
        match line {
            "refused" => verdicts.push(None),
            "holds" => verdicts.push(Some(Vec::new())),
            answer => {
                verdicts.last_mut().unwrap().as_mut().unwrap().push(answer.trim_end().to_owned());
            }
        }
    }
    assert_eq!(verdicts.len(), files.len(), "{said}");
    assert_eq!(output.status.success(), verdicts.iter().all(Option::is_some));
    verdicts
}

async fn reader(address: &str, state: &Path) -> Client {
    let mut settings = config(&[address]);
    settings.trust = TrustSource::File(state.join("bundle"));
    settings.forgets_checkpoints = true;
    Client::connect(settings).await.unwrap()
}

/// Honest files of each kind about a cluster: keys of the vault, keys of the directory, a receipt by id and one by
/// index, keys at a height, a list of now and an empty one at a height.
async fn honest_files(address: &str, state: &Path, keys: &[StateKey]) -> Vec<Vec<u8>> {
    let reader = reader(address, state).await;
    let now = VerifiedOptions::default();
    let past = VerifiedOptions::at_height(1);
    let directory = [StateKey::entity("vault/7/9"), StateKey::entity("vault/7/10")];
    let by_id = reader.receipt(VAULT, 2, TransactionChoice::Index(0)).await.unwrap();
    let id = TransactionChoice::Id(by_id.proved.transaction.tx_id);
    let entities = ListOf::Entities(String::new());
    let resource = ListOf::Entities("none".to_owned());
    let proofs = [
        reader.verified_get(VAULT, keys, now).await.unwrap().saved_proof(),
        reader.verified_get(VaultRef::SYSTEM, &directory, now).await.unwrap().saved_proof(),
        reader.receipt(VAULT, 2, id).await.unwrap().saved_proof(),
        by_id.saved_proof(),
        reader.verified_get(VAULT, keys, past).await.unwrap().saved_proof(),
        reader.whole_verified_list(VAULT, entities, 10, now).await.unwrap().saved_proof,
        reader.whole_verified_list(VAULT, resource, 10, past).await.unwrap().saved_proof,
    ];
    proofs.iter().map(SavedProof::encode).collect()
}

#[tokio::test]
async fn both_implementations_say_the_same_about_proof_files() {
    let Some(python) = python() else { return };
    let state = tempfile::tempdir().unwrap();
    write_bundle(&state.path().join("bundle"), &bundle()).unwrap();
    let (node, address) = start().await;
    let cluster = Cluster::new();
    cluster.serve(&node);
    cluster.vault.lock().commit(&[(StateKey::entity("config"), b"saved".to_vec())]);
    let keys = [StateKey::entity("config"), StateKey::by_resource("doc:1", "viewer", "user:a")];
    let honest = honest_files(&address, state.path(), &keys).await;
    let mut files = honest.clone();
    for honest in &honest {
        files.push(honest[..honest.len() - 1].to_vec());
        files.push([&honest[..], &[0]].concat());
        for offset in (0..honest.len()).step_by(STRIDE) {
            let mut changed = honest.clone();
            changed[offset] ^= 1 << (offset % 8);
            files.push(changed);
        }
    }
    let expected: Vec<Verdict> = files.iter().map(|file| rust_verdict(file, &bundle())).collect();
    let present = |value: &[u8], height: u64| {
        format!("{} present {height} {}", hex(keys[0].as_bytes()), hex(value))
    };
    let absent = format!("{} absent", hex(keys[1].as_bytes()));
    assert_eq!(expected[0], Some(vec![present(b"saved", 2), absent.clone()]));
    assert_eq!(expected[1].as_ref().unwrap().len(), 2);
    assert!(expected[2].as_ref().unwrap()[0].starts_with("transaction 0200"), "{:?}", expected[2]);
    assert_eq!(expected[2], expected[3]);
    assert_eq!(expected[4], Some(vec![present(b"{}", 1), absent]));
    assert_eq!(expected[5], Some(vec!["list 01 1".to_owned(), present(b"saved", 2)]));
    assert_eq!(expected[6], Some(vec!["list 016e6f6e65 0".to_owned()]));
    assert!(expected.iter().filter(|verdict| verdict.is_none()).count() > files.len() / 2);
    let said = python_verdicts(&python, state.path(), &files);
    for (number, (said, expected)) in said.iter().zip(&expected).enumerate() {
        assert_eq!(said, expected, "file {number}");
    }
    // Under a bundle of other keys nothing is believed.
    let mut stranger = bundle();
    stranger.voters[0].public_key = support::chain::node_key_of(9).public_key();
    write_bundle(&state.path().join("bundle"), &stranger).unwrap();
    let verdicts = python_verdicts(&python, state.path(), &honest);
    assert!(verdicts.iter().all(Option::is_none), "{verdicts:?}");
}
