//! Entry point of `cargo xtask`: runs the repository checks and prints what they find, makes the reference of the API anew, or
//! starts a run of chaos or of the simulator.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program answers on its standard streams"
)]

use std::process::{Command, ExitCode};

use xtask::{chaos, tidy};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((command, [])) if command == "tidy" => check(),
        Some((command, [])) if command == "api-reference" => write_api_reference(),
        Some((command, rest)) if command == "chaos" => do_chaos(rest),
        Some((command, rest)) if command == "sim" => simulate(rest),
        _ => {
            eprintln!("usage: cargo xtask tidy\n{}", chaos::USAGE.replace("usage:", "      "));
            eprintln!("       cargo xtask api-reference");
            eprintln!("       cargo xtask sim [--seeds N] [--seed S] ...");
            ExitCode::from(2)
        }
    }
}

/// Runs the simulator, built for speed, with the given arguments; its code is ours.
fn simulate(arguments: &[String]) -> ExitCode {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = ["run", "--quiet", "--release", "--package", "ledger-sim", "--"];
    match Command::new(cargo).args(built).args(arguments).status() {
        Ok(status) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            ExitCode::from(code.unwrap_or(2))
        }
        Err(error) => {
            eprintln!("sim: cargo cannot be started: {error}");
            ExitCode::from(2)
        }
    }
}

fn check() -> ExitCode {
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

/// Makes the page of the public API anew.
fn write_api_reference() -> ExitCode {
    match tidy::write_api_reference(&tidy::repository_root()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("api-reference: {error}");
            ExitCode::FAILURE
        }
    }
}

fn do_chaos(arguments: &[String]) -> ExitCode {
    let root = tidy::repository_root();
    let mixes = match tidy::read(&root, chaos::MIXES_PATH) {
        Ok(file) => chaos::mix_names(&file),
        Err(error) => {
            eprintln!("chaos: {error}");
            return ExitCode::from(2);
        }
    };
    let wanted = match chaos::parse(arguments, &mixes) {
        Ok(wanted) => wanted,
        Err(refusal) => {
            eprintln!("chaos: {refusal}\n{}", chaos::USAGE);
            return ExitCode::from(2);
        }
    };
    match chaos::run(&root, &wanted) {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error}");
            ExitCode::FAILURE
        }
    }
}
