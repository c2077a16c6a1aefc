//! How answers are shown: as a table for people or as JSON for programs.

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Value, json};

/// The form of answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// One JSON document, or one a line where answers stream.
    Json,
}

/// Shows rows under headings, or the same as the JSON given.
pub(crate) fn rows(format: Format, headings: &[&str], rows: Vec<Vec<String>>, json: &Value) {
    match format {
        Format::Json => println!("{json:#}"),
        Format::Table => println!("{}", table(headings, rows)),
    }
}

/// Shows named facts, one a line, or the same as JSON.
pub(crate) fn facts(format: Format, facts: &[(&str, String)], json: &Value) {
    match format {
        Format::Json => println!("{json:#}"),
        Format::Table => {
            let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            for (name, value) in facts {
                println!("{name:width$}  {value}");
            }
        }
    }
}

/// Shows one item of a stream: a line of text, or of JSON.
pub(crate) fn line(format: Format, text: &str, json: &Value) {
    match format {
        Format::Json => println!("{json}"),
        Format::Table => println!("{text}"),
    }
}

fn table(headings: &[&str], rows: Vec<Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    table.add_rows(rows);
    table
}

/// A value for people: as text if it is text, else as hexadecimal digits.
pub(crate) fn value_text(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') => {
            text.to_owned()
        }
        _ => format!("0x{}", hex::encode(value)),
    }
}

/// A value for programs: exactly one of `value` and `value_hex` is set.
pub(crate) fn value_json(value: &[u8]) -> Value {
    match std::str::from_utf8(value) {
        Ok(text) => json!({ "value": text }),
        Err(_) => json!({ "value_hex": hex::encode(value) }),
    }
}
