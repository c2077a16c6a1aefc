//! A large group in little memory.

use super::super::install::run;
use super::*;

/// Bytes of one value, and how many values there are.
const VALUE_BYTES: usize = 100_000;
const VALUES: u64 = 3000;
/// What any step may take beside what the process has already, in kibibytes.
const STEP_KIB_MAX: u64 = 100 << 10;

/// A line of the process's own status, in kibibytes.
fn status_kib(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_matches(|one: char| !one.is_ascii_digit()).parse().unwrap()
}

/// Runs a step and tells by how much the process grew at most.
fn growth_kib<T>(step: impl FnOnce() -> T) -> (u64, T) {
    // Begins the count of the most memory anew.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status_kib("VmRSS:");
    let result = step();
    (status_kib("VmHWM:").saturating_sub(before), result)
}

/// Names the directory with the source to the process that measures itself.
const SOURCE_VARIABLE: &str = "LEDGER_TEST_SOURCE";

#[test]
#[ignore = "writes more than a gigabyte"]
fn a_large_group_is_cut_verified_and_installed_in_little_memory() {
    if let Some(directory) = std::env::var_os(SOURCE_VARIABLE) {
        return measure(Path::new(&directory));
    }
    let source = Node::founder();
    source.apply(GROUP, &[entry(6, &[create(VAULTS[0])])]);
    for number in 0..VALUES {
        let mut value = vec![0; VALUE_BYTES];
        rand::fill(&mut value[..]);
        let operations = vec![set(&format!("key{number:08}"), value)];
        source.apply(GROUP, &[entry(7 + number, &[write(VAULTS[0], number, operations)])]);
    }
    source.store.sync().unwrap();
    let Node { directory, store, applier, .. } = source;
    drop((store, applier));
    // A process of its own has no memory left over from making the source.
    let name = "snapshots::tests::large::\
                a_large_group_is_cut_verified_and_installed_in_little_memory";
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env(SOURCE_VARIABLE, directory.path())
        .status();
    assert!(status.unwrap().success());
}

fn measure(directory: &Path) {
    let store = open_store(directory);
    let metrics = Arc::new(Metrics::default());
    let outgoing = SnapshotStore::open(directory, CLUSTER, metrics).unwrap();
    let never = AtomicBool::new(false);
    let (cut, manifest) = growth_kib(|| outgoing.cut(&store, &wanted(), &never).unwrap());
    assert!(manifest.bytes() > 2 * VALUES * VALUE_BYTES as u64);
    let node = Node::added();
    let snapshots = node.snapshots();
    let (transferred, staging) = growth_kib(|| {
        let mut staging = snapshots.receive(&manifest).unwrap();
        while let Some((file, offset)) = staging.next() {
            let bytes = outgoing.read_chunk(manifest.id, file, offset, 256 << 10).unwrap();
            staging.write(file, offset, &bytes, &hash::plain(&bytes)).unwrap();
        }
        staging
    });
    let (verified, ()) = growth_kib(|| staging.finish().unwrap());
    let install =
        Install::new(&node.store, &manifest, marker(&manifest), Some(&node.applier)).unwrap();
    let (installed, ()) = growth_kib(|| run(install, &never).unwrap());
    let steps = [cut, transferred, verified, installed];
    println!("KiB by step: {steps:?}");
    assert!(steps.iter().all(|&kib| kib < STEP_KIB_MAX), "KiB by step: {steps:?}");
    assert_eq!(rows_of(&node.store, Family::Tree), rows_of(&store, Family::Tree));
}
