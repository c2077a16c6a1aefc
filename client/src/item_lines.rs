//! Items as lines of JSON: the form in which a vault is exported, imported and kept in snapshot files.
//!
//! Owns how an item is written. Must never leave anything out that an import needs.

use std::io::{self, Write};

use serde::Serialize;

/// An entity; exactly one of `value` and `value_hex` is set.
#[derive(Serialize)]
struct EntityLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
}

#[derive(Serialize)]
struct RelationshipLine<'a> {
    relation: &'a str,
    resource: &'a str,
    subject: &'a str,
}

/// Writes an entity as a line: `value` if that is text, else `value_hex`, and `expires_at` (Unix seconds) unless it
/// is 0, which means never. Errors: those of `out`.
pub fn write_entity(
    out: &mut impl Write,
    key: &str,
    value: &[u8],
    expires_at: u64,
) -> io::Result<()> {
    let text = std::str::from_utf8(value).ok();
    let line = EntityLine {
        expires_at: (expires_at != 0).then_some(expires_at),
        key,
        value: text,
        value_hex: text.is_none().then(|| hex::encode(value)),
    };
    write_line(out, &line)
}

/// Writes a relationship as a line. Errors: those of `out`.
pub fn write_relationship(
    out: &mut impl Write,
    resource: &str,
    relation: &str,
    subject: &str,
) -> io::Result<()> {
    write_line(out, &RelationshipLine { relation, resource, subject })
}

fn write_line(out: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_has_always_been_exported() {
        let mut out = Vec::new();
        write_entity(&mut out, "k\n\"", b"text", 0).unwrap();
        write_entity(&mut out, "k", &[0xff, 0], 9).unwrap();
        write_relationship(&mut out, "doc:1", "viewer", "user:a").unwrap();
        let lines = "{\"key\":\"k\\n\\\"\",\"value\":\"text\"}\n\
                     {\"expires_at\":9,\"key\":\"k\",\"value_hex\":\"ff00\"}\n\
                     {\"relation\":\"viewer\",\"resource\":\"doc:1\",\"subject\":\"user:a\"}\n";
        assert_eq!(String::from_utf8(out).unwrap(), lines);
    }
}
