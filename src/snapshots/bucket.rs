//! The rate at which snapshots leave: so many bytes a second over all of them.
//!
//! Owns the arithmetic, apart from any clock, and the waiting around it. Must never let a burst through that is
//! larger than [`BURST`] at the rate.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Unused time that counts: after a pause, this much of the rate leaves at once.
const BURST: Duration = Duration::from_millis(100);

/// Tells how long bytes have to wait. Time is whatever the caller counts from one fixed beginning.
#[derive(Clone, Debug)]
pub struct Bucket {
    bytes_per_second: u64,
    /// When everything let through so far has had its time.
    paid_until: Duration,
}

impl Bucket {
    /// A bucket for a rate of at least one byte a second.
    pub fn new(bytes_per_second: u64) -> Bucket {
        assert!(bytes_per_second > 0, "configuration refuses a rate of nothing");
        Bucket { bytes_per_second, paid_until: Duration::ZERO }
    }

    /// Takes bytes at the time `now`; they may leave once the time returned has passed.
    pub fn take(&mut self, now: Duration, bytes: u64) -> Duration {
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let cost = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let begin = self.paid_until.max(now.saturating_sub(BURST));
        self.paid_until = begin.saturating_add(cost);
        self.paid_until.saturating_sub(now)
    }
}

/// A [`Bucket`] that several transfers share.
#[derive(Debug)]
pub struct Limiter {
    bucket: Mutex<Bucket>,
    started: Instant,
}

impl Limiter {
    /// Nothing has passed yet.
    pub fn new(bytes_per_second: u64) -> Limiter {
        Limiter { bucket: Mutex::new(Bucket::new(bytes_per_second)), started: Instant::now() }
    }

    /// Waits until the bytes may leave.
    pub async fn pass(&self, bytes: u64) {
        // Taken under the lock and waited for outside: sharers wait for each other's bytes, not for each other.
        let wait = self.bucket.lock().take(self.started.elapsed(), bytes);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn bytes_wait_for_those_before_them() {
        let mut bucket = Bucket::new(MIB);
        let second = Duration::from_secs(1);
        assert_eq!(bucket.take(Duration::ZERO, MIB), second);
        assert_eq!(bucket.take(Duration::ZERO, MIB / 2), second * 3 / 2);
        assert_eq!(bucket.take(second, MIB / 2), second);
        // All of it together took no longer than the rate says, and no less.
        assert_eq!(bucket.take(second * 2, 0), Duration::ZERO);
    }

    #[test]
    fn a_pause_saves_up_a_little_only() {
        let mut bucket = Bucket::new(10 * MIB);
        let now = Duration::from_secs(3600);
        assert_eq!(bucket.take(now, MIB), Duration::ZERO);
        assert_eq!(bucket.take(now, MIB), BURST);
        let later = now + Duration::from_secs(3600);
        let waits: Vec<_> = (0..3).map(|_| bucket.take(later, MIB)).collect();
        assert_eq!(waits, [Duration::ZERO, BURST, 2 * BURST]);
    }

    #[test]
    fn an_hour_of_takers_gets_the_rate() {
        let mut bucket = Bucket::new(MIB);
        let (mut now, mut passed) = (Duration::ZERO, 0);
        while now < Duration::from_secs(3600) {
            now += bucket.take(now, 100_000);
            passed += 100_000;
        }
        let wanted = 3600 * MIB;
        assert!(passed >= wanted && passed - wanted <= MIB / 10 + 100_000, "{passed} of {wanted}");
    }
}
