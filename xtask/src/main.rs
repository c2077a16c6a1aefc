//! Entry point of `cargo xtask`: runs the repository checks and prints what they find.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program answers on its standard streams"
)]

use std::process::ExitCode;

use xtask::tidy;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments != ["tidy"] {
        eprintln!("usage: cargo xtask tidy");
        return ExitCode::from(2);
    }
    match tidy::run(&tidy::repository_root()) {
        Ok(findings) if findings.is_empty() => {
            println!("tidy: nothing to complain about");
            ExitCode::SUCCESS
        }
        Ok(findings) => {
            for finding in &findings {
                println!("{finding}");
            }
            println!("tidy: {} findings", findings.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("tidy: {error}");
            ExitCode::from(2)
        }
    }
}
