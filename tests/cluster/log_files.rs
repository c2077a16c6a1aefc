//! Logs as monitors see them: over HTTP, in tiles, judged by other people's readers of tiles and notes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ledger_proof::note::log_key_id;
use ledger_proof::{BlockHeader, Checkpoint, Frontier, hash};
use ledger_proto::v1;
use ledger_types::{Digest, VaultRef};
use signed_note::{Note, StandardVerifier, VerifierList};
use tlog_tiles::{
    Error, Hash, Tile, TileHashReader, TileReader, check_record, check_tree, prove_record,
    prove_tree, tree_hash,
};

use super::harness::{Cluster, Node, WAIT_MAX, eventually, wire};

const POLL_INTERVAL: Duration = Duration::from_millis(20);
const TILE_HEIGHT: u8 = 8;
const TILE_WIDTH: u64 = 256;
/// An entry of a bundle: a length of 2 bytes and a header.
const ENTRY_LEN: usize = 202;

/// An answer over HTTP, its header names in lower case.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| *found == name).map_or("", |(_, value)| value)
    }
}

fn ask(address: SocketAddr, method: &str, path: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head ends");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let (first, fields) = head.split_once("\r\n").unwrap_or((&head, ""));
    let fields = fields.lines().map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        format!("{}: {value}\n", name.to_ascii_lowercase())
    });
    let head = format!("{first}\n{}", fields.collect::<String>());
    Answer { status, head, body: bytes[end + 4..].to_vec() }
}

/// A log as one node shows it.
struct Monitor {
    address: SocketAddr,
    prefix: String,
}

impl Monitor {
    fn new(address: SocketAddr, vault: VaultRef) -> Monitor {
        let VaultRef { namespace, vault } = vault;
        Monitor { address, prefix: format!("/log/ns/{namespace}/vault/{vault}/0") }
    }

    /// The answer for a file, asked for again while the node says that its obstacle passes.
    fn get(&self, file: &str) -> Answer {
        let begun = Instant::now();
        loop {
            let answer = ask(self.address, "GET", &format!("{}/{file}", self.prefix));
            if answer.status != 503 || begun.elapsed() > WAIT_MAX {
                return answer;
            }
            assert_eq!(answer.header("retry-after"), "1", "{file}");
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// A file that must be there, of this type and kept by caches as said.
    fn file(&self, file: &str, content: &str, cache: &str) -> Vec<u8> {
        let answer = self.get(file);
        assert_eq!(answer.status, 200, "{file}: {}", String::from_utf8_lossy(&answer.body));
        assert_eq!(answer.header("content-type"), content, "{file}");
        assert_eq!(answer.header("cache-control"), cache, "{file}");
        answer.body
    }

    fn tile(&self, file: &str) -> Vec<u8> {
        let is_partial = file.contains(".p/");
        let cache =
            if is_partial { "public, max-age=60" } else { "public, max-age=31536000, immutable" };
        self.file(file, "application/octet-stream", cache)
    }

    /// The newest checkpoint, its log signature verified with the key of one of the voters.
    fn checkpoint(&self, keys: &[[u8; 32]]) -> Checkpoint {
        let note = self.file("checkpoint", "text/plain; charset=utf-8", "no-cache");
        let note = Note::from_bytes(&note).unwrap();
        let text = std::str::from_utf8(note.text()).unwrap();
        let checkpoint = Checkpoint::parse(text).unwrap();
        let theirs = tlog_tiles::Checkpoint::from_bytes(note.text()).unwrap();
        assert_eq!((theirs.size(), theirs.hash().0), (checkpoint.size, checkpoint.root.0));
        let origin = checkpoint.origin.to_string();
        assert_eq!(origin.split_once('/').unwrap().1, &self.prefix["/log/".len()..]);
        let verified = keys.iter().filter(|key| {
            let key_id = hex::encode(log_key_id(&origin, key));
            let encoded = STANDARD.encode([&[1], &key[..]].concat());
            let verifier = StandardVerifier::new(&format!("{origin}+{key_id}+{encoded}")).unwrap();
            let known = VerifierList::new(vec![Box::new(verifier)]);
            note.verify(&known).is_ok_and(|(known, _)| known.len() == 1)
        });
        assert_eq!(verified.count(), 1, "one voter has signed as the log");
        checkpoint
    }

    /// The whole log of the checkpoint's size, entry by entry; every hash is compared with its tile.
    fn entries(&self, size: u64) -> Vec<Vec<u8>> {
        let mut entries = Vec::new();
        for tile in Tile::new_tiles(TILE_HEIGHT, 0, size).iter().filter(|tile| tile.level() == 0) {
            let path = our_path(tile);
            let hashes = self.tile(&path);
            let bundle = self.tile(&path.replacen("tile/0/", "tile/entries/", 1));
            assert_eq!(bundle.len(), tile.width() as usize * ENTRY_LEN, "{path}");
            for (entry, leaf) in bundle.chunks(ENTRY_LEN).zip(hashes.chunks(32)) {
                assert_eq!(entry[..2], 200u16.to_be_bytes(), "{path}");
                assert_eq!(hash::leaf(&entry[2..]).0, leaf, "{path}");
                entries.push(entry[2..].to_vec());
            }
        }
        entries
    }
}

/// The path in the node's layout, where all tiles have one height and it is not said.
fn our_path(tile: &Tile) -> String {
    tile.path().replacen("tile/8/", "tile/", 1)
}

impl TileReader for Monitor {
    fn height(&self) -> u8 {
        TILE_HEIGHT
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, Error> {
        Ok(tiles.iter().map(|tile| self.tile(&our_path(tile))).collect())
    }

    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

/// Root, inclusion of an entry and growth from a checkpoint before, from tiles alone.
fn assert_follows(monitor: &Monitor, old: &Checkpoint, new: &Checkpoint, index: u64, leaf: Digest) {
    let root = Hash(new.root.0);
    let reader = TileHashReader::new(new.size, root, monitor);
    assert_eq!(tree_hash(new.size, &reader).unwrap(), root);
    let path = prove_record(new.size, index, &reader).unwrap();
    check_record(&path, new.size, root, index, Hash(leaf.0)).unwrap();
    check_record(&path, new.size, root, index, Hash([7; 32])).expect_err("another leaf");
    let path = prove_tree(new.size, old.size, &reader).unwrap();
    check_tree(&path, new.size, root, old.size, Hash(old.root.0)).unwrap();
    check_tree(&path, new.size, root, old.size, Hash([7; 32])).expect_err("another root");
}

/// Public keys of the voters of the vault's shard.
async fn voter_keys(node: &Node, vault: VaultRef) -> Vec<[u8; 32]> {
    let (namespace_id, vault_id) = wire(vault);
    let request = v1::GetTrustBundleRequest { from_sequence: 0, namespace_id, vault_id };
    let sets = node.ledger().get_trust_bundle(request).await.unwrap().into_inner().voter_sets;
    let [set] = &sets[..] else { panic!("{} voter sets", sets.len()) };
    let (count, mut rest) = set.split_at(2);
    let count = u16::from_be_bytes(count.try_into().unwrap());
    let keys = (0..count).map(|_| {
        let name = usize::from(u16::from_be_bytes(rest[..2].try_into().unwrap()));
        let (voter, after) = rest.split_at(2 + name + 32);
        rest = after;
        voter[2 + name..].try_into().unwrap()
    });
    keys.collect()
}

/// Writes until the vault's log has this many blocks, genesis included; tells the last one's height.
async fn grow(cluster: &Cluster, vault: VaultRef, size: u64) -> u64 {
    let node = cluster.node(0);
    let mut height = 0;
    while height + 1 < size {
        height = node.put_in_time(vault, &format!("k{}", height % 7), b"value").await;
    }
    height
}

/// Refusals say why. `size` is that of the log.
fn assert_refusals(monitor: &Monitor, size: u64) {
    let partial = size % TILE_WIDTH;
    let beyond = [
        format!("tile/0/001.p/{}", partial + 1),
        format!("tile/entries/001.p/{}", partial + 1),
        "tile/0/001".to_owned(),
        "tile/1/000.p/2".to_owned(),
        "tile/2/000.p/1".to_owned(),
        "tile/63/000".to_owned(),
        "tile/0/x018/x446/x744/x073/x709/x551/615".to_owned(),
    ];
    let cases = beyond.iter().map(|file| (file.as_str(), 404, "too few for this tile"));
    let malformed = [
        ("tile/0/1", 400, "in groups of three digits"),
        ("tile/64/000", 400, "from 0 to 63"),
        ("tile/0/000.p/256", 400, "from 1 to 255"),
        ("tile/0/000.p/044", 400, "from 1 to 255"),
        ("tile/data/000", 400, "from 0 to 63"),
        ("checkpoints", 400, "a log has checkpoint"),
    ];
    for (file, status, reason) in cases.chain(malformed) {
        let answer = monitor.get(file);
        assert_eq!(answer.status, status, "{file}: {}", answer.text());
        assert!(answer.text().contains(reason), "{file}: {}", answer.text());
        assert_eq!(answer.header("cache-control"), "no-store", "{file}");
    }
    let root = monitor.prefix.trim_end_matches('0');
    let answer = ask(monitor.address, "GET", &format!("{root}1/checkpoint"));
    assert_eq!((answer.status, answer.text()), (404, "the vault's log has epoch 0\n"));
    for file in ["/checkpoint", "/tile/0/000", "/tile/entries/000"] {
        let path = format!("{}{file}", monitor.prefix);
        let head = ask(monitor.address, "HEAD", &path);
        assert_eq!((head.status, head.body.len()), (200, 0), "{file}");
        assert_eq!(ask(monitor.address, "POST", &path).status, 405, "{file}");
    }
    for path in ["/log/ns/1/vault/999/0/checkpoint", "/log/ns/7/vault/1/0/tile/0/000.p/1"] {
        let answer = ask(monitor.address, "GET", path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.text().starts_with("this node has no replica of vault"), "{path}");
    }
}

/// Two of three nodes have the vault: its leader, and one that asks the leader for signatures.
#[tokio::test(flavor = "multi_thread")]
async fn monitors_follow_logs_by_their_tiles() {
    let cluster = Cluster::start_with(3, &[("LEDGER_REPLICATION_FACTOR", "2")]).await;
    let vault = cluster.vaults("monitored", 1).await[0];
    let keys = voter_keys(&cluster.node(0), vault).await;
    assert_eq!(keys.len(), 2);
    grow(&cluster, vault, 100).await;
    let monitors: Vec<Monitor> =
        cluster.servers.iter().map(|server| Monitor::new(server.spec().http_addr, vault)).collect();
    let holders = || async {
        let (holders, others): (Vec<&Monitor>, Vec<&Monitor>) =
            monitors.iter().partition(|monitor| monitor.get("checkpoint").status == 200);
        if holders.len() == 2 { Ok((holders, others)) } else { Err(holders.len()) }
    };
    let (holders, others) = eventually("both replicas show the log", holders).await;
    for file in ["checkpoint", "tile/0/000.p/1"] {
        let answer = others[0].get(file);
        let reason =
            format!("this node has no replica of vault {vault}; another node may have one\n");
        assert_eq!((answer.status, answer.text()), (404, reason.as_str()));
    }
    let before = holders[0].checkpoint(&keys);
    assert!(before.size >= 100, "{}", before.size);

    let height = grow(&cluster, vault, 310).await;
    let last = cluster.client().await.block(vault, height).await.unwrap().unwrap();
    for monitor in holders {
        let fresh = async || {
            let checkpoint = monitor.checkpoint(&keys);
            if checkpoint.size > height { Ok(checkpoint) } else { Err(checkpoint.size) }
        };
        let checkpoint = eventually("a checkpoint over the newest block", fresh).await;
        assert_eq!(checkpoint.size, height + 1);
        let entries = monitor.entries(checkpoint.size);
        let mut frontier = Frontier::new();
        for (height, entry) in (0..).zip(&entries) {
            frontier.append(hash::leaf(entry), |_, _, _| {});
            assert_eq!(BlockHeader::decode(entry).unwrap().height, height);
        }
        assert_eq!((frontier.size(), frontier.root()), (checkpoint.size, checkpoint.root));
        assert_eq!(*entries.last().unwrap(), last.header.encode());
        for index in [0, 255, 256, 299] {
            let leaf = hash::leaf(&entries[index as usize]);
            assert_follows(monitor, &before, &checkpoint, index, leaf);
        }
        assert_refusals(monitor, checkpoint.size);
    }
}

/// The directory's own log, which every founder has, and notes that cover no more than the node that hands them out.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_covered_by_the_tiles_of_the_node_that_shows_it() {
    let cluster = Cluster::start(3).await;
    let vault = cluster.vaults("covered", 1).await[0];
    let system = voter_keys(&cluster.node(0), VaultRef::SYSTEM).await;
    let keys = voter_keys(&cluster.node(0), vault).await;
    for (log, keys) in [(VaultRef::SYSTEM, &system), (vault, &keys)] {
        for (number, server) in cluster.servers.iter().enumerate() {
            let monitor = Monitor::new(server.spec().http_addr, log);
            for write in 0..20 {
                cluster.node(number).put_in_time(vault, &format!("k{write}"), b"value").await;
                let checkpoint = monitor.checkpoint(keys);
                assert_eq!(checkpoint.origin.vault, log);
                let reader =
                    TileHashReader::new(checkpoint.size, Hash(checkpoint.root.0), &monitor);
                assert_eq!(tree_hash(checkpoint.size, &reader).unwrap().0, checkpoint.root.0);
            }
        }
    }
}
