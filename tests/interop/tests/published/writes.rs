//! Writes, conditions and reads of single vaults.

use inferadb_ledger_sdk::{
    LedgerClient, ListRelationshipsOpts, Operation, ReadConsistency, SdkError, SetCondition,
};

use super::fixture::{World, code_of, set};

/// A vault behind a client.
struct Vault {
    client: LedgerClient,
    namespace: i64,
    vault: Option<i64>,
}

impl Vault {
    async fn write(&self, operations: Vec<Operation>) -> Result<u64, SdkError> {
        let done = self.client.write(self.namespace, self.vault, operations).await?;
        Ok(done.block_height)
    }

    async fn read(&self, key: &str) -> Option<String> {
        let value = self.client.read_consistent(self.namespace, self.vault, key).await.unwrap();
        value.map(|bytes| String::from_utf8(bytes).unwrap())
    }
}

fn set_if(key: &str, value: &str, condition: SetCondition) -> Operation {
    Operation::set_entity_if(key, value.as_bytes().to_vec(), condition)
}

async fn all_four_conditions_hold_or_fail(vault: &Vault) {
    let first = vault.write(vec![set("there", "old")]).await.unwrap();
    let failing = [
        ("there", SetCondition::NotExists),
        ("absent", SetCondition::MustExist),
        ("there", SetCondition::Version(first + 1)),
        ("there", SetCondition::ValueEquals(b"other".to_vec())),
        ("absent", SetCondition::Version(first)),
        ("absent", SetCondition::ValueEquals(b"old".to_vec())),
    ];
    for (key, condition) in failing {
        let what = format!("{key}: {condition:?}");
        let operations = vec![set("beside", "new"), set_if(key, "new", condition)];
        assert_eq!(code_of(vault.write(operations).await), "FailedPrecondition", "{what}");
        assert_eq!(vault.read("there").await.as_deref(), Some("old"), "{what}");
        assert_eq!(
            (vault.read("absent").await, vault.read("beside").await),
            (None, None),
            "{what}"
        );
    }
    let second =
        vault.write(vec![set_if("there", "2", SetCondition::Version(first))]).await.unwrap();
    assert!(second > first);
    for (key, value, condition) in [
        ("there", "3", SetCondition::ValueEquals(b"2".to_vec())),
        ("there", "4", SetCondition::MustExist),
        ("new", "1", SetCondition::NotExists),
    ] {
        vault.write(vec![set_if(key, value, condition)]).await.unwrap();
        assert_eq!(vault.read(key).await.as_deref(), Some(value));
    }
}

async fn a_batch_is_one_transaction_in_order(vault: &Vault) {
    let batches = vec![
        vec![set("batch/a", "1"), set("batch/b", "1")],
        vec![set("batch/a", "2"), Operation::delete_entity("batch/b")],
    ];
    let done = vault.client.batch_write(vault.namespace, vault.vault, batches).await.unwrap();
    assert_eq!(vault.read("batch/a").await.as_deref(), Some("2"));
    assert_eq!(vault.read("batch/b").await, None);
    let next = vault.write(vec![set("batch/c", "1")]).await.unwrap();
    assert_eq!(next, done.block_height + 1, "a batch is one block");
    let failing = vec![
        vec![set("batch/a", "3")],
        vec![set_if("batch/a", "4", SetCondition::ValueEquals(b"2".to_vec()))],
    ];
    let refused = vault.client.batch_write(vault.namespace, vault.vault, failing).await;
    assert_eq!(code_of(refused), "FailedPrecondition");
    assert_eq!(vault.read("batch/a").await.as_deref(), Some("2"));
}

async fn sequences_rise_by_one_per_client(vault: &Vault) {
    let first =
        vault.client.write(vault.namespace, vault.vault, vec![set("s", "1")]).await.unwrap();
    let second =
        vault.client.write(vault.namespace, vault.vault, vec![set("s", "1")]).await.unwrap();
    assert_eq!(second.assigned_sequence, first.assigned_sequence + 1);
    assert_ne!(second.tx_id, first.tx_id);
    assert_eq!(first.tx_id.len(), 32, "16 bytes in hexadecimal digits");
}

async fn batch_reads_keep_the_order_of_their_keys(vault: &Vault) {
    let operations = (0..500).map(|n| set(&format!("many/{n:03}"), &n.to_string())).collect();
    vault.write(operations).await.unwrap();
    let keys: Vec<String> = (0..1000).rev().map(|n| format!("many/{n:03}")).collect();
    let expected: Vec<(String, Option<Vec<u8>>)> = keys
        .iter()
        .zip((0..1000).rev())
        .map(|(key, n)| (key.clone(), (n < 500).then(|| n.to_string().into_bytes())))
        .collect();
    let (client, place) = (&vault.client, (vault.namespace, vault.vault));
    let read = client.batch_read_consistent(place.0, place.1, keys.clone()).await.unwrap();
    assert_eq!(read, expected);
    // The same client wrote it through the same node, and waits for nothing: any replica may answer.
    let eventual = client.batch_read(place.0, place.1, keys.clone()).await.unwrap();
    assert_eq!(eventual.len(), expected.len());
    let too_many = client.batch_read(place.0, place.1, keys.iter().chain(&keys[..1])).await;
    assert_eq!(code_of(too_many), "InvalidArgument");
}

async fn relationships_are_listed_by_any_part(vault: &Vault, number: i64) {
    let grant = |resource: &str, relation: &str, subject: &str| {
        Operation::create_relationship(resource, relation, subject)
    };
    let operations = vec![
        grant("doc:1", "owner", "user:ann"),
        grant("doc:1", "viewer", "user:bob"),
        grant("doc:2", "viewer", "user:ann"),
        grant("doc:1", "owner", "user:ann"),
    ];
    vault.write(operations).await.unwrap();
    let delete = Operation::delete_relationship("doc:1", "viewer", "user:bob");
    vault.write(vec![delete]).await.unwrap();
    let list = async |opts: ListRelationshipsOpts| {
        let opts = opts.consistency(ReadConsistency::Linearizable);
        let page = vault.client.list_relationships(vault.namespace, number, opts).await.unwrap();
        assert!(!page.has_next_page());
        let told = page.items.iter();
        told.map(|r| format!("{}#{}@{}", r.resource, r.relation, r.subject)).collect::<Vec<_>>()
    };
    let both = ["doc:1#owner@user:ann", "doc:2#viewer@user:ann"];
    assert_eq!(list(ListRelationshipsOpts::new()).await, both);
    assert_eq!(list(ListRelationshipsOpts::new().resource("doc:1")).await, both[..1]);
    assert_eq!(list(ListRelationshipsOpts::new().relation("viewer")).await, both[1..]);
    let mut by_subject = list(ListRelationshipsOpts::new().subject("user:ann")).await;
    by_subject.sort();
    assert_eq!(by_subject, both);
}

async fn an_entity_past_its_time_is_absent(vault: &Vault) {
    let expiring = |key: &str, at| Operation::set_entity_with_expiry(key, b"x".to_vec(), at);
    let operations = vec![expiring("expiry/past", 1), expiring("expiry/far", 1 << 40)];
    vault.write(operations).await.unwrap();
    assert_eq!(vault.read("expiry/past").await, None);
    assert_eq!(vault.read("expiry/far").await.as_deref(), Some("x"));
    vault.write(vec![set_if("expiry/past", "y", SetCondition::NotExists)]).await.unwrap();
    assert_eq!(vault.read("expiry/past").await.as_deref(), Some("y"));
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_conditions_and_reads_mean_what_the_sdk_says() {
    let world = World::make("writes", &[]).await;
    for node in 0..3 {
        let client = world.client(node, &format!("writer-{node}")).await;
        let number = world.vault(&client).await;
        let vault = Vault { client, namespace: world.namespace, vault: Some(number) };
        all_four_conditions_hold_or_fail(&vault).await;
        a_batch_is_one_transaction_in_order(&vault).await;
        sequences_rise_by_one_per_client(&vault).await;
        batch_reads_keep_the_order_of_their_keys(&vault).await;
        relationships_are_listed_by_any_part(&vault, number).await;
        an_entity_past_its_time_is_absent(&vault).await;
    }
    // Without a vault a write is about the namespace's own entities.
    let client = world.client(0, "owner").await;
    let own = Vault { client, namespace: world.namespace, vault: None };
    assert_eq!(own.write(vec![set("name", "a")]).await.unwrap(), 1);
    assert_eq!(own.read("name").await.as_deref(), Some("a"));
    let refused = own.client.write(world.namespace, None, Vec::new()).await;
    assert_eq!(code_of(refused), "InvalidArgument");
}

/// Each writer adds to one number, by condition, until it has added as often as it was to.
async fn add(vault: &Vault, times: usize) {
    for _ in 0..times {
        loop {
            let now = vault.read("sum").await.unwrap();
            let next = (now.parse::<usize>().unwrap() + 1).to_string();
            let condition = SetCondition::ValueEquals(now.into_bytes());
            match vault.write(vec![set_if("sum", &next, condition)]).await {
                Ok(_) => break,
                refused => assert_eq!(code_of(refused), "FailedPrecondition"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_writers_lose_no_update() {
    const WRITERS: usize = 64;
    const TIMES: usize = 3;
    let world = World::make("sum", &[]).await;
    let maker = world.client(0, "maker").await;
    let number = world.vault(&maker).await;
    maker.write(world.namespace, Some(number), vec![set("sum", "0")]).await.unwrap();
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let client = world.client(writer % 3, &format!("adder-{writer}")).await;
        let vault = Vault { client, namespace: world.namespace, vault: Some(number) };
        writers.push(tokio::spawn(async move { add(&vault, TIMES).await }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let sum = maker.read_consistent(world.namespace, Some(number), "sum").await.unwrap();
    assert_eq!(String::from_utf8(sum.unwrap()).unwrap(), (WRITERS * TIMES).to_string());
    let told = maker.get_vault(world.namespace, number).await.unwrap();
    assert!(told.height <= (WRITERS * TIMES + 1) as u64, "a failed condition makes no block");
}
