//! `ledger-cli` and `ledger demo` as a user runs them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use super::harness::{Cluster, server_binary, take_turn};

const GRANT: &str = "document:7#viewer@user:alice";

/// `ledger-cli` in a directory of its own.
pub(super) struct Tool<'a> {
    pub(super) folder: &'a Path,
    pub(super) endpoints: String,
}

impl Tool<'_> {
    /// The command of a line, not run yet.
    pub(super) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ledger-cli"));
        command
            .args(line.split_whitespace())
            .current_dir(self.folder)
            .env_clear()
            .env("LEDGER_ENDPOINTS", &self.endpoints)
            .env("LEDGER_STATE_DIR", self.folder.join("state"));
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// What a command that must work says.
    fn says(&self, line: &str) -> String {
        let output = self.run(line);
        assert_eq!(output.status.code(), Some(0), "{line}: {}", complaint(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The JSON that a command that must work says.
    fn json(&self, line: &str) -> Value {
        let text = self.says(&format!("{line} -o json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"))
    }

    /// What a command that must fail complains of.
    pub(super) fn fails(&self, line: &str, exit_code: i32) -> String {
        let output = self.run(line);
        let said = complaint(&output);
        assert_eq!(output.status.code(), Some(exit_code), "{line}: {said}");
        said
    }
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn writes_and_reads(tool: &Tool<'_>) {
    let made = tool.json("namespace create acme");
    assert_eq!(made["name"], "acme");
    let vault = tool.json("vault create -n acme");
    assert_eq!(vault["vault"], format!("{}/1", made["namespace"]));
    let written = tool.json(&format!("put -n acme -v 1 {GRANT}"));
    assert_eq!((&written["height"], &written["outcomes"][0]), (&1.into(), &"created".into()));
    let written = tool.json("put -n acme -v 1 --key colour --value blue");
    assert_eq!(written["height"], 2);
    let said = tool.fails("put -n acme -v 1 --key colour --value red --if-absent", 1);
    assert!(said.contains("KeyExists"), "{said}");
    let said = tool.fails("put -n acme -v 9 --key colour --value red", 1);
    assert!(said.contains("VAULT_NOT_FOUND"), "{said}");

    let first = "--trust-on-first-use get -n acme -v 1 --linearizable";
    let proved = tool.json(&format!("{first} {GRANT} --key colour --key taste"));
    let states: Vec<&Value> =
        proved["items"].as_array().unwrap().iter().map(|item| &item["state"]).collect();
    assert_eq!(states, ["present", "present", "absent"]);
    assert_eq!(proved["items"][1]["value"], "blue");
    assert_eq!((&proved["verified"], &proved["height"]), (&true.into(), &2.into()));

    let list = tool.says("list relationships -n acme -v 1 --linearizable --unverified");
    assert_eq!(list.trim(), GRANT);
    let list = tool.json("list entities -n acme -v 1 --prefix col --linearizable --unverified");
    assert_eq!((&list["key"], &list["value"]), (&"colour".into(), &"blue".into()));
    let watched = tool.says("watch -n acme -v 1 --from 1 --count 2 -o json");
    let heights: Vec<Value> = watched
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["height"].clone())
        .collect();
    assert_eq!(heights, [1, 2]);
}

/// Resources by type; and a namespace that is deleted with its vault, of which nothing but its number stays.
fn resources_and_deletions(tool: &Tool<'_>) {
    tool.says("namespace create short-lived");
    tool.says("vault create -n short-lived");
    tool.says(
        "put -n short-lived -v 1 doc:1#viewer@user:ann doc:1#editor@user:ann doc:2#viewer@user:bob",
    );
    let ask = "list resources -n short-lived -v 1 doc --linearizable";
    let listed = tool.says(&format!("{ask} --unverified"));
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["doc:1", "doc:2"]);
    let proved = tool.says(ask);
    let lines: Vec<&str> = proved.lines().collect();
    assert_eq!(lines[..2], ["doc:1", "doc:2"]);
    assert!(lines[2].starts_with("verified: all 2 of vault"), "{proved}");
    assert_eq!(tool.says(&format!("{ask} --limit 1")), "doc:1\n");
    let ask = "list relationships -n short-lived -v 1 --subject user:ann --relation editor";
    let proved = tool.says(ask);
    assert!(proved.starts_with("doc:1#editor@user:ann\nverified: all 1 of vault"), "{proved}");
    let said = tool.fails("namespace delete short-lived", 1);
    assert!(said.contains("NAMESPACE_NOT_EMPTY"), "{said}");
    let checked = tool.json("vault check-integrity -n short-lived -v 1 --full");
    let checked = checked.as_array().unwrap();
    assert_eq!(checked.len(), 3);
    assert!(checked.iter().all(|one| one["healthy"] == true), "{checked:?}");
    let members = tool.json("cluster info");
    assert_eq!(members["members"].as_array().unwrap().len(), 3);
    let first = tool.json("vault delete -n short-lived -v 1");
    assert_eq!(tool.json("vault delete -n short-lived -v 1"), first);
    let said = tool.fails("put -n short-lived -v 1 --key a --value b", 1);
    assert!(said.contains("VAULT_DELETED"), "{said}");
    let listed = tool.json("vault list -n short-lived --deleted");
    assert_eq!(listed[0]["status"], "deleted");
    tool.says("namespace delete short-lived");
    let said = tool.fails("namespace get short-lived", 1);
    assert!(said.contains("NAMESPACE_NOT_FOUND"), "{said}");
}

/// Receipts, checkpoints, lists and histories, proved; and saved ones checked with no cluster in reach.
fn the_past_is_proved(tool: &Tool<'_>) {
    let place = "-n acme -v 1";
    let written = tool.json(&format!("put {place} --key colour --value grey"));
    let (height, tx) = (written["height"].as_u64().unwrap(), written["tx_id"].as_str().unwrap());
    let ask = format!("receipt {place} --height {height} --tx {tx} --save-proof write.proof");
    let receipt = tool.json(&ask);
    assert_eq!((&receipt["tx_id"], &receipt["index"]), (&written["tx_id"], &0.into()));
    assert_eq!(receipt["operations"][0], "set colour (4 bytes): updated");
    let said = tool.fails(&format!("receipt {place} --height {height} --index 1"), 1);
    assert!(said.contains("TRANSACTION_NOT_FOUND"), "{said}");
    let checkpoint = tool.json(&format!("checkpoint {place} --save-note vault.note"));
    assert_eq!(checkpoint["size"], height + 1);
    assert!(checkpoint["extends"].is_u64(), "{checkpoint}");

    let past = tool.json(&format!("get {place} --key colour --at-height 2"));
    assert_eq!((&past["items"][0]["value"], &past["height"]), (&"blue".into(), &2.into()));
    let listed =
        tool.says(&format!("list entities {place} --linearizable --save-proof list.proof"));
    assert!(listed.contains("colour\tgrey") && listed.contains("verified: all 1"), "{listed}");
    let typed = format!("list relationships {place} --resource-type document");
    let listed = tool.says(&typed);
    assert!(listed.contains(GRANT) && listed.contains("verified: all 1"), "{listed}");
    let said = tool.fails(&format!("list relationships {place} --relation viewer"), 1);
    assert!(said.contains("or --unverified"), "{said}");
    let history = tool.says(&format!("history {place} --key colour --linearizable"));
    let lines: Vec<&str> = history.lines().collect();
    assert!(lines[0].contains("grey") && lines[1].contains("blue"), "{history}");
    assert!(lines[2].contains("created the key"), "{history}");

    let offline = Tool { folder: tool.folder, endpoints: "127.0.0.1:1".to_owned() };
    let said = offline.says("--trust cluster.trust verify write.proof");
    assert!(said.contains(tx) && said.contains("set colour"), "{said}");
    let said = offline.says("--trust cluster.trust verify list.proof");
    assert!(said.contains("colour\tgrey"), "{said}");
}

/// A saved proof is checked with no cluster in reach, and a changed one is refused with its own exit code.
fn proofs_are_checked_offline(tool: &Tool<'_>) {
    tool.says(&format!("get -n acme -v 1 {GRANT} --save-proof grant.proof"));
    tool.says("--trust-on-first-use trust export cluster.trust");
    let offline = Tool { folder: tool.folder, endpoints: "127.0.0.1:1".to_owned() };
    let said = offline.says("--trust cluster.trust verify grant.proof");
    assert!(said.contains(GRANT) && said.contains("present"), "{said}");
    let proof = std::fs::read(tool.folder.join("grant.proof")).unwrap();
    // Not in the note: a cosigner whose name is damaged is nobody, and a majority may be left without it.
    for place in [0, 1, proof.len() - 60, proof.len() - 1] {
        let mut damaged = proof.clone();
        damaged[place] ^= 1;
        std::fs::write(tool.folder.join("damaged.proof"), damaged).unwrap();
        let said = offline.fails("--trust cluster.trust verify damaged.proof", 2);
        assert!(said.contains("VERIFICATION REFUSED"), "byte {place}: {said}");
    }
    offline.fails("--trust cluster.trust verify no-such.proof", 1);
    offline.fails("--deadline 1s get -n 1 -v 1 --key colour", 1);
    offline.fails("get --no-such-option", 64);
}

/// A Python that can run the second verifier: the one that `proof/oracles/install.sh` made, or the system's.
fn verifying_python() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let needed = "from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey";
    let candidates = [target.join("python/bin/python3"), PathBuf::from("python3")];
    let works = |python: &PathBuf| {
        Command::new(python).args(["-c", needed]).output().is_ok_and(|told| told.status.success())
    };
    let found = candidates.into_iter().find(works);
    if found.is_none() {
        // Not by a macro: the harness would keep what it prints to itself.
        let said = b"command line: no Python for the second verifier, it is left out\n";
        std::io::stderr().write_all(said).unwrap();
    }
    found
}

/// What the tool saved is believed by a verifier that shares no code with it, and refused when it was changed.
fn the_second_verifier_reads_what_was_saved(tool: &Tool<'_>) {
    let Some(python) = verifying_python() else { return };
    let place = "-n acme -v 1";
    let past = format!("get {place} --key colour --at-height 2 --save-proof past.proof");
    tool.says(&past);
    let index = format!("receipt {place} --height 2 --index 0 --save-proof index.proof");
    tool.says(&index);
    let list = format!("list relationships {place} --resource-type document");
    tool.says(&format!("{list} --save-proof typed.proof"));
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("proof/python/verify_proof.py");
    let judge = |file: &str| {
        let mut command = Command::new(&python);
        command.arg("-B").arg(&program).args(["--plain", "--bundle", "cluster.trust", file]);
        let output = command.current_dir(tool.folder).output().unwrap();
        let complaint = complaint(&output);
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), complaint)
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let colour = hex(b"\x01colour");
    let cases = [
        ("grant.proof", " present 1".to_owned()),
        ("write.proof", "\ntransaction ".to_owned()),
        ("index.proof", "\ntransaction ".to_owned()),
        ("past.proof", format!("{colour} present 2 {}", hex(b"blue"))),
        ("list.proof", format!("list 01 1\n{colour} present 3 {}", hex(b"grey"))),
        ("typed.proof", format!("list {} 1\n", hex(b"\x02document:"))),
    ];
    for (file, expected) in cases {
        let (code, said, complaint) = judge(file);
        assert_eq!(code, Some(0), "{file}: {complaint}");
        assert!(said.starts_with("holds\n") && said.contains(&expected), "{file}: {said}");
        let honest = std::fs::read(tool.folder.join(file)).unwrap();
        // The last byte is a value's, a path's or a record's; the one before the end is missing in the other.
        let mut changed = honest.clone();
        *changed.last_mut().unwrap() ^= 1;
        for damaged in [&changed[..], &honest[..honest.len() - 1]] {
            std::fs::write(tool.folder.join("damaged.proof"), damaged).unwrap();
            let (code, said, _) = judge("damaged.proof");
            assert_eq!((code, said.as_str()), (Some(1), "refused\n"), "{file}");
        }
    }
}

fn nodes_are_shown(tool: &Tool<'_>, states: &[&str]) {
    let status = tool.json("status --groups");
    let nodes = status["nodes"].as_array().unwrap();
    let mut found: Vec<&str> =
        nodes.iter().map(|node| node["state"].as_str().unwrap_or("unreachable")).collect();
    found.sort_unstable();
    assert_eq!(found, states, "{status:#}");
    let table = tool.says("status --groups");
    assert!(table.contains("NODE") && table.contains("GROUP"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_tool_does_its_work_from_end_to_end() {
    let mut cluster = Cluster::start(3).await;
    let folder = cluster.directory("tool");
    let tool = Tool { folder: &folder, endpoints: cluster.addresses().join(",") };
    writes_and_reads(&tool);
    resources_and_deletions(&tool);
    proofs_are_checked_offline(&tool);
    the_past_is_proved(&tool);
    the_second_verifier_reads_what_was_saved(&tool);
    nodes_are_shown(&tool, &["ready", "ready", "ready"]);
    let line = "workload run --op write --clients 4 --vault-count 2 --duration 1s --warmup 100ms";
    let workload: Value = serde_json::from_str(&tool.says(line)).unwrap();
    assert!(workload.is_object(), "{workload}");
    cluster.servers[2].kill();
    nodes_are_shown(&tool, &["ready", "ready", "unreachable"]);
    tool.says("put -n acme -v 1 --key colour --value green");
}

/// The demonstration on a small directory: everything must hold there too.
#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_holds() {
    let _turn = take_turn().await;
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input");
    for directory in 0..40 {
        let directory = input.join(format!("d{directory}"));
        std::fs::create_dir_all(&directory).unwrap();
        for file in 0..20 {
            std::fs::write(directory.join(format!("f{file}")), "").unwrap();
        }
    }
    let mut command = Command::new(server_binary());
    command.args(["demo", "--files", "600"]).arg("--path").arg(&input);
    command.arg("--data").arg(folder.path().join("data"));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", complaint(&output));
    for part in [
        "1 800 relationships acknowledged",
        "proved absent",
        "it is refused",
        "SIGKILL",
        "the same on all nodes",
        "no single node",
        "Everything held",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
}
