//! How a write is recognised when it comes again: an idempotency key or a sequence number, never
//! both.

use ledger_types::Dedup;

use super::ConvertError;

/// Name of the field that holds the key.
const KEY: &str = "idempotency_key";
/// Name of the field that holds the number.
const SEQUENCE: &str = "sequence";

/// Reads the two fields of a write. Errors: neither or both set, a key of another length than 16
/// bytes, number 0.
pub fn dedup(idempotency_key: &[u8], sequence: Option<u64>) -> Result<Dedup, ConvertError> {
    match (idempotency_key, sequence) {
        ([], None) => Err(ConvertError::Neither { field: KEY, other: SEQUENCE }),
        ([], Some(0)) => {
            let (min, max) = (1, u64::MAX);
            Err(ConvertError::OutOfRange { field: SEQUENCE, value: 0, min, max })
        }
        ([], Some(sequence)) => Ok(Dedup::Sequence(sequence)),
        (_, Some(_)) => Err(ConvertError::Both { field: KEY, other: SEQUENCE }),
        (key, None) => {
            let wrong = ConvertError::WrongLength { field: KEY, len: key.len(), expected: 16 };
            key.try_into().map(Dedup::IdempotencyKey).map_err(|_| wrong)
        }
    }
}

/// The two fields of a write: `idempotency_key` and `sequence`.
pub fn dedup_fields(dedup: Dedup) -> (Vec<u8>, Option<u64>) {
    match dedup {
        Dedup::None => (Vec::new(), None),
        Dedup::Sequence(sequence) => (Vec::new(), Some(sequence)),
        Dedup::IdempotencyKey(key) => (key.to_vec(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_contract_is_chosen() {
        let neither = ConvertError::Neither { field: KEY, other: SEQUENCE };
        assert_eq!(dedup(&[], None), Err(neither));
        let both = ConvertError::Both { field: KEY, other: SEQUENCE };
        assert_eq!(dedup(&[1; 16], Some(1)), Err(both.clone()));
        assert_eq!(dedup(&[1; 3], Some(1)), Err(both));
        assert_eq!(dedup(&[], Some(1)), Ok(Dedup::Sequence(1)));
        assert_eq!(dedup(&[], Some(0)).unwrap_err().field(), "sequence");
    }

    #[test]
    fn key_has_16_bytes() {
        for len in [1, 15, 17, 32] {
            let error = ConvertError::WrongLength { field: KEY, len, expected: 16 };
            assert_eq!(dedup(&vec![1; len], None), Err(error));
        }
        assert_eq!(dedup(&[7; 16], None), Ok(Dedup::IdempotencyKey([7; 16])));
    }

    #[test]
    fn fields_read_back() {
        for wanted in [Dedup::Sequence(5), Dedup::IdempotencyKey([3; 16])] {
            let (key, sequence) = dedup_fields(wanted);
            assert_eq!(dedup(&key, sequence), Ok(wanted));
        }
    }
}
