//! How long to wait before an attempt is repeated, and how many repetitions all calls together may make.
//!
//! Must never decide whether a failure may be repeated; `attempt` does.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::Rng;

/// How failed attempts are repeated.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// The first wait; it doubles with each further attempt.
    pub backoff_min: Duration,
    /// The longest wait.
    pub backoff_max: Duration,
    /// Repetitions that all calls of a client together may make at once.
    pub budget: u32,
    /// Repetitions added back each second, up to `budget`.
    pub budget_per_second: u32,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            budget: 2_000,
            budget_per_second: 200,
        }
    }
}

/// The waits of one call.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(policy: &RetryPolicy) -> Backoff {
        Backoff { next: policy.backoff_min.min(policy.backoff_max), max: policy.backoff_max }
    }

    /// The next wait: between half and all of a time that doubles, so that clients that failed together
    /// do not come back together.
    pub(crate) fn wait(&mut self) -> Duration {
        let ceiling = self.next;
        self.next = (self.next * 2).min(self.max);
        ceiling.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

/// Repetitions that may still be made; shared by all calls of a client. Keeps a cluster that is down from
/// being asked many times as often as one that is up.
#[derive(Debug)]
pub(crate) struct Budget {
    max: f64,
    per_second: f64,
    state: Mutex<(f64, Instant)>,
}

impl Budget {
    pub(crate) fn new(policy: &RetryPolicy, now: Instant) -> Budget {
        let max = f64::from(policy.budget);
        Budget {
            max,
            per_second: f64::from(policy.budget_per_second),
            state: Mutex::new((max, now)),
        }
    }

    /// Takes one repetition; false if there is none left.
    pub(crate) fn take(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        let refill = now.saturating_duration_since(state.1).as_secs_f64() * self.per_second;
        let tokens = (state.0 + refill).min(self.max);
        let granted = tokens >= 1.0;
        *state = (if granted { tokens - 1.0 } else { tokens }, now);
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_jitter_up_to_the_ceiling() {
        let policy = RetryPolicy {
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_millis(40),
            ..RetryPolicy::default()
        };
        let mut backoff = Backoff::new(&policy);
        for ceiling_ms in [10, 20, 40, 40] {
            let wait = backoff.wait();
            let ceiling = Duration::from_millis(ceiling_ms);
            assert!(wait >= ceiling / 2 && wait <= ceiling, "{wait:?} of {ceiling:?}");
        }
    }

    #[test]
    fn budget_is_spent_and_comes_back_with_time() {
        let policy = RetryPolicy { budget: 2, budget_per_second: 10, ..RetryPolicy::default() };
        let start = Instant::now();
        let budget = Budget::new(&policy, start);
        assert!(budget.take(start) && budget.take(start));
        assert!(!budget.take(start));
        assert!(!budget.take(start + Duration::from_millis(50)));
        assert!(budget.take(start + Duration::from_millis(150)));
        let later = start + Duration::from_secs(3600);
        assert!(budget.take(later) && budget.take(later) && !budget.take(later));
    }
}
