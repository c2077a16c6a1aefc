//! Every file of the corpora, as it is and damaged in every way that is tried without a fuzzer.
//!
//! One test binary with a counting allocator: what a decoder takes at once for an input is bounded however much the
//! input claims. `UPDATE_CORPUS=1` writes the seeds anew, `CORPUS_TARGET` names one target to damage files of.

#[path = "replay/damage.rs"]
mod damage;
#[path = "replay/ends.rs"]
mod ends;
#[path = "replay/seeds.rs"]
mod seeds;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use ledger_fuzz_bodies::{TARGETS, Target, Verdict};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Most bytes that one input may make a target hold at once.
const BYTES_HELD_MAX: usize = 64 << 20;
/// Most bytes of all corpora together.
const CORPUS_BYTES_MAX: u64 = 400 << 10;

/// Tests run one at a time: the allocator counts for the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus")
}

/// The files of a target's corpus, by name.
fn files(target: &Target) -> BTreeMap<String, Vec<u8>> {
    let directory = corpus().join(target.name);
    let entries = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{} has a corpus: {error}", directory.display()));
    entries
        .map(|entry| entry.expect("a directory can be listed"))
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, fs::read(entry.path()).expect("a file can be read"))
        })
        .collect()
}

/// Runs an input. Errors tell what it broke: a property, or the bound of what may be held at once.
fn run(target: &Target, of: &str, input: &[u8]) -> Result<Verdict, String> {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let verdict = std::panic::catch_unwind(|| (target.run)(input));
    let held = ALLOCATOR.peak_usage().saturating_sub(before);
    let place = || format!("{} on {of}: {}", target.name, hex::encode(input));
    if held > BYTES_HELD_MAX {
        return Err(format!("{held} bytes are held by {}", place()));
    }
    verdict.map_err(|_| format!("panic in {}", place()))
}

#[test]
fn every_file_of_the_corpora_keeps_the_properties() {
    let _alone = alone();
    if std::env::var_os("UPDATE_CORPUS").is_some() {
        seeds::write(&corpus());
    }
    let mut bytes = 0;
    for target in TARGETS {
        let (mut accepted, mut refused) = (0, 0);
        for (name, input) in files(target) {
            bytes += input.len() as u64;
            match run(target, &name, &input) {
                Ok(Verdict::Accepted) => accepted += 1,
                Ok(Verdict::Refused) => refused += 1,
                Err(broken) => panic!("{broken}"),
            }
        }
        println!("{}: {accepted} accepted, {refused} refused", target.name);
        assert!(accepted > 0, "{}: the fuzzer begins with something good", target.name);
    }
    assert!(bytes <= CORPUS_BYTES_MAX, "{bytes} bytes of corpora");
}

#[test]
fn the_seeds_are_what_the_encoders_write_today() {
    let _alone = alone();
    // How replicas talk may change from build to build; old messages are as good as new ones.
    for seed in seeds::all().into_iter().filter(|seed| seed.target != "raft_messages") {
        let path = corpus().join(seed.target).join(&seed.name);
        let stored = fs::read(&path).unwrap_or_default();
        assert!(stored == seed.bytes, "{} is old; UPDATE_CORPUS=1 writes it anew", path.display());
    }
}

#[test]
fn damaged_files_keep_the_properties() {
    let _alone = alone();
    let mut broken = Vec::new();
    let only = std::env::var("CORPUS_TARGET").ok();
    let is_meant = |target: &&Target| only.as_ref().is_none_or(|name| name == target.name);
    for target in TARGETS.iter().filter(is_meant) {
        let (mut tried, mut still_accepted) = (0u64, 0u64);
        for (name, input) in files(target) {
            for damaged in damage::all(target.name, &input) {
                tried += 1;
                match run(target, &name, &damaged) {
                    Ok(verdict) => still_accepted += u64::from(verdict == Verdict::Accepted),
                    Err(what) => broken.push(what),
                }
            }
        }
        println!("{}: {tried} damaged, {still_accepted} accepted", target.name);
        assert!(tried > 100, "{}: {tried} damaged inputs", target.name);
    }
    let shown = broken.iter().take(20).map(|what| format!("\n{what}")).collect::<String>();
    assert!(broken.is_empty(), "{} damaged inputs break something:{shown}", broken.len());
}

#[test]
fn every_target_has_a_fuzz_target_and_a_corpus_and_nothing_else_has() {
    let names: Vec<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    let list = |directory: &Path, ending: &str| {
        let mut found: Vec<String> = fs::read_dir(directory)
            .expect("the directory is there")
            .map(|entry| entry.expect("listed").file_name().to_string_lossy().into_owned())
            .filter_map(|name| name.strip_suffix(ending).map(str::to_owned))
            .collect();
        found.sort();
        found
    };
    assert!(names.is_sorted(), "targets are listed by name");
    assert_eq!(list(&corpus(), ""), names);
    assert_eq!(list(&corpus().join("../fuzz_targets"), ".rs"), names);
    let manifest = fs::read_to_string(corpus().join("../Cargo.toml")).expect("a manifest");
    for name in &names {
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name} is in the manifest");
        let path = corpus().join(format!("../fuzz_targets/{name}.rs"));
        let source = fs::read_to_string(path).expect("a source file");
        assert!(source.contains(&format!("run(\"{name}\", input)")), "{name} runs its own body");
    }
}

#[test]
fn raft_messages_with_numbers_at_their_ends_keep_the_properties() {
    let _alone = alone();
    let target = TARGETS.iter().find(|target| target.name == "raft_messages").expect("a target");
    let mut broken = Vec::new();
    for input in ends::messages(1, 3000) {
        broken.extend(run(target, "a drawn message", &input).err());
    }
    let shown = broken.iter().take(10).map(|what| format!("\n{what}")).collect::<String>();
    assert!(broken.is_empty(), "{} messages break something:{shown}", broken.len());
}

/// The net itself: a target that panics and one that takes too much are both caught.
#[test]
fn bad_decoders_are_caught() {
    let _alone = alone();
    let caught = |run_body: fn(&[u8]) -> Verdict| {
        let target = Target { name: "bad", run: run_body };
        run(&target, "nothing", &[1, 2, 3]).is_err()
    };
    assert!(caught(|_| panic!("as decoders must not")));
    assert!(caught(|input| {
        let claimed = vec![7u8; BYTES_HELD_MAX + input.len()];
        if claimed.last() == Some(&7) { Verdict::Accepted } else { Verdict::Refused }
    }));
    assert!(!caught(|_| Verdict::Refused));
}
