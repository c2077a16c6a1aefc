//! How much a namespace may ask of this node in a second.
//!
//! Owns one token bucket for each namespace. Must never refuse anything once it is proposed, nor count a request that
//! another node passed on: whoever took it from the client has counted it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ledger_types::NamespaceId;
use parking_lot::Mutex;

/// Namespaces with a bucket at once, above which full buckets are dropped: they say nothing.
const BUCKETS_MAX: usize = 10_000;

/// Nanoseconds of a second, and parts into which an operation is counted: with these every amount is whole.
const NANOS: i128 = 1_000_000_000;

/// What a namespace may still do at once, in parts of operations. Below zero after a request that was larger than the
/// bucket.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    credit: i128,
    at: Instant,
}

/// The buckets of all namespaces.
#[derive(Debug)]
pub struct Admission {
    per_second: u64,
    buckets: Mutex<HashMap<NamespaceId, Bucket>>,
    refused: AtomicU64,
}

impl Admission {
    /// Lets each namespace do so many operations in a second, and the same number at once after a pause; 0 for any
    /// number.
    pub fn new(per_second: u64) -> Admission {
        Admission { per_second, buckets: Mutex::default(), refused: AtomicU64::new(0) }
    }

    /// Operations in a second; 0 for any number.
    pub fn per_second(&self) -> u64 {
        self.per_second
    }

    /// Requests that were refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Counts a request of `cost` operations, or tells after what time it may come again. One that is larger than
    /// the bucket is let in when the bucket is full.
    pub fn admit(&self, namespace: NamespaceId, cost: u64, now: Instant) -> Result<(), Duration> {
        let cost = i128::from(cost) * NANOS;
        let admitted = self.with_bucket(namespace, now, |credit, most| {
            let missing = cost.min(most) - *credit;
            if missing > 0 {
                return Err(self.time_for(missing));
            }
            *credit -= cost;
            Ok(())
        });
        let admitted = admitted.unwrap_or(Ok(()));
        if admitted.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    /// Counts what is taken anyway, and tells how long to wait before more is.
    pub fn charge(&self, namespace: NamespaceId, cost: u64, now: Instant) -> Duration {
        let debt = self.with_bucket(namespace, now, |credit, _| {
            *credit -= i128::from(cost) * NANOS;
            self.time_for((-*credit).max(0))
        });
        debt.unwrap_or_default()
    }

    /// `None` if nothing is counted.
    fn with_bucket<T>(
        &self,
        namespace: NamespaceId,
        now: Instant,
        change: impl FnOnce(&mut i128, i128) -> T,
    ) -> Option<T> {
        if self.per_second == 0 {
            return None;
        }
        let most = i128::from(self.per_second) * NANOS;
        let filled = |bucket: &Bucket| {
            // In a nanosecond a bucket gains as many parts as it has operations in a second.
            let elapsed = now.saturating_duration_since(bucket.at).as_nanos() as i128;
            bucket.credit.saturating_add(elapsed * i128::from(self.per_second)).min(most)
        };
        let mut buckets = self.buckets.lock();
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&namespace) {
            buckets.retain(|_, bucket| filled(bucket) < most);
        }
        let bucket = buckets.entry(namespace).or_insert(Bucket { credit: most, at: now });
        (bucket.credit, bucket.at) = (filled(bucket), now);
        Some(change(&mut bucket.credit, most))
    }

    /// How long a bucket takes to gain so much.
    fn time_for(&self, credit: i128) -> Duration {
        let nanos = credit.div_euclid(i128::from(self.per_second.max(1))).saturating_add(1);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_gets_its_rate_and_a_second_of_it_at_once() {
        let (admission, mut now) = (Admission::new(100), Instant::now());
        let (one, other) = (NamespaceId(1), NamespaceId(2));
        assert_eq!(admission.admit(one, 60, now), Ok(()));
        assert_eq!(admission.admit(one, 60, now), Err(Duration::from_nanos(200_000_001)));
        assert_eq!(admission.admit(other, 60, now), Ok(()), "each has its own");
        assert_eq!(admission.admit(one, 40, now), Ok(()), "what was refused was not counted");
        now += Duration::from_millis(200);
        assert_eq!(admission.admit(one, 20, now), Ok(()));
        assert!(admission.admit(one, 1, now).is_err());
        now += Duration::from_secs(60);
        assert_eq!(admission.admit(one, 100, now), Ok(()), "no more than a second is saved up");
        assert!(admission.admit(one, 1, now).is_err());
        assert_eq!(admission.refused(), 3);
    }

    #[test]
    fn what_is_larger_than_the_bucket_is_let_in_when_it_is_full_and_paid_for_afterwards() {
        let (admission, mut now) = (Admission::new(100), Instant::now());
        let one = NamespaceId(1);
        assert_eq!(admission.admit(one, 300, now), Ok(()));
        assert_eq!(admission.admit(one, 300, now), Err(Duration::from_nanos(3_000_000_001)));
        now += Duration::from_millis(2_010);
        assert_eq!(admission.admit(one, 1, now), Ok(()));
        let waits = admission.charge(one, 100, now);
        assert!((0.9..1.1).contains(&waits.as_secs_f64()), "{waits:?}");
    }

    #[test]
    fn without_a_rate_nothing_is_counted_and_full_buckets_are_dropped() {
        let now = Instant::now();
        let free = Admission::new(0);
        assert_eq!(free.admit(NamespaceId(1), u64::MAX, now), Ok(()));
        assert_eq!(free.charge(NamespaceId(1), u64::MAX, now), Duration::ZERO);
        assert!(free.buckets.lock().is_empty());
        let admission = Admission::new(10);
        for namespace in 1..=BUCKETS_MAX as u64 {
            admission.admit(NamespaceId(namespace), 1, now).expect("its first");
        }
        let later = now + Duration::from_secs(5);
        admission.admit(NamespaceId(0), 1, later).expect("its first");
        assert_eq!(admission.buckets.lock().len(), 1);
    }
}
