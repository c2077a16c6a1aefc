//! Which process speaks for each store of the cluster, and when it was last heard from.
//!
//! Owns soft state only: what must survive a restart is the store's boot counter, which is a row. Must never
//! read a clock; the times are the caller's.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ledger_types::StoreId;

/// A store that was silent for this long is taken to be gone: longer than any election timeout and than the
/// keep-alive of a connection that broke without a word.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);

/// How long a process waits to be let in while another one of its store seems to be alive. An earlier life of its
/// own would have been silent for [`SILENCE`] by then.
pub(super) const DOUBT_TIME_MAX: Duration = Duration::from_secs(20);
/// Doubts that are further apart than this are not one.
pub(super) const DOUBT_GAP_MAX: Duration = Duration::from_secs(5);

/// Names one process: drawn at random when it starts, so that two processes on copies of one data directory,
/// with equal boot counters, can be told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InstanceId(pub(crate) [u8; 16]);

/// The process that speaks for a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Speaker {
    /// The store.
    pub(crate) store: StoreId,
    /// How often the store had been opened when the process began.
    pub(crate) boots: u64,
    /// The process.
    pub(crate) instance: InstanceId,
}

struct Heard {
    speaker: Speaker,
    at: Instant,
    streams_open: usize,
}

/// What an introduction comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Introduction {
    /// The process speaks for its store from now on.
    Welcome,
    /// An earlier process of the store seems to be there still: it may be dying. Asking again tells.
    Wait,
    /// Another process speaks for the store, so this one runs on a copy of it.
    Copy,
}

/// The stores heard from since this process began.
pub(super) struct LiveStores {
    began: Instant,
    heard: BTreeMap<StoreId, Heard>,
}

impl LiveStores {
    /// Nobody was heard from yet.
    pub(super) fn new(now: Instant) -> LiveStores {
        LiveStores { began: now, heard: BTreeMap::new() }
    }

    /// Takes an introduction.
    ///
    /// A store counts its starts. Two processes with one count run on copies: the one that was heard first
    /// speaks until it was silent for [`SILENCE`]. A higher count is an ordinary restart or a copy that was
    /// started later. A process that ended closed its streams, or breaks them by its silence; as long as one is
    /// open and heard on, the later process has to wait.
    pub(super) fn introduce(&mut self, speaker: Speaker, now: Instant) -> Introduction {
        let mut streams_open = 0;
        if let Some(known) = self.heard.get(&speaker.store) {
            let is_fresh = now.saturating_duration_since(known.at) < SILENCE;
            match speaker.boots.cmp(&known.speaker.boots) {
                _ if speaker.instance == known.speaker.instance => {
                    streams_open = known.streams_open;
                }
                Ordering::Less => return Introduction::Copy,
                Ordering::Equal if is_fresh => return Introduction::Copy,
                Ordering::Greater if is_fresh && known.streams_open > 0 => {
                    return Introduction::Wait;
                }
                Ordering::Equal | Ordering::Greater => {}
            }
        }
        self.heard.insert(speaker.store, Heard { speaker, at: now, streams_open });
        Introduction::Welcome
    }

    /// Takes note that a process that introduced itself has opened a stream.
    pub(super) fn open(&mut self, speaker: Speaker) {
        if let Some(known) = self.heard.get_mut(&speaker.store)
            && known.speaker == speaker
        {
            known.streams_open += 1;
        }
    }

    /// Takes note that one of its streams is over.
    pub(super) fn close(&mut self, speaker: Speaker) {
        if let Some(known) = self.heard.get_mut(&speaker.store)
            && known.speaker == speaker
        {
            known.streams_open = known.streams_open.saturating_sub(1);
        }
    }

    /// Takes note of a sign of life of a process that introduced itself earlier. False if another one has
    /// taken over since.
    pub(super) fn hear(&mut self, speaker: Speaker, now: Instant) -> bool {
        match self.heard.get_mut(&speaker.store) {
            Some(known) if known.speaker == speaker => {
                known.at = now;
                true
            }
            Some(_) => false,
            // A stranger, whose introduction is not remembered.
            None => true,
        }
    }

    /// How long nothing was heard from a store: since this process began, if never.
    pub(super) fn silent_for(&self, store: StoreId, now: Instant) -> Duration {
        let last = self.heard.get(&store).map_or(self.began, |heard| heard.at);
        now.saturating_duration_since(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: StoreId = StoreId([7; 16]);

    fn speaker(boots: u64, instance: u8) -> Speaker {
        Speaker { store: STORE, boots, instance: InstanceId([instance; 16]) }
    }

    #[test]
    fn one_of_two_processes_with_one_count_speaks_until_it_is_silent() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut live = LiveStores::new(begin);
        assert_eq!(live.introduce(speaker(3, 1), at(0)), Introduction::Welcome);
        assert_eq!(live.introduce(speaker(3, 1), at(1)), Introduction::Welcome, "on each stream");
        assert_eq!(live.introduce(speaker(3, 2), at(2)), Introduction::Copy);
        assert!(live.hear(speaker(3, 1), at(9)));
        assert_eq!(live.introduce(speaker(3, 2), at(18)), Introduction::Copy, "heard 9 s ago");
        assert!(!live.hear(speaker(3, 2), at(18)), "a refused one gives no sign of life");
        assert_eq!(live.introduce(speaker(3, 2), at(19)), Introduction::Welcome);
        assert_eq!(
            live.introduce(speaker(3, 1), at(20)),
            Introduction::Copy,
            "the other way round"
        );
        assert!(!live.hear(speaker(3, 1), at(20)));
    }

    #[test]
    fn a_later_start_waits_for_the_streams_of_an_earlier_one_to_end_or_fall_silent() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let (old, new) = (speaker(3, 1), speaker(4, 2));
        let with_streams = || {
            let mut live = LiveStores::new(begin);
            assert_eq!(live.introduce(old, at(0)), Introduction::Welcome);
            live.open(old);
            assert_eq!(live.introduce(old, at(0)), Introduction::Welcome);
            live.open(old);
            live
        };
        let mut live = with_streams();
        assert_eq!(live.introduce(new, at(1)), Introduction::Wait);
        live.close(old);
        assert_eq!(live.introduce(new, at(1)), Introduction::Wait, "the other lane is open");
        live.close(old);
        assert_eq!(live.introduce(new, at(1)), Introduction::Welcome, "an ordinary restart");
        assert!(!live.hear(old, at(1)));
        assert_eq!(live.introduce(old, at(100)), Introduction::Copy, "an earlier start never");

        let mut live = with_streams();
        assert!(live.hear(old, at(8)));
        assert_eq!(live.introduce(new, at(17)), Introduction::Wait, "it is alive");
        assert_eq!(live.introduce(new, at(18)), Introduction::Welcome, "it lost its power");
        live.open(new);
        live.close(old);
        assert_eq!(live.introduce(speaker(5, 3), at(18)), Introduction::Wait, "new's is open");
    }

    #[test]
    fn silence_begins_with_this_process() {
        let begin = Instant::now();
        let mut live = LiveStores::new(begin);
        let later = begin + Duration::from_secs(4);
        assert_eq!(live.silent_for(STORE, later), Duration::from_secs(4));
        assert!(live.hear(speaker(3, 1), later), "a stranger is not remembered");
        assert_eq!(live.silent_for(STORE, later), Duration::from_secs(4));
        assert_eq!(live.introduce(speaker(3, 1), later), Introduction::Welcome);
        assert_eq!(live.silent_for(STORE, later), Duration::ZERO);
        assert_eq!(live.silent_for(STORE, begin), Duration::ZERO, "times out of order do no harm");
    }
}
