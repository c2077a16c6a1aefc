//! Clients in Python against real nodes: one that only knows what reflection tells it, and one with stubs that are
//! generated from the protocol files here.
//!
//! Owns the processes that it runs. Where `tests/python/install.sh` could not install gRPC for Python they are left out,
//! with the reason printed.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::harness::Cluster;

/// A Python and where its packages lie.
struct Python {
    interpreter: PathBuf,
    packages: PathBuf,
}

impl Python {
    /// `None`, with the reason on the terminal, if gRPC for Python is not there.
    fn find() -> Option<Python> {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let directory = target.join("clients/python");
        let interpreter = std::fs::read_to_string(directory.join("interpreter"));
        if !directory.join("done").exists() {
            let said = format!(
                "python clients: left out, tests/python/install.sh has not installed gRPC in {}\n",
                directory.display()
            );
            // Not by a macro: the harness would keep what it prints to itself.
            std::io::stderr().write_all(said.as_bytes()).unwrap();
            return None;
        }
        let interpreter = PathBuf::from(interpreter.unwrap().trim());
        Some(Python { interpreter, packages: directory.join("packages") })
    }

    /// Runs a script of the repository and returns what it wrote, if it ended well.
    async fn run(&self, script: &str, argument: &str, stubs: &Path) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
        let paths = std::env::join_paths([stubs, &self.packages]).unwrap();
        let mut command = Command::new(&self.interpreter);
        command.arg("-B").arg(&script).arg(argument).env("PYTHONPATH", paths).stdin(Stdio::null());
        // Every call in the scripts has a deadline, so they end.
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let Output { status, stdout, stderr } = output;
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{} ended with {status}:\n{stdout}{stderr}", script.display());
        stdout.into_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_our_code_finds_its_way_on_every_node() {
    let Some(python) = Python::find() else { return };
    let cluster = Cluster::start(3).await;
    for address in cluster.addresses() {
        let said = python.run("tests/python/generic_client.py", &address, Path::new("")).await;
        assert_eq!(said, "a client without our code wrote and read\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_example_works_with_stubs_made_from_the_protocol_files() {
    let Some(python) = Python::find() else { return };
    let cluster = Cluster::start(1).await;
    let stubs = cluster.directory("stubs");
    python.run("examples/python/generate.py", stubs.to_str().unwrap(), Path::new("")).await;
    let said = python.run("examples/python/walkthrough.py", &cluster.addresses()[0], &stubs).await;
    let lines: Vec<&str> = said.lines().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(lines, ["written", "read", "refused", "listed", "watched"], "{said}");
}
