//! The repository keeps its own rules. One test per rule, so that a failure names it.

use xtask::{Finding, chaos, lockfile, settings_doc, sources, tidy, workspace};

fn assert_none(findings: &[Finding]) {
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(lines.is_empty(), "{} findings:\n{}", lines.len(), lines.join("\n"));
}

fn repository() -> tidy::Repository {
    let repository =
        tidy::Repository::load(&tidy::repository_root()).expect("the repository is readable");
    assert!(repository.paths.contains("xtask/tests/repository.rs"), "read the wrong directory");
    repository
}

fn packages() -> Vec<workspace::Package> {
    let packages = workspace::packages(&tidy::repository_root()).expect("cargo metadata works");
    assert!(packages.iter().any(|package| package.name == "xtask"));
    packages
}

#[test]
fn crates_name_only_what_lies_below_them() {
    assert_none(&workspace::check_arrows(&packages()));
}

#[test]
fn heavy_dependencies_stay_with_their_owners() {
    assert_none(&workspace::check_owners(&packages()));
}

#[test]
fn lints_and_versions_come_from_the_root() {
    assert_none(&repository().manifest_findings());
}

#[test]
fn sources_keep_the_habits() {
    let findings: Vec<Finding> = repository().texts.iter().flat_map(sources::check).collect();
    assert_none(&findings);
}

#[test]
fn documents_point_at_what_exists() {
    assert_none(&repository().document_findings());
}

#[test]
fn the_lockfiles_pin_nothing_with_a_known_advisory() {
    for path in lockfile::FILES {
        let lockfile = tidy::read(&tidy::repository_root(), path).unwrap();
        assert_none(&lockfile::check(&lockfile));
    }
}

#[test]
fn manifests_match_the_node_they_start() {
    let settings = tidy::node_settings(&tidy::repository_root()).unwrap();
    assert_none(&repository().deploy_findings(&settings));
}

#[test]
fn the_page_for_operators_has_every_setting() {
    let root = tidy::repository_root();
    let settings = tidy::node_settings(&root).unwrap();
    let page = tidy::read(&root, settings_doc::PAGE).unwrap();
    assert_none(&settings_doc::check(&page, &settings));
}

#[test]
fn the_api_reference_says_what_the_protocol_files_say() {
    let root = tidy::repository_root();
    if std::env::var_os("UPDATE_API_REFERENCE").is_some() {
        tidy::write_api_reference(&root).unwrap();
    }
    assert_none(&tidy::api_reference_findings(&root).unwrap());
}

#[test]
fn chaos_finds_the_names_of_its_mixes() {
    let mixes = tidy::read(&tidy::repository_root(), chaos::MIXES_PATH).unwrap();
    let names = chaos::mix_names(&mixes);
    for name in ["kill", "pause", "partition", "slow", "disk", "clock", "all"] {
        assert!(names.iter().any(|other| other == name), "{name} is not among {names:?}");
    }
}
