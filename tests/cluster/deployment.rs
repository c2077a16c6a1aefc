//! The binary's own word on its settings against what operators deploy and expect.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use super::harness::server_binary;

const MANIFEST: &str = "deploy/flux/apps/base/ledger/statefulset.yaml";

/// Names that operators rely on, with their defaults.
const PROMISED: [(&str, &str); 7] = [
    ("LEDGER_LISTEN_ADDR", "0.0.0.0:50051"),
    ("LEDGER_HTTP_ADDR", "0.0.0.0:9090"),
    ("LEDGER_DATA_DIR", "/data"),
    ("BOOTSTRAP_EXPECT", "3"),
    ("LEDGER_SHARDS", "8"),
    ("LEDGER_REPLICATION_FACTOR", "3"),
    ("LEDGER_AUTO_CREATE_VAULTS", "false"),
];

fn print_settings(environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(server_binary());
    command.args(["config", "print"]).args(arguments).env_clear();
    command.envs(environment.iter().copied()).output().unwrap()
}

fn settings(environment: &[(&str, &str)]) -> BTreeMap<String, Value> {
    let output = print_settings(environment, &["--format", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    rows.into_iter().map(|row| (row["env"].as_str().unwrap().to_owned(), row)).collect()
}

/// Names and values of the environment in the manifest; a value from elsewhere is `None`.
fn deployed() -> Vec<(String, Option<String>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(MANIFEST);
    let text = std::fs::read_to_string(path).unwrap();
    let ours = |name: &str| name.starts_with("LEDGER_") || name == "BOOTSTRAP_EXPECT";
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let named = lines.iter().enumerate().filter_map(|(number, line)| {
        let name = line.strip_prefix("- name: ").filter(|name| ours(name))?;
        let value = lines.get(number + 1).and_then(|line| line.strip_prefix("value: "));
        Some((name.to_owned(), value.map(|value| value.trim_matches('"').to_owned())))
    });
    named.collect()
}

#[test]
fn promised_names_have_their_defaults() {
    let settings = settings(&[]);
    for (name, default) in PROMISED {
        let row = settings.get(name).unwrap_or_else(|| panic!("{name} is no setting"));
        assert_eq!((&row["default"], &row["value"]), (&default.into(), &default.into()), "{name}");
        assert_eq!(row["origin"], "default");
    }
    for name in ["LEDGER_NODE_ID", "LEDGER_PEERS", "LEDGER_ADVERTISE_ADDR", "LEDGER_CLUSTER_DOMAIN"]
    {
        assert!(settings.contains_key(name), "{name}");
    }
    assert!(settings.len() <= 40, "{} settings", settings.len());
}

#[test]
fn the_manifest_sets_what_the_binary_knows() {
    let deployed = deployed();
    assert!(deployed.len() >= 5, "{deployed:?}");
    let known = settings(&[]);
    for (name, _) in &deployed {
        assert!(known.contains_key(name), "{name} is deployed and no setting");
    }
    // References to the pod are resolved by the cluster; any host name stands for them here.
    let resolved: Vec<(String, String)> = deployed
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .map(|(name, value)| {
            let value = value.replace("$(POD_NAME)", "inferadb-ledger-0");
            (name, value.replace("$(POD_NAMESPACE)", "inferadb"))
        })
        .collect();
    let environment: Vec<(&str, &str)> =
        resolved.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let taken = settings(&environment);
    for (name, value) in &environment {
        assert_eq!(
            (&taken[*name]["value"], &taken[*name]["origin"]),
            (&(*value).into(), &"environment".into())
        );
    }
}

#[test]
fn flags_go_before_the_environment_and_that_before_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.toml");
    std::fs::write(&file, "shards = 2\ntick_ms = 70\nzone = \"file\"\n").unwrap();
    let environment = [("LEDGER_SHARDS", "3"), ("LEDGER_TICK_MS", "60")];
    let arguments = ["--format", "json", "--config", file.to_str().unwrap(), "--shards", "4"];
    let output = print_settings(&environment, &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let value = |name: &str| {
        let row = rows.iter().find(|row| row["env"] == name).unwrap();
        (row["value"].as_str().unwrap(), row["origin"].as_str().unwrap())
    };
    assert_eq!(value("LEDGER_SHARDS"), ("4", "flag"));
    assert_eq!(value("LEDGER_TICK_MS"), ("60", "environment"));
    assert_eq!(value("LEDGER_ZONE"), ("file", "file"));
    assert_eq!(value("LEDGER_LOG"), ("info", "default"));
    let output = print_settings(&environment, &["--origin"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("LEDGER_SHARDS=3  # environment"), "{text}");
}

/// What the tools read from the environment does not stop a server in the same shell or pod.
#[test]
fn variables_of_the_tools_are_none_of_the_server() {
    let mut names = Vec::new();
    for arguments in [&["--help"][..], &["get", "--help"], &["workload", "run", "--help"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ledger-cli"));
        let output = command.args(arguments).env_clear().output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        let shown = help.split("[env: ").skip(1);
        names.extend(shown.filter_map(|rest| Some(rest.split(['=', ']']).next()?.to_owned())));
    }
    names.sort();
    names.dedup();
    assert!(names.contains(&"LEDGER_ENDPOINTS".to_owned()), "{names:?}");
    let environment: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    let output = print_settings(&environment, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
