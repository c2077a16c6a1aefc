//! `verify`: a saved proof against a trust bundle, with no network at all.

use std::time::{SystemTime, UNIX_EPOCH};

use ledger_client::{CheckedProof, ClientError, SavedProof, VerificationError};
use ledger_proof::{TimeRule, TrustBundle};

use crate::args::{Global, VerifyOptions};
use crate::commands::trust::bundle_from_files;
use crate::commands::{get, list, receipt};
use crate::failure::Failure;

/// Largest proof file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Checks.
pub(crate) fn run(options: &VerifyOptions, global: &Global) -> Result<(), Failure> {
    let bundle = bundle_from_files(global)?;
    let path = &options.file;
    let length = std::fs::metadata(path).map_err(|error| Failure::file(path, &error))?.len();
    if length > FILE_BYTES_MAX {
        return Err(Failure::refused(format!("{} is too large for a proof", path.display())));
    }
    let bytes = std::fs::read(path).map_err(|error| Failure::file(path, &error))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_err(|_| Failure::failed("the clock stands before 1970"))?.as_secs();
    let times = if options.fresh { TimeRule::Now(now) } else { TimeRule::Any };
    let checked = SavedProof::decode(&bytes)
        .and_then(|proof| proof.verify(&bundle, times))
        .map_err(|error: VerificationError| Failure::from(ClientError::from(error)))?;
    let rule = rule(&bundle, now);
    match &checked {
        CheckedProof::Values(values) => get::show(global.format(), values, &rule),
        CheckedProof::Transaction(transaction) => {
            receipt::show(global.format(), transaction, &rule);
        }
        CheckedProof::List(list) => {
            list.items.iter().for_each(|item| list::show_item(global.format(), item));
            list::show_end(global.format(), (list.vault, list.items.len()), &list.block, &rule);
        }
    }
    Ok(())
}

fn rule(bundle: &TrustBundle, now: u64) -> String {
    let expired = if now > bundle.expires_at { ", which has EXPIRED" } else { "" };
    format!("under trust bundle {} of {}{expired}", bundle.sequence, bundle.domain)
}
