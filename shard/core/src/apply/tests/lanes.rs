//! Vaults in lanes: the same answers, blocks and rows whatever runs where and when.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::harness::*;
use crate::apply::{Applier, ApplyConfig, ApplyOutput, Inline, Lanes};
use crate::effects::Committed;
use crate::entry::LogEntry;
use ledger_types::VaultRef;

const VAULTS: u64 = 7;

/// The last job first.
struct Backwards;

impl Lanes for Backwards {
    fn run(&self, count: usize, job: &(dyn Fn(usize) + Sync)) {
        (0..count).rev().for_each(job);
    }
}

/// A thread for each job.
#[derive(Default)]
struct Threads {
    runs: AtomicUsize,
}

impl Lanes for Threads {
    #[expect(
        clippy::disallowed_methods,
        reason = "what crates that may start threads do with jobs"
    )]
    fn run(&self, count: usize, job: &(dyn Fn(usize) + Sync)) {
        self.runs.fetch_add(1, Ordering::Relaxed);
        std::thread::scope(|scope| {
            for number in 0..count {
                scope.spawn(move || job(number));
            }
        });
    }
}

/// A log in which every entry has writes to several vaults, and to some vaults more than one.
fn log(machine: &mut Machine) -> Vec<LogEntry> {
    let vaults: Vec<VaultRef> = (1..=VAULTS).map(|vault| VaultRef::new(1, vault)).collect();
    let mut entries =
        vec![machine.entry(&vaults.iter().map(|v| create_vault(*v)).collect::<Vec<_>>())];
    for number in 0..40u64 {
        machine.time_ns += SECOND;
        let commands = (0..9u64).map(|place| {
            let vault = vaults[((number * 5 + place * place) % VAULTS) as usize];
            let key = format!("key{}", (number * 3 + place) % 17);
            command(vault, &write(&[set(&key, &format!("{number}-{place}"))]))
        });
        let commands: Vec<Vec<u8>> = commands.collect();
        entries.push(machine.entry(&commands));
    }
    entries
}

/// Everything that comes of the log, round by round, and the rows in the end.
fn outputs(lanes: &dyn Lanes, rounds: usize) -> (Vec<ApplyOutput>, Machine) {
    let config = ApplyConfig { tree_flush_blocks: 3, ..ApplyConfig::default() };
    let mut machine = Machine::empty(config);
    let entries = log(&mut machine);
    let mut outputs = Vec::new();
    for entries in entries.chunks(entries.len().div_ceil(rounds)) {
        let entries = entries.to_vec();
        let committed = [Committed { group: GROUP, entries, members: Vec::new() }];
        let mut output = ApplyOutput::default();
        let applier: &mut Applier = &mut machine.applier;
        applier.apply_in(lanes, &committed, &machine.rows, &mut output).expect("it applies");
        machine.rows.write(output.rows.clone());
        machine.applier.written();
        outputs.push(output);
    }
    (outputs, machine)
}

#[test]
fn lanes_change_nothing_about_what_comes_of_a_round() {
    for rounds in [1, 4, 41] {
        let (expected, machine) = outputs(&Inline, rounds);
        for vault in 1..=VAULTS {
            machine.check(VaultRef::new(1, vault));
        }
        let replies = expected.iter().flat_map(|output| &output.replies);
        let order: Vec<_> = replies.map(|reply| (reply.index, reply.position)).collect();
        assert!(order.is_sorted() && order.len() == 7 + 40 * 9, "answers are in the log's order");
        let threads = Threads::default();
        assert_eq!(outputs(&Backwards, rounds).0, expected);
        assert_eq!(outputs(&threads, rounds).0, expected);
        let shared = threads.runs.load(Ordering::Relaxed);
        assert_eq!(shared > 0, rounds < 41, "large rounds are shared, and small ones are not");
    }
}
