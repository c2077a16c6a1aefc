//! The part of a group's log that is in memory, and what is known of the part that is not.
//!
//! Owns the log's bounds and terms, every entry above the applied index, and as many entries below it
//! as its budget allows. Must never wait for a disk: what is missing is noted as wanted.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::entry::{LogEntry, proposal_time_ns};

/// Why entries cannot be had at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Miss {
    /// They are below the log's beginning.
    Truncated,
    /// They are beyond the log's end.
    Beyond,
    /// They are on disk only; the range is noted in [`LogCache::take_wanted`].
    OnDisk,
}

/// A range of entries that has to be read from disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wanted {
    pub(crate) low: u64,
    pub(crate) high: u64,
    pub(crate) max_bytes: u64,
}

/// Entries, or bytes, that one mark covers at most.
const MARK_ENTRIES_MAX: u64 = 64;
const MARK_BYTES_MAX: u64 = 64 * 1024;
/// What an entry's row takes beside its data, in bytes.
const ROW_BYTES: u64 = 32;

/// A run of entries, on disk or in memory: how much it takes and how old it is.
#[derive(Clone, Copy, Debug)]
struct Mark {
    first: u64,
    bytes: u64,
    /// When the first of them was proposed, Unix nanoseconds; 0 if not known.
    time_ns: u64,
    /// What was on disk at the start: only estimated, and not mixed with what is counted.
    is_estimate: bool,
}

/// Bounds, terms and recent entries of one group's log.
///
/// Invariants:
/// - `entries` are consecutive and end at `last`; every entry above `applied` is among them.
/// - `term_runs` ascend in index and cover `truncated.0 + 1 ..= last`; so do `marks`.
#[derive(Debug)]
pub(crate) struct LogCache {
    truncated: (u64, u64),
    term_runs: Vec<(u64, u64)>,
    last: u64,
    applied: u64,
    entries: VecDeque<LogEntry>,
    bytes: usize,
    bytes_max: usize,
    fetched: Vec<LogEntry>,
    /// Sizes and ages of the whole log, ascending; the first begins after `truncated`.
    marks: VecDeque<Mark>,
    log_bytes: u64,
    /// Ranges asked for and not brought yet, by their first index: each is asked for once.
    wanted: RefCell<BTreeMap<u64, Wanted>>,
    asked: RefCell<BTreeSet<u64>>,
}

impl LogCache {
    /// Starts from what is on disk. `entries` are all above `applied`; those up to there take about
    /// `applied_bytes`. In memory, `bytes_max` of applied ones are kept.
    pub(crate) fn new(
        truncated: (u64, u64),
        term_runs: Vec<(u64, u64)>,
        applied: u64,
        entries: Vec<LogEntry>,
        (applied_bytes, bytes_max): (u64, usize),
    ) -> LogCache {
        let last = entries.last().map_or(applied, |entry| entry.index);
        assert!(applied >= truncated.0, "the log begins at or before what is applied");
        let first = entries.first().map_or(applied + 1, |entry| entry.index);
        assert_eq!(first, applied + 1, "every entry above the applied index is handed in");
        let bytes = entries.iter().map(cost).sum();
        let mut marks = VecDeque::new();
        if applied > truncated.0 {
            marks.push_back(Mark {
                first: truncated.0 + 1,
                bytes: applied_bytes,
                time_ns: 0,
                is_estimate: true,
            });
        }
        let log_bytes = marks.iter().map(|mark: &Mark| mark.bytes).sum();
        let tail = entries;
        let entries = VecDeque::new();
        let (fetched, wanted) = (Vec::new(), RefCell::default());
        let asked = RefCell::default();
        let mut cache = LogCache {
            truncated,
            term_runs,
            last,
            applied,
            entries,
            bytes,
            bytes_max,
            fetched,
            marks,
            log_bytes,
            wanted,
            asked,
        };
        for entry in &tail {
            cache.mark(entry);
        }
        cache.entries = VecDeque::from(tail);
        cache
    }

    /// Index of the first entry that the log still has, in memory or on disk.
    pub(crate) fn first_index(&self) -> u64 {
        self.truncated.0 + 1
    }

    /// Index of the last entry; the truncated index if there is none.
    pub(crate) fn last_index(&self) -> u64 {
        self.last
    }

    /// The term of an entry, or of the truncated index. Never misses inside the log.
    pub(crate) fn term(&self, index: u64) -> Result<u64, Miss> {
        if index == self.truncated.0 {
            return Ok(self.truncated.1);
        }
        if index < self.truncated.0 {
            return Err(Miss::Truncated);
        }
        if index > self.last {
            return Err(Miss::Beyond);
        }
        let run = self.term_runs.partition_point(|&(first, _)| first <= index);
        assert!(run > 0, "term runs cover the log");
        Ok(self.term_runs[run - 1].1)
    }

    /// Appends entries, replacing any suffix they overlap. Returns the inclusive range of indexes
    /// that exist no longer, so that the same batch can delete their rows (invariant I4).
    pub(crate) fn append(&mut self, new: &[LogEntry]) -> Option<(u64, u64)> {
        let (first, last) = match (new.first(), new.last()) {
            (Some(first), Some(last)) => (first.index, last.index),
            _ => return None,
        };
        assert!(first > self.applied, "an applied entry is never replaced");
        assert!(first <= self.last + 1, "entries are appended without a gap");
        let old_last = self.last;
        while self.entries.back().is_some_and(|entry| entry.index >= first) {
            let entry = self.entries.pop_back().expect("just seen");
            self.bytes -= cost(&entry);
        }
        while self.term_runs.last().is_some_and(|&(run, _)| run >= first) {
            self.term_runs.pop();
        }
        self.unmark(first);
        for entry in new {
            self.mark(entry);
            if self.term_runs.last().is_none_or(|&(_, term)| term != entry.term) {
                self.term_runs.push((entry.index, entry.term));
            }
            self.bytes += cost(entry);
            self.entries.push_back(entry.clone());
        }
        self.last = last;
        (old_last > last).then_some((last + 1, old_last))
    }

    /// Forgets the log up to an applied entry and tells that entry's term.
    pub(crate) fn truncate(&mut self, index: u64) -> u64 {
        assert!(index > self.truncated.0 && index <= self.applied, "only applied entries go");
        let term = self.term(index).expect("the entry is in the log");
        self.truncated = (index, term);
        while self.entries.front().is_some_and(|entry| entry.index <= index) {
            let entry = self.entries.pop_front().expect("just seen");
            self.bytes -= cost(&entry);
        }
        let kept = self.term_runs.partition_point(|&(first, _)| first <= index + 1);
        self.term_runs.drain(..kept.saturating_sub(1));
        match self.term_runs.first_mut() {
            Some(_) if index == self.last => self.term_runs.clear(),
            Some(run) => run.0 = run.0.max(index + 1),
            None => {}
        }
        while let Some(&mark) = self.marks.front() {
            let end = self.marks.get(1).map_or(self.last, |next| next.first - 1);
            if mark.first > index {
                break;
            }
            self.marks.pop_front();
            self.log_bytes -= mark.bytes;
            if end > index {
                // Part of a mark stays, with its share of the bytes.
                let bytes = share(mark.bytes, end - index, end - mark.first + 1);
                self.log_bytes += bytes;
                self.marks.push_front(Mark { first: index + 1, bytes, ..mark });
                break;
            }
        }
        term
    }

    /// Begins anew after a snapshot.
    pub(crate) fn reset(&mut self, truncated: (u64, u64)) {
        assert!(truncated.0 > self.applied, "a snapshot is ahead of what is applied");
        *self = LogCache::new(truncated, Vec::new(), truncated.0, Vec::new(), (0, self.bytes_max));
    }

    /// Bytes of the whole log, about.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// When the oldest entry was proposed, Unix nanoseconds; 0 for none or not known.
    pub(crate) fn oldest_entry_ns(&self) -> u64 {
        self.marks.front().map_or(0, |mark| mark.time_ns)
    }

    /// Bytes of the log up to an index, about.
    pub(crate) fn bytes_up_to(&self, index: u64) -> u64 {
        let mut bytes = 0;
        for (place, mark) in self.marks.iter().enumerate() {
            if mark.first > index {
                break;
            }
            let end = self.marks.get(place + 1).map_or(self.last, |next| next.first - 1);
            bytes += share(mark.bytes, end.min(index) - mark.first + 1, end - mark.first + 1);
        }
        bytes
    }

    /// The last index that must go for the rest to take `bytes_max` or less; 0 if nothing must.
    pub(crate) fn index_over_bytes(&self, bytes_max: u64) -> u64 {
        let mut left = self.log_bytes;
        let mut over = 0;
        for (place, mark) in self.marks.iter().enumerate() {
            if left <= bytes_max {
                break;
            }
            left -= mark.bytes;
            over = self.marks.get(place + 1).map_or(self.last, |next| next.first - 1);
        }
        over
    }

    fn mark(&mut self, entry: &LogEntry) {
        let bytes = entry.data.len() as u64 + ROW_BYTES;
        self.log_bytes += bytes;
        match self.marks.back_mut() {
            Some(mark)
                if !mark.is_estimate
                    && entry.index - mark.first < MARK_ENTRIES_MAX
                    && mark.bytes + bytes <= MARK_BYTES_MAX =>
            {
                mark.bytes += bytes;
            }
            _ => {
                let time_ns = proposal_time_ns(&entry.data).unwrap_or(0);
                self.marks.push_back(Mark {
                    first: entry.index,
                    bytes,
                    time_ns,
                    is_estimate: false,
                });
            }
        }
    }

    /// Takes the entries from `first` on out of the marks again.
    fn unmark(&mut self, first: u64) {
        let mut end = self.last;
        while let Some(&mark) = self.marks.back() {
            if end < first {
                break;
            }
            self.marks.pop_back();
            self.log_bytes -= mark.bytes;
            if mark.first < first {
                let bytes = share(mark.bytes, first - mark.first, end - mark.first + 1);
                self.log_bytes += bytes;
                self.marks.push_back(Mark { bytes, ..mark });
                break;
            }
            end = mark.first - 1;
        }
    }

    /// Entries `low..high`, at least one, stopping before `max_bytes` is passed.
    pub(crate) fn entries(
        &self,
        low: u64,
        high: u64,
        max_bytes: u64,
        can_wait: bool,
    ) -> Result<Vec<LogEntry>, Miss> {
        if low <= self.truncated.0 {
            return Err(Miss::Truncated);
        }
        if high > self.last + 1 {
            return Err(Miss::Beyond);
        }
        let cached_first = self.last + 1 - self.entries.len() as u64;
        if low >= cached_first {
            let from = usize::try_from(low - cached_first).expect("within the cache");
            let to = usize::try_from(high - cached_first).expect("within the cache");
            return Ok(take_bytes(self.entries.range(from..to), max_bytes));
        }
        if let Some(position) = self.fetched.iter().position(|entry| entry.index == low) {
            let of_range = self.fetched[position..].iter().take_while(|entry| entry.index < high);
            return Ok(take_bytes(of_range, max_bytes));
        }
        // Any error here but "not now" would end the process or ask for a snapshot (trap 10).
        assert!(can_wait, "entries that raft needs at once are above the applied index");
        if self.asked.borrow_mut().insert(low) {
            let wanted = Wanted { low, high: high.min(cached_first), max_bytes };
            self.wanted.borrow_mut().insert(low, wanted);
        }
        Err(Miss::OnDisk)
    }

    /// Holds entries read from disk until [`LogCache::drop_fetched`].
    pub(crate) fn hold_fetched(&mut self, low: u64, entries: Vec<LogEntry>) {
        self.asked.borrow_mut().remove(&low);
        self.fetched = entries;
    }

    /// Forgets them again.
    pub(crate) fn drop_fetched(&mut self) {
        self.fetched = Vec::new();
    }

    /// The ranges asked for in vain since the last call.
    pub(crate) fn take_wanted(&self) -> Vec<Wanted> {
        self.wanted.take().into_values().collect()
    }

    /// Moves the applied index on and lets go of old entries over the budget.
    pub(crate) fn applied_to(&mut self, applied: u64) {
        assert!(applied >= self.applied && applied <= self.last, "applied moves on within the log");
        self.applied = applied;
        while self.bytes > self.bytes_max {
            match self.entries.front() {
                Some(entry) if entry.index <= applied => {
                    self.bytes -= cost(entry);
                    self.entries.pop_front();
                }
                _ => break,
            }
        }
    }
}

/// The part of `bytes` that `some` of `all` entries take, taking them as equally long.
fn share(bytes: u64, some: u64, all: u64) -> u64 {
    let part = u128::from(bytes) * u128::from(some) / u128::from(all.max(1));
    u64::try_from(part).expect("a part is not more than the whole")
}

/// Bytes of memory that an entry takes.
fn cost(entry: &LogEntry) -> usize {
    entry.data.len() + size_of::<LogEntry>()
}

fn take_bytes<'a>(entries: impl Iterator<Item = &'a LogEntry>, max_bytes: u64) -> Vec<LogEntry> {
    let mut taken = Vec::new();
    let mut bytes = 0u64;
    for entry in entries {
        bytes += entry.data.len() as u64 + 16;
        if bytes > max_bytes && !taken.is_empty() {
            break;
        }
        taken.push(entry.clone());
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::EntryKind;

    fn entry(index: u64, term: u64) -> LogEntry {
        LogEntry { index, term, kind: EntryKind::Normal, data: vec![7; 100] }
    }

    fn indexes(entries: &[LogEntry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.index).collect()
    }

    #[test]
    fn a_new_leaders_entries_replace_the_suffix_and_name_the_rows_to_delete() {
        let mut log = LogCache::new((5, 5), vec![], 5, vec![], (0, 1 << 20));
        assert_eq!(log.append(&[entry(6, 6), entry(7, 6), entry(8, 6), entry(9, 6)]), None);
        assert_eq!(log.append(&[entry(7, 8)]), Some((8, 9)));
        assert_eq!(log.last_index(), 7);
        assert_eq!(log.term(6), Ok(6));
        assert_eq!(log.term(7), Ok(8));
        assert_eq!(log.term(5), Ok(5));
        assert_eq!(log.term(8), Err(Miss::Beyond));
        assert_eq!(log.term(4), Err(Miss::Truncated));
    }

    #[test]
    fn old_entries_leave_memory_but_never_those_above_applied() {
        let mut log = LogCache::new((5, 5), vec![], 5, vec![], (0, 250));
        log.append(&(6..=10).map(|index| entry(index, 6)).collect::<Vec<_>>());
        log.applied_to(7);
        assert_eq!(indexes(&log.entries(8, 11, u64::MAX, false).expect("pinned")), [8, 9, 10]);
        assert_eq!(log.entries(6, 8, u64::MAX, true), Err(Miss::OnDisk));
        assert_eq!(log.take_wanted(), [Wanted { low: 6, high: 8, max_bytes: u64::MAX }]);
        assert_eq!(log.entries(6, 8, u64::MAX, true), Err(Miss::OnDisk));
        assert_eq!(log.take_wanted(), [], "a range under way is not asked for again");
        log.hold_fetched(6, vec![entry(6, 6), entry(7, 6)]);
        assert_eq!(indexes(&log.entries(6, 8, 150, true).expect("fetched")), [6]);
        log.drop_fetched();
        assert_eq!(log.term(6), Ok(6), "terms never miss");
    }

    #[test]
    fn the_beginning_is_forgotten_with_its_terms_and_its_bytes() {
        let mut log = LogCache::new((5, 5), vec![], 5, vec![], (0, 1 << 20));
        log.append(&(6..=105).map(|index| entry(index, 6)).collect::<Vec<_>>());
        log.append(&(106..=205).map(|index| entry(index, 7)).collect::<Vec<_>>());
        log.applied_to(205);
        let row = 100 + ROW_BYTES;
        assert_eq!(log.log_bytes(), 200 * row);
        assert_eq!(log.bytes_up_to(55), 50 * row);
        assert_eq!(log.index_over_bytes(200 * row), 0);
        let over = log.index_over_bytes(100 * row);
        assert!((105..105 + MARK_ENTRIES_MAX).contains(&over), "{over}");
        assert_eq!(log.truncate(50), 6);
        assert_eq!(
            (log.first_index(), log.term(50), log.term(49)),
            (51, Ok(6), Err(Miss::Truncated))
        );
        assert_eq!(log.log_bytes(), 155 * row);
        assert_eq!(log.entries(50, 52, u64::MAX, true), Err(Miss::Truncated));
        assert_eq!(indexes(&log.entries(51, 53, u64::MAX, true).expect("kept")), [51, 52]);
        assert_eq!(log.truncate(150), 7);
        assert_eq!((log.term(151), log.log_bytes()), (Ok(7), 55 * row));
        assert_eq!(log.truncate(205), 7);
        assert_eq!((log.term(205), log.last_index(), log.log_bytes()), (Ok(7), 205, 0));
        log.append(&[entry(206, 9)]);
        assert_eq!((log.term(206), log.log_bytes()), (Ok(9), row));
    }

    #[test]
    fn a_replaced_suffix_gives_its_bytes_back_and_a_snapshot_everything() {
        let mut log = LogCache::new((5, 5), vec![(6, 5)], 8, vec![], (600, 1 << 20));
        assert_eq!(log.log_bytes(), 600);
        log.append(&(9..=108).map(|index| entry(index, 6)).collect::<Vec<_>>());
        log.append(&[entry(19, 8)]);
        let row = 100 + ROW_BYTES;
        assert_eq!(log.log_bytes(), 600 + 11 * row);
        assert_eq!(log.bytes_up_to(7), 400);
        log.reset((500, 9));
        assert_eq!((log.first_index(), log.last_index(), log.term(500)), (501, 500, Ok(9)));
        assert_eq!(log.log_bytes(), 0);
    }
}
