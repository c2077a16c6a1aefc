//! Deployment manifests against the binary they start: environment, flags, ports, probes, volumes,
//! and the names that operators type. Judges parsed YAML; knows the node only by its settings.

use serde_norway::Value;

use crate::settings::Setting;
use crate::{Finding, TextFile};

/// Name of the stateful set, of its headless service and of the label.
pub const NAME: &str = "inferadb-ledger";
/// Name of the service that clients use.
pub const CLIENT_SERVICE: &str = "inferadb-ledger-client";
/// Namespace of everything.
pub const NAMESPACE: &str = "inferadb";
/// Paths that a probe may ask for.
const PROBE_PATHS: &[&str] = &["/livez", "/readyz"];
/// Commands of the node that a container may run.
const COMMANDS: &[&str] = &["serve"];
/// Listeners: the setting that moves it and the name of its port.
const LISTENERS: &[(&str, &str)] = &[("LEDGER_LISTEN_ADDR", "grpc"), ("LEDGER_HTTP_ADDR", "http")];
/// The label that every selector uses.
const NAME_LABEL: &str = "app.kubernetes.io/name";

/// Checks the manifests of the base against the settings of the node.
pub fn check(manifests: &[TextFile], settings: &[Setting]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut documents = Vec::new();
    for file in manifests {
        match serde_norway::from_str::<Value>(&file.text) {
            Ok(document) => documents.push((file.path.as_str(), document)),
            Err(error) => findings.push(Finding::new(&file.path, error.to_string())),
        }
    }
    let kind =
        |kind: &'static str| documents.iter().filter(move |(_, d)| text(d, &["kind"]) == kind);
    let Some((path, stateful_set)) = kind("StatefulSet").next() else {
        findings.push(Finding::new("deploy", "no StatefulSet"));
        return findings;
    };
    let mut messages = stateful_set_messages(stateful_set);
    messages.extend(container_messages(stateful_set, settings));
    findings.extend(messages.into_iter().map(|message| Finding::new(*path, message)));

    let ports = port_names(container(stateful_set));
    for (path, service) in kind("Service") {
        let messages = service_messages(service, &ports);
        findings.extend(messages.into_iter().map(|message| Finding::new(*path, message)));
    }
    for wanted in [NAME, CLIENT_SERVICE] {
        if !kind("Service").any(|(_, service)| text(service, &["metadata", "name"]) == wanted) {
            findings.push(Finding::new("deploy", format!("no Service {wanted}")));
        }
    }
    for (path, document) in &documents {
        let cluster_wide = text(document, &["kind"]) == "Namespace";
        if !cluster_wide && text(document, &["metadata", "namespace"]) != NAMESPACE {
            findings.push(Finding::new(*path, format!("is not in namespace {NAMESPACE}")));
        }
    }
    findings
}

fn stateful_set_messages(set: &Value) -> Vec<String> {
    let mut messages = Vec::new();
    let mut expect = |path: &[&str], wanted: &str, why: &str| {
        let found = text(set, path);
        if found != wanted {
            messages.push(format!("{} is {found:?}, not {wanted:?}: {why}", path.join(".")));
        }
    };
    expect(&["metadata", "name"], NAME, "operators type it");
    expect(&["spec", "serviceName"], NAME, "pods are addressed through the headless service");
    expect(&["spec", "podManagementPolicy"], "Parallel", "bootstrap needs all founders at once");
    let label = ["spec", "template", "metadata", "labels", NAME_LABEL];
    expect(&label, NAME, "selectors use it");
    expect(&["spec", "selector", "matchLabels", NAME_LABEL], NAME, "it selects the pods");
    messages
}

fn container_messages(set: &Value, settings: &[Setting]) -> Vec<String> {
    let container = container(set);
    let mut messages = Vec::new();
    for entry in list(container, "env") {
        let name = text(entry, &["name"]);
        let from_pod = !entry["valueFrom"]["fieldRef"].is_null();
        if !from_pod && !settings.iter().any(|setting| setting.env == name) {
            messages.push(format!("{name} is no setting of the node"));
        }
    }
    messages.extend(list(container, "args").iter().enumerate().filter_map(
        |(position, argument)| {
            let argument = scalar(argument);
            let flag =
                argument.strip_prefix("--").map(|flag| flag.split('=').next().unwrap_or(flag));
            let known = match flag {
                Some(flag) => settings.iter().any(|setting| setting.flag == flag),
                None => position == 0 && COMMANDS.contains(&argument.as_str()),
            };
            (!known).then(|| format!("the node knows no argument {argument:?}"))
        },
    ));
    for (env, port) in LISTENERS {
        let address = effective(container, settings, env);
        let number = address.rsplit(':').next().unwrap_or_default();
        let declared = list(container, "ports").iter().find(|p| text(p, &["name"]) == *port);
        let declared = declared.map(|p| text(p, &["containerPort"])).unwrap_or_default();
        if number.is_empty() || number != declared {
            messages.push(format!("port {port} is {declared:?}, but {env} is {address:?}"));
        }
    }
    let directory = effective(container, settings, "LEDGER_DATA_DIR");
    if !list(container, "volumeMounts").iter().any(|m| text(m, &["mountPath"]) == directory) {
        messages.push(format!("no volume is mounted at the data directory {directory:?}"));
    }
    let founders = effective(container, settings, "BOOTSTRAP_EXPECT");
    let replicas = text(set, &["spec", "replicas"]);
    if founders != replicas {
        messages.push(format!("{replicas} replicas, but BOOTSTRAP_EXPECT is {founders}"));
    }
    messages.extend(probe_messages(container));
    messages
}

fn probe_messages(container: &Value) -> Vec<String> {
    let ports = port_names(container);
    let mut messages = Vec::new();
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let path = text(container, &[probe, "httpGet", "path"]);
        let port = text(container, &[probe, "httpGet", "port"]);
        if !PROBE_PATHS.contains(&path.as_str()) {
            messages.push(format!("{probe} asks for {path:?}, which the node does not serve"));
        }
        if !ports.contains(&port) {
            messages.push(format!("{probe} uses port {port:?}, which is not declared"));
        }
    }
    messages
}

fn service_messages(service: &Value, ports: &[String]) -> Vec<String> {
    let mut messages = Vec::new();
    let name = text(service, &["metadata", "name"]);
    if text(service, &["spec", "selector", NAME_LABEL]) != NAME {
        messages.push(format!("{name} does not select {NAME_LABEL}={NAME}"));
    }
    for port in list(&service["spec"], "ports") {
        let target = text(port, &["targetPort"]);
        if !ports.contains(&target) {
            messages.push(format!("{name} leads to port {target:?}, which is not declared"));
        }
    }
    if name == NAME {
        if text(service, &["spec", "clusterIP"]) != "None" {
            messages.push(format!("{name} must be headless"));
        }
        if text(service, &["spec", "publishNotReadyAddresses"]) != "true" {
            messages.push(format!("{name} must publish founders that are not ready yet"));
        }
    }
    messages
}

/// The value a setting has in the container: what the manifest sets, else the default.
fn effective(container: &Value, settings: &[Setting], env: &str) -> String {
    let set = list(container, "env").iter().find(|entry| text(entry, &["name"]) == env);
    let default = settings.iter().find(|setting| setting.env == env).map(|s| s.default.clone());
    set.map_or_else(|| default.unwrap_or_default(), |entry| text(entry, &["value"]))
}

fn container(set: &Value) -> &Value {
    &set["spec"]["template"]["spec"]["containers"][0]
}

fn port_names(container: &Value) -> Vec<String> {
    list(container, "ports").iter().map(|port| text(port, &["name"])).collect()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_sequence().map_or(&[], Vec::as_slice)
}

fn text(value: &Value, path: &[&str]) -> String {
    scalar(path.iter().fold(value, |value, key| &value[*key]))
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATEFUL_SET: &str = include_str!("../../deploy/flux/apps/base/ledger/statefulset.yaml");
    const HEADLESS: &str = include_str!("../../deploy/flux/apps/base/ledger/service-headless.yaml");
    const CLIENT: &str = include_str!("../../deploy/flux/apps/base/ledger/service.yaml");

    fn settings() -> Vec<Setting> {
        [
            ("LEDGER_LISTEN_ADDR", "0.0.0.0:50051"),
            ("LEDGER_HTTP_ADDR", "0.0.0.0:9090"),
            ("LEDGER_ADVERTISE_ADDR", ""),
            ("LEDGER_DATA_DIR", "/data"),
            ("BOOTSTRAP_EXPECT", "3"),
        ]
        .map(|(env, default)| Setting {
            env: env.into(),
            flag: env.to_lowercase(),
            default: default.into(),
        })
        .into()
    }

    /// Findings for the shipped manifests after one change to the text of all of them.
    fn after(from: &str, to: &str) -> String {
        let all = [STATEFUL_SET, HEADLESS, CLIENT];
        assert!(from.is_empty() || all.iter().any(|text| text.contains(from)), "{from} is gone");
        let manifests = all.map(|text| TextFile {
            path: "m.yaml".into(),
            text: if from.is_empty() { text.to_owned() } else { text.replace(from, to) },
        });
        let findings = check(&manifests, &settings());
        findings.iter().map(|finding| finding.to_string() + "\n").collect()
    }

    #[test]
    fn the_shipped_manifests_pass() {
        assert_eq!(after("", ""), "");
    }

    #[test]
    fn each_broken_manifest_is_found() {
        for (from, to, message) in [
            ("name: BOOTSTRAP_EXPECT", "name: BOOTSTRAP_EXPECTED", "is no setting of the node"),
            ("args: [\"serve\"]", "args: [\"run\"]", "knows no argument \"run\""),
            ("args: [\"serve\"]", "args: [\"serve\", \"--fast=1\"]", "knows no argument"),
            ("containerPort: 50051", "containerPort: 50052", "port grpc is \"50052\""),
            ("value: 0.0.0.0:9090", "value: 0.0.0.0:9191", "port http is \"9090\""),
            ("mountPath: /data", "mountPath: /var", "no volume is mounted"),
            ("replicas: 3", "replicas: 5", "5 replicas, but BOOTSTRAP_EXPECT is 3"),
            ("path: /readyz", "path: /ready", "which the node does not serve"),
            ("port: http", "port: web", "which is not declared"),
            ("targetPort: grpc", "targetPort: rpc", "leads to port \"rpc\""),
            ("podManagementPolicy: Parallel", "podManagementPolicy: OrderedReady", "founders"),
            ("publishNotReadyAddresses: true", "publishNotReadyAddresses: false", "not ready yet"),
            ("clusterIP: None", "clusterIP: \"\"", "must be headless"),
            ("serviceName: inferadb-ledger", "serviceName: ledger", "headless service"),
            ("name: inferadb-ledger-client", "name: client", "no Service inferadb-ledger-client"),
            ("namespace: inferadb", "namespace: default", "is not in namespace"),
            ("kind: StatefulSet", "kind: Deployment", "no StatefulSet"),
            ("metadata:", "metadata: [", "m.yaml:"),
        ] {
            let findings = after(from, to);
            assert!(findings.contains(message), "{from} -> {to} gave {findings:?}");
        }
    }
}
