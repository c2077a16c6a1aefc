//! The definition of linearizability, tried out: every order and every subset of the unknown.
//!
//! Owns a second opinion on tiny histories for tests of the real check. Must never share code with that check or
//! be made clever.

use crate::record::{Answer, Call, Operation, Outcome};

/// Most operations that may be tried: 8! orders times the subsets of the unknown.
pub const OPERATIONS_MAX: usize = 8;

/// Whether the operations, all on one key that is absent at first, have a legal order. They are as
/// [`crate::linearizable()`] accepts them.
///
/// # Panics
///
/// If there are more than [`OPERATIONS_MAX`].
pub fn brute_force(operations: &[Operation]) -> bool {
    assert!(operations.len() <= OPERATIONS_MAX, "there are too many orders to try them all");
    let left: Vec<&Operation> =
        operations.iter().filter(|operation| operation.outcome != Outcome::Failed).collect();
    some_order(&left, None)
}

/// Tries each operation that may come next, and for an unknown one also that it never happens.
fn some_order(left: &[&Operation], held: Option<&[u8]>) -> bool {
    if left.is_empty() {
        return true;
    }
    (0..left.len()).any(|place| {
        let next = left[place];
        let mut rest = left.to_vec();
        rest.remove(place);
        let (answer, then) = perform(&next.call, held);
        match &next.outcome {
            Outcome::Failed => unreachable!("these were left out"),
            Outcome::Unknown => {
                some_order(&rest, held) || (may_be_first(next, &rest) && some_order(&rest, then))
            }
            Outcome::Done { answer: given, .. } => {
                may_be_first(next, &rest) && same(&answer, given) && some_order(&rest, then)
            }
        }
    })
}

/// Nothing of the rest had returned when this one was asked for.
fn may_be_first(next: &Operation, rest: &[&Operation]) -> bool {
    rest.iter().all(|other| match &other.outcome {
        Outcome::Done { returned_ns, .. } => *returned_ns >= next.invoked_ns,
        Outcome::Failed | Outcome::Unknown => true,
    })
}

/// What a register that holds `held` answers, and what it holds afterwards.
fn perform<'a>(call: &'a Call, held: Option<&'a [u8]>) -> (Answer, Option<&'a [u8]>) {
    let written = Answer::Written { height: 0 };
    match call {
        Call::Read => (Answer::Value(held.map(<[u8]>::to_vec)), held),
        Call::Delete => (written, None),
        Call::Set(value) => (written, Some(value)),
        Call::Create(value) if held.is_none() => (written, Some(value)),
        Call::Replace { expected, value } if held == Some(expected) => (written, Some(value)),
        Call::Create(_) | Call::Replace { .. } => (Answer::ConditionFailed, held),
    }
}

/// Heights are not the register's business.
fn same(expected: &Answer, given: &Answer) -> bool {
    match (expected, given) {
        (Answer::Written { .. }, Answer::Written { .. }) => true,
        (expected, given) => expected == given,
    }
}
