//! Runs the verifiers in other languages that `proof/oracles/install.sh` put below the target
//! directory. Where one is missing, the reason is printed and the test goes on without it.

#![allow(clippy::unwrap_used, reason = "a judge that answers nonsense fails its test")]
#![allow(clippy::disallowed_methods, reason = "judges are processes that read files")]
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(unreachable_pub, reason = "shared by test files as a module")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use serde_json::Value;

/// Where the scripts are.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/oracles");

/// Lets npm's `@confio/ics23` judge `input`; `None` if it is not installed.
pub fn node(test: &str, input: &Value) -> Option<Value> {
    let directory = installed(test, "node")?;
    let mut command = Command::new("node");
    command.arg(format!("{SCRIPTS}/check_state.cjs"));
    command.env("NODE_PATH", directory.join("node_modules"));
    Some(ask(command, test, input))
}

/// Lets the Python libraries judge `input`; `None` if none is installed.
pub fn python(test: &str, input: &Value) -> Option<Value> {
    let directory = installed(test, "python")?;
    let interpreter = std::fs::read_to_string(directory.join("interpreter")).unwrap();
    let mut command = Command::new(interpreter.trim());
    command.arg("-B").arg(format!("{SCRIPTS}/check_logs.py"));
    command.env("PYTHONPATH", directory.join("packages"));
    Some(ask(command, test, input))
}

/// The directory of what is installed for a language.
fn installed(test: &str, language: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let directory = target.join("oracles").join(language);
    if directory.join("done").exists() {
        return Some(directory);
    }
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        let what =
            "is left out: proof/oracles/install.sh has not installed it below the target directory";
        say(&format!("{test}: what judges with {language} {what}"));
    });
    None
}

/// Prints past the test harness, which hides what tests that pass print.
pub fn say(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Runs a judge with `input` as a file and reads its answer. Errors end the test.
fn ask(mut command: Command, test: &str, input: &Value) -> Value {
    let name = format!("oracle-{}-{}.json", test.replace(' ', "-"), std::process::id());
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&file, input.to_string()).unwrap();
    let output = command.arg(&file).output().expect("the interpreter was there when it installed");
    std::fs::remove_file(&file).unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{test}: {}\n{complaints}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}
