//! Files of items: how they are written, read in chunks, and where an unfinished transfer stands.

pub(crate) mod chunks;
pub(crate) mod items;
pub(crate) mod progress;

use std::path::{Path, PathBuf};

use crate::args::bulk::FileFormat;
use crate::failure::Failure;

/// The format of a file, as told or by its name. Errors: neither tells.
pub(crate) fn format_of(told: Option<FileFormat>, path: &Path) -> Result<FileFormat, Failure> {
    let by_name = || match path.extension()?.to_str()? {
        "csv" => Some(FileFormat::Csv),
        "jsonl" | "ndjson" | "json" => Some(FileFormat::Jsonl),
        _ => None,
    };
    told.or_else(by_name)
        .ok_or_else(|| Failure::failed("give --format: the file's name does not tell"))
}

/// The file's name with something behind it.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
