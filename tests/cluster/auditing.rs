//! `ledger-cli audit` on a cluster with real load, with a replica that somebody has changed on its disk, and
//! with nodes that are down.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use ledger_client::Client;
use ledger_shard::{Family, LiveView, RowWrite, StateView as _, Store, StoreConfig};
use ledger_types::{StateKey, VaultRef};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::command_line::Tool;
use super::harness::Cluster;
use super::load::Load;

/// Writes of each of the writers before the first audit.
const WRITES: u64 = 40;
/// Length of a record, before the value of a row.
const RECORD_BYTES: usize = 93;
/// Tag of a block's body in the keys of block rows.
const BODY: u8 = 1;

/// An audit's report, and its exit code.
fn audit(tool: &Tool<'_>, vault: VaultRef, more: &str) -> (Value, i32) {
    let (namespace, vault) = (vault.namespace.0, vault.vault.0);
    let line = format!(
        "--trust-on-first-use --deadline 3s audit -n {namespace} -v {vault} --report audit.json {more}"
    );
    let output = tool.command(&line).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code().unwrap_or_else(|| panic!("{line}: {said}"));
    let report = std::fs::read(tool.folder.join("audit.json"));
    let report = report.unwrap_or_else(|error| panic!("{line}: {error}: {said}"));
    (serde_json::from_slice(&report).unwrap(), code)
}

fn replica_verdicts(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let replicas = report["replicas"].as_array().unwrap().iter();
    let mut verdicts: Vec<_> =
        replicas.map(|it| (text(&it["node"]), text(&it["verdict"]))).collect();
    verdicts.sort();
    verdicts
}

/// Changes the value of an entity and the body of its block in the database of a stopped node.
fn tamper(cluster: &Cluster, node: usize, vault: VaultRef, key: &str) -> u64 {
    let directory = &cluster.servers[node].spec().data_dir;
    let store = Store::open(directory, None, &StoreConfig::default()).unwrap();
    let view = LiveView::new(&store);
    let row_key = [&vault.to_bytes()[..], StateKey::entity(key).as_bytes()].concat();
    let mut row = view.get(Family::Latest, &row_key).unwrap().expect("the entity is there");
    let height = u64::from_be_bytes(*row[9..].first_chunk().unwrap());
    row[RECORD_BYTES] ^= 1;
    let body_key = [&vault.to_bytes()[..], &[BODY], &height.to_be_bytes()].concat();
    let mut body = view.get(Family::Blocks, &body_key).unwrap().expect("the body is there");
    // Version, number of transactions, length, version of the first: its id comes next.
    body[1 + 4 + 4 + 1] ^= 1;
    let changed = [(Family::Latest, row_key, row), (Family::Blocks, body_key, body)];
    let changed = changed.map(|(family, key, value)| RowWrite { family, key, value: Some(value) });
    store.write(&changed).unwrap();
    store.sync().unwrap();
    height
}

/// Follows the vault while it is written to, and ends it with a signal.
async fn follows(tool: &Tool<'_>, client: &Client, vault: VaultRef) {
    let (namespace, number) = (vault.namespace.0, vault.vault.0);
    let line =
        format!("--trust-on-first-use audit -n {namespace} -v {number} --follow --interval 1s");
    let mut child = tool.command(&line).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next =
        move || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let (first, mut next) = tokio::task::spawn_blocking(move || (next(), next)).await.unwrap();
    assert_eq!((&first["event"], &first["verdict"]), (&"compared".into(), &"verified".into()));
    let written = client.write(vault, set("followed")).await.unwrap();
    let mut next_block = tokio::task::spawn_blocking(move || {
        let seen = std::iter::repeat_with(&mut next).find(|line| line["event"] == "block");
        (seen.unwrap(), next)
    })
    .await
    .unwrap();
    assert_eq!(next_block.0["height"], written.height);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let last = tokio::task::spawn_blocking(move || {
        std::iter::repeat_with(&mut next_block.1).find(|line| line["event"] == "report")
    })
    .await
    .unwrap()
    .unwrap();
    assert_eq!(last["report"]["verdict"], "verified", "{last:#}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn set(key: &str) -> Vec<ledger_types::Operation> {
    let (key, value) = (key.to_owned(), b"value".to_vec());
    vec![ledger_types::Operation::SetEntity { key, value, expires_at: 0, condition: None }]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_tells_a_changed_replica_from_a_node_that_is_down() {
    let mut cluster = Cluster::start(3).await;
    let folder = cluster.directory("tool");
    let tool = Tool { folder: &folder, endpoints: cluster.addresses().join(",") };
    let client = cluster.client().await;
    let vault = cluster.vaults("audited", 1).await[0];
    let mut load = Load::start(&client, &[vault], 3);
    load.wait_more(WRITES).await;
    let acknowledged = load.finish().await;
    client.write(vault, set("changed")).await.unwrap();

    let (report, code) = audit(&tool, vault, "--values");
    assert_eq!((code, &report["verdict"]), (0, &"verified".into()), "{report:#}");
    assert_eq!(report["replayed"]["log_root"], report["checkpoint"]["root"]);
    let keys = acknowledged[&vault].len() as u64;
    for replica in report["replicas"].as_array().unwrap() {
        assert_eq!(replica["blocks_compared"], report["replayed"]["blocks"], "{replica:#}");
        assert!(replica["keys_compared"].as_u64().unwrap() > keys, "{replica:#}");
    }
    assert!(report["checkpoint"]["signers"][0]["valid"].as_bool().unwrap(), "{report:#}");
    let (report, code) = audit(&tool, VaultRef::SYSTEM, "--values");
    assert_eq!((code, &report["findings"]), (0, &Value::Array(Vec::new())), "{report:#}");
    follows(&tool, &client, vault).await;

    let name = cluster.servers[1].spec().name.clone();
    cluster.servers[1].stop().await.unwrap();
    let (report, code) = audit(&tool, vault, "");
    assert_eq!((code, &report["verdict"]), (4, &"incomplete".into()), "{report:#}");
    let of = |report: &Value, verdict: &str| {
        let wanted = |it: &(String, String)| it.1 == verdict;
        replica_verdicts(report).into_iter().filter(wanted).map(|it| it.0).collect::<Vec<_>>()
    };
    assert_eq!(of(&report, "unavailable"), [name.as_str()]);
    assert_eq!(of(&report, "verified").len(), 2);

    let height = tamper(&cluster, 1, vault, "changed");
    cluster.servers[1].resume().unwrap();
    cluster.assert_ready().await;
    let (report, code) = audit(&tool, vault, "--values");
    assert_eq!((code, &report["verdict"]), (2, &"tampered".into()), "{report:#}");
    assert_eq!(of(&report, "tampered"), [name.as_str()], "{report:#}");
    let findings = report["findings"].as_array().unwrap();
    let kinds: Vec<_> = findings.iter().map(|it| it["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["other_transactions", "other_value"], "{report:#}");
    assert!(findings.iter().all(|it| it["node"] == name.as_str()), "{report:#}");
    assert_eq!(findings[0]["height"], height);

    cluster.servers.iter_mut().for_each(|server| server.kill());
    let (report, code) = audit(&tool, vault, "");
    assert_eq!((code, &report["verdict"]), (3, &"unavailable".into()), "{report:#}");
    tool.fails("audit -n 1 --interval 5s", 64);
}
