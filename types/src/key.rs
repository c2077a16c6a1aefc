//! State keys: the byte strings under which a vault's state is stored, ordered and committed to.
//!
//! Layout (state tree, section 3 of the format page `docs/verification-format.md`):
//! `0x00` descriptor; `0x01 ‖ entity key`; `0x02 ‖ resource ‖ 0x00 ‖ relation ‖ 0x00 ‖ subject`;
//! `0x03 ‖ subject ‖ 0x00 ‖ resource ‖ 0x00 ‖ relation`.

use std::fmt;

use thiserror::Error;

use crate::limits::{KEY_BYTES_MAX, NAME_BYTES_MAX, STATE_KEY_BYTES_MAX};

/// Why a client's string or key is refused. Names the field and, for a limit, the limit.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum InvalidInput {
    /// The field may not be empty.
    #[error("{field} is empty")]
    Empty {
        /// The field's name on the wire.
        field: &'static str,
    },
    /// The field is longer than its limit.
    #[error("{field} has {len} bytes, the limit is {max}")]
    TooLong {
        /// The field's name on the wire.
        field: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The field holds a NUL, which separates the parts of a state key.
    #[error("{field} contains a NUL byte at offset {offset}")]
    Nul {
        /// The field's name on the wire.
        field: &'static str,
        /// Where the first NUL is.
        offset: usize,
    },
    /// The name has a character outside `[a-z0-9.-]`.
    #[error("{field} may only have the characters a-z, 0-9, '.' and '-'")]
    BadName {
        /// The field's name on the wire.
        field: &'static str,
    },
}

/// Checks a client's key, resource, relation or subject: not empty, no NUL, at most [`KEY_BYTES_MAX`] bytes.
pub fn check_client_string(field: &'static str, text: &str) -> Result<(), InvalidInput> {
    if text.is_empty() {
        return Err(InvalidInput::Empty { field });
    }
    if text.len() > KEY_BYTES_MAX {
        return Err(InvalidInput::TooLong { field, len: text.len(), max: KEY_BYTES_MAX });
    }
    match text.bytes().position(|byte| byte == 0) {
        Some(offset) => Err(InvalidInput::Nul { field, offset }),
        None => Ok(()),
    }
}

/// Checks a cluster domain or node name: `[a-z0-9.-]+`, at most [`NAME_BYTES_MAX`] bytes.
pub fn check_name(field: &'static str, text: &str) -> Result<(), InvalidInput> {
    if text.is_empty() {
        return Err(InvalidInput::Empty { field });
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(InvalidInput::TooLong { field, len: text.len(), max: NAME_BYTES_MAX });
    }
    let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-');
    if text.bytes().all(legal) { Ok(()) } else { Err(InvalidInput::BadName { field }) }
}

/// A key of a vault's state tree. Byte order is tree order.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateKey(Box<[u8]>);

/// Tag of the vault descriptor's key.
const TAG_DESCRIPTOR: u8 = 0x00;
/// Tag of entity keys.
const TAG_ENTITY: u8 = 0x01;
/// Tag of relationships ordered by resource.
const TAG_BY_RESOURCE: u8 = 0x02;
/// Tag of relationships ordered by subject.
const TAG_BY_SUBJECT: u8 = 0x03;

impl StateKey {
    /// The vault descriptor's key, present in every vault.
    pub fn descriptor() -> StateKey {
        StateKey(Box::new([TAG_DESCRIPTOR]))
    }

    /// The key of an entity. The string must have passed [`check_client_string`].
    pub fn entity(key: &str) -> StateKey {
        StateKey::join(TAG_ENTITY, &[key])
    }

    /// The key of a relationship among those of its resource.
    pub fn by_resource(resource: &str, relation: &str, subject: &str) -> StateKey {
        StateKey::join(TAG_BY_RESOURCE, &[resource, relation, subject])
    }

    /// The key of a relationship among those of its subject.
    pub fn by_subject(resource: &str, relation: &str, subject: &str) -> StateKey {
        StateKey::join(TAG_BY_SUBJECT, &[subject, resource, relation])
    }

    /// Checks the three parts of a relationship and that their state key fits [`STATE_KEY_BYTES_MAX`].
    pub fn check_relationship(
        resource: &str,
        relation: &str,
        subject: &str,
    ) -> Result<(), InvalidInput> {
        check_client_string("resource", resource)?;
        check_client_string("relation", relation)?;
        check_client_string("subject", subject)?;
        let len = 3 + resource.len() + relation.len() + subject.len();
        if len > STATE_KEY_BYTES_MAX {
            let field = "relationship";
            return Err(InvalidInput::TooLong { field, len, max: STATE_KEY_BYTES_MAX });
        }
        Ok(())
    }

    /// The prefix of the entities whose keys begin with `prefix` (which may be empty).
    pub fn entity_prefix(prefix: &str) -> Vec<u8> {
        StateKey::join(TAG_ENTITY, &[prefix]).0.into_vec()
    }

    /// The prefix of a resource's relationships, or of those with one relation.
    pub fn resource_prefix(resource: &str, relation: Option<&str>) -> Vec<u8> {
        StateKey::prefix(TAG_BY_RESOURCE, resource, relation)
    }

    /// The prefix of the relationships of all resources of one type: those whose name has this before its
    /// first colon. The type itself must have none, or other resources are meant.
    pub fn resource_type_prefix(resource_type: &str) -> Vec<u8> {
        let mut prefix = StateKey::join(TAG_BY_RESOURCE, &[resource_type]).0.into_vec();
        prefix.push(b':');
        prefix
    }

    /// The prefix of a subject's relationships, or of those on one resource.
    pub fn subject_prefix(subject: &str, resource: Option<&str>) -> Vec<u8> {
        StateKey::prefix(TAG_BY_SUBJECT, subject, resource)
    }

    /// The prefix of every relationship ordered by resource.
    pub fn all_by_resource() -> Vec<u8> {
        vec![TAG_BY_RESOURCE]
    }

    /// Takes stored or received bytes as a key, if they have a known tag and a legal length.
    pub fn from_bytes(bytes: &[u8]) -> Option<StateKey> {
        let tag = *bytes.first()?;
        let legal = bytes.len() <= STATE_KEY_BYTES_MAX && tag <= TAG_BY_SUBJECT;
        legal.then(|| StateKey(bytes.into()))
    }

    /// The key's bytes, tag included.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The entity key this state key names, if it names one.
    pub fn as_entity(bytes: &[u8]) -> Option<&str> {
        match bytes.split_first() {
            Some((&TAG_ENTITY, key)) => std::str::from_utf8(key).ok(),
            _ => None,
        }
    }

    /// The relationship (resource, relation, subject) that these bytes name in either order.
    pub fn as_relationship(bytes: &[u8]) -> Option<(&str, &str, &str)> {
        let (&tag, rest) = bytes.split_first()?;
        let mut parts = std::str::from_utf8(rest).ok()?.split('\0');
        let (first, second, third) = (parts.next()?, parts.next()?, parts.next()?);
        match (tag, parts.next()) {
            (TAG_BY_RESOURCE, None) => Some((first, second, third)),
            (TAG_BY_SUBJECT, None) => Some((second, third, first)),
            _ => None,
        }
    }

    fn prefix(tag: u8, first: &str, second: Option<&str>) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend_from_slice(first.as_bytes());
        bytes.push(0);
        if let Some(second) = second {
            bytes.extend_from_slice(second.as_bytes());
            bytes.push(0);
        }
        bytes
    }

    fn join(tag: u8, parts: &[&str]) -> StateKey {
        let len = parts.iter().map(|part| part.len() + 1).sum();
        let mut bytes = Vec::with_capacity(len);
        bytes.push(tag);
        for (number, part) in parts.iter().enumerate() {
            if number > 0 {
                bytes.push(0);
            }
            bytes.extend_from_slice(part.as_bytes());
        }
        assert!(bytes.len() <= STATE_KEY_BYTES_MAX, "state keys are checked before they are built");
        StateKey(bytes.into_boxed_slice())
    }
}

impl AsRef<[u8]> for StateKey {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateKey({})", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relationship_is_found_from_both_keys() {
        let parts = ("document:7", "viewer", "user:alice");
        let by_resource = StateKey::by_resource(parts.0, parts.1, parts.2);
        let by_subject = StateKey::by_subject(parts.0, parts.1, parts.2);
        assert_eq!(by_resource.as_bytes(), b"\x02document:7\0viewer\0user:alice");
        assert_eq!(by_subject.as_bytes(), b"\x03user:alice\0document:7\0viewer");
        assert_eq!(StateKey::as_relationship(by_resource.as_bytes()), Some(parts));
        assert_eq!(StateKey::as_relationship(by_subject.as_bytes()), Some(parts));
        assert!(by_resource.as_bytes().starts_with(&StateKey::resource_prefix("document:7", None)));
        assert!(by_subject.as_bytes().starts_with(&StateKey::subject_prefix("user:alice", None)));
    }

    #[test]
    fn a_resource_type_is_what_stands_before_the_first_colon() {
        let prefix = StateKey::resource_type_prefix("document");
        let is_of_type = |resource: &str| {
            StateKey::by_resource(resource, "viewer", "user:a").as_bytes().starts_with(&prefix)
        };
        assert!(is_of_type("document:7") && is_of_type("document:"));
        for other in ["document", "documents:7", "docu:ment", "a:document:7"] {
            assert!(!is_of_type(other), "{other}");
        }
        assert!(!StateKey::by_subject("r", "s", "document:7").as_bytes().starts_with(&prefix));
    }

    #[test]
    fn strings_are_refused_by_name_and_limit() {
        assert_eq!(check_client_string("key", ""), Err(InvalidInput::Empty { field: "key" }));
        let nul = InvalidInput::Nul { field: "key", offset: 1 };
        assert_eq!(check_client_string("key", "a\0b"), Err(nul));
        let long = "x".repeat(KEY_BYTES_MAX + 1);
        let error = InvalidInput::TooLong { field: "key", len: 1025, max: 1024 };
        assert_eq!(check_client_string("key", &long), Err(error));
        assert!(check_client_string("key", &long[1..]).is_ok());
        let error = StateKey::check_relationship(&long[1..], "r", &long[1..]).unwrap_err();
        assert!(error.to_string().contains("2048"), "{error}");
        assert!(check_name("name", "node-1.ledger").is_ok());
        assert!(check_name("name", "Node_1").is_err());
    }
}
