//! The page for operators against the node's settings: one row for each, with its variable, flag and
//! default, and no row for what is no setting. Judges the text between two marks; the meanings are for
//! people.

use crate::settings::Setting;
use crate::{Finding, TextFile};

/// The page with the table.
pub const PAGE: &str = "docs/operations.md";
/// What the table begins after.
const BEGIN: &str = "<!-- settings:begin -->";
/// What it ends before.
const END: &str = "<!-- settings:end -->";
/// Rows that are no settings: names of the columns and the line below them.
const HEAD_ROWS: usize = 2;

/// Checks the table of `page` against the settings of the node.
pub fn check(page: &TextFile, settings: &[Setting]) -> Vec<Finding> {
    let Some(table) = table_of(&page.text) else {
        return vec![Finding::new(&page.path, format!("has no table between {BEGIN} and {END}"))];
    };
    let rows: Vec<Vec<&str>> = table.lines().filter_map(cells).skip(HEAD_ROWS).collect();
    let mut messages = Vec::new();
    for setting in settings {
        let name = format!("`{}`", setting.env);
        match rows.iter().filter(|row| row[0] == name).collect::<Vec<_>>()[..] {
            [] => messages.push(format!("has no row for {}", setting.env)),
            [row] => messages.extend(row_messages(row, setting)),
            _ => messages.push(format!("has more than one row for {}", setting.env)),
        }
    }
    for row in &rows {
        if !settings.iter().any(|setting| row[0] == format!("`{}`", setting.env)) {
            messages.push(format!("has a row for {}, which is no setting", row[0]));
        }
    }
    messages.into_iter().map(|message| Finding::new(&page.path, message)).collect()
}

fn row_messages(row: &[&str], setting: &Setting) -> Vec<String> {
    let [_, flag, default, meaning] = row else {
        return vec![format!("the row of {} has not four columns", setting.env)];
    };
    let mut messages = Vec::new();
    if *flag != format!("`--{}`", setting.flag) {
        messages.push(format!("{} has the flag --{}, not {flag}", setting.env, setting.flag));
    }
    // A derived default is told in words.
    let is_told = match setting.default.as_str() {
        "" => !default.is_empty(),
        written => *default == format!("`{written}`"),
    };
    if !is_told {
        messages
            .push(format!("{} has the default {:?}, not {default}", setting.env, setting.default));
    }
    if meaning.is_empty() {
        messages.push(format!("{} has no meaning", setting.env));
    }
    messages
}

fn table_of(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once(BEGIN)?;
    rest.split_once(END).map(|(table, _)| table)
}

/// The cells of a table's row; `None` for a line of another kind.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Vec<Setting> {
        [("LEDGER_SHARDS", "shards", "8"), ("LEDGER_PEERS", "peers", "")]
            .map(|(env, flag, default)| Setting {
                env: env.into(),
                flag: flag.into(),
                default: default.into(),
            })
            .into()
    }

    fn messages(rows: &str) -> Vec<String> {
        let head = "| variable | flag | default | meaning |\n| --- | --- | --- | --- |";
        let text = format!("# Page\n{BEGIN}\n{head}\n{rows}\n{END}\n");
        let page = TextFile { path: PAGE.into(), text };
        check(&page, &settings()).into_iter().map(|finding| finding.message).collect()
    }

    const SHARDS: &str = "| `LEDGER_SHARDS` | `--shards` | `8` | How many |";
    const PEERS: &str = "| `LEDGER_PEERS` | `--peers` | asked of DNS | Who |";

    #[test]
    fn a_row_for_each_setting_passes() {
        assert_eq!(messages(&format!("{SHARDS}\n{PEERS}")), [""; 0]);
    }

    #[test]
    fn a_missing_and_a_left_over_row_are_found() {
        assert_eq!(messages(SHARDS), ["has no row for LEDGER_PEERS"]);
        let other = PEERS.replace("LEDGER_PEERS", "LEDGER_PEER");
        assert_eq!(messages(&format!("{SHARDS}\n{PEERS}\n{other}")).len(), 1);
        assert_eq!(messages(&format!("{SHARDS}\n{PEERS}\n{PEERS}")).len(), 1);
    }

    #[test]
    fn another_flag_or_default_is_found() {
        for (right, wrong) in [("--shards", "--shard"), ("`8`", "`9`"), ("How many", "")] {
            let row = SHARDS.replace(right, wrong);
            assert_eq!(messages(&format!("{row}\n{PEERS}")).len(), 1, "{row}");
        }
        let untold = PEERS.replace("asked of DNS", "");
        assert_eq!(messages(&format!("{SHARDS}\n{untold}")).len(), 1);
    }

    #[test]
    fn a_page_without_the_table_is_found() {
        let page = TextFile { path: PAGE.into(), text: "# Page\n".into() };
        assert_eq!(check(&page, &settings()).len(), 1);
    }
}
