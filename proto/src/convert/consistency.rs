//! How fresh an answer has to be.

use super::ConvertError;
use crate::v1;

/// How fresh an answer has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Consistency {
    /// What any replica has applied.
    #[default]
    Eventual,
    /// Every write acknowledged before the request was sent.
    Linearizable,
}

/// Reads the field `consistency`. Unset means eventual. Errors: a number that names no consistency.
pub fn consistency(wire: i32) -> Result<Consistency, ConvertError> {
    match v1::ReadConsistency::try_from(wire) {
        Ok(v1::ReadConsistency::Unspecified | v1::ReadConsistency::Eventual) => {
            Ok(Consistency::Eventual)
        }
        Ok(v1::ReadConsistency::Linearizable) => Ok(Consistency::Linearizable),
        Err(_) => Err(ConvertError::UnknownValue { field: "consistency", value: wire }),
    }
}

impl From<Consistency> for v1::ReadConsistency {
    fn from(consistency: Consistency) -> v1::ReadConsistency {
        match consistency {
            Consistency::Eventual => v1::ReadConsistency::Eventual,
            Consistency::Linearizable => v1::ReadConsistency::Linearizable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_numbers_are_not_taken_for_eventual() {
        assert_eq!(consistency(0), Ok(Consistency::Eventual));
        assert_eq!(consistency(1), Ok(Consistency::Eventual));
        assert_eq!(consistency(2), Ok(Consistency::Linearizable));
        let error = ConvertError::UnknownValue { field: "consistency", value: 3 };
        assert_eq!(consistency(3), Err(error));
    }
}
