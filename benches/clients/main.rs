//! What clients of a running cluster see that no workload of `ledger-cli` shows: an import into one vault and lists
//! of a resource's relationships in it, and what watches cost that wait for nothing.
//!
//! ```text
//! clients ADDRESSES lists [RELATIONSHIPS]
//! clients ADDRESSES watchers COUNT PROCESS_ID...
//! ```
//!
//! Addresses are separated by commas; the process ids are those of the servers, on this machine.

#![expect(clippy::print_stdout, reason = "a measurement prints its table")]

mod lists;
mod watchers;

use std::error::Error;
use std::process::ExitCode;

use ledger_client::{Client, ClientConfig};

/// Anything that ends a measurement.
type Failure = Box<dyn Error>;

const USAGE: &str =
    "clients ADDRESSES lists [RELATIONSHIPS] | clients ADDRESSES watchers COUNT PROCESS_ID...";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[String]) -> Result<(), Failure> {
    let [addresses, what, rest @ ..] = arguments else { return Err(USAGE.into()) };
    let addresses = addresses.split(',').map(str::to_owned).collect();
    let client = Client::connect(ClientConfig::new(addresses)).await?;
    match (what.as_str(), rest) {
        ("lists", []) => lists::measure(&client, lists::RELATIONSHIPS).await,
        ("lists", [count]) => lists::measure(&client, count.parse()?).await,
        ("watchers", [count, processes @ ..]) if !processes.is_empty() => {
            let processes: Result<Vec<u32>, _> = processes.iter().map(|id| id.parse()).collect();
            watchers::measure(&client, count.parse()?, &processes?).await
        }
        _ => Err(USAGE.into()),
    }
}
