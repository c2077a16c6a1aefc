//! Which list a verified list asks for, and the prefix of state keys that it is. Owns their checks.

use ledger_types::limits::STATE_KEY_BYTES_MAX;
use ledger_types::{StateKey, check_client_string};

use super::error::{ConvertError, check_length};
use super::reads::key_prefix;
use crate::v1;
use crate::v1::verified_list_request::List;

/// What stands between a resource's type and the rest of its name.
const TYPE_END: char = ':';

/// A list whose completeness can be proved: everything in a vault's state under one prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListOf {
    /// Entities whose keys begin with this; may be empty.
    Entities(String),
    /// Relationships of one resource.
    Resource {
        /// The resource.
        resource: String,
        /// Only this relation.
        relation: Option<String>,
    },
    /// Relationships of all resources whose name has this before its first colon.
    ResourceType(String),
    /// Relationships of one subject.
    Subject {
        /// The subject.
        subject: String,
        /// Only on this resource.
        resource: Option<String>,
    },
}

/// Checks what stands before the first colon of resources: a legal string without a colon.
pub fn resource_type(text: &str) -> Result<(), ConvertError> {
    let field = "resource_type";
    check_client_string(field, text)?;
    match text.contains(TYPE_END) {
        true => Err(ConvertError::IllegalCharacter { field, character: TYPE_END }),
        false => Ok(()),
    }
}

impl ListOf {
    /// Checks the parts: legal strings, a type without a colon, a prefix that state keys can have.
    pub fn check(&self) -> Result<(), ConvertError> {
        match self {
            ListOf::Entities(prefix) => {
                key_prefix("entity_prefix", prefix)?;
            }
            ListOf::Resource { resource, relation } => {
                check_client_string("resource", resource)?;
                check_optional("relation", relation.as_deref())?;
            }
            ListOf::ResourceType(resource_type) => self::resource_type(resource_type)?,
            ListOf::Subject { subject, resource } => {
                check_client_string("subject", subject)?;
                check_optional("resource", resource.as_deref())?;
            }
        }
        check_length("list", self.prefix().len(), STATE_KEY_BYTES_MAX)
    }

    /// What the state keys of the list begin with. The parts must have passed [`ListOf::check`].
    pub fn prefix(&self) -> Vec<u8> {
        match self {
            ListOf::Entities(prefix) => StateKey::entity_prefix(prefix),
            ListOf::Resource { resource, relation } => {
                StateKey::resource_prefix(resource, relation.as_deref())
            }
            ListOf::ResourceType(resource_type) => StateKey::resource_type_prefix(resource_type),
            ListOf::Subject { subject, resource } => {
                StateKey::subject_prefix(subject, resource.as_deref())
            }
        }
    }
}

fn check_optional(field: &'static str, part: Option<&str>) -> Result<(), ConvertError> {
    part.map_or(Ok(()), |part| Ok(check_client_string(field, part)?))
}

/// Reads and checks what a verified list asks for.
pub fn list_of(wire: Option<List>) -> Result<ListOf, ConvertError> {
    let list = match wire.ok_or(ConvertError::Missing { field: "list" })? {
        List::EntityPrefix(prefix) => ListOf::Entities(prefix),
        List::Resource(v1::ResourceList { resource, relation }) => {
            ListOf::Resource { resource, relation }
        }
        List::ResourceType(resource_type) => ListOf::ResourceType(resource_type),
        List::Subject(v1::SubjectList { subject, resource }) => {
            ListOf::Subject { subject, resource }
        }
    };
    list.check()?;
    Ok(list)
}

impl From<ListOf> for List {
    fn from(list: ListOf) -> List {
        match list {
            ListOf::Entities(prefix) => List::EntityPrefix(prefix),
            ListOf::Resource { resource, relation } => {
                List::Resource(v1::ResourceList { resource, relation })
            }
            ListOf::ResourceType(resource_type) => List::ResourceType(resource_type),
            ListOf::Subject { subject, resource } => {
                List::Subject(v1::SubjectList { subject, resource })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ledger_types::limits::KEY_BYTES_MAX;

    use super::*;

    fn lists() -> Vec<ListOf> {
        let text = |text: &str| text.to_owned();
        vec![
            ListOf::Entities(String::new()),
            ListOf::Entities(text("conf")),
            ListOf::Resource { resource: text("doc:1"), relation: None },
            ListOf::Resource { resource: text("doc:1"), relation: Some(text("viewer")) },
            ListOf::ResourceType(text("doc")),
            ListOf::Subject { subject: text("user:a"), resource: None },
            ListOf::Subject { subject: text("user:a"), resource: Some(text("doc:1")) },
        ]
    }

    #[test]
    fn lists_read_back_and_have_prefixes_of_their_own() {
        let mut prefixes = std::collections::BTreeSet::new();
        for list in lists() {
            assert_eq!(list_of(Some(list.clone().into())), Ok(list.clone()));
            assert!(prefixes.insert(list.prefix()), "{list:?}");
        }
        let grant = StateKey::by_resource("doc:1", "viewer", "user:a");
        let holders = prefixes.iter().filter(|prefix| grant.as_bytes().starts_with(prefix));
        assert_eq!(holders.count(), 3);
    }

    #[test]
    fn parts_are_checked_and_named() {
        let field = |list: ListOf| list_of(Some(list.into())).unwrap_err().field();
        assert_eq!(list_of(None).unwrap_err().field(), "list");
        assert_eq!(field(ListOf::Entities("a\0".to_owned())), "entity_prefix");
        assert_eq!(field(ListOf::ResourceType(String::new())), "resource_type");
        assert_eq!(field(ListOf::ResourceType("a:b".to_owned())), "resource_type");
        let part = |text: &str| Some(text.to_owned());
        let resource = |resource: &str, relation| {
            field(ListOf::Resource { resource: resource.to_owned(), relation })
        };
        assert_eq!(resource("", None), "resource");
        assert_eq!(resource("a", part("\0")), "relation");
        let subject = |subject: &str, resource| {
            field(ListOf::Subject { subject: subject.to_owned(), resource })
        };
        assert_eq!(subject("\0", None), "subject");
        assert_eq!(subject("a", part("")), "resource");
        let long = "x".repeat(KEY_BYTES_MAX);
        assert_eq!(subject(&long, Some(long.clone())), "list");
    }
}
