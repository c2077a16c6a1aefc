//! What tests with real processes change about a node while it runs. Compiled with the feature `failpoints` only;
//! other builds refuse these variables like any unknown setting.
//!
//! Owns the two variables: who is dialled in place of an advertised address, and the file of fail points. Must
//! never be reached from code that serves a release build.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// `advertised=dialled` pairs, separated by commas: connections to another node go to the second address.
pub const DIAL_VARIABLE: &str = "LEDGER_TEST_DIAL";
/// A file with one `name=action` in a line, as the crate `fail` spells actions. It is followed while the node runs.
pub const POINTS_VARIABLE: &str = "LEDGER_TEST_POINTS";
/// What is appended to the file's name to tell that its content holds from now on.
pub const SEEN_SUFFIX: &str = ".seen";
/// Pause between two looks at the file.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The address to dial for an advertised one.
pub(crate) fn dialled(address: &str) -> &str {
    static MAP: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    let map = MAP.get_or_init(|| {
        let text = std::env::var(DIAL_VARIABLE).unwrap_or_default();
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs.map(|(from, to)| (from.to_owned(), to.to_owned())).collect()
    });
    map.get(address).map_or(address, String::as_str)
}

/// Follows the file of fail points, if there is one, as long as the process lives. What it says already holds
/// when this returns.
pub fn follow_points() {
    let Some(file) = std::env::var_os(POINTS_VARIABLE).map(PathBuf::from) else { return };
    let mut points = Points::default();
    points.read(&file);
    let body = move || {
        loop {
            std::thread::sleep(LOOK_EVERY);
            points.read(&file);
        }
    };
    let thread = std::thread::Builder::new().name("ledger-points".to_owned()).spawn(body);
    thread.expect("a thread for the file of fail points");
}

/// The fail points that a file has set so far.
#[derive(Default)]
struct Points {
    text: Option<String>,
    set: BTreeSet<String>,
}

impl Points {
    /// Takes over what the file says, if it changed; a file that is not there sets nothing.
    fn read(&mut self, file: &Path) {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if self.text.as_ref() == Some(&text) {
            return;
        }
        let wanted: Vec<(&str, &str)> =
            text.lines().filter_map(|line| line.split_once('=')).collect();
        for (name, action) in &wanted {
            fail::cfg(*name, action).expect("a test writes legal actions");
        }
        let names: BTreeSet<String> = wanted.iter().map(|(name, _)| (*name).to_owned()).collect();
        for gone in self.set.difference(&names) {
            fail::remove(gone);
        }
        self.set = names;
        let mut seen = file.as_os_str().to_owned();
        seen.push(SEEN_SUFFIX);
        std::fs::write(seen, &text).expect("a test's directory takes files");
        self.text = Some(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_follow_their_file() {
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("points");
        let seen = folder.path().join("points.seen");
        let is_on = || fail::eval("test_hooks::one", |_| ()).is_some();
        let mut points = Points::default();
        points.read(&file);
        assert!(!is_on());
        std::fs::write(&file, "test_hooks::one=return\n").expect("written");
        points.read(&file);
        assert!(is_on());
        let told = std::fs::read_to_string(&seen).expect("told");
        assert_eq!(told, "test_hooks::one=return\n");
        std::fs::write(&file, "").expect("written");
        points.read(&file);
        assert!(!is_on());
    }

    #[test]
    fn an_address_without_a_pair_is_dialled_itself() {
        assert_eq!(dialled("127.0.0.1:1"), "127.0.0.1:1");
    }
}
