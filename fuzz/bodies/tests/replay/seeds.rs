//! The seeds of the corpora: golden vectors of the formats, and what the encoders write.
//!
//! Files of a corpus that are not seeds were found by the fuzzer; they are kept as they are.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ledger_fuzz_bodies::{recorded_messages, sample_bundle, sealed_page_token};
use ledger_proof::genesis::{Founder, GenesisPromise};
use ledger_proof::{
    BlockHeader, Checkpoint, KnownCheckpoint, Origin, PageWrite, ReadFault, SignedNote,
    SignedRecord, StateTree, Threshold, Transaction, TreeStore, Writer,
};
use ledger_proto::convert::block;
use ledger_proto::{internal, v1};
use ledger_shard_core::command::create_vault::CreateVaultCommand;
use ledger_shard_core::command::delete_vault::DeleteVaultCommand;
use ledger_shard_core::command::purge_vault::PurgeVaultCommand;
use ledger_shard_core::command::record_checkpoint::RecordCheckpointCommand;
use ledger_shard_core::command::system::{
    CreateNamespace, CreateShards, CreateVault, FinishReplacement, Found, RegisterNode,
    ReplaceReplica, Retention, StoreBundleLink, SystemCommand, VaultActive,
};
use ledger_shard_core::effects::Replica;
use ledger_shard_core::entry::{Command, CommandKind, EntryBuilder};
use ledger_shard_core::records::record_header;
use ledger_shard_core::rows::{GroupRow, group_row_key, raft_entry_key, vault_row_key};
use ledger_shard_core::snapshot::{SnapshotFile, SnapshotId, SnapshotManifest};
use ledger_shard_core::view::Family;
use ledger_types::{
    ClusterId, Digest, GroupId, Incarnation, NamespaceId, NodeId, OwnerEpoch, StateKey, StoreId,
    VaultRef,
};
use prost::Message;
use serde_json::Value;

/// A seed and where it belongs.
pub(crate) struct Seed {
    pub(crate) target: &'static str,
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// Most seeds from one file of vectors; the first ones are the good ones and their nearest relatives.
const VECTORS_MAX: usize = 12;

/// All seeds, in an order that does not change.
pub(crate) fn all() -> Vec<Seed> {
    let mut seeds = Seeds::default();
    seeds.proofs();
    seeds.checkpoints();
    seeds.log();
    seeds.rows();
    seeds.wire();
    seeds.genesis();
    seeds.others();
    seeds.all
}

/// Writes all seeds below `corpus`, in place of the old ones.
pub(crate) fn write(corpus: &Path) {
    for directory in fs::read_dir(corpus).expect("the corpora have a directory") {
        let files =
            fs::read_dir(directory.expect("listed").path()).expect("a corpus is a directory");
        for file in files.map(|file| file.expect("listed").path()) {
            if file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seed-")) {
                fs::remove_file(&file).expect("an old seed can be removed");
            }
        }
    }
    for seed in all() {
        let directory = corpus.join(seed.target);
        fs::create_dir_all(&directory).expect("a directory can be made");
        fs::write(directory.join(seed.name), seed.bytes).expect("a file can be written");
    }
}

#[derive(Default)]
struct Seeds {
    all: Vec<Seed>,
}

fn vectors(text: &str) -> Vec<Value> {
    serde_json::from_str(text).expect("vectors are JSON")
}

/// Bytes that a vector gives in hex.
fn bytes_of(vector: &Value, field: &str) -> Vec<u8> {
    hex::decode(vector[field].as_str().expect("hex text")).expect("hex digits")
}

/// A file name from a vector's name.
fn file_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    name.chars().map(plain).collect()
}

/// `kind ‖ bytes`, for targets whose first byte chooses.
fn kind(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind], bytes].concat()
}

impl Seeds {
    fn push(&mut self, target: &'static str, name: &str, bytes: Vec<u8>) {
        let name = format!("seed-{}", file_name(name));
        self.all.push(Seed { target, name, bytes });
    }

    /// The first vectors of a file, of each expectation some.
    fn push_vectors(&mut self, target: &'static str, text: &str, field: &str) {
        let (good, bad): (Vec<Value>, Vec<Value>) =
            vectors(text).into_iter().partition(|vector| vector["expect"] != "refused");
        let mut names = BTreeMap::<String, u32>::new();
        for vector in good.iter().chain(&bad).take(VECTORS_MAX) {
            let name = vector["name"].as_str().expect("vectors have names");
            let bytes = bytes_of(vector, field);
            if self.all.iter().any(|seed| seed.target == target && seed.bytes == bytes) {
                continue;
            }
            let count = names.entry(file_name(name)).or_default();
            *count += 1;
            self.push(target, &format!("{name} {count}"), bytes);
        }
    }

    fn proofs(&mut self) {
        self.push_vectors(
            "block_header",
            include_str!("../../../../proof/vectors/header.json"),
            "hex",
        );
        self.push_vectors(
            "key_proof",
            include_str!("../../../../proof/vectors/key_proof.json"),
            "proof",
        );
        self.lists();
        self.push_vectors(
            "receipt",
            include_str!("../../../../proof/vectors/receipt.json"),
            "answer",
        );
        let lists = include_str!("../../../../proof/vectors/verified_list.json");
        self.push_vectors("verified_list", lists, "answer");
        let later = &vectors(lists)[0]["later"];
        for (number, page) in later.as_array().expect("pages").iter().enumerate() {
            let page = hex::decode(page.as_str().expect("hex text")).expect("hex digits");
            self.push("verified_list", &format!("page {}", number + 1), page);
        }
        let reads = include_str!("../../../../proof/vectors/verified_read.json");
        self.push_vectors("verified_read", reads, "answer");
        self.push_vectors(
            "transaction",
            include_str!("../../../../proof/vectors/transaction.json"),
            "hex",
        );
        let bundles = include_str!("../../../../proof/vectors/trust_bundle.json");
        self.push_vectors("trust_bundle", bundles, "hex");
        self.push("trust_bundle", "sample", sample_bundle().encode());
        for vector in vectors(include_str!("../../../../proof/vectors/bundle_link.json")) {
            let name = format!("link {}", vector["name"].as_str().expect("vectors have names"));
            self.push("verified_read", &name, bytes_of(&vector, "link"));
        }
        self.saved_proof(&vectors(reads)[0]);
        self.entities();
        self.tree_page();
    }

    /// First answers of lists with the root and prefix that they are about, and some damaged ones.
    fn lists(&mut self) {
        let all = vectors(include_str!("../../../../proof/vectors/list_proof.json"));
        let (good, bad): (Vec<&Value>, Vec<&Value>) =
            all.iter().partition(|vector| vector["expect"] != "refused");
        let good = good.into_iter().filter(|vector| vector["time"] != 1_900_000_000u64);
        let some = bad.into_iter().filter(|vector| vector["pages"][0].is_string()).step_by(4);
        for vector in good.chain(some) {
            let prefix = bytes_of(vector, "prefix");
            let mut bytes = bytes_of(vector, "state_root");
            bytes.push(u8::try_from(prefix.len()).expect("prefixes of vectors are short"));
            bytes.extend(prefix);
            let page = vector["pages"][0].as_str().expect("hex text");
            bytes.extend(hex::decode(page).expect("hex digits"));
            if self.all.iter().all(|seed| seed.bytes != bytes) {
                let name = vector["name"].as_str().expect("vectors have names");
                self.push("list_proof", name, bytes);
            }
        }
    }

    /// A saved proof of the form of a directory read, and one with all four steps.
    fn saved_proof(&mut self, vector: &Value) {
        let read = bytes_of(vector, "answer");
        for steps in [1u8, 4] {
            let mut bytes = Vec::new();
            let mut writer = Writer::new(&mut bytes);
            writer.raw(b"saved-proof/v1\0\0");
            writer.u8(steps);
            for step in 1..=steps {
                let vault = if step == 4 { VaultRef::new(7, 9) } else { VaultRef::SYSTEM };
                writer.raw(&vault.to_bytes());
                writer.u16(1);
                writer.bytes_u16(StateKey::entity("config").as_bytes());
                writer.bytes_u32(&read);
            }
            self.push("saved_proof", &format!("{steps} steps"), bytes);
        }
    }

    fn entities(&mut self) {
        let kinds = [
            "cluster",
            "namespace/",
            "namespace-name/",
            "node/",
            "sequence/",
            "shard/",
            "tombstone/",
            "vault/",
        ];
        for vector in vectors(include_str!("../../../../proof/vectors/system_entity.json")) {
            let key = vector["key"].as_str().expect("a key");
            let number = kinds.iter().position(|start| key.starts_with(start));
            let number = number.expect("every kind has its number") as u8;
            if vector["expect"] != "refused" {
                let name = vector["name"].as_str().expect("vectors have names");
                self.push("system_entity", name, kind(number, &bytes_of(&vector, "hex")));
            }
        }
    }

    fn tree_page(&mut self) {
        for keys in [17u8, 60] {
            let changes: Vec<(Vec<u8>, Option<Digest>)> =
                (0..keys).map(|n| (vec![1, n.reverse_bits(), n], Some(Digest([n; 32])))).collect();
            let mut tree = StateTree::empty();
            tree.apply(&changes, &NoRows).expect("nothing is read");
            let mut pages = Vec::new();
            let anchor = tree.flush(5, |write| pages.push(write)).encode();
            let root = pages.into_iter().find_map(|write| match write {
                PageWrite::Put { bytes, .. } => Some(bytes),
                PageWrite::Retire { .. } => None,
            });
            let mut bytes = kind(anchor.len() as u8, &anchor);
            bytes.extend(root.expect("so many keys take a page"));
            self.push("tree_page", &format!("{keys} keys"), bytes);
        }
    }

    fn checkpoints(&mut self) {
        let origin = || Origin {
            domain: "test.ledger".to_owned(),
            vault: VaultRef::new(7, 9),
            log_epoch: 3,
        };
        let checkpoint = Checkpoint { origin: origin(), size: 11, root: Digest([7; 32]) };
        self.push("checkpoint", "plain", checkpoint.text().into_bytes());
        self.push("checkpoint", "origin", origin().to_string().into_bytes());
        for vector in vectors(include_str!("../../../../proof/vectors/note.json")) {
            let name = vector["name"].as_str().expect("vectors have names");
            let note = vector["note"].as_str().expect("a note").as_bytes().to_vec();
            if let Ok(signed) = SignedNote::parse(&note) {
                let text = signed.text.clone().into_bytes();
                if self.all.iter().all(|seed| seed.bytes != text) {
                    self.push("checkpoint", name, text);
                }
            }
            self.push("signed_note", name, note);
        }
        let unsigned = SignedNote::new(&checkpoint, Vec::new()).encode();
        let Checkpoint { origin, size, root } = checkpoint.clone();
        let known = KnownCheckpoint { origin, size, root, note: unsigned };
        self.push("checkpoint_rows", "known", kind(0, &known.encode()));
        self.push("checkpoint_rows", "signed", kind(1, &SignedRecord::of(&checkpoint).encode()));
    }

    fn log(&mut self) {
        let stored: Value =
            serde_json::from_str(include_str!("../../../../shard/core/vectors/commands.json"))
                .expect("vectors are JSON");
        for name in ["entry", "entry_empty"] {
            self.push("log_entry", name, bytes_of(&stored, name));
        }
        let bodies = ["write", "write_idempotency_key", "write_sequence"];
        let mut commands: Vec<(&str, CommandKind, Vec<u8>)> = bodies
            .iter()
            .map(|name| (*name, CommandKind::Write, bytes_of(&stored, name)))
            .collect();
        commands.push((
            "create vault",
            CommandKind::CreateVault,
            CreateVaultCommand::default().encode(),
        ));
        let retaining = CreateVaultCommand { retention_blocks: 1_000 };
        commands.push(("create vault retaining", CommandKind::CreateVault, retaining.encode()));
        commands.push(("delete vault", CommandKind::DeleteVault, DeleteVaultCommand.encode()));
        commands.push(("purge vault", CommandKind::PurgeVault, PurgeVaultCommand.encode()));
        let notes = vectors(include_str!("../../../../proof/vectors/note.json"));
        let note = notes[0]["note"].as_str().expect("a note").as_bytes().to_vec();
        let record = RecordCheckpointCommand { note }.encode();
        commands.push(("record checkpoint", CommandKind::RecordCheckpoint, record));
        for (name, command) in directory_commands() {
            let body = command.encode().expect("a legal command");
            commands.push((name, CommandKind::System, body));
        }
        for (name, kind, body) in commands {
            let (vault, owner_epoch) = (VaultRef::new(1, 2), OwnerEpoch(3));
            let command = Command { kind: kind as u8, vault, owner_epoch, body: &body }.encode();
            let mut builder = EntryBuilder::new(Incarnation(7), 1_900_000_000_000_000_000);
            builder.push(&command);
            self.push("log_entry", name, builder.finish());
        }
    }

    fn rows(&mut self) {
        let stored: Value =
            serde_json::from_str(include_str!("../../../../shard/core/vectors/rows.json"))
                .expect("vectors are JSON");
        let kinds = [
            "client_row",
            "session_row",
            "group_row",
            "vault_row",
            "owned_row",
            "raft_local",
            "raft_hard_state",
            "raft_entry",
            "block_body",
        ];
        for (number, name) in (0u8..).zip(kinds) {
            self.push("rows", name, kind(number, &bytes_of(&stored, name)));
        }
        self.push("rows", "purged vault", kind(3, &bytes_of(&stored, "vault_row_purged")));
        let record = vectors(include_str!("../../../../proof/vectors/record.json"));
        self.push("rows", "record", kind(9, &bytes_of(&record[0], "hex")));
        let descriptor = vectors(include_str!("../../../../proof/vectors/descriptor.json"));
        self.push("rows", "descriptor", kind(10, &bytes_of(&descriptor[0], "hex")));
        let group = GroupId(0x0102);
        self.push("rows", "group key", kind(11, &group_row_key(group)));
        self.push("rows", "vault key", kind(11, &vault_row_key(VaultRef::new(3, 4))));
        self.push("rows", "entry key", kind(11, &raft_entry_key(group, 5)));
        self.push("rows", "history key", kind(11, &bytes_of(&stored, "history_key")));
        for (name, key) in [
            ("entity", StateKey::entity("config")),
            ("relationship", StateKey::by_resource("doc:1", "viewer", "user:a")),
        ] {
            self.push("state_key", name, key.as_bytes().to_vec());
        }
        self.manifest(GroupRow::decode(&bytes_of(&stored, "group_row")).expect("a stored row"));
    }

    fn manifest(&mut self, row: GroupRow) {
        let file =
            |family, byte| SnapshotFile { family, rows: 4, bytes: 321, digest: Digest([byte; 32]) };
        for (name, files) in [
            ("no files", vec![]),
            ("two files", vec![file(Family::Vaults, 1), file(Family::Latest, 2)]),
        ] {
            let manifest = SnapshotManifest {
                id: SnapshotId([7; 16]),
                cluster: ClusterId([8; 16]),
                group: GroupId(3),
                sender: Replica { incarnation: Incarnation(1), node: NodeId(11) },
                row: row.clone(),
                files,
            };
            self.push("snapshot_manifest", name, manifest.encode());
        }
        let record = |key: &[u8], value: &[u8]| {
            [&record_header(key.len(), value.len())[..], key, value].concat()
        };
        let two = [record(b"key", b"value"), record(&[8; 300], &[])].concat();
        self.push("snapshot_records", "two records", two);
        self.push("snapshot_records", "one record", record(b"k", &[1; 20]));
    }

    fn genesis(&mut self) {
        let founder = |name: &str, number: u8| Founder {
            name: name.to_owned(),
            store: StoreId([number; 16]),
            public_key: [number; 32],
            address: format!("{name}.example:50051"),
            zone: if number == 1 { String::new() } else { format!("z{number}") },
        };
        for (name, founders) in [
            ("one founder", vec![founder("a", 1)]),
            ("three founders", vec![founder("a", 1), founder("b", 2), founder("c", 3)]),
        ] {
            let domain = "test.ledger".to_owned();
            let genesis = GenesisPromise::new(ClusterId([5; 16]), domain, 6, founders);
            self.push("genesis", name, genesis.expect("valid").encode());
        }
    }

    fn wire(&mut self) {
        let (cluster_id, store_id) = (vec![1; 16], vec![2; 16]);
        let identity = internal::PeerIdentity { cluster_id, store_id, ..Default::default() };
        let message = internal::GroupMessage {
            group: 3,
            from_incarnation: 1,
            to_incarnation: 2,
            payload: b"raft"[..].into(),
            log_floor: 4,
            is_catching_up: true,
        };
        let frame = internal::Frame {
            sender_store: vec![2; 16],
            sequence: 1,
            sent_at_ns: 5,
            round: 0,
            messages: vec![message.clone(), message],
            lane: 2,
            identity: Some(identity.clone()),
        };
        let hello = internal::HelloRequest { identity: Some(identity), lane: 1 };
        let fetch = internal::FetchRequest {
            cluster_id: vec![1; 16],
            node_id: 2,
            store_id: vec![3; 16],
            snapshot_id: vec![4; 16],
            file: 5,
            offset: 6,
        };
        let chunk =
            internal::Chunk { file: 1, offset: 2, data: b"piece"[..].into(), digest: vec![3; 32] };
        let entry = internal::DirectoryEntry {
            key: b"\x01node/2"[..].into(),
            value: b"value"[..].into(),
            deleted: false,
        };
        let delta = internal::DirectoryDelta {
            revision: 9,
            entries: vec![entry],
            full: true,
            complete: true,
        };
        let join = internal::JoinRequest {
            name: "n4".to_owned(),
            store_id: vec![4; 16],
            address: "10.0.0.4:50051".to_owned(),
            public_key: vec![5; 32],
            ..Default::default()
        };
        let propose = internal::ProposeRequest {
            cluster_id: vec![1; 16],
            group: 3,
            command: vec![1],
            store_id: vec![2; 16],
        };
        let reply = internal::FrameReply { sequence: 1, sent_at_ns: 5, ..Default::default() };
        for (number, name, bytes) in [
            (0, "frame", frame.encode_to_vec()),
            (1, "hello", hello.encode_to_vec()),
            (2, "fetch", fetch.encode_to_vec()),
            (3, "piece", chunk.encode_to_vec()),
            (4, "directory", delta.encode_to_vec()),
            (5, "reply", reply.encode_to_vec()),
            (6, "join", join.encode_to_vec()),
            (7, "propose", propose.encode_to_vec()),
        ] {
            self.push("peer_frames", name, kind(number, &bytes));
        }
        self.requests();
    }

    fn requests(&mut self) {
        let namespace_id = Some(v1::NamespaceId::from(NamespaceId(7)));
        let set =
            v1::SetEntity { key: "config".to_owned(), value: b"{}".to_vec(), ..Default::default() };
        let op = v1::operation::Op::SetEntity(set);
        let operations = vec![v1::Operation { op: Some(op) }];
        let write = v1::WriteRequest {
            namespace_id,
            client_id: Some(v1::ClientId { id: "client".to_owned() }),
            idempotency_key: vec![9; 16],
            operations: operations.clone(),
            ..Default::default()
        };
        let batch = v1::BatchWriteRequest {
            namespace_id,
            client_id: write.client_id.clone(),
            idempotency_key: vec![9; 16],
            operations: vec![v1::BatchWriteOperation { operations }],
            ..Default::default()
        };
        let read = v1::ReadRequest { namespace_id, key: "config".to_owned(), ..Default::default() };
        let list = v1::ListRelationshipsRequest {
            namespace_id,
            resource: Some("doc:1".to_owned()),
            ..Default::default()
        };
        let entity = v1::verified_key::Key::Entity("config".to_owned());
        let get = v1::VerifiedGetRequest {
            namespace_id,
            keys: vec![v1::VerifiedKey { key: Some(entity) }],
            ..Default::default()
        };
        let header = vectors(include_str!("../../../../proof/vectors/header.json"));
        let header = BlockHeader::decode(&bytes_of(&header[0], "hex")).expect("a stored header");
        let transaction = vectors(include_str!("../../../../proof/vectors/transaction.json"));
        let transaction = bytes_of(&transaction[0], "hex");
        Transaction::decode(&transaction).expect("a stored transaction");
        let transaction = block::wire_transaction(transaction).expect("a stored transaction");
        let path = block::wire_path(
            Digest([1; 32]),
            2,
            5,
            &[Digest([2; 32]), Digest([3; 32]), Digest([4; 32])],
        );
        for (number, name, bytes) in [
            (0, "write", write.encode_to_vec()),
            (1, "batch write", batch.encode_to_vec()),
            (2, "read", read.encode_to_vec()),
            (3, "list", list.encode_to_vec()),
            (4, "header", block::wire_header(&header, "n1").encode_to_vec()),
            (5, "transaction", transaction.encode_to_vec()),
            (6, "path", path.encode_to_vec()),
            (7, "verified get", get.encode_to_vec()),
        ] {
            self.push("client_requests", name, kind(number, &bytes));
        }
    }

    fn others(&mut self) {
        for (name, after) in [("start", &b""[..]), ("entity", b"\x01config")] {
            let (bytes, text) = sealed_page_token(after);
            self.push("page_token", &format!("{name} bytes"), bytes);
            self.push("page_token", &format!("{name} text"), text.into_bytes());
        }
        // One of each length and receiver, and the first few of them one after the other.
        let messages = recorded_messages();
        let mut shapes = BTreeMap::new();
        for message in &messages {
            shapes.entry((message.len(), message[0], message[1])).or_insert(message.clone());
        }
        for (number, message) in shapes.into_values().enumerate() {
            self.push("raft_messages", &format!("{number:02}"), message);
        }
        self.push("raft_messages", "several", messages[..8].concat());
    }
}

fn directory_commands() -> Vec<(&'static str, SystemCommand)> {
    let node = RegisterNode {
        name: "n-4".to_owned(),
        store_id: StoreId([4; 16]),
        public_key: [5; 32],
        address: "10.0.0.4:50051".to_owned(),
        zone: "east".to_owned(),
    };
    let namespace = CreateNamespace { name: "acme".to_owned(), shard: Some(GroupId(2)) };
    let vault =
        CreateVault { namespace: NamespaceId(6), vault: None, retention: Retention::KEEP_ALL };
    let active = VaultActive { vault: VaultRef::new(6, 7), owner_epoch: OwnerEpoch(1) };
    let (shard, old) = (GroupId(2), Incarnation(1003));
    let found = Found {
        cluster: ClusterId([8; 16]),
        founded_at_ns: 1_900_000_000_000_000_000,
        feature_level: 1,
        replication_factor: 1,
        data_shards: 8,
        threshold: Threshold::Majority,
        domain: "test.ledger".to_owned(),
        founders: vec![node.clone()],
    };
    vec![
        ("found", SystemCommand::Found(found)),
        ("register node", SystemCommand::RegisterNode(node)),
        (
            "create shards",
            SystemCommand::CreateShards(CreateShards { count: 8, replication_factor: 3 }),
        ),
        ("create namespace", SystemCommand::CreateNamespace(namespace)),
        ("create directory vault", SystemCommand::CreateVault(vault)),
        ("vault active", SystemCommand::VaultActive(active)),
        (
            "replace replica",
            SystemCommand::ReplaceReplica(ReplaceReplica { shard, old, node: NodeId(4) }),
        ),
        (
            "finish replacement",
            SystemCommand::FinishReplacement(FinishReplacement { shard, old, epoch: 5 }),
        ),
        (
            "bundle link",
            SystemCommand::StoreBundleLink(StoreBundleLink { sequence: 2, link: vec![0xab, 0xcd] }),
        ),
    ]
}

/// Rows of a tree that has none yet.
struct NoRows;

impl TreeStore for NoRows {
    fn page(&self, _: u64, _: u64) -> Result<Option<Vec<u8>>, ReadFault> {
        Ok(None)
    }

    fn scan(&self, _: &[u8], _: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), ReadFault> {
        Ok(())
    }
}
