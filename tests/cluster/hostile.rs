//! Every method of the public API under requests that nobody should send, made from the descriptors: each is answered, with
//! a typed refusal or with what was asked for, and the cluster goes on.
//!
//! Owns the judgement of answers and which methods may be asked about what exists.

mod cases;
mod tokens;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cases::{AFTER_BEGIN, Case, Maker, Names};
use ledger::demo::replicas::wait_level;
use ledger_proto::v1;
use ledger_proto::v1::write_stream_response::Result as Streamed;
use ledger_types::VaultRef;
use prost::Message as _;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::harness::{Cluster, why};
use super::raw_call::{Conversation, Heard, Line};

/// What the requests are drawn from.
const SEED: u64 = 20_261_122;
/// Calls at a time: some wait a moment for a height that never comes.
const CALLS_TOGETHER: usize = 24;
/// Longest wait for replicas to be level after it all.
const LEVEL_TIME_MAX: Duration = Duration::from_secs(30);
/// In place of a reason: a write of a stream got the answer that it would have got alone.
const ANSWERED: &str = "ANSWERED";
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

/// An answer, as far as it is judged.
enum Answer {
    /// How it ended, or one refusal of several: code, reason and text.
    Said(Code, String, String),
    /// A stream that goes on.
    Stream,
    /// None came, or the call was broken off.
    Missing(String),
}

impl Answer {
    fn of(heard: Result<Heard, h2::Error>) -> Answer {
        match heard {
            Ok(Heard::Status(status)) => Answer::of_status(&status),
            Ok(Heard::Stream) => Answer::Stream,
            Ok(Heard::Nothing) => Answer::Missing("no answer came".to_owned()),
            Err(error) => Answer::Missing(format!("the call was broken off: {error}")),
        }
    }

    fn of_status(status: &Status) -> Answer {
        let (code, reason) = why(status);
        Answer::Said(code, reason, status.message().to_owned())
    }

    /// Each refusal that a stream of writes told of, and how a stream ended.
    fn of_stream(
        method: &MethodDescriptor,
        heard: Result<Option<Conversation>, h2::Error>,
    ) -> Vec<Answer> {
        let Conversation { messages, status } = match heard {
            Ok(Some(conversation)) => conversation,
            Ok(None) => return vec![Answer::Missing("it never ended".to_owned())],
            Err(error) => return vec![Answer::of(Err(error))],
        };
        let mut answers = vec![Answer::of_status(&status)];
        if method.name() == "WriteStream" {
            let decoded =
                messages.into_iter().map(|one| v1::WriteStreamResponse::decode(one).unwrap());
            answers.extend(decoded.map(|one| match one.result {
                Some(Streamed::Refusal(refusal)) => {
                    let code = i32::try_from(refusal.code).unwrap();
                    Answer::Said(Code::from_i32(code), refusal.reason, refusal.message)
                }
                Some(Streamed::Answer(_)) => {
                    Answer::Said(Code::Ok, ANSWERED.to_owned(), String::new())
                }
                None => Answer::Missing("an answer is empty".to_owned()),
            }));
        }
        answers
    }

    /// Code and reason, by which answers are counted.
    fn kind(&self) -> String {
        match self {
            Answer::Said(code, reason, _) => format!("{code:?} {reason}"),
            Answer::Stream => "a stream".to_owned(),
            Answer::Missing(why) => why.clone(),
        }
    }

    /// What is wrong with it.
    fn complaint(&self, case: &Case) -> Option<String> {
        match self {
            Answer::Missing(why) => Some(why.clone()),
            Answer::Stream | Answer::Said(Code::Ok, ..) => {
                case.is_malformed.then(|| "it was accepted".to_owned())
            }
            Answer::Said(Code::Internal | Code::DataLoss, _, text) => {
                Some(format!("{}: {text}", self.kind()))
            }
            Answer::Said(code, reason, text) => {
                reason.is_empty().then(|| format!("{code:?} without a reason: {text}"))
            }
        }
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
            let (line, path, method) =
                (lines[number % lines.len()].clone(), path.clone(), method.clone());
            calls.spawn(async move {
                let body = case.body.clone();
                let answers = match method.is_client_streaming() {
                    true => Answer::of_stream(&method, line.converse(&path, body).await),
                    false => {
                        let is_stream = method.is_server_streaming();
                        vec![Answer::of(line.call(&path, body, &[], is_stream).await)]
                    }
                };
                (case, answers)
            });
        }
        while let Some(call) = calls.join_next().await {
            let (case, answers) = call.unwrap();
            for answer in answers {
                let kind = answer.kind();
                if method.is_client_streaming() {
                    let behind = if case.what.starts_with(AFTER_BEGIN) { AFTER_BEGIN } else { "" };
                    *counts.entry(format!("{}: {behind}{kind}", method.name())).or_default() += 1;
                }
                *counts.entry(kind).or_default() += 1;
                if let Some(complaint) = answer.complaint(&case) {
                    complaints.push(format!("{path}, {}: {complaint}", case.what));
                }
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
    // On streams too: writes and chunks were judged by what they say.
    for kind in ["InvalidArgument INVALID_ARGUMENT", "InvalidArgument LIMIT_EXCEEDED"] {
        assert!(count(&format!("WriteStream: {kind}")) > 10, "{counts:#?}");
        assert!(count(&format!("ImportBulk: {AFTER_BEGIN}{kind}")) > 10, "{counts:#?}");
    }
    assert!(count(&format!("WriteStream: Ok {ANSWERED}")) > 60, "{counts:#?}");
    assert!(count(&format!("ImportBulk: {AFTER_BEGIN}Ok ")) > 30, "{counts:#?}");

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
