//! The small file beside a transfer that says where it stands.
//!
//! It is a hint and a guard: how much of an import is durable is asked of the cluster. Must be whole or absent,
//! whenever the process ends.

use std::io::Write as _;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::Failure;

/// Reads it; `None` if there is none. Errors: it cannot be read or is not what this tool wrote.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Failure> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::file(path, &error)),
    };
    let read = serde_json::from_slice(&bytes);
    read.map(Some).map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}

/// Writes it anew.
pub(crate) fn save<T: Serialize>(path: &Path, progress: &T) -> Result<(), Failure> {
    let written = || -> std::io::Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
        serde_json::to_writer_pretty(&mut file, progress)?;
        file.write_all(b"\n")?;
        file.as_file().sync_data()?;
        file.persist(path)?;
        Ok(())
    };
    written().map_err(|error| Failure::file(path, &error))
}

/// Removes it: the transfer is done.
pub(crate) fn remove(path: &Path) -> Result<(), Failure> {
    std::fs::remove_file(path).map_err(|error| Failure::file(path, &error))
}
