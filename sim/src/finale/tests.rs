//! What the checks of the end say to replicas that are not as they must be.

use ledger_proof::{Record, hash};
use ledger_shard_core::apply::NotedCheckpoint;
use ledger_shard_core::rows::{latest_key, owned_row_key, split_latest, vault_row_key};
use ledger_shard_core::view::{RowWrite, StateView as _};
use ledger_types::StateKey;

use super::*;

/// A run that ended as it must.
const SEED: u64 = 4;
/// The group whose rows are made wrong.
const NUMBER: usize = 1;
const GROUP: GroupId = GroupId(1);

/// What the end says if one replica, or each, has another row.
fn with_another_row(
    world: &mut World,
    is_on_each: bool,
    (family, key): (Family, &[u8]),
    value: Option<Vec<u8>>,
) -> (&'static str, String) {
    let members = world.plans[NUMBER].members.keys().copied();
    let places: Vec<usize> =
        if is_on_each { members.collect() } else { members.skip(1).take(1).collect() };
    let disk = &world.nodes[places[0]].disk;
    let right = disk.get(family, key).expect("it is not damaged");
    assert_ne!(right, value, "another row");
    let set = |world: &mut World, value: Option<Vec<u8>>| {
        for &place in &places {
            let row = RowWrite { family, key: key.to_vec(), value: value.clone() };
            world.nodes[place].disk.write_flushed([row]);
        }
    };
    set(world, value);
    world.compare_replicas();
    let found = world.violation.take().expect("a wrong row is found");
    set(world, right);
    world.compare_replicas();
    assert_eq!(world.violation, None, "with the right row again nothing is found");
    (found.invariant, found.detail)
}

/// A vault of the group, and one of its rows in a family.
fn vault_and_row(world: &World, family: Family) -> (VaultRef, Vec<u8>, Vec<u8>) {
    let disk = &world.nodes[world.leader_place(GROUP).expect("it has a leader")].disk;
    let vault = owned_vaults(disk, GROUP).expect("rows can be read")[0];
    let (from, to) = vault_range(vault);
    let (key, value) = disk.range(family, &from, &to).next().expect("it has rows");
    (vault, key.to_vec(), value.to_vec())
}

#[test]
fn replicas_that_differ_are_found() {
    let mut world = World::ended(SEED);
    let (_, key, value) = vault_and_row(&world, Family::History);
    let found = with_another_row(&mut world, false, (Family::History, &key), None);
    assert_eq!(found.0, "same rows", "{found:?}");
    // Of another key's record nobody can tell whether it is right, only that it is not everywhere.
    let mut other = value;
    other[1..9].copy_from_slice(&0u64.to_be_bytes());
    let found = with_another_row(&mut world, false, (Family::History, &key), Some(other));
    assert_eq!(found.0, "same rows", "{found:?}");
    let (_, key, _) = vault_and_row(&world, Family::Sessions);
    let mut client = key[..16].to_vec();
    client.extend_from_slice(b"\x02nobody");
    let found = with_another_row(&mut world, false, (Family::Sessions, &client), Some(vec![1]));
    assert_eq!(found.0, "same rows", "{found:?}");
    // Blind, nothing is computed again, and blocks are still compared.
    world.options.is_blind = true;
    let (_, key, _) = vault_and_row(&world, Family::Blocks);
    let found = with_another_row(&mut world, false, (Family::Blocks, &key), None);
    assert_eq!(found.0, "same rows", "{found:?}");
}

#[test]
fn replicas_that_are_all_wrong_are_found() {
    let mut world = World::ended(SEED);
    let (vault, ..) = vault_and_row(&world, Family::Latest);
    let (name, ..) = world.oracle.entities(vault)[0];
    let key = latest_key(vault, StateKey::entity(name).as_bytes());
    let place = world.leader_place(GROUP).expect("it has a leader");
    let row = world.nodes[place].disk.get(Family::Latest, &key).expect("it is not damaged");
    let row = row.expect("what the model has is there");
    let (record, value) = split_latest(&row).expect("it is in its format");
    let mut record = Record::decode(record).expect("it is in its format");
    let value = [value, b"!"].concat();
    record.value_hash = hash::plain(&value);
    let other = [&record.encode()[..], &value].concat();
    for is_blind in [false, true] {
        // Blind only the model tells; else the root does.
        world.options.is_blind = is_blind;
        let words = if is_blind { "not " } else { "have root" };
        for wrong in [None, Some(other.clone())] {
            let found = with_another_row(&mut world, true, (Family::Latest, &key), wrong);
            assert_eq!(found.0, "contents", "{found:?}");
            assert!(found.1.contains(words), "{found:?}");
        }
    }
    // What the model does not have is in no look-up, but in the root.
    world.options.is_blind = false;
    let stray = latest_key(vault, StateKey::entity("nobody wrote this").as_bytes());
    let found = with_another_row(&mut world, true, (Family::Latest, &stray), Some(row));
    assert_eq!(found.0, "contents", "{found:?}");
}

#[test]
fn a_vault_that_is_missing_or_ends_elsewhere_is_found() {
    let mut world = World::ended(SEED);
    world.options.is_blind = true;
    let (vault, ..) = vault_and_row(&world, Family::Latest);
    let owned = owned_row_key(GROUP, vault);
    let found = with_another_row(&mut world, true, (Family::Vaults, &owned), None);
    assert_eq!(found.0, "contents", "{found:?}");
    assert!(found.1.contains("owns"), "{found:?}");
    let place = world.leader_place(GROUP).expect("it has a leader");
    let row = query::vault_row(&world.nodes[place].disk, vault).expect("it is there");
    for change in [
        |row: &mut VaultRow| row.height -= 1,
        |row: &mut VaultRow| row.block_hash.0[0] ^= 1,
        |row: &mut VaultRow| row.state_root.0[0] ^= 1,
    ] {
        let mut other = row.clone();
        change(&mut other);
        let key = vault_row_key(vault);
        let found =
            with_another_row(&mut world, true, (Family::Vaults, &key), Some(other.encode()));
        assert_eq!(found.0, "contents", "{found:?}");
        assert!(found.1.contains("ends with"), "{found:?}");
    }
}

#[test]
fn a_group_that_does_not_work_in_time_is_found() {
    let mut world = World::ended(SEED);
    let since = world.now;
    let place = *world.plans[NUMBER].members.keys().next().expect("it has members");
    let process = world.nodes[place].process.take();
    assert!(process.is_some(), "all of them run");
    world.now = since + SETTLE_US;
    world.settle(since);
    assert_eq!(world.violation, None, "there is still time");
    world.now += 1;
    world.settle(since);
    let found = world.violation.take().expect("too late is found");
    assert_eq!(found.invariant, "works again", "{found}");
    world.nodes[place].process = process;
    world.settle(since);
    assert_eq!(world.violation, None, "running again it is as it must be");
}

#[test]
fn a_recorded_checkpoint_over_another_log_is_found() {
    let mut world = World::ended(SEED);
    let place = world.leader_place(GROUP).expect("it has a leader");
    let disk = &world.nodes[place].disk;
    let vault = owned_vaults(disk, GROUP).expect("rows can be read")[0];
    let root = |size| query::log_root(disk, vault, size).expect("it has had that size");
    let right = NotedCheckpoint { vault, size: 3, root: root(3) };
    let wrong = NotedCheckpoint { vault, size: 3, root: root(2) };
    assert!(world.agrees(place, &[right]));
    assert_eq!(world.violation, None);
    assert!(world.agrees(place, &[wrong]));
    let found = world.violation.take().expect("the roots differ");
    assert_eq!(found.invariant, "signed history", "{found:?}");
}
