//! Histories with many keys: what they are allowed together, counted in configurations, and what is said of each.

use std::collections::BTreeSet;

use super::*;

/// Begun at once: so many sets, a read of each, and after all of them a read of what nobody can have left. Every
/// order of the sets has to be tried.
fn hard(key: &str, sets: usize) -> Vec<Operation> {
    let values: Vec<String> = (0..sets).map(|number| format!("v{number}")).collect();
    let set = values.iter().map(|value| set(key, value).at(0, 100).written(1));
    let read = values.iter().map(|value| read(key).at(0, 100).saw(Some(value)));
    set.chain(read).chain([super::read(key).at(200, 201).saw(None)]).collect()
}

fn stale(key: &str) -> Vec<Operation> {
    vec![
        set(key, "a").at(0, 1).written(1),
        set(key, "b").at(2, 3).written(2),
        read(key).at(4, 5).saw(Some("a")),
    ]
}

fn good(key: &str) -> Vec<Operation> {
    vec![set(key, "a").at(0, 1).written(1), read(key).at(2, 3).saw(Some("a"))]
}

/// What a key's search takes if nothing bounds it.
fn cost(operations: &[Operation]) -> usize {
    let operations: Vec<&Operation> = operations.iter().collect();
    search::search(&search::steps(&operations), usize::MAX).1
}

fn key_of(finding: &KeyFinding) -> &str {
    match finding {
        KeyFinding::NotLinearizable(window) => &window.key,
        KeyFinding::NotShrunk { key, .. } | KeyFinding::NotDecided { key, .. } => key,
        KeyFinding::Malformed(operation) => &operation.key,
    }
}

#[test]
fn many_bad_keys_share_one_bound_and_each_is_told_of() {
    const BOUND: usize = 100_000;
    const SETS: usize = 16;
    // One such key takes all that it may have, so a bound for each key would be that many times this one.
    let (_, alone) = judge(&hard("h", SETS), BOUND);
    assert!((BOUND / 2..BOUND / 2 + 100).contains(&alone), "{alone}");
    let hard_keys = (0..200).flat_map(|number| hard(&format!("hard {number}"), SETS));
    let stale_keys = (0..50).flat_map(|number| stale(&format!("stale {number}")));
    let good_keys = (0..50).flat_map(|number| good(&format!("good {number}")));
    let operations: Vec<Operation> = hard_keys.chain(stale_keys).chain(good_keys).collect();
    let (findings, spent) = judge(&operations, BOUND);
    assert!(spent <= BOUND + 100, "{spent}");
    let told: BTreeSet<&str> = findings.iter().map(key_of).collect();
    assert_eq!((told.len(), findings.len()), (250, 250), "every key but the good ones, once");
    assert!(!told.iter().any(|key| key.starts_with("good")));
    let mut kinds = [0; 3];
    let mut looked_at = 0;
    for finding in &findings {
        match finding {
            KeyFinding::NotLinearizable(window) => {
                assert_eq!((window.operations.len(), window.is_cut_short), (3, false));
                kinds[0] += 1;
            }
            KeyFinding::NotShrunk { key, .. } => {
                assert!(key.starts_with("stale"), "{key}");
                kinds[1] += 1;
            }
            KeyFinding::NotDecided { key, configurations, .. } => {
                assert!(key.starts_with("hard"), "{key}");
                kinds[2] += 1;
                looked_at += usize::from(*configurations > 0);
            }
            KeyFinding::Malformed(operation) => panic!("{operation}"),
        }
    }
    assert_eq!(kinds, [WINDOWS_MAX, 50 - WINDOWS_MAX, 200]);
    // Half of the bound, a first look for each until it is used up; those behind were not even begun.
    assert!((40..=50).contains(&looked_at), "{looked_at}");
    assert_eq!(linearizable(&operations, BOUND), findings);
}

#[test]
fn what_easy_keys_leave_goes_to_the_hard_one() {
    let hard_key = hard("hard", 12);
    let needed = cost(&hard_key);
    assert!((FIRST_LOOK * DEEPER..200_000).contains(&needed), "{needed}");
    let mut operations = hard_key;
    operations.extend((0..300).flat_map(|number| good(&format!("good {number}"))));
    // Three times what it needs, for 301 verdicts: equal shares would be a hundredth of that.
    let (findings, spent) = judge(&operations, 6 * needed);
    let [KeyFinding::NotLinearizable(window)] = &findings[..] else { panic!("{findings:?}") };
    assert_eq!(window.key, "hard");
    assert!(spent <= 6 * needed + 100, "{spent}");
    let findings = linearizable(&operations, needed);
    let [KeyFinding::NotDecided { configurations, .. }] = &findings[..] else {
        panic!("{findings:?}");
    };
    assert!(*configurations > 0, "it had its looks");
}

#[test]
fn a_window_that_is_cut_short_says_so() {
    let operations = hard("k", 8);
    // Enough for the verdict, but each search for a window may have an eighth of that.
    let findings = linearizable(&operations, 4 * cost(&operations));
    let [KeyFinding::NotLinearizable(window)] = &findings[..] else { panic!("{findings:?}") };
    assert!(window.is_cut_short, "{window}");
    assert!(
        window.to_string().contains("17 of 17 operations (fewer may say the same):"),
        "{window}"
    );
    let findings = linearizable(&operations, 1000 * cost(&operations));
    let [KeyFinding::NotLinearizable(window)] = &findings[..] else { panic!("{findings:?}") };
    assert!(!window.is_cut_short && window.operations.len() < 5, "{window}");
}

#[test]
fn keys_that_are_only_named_are_called_not_linearizable_too() {
    let operations: Vec<Operation> = ["k", "l", "m", "n"].into_iter().flat_map(stale).collect();
    let findings = linearizable(&operations, CONFIGURATIONS_MAX_DEFAULT);
    assert_eq!(findings.len(), 4);
    assert!(findings.iter().all(|found| found.to_string().starts_with("not linearizable: ")));
    assert_eq!(
        findings[3].to_string(),
        "not linearizable: \"n\" of vault 1/2, 3 operations, not made smaller as other keys are"
    );
}
