//! Proved answers: one relationship that is there, one that is not, and a proof with one wrong byte.
//!
//! Owns this part of the story. Must never show a value that the SDK did not check.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ledger_client::{
    Client, ClientError, SavedProof, VerificationError, VerifiedGet, VerifiedOptions,
};
use ledger_proof::header::HEADER_LEN;
use ledger_proof::{TimeRule, TrustBundle, VerifiedValue};
use ledger_types::{StateKey, VaultRef};
use thiserror::Error;

use super::harvest::FileGrants;
use super::report::{Narrator, milliseconds};

/// Reads over which the time of a check is taken.
const CHECKS: usize = 21;
/// A user who owns nothing.
const STRANGER: &str = "user:nobody-in-particular";
/// Where the wrong byte is put, counted from the end: in the record of the key.
const WRONG_BYTE_FROM_END: usize = 60;

/// Why the proofs did not show what they should.
#[derive(Debug, Error)]
pub(super) enum ProofsError {
    /// The read failed or was refused.
    #[error("reading with proof: {0}")]
    Read(#[from] ClientError),
    /// A proof holds and says the opposite of what was written.
    #[error("{what} is proved to be {found}")]
    Contradicts {
        /// The relationship.
        what: String,
        /// What the proof says.
        found: &'static str,
    },
    /// A proof does not survive being saved and loaded.
    #[error("a saved proof is refused: {0}")]
    Saved(#[from] VerificationError),
    /// A proof with a wrong byte was believed.
    #[error("a proof with one wrong byte was believed")]
    WrongByteBelieved,
    /// There is no key or clock to work with.
    #[error("{0}")]
    Unusable(&'static str),
}

/// What the proofs cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProofsReport {
    /// Bytes of the proof of presence.
    pub(super) present_bytes: usize,
    /// Bytes of the proof of absence.
    pub(super) absent_bytes: usize,
    /// Median time of a check.
    pub(super) verify_time: Duration,
}

/// Reads with proof what is there and what is not, and shows that a damaged proof is refused.
pub(super) async fn run(
    client: &Client,
    vaults: &[VaultRef],
    files: &[FileGrants],
    narrator: &mut Narrator,
) -> Result<ProofsReport, ProofsError> {
    let file = files.first().ok_or(ProofsError::Unusable("nothing was loaded"))?;
    let vault = vaults[file.vault_index(vaults.len())];
    let options = VerifiedOptions::linearizable();

    narrator.step("Prove that a relationship is there");
    let key = StateKey::by_resource(&file.resource, "owner", &file.owner);
    let present = client.verified_get(vault, std::slice::from_ref(&key), options).await?;
    let what = format!("{}#owner@{}", file.resource, file.owner);
    expect(&present, true, &what)?;
    narrator.fact(format_args!("{what} in vault {vault}"));
    let bundle = client.trust_bundle().await?;
    tell_checks(&present, &bundle, narrator);

    narrator.step("Prove that a relationship is not there");
    let absent_key = StateKey::by_resource(&file.resource, "owner", STRANGER);
    let absent = client.verified_get(vault, &[absent_key], options).await?;
    let what = format!("{}#owner@{STRANGER}", file.resource);
    expect(&absent, false, &what)?;
    narrator.fact(&what);
    narrator.held(format_args!(
        "proved absent with {} bytes: the path that any such key would lie on ends elsewhere",
        absent.package_bytes
    ));

    refuse_wrong_byte(&present.saved_proof(), &bundle, narrator)?;

    let mut times = Vec::with_capacity(CHECKS);
    for _ in 0..CHECKS {
        let answer = client.verified_get(vault, std::slice::from_ref(&key), options).await?;
        times.push(answer.check_time);
    }
    times.sort_unstable();
    Ok(ProofsReport {
        present_bytes: present.package_bytes,
        absent_bytes: absent.package_bytes,
        verify_time: times[CHECKS / 2],
    })
}

fn expect(answer: &VerifiedGet, present: bool, what: &str) -> Result<(), ProofsError> {
    let found = match answer.values() {
        [VerifiedValue::Present { .. }] if present => return Ok(()),
        [VerifiedValue::Absent] if !present => return Ok(()),
        [VerifiedValue::Present { .. }] => "present",
        [VerifiedValue::Absent] => "absent",
        _ => "neither present nor absent",
    };
    Err(ProofsError::Contradicts { what: what.to_owned(), found })
}

/// What the client has checked, in the order in which it does.
fn tell_checks(answer: &VerifiedGet, bundle: &TrustBundle, narrator: &mut Narrator) {
    let block = &answer.proved.block;
    let checkpoint = &block.checkpoint;
    let (header, size) = (&block.header, checkpoint.size);
    narrator.held(format_args!("signed note is about {}", checkpoint.origin));
    narrator.held(format_args!(
        "{} voters of the vault's group cosigned it (trust bundle {}: {:?}), within the allowed age",
        block.counted.keys, bundle.sequence, bundle.threshold
    ));
    narrator.held("its log contradicts nothing that this client remembers of it");
    narrator
        .held(format_args!("header of block {} is in that log of {size} blocks", header.height));
    let root = header.state_root.to_string();
    narrator.held(format_args!(
        "key leads to its record under state root {}… over {} keys",
        &root[..16],
        header.state_keys
    ));
    if let [VerifiedValue::Present { record, .. }] = answer.values() {
        narrator.held(format_args!(
            "value is the committed one; created in block {}",
            record.created_height
        ));
    }
    narrator.held("the checkpoint was kept on disk before the answer was given");
    narrator.fact(format_args!(
        "{} bytes (note {}, header {HEADER_LEN}, paths and record {}), checked in {}",
        answer.package_bytes,
        checkpoint.note.len(),
        answer.package_bytes.saturating_sub(checkpoint.note.len() + HEADER_LEN),
        milliseconds(answer.check_time)
    ));
}

/// Saves the proof, checks it without a network, and again with one byte changed.
fn refuse_wrong_byte(
    proof: &SavedProof,
    bundle: &TrustBundle,
    narrator: &mut Narrator,
) -> Result<(), ProofsError> {
    narrator.step("Change one byte of that proof");
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_err(|_| ProofsError::Unusable("the clock stands before 1970"))?.as_secs();
    let check = |bytes: &[u8]| {
        SavedProof::decode(bytes).and_then(|proof| proof.verify(bundle, TimeRule::Now(now)))
    };
    let mut bytes = proof.encode();
    check(&bytes)?;
    narrator.held(format_args!(
        "unchanged, its {} bytes are believed without a network (with the proofs of who may sign)",
        bytes.len()
    ));
    let place = bytes.len().checked_sub(WRONG_BYTE_FROM_END);
    let place = place.ok_or(ProofsError::Unusable("the proof is too short to be one"))?;
    bytes[place] ^= 0x01;
    match check(&bytes) {
        Ok(_) => Err(ProofsError::WrongByteBelieved),
        Err(error) => {
            narrator.held(format_args!("with byte {place} changed it is refused: {error}"));
            Ok(())
        }
    }
}
