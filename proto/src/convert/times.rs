//! Times: nanoseconds since 1970 inside, `google.protobuf.Timestamp` on the wire.

use prost_types::Timestamp;

/// Nanoseconds in a second.
const SECOND_NS: u64 = 1_000_000_000;

/// The wire form of a time in nanoseconds since 1970.
pub fn timestamp(time_ns: u64) -> Timestamp {
    let seconds = i64::try_from(time_ns / SECOND_NS).expect("u64::MAX nanoseconds are 584 years");
    let nanos = i32::try_from(time_ns % SECOND_NS).expect("less than a second");
    Timestamp { seconds, nanos }
}

/// Nanoseconds since 1970 of a time on the wire; `None` if it has none, being before that or beyond 584 years.
pub fn unix_ns(time: &Timestamp) -> Option<u64> {
    let seconds = u64::try_from(time.seconds).ok()?;
    let nanos = u64::try_from(time.nanos).ok().filter(|nanos| *nanos < SECOND_NS)?;
    seconds.checked_mul(SECOND_NS)?.checked_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_nanoseconds_are_split() {
        let time = timestamp(1_700_000_000_123_456_789);
        assert_eq!((time.seconds, time.nanos), (1_700_000_000, 123_456_789));
        let last = timestamp(u64::MAX);
        assert_eq!((last.seconds, last.nanos), (18_446_744_073, 709_551_615));
        assert_eq!(
            (unix_ns(&time), unix_ns(&last)),
            (Some(1_700_000_000_123_456_789), Some(u64::MAX))
        );
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, 0)] {
            assert_eq!(unix_ns(&Timestamp { seconds, nanos }), None);
        }
    }
}
