//! One item a line, as JSON or as CSV: reading, checking, writing.
//!
//! Must accept exactly what the cluster accepts, so that a file that was checked is not refused half-way.

use std::io::Write;

use ledger_client::{Entity, NewEntity, Relationship, item_lines};
use ledger_proto::convert::ConvertError;
use ledger_types::limits::VALUE_BYTES_MAX;
use ledger_types::{InvalidInput, StateKey, check_client_string};
use serde_json::{Map, Value};

use crate::args::bulk::FileFormat;

/// The columns of CSV, which may be its first line.
const COLUMNS: [&str; 3] = ["resource", "relation", "subject"];

/// One item of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Item {
    /// An entity.
    Entity(NewEntity),
    /// A relationship.
    Relationship(Relationship),
}

/// Why a line is no item.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    /// The field, or `line` if it is no object or row at all.
    pub(crate) field: String,
    /// What is wrong with it.
    pub(crate) problem: String,
}

impl Fault {
    /// Something is wrong with a field.
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Fault {
        Fault { field: field.into(), problem: problem.into() }
    }
}

impl From<InvalidInput> for Fault {
    fn from(error: InvalidInput) -> Fault {
        let problem = error.to_string();
        Fault::new(ConvertError::from(error).field(), problem)
    }
}

impl Item {
    /// Bytes of its strings and value.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Item::Entity(entity) => entity.key.len() + entity.value.len(),
            Item::Relationship(one) => one.resource.len() + one.relation.len() + one.subject.len(),
        }
    }
}

/// Reads a line without its end. `None` for a line that says nothing: an empty one, or the heading of CSV.
pub(crate) fn read(format: FileFormat, number: u64, line: &[u8]) -> Result<Option<Item>, Fault> {
    let text = std::str::from_utf8(line).map_err(|_| Fault::new("line", "is not UTF-8"))?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    match format {
        FileFormat::Jsonl => read_json(text).map(Some),
        FileFormat::Csv => {
            let columns = split_csv(text)?;
            if number == 1 && columns == COLUMNS {
                return Ok(None);
            }
            if columns.len() != COLUMNS.len() {
                let problem = format!("has {} columns and must have 3", columns.len());
                return Err(Fault::new("line", problem));
            }
            let mut columns = columns.into_iter();
            let mut next = || columns.next().expect("counted above");
            relationship(next(), next(), next()).map(Some)
        }
    }
}

fn relationship(resource: String, relation: String, subject: String) -> Result<Item, Fault> {
    StateKey::check_relationship(&resource, &relation, &subject)?;
    Ok(Item::Relationship(Relationship { resource, relation, subject }))
}

fn read_json(text: &str) -> Result<Item, Fault> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| Fault::new("line", error.to_string()))?;
    let Value::Object(mut fields) = value else {
        return Err(Fault::new("line", "is not a JSON object"));
    };
    let item = if fields.contains_key("key") {
        // What `list` and `export` tell beside the entity is not part of it.
        fields.remove("version");
        entity(&mut fields)?
    } else if COLUMNS.iter().any(|name| fields.contains_key(*name)) {
        let [resource, relation, subject] = COLUMNS.map(|name| text_field(&mut fields, name));
        relationship(resource?, relation?, subject?)?
    } else {
        return Err(Fault::new("line", "has neither key nor resource, relation and subject"));
    };
    match fields.keys().next() {
        Some(unknown) => Err(Fault::new(unknown, "is not a field of an item")),
        None => Ok(item),
    }
}

fn entity(fields: &mut Map<String, Value>) -> Result<Item, Fault> {
    let key = text_field(fields, "key")?;
    check_client_string("key", &key)?;
    let value = match (fields.contains_key("value"), fields.contains_key("value_hex")) {
        (true, false) => text_field(fields, "value")?.into_bytes(),
        (false, true) => hex::decode(text_field(fields, "value_hex")?)
            .map_err(|error| Fault::new("value_hex", error.to_string()))?,
        (true, true) => return Err(Fault::new("value_hex", "is set beside value")),
        (false, false) => return Err(Fault::new("value", "is missing")),
    };
    if value.len() > VALUE_BYTES_MAX {
        let problem = format!("has {} bytes, the limit is {VALUE_BYTES_MAX}", value.len());
        return Err(Fault::new("value", problem));
    }
    let expires_at = match fields.remove("expires_at") {
        None | Some(Value::Null) => 0,
        Some(value) => value
            .as_u64()
            .ok_or_else(|| Fault::new("expires_at", "is not a number of Unix seconds"))?,
    };
    Ok(Item::Entity(NewEntity { key, value, expires_at }))
}

fn text_field(fields: &mut Map<String, Value>, name: &str) -> Result<String, Fault> {
    match fields.remove(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(Fault::new(name, "is not a text")),
        None => Err(Fault::new(name, "is missing")),
    }
}

/// Splits a row of CSV (RFC 4180). A field in quotes may hold commas and, doubled, quotes; no line ends.
fn split_csv(text: &str) -> Result<Vec<String>, Fault> {
    let fault = |number: usize, problem: &str| {
        let name = COLUMNS
            .get(number)
            .map_or_else(|| format!("column {}", number + 1), |name| (*name).to_owned());
        Fault::new(name, problem)
    };
    let mut columns = Vec::with_capacity(COLUMNS.len());
    let mut rest = text;
    loop {
        let number = columns.len();
        let Some(quoted) = rest.strip_prefix('"') else {
            let (column, left) = match rest.split_once(',') {
                Some((column, left)) => (column, Some(left)),
                None => (rest, None),
            };
            if column.contains('"') {
                return Err(fault(number, "has a quote in a field that does not begin with one"));
            }
            columns.push(column.to_owned());
            match left {
                Some(left) => rest = left,
                None => return Ok(columns),
            }
            continue;
        };
        let mut column = String::new();
        let mut left = quoted;
        loop {
            let (part, behind) =
                left.split_once('"').ok_or_else(|| fault(number, "has no closing quote"))?;
            column.push_str(part);
            left = behind;
            let Some(doubled) = left.strip_prefix('"') else { break };
            column.push('"');
            left = doubled;
        }
        columns.push(column);
        match left.strip_prefix(',') {
            Some(behind) => rest = behind,
            None if left.is_empty() => return Ok(columns),
            None => return Err(fault(number, "has something behind its closing quote")),
        }
    }
}

/// Writes an entity as a line of JSON.
pub(crate) fn write_entity(out: &mut impl Write, entity: &Entity) -> std::io::Result<()> {
    item_lines::write_entity(out, &entity.key, &entity.value, entity.expires_at)
}

/// Writes a relationship as a line. Errors: a line end in a field, which CSV cannot hold here.
pub(crate) fn write_relationship(
    out: &mut impl Write,
    format: FileFormat,
    one: &Relationship,
) -> Result<(), WriteFault> {
    match format {
        FileFormat::Jsonl => {
            item_lines::write_relationship(out, &one.resource, &one.relation, &one.subject)?;
        }
        FileFormat::Csv => {
            for (number, field) in [&one.resource, &one.relation, &one.subject].iter().enumerate() {
                if field.contains(['\n', '\r']) {
                    return Err(WriteFault::LineEnd(COLUMNS[number]));
                }
                if number > 0 {
                    out.write_all(b",")?;
                }
                // The quotes keep a row of the column names, and one of blanks, from being taken for nothing.
                let is_plain = !field.contains(['"', ',']) && field.trim() == **field;
                match is_plain && !COLUMNS.contains(&field.as_str()) {
                    true => out.write_all(field.as_bytes())?,
                    false => write!(out, "\"{}\"", field.replace('"', "\"\""))?,
                }
            }
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}

/// Why an item could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteFault {
    /// The field has a line end.
    #[error("a {0} has a line end, which CSV cannot hold here: export as jsonl")]
    LineEnd(&'static str),
    /// The file does not take it.
    #[error(transparent)]
    File(#[from] std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(format: FileFormat, line: &str) -> (String, String) {
        let Fault { field, problem } = read(format, 2, line.as_bytes()).unwrap_err();
        (field, problem)
    }

    fn tie(resource: &str, relation: &str, subject: &str) -> Relationship {
        Relationship {
            resource: resource.to_owned(),
            relation: relation.to_owned(),
            subject: subject.to_owned(),
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let odd = [
            tie("doc:1", "viewer", "user:a"),
            tie("a,b", "say \"x\"", "\"quoted\""),
            tie(" blank ", "resource", "subject"),
            tie("resource", "relation", "subject"),
        ];
        for one in odd {
            for format in [FileFormat::Csv, FileFormat::Jsonl] {
                let mut line = Vec::new();
                write_relationship(&mut line, format, &one).unwrap();
                assert_eq!(line.pop(), Some(b'\n'));
                let number = if one.resource == "resource" { 2 } else { 1 };
                let found = read(format, number, &line).unwrap();
                assert_eq!(found, Some(Item::Relationship(one.clone())), "{format:?}");
            }
        }
        for (value, expires_at) in [(b"text".to_vec(), 0), (vec![0xff, 0], 9), (Vec::new(), 0)] {
            let entity =
                Entity { key: "k\n\"".to_owned(), value: value.clone(), expires_at, version: 3 };
            let mut line = Vec::new();
            write_entity(&mut line, &entity).unwrap();
            line.pop();
            let wanted = NewEntity { key: entity.key, value, expires_at };
            assert_eq!(read(FileFormat::Jsonl, 1, &line).unwrap(), Some(Item::Entity(wanted)));
        }
        let broken = tie("a\nb", "r", "s");
        let refused = write_relationship(&mut Vec::new(), FileFormat::Csv, &broken);
        assert!(matches!(refused, Err(WriteFault::LineEnd("resource"))));
    }

    #[test]
    fn a_heading_and_empty_lines_are_no_items() {
        assert_eq!(read(FileFormat::Csv, 1, b"resource,relation,subject").unwrap(), None);
        assert!(read(FileFormat::Csv, 2, b"resource,relation,subject").unwrap().is_some());
        assert_eq!(read(FileFormat::Jsonl, 4, b"  ").unwrap(), None);
    }

    #[test]
    fn a_bad_line_names_its_field() {
        use FileFormat::{Csv, Jsonl};
        assert_eq!(fault(Csv, "a,b").0, "line");
        assert_eq!(fault(Csv, "a,b,c,d").0, "line");
        assert_eq!(fault(Csv, "a,,c").0, "relation");
        assert_eq!(fault(Csv, "a,b,\"c").0, "subject");
        assert_eq!(fault(Csv, "\"a\"x,b,c").0, "resource");
        assert_eq!(fault(Csv, "a,b\"c,d").0, "relation");
        assert_eq!(fault(Csv, &format!("a,b,{}", "s".repeat(1025))).0, "subject");
        assert_eq!(fault(Jsonl, "{").0, "line");
        assert_eq!(fault(Jsonl, "[1]").0, "line");
        assert_eq!(fault(Jsonl, "{\"value\":\"x\"}").0, "line");
        assert_eq!(fault(Jsonl, "{\"key\":\"k\"}").0, "value");
        assert_eq!(fault(Jsonl, "{\"key\":3,\"value\":\"x\"}").0, "key");
        assert_eq!(fault(Jsonl, "{\"key\":\"\",\"value\":\"x\"}").0, "key");
        assert_eq!(fault(Jsonl, "{\"key\":\"k\",\"value_hex\":\"0g\"}").0, "value_hex");
        assert_eq!(
            fault(Jsonl, "{\"key\":\"k\",\"value\":\"\",\"expires_at\":-1}").0,
            "expires_at"
        );
        assert_eq!(fault(Jsonl, "{\"resource\":\"r\",\"subject\":\"s\"}").0, "relation");
        assert_eq!(fault(Jsonl, "{\"key\":\"k\",\"value\":\"\",\"vlaue\":1}").0, "vlaue");
        assert_eq!(read(Jsonl, 1, &[0xff]).unwrap_err().field, "line");
    }
}
