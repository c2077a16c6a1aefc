//! What a snapshot file of a vault is told to be: its manifest, which lies beside it.
//!
//! Owns the manifest's form and the comparison with the file. A manifest is no proof: whoever can write the file can
//! write it too. It finds what was cut off, damaged or mixed up on the way.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// The form that is written and the only one that is read.
const FORM: u32 = 1;
/// What the name of a manifest has behind the name of its file.
const SUFFIX: &str = ".manifest";
/// Largest file that is taken for a manifest, in bytes.
const MANIFEST_BYTES_MAX: u64 = 64 * 1024;
/// Bytes read at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// What a snapshot file holds. The file's lines are those of [`crate::item_lines`]: entities in key order without
/// those that had expired at the time of the block, then relationships by resource.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SnapshotManifest {
    /// Version of this form.
    pub form: u32,
    /// The cluster, by the domain in its signed notes.
    pub cluster: String,
    /// The vault, `namespace/vault`.
    pub vault: String,
    /// The height at which the vault was read.
    pub height: u64,
    /// Hash of the block of that height, as hexadecimal digits.
    pub block_hash: String,
    /// Root of the state after that block, as hexadecimal digits.
    pub state_root: String,
    /// Time of that block, Unix nanoseconds.
    pub block_time_ns: u64,
    /// Lines that are entities.
    pub entities: u64,
    /// Lines that are relationships.
    pub relationships: u64,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// SHA-256 of the file, as hexadecimal digits.
    pub sha256: String,
    /// Name of the node that wrote it.
    pub node: String,
}

/// Why a file is not what its manifest says.
#[derive(Debug, Error)]
pub enum SnapshotFault {
    /// The file or its manifest cannot be read.
    #[error(transparent)]
    File(#[from] io::Error),
    /// The manifest is none, or of a form that this build does not know.
    #[error("the manifest cannot be understood: {0}")]
    Manifest(String),
    /// The file has another length.
    #[error("the file has {found} bytes, its manifest says {told}")]
    Length {
        /// Bytes of the file.
        found: u64,
        /// Bytes that the manifest tells.
        told: u64,
    },
    /// The file has other bytes.
    #[error("the file has another SHA-256 than its manifest says")]
    Digest,
}

impl SnapshotManifest {
    /// The manifest of a file that holds this. Everything else is empty and to be filled in.
    pub fn of(measured: Measure) -> SnapshotManifest {
        SnapshotManifest {
            form: FORM,
            cluster: String::new(),
            vault: String::new(),
            height: 0,
            block_hash: String::new(),
            state_root: String::new(),
            block_time_ns: 0,
            entities: 0,
            relationships: 0,
            bytes: measured.bytes,
            sha256: hex::encode(measured.hasher.finalize()),
            node: String::new(),
        }
    }

    /// Where the manifest of a file lies: beside it, with `.manifest` behind its name.
    pub fn path(file: &Path) -> PathBuf {
        let mut name = file.as_os_str().to_owned();
        name.push(SUFFIX);
        PathBuf::from(name)
    }

    /// The manifest as it is kept: a JSON object.
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string_pretty(self).expect("strings and numbers are JSON");
        format!("{json}\n")
    }

    /// Reads the manifest that lies beside a file; `None` if there is none. Errors: it cannot be read or understood.
    pub fn beside(file: &Path) -> Result<Option<SnapshotManifest>, SnapshotFault> {
        let open = match File::open(SnapshotManifest::path(file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut text = String::new();
        open.take(MANIFEST_BYTES_MAX).read_to_string(&mut text)?;
        let read: Result<SnapshotManifest, _> = serde_json::from_str(&text);
        let manifest = read.map_err(|error| SnapshotFault::Manifest(error.to_string()))?;
        match manifest.form {
            FORM => Ok(Some(manifest)),
            form => Err(SnapshotFault::Manifest(format!("form {form}"))),
        }
    }

    /// Reads the whole file and compares it with the manifest. Errors: it is another one, or cannot be read.
    pub fn check(&self, file: &Path) -> Result<(), SnapshotFault> {
        let mut file = File::open(file)?;
        let (found, told) = (file.metadata()?.len(), self.bytes);
        if found != told {
            return Err(SnapshotFault::Length { found, told });
        }
        let (mut hasher, mut buffer) = (Sha256::new(), vec![0; BUFFER_BYTES]);
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
        if hex::encode(hasher.finalize()) == self.sha256 {
            Ok(())
        } else {
            Err(SnapshotFault::Digest)
        }
    }
}

/// Length and SHA-256 of what was written.
#[derive(Clone, Debug, Default)]
pub struct Measure {
    bytes: u64,
    hasher: Sha256,
}

impl Measure {
    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A writer that measures what goes through it.
#[derive(Debug)]
pub struct Measured<W> {
    out: W,
    measure: Measure,
}

impl<W> Measured<W> {
    /// Measures what goes to `out` from now on.
    pub fn new(out: W) -> Measured<W> {
        Measured { out, measure: Measure::default() }
    }

    /// Where it goes.
    pub fn get_ref(&self) -> &W {
        &self.out
    }

    /// What went through so far.
    pub fn measure(&self) -> &Measure {
        &self.measure
    }
}

impl<W: Write> Write for Measured<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.measure.bytes += written as u64;
        self.measure.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(folder: &Path, bytes: &[u8]) -> PathBuf {
        let path = folder.join("items.jsonl");
        let mut out = Measured::new(File::create(&path).unwrap());
        out.write_all(bytes).unwrap();
        assert_eq!(out.measure().bytes(), bytes.len() as u64);
        let manifest = SnapshotManifest::of(out.measure().clone());
        std::fs::write(SnapshotManifest::path(&path), manifest.to_json()).unwrap();
        path
    }

    #[test]
    fn a_file_is_what_its_manifest_says_or_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path(), b"{\"key\":\"a\",\"value\":\"b\"}\n");
        let manifest = SnapshotManifest::beside(&path).unwrap().unwrap();
        manifest.check(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(matches!(manifest.check(&path), Err(SnapshotFault::Length { .. })));
        let mut other = whole;
        other[2] ^= 1;
        std::fs::write(&path, other).unwrap();
        assert!(matches!(manifest.check(&path), Err(SnapshotFault::Digest)));
    }

    #[test]
    fn a_manifest_of_another_form_is_not_understood() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("items.jsonl");
        assert_eq!(SnapshotManifest::beside(&path).unwrap(), None);
        let path = written(folder.path(), b"");
        let beside = SnapshotManifest::path(&path);
        let text = std::fs::read_to_string(&beside).unwrap();
        std::fs::write(&beside, text.replace("\"form\": 1", "\"form\": 2")).unwrap();
        assert!(matches!(SnapshotManifest::beside(&path), Err(SnapshotFault::Manifest(_))));
        std::fs::write(&beside, "{").unwrap();
        assert!(matches!(SnapshotManifest::beside(&path), Err(SnapshotFault::Manifest(_))));
    }
}
