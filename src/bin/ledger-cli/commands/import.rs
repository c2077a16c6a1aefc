//! `import`: a file of entities and relationships into a vault, each item once, however often it is begun again.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use ledger_client::{Import, SnapshotFault, SnapshotManifest};
use ledger_types::{Digest, VaultRef};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::args::Global;
use crate::args::bulk::{FileFormat, ImportOptions};
use crate::bulk::chunks::{BadLine, Chunk, Chunks};
use crate::bulk::{beside, format_of, progress};
use crate::failure::Failure;
use crate::{output, session};

/// Bad lines that are shown; the rest are counted.
const SHOWN_MAX: u64 = 100;
/// How often progress is told and kept.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Where an import stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Progress {
    vault: String,
    name: String,
    chunk_items: u32,
    skip_bad: bool,
    /// Chunks that were durable when this was written. The cluster may have more.
    chunks: u64,
    /// Of the file up to the end of them.
    digest: String,
}

/// What a look through the file found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Found {
    chunks: u64,
    entities: u64,
    relationships: u64,
    bad_lines: u64,
    bytes: u64,
}

/// Imports, or checks a file.
pub(crate) async fn run(options: &ImportOptions, global: &Global) -> Result<(), Failure> {
    let format = format_of(options.format, &options.file)?;
    check_manifest(&options.file)?;
    let found = check(options, format)?;
    if found.bad_lines > 0 && (options.dry_run || !options.skip_bad) {
        let what = format!("{} has {} bad lines", options.file.display(), found.bad_lines);
        let advice = match options.dry_run {
            true => "",
            false => "; nothing was imported (--skip-bad imports the good ones)",
        };
        return Err(Failure::failed(format!("{what}{advice}")));
    }
    if options.dry_run {
        show(global, None, found, Duration::ZERO, 0);
        return Ok(());
    }
    let client = session::connect(global).await?;
    let vault = session::vault(&client, &options.vault).await?;
    let path = beside(&options.file, ".ledger-import");
    let resumed = resumed(&path, options, vault)?;
    let name = match &resumed {
        Some(progress) => progress.name.clone(),
        None => options
            .name
            .clone()
            .unwrap_or_else(|| format!("import-{:032x}", rand::random::<u128>())),
    };
    let mut kept = resumed.unwrap_or_else(|| Progress {
        vault: vault.to_string(),
        name: name.clone(),
        chunk_items: options.chunk_items,
        skip_bad: options.skip_bad,
        chunks: 0,
        digest: Digest::ZERO.to_string(),
    });
    progress::save(&path, &kept)?;
    let import = client.import(vault, &name).await?;
    let began = Instant::now();
    let transfer = Transfer {
        import,
        known: kept.clone(),
        sent: VecDeque::new(),
        items: 0,
        passed_over: 0,
        found,
        began,
    };
    let (height, sent) = transfer.run(options, format, (&path, &mut kept)).await?;
    progress::remove(&path)?;
    show(global, Some((vault, height, sent)), found, began.elapsed(), kept.chunks);
    Ok(())
}

/// Holds a snapshot file against the manifest that lies beside it; any other file has none.
fn check_manifest(file: &Path) -> Result<(), Failure> {
    let manifest = SnapshotManifest::beside(file);
    let checked = manifest.and_then(|manifest| manifest.map_or(Ok(()), |one| one.check(file)));
    checked.map_err(|fault| match fault {
        SnapshotFault::File(error) => Failure::file(file, &error),
        fault => Failure::refused(format!("{}: {fault}", file.display())),
    })
}

/// Looks through the whole file and shows what is no item.
fn check(options: &ImportOptions, format: FileFormat) -> Result<Found, Failure> {
    let failed = |error: std::io::Error| Failure::file(&options.file, &error);
    let mut found = Found::default();
    let mut rejected = None;
    let mut bad_lines = 0;
    let mut take = |bad: BadLine| {
        bad_lines += 1;
        if bad_lines <= SHOWN_MAX {
            eprintln!(
                "{}:{}: {}: {}",
                options.file.display(),
                bad.line,
                bad.fault.field,
                bad.fault.problem
            );
        }
        if options.skip_bad && !options.dry_run {
            keep(&mut rejected, &beside(&options.file, ".bad"), &bad)?;
        }
        Ok(())
    };
    let mut chunks = Chunks::open(&options.file, format, chunk_items(options)).map_err(failed)?;
    while let Some(chunk) = chunks.next(&mut take).map_err(failed)? {
        found.chunks = chunk.number;
        found.entities += chunk.items.entities.len() as u64;
        found.relationships += chunk.items.relationships.len() as u64;
        found.bytes = chunk.end;
    }
    found.bad_lines = bad_lines;
    if let Some(mut rejected) = rejected {
        rejected.flush().map_err(failed)?;
    }
    if bad_lines > SHOWN_MAX {
        eprintln!("and {} more bad lines", bad_lines - SHOWN_MAX);
    }
    Ok(found)
}

/// Keeps a line that is left out, as it was.
fn keep(file: &mut Option<BufWriter<File>>, path: &Path, bad: &BadLine) -> std::io::Result<()> {
    if file.is_none() {
        *file = Some(BufWriter::new(File::create(path)?));
    }
    let Some(file) = file else { return Ok(()) };
    file.write_all(&bad.text)?;
    file.write_all(b"\n")
}

fn chunk_items(options: &ImportOptions) -> usize {
    usize::try_from(options.chunk_items).expect("at most 10,000")
}

/// An import that was begun before. Errors: it was another one than this.
fn resumed(
    path: &Path,
    options: &ImportOptions,
    vault: VaultRef,
) -> Result<Option<Progress>, Failure> {
    let Some(progress) = progress::load::<Progress>(path)? else { return Ok(None) };
    let is_same = progress.vault == vault.to_string()
        && progress.chunk_items == options.chunk_items
        && progress.skip_bad == options.skip_bad
        && options.name.as_ref().is_none_or(|name| *name == progress.name);
    if is_same {
        return Ok(Some(progress));
    }
    Err(Failure::failed(format!(
        "{}: an import into vault {} with --chunk-items {}{} is unfinished; give the same, or remove the file \
         to begin anew",
        path.display(),
        progress.vault,
        progress.chunk_items,
        if progress.skip_bad { " --skip-bad" } else { "" },
    )))
}

/// An import under way.
struct Transfer {
    import: Import,
    /// What was known when it began.
    known: Progress,
    /// Chunks that were sent: number, digest and items.
    sent: VecDeque<(u64, Digest, u64)>,
    /// Items that are durable, by this run.
    items: u64,
    /// Items that were durable before it.
    passed_over: u64,
    found: Found,
    began: Instant,
}

impl Transfer {
    /// Sends what the cluster lacks. Tells the last block's height and how many items it sent.
    async fn run(
        mut self,
        options: &ImportOptions,
        format: FileFormat,
        (path, kept): (&Path, &mut Progress),
    ) -> Result<(u64, u64), Failure> {
        let failed = |error: std::io::Error| Failure::file(&options.file, &error);
        let first = self.import.next_number();
        if first > 1 {
            eprintln!("{} chunks are there already", first - 1);
        }
        if first > self.found.chunks + 1 {
            let problem = "the cluster has more chunks of this import than the file";
            return Err(Failure::failed(format!("{}: {problem}", options.file.display())));
        }
        let mut chunks =
            Chunks::open(&options.file, format, chunk_items(options)).map_err(failed)?;
        let mut last_told = Instant::now();
        // Bad lines were told when the file was looked through.
        while let Some(chunk) = chunks.next(&mut |_| Ok(())).map_err(failed)? {
            self.check(&chunk, options)?;
            let (number, digest, count) = (chunk.number, chunk.digest, chunk.len());
            if number < first {
                self.passed_over += count;
                continue;
            }
            self.import.send(chunk.items).await?;
            self.sent.push_back((number, digest, count));
            self.count(kept);
            if last_told.elapsed() >= PROGRESS_INTERVAL {
                progress::save(path, kept)?;
                self.tell();
                last_told = Instant::now();
            }
        }
        self.import.finish().await?;
        self.count(kept);
        self.tell();
        Ok((self.import.height(), self.items))
    }

    /// Errors: the file's beginning is not what was imported.
    fn check(&self, chunk: &Chunk, options: &ImportOptions) -> Result<(), Failure> {
        if chunk.number != self.known.chunks || chunk.digest.to_string() == self.known.digest {
            return Ok(());
        }
        let problem = "is not the file of which a part was imported before";
        Err(Failure::failed(format!("{} {problem}", options.file.display())))
    }

    fn count(&mut self, kept: &mut Progress) {
        let durable = self.import.durable();
        while let Some((number, digest, count)) = self.sent.front().copied() {
            if number > durable {
                return;
            }
            self.sent.pop_front();
            self.items += count;
            (kept.chunks, kept.digest) = (number, digest.to_string());
        }
    }

    fn tell(&self) {
        let all = self.found.entities + self.found.relationships;
        let done = self.passed_over + self.items;
        let per_second = rate(self.items, self.began.elapsed());
        eprintln!("{done} of {all} items are durable, {per_second} items/s");
    }
}

/// Items a second.
fn rate(items: u64, time: Duration) -> u64 {
    let micros = time.as_micros().max(1);
    u64::try_from(u128::from(items) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

fn show(
    global: &Global,
    imported: Option<(VaultRef, u64, u64)>,
    found: Found,
    time: Duration,
    chunks: u64,
) {
    let Found { entities, relationships, bad_lines, .. } = found;
    let mut json = json!({
        "entities": entities, "relationships": relationships, "bad_lines": bad_lines,
    });
    let mut facts = vec![
        ("entities", entities.to_string()),
        ("relationships", relationships.to_string()),
        ("bad lines", bad_lines.to_string()),
    ];
    if let Some((vault, height, sent)) = imported {
        let seconds = format!("{:.1}", time.as_secs_f64());
        let per_second = rate(sent, time);
        json["vault"] = json!(vault.to_string());
        json["chunks"] = json!(chunks);
        json["height"] = json!(height);
        json["items_sent"] = json!(sent);
        json["items_per_second"] = json!(per_second);
        json["seconds"] = json!(time.as_secs_f64());
        facts.push(("vault", vault.to_string()));
        facts.push(("height", height.to_string()));
        facts.push(("sent", format!("{sent} items in {seconds} s, {per_second} items/s")));
    }
    output::facts(global.format(), &facts, &json);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_items_by_time() {
        assert_eq!(rate(3_000, Duration::from_millis(1_500)), 2_000);
        assert_eq!(rate(0, Duration::ZERO), 0);
    }
}
