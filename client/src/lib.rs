//! The client of a ledger cluster: calls, retries, leaders, proofs.
//!
//! Owns everything between an application and the wire. Answers of verified reads are checked here with
//! `ledger-proof` and never just believed. Must never print, and never read the environment.
//!
//! # Which calls verify
//!
//! A call verifies if its name or its answer says so. These check what they return against the signatures of a
//! majority and against the checkpoint remembered of the log:
//!
//! - [`Client::verified_get`], [`Client::verified_list`], [`Client::whole_verified_list`]
//! - [`Client::receipt`], [`Client::key_history`], [`Client::extend_checkpoint`], [`Client::compare_checkpoints`]
//! - [`audit`], which replays a vault and compares its replicas
//!
//! All others believe the node that answers: [`Client::read`], [`Client::batch_read`], [`Client::list_entities`],
//! [`Client::list_relationships`], [`Client::list_resources`], [`Client::tip`], [`Client::block`], [`Client::blocks`],
//! [`Client::export`], watches, status, and what a write says of itself until its receipt was asked for. They cost
//! less, and one dishonest node is enough to make them false.
//!
//! Start from [`ClientConfig::verifying`]: it names whom to trust and where to remember.

mod admin;
mod attempt;
pub mod audit;
mod call;
mod checkpoint_store;
mod checkpoints;
mod client;
mod config;
mod error;
mod export;
mod import;
pub mod item_lines;
mod key_history;
mod leaders;
mod list;
mod maintenance;
pub mod method;
mod nodes;
mod pipeline;
mod proving;
mod read;
mod reason;
mod receipts;
mod reopened;
mod retry;
mod saved_proof;
mod snapshot_file;
mod trust;
mod verification;
mod verified;
mod verified_list;
mod watch;
mod watch_changes;
mod write;
mod writes_under_way;

pub use admin::{Namespace, Vault};
pub use attempt::Effect;
pub use call::CallKind;
pub use checkpoints::CheckedCheckpoint;
pub use client::Client;
pub use config::{ClientConfig, TrustSource};
pub use error::{ClientError, RejectionCode, ServerError, WriteRejection};
pub use export::{Export, ExportChunk, ExportOptions};
pub use import::{Import, ImportChunk, NewEntity};
pub use key_history::{HistoryEnd, KeyHistory, KeyVersion};
pub use leaders::Route;
pub use ledger_proto::convert::Consistency;
pub use ledger_proto::convert::lists::ListOf;
pub use ledger_proto::convert::reads::RelationshipFilter;
pub use list::{
    Entity, EntityPages, ListOptions, Page, Relationship, RelationshipPages, ResourcePages,
};
pub use maintenance::{RemoveIn, Removed, VaultSnapshot};
pub use pipeline::{PendingWrite, PipelineOptions, WritePipeline};
pub use read::{BatchReadAnswer, Block, ReadAnswer, Tip};
pub use reason::Reason;
pub use receipts::CheckedReceipt;
pub use retry::RetryPolicy;
pub use saved_proof::{CheckedItems, CheckedProof, CheckedTransaction, CheckedValues, SavedProof};
pub use snapshot_file::{Measure, Measured, SnapshotFault, SnapshotManifest};
pub use trust::{PINNED_BUNDLE_FILE, read_bundle, write_bundle};
pub use verification::{Proved, VerificationError};
pub use verified::{VerifiedGet, VerifiedOptions};
pub use verified_list::{CheckedList, VerifiedPages};
pub use watch::{BlockNotice, BlockWatch};
pub use watch_changes::{ChangeNotice, ChangeOptions, ChangeWatch};
pub use write::{WriteReceipt, write_receipt};
