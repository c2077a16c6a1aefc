//! Servers that lie about a vault, each in one way. The client refuses every lie, says what is wrong,
//! remembers nothing of it, and believes the truth afterwards.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::sync::Arc;

use ledger_client::{
    Client, ClientError, TrustSource, VerificationError, VerifiedGet, VerifiedOptions, write_bundle,
};
use ledger_proof::{
    KeyProof, KnownCheckpoint, Origin, SignedNote, Threshold, TimeRule, TrustBundle, VerifiedRead,
    VerifiedValue,
};
use ledger_proto::v1;
use ledger_types::{StateKey, VaultRef};
use support::chain::{Cluster, Log, bundle, bundle_of, convicting, node_key_of, now, remembered};
use support::{Node, VAULT, config, start};
use tempfile::TempDir;

/// A reader that has once heard the truth, and the server that it goes on asking.
struct Scene {
    node: Arc<Node>,
    address: String,
    cluster: Arc<Cluster>,
    trust: TrustBundle,
    state: TempDir,
    reader: Client,
}

fn key() -> StateKey {
    StateKey::entity("config")
}

fn set(value: &[u8]) -> Vec<(StateKey, Vec<u8>)> {
    vec![(key(), value.to_vec())]
}

fn is_about_the_vault(request: &v1::VerifiedGetRequest) -> bool {
    request.namespace_id != Some(v1::NamespaceId { id: 0 })
}

async fn reader(address: &str, state: &Path, trust: &TrustBundle) -> Client {
    let file = state.join("handed-over.bundle");
    write_bundle(&file, trust).unwrap();
    let mut settings = config(&[address]);
    settings.trust = TrustSource::File(file);
    settings.state_dir = Some(state.to_owned());
    Client::connect(settings).await.unwrap()
}

impl Scene {
    /// One node signs, and one signature is enough.
    async fn of_one() -> Scene {
        Scene::new(Cluster::new(), bundle()).await
    }

    /// Three nodes vote, of whom two must sign.
    async fn of_three() -> Scene {
        let cluster = Cluster::of(&[1, 2, 3]);
        cluster.system.lock().cosigned_by = vec![(2, 0)];
        cluster.vault.lock().cosigned_by = vec![(3, 0)];
        Scene::new(cluster, bundle_of(&[1, 2, 3], Threshold::Majority)).await
    }

    async fn new(cluster: Arc<Cluster>, trust: TrustBundle) -> Scene {
        let state = tempfile::tempdir().unwrap();
        let (node, address) = start().await;
        cluster.serve(&node);
        let reader = reader(&address, state.path(), &trust).await;
        let scene = Scene { node, address, cluster, trust, state, reader };
        assert_eq!(scene.read().await.unwrap().into_single_value().unwrap(), b"{}");
        scene
    }

    async fn read(&self) -> Result<VerifiedGet, ClientError> {
        self.reader.verified_get(VAULT, &[key()], VerifiedOptions::default()).await
    }

    /// From now on answers about the vault are honest ones with this change.
    fn lie(&self, change: impl Fn(&mut VerifiedRead) + Send + Sync + 'static) {
        self.lie_about(is_about_the_vault, change);
    }

    /// The same for the requests that `chosen` chooses.
    fn lie_about(
        &self,
        chosen: impl Fn(&v1::VerifiedGetRequest) -> bool + Send + Sync + 'static,
        change: impl Fn(&mut VerifiedRead) + Send + Sync + 'static,
    ) {
        let cluster = self.cluster.clone();
        self.node.verified.answer(move |_, request| {
            let mut answer = cluster.answer(request);
            if chosen(request) {
                let mut read = VerifiedRead::decode(&answer.package).unwrap();
                change(&mut read);
                answer.package = read.encode();
            }
            Ok(answer)
        });
    }

    /// From now on each answer about the vault is this one.
    fn repeat(&self, read: &VerifiedRead) {
        let read = read.clone();
        self.lie(move |answer| *answer = read.clone());
    }

    /// What an honest server answers to somebody who knows `known_size` blocks.
    fn honest(&self, known_size: Option<u64>) -> VerifiedRead {
        self.cluster.vault.lock().read(&[key()], known_size)
    }

    /// Reads, and finds the answer refused with these words and nothing remembered.
    async fn assert_refused(&self, words: &str) -> VerificationError {
        self.assert_refused_by(&self.reader, words).await
    }

    async fn assert_refused_by(&self, reader: &Client, words: &str) -> VerificationError {
        let before = remembered(self.state.path());
        let read = reader.verified_get(VAULT, &[key()], VerifiedOptions::default()).await;
        let error = read.expect_err("a lie is not believed");
        assert!(error.is_verification_refusal(), "{error}");
        assert!(error.to_string().contains(words), "`{error}` does not say `{words}`");
        assert_eq!(remembered(self.state.path()), before, "{words}");
        match error {
            ClientError::Verification(error) => *error,
            other => panic!("{other}"),
        }
    }

    /// The server tells the truth again, and is believed.
    async fn assert_truth_is_believed(&self, value: &[u8]) {
        self.cluster.serve(&self.node);
        assert_eq!(self.read().await.unwrap().into_single_value().unwrap(), value);
    }
}

fn known(state: &Path) -> KnownCheckpoint {
    let all = remembered(state).into_values().map(|bytes| KnownCheckpoint::decode(&bytes).unwrap());
    all.into_iter().find(|known| known.origin.vault == VAULT).unwrap()
}

/// Changes the signature lines of an answer's note.
fn sign_again(read: &mut VerifiedRead, change: impl Fn(&mut SignedNote)) {
    let mut note = SignedNote::parse(&read.block.note).unwrap();
    change(&mut note);
    read.block.note = note.encode();
}

#[tokio::test]
async fn a_stale_value_under_a_new_checkpoint_is_refused() {
    let scene = Scene::of_one().await;
    let stale = scene.honest(None);
    scene.cluster.vault.lock().commit(&set(b"new"));
    // The old block is in the new log, and its proof is right; it is not the last one.
    let (header, header_path) = scene.cluster.vault.lock().block(1);
    let items = stale.items.clone();
    scene.lie(move |read| {
        (read.block.header, read.block.header_path) = (header, header_path.clone());
        read.items.clone_from(&items);
    });
    scene.assert_refused("the header is of block 1, not 2").await;
    // The new block with the old key proof, and the new proof with the old value.
    let items = stale.items.clone();
    scene.lie(move |read| read.items.clone_from(&items));
    scene.assert_refused("proof of key 0: the path leads to another state root").await;
    let value = stale.items[0].value.clone();
    scene.lie(move |read| read.items[0].value.clone_from(&value));
    scene.assert_refused("the value of key 0 is not the committed one").await;
    scene.assert_truth_is_believed(b"new").await;
}

#[tokio::test]
async fn a_checkpoint_that_went_back_is_refused() {
    let scene = Scene::of_one().await;
    let old = scene.honest(None);
    scene.cluster.vault.lock().commit(&set(b"new"));
    scene.read().await.unwrap();
    scene.repeat(&old);
    scene.assert_refused("the note has 2 blocks, 3 are known").await;
    // Another process with the same memory knows it too.
    let later = reader(&scene.address, scene.state.path(), &scene.trust).await;
    scene.assert_refused_by(&later, "the note has 2 blocks, 3 are known").await;
    scene.assert_truth_is_believed(b"new").await;
}

#[tokio::test]
async fn a_server_that_stays_behind_the_readers_own_write_is_refused() {
    let scene = Scene::of_one().await;
    let wanted = VerifiedOptions { min_height: 5, ..VerifiedOptions::default() };
    let error = scene.reader.verified_get(VAULT, &[key()], wanted).await.unwrap_err();
    assert!(error.to_string().contains("ends at block 1, 5 is needed"), "{error}");
    assert!(error.is_verification_refusal());
    scene.assert_truth_is_believed(b"{}").await;
}

#[tokio::test]
async fn another_vaults_proof_is_refused() {
    let scene = Scene::of_one().await;
    // The neighbour has the same content, and the same node signs for it.
    let mut neighbour = Log::new(VaultRef::new(7, 8));
    neighbour.commit(&set(b"{}"));
    let foreign = neighbour.read(&[key()], None);
    scene.repeat(&foreign);
    let log = "the note is about test.ledger/ns/7/vault/8/0, not test.ledger/ns/7/vault/9/0";
    scene.assert_refused(log).await;
    let block = foreign.block.clone();
    scene.lie(move |read| {
        (read.block.header, read.block.header_path) = (block.header, block.header_path.clone());
    });
    scene.assert_refused("the header is of vault 7/8").await;
    let items = foreign.items.clone();
    scene.lie(move |read| read.items.clone_from(&items));
    scene.assert_refused("proof of key 0: the path leads to another state root").await;
    scene.assert_truth_is_believed(b"{}").await;
}

#[tokio::test]
async fn a_server_that_takes_another_identity_is_refused() {
    let scene = Scene::of_one().await;
    let vault = |origin| {
        let mut log = Log::new(VAULT);
        log.origin = origin;
        log.commit(&set(b"{}"));
        log.commit(&set(b"other"));
        log
    };
    let mine = Origin { domain: scene.trust.domain.clone(), vault: VAULT, log_epoch: 0 };
    // A cluster of another name does not begin a new memory, though the same key signs.
    *scene.cluster.vault.lock() = vault(Origin { domain: "new.ledger".to_owned(), ..mine.clone() });
    let log = "the note is about new.ledger/ns/7/vault/9/0, not test.ledger/ns/7/vault/9/0";
    scene.assert_refused(log).await;
    // Nor does a log of another epoch, which may have lost blocks.
    *scene.cluster.vault.lock() = vault(Origin { log_epoch: 1, ..mine.clone() });
    scene.assert_refused("log epoch is 1, not 0: history may have been lost").await;
    // The directory of another cluster is refused as well, for a client that has to ask it.
    *scene.cluster.system.lock() = {
        let mut system = Log::new(VaultRef::SYSTEM);
        system.origin.domain = "new.ledger".to_owned();
        system
    };
    let later = reader(&scene.address, scene.state.path(), &scene.trust).await;
    scene.assert_refused_by(&later, "the note is about new.ledger/ns/0/vault/0/0").await;
}

fn evidence_of(error: VerificationError) -> std::path::PathBuf {
    match error {
        VerificationError::Fork { evidence, .. } => evidence.expect("there is a state directory"),
        other => panic!("not a fork: {other}"),
    }
}

#[tokio::test]
async fn a_forked_history_is_refused_and_both_notes_convict_the_signer() {
    let scene = Scene::of_one().await;
    scene.cluster.vault.lock().commit(&set(b"one"));
    scene.read().await.unwrap();
    let history = |values: &[&[u8]]| {
        let mut log = Log::new(VAULT);
        log.commit(&set(b"{}"));
        values.iter().for_each(|value| log.commit(&set(value)));
        log
    };
    // As long as the known one, longer with an honest path of its own, and longer without a path.
    let honest = std::mem::replace(&mut *scene.cluster.vault.lock(), history(&[]));
    for values in [&[&b"two"[..]][..], &[b"two", b"three", b"four"]] {
        *scene.cluster.vault.lock() = history(values);
        let error = scene.assert_refused("FORK of the log of vault 7/9").await;
        let [first, second] = convicting(&evidence_of(error), &scene.trust);
        assert_eq!((first.size, second.size), (3, 2 + values.len() as u64));
        assert_eq!(first.origin, second.origin);
        assert_eq!(first.root, known(scene.state.path()).root);
        assert_ne!(second.root, first.root);
    }
    scene.lie(|read| read.block.consistency = None);
    scene.assert_refused("no consistency path from size 3").await;
    *scene.cluster.vault.lock() = honest;
    scene.cluster.vault.lock().commit(&set(b"honest"));
    scene.assert_truth_is_believed(b"honest").await;
}

#[tokio::test]
async fn two_clients_with_two_histories_hold_the_evidence_between_them() {
    // With one signature needed, one node can show each client another history. Neither sees more than
    // its own; what both remember, put side by side, convicts the signer.
    let (left, right) = (Scene::of_one().await, Scene::of_one().await);
    left.cluster.vault.lock().commit(&set(b"left"));
    right.cluster.vault.lock().commit(&set(b"right"));
    left.assert_truth_is_believed(b"left").await;
    right.assert_truth_is_believed(b"right").await;
    let notes = [&left, &right].map(|scene| known(scene.state.path()));
    assert_eq!((&notes[0].origin, notes[0].size), (&notes[1].origin, notes[1].size));
    assert_ne!(notes[0].root, notes[1].root);
    for note in notes {
        let parsed = SignedNote::parse(&note.note).unwrap();
        let voters = [left.trust.system_voters()];
        assert!(left.trust.count(&parsed, &voters, TimeRule::Any).is_ok());
    }
    // As soon as one client is shown the other's history, it is the one that finds out.
    let other = right.honest(Some(3));
    left.repeat(&other);
    left.assert_refused("FORK of the log of vault 7/9").await;
}

#[tokio::test]
async fn a_forged_absence_is_refused() {
    let scene = Scene::of_one().await;
    let changes = ["a", "b", "other"].map(|name| (StateKey::entity(name), b"x".to_vec()));
    scene.cluster.vault.lock().commit(&changes);
    scene.read().await.unwrap();
    let leaf_of = |name: &str| {
        let key = [StateKey::entity(name)];
        scene.cluster.vault.lock().read(&key, None).items[0].proof.clone()
    };
    type Forge = Box<dyn Fn(&mut KeyProof) + Send + Sync>;
    let (other, near) = (leaf_of("other"), leaf_of("b"));
    let leaf = other.clone();
    let forgeries: Vec<(&str, Forge)> = vec![
        ("is present but has no value", Box::new(|_| ())),
        ("the leaf's key takes another side", Box::new(move |proof| *proof = other.clone())),
        ("the leaf's key takes another side", Box::new(move |proof| *proof = near.clone())),
        // Another leaf under the key's own path, and the key's own leaf under another name.
        (
            "the leaf's key takes another side",
            Box::new(move |proof| {
                (proof.leaf_key, proof.record) = (leaf.leaf_key.clone(), leaf.record);
            }),
        ),
        (
            "the path leads to another state root",
            Box::new(|proof| {
                proof.leaf_key.push(b'x');
            }),
        ),
        ("the path leads to another state root", Box::new(|proof| proof.path.clear())),
        ("the leaf's key has 0 bytes", Box::new(|proof| proof.leaf_key.clear())),
    ];
    for (words, forge) in forgeries {
        scene.lie(move |read| {
            read.items[0].value = None;
            forge(&mut read.items[0].proof);
        });
        scene.assert_refused(words).await;
    }
    scene.lie(|read| read.items.clear());
    scene.assert_refused("0 keys answered, 1 asked for").await;
    scene.assert_truth_is_believed(b"{}").await;
}

#[tokio::test]
async fn a_forged_presence_is_refused() {
    let scene = Scene::of_one().await;
    scene.cluster.vault.lock().commit(&[(StateKey::entity("grant"), b"yes".to_vec())]);
    scene.read().await.unwrap();
    let granted = scene.cluster.vault.lock().read(&[StateKey::entity("grant")], None).items;
    let wanted = [StateKey::entity("not-granted")];
    let read = || scene.reader.verified_get(VAULT, &wanted, VerifiedOptions::default());
    let absent = read().await.unwrap();
    assert!(matches!(absent.values(), [VerifiedValue::Absent]));
    let refused = |error: ClientError, words: &str| {
        assert!(error.is_verification_refusal() && error.to_string().contains(words), "{error}");
    };
    scene.lie(|read| read.items[0].value = Some(b"yes".to_vec()));
    refused(read().await.unwrap_err(), "key 0 is absent but has a value");
    let items = granted.clone();
    scene.lie(move |read| read.items.clone_from(&items));
    let error = read().await.unwrap_err();
    assert!(error.is_verification_refusal(), "{error}");
    scene.lie(move |read| {
        read.items.clone_from(&granted);
        read.items[0].proof.leaf_key = StateKey::entity("not-granted").as_bytes().to_vec();
    });
    refused(read().await.unwrap_err(), "the path leads to another state root");
}

#[tokio::test]
async fn a_vault_is_not_argued_away() {
    let scene = Scene::of_one().await;
    let stranger = [StateKey::entity("shard/1234")];
    let absent = scene.cluster.system.lock().read(&stranger, None).items;
    // A client with nothing cached asks the directory whether there is such a vault.
    let wanted = StateKey::entity("vault/7/9");
    let asks_for_vault = move |request: &v1::VerifiedGetRequest| {
        let keys = ledger_proto::convert::reads::verified_keys(&request.keys).unwrap();
        keys == [wanted.clone()]
    };
    scene.lie_about(asks_for_vault.clone(), move |read| read.items.clone_from(&absent));
    let later = reader(&scene.address, scene.state.path(), &scene.trust).await;
    scene.assert_refused_by(&later, "proof of key 0").await;
    scene.lie_about(asks_for_vault, |read| read.items[0].value = None);
    scene.assert_refused_by(&later, "key 0 is present but has no value").await;
}

#[tokio::test]
async fn one_bad_cosigner_does_not_make_a_note_count() {
    let scene = Scene::of_three().await;
    let too_few = "the note does not count: 1 voters cosigned in time, 2 must have";
    let checkpoint = scene.cluster.vault.lock().checkpoint();
    let signers = |cosigned_by: &[(u8, u64)]| {
        scene.cluster.vault.lock().cosigned_by = cosigned_by.to_vec();
    };
    // Alone; one key twice; a node that no longer votes; an old note that only one signs anew.
    let lines: [(&[(u8, u64)], &str); 5] = [
        (&[], "2 must have"),
        (&[(1, 5)], "left out: 1 of a key that counts already"),
        (&[(4, 0)], "left out: 1 of no voter"),
        (&[(2, 10_000), (3, 10_000)], "left out: 2 too old"),
        (&[(2, 601)], "left out: 1 too old"),
    ];
    for (cosigned_by, why) in lines {
        signers(cosigned_by);
        let error = scene.assert_refused(too_few).await;
        assert!(error.to_string().ends_with(why), "`{error}` does not end with `{why}`");
    }
    signers(&[]);
    // A stranger under a voter's name, and the bad node's key under another voter's.
    for number in [9, 1] {
        let line = node_key_of(number).cosign(&checkpoint, "n2", now());
        scene.lie(move |read| sign_again(read, |note| note.signatures.push(line.clone())));
        scene.assert_refused(too_few).await;
    }
    // Log signatures say nothing about time, whoever makes them.
    let lines = [2, 3].map(|number| node_key_of(number).sign_log(&checkpoint));
    scene.lie(move |read| sign_again(read, |note| note.signatures.extend(lines.clone())));
    scene.assert_refused(too_few).await;
    // A bad signature of a known key refuses the note, however many good ones there are.
    signers(&[(2, 0), (3, 0)]);
    scene.lie(|read| sign_again(read, |note| note.signatures[2].signature[20] ^= 1));
    scene.assert_refused("signature of the known key test.ledger/node/n2 is bad").await;
    scene.assert_truth_is_believed(b"{}").await;
}

#[tokio::test]
async fn a_directory_that_one_node_signs_alone_names_no_voters() {
    // The bad node makes itself the only voter of the vault's shard and invents a state.
    let scene = Scene::of_three().await;
    let alone = Cluster::of(&[1]);
    alone.vault.lock().commit(&set(b"invented"));
    alone.serve(&scene.node);
    let later = reader(&scene.address, scene.state.path(), &scene.trust).await;
    let too_few = "the note does not count: 1 voters cosigned in time, 2 must have";
    scene.assert_refused_by(&later, too_few).await;
    // With its accomplice it needs no more; that is what a threshold of two says.
    alone.system.lock().cosigned_by = vec![(3, 0)];
    let state = tempfile::tempdir().unwrap();
    let newcomer = reader(&scene.address, state.path(), &scene.trust).await;
    let believed = newcomer.verified_get(VAULT, &[key()], VerifiedOptions::default()).await;
    assert_eq!(believed.unwrap().into_single_value().unwrap(), b"invented");
}

#[tokio::test]
async fn an_old_note_is_nothing_to_a_client_without_memory() {
    let scene = Scene::of_three().await;
    scene.cluster.vault.lock().signed_by = 4;
    let state = tempfile::tempdir().unwrap();
    let newcomer = reader(&scene.address, state.path(), &scene.trust).await;
    for (age, counted) in [(10_000, 0), (700, 0)] {
        scene.cluster.vault.lock().cosigned_by = vec![(1, age), (2, age), (3, age)];
        let words = format!("{counted} voters cosigned in time, 2 must have");
        scene.assert_refused_by(&newcomer, &words).await;
    }
    scene.cluster.vault.lock().cosigned_by = vec![(1, 500), (2, 500)];
    let believed = newcomer.verified_get(VAULT, &[key()], VerifiedOptions::default()).await;
    assert_eq!(believed.unwrap().into_single_value().unwrap(), b"{}");
}

#[tokio::test]
async fn an_expired_grant_in_an_idle_vault_is_no_grant() {
    // The last block is older than the expiry, so nothing in the vault says that it is over.
    let scene = Scene::of_one().await;
    let grant = |expires_at| scene.cluster.vault.lock().commit_until(&set(b"yes"), expires_at);
    grant(now() - 10);
    let answer = scene.read().await.unwrap();
    let header_time = answer.proved.block.header.timestamp_ns / 1_000_000_000;
    let [VerifiedValue::Expired { record }] = answer.values() else {
        panic!("{:?}", answer.values())
    };
    assert!(header_time < record.expires_at);
    assert_eq!(answer.into_single_value(), None);
    grant(now() + 1000);
    assert_eq!(scene.read().await.unwrap().into_single_value().unwrap(), b"yes");
}
