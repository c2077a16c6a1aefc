//! Which entities of a vault have expired, and when the next one will.
//!
//! Must never change anything: an entity that expired is hidden from reads at once and stays in the state until
//! somebody proposes its removal.

use ledger_proof::{ReadFault, Record};
use ledger_types::{StateKey, VaultRef};

use super::{QueryError, vault_row};
use crate::rows::{latest_key, prefix_end, split_latest};
use crate::view::{Family, StateView};

/// What a look through a vault's entities finds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Expiry {
    /// Keys of entities that have expired and the Unix second at which each did, in key order.
    pub expired: Vec<(String, u64)>,
    /// The Unix second at which the next entity expires, or did if not all expired ones are listed.
    pub soonest: Option<u64>,
}

/// Looks through the entities at the vault's tip for those that expire at `time_s` or before, at most `max` of
/// them. Reads every entity of the vault. Errors if the vault is not here or a row is malformed.
pub fn expiry(
    view: &dyn StateView,
    vault: VaultRef,
    time_s: u64,
    max: usize,
) -> Result<Expiry, QueryError> {
    vault_row(view, vault)?;
    let from = latest_key(vault, &StateKey::entity_prefix(""));
    let (mut found, mut fault) = (Expiry::default(), None);
    view.scan(Family::Latest, &from, &prefix_end(&from), &mut |key, row| match note(
        &mut found,
        &key[VaultRef::LEN..],
        row,
        (time_s, max),
    ) {
        Ok(()) => true,
        Err(error) => {
            fault = Some(error);
            false
        }
    })?;
    fault.map_or(Ok(found), |fault| Err(fault.into()))
}

fn note(
    found: &mut Expiry,
    key: &[u8],
    row: &[u8],
    (time_s, max): (u64, usize),
) -> Result<(), ReadFault> {
    let corrupt = || ReadFault::Corrupt { what: "an entity's row is malformed" };
    let (record, _) = split_latest(row).ok_or_else(corrupt)?;
    let record = Record::decode(record).map_err(|_| corrupt())?;
    if record.expires_at == 0 {
        return Ok(());
    }
    if record.is_expired(time_s) && found.expired.len() < max {
        let key = StateKey::as_entity(key).ok_or_else(corrupt)?;
        found.expired.push((key.to_owned(), record.expires_at));
    } else {
        let soonest = found.soonest.get_or_insert(record.expires_at);
        *soonest = record.expires_at.min(*soonest);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::tests_harness::{Machine, START_S, relate, set, set_until, vault};

    #[test]
    fn expired_entities_are_found_up_to_a_number_and_the_next_one_is_told() {
        let mut machine = Machine::new();
        let later = START_S + 100;
        machine.commit(&[
            set("a", "for ever"),
            set_until("b", "1", later),
            set_until("c", "2", later + 50),
            set_until("d", "3", later + 10),
            relate("document:1", "viewer", "user:1"),
        ]);
        let look = |time_s, max| expiry(&machine.rows, vault(), time_s, max).expect("it is here");
        let expired = |keys: &[(&str, u64)]| -> Vec<(String, u64)> {
            keys.iter().map(|(key, at)| ((*key).to_owned(), *at)).collect()
        };
        let found = look(later - 1, 9);
        assert_eq!(found, Expiry { expired: Vec::new(), soonest: Some(later) });
        let found = look(later + 10, 9);
        let both = expired(&[("b", later), ("d", later + 10)]);
        assert_eq!(found, Expiry { expired: both, soonest: Some(later + 50) });
        let found = look(later + 10, 1);
        let first = expired(&[("b", later)]);
        assert_eq!(found, Expiry { expired: first, soonest: Some(later + 10) });
        assert_eq!(look(later + 50, 9).soonest, None);
        let elsewhere = expiry(&machine.rows, VaultRef::new(1, 9), later, 9);
        assert!(matches!(elsewhere, Err(QueryError::UnknownVault)), "{elsewhere:?}");
    }
}
