//! The `ledger` binary: a node, the demonstration of a cluster, and a look at the settings.
//!
//! Owns the command line and the process: arguments, logging, exit codes. Must never hold logic of the
//! node itself.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program talks to its user"
)]

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use ledger::config::{Config, ConfigError, Machine, RawConfig, SETTINGS, available_bytes};
use ledger::{demo, node};

fn main() -> ExitCode {
    // Reads the points at which a test wants this process to stop.
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    #[cfg(feature = "failpoints")]
    ledger::test_hooks::follow_points();
    let matches = command_line().get_matches();
    let outcome = match matches.subcommand() {
        Some(("demo", arguments)) => return demo::run(&demo::Options::from_matches(arguments)),
        Some(("config", arguments)) => {
            let (_, arguments) = arguments.subcommand().expect("clap requires a subcommand");
            print_config(arguments)
        }
        Some(("serve", arguments)) => serve(arguments),
        _ => serve(&matches),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ledger: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("  because: {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn command_line() -> Command {
    let serve = Command::new("serve").about("Runs a node (what plain `ledger` does too)");
    let print = Command::new("print")
        .about("Prints every setting")
        .arg(Arg::new("origin").long("origin").num_args(0).help("Tell where each value came from"))
        .arg(
            Arg::new("format")
                .long("format")
                .value_parser(["table", "json"])
                .default_value("table")
                .help("How to print"),
        );
    let config = Command::new("config")
        .about("Shows the settings")
        .subcommand_required(true)
        .subcommand(with_settings(print));
    with_settings(Command::new("ledger"))
        .about("A verifiable, sharded ledger for authorization data")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand(with_settings(serve))
        .subcommand(config)
        .subcommand(demo::Options::command())
}

fn with_settings(command: Command) -> Command {
    let file = Arg::new("config-file")
        .long("config")
        .env("LEDGER_CONFIG")
        .value_name("FILE")
        .help("TOML file with settings; its keys are the flags with underscores");
    let flags = SETTINGS.iter().map(|setting| {
        let help = if setting.default.is_empty() {
            format!("{} [env: {}]", setting.doc, setting.env)
        } else {
            format!("{} [env: {}] [default: {}]", setting.doc, setting.env, setting.default)
        };
        Arg::new(setting.flag).long(setting.flag).value_name("VALUE").help(help)
    });
    command.arg(file).args(flags)
}

fn gather(arguments: &ArgMatches) -> Result<RawConfig, ConfigError> {
    let given = |flag: &str| arguments.get_one::<String>(flag).cloned();
    let flags: Vec<(String, String)> = SETTINGS
        .iter()
        .filter_map(|setting| Some((setting.flag.to_owned(), given(setting.flag)?)))
        .collect();
    let file = given("config-file").map(PathBuf::from);
    RawConfig::gather(&flags, std::env::vars(), file.as_deref())
}

fn validate(raw: &RawConfig) -> Result<Config, ConfigError> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let (host_name, memory_bytes) = (node::host_name(), available_bytes());
    Config::from_raw(raw, Machine { host_name: &host_name, processors, memory_bytes })
}

fn serve(arguments: &ArgMatches) -> Result<(), Box<dyn std::error::Error>> {
    let config = validate(&gather(arguments)?)?;
    start_logging(&config);
    node::run(config)?;
    Ok(())
}

fn start_logging(config: &Config) {
    let filter = tracing_subscriber::EnvFilter::new(&config.log);
    let json = config.log_json.unwrap_or(!std::io::stderr().is_terminal());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        builder.json().flatten_event(true).init();
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).init();
    }
}

fn print_config(arguments: &ArgMatches) -> Result<(), Box<dyn std::error::Error>> {
    let raw = gather(arguments)?;
    validate(&raw)?;
    let format = arguments.get_one::<String>("format").map_or("table", String::as_str);
    if format == "json" {
        let rows: Vec<serde_json::Value> = SETTINGS
            .iter()
            .map(|setting| {
                let (value, origin) = raw.get(setting.flag);
                serde_json::json!({
                    "env": setting.env, "flag": setting.flag, "default": setting.default,
                    "value": value, "origin": origin.to_string(), "doc": setting.doc,
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    for setting in SETTINGS {
        let (value, origin) = raw.get(setting.flag);
        let origin =
            if arguments.get_flag("origin") { format!("  # {origin}") } else { String::new() };
        println!("{}={value}{origin}", setting.env);
    }
    Ok(())
}
