//! Files of actions: one line of JSON for the run's options, then one for each action.
//!
//! Owns their format and its errors. Must never touch a file itself.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::actions::{Act, Action};
use crate::run::with_end;
use crate::world::{Options, Sabotage};

/// Version of the format.
const VERSION: u32 = 1;
/// Most actions in a file.
const ACTIONS_MAX: usize = 1_000_000;

/// Why a text is no list of actions.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// A line cannot be read.
    #[error("line {line}: {source}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// Why not.
        source: serde_json::Error,
    },
    /// It was written by another version.
    #[error("its version is {0}, this program reads version {VERSION}")]
    Version(u32),
    /// It names a sabotage that there is not.
    #[error("there is no sabotage \"{0}\"")]
    Sabotage(String),
    /// The times go back.
    #[error("line {line} is earlier than the one before")]
    Order {
        /// Counted from 1.
        line: usize,
    },
    /// Mending is not the last action.
    #[error("line {line}: only the last action may be \"heal\"")]
    Heal {
        /// Counted from 1.
        line: usize,
    },
    /// There are too many lines.
    #[error("it has more than {ACTIONS_MAX} actions")]
    TooLong,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    seed: u64,
    events: u64,
    #[serde(default)]
    sabotage: Option<String>,
    #[serde(default)]
    is_blind: bool,
}

/// The text of a run's options and actions.
pub fn write(options: &Options, actions: &[Action]) -> String {
    let header = Header {
        version: VERSION,
        seed: options.seed,
        events: options.events,
        sabotage: options.sabotage.map(|sabotage| sabotage.name().to_owned()),
        is_blind: options.is_blind,
    };
    let line = |value: Result<String, serde_json::Error>| value.expect("plain data") + "\n";
    let mut text = line(serde_json::to_string(&header));
    text.extend(actions.iter().map(|action| line(serde_json::to_string(action))));
    text
}

/// Reads what [`write()`] wrote.
pub fn read(text: &str) -> Result<(Options, Vec<Action>), ReplayError> {
    let mut lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let (line, first) = lines.next().ok_or(ReplayError::Empty)?;
    let header: Header =
        serde_json::from_str(first).map_err(|source| ReplayError::Line { line, source })?;
    if header.version != VERSION {
        return Err(ReplayError::Version(header.version));
    }
    let named = |name: String| {
        let found = Sabotage::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, sabotage)| *sabotage).ok_or(ReplayError::Sabotage(name))
    };
    let sabotage = header.sabotage.map(named).transpose()?;
    let mut actions: Vec<Action> = Vec::new();
    for (line, text) in lines {
        let action: Action =
            serde_json::from_str(text).map_err(|source| ReplayError::Line { line, source })?;
        if let Some(last) = actions.last() {
            if last.act == Act::Heal {
                return Err(ReplayError::Heal { line: line - 1 });
            }
            if action.at_us < last.at_us {
                return Err(ReplayError::Order { line });
            }
        }
        if actions.len() == ACTIONS_MAX {
            return Err(ReplayError::TooLong);
        }
        actions.push(action);
    }
    let Header { seed, events, is_blind, .. } = header;
    let options = Options { seed, events, sabotage, is_blind, keeps_trace: false };
    Ok((options, with_end(actions, 0)))
}
