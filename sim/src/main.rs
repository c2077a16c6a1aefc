//! `ledger-sim`: runs seeds, or one list of actions, and tells what came of them.
//!
//! Owns the command line, the files and the real clock. Ends with 0 if every invariant held, with 1 if one was
//! broken, and with 2 if it was asked for something that cannot be done.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program answers on its standard streams"
)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use ledger_sim::{Action, Counts, Options, Outcome, Sabotage, replay, run, shrink};

/// Simulates clusters from seeds and checks what must hold after every event.
#[derive(Parser)]
#[command(name = "ledger-sim", version)]
struct Arguments {
    /// Seeds to run, one after the other.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Run this seed only, or the first of those asked for with --seeds.
    #[arg(long)]
    seed: Option<u64>,
    /// Events of each seed before everything is mended.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    events: u64,
    /// Run the actions of this file instead.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "seed", "events", "sabotage", "blind"])]
    replay: Option<PathBuf>,
    /// Break a part on purpose: early-acknowledgement, lost-hard-state, stale-read or wrong-snapshot-row.
    #[arg(long, value_name = "NAME", value_parser = sabotage)]
    sabotage: Option<Sabotage>,
    /// Judge only by what clients are told and by what replicas apply.
    #[arg(long)]
    blind: bool,
    /// Write the actions of a failure here instead of to sim-<seed>.jsonl.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Print the last events of a run, also of one in which everything held.
    #[arg(long)]
    trace: bool,
}

fn sabotage(name: &str) -> Result<Sabotage, String> {
    let found = Sabotage::ALL.iter().find(|(known, _)| *known == name);
    let names: Vec<&str> = Sabotage::ALL.iter().map(|(name, _)| *name).collect();
    found.map(|(_, sabotage)| *sabotage).ok_or(format!("it is one of {}", names.join(", ")))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match &arguments.replay {
        Some(path) => replay_file(path, &arguments),
        None => run_seeds(&arguments),
    }
}

fn replay_file(path: &Path, arguments: &Arguments) -> ExitCode {
    let text = match read(path) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("cannot read {}: {error}", path.display());
            return ExitCode::from(2);
        }
    };
    let (mut options, actions) = match replay::read(&text) {
        Ok(read) => read,
        Err(error) => {
            eprintln!("{} is no list of actions: {error}", path.display());
            return ExitCode::from(2);
        }
    };
    options.keeps_trace = true;
    let outcome = run(&options, Some(&actions));
    println!("seed {}, {} actions, {} events", options.seed, actions.len(), outcome.events);
    if arguments.trace || outcome.violation.is_some() {
        print_trace(&outcome);
    }
    match &outcome.violation {
        Some(violation) => {
            println!("{violation}");
            ExitCode::from(1)
        }
        None => {
            print!("{}", outcome.counts.text());
            println!("every invariant held");
            ExitCode::SUCCESS
        }
    }
}

fn run_seeds(arguments: &Arguments) -> ExitCode {
    let first = arguments.seed.unwrap_or(1);
    // One seed alone unless a number of them was asked for.
    let count =
        if arguments.seed.is_some() && arguments.seeds == 100 { 1 } else { arguments.seeds };
    let begin = now();
    let (mut counts, mut events, mut simulated_us) = (Counts::default(), 0, 0);
    for seed in (0..count).map(|number| first.wrapping_add(number)) {
        let mut options = Options::new(seed, arguments.events);
        options.sabotage = arguments.sabotage;
        options.is_blind = arguments.blind;
        options.keeps_trace = arguments.trace;
        let outcome = run(&options, None);
        counts.add(&outcome.counts);
        events += outcome.events;
        simulated_us += outcome.ended_us;
        if outcome.violation.is_some() {
            return report_failure(&options, outcome, arguments);
        }
        if arguments.trace {
            print_trace(&outcome);
        }
        if count == 1 {
            println!("fingerprint {:032x}", outcome.fingerprint.value());
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    print!("{}", counts.text());
    println!(
        "{count} seeds, {events} events, {:.0} simulated seconds in {seconds:.1} s: {:.0} events/s",
        simulated_us as f64 / 1e6,
        events as f64 / seconds
    );
    println!("every invariant held");
    ExitCode::SUCCESS
}

/// Tells of a failure, makes its list of actions short, and says how to see it again.
fn report_failure(options: &Options, outcome: Outcome, arguments: &Arguments) -> ExitCode {
    let seed = options.seed;
    if let Some(violation) = &outcome.violation {
        println!("seed {seed}: {violation}");
    }
    println!("making {} actions fewer ...", outcome.actions.len());
    let shrunk = shrink::shrink(options, outcome, shrink::RUNS_MAX);
    let mut told = options.clone();
    told.keeps_trace = true;
    let last = run(&told, Some(&shrunk.actions));
    print_trace(&last);
    println!("{} actions after {} runs:", shrunk.actions.len(), shrunk.runs);
    for action in &shrunk.actions {
        println!("  {action:?}");
    }
    if let Some(violation) = &last.violation {
        println!("seed {seed}: {violation}");
    }
    let path = arguments.save.clone().unwrap_or_else(|| PathBuf::from(format!("sim-{seed}.jsonl")));
    save(&path, options, &shrunk.actions);
    println!("the whole run: cargo xtask sim --seed {seed} --events {}", options.events);
    ExitCode::from(1)
}

fn save(path: &Path, options: &Options, actions: &[Action]) {
    match write(path, &replay::write(options, actions)) {
        Ok(()) => println!("these actions alone: cargo xtask sim --replay {}", path.display()),
        Err(error) => eprintln!("cannot write {}: {error}", path.display()),
    }
}

fn print_trace(outcome: &Outcome) {
    for line in &outcome.trace {
        println!("{line}");
    }
}

#[expect(clippy::disallowed_methods, reason = "files are the program's, not the simulator's")]
fn read(path: &Path) -> std::io::Result<String> {
    std::fs::read_to_string(path)
}

#[expect(clippy::disallowed_methods, reason = "files are the program's, not the simulator's")]
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    std::fs::write(path, text)
}

#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the speed of the simulator is told in real time"
)]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}
