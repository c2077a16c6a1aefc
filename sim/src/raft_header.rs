//! The first fields of an encoded Raft message, read without the Raft library.
//!
//! Owns just enough of the protocol buffers' wire format to tell who promises what to whom. Must never be
//! needed for the cluster to work: only the invariants look here.

/// The fields that a promise is made of.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct RaftHeader {
    pub(crate) kind: u64,
    pub(crate) to: u64,
    pub(crate) from: u64,
    pub(crate) term: u64,
    pub(crate) index: u64,
    pub(crate) is_rejection: bool,
}

/// An acknowledgement of entries.
pub(crate) const APPEND_RESPONSE: u64 = 4;
/// An answer to a request for a vote.
pub(crate) const VOTE_RESPONSE: u64 = 6;

/// Reads the header; `None` if these are not the bytes of a message.
pub(crate) fn read(payload: &[u8]) -> Option<RaftHeader> {
    let mut header = RaftHeader::default();
    let mut rest = payload;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match tag & 7 {
            0 => {
                let value = varint(&mut rest)?;
                match tag >> 3 {
                    1 => header.kind = value,
                    2 => header.to = value,
                    3 => header.from = value,
                    4 => header.term = value,
                    6 => header.index = value,
                    10 => header.is_rejection = value != 0,
                    _ => {}
                }
            }
            2 => {
                let len = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(len..)?;
            }
            _ => return None,
        }
    }
    Some(header)
}

/// True if the message is of this kind, from its first bytes alone.
pub(crate) fn is(payload: &[u8], kind: u64) -> bool {
    payload.first() == Some(&8) && payload.get(1).copied().map(u64::from) == Some(kind)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_cuts_refused() {
        let bytes = [8, 4, 16, 0xE9, 7, 24, 2, 32, 6, 48, 9, 58, 2, 0xFF, 0xFF, 80, 1];
        let expected = RaftHeader {
            kind: APPEND_RESPONSE,
            to: 1001,
            from: 2,
            term: 6,
            index: 9,
            is_rejection: true,
        };
        assert_eq!(read(&bytes), Some(expected));
        assert!(is(&bytes, APPEND_RESPONSE) && !is(&bytes, VOTE_RESPONSE));
        assert_eq!(read(&bytes[..13]), None);
        assert_eq!(read(&bytes[..16]), None);
    }
}
