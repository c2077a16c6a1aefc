//! The page about the API against the protocol and against itself: every method has one row of errors and limits, and
//! what a row names is explained in the page's own tables. Judges names; what they mean is for people.

use std::collections::BTreeSet;

use prost_types::FileDescriptorSet;

use crate::{Finding, TextFile};

/// The page.
pub const PAGE: &str = "docs/api.md";
/// Heading of the table with a row for every method.
const METHODS: &str = "## Errors and limits of each method";
/// Heading of the table of reasons.
const REASONS: &str = "## Errors";
/// Heading of the table of limits.
const LIMITS: &str = "## Limits";

/// Checks the page against the methods that the compiled protocol has.
pub fn check(page: &TextFile, protocol: &FileDescriptorSet) -> Vec<Finding> {
    let (reasons, limits) = (first_column(&page.text, REASONS), first_column(&page.text, LIMITS));
    let mut messages = Vec::new();
    let mut told = Vec::new();
    for row in rows(&page.text, METHODS) {
        let [methods, errors, row_limits] = row[..] else {
            messages.push(format!("the row {row:?} has not three columns"));
            continue;
        };
        told.extend(methods_of(methods));
        let unknown = |names: &str, known: &BTreeSet<String>| -> Vec<String> {
            let names = quoted(names).filter(|name| name.contains('_')).map(str::to_owned);
            names.filter(|name| !known.contains(name)).collect()
        };
        for (kind, names) in
            [("reason", unknown(errors, &reasons)), ("limit", unknown(row_limits, &limits))]
        {
            let say = |name| format!("{methods} names the {kind} {name}, which has no row");
            messages.extend(names.into_iter().map(say));
        }
    }
    let methods = protocol.file.iter().flat_map(|file| &file.service).flat_map(|service| {
        service.method.iter().map(|method| format!("{}/{}", service.name(), method.name()))
    });
    let methods: BTreeSet<String> = methods.collect();
    for method in &methods {
        match told.iter().filter(|other| *other == method).count() {
            1 => {}
            count => messages.push(format!("{method} has {count} rows under {METHODS:?}")),
        }
    }
    let strangers = told.iter().filter(|name| !methods.contains(*name));
    messages.extend(strangers.map(|name| format!("{name} has a row and is no method")));
    messages.into_iter().map(|message| Finding::new(&page.path, message)).collect()
}

/// The names that the first column of a table has in back quotes.
fn first_column(text: &str, heading: &str) -> BTreeSet<String> {
    let rows = rows(text, heading);
    rows.iter().flat_map(|row| quoted(row[0])).map(str::to_owned).collect()
}

/// The methods of a cell; a name without a service is of the one before.
fn methods_of(cell: &str) -> Vec<String> {
    let mut service = "";
    let mut methods = Vec::new();
    for name in quoted(cell) {
        let method = match name.split_once('/') {
            Some((its_service, method)) => {
                service = its_service;
                method
            }
            None => name,
        };
        methods.push(format!("{service}/{method}"));
    }
    methods
}

/// The cells of the rows of the table below a heading, without its head.
fn rows<'a>(text: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let lines = text.lines().skip_while(|line| *line != heading).skip(1);
    let section = lines.take_while(|line| !line.starts_with("## "));
    let cells = section.filter_map(|line| line.trim().strip_prefix('|')?.strip_suffix('|'));
    cells.skip(2).map(|row| row.split('|').map(str::trim).collect()).collect()
}

fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[cfg(test)]
mod tests {
    use prost_types::{FileDescriptorProto, MethodDescriptorProto, ServiceDescriptorProto};

    use super::*;

    const TEXT: &str = "## Errors\n| reason | code |\n| --- | --- |\n| `A_B`, `C_D` | `X` |\n\n\
        ## Limits\n| limit | value |\n| --- | --- |\n| `keys_max` | 3 |\n\n\
        ## Errors and limits of each method\n| method | errors | limits |\n| --- | --- | --- |\n\
        | `Keeper/Keep`, `Drop` | common, `A_B` | `keys_max` |\n\n## Metadata\n";

    fn protocol(methods: &[&str]) -> FileDescriptorSet {
        let method = |name: &&str| MethodDescriptorProto {
            name: Some((*name).to_owned()),
            ..MethodDescriptorProto::default()
        };
        let service = ServiceDescriptorProto {
            name: Some("Keeper".to_owned()),
            method: methods.iter().map(method).collect(),
            ..ServiceDescriptorProto::default()
        };
        let file = FileDescriptorProto { service: vec![service], ..FileDescriptorProto::default() };
        FileDescriptorSet { file: vec![file] }
    }

    fn findings(text: &str, methods: &[&str]) -> Vec<String> {
        let page = TextFile { path: PAGE.to_owned(), text: text.to_owned() };
        check(&page, &protocol(methods)).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn every_method_has_one_row_whose_names_are_explained() {
        let both = ["Keep", "Drop"];
        assert_eq!(findings(TEXT, &both), [""; 0]);
        let missing = findings(TEXT, &["Keep", "Drop", "Look"]);
        assert!(missing.len() == 1 && missing[0].contains("Keeper/Look has 0 rows"), "{missing:?}");
        let stranger = findings(TEXT, &["Keep"]);
        assert!(stranger.len() == 1 && stranger[0].contains("Keeper/Drop"), "{stranger:?}");
        for (from, to, name) in [
            ("`A_B` |", "`E_F` |", "reason E_F"),
            ("| `keys_max` |\n\n##", "| `items_max` |\n\n##", "limit items_max"),
        ] {
            let found = findings(&TEXT.replace(from, to), &both);
            assert!(found.len() == 1 && found[0].contains(name), "{found:?}");
        }
    }
}
