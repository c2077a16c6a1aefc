//! Keeps a node whose clock is wrong from leading: the leader's clock decides when entities expire.
//!
//! Owns what follows from the verdict on this node's clock. Must never stop the node: it goes on to vote, to store and to
//! forward, and leads where nobody else can.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::context::NodeContext;
use crate::leadership::give_away;

/// Pause between two looks at the clocks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A successor gets this long before another one is asked, and each time twice as long as before,
const ATTEMPT_PAUSE_MIN: Duration = Duration::from_secs(1);
/// up to this long: where no two clocks agree, leaders must not go round for ever.
const ATTEMPT_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Watches this node's clock for as long as it runs.
pub async fn run(context: Arc<NodeContext>) {
    let max = context.config.clock_skew_max;
    if max.is_zero() {
        return;
    }
    let mut giving: Option<Giving> = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = Instant::now();
        if context.clocks.judge(max, now) {
            let giving = giving.get_or_insert_with(|| {
                let ahead_seconds = context.clocks.skews(now);
                warn!(
                    ?ahead_seconds,
                    "this node's clock differs from most others; it gives its leaderships away"
                );
                Giving::new(now)
            });
            // Said again and again: groups may have started meanwhile.
            context.shard.set_unfit(true);
            if let Some(attempt) = giving.due(now) {
                give_away(&context, attempt);
            }
        } else if giving.take().is_some() {
            info!("this node's clock agrees with those of the others again");
            // A vault in quarantine is another reason, which stays.
            context.shard.set_unfit(context.quarantine.count() > 0);
        }
    }
}

/// When leaderships are given away again while the clock stays wrong.
#[derive(Debug)]
struct Giving {
    attempt: usize,
    next: Instant,
    pause: Duration,
}

impl Giving {
    fn new(now: Instant) -> Giving {
        Giving { attempt: 0, next: now, pause: ATTEMPT_PAUSE_MIN }
    }

    /// The number of the attempt that is due, if one is.
    fn due(&mut self, now: Instant) -> Option<usize> {
        if now < self.next {
            return None;
        }
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(ATTEMPT_PAUSE_MAX);
        self.attempt += 1;
        Some(self.attempt - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_at_once_and_then_ever_more_seldom() {
        let start = Instant::now();
        let mut giving = Giving::new(start);
        let mut at_seconds = Vec::new();
        for second in 0..=100 {
            if let Some(attempt) = giving.due(start + Duration::from_secs(second)) {
                assert_eq!(attempt, at_seconds.len());
                at_seconds.push(second);
            }
        }
        assert_eq!(at_seconds, [0, 1, 3, 7, 15, 31, 61, 91]);
    }
}
