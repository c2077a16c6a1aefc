//! Checks on the repository itself: dependency arrows, source habits, documents, the lockfile and
//! the deployment manifests; and the pages that are made from sources.
//!
//! Every check is a pure function from text to findings, so that its tests can hand it a broken
//! input and see it fire. Only `tidy` and the loaders it calls touch the disk. Nothing here may be
//! linked into the product.

pub mod api_doc;
pub mod api_reference;
pub mod chaos;
pub mod code;
pub mod deploy;
pub mod documents;
pub mod lockfile;
pub mod settings;
pub mod settings_doc;
pub mod sources;
pub mod tidy;
pub mod workspace;

use std::fmt;
use std::path::PathBuf;

/// One violated rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// File or package the rule was broken in; a line number may follow after a colon.
    pub place: String,
    /// What is wrong and what to do instead.
    pub message: String,
}

impl Finding {
    fn new(place: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding { place: place.into(), message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.place, self.message)
    }
}

/// A text file of the repository.
#[derive(Debug, Clone)]
pub struct TextFile {
    /// Path from the repository root, with forward slashes.
    pub path: String,
    /// The whole content.
    pub text: String,
}

/// Why a check could not be made at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// What was being read.
        path: PathBuf,
        /// The reason the system gave.
        source: std::io::Error,
    },
    /// A program could not be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// The program.
        program: String,
        /// The reason the system gave.
        source: std::io::Error,
    },
    /// `cargo metadata` failed.
    #[error("cargo metadata: {0}")]
    Metadata(#[from] cargo_metadata::Error),
    /// The files of the wire protocol do not compile.
    #[error("proto: {0}")]
    Protocol(String),
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The reason the system gave.
        source: std::io::Error,
    },
    /// The list of settings could not be obtained from the node.
    #[error("settings of the node: {0}")]
    Settings(String),
}
