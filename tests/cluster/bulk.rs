//! Whole vaults in and out: nothing lost, nothing twice, whatever is killed on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ledger_client::{Client, ExportOptions};
use ledger_proto::v1;
use ledger_types::VaultRef;
use serde_json::Value;
use tempfile::TempDir;
use tonic::{Code, Streaming};

use super::command_line::Tool;
use super::harness::{Cluster, Node, eventually, grant, set, why, wire, write_request};

/// Relationships of the large files: some seconds of import.
const MANY: usize = 200_000;
/// Items in a transaction where many are wanted.
const CHUNK_ITEMS: usize = 250;

/// What a vault holds: entities by key, and relationships.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Contents {
    entities: BTreeMap<String, (Vec<u8>, u64)>,
    relationships: BTreeSet<(String, String, String)>,
}

impl Contents {
    fn add(&mut self, chunk: ledger_client::ExportChunk) {
        for entity in chunk.entities {
            let value = (entity.value, entity.expires_at);
            assert!(
                self.entities.insert(entity.key.clone(), value).is_none(),
                "{} twice",
                entity.key
            );
        }
        for one in chunk.relationships {
            let one = (one.resource, one.relation, one.subject);
            assert!(self.relationships.insert(one.clone()), "{one:?} twice");
        }
    }
}

/// Everything that a vault holds, by the SDK.
async fn contents(client: &Client, vault: VaultRef) -> Contents {
    let mut export = client.export(vault, ExportOptions::default());
    let mut contents = Contents::default();
    while let Some(chunk) = export.next().await.unwrap() {
        contents.add(chunk);
    }
    contents
}

fn many() -> impl Iterator<Item = (String, String, String)> {
    (0..MANY).map(|number| {
        let resource = format!("document:{}", number / 7);
        (resource, "viewer".to_owned(), format!("user:{number}"))
    })
}

fn csv(items: impl Iterator<Item = (String, String, String)>) -> String {
    let mut text = String::from("resource,relation,subject\n");
    for (resource, relation, subject) in items {
        writeln!(text, "{resource},{relation},{subject}").unwrap();
    }
    text
}

/// A cluster with one data group, a folder for files, and the tool.
struct Bench {
    cluster: Cluster,
    client: Client,
    folder: TempDir,
    vaults: Vec<VaultRef>,
}

impl Bench {
    async fn start(vaults: usize) -> Bench {
        let cluster = Cluster::start_with(3, &[("LEDGER_SHARDS", "1")]).await;
        let vaults = cluster.vaults("bulk", vaults).await;
        let client = cluster.client().await;
        Bench { cluster, client, folder: tempfile::tempdir().unwrap(), vaults }
    }

    fn tool(&self) -> Tool<'_> {
        Tool { folder: self.folder.path(), endpoints: self.cluster.addresses().join(",") }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    fn has(&self, name: &str) -> bool {
        self.folder.path().join(name).exists()
    }

    /// A command on a vault, as a line.
    fn line(&self, command: &str, vault: usize, rest: &str) -> String {
        let VaultRef { namespace, vault } = self.vaults[vault];
        format!("{command} -n {namespace} -v {vault} {rest}")
    }

    /// Runs a command that must work, and reads its JSON.
    fn json(&self, line: &str) -> Value {
        let output = self.tool().command(&format!("{line} -o json")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{line}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// How many transactions the vault's chain has.
    async fn transactions(&self, vault: usize) -> usize {
        let (namespace_id, vault_id) = wire(self.vaults[vault]);
        let (mut height, mut count) = (1, 0);
        loop {
            let request = v1::GetBlockRangeRequest {
                namespace_id,
                vault_id,
                start_height: height,
                end_height: u64::MAX,
            };
            let node = self.cluster.running().remove(0);
            let range = node.reads().get_block_range(request).await.unwrap().into_inner();
            let Some(last) = range.blocks.last().and_then(|block| block.header.as_ref()) else {
                return count;
            };
            height = last.height + 1;
            count += range.blocks.iter().map(|block| block.transactions.len()).sum::<usize>();
        }
    }

    /// Waits until the vault's chain has this many blocks.
    async fn wait_height(&self, vault: usize, height: u64) {
        eventually("the import goes on", || async {
            let tip =
                self.client.tip(self.vaults[vault]).await.map_err(|error| error.to_string())?;
            if tip.height >= height { Ok(()) } else { Err(format!("block {}", tip.height)) }
        })
        .await;
    }

    /// The number of the server that leads the data group.
    async fn leader(&self) -> usize {
        eventually("the data group has a leader", || async {
            let node = self.cluster.running().remove(0);
            let groups = node.groups().await.map_err(|status| status.to_string())?;
            let leader = groups.get(&1).map_or(0, |group| group.leader_node_id);
            usize::try_from(leader).unwrap().checked_sub(1).ok_or_else(|| "none".to_owned())
        })
        .await
    }
}

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// What goes out comes in again, in both formats.
async fn round_trip(bench: &Bench) {
    let mut text = String::new();
    for number in 0..1_500 {
        writeln!(text, "{{\"key\":\"k/{number}\",\"value\":\"text {number}\"}}").unwrap();
        writeln!(
            text,
            "{{\"resource\":\"doc:{number}\",\"relation\":\"owner\",\"subject\":\"a \\\"b\\\", c\"}}"
        )
        .unwrap();
    }
    text.push_str("{\"key\":\"binary\",\"value_hex\":\"ff00fe\",\"expires_at\":4102444800}\n");
    bench.write("mixed.jsonl", &text);
    let checked = bench.json("import -n 1 mixed.jsonl --dry-run");
    assert_eq!((&checked["entities"], &checked["relationships"]), (&1501.into(), &1500.into()));
    let imported = bench.json(&bench.line("import", 0, "mixed.jsonl --chunk-items 100"));
    assert_eq!((&imported["items_sent"], &imported["chunks"]), (&3001.into(), &31.into()));
    assert!(!bench.has("mixed.jsonl.ledger-import"));
    let first = contents(&bench.client, bench.vaults[0]).await;
    assert_eq!((first.entities.len(), first.relationships.len()), (1_501, 1_500));
    assert_eq!(first.entities["binary"], (vec![0xff, 0, 0xfe], 4_102_444_800));

    let exported = bench.json(&bench.line("export", 0, "out.jsonl"));
    assert_eq!(exported["entities"], 1501);
    assert!(!bench.has("out.jsonl.part") && !bench.has("out.jsonl.ledger-export"));
    bench.json(&bench.line("import", 1, "out.jsonl"));
    assert_eq!(contents(&bench.client, bench.vaults[1]).await, first);

    bench.json(&bench.line("export", 0, "out.csv"));
    bench.json(&bench.line("import", 2, "out.csv"));
    let ties = contents(&bench.client, bench.vaults[2]).await;
    assert_eq!((ties.entities.len(), ties.relationships), (0, first.relationships));
    let said = bench.tool().fails(&bench.line("export", 0, "out.csv"), 1);
    assert!(said.contains("is there already"), "{said}");
}

/// Every bad line is told with its number and field, and no good one is lost.
async fn bad_lines_are_told(bench: &Bench) {
    bench.write("bad.csv", "a,r,1\na,,2\na,r\na,r,3\n");
    for line in ["import -n 1 bad.csv --dry-run".to_owned(), bench.line("import", 3, "bad.csv")] {
        let said = bench.tool().fails(&line, 1);
        assert!(said.contains("bad.csv:2: relation: "), "{said}");
        assert!(said.contains("bad.csv:3: line: "), "{said}");
        assert!(said.contains("2 bad lines"), "{said}");
    }
    assert_eq!(bench.transactions(3).await, 0, "nothing was imported");
    let imported = bench.json(&bench.line("import", 3, "bad.csv --skip-bad"));
    assert_eq!((&imported["relationships"], &imported["bad_lines"]), (&2.into(), &2.into()));
    let found = contents(&bench.client, bench.vaults[3]).await.relationships;
    let subjects: Vec<&str> = found.iter().map(|(_, _, subject)| subject.as_str()).collect();
    assert_eq!(subjects, ["1", "3"]);
    assert_eq!(bench.read("bad.csv.bad"), "a,,2\na,r\n");
}

async fn export_of(
    node: &Node,
    request: v1::ExportBulkRequest,
) -> Streaming<v1::ExportBulkResponse> {
    node.ledger().export_bulk(request).await.unwrap().into_inner()
}

/// An export shows one height whatever is written meanwhile, and goes on at another node.
async fn an_export_is_of_one_height(bench: &Bench) {
    let vault = bench.vaults[4];
    let (namespace_id, vault_id) = wire(vault);
    let node = bench.cluster.node(0);
    for part in 0..3 {
        let ties = (0..8_000).map(|number| grant(&format!("r{part}"), "v", &format!("u{number}")));
        node.writes().write(write_request(vault, ties.collect())).await.unwrap();
    }
    node.put(vault, "key", b"old").await.unwrap();
    let request = v1::ExportBulkRequest {
        namespace_id,
        vault_id,
        consistency: v1::ReadConsistency::Linearizable.into(),
        ..v1::ExportBulkRequest::default()
    };
    let mut chunks = Vec::new();
    let mut stream = export_of(&node, request.clone()).await;
    chunks.push(stream.message().await.unwrap().unwrap());
    let change = vec![set("key", b"new"), set("key2", b"new"), grant("r0", "v", "later")];
    node.writes().write(write_request(vault, change)).await.unwrap();
    chunks.push(stream.message().await.unwrap().unwrap());
    drop(stream);
    // The rest from another node, which may have to catch up first.
    let cursor = chunks[1].cursor.clone();
    let rest = v1::ExportBulkRequest { cursor, ..request.clone() };
    let mut stream = export_of(&bench.cluster.node(1), rest).await;
    while let Some(chunk) = stream.message().await.unwrap() {
        chunks.push(chunk);
    }
    let heights: BTreeSet<u64> = chunks.iter().map(|chunk| chunk.height).collect();
    assert_eq!(heights.len(), 1);
    assert!(chunks.len() >= 4, "{} chunks", chunks.len());
    let entities: Vec<(&str, &[u8])> = chunks
        .iter()
        .flat_map(|chunk| &chunk.entities)
        .map(|entity| (entity.key.as_str(), &entity.value[..]))
        .collect();
    assert_eq!(entities, [("key", &b"old"[..])]);
    let ties: BTreeSet<_> = chunks
        .iter()
        .flat_map(|chunk| &chunk.relationships)
        .map(|one| (one.resource.clone(), one.subject.clone()))
        .collect();
    let count: usize = chunks.iter().map(|chunk| chunk.relationships.len()).sum();
    assert_eq!((count, ties.len()), (24_000, 24_000));
    assert!(!ties.contains(&("r0".to_owned(), "later".to_owned())));

    let beyond = v1::ExportBulkRequest { at_height: Some(4_711), ..request.clone() };
    let refused = node.ledger().export_bulk(beyond).await.unwrap_err();
    assert_eq!(why(&refused), (Code::FailedPrecondition, "HEIGHT_UNAVAILABLE".to_owned()));
    let cursor = chunks[1].cursor.clone();
    let other = v1::ExportBulkRequest { cursor, skip_entities: true, ..request };
    let refused = node.ledger().export_bulk(other).await.unwrap_err();
    assert_eq!(why(&refused), (Code::InvalidArgument, "INVALID_PAGE_TOKEN".to_owned()));
}

/// What an import is refused for.
async fn imports_are_checked(bench: &Bench) {
    use v1::import_bulk_request::Message::{Begin, Chunk};
    let (namespace_id, vault_id) = wire(bench.vaults[5]);
    let client_id = Some(v1::ClientId { id: "checked".to_owned() });
    let begin = v1::ImportBegin { namespace_id, vault_id, client_id };
    let chunk = |number, subject: &str| {
        let (resource, relation) = ("r".to_owned(), "v".to_owned());
        let one = v1::Relationship { resource, relation, subject: subject.to_owned() };
        v1::ImportChunk { number, entities: Vec::new(), relationships: vec![one] }
    };
    for (messages, durable, field) in [
        (vec![Chunk(chunk(1, "a"))], None, "begin"),
        (vec![Begin(begin.clone()), Chunk(chunk(2, "a"))], Some(0), "chunk.number"),
        (
            vec![Begin(begin.clone()), Chunk(chunk(1, "a")), Chunk(chunk(2, ""))],
            Some(1),
            "chunk.relationships[0].subject",
        ),
        (vec![Begin(begin.clone()), Begin(begin.clone())], Some(1), "chunk"),
    ] {
        for node in bench.cluster.nodes() {
            let messages: Vec<_> = messages
                .iter()
                .map(|message| v1::ImportBulkRequest { message: Some(message.clone()) })
                .collect();
            let opened = node.ledger().import_bulk(tokio_stream::iter(messages)).await;
            let mut told = None;
            let refused = match opened {
                Err(status) => status,
                Ok(answers) => {
                    let mut answers = answers.into_inner();
                    loop {
                        match answers.message().await {
                            Ok(Some(answer)) => told = Some(answer.durable_chunk),
                            Ok(None) => panic!("not refused for {field}"),
                            Err(status) => break status,
                        }
                    }
                }
            };
            assert_eq!(why(&refused).1, "INVALID_ARGUMENT", "{field}: {refused:?}");
            use tonic_types::StatusExt as _;
            let bad = refused.get_details_bad_request().unwrap();
            assert_eq!(bad.field_violations[0].field, field);
            // The second and third node find what the first one imported.
            assert_eq!(told, durable, "{field}");
        }
    }
    assert_eq!(bench.transactions(5).await, 1, "one chunk was good, and it was imported once");
}

#[tokio::test(flavor = "multi_thread")]
async fn vaults_go_out_and_come_in_whole() {
    let bench = Bench::start(6).await;
    round_trip(&bench).await;
    bad_lines_are_told(&bench).await;
    an_export_is_of_one_height(&bench).await;
    imports_are_checked(&bench).await;
}

/// An import that is killed, and one that loses its leader, has every item exactly once in the end.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_outlives_its_process_and_its_leader() {
    let mut bench = Bench::start(2).await;
    let wanted: BTreeSet<_> = many().collect();
    bench.write("many.csv", &csv(many()));
    let line = bench.line("import", 0, &format!("many.csv --chunk-items {CHUNK_ITEMS}"));
    for height in [rand::random_range(1..4), 6] {
        let mut killed = start(&mut bench.tool().command(&line));
        bench.wait_height(0, height).await;
        killed.kill().unwrap();
        killed.wait().unwrap();
        assert!(bench.has("many.csv.ledger-import"), "the import was to be killed before its end");
    }
    let done = bench.json(&line);
    assert!(done["items_sent"].as_u64().unwrap() < MANY as u64, "it went on: {done}");
    assert_eq!(contents(&bench.client, bench.vaults[0]).await.relationships, wanted);
    assert_eq!(bench.transactions(0).await, MANY / CHUNK_ITEMS, "each chunk once");

    let line = bench.line("import", 1, &format!("many.csv --chunk-items {CHUNK_ITEMS}"));
    let mut import = start(&mut bench.tool().command(&line));
    bench.wait_height(1, 3).await;
    let victim = bench.leader().await;
    bench.cluster.servers[victim].kill();
    assert!(
        import.try_wait().unwrap().is_none(),
        "the import was to lose its leader before its end"
    );
    let status = tokio::task::spawn_blocking(move || import.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(contents(&bench.client, bench.vaults[1]).await.relationships, wanted);
    assert_eq!(bench.transactions(1).await, MANY / CHUNK_ITEMS, "each chunk once");
    bench.cluster.resume(victim).await;
}

/// An import that is begun again with another file is noticed.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_goes_on_with_the_same_file_only() {
    let bench = Bench::start(1).await;
    bench.write("many.csv", &csv(many()));
    // Small ones, so that it lasts.
    let line = bench.line("import", 0, "many.csv --chunk-items 20");
    let mut killed = start(&mut bench.tool().command(&line));
    let progress = bench.folder.path().join("many.csv.ledger-import");
    eventually("progress is kept", || async { kept_chunks(&progress) }).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    let changed = bench.read("many.csv").replacen("user:3\n", "user:x\n", 1);
    bench.write("many.csv", &changed);
    let said = bench.tool().fails(&line, 1);
    assert!(said.contains("is not the file of which a part was imported"), "{said}");
    let said = bench.tool().fails(&bench.line("import", 0, "many.csv --chunk-items 7"), 1);
    assert!(said.contains("is unfinished"), "{said}");
}

/// Fails until an import has kept that some chunks are durable.
fn kept_chunks(path: &Path) -> Result<(), String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    let kept: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if kept["chunks"].as_u64() > Some(0) { Ok(()) } else { Err(kept.to_string()) }
}
