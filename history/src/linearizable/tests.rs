//! Good and bad histories by name, and both checks against each other on thousands of tiny ones.

mod agreement_of_both;
mod one_bound;

use super::*;
use crate::brute_force::brute_force;
use crate::record::build::{create, delete, read, replace, set};

/// The verdict; both checks must agree on tiny histories.
fn check(operations: &[Operation]) -> Vec<KeyFinding> {
    let findings = linearizable(operations, CONFIGURATIONS_MAX_DEFAULT);
    if operations.len() <= crate::brute_force::OPERATIONS_MAX {
        assert_eq!(findings.is_empty(), brute_force(operations), "{operations:#?}");
    }
    findings
}

#[track_caller]
fn assert_good(operations: &[Operation]) {
    assert_eq!(check(operations), []);
}

/// The window of the only finding, one line per operation.
#[track_caller]
fn window(operations: &[Operation]) -> Vec<String> {
    let findings = check(operations);
    let [KeyFinding::NotLinearizable(window)] = &findings[..] else { panic!("{findings:?}") };
    window.operations.iter().map(Operation::to_string).collect()
}

#[test]
fn one_client_after_the_other_passes() {
    assert_good(&[]);
    assert_good(&[
        read("k").at(0, 1).saw(None),
        create("k", "a").at(2, 3).written(1),
        create("k", "b").at(4, 5).refused(),
        replace("k", "a", "c").at(6, 7).written(2),
        replace("k", "a", "d").at(8, 9).refused(),
        read("k").at(10, 11).saw(Some("c")),
        delete("k").at(12, 13).written(3),
        replace("k", "c", "e").at(14, 15).refused(),
    ]);
}

#[test]
fn concurrent_operations_may_come_in_either_order() {
    assert_good(&[set("k", "a").at(0, 10).written(1), read("k").at(5, 6).saw(None)]);
    assert_good(&[set("k", "a").at(0, 10).written(1), read("k").at(5, 6).saw(Some("a"))]);
    assert_good(&[set("k", "a").at(0, 10).written(1), read("k").at(10, 12).saw(None)]);
}

#[test]
fn keys_and_vaults_are_independent() {
    let elsewhere = Operation { vault: VaultRef::new(8, 8), ..read("k").at(2, 3).saw(None) };
    let operations = [set("k", "a").at(0, 1).written(1), read("l").at(2, 3).saw(None), elsewhere];
    assert_eq!(linearizable(&operations, 100), []);
}

#[test]
fn a_stale_read_is_found() {
    let operations = [
        set("k", "a").at(0, 1).written(1),
        set("k", "b").at(2, 3).written(2),
        read("k").at(4, 5).saw(Some("a")),
    ];
    assert_eq!(
        window(&operations),
        [
            "client 0 sets \"k\" to a of vault 1/2 at 0 ns, written in block 1 at 1 ns",
            "client 0 sets \"k\" to b of vault 1/2 at 2 ns, written in block 2 at 3 ns",
            "client 0 reads \"k\" of vault 1/2 at 4 ns, saw a at 5 ns",
        ]
    );
}

#[test]
fn a_lost_write_is_found() {
    assert_eq!(window(&[set("k", "a").at(0, 1).written(1), read("k").at(2, 3).saw(None)]).len(), 2);
    assert_eq!(
        window(&[create("k", "a").at(0, 1).written(1), create("k", "b").at(2, 3).written(2)]).len(),
        2
    );
}

#[test]
fn two_replacements_of_one_value_are_found() {
    let operations = [
        set("k", "a").at(0, 1).written(1),
        replace("k", "a", "b").at(2, 9).written(2),
        replace("k", "a", "c").at(2, 9).written(2),
    ];
    assert_eq!(window(&operations).len(), 3);
}

#[test]
fn a_read_from_the_future_is_found_with_its_write() {
    let operations = [read("k").at(0, 1).saw(Some("a")), set("k", "a").at(2, 3).written(1)];
    assert_eq!(window(&operations).len(), 2);
    let unknown = [read("k").at(0, 1).saw(Some("a")), set("k", "a").at(2, 0).unknown()];
    assert_eq!(window(&unknown).len(), 2);
}

#[test]
fn a_value_of_nobody_is_found() {
    let told = window(&[set("k", "a").at(0, 1).written(1), read("k").at(2, 3).saw(Some("z"))]);
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn a_failed_write_that_is_seen_is_found() {
    window(&[set("k", "a").at(0, 0).failed(), read("k").at(2, 3).saw(Some("a"))]);
}

#[test]
fn reads_that_go_back_are_found() {
    let operations = [
        set("k", "a").at(0, 1).written(1),
        set("k", "b").at(2, 20).written(2),
        read("k").at(3, 4).saw(Some("b")),
        read("k").at(5, 6).saw(Some("a")),
    ];
    assert_eq!(window(&operations).len(), 4);
}

#[test]
fn an_unknown_write_may_happen_late_or_never_but_once() {
    let write = set("k", "a").at(0, 0).unknown();
    let other = set("k", "b").at(10, 11).written(1);
    assert_good(&[write.clone(), other.clone(), read("k").at(20, 21).saw(Some("b"))]);
    assert_good(&[write.clone(), other.clone(), read("k").at(20, 21).saw(Some("a"))]);
    let back = [
        write,
        read("k").at(5, 6).saw(Some("a")),
        other,
        read("k").at(20, 21).saw(Some("b")),
        read("k").at(22, 23).saw(Some("a")),
    ];
    assert_eq!(window(&back).len(), 4, "all but the first read");
}

#[test]
fn unknown_operations_may_build_on_each_other() {
    assert_good(&[
        set("k", "a").at(0, 1).written(1),
        delete("k").at(2, 0).unknown(),
        create("k", "b").at(2, 0).unknown(),
        replace("k", "b", "c").at(2, 0).unknown(),
        read("k").at(4, 5).saw(Some("c")),
    ]);
    let missing = [
        set("k", "a").at(0, 1).written(1),
        create("k", "b").at(2, 0).unknown(),
        replace("k", "b", "c").at(2, 0).unknown(),
        read("k").at(4, 5).saw(Some("c")),
    ];
    window(&missing);
}

#[test]
fn two_refusals_with_nothing_between_are_found() {
    let operations = [create("k", "a").at(0, 1).refused(), set("k", "b").at(2, 3).written(1)];
    assert_eq!(window(&operations).len(), 1, "a refused creation of what nobody had made");
}

#[test]
fn the_window_names_vault_and_key_and_leaves_the_rest_out() {
    let mut operations = Vec::new();
    for i in 0..200u64 {
        let value = format!("v{i}");
        operations.push(set("k", &value).at(i * 10, i * 10 + 3).written(i));
        operations.push(read("k").at(i * 10 + 5, i * 10 + 6).saw(Some(&value)));
        operations.push(set("l", &format!("w{i}")).at(i * 10, i * 10 + 3).written(i));
    }
    assert_good(&operations);
    operations.push(read("k").at(1507, 1508).saw(Some("v149")));
    let findings = check(&operations);
    let told = findings[0].to_string();
    assert!(
        told.starts_with("not linearizable: \"k\" of vault 1/2, 3 of 401 operations:\n"),
        "{told}"
    );
    assert!(told.contains("to v149") && told.contains("saw v149"), "{told}");
    assert!(told.contains("v150"), "something shows that v149 was over: {told}");
}

#[test]
fn many_unknown_writes_are_decided_quickly() {
    // Each unknown write could stand in any gap: an enumeration of their subsets would never end.
    let mut operations = Vec::new();
    for i in 0..60u64 {
        operations.push(set("k", &format!("u{i}")).at(i, 0).unknown());
        operations.push(delete("k").at(i, 0).unknown());
    }
    for i in 0..60u64 {
        let value = format!("v{i}");
        operations.push(set("k", &value).at(100 + i * 10, 103 + i * 10).written(i));
        operations.push(read("k").at(105 + i * 10, 106 + i * 10).saw(Some(&value)));
    }
    assert_eq!(linearizable(&operations, 10_000), []);
    operations.push(read("k").at(700, 701).saw(Some("v40")));
    let findings = linearizable(&operations, 10_000);
    assert!(matches!(&findings[..], [KeyFinding::NotLinearizable(_)]), "{findings:?}");
}

#[test]
fn reads_that_fit_are_not_tried_in_every_order() {
    // A dozen writes and their reads at once, and a read that only one late write explains.
    let mut operations: Vec<Operation> =
        (0..12).map(|i| set("k", &format!("v{i}")).at(0, 100).written(1)).collect();
    operations.extend((0..12).map(|i| read("k").at(0, 100).saw(Some(&format!("v{i}")))));
    operations.push(delete("k").at(0, 100).written(1));
    operations.push(create("k", "z").at(0, 100).refused());
    operations.push(set("k", "q").at(100, 400).written(1));
    operations.push(read("k").at(0, 100).saw(Some("q")));
    assert_eq!(linearizable(&operations, 10_000), []);
}

#[test]
fn a_search_that_is_given_up_is_not_a_pass() {
    let mut operations: Vec<Operation> =
        (0..16).map(|i| set("k", &format!("v{i}")).at(0, 100).written(1)).collect();
    operations.extend((0..16).map(|i| read("k").at(0, 100).saw(Some(&format!("v{i}")))));
    operations.push(read("k").at(200, 201).saw(None));
    // Half of it is for windows.
    let findings = linearizable(&operations, 2000);
    let [KeyFinding::NotDecided { operations: 33, configurations, .. }] = findings[..] else {
        panic!("{findings:?}");
    };
    assert!((1000..2000).contains(&configurations), "{configurations}");
}

#[test]
fn records_that_cannot_be_are_found() {
    for operation in [
        set("k", "a").at(5, 4).written(1),
        set("k", "a").at(0, 1).refused(),
        delete("k").at(0, 1).refused(),
        read("k").at(0, 1).written(1),
        create("k", "a").at(0, 1).saw(None),
    ] {
        let findings = linearizable(std::slice::from_ref(&operation), 100);
        assert_eq!(findings, [KeyFinding::Malformed(operation)]);
    }
}
