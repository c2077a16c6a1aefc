//! Runs every check on the repository on disk. Reads files and asks cargo for the crates; the
//! rules themselves are in the other modules.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::settings::{self, Setting};
use crate::{
    Error, Finding, TextFile, api_doc, api_reference, deploy, documents, lockfile, settings_doc,
    sources, workspace,
};

/// The manifests that are compared with the node.
pub const BASE_MANIFESTS: &str = "deploy/flux/apps/base/ledger/";
/// Names a built node to ask for its settings instead of reading them from its source.
pub const BINARY_VARIABLE: &str = "LEDGER_BIN";
/// Endings of the files whose text is checked.
const TEXT_ENDINGS: &[&str] = &[
    "rs",
    "md",
    "toml",
    "yaml",
    "yml",
    "json",
    "sh",
    "py",
    "cjs",
    "proto",
    "Makefile",
    "Dockerfile",
    "run",
];

/// What the checks look at: every path, and the text of the files people write.
#[derive(Debug, Default)]
pub struct Repository {
    /// Every file, hidden tool directories and build output left out.
    pub paths: BTreeSet<String>,
    /// Files with one of the checked endings.
    pub texts: Vec<TextFile>,
}

/// The root of the repository this crate was built in.
pub fn repository_root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("this crate lies one level below the root").to_owned()
}

/// Runs all checks; the findings are sorted by place.
pub fn run(root: &Path) -> Result<Vec<Finding>, Error> {
    let repository = Repository::load(root)?;
    let packages = workspace::packages(root)?;
    let mut findings = workspace::check_arrows(&packages);
    findings.extend(workspace::check_owners(&packages));
    findings.extend(repository.manifest_findings());
    findings.extend(repository.texts.iter().flat_map(sources::check));
    findings.extend(repository.document_findings());
    for lockfile in lockfile::FILES {
        findings.extend(lockfile::check(&read(root, lockfile)?));
    }
    findings.extend(api_reference_findings(root)?);
    findings.extend(match node_settings(root) {
        Ok(settings) => {
            let page = read(root, settings_doc::PAGE)?;
            let documented = settings_doc::check(&page, &settings);
            repository.deploy_findings(&settings).into_iter().chain(documented).collect()
        }
        Err(error) => vec![Finding::new(settings::TABLE_PATH, error.to_string())],
    });
    findings.sort();
    Ok(findings)
}

/// The pages of the public API are what the files of the protocol say.
pub fn api_reference_findings(root: &Path) -> Result<Vec<Finding>, Error> {
    let files = api_reference::compile(root)?;
    let mut findings = match read(root, api_reference::PAGE) {
        Ok(page) => api_reference::check(&page, &files),
        Err(error) => vec![Finding::new(api_reference::PAGE, error.to_string())],
    };
    findings.extend(api_doc::check(&read(root, api_doc::PAGE)?, &files));
    Ok(findings)
}

/// Writes the page of the public API anew.
pub fn write_api_reference(root: &Path) -> Result<(), Error> {
    let (text, _) = api_reference::render(&api_reference::compile(root)?);
    let path = root.join(api_reference::PAGE);
    fs::write(&path, text).map_err(|source| Error::Write { path, source })
}

/// The settings of the node, from the built binary if one is named, else from its source.
pub fn node_settings(root: &Path) -> Result<Vec<Setting>, Error> {
    match std::env::var_os(BINARY_VARIABLE) {
        Some(binary) => settings::from_binary(Path::new(&binary)),
        None => settings::from_source(&read(root, settings::TABLE_PATH)?.text),
    }
}

/// Reads one file of the repository.
pub fn read(root: &Path, path: &str) -> Result<TextFile, Error> {
    let full = root.join(path);
    match fs::read_to_string(&full) {
        Ok(text) => Ok(TextFile { path: path.to_owned(), text }),
        Err(source) => Err(Error::Read { path: full, source }),
    }
}

impl Repository {
    /// Reads the repository at `root`.
    pub fn load(root: &Path) -> Result<Repository, Error> {
        let mut repository = Repository::default();
        repository.load_directory(root, "")?;
        Ok(repository)
    }

    /// Lints and versions are taken from the root.
    pub fn manifest_findings(&self) -> Vec<Finding> {
        let manifests = self.texts.iter().filter(|file| file.path.ends_with("Cargo.toml"));
        manifests.flat_map(workspace::check_manifest).collect()
    }

    /// Documents point at what is there, and every decision is listed.
    pub fn document_findings(&self) -> Vec<Finding> {
        let documents = || self.texts.iter().filter(|file| file.path.ends_with(".md"));
        let paths = documents().flat_map(|document| documents::check_paths(document, &self.paths));
        let index = documents().find(|file| file.path == documents::DECISIONS_INDEX);
        let decisions = match index {
            Some(index) => documents::check_decisions(index, &self.paths),
            None => vec![Finding::new(documents::DECISIONS_INDEX, "is missing")],
        };
        paths.chain(decisions).collect()
    }

    /// The base manifests start the node that has these settings.
    pub fn deploy_findings(&self, settings: &[Setting]) -> Vec<Finding> {
        let is_manifest = |file: &&TextFile| {
            file.path.starts_with(BASE_MANIFESTS) && file.path.ends_with(".yaml")
        };
        let manifests: Vec<TextFile> = self.texts.iter().filter(is_manifest).cloned().collect();
        deploy::check(&manifests, settings)
    }

    fn load_directory(&mut self, root: &Path, directory: &str) -> Result<(), Error> {
        let full = root.join(directory);
        let failed = |source| Error::Read { path: full.clone(), source };
        for entry in fs::read_dir(&full).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{directory}{name}");
            if entry.file_type().map_err(failed)?.is_dir() {
                let skipped = name.starts_with('.') && name != ".ci" && name != ".cargo";
                if !skipped && name != "target" {
                    self.load_directory(root, &format!("{path}/"))?;
                }
                continue;
            }
            if TEXT_ENDINGS.contains(&name.rsplit('.').next().unwrap_or("")) {
                self.texts.push(read(root, &path)?);
            }
            self.paths.insert(path);
        }
        Ok(())
    }
}
