//! Arguments of `import` and `export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::VaultChoice;

/// Most items that a chunk may have.
const CHUNK_ITEMS_MAX: i64 = 10_000;

/// How items are written in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum FileFormat {
    /// One JSON object a line: {"key", "value" or "value_hex", "expires_at"} or {"resource", "relation", "subject"}.
    Jsonl,
    /// Relationships: resource,relation,subject with quotes where needed; a first line with these names is left out.
    Csv,
}

/// What an export leaves out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Only {
    /// Relationships.
    Entities,
    /// Entities.
    Relationships,
}

#[derive(Args, Debug)]
pub(crate) struct ImportOptions {
    #[command(flatten)]
    pub(crate) vault: VaultChoice,
    /// The file. Beside it FILE.ledger-import says what is under way, so that the same command goes on after a stop. If
    /// there is FILE.manifest, as beside a snapshot of a vault, the file must be what that says.
    pub(crate) file: PathBuf,
    /// How it is written [default: by its extension, .csv or .jsonl].
    #[arg(long, value_enum)]
    pub(crate) format: Option<FileFormat>,
    /// Only check the file; needs no cluster.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Import the good lines and write the others to FILE.bad; without it a file with bad lines is not imported.
    #[arg(long)]
    pub(crate) skip_bad: bool,
    /// Items in a transaction.
    #[arg(
        long,
        default_value_t = 1_000,
        value_parser = clap::value_parser!(u32).range(1..=CHUNK_ITEMS_MAX)
    )]
    pub(crate) chunk_items: u32,
    /// Name of the import, under which the cluster counts its transactions [default: drawn at random]. With the name
    /// and the chunk size of an earlier run, another machine can go on with it.
    #[arg(long)]
    pub(crate) name: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ExportOptions {
    #[command(flatten)]
    pub(crate) vault: VaultChoice,
    /// The file, or - for standard output. While it grows it is FILE.part, and FILE.ledger-export says where it
    /// stands, so that the same command goes on after a stop.
    pub(crate) file: PathBuf,
    /// How it is written [default: by its extension, .csv or .jsonl; jsonl on standard output]. CSV holds
    /// relationships only.
    #[arg(long, value_enum)]
    pub(crate) format: Option<FileFormat>,
    /// Exactly this height instead of the newest.
    #[arg(long)]
    pub(crate) at_height: Option<u64>,
    /// Leave the other kind of items out.
    #[arg(long, value_enum)]
    pub(crate) only: Option<Only>,
}
