//! What the demonstration tells its user.
//!
//! Owns standard output and the forms of numbers. Must never decide whether something held.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};

/// Writes the story line by line.
#[derive(Debug)]
pub(super) struct Narrator {
    out: io::Stdout,
    colour: bool,
    steps: usize,
}

impl Narrator {
    /// Tells the story on standard output, with colours if that is a terminal.
    pub(super) fn new() -> Narrator {
        let out = io::stdout();
        let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Narrator { out, colour, steps: 0 }
    }

    /// Begins a numbered part.
    pub(super) fn step(&mut self, title: impl Display) {
        self.steps += 1;
        let text = format!("{}. {title}", self.steps);
        let text = self.paint("1", &text);
        self.line(format_args!("\n{text}"));
    }

    /// Tells a fact.
    pub(super) fn fact(&mut self, text: impl Display) {
        self.line(format_args!("   {text}"));
    }

    /// Tells something that was checked and held.
    pub(super) fn held(&mut self, text: impl Display) {
        let mark = self.paint("32", "ok");
        self.line(format_args!("   {mark} {text}"));
    }

    /// Tells why the demonstration ends early.
    pub(super) fn failed(&mut self, text: impl Display) {
        let mark = self.paint("31", "FAILED");
        self.line(format_args!("\n{mark}: {text}"));
    }

    /// Tells a line without any form.
    pub(super) fn line(&mut self, text: impl Display) {
        // Nobody is left to be told that standard output is closed.
        let _ = writeln!(self.out, "{text}");
        let _ = self.out.flush();
    }

    /// Tells name and value pairs as a table.
    pub(super) fn table(&mut self, rows: &[(String, String)]) {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY);
        for (name, value) in rows {
            table.add_row([name, value]);
        }
        if let Some(values) = table.column_mut(1) {
            values.set_cell_alignment(CellAlignment::Right);
        }
        self.line(format_args!("\n{table}"));
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Default for Narrator {
    fn default() -> Narrator {
        Narrator::new()
    }
}

/// A count with its thousands apart.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A rate, rounded.
pub(super) fn rate(per_second: f64) -> String {
    if per_second.is_finite() && per_second >= 0.0 {
        count(per_second.round() as u64)
    } else {
        "-".to_owned()
    }
}

/// Milliseconds with as many digits as matter.
pub(super) fn milliseconds(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.2} ms") } else { format!("{ms:.0} ms") }
}

/// Seconds with one digit.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Mebibytes.
pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / (1024.0 * 1024.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1 000", "1 234 567"]);
        assert_eq!(rate(12_345.6), "12 346");
        assert_eq!(rate(f64::NAN), "-");
        assert_eq!(milliseconds(Duration::from_micros(1_234)), "1.23 ms");
        assert_eq!(milliseconds(Duration::from_millis(1_234)), "1234 ms");
        assert_eq!(mebibytes(3 * 1024 * 1024), "3 MiB");
    }
}
