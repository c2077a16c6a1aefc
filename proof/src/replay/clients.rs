//! How far each client of a vault has counted, as far as the chain alone tells.
//!
//! That a key was not used twice within the time for which keys are remembered cannot be told from the
//! chain, because that time is a setting; that numbers go up one by one can. Must never forget a client.

use std::collections::BTreeMap;

use ledger_types::Dedup;

use super::finding::FindingKind;
use crate::transaction::Transaction;

/// The last numbers of all clients. A client takes about 100 bytes and its name.
#[derive(Clone, Debug, Default)]
pub(super) struct Clients {
    by_name: BTreeMap<String, Client>,
}

#[derive(Clone, Copy, Debug)]
struct Client {
    last: u64,
    is_keyed: bool,
}

impl Clients {
    /// Takes a transaction in, and tells what its number should not be.
    pub(super) fn take(&mut self, transaction: &Transaction) -> Vec<FindingKind> {
        let (asked, is_keyed) = match transaction.dedup {
            Dedup::None => return Vec::new(),
            Dedup::Sequence(asked) => (Some(asked), false),
            Dedup::IdempotencyKey(_) => (None, true),
        };
        let name = &transaction.client;
        let found = transaction.assigned_sequence;
        let mut findings = Vec::new();
        let before = self.by_name.get(name).copied();
        let last = before.map_or(0, |client| client.last);
        if last.checked_add(1) != Some(found) {
            let expected = last.saturating_add(1);
            findings.push(FindingKind::Sequence { client: name.clone(), expected, found });
        }
        if let Some(asked) = asked.filter(|asked| *asked != found) {
            findings.push(FindingKind::SequenceAsked { client: name.clone(), asked, found });
        }
        if before.is_some_and(|client| client.is_keyed != is_keyed) {
            findings.push(FindingKind::ContractMixed { client: name.clone() });
        }
        let is_keyed = before.map_or(is_keyed, |client| client.is_keyed);
        match self.by_name.get_mut(name) {
            Some(client) => client.last = found,
            None => {
                self.by_name.insert(name.clone(), Client { last: found, is_keyed });
            }
        }
        findings
    }
}
