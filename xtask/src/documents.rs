//! Documents must not point at what is not there: paths in back quotes, relative links, and the
//! index of decisions.

use std::collections::BTreeSet;

use crate::{Finding, TextFile};

/// The page that lists every decision.
pub const DECISIONS_INDEX: &str = "docs/decisions/README.md";

/// Checks the paths that one document mentions against all files of the repository.
pub fn check_paths(document: &TextFile, files: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fenced = false;
    for (number, line) in document.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced {
            continue;
        }
        let quoted = line.split('`').skip(1).step_by(2).filter(|text| is_path(text, files));
        let quoted = quoted.map(|text| Some(text.trim_end_matches('/').to_owned()));
        let linked = links(line).map(|target| resolve(&document.path, target));
        for target in quoted.chain(linked).filter(|target| !exists(target.as_deref(), files)) {
            let place = format!("{}:{}", document.path, number + 1);
            let shown = target.unwrap_or_else(|| "a link out of the repository".to_owned());
            findings.push(Finding::new(place, format!("{shown} does not exist")));
        }
    }
    findings
}

/// Checks that the index links every decision.
pub fn check_decisions(index: &TextFile, files: &BTreeSet<String>) -> Vec<Finding> {
    let linked: BTreeSet<String> =
        index.text.lines().flat_map(links).filter_map(|link| resolve(&index.path, link)).collect();
    files
        .iter()
        .filter(|path| path.starts_with("docs/decisions/") && path.ends_with(".md"))
        .filter(|path| **path != index.path && !linked.contains(*path))
        .map(|path| Finding::new(path, format!("is not linked from {}", index.path)))
        .collect()
}

/// Text that is meant as a path from the root: plain characters under a directory we have.
fn is_path(text: &str, files: &BTreeSet<String>) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let Some((first, _)) = text.split_once('/') else { return false };
    !first.is_empty()
        && text.chars().all(plain)
        && files.iter().any(|file| file.strip_prefix(first).is_some_and(|f| f.starts_with('/')))
}

fn exists(target: Option<&str>, files: &BTreeSet<String>) -> bool {
    let Some(target) = target else { return false };
    let inside = format!("{target}/");
    target.is_empty() || files.contains(target) || files.iter().any(|f| f.starts_with(&inside))
}

/// Targets of inline links that are neither addresses nor anchors.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets
        .map(|target| target.split('#').next().unwrap_or(""))
        .filter(|target| !target.is_empty() && !target.contains(':'))
}

/// The path from the root that `link` in `document` leads to, if it stays inside.
fn resolve(document: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> BTreeSet<String> {
        ["README.md", "docs/a.md", "docs/decisions/0001-b.md", "src/main.rs", "shard/src/lib.rs"]
            .map(str::to_owned)
            .into()
    }

    fn paths(text: &str) -> Vec<String> {
        let document = TextFile { path: "docs/a.md".into(), text: text.into() };
        check_paths(&document, &files()).into_iter().map(|f| f.to_string()).collect()
    }

    #[test]
    fn what_exists_passes() {
        let text =
            "`src/main.rs`, `shard/src/`, [root](../README.md#top), [us](https://a.b), `a/b`";
        assert_eq!(paths(text), [""; 0]);
        assert_eq!(paths("```\n`src/gone.rs`\n```\n"), [""; 0]);
    }

    #[test]
    fn a_missing_path_is_found() {
        assert_eq!(paths("fine\n`src/gone.rs`"), ["docs/a.md:2: src/gone.rs does not exist"]);
    }

    #[test]
    fn a_dead_link_is_found() {
        assert_eq!(paths("[b](b.md)"), ["docs/a.md:1: docs/b.md does not exist"]);
        assert_eq!(paths("[out](../../up.md)").len(), 1);
    }

    #[test]
    fn a_decision_that_is_not_linked_is_found() {
        let index = |text: &str| TextFile { path: DECISIONS_INDEX.into(), text: text.into() };
        assert_eq!(check_decisions(&index("[b](0001-b.md)"), &files()), []);
        assert_eq!(check_decisions(&index("nothing"), &files()).len(), 1);
    }
}
