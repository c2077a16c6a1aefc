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

/// How far one step of a look through a vault goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StepLimits {
    /// Most entities that are read.
    pub rows_max: usize,
    /// Bytes of rows after which the step ends; its first row is always read.
    pub bytes_max: usize,
    /// Most expired entities that are found.
    pub found_max: usize,
}

/// A step of a look through a vault.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExpiryStep {
    /// Keys of entities that have expired and the Unix second at which each did, in key order.
    pub expired: Vec<(String, u64)>,
    /// The last key that was read, if there may be more behind it.
    pub next: Option<String>,
}

/// Looks through the entities at the vault's tip behind the key `after` for those that expire at `time_s` or before,
/// as far as the limits let it. Errors if the vault is not here or a row is malformed.
pub fn expiry_step(
    view: &dyn StateView,
    vault: VaultRef,
    after: Option<&str>,
    time_s: u64,
    limits: StepLimits,
) -> Result<ExpiryStep, QueryError> {
    vault_row(view, vault)?;
    let entities = StateKey::entity_prefix("");
    let mut from = latest_key(vault, &StateKey::entity_prefix(after.unwrap_or_default()));
    if after.is_some() {
        from.push(0);
    }
    let (mut step, mut rows, mut bytes, mut fault) = (ExpiryStep::default(), 0, 0, None);
    view.scan(
        Family::Latest,
        &from,
        &prefix_end(&latest_key(vault, &entities)),
        &mut |key, row| {
            let key = StateKey::as_entity(&key[VaultRef::LEN..]);
            match (key, record_of(row)) {
                (Some(key), Ok(record)) => {
                    (rows, bytes) = (rows + 1, bytes + row.len());
                    if record.is_expired(time_s) {
                        step.expired.push((key.to_owned(), record.expires_at));
                    }
                    if rows >= limits.rows_max
                        || bytes >= limits.bytes_max
                        || step.expired.len() >= limits.found_max
                    {
                        step.next = Some(key.to_owned());
                    }
                }
                (_, Err(error)) => fault = Some(error),
                (None, _) => fault = Some(malformed()),
            }
            fault.is_none() && step.next.is_none()
        },
    )?;
    fault.map_or(Ok(step), |fault| Err(fault.into()))
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

fn malformed() -> ReadFault {
    ReadFault::Corrupt { what: "an entity's row is malformed" }
}

fn record_of(row: &[u8]) -> Result<Record, ReadFault> {
    let (record, _) = split_latest(row).ok_or_else(malformed)?;
    Record::decode(record).map_err(|_| malformed())
}

fn note(
    found: &mut Expiry,
    key: &[u8],
    row: &[u8],
    (time_s, max): (u64, usize),
) -> Result<(), ReadFault> {
    let record = record_of(row)?;
    if record.expires_at == 0 {
        return Ok(());
    }
    if record.is_expired(time_s) && found.expired.len() < max {
        let key = StateKey::as_entity(key).ok_or_else(malformed)?;
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

    #[test]
    fn steps_of_any_size_find_what_has_expired_and_each_entity_once() {
        const COUNT: u64 = 40;
        let mut machine = Machine::new();
        let later = START_S + 100;
        // Names that are each other's beginnings, every third of them for ever.
        let entity = |number: u64| match number % 3 {
            0 => set(&"k".repeat(number as usize + 1), "for ever"),
            _ => set_until(&"k".repeat(number as usize + 1), "1", later + number),
        };
        machine.commit(&(0..COUNT).map(entity).collect::<Vec<_>>());
        machine.commit(&[relate("document:1", "viewer", "user:1")]);
        let time_s = later + COUNT / 2;
        let all = expiry(&machine.rows, vault(), time_s, usize::MAX).expect("it is here");
        assert!(all.expired.len() > 10 && all.soonest.is_some(), "some have expired, some not");
        for (rows_max, bytes_max, found_max) in
            [(1, 1 << 20, 9), (7, 1 << 20, 9), (100, 1, 9), (100, 1 << 20, 1), (100, 1 << 20, 99)]
        {
            let limits = StepLimits { rows_max, bytes_max, found_max };
            let (mut found, mut after, mut steps) = (Vec::new(), None::<String>, 0);
            loop {
                let after_key = after.as_deref();
                let step = expiry_step(&machine.rows, vault(), after_key, time_s, limits);
                let step = step.expect("it is here");
                assert!(step.expired.len() <= found_max);
                found.extend(step.expired);
                steps += 1;
                if step.next.is_none() {
                    break;
                }
                assert!(step.next > after, "a step goes on");
                after = step.next;
            }
            assert_eq!(found, all.expired, "{limits:?}");
            assert_eq!(steps == 1, rows_max > 99 && bytes_max > 1 && found_max > 1, "{limits:?}");
        }
    }
}
