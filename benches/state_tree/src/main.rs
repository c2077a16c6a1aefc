//! What a changed key and a proof cost the state tree, beside the `jmt` crate in the same run.
//!
//! Counted are CPU time of the one thread, and bytes of pages or nodes with their keys. The rows
//! themselves, the hashes of records and the stores in memory are not counted: both trees need them
//! alike.
//!
//! `state_tree [KEYS]... [--jmt-keys-max N]`, by default 10,000 and 1,000,000 keys. Five million
//! should need some 4 GiB of memory.
//!
//! `state_tree packages [BLOCKS]` prints how large verified reads of one key are instead, in a vault with that
//! many blocks and keys, by default 1,000,000.

mod cost;
mod jellyfish;
mod ours;
mod package;
mod rows;
mod table;
mod workload;

use std::process::ExitCode;

use jellyfish::{Jellyfish, Put};
use ours::{Flush, Ours};
use peak_alloc::PeakAlloc;
use table::Report;
use workload::Draw;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The budget of a node's trees by default.
const BUDGET_BYTES: usize = 64 * 1024 * 1024;
/// Keys of a batch, and how many are changed at least for one figure: fewer where each costs more.
const BATCHES: [(u64, u64); 4] = [(1, 3_000), (10, 10_000), (100, 30_000), (1_000, 60_000)];
/// Keys changed at least for a figure with pages written behind, two flushes of the largest kind.
const BEHIND_KEYS: u64 = 56_000;
/// Proofs made for one figure.
const PROOFS: u64 = 5_000;
/// Items of a page of a list.
const LIST_ITEMS: usize = 100;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some((_, blocks)) = words.split_first().filter(|(first, _)| *first == "packages") {
        let Some(blocks) = package_blocks(blocks) else { return misused() };
        package::measure(blocks);
        return ExitCode::SUCCESS;
    }
    let Some((sizes, jmt_keys_max)) = arguments(words) else { return misused() };
    let mut report = Report::default();
    for keys in sizes {
        measure_ours(keys, &mut report);
        if keys <= jmt_keys_max {
            measure_jmt(keys, &mut report);
        }
    }
    report.print();
    ExitCode::SUCCESS
}

fn package_blocks(words: &[String]) -> Option<u64> {
    match words {
        [] => Some(1_000_000),
        [blocks] => blocks.parse().ok().filter(|blocks| *blocks >= 1_000),
        _ => None,
    }
}

fn arguments(words: Vec<String>) -> Option<(Vec<u64>, u64)> {
    let (mut sizes, mut jmt_keys_max) = (Vec::new(), u64::MAX);
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--jmt-keys-max" => jmt_keys_max = words.next()?.parse().ok()?,
            keys => sizes.push(keys.parse().ok().filter(|keys| *keys >= 1_000)?),
        }
    }
    if sizes.is_empty() {
        sizes = vec![10_000, 1_000_000];
    }
    Some((sizes, jmt_keys_max))
}

fn measure_ours(keys: u64, report: &mut Report) {
    let mut ours = Ours::filled(keys);
    let mut draw = Draw::new(keys);
    ours.update(&mut draw, 1_000, 10_000, Flush::Behind);
    measure_updates("all in memory", keys, &mut ours, &mut draw, report);
    let turnover = ours.turn_over(keys, 100, BEHIND_KEYS);
    report.updates(
        "ours, all in memory, pages behind, half new and half deleted",
        keys,
        100,
        &turnover,
    );
    report.proofs("key", keys, &ours.prove_keys(&mut draw, PROOFS));
    let lists = ours.prove_lists(&mut draw, LIST_ITEMS, PROOFS / 10);
    report.proofs(&format!("list of {LIST_ITEMS}"), keys, &lists);
    let pages = ours.page_bytes();
    let (allocated, said) = ours.limit(BUDGET_BYTES);
    report.note(format!(
        "{keys} keys, all in memory: {said} bytes by the tree's own count, {allocated} by the \
         allocator's; {pages} bytes of pages"
    ));
    if said <= BUDGET_BYTES {
        return;
    }
    // Fills the budget before anything is counted.
    ours.update(&mut draw, 100, 60_000, Flush::Behind);
    measure_updates("64 MiB", keys, &mut ours, &mut draw, report);
    report.proofs("key, 64 MiB", keys, &ours.prove_keys(&mut draw, PROOFS));
    let (allocated, said) = ours.limit(BUDGET_BYTES);
    report.note(format!(
        "{keys} keys within 64 MiB: {said} bytes by the tree's own count, {allocated} by the \
         allocator's"
    ));
}

fn measure_updates(memory: &str, keys: u64, ours: &mut Ours, draw: &mut Draw, report: &mut Report) {
    for (batch, changed) in BATCHES {
        let cost = ours.update(draw, batch, BEHIND_KEYS, Flush::Behind);
        report.updates(&format!("ours, {memory}, pages behind"), keys, batch, &cost);
        let cost = ours.update(draw, batch, changed, Flush::EveryBatch);
        report.updates(&format!("ours, {memory}, pages every batch"), keys, batch, &cost);
    }
}

fn measure_jmt(keys: u64, report: &mut Report) {
    let mut jmt = Jellyfish::filled(keys);
    let mut draw = Draw::new(keys);
    for (put, name) in [(Put::Set, "put_value_set"), (Put::Batch, "batch_put_value_sets")] {
        for (batch, changed) in BATCHES {
            let cost = jmt.update(&mut draw, batch, changed, put);
            report.updates(&format!("jmt, {name}"), keys, batch, &cost);
        }
    }
    report.proofs("key, jmt", keys, &jmt.prove_keys(&mut draw, PROOFS));
    let nodes = jmt.nodes();
    let allocated = jmt.allocated_bytes();
    report.note(format!(
        "{keys} keys, jmt: {nodes} nodes, {allocated} bytes by the allocator's count"
    ));
}

#[expect(clippy::print_stderr, reason = "says how it is used")]
fn misused() -> ExitCode {
    eprintln!("usage: state_tree [KEYS]... [--jmt-keys-max N], or state_tree packages [BLOCKS]");
    ExitCode::FAILURE
}
