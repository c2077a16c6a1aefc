//! Checking a vault's own rows against each other: everything that can be computed again, is.
//!
//! Owns what is compared and what a difference is called. Pure over one consistent view of the rows; must never
//! change a row, nor take one row's word for what another one commits to.

mod bodies;
mod chain;
mod state;
mod state_root;

use ledger_proof::ReadFault;
use ledger_types::VaultRef;
use thiserror::Error;

use crate::query::{QueryError, vault_row};
use crate::rows::VaultRow;
use crate::view::StateView;

pub use state_root::StateRoot;

/// Most issues told; a check ends when there are so many.
pub const ISSUES_MAX: usize = 100;
/// Most keys of a vault whose blocks are replayed: the replay holds all of them in memory.
pub const REPLAY_KEYS_MAX: u64 = 1_000_000;
/// Of a check that is not full, so many of the newest blocks are compared with their transactions.
pub const BODIES_QUICK: u64 = 1_000;
/// Rows between two looks whether to go on.
const ROWS_PER_LOOK: usize = 64;

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum IssueKind {
    /// A row cannot be read or is no row of its kind.
    Unreadable,
    /// A block's header is missing, is another block's, or does not follow the one before.
    Chain,
    /// The vault's row names another tip, log or state than the blocks.
    VaultRow,
    /// A node of the block log is not that of its headers.
    BlockLog,
    /// A block's transactions are missing or are not those that its header commits to.
    Body,
    /// A stored key has another value than its record commits to, or is of no block yet.
    Record,
    /// The stored keys do not have the root that the tip commits to.
    StateRoot,
    /// The blocks, carried out again, come to something else than their headers say.
    Replay,
}

impl IssueKind {
    /// A short name that does not change.
    pub fn name(self) -> &'static str {
        match self {
            IssueKind::Unreadable => "unreadable",
            IssueKind::Chain => "chain",
            IssueKind::VaultRow => "vault_row",
            IssueKind::BlockLog => "block_log",
            IssueKind::Body => "body",
            IssueKind::Record => "record",
            IssueKind::StateRoot => "state_root",
            IssueKind::Replay => "replay",
        }
    }
}

/// One finding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Issue {
    /// The block, or the tip for what is of no single one.
    pub height: u64,
    /// The kind.
    pub kind: IssueKind,
    /// For people.
    pub detail: String,
}

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The vault's row as it was checked.
    pub row: VaultRow,
    /// What is wrong, at most [`ISSUES_MAX`] findings.
    pub issues: Vec<Issue>,
}

/// Why there is no report.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CheckError {
    /// The vault's row cannot be had.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// It was told to stop.
    #[error("the check was stopped")]
    Stopped,
    /// A replay would take too much memory.
    #[error("the vault has {keys} keys; blocks are replayed up to {max}")]
    TooManyKeys {
        /// Keys of the vault.
        keys: u64,
        /// The most.
        max: u64,
    },
}

/// Checks a vault: headers from the first to the last, the block log, transactions of the newest blocks, all keys
/// and their root. With `is_full` the transactions of all blocks, and the blocks are carried out again. `go_on` is
/// asked every few rows; once it says false the check ends without a report.
pub fn check(
    view: &dyn StateView,
    vault: VaultRef,
    is_full: bool,
    go_on: &dyn Fn() -> bool,
) -> Result<Report, CheckError> {
    let row = vault_row(view, vault)?;
    if is_full && row.state_keys > REPLAY_KEYS_MAX {
        return Err(CheckError::TooManyKeys { keys: row.state_keys, max: REPLAY_KEYS_MAX });
    }
    let mut check = Check { view, vault, row: &row, go_on, rows: 0, issues: Vec::new() };
    let outcome = check.chain().and_then(|()| check.bodies(is_full)).and_then(|()| check.state());
    let issues = match outcome {
        Ok(()) | Err(Halt::Enough) => check.issues,
        Err(Halt::Stopped) => return Err(CheckError::Stopped),
    };
    Ok(Report { row, issues })
}

/// Why a check ends before its end.
enum Halt {
    /// It was told to.
    Stopped,
    /// As many issues were found as are told.
    Enough,
}

/// One check under way.
struct Check<'a> {
    view: &'a dyn StateView,
    vault: VaultRef,
    row: &'a VaultRow,
    go_on: &'a dyn Fn() -> bool,
    /// Rows since the last look whether to go on.
    rows: usize,
    issues: Vec<Issue>,
}

impl Check<'_> {
    /// Counts a row that is about to be looked at.
    fn step(&mut self) -> Result<(), Halt> {
        self.rows += 1;
        if self.rows < ROWS_PER_LOOK {
            return Ok(());
        }
        self.rows = 0;
        if (self.go_on)() { Ok(()) } else { Err(Halt::Stopped) }
    }

    fn issue(
        &mut self,
        height: u64,
        kind: IssueKind,
        detail: impl Into<String>,
    ) -> Result<(), Halt> {
        self.issues.push(Issue { height, kind, detail: detail.into() });
        if self.issues.len() < ISSUES_MAX { Ok(()) } else { Err(Halt::Enough) }
    }

    fn fault(&mut self, height: u64, fault: &ReadFault) -> Result<(), Halt> {
        self.issue(height, IssueKind::Unreadable, fault.to_string())
    }
}

#[cfg(test)]
mod tests;
