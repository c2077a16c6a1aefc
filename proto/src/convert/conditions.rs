//! Conditions of a set operation. Owns what a condition may say; state is checked where it is
//! applied.

use ledger_types::Condition;
use ledger_types::limits::VALUE_BYTES_MAX;

use super::error::{ConvertError, check_length};
use crate::v1;
use crate::v1::set_condition::Condition as Wire;

/// Reads a condition. Errors: none chosen, a flag that is false, a value longer than
/// [`VALUE_BYTES_MAX`].
pub fn condition(wire: v1::SetCondition) -> Result<Condition, ConvertError> {
    match wire.condition.ok_or(ConvertError::Missing { field: "condition" })? {
        Wire::NotExists(true) => Ok(Condition::NotExists),
        Wire::NotExists(false) => Err(ConvertError::NotTrue { field: "not_exists" }),
        Wire::MustExists(true) => Ok(Condition::MustExist),
        Wire::MustExists(false) => Err(ConvertError::NotTrue { field: "must_exists" }),
        Wire::Version(height) => Ok(Condition::Version(height)),
        Wire::ValueEquals(value) => {
            check_length("value_equals", value.len(), VALUE_BYTES_MAX)?;
            Ok(Condition::ValueEquals(value))
        }
    }
}

impl From<Condition> for v1::SetCondition {
    fn from(condition: Condition) -> v1::SetCondition {
        let wire = match condition {
            Condition::NotExists => Wire::NotExists(true),
            Condition::MustExist => Wire::MustExists(true),
            Condition::Version(height) => Wire::Version(height),
            Condition::ValueEquals(value) => Wire::ValueEquals(value),
        };
        v1::SetCondition { condition: Some(wire) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_must_be_true() {
        let of = |wire| condition(v1::SetCondition { condition: wire });
        assert_eq!(of(Some(Wire::NotExists(true))), Ok(Condition::NotExists));
        let error = ConvertError::NotTrue { field: "not_exists" };
        assert_eq!(of(Some(Wire::NotExists(false))), Err(error));
        let error = ConvertError::NotTrue { field: "must_exists" };
        assert_eq!(of(Some(Wire::MustExists(false))), Err(error));
        assert_eq!(of(None), Err(ConvertError::Missing { field: "condition" }));
    }

    #[test]
    fn value_is_bounded() {
        let of = |len| {
            let condition = Some(Wire::ValueEquals(vec![0; len]));
            super::condition(v1::SetCondition { condition })
        };
        assert!(of(VALUE_BYTES_MAX).is_ok());
        assert_eq!(of(VALUE_BYTES_MAX + 1).unwrap_err().field(), "value_equals");
    }
}
