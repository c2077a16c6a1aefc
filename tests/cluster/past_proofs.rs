//! Proofs at earlier heights, lists that are proved complete, and histories of keys, on real servers.

use std::collections::BTreeMap;

use ledger_client::{CheckedProof, Client, HistoryEnd, ListOf, SavedProof, VerifiedOptions};
use ledger_proof::{TimeRule, VerifiedItem, VerifiedValue};
use ledger_types::{Operation, StateKey, VaultRef};

use super::harness::Cluster;
use super::proofs::{client, set};

/// Rounds of writes, each of which changes some keys and makes new ones.
const ROUNDS: u64 = 12;
const PAGE_ITEMS: u32 = 7;

/// What a vault holds, as the writer knows it.
type Model = BTreeMap<String, Vec<u8>>;

fn everything() -> ListOf {
    ListOf::Entities(String::new())
}

/// Writes rounds and returns the model after the block of each.
async fn write_rounds(writer: &Client, vault: VaultRef) -> BTreeMap<u64, Model> {
    let mut model = Model::new();
    let mut models = BTreeMap::new();
    for round in 0..ROUNDS {
        let mut operations = vec![set("every", format!("round {round}").as_bytes())];
        for number in 0..3 {
            operations.push(set(&format!("key/{round:02}/{number}"), b"new"));
        }
        if round >= 4 {
            let key = format!("key/{:02}/1", round - 4);
            operations.push(Operation::DeleteEntity { key });
        }
        for operation in &operations {
            match operation {
                Operation::SetEntity { key, value, .. } => {
                    model.insert(key.clone(), value.clone());
                }
                Operation::DeleteEntity { key } => drop(model.remove(key)),
                other => panic!("{other:?}"),
            }
        }
        let subject = format!("user:{}", round % 3);
        operations.push(Operation::CreateRelationship {
            resource: format!("document:{round}"),
            relation: "viewer".to_owned(),
            subject,
        });
        let height = writer.write(vault, operations).await.unwrap().height;
        models.insert(height, model.clone());
    }
    models
}

async fn list(
    reader: &Client,
    vault: VaultRef,
    list: ListOf,
    options: VerifiedOptions,
) -> (u64, Vec<VerifiedItem>) {
    let mut pages = reader.verified_list(vault, list, PAGE_ITEMS, options).unwrap();
    let mut items = Vec::new();
    while let Some(mut page) = pages.next_page().await.unwrap() {
        assert!(page.len() <= PAGE_ITEMS as usize);
        items.append(&mut page);
    }
    assert!(pages.is_complete());
    (pages.block().unwrap().header.height, items)
}

fn as_model(items: &[VerifiedItem]) -> Model {
    let pair = |item: &VerifiedItem| {
        (StateKey::as_entity(&item.key).unwrap().to_owned(), item.value.clone())
    };
    items.iter().map(pair).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_height_is_proved_and_every_list_is_complete() {
    let mut cluster = Cluster::start(3).await;
    let vault = cluster.vaults("past", 1).await[0];
    let writer = client(cluster.addresses(), &cluster.directory("writer")).await;
    let models = write_rounds(&writer, vault).await;
    let (&last, newest) = models.last_key_value().unwrap();
    for number in 0..cluster.servers.len() {
        let directory = cluster.directory(&format!("reader-{number}"));
        let reader = client(vec![cluster.servers[number].address()], &directory).await;
        let (height, items) =
            list(&reader, vault, everything(), VerifiedOptions::linearizable()).await;
        assert_eq!((height, &as_model(&items)), (last, newest));
        for (&height, model) in &models {
            let at = VerifiedOptions::at_height(height);
            let (proved_at, items) = list(&reader, vault, everything(), at).await;
            assert_eq!((proved_at, &as_model(&items)), (height, model), "node {number}");
            let keys = ["every", "key/00/1", "key/11/0"].map(StateKey::entity);
            let answer = reader.verified_get(vault, &keys, at).await.unwrap();
            assert_eq!(answer.proved.block.header.height, height);
            for (key, value) in keys.iter().zip(answer.values()) {
                let wanted = model.get(StateKey::as_entity(key.as_bytes()).unwrap());
                match value {
                    VerifiedValue::Present { value, .. } => assert_eq!(Some(value), wanted),
                    VerifiedValue::Absent => assert_eq!(wanted, None),
                    VerifiedValue::Expired { record } => panic!("{record:?}"),
                }
            }
        }
    }
    relationships_are_listed(&writer, vault).await;
    histories_are_walked(&writer, vault).await;
    a_list_stays_at_its_height(&writer, vault).await;

    // Trees of earlier heights are made from what is stored: a restart changes nothing.
    for server in &mut cluster.servers {
        server.kill();
    }
    for number in 0..cluster.servers.len() {
        cluster.servers[number].resume().unwrap();
    }
    cluster.assert_ready().await;
    let (&early, model) = models.first_key_value().unwrap();
    let (_, items) = list(&writer, vault, everything(), VerifiedOptions::at_height(early)).await;
    assert_eq!(&as_model(&items), model);
}

async fn relationships_are_listed(reader: &Client, vault: VaultRef) {
    let newest = VerifiedOptions::linearizable();
    let count = |of: ListOf| async move { list(reader, vault, of, newest).await.1.len() as u64 };
    assert_eq!(count(ListOf::ResourceType("document".to_owned())).await, ROUNDS);
    assert_eq!(count(ListOf::ResourceType("doc".to_owned())).await, 0);
    let subject = |subject: &str, resource: Option<&str>| ListOf::Subject {
        subject: subject.to_owned(),
        resource: resource.map(str::to_owned),
    };
    assert_eq!(count(subject("user:1", None)).await, ROUNDS / 3);
    assert_eq!(count(subject("user:1", Some("document:4"))).await, 1);
    assert_eq!(count(subject("user:1", Some("document:5"))).await, 0);
    let resource = |relation: Option<&str>| ListOf::Resource {
        resource: "document:1".to_owned(),
        relation: relation.map(str::to_owned),
    };
    assert_eq!(count(resource(None)).await, 1);
    assert_eq!(count(resource(Some("viewer"))).await, 1);
    assert_eq!(count(resource(Some("view"))).await, 0);
}

async fn histories_are_walked(reader: &Client, vault: VaultRef) {
    let newest = VerifiedOptions::linearizable();
    let key = StateKey::entity("every");
    let history = reader.key_history(vault, &key, 100, newest).await.unwrap();
    let values: Vec<Vec<u8>> =
        history.versions.iter().map(|version| version.value.clone().unwrap()).collect();
    let wanted: Vec<Vec<u8>> =
        (0..ROUNDS).rev().map(|round| format!("round {round}").into_bytes()).collect();
    assert_eq!((values, history.end), (wanted, HistoryEnd::Created));
    let deleted = StateKey::entity("key/00/1");
    let history = reader.key_history(vault, &deleted, 100, newest).await.unwrap();
    assert_eq!((history.versions.len(), history.end), (0, HistoryEnd::Absent));
}

/// What is written between two pages is in none of them.
async fn a_list_stays_at_its_height(reader: &Client, vault: VaultRef) {
    let newest = VerifiedOptions::linearizable();
    let (_, before) = list(reader, vault, everything(), newest).await;
    let mut pages = reader.verified_list(vault, everything(), PAGE_ITEMS, newest).unwrap();
    let mut items = pages.next_page().await.unwrap().unwrap();
    for round in 0..3 {
        let operations = vec![set("key/late", &[round]), set("every", b"late")];
        reader.write(vault, operations).await.unwrap();
    }
    while let Some(mut page) = pages.next_page().await.unwrap() {
        items.append(&mut page);
    }
    assert_eq!(items, before);
    let whole = reader.whole_verified_list(vault, everything(), 1_000, newest).await.unwrap();
    assert_eq!(whole.items.len(), before.len() + 1);
    let bundle = reader.trust_bundle().await.unwrap();
    let saved = SavedProof::decode(&whole.saved_proof.encode()).unwrap();
    let CheckedProof::List(checked) = saved.verify(&bundle, TimeRule::Any).unwrap() else {
        panic!("not a list")
    };
    assert_eq!(checked.items, whole.items);
}
