//! Everything a verifier needs and everything a replica hashes: canonical bytes, trees, proofs,
//! notes.
//!
//! Owns the byte formats of `docs/verification-format.md`. Must never do I/O, read a clock or draw
//! random numbers: stored nodes come through traits, the time and all trust come from the caller.
//! The same code serves replicas, the SDK, the command line and auditors.

pub mod block_log;
pub mod block_proof;
pub mod bundle_link;
pub mod checkpoint;
pub mod checkpoint_proof;
pub mod encoding;
pub mod genesis;
pub mod hash;
pub mod header;
pub mod ics23;
pub mod known_checkpoint;
pub mod no_rollback;
pub mod note;
mod read_fault;
pub mod receipt;
pub mod record;
pub mod replay;
pub mod rfc9162;
pub mod system_entity;
pub mod tiles;
pub mod transaction;
pub mod tree;
pub mod trust;
pub mod tx_tree;
pub mod verified_list;
pub mod verified_read;

pub use block_log::{Frontier, LogNodes};
pub use block_proof::{
    AuthenticatedBlock, BlockProof, Consistency, Fork, ReadAt, Trust, VerifyError,
};
pub use checkpoint::{Checkpoint, Origin};
pub use checkpoint_proof::{AuthenticatedCheckpoint, CheckpointProof};
pub use encoding::{DecodeError, Reader, Writer};
pub use header::{BlockHeader, EntryPosition};
pub use known_checkpoint::KnownCheckpoint;
pub use no_rollback::{Decision, SignedRecord, may_sign};
pub use note::{
    CheckedNotes, Cosignature, KnownSigner, NodeKey, NoteError, NoteSignature, SignedNote,
    cosigner_name,
};
pub use read_fault::ReadFault;
pub use receipt::{Receipt, ReceiptRequest, TransactionChoice, VerifiedReceipt};
pub use record::{Descriptor, Record};
pub use replay::{Finding, FindingKind, Replay};
pub use tiles::{LogPath, LogPathError, LogResource, Tile, TileError};
pub use transaction::{AppliedOperation, Recovery, Transaction};
pub use tree::{
    KeyProof, ListCheck, ListError, ListItem, ListLeaf, ListLimits, ListProof, PageProof,
    PageReference, PageSummary, PageWrite, PrefixProof, Presence, ProofError, ProvedPage,
    StateTree, TreeAnchor, TreeStore, verify_list,
};
pub use trust::{CountError, Counted, LeftOut, Threshold, TimeRule, TrustBundle, Voter, VoterSet};
pub use verified_list::{ListPage, ListProgress, ListQuestion, VerifiedItem, VerifiedList};
pub use verified_read::{ReadItem, ReadRequest, VerifiedAnswer, VerifiedRead, VerifiedValue};
