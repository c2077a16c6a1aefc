//! Proved answers of real servers: believed when they are right, refused when one byte is not.

use std::path::Path;

use ledger::demo::vaults::make_vault;
use ledger_client::{Client, ClientConfig, ClientError, SavedProof, TrustSource, VerifiedOptions};
use ledger_proof::{TimeRule, VerifiedValue};
use ledger_types::{Operation, StateKey, VaultRef};

use super::harness::{Cluster, WAIT_MAX};

const RELATIONSHIP: (&str, &str, &str) = ("document:7", "viewer", "user:alice");

pub(crate) async fn client(addresses: Vec<String>, state_dir: &Path) -> Client {
    let mut config = ClientConfig::new(addresses);
    config.trust = TrustSource::FirstUse;
    config.state_dir = Some(state_dir.to_owned());
    config.deadline = WAIT_MAX;
    Client::connect(config).await.unwrap()
}

pub(crate) fn set(key: &str, value: &[u8]) -> Operation {
    let (key, value) = (key.to_owned(), value.to_vec());
    Operation::SetEntity { key, value, expires_at: 0, condition: None }
}

/// An entity and a relationship, both there, and the same two with another name, both not there.
fn keys() -> [StateKey; 4] {
    let (resource, relation, subject) = RELATIONSHIP;
    [
        StateKey::entity("present"),
        StateKey::by_resource(resource, relation, subject),
        StateKey::entity("presen"),
        StateKey::by_resource(resource, relation, "user:mallory"),
    ]
}

fn assert_values(values: &[VerifiedValue], expected: &[u8], height: u64) {
    let [entity, relationship, no_entity, no_relationship] = values else { panic!("{values:?}") };
    let VerifiedValue::Present { record, value } = entity else { panic!("{entity:?}") };
    assert_eq!((&value[..], record.modified_height), (expected, height));
    assert!(matches!(relationship, VerifiedValue::Present { value, .. } if value.is_empty()));
    assert_eq!((no_entity, no_relationship), (&VerifiedValue::Absent, &VerifiedValue::Absent));
}

async fn write(client: &Client, vault: VaultRef, value: &[u8]) -> u64 {
    let (resource, relation, subject) = RELATIONSHIP;
    let grant = Operation::CreateRelationship {
        resource: resource.to_owned(),
        relation: relation.to_owned(),
        subject: subject.to_owned(),
    };
    client.write(vault, vec![set("present", value), grant]).await.unwrap().height
}

/// Every single-byte change of a saved proof is refused, unless it says exactly the same.
fn assert_no_byte_can_change(proof: &SavedProof, bundle: &ledger_proof::TrustBundle) {
    let bytes = proof.encode();
    let check = |bytes: &[u8]| {
        let checked =
            SavedProof::decode(bytes).and_then(|proof| proof.verify(bundle, TimeRule::Any));
        checked.map(|checked| checked.into_values().expect("it is about keys"))
    };
    let honest = check(&bytes).unwrap();
    let mut refused = 0;
    for place in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0x10;
        match check(&damaged) {
            Err(_) => refused += 1,
            Ok(checked) => {
                assert_eq!(checked.vault, honest.vault, "byte {place}");
                assert_eq!(checked.proved.values, honest.proved.values, "byte {place}");
                // What is proved absent may get another name that is absent as well, and no other.
                let answers = checked.keys.iter().zip(&honest.keys).zip(&checked.proved.values);
                for ((found, wanted), value) in answers {
                    let is_absent = *value == VerifiedValue::Absent && !keys()[..2].contains(found);
                    assert!(found == wanted || is_absent, "byte {place}: {found:?}");
                }
                let (found, wanted) = (&checked.proved.block, &honest.proved.block);
                assert_eq!(found.header, wanted.header, "byte {place}");
                assert_eq!(found.checkpoint.root, wanted.checkpoint.root, "byte {place}");
            }
        }
    }
    assert!(refused * 10 > bytes.len() * 9, "{refused} of {} changes refused", bytes.len());
    for length in [0, 1, 16, bytes.len() / 2, bytes.len() - 1] {
        assert!(check(&bytes[..length]).is_err(), "{length} bytes");
    }
    let longer = [bytes, vec![0]].concat();
    assert!(check(&longer).is_err(), "a byte after the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_proved_through_every_node_and_across_restarts() {
    let mut cluster = Cluster::start(3).await;
    let vault = cluster.vaults("proofs", 1).await[0];
    let fresh = VerifiedOptions::linearizable();
    let state_dir = cluster.directory("remembers");
    let everyone = client(cluster.addresses(), &state_dir).await;
    let mut last = 0;
    for (number, server) in cluster.servers.iter().enumerate() {
        let value = format!("value {number}").into_bytes();
        last = write(&everyone, vault, &value).await;
        let newcomer_dir = cluster.directory(&format!("newcomer-{number}"));
        let newcomer = client(vec![server.address()], &newcomer_dir).await;
        for reader in [&everyone, &newcomer] {
            let answer = reader.verified_get(vault, &keys(), fresh).await.unwrap();
            assert_values(answer.values(), &value, last);
            assert!(answer.proved.block.header.height >= last);
        }
        let own = VerifiedOptions { min_height: last, ..VerifiedOptions::default() };
        let answer = newcomer.verified_get(vault, &keys(), own).await.unwrap();
        assert_values(answer.values(), &value, last);
    }
    let answer = everyone.verified_get(vault, &keys(), fresh).await.unwrap();
    let bundle = everyone.trust_bundle().await.unwrap();
    assert_no_byte_can_change(&answer.saved_proof(), &bundle);

    // The directory's own chain is proved the same way.
    let entity = StateKey::entity(&format!("vault/{}/{}", vault.namespace, vault.vault));
    let answer = everyone.verified_get(VaultRef::SYSTEM, &[entity], fresh).await.unwrap();
    assert!(matches!(answer.values(), [VerifiedValue::Present { .. }]));

    for server in &mut cluster.servers {
        server.kill();
    }
    for server in &mut cluster.servers {
        server.resume().unwrap();
    }
    for server in &mut cluster.servers {
        server.wait_ready(WAIT_MAX).await.unwrap();
    }
    // What was remembered before the crash must be extended by what is shown after it.
    let remembering = client(cluster.addresses(), &state_dir).await;
    let answer = remembering.verified_get(vault, &keys(), fresh).await.unwrap();
    assert_values(answer.values(), b"value 2", last);
    write(&remembering, vault, b"after").await;
    let answer = remembering.verified_get(vault, &keys()[..1], fresh).await.unwrap();
    assert!(matches!(answer.values(), [VerifiedValue::Present { value, .. }] if value == b"after"));
}

/// A client that trusts one cluster believes no other.
#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_is_not_believed() {
    let cluster = Cluster::start(1).await;
    let vault = cluster.vaults("trusted", 1).await[0];
    let state_dir = cluster.directory("client");
    let trusting = client(cluster.addresses(), &state_dir).await;
    write(&trusting, vault, b"1").await;
    let any = VerifiedOptions::default();
    trusting.verified_get(vault, &keys(), any).await.unwrap();

    let root = cluster.directory("impostor");
    let spec = ledger::demo::process::plan(super::harness::server_binary(), &root, 1);
    let impostor = ledger::demo::process::start_all(spec.unwrap()).await.unwrap();
    let fooled = client(vec![impostor[0].address()], &cluster.directory("naive")).await;
    let namespace = fooled.ensure_namespace("trusted").await.unwrap();
    let (same_vault, _) = make_vault(&fooled, namespace).await.unwrap();
    assert_eq!(same_vault, vault, "the impostor has a vault of the same name");
    write(&fooled, vault, b"2").await;
    fooled.verified_get(vault, &keys(), any).await.unwrap();
    let wary = client(vec![impostor[0].address()], &state_dir).await;
    let error = wary.verified_get(vault, &keys(), any).await.unwrap_err();
    assert!(error.is_verification_refusal(), "{error}");

    let mut config = ClientConfig::new(cluster.addresses());
    config.trust = TrustSource::Pinned;
    let trustless = Client::connect(config).await.unwrap();
    let error = trustless.verified_get(vault, &keys(), any).await.unwrap_err();
    assert!(matches!(error, ClientError::NoTrust), "{error}");
}
