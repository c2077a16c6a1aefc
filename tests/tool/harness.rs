//! The tool with a directory of its own, and a node that it asks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;

use ledger_client::write_bundle;
use ledger_proof::TrustBundle;
use tempfile::TempDir;

use crate::support::chain::remembered;
use crate::support::{Node, start};

/// A node and somebody who asks it from the command line.
pub(crate) struct Scene {
    pub(crate) node: Arc<Node>,
    pub(crate) folder: TempDir,
    address: String,
}

/// What a run of the tool came to.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) exit_code: Option<i32>,
    pub(crate) answer: String,
    pub(crate) complaint: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said {
            exit_code: output.status.code(),
            answer: text(&output.stdout),
            complaint: text(&output.stderr),
        }
    }
}

impl Scene {
    /// A node that knows no answer yet, and a tool that believes this bundle.
    pub(crate) async fn new(trust: &TrustBundle) -> Scene {
        let (node, address) = start().await;
        let scene = Scene { node, folder: tempfile::tempdir().unwrap(), address };
        write_bundle(&scene.folder.path().join("cluster.trust"), trust).unwrap();
        scene
    }

    /// Where the tool remembers.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The command of a line, not run yet.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ledger-cli"));
        command
            .args(line.split_whitespace())
            .current_dir(self.folder.path())
            .env_clear()
            .env("LEDGER_ENDPOINTS", &self.address)
            .env("LEDGER_STATE_DIR", self.state())
            .env("LEDGER_TRUST", self.folder.path().join("cluster.trust"))
            .env("LEDGER_NAMESPACE", "7")
            .env("LEDGER_VAULT", "9");
        command
    }

    /// Runs a line to its end. The test's runtime has other threads, on which the node answers.
    pub(crate) fn run(&self, line: &str) -> Said {
        self.command(line).output().unwrap().into()
    }

    /// The answer of a line that must work.
    pub(crate) fn says(&self, line: &str) -> String {
        let said = self.run(line);
        assert_eq!(said.exit_code, Some(0), "{line}: {said:?}");
        said.answer
    }

    /// The files of the checkpoints that the tool remembers.
    pub(crate) fn remembered(&self) -> BTreeMap<String, Vec<u8>> {
        remembered(&self.state())
    }
}
