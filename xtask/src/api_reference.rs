//! The reference of the public API, `docs/api-reference.md`, made from the `.proto` files and their comments.
//!
//! Owns what the page looks like. The same files give the same page, byte for byte; nothing of it is written by hand, and
//! whatever lacks a comment is a finding. What the API means as a whole belongs to `docs/api.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet, ServiceDescriptorProto,
};

use crate::{Error, Finding, TextFile};

/// The page.
pub const PAGE: &str = "docs/api-reference.md";
/// The directory that the names of imports begin in.
const ROOT: &str = "proto";
/// The directory of the public package, from there.
const PUBLIC: &str = "ledger/v1";
/// How the page is made anew.
const COMMAND: &str = "cargo xtask api-reference";

/// Numbers of fields in descriptors, of which the places of comments are made.
mod place {
    pub(super) const FILE_SYNTAX: i32 = 12;
    pub(super) const FILE_MESSAGE: i32 = 4;
    pub(super) const FILE_ENUM: i32 = 5;
    pub(super) const FILE_SERVICE: i32 = 6;
    pub(super) const SERVICE_METHOD: i32 = 2;
    pub(super) const MESSAGE_FIELD: i32 = 2;
    pub(super) const MESSAGE_NESTED: i32 = 3;
    pub(super) const MESSAGE_ENUM: i32 = 4;
    pub(super) const MESSAGE_ONEOF: i32 = 8;
    pub(super) const ENUM_VALUE: i32 = 2;
}

/// Compiles the public package below `root`, with comments.
pub fn compile(root: &Path) -> Result<FileDescriptorSet, Error> {
    let directory = root.join(ROOT).join(PUBLIC);
    let failed = |source| Error::Read { path: directory.clone(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".proto") {
            names.push(format!("{PUBLIC}/{name}"));
        }
    }
    names.sort();
    let compiled = protox::Compiler::new([root.join(ROOT)])
        .and_then(|mut compiler| {
            compiler.include_source_info(true).open_files(&names)?;
            Ok(compiler.file_descriptor_set())
        })
        .map_err(|error| Error::Protocol(error.to_string()))?;
    Ok(compiled)
}

/// Checks that the page is what the files say, and that they say something of everything.
pub fn check(page: &TextFile, files: &FileDescriptorSet) -> Vec<Finding> {
    let (text, mut findings) = render(files);
    if page.text != text {
        findings.push(Finding::new(PAGE, format!("is not what proto/ says: {COMMAND}")));
    }
    findings
}

/// The page, and what lacks a comment.
pub fn render(files: &FileDescriptorSet) -> (String, Vec<Finding>) {
    let mut files: Vec<&FileDescriptorProto> = files.file.iter().collect();
    files.sort_by_key(|file| file.name());
    let mut page = Page { text: String::new(), findings: Vec::new() };
    page.head(&files);
    for file in files {
        Section { file, comments: comments_of(file), page: &mut page }.write();
    }
    (page.text, page.findings)
}

/// The page while it is written.
struct Page {
    text: String,
    findings: Vec<Finding>,
}

impl Page {
    fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref());
        self.text.push('\n');
    }

    fn head(&mut self, files: &[&FileDescriptorProto]) {
        self.line("# API reference");
        self.line("");
        self.line(
            "Every service, method, message, field and value of the package `ledger.v1`, by file.",
        );
        self.line("How they belong together, limits and errors are in [api.md](api.md).");
        self.line(format!("Made from the files by `{COMMAND}`; a change by hand is undone."));
        self.line("");
        self.line("A field without a label has its type's default if it is not sent. `optional` fields and messages can be told");
        self.line("from it. A field \"of\" a name is sent alone or not at all: at most one of that name is.");
        self.line("");
        self.line("| service | file | methods |");
        self.line("| --- | --- | --- |");
        for file in files {
            for service in &file.service {
                let name = link(service.name());
                let methods: Vec<&str> = service.method.iter().map(|m| m.name()).collect();
                self.line(format!(
                    "| {name} | `{ROOT}/{}` | {} |",
                    file.name(),
                    methods.join(", ")
                ));
            }
        }
    }
}

/// The part of one file.
struct Section<'a> {
    file: &'a FileDescriptorProto,
    comments: BTreeMap<Vec<i32>, String>,
    page: &'a mut Page,
}

impl Section<'_> {
    fn write(&mut self) {
        let name = self.file.name();
        self.page.line(format!("\n## {}\n", name.rsplit('/').next().unwrap_or(name)));
        let about = self.comment(&[place::FILE_SYNTAX], name);
        self.page.line(about);
        let file = self.file;
        for (at, service) in numbered(&file.service) {
            self.service(service, &[place::FILE_SERVICE, at]);
        }
        for (at, message) in numbered(&file.message_type) {
            self.message("", message, &[place::FILE_MESSAGE, at]);
        }
        for (at, item) in numbered(&file.enum_type) {
            self.values("", item, &[place::FILE_ENUM, at]);
        }
    }

    /// The comment at a place, as paragraphs.
    fn comment(&mut self, path: &[i32], of: &str) -> String {
        match self.comments.get(path) {
            Some(comment) => comment.clone(),
            None => {
                let path = format!("{ROOT}/{}", self.file.name());
                self.page.findings.push(Finding::new(path, format!("{of} has no comment")));
                String::new()
            }
        }
    }

    /// The comment at a place, as a table's cell.
    fn cell(&mut self, path: &[i32], of: &str) -> String {
        self.comment(path, of).split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
    }

    fn title(&mut self, name: &str, path: &[i32]) {
        let about = self.comment(path, name);
        self.page.line(format!("\n### {name}\n\n{about}\n"));
    }

    fn service(&mut self, service: &ServiceDescriptorProto, path: &[i32]) {
        self.title(service.name(), path);
        self.page.line("| method | request | answer | does |");
        self.page.line("| --- | --- | --- | --- |");
        for (at, method) in numbered(&service.method) {
            let full = format!("{}.{}", service.name(), method.name());
            let about = self.cell(&child(path, place::SERVICE_METHOD, at), &full);
            let side = |streams: bool, name: &str| {
                let streamed = if streams { "stream of " } else { "" };
                format!("{streamed}{}", type_link(name))
            };
            let request = side(method.client_streaming(), method.input_type());
            let answer = side(method.server_streaming(), method.output_type());
            self.page.line(format!("| `{}` | {request} | {answer} | {about} |", method.name()));
        }
    }

    fn message(&mut self, outer: &str, message: &DescriptorProto, path: &[i32]) {
        let name = format!("{outer}{}", message.name());
        self.title(&name, path);
        if message.field.is_empty() {
            self.page.line("It has no fields.");
        } else {
            self.page.line("| number | field | type | meaning |");
            self.page.line("| --- | --- | --- | --- |");
        }
        let mut fields: Vec<(i32, &FieldDescriptorProto)> = numbered(&message.field).collect();
        fields.sort_by_key(|(_, field)| field.number());
        for (at, field) in fields {
            let full = format!("{name}.{}", field.name());
            let about = self.cell(&child(path, place::MESSAGE_FIELD, at), &full);
            let (number, kind) = (field.number(), field_type(message, field));
            self.page.line(format!("| {number} | `{}` | {kind} | {about} |", field.name()));
        }
        for (at, oneof) in numbered(&message.oneof_decl) {
            // An optional field has a oneof of its own that nobody wrote.
            if is_written(message, at) {
                let full = format!("{name}.{}", oneof.name());
                let about = self.cell(&child(path, place::MESSAGE_ONEOF, at), &full);
                self.page.line(format!("\n`{}`: {about}", oneof.name()));
            }
        }
        let inner = format!("{name}.");
        for (at, nested) in numbered(&message.nested_type) {
            if !is_map_entry(nested) {
                self.message(&inner, nested, &child(path, place::MESSAGE_NESTED, at));
            }
        }
        for (at, item) in numbered(&message.enum_type) {
            self.values(&inner, item, &child(path, place::MESSAGE_ENUM, at));
        }
    }

    fn values(&mut self, outer: &str, item: &EnumDescriptorProto, path: &[i32]) {
        let name = format!("{outer}{}", item.name());
        self.title(&name, path);
        self.page.line("| number | value | meaning |");
        self.page.line("| --- | --- | --- |");
        for (at, value) in numbered(&item.value) {
            let about = self.cell(&child(path, place::ENUM_VALUE, at), value.name());
            self.page.line(format!("| {} | `{}` | {about} |", value.number(), value.name()));
        }
    }
}

/// Comments of a file by the place of what they stand before.
fn comments_of(file: &FileDescriptorProto) -> BTreeMap<Vec<i32>, String> {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    locations
        .filter_map(|location| {
            let text = location.leading_comments.as_deref()?;
            let lines: Vec<String> = text.lines().map(|line| without_tags(line.trim())).collect();
            let text = lines.join("\n").trim().to_owned();
            (!text.is_empty()).then(|| (location.path.clone(), text))
        })
        .collect()
}

/// Angle brackets outside of back quotes would be tags.
fn without_tags(line: &str) -> String {
    let mut quoted = false;
    let mut text = String::with_capacity(line.len());
    for character in line.chars() {
        quoted ^= character == '`';
        match character {
            '<' if !quoted => text.push_str("&lt;"),
            '>' if !quoted => text.push_str("&gt;"),
            character => text.push(character),
        }
    }
    text
}

fn numbered<T>(items: &[T]) -> impl Iterator<Item = (i32, &T)> {
    (0..).zip(items)
}

fn child(path: &[i32], kind: i32, at: i32) -> Vec<i32> {
    [path, &[kind, at]].concat()
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(|options| options.map_entry())
}

fn is_written(message: &DescriptorProto, oneof: i32) -> bool {
    let mut members = message.field.iter().filter(|field| field.oneof_index == Some(oneof));
    members.any(|field| !field.proto3_optional())
}

/// A field's type with its label, with a link where it is one of ours.
fn field_type(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let entry = message.nested_type.iter().find(|nested| {
        let full = format!(".{}.{}", message.name(), nested.name());
        is_map_entry(nested) && field.type_name().ends_with(&full)
    });
    if let Some(entry) = entry {
        let parts: Vec<String> = entry.field.iter().map(type_name).collect();
        return format!("map of {}", parts.join(" to "));
    }
    let name = type_name(field);
    if field.label() == Label::Repeated {
        return format!("repeated {name}");
    }
    if field.proto3_optional() {
        return format!("optional {name}");
    }
    let oneof = field.oneof_index.and_then(|at| message.oneof_decl.get(usize::try_from(at).ok()?));
    let mut text = name;
    if let Some(oneof) = oneof {
        write!(text, ", of `{}`", oneof.name()).expect("writing to a string never fails");
    }
    text
}

fn type_name(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum | Type::Group => type_link(field.type_name()),
        scalar => format!("`{}`", scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase()),
    }
}

/// The name of a message or enum, with a link to it if it is of this package.
fn type_link(full: &str) -> String {
    match full.strip_prefix(".ledger.v1.") {
        Some(name) => link(name),
        None => format!("`{}`", full.trim_start_matches('.')),
    }
}

/// A link to a heading of the page.
fn link(name: &str) -> String {
    format!("[{name}](#{})", name.to_lowercase().replace('.', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTO: &str = r#"
// What is kept: a <box> or a `<lid>`.
syntax = "proto3";
package ledger.v1;
// Keeps.
service Keeper {
  // Keeps a | b
  // and tells.
  rpc Keep(KeepRequest) returns (stream Kept);
}
// What to keep.
message KeepRequest {
  // By number.
  map<string, Kept> by_name = 7;
  // Which.
  oneof which {
    // The kind.
    Kind kind = 2;
    // The count.
    uint32 count = 1;
  }
  // Maybe.
  optional bytes body = 3;
}
// What is kept.
message Kept {}
// Kinds.
enum Kind {
  // None.
  KIND_UNSPECIFIED = 0;
}
"#;

    struct OneFile(&'static str);

    impl protox::file::FileResolver for OneFile {
        fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
            protox::file::File::from_source(name, self.0)
        }
    }

    fn compiled(text: &'static str) -> FileDescriptorSet {
        let mut compiler = protox::Compiler::with_file_resolver(OneFile(text));
        compiler.include_source_info(true).open_file("ledger/v1/box.proto").expect("it compiles");
        compiler.file_descriptor_set()
    }

    #[test]
    fn everything_is_told_once_with_its_number_type_and_comment() {
        let (page, findings) = render(&compiled(PROTO));
        assert_eq!(findings, []);
        for line in [
            "| [Keeper](#keeper) | `proto/ledger/v1/box.proto` | Keep |",
            "What is kept: a &lt;box&gt; or a `<lid>`.",
            "| `Keep` | [KeepRequest](#keeprequest) | stream of [Kept](#kept) | Keeps a \\| b and tells. |",
            "| 1 | `count` | `uint32`, of `which` | The count. |",
            "| 2 | `kind` | [Kind](#kind), of `which` | The kind. |",
            "| 3 | `body` | optional `bytes` | Maybe. |",
            "| 7 | `by_name` | map of `string` to [Kept](#kept) | By number. |",
            "`which`: Which.",
            "It has no fields.",
            "| 0 | `KIND_UNSPECIFIED` | None. |",
        ] {
            assert_eq!(page.lines().filter(|other| *other == line).count(), 1, "{line}\n{page}");
        }
    }

    #[test]
    fn what_lacks_a_comment_is_found() {
        let text = "syntax = \"proto3\"; package ledger.v1; message Kept { bool is = 1; }";
        let (_, findings) = render(&compiled(text));
        let messages: Vec<String> = findings.into_iter().map(|finding| finding.message).collect();
        let names = ["ledger/v1/box.proto", "Kept", "Kept.is"];
        assert_eq!(messages, names.map(|name| format!("{name} has no comment")));
    }

    #[test]
    fn another_page_is_found() {
        let files = compiled(PROTO);
        let page = |text: String| TextFile { path: PAGE.into(), text };
        let (text, _) = render(&files);
        assert_eq!(check(&page(text.clone()), &files), []);
        assert_eq!(check(&page(text.replace("Maybe.", "Perhaps.")), &files).len(), 1);
    }
}
