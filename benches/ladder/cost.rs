//! CPU time and context switches of this process over a stretch of work.
//!
//! Owns the arithmetic. Must never measure wall time as if it were CPU.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What a number of operations cost.
#[derive(Clone, Copy)]
pub(crate) struct Cost {
    operations: u64,
    cpu: Duration,
    wall: Duration,
    switches: u64,
}

impl Cost {
    pub(crate) fn cpu_us_per_operation(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.operations.max(1) as f64
    }

    pub(crate) fn operations_per_second(&self) -> f64 {
        self.operations as f64 / self.wall.as_secs_f64()
    }

    pub(crate) fn switches_per_operation(&self) -> f64 {
        self.switches as f64 / self.operations.max(1) as f64
    }
}

/// A stretch that has begun.
pub(crate) struct Stretch {
    cpu: Duration,
    wall: Instant,
    switches: u64,
}

impl Stretch {
    pub(crate) fn begin() -> Stretch {
        Stretch { cpu: process_cpu(), wall: Instant::now(), switches: switches() }
    }

    pub(crate) fn end(self, operations: u64) -> Cost {
        Cost {
            operations,
            cpu: process_cpu() - self.cpu,
            wall: self.wall.elapsed(),
            switches: switches().saturating_sub(self.switches),
        }
    }
}

fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).expect("CPU time is not negative");
    Duration::new(seconds, u32::try_from(time.tv_nsec).expect("below a second"))
}

/// Context switches of all threads that live now, voluntary and not.
fn switches() -> u64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0 };
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok())
        .flat_map(|status| {
            let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
            lines
                .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
                .collect::<Vec<_>>()
        })
        .sum()
}
