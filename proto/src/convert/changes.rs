//! Changes of a block: which of its operations changed something, and which of those somebody wants to hear of.

use ledger_proof::{AppliedOperation, Transaction};
use ledger_types::limits::CHANGE_FILTERS_MAX;
use ledger_types::{Operation, Outcome, TxId, check_client_string};

use super::ConvertError;
use crate::v1;
use crate::v1::change::Key;
use crate::v1::change_filter::Of;

/// Silence of a watch that nobody asked to be another, in milliseconds.
const HEARTBEAT_MS_DEFAULT: u32 = 10_000;
/// Shortest and longest silence that can be asked for, in milliseconds.
const HEARTBEAT_MS_MIN: u64 = 1_000;
const HEARTBEAT_MS_MAX: u64 = 60_000;

/// What somebody wants to hear of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangeSelection {
    filters: Vec<(Of, Option<String>)>,
    include_values: bool,
}

impl ChangeSelection {
    /// Reads the filters of a request. Errors: too many; one without what it is of; text that no key has; a relation
    /// of entities.
    pub fn new(
        filters: Vec<v1::ChangeFilter>,
        include_values: bool,
    ) -> Result<ChangeSelection, ConvertError> {
        if filters.len() > CHANGE_FILTERS_MAX {
            let (field, count, max) = ("filters", filters.len(), CHANGE_FILTERS_MAX);
            return Err(ConvertError::TooMany { field, count, max });
        }
        let filters = filters.into_iter().enumerate().map(|(index, filter)| {
            checked(filter).map_err(|error| error.of_item("filters", index))
        });
        Ok(ChangeSelection { filters: filters.collect::<Result<_, _>>()?, include_values })
    }

    /// The changes of a block's transactions that are wanted, in the order in which they were made.
    pub fn changes<'a>(
        &'a self,
        transactions: impl Iterator<Item = Transaction> + 'a,
    ) -> impl Iterator<Item = v1::Change> + 'a {
        transactions.flat_map(move |transaction| {
            let tx_id = transaction.tx_id;
            let operations = transaction.operations.into_iter();
            operations.filter_map(move |applied| self.change(applied, tx_id))
        })
    }

    fn change(&self, applied: AppliedOperation, tx_id: TxId) -> Option<v1::Change> {
        let AppliedOperation::State { operation, outcome } = applied else { return None };
        let kind = kind(outcome)?;
        let (mut value, mut expiry) = (None, None);
        let key = match operation {
            Operation::SetEntity { key, value: new, expires_at, .. } => {
                value = self.include_values.then_some(new);
                expiry = Some(expires_at).filter(|at| *at != 0);
                Key::Entity(key)
            }
            Operation::DeleteEntity { key } | Operation::ExpireEntity { key, .. } => {
                Key::Entity(key)
            }
            Operation::CreateRelationship { resource, relation, subject }
            | Operation::DeleteRelationship { resource, relation, subject } => {
                Key::Relationship(v1::Relationship { resource, relation, subject })
            }
        };
        let wanted =
            self.filters.is_empty() || self.filters.iter().any(|one| lets_through(one, &key));
        wanted.then(|| v1::Change {
            key: Some(key),
            kind: kind.into(),
            value,
            expires_at: expiry,
            tx_id: Some(tx_id.into()),
        })
    }
}

fn checked(filter: v1::ChangeFilter) -> Result<(Of, Option<String>), ConvertError> {
    let of = filter.of.ok_or(ConvertError::Missing { field: "of" })?;
    match &of {
        Of::EntityPrefix(_) if filter.relation.is_some() => {
            return Err(ConvertError::Both { field: "entity_prefix", other: "relation" });
        }
        // The empty prefix is every entity.
        Of::EntityPrefix(prefix) if prefix.is_empty() => {}
        Of::EntityPrefix(prefix) => check_client_string("entity_prefix", prefix)?,
        Of::Resource(resource) => check_client_string("resource", resource)?,
        Of::ResourceType(kind) => check_client_string("resource_type", kind)?,
        Of::Subject(subject) => check_client_string("subject", subject)?,
        Of::Relationships(true) => {}
        Of::Relationships(false) => {
            return Err(ConvertError::NotTrue { field: "relationships" });
        }
    }
    if let Some(relation) = &filter.relation {
        check_client_string("relation", relation)?;
    }
    Ok((of, filter.relation))
}

fn lets_through((of, relation): &(Of, Option<String>), key: &Key) -> bool {
    let one = match key {
        Key::Entity(key) => {
            return matches!(of, Of::EntityPrefix(prefix) if key.starts_with(prefix.as_str()));
        }
        Key::Relationship(one) => one,
    };
    let is_wanted = match of {
        Of::EntityPrefix(_) => false,
        Of::Resource(resource) => one.resource == *resource,
        Of::ResourceType(kind) => {
            one.resource.split_once(':').is_some_and(|(found, _)| found == kind)
        }
        Of::Subject(subject) => one.subject == *subject,
        Of::Relationships(_) => true,
    };
    is_wanted && relation.as_ref().is_none_or(|relation| one.relation == *relation)
}

/// How a key changed; `None` if it did not.
fn kind(outcome: Outcome) -> Option<v1::ChangeKind> {
    match outcome {
        Outcome::Created => Some(v1::ChangeKind::Created),
        Outcome::Updated => Some(v1::ChangeKind::Updated),
        Outcome::Deleted => Some(v1::ChangeKind::Deleted),
        Outcome::Expired => Some(v1::ChangeKind::Expired),
        Outcome::NotFound | Outcome::AlreadyExists | Outcome::Recovered => None,
    }
}

/// The heartbeat that a request asks for, in milliseconds. Errors: outside 1,000 to 60,000.
pub fn heartbeat_ms(asked: Option<u32>) -> Result<u64, ConvertError> {
    let value = u64::from(asked.unwrap_or(HEARTBEAT_MS_DEFAULT));
    match (HEARTBEAT_MS_MIN..=HEARTBEAT_MS_MAX).contains(&value) {
        true => Ok(value),
        false => {
            let (min, max) = (HEARTBEAT_MS_MIN, HEARTBEAT_MS_MAX);
            Err(ConvertError::OutOfRange { field: "heartbeat_ms", value, min, max })
        }
    }
}

#[cfg(test)]
mod tests {
    use ledger_types::Dedup;

    use super::*;

    fn filter(of: Of, relation: Option<&str>) -> v1::ChangeFilter {
        v1::ChangeFilter { of: Some(of), relation: relation.map(str::to_owned) }
    }

    fn transaction() -> Transaction {
        let set = |key: &str, value: &[u8], outcome| AppliedOperation::State {
            operation: Operation::SetEntity {
                key: key.to_owned(),
                value: value.to_vec(),
                expires_at: 9,
                condition: None,
            },
            outcome,
        };
        let relationship = |resource: &str, relation: &str, subject: &str, outcome| {
            let (resource, relation) = (resource.to_owned(), relation.to_owned());
            let subject = subject.to_owned();
            let operation = match outcome {
                Outcome::Deleted | Outcome::NotFound => {
                    Operation::DeleteRelationship { resource, relation, subject }
                }
                _ => Operation::CreateRelationship { resource, relation, subject },
            };
            AppliedOperation::State { operation, outcome }
        };
        let expire = Operation::ExpireEntity { key: "team/old".to_owned(), expired_at: 3 };
        Transaction {
            tx_id: TxId([1; 16]),
            client: "c".to_owned(),
            dedup: Dedup::None,
            assigned_sequence: 0,
            actor: String::new(),
            timestamp_ns: 5,
            operations: vec![
                set("team/a", b"1", Outcome::Created),
                set("user/a", b"2", Outcome::Updated),
                AppliedOperation::State { operation: expire, outcome: Outcome::Expired },
                relationship("document:1", "viewer", "user:1", Outcome::Created),
                relationship("document:1", "viewer", "user:2", Outcome::AlreadyExists),
                relationship("document:2", "editor", "user:1", Outcome::Deleted),
                relationship("folder:1", "viewer", "user:3", Outcome::NotFound),
                relationship("documents:1", "viewer", "user:4", Outcome::Created),
            ],
        }
    }

    /// The changed keys that filters let through, as text.
    fn told(filters: Vec<v1::ChangeFilter>) -> Vec<String> {
        let selection = ChangeSelection::new(filters, false).expect("good filters");
        let changes = selection.changes([transaction()].into_iter()).map(|change| {
            assert_eq!((change.value, change.tx_id), (None, Some(TxId([1; 16]).into())));
            match change.key.expect("every change has a key") {
                Key::Entity(key) => key,
                Key::Relationship(one) => {
                    format!("{}#{}@{}", one.resource, one.relation, one.subject)
                }
            }
        });
        changes.collect()
    }

    #[test]
    fn what_changed_nothing_is_left_out_and_filters_add_up() {
        let entities = ["team/a", "user/a", "team/old"];
        let first = "document:1#viewer@user:1";
        let second = "document:2#editor@user:1";
        let last = "documents:1#viewer@user:4";
        assert_eq!(told(Vec::new()), [&entities[..], &[first, second, last]].concat());
        let prefix = |text: &str| filter(Of::EntityPrefix(text.to_owned()), None);
        assert_eq!(told(vec![prefix("team/")]), ["team/a", "team/old"]);
        assert_eq!(told(vec![prefix("")]), entities);
        let kind = |text: &str| Of::ResourceType(text.to_owned());
        assert_eq!(told(vec![filter(kind("document"), None)]), [first, second]);
        assert_eq!(told(vec![filter(kind("document"), Some("editor"))]), [second]);
        assert_eq!(told(vec![filter(Of::Resource("document:1".to_owned()), None)]), [first]);
        assert_eq!(told(vec![filter(Of::Subject("user:1".to_owned()), None)]), [first, second]);
        assert_eq!(told(vec![filter(Of::Relationships(true), Some("viewer"))]), [first, last]);
        let both = vec![prefix("user/"), filter(Of::Subject("user:4".to_owned()), None)];
        assert_eq!(told(both), ["user/a", last]);
    }

    #[test]
    fn values_and_expiries_come_along_if_wanted() {
        let selection = ChangeSelection::new(Vec::new(), true).expect("no filters");
        let changes: Vec<_> = selection.changes([transaction()].into_iter()).collect();
        let facts: Vec<_> =
            changes.iter().map(|one| (one.kind(), one.value.as_deref(), one.expires_at)).collect();
        use v1::ChangeKind::{Created, Deleted, Expired, Updated};
        let expected: [(_, Option<&[u8]>, _); 6] = [
            (Created, Some(b"1"), Some(9)),
            (Updated, Some(b"2"), Some(9)),
            (Expired, None, None),
            (Created, None, None),
            (Deleted, None, None),
            (Created, None, None),
        ];
        assert_eq!(facts, expected);
    }

    #[test]
    fn filters_that_say_nothing_or_too_much_are_refused() {
        let refused = |filter| ChangeSelection::new(vec![filter], false).expect_err("a bad filter");
        let nothing = v1::ChangeFilter { of: None, relation: Some("viewer".to_owned()) };
        assert_eq!(refused(nothing).field(), "filters[0].of");
        let error = refused(filter(Of::EntityPrefix("a".to_owned()), Some("viewer")));
        assert!(error.to_string().contains("relation"), "{error}");
        for of in [
            Of::Resource(String::new()),
            Of::Subject("a\0b".to_owned()),
            Of::ResourceType("x".repeat(1025)),
            Of::Relationships(false),
        ] {
            refused(filter(of, None));
        }
        refused(filter(Of::Relationships(true), Some("")));
        let many = vec![filter(Of::Relationships(true), None); CHANGE_FILTERS_MAX + 1];
        let error = ChangeSelection::new(many, false).expect_err("too many");
        assert!(matches!(error, ConvertError::TooMany { field: "filters", .. }), "{error:?}");
        assert_eq!(heartbeat_ms(None), Ok(10_000));
        assert_eq!(
            (heartbeat_ms(Some(1_000)), heartbeat_ms(Some(60_000))),
            (Ok(1_000), Ok(60_000))
        );
        assert!(heartbeat_ms(Some(999)).is_err() && heartbeat_ms(Some(60_001)).is_err());
    }
}
