//! The second implementation of the format, `proof/python/`: it judges the golden vectors, notices a
//! changed one, and passes its own tests.
//!
//! Owns the processes that it runs. Where there is no `python3` with the package for Ed25519 the tests
//! are skipped, with the reason printed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "programs are run and vectors copied here")]

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// What the verifier needs beside the standard library.
const NEEDED: &str =
    "from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey";

/// A Python that can run the verifier: the one that `proof/oracles/install.sh` made below the target directory, or
/// the system's. `None`, with the reason on the terminal, if neither can.
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

fn crate_directory() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(python: &Path, arguments: &[&OsStr]) -> Output {
    let mut command = Command::new(python);
    command.arg("-B").args(arguments).current_dir(crate_directory().join("python"));
    command.output().unwrap()
}

fn judge(python: &Path, vectors: &Path) -> Output {
    run(python, &["verify_vectors.py".as_ref(), vectors.as_os_str()])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn vectors() -> Vec<(String, Vec<Value>)> {
    let files = std::fs::read_dir(crate_directory().join("vectors")).unwrap();
    files
        .map(|file| {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
        })
        .collect()
}

#[test]
fn all_golden_vectors_agree() {
    let Some(python) = python() else { return };
    let output = judge(&python, &crate_directory().join("vectors"));
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    let mut total = 0;
    for (name, vectors) in vectors() {
        let refused = vectors.iter().filter(|vector| vector["expect"] == json!("refused")).count();
        let answered = vectors.len() - refused;
        let line = format!("{name}: {answered} answered, {refused} refused, all agree\n");
        assert!(said.contains(&line), "{line}is not in\n{said}");
        total += vectors.len();
    }
    assert!(said.contains(&format!("\n{total} vectors in ")), "{said}");
}

#[test]
fn one_flipped_answer_is_noticed() {
    let Some(python) = python() else { return };
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("flipped-vectors");
    let _ = std::fs::remove_dir_all(&copy);
    std::fs::create_dir_all(&copy).unwrap();
    for (name, vectors) in vectors() {
        std::fs::write(copy.join(name), serde_json::to_string(&vectors).unwrap()).unwrap();
    }
    let untouched = judge(&python, &copy);
    assert!(untouched.status.success(), "{}", text(&untouched.stderr));
    let path = copy.join("key_proof.json");
    let mut proofs: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let present = proofs.iter_mut().find(|vector| vector["expect"] == json!("present")).unwrap();
    present["expect"] = json!("absent");
    std::fs::write(&path, serde_json::to_string(&proofs).unwrap()).unwrap();
    let output = judge(&python, &copy);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(text(&output.stderr).starts_with("mismatch: key_proof.json: "));
}

#[test]
fn its_own_tests_pass() {
    let Some(python) = python() else { return };
    let arguments = ["-m", "unittest", "discover", "-s", "tests", "-t", "."];
    let output = run(&python, &arguments.map(OsStr::new));
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    let ran = said.lines().find_map(|line| line.strip_prefix("Ran ")).unwrap_or_default();
    let count: usize = ran.split(' ').next().unwrap_or_default().parse().unwrap_or_default();
    assert!(count > 0, "no test was found: {said}");
}
