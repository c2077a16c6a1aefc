//! Chains that fit their histories, and each way in which one may not.

use super::*;
use crate::record::build::{create, delete, read, replace, set};

const VAULT: VaultRef = crate::record::build::VAULT;

/// Writes as (height, key, value); an empty value stands for a delete.
fn chain(writes: &[(u64, &str, &str)]) -> Vec<ChainWrite> {
    let write = |(height, key, value): &(u64, &str, &str)| ChainWrite {
        height: *height,
        key: (*key).to_owned(),
        value: (!value.is_empty()).then(|| value.as_bytes().to_vec()),
    };
    writes.iter().map(write).collect()
}

fn told(operations: &[Operation], writes: &[(u64, &str, &str)]) -> Vec<String> {
    exactly_once(VAULT, operations, &chain(writes)).iter().map(ChainFinding::to_string).collect()
}

/// The only finding's first words.
fn kind(operations: &[Operation], writes: &[(u64, &str, &str)]) -> String {
    let told = told(operations, writes);
    assert_eq!(told.len(), 1, "{told:?}");
    told[0].split(':').next().unwrap_or_default().to_owned()
}

#[test]
fn a_chain_of_all_that_was_told_passes() {
    let operations = [
        set("k", "a").at(0, 10).written(1),
        create("l", "b").at(0, 12).written(1),
        replace("k", "a", "c").at(11, 20).written(2),
        delete("k").at(21, 30).written(4),
        create("l", "d").at(21, 25).refused(),
        set("k", "e").at(31, 0).failed(),
        set("k", "f").at(32, 0).unknown(),
        set("k", "g").at(33, 0).unknown(),
        delete("l").at(34, 0).unknown(),
        read("k").at(50, 60).saw(Some("g")),
    ];
    let writes =
        [(1, "k", "a"), (1, "l", "b"), (2, "k", "c"), (4, "k", ""), (5, "k", "g"), (6, "l", "")];
    assert_eq!(told(&operations, &writes), [""; 0]);
}

#[test]
fn an_acknowledged_write_that_vanished_is_lost() {
    let operations = [set("k", "a").at(0, 10).written(1), set("k", "b").at(11, 20).written(2)];
    let told = told(&operations, &[(1, "k", "a")]);
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with("lost write: client 0 sets \"k\" to b"), "{}", told[0]);
    assert_eq!(kind(&[delete("k").at(0, 9).written(3)], &[]), "lost write");
}

#[test]
fn the_right_value_under_another_key_is_lost_and_nobodys() {
    let told = told(&[set("k", "a").at(0, 10).written(1)], &[(1, "l", "a")]);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("lost write") && told[1].starts_with("nobody's write"));
}

#[test]
fn another_height_than_the_acknowledged_is_found() {
    assert_eq!(kind(&[set("k", "a").at(0, 10).written(1)], &[(2, "k", "a")]), "misplaced write");
}

#[test]
fn a_write_that_happened_twice_is_found() {
    let twice = [(1, "k", "a"), (3, "k", "a")];
    assert_eq!(kind(&[set("k", "a").at(0, 10).written(1)], &twice), "duplicate write");
    assert_eq!(kind(&[set("k", "a").at(0, 0).unknown()], &twice), "duplicate write");
    let same_block = [(1, "k", "a"), (1, "k", "a")];
    assert_eq!(kind(&[set("k", "a").at(0, 10).written(1)], &same_block), "duplicate write");
}

#[test]
fn a_refused_write_that_happened_is_found() {
    let writes = [(1, "k", "a")];
    assert_eq!(kind(&[set("k", "a").at(0, 0).failed()], &writes), "refused write");
    assert_eq!(kind(&[create("k", "a").at(0, 5).refused()], &writes), "refused write");
}

#[test]
fn a_value_of_nobody_is_found() {
    assert_eq!(kind(&[], &[(1, "k", "a")]), "nobody's write");
    let elsewhere = Operation { vault: VaultRef::new(8, 8), ..set("k", "a").at(0, 10).written(1) };
    assert_eq!(kind(&[elsewhere], &[(1, "k", "a")]), "nobody's write");
}

#[test]
fn a_delete_of_nobody_is_found_and_unknown_ones_excuse_one_each() {
    assert_eq!(kind(&[], &[(1, "k", "")]), "nobody's write");
    let unknown = delete("k").at(0, 0).unknown();
    assert_eq!(told(std::slice::from_ref(&unknown), &[(1, "k", "")]), [""; 0]);
    assert_eq!(
        kind(std::slice::from_ref(&unknown), &[(1, "k", ""), (2, "k", "")]),
        "nobody's write"
    );
    assert_eq!(kind(&[unknown], &[(1, "l", "")]), "nobody's write");
    assert_eq!(kind(&[delete("k").at(0, 0).failed()], &[(1, "k", "")]), "nobody's write");
}

#[test]
fn a_later_write_in_no_later_block_is_found() {
    let operations = [set("k", "a").at(0, 10).written(2), set("l", "b").at(11, 20).written(2)];
    assert_eq!(kind(&operations, &[(2, "k", "a"), (2, "l", "b")]), "time ran backwards");
    let together = [set("k", "a").at(0, 10).written(2), set("l", "b").at(10, 20).written(2)];
    assert_eq!(told(&together, &[(2, "k", "a"), (2, "l", "b")]), [""; 0]);
}

#[test]
fn what_is_no_history_or_no_chain_is_found() {
    let twins = [set("k", "a").at(0, 10).written(1), set("k", "a").at(0, 0).unknown()];
    assert_eq!(kind(&twins, &[(1, "k", "a")]), "not a history");
    let operations = [set("k", "a").at(0, 10).written(1), set("k", "b").at(0, 10).written(2)];
    assert_eq!(kind(&operations, &[(2, "k", "b"), (1, "k", "a")]), "not a chain");
}
