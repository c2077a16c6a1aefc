//! Every method of the public API under requests that nobody should send, made from the descriptors: each is answered, with
//! a typed refusal or with what was asked for, and the cluster goes on.
//!
//! Owns the judgement of answers and which methods may be asked about what exists.

mod cases;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cases::{Case, Maker, Names};
use ledger::demo::replicas::wait_level;
use ledger_types::VaultRef;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use tokio::task::JoinSet;
use tonic::Code;

use super::harness::{Cluster, why};
use super::raw_call::{Heard, Line};

/// What the requests are drawn from.
const SEED: u64 = 20_261_122;
/// Calls at a time: some wait a moment for a height that never comes.
const CALLS_TOGETHER: usize = 24;
/// Longest wait for replicas to be level after it all.
const LEVEL_TIME_MAX: Duration = Duration::from_secs(30);
/// Ids that nothing has.
const NOBODY: Names = Names { namespace: 4_711_000, vault: 4_711_000, is_real: false };
/// How methods begin that at most write to a vault or add to the directory. Others may end what the test stands on: a
/// node, a namespace. They are asked about what does not exist.
const HARMLESS: [&str; 12] = [
    "Batch",
    "Check",
    "Create",
    "Export",
    "Get",
    "Historical",
    "Import",
    "List",
    "Read",
    "Verified",
    "Watch",
    "Write",
];

fn is_harmless(method: &MethodDescriptor) -> bool {
    HARMLESS.iter().any(|verb| method.name().starts_with(verb))
}

fn methods() -> Vec<MethodDescriptor> {
    let mut pool = DescriptorPool::decode(ledger_proto::FILE_DESCRIPTOR_SET).unwrap();
    pool.decode_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET).unwrap();
    pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

fn path_of(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// What is wrong with an answer.
fn complaint(case: &Case, heard: &Result<Heard, h2::Error>) -> Option<String> {
    let status = match heard {
        Ok(Heard::Status(status)) => status,
        Ok(Heard::Stream) if case.is_malformed => return Some("it was accepted".to_owned()),
        Ok(Heard::Stream) => return None,
        Ok(Heard::Nothing) => return Some("no answer came".to_owned()),
        Err(error) => return Some(format!("the call was broken off: {error}")),
    };
    let (code, reason) = why(status);
    match code {
        Code::Ok if case.is_malformed => Some("it was accepted".to_owned()),
        Code::Ok => None,
        Code::Internal | Code::DataLoss => Some(format!("{code:?} {reason}: {}", status.message())),
        _ if reason.is_empty() => Some(format!("{code:?} without a reason: {}", status.message())),
        _ => None,
    }
}

/// Sends every case of a method, several at a time, to one node after the other, and counts the answers by kind.
async fn attack(
    lines: &[Arc<Line>],
    method: &MethodDescriptor,
    cases: Vec<Case>,
    counts: &mut BTreeMap<String, usize>,
) -> Vec<String> {
    let path = path_of(method);
    let mut complaints = Vec::new();
    for together in cases.chunks(CALLS_TOGETHER) {
        let mut calls = JoinSet::new();
        for (number, case) in together.iter().cloned().enumerate() {
            let (line, path) = (lines[number % lines.len()].clone(), path.clone());
            let is_stream = method.is_server_streaming();
            calls.spawn(async move {
                let heard = line.call(&path, case.body.clone(), &[], is_stream).await;
                (case, heard)
            });
        }
        while let Some(call) = calls.join_next().await {
            let (case, heard) = call.unwrap();
            let kind = match &heard {
                Ok(Heard::Status(status)) => format!("{:?} {}", status.code(), why(status).1),
                Ok(Heard::Stream) => "a stream".to_owned(),
                Ok(Heard::Nothing) => "nothing".to_owned(),
                Err(error) => error.to_string(),
            };
            *counts.entry(kind).or_default() += 1;
            if let Some(complaint) = complaint(&case, &heard) {
                complaints.push(format!("{path}, {}: {complaint}", case.what));
            }
        }
    }
    complaints
}

fn panics(cluster: &Cluster) -> Vec<String> {
    let logs = cluster.servers.iter().map(|server| &server.spec().log_file);
    let texts = logs.map(|path| std::fs::read_to_string(path).unwrap());
    let said =
        |text: String| text.lines().filter(|l| l.contains("panicked")).map(str::to_owned).collect();
    texts.flat_map(|text| -> Vec<String> { said(text) }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_request_is_answered_and_ends_nothing() {
    let cluster = Cluster::start(3).await;
    let vault: VaultRef = cluster.vaults("hostile", 1).await[0];
    cluster.node(0).put_in_time(vault, "before", b"1").await;
    let names = Names {
        namespace: i64::try_from(vault.namespace.0).unwrap(),
        vault: i64::try_from(vault.vault.0).unwrap(),
        is_real: true,
    };
    let mut lines = Vec::new();
    for address in cluster.addresses() {
        lines.push(Arc::new(Line::open(&address).await));
    }
    let (mut complaints, mut counts, mut total) = (Vec::new(), BTreeMap::new(), 0);
    for (number, method) in methods().iter().enumerate() {
        let names = if is_harmless(method) { names } else { NOBODY };
        let cases = Maker::new(names, SEED + number as u64).cases(method);
        total += cases.len();
        complaints.extend(attack(&lines, method, cases, &mut counts).await);
    }
    let shown = complaints.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
    assert!(complaints.is_empty(), "{} of {total} answers:\n{shown}", complaints.len());
    assert_eq!(panics(&cluster), [""; 0]);
    // The requests went far enough: some were carried out, and many were refused for what they say.
    let count = |kind: &str| counts.get(kind).copied().unwrap_or(0);
    assert!(count("Ok ") > 100 && count("InvalidArgument INVALID_ARGUMENT") > 100, "{counts:#?}");
    assert!(count("InvalidArgument MALFORMED_MESSAGE") > 100, "{counts:#?}");

    cluster.assert_ready().await;
    for (number, node) in cluster.nodes().iter().enumerate() {
        node.put_in_time(vault, &format!("after/{number}"), b"1").await;
        assert_eq!(node.read(vault, "before").await.unwrap().as_deref(), Some(&b"1"[..]));
    }
    wait_level(&cluster.replicas(), &[vault], LEVEL_TIME_MAX).await.unwrap();
}

#[test]
fn the_same_seed_makes_the_same_requests_and_another_makes_others() {
    let bodies = |seed| {
        let names = Names { namespace: 1, vault: 1, is_real: true };
        let all = methods();
        let write = all.iter().find(|method| method.name() == "Write").unwrap();
        let cases = Maker::new(names, seed).cases(write);
        cases.into_iter().map(|case| case.body).collect::<Vec<_>>()
    };
    assert_eq!(bodies(1), bodies(1));
    assert_ne!(bodies(1), bodies(2));
}

#[test]
fn requests_about_nothing_name_nothing_that_exists() {
    for method in methods().iter().filter(|method| !is_harmless(method)) {
        for case in Maker::new(NOBODY, SEED).cases(method) {
            // Ids of nodes, shards and namespaces are small numbers; a request without any may mean the node itself.
            let is_empty = case.body[..] == [0; 5];
            assert!(!is_empty || case.is_malformed, "{}, {}", path_of(method), case.what);
        }
    }
}
