//! The node's own list of settings, as other checks need it: from a built binary, or read out of
//! the table in its source. Never a second copy of the list.

use std::path::Path;
use std::process::Command;

use crate::Error;
use crate::code::code_only;

/// The source file that holds the table.
pub const TABLE_PATH: &str = "src/config/settings.rs";

/// One setting of the node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Setting {
    /// Environment variable.
    pub env: String,
    /// Command line flag, without dashes; empty if there is none.
    pub flag: String,
    /// Default as written; empty if it is derived.
    pub default: String,
}

/// Reads the settings from the table in the source of the node.
///
/// Relies on the layout of the table only so far: each row has a field `env` holding a string, and
/// its other fields follow before the next `env`.
pub fn from_source(text: &str) -> Result<Vec<Setting>, Error> {
    let table = table_of(text);
    let table = table.ok_or_else(|| Error::Settings(format!("{TABLE_PATH} has no SETTINGS")))?;
    let rows = table.split("env: ").skip(1);
    let settings: Vec<Setting> = rows
        .map(|row| Setting {
            env: first_string(row).unwrap_or_default(),
            flag: field(row, "flag"),
            default: field(row, "default"),
        })
        .collect();
    if settings.is_empty() || settings.iter().any(|setting| setting.env.is_empty()) {
        return Err(Error::Settings(format!("{TABLE_PATH} has a row without a name")));
    }
    Ok(settings)
}

/// Asks a built node for its settings.
pub fn from_binary(binary: &Path) -> Result<Vec<Setting>, Error> {
    let output = Command::new(binary)
        .args(["config", "print", "--format", "json"])
        .env_clear()
        .output()
        .map_err(|source| Error::Read { path: binary.to_owned(), source })?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(Error::Settings(format!("{}: {stderr}", binary.display())));
    }
    from_json(&output.stdout)
}

/// Decodes the list that a node prints: an array of objects with `env`, `flag` and `default`.
pub fn from_json(bytes: &[u8]) -> Result<Vec<Setting>, Error> {
    let rows: Vec<serde_json::Value> =
        serde_json::from_slice(bytes).map_err(|error| Error::Settings(error.to_string()))?;
    let setting = |row: &serde_json::Value| {
        let field = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let flag = field("flag").trim_start_matches('-').to_owned();
        Setting { env: field("env"), flag, default: field("default") }
    };
    let settings: Vec<Setting> = rows.iter().map(setting).collect();
    if settings.is_empty() || settings.iter().any(|setting| setting.env.is_empty()) {
        return Err(Error::Settings("the list has a row without a name".to_owned()));
    }
    Ok(settings)
}

/// The text of the table. Its end is looked for in code only: a description may hold brackets.
fn table_of(text: &str) -> Option<&str> {
    const HEAD: &str = "SETTINGS: &[Setting]";
    let code = code_only(text);
    let start = code.find(HEAD)? + HEAD.len();
    let len = code[start..].find("];")?;
    Some(&text[start..start + len])
}

fn field(row: &str, name: &str) -> String {
    let value = row.split(&format!("{name}: ")).nth(1);
    let value = value.and_then(|rest| rest.split(['\n', '}']).next());
    value.and_then(first_string).unwrap_or_default().trim_start_matches('-').to_owned()
}

fn first_string(text: &str) -> Option<String> {
    text.split('"').nth(1).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen() -> Setting {
        Setting {
            env: "LEDGER_LISTEN_ADDR".into(),
            flag: "listen-addr".into(),
            default: "0.0.0.0:50051".into(),
        }
    }

    #[test]
    fn the_table_is_read_in_either_layout() {
        let text = r#"
            pub const SETTINGS: &[Setting] = &[
                Setting { env: "LEDGER_LISTEN_ADDR", flag: "listen-addr", key: "listen", default: "0.0.0.0:50051", doc: "Where." },
                Setting {
                    env: "LEDGER_PEERS",
                    flag: "--peers",
                    default: None,
                    doc: "Who.",
                },
            ];
            const OTHER: &[Setting] = &[Setting { env: "NO" }];
        "#;
        let peers =
            Setting { env: "LEDGER_PEERS".into(), flag: "peers".into(), default: String::new() };
        assert_eq!(from_source(text).unwrap(), [listen(), peers]);
    }

    #[test]
    fn brackets_in_a_description_do_not_end_the_table() {
        let text = r#"
            pub const SETTINGS: &[Setting] = &[
                Setting { env: "LEDGER_LISTEN_ADDR", flag: "listen-addr", default: "0.0.0.0:50051", doc: "[a-z]; 'x'];" },
                Setting { env: "LEDGER_PEERS", flag: "peers", default: "", doc: "Who." },
            ];
        "#;
        let settings = from_source(text).unwrap();
        assert_eq!(settings.len(), 2);
        assert_eq!(settings[0], listen());
    }

    #[test]
    fn a_source_without_a_table_is_an_error() {
        assert!(from_source("fn main() {}").is_err());
        assert!(from_source("const SETTINGS: &[Setting] = &[];").is_err());
    }

    #[test]
    fn the_printed_list_is_read() {
        let text =
            r#"[{"env":"LEDGER_LISTEN_ADDR","flag":"listen-addr","default":"0.0.0.0:50051"}]"#;
        assert_eq!(from_json(text.as_bytes()).unwrap(), [listen()]);
        assert!(from_json(b"[]").is_err());
        assert!(from_json(b"{}").is_err());
    }
}
