//! How much memory this process may use, as far as the system tells.
//!
//! Owns reading the machine's size and the limits of control groups. Must never fail: caches only get smaller.

use std::path::{Path, PathBuf};

/// The part of the memory that a cache takes whose size nobody set.
const CACHE_PART: u64 = 32;
/// Smallest and largest such cache, in bytes.
const CACHE_MIN: u64 = 64 << 20;
const CACHE_MAX: u64 = 512 << 20;

/// Bytes of memory that this process may use: the machine's, or less if its control group or one around it allows
/// less. 0 if the system does not tell.
pub fn available_bytes() -> u64 {
    let total = read("/proc/meminfo").and_then(|text| total_bytes(&text)).unwrap_or(0);
    let own = read("/proc/self/cgroup").unwrap_or_default();
    let files = limit_files(&own);
    let limits = files.iter().filter_map(|file| read(file)?.trim().parse::<u64>().ok());
    limits.fold(total, u64::min)
}

/// Bytes of a cache whose size nobody set, on a machine with this much memory.
pub(super) fn default_cache_bytes(memory_bytes: u64) -> usize {
    let bytes = (memory_bytes / CACHE_PART).clamp(CACHE_MIN, CACHE_MAX);
    usize::try_from(bytes).expect("at most half a gibibyte")
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Where the limits of a process stand that is in these control groups, of either version; those around its own
/// included, and the root, which a container sees as its own.
fn limit_files(own: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let group = Path::new(group.trim_start_matches('/'));
        files.extend(group.ancestors().map(|part| Path::new(root).join(part).join(name)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_the_machine_is_read() {
        let text = "MemFree:  1 kB\nMemTotal:       24576 kB\n";
        assert_eq!(total_bytes(text), Some(24 << 20));
        assert_eq!(total_bytes("MemTotal: many"), None);
        assert!(available_bytes() > 0, "this system tells");
    }

    #[test]
    fn limits_are_looked_for_in_the_own_group_and_around_it() {
        let files = limit_files("0::/pods/one\n");
        let expected = ["pods/one/memory.max", "pods/memory.max", "memory.max"];
        assert_eq!(files, expected.map(|file| Path::new("/sys/fs/cgroup").join(file)));
        let files = limit_files("5:cpu,memory:/a\n4:pids:/a\nnonsense\n");
        let expected = ["a/memory.limit_in_bytes", "memory.limit_in_bytes"];
        assert_eq!(files, expected.map(|file| Path::new("/sys/fs/cgroup/memory").join(file)));
    }

    #[test]
    fn a_cache_is_a_part_of_the_memory_within_bounds() {
        for (memory, cache) in [(0, 64), (1 << 30, 64), (8 << 30, 256), (1 << 40, 512)] {
            assert_eq!(default_cache_bytes(memory), cache << 20);
        }
    }
}
