//! The arguments: every command, every option, their defaults and environment twins.
//!
//! Declares; must never act.

pub(crate) mod bulk;
mod maintenance;
mod workload;

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand};
use ledger_client::Relationship;
use ledger_types::TxId;

use crate::names;
use crate::output::Format;

pub(crate) use maintenance::{RemoveExpiredOptions, VaultSnapshotOptions};
pub(crate) use workload::{Work, WorkloadCommand, WorkloadOptions};

const EXIT_CODES: &str = "\
Exit codes: 0 it worked, 1 it failed or could not ask, 2 something was checked and is not believed, \
3 and 4 as audit says, 64 the arguments make no sense.";

/// Talks to a Ledger cluster: writes, reads whose answers are proved, watches, measures.
#[derive(Parser, Debug)]
#[command(name = "ledger-cli", version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of all commands.
#[derive(Args, Debug)]
pub(crate) struct Global {
    /// Nodes to begin with, host:port, separated by commas; others are learnt from them.
    #[arg(
        long = "addresses",
        visible_alias = "endpoints",
        short = 'a',
        env = "LEDGER_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:50051",
        global = true
    )]
    pub(crate) addresses: Vec<String>,

    /// Form of the answer. Default: table; json for workload.
    #[arg(long, short = 'o', env = "LEDGER_OUTPUT", value_enum, global = true)]
    pub(crate) output: Option<Format>,

    /// Longest time for a call, retries included.
    #[arg(
        long,
        env = "LEDGER_DEADLINE",
        default_value = "10s",
        value_parser = names::duration,
        global = true
    )]
    pub(crate) deadline: Duration,

    /// Trust file that says whose signatures count.
    #[arg(long, env = "LEDGER_TRUST", value_name = "FILE", global = true)]
    pub(crate) trust: Option<PathBuf>,

    /// Believe and pin what the cluster says about its signers the first time.
    #[arg(
        long,
        env = "LEDGER_TRUST_ON_FIRST_USE",
        value_parser = FalseyValueParser::new(),
        global = true
    )]
    pub(crate) trust_on_first_use: bool,

    /// Directory for checkpoints and pinned trust [default: ledger in the user's state directory].
    #[arg(long, env = "LEDGER_STATE_DIR", value_name = "DIR", global = true)]
    pub(crate) state_dir: Option<PathBuf>,

    /// Name under which the cluster counts this client's writes [default: drawn at random].
    #[arg(long, env = "LEDGER_CLIENT_ID", global = true)]
    pub(crate) client_id: Option<String>,
}

impl Global {
    /// The form of the answer of commands for people.
    pub(crate) fn format(&self) -> Format {
        self.output.unwrap_or_default()
    }
}

/// What to do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Set an entity, or create relationships.
    Put(PutOptions),
    /// Delete an entity or relationships.
    Delete(DeleteOptions),
    /// Read, checking the proof that comes with the answer.
    Get(GetOptions),
    /// List entities, relationships or resources, checking the proof that none is missing.
    #[command(subcommand)]
    List(ListCommand),
    /// Bring a file of entities and relationships into a vault. Begun again after a stop, it goes on.
    Import(bulk::ImportOptions),
    /// Write everything that a vault holds at one height to a file. Begun again after a stop, it goes on.
    Export(bulk::ExportOptions),
    /// Show the versions of an entity or a relationship, each with its proof checked.
    History(HistoryOptions),
    /// Show a transaction of a block, checking the proof that it is in there.
    Receipt(ReceiptOptions),
    /// Check that a vault's log only grew since it was last looked at, and show its newest checkpoint.
    Checkpoint(CheckpointOptions),
    /// Show every block of a vault from a height on, or what it changes, then each new one.
    Watch(WatchOptions),
    /// Check a saved proof without any network.
    Verify(VerifyOptions),
    /// Replay a vault from its first block and compare it with its signatures and all its replicas.
    ///
    /// Exit codes: 0 verified, 2 something contradicts what is signed, 3 not to be had, 4 the chain holds but
    /// something could not be looked at.
    Audit(AuditOptions),
    /// Whose signatures count.
    #[command(subcommand)]
    Trust(TrustCommand),
    /// Nodes and groups.
    Status(StatusOptions),
    /// The cluster as the directory lists it.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Namespaces.
    #[command(subcommand)]
    Namespace(NamespaceCommand),
    /// Vaults.
    #[command(subcommand)]
    Vault(VaultCommand),
    /// Remove what has expired now, without waiting for its turn.
    #[command(visible_alias = "gc")]
    RemoveExpired(RemoveExpiredOptions),
    /// Load.
    #[command(subcommand)]
    Workload(WorkloadCommand),
}

/// The vault that a command is about.
#[derive(Args, Debug)]
pub(crate) struct VaultChoice {
    /// The namespace, by number or name.
    #[arg(long, short = 'n', env = "LEDGER_NAMESPACE")]
    pub(crate) namespace: String,
    /// The vault; 0 holds the namespace's own entities.
    #[arg(long, short = 'v', env = "LEDGER_VAULT", default_value_t = 0)]
    pub(crate) vault: u64,
}

/// A relationship given in parts, for resources that hold `#`.
#[derive(Args, Debug)]
pub(crate) struct RelationshipParts {
    /// Resource of one relationship given in parts.
    #[arg(long, requires = "relation", requires = "subject")]
    pub(crate) resource: Option<String>,
    /// Its relation.
    #[arg(long, requires = "resource")]
    pub(crate) relation: Option<String>,
    /// Its subject.
    #[arg(long, requires = "resource")]
    pub(crate) subject: Option<String>,
}

impl RelationshipParts {
    /// The relationship, if one was given in parts.
    pub(crate) fn relationship(&self) -> Option<Relationship> {
        Some(Relationship {
            resource: self.resource.clone()?,
            relation: self.relation.clone()?,
            subject: self.subject.clone()?,
        })
    }
}

#[derive(Args, Debug)]
pub(crate) struct PutOptions {
    #[command(flatten)]
    pub(crate) vault: VaultChoice,
    /// Relationships to create, resource#relation@subject; all in one transaction.
    #[arg(value_parser = names::relationship, conflicts_with = "key")]
    pub(crate) relationships: Vec<Relationship>,
    #[command(flatten)]
    pub(crate) parts: RelationshipParts,
    /// Entity to set.
    #[arg(long, short = 'k')]
    pub(crate) key: Option<String>,
    /// Its value as text.
    #[arg(long, requires = "key", conflicts_with_all = ["value_hex", "value_file"])]
    pub(crate) value: Option<String>,
    /// Its value as hexadecimal digits.
    #[arg(long, requires = "key", conflicts_with = "value_file")]
    pub(crate) value_hex: Option<String>,
    /// File that holds its value.
    #[arg(long, requires = "key", value_name = "FILE")]
    pub(crate) value_file: Option<PathBuf>,
    /// The entity counts as absent after this time.
    #[arg(long, requires = "key", value_parser = names::duration, conflicts_with = "expires_at")]
    pub(crate) ttl: Option<Duration>,
    /// The entity counts as absent from this time on, Unix seconds.
    #[arg(long, requires = "key")]
    pub(crate) expires_at: Option<u64>,
    #[command(flatten)]
    pub(crate) condition: ConditionOptions,
}

#[derive(Args, Debug)]
#[group(multiple = false)]
pub(crate) struct ConditionOptions {
    /// Only if the entity is absent.
    #[arg(long, requires = "key")]
    pub(crate) if_absent: bool,
    /// Only if the entity is present.
    #[arg(long, requires = "key")]
    pub(crate) if_present: bool,
    /// Only if the block of this height changed the entity last.
    #[arg(long, requires = "key", value_name = "HEIGHT")]
    pub(crate) if_version: Option<u64>,
    /// Only if the entity has this value.
    #[arg(long, requires = "key", value_name = "TEXT")]
    pub(crate) if_value: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct DeleteOptions {
    #[command(flatten)]
    pub(crate) vault: VaultChoice,
    /// Relationships to delete, resource#relation@subject.
    #[arg(value_parser = names::relationship)]
    pub(crate) relationships: Vec<Relationship>,
    #[command(flatten)]
    pub(crate) parts: RelationshipParts,
    /// Entities to delete.
    #[arg(long = "key", short = 'k')]
    pub(crate) keys: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct GetOptions {
    #[command(flatten)]
    pub(crate) vault: VaultChoice,
    /// Relationships to look for, resource#relation@subject.
    #[arg(value_parser = names::relationship)]
    pub(crate) relationships: Vec<Relationship>,
    #[command(flatten)]
    pub(crate) parts: RelationshipParts,
    /// Entities to read.
    #[arg(long = "key", short = 'k')]
    pub(crate) keys: Vec<String>,
    /// Show every write acknowledged before now.
    #[arg(long)]
    pub(crate) linearizable: bool,
    /// Believe the node that answers.
    #[arg(long, conflicts_with_all = ["save_proof", "min_height"])]
    pub(crate) unverified: bool,
    /// Answer at this height or a later one.
    #[arg(long, value_name = "HEIGHT")]
    pub(crate) min_height: Option<u64>,
    /// Answer at exactly this height.
    #[arg(long, value_name = "HEIGHT", conflicts_with_all = ["min_height", "unverified"])]
    pub(crate) at_height: Option<u64>,
    /// Keep the proof in a file that `verify` reads.
    #[arg(long, value_name = "FILE")]
    pub(crate) save_proof: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum ListCommand {
    /// Entities by key prefix.
    Entities(ListEntitiesOptions),
    /// Relationships by resource, relation or subject.
    Relationships(ListRelationshipsOptions),
    /// Resources of a type that have a relationship, each once.
    Resources(ListResourcesOptions),
}

#[derive(Args, Debug)]
pub(crate) struct HistoryOptions {
    #[command(flatten)]
    pub(crate) vault: VaultChoice,
    /// Relationship, resource#relation@subject.
    #[arg(value_parser = names::relationship, conflicts_with_all = ["key", "resource"])]
    pub(crate) relationship: Option<Relationship>,
    #[command(flatten)]
    pub(crate) parts: RelationshipParts,
    /// Entity.
    #[arg(long, short = 'k', conflicts_with = "resource")]
    pub(crate) key: Option<String>,
    /// Most versions shown, the newest first.
    #[arg(long, default_value_t = 100)]
    pub(crate) limit: usize,
    /// Height to begin at; the newest without one.
    #[arg(long, value_name = "HEIGHT")]
    pub(crate) at_height: Option<u64>,
    /// Show every write acknowledged before now.
    #[arg(long, conflicts_with = "at_height")]
    pub(crate) linearizable: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ReceiptOptions {
    #[command(flatten)]
    pub(crate) vault: VaultChoice,
    /// Block that holds the transaction, as `put` shows it.
    #[arg(long)]
    pub(crate) height: u64,
    /// Transaction, 32 hexadecimal digits.
    #[arg(long, required_unless_present = "index", value_parser = names::transaction)]
    pub(crate) tx: Option<TxId>,
    /// Transaction by its index in the block, from 0.
    #[arg(long, conflicts_with = "tx")]
    pub(crate) index: Option<u32>,
    /// Keep the receipt in a file that `verify` reads.
    #[arg(long, value_name = "FILE")]
    pub(crate) save_proof: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct CheckpointOptions {
    #[command(flatten)]
    pub(crate) vault: VaultChoice,
    /// Keep the signed note in a file, for witnesses and other clients.
    #[arg(long, value_name = "FILE")]
    pub(crate) save_note: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct ListEntitiesOptions {
    #[command(flatten)]
    pub(crate) vault: VaultChoice,
    /// What the keys begin with.
    #[arg(long, default_value = "")]
    pub(crate) prefix: String,
    #[command(flatten)]
    pub(crate) common: ListScope,
}

#[derive(Args, Debug)]
pub(crate) struct ListRelationshipsOptions {
    #[command(flatten)]
    pub(crate) vault: VaultChoice,
    /// Only this resource.
    #[arg(long)]
    pub(crate) resource: Option<String>,
    /// Only this relation.
    #[arg(long)]
    pub(crate) relation: Option<String>,
    /// Only this subject.
    #[arg(long)]
    pub(crate) subject: Option<String>,
    /// Only resources with this before their first colon.
    #[arg(long, conflicts_with_all = ["resource", "relation", "subject", "unverified"])]
    pub(crate) resource_type: Option<String>,
    #[command(flatten)]
    pub(crate) common: ListScope,
}

#[derive(Args, Debug)]
pub(crate) struct ListResourcesOptions {
    #[command(flatten)]
    pub(crate) vault: VaultChoice,
    /// What stands before the first colon of the resources.
    pub(crate) resource_type: String,
    #[command(flatten)]
    pub(crate) page: ListPages,
}

#[derive(Args, Debug)]
pub(crate) struct ListPages {
    /// Most items shown; 0 means all.
    #[arg(long, default_value_t = 0)]
    pub(crate) limit: usize,
    /// Height to read at; the newest without one.
    #[arg(long, value_name = "HEIGHT")]
    pub(crate) at_height: Option<u64>,
    /// Show every write acknowledged before now.
    #[arg(long)]
    pub(crate) linearizable: bool,
    /// Believe the node that answers, instead of checking that every item is there and none is missing.
    #[arg(long)]
    pub(crate) unverified: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ListScope {
    #[command(flatten)]
    pub(crate) page: ListPages,
    /// Keep the proof of the whole list in a file that `verify` reads.
    #[arg(long, value_name = "FILE", conflicts_with = "unverified")]
    pub(crate) save_proof: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct WatchOptions {
    #[command(flatten)]
    pub(crate) vault: VaultChoice,
    /// First block shown; the next new one without it.
    #[arg(long, value_name = "HEIGHT")]
    pub(crate) from: Option<u64>,
    /// Leave after this many blocks, or changed keys with --changes.
    #[arg(long)]
    pub(crate) count: Option<u64>,
    /// Show the keys that blocks change instead of the blocks.
    #[arg(long)]
    pub(crate) changes: bool,
    /// With --changes: only entities whose keys begin with this.
    #[arg(long, value_name = "TEXT", requires = "changes")]
    pub(crate) prefix: Option<String>,
    /// With --changes: only relationships to this resource.
    #[arg(long, requires = "changes")]
    pub(crate) resource: Option<String>,
    /// With --changes: only relationships of this subject.
    #[arg(long, requires = "changes")]
    pub(crate) subject: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct VerifyOptions {
    /// Proof file, as `get`, `list` or `receipt` with --save-proof wrote it.
    pub(crate) file: PathBuf,
    /// Also require a signature time this near to now; by default the time of signing is shown, not judged.
    #[arg(long)]
    pub(crate) fresh: bool,
}

#[derive(Args, Debug)]
pub(crate) struct AuditOptions {
    #[command(flatten)]
    pub(crate) vault: VaultChoice,
    /// Also compare the entities and relationships that each replica holds with the replayed state.
    #[arg(long)]
    pub(crate) values: bool,
    /// Of replicas other than the one replayed from, look at the newest common block only.
    #[arg(long)]
    pub(crate) quick: bool,
    /// File for the report, as JSON; it is replaced.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Go on with every new block until a signal ends it; one line of JSON for each event.
    #[arg(long)]
    pub(crate) follow: bool,
    /// Time between comparisons with a fresh checkpoint and all replicas.
    #[arg(long, default_value = "30s", value_parser = names::duration, requires = "follow")]
    pub(crate) interval: Duration,
}

#[derive(Subcommand, Debug)]
pub(crate) enum TrustCommand {
    /// Write what the cluster says about its signers to a file, to be handed to verifiers.
    Export(TrustExportOptions),
    /// Show a trust file.
    Show(TrustShowOptions),
}

#[derive(Args, Debug)]
pub(crate) struct TrustExportOptions {
    /// The file; it is replaced.
    pub(crate) file: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct TrustShowOptions {
    /// The file.
    pub(crate) file: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct StatusOptions {
    /// Also every group of every node, and what leaders know of their followers.
    #[arg(long)]
    pub(crate) groups: bool,
}

#[derive(Subcommand, Debug)]
pub(crate) enum ClusterCommand {
    /// Show its members.
    Info,
}

#[derive(Subcommand, Debug)]
pub(crate) enum NamespaceCommand {
    /// Make a namespace.
    Create {
        /// Its name, unique in the cluster.
        name: String,
    },
    /// List all namespaces.
    List {
        /// Deleted ones too.
        #[arg(long)]
        deleted: bool,
    },
    /// Delete a namespace whose vaults are deleted. Its number is never used again; its name is free.
    Delete {
        /// Its number or name.
        namespace: String,
    },
    /// Show one.
    Get {
        /// Its number or name.
        namespace: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct VaultCheckOptions {
    #[command(flatten)]
    pub(crate) vault: VaultChoice,
    /// Look at all transactions, and carry all blocks out again.
    #[arg(long)]
    pub(crate) full: bool,
}

#[derive(Subcommand, Debug)]
pub(crate) enum VaultCommand {
    /// Make vaults in a namespace.
    Create {
        /// The namespace, by number or name.
        #[arg(long, short = 'n', env = "LEDGER_NAMESPACE")]
        namespace: String,
        /// How many.
        #[arg(long, default_value_t = 1)]
        count: usize,
        /// Keep only this many of their newest blocks readable; all without it. It cannot be changed later.
        #[arg(long, value_name = "BLOCKS")]
        retain: Option<NonZeroU64>,
    },
    /// List all vaults, or those of a namespace.
    List {
        /// The namespace, by number or name.
        #[arg(long, short = 'n', env = "LEDGER_NAMESPACE")]
        namespace: Option<String>,
        /// Deleted ones too.
        #[arg(long)]
        deleted: bool,
    },
    /// Have every node compare what it stores of a vault with itself.
    CheckIntegrity(VaultCheckOptions),
    /// Have a node write what a vault holds now to a file on its disk, which `import` reads.
    Snapshot(VaultSnapshotOptions),
    /// Delete one. Its number is never used again.
    Delete {
        /// The namespace, by number or name.
        #[arg(long, short = 'n', env = "LEDGER_NAMESPACE")]
        namespace: String,
        /// The vault. It has to be named: the environment's is not taken.
        #[arg(long, short = 'v')]
        vault: u64,
    },
    /// Show one.
    Get(VaultChoice),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn declarations_hold_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_interval_is_for_those_who_follow() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert!(parse("ledger-cli audit -n 1 -v 2 --follow --interval 5s").is_ok());
        assert!(parse("ledger-cli audit -n 1 -v 2 --interval 5s").is_err());
        assert!(parse("ledger-cli audit -n 1 -v 2 --values --report audit.json").is_ok());
    }

    #[test]
    fn where_to_remove_is_said_and_said_once() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        for good in ["--all", "-n 1", "-n acme -v 0"] {
            assert!(parse(&format!("ledger-cli remove-expired {good}")).is_ok(), "{good}");
        }
        for bad in ["-o json", "-v 1", "--all -n 1", "--all -v 1"] {
            assert!(parse(&format!("ledger-cli remove-expired {bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_relationship_may_hold_a_number_sign_when_given_in_parts() {
        let line =
            "ledger-cli get -n 1 -v 2 --resource file:/a#b --relation owner --subject user:x";
        let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
        let Command::Get(options) = arguments.command else { panic!("not get") };
        assert_eq!(options.parts.relationship().unwrap().resource, "file:/a#b");
        let line = "ledger-cli get -n 1 --resource file:/a#b";
        assert!(Arguments::try_parse_from(line.split(' ')).is_err());
    }
}
