//! How long a request may take: the client's `grpc-timeout`, bounded by the server's limits.
//!
//! Owns the parsing of that header and the arithmetic of what is left. Must never wait.

use std::time::{Duration, Instant};

use ledger_types::limits::{DEADLINE_MS_DEFAULT, DEADLINE_MS_MAX};
use tonic::metadata::MetadataMap;

use super::status::Failure;

/// The header's name.
pub(crate) const GRPC_TIMEOUT: &str = "grpc-timeout";
/// The transport cuts a request off when its time is up, without a reason. Handlers stop this much
/// earlier, so that the answer is theirs.
const MARGIN_MAX: Duration = Duration::from_millis(2);

/// The moment after which nobody waits for the answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Deadline(Instant);

impl Deadline {
    /// Reads the deadline of a request that has just arrived. A deadline that has passed already is refused.
    pub(super) fn of(metadata: &MetadataMap) -> Result<Deadline, Failure> {
        let now = Instant::now();
        let Some(value) = metadata.get(GRPC_TIMEOUT) else {
            return Ok(Deadline(now + Duration::from_millis(DEADLINE_MS_DEFAULT)));
        };
        let parsed = value.to_str().ok().and_then(parse_timeout);
        let timeout = parsed.ok_or_else(|| Failure::field(GRPC_TIMEOUT, "is not a timeout"))?;
        Deadline::after(now, timeout)
    }

    /// The deadline of a request that has just arrived on a stream; 0 for the default time.
    pub(super) fn of_stream(timeout_ms: u64) -> Deadline {
        let timeout_ms = match timeout_ms {
            0 => DEADLINE_MS_DEFAULT,
            named => named.min(DEADLINE_MS_MAX),
        };
        Deadline::within(Duration::from_millis(timeout_ms))
    }

    /// The deadline of a request that arrived at `now` and may take `timeout`.
    fn after(now: Instant, timeout: Duration) -> Result<Deadline, Failure> {
        if is_past(timeout) {
            return Err(Failure::Deadline);
        }
        let timeout = timeout.min(Duration::from_millis(DEADLINE_MS_MAX));
        Ok(Deadline(now + timeout - MARGIN_MAX.min(timeout / 8)))
    }

    /// A deadline of the node's own making.
    pub(super) fn within(time: Duration) -> Deadline {
        Deadline(Instant::now() + time)
    }

    /// What is left; zero if it has passed.
    pub(super) fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// True if it was more than `patience` before `now`.
    pub(super) fn is_past(self, now: Instant, patience: Duration) -> bool {
        self.0 + patience <= now
    }

    /// What is left, or a refusal if nothing is.
    pub(super) fn check(self) -> Result<Duration, Failure> {
        let remaining = self.remaining();
        if remaining.is_zero() { Err(Failure::Deadline) } else { Ok(remaining) }
    }
}

/// True if a timeout is over before anything can be done.
pub(crate) fn is_past(timeout: Duration) -> bool {
    timeout < Duration::from_micros(100)
}

/// Reads the gRPC form of a duration: at most 8 digits and a unit.
pub(crate) fn parse_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    let legal = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !legal {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(count * 3600),
        'M' => Duration::from_secs(count * 60),
        'S' => Duration::from_secs(count),
        'm' => Duration::from_millis(count),
        'u' => Duration::from_micros(count),
        'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_timeout(value: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert(GRPC_TIMEOUT, value.parse().expect("ASCII"));
        metadata
    }

    #[test]
    fn units_are_those_of_grpc() {
        assert_eq!(parse_timeout("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parse_timeout("3M"), Some(Duration::from_secs(180)));
        assert_eq!(parse_timeout("4S"), Some(Duration::from_secs(4)));
        assert_eq!(parse_timeout("5m"), Some(Duration::from_millis(5)));
        assert_eq!(parse_timeout("6u"), Some(Duration::from_micros(6)));
        assert_eq!(parse_timeout("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for wrong in ["", "m", "5", "5x", "+5m", "-5m", "123456789m", "5é", "5 m"] {
            assert_eq!(parse_timeout(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_passed_deadline_is_refused_and_a_long_one_is_cut() {
        assert!(matches!(Deadline::of(&with_timeout("0m")), Err(Failure::Deadline)));
        assert!(matches!(Deadline::of(&with_timeout("1n")), Err(Failure::Deadline)));
        assert!(matches!(Deadline::of(&with_timeout("soon")), Err(Failure::Field { .. })));
        let long = Deadline::of(&with_timeout("99999999S")).expect("cut to the limit");
        assert!(long.remaining() <= Duration::from_millis(DEADLINE_MS_MAX));
        let default = Deadline::of(&MetadataMap::new()).expect("the default");
        assert!(default.remaining() <= Duration::from_millis(DEADLINE_MS_DEFAULT));
        assert!(default.remaining() > Duration::from_millis(DEADLINE_MS_DEFAULT / 2));
    }

    #[test]
    fn a_stream_names_the_time_of_each_request() {
        let remaining = |timeout_ms| Deadline::of_stream(timeout_ms).remaining();
        assert!(remaining(0) > Duration::from_millis(DEADLINE_MS_DEFAULT / 2));
        assert!(remaining(0) <= Duration::from_millis(DEADLINE_MS_DEFAULT));
        assert!(remaining(300) <= Duration::from_millis(300));
        assert!(remaining(u64::MAX) <= Duration::from_millis(DEADLINE_MS_MAX));
    }

    #[test]
    fn handlers_stop_before_the_transport_does() {
        let now = Instant::now();
        let deadline = Deadline::after(now, Duration::from_millis(100)).expect("ahead");
        assert_eq!(deadline.0 - now, Duration::from_millis(98));
        let short = Deadline::after(now, Duration::from_millis(8)).expect("ahead");
        assert_eq!(short.0 - now, Duration::from_millis(7));
    }
}
