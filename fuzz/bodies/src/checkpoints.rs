//! What logs sign: checkpoints, notes over them, and what is remembered of them.

use ledger_proof::{Checkpoint, KnownCheckpoint, Origin, SignedNote, SignedRecord};

use crate::{Verdict, canonical, trust};

/// The text of a checkpoint.
pub(crate) fn checkpoint(input: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(input) else { return Verdict::Refused };
    if let Ok(origin) = Origin::parse(text.trim_end_matches('\n')) {
        assert_eq!(origin.to_string(), text.trim_end_matches('\n'), "an origin has one form");
    }
    canonical(
        input,
        |bytes| Checkpoint::parse(std::str::from_utf8(bytes).expect("text stays text")),
        |checkpoint| checkpoint.text().into_bytes(),
    )
}

/// A note over a checkpoint, with signatures of keys that are known and others.
pub(crate) fn signed_note(input: &[u8]) -> Verdict {
    let verdict = canonical(input, SignedNote::parse, SignedNote::encode);
    let Ok(note) = SignedNote::parse(input) else { return verdict };
    if let Ok(checkpoint) = note.checkpoint() {
        assert_eq!(checkpoint.text(), note.text, "the text that is signed is the checkpoint's");
    }
    let counted = note.cosignatures(&trust::sample_signers());
    assert!(counted.is_err() || note.signatures.len() >= counted.map_or(0, |lines| lines.len()));
    verdict
}

/// What a client and a node keep of a checkpoint. The first byte says which.
pub(crate) fn rows(input: &[u8]) -> Verdict {
    match input.split_first() {
        Some((0, row)) => canonical(row, KnownCheckpoint::decode, KnownCheckpoint::encode),
        Some((1, row)) => canonical(row, SignedRecord::decode, SignedRecord::encode),
        _ => Verdict::Refused,
    }
}
