//! A node in a process of its own that dies for real: killed from outside, or by itself because a
//! write to disk failed. What it acknowledged before must be there afterwards.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command as Process, Stdio};

use tempfile::TempDir;

use super::*;
use crate::{Driver, NoSnapshots, SystemClock, abort_process};

const DIRECTORY_VARIABLE: &str = "LEDGER_TEST_DIRECTORY";
const MODE_VARIABLE: &str = "LEDGER_TEST_MODE";
const ACKNOWLEDGED: &str = "acknowledged ";
const GROUP: u64 = 1;

/// Starts a node that is its group's only voter.
fn start_alone(store: &Arc<Store>, mode: DriverMode, fatal: Fatal) -> Driver {
    if store.boots() == 1 {
        let here = Replica { incarnation: Incarnation(1), node: NodeId(1) };
        let record = BootRecord::new_group(GroupId(GROUP), Incarnation(1), vec![here]);
        boot::create_group(store, &record, &[]).unwrap();
    }
    let loaded = boot::load(store, NodeId(1)).unwrap();
    let parts = DriverParts {
        store: store.clone(),
        node: NodeId(1),
        records: loaded.records,
        sleeping: loaded.sleeping,
        fetcher: Arc::new(NoSnapshots::default()),
        outbox: Arc::new(Network::default()),
        blocks: Arc::new(Blocks::default()),
        clock: Arc::new(SystemClock),
        fatal,
    };
    Driver::start(parts, config(mode, 10)).unwrap()
}

/// Proposes a command until it is committed.
fn commit(driver: &Driver, command: &[u8]) {
    loop {
        let (sender, receiver) = crossbeam::channel::bounded(1);
        let handle = driver.handle();
        let completion = Box::new(move |outcome| sender.send(outcome).unwrap());
        let deadline_ms = handle.now().monotonic_ms + 10_000;
        handle.propose(GroupId(GROUP), command.to_vec(), deadline_ms, completion);
        if is_done(&receiver.recv().unwrap()) {
            return;
        }
        std::thread::yield_now();
    }
}

/// A key whose value fills pages quickly.
fn long_key(number: u64) -> String {
    format!("{number:0>500}")
}

#[test]
#[ignore = "runs in a process of its own, started by the other tests here"]
fn child() {
    let directory = std::env::var_os(DIRECTORY_VARIABLE).expect("started by a test");
    let mode = match std::env::var(MODE_VARIABLE).as_deref() {
        Ok("staged") => DriverMode::Staged,
        _ => DriverMode::Inline,
    };
    let store = open_store(Path::new(&directory));
    let driver = start_alone(&store, mode, abort_process());
    commit(&driver, &create_vault(GROUP));
    for number in 0..100_000 {
        commit(&driver, &write(GROUP, number, &long_key(number)));
        println!("\n{ACKNOWLEDGED}{number}");
    }
}

/// Runs the child below a limit on the size of any file, in blocks of the shell.
fn start_child(directory: &TempDir, mode: &str, file_blocks_max: &str) -> Child {
    let script = "trap '' XFSZ; ulimit -c 0; ulimit -f \"$1\"; shift; exec \"$@\"";
    let this = std::env::current_exe().unwrap();
    Process::new("sh")
        .args(["-c", script, "sh", file_blocks_max])
        .arg(this)
        .args(["--exact", "tests::dying::child", "--ignored", "--nocapture"])
        .env(DIRECTORY_VARIABLE, directory.path())
        .env(MODE_VARIABLE, mode)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What the child acknowledges, one after the other, until it ends.
fn acknowledged(child: &mut Child) -> impl Iterator<Item = u64> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.map_while(Result::ok).filter_map(|line| line.strip_prefix(ACKNOWLEDGED)?.parse().ok())
}

fn assert_all_there(directory: &TempDir, acknowledged: u64) {
    let store = open_store(directory.path());
    assert_eq!(store.boots(), 2);
    let driver = start_alone(&store, DriverMode::Inline, fatal_in_tests());
    commit(&driver, &write(GROUP, u64::MAX, "alive"));
    for number in 0..acknowledged {
        let key = long_key(number);
        assert_eq!(entity(&store, GROUP, &key), Some(value_of(&key)), "write {number} is lost");
    }
    driver.shutdown().unwrap();
}

#[test]
fn a_killed_node_comes_back_with_all_that_it_acknowledged() {
    for mode in ["inline", "staged"] {
        let directory = TempDir::new().unwrap();
        let mut child = start_child(&directory, mode, "unlimited");
        let mut writes = acknowledged(&mut child);
        let last = writes.nth(99).expect("the child writes");
        child.kill().unwrap();
        let last = writes.last().unwrap_or(last);
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert_all_there(&directory, last + 1);
    }
}

#[test]
fn a_write_that_fails_ends_the_process_and_loses_nothing() {
    for mode in ["inline", "staged"] {
        let directory = TempDir::new().unwrap();
        let mut child = start_child(&directory, mode, "4096");
        let last = acknowledged(&mut child).last().expect("some writes fit");
        assert_eq!(child.wait().unwrap().signal(), Some(6), "the process aborts");
        assert!(last < 99_999);
        assert_all_there(&directory, last + 1);
    }
}
