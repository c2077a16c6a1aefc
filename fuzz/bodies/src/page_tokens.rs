//! Page tokens, which clients hand back.

use ledger_types::ClusterId;
use ledger_types::limits::PAGE_TOKEN_BYTES_MAX;

use crate::{Verdict, edge};

const CLUSTER: ClusterId = ClusterId([1; 16]);

/// A token, as bytes and as text.
pub(crate) fn page_token(input: &[u8]) -> Verdict {
    match edge::open(CLUSTER, input) {
        Some(sealed) => {
            assert!(input.len() <= PAGE_TOKEN_BYTES_MAX, "tokens are bounded");
            assert_eq!(sealed, input, "two tokens of one place are accepted");
            Verdict::Accepted
        }
        None => Verdict::Refused,
    }
}

/// A token of the form that the target accepts, going on after this key.
pub fn sealed_page_token(after: &[u8]) -> (Vec<u8>, String) {
    edge::seal(CLUSTER, after)
}
