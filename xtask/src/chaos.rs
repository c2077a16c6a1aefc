//! `cargo xtask chaos`: real servers under faults for as long as wanted.
//!
//! Owns the command line and how the test binary is told. What a mix is and what is checked belongs to `tests/chaos/`.

use std::path::Path;
use std::process::{Command, ExitStatus};

use crate::{Error, TextFile};

/// The file that has the mixes.
pub const MIXES_PATH: &str = "tests/chaos/mixes.rs";
/// How the command is called.
pub const USAGE: &str = "usage: cargo xtask chaos --minutes N --mix NAME [--seed S]";
/// The most minutes of a run: a day.
const MINUTES_MAX: u32 = 24 * 60;
/// The test that does it.
const TEST: &str = "chaos::soak::soak";

/// What a run is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Minutes of rounds.
    pub minutes: u32,
    /// Name of the mix of faults.
    pub mix: String,
    /// The seed of the first round; drawn if there is none.
    pub seed: Option<u64>,
}

/// The names of all mixes, as their table in the source tells.
pub fn mix_names(file: &TextFile) -> Vec<String> {
    let table = file.text.split_once("MIXES: &[Mix] = &[").map_or("", |(_, table)| table);
    let table = table.split_once("\n];").map_or(table, |(table, _)| table);
    let names = table.split("name: \"").skip(1).filter_map(|rest| rest.split_once('"'));
    names.map(|(name, _)| name.to_owned()).collect()
}

/// Reads the arguments after `chaos`. Errors: what is wrong with them, in words.
pub fn parse(arguments: &[String], mixes: &[String]) -> Result<Wanted, String> {
    let (mut minutes, mut mix, mut seed) = (None, None, None);
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        let value = rest.next().ok_or_else(|| format!("{name} needs a value"))?;
        let taken = match name.as_str() {
            "--minutes" => minutes.replace(parse_minutes(value)?).is_some(),
            "--mix" => mix.replace(parse_mix(value, mixes)?).is_some(),
            "--seed" => seed.replace(parse_seed(value)?).is_some(),
            _ => return Err(format!("unknown argument {name}")),
        };
        if taken {
            return Err(format!("{name} is given twice"));
        }
    }
    let minutes = minutes.ok_or("--minutes is missing")?;
    let mix = mix.ok_or_else(|| format!("--mix is missing, one of {}", mixes.join(", ")))?;
    Ok(Wanted { minutes, mix, seed })
}

fn parse_minutes(value: &str) -> Result<u32, String> {
    let minutes = value.parse().ok().filter(|minutes| (1..=MINUTES_MAX).contains(minutes));
    minutes.ok_or_else(|| format!("--minutes takes a number from 1 to {MINUTES_MAX}, not {value}"))
}

fn parse_mix(value: &str, mixes: &[String]) -> Result<String, String> {
    let known = mixes.iter().find(|mix| *mix == value).cloned();
    known.ok_or_else(|| format!("--mix takes one of {}, not {value}", mixes.join(", ")))
}

fn parse_seed(value: &str) -> Result<u64, String> {
    let wrong = |_| format!("--seed takes a number below 2 to the power of 64, not {value}");
    value.parse().map_err(wrong)
}

/// Builds the test binary and lets it run; what it prints goes to our own streams.
pub fn run(root: &Path, wanted: &Wanted) -> Result<ExitStatus, Error> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root)
        .args(["test", "--release", "--workspace", "--locked"])
        .args(["--features", "ledger/failpoints", "--test", "chaos", "--"])
        .args(["--ignored", "--exact", "--nocapture", TEST])
        .env("LEDGER_CHAOS_MIX", &wanted.mix)
        .env("LEDGER_CHAOS_MINUTES", wanted.minutes.to_string());
    match wanted.seed {
        Some(seed) => command.env("LEDGER_CHAOS_SEED", seed.to_string()),
        None => command.env_remove("LEDGER_CHAOS_SEED"),
    };
    command.status().map_err(|source| Error::Start { program: "cargo".to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Wanted, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&arguments, &["kill".to_owned(), "all".to_owned()])
    }

    #[test]
    fn good_arguments_are_taken_in_any_order() {
        let wanted = parse_line("--mix all --minutes 3").expect("good");
        assert_eq!(wanted, Wanted { minutes: 3, mix: "all".to_owned(), seed: None });
        let wanted =
            parse_line("--seed 18446744073709551615 --minutes 1 --mix kill").expect("good");
        assert_eq!(wanted.seed, Some(u64::MAX));
    }

    #[test]
    fn bad_arguments_are_named() {
        for (line, words) in [
            ("", "--minutes is missing"),
            ("--minutes 3", "--mix is missing, one of kill, all"),
            ("--minutes", "--minutes needs a value"),
            ("--minutes 0 --mix all", "from 1 to 1440, not 0"),
            ("--minutes 1441 --mix all", "not 1441"),
            ("--minutes three --mix all", "not three"),
            ("--minutes 3 --mix some", "one of kill, all, not some"),
            ("--minutes 3 --mix all --seed -1", "not -1"),
            ("--minutes 3 --mix all --mix kill", "given twice"),
            ("--minutes 3 --mix all --fast yes", "unknown argument --fast"),
        ] {
            let refusal = parse_line(line).expect_err(line);
            assert!(refusal.contains(words), "{line}: {refusal}");
        }
    }

    #[test]
    fn names_come_from_the_table_only() {
        let text = "Mix { name: \"other\" }\nconst MIXES: &[Mix] = &[\n    Mix { name: \"kill\", a },\n    \
                    Mix {\n        name: \"all\",\n    },\n];\nfn name() { name: \"no\" }\n";
        let file = TextFile { path: MIXES_PATH.into(), text: text.into() };
        assert_eq!(mix_names(&file), ["kill", "all"]);
    }
}
