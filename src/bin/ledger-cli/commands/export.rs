//! `export`: everything that a vault holds at one height, into a file or to standard output.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek as _, SeekFrom, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ledger_client::{Client, ExportChunk};
use ledger_types::VaultRef;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::args::Global;
use crate::args::bulk::{ExportOptions, FileFormat, Only};
use crate::bulk::items::{WriteFault, write_entity, write_relationship};
use crate::bulk::{beside, format_of, progress};
use crate::failure::Failure;
use crate::{output, session};

/// How often progress is told and kept.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes that are written at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// Where an export stands.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Progress {
    vault: String,
    entities_wanted: bool,
    relationships_wanted: bool,
    is_csv: bool,
    /// The height, once the first chunk came.
    height: Option<u64>,
    /// Behind the chunks that are in the file.
    cursor: Option<String>,
    /// Bytes of the file that they take.
    bytes: u64,
    entities: u64,
    relationships: u64,
}

/// Exports.
pub(crate) async fn run(options: &ExportOptions, global: &Global) -> Result<(), Failure> {
    let is_output = options.file.as_os_str() == "-";
    let format = match is_output {
        true => options.format.unwrap_or(FileFormat::Jsonl),
        false => format_of(options.format, &options.file)?,
    };
    if format == FileFormat::Csv && options.only == Some(Only::Entities) {
        return Err(Failure::failed("CSV holds relationships only"));
    }
    let entities = format == FileFormat::Jsonl && options.only != Some(Only::Relationships);
    let relationships = options.only != Some(Only::Entities);
    let client = session::connect(global).await?;
    let vault = session::vault(&client, &options.vault).await?;
    let begun = Progress {
        vault: vault.to_string(),
        entities_wanted: entities,
        relationships_wanted: relationships,
        is_csv: format == FileFormat::Csv,
        height: options.at_height,
        ..Progress::default()
    };
    if is_output {
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, std::io::stdout().lock());
        let mut done = begun;
        transfer(&client, vault, format, &mut done, &mut Output::Only(&mut out)).await?;
        return out.flush().map_err(|error| Failure::system("standard output", &error));
    }
    let paths = Paths {
        whole: options.file.clone(),
        part: beside(&options.file, ".part"),
        progress: beside(&options.file, ".ledger-export"),
    };
    let mut done = paths.resumed(begun, options.at_height)?;
    let mut file = paths.open(&done)?;
    let began = Instant::now();
    transfer(&client, vault, format, &mut done, &mut Output::File(&mut file, &paths)).await?;
    paths.finish(file)?;
    show(global, &done, began.elapsed());
    Ok(())
}

/// The files of an export.
struct Paths {
    whole: PathBuf,
    part: PathBuf,
    progress: PathBuf,
}

impl Paths {
    /// Where an export that was begun before stands, or the beginning. Errors: it was another one than this, or
    /// there is a file already.
    fn resumed(&self, begun: Progress, at_height: Option<u64>) -> Result<Progress, Failure> {
        if self.whole.exists() {
            return Err(Failure::failed(format!("{} is there already", self.whole.display())));
        }
        let Some(found) = progress::load::<Progress>(&self.progress)? else { return Ok(begun) };
        let is_same = found.vault == begun.vault
            && found.entities_wanted == begun.entities_wanted
            && found.relationships_wanted == begun.relationships_wanted
            && found.is_csv == begun.is_csv
            && at_height.is_none_or(|height| found.height == Some(height));
        if is_same {
            return Ok(found);
        }
        let what = "another export is unfinished; give the same, or remove the file to begin anew";
        Err(Failure::failed(format!("{}: {what}", self.progress.display())))
    }

    /// The file that grows, cut to what is known to be whole in it.
    fn open(&self, done: &Progress) -> Result<BufWriter<File>, Failure> {
        let opened = || -> std::io::Result<File> {
            let mut file =
                OpenOptions::new().create(true).truncate(false).write(true).open(&self.part)?;
            if file.metadata()?.len() < done.bytes {
                return Err(std::io::Error::other("it is shorter than what was exported"));
            }
            file.set_len(done.bytes)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let file = opened().map_err(|error| Failure::file(&self.part, &error))?;
        Ok(BufWriter::with_capacity(BUFFER_BYTES, file))
    }

    fn finish(&self, file: BufWriter<File>) -> Result<(), Failure> {
        let finished = || -> std::io::Result<()> {
            file.into_inner()?.sync_all()?;
            std::fs::rename(&self.part, &self.whole)
        };
        finished().map_err(|error| Failure::file(&self.whole, &error))?;
        if self.progress.exists() {
            progress::remove(&self.progress)?;
        }
        Ok(())
    }
}

/// Where items go.
enum Output<'a> {
    /// To a stream that cannot be gone on with.
    Only(&'a mut dyn Write),
    /// To a file that can.
    File(&'a mut BufWriter<File>, &'a Paths),
}

impl Output<'_> {
    /// Makes what was written last, and tells where it stands.
    fn keep(&mut self, done: &mut Progress) -> Result<(), Failure> {
        let Output::File(file, paths) = self else { return Ok(()) };
        let kept = |file: &mut BufWriter<File>| -> std::io::Result<u64> {
            file.flush()?;
            file.get_ref().sync_data()?;
            file.stream_position()
        };
        done.bytes = kept(file).map_err(|error| Failure::file(&paths.part, &error))?;
        progress::save(&paths.progress, done)
    }

    fn write(&mut self, format: FileFormat, chunk: &ExportChunk) -> Result<(), Failure> {
        let written = match self {
            Output::Only(out) => write_chunk(out, format, chunk),
            Output::File(file, _) => write_chunk(file, format, chunk),
        };
        written.map_err(|fault| Failure::failed(format!("cannot write: {fault}")))
    }
}

fn write_chunk(
    mut out: impl Write,
    format: FileFormat,
    chunk: &ExportChunk,
) -> Result<(), WriteFault> {
    for entity in &chunk.entities {
        write_entity(&mut out, entity)?;
    }
    for one in &chunk.relationships {
        write_relationship(&mut out, format, one)?;
    }
    Ok(())
}

async fn transfer(
    client: &Client,
    vault: VaultRef,
    format: FileFormat,
    done: &mut Progress,
    out: &mut Output<'_>,
) -> Result<(), Failure> {
    let options = ledger_client::ExportOptions {
        at_height: done.height,
        entities: done.entities_wanted,
        relationships: done.relationships_wanted,
        cursor: done.cursor.clone(),
        ..ledger_client::ExportOptions::default()
    };
    let mut export = client.export(vault, options);
    let mut last_told: Option<Instant> = None;
    while let Some(chunk) = export.next().await? {
        out.write(format, &chunk)?;
        done.height = Some(chunk.height);
        done.entities += chunk.entities.len() as u64;
        done.relationships += chunk.relationships.len() as u64;
        done.cursor.clone_from(&chunk.cursor);
        // The first chunk at once: it tells the height, at which an export that is stopped has to go on.
        let is_due = last_told.is_none_or(|told| told.elapsed() >= PROGRESS_INTERVAL);
        if chunk.cursor.is_some() && is_due {
            out.keep(done)?;
            tell(done, chunk.height);
            last_told = Some(Instant::now());
        }
    }
    Ok(())
}

fn tell(done: &Progress, height: u64) {
    let Progress { entities, relationships, .. } = done;
    eprintln!("{entities} entities and {relationships} relationships at height {height} so far");
}

fn show(global: &Global, done: &Progress, time: Duration) {
    let height = done.height.unwrap_or(0);
    let json = json!({
        "vault": done.vault,
        "height": height,
        "entities": done.entities,
        "relationships": done.relationships,
        "seconds": time.as_secs_f64(),
    });
    let facts = [
        ("vault", done.vault.clone()),
        ("height", height.to_string()),
        ("entities", done.entities.to_string()),
        ("relationships", done.relationships.to_string()),
    ];
    output::facts(global.format(), &facts, &json);
}
