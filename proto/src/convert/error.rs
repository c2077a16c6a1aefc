//! Why a message is refused. Owns the names of fields in errors; says nothing about gRPC codes.

use ledger_proof::DecodeError;
use ledger_types::InvalidInput;
use thiserror::Error;

/// Why a message has no meaning here. Every variant names the field as it is called on the wire.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ConvertError {
    /// The field must be set.
    #[error("{field} is missing")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// The number must not be negative.
    #[error("{field} is {value} and must not be negative")]
    Negative {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: i64,
    },
    /// The text is empty, too long, or has an illegal character.
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
    /// The bytes have one legal length.
    #[error("{field} has {len} bytes and must have {expected}")]
    WrongLength {
        /// The field.
        field: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The legal length in bytes.
        expected: usize,
    },
    /// The list must have items.
    #[error("{field} has no items")]
    NoItems {
        /// The list.
        field: &'static str,
    },
    /// The list has too many items.
    #[error("{field} has {count} items, the limit is {max}")]
    TooMany {
        /// The list.
        field: &'static str,
        /// How many it has.
        count: usize,
        /// How many it may have.
        max: usize,
    },
    /// The number lies outside its range.
    #[error("{field} is {value} and must be from {min} to {max}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// The smallest legal number.
        min: u64,
        /// The largest legal number.
        max: u64,
    },
    /// The enum has no such value.
    #[error("{field} has the unknown value {value}")]
    UnknownValue {
        /// The field.
        field: &'static str,
        /// Its number.
        value: i32,
    },
    /// Only one of two fields may be set.
    #[error("{field} and {other} are both set; a request has one of them")]
    Both {
        /// The first field.
        field: &'static str,
        /// The second field.
        other: &'static str,
    },
    /// One of two fields must be set.
    #[error("neither {field} nor {other} is set; a request has one of them")]
    Neither {
        /// The first field.
        field: &'static str,
        /// The second field.
        other: &'static str,
    },
    /// The flag is set to false, which would ask for the opposite without saying so.
    #[error("{field} may be left out or true, not false")]
    NotTrue {
        /// The field.
        field: &'static str,
    },
    /// The text has a character that would make it mean something else.
    #[error("{field} may not have the character {character:?}")]
    IllegalCharacter {
        /// The field.
        field: &'static str,
        /// The character.
        character: char,
    },
    /// Only the cluster itself may do this.
    #[error("{field} is not for clients")]
    NotForClients {
        /// The field.
        field: &'static str,
    },
    /// The namespace is the directory's own, which only the cluster writes.
    #[error("{field} is 0, the directory's own namespace, which cannot be written by clients")]
    DirectoryNamespace {
        /// The field.
        field: &'static str,
    },
    /// The bytes are not the canonical form of what the field holds.
    #[error("{field} is malformed: {source}")]
    NotCanonical {
        /// The field.
        field: &'static str,
        /// What is wrong with the bytes.
        source: DecodeError,
    },
    /// The readable fields of the message do not repeat its canonical bytes.
    #[error("{field} and the message's other fields say different things")]
    Contradiction {
        /// The field with the canonical bytes.
        field: &'static str,
    },
    /// An item of a list is refused.
    #[error("{list}[{index}]: {source}")]
    Item {
        /// The list.
        list: &'static str,
        /// The item's place, from 0.
        index: usize,
        /// What is wrong with it.
        source: Box<ConvertError>,
    },
}

impl ConvertError {
    /// The field that is at fault, with its path through lists, for example `operations[3].key`.
    pub fn field(&self) -> String {
        match self {
            ConvertError::Item { list, index, source } => {
                format!("{list}[{index}].{}", source.field())
            }
            ConvertError::Invalid(invalid) => match invalid {
                InvalidInput::Empty { field }
                | InvalidInput::TooLong { field, .. }
                | InvalidInput::Nul { field, .. }
                | InvalidInput::BadName { field } => (*field).to_owned(),
            },
            ConvertError::Missing { field }
            | ConvertError::Negative { field, .. }
            | ConvertError::WrongLength { field, .. }
            | ConvertError::NoItems { field }
            | ConvertError::TooMany { field, .. }
            | ConvertError::OutOfRange { field, .. }
            | ConvertError::UnknownValue { field, .. }
            | ConvertError::Both { field, .. }
            | ConvertError::Neither { field, .. }
            | ConvertError::NotTrue { field }
            | ConvertError::IllegalCharacter { field, .. }
            | ConvertError::NotForClients { field }
            | ConvertError::DirectoryNamespace { field }
            | ConvertError::NotCanonical { field, .. }
            | ConvertError::Contradiction { field } => (*field).to_owned(),
        }
    }

    /// The same error, told of item `index` of `list`.
    pub(crate) fn of_item(self, list: &'static str, index: usize) -> ConvertError {
        ConvertError::Item { list, index, source: Box::new(self) }
    }
}

/// Refuses bytes longer than `max`.
pub(crate) fn check_length(
    field: &'static str,
    len: usize,
    max: usize,
) -> Result<(), ConvertError> {
    if len > max {
        return Err(InvalidInput::TooLong { field, len, max }.into());
    }
    Ok(())
}

/// Refuses an empty list and one longer than `max`.
pub(crate) fn check_count(
    field: &'static str,
    count: usize,
    max: usize,
) -> Result<(), ConvertError> {
    match count {
        0 => Err(ConvertError::NoItems { field }),
        count if count > max => Err(ConvertError::TooMany { field, count, max }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_goes_through_lists() {
        let error = ConvertError::from(InvalidInput::Empty { field: "key" })
            .of_item("operations", 3)
            .of_item("operations", 1);
        assert_eq!(error.field(), "operations[1].operations[3].key");
        assert_eq!(error.to_string(), "operations[1]: operations[3]: key is empty");
    }
}
