//! A node's clocks: one that only advances, at a rate of its own, and one that may jump.
//!
//! Owns the way from the world's time to a node's and back.

use ledger_shard_core::effects::Now;

/// The world's time in microseconds since the run began.
pub(crate) type Micros = u64;

/// A wall clock's time at the beginning of the world: 2026-01-01, Unix nanoseconds.
const WALL_ORIGIN_NS: u64 = 1_767_225_600_000_000_000;
const MILLION: u64 = 1_000_000;

/// The clocks of one node.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    base_us: u64,
    origin: Micros,
    /// Microseconds of this clock in a second of the world.
    rate: u64,
    wall_offset_ms: i64,
}

impl Clock {
    /// A clock that starts somewhere, as after a boot.
    pub(crate) fn start(base_us: u64, now: Micros, drift_ppm: i64) -> Clock {
        let rate = MILLION.saturating_add_signed(drift_ppm);
        Clock { base_us, origin: now, rate, wall_offset_ms: 0 }
    }

    /// Changes the rate from now on.
    pub(crate) fn set_drift(&mut self, now: Micros, drift_ppm: i64) {
        (self.base_us, self.origin) = (self.monotonic_us(now), now);
        self.rate = MILLION.saturating_add_signed(drift_ppm);
    }

    /// Sets the wall clock off by so much.
    pub(crate) fn set_wall_offset(&mut self, offset_ms: i64) {
        self.wall_offset_ms = offset_ms;
    }

    /// What the wall clock is off by.
    pub(crate) fn wall_offset_ms(&self) -> i64 {
        self.wall_offset_ms
    }

    /// The time as the node sees it.
    pub(crate) fn now(&self, now: Micros) -> Now {
        let wall_ns = WALL_ORIGIN_NS + now * 1000;
        Now {
            monotonic_ms: self.monotonic_us(now) / 1000,
            wall_ns: wall_ns.saturating_add_signed(self.wall_offset_ms * 1_000_000),
        }
    }

    /// When the node's advancing clock will show this.
    pub(crate) fn when(&self, monotonic_ms: u64) -> Micros {
        let ahead = (monotonic_ms * 1000).saturating_sub(self.base_us);
        self.origin + (ahead * MILLION).div_ceil(self.rate)
    }

    fn monotonic_us(&self, now: Micros) -> u64 {
        self.base_us + (now - self.origin) * self.rate / MILLION
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_moves_one_clock_and_jumps_the_other() {
        let mut clock = Clock::start(5_000_000, 1_000_000, 100_000);
        assert_eq!(clock.now(2_000_000).monotonic_ms, 6_100);
        let due = clock.when(6_150);
        assert!(clock.now(due).monotonic_ms >= 6_150 && clock.now(due - 2).monotonic_ms < 6_150);
        clock.set_drift(2_000_000, -500_000);
        assert_eq!(clock.now(4_000_000).monotonic_ms, 7_100, "it goes on from where it was");
        let before = clock.now(4_000_000).wall_ns;
        clock.set_wall_offset(-1);
        assert_eq!(clock.now(4_000_000).wall_ns, before - 1_000_000);
    }
}
