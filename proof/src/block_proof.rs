//! A block header with what authenticates it: a counted note, its place in the log, the log's
//! growth since the client last looked. Reads and receipts both stand on it.

use ledger_types::Digest;
use thiserror::Error;

use crate::checkpoint::Origin;
use crate::encoding::{DecodeError, Reader, Writer};
use crate::header::{BlockHeader, HEADER_LEN};
use crate::known_checkpoint::KnownCheckpoint;
use crate::note::{CheckedNotes, NOTE_BYTES_MAX, NoteError, SignedNote};
use crate::rfc9162::{PATH_LEN_MAX, PathError, verify_consistency, verify_inclusion};
use crate::tree::{ListError, ProofError};
use crate::trust::{CountError, Counted, TimeRule, TrustBundle, VoterSet};

/// A header and the proof that it is in a checkpointed log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockProof {
    /// Bytes of the checkpoint note.
    pub note: Vec<u8>,
    /// The header.
    pub header: BlockHeader,
    /// The header's inclusion path: index = height, size = the note's.
    pub header_path: Vec<Digest>,
    /// How the log grew from the size that the client named, if it named one.
    pub consistency: Option<Consistency>,
}

/// A consistency path and where it begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Consistency {
    /// The size that the client named.
    pub from_size: u64,
    /// The path from there to the note's size.
    pub path: Vec<Digest>,
}

/// What a client trusts at the time of a check.
#[derive(Clone, Copy)]
pub struct Trust<'a> {
    /// The trust bundle.
    pub bundle: &'a TrustBundle,
    /// The voters of the vault's shard, in each configuration that counts. The bundle's own for
    /// `_system`; for other vaults they were read from `_system`, and the caller answers for how.
    pub voters: &'a [VoterSet],
    /// Which times of cosignatures count.
    pub times: TimeRule,
    /// What the caller remembers of notes that it has checked, if it does.
    pub memory: Option<&'a dyn CheckedNotes>,
}

/// Which block is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadAt {
    /// The last block of the newest counted checkpoint.
    Latest {
        /// It must be at least this high: the reader's own write, or 0.
        min_height: u64,
    },
    /// The block of this height.
    Height(u64),
}

/// A header that holds, and what was learned on the way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthenticatedBlock {
    /// The header.
    pub header: BlockHeader,
    /// The checkpoint to keep before anything else is answered.
    pub checkpoint: KnownCheckpoint,
    /// How many keys vouch for it, and how old their word is.
    pub counted: Counted,
}

/// Two notes that both count and are not shown to be of one history. Kept as evidence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fork {
    /// The checkpoint known before.
    pub known: KnownCheckpoint,
    /// The checkpoint that was offered; it counts as well.
    pub offered: KnownCheckpoint,
    /// What is wrong with the consistency path; `None` if sizes are equal and roots are not, which
    /// no path could heal.
    pub path_error: Option<PathError>,
}

/// Why an answer is not to be believed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum VerifyError {
    /// The answer's bytes are malformed.
    #[error("malformed answer: {0}")]
    Malformed(#[from] DecodeError),
    /// The note is malformed.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The note is about another log.
    #[error("the note is about {offered}, not {expected}")]
    OtherLog {
        /// The log asked for.
        expected: String,
        /// The note's.
        offered: String,
    },
    /// The vault has a log of another epoch: a recovery may have lost blocks. Its descriptor tells
    /// from which height; the client must accept the new log before it reads on.
    #[error("the vault's log epoch is {offered}, not {expected}: history may have been lost")]
    LogEpoch {
        /// The epoch asked for.
        expected: u64,
        /// The note's.
        offered: u64,
    },
    /// The checkpoint known before belongs to another log than the one asked for.
    #[error("the known checkpoint is of {known}, not {expected}")]
    KnownOtherLog {
        /// The log asked for.
        expected: String,
        /// The known checkpoint's.
        known: String,
    },
    /// The note does not count.
    #[error("the note does not count: {0}")]
    Count(#[from] CountError),
    /// The note is older than what is known. No contradiction yet, but no answer either.
    #[error("the note has {offered} blocks, {known} are known")]
    Behind {
        /// Size known before.
        known: u64,
        /// The note's.
        offered: u64,
    },
    /// The note does not extend what is known: history was rewritten, or two are shown, or the path
    /// is damaged.
    #[error("fork: {} offered blocks do not extend the {} known", .0.offered.size, .0.known.size)]
    Fork(Box<Fork>),
    /// The log grew, but no consistency path came along.
    #[error("no consistency path from size {from_size}")]
    ConsistencyMissing {
        /// Size known before.
        from_size: u64,
    },
    /// A consistency path begins at another size than the known one, or is not due at all.
    #[error("a consistency path from size {from_size} is not due")]
    ConsistencyUnexpected {
        /// Where it begins.
        from_size: u64,
    },
    /// The header is not where it should be in the log.
    #[error("the header is not in the log: {0}")]
    HeaderPath(PathError),
    /// The header is another vault's.
    #[error("the header is of vault {offered}")]
    OtherVault {
        /// The header's vault, as text.
        offered: String,
    },
    /// The header is of another block than the one wanted.
    #[error("the header is of block {offered}, not {wanted}")]
    OtherHeight {
        /// The height wanted.
        wanted: u64,
        /// The header's.
        offered: u64,
    },
    /// The newest checkpoint does not reach the height that the reader needs.
    #[error("the checkpoint ends at block {offered}, {min_height} is needed")]
    TooOld {
        /// The height needed.
        min_height: u64,
        /// The header's height.
        offered: u64,
    },
    /// There are more or fewer answers than keys.
    #[error("{answered} keys answered, {asked} asked for")]
    ItemCount {
        /// Keys asked for.
        asked: usize,
        /// Answers.
        answered: usize,
    },
    /// A key's proof fails.
    #[error("proof of key {index}: {error}")]
    Key {
        /// The key's place in the request.
        index: usize,
        /// Why.
        error: ProofError,
    },
    /// A present key comes without its value.
    #[error("key {index} is present but has no value")]
    ValueMissing {
        /// The key's place in the request.
        index: usize,
    },
    /// An absent key comes with a value.
    #[error("key {index} is absent but has a value")]
    ValueUnexpected {
        /// The key's place in the request.
        index: usize,
    },
    /// A value is not the one that its record commits to.
    #[error("the value of key {index} is not the committed one")]
    ValueMismatch {
        /// The key's place in the request.
        index: usize,
    },
    /// A page of a list proves nothing, or is not the next one.
    #[error("the list does not hold: {0}")]
    List(#[from] ListError),
    /// A page of a list has more or fewer values than new leaves.
    #[error("{values} values come with {leaves} new leaves of the list")]
    ValueCount {
        /// New leaves.
        leaves: usize,
        /// Values.
        values: usize,
    },
    /// A transaction is not in its block.
    #[error("the transaction is not in the block: {0}")]
    TransactionPath(PathError),
    /// A receipt is about another transaction.
    #[error("the receipt is about another transaction")]
    OtherTransaction,
    /// A bundle's link holds something else than the next bundle.
    #[error("the entity is not bundle {expected}")]
    NotTheNextBundle {
        /// The number of the bundle that is due.
        expected: u64,
    },
    /// The next bundle lowers the threshold or its floor, and nobody consented.
    #[error("bundle {sequence} asks for fewer signatures than the one before")]
    LoweredRule {
        /// Its number.
        sequence: u64,
    },
}

impl BlockProof {
    /// Checks that the header is the block wanted from the log `expected`, under a note that counts
    /// and extends what is known.
    pub fn verify(
        &self,
        expected: &Origin,
        at: ReadAt,
        trust: &Trust<'_>,
        known: Option<&KnownCheckpoint>,
    ) -> Result<AuthenticatedBlock, VerifyError> {
        let growth = self.consistency.as_ref();
        let (offered, counted) = check_note(&self.note, growth, expected, trust, known)?;
        let header = self.header;
        if header.vault != expected.vault {
            return Err(VerifyError::OtherVault { offered: header.vault.to_string() });
        }
        check_height(&header, offered.size, at)?;
        let leaf = header.block_hash();
        verify_inclusion(&leaf, header.height, offered.size, &self.header_path, &offered.root)
            .map_err(VerifyError::HeaderPath)?;
        Ok(AuthenticatedBlock { header, checkpoint: offered, counted })
    }

    /// Appends the canonical bytes to `writer`.
    pub(crate) fn write(&self, writer: &mut Writer<'_>) {
        writer.bytes_u16(&self.note);
        writer.raw(&self.header.encode());
        writer.digests_u16(&self.header_path);
        writer.flag(self.consistency.is_some());
        if let Some(consistency) = &self.consistency {
            writer.u64(consistency.from_size);
            writer.digests_u16(&consistency.path);
        }
    }

    /// Reads what [`BlockProof::write`] writes.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<BlockProof, DecodeError> {
        let note = reader.bytes_u16("note", NOTE_BYTES_MAX)?.to_vec();
        let header = BlockHeader::decode(reader.take("header", HEADER_LEN)?)?;
        let header_path = reader.digests_u16("header path", PATH_LEN_MAX)?;
        let consistency = match reader.flag("consistency")? {
            false => None,
            true => Some(Consistency {
                from_size: reader.u64("consistency size")?,
                path: reader.digests_u16("consistency path", PATH_LEN_MAX)?,
            }),
        };
        Ok(BlockProof { note, header, header_path, consistency })
    }
}

/// Checks that a note is about the log `expected`, counts, and extends what is known.
pub(crate) fn check_note(
    bytes: &[u8],
    consistency: Option<&Consistency>,
    expected: &Origin,
    trust: &Trust<'_>,
    known: Option<&KnownCheckpoint>,
) -> Result<(KnownCheckpoint, Counted), VerifyError> {
    let note = SignedNote::parse(bytes)?;
    let checkpoint = note.checkpoint()?;
    check_origin(expected, &checkpoint.origin)?;
    let counted = trust.bundle.count_remembered(&note, trust.voters, trust.times, trust.memory)?;
    let offered = KnownCheckpoint::new(checkpoint, bytes.to_vec());
    check_growth(consistency, &offered, known)?;
    Ok((offered, counted))
}

fn check_growth(
    consistency: Option<&Consistency>,
    offered: &KnownCheckpoint,
    known: Option<&KnownCheckpoint>,
) -> Result<(), VerifyError> {
    let unexpected =
        |path: &Consistency| Err(VerifyError::ConsistencyUnexpected { from_size: path.from_size });
    let Some(known) = known else {
        return consistency.map_or(Ok(()), unexpected);
    };
    if known.origin != offered.origin {
        let (expected, known) = (offered.origin.to_string(), known.origin.to_string());
        return Err(VerifyError::KnownOtherLog { expected, known });
    }
    let fork = |path_error| {
        let (known, offered) = (known.clone(), offered.clone());
        VerifyError::Fork(Box::new(Fork { known, offered, path_error }))
    };
    if offered.size < known.size {
        return Err(VerifyError::Behind { known: known.size, offered: offered.size });
    }
    if offered.size == known.size && offered.root != known.root {
        return Err(fork(None));
    }
    let is_same = offered.size == known.size;
    let path = match consistency {
        Some(path) if path.from_size != known.size => return unexpected(path),
        Some(path) if is_same && !path.path.is_empty() => return unexpected(path),
        Some(consistency) => &consistency.path[..],
        None if is_same => return Ok(()),
        None => return Err(VerifyError::ConsistencyMissing { from_size: known.size }),
    };
    verify_consistency(known.size, &known.root, offered.size, &offered.root, path)
        .map_err(|error| fork(Some(error)))
}

fn check_origin(expected: &Origin, offered: &Origin) -> Result<(), VerifyError> {
    if offered == expected {
        return Ok(());
    }
    if offered.domain == expected.domain && offered.vault == expected.vault {
        let (expected, offered) = (expected.log_epoch, offered.log_epoch);
        return Err(VerifyError::LogEpoch { expected, offered });
    }
    let (expected, offered) = (expected.to_string(), offered.to_string());
    Err(VerifyError::OtherLog { expected, offered })
}

fn check_height(header: &BlockHeader, size: u64, at: ReadAt) -> Result<(), VerifyError> {
    let offered = header.height;
    let wanted = match at {
        ReadAt::Height(height) => height,
        ReadAt::Latest { .. } => size
            .checked_sub(1)
            .ok_or(VerifyError::HeaderPath(PathError::IndexOutside { index: offered, size }))?,
    };
    if offered != wanted {
        return Err(VerifyError::OtherHeight { wanted, offered });
    }
    match at {
        ReadAt::Latest { min_height } if offered < min_height => {
            Err(VerifyError::TooOld { min_height, offered })
        }
        _ => Ok(()),
    }
}
