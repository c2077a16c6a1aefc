//! Tiny histories drawn at random: a register is run and what its clients would see is recorded, then perhaps
//! falsified. The search and the enumeration of all orders must say the same of each.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::brute_force::OPERATIONS_MAX;

/// One operation to be: what, when, where inside its time it takes effect, and what its client gets to know.
#[derive(Clone, Debug)]
struct Plan {
    call: u8,
    of: Index,
    began: u64,
    lasts: u64,
    at: Index,
    told: u8,
}

/// One change of a record that was true.
#[derive(Clone, Debug)]
struct Lie {
    operation: Index,
    how: u8,
    by: Index,
}

fn plan() -> impl Strategy<Value = Plan> {
    (0u8..8, any::<Index>(), 0u64..20, 0u64..12, any::<Index>(), 0u8..8)
        .prop_map(|(call, of, began, lasts, at, told)| Plan { call, of, began, lasts, at, told })
}

fn lie() -> impl Strategy<Value = Lie> {
    (any::<Index>(), 0u8..6, any::<Index>()).prop_map(|(operation, how, by)| Lie {
        operation,
        how,
        by,
    })
}

fn value(number: usize) -> Vec<u8> {
    vec![b'a' + number as u8]
}

/// Runs a register and records what its clients see, in the order in which the operations take effect.
fn run(plans: &[Plan]) -> Vec<Operation> {
    let mut order: Vec<(u64, usize)> = plans
        .iter()
        .enumerate()
        .map(|(number, plan)| (plan.began + plan.at.index(plan.lasts as usize + 1) as u64, number))
        .collect();
    order.sort_unstable();
    let mut held: Option<Vec<u8>> = None;
    let mut operations = Vec::new();
    for (_, number) in order {
        let plan = &plans[number];
        let expected = held.clone().filter(|_| plan.of.index(3) > 0);
        let expected = expected.unwrap_or_else(|| value(plan.of.index(plans.len())));
        let call = match plan.call {
            0 | 1 => Call::Set(value(number)),
            2 => Call::Create(value(number)),
            3 | 4 => Call::Replace { expected, value: value(number) },
            5 => Call::Delete,
            _ => Call::Read,
        };
        let (is_dropped, is_told) = (plan.told == 0 || plan.told == 1, plan.told > 2);
        let outcome = match plan.told {
            0 => Outcome::Failed,
            _ if is_told => {
                let answer = register(&call, &mut held);
                Outcome::Done { returned_ns: plan.began + plan.lasts, answer }
            }
            _ => {
                if !is_dropped {
                    register(&call, &mut held);
                }
                Outcome::Unknown
            }
        };
        let base = set("k", "").at(plan.began, 0).unknown();
        operations.push(Operation { client: number as u32, call, outcome, ..base });
    }
    operations
}

/// A register. The heights that it answers do not matter.
fn register(call: &Call, held: &mut Option<Vec<u8>>) -> Answer {
    let then = match call {
        Call::Read => return Answer::Value(held.clone()),
        Call::Create(_) if held.is_some() => return Answer::ConditionFailed,
        Call::Replace { expected, .. } if held.as_ref() != Some(expected) => {
            return Answer::ConditionFailed;
        }
        Call::Delete => None,
        Call::Set(value) | Call::Create(value) | Call::Replace { value, .. } => Some(value.clone()),
    };
    *held = then;
    Answer::Written { height: 1 }
}

/// Falsifies one record in a way that leaves it well formed.
fn falsify(operations: &mut [Operation], lie: &Lie) {
    if operations.is_empty() {
        return;
    }
    let count = operations.len();
    let operation = lie.operation.get_mut(operations);
    let is_conditional = matches!(operation.call, Call::Create(_) | Call::Replace { .. });
    match (&mut operation.outcome, lie.how) {
        (Outcome::Done { answer: Answer::Value(seen), .. }, 0..=2) => {
            *seen = Some(lie.by.index(count + 2)).filter(|n| *n <= count).map(value);
        }
        (Outcome::Done { answer, .. }, 0..=2) if is_conditional => {
            *answer = match answer {
                Answer::ConditionFailed => Answer::Written { height: 1 },
                _ => Answer::ConditionFailed,
            };
        }
        (Outcome::Done { returned_ns, .. }, 3) => {
            let lasted = *returned_ns - operation.invoked_ns;
            operation.invoked_ns = lie.by.index(30) as u64;
            *returned_ns = operation.invoked_ns + lasted;
        }
        (Outcome::Done { returned_ns, .. }, 4) => *returned_ns = operation.invoked_ns,
        (outcome, 5) => *outcome = Outcome::Failed,
        (outcome @ Outcome::Unknown, _) => *outcome = Outcome::Failed,
        _ => {}
    }
}

/// What proptest does with both properties. More cases than the default: each takes microseconds.
fn config() -> ProptestConfig {
    ProptestConfig { cases: 6000, ..ProptestConfig::default() }
}

fn judge(operations: &[Operation]) -> Vec<KeyFinding> {
    linearizable(operations, CONFIGURATIONS_MAX_DEFAULT)
}

#[test]
fn what_a_register_did_passes_both_checks() {
    proptest!(config(), |(plans in prop::collection::vec(plan(), 0..=OPERATIONS_MAX))| {
        let operations = run(&plans);
        prop_assert!(brute_force(&operations));
        prop_assert_eq!(judge(&operations), []);
    });
}

#[test]
fn both_checks_agree_on_falsified_histories() {
    let (good, bad) = (Cell::new(0u32), Cell::new(0u32));
    let plans = prop::collection::vec(plan(), 1..=OPERATIONS_MAX);
    proptest!(config(), |(plans in plans, lies in prop::collection::vec(lie(), 1..4))| {
        let mut operations = run(&plans);
        lies.iter().for_each(|lie| falsify(&mut operations, lie));
        let is_good = brute_force(&operations);
        let counter = if is_good { &good } else { &bad };
        counter.set(counter.get() + 1);
        let findings = judge(&operations);
        prop_assert_eq!(findings.is_empty(), is_good, "{:?}", findings);
        if let [KeyFinding::NotLinearizable(window)] = &findings[..] {
            // What is shown must be bad by itself, and need every part that has an answer.
            prop_assert!(!brute_force(&window.operations), "{}", window);
            prop_assert!(window.operations.iter().all(|shown| operations.contains(shown)));
        }
    });
    assert!(good.get() > 1000 && bad.get() > 1000, "{} good, {} bad", good.get(), bad.get());
}
