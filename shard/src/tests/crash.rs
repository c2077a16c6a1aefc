//! The power fails between any two steps: every directory is as it was then, or has lost some of what
//! no sync covered, and the three nodes start again from that.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::scripted::{Scripted, ScriptedNode};
use super::*;

/// Steps between two crashes that are tried.
const STRIDE: usize = 7;

/// Copies a live data directory file by file, then takes `lost` bytes off the end of its newest log.
fn copy_directory(from: &Path, to: &Path, lost: u64) {
    fs::create_dir_all(to.join("db")).unwrap();
    for entry in fs::read_dir(from).unwrap().chain(fs::read_dir(from.join("db")).unwrap()) {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, to.join(path.strip_prefix(from).unwrap())).unwrap();
        }
    }
    let logs = fs::read_dir(to.join("db")).unwrap().map(|entry| entry.unwrap().path());
    let newest = logs.filter(|path| path.extension().is_some_and(|kind| kind == "log")).max();
    let file = fs::OpenOptions::new().write(true).open(newest.unwrap()).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(len - lost.min(len)).unwrap();
}

/// Crashes a copy of the cluster, starts it again and checks that it has all that was acknowledged.
fn crash_and_check(all: &Scripted, step: usize, acknowledged: &[(u64, String)]) {
    let root = TempDir::new().unwrap();
    for (node, place) in all.nodes.iter().zip(NODES) {
        // All, none, or a part that ends within a record.
        let lost = match (step / STRIDE + place as usize) % 3 {
            0 => 0,
            1 => node.unsynced_bytes,
            _ => node.unsynced_bytes * 2 / 3,
        };
        copy_directory(&node.directory, &root.path().join(place.to_string()), lost);
    }
    let mut again = Scripted::start(root);
    for node in &again.nodes {
        assert_eq!(node.store.boots(), 2);
    }
    for group in GROUPS {
        again.commit(group, &create_vault_or_write(&again, group, step));
    }
    again.step_until("rest", Scripted::is_settled);
    for (group, key) in acknowledged {
        for node in &again.nodes {
            let found = entity(&node.store, *group, key);
            assert_eq!(found, Some(value_of(key)), "step {step}: {key} of group {group} is lost");
        }
    }
    again.assert_equal_state();
}

/// A command that commits whether or not the vault's creation survived the crash.
fn create_vault_or_write(all: &Scripted, group: u64, step: usize) -> Vec<u8> {
    let row = vault_row_key(vault_of(group));
    let exists = |node: &ScriptedNode| {
        LiveView::new(&node.store).get(Family::Vaults, &row).unwrap().is_some()
    };
    if all.nodes.iter().any(exists) {
        write(group, 1_000_000 + step as u64, "after the crash")
    } else {
        create_vault(group)
    }
}

#[test]
fn nothing_acknowledged_is_lost_at_any_crash_point() {
    let mut all = Scripted::start(TempDir::new().unwrap());
    let mut acknowledged: Vec<(u64, String)> = Vec::new();
    let mut open: Vec<(u64, String, Answer)> = Vec::new();
    let (mut step, mut crashes) = (0, 0);
    for group in GROUPS {
        all.step_until("a leader", |all| all.leader(group).is_some());
    }
    let creations: Vec<Answer> =
        GROUPS.map(|group| all.propose(group, create_vault(group)).unwrap()).into();
    while acknowledged.len() < 60 {
        if creations.iter().all(|one| one.lock().unwrap().is_some()) && open.len() < 9 {
            let number = all.number();
            let group = GROUPS[number as usize % GROUPS.len()];
            // Some keys are written again and again, so that history has rows too.
            let key = format!("key{}", number % 40);
            if let Some(answer) = all.propose(group, write(group, number, &key)) {
                open.push((group, key, answer));
            }
        }
        all.step();
        step += 1;
        assert!(step < 2000, "the cluster does not get on");
        open.retain(|(group, key, answer)| match &*answer.lock().unwrap() {
            None => true,
            Some(outcome) => {
                if is_done(outcome) {
                    acknowledged.push((*group, key.clone()));
                }
                false
            }
        });
        if step % STRIDE == 0 {
            crash_and_check(&all, step, &acknowledged);
            crashes += 1;
        }
    }
    assert!(crashes >= 3, "only {crashes} crashes in {step} steps");
    all.step_until("rest", Scripted::is_settled);
    all.assert_equal_state();
}
