//! The versions of a key, each proved, walking back from a later one: every record commits to the one before
//! it. Must never return a version that the next one does not commit to.

use ledger_proof::{Record, VerifiedValue};
use ledger_types::{StateKey, VaultRef};

use crate::client::Client;
use crate::error::ClientError;
use crate::reason::Reason;
use crate::verification::VerificationError;
use crate::verified::VerifiedOptions;

/// A version of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyVersion {
    /// Its record.
    pub record: Record,
    /// Its value; `None` if it had expired when it was replaced, or by now if it is the newest.
    pub value: Option<Vec<u8>>,
    /// The height at which it was proved.
    pub proved_at: u64,
}

/// Why a key's history goes back no further.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HistoryEnd {
    /// There is no such key at the height where the walk began.
    Absent,
    /// The last version shown is the one with which the key was created. Earlier lives, before the key was
    /// deleted, have histories of their own.
    Created,
    /// As many versions as were asked for were shown.
    Limit,
    /// The cluster keeps the states of heights from `floor` on only.
    NotKept {
        /// The lowest height that can be read, as the server told it.
        floor: Option<u64>,
    },
}

/// A key's versions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyHistory {
    /// The versions, the newest first.
    pub versions: Vec<KeyVersion>,
    /// Why there are no more.
    pub end: HistoryEnd,
}

impl Client {
    /// Proves the versions of a key one by one, from the newest (or that of a height) back to the one with
    /// which it was created, at most `versions_max`. Each is read at the height before the next one.
    pub async fn key_history(
        &self,
        vault: VaultRef,
        key: &StateKey,
        versions_max: usize,
        from: VerifiedOptions,
    ) -> Result<KeyHistory, ClientError> {
        let mut versions: Vec<KeyVersion> = Vec::new();
        let mut at = from;
        let end = loop {
            if versions.len() >= versions_max {
                break HistoryEnd::Limit;
            }
            let answer = match self.verified_get(vault, std::slice::from_ref(key), at).await {
                Ok(answer) => answer,
                Err(error) if !versions.is_empty() && is_not_kept(&error) => {
                    break HistoryEnd::NotKept { floor: told_floor(&error) };
                }
                Err(error) => return Err(error),
            };
            let proved_at = answer.proved.block.header.height;
            let found = match answer.proved.values.into_iter().next() {
                Some(VerifiedValue::Present { record, value }) => Some((record, Some(value))),
                Some(VerifiedValue::Expired { record }) => Some((record, None)),
                Some(VerifiedValue::Absent) | None => None,
            };
            if let Some(next) = versions.last() {
                check_link(key, next, found.as_ref().map(|(record, _)| record), proved_at)?;
            }
            let Some((record, value)) = found else { break HistoryEnd::Absent };
            let is_first = record.modified_height == record.created_height;
            let before = record.modified_height.checked_sub(1);
            versions.push(KeyVersion { record, value, proved_at });
            match before {
                Some(height) if !is_first => at = VerifiedOptions::at_height(height),
                _ => break HistoryEnd::Created,
            }
        };
        Ok(KeyHistory { versions, end })
    }
}

/// Checks that the later version commits to what was found at the height before it.
fn check_link(
    key: &StateKey,
    next: &KeyVersion,
    found: Option<&Record>,
    height: u64,
) -> Result<(), VerificationError> {
    if found.is_some_and(|record| record.hash() == next.record.previous_record_hash) {
        return Ok(());
    }
    let key = format!("{key:?}");
    let later = next.record.modified_height;
    Err(VerificationError::BrokenHistory { key, height, later })
}

fn is_not_kept(error: &ClientError) -> bool {
    error.reason() == Some(&Reason::HeightUnavailable)
}

fn told_floor(error: &ClientError) -> Option<u64> {
    let ClientError::Server(error) = error else { return None };
    error.metadata.get("floor")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use ledger_types::Digest;

    use super::*;

    fn record(modified_height: u64, previous_record_hash: Digest) -> Record {
        Record {
            created_height: 1,
            modified_height,
            modified_tx: 0,
            expires_at: 0,
            previous_record_hash,
            value_hash: Digest([7; 32]),
        }
    }

    #[test]
    fn a_version_must_be_the_one_that_the_next_commits_to() {
        let key = StateKey::entity("k");
        let first = record(1, Digest::ZERO);
        let second = record(5, first.hash());
        let next = KeyVersion { record: second, value: None, proved_at: 9 };
        assert!(check_link(&key, &next, Some(&first), 4).is_ok());
        let other = record(2, Digest::ZERO);
        for found in [None, Some(&other), Some(&second)] {
            let refused = check_link(&key, &next, found, 4).unwrap_err();
            let VerificationError::BrokenHistory { height: 4, later: 5, .. } = refused else {
                panic!("{refused}")
            };
        }
    }
}
