//! How far the clocks of other nodes are from this node's, and whether this one is wrong.
//!
//! Owns the newest measurement of each node and the verdict. Must never correct a clock: who acts on the verdict gives
//! work away.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ledger_types::NodeId;
use parking_lot::Mutex;

/// Most nodes whose clocks are kept.
const NODES_MAX: usize = 64;
/// A measurement counts for so long.
const FRESH: Duration = Duration::from_secs(5);
/// A less exact measurement replaces a more exact one after this time.
const EXACT: Duration = Duration::from_secs(1);

/// What one exchange of messages showed of a node's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Measured {
    /// The node's clock minus this one's.
    offset_ns: i64,
    /// By how much that may be wrong: the message was on its way for up to twice this time.
    error_ns: u64,
    at: Instant,
}

impl Measured {
    /// What the clocks differ by for certain.
    fn distance(&self) -> Duration {
        Duration::from_nanos(self.offset_ns.unsigned_abs().saturating_sub(self.error_ns))
    }
}

/// The clocks of the nodes that this one talks to.
#[derive(Debug, Default)]
pub struct PeerClocks {
    measured: Mutex<BTreeMap<NodeId, Measured>>,
    is_off: AtomicBool,
}

impl PeerClocks {
    /// Notes that a node's clock showed `peer_wall_ns` in an answer which came when this node's showed `own_wall_ns`,
    /// the time `round_trip_ns` after the question. 0 from nodes that do not tell.
    pub fn note(
        &self,
        node: NodeId,
        (peer_wall_ns, own_wall_ns): (u64, u64),
        round_trip_ns: u64,
        at: Instant,
    ) {
        if peer_wall_ns == 0 {
            return;
        }
        let error_ns = round_trip_ns / 2;
        let difference = i128::from(peer_wall_ns) + i128::from(error_ns) - i128::from(own_wall_ns);
        let bound = i128::from(i64::MAX);
        let offset_ns = i64::try_from(difference.clamp(-bound, bound)).expect("clamped");
        let new = Measured { offset_ns, error_ns, at };
        let mut measured = self.measured.lock();
        let known = measured.get(&node).copied();
        let is_better = known.is_none_or(|known| {
            error_ns <= known.error_ns || at.saturating_duration_since(known.at) > EXACT
        });
        if is_better && (known.is_some() || measured.len() < NODES_MAX) {
            measured.insert(node, new);
        }
    }

    /// By how many seconds the clock of each node heard lately is ahead of this one's.
    pub fn skews(&self, now: Instant) -> Vec<(NodeId, f64)> {
        let fresh = self.fresh(now);
        fresh.into_iter().map(|(node, one)| (node, one.offset_ns as f64 / 1e9)).collect()
    }

    /// Judges anew whether this node's clock is wrong, which it is if more than half of the nodes heard lately, itself
    /// among them, differ from it by more than `max`; it is right again from half of that on. While nobody is heard the
    /// verdict stays. With two nodes there is no telling which is wrong, and none is.
    pub fn judge(&self, max: Duration, now: Instant) -> bool {
        let was_off = self.is_off();
        let fresh = self.fresh(now);
        if fresh.is_empty() {
            return was_off;
        }
        let limit = if was_off { max / 2 } else { max };
        let differing = fresh.iter().filter(|(_, one)| one.distance() > limit).count();
        let is_off = differing * 2 > fresh.len() + 1;
        self.is_off.store(is_off, Ordering::Relaxed);
        is_off
    }

    /// The last verdict: true if this node's clock is wrong.
    pub fn is_off(&self) -> bool {
        self.is_off.load(Ordering::Relaxed)
    }

    fn fresh(&self, now: Instant) -> Vec<(NodeId, Measured)> {
        let measured = self.measured.lock();
        let is_fresh = |one: &Measured| now.saturating_duration_since(one.at) <= FRESH;
        measured.iter().filter(|(_, one)| is_fresh(one)).map(|(node, one)| (*node, *one)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_millis(500);
    const OWN_NS: u64 = 1_000_000_000_000;
    const MS: i64 = 1_000_000;

    /// Notes clocks that are so many milliseconds ahead of this node's, measured within `round_trip_ms`.
    fn note(clocks: &PeerClocks, ahead_ms: &[i64], round_trip_ms: i64, at: Instant) {
        for (node, ahead_ms) in (1..).zip(ahead_ms) {
            // The answer left half a round trip ago.
            let peer_ns = OWN_NS.saturating_add_signed((ahead_ms - round_trip_ms / 2) * MS);
            clocks.note(NodeId(node), (peer_ns, OWN_NS), (round_trip_ms * MS) as u64, at);
        }
    }

    fn is_off(ahead_ms: &[i64], round_trip_ms: i64) -> bool {
        let (clocks, now) = (PeerClocks::default(), Instant::now());
        note(&clocks, ahead_ms, round_trip_ms, now);
        clocks.judge(MAX, now)
    }

    #[test]
    fn a_clock_is_wrong_if_most_nodes_say_so() {
        assert!(!is_off(&[], 2), "a node alone");
        assert!(!is_off(&[9_000], 2), "one of two is wrong, and nobody knows which");
        assert!(!is_off(&[0, 9_000], 2), "the other one is");
        assert!(is_off(&[9_000, 9_000], 2) && is_off(&[-9_000, -9_000], 2));
        // Half of the messages' two milliseconds may be missing.
        assert!(!is_off(&[501, -501], 2) && is_off(&[502, 503], 2) && is_off(&[-502, 503], 2));
        assert!(!is_off(&[9_000, 9_000, 0, 0], 2), "two of five");
        assert!(is_off(&[9_000, 9_000, 9_000, 0], 2), "three of five");
        assert!(!is_off(&[2_000, 2_000], 4_000), "the messages may have taken that long");
        assert!(is_off(&[9_000, 9_000], 4_000));
    }

    #[test]
    fn a_verdict_stays_while_nobody_is_heard_and_ends_well_inside_the_limit() {
        let (clocks, start) = (PeerClocks::default(), Instant::now());
        note(&clocks, &[9_000, 9_000], 2, start);
        assert!(clocks.judge(MAX, start) && clocks.is_off());
        let later = start + Duration::from_secs(60);
        assert!(clocks.judge(MAX, later), "nobody was heard since");
        assert!(clocks.skews(later).is_empty());
        note(&clocks, &[400, 400], 2, later);
        assert!(clocks.judge(MAX, later), "still far off");
        note(&clocks, &[100, 400], 2, later);
        assert!(!clocks.judge(MAX, later) && !clocks.is_off());
        note(&clocks, &[400, 400], 2, later);
        assert!(!clocks.judge(MAX, later));
        let told: Vec<i64> =
            clocks.skews(later).iter().map(|(_, skew)| (skew * 1e3).round() as i64).collect();
        assert_eq!(told, [400, 400]);
    }

    #[test]
    fn an_exact_measurement_is_kept_for_a_moment() {
        let (clocks, start) = (PeerClocks::default(), Instant::now());
        let skew = |at| (clocks.skews(at)[0].1 * 1e3).round() as i64;
        note(&clocks, &[10], 2, start);
        note(&clocks, &[70], 200, start);
        assert_eq!(skew(start), 10);
        note(&clocks, &[20], 2, start);
        assert_eq!(skew(start), 20, "as exact, and newer");
        let later = start + 2 * EXACT;
        note(&clocks, &[70], 200, later);
        assert_eq!(skew(later), 70);
        // A node that does not tell its time is no clock.
        clocks.note(NodeId(1), (0, OWN_NS), 0, later);
        assert_eq!(skew(later), 70);
    }
}
