//! Namespaces and vaults: making and finding them, choosing their ids, keeping them apart, and their health.

use inferadb_ledger_sdk::{
    HealthStatus, LedgerClient, ListEntitiesOpts, NamespaceStatus, VaultStatus,
};

use super::fixture::{World, code_of, set};

async fn read(
    client: &LedgerClient,
    namespace: i64,
    vault: Option<i64>,
    key: &str,
) -> Option<String> {
    let value = client.read_consistent(namespace, vault, key).await.unwrap();
    value.map(|bytes| String::from_utf8(bytes).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_and_vaults_are_made_found_and_kept_apart() {
    let world = World::make("first", &[]).await;
    let client = world.client(1, "admin").await;
    let other = client.create_namespace("second").await.unwrap();
    assert!(world.namespace >= 1 && other > world.namespace);
    assert_eq!(code_of(client.create_namespace("second").await), "AlreadyExists");
    let told = client.get_namespace(other).await.unwrap();
    assert_eq!((told.namespace_id, told.name.as_str()), (other, "second"));
    assert_eq!(told.status, NamespaceStatus::Active);
    assert_eq!(code_of(client.get_namespace(4_711).await), "NotFound");
    let listed = client.list_namespaces().await.unwrap();
    let names: Vec<&str> = listed.iter().map(|namespace| namespace.name.as_str()).collect();
    assert_eq!(names, ["first", "second"]);

    let mut places = Vec::new();
    for namespace in [world.namespace, other] {
        for _ in 0..2 {
            let made = client.create_vault(namespace).await.unwrap();
            assert!(made.vault_id >= 1);
            places.push((namespace, Some(made.vault_id)));
        }
        places.push((namespace, None));
    }
    for (number, (namespace, vault)) in places.iter().enumerate() {
        let operations = vec![set("same", &number.to_string()), set(&format!("own/{number}"), "")];
        client.write(*namespace, *vault, operations).await.unwrap();
    }
    for (number, (namespace, vault)) in places.iter().enumerate() {
        assert_eq!(read(&client, *namespace, *vault, "same").await, Some(number.to_string()));
        let mut opts = ListEntitiesOpts::with_prefix("own/").linearizable();
        if let Some(vault) = vault {
            opts = opts.vault(*vault);
        }
        let page = client.list_entities(*namespace, opts).await.unwrap();
        let keys: Vec<&str> = page.items.iter().map(|entity| entity.key.as_str()).collect();
        assert_eq!(keys, [format!("own/{number}")], "another vault shows through");
    }
    vaults_are_told(&client, &places).await;
}

async fn vaults_are_told(client: &LedgerClient, places: &[(i64, Option<i64>)]) {
    let expected: Vec<(i64, i64)> =
        places.iter().filter_map(|(namespace, vault)| Some((*namespace, (*vault)?))).collect();
    let mut listed: Vec<(i64, i64)> = client
        .list_vaults()
        .await
        .unwrap()
        .iter()
        .map(|vault| (vault.namespace_id, vault.vault_id))
        .collect();
    listed.sort_unstable();
    assert_eq!(listed, expected);
    for (namespace, vault) in expected {
        let told = client.get_vault(namespace, vault).await.unwrap();
        assert_eq!((told.height, told.status), (1, VaultStatus::Active));
        assert_eq!((told.state_root.len(), told.nodes.len()), (32, 3));
        assert!(told.leader.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_made_is_not_found_and_health_is_told() {
    let world = World::make("health", &[]).await;
    let client = world.client(2, "client").await;
    let vault = world.vault(&client).await;
    for place in [(world.namespace, Some(4_711)), (4_711, Some(1)), (4_711, None)] {
        let (namespace, vault) = place;
        assert_eq!(code_of(client.read(namespace, vault, "k").await), "NotFound", "{place:?}");
        let written = client.write(namespace, vault, vec![set("k", "v")]).await;
        assert_eq!(code_of(written), "NotFound", "{place:?}");
    }
    assert_eq!(code_of(client.read(-1, None, "k").await), "InvalidArgument");
    assert_eq!(code_of(client.read(world.namespace, Some(-1), "k").await), "InvalidArgument");
    for node in 0..3 {
        let client = world.client(node, "prober").await;
        assert!(client.health_check().await.unwrap());
        assert!(client.health_check_detailed().await.unwrap().is_healthy());
        let told = client.health_check_vault(world.namespace, vault).await.unwrap();
        assert_eq!(told.status, HealthStatus::Healthy, "{}", told.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_of_a_chosen_id_is_made_by_its_first_write() {
    const CHOSEN: i64 = 4_711;
    let world = World::make("chosen", &[("LEDGER_AUTO_CREATE_VAULTS", "true")]).await;
    let client = world.client(0, "engine").await;
    let place = (world.namespace, Some(CHOSEN));
    assert_eq!(client.read_consistent(place.0, place.1, "k").await.unwrap(), None);
    let list = || ListEntitiesOpts::with_prefix("").vault(CHOSEN).linearizable();
    let page = client.list_entities(place.0, list()).await.unwrap();
    assert_eq!((page.items.len(), page.block_height), (0, 0));
    // Several at once, through every node: one of them makes it.
    let mut writers = Vec::new();
    for node in 0..3 {
        let client = world.client(node, &format!("engine-{node}")).await;
        let key = format!("k/{node}");
        writers.push(tokio::spawn(async move {
            client.write(place.0, place.1, vec![set(&key, "v")]).await.unwrap()
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let page = client.list_entities(place.0, list()).await.unwrap();
    let keys: Vec<&str> = page.items.iter().map(|entity| entity.key.as_str()).collect();
    assert_eq!(keys, ["k/0", "k/1", "k/2"]);
    let vaults = client.list_vaults().await.unwrap();
    assert_eq!(vaults.iter().map(|vault| vault.vault_id).collect::<Vec<_>>(), [CHOSEN]);
    // Ids that callers chose are skipped by the sequence from which others are assigned.
    let first = client.write(place.0, Some(1), vec![set("k", "v")]).await.unwrap();
    assert_eq!(first.block_height, 1);
    assert_eq!(world.vault(&client).await, 2);
    assert_eq!(code_of(client.write(4_711, Some(1), vec![set("k", "v")]).await), "NotFound");
}
