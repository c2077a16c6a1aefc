//! Signed notes in the C2SP formats: parsing, Ed25519 signatures by a log, timestamped
//! cosignatures.
//!
//! The only module that signs. It says which known keys signed; whether that is enough is `trust`'s
//! question.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use thiserror::Error;

use ledger_types::Digest;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::encoding::Writer;
use crate::hash;

/// Longest note in bytes.
pub const NOTE_BYTES_MAX: usize = 16 * 1024;
/// Most signature lines of a note.
pub const NOTE_SIGNATURES_MAX: usize = 16;
/// Kind of a signature by the log itself.
const KIND_LOG: u8 = 0x01;
/// Kind of a timestamped cosignature.
const KIND_COSIGNATURE: u8 = 0x04;
/// What a signature line begins with.
const LINE_START: &str = "\u{2014} ";
const KEY_ID_LEN: usize = 4;
const TIME_LEN: usize = 8;

/// A text with signatures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedNote {
    /// What is signed, final newline included.
    pub text: String,
    /// The lines below it.
    pub signatures: Vec<NoteSignature>,
}

/// One signature line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoteSignature {
    /// Who claims to have signed.
    pub name: String,
    /// First bytes of the hash that ties name, kind and key together.
    pub key_id: [u8; KEY_ID_LEN],
    /// The signature, after its time if it is a cosignature.
    pub signature: Vec<u8>,
}

/// A key whose signatures are checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownSigner {
    /// Its cosigner name, `<domain>/node/<node>`.
    pub name: String,
    /// Its Ed25519 public key.
    pub public_key: [u8; 32],
}

impl KnownSigner {
    /// The line of a cosignature that came without its note, if this signer made it over the
    /// checkpoint at `time` (Unix seconds); `None` if it did not.
    pub fn cosignature_line(
        &self,
        checkpoint: &Checkpoint,
        time: u64,
        signature: &[u8],
    ) -> Option<NoteSignature> {
        let message = cosigned_message(&checkpoint.text(), time);
        if !check(&self.public_key, message.as_bytes(), signature) {
            return None;
        }
        Some(NoteSignature {
            name: self.name.clone(),
            key_id: key_id(&self.name, KIND_COSIGNATURE, &self.public_key),
            signature: [&time.to_be_bytes()[..], signature].concat(),
        })
    }
}

/// A valid cosignature of a known key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cosignature {
    /// The key.
    pub public_key: [u8; 32],
    /// When it signed, Unix seconds.
    pub time: u64,
}

/// Why bytes are no note, or a note is refused as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum NoteError {
    /// The note is longer than any that is read.
    #[error("the note has {len} bytes, the limit is {NOTE_BYTES_MAX}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The note is not UTF-8 or holds a control character.
    #[error("the note is not text without control characters")]
    NotText,
    /// Text and signatures are not parted by an empty line, or a final newline is missing.
    #[error("the note is not text, an empty line and signature lines, each ended by a newline")]
    Form,
    /// There are more signature lines than any note needs.
    #[error("the note has over {NOTE_SIGNATURES_MAX} signatures")]
    TooManySignatures,
    /// A signature line is malformed.
    #[error("signature line {line} is malformed")]
    Line {
        /// Its number, from 1.
        line: usize,
    },
    /// A line that names a known key was not made by that key.
    #[error("the signature of the known key {name} is bad")]
    BadSignature {
        /// The name on the line.
        name: String,
    },
    /// The text is not a checkpoint.
    #[error("the note's text is no checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
}

impl SignedNote {
    /// A note over a checkpoint with the given signatures.
    pub fn new(checkpoint: &Checkpoint, signatures: Vec<NoteSignature>) -> SignedNote {
        SignedNote { text: checkpoint.text(), signatures }
    }

    /// Reads a note. Signatures are not checked yet.
    pub fn parse(bytes: &[u8]) -> Result<SignedNote, NoteError> {
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(NoteError::TooLong { len: bytes.len() });
        }
        let note = std::str::from_utf8(bytes).map_err(|_| NoteError::NotText)?;
        if note.chars().any(|character| character.is_control() && character != '\n') {
            return Err(NoteError::NotText);
        }
        let (text, lines) = note.rsplit_once("\n\n").ok_or(NoteError::Form)?;
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Form)?;
        if lines.split('\n').count() > NOTE_SIGNATURES_MAX {
            return Err(NoteError::TooManySignatures);
        }
        let signatures = lines
            .split('\n')
            .enumerate()
            .map(|(number, line)| parse_line(line).ok_or(NoteError::Line { line: number + 1 }))
            .collect::<Result<_, _>>()?;
        Ok(SignedNote { text: format!("{text}\n"), signatures })
    }

    /// The note's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut note = format!("{}\n", self.text);
        for line in &self.signatures {
            let blob = [&line.key_id[..], &line.signature].concat();
            note.push_str(&format!("{LINE_START}{} {}\n", line.name, STANDARD.encode(blob)));
        }
        note.into_bytes()
    }

    /// The checkpoint that the note is about.
    pub fn checkpoint(&self) -> Result<Checkpoint, NoteError> {
        Ok(Checkpoint::parse(&self.text)?)
    }

    /// Checks every line that names one of the given keys, as cosigner or as the log, and returns
    /// the valid cosignatures. One bad line of a known key refuses the note; lines of other keys
    /// are passed over. A log signature is checked but never returned, since it says nothing about
    /// time.
    pub fn cosignatures(&self, known: &[KnownSigner]) -> Result<Vec<Cosignature>, NoteError> {
        let origin = self.text.split('\n').next().unwrap_or_default();
        let mut valid = Vec::new();
        for line in &self.signatures {
            let bad = || NoteError::BadSignature { name: line.name.clone() };
            let cosigners = known.iter().filter(|signer| {
                line.name == signer.name
                    && line.key_id == key_id(&signer.name, KIND_COSIGNATURE, &signer.public_key)
            });
            let logs = known.iter().filter(|signer| {
                line.name == origin && line.key_id == key_id(origin, KIND_LOG, &signer.public_key)
            });
            let mut claimed = false;
            let mut found = None;
            for signer in cosigners {
                claimed = true;
                found = found.or_else(|| self.check_cosignature(line, &signer.public_key));
            }
            let mut is_log = false;
            for signer in logs {
                claimed = true;
                is_log |= check(&signer.public_key, self.text.as_bytes(), &line.signature);
            }
            match found {
                Some(cosignature) => valid.push(cosignature),
                None if claimed && !is_log => return Err(bad()),
                None => {}
            }
        }
        Ok(valid)
    }

    /// True if a line claims to be the log's own signature, whatever its key.
    pub(crate) fn is_log_line(&self, line: &NoteSignature) -> bool {
        line.name == self.text.split('\n').next().unwrap_or_default()
    }

    /// [`SignedNote::cosignatures`], unless a memory holds what it said of the same note and the same keys.
    pub(crate) fn cosignatures_remembered(
        &self,
        known: &[KnownSigner],
        memory: Option<&dyn CheckedNotes>,
    ) -> Result<Vec<Cosignature>, NoteError> {
        let Some(memory) = memory else { return self.cosignatures(known) };
        let question = self.question(known);
        if let Some(valid) = memory.recall(&question) {
            return Ok(valid);
        }
        let valid = self.cosignatures(known)?;
        memory.keep(question, &valid);
        Ok(valid)
    }

    /// A digest of the note and of the keys it is checked with: everything that the valid cosignatures follow from.
    fn question(&self, known: &[KnownSigner]) -> Digest {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.u32(u32::try_from(known.len()).expect("few signers are known"));
        for signer in known {
            writer.bytes_u16(signer.name.as_bytes());
            writer.raw(&signer.public_key);
        }
        writer.raw(&self.encode());
        hash::plain(&bytes)
    }

    fn check_cosignature(
        &self,
        line: &NoteSignature,
        public_key: &[u8; 32],
    ) -> Option<Cosignature> {
        let (time, signature) = line.signature.split_first_chunk::<TIME_LEN>()?;
        let time = u64::from_be_bytes(*time);
        let message = cosigned_message(&self.text, time);
        let is_valid = check(public_key, message.as_bytes(), signature);
        is_valid.then_some(Cosignature { public_key: *public_key, time })
    }
}

/// What a client remembers of notes that it has checked: signatures are by far the dearest part of a proof, and one
/// note comes with many answers. Whether a cosignature is still young enough is never remembered.
pub trait CheckedNotes: Sync {
    /// The valid cosignatures of the note and keys behind a digest, if they were kept.
    fn recall(&self, question: &Digest) -> Option<Vec<Cosignature>>;

    /// Keeps the valid cosignatures of a note that was not refused.
    fn keep(&self, question: Digest, valid: &[Cosignature]);
}

/// A node's signing key. Its secret half never leaves memory and the key file.
#[derive(Clone)]
pub struct NodeKey {
    key: SigningKey,
}

impl NodeKey {
    /// Makes the key from its 32 secret bytes.
    pub fn from_seed(seed: &[u8; 32]) -> NodeKey {
        NodeKey { key: SigningKey::from_bytes(seed) }
    }

    /// The public half, which `_system` lists.
    pub fn public_key(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// Signs as the log: the answering replica's line.
    pub fn sign_log(&self, checkpoint: &Checkpoint) -> NoteSignature {
        let name = checkpoint.origin.to_string();
        let signature = self.key.sign(checkpoint.text().as_bytes()).to_bytes().to_vec();
        NoteSignature { key_id: key_id(&name, KIND_LOG, &self.public_key()), name, signature }
    }

    /// Cosigns as `<domain>/node/<node>` at `time` (Unix seconds). The caller vouches for the
    /// checkpoint, and for the time: it is the start of a lease or read round whose index it has
    /// applied.
    pub fn cosign(&self, checkpoint: &Checkpoint, node: &str, time: u64) -> NoteSignature {
        let name = cosigner_name(&checkpoint.origin.domain, node);
        let message = cosigned_message(&checkpoint.text(), time);
        let mut signature = time.to_be_bytes().to_vec();
        signature.extend_from_slice(&self.key.sign(message.as_bytes()).to_bytes());
        let key_id = key_id(&name, KIND_COSIGNATURE, &self.public_key());
        NoteSignature { key_id, name, signature }
    }
}

/// The name that a node cosigns with.
pub fn cosigner_name(domain: &str, node: &str) -> String {
    format!("{domain}/node/{node}")
}

/// The key id on a log's signature line.
pub fn log_key_id(origin: &str, public_key: &[u8; 32]) -> [u8; KEY_ID_LEN] {
    key_id(origin, KIND_LOG, public_key)
}

/// The key id on a cosignature line.
pub fn cosigner_key_id(name: &str, public_key: &[u8; 32]) -> [u8; KEY_ID_LEN] {
    key_id(name, KIND_COSIGNATURE, public_key)
}

fn key_id(name: &str, kind: u8, public_key: &[u8; 32]) -> [u8; KEY_ID_LEN] {
    let hashed = hash::plain(&[name.as_bytes(), b"\n", &[kind], public_key].concat());
    *hashed.0.first_chunk().expect("a digest has over four bytes")
}

fn cosigned_message(text: &str, time: u64) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

fn check(public_key: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    let Ok(signature) = Signature::from_slice(signature) else { return false };
    VerifyingKey::from_bytes(public_key)
        .is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
}

fn parse_line(line: &str) -> Option<NoteSignature> {
    let (name, encoded) = line.strip_prefix(LINE_START)?.split_once(' ')?;
    if name.is_empty() || name.contains(|letter: char| letter.is_whitespace() || letter == '+') {
        return None;
    }
    let blob = STANDARD.decode(encoded).ok()?;
    let (key_id, signature) = blob.split_first_chunk()?;
    let signature = (!signature.is_empty()).then(|| signature.to_vec())?;
    Some(NoteSignature { name: name.to_owned(), key_id: *key_id, signature })
}

#[cfg(test)]
mod tests {
    use ledger_types::{Digest, VaultRef};

    use super::*;
    use crate::checkpoint::Origin;

    fn checkpoint() -> Checkpoint {
        let origin = Origin { domain: "a.ledger".into(), vault: VaultRef::new(1, 2), log_epoch: 0 };
        Checkpoint { origin, size: 7, root: Digest([1; 32]) }
    }

    fn signer(seed: u8, node: &str) -> (NodeKey, KnownSigner) {
        let key = NodeKey::from_seed(&[seed; 32]);
        let public_key = key.public_key();
        (key, KnownSigner { name: cosigner_name("a.ledger", node), public_key })
    }

    #[test]
    fn a_note_round_trips_and_its_known_signatures_hold() {
        let checkpoint = checkpoint();
        let (first, known_first) = signer(1, "n1");
        let (second, known_second) = signer(2, "n2");
        let lines = vec![
            first.sign_log(&checkpoint),
            first.cosign(&checkpoint, "n1", 100),
            second.cosign(&checkpoint, "n2", 101),
        ];
        let note = SignedNote::new(&checkpoint, lines);
        assert_eq!(SignedNote::parse(&note.encode()).as_ref(), Ok(&note));
        assert_eq!(note.checkpoint(), Ok(checkpoint));
        let times = |known: &[KnownSigner]| -> Vec<u64> {
            note.cosignatures(known).unwrap().iter().map(|signature| signature.time).collect()
        };
        assert_eq!(times(&[known_first.clone(), known_second]), [100, 101]);
        assert_eq!(times(&[known_first]), [100]);
        assert!(times(&[]).is_empty());
    }

    #[test]
    fn a_line_is_made_of_a_cosignature_only_if_it_holds() {
        let checkpoint = checkpoint();
        let (key, known) = signer(1, "n1");
        let line = key.cosign(&checkpoint, "n1", 100);
        let (time, signature) = line.signature.split_at(TIME_LEN);
        assert_eq!(time, 100u64.to_be_bytes());
        assert_eq!(known.cosignature_line(&checkpoint, 100, signature), Some(line.clone()));
        assert_eq!(known.cosignature_line(&checkpoint, 101, signature), None, "another time");
        assert_eq!(known.cosignature_line(&checkpoint, 100, &signature[1..]), None, "cut short");
        let (_, other) = signer(2, "n1");
        assert_eq!(other.cosignature_line(&checkpoint, 100, signature), None, "another key");
        let longer = Checkpoint { size: 8, ..checkpoint };
        assert_eq!(known.cosignature_line(&longer, 100, signature), None, "another log");
    }

    #[test]
    fn a_bad_signature_of_a_known_key_refuses_the_note() {
        let checkpoint = checkpoint();
        let (first, known_first) = signer(1, "n1");
        let (second, known_second) = signer(2, "n2");
        let known = [known_first, known_second];
        let good = first.cosign(&checkpoint, "n1", 100);
        for change in [0, 7, 8, 71] {
            let mut bad = second.cosign(&checkpoint, "n2", 100);
            bad.signature[change] ^= 1;
            let note = SignedNote::new(&checkpoint, vec![good.clone(), bad]);
            assert!(matches!(note.cosignatures(&known), Err(NoteError::BadSignature { .. })));
            assert_eq!(note.cosignatures(&known[..1]).map(|valid| valid.len()), Ok(1));
        }
        let mut bad_log = second.sign_log(&checkpoint);
        bad_log.signature[0] ^= 1;
        let note = SignedNote::new(&checkpoint, vec![good.clone(), bad_log]);
        assert!(note.cosignatures(&known).is_err());
        let mut short = good.clone();
        short.signature.truncate(5);
        assert!(SignedNote::new(&checkpoint, vec![short]).cosignatures(&known).is_err());
        let mut renamed = good;
        renamed.name = cosigner_name("a.ledger", "n2");
        let note = SignedNote::new(&checkpoint, vec![renamed]);
        assert_eq!(note.cosignatures(&known), Ok(vec![]), "the key id ties the name to the key");
    }

    #[test]
    fn malformed_notes_are_refused() {
        let (key, _) = signer(1, "n1");
        let checkpoint = checkpoint();
        let note = SignedNote::new(&checkpoint, vec![key.cosign(&checkpoint, "n1", 1)]).encode();
        let note = String::from_utf8(note).unwrap();
        let line = note.rsplit_once("\n\n").unwrap().1.to_owned();
        let bad = [
            (note.trim_end().to_owned(), NoteError::Form),
            (checkpoint.text(), NoteError::Form),
            (note.replace("\n\n", "\n"), NoteError::Form),
            (note.replace('\n', "\r\n"), NoteError::NotText),
            (note.replace("7\n", "7\t\n"), NoteError::NotText),
            (note.replace("7\n", "7\u{7f}\n"), NoteError::NotText),
            (note.replace('\u{2014}', "-"), NoteError::Line { line: 1 }),
            (note.replace("a.ledger/node", "a b/node"), NoteError::Line { line: 1 }),
            (note.replace("a.ledger/node", "a+b/node"), NoteError::Line { line: 1 }),
            (format!("{note}{}", line.replace("/n1 ", "/n1  ")), NoteError::Line { line: 2 }),
            (format!("{note}\u{2014} x AAAAAA==\n"), NoteError::Line { line: 2 }),
            (format!("{note}\u{2014} x AAAAAAA\n"), NoteError::Line { line: 2 }),
            (format!("{note}{}", line.repeat(16)), NoteError::TooManySignatures),
            ("x".repeat(NOTE_BYTES_MAX + 1), NoteError::TooLong { len: NOTE_BYTES_MAX + 1 }),
        ];
        for (text, error) in bad {
            assert_eq!(SignedNote::parse(text.as_bytes()), Err(error), "{text:?}");
        }
        assert_eq!(SignedNote::parse(b"\xff\n\nx\n"), Err(NoteError::NotText));
    }
}
