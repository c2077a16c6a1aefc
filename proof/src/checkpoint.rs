//! Checkpoint text: which log, how many blocks, which root. Signing and counting are elsewhere.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ledger_types::{Digest, VaultRef, check_name};
use thiserror::Error;

use crate::hash;

/// Names a vault's log in one of its epochs: `<domain>/ns/<namespace>/vault/<vault>/<log epoch>`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The cluster's domain.
    pub domain: String,
    /// The vault.
    pub vault: VaultRef,
    /// Which of the vault's logs; a new one begins when a recovery may have lost blocks.
    pub log_epoch: u64,
}

/// A state of a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// The log.
    pub origin: Origin,
    /// Its blocks, genesis included.
    pub size: u64,
    /// Its root.
    pub root: Digest,
}

/// Why text is not a checkpoint of a vault's log.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CheckpointError {
    /// The text has not exactly three lines, each ended by a newline.
    #[error("a checkpoint has three lines, each ended by a newline")]
    Lines,
    /// The first line names no vault's log.
    #[error("the origin is not of the form <domain>/ns/<n>/vault/<n>/<n>")]
    Origin,
    /// The second line is not a decimal number without leading zeros.
    #[error("the size is not a decimal number without leading zeros")]
    Size,
    /// The third line is not the padded base64 of 32 bytes.
    #[error("the root is not the padded base64 of 32 bytes")]
    Root,
}

impl Origin {
    /// Reads the form that `Display` writes.
    pub fn parse(text: &str) -> Result<Origin, CheckpointError> {
        let parts: Vec<&str> = text.splitn(7, '/').collect();
        let [domain, "ns", namespace, "vault", vault, log_epoch] = parts[..] else {
            return Err(CheckpointError::Origin);
        };
        let number = |digits| parse_decimal(digits).ok_or(CheckpointError::Origin);
        check_name("domain", domain).map_err(|_| CheckpointError::Origin)?;
        Ok(Origin {
            domain: domain.to_owned(),
            vault: VaultRef::new(number(namespace)?, number(vault)?),
            log_epoch: number(log_epoch)?,
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VaultRef { namespace, vault } = self.vault;
        write!(f, "{}/ns/{namespace}/vault/{vault}/{}", self.domain, self.log_epoch)
    }
}

impl Checkpoint {
    /// The text that is signed, final newline included.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root.0))
    }

    /// Reads the text that [`Checkpoint::text`] writes and no other.
    pub fn parse(text: &str) -> Result<Checkpoint, CheckpointError> {
        let body = text.strip_suffix('\n').ok_or(CheckpointError::Lines)?;
        let lines: Vec<&str> = body.splitn(4, '\n').collect();
        let [origin, size, root] = lines[..] else { return Err(CheckpointError::Lines) };
        let origin = Origin::parse(origin)?;
        let size = parse_decimal(size).ok_or(CheckpointError::Size)?;
        let root = STANDARD.decode(root).ok().and_then(|bytes| Digest::from_slice(&bytes));
        Ok(Checkpoint { origin, size, root: root.ok_or(CheckpointError::Root)? })
    }

    /// SHA-256 of the text: how a recovery names the last known checkpoint of the log before it.
    pub fn text_hash(&self) -> Digest {
        hash::plain(self.text().as_bytes())
    }
}

/// A decimal number in its only legal form.
pub(crate) fn parse_decimal(digits: &str) -> Option<u64> {
    let is_canonical = digits == "0" || !digits.starts_with('0');
    let is_decimal = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    if is_canonical && is_decimal { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let origin = Origin { domain: "a.ledger".into(), vault: VaultRef::new(1, 2), log_epoch: 0 };
        let checkpoint = Checkpoint { origin, size: 10, root: Digest([0xfb; 32]) };
        let text = checkpoint.text();
        assert_eq!(
            text,
            "a.ledger/ns/1/vault/2/0\n10\n+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/s=\n"
        );
        assert_eq!(Checkpoint::parse(&text), Ok(checkpoint));
    }

    #[test]
    fn any_other_form_is_refused() {
        let root = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let good = format!("a/ns/1/vault/2/3\n4\n{root}\n");
        assert!(Checkpoint::parse(&good).is_ok());
        let bad = [
            (good.trim_end().to_owned(), CheckpointError::Lines),
            (format!("{good}extension\n"), CheckpointError::Lines),
            (format!("{good}\n"), CheckpointError::Lines),
            (String::new(), CheckpointError::Lines),
            (good.replace("\n4\n", "\n04\n"), CheckpointError::Size),
            (good.replace("\n4\n", "\n+4\n"), CheckpointError::Size),
            (good.replace("\n4\n", "\n\n"), CheckpointError::Size),
            (good.replace("\n4\n", "\n4\r\n"), CheckpointError::Size),
            (good.replace("\n4\n", "\n18446744073709551616\n"), CheckpointError::Size),
            (good.replace("a/ns", "A/ns"), CheckpointError::Origin),
            (good.replace("a/ns", "/ns"), CheckpointError::Origin),
            (good.replace("/1/", "/01/"), CheckpointError::Origin),
            (good.replace("/3\n", "/3/4\n"), CheckpointError::Origin),
            (good.replace("/3\n", "/\n"), CheckpointError::Origin),
            (good.replace("AA=", "AA"), CheckpointError::Root),
            (good.replace("AA=", "AB="), CheckpointError::Root),
            (good.replace("AAAA=", "="), CheckpointError::Root),
            (good.replace(root, &format!(" {root}")), CheckpointError::Root),
        ];
        for (text, error) in bad {
            assert_eq!(Checkpoint::parse(&text), Err(error), "{text:?}");
        }
    }
}
