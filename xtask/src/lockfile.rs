//! What the lockfile may pin: nothing below the version that mended a published advisory, nothing
//! unmaintained that we chose to do without, nothing from outside a registry.
//!
//! The advisory database cannot be fetched everywhere the tests run; `deny.toml` is for where it
//! can.

use cargo_metadata::semver::Version;

use crate::{Finding, TextFile};

/// The product's lockfile, and that of the published clients which the tests run.
pub const FILES: &[&str] = &["Cargo.lock", "tests/interop/Cargo.lock"];

/// Packages and the first version without a known advisory.
pub const FLOORS: &[(&str, &str)] = &[
    ("anyhow", "1.0.103"),
    ("bytes", "1.11.1"),
    ("crossbeam-channel", "0.5.15"),
    ("h2", "0.4.16"),
    ("ring", "0.17.12"),
    ("rustls-webpki", "0.103.13"),
    ("tar", "0.4.45"),
    ("time", "0.3.47"),
    ("tokio", "1.44.2"),
];

/// Packages without a maintainer that nothing may bring in.
pub const REFUSED: &[&str] = &["bincode", "instant", "rustls-pemfile", "serde_yaml"];

/// Checks the pinned packages.
pub fn check(file: &TextFile) -> Vec<Finding> {
    let table: toml::Table = match file.text.parse() {
        Ok(table) => table,
        Err(error) => return vec![Finding::new(&file.path, error.to_string())],
    };
    let packages = table.get("package").and_then(toml::Value::as_array);
    let Some(packages) = packages.filter(|packages| !packages.is_empty()) else {
        return vec![Finding::new(&file.path, "pins no packages")];
    };
    packages.iter().filter_map(complaint).map(|message| Finding::new(&file.path, message)).collect()
}

fn complaint(package: &toml::Value) -> Option<String> {
    let field = |name: &str| package.get(name).and_then(toml::Value::as_str);
    let (Some(name), Some(version)) = (field("name"), field("version")) else {
        return Some("a package without name or version".to_owned());
    };
    if field("source").is_some_and(|source| !source.starts_with("registry+")) {
        return Some(format!("{name} {version} does not come from a registry"));
    }
    if REFUSED.contains(&name) {
        return Some(format!("{name} is unmaintained"));
    }
    let (_, floor) = FLOORS.iter().find(|(floored, _)| *floored == name)?;
    let floor = Version::parse(floor).expect("floors are written as versions");
    match Version::parse(version) {
        Ok(pinned) if pinned >= floor => None,
        Ok(_) => Some(format!("{name} {version} has a published advisory, use {floor} or later")),
        Err(error) => Some(format!("{name} {version}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(packages: &str) -> Vec<String> {
        let file = TextFile { path: "Cargo.lock".into(), text: packages.into() };
        check(&file).into_iter().map(|finding| finding.message).collect()
    }

    fn package(name: &str, version: &str, source: &str) -> String {
        format!("[[package]]\nname = '{name}'\nversion = '{version}'\nsource = '{source}'\n")
    }

    #[test]
    fn versions_at_the_floor_pass() {
        for (name, floor) in FLOORS {
            assert_eq!(messages(&package(name, floor, "registry+x")), [""; 0], "{name}");
        }
    }

    #[test]
    fn versions_below_the_floor_are_found() {
        for (name, version) in [("h2", "0.4.15"), ("tokio", "1.9.0"), ("bytes", "0.5.6")] {
            assert!(messages(&package(name, version, "registry+x"))[0].contains("advisory"));
        }
    }

    #[test]
    fn refused_packages_and_sources_are_found() {
        assert!(messages(&package("bincode", "1.3.3", "registry+x"))[0].contains("unmaintained"));
        assert!(messages(&package("raft", "0.7.0", "git+x"))[0].contains("registry"));
    }

    #[test]
    fn an_empty_lockfile_is_found() {
        assert_eq!(messages("version = 4\n"), ["pins no packages"]);
    }
}
