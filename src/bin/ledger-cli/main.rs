//! `ledger-cli`: the cluster from the command line.
//!
//! Answers go to standard output, progress and complaints to standard error. Exit codes: 0 it worked, 1 it
//! failed or could not be asked, 2 an answer or a file was checked and is not believed, 3 an audit could not be
//! made, 4 an audit left something out, 64 the arguments make no sense.

#![expect(clippy::print_stdout, reason = "answers of a command-line tool go to standard output")]
#![expect(clippy::print_stderr, reason = "complaints of a command-line tool go to standard error")]

mod args;
mod bulk;
mod commands;
mod failure;
mod names;
mod output;
mod session;
mod workload;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Arguments, Command};
use crate::failure::Failure;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // A closed pipe is all that can go wrong, and there is nobody left to tell.
            let _ = error.print();
            return match error.use_stderr() {
                true => ExitCode::from(failure::USAGE),
                false => ExitCode::SUCCESS,
            };
        }
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let threads = match &arguments.command {
        // No network, no runtime.
        Command::Verify(verify) => return commands::verify::run(verify, &arguments.global),
        Command::Workload(args::WorkloadCommand::Run(options)) => options.threads,
        _ => 1,
    };
    let mut runtime = if threads > 1 {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = runtime.worker_threads(threads.max(1)).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::system("cannot start the runtime", &error))?;
    runtime.block_on(commands::dispatch(arguments))
}
