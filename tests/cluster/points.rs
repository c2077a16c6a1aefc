//! Fail points of a running server, set by the file that it follows.

use ledger::test_hooks::{POINTS_VARIABLE, SEEN_SUFFIX};
use tempfile::TempDir;

use super::harness::eventually;

/// The file of fail points of one server.
pub(crate) struct Points {
    folder: TempDir,
    variable: String,
}

impl Points {
    /// A file that is not there yet: nothing is set.
    pub(crate) fn new() -> Points {
        let folder = tempfile::tempdir().unwrap();
        let variable = folder.path().join("points").to_str().unwrap().to_owned();
        Points { folder, variable }
    }

    /// The setting with which the server follows the file.
    pub(crate) fn setting(&self) -> (&'static str, &str) {
        (POINTS_VARIABLE, &self.variable)
    }

    /// Replaces what is set, as one step, and waits until the server goes by it.
    pub(crate) async fn set(&self, text: &str) {
        let fresh = self.folder.path().join("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, &self.variable).unwrap();
        let seen = format!("{}{SEEN_SUFFIX}", self.variable);
        eventually("the server follows its fail points", async || {
            let told = std::fs::read_to_string(&seen).unwrap_or_default();
            if told == text { Ok(()) } else { Err(told) }
        })
        .await;
    }
}
