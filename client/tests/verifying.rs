//! Verified reads: honest answers are believed and remembered, others are refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;

use ledger_client::{
    Client, ClientConfig, ClientError, PINNED_BUNDLE_FILE, SavedProof, TrustSource,
    VerificationError, VerifiedOptions, read_bundle, write_bundle,
};
use ledger_proof::system_entity::bundle_key;
use ledger_proof::trust::BundleVoter;
use ledger_proof::{
    KnownCheckpoint, Threshold, TimeRule, TrustBundle, VerifiedRead, VerifiedValue, VerifyError,
};
use ledger_proto::v1;
use ledger_types::{NodeId, StateKey, VaultRef};
use support::chain::{Cluster, Log, bundle, bundle_of, node_key_of};
use support::{VAULT, config, start};

fn keys() -> Vec<StateKey> {
    vec![StateKey::entity("config"), StateKey::by_resource("doc:1", "viewer", "user:a")]
}

async fn client(address: &str, state: &Path) -> Client {
    let trust = state.join("handed-over.bundle");
    write_bundle(&trust, &bundle()).unwrap();
    let mut settings = config(&[address]);
    settings.trust = TrustSource::File(trust);
    settings.state_dir = Some(state.to_owned());
    Client::connect(settings).await.unwrap()
}

fn refused(error: ClientError) -> VerificationError {
    match error {
        ClientError::Verification(error) => *error,
        other => panic!("not a refusal: {other}"),
    }
}

fn checkpoints(state: &Path) -> Vec<KnownCheckpoint> {
    let files = std::fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|name| name == "checkpoint"));
    files.map(|path| KnownCheckpoint::decode(&std::fs::read(path).unwrap()).unwrap()).collect()
}

fn known_sizes(state: &Path, vault: VaultRef) -> Vec<u64> {
    let all = checkpoints(state);
    all.into_iter().filter(|known| known.origin.vault == vault).map(|known| known.size).collect()
}

#[tokio::test]
async fn an_honest_answer_is_believed_and_remembered() {
    let state = tempfile::tempdir().unwrap();
    let (node, address) = start().await;
    let cluster = Cluster::new();
    cluster.serve(&node);
    let reader = client(&address, state.path()).await;
    let answer = reader.verified_get(VAULT, &keys(), VerifiedOptions::default()).await.unwrap();
    let [VerifiedValue::Present { value, .. }, VerifiedValue::Absent] = answer.values() else {
        panic!("{:?}", answer.values())
    };
    assert_eq!(value, b"{}");
    assert_eq!(known_sizes(state.path(), VAULT), [2]);
    assert_eq!(known_sizes(state.path(), VaultRef::SYSTEM), [2]);
    cluster.vault.lock().commit(&[(StateKey::entity("config"), b"new".to_vec())]);
    // Another process: it knows what the first one left.
    let reader = client(&address, state.path()).await;
    let answer = reader.verified_get(VAULT, &keys()[..1], VerifiedOptions::default()).await;
    assert_eq!(answer.unwrap().into_single_value().unwrap(), b"new");
    assert_eq!(known_sizes(state.path(), VAULT), [3]);
    let seen = node.verified.seen.lock();
    let last = seen.last().unwrap();
    assert_eq!((last.known_size, last.min_height), (Some(2), Some(1)));
}

#[tokio::test]
async fn voters_are_learnt_once() {
    let state = tempfile::tempdir().unwrap();
    let (node, address) = start().await;
    Cluster::new().serve(&node);
    let reader = client(&address, state.path()).await;
    for _ in 0..5 {
        reader.verified_get(VAULT, &keys(), VerifiedOptions::default()).await.unwrap();
    }
    // The vault's entity, its shard's, its voters'; then five reads.
    assert_eq!(node.verified.count(), 8);
}

#[tokio::test]
async fn a_tampered_answer_is_refused_and_changes_nothing() {
    let state = tempfile::tempdir().unwrap();
    let (node, address) = start().await;
    let cluster = Cluster::new();
    cluster.serve(&node);
    let reader = client(&address, state.path()).await;
    reader.verified_get(VAULT, &keys(), VerifiedOptions::default()).await.unwrap();
    cluster.vault.lock().commit(&[(StateKey::entity("config"), b"honest".to_vec())]);
    let honest = cluster.clone();
    node.verified.answer(move |_, request| {
        let mut answer = honest.answer(request);
        let mut read = VerifiedRead::decode(&answer.package).unwrap();
        if let Some(value) = &mut read.items[0].value {
            value[0] ^= 1;
        }
        answer.package = read.encode();
        Ok(answer)
    });
    let error = reader.verified_get(VAULT, &keys(), VerifiedOptions::default()).await.unwrap_err();
    let error = refused(error);
    let expected = VerifyError::ValueMismatch { index: 0 };
    assert!(matches!(error, VerificationError::Refused(error) if error == expected));
    assert_eq!(known_sizes(state.path(), VAULT), [2]);
    // Bytes after the end, an answer to another question, and no answer at all.
    let honest = cluster.clone();
    node.verified.answer(move |number, request| {
        let mut answer = honest.answer(request);
        match number % 3 {
            0 => answer.package.push(0),
            1 => {
                let other = v1::VerifiedGetRequest { keys: Vec::new(), ..request.clone() };
                let keys = [StateKey::entity("x"), StateKey::entity("y")];
                let wire = ledger_proto::convert::reads::wire_verified_key;
                let keys = keys.iter().filter_map(wire).collect();
                answer = honest.answer(&v1::VerifiedGetRequest { keys, ..other });
            }
            _ => answer.package.clear(),
        }
        Ok(answer)
    });
    for _ in 0..3 {
        let answer = reader.verified_get(VAULT, &keys(), VerifiedOptions::default()).await;
        assert!(matches!(refused(answer.unwrap_err()), VerificationError::Refused(_)));
    }
    assert_eq!(known_sizes(state.path(), VAULT), [2]);
}

#[tokio::test]
async fn a_rewritten_history_is_refused_with_evidence() {
    let state = tempfile::tempdir().unwrap();
    let (node, address) = start().await;
    let cluster = Cluster::new();
    cluster.vault.lock().commit(&[(StateKey::entity("config"), b"one".to_vec())]);
    cluster.serve(&node);
    let reader = client(&address, state.path()).await;
    reader.verified_get(VAULT, &keys(), VerifiedOptions::default()).await.unwrap();
    // The same signer shows a log of the same vault with another past.
    let mut other = Log::new(VAULT);
    for value in ["two", "three", "four"] {
        other.commit(&[(StateKey::entity("config"), value.as_bytes().to_vec())]);
    }
    *cluster.vault.lock() = other;
    let error = reader.verified_get(VAULT, &keys(), VerifiedOptions::default()).await.unwrap_err();
    let VerificationError::Fork { known_size: 3, offered_size: 4, evidence, .. } = refused(error)
    else {
        panic!("not a fork")
    };
    let kept = std::fs::read_to_string(evidence.unwrap()).unwrap();
    assert_eq!(kept.matches("test.ledger/ns/7/vault/9/0\n").count(), 2, "{kept}");
    assert_eq!(known_sizes(state.path(), VAULT), [3]);
    // A log that went back is refused as well, also by a process that starts later.
    *cluster.vault.lock() = Log::new(VAULT);
    let reader = client(&address, state.path()).await;
    let error = reader.verified_get(VAULT, &keys(), VerifiedOptions::default()).await.unwrap_err();
    let behind = VerifyError::Behind { known: 3, offered: 1 };
    assert!(matches!(refused(error), VerificationError::Refused(error) if error == behind));
}

#[tokio::test]
async fn a_vault_that_does_not_exist_is_proved_absent() {
    let state = tempfile::tempdir().unwrap();
    let (node, address) = start().await;
    Cluster::new().serve(&node);
    let reader = client(&address, state.path()).await;
    let absent = VaultRef::new(7, 10);
    let error = reader.verified_get(absent, &keys(), VerifiedOptions::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::VaultAbsent(vault) if vault == absent), "{error}");
}

#[tokio::test]
async fn trust_on_first_use_pins_and_then_refuses_another_bundle() {
    let state = tempfile::tempdir().unwrap();
    let (node, address) = start().await;
    Cluster::new().serve(&node);
    let mut settings = config(&[&address]);
    let reader = Client::connect(settings.clone()).await.unwrap();
    let error = reader.verified_get(VAULT, &keys(), VerifiedOptions::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::NoTrust), "{error}");
    settings.trust = TrustSource::FirstUse;
    assert!(matches!(Client::connect(settings.clone()).await, Err(ClientError::Config(_))));
    settings.state_dir = Some(state.path().to_owned());
    let reader = Client::connect(settings.clone()).await.unwrap();
    reader.verified_get(VAULT, &keys(), VerifiedOptions::default()).await.unwrap();
    reader.verified_get(VAULT, &keys(), VerifiedOptions::default()).await.unwrap();
    // Once for the bundles, and once to hear that there are no more.
    assert_eq!(node.bundles.count(), 2);
    // What is pinned serves a client that is not told to trust anew.
    settings.trust = TrustSource::Pinned;
    let reader = Client::connect(settings.clone()).await.unwrap();
    reader.verified_get(VAULT, &keys(), VerifiedOptions::default()).await.unwrap();
    settings.trust = TrustSource::FirstUse;
    for (sequence, superseded) in [(1, false), (2, true)] {
        let mut other = bundle();
        other.sequence = sequence;
        other.voters[0].public_key = [9; 32];
        let bundles = vec![other.encode()];
        node.bundles.answer(move |_, request| {
            let bundles = if request.from_sequence == 0 { bundles.clone() } else { Vec::new() };
            Ok(v1::GetTrustBundleResponse { bundles, voter_sets: Vec::new() })
        });
        let reader = Client::connect(settings.clone()).await.unwrap();
        let answer = reader.verified_get(VAULT, &keys(), VerifiedOptions::default()).await;
        match refused(answer.unwrap_err()) {
            VerificationError::TrustSuperseded { pinned: 1, offered: 2 } => assert!(superseded),
            VerificationError::TrustChanged { pinned: 1, offered: 1 } => assert!(!superseded),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_client_that_verifies_remembers_unless_it_is_told_to_forget() {
    let state = tempfile::tempdir().unwrap();
    let (node, address) = start().await;
    let cluster = Cluster::new();
    cluster.serve(&node);
    let (file, remembering) = (state.path().join("cluster.trust"), state.path().join("made/here"));
    write_bundle(&file, &bundle()).unwrap();
    let mut settings = ClientConfig::verifying(vec![address], &file, &remembering);
    let read = async |settings: &ClientConfig| {
        let reader = Client::connect(settings.clone()).await?;
        let answer = reader.verified_get(VAULT, &keys(), VerifiedOptions::default()).await?;
        Ok::<u64, ClientError>(answer.proved.block.checkpoint.size)
    };
    cluster.vault.lock().commit(&[(StateKey::entity("config"), b"next".to_vec())]);
    assert_eq!(read(&settings).await.unwrap(), 3);
    assert_eq!(known_sizes(&remembering, VAULT), [3]);
    // A later client with this memory notices that the history was taken back.
    *cluster.vault.lock() = Log::new(VAULT);
    let error = read(&settings).await.unwrap_err();
    assert!(error.is_verification_refusal(), "{error}");
    settings.state_dir = None;
    let error = read(&settings).await.unwrap_err();
    assert!(matches!(&error, ClientError::Config(_)), "{error}");
    assert!(error.to_string().contains("forgets_checkpoints"), "{error}");
    settings.forgets_checkpoints = true;
    assert_eq!(read(&settings).await.unwrap(), 1, "it knows no better");
}

#[tokio::test]
async fn a_bundle_that_the_pinned_one_vouches_for_takes_its_place() {
    let state = tempfile::tempdir().unwrap();
    let (node, address) = start().await;
    let cluster = Cluster::new();
    cluster.serve(&node);
    let mut settings = config(&[&address]);
    settings.trust = TrustSource::FirstUse;
    settings.state_dir = Some(state.path().to_owned());
    let first = bundle();
    let reader = Client::connect(settings.clone()).await.unwrap();
    let bundles = vec![first.encode()];
    node.bundles.answer(move |_, request| {
        let bundles = if request.from_sequence == 0 { bundles.clone() } else { Vec::new() };
        Ok(v1::GetTrustBundleResponse { bundles, voter_sets: Vec::new() })
    });
    assert_eq!(*reader.trust_bundle().await.unwrap(), first);
    let mut second = first.clone();
    second.sequence = 2;
    second.max_age_seconds += 1;
    let key = StateKey::entity(&bundle_key(2));
    cluster.system.lock().commit(&[(key.clone(), second.encode())]);
    let link = cluster.system.lock().read(&[key], None);
    let bundles = vec![first.encode(), link.encode()];
    node.bundles.answer(move |_, request| {
        let bundles = if request.from_sequence == 0 { bundles.clone() } else { Vec::new() };
        Ok(v1::GetTrustBundleResponse { bundles, voter_sets: Vec::new() })
    });
    let reader = Client::connect(settings).await.unwrap();
    assert_eq!(*reader.trust_bundle().await.unwrap(), second);
    let pinned = read_bundle(&state.path().join(PINNED_BUNDLE_FILE)).unwrap();
    assert_eq!(pinned, Some(second));
}

#[tokio::test]
async fn a_pinned_bundle_is_followed_once_other_nodes_vote_for_the_directory() {
    let state = tempfile::tempdir().unwrap();
    let (node, address) = start().await;
    let cluster = Cluster::new();
    cluster.serve(&node);
    let pinned = state.path().join(PINNED_BUNDLE_FILE);
    write_bundle(&pinned, &bundle()).unwrap();
    let mut settings = config(&[&address]);
    settings.state_dir = Some(state.path().to_owned());
    let reader = Client::connect(settings).await.unwrap();
    let key = [StateKey::entity(&bundle_key(2))];
    let read = || reader.verified_get(VaultRef::SYSTEM, &key, VerifiedOptions::default());
    let links = |links: Vec<Vec<u8>>| {
        node.bundles.answer(move |_, request| {
            let bundles = if request.from_sequence == 1 { links.clone() } else { Vec::new() };
            Ok(v1::GetTrustBundleResponse { bundles, voter_sets: Vec::new() })
        });
    };
    links(Vec::new());
    read().await.unwrap();
    let (name, public_key) = ("n2".to_owned(), node_key_of(2).public_key());
    let voters = vec![BundleVoter { node: NodeId(2), name, public_key }];
    let second = TrustBundle { sequence: 2, voters, ..bundle() };
    cluster.system.lock().commit(&[(key[0].clone(), second.encode())]);
    let link = cluster.system.lock().read(&key, None).encode();
    cluster.system.lock().signed_by = 2;

    // A bundle that is not proved under the pinned one changes nothing, nor does none at all.
    let forged = cluster.system.lock().read(&key, None).encode();
    for shown in [vec![], vec![forged], vec![second.encode()]] {
        links(shown);
        assert!(read().await.unwrap_err().is_verification_refusal());
        assert_eq!(read_bundle(&pinned).unwrap(), Some(bundle()));
    }
    links(vec![link]);
    let answer = read().await.unwrap();
    assert!(matches!(answer.values(), [VerifiedValue::Present { .. }]), "{:?}", answer.values());
    assert_eq!(*reader.trust_bundle().await.unwrap(), second);
    assert_eq!(read_bundle(&pinned).unwrap(), Some(second));
}

/// Bundles after `first` that ask for less: fewer signatures, or a lower floor.
fn lowered(first: &TrustBundle) -> [TrustBundle; 2] {
    let second = TrustBundle { sequence: first.sequence + 1, ..first.clone() };
    [
        TrustBundle { threshold: Threshold::Fixed(1), floor: 1, ..second.clone() },
        TrustBundle { floor: first.floor - 1, ..second },
    ]
}

#[tokio::test]
async fn a_bundle_that_lowers_the_rule_is_refused_by_name_although_it_is_vouched_for() {
    let first = TrustBundle { floor: 2, ..bundle_of(&[1, 2, 3], Threshold::Majority) };
    for second in lowered(&first) {
        let state = tempfile::tempdir().unwrap();
        let (node, address) = start().await;
        let cluster = Cluster::of(&[1, 2, 3]);
        cluster.system.lock().cosigned_by = vec![(2, 0)];
        cluster.vault.lock().cosigned_by = vec![(2, 0)];
        cluster.serve(&node);
        let pinned = state.path().join(PINNED_BUNDLE_FILE);
        write_bundle(&pinned, &first).unwrap();
        let key = StateKey::entity(&bundle_key(2));
        cluster.system.lock().commit(&[(key.clone(), second.encode())]);
        // A majority of the voters of the first bundle signs it.
        let link = cluster.system.lock().read(&[key], None).encode();
        let first_bytes = first.encode();
        node.bundles.answer(move |_, request| {
            let bundles = match request.from_sequence {
                0 => vec![first_bytes.clone(), link.clone()],
                1 => vec![link.clone()],
                _ => Vec::new(),
            };
            Ok(v1::GetTrustBundleResponse { bundles, voter_sets: Vec::new() })
        });
        // From now on one node signs alone, which the second bundle would allow.
        cluster.system.lock().cosigned_by.clear();
        cluster.vault.lock().cosigned_by.clear();
        for trust in [TrustSource::Pinned, TrustSource::File(pinned.clone()), TrustSource::FirstUse]
        {
            let mut settings = config(&[&address]);
            settings.trust = trust.clone();
            settings.state_dir = Some(state.path().to_owned());
            let reader = Client::connect(settings).await.unwrap();
            let answer = reader.verified_get(VAULT, &keys(), VerifiedOptions::default()).await;
            let expected = VerifyError::LoweredRule { sequence: 2 };
            match refused(answer.unwrap_err()) {
                VerificationError::Refused(error) => assert_eq!(error, expected, "{trust:?}"),
                other => panic!("{trust:?}: {other}"),
            }
            assert_eq!(read_bundle(&pinned).unwrap().as_ref(), Some(&first));
        }
    }
}

#[tokio::test]
async fn a_saved_proof_is_checked_without_a_network() {
    let state = tempfile::tempdir().unwrap();
    let (node, address) = start().await;
    let cluster = Cluster::new();
    cluster.serve(&node);
    let reader = client(&address, state.path()).await;
    for round in 0..2 {
        cluster.vault.lock().commit(&[(StateKey::entity("config"), b"saved".to_vec())]);
        let wanted = VerifiedOptions::default();
        let answer = reader.verified_get(VAULT, &keys(), wanted).await.unwrap();
        let bytes = answer.saved_proof().encode();
        let read = SavedProof::decode(&bytes).unwrap();
        let checked = read.verify(&bundle(), TimeRule::Any).unwrap().into_values().unwrap();
        assert_eq!((checked.vault, &checked.keys), (VAULT, &keys()));
        assert_eq!(checked.proved.values, answer.values());
        let mut stranger = bundle();
        stranger.voters[0].public_key = [9; 32];
        assert!(read.verify(&stranger, TimeRule::Any).is_err());
        // A changed byte is noticed, or what is said stays true: the log's own signature never counts and
        // may differ, and a changed question about an absent key may still be answered by the same path.
        for offset in (round * 20..bytes.len()).step_by(41) {
            let mut changed = bytes.clone();
            changed[offset] ^= 1;
            let decoded = SavedProof::decode(&changed);
            let Ok(other) = decoded.and_then(|proof| proof.verify(&bundle(), TimeRule::Any)) else {
                continue;
            };
            let other = other.into_values().unwrap();
            assert_eq!(other.vault, VAULT, "byte {offset}");
            let answers = other.keys.iter().zip(&other.proved.values);
            for (index, (key, value)) in answers.enumerate() {
                match *key == checked.keys[index] {
                    true => assert_eq!(*value, checked.proved.values[index], "byte {offset}"),
                    false => assert_eq!(*value, VerifiedValue::Absent, "byte {offset}"),
                }
            }
        }
        assert!(SavedProof::decode(&[&bytes[..], &[0]].concat()).is_err());
        assert!(SavedProof::decode(&bytes[..bytes.len() - 1]).is_err());
    }
    let wanted = VerifiedOptions::default();
    let directory = vec![StateKey::entity("vault/7/9")];
    let answer = reader.verified_get(VaultRef::SYSTEM, &directory, wanted).await.unwrap();
    let checked = answer.saved_proof().verify(&bundle(), TimeRule::Any).unwrap();
    assert_eq!(checked.into_values().unwrap().vault, VaultRef::SYSTEM);
}

#[tokio::test]
async fn readers_at_once_agree_on_one_chain() {
    let state = tempfile::tempdir().unwrap();
    let (node, address) = start().await;
    let cluster = Cluster::new();
    let serving = cluster.clone();
    cluster.serve(&node);
    node.verified.answer(move |_, request| {
        if request.namespace_id != Some(v1::NamespaceId { id: 0 }) {
            serving.vault.lock().commit(&[(StateKey::entity("config"), b"next".to_vec())]);
        }
        Ok(serving.answer(request))
    });
    let reader = client(&address, state.path()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let reader = reader.clone();
        tasks.spawn(async move {
            let answer = reader.verified_get(VAULT, &keys(), VerifiedOptions::default()).await;
            answer.unwrap().proved.block.checkpoint.size
        });
    }
    let mut largest = 0;
    while let Some(size) = tasks.join_next().await {
        largest = largest.max(size.unwrap());
    }
    assert_eq!(known_sizes(state.path(), VAULT), [largest]);
}
