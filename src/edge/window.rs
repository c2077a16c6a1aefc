//! How much of one stream may be under way.

use ledger_types::limits::{STREAM_BYTES_MAX, STREAM_WRITES_MAX};

/// What was taken from a stream and is not answered yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Window {
    writes: usize,
    bytes: usize,
}

impl Window {
    /// True if one more may be read. One that is larger than what is left still goes, so that the largest does; the
    /// next one waits for it.
    pub(super) fn has_room(self) -> bool {
        self.writes < STREAM_WRITES_MAX && self.bytes < STREAM_BYTES_MAX
    }

    /// Takes a write of this many bytes in.
    pub(super) fn take(&mut self, bytes: usize) {
        self.writes += 1;
        self.bytes += bytes;
    }

    /// Makes room again for a write that was taken in.
    pub(super) fn give_back(&mut self, bytes: usize) {
        self.writes -= 1;
        self.bytes -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_full_by_count_and_by_bytes() {
        let mut window = Window::default();
        for _ in 0..STREAM_WRITES_MAX {
            assert!(window.has_room());
            window.take(1);
        }
        assert!(!window.has_room());
        window.give_back(1);
        assert!(window.has_room());
        window.take(STREAM_BYTES_MAX);
        window.give_back(1);
        assert!(!window.has_room(), "the large one is alone until it is answered");
        window.give_back(STREAM_BYTES_MAX);
        assert!(window.has_room());
    }
}
