//! Lists of more entities than a page has, and watches of what is written.

use futures::StreamExt as _;
use inferadb_ledger_sdk::{Entity, LedgerClient, ListEntitiesOpts, Operation};

use super::fixture::{World, code_of, set};

const ITEMS: usize = 12_000;
const PAGE: usize = 10_000;

fn key(number: usize) -> String {
    format!("item/{number:05}")
}

fn keys(items: &[Entity]) -> Vec<&str> {
    items.iter().map(|entity| entity.key.as_str()).collect()
}

async fn fill(client: &LedgerClient, namespace: i64, vault: i64) -> u64 {
    let mut height = 0;
    for part in 0..ITEMS / 1_000 {
        let numbers = part * 1_000..(part + 1) * 1_000;
        let operations = numbers.map(|number| set(&key(number), &number.to_string())).collect();
        height = client.write(namespace, Some(vault), operations).await.unwrap().block_height;
    }
    height
}

/// Follows tokens to the end, in pages of this size.
async fn whole(
    client: &LedgerClient,
    namespace: i64,
    opts: ListEntitiesOpts,
) -> (Vec<Entity>, Vec<usize>) {
    let (mut items, mut sizes, mut opts) = (Vec::new(), Vec::new(), opts);
    loop {
        let page = client.list_entities(namespace, opts.clone()).await.unwrap();
        sizes.push(page.items.len());
        items.extend(page.items);
        match page.next_page_token {
            Some(token) => opts = opts.page_token(token),
            None => return (items, sizes),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_thousand_items_are_listed_whole_and_in_order() {
    let world = World::make("lists", &[]).await;
    let writer = world.client(0, "writer").await;
    let vault = world.vault(&writer).await;
    let height = fill(&writer, world.namespace, vault).await;
    let expected: Vec<String> = (0..ITEMS).map(key).collect();
    for node in 0..3 {
        let client = world.client(node, "reader").await;
        let all = || ListEntitiesOpts::with_prefix("item/").vault(vault).linearizable();
        // Whoever follows no token gets as many as a page has, and is told that there are more.
        let page = client.list_entities(world.namespace, all().limit(PAGE as u32)).await.unwrap();
        assert_eq!(keys(&page.items), expected[..PAGE]);
        assert!(page.has_next_page() && page.block_height == height);
        let default = client.list_entities(world.namespace, all()).await.unwrap();
        assert_eq!(keys(&default.items), expected[..100]);
        for (limit, sizes) in [(PAGE, vec![PAGE, ITEMS - PAGE]), (5_000, vec![5_000, 5_000, 2_000])]
        {
            let (items, found) = whole(&client, world.namespace, all().limit(limit as u32)).await;
            assert_eq!(
                (keys(&items), found),
                (expected.iter().map(String::as_str).collect(), sizes)
            );
            assert_eq!(items[4_711].value, b"4711");
        }
        let ten = ListEntitiesOpts::with_prefix("item/0001").vault(vault).linearizable();
        let ten = client.list_entities(world.namespace, ten).await.unwrap();
        assert_eq!(keys(&ten.items), expected[10..20]);
        assert!(!ten.has_next_page());
        let beyond = client.list_entities(world.namespace, all().limit(PAGE as u32 + 1)).await;
        assert_eq!(code_of(beyond), "InvalidArgument");
    }
    pages_show_one_height(&world, &writer, vault, height).await;
}

/// What is written between two pages shows in neither; a list at a height shows what was there then.
async fn pages_show_one_height(world: &World, client: &LedgerClient, vault: i64, height: u64) {
    let opts = || ListEntitiesOpts::with_prefix("item/").vault(vault).limit(PAGE as u32);
    let first = client.list_entities(world.namespace, opts().linearizable()).await.unwrap();
    let changes = vec![set("item/99999", "new"), Operation::delete_entity(key(11_999))];
    client.write(world.namespace, Some(vault), changes).await.unwrap();
    let rest = opts().linearizable().page_token(first.next_page_token.unwrap());
    let rest = client.list_entities(world.namespace, rest).await.unwrap();
    let expected: Vec<String> = (PAGE..ITEMS).map(key).collect();
    assert_eq!(
        (keys(&rest.items), rest.block_height),
        (expected.iter().map(String::as_str).collect(), height)
    );
    let past = opts().at_height(1);
    let (past, _) = whole(client, world.namespace, past).await;
    assert_eq!(past.len(), 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_replays_what_was_written_and_goes_on() {
    let world = World::make("watches", &[]).await;
    let writer = world.client(0, "writer").await;
    let vault = world.vault(&writer).await;
    let mut tip = 0;
    for number in 0..20 {
        let operations = vec![set("k", &number.to_string())];
        tip = writer.write(world.namespace, Some(vault), operations).await.unwrap().block_height;
    }
    for (node, start) in [(0, 1), (1, 7), (2, 20)] {
        let client = world.client(node, "watcher").await;
        let watch = client.watch_blocks(world.namespace, vault, start).await.unwrap();
        let mut watch = Box::pin(watch);
        for height in start..=tip {
            let block = watch.next().await.unwrap().unwrap();
            assert_eq!((block.namespace_id, block.vault_id), (world.namespace, vault));
            assert_eq!(
                (block.height, block.block_hash.len(), block.state_root.len()),
                (height, 32, 32)
            );
            assert!(block.timestamp.is_some());
        }
        let operations = vec![set("k", "next")];
        let done = writer.write(world.namespace, Some(vault), operations).await.unwrap();
        let block = watch.next().await.unwrap().unwrap();
        assert_eq!((block.height, done.block_height), (tip + 1, tip + 1));
        tip += 1;
    }
    let refused = writer.watch_blocks(world.namespace, vault, 0).await.map(|_| ());
    assert_eq!(code_of(refused), "InvalidArgument");
}
