//! Where the shard gets the time from.
//!
//! Owns the choice of clocks. Must never be called from the core, which is handed the time.

use std::time::{SystemTime, UNIX_EPOCH};

use ledger_shard_core::effects::Now;
use rustix::time::{ClockId, clock_gettime};

/// A source of time.
pub trait Clock: Send + Sync {
    /// The time now, on both clocks.
    fn now(&self) -> Now;
}

/// The clocks of the machine. The monotonic one goes on while the machine is suspended, so that a
/// resumed node sees how long it was away.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[cfg(target_os = "linux")]
const MONOTONIC: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const MONOTONIC: ClockId = ClockId::Monotonic;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let since_boot = clock_gettime(MONOTONIC);
        let milliseconds = since_boot.tv_sec * 1000 + since_boot.tv_nsec / 1_000_000;
        Now { monotonic_ms: u64::try_from(milliseconds).unwrap_or(0), wall_ns: wall_clock_ns() }
    }
}

/// The machine's wall clock in Unix nanoseconds: the one place where a serving node reads it.
pub fn wall_clock_ns() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanoseconds = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX);
    #[cfg(feature = "failpoints")]
    let nanoseconds = nanoseconds.saturating_add_signed(wall_clock_step_ms() * 1_000_000);
    nanoseconds
}

/// By how much a test has put the wall clock forward, or back, in milliseconds.
#[cfg(feature = "failpoints")]
fn wall_clock_step_ms() -> i64 {
    fail::fail_point!("clock::wall_step_ms", |step| {
        step.and_then(|step| step.parse().ok()).expect("a step in milliseconds")
    });
    0
}
