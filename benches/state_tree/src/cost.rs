//! CPU time of this thread.
//!
//! Owns the clock. Must never measure wall time: the machine has other work.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Runs `work` and adds the CPU time that it took to `spent`.
pub(crate) fn timed<T>(spent: &mut Duration, work: impl FnOnce() -> T) -> T {
    let before = thread_cpu();
    let done = work();
    *spent += thread_cpu() - before;
    done
}

/// Microseconds of each of `count` things that took `spent` together.
pub(crate) fn us_each(spent: Duration, count: u64) -> f64 {
    spent.as_secs_f64() * 1e6 / count.max(1) as f64
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).expect("CPU time is not negative");
    Duration::new(seconds, u32::try_from(time.tv_nsec).expect("below a second"))
}
