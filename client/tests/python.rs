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
    Client, SavedProof, TrustSource, VerificationError, VerifiedOptions, write_bundle,
};
use ledger_proof::{TimeRule, TrustBundle, VerifiedValue};
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

/// What is said about a file: one line for each key, or nothing if it is refused.
type Verdict = Option<Vec<String>>;

/// The verdicts of the SDK.
fn rust_verdict(bytes: &[u8], bundle: &TrustBundle) -> Verdict {
    let checked: Result<_, VerificationError> =
        SavedProof::decode(bytes).and_then(|proof| proof.verify(bundle, TimeRule::Any));
    let checked = checked.ok()?.into_values()?;
    let answers = checked.keys.iter().zip(&checked.proved.values);
    Some(answers.map(|(key, value)| format!("{} {}", hex(key.as_bytes()), shown(value))).collect())
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
            answer => verdicts.last_mut().unwrap().as_mut().unwrap().push(answer.to_owned()),
        }
    }
    assert_eq!(verdicts.len(), files.len(), "{said}");
    assert_eq!(output.status.success(), verdicts.iter().all(Option::is_some));
    verdicts
}

async fn saved(address: &str, state: &Path, vault: VaultRef, keys: &[StateKey]) -> Vec<u8> {
    let mut settings = config(&[address]);
    settings.trust = TrustSource::File(state.join("bundle"));
    let reader = Client::connect(settings).await.unwrap();
    let answer = reader.verified_get(vault, keys, VerifiedOptions::default()).await.unwrap();
    answer.saved_proof().encode()
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
    let of_vault = saved(&address, state.path(), VAULT, &keys).await;
    let directory = [StateKey::entity("vault/7/9"), StateKey::entity("vault/7/10")];
    let of_directory = saved(&address, state.path(), VaultRef::SYSTEM, &directory).await;
    let mut files = vec![of_vault.clone(), of_directory.clone()];
    for honest in [&of_vault, &of_directory] {
        files.push(honest[..honest.len() - 1].to_vec());
        files.push([&honest[..], &[0]].concat());
        for offset in (0..honest.len()).step_by(STRIDE) {
            let mut changed = honest.clone();
            changed[offset] ^= 1 << (offset % 8);
            files.push(changed);
        }
    }
    let expected: Vec<Verdict> = files.iter().map(|file| rust_verdict(file, &bundle())).collect();
    let value = format!("{} present 2 {}", hex(keys[0].as_bytes()), hex(b"saved"));
    let absent = format!("{} absent", hex(keys[1].as_bytes()));
    assert_eq!(expected[0], Some(vec![value, absent]));
    assert_eq!(expected[1].as_ref().unwrap().len(), 2);
    assert!(expected.iter().filter(|verdict| verdict.is_none()).count() > files.len() / 2);
    let said = python_verdicts(&python, state.path(), &files);
    for (number, (said, expected)) in said.iter().zip(&expected).enumerate() {
        assert_eq!(said, expected, "file {number}");
    }
    // Under a bundle of other keys nothing is believed.
    let mut stranger = bundle();
    stranger.voters[0].public_key = support::chain::node_key_of(9).public_key();
    write_bundle(&state.path().join("bundle"), &stranger).unwrap();
    assert_eq!(python_verdicts(&python, state.path(), &files[..2]), [None, None]);
}
