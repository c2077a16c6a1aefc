//! A signature leaves only after the record that forbids going back is durable: SIGKILL before the record, after it and
//! after the answer, with a look at the store each time. The process hangs at points that it follows in a file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ledger::demo::process::{READY_TIME_MAX, Server};
use ledger::test_hooks::{POINTS_VARIABLE, SEEN_SUFFIX};
use ledger_proof::{Checkpoint, Origin, SignedNote, SignedRecord};
use ledger_proto::v1;
use ledger_shard::{Family, SnapshotView, StateView as _, Store, StoreConfig};
use ledger_types::VaultRef;
use tonic::Status;

use super::harness::{Cluster, Node, eventually, wire};

/// For how long an answer is waited for that must not come. Without the hanging point it takes some milliseconds.
const ANSWER_MAX: Duration = Duration::from_millis(1_500);

async fn fresh_note(node: &Node, vault: VaultRef) -> Result<Checkpoint, Status> {
    let (namespace_id, vault_id) = wire(vault);
    let request = v1::GetCheckpointRequest { namespace_id, vault_id, min_size: None, fresh: true };
    let answer = node.ledger().get_checkpoint(request).await?.into_inner();
    let note = SignedNote::parse(&answer.note).expect("a note");
    Ok(Checkpoint::parse(&note.text).expect("a checkpoint"))
}

/// What a server that does not run has promised of a log.
fn recorded(server: &Server, origin: &Origin) -> Option<SignedRecord> {
    assert_eq!(server.process_id(), None, "a store has one process");
    let store = Store::open(&server.spec().data_dir, None, &StoreConfig::default()).unwrap();
    let key = format!("checkpoint/{origin}");
    let bytes = SnapshotView::new(&store).get(Family::Meta, key.as_bytes()).unwrap()?;
    Some(SignedRecord::decode(&bytes).unwrap())
}

/// Has the process take over what its file of points says.
async fn set_points(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap();
    let mut seen = file.as_os_str().to_owned();
    seen.push(SEEN_SUFFIX);
    let seen = PathBuf::from(seen);
    let is_seen = async || match std::fs::read_to_string(&seen) {
        Ok(found) if found == text => Ok(()),
        other => Err(format!("{other:?}")),
    };
    eventually("the file of points is read", is_seen).await;
}

/// A write, and a request for a note of the log with its block that hangs at a point and is killed there. Returns the
/// blocks of that log.
async fn killed_at(cluster: &mut Cluster, vault: VaultRef, file: &Path, point: &str) -> u64 {
    set_points(file, &format!("{point}=pause\n")).await;
    let node = cluster.node(0);
    let height = node.put_in_time(vault, point, b"value").await;
    let answer = tokio::time::timeout(ANSWER_MAX, fresh_note(&node, vault)).await;
    if let Ok(Ok(note)) = answer {
        panic!("a note of {} blocks left at {point}", note.size);
    }
    cluster.servers[0].kill();
    std::fs::write(file, "").unwrap();
    height + 1
}

#[tokio::test(flavor = "multi_thread")]
async fn no_signature_leaves_before_its_record_is_durable() {
    let mut cluster = Cluster::start(1).await;
    let vault = cluster.vaults("promises", 1).await[0];
    let file = cluster.directory("points").join("points");
    std::fs::write(&file, "").unwrap();
    cluster.servers[0].kill();
    let points = (POINTS_VARIABLE.to_owned(), file.display().to_string());
    cluster.servers[0].spec_mut().environment.push(points);
    cluster.resume(0).await;

    // A note that got out: its record outlives the process.
    cluster.node(0).put_in_time(vault, "first", b"value").await;
    let node = cluster.node(0);
    let told = eventually("a note", async || fresh_note(&node, vault).await).await;
    cluster.servers[0].kill();
    let kept = recorded(&cluster.servers[0], &told.origin).expect("what was signed is recorded");
    assert!((kept.size, kept.root) >= (told.size, told.root), "{} of {}", kept.size, told.size);

    // Before the record nothing leaves, and nothing is promised.
    cluster.resume(0).await;
    let blocks = killed_at(&mut cluster, vault, &file, "signer::record").await;
    let before = recorded(&cluster.servers[0], &told.origin).expect("the earlier one stays");
    assert!(before.size < blocks, "{} of {blocks}", before.size);

    // After the record nothing has left yet, but the promise is durable.
    cluster.resume(0).await;
    let blocks = killed_at(&mut cluster, vault, &file, "signer::recorded").await;
    let after = recorded(&cluster.servers[0], &told.origin).expect("it was just written");
    assert_eq!(after.size, blocks);

    cluster.servers[0].resume().unwrap();
    cluster.servers[0].wait_ready(READY_TIME_MAX).await.unwrap();
    let node = cluster.node(0);
    let again = eventually("a note", async || fresh_note(&node, vault).await).await;
    assert!(again.size >= blocks, "{} of {blocks}", again.size);
    if again.size == after.size {
        assert_eq!(again.root, after.root);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn notes_asked_for_side_by_side_while_the_log_grows_never_go_back() {
    let cluster = Cluster::start(1).await;
    let vault = cluster.vaults("promises", 1).await[0];
    let node = cluster.node(0);
    node.put_in_time(vault, "first", b"value").await;
    eventually("a note", async || fresh_note(&node, vault).await).await;
    let writing = tokio::spawn({
        let node = node.clone();
        async move {
            for number in 0..200 {
                node.put(vault, &format!("key{number}"), b"value").await.unwrap();
            }
        }
    });
    let asking: Vec<_> = (0..4)
        .map(|_| {
            let node = node.clone();
            tokio::spawn(async move {
                let mut sizes = Vec::new();
                for _ in 0..50 {
                    sizes.push(fresh_note(&node, vault).await.unwrap());
                }
                sizes
            })
        })
        .collect();
    let mut roots = std::collections::BTreeMap::new();
    for one in asking {
        let notes = one.await.unwrap();
        assert!(notes.is_sorted_by_key(|note| note.size), "each asker's notes grow");
        for note in notes {
            let known = roots.insert(note.size, note.root);
            assert!(known.is_none_or(|root| root == note.root), "two logs of {}", note.size);
        }
    }
    writing.await.unwrap();
    assert!(roots.len() > 1, "the log grew meanwhile: {roots:?}");
}
