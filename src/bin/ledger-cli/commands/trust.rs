//! `trust`: the file that says whose signatures count.

use ledger_client::{Client, TrustSource, read_bundle, write_bundle};
use ledger_proof::{Threshold, TrustBundle};
use serde_json::json;

use crate::args::{Global, TrustCommand};
use crate::failure::Failure;
use crate::{output, session};

/// Exports or shows a bundle.
pub(crate) async fn run(command: &TrustCommand, global: &Global) -> Result<(), Failure> {
    match command {
        TrustCommand::Export(options) => {
            let client = Client::connect(session::config(global)).await?;
            let bundle = client.trust_bundle().await?;
            write_bundle(&options.file, &bundle)?;
            show(global, &bundle);
            eprintln!("written to {}", options.file.display());
        }
        TrustCommand::Show(options) => {
            let bundle = read_bundle(&options.file)?;
            let missing = || Failure::failed(format!("{}: no such file", options.file.display()));
            show(global, &bundle.ok_or_else(missing)?);
        }
    }
    Ok(())
}

/// The bundle that the arguments name, or the one that is pinned. Asks no network.
pub(crate) fn bundle_from_files(global: &Global) -> Result<TrustBundle, Failure> {
    let config = session::config(global);
    let path = match (config.trust, config.state_dir) {
        (TrustSource::File(path), _) => path,
        (_, Some(directory)) => directory.join(ledger_client::PINNED_BUNDLE_FILE),
        (_, None) => return Err(Failure::failed("give a trust file with --trust")),
    };
    let bundle = read_bundle(&path)?;
    let missing = format!("{}: no such file; give a trust file with --trust", path.display());
    bundle.ok_or_else(|| Failure::failed(missing))
}

fn show(global: &Global, bundle: &TrustBundle) {
    let threshold = match bundle.threshold {
        Threshold::Majority => "majority".to_owned(),
        Threshold::Fixed(count) => count.to_string(),
    };
    let voters: Vec<String> = bundle
        .voters
        .iter()
        .map(|voter| format!("{} {}", voter.name, hex::encode(voter.public_key)))
        .collect();
    let json = json!({
        "domain": bundle.domain,
        "sequence": bundle.sequence,
        "issued_at": bundle.issued_at,
        "expires_at": bundle.expires_at,
        "threshold": threshold,
        "floor": bundle.floor,
        "max_age_seconds": bundle.max_age_seconds,
        "skew_seconds": bundle.skew_seconds,
        "voters": voters,
    });
    let facts = [
        ("domain", bundle.domain.clone()),
        ("sequence", bundle.sequence.to_string()),
        ("expires at", bundle.expires_at.to_string()),
        ("threshold", threshold),
        ("floor", bundle.floor.to_string()),
        ("max age", format!("{} s", bundle.max_age_seconds)),
        ("voters", voters.join(", ")),
    ];
    output::facts(global.format(), &facts, &json);
}
