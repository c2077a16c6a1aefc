//! What reads and lists ask for: keys, filters, pages. Owns their limits.

use ledger_types::limits::{
    KEY_BYTES_MAX, KEYS_PER_READ_MAX, PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX, PAGE_TOKEN_BYTES_MAX,
};
use ledger_types::{InvalidInput, StateKey, check_client_string};

use super::error::{ConvertError, check_count, check_length};
use crate::v1;
use crate::v1::verified_key::Key;

/// Name of the field that holds keys.
const KEYS: &str = "keys";

/// Checks the key of a read.
pub fn key(key: String) -> Result<String, ConvertError> {
    check_client_string("key", &key)?;
    Ok(key)
}

/// Checks the keys of a batch read: 1 to [`KEYS_PER_READ_MAX`].
pub fn keys(keys: Vec<String>) -> Result<Vec<String>, ConvertError> {
    check_count(KEYS, keys.len(), KEYS_PER_READ_MAX)?;
    for (index, key) in keys.iter().enumerate() {
        check_client_string("key", key)
            .map_err(|error| ConvertError::from(error).of_item(KEYS, index))?;
    }
    Ok(keys)
}

/// Reads the keys of a verified read: 1 to [`KEYS_PER_READ_MAX`]. A relationship is proved under
/// its resource.
pub fn verified_keys(wire: &[v1::VerifiedKey]) -> Result<Vec<StateKey>, ConvertError> {
    check_count(KEYS, wire.len(), KEYS_PER_READ_MAX)?;
    wire.iter()
        .enumerate()
        .map(|(index, wire)| verified_key(wire).map_err(|error| error.of_item(KEYS, index)))
        .collect()
}

fn verified_key(wire: &v1::VerifiedKey) -> Result<StateKey, ConvertError> {
    match wire.key.as_ref().ok_or(ConvertError::Missing { field: "key" })? {
        Key::Entity(entity) => {
            check_client_string("entity", entity)?;
            Ok(StateKey::entity(entity))
        }
        Key::Relationship(v1::Relationship { resource, relation, subject }) => {
            StateKey::check_relationship(resource, relation, subject)?;
            Ok(StateKey::by_resource(resource, relation, subject))
        }
    }
}

/// The wire form of a state key that a verified read can ask for; `None` for the descriptor's key.
pub fn wire_verified_key(key: &StateKey) -> Option<v1::VerifiedKey> {
    let bytes = key.as_bytes();
    let key = match (StateKey::as_entity(bytes), StateKey::as_relationship(bytes)) {
        (Some(entity), _) => Key::Entity(entity.to_owned()),
        (None, Some((resource, relation, subject))) => {
            let [resource, relation, subject] = [resource, relation, subject].map(str::to_owned);
            Key::Relationship(v1::Relationship { resource, relation, subject })
        }
        (None, None) => return None,
    };
    Some(v1::VerifiedKey { key: Some(key) })
}

/// Which relationships a list asks for; a part that is `None` may be anything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RelationshipFilter {
    /// The resource.
    pub resource: Option<String>,
    /// The relation.
    pub relation: Option<String>,
    /// The subject.
    pub subject: Option<String>,
}

/// Reads the filter of a list of relationships. Errors: a part that is set but could be no part of
/// a relationship.
pub fn relationship_filter(
    wire: &v1::ListRelationshipsRequest,
) -> Result<RelationshipFilter, ConvertError> {
    Ok(RelationshipFilter {
        resource: optional_part("resource", wire.resource.as_ref())?,
        relation: optional_part("relation", wire.relation.as_ref())?,
        subject: optional_part("subject", wire.subject.as_ref())?,
    })
}

fn optional_part(
    field: &'static str,
    part: Option<&String>,
) -> Result<Option<String>, ConvertError> {
    if let Some(part) = part {
        check_client_string(field, part)?;
    }
    Ok(part.cloned())
}

/// Checks the prefix of a list of entities: it may be empty, else it obeys the rules of keys.
pub fn key_prefix(field: &'static str, prefix: &str) -> Result<(), ConvertError> {
    check_length(field, prefix.len(), KEY_BYTES_MAX)?;
    match prefix.bytes().position(|byte| byte == 0) {
        Some(offset) => Err(InvalidInput::Nul { field, offset }.into()),
        None => Ok(()),
    }
}

/// Reads how many items a page may have; 0 means [`PAGE_ITEMS_DEFAULT`]. Errors: beyond
/// [`PAGE_ITEMS_MAX`].
pub fn page_items(field: &'static str, wire: u32) -> Result<usize, ConvertError> {
    let max = u64::try_from(PAGE_ITEMS_MAX).expect("the limit is small");
    match usize::try_from(wire) {
        Ok(0) => Ok(PAGE_ITEMS_DEFAULT),
        Ok(items) if items <= PAGE_ITEMS_MAX => Ok(items),
        _ => Err(ConvertError::OutOfRange { field, value: u64::from(wire), min: 0, max }),
    }
}

/// Checks the length of a page token; what it says is checked by its owner.
pub fn page_token(token: &[u8]) -> Result<(), ConvertError> {
    check_length("page_token", token.len(), PAGE_TOKEN_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_counted_and_named() {
        assert_eq!(keys(vec![]), Err(ConvertError::NoItems { field: "keys" }));
        let many = vec!["k".to_owned(); KEYS_PER_READ_MAX + 1];
        let error = ConvertError::TooMany { field: "keys", count: 1001, max: 1000 };
        assert_eq!(keys(many), Err(error));
        let error = keys(vec!["a".to_owned(), "\0".to_owned()]).unwrap_err();
        assert_eq!(error.field(), "keys[1].key");
    }

    #[test]
    fn verified_keys_read_back() {
        let wanted =
            vec![StateKey::entity("a"), StateKey::by_resource("doc:1", "viewer", "user:1")];
        let wire: Vec<v1::VerifiedKey> = wanted.iter().filter_map(wire_verified_key).collect();
        assert_eq!(verified_keys(&wire), Ok(wanted));
        assert_eq!(wire_verified_key(&StateKey::descriptor()), None);
        let error = verified_keys(&[v1::VerifiedKey { key: None }]).unwrap_err();
        assert_eq!(error.field(), "keys[0].key");
    }

    #[test]
    fn filter_parts_are_checked_when_set() {
        let wire = v1::ListRelationshipsRequest {
            subject: Some("user:1".to_owned()),
            ..v1::ListRelationshipsRequest::default()
        };
        let wanted =
            RelationshipFilter { subject: Some("user:1".to_owned()), ..Default::default() };
        assert_eq!(relationship_filter(&wire), Ok(wanted));
        let wire = v1::ListRelationshipsRequest { resource: Some(String::new()), ..wire };
        assert_eq!(relationship_filter(&wire).unwrap_err().field(), "resource");
    }

    #[test]
    fn pages_are_bounded() {
        assert_eq!(page_items("limit", 0), Ok(100));
        assert_eq!(page_items("limit", 10_000), Ok(10_000));
        let error = ConvertError::OutOfRange { field: "limit", value: 10_001, min: 0, max: 10_000 };
        assert_eq!(page_items("limit", 10_001), Err(error));
        assert!(page_token(&[0; PAGE_TOKEN_BYTES_MAX]).is_ok());
        assert!(page_token(&[0; PAGE_TOKEN_BYTES_MAX + 1]).is_err());
        assert_eq!(key_prefix("key_prefix", ""), Ok(()));
        assert_eq!(key_prefix("key_prefix", "a\0").unwrap_err().field(), "key_prefix");
    }
}
