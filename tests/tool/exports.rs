//! An export that is killed goes on where its file is whole, and says how far it is.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ledger_proto::v1;
use tonic::Status;

use super::harness::Scene;
use crate::support::Node;
use crate::support::chain::bundle;

const HEIGHT: u64 = 3;
/// Chunks of the export.
const CHUNKS: usize = 5;
/// Longer than any test: a node that has stopped in the middle.
const FOR_EVER: Duration = Duration::from_secs(3_600);
const LINE: &str = "export out.jsonl";

/// A chunk of the export: an entity and two relationships. Its cursor is the number of the next one.
fn chunk(number: usize) -> v1::ExportBulkResponse {
    let tie = |subject: String| v1::Relationship {
        resource: format!("document:{number}"),
        relation: "viewer".to_owned(),
        subject,
    };
    let next = number + 1;
    v1::ExportBulkResponse {
        height: HEIGHT,
        entities: vec![v1::Entity {
            key: format!("key/{number}"),
            value: format!("value {number}").into_bytes(),
            expires_at: None,
            version: 1,
        }],
        relationships: vec![tie("user:ann".to_owned()), tie(format!("user:{number}"))],
        cursor: if next == CHUNKS { String::new() } else { next.to_string() },
    }
}

/// The chunk that a request begins with.
fn asked(request: &v1::ExportBulkRequest) -> usize {
    if request.cursor.is_empty() { 0 } else { request.cursor.parse().unwrap() }
}

/// From now on the node sends everything that is asked for.
fn send_all(node: &Node) {
    *node.exports.delay.lock() = Duration::ZERO;
    node.exports.answer(|_, request| Ok((asked(request)..CHUNKS).map(|n| Ok(chunk(n))).collect()));
}

/// From now on the node sends two chunks, breaks the stream, and answers nothing more.
fn send_two(node: &Arc<Node>) {
    *node.exports.delay.lock() = Duration::ZERO;
    let silent = node.clone();
    node.exports.answer(move |_, request| {
        *silent.exports.delay.lock() = FOR_EVER;
        let first = asked(request);
        let sent = (first..CHUNKS).take(2).map(|number| Ok(chunk(number)));
        Ok(sent.chain([Err(Status::unavailable("the node stops"))]).collect())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_killed_goes_on_and_comes_out_as_if_it_had_not_been() {
    let scene = Scene::new(&bundle()).await;
    let path = |name: &str| scene.folder.path().join(name);
    send_all(&scene.node);
    scene.says("export whole.jsonl");
    let whole = std::fs::read(path("whole.jsonl")).unwrap();
    assert_eq!(whole.iter().filter(|byte| **byte == b'\n').count(), 3 * CHUNKS);

    for kept in 1..=2 {
        send_two(&scene.node);
        let mut command = scene.command(LINE);
        let mut killed = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut told = String::new();
        BufReader::new(killed.stderr.take().unwrap()).read_line(&mut told).unwrap();
        let (entities, ties) = (kept, 2 * kept);
        let expected =
            format!("{entities} entities and {ties} relationships at height {HEIGHT} so far\n");
        assert_eq!(told, expected);
        killed.kill().unwrap();
        killed.wait().unwrap();
        assert!(path("out.jsonl.ledger-export").exists() && !path("out.jsonl").exists());
        // What was written behind the last kept place may be cut anywhere.
        let mut part = OpenOptions::new().append(true).open(path("out.jsonl.part")).unwrap();
        part.write_all(b"{\"key\":\"torn").unwrap();
    }

    let other = scene.run("export out.jsonl --only entities");
    assert_eq!(other.exit_code, Some(1), "{other:?}");
    assert!(other.complaint.contains("another export is unfinished"), "{other:?}");
    send_all(&scene.node);
    let done: serde_json::Value =
        serde_json::from_str(&scene.says(&format!("{LINE} -o json"))).unwrap();
    assert_eq!(
        (&done["height"], &done["entities"], &done["relationships"]),
        (&HEIGHT.into(), &CHUNKS.into(), &(2 * CHUNKS).into())
    );
    let last = scene.node.exports.seen.lock().pop().unwrap();
    assert_eq!((last.cursor.as_str(), last.at_height), ("2", Some(HEIGHT)));
    assert_eq!(std::fs::read(path("out.jsonl")).unwrap(), whole);
    assert!(!path("out.jsonl.part").exists() && !path("out.jsonl.ledger-export").exists());
}
