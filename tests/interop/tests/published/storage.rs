//! The storage backend of the Engine: keys of any bytes, ranges, transactions and signing keys, on vaults whose ids it chose.

use std::ops::RangeBounds;

use inferadb_common_storage::auth::{PublicSigningKey, PublicSigningKeyStore as _};
use inferadb_common_storage::{StorageBackend as _, StorageError};
use inferadb_common_storage_ledger::auth::LedgerSigningKeyStore;
use inferadb_common_storage_ledger::{LedgerBackend, LedgerBackendConfig};

use inferadb_ledger_sdk::Operation;

use super::fixture::{World, config};

/// A vault that nobody made.
const CHOSEN: i64 = 1_234_567;
const ITEMS: u32 = 12_000;
/// The most that the backend asks for at once; it follows no token.
const PAGE: usize = 10_000;
/// As many as a range that is cleared in one write has.
const CLEARED: u32 = 5_000;

async fn backend(world: &World, node: usize, vault: i64) -> LedgerBackend {
    let client = config(&world.cluster, node, &format!("engine-{node}-{vault}"));
    let config = LedgerBackendConfig::builder()
        .client(client)
        .namespace_id(world.namespace)
        .vault_id(vault)
        .build();
    LedgerBackend::new(config).await.unwrap()
}

async fn world(name: &str) -> World {
    World::make(name, &[("LEDGER_AUTO_CREATE_VAULTS", "true")]).await
}

async fn range(backend: &LedgerBackend, range: impl RangeBounds<Vec<u8>> + Send) -> Vec<Vec<u8>> {
    let found = backend.get_range(range).await.unwrap();
    found.into_iter().map(|pair| pair.key.to_vec()).collect()
}

/// Writes one block beside the backend's and tells its height, so that blocks between two can be counted.
async fn block(backend: &LedgerBackend) -> u64 {
    let (namespace, vault) = (backend.namespace_id(), backend.vault_id());
    let delete = vec![Operation::delete_entity("nothing")];
    backend.client().write(namespace, vault, delete).await.unwrap().block_height
}

async fn keys_may_be_any_bytes(backend: &LedgerBackend) {
    let keys: [&[u8]; 7] =
        [&[0], &[0, 0], &[0, 1, 255], b"a", b"a\0b", &[0xfe; 512], &[0xff, 0xff]];
    for key in keys {
        assert_eq!(backend.get(key).await.unwrap(), None);
        backend.set(key.to_vec(), [key, b"!"].concat()).await.unwrap();
        assert_eq!(backend.get(key).await.unwrap().unwrap(), [key, b"!"].concat());
    }
    assert_eq!(range(backend, ..).await, keys);
    let (a, last) = (b"a".to_vec(), vec![0xff, 0xff]);
    assert_eq!(range(backend, a.clone()..last.clone()).await, keys[3..6]);
    assert_eq!(range(backend, a.clone()..=last.clone()).await, keys[3..7]);
    assert_eq!(range(backend, ..a.clone()).await, keys[..3]);
    use std::ops::Bound::{Excluded, Included};
    assert_eq!(range(backend, (Excluded(a.clone()), Included(last.clone()))).await, keys[4..7]);
    for key in keys {
        backend.delete(key).await.unwrap();
        backend.delete(key).await.unwrap();
    }
    assert_eq!(range(backend, ..).await, [[0_u8; 0]; 0]);
    assert!(matches!(backend.get(b"").await, Err(StorageError::Serialization { .. })));
}

async fn a_transaction_is_all_or_nothing(backend: &LedgerBackend) {
    let before = block(backend).await;
    let mut transaction = backend.transaction().await.unwrap();
    for number in 0..100_u8 {
        transaction.set(vec![b't', number], vec![number]);
    }
    transaction.delete(vec![b't', 7]);
    assert_eq!(transaction.get(b"t\x08").await.unwrap().unwrap(), &[8][..]);
    assert_eq!(transaction.get(b"t\x07").await.unwrap(), None);
    assert_eq!(backend.get(b"t\x08").await.unwrap(), None, "nothing before the commit");
    transaction.commit().await.unwrap();
    assert_eq!(block(backend).await, before + 2, "the transaction is one block");
    assert_eq!(range(backend, vec![b't']..vec![b'u']).await.len(), 99);
    // A value beyond the limit: nothing of the transaction happens.
    let mut transaction = backend.transaction().await.unwrap();
    transaction.set(b"t/fine".to_vec(), vec![1]);
    transaction.set(b"t/large".to_vec(), vec![0; (1 << 20) + 1]);
    assert!(transaction.commit().await.is_err());
    assert_eq!(backend.get(b"t/fine").await.unwrap(), None);
    assert_eq!(block(backend).await, before + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_keeps_bytes_ranges_transactions_and_times() {
    let world = world("backend").await;
    for node in 0..3 {
        let backend = backend(&world, node, CHOSEN + node as i64).await;
        backend.health_check().await.unwrap();
        keys_may_be_any_bytes(&backend).await;
        a_transaction_is_all_or_nothing(&backend).await;
        backend.set_with_ttl(b"lives".to_vec(), vec![1], 3_600).await.unwrap();
        backend.set_with_ttl(b"ends".to_vec(), vec![1], 0).await.unwrap();
        assert_eq!(backend.get(b"lives").await.unwrap().unwrap(), &[1][..]);
        // A time that is over counts as over from the next block's time on.
        backend.set(b"next".to_vec(), vec![1]).await.unwrap();
        assert_eq!(backend.get(b"ends").await.unwrap(), None);
        assert_eq!(range(&backend, b"e".to_vec()..b"m".to_vec()).await, [b"lives".to_vec()]);
        let beside = super::storage::backend(&world, node, CHOSEN + 10 + node as i64).await;
        assert_eq!(beside.get(b"lives").await.unwrap(), None, "another vault shows through");
        assert_eq!(range(&beside, ..).await, [[0_u8; 0]; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_ranges_come_in_one_page_and_are_cleared_in_one_write() {
    let world = world("ranges").await;
    let backend = backend(&world, 1, CHOSEN).await;
    let key = |number: u32| number.to_be_bytes().to_vec();
    for part in 0..ITEMS / 1_000 {
        let mut transaction = backend.transaction().await.unwrap();
        for number in part * 1_000..(part + 1) * 1_000 {
            transaction.set(key(number), number.to_string().into_bytes());
        }
        transaction.commit().await.unwrap();
    }
    // The backend follows no token: it gets a full page, and in order.
    let expected: Vec<Vec<u8>> = (0..ITEMS).map(key).collect();
    assert_eq!(range(&backend, ..).await, expected[..PAGE]);
    let some = range(&backend, key(11_500)..key(11_700)).await;
    assert_eq!(some, expected[11_500..11_700]);

    let before = block(&backend).await;
    backend.clear_range(key(1_000)..key(1_000 + CLEARED)).await.unwrap();
    assert_eq!(block(&backend).await, before + 2, "5,000 deletes are one write");
    let rest: Vec<Vec<u8>> = (0..1_000).chain(1_000 + CLEARED..ITEMS).map(key).collect();
    assert_eq!(range(&backend, ..).await, rest);
    backend.clear_range(..).await.unwrap();
    assert_eq!(block(&backend).await, before + 4);
    assert_eq!(range(&backend, ..).await, [[0_u8; 0]; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_keys_are_kept_in_their_namespace() {
    let world = world("keys").await;
    let backend = backend(&world, 2, CHOSEN).await;
    let store = LedgerSigningKeyStore::new(backend.client_arc());
    let key = |kid: &str| -> PublicSigningKey {
        serde_json::from_value(serde_json::json!({
            "kid": kid,
            "public_key": "A".repeat(43),
            "client_id": 1,
            "cert_id": 1,
            "created_at": "2026-01-01T00:00:00Z",
            "valid_from": "2026-01-01T00:00:00Z",
            "active": true,
        }))
        .unwrap()
    };
    for kid in ["one", "two"] {
        store.create_key(world.namespace, &key(kid)).await.unwrap();
        let again = store.create_key(world.namespace, &key(kid)).await;
        assert!(matches!(again, Err(StorageError::Conflict)), "{again:?}");
    }
    store.deactivate_key(world.namespace, "one").await.unwrap();
    let listed = store.list_active_keys(world.namespace).await.unwrap();
    assert_eq!(listed.iter().map(|key| key.kid.as_str()).collect::<Vec<_>>(), ["two"]);
    let one = store.get_key(world.namespace, "one").await.unwrap().unwrap();
    assert!(!one.active);
    let missing = store.get_key(4_711, "one").await;
    assert!(matches!(missing, Err(StorageError::NotFound { .. })), "{missing:?}");
}
