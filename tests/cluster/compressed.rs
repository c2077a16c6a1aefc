//! Requests packed with gzip: they are taken, and one that is a bomb is not unpacked.

use ledger_proto::v1;
use ledger_proto::v1::ledger_client::LedgerClient;
use ledger_proto::v1::read_service_client::ReadServiceClient;
use ledger_proto::v1::write_service_client::WriteServiceClient;
use prost::Message as _;
use tonic::Code;
use tonic::codec::CompressionEncoding::Gzip;

use super::harness::{Cluster, peak_bytes, set, why, wire, write_request};
use super::raw_call;

/// What a bomb has unpacked, in bytes; far above every limit.
const BOMB_BYTES: usize = 192 << 20;
/// What a server may need more for a request that it refuses: a largest message, in a buffer that grows by doubling,
/// and what its allocator keeps.
const REFUSAL_BYTES_MAX: u64 = 64 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn packed_requests_are_taken_and_bombs_are_not_unpacked() {
    let cluster = Cluster::start(1).await;
    let vault = cluster.vaults("packed", 1).await[0];
    let (node, server) = (cluster.node(0), &cluster.servers[0]);
    // Larger than a packed request of its kind, so that it was packed.
    let value = vec![7; 900_000];
    let request = write_request(vault, vec![set("packed", &value)]);
    let mut writes = WriteServiceClient::new(node.channel.clone()).send_compressed(Gzip);
    writes.write(request).await.unwrap();
    let mut reads =
        ReadServiceClient::new(node.channel.clone()).send_compressed(Gzip).accept_compressed(Gzip);
    let (namespace_id, vault_id) = wire(vault);
    let key = "packed".to_owned();
    let request = v1::ReadRequest { namespace_id, vault_id, key, ..Default::default() };
    let read = reads.read(request).await.unwrap().into_inner();
    assert_eq!(read.value, Some(value));
    let streamed = v1::WriteStreamRequest {
        correlation_id: 9,
        timeout_ms: 0,
        write: Some(write_request(vault, vec![set("streamed", &[1; 10_000])])),
    };
    let mut ledger = LedgerClient::new(node.channel.clone()).send_compressed(Gzip);
    let answers = ledger.write_stream(tokio_stream::once(streamed)).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    assert_eq!(answer.correlation_id, 9);
    assert_eq!(node.read(vault, "streamed").await.unwrap(), Some(vec![1; 10_000]));

    let before = peak_bytes(server);
    for _ in 0..3 {
        let bomb = write_request(vault, vec![set("bomb", &vec![0; BOMB_BYTES])]);
        let status = writes.write(bomb).await.unwrap_err();
        let expected = (Code::InvalidArgument, "REQUEST_TOO_LARGE".to_owned());
        assert_eq!(why(&status), expected, "{status:?}");
    }
    let grown = peak_bytes(server) - before;
    assert!(grown < REFUSAL_BYTES_MAX, "{grown} bytes for bombs of {BOMB_BYTES}");
    assert_eq!(node.read(vault, "bomb").await.unwrap(), None);

    let (address, path) = (server.address(), "/ledger.v1.WriteService/Write");
    let message = write_request(vault, vec![set("other", b"1")]).encode_to_vec();
    let status = raw_call::call(&address, path, &message, &[("grpc-encoding", "snappy")]).await;
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    let accepted = status.metadata().get("grpc-accept-encoding").unwrap();
    assert!(accepted.to_str().unwrap().contains("gzip"), "{accepted:?}");
}
