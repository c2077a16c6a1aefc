//! Which crate may depend on which: the arrows between our crates, the owners of heavy
//! dependencies, and the rule that versions and lints live at the root only.

use std::path::Path;

use cargo_metadata::MetadataCommand;

use crate::{Error, Finding, TextFile};

/// Every crate of the workspace and the crates it may name.
pub const ARROWS: &[(&str, &[&str])] = &[
    ("ledger-types", &[]),
    ("ledger-proof", &["ledger-types"]),
    ("ledger-shard-core", &["ledger-proof", "ledger-types"]),
    ("ledger-shard", &["ledger-shard-core", "ledger-proof", "ledger-types"]),
    ("ledger-router", &["ledger-shard", "ledger-proof", "ledger-types"]),
    ("ledger-proto", &["ledger-proof", "ledger-types"]),
    ("ledger-client", &["ledger-proto", "ledger-proof", "ledger-types"]),
    ("ledger-history", &["ledger-types"]),
    (
        "ledger",
        &[
            "ledger-client",
            "ledger-history",
            "ledger-proof",
            "ledger-proto",
            "ledger-router",
            "ledger-shard",
            "ledger-types",
        ],
    ),
    (
        "ledger-benches",
        &[
            "ledger-client",
            "ledger-proof",
            "ledger-proto",
            "ledger-shard",
            "ledger-shard-core",
            "ledger-types",
        ],
    ),
    ("ledger-tree-bench", &["ledger-proof", "ledger-types"]),
    ("ledger-wasm-check", &["ledger-proof", "ledger-types"]),
    (
        "ledger-fuzz-bodies",
        &["ledger-client", "ledger-proof", "ledger-proto", "ledger-shard-core", "ledger-types"],
    ),
    ("ledger-sim", &["ledger-proof", "ledger-shard-core", "ledger-types"]),
    ("xtask", &[]),
];

/// Heavy dependencies, with what belongs to them by prefix, and the crates that may use them.
pub const OWNERS: &[(&str, &[&str])] = &[
    ("rocksdb", &["ledger-shard"]),
    ("librocksdb-sys", &["ledger-shard"]),
    ("raft", &["ledger-shard-core"]),
    ("rs_merkle", &["ledger-proof"]),
    ("tonic", &["ledger-proto", "ledger-client", "ledger", "ledger-benches"]),
    ("tokio", &["ledger-client", "ledger", "ledger-benches"]),
    ("axum", &["ledger"]),
    ("jmt", &["ledger-tree-bench"]),
];

/// A crate of the workspace and everything its manifest names, of every kind.
#[derive(Debug, Clone)]
pub struct Package {
    /// Package name.
    pub name: String,
    /// Package names of normal, build and test dependencies.
    pub dependencies: Vec<String>,
}

/// Asks cargo for the packages of the workspace; needs neither network nor lockfile.
pub fn packages(root: &Path) -> Result<Vec<Package>, Error> {
    let metadata = MetadataCommand::new()
        .current_dir(root)
        .no_deps()
        .other_options(vec!["--offline".to_owned()])
        .exec()?;
    let package = |package: &cargo_metadata::Package| Package {
        name: package.name.to_string(),
        dependencies: package.dependencies.iter().map(|d| d.name.clone()).collect(),
    };
    Ok(metadata.packages.iter().map(package).collect())
}

/// Checks the arrows between the crates of the workspace.
pub fn check_arrows(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == package.name) else {
            findings.push(Finding::new(&package.name, "has no row in the table of arrows"));
            continue;
        };
        for dependency in &package.dependencies {
            let ours = packages.iter().any(|other| other.name == *dependency);
            if ours && !allowed.contains(&dependency.as_str()) {
                findings.push(Finding::new(&package.name, format!("may not name {dependency}")));
            }
        }
    }
    findings
}

/// Checks that heavy dependencies are used by their owners only.
pub fn check_owners(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        for dependency in &package.dependencies {
            let owned = OWNERS.iter().find(|(owned, _)| {
                let rest = dependency.strip_prefix(owned);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
            });
            if let Some((_, owners)) = owned.filter(|(_, o)| !o.contains(&package.name.as_str())) {
                let message = format!("{dependency} belongs to {}", owners.join(", "));
                findings.push(Finding::new(&package.name, message));
            }
        }
    }
    findings
}

/// Checks that a crate's manifest takes its lints and all its dependencies from the root.
pub fn check_manifest(file: &TextFile) -> Vec<Finding> {
    let table: toml::Table = match file.text.parse() {
        Ok(table) => table,
        Err(error) => return vec![Finding::new(&file.path, error.to_string())],
    };
    if !table.contains_key("package") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    if !table.get("lints").is_some_and(from_root) {
        findings.push(Finding::new(&file.path, "needs `[lints] workspace = true`"));
    }
    let targets = table.get("target").and_then(toml::Value::as_table);
    let by_target = targets.into_iter().flat_map(|targets| targets.values());
    let sections = std::iter::once(&table).chain(by_target.filter_map(toml::Value::as_table));
    for section in sections {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let dependencies = section.get(kind).and_then(toml::Value::as_table);
            for (name, value) in dependencies.into_iter().flatten() {
                if !from_root(value) {
                    let message = format!("{name}: take the version from the workspace");
                    findings.push(Finding::new(&file.path, message));
                }
            }
        }
    }
    findings
}

fn from_root(value: &toml::Value) -> bool {
    value.get("workspace").and_then(toml::Value::as_bool) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[&str]) -> Package {
        let dependencies = dependencies.iter().map(|name| (*name).to_owned()).collect();
        Package { name: name.into(), dependencies }
    }

    #[test]
    fn allowed_arrows_pass() {
        let packages = [package("ledger-proof", &["ledger-types"]), package("ledger-types", &[])];
        assert_eq!(check_arrows(&packages), []);
    }

    #[test]
    fn an_arrow_that_points_up_is_found() {
        let packages = [package("ledger-proof", &[]), package("ledger-types", &["ledger-proof"])];
        let findings = check_arrows(&packages);
        assert_eq!(findings, [Finding::new("ledger-types", "may not name ledger-proof")]);
    }

    #[test]
    fn a_crate_without_a_row_is_found() {
        assert_eq!(check_arrows(&[package("ledger-extra", &[])]).len(), 1);
    }

    #[test]
    fn no_arrow_leads_back_to_its_start() {
        fn reaches(from: &str, to: &str) -> bool {
            let row = ARROWS.iter().find(|(name, _)| *name == from).expect("row of the table");
            row.1.iter().any(|next| *next == to || reaches(next, to))
        }
        for (name, _) in ARROWS {
            assert!(!reaches(name, name), "{name} reaches itself");
        }
    }

    #[test]
    fn a_dependency_outside_its_owner_is_found() {
        for (name, dependency) in [
            ("ledger", "rocksdb"),
            ("ledger-shard", "raft"),
            ("ledger-shard", "raft-proto"),
            ("ledger", "rs_merkle"),
            ("ledger-router", "tonic-types"),
            ("ledger-shard-core", "tokio"),
            ("ledger-shard", "tokio-stream"),
        ] {
            let findings = check_owners(&[package(name, &[dependency])]);
            assert_eq!(findings.len(), 1, "{name} -> {dependency}");
        }
        assert_eq!(check_owners(&[package("ledger-shard", &["rocksdb", "raftish"])]), []);
    }

    #[test]
    fn a_version_outside_the_root_is_found() {
        let manifest = |text: &str| {
            let text = format!("[package]\nname = \"a\"\n{text}");
            check_manifest(&TextFile { path: "a/Cargo.toml".into(), text })
        };
        let lints = "[lints]\nworkspace = true\n";
        assert_eq!(manifest(&format!("{lints}[dependencies]\nb.workspace = true\n")), []);
        assert_eq!(manifest("[dependencies]\nb.workspace = true\n").len(), 1, "no lints");
        for section in ["dependencies", "dev-dependencies", "target.'cfg(unix)'.dependencies"] {
            let findings = manifest(&format!("{lints}[{section}]\nb = \"1\"\n"));
            assert_eq!(findings.len(), 1, "{section}");
        }
        assert_eq!(manifest("[lints\n").len(), 1, "not TOML");
    }
}
