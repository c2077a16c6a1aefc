//! How things are named on the command line: relationships, vaults, times.

use std::time::Duration;

use ledger_client::Relationship;
use ledger_types::{TxId, VaultRef};

/// Reads `resource#relation@subject`. The resource ends at the first `#`, the relation at the first `@`
/// after it.
pub(crate) fn relationship(text: &str) -> Result<Relationship, String> {
    let form = "a relationship is written resource#relation@subject";
    let (resource, rest) = text.split_once('#').ok_or(form)?;
    let (relation, subject) = rest.split_once('@').ok_or(form)?;
    if [resource, relation, subject].iter().any(|part| part.is_empty()) {
        return Err(form.to_owned());
    }
    let [resource, relation, subject] = [resource, relation, subject].map(str::to_owned);
    Ok(Relationship { resource, relation, subject })
}

/// Writes a relationship as it is read.
pub(crate) fn show(relationship: &Relationship) -> String {
    let Relationship { resource, relation, subject } = relationship;
    format!("{resource}#{relation}@{subject}")
}

/// Reads `namespace/vault`, both by number.
pub(crate) fn vault(text: &str) -> Result<VaultRef, String> {
    let form = "a vault is written namespace/vault, both as numbers";
    let (namespace, vault) = text.split_once('/').ok_or(form)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| form.to_owned());
    Ok(VaultRef::new(number(namespace)?, number(vault)?))
}

/// Reads a transaction's id, 32 hexadecimal digits.
pub(crate) fn transaction(text: &str) -> Result<TxId, String> {
    let form = "a transaction is written as 32 hexadecimal digits";
    let bytes = hex::decode(text).map_err(|_| form.to_owned())?;
    TxId::from_slice(&bytes).ok_or_else(|| form.to_owned())
}

/// Reads a time such as `250ms`, `10s`, `5m` or `2h`; a plain number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let form = "a time is written like 250ms, 10s, 5m or 2h";
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| form.to_owned())?;
    let unit_ms = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(form.to_owned()),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(|| form.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relationships_read_back() {
        let text = "document:7#viewer@group:staff#member";
        let read = relationship(text).unwrap();
        assert_eq!(read.subject, "group:staff#member");
        assert_eq!(show(&read), text);
        for bad in ["document:7", "document:7#viewer", "#viewer@user:a", "a#@b", "a#b@"] {
            assert!(relationship(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_and_vaults_have_one_form() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        assert!(duration("s").is_err() && duration("3 days").is_err() && duration("").is_err());
        assert_eq!(vault("4/2"), Ok(VaultRef::new(4, 2)));
        assert!(vault("4").is_err() && vault("4/-1").is_err());
        let tx_id = TxId([0xab; 16]);
        assert_eq!(transaction(&tx_id.to_string()), Ok(tx_id));
        assert!(transaction("ab").is_err() && transaction(&"g".repeat(32)).is_err());
    }
}
