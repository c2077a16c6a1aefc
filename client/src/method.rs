//! The calls that a client makes: each with its path and the types that travel on it.
//!
//! Requests are encoded once for each call, not once for each attempt, so the transport sees bytes. The
//! table is held against the compiled descriptors by a test.

use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes};
use ledger_proto::v1;
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// A call of the public API with its request and its answer.
#[derive(Debug)]
pub struct Method<Q, R> {
    path: &'static str,
    types: PhantomData<fn(Q) -> R>,
}

impl<Q, R> Clone for Method<Q, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Q, R> Copy for Method<Q, R> {}

impl<Q, R> Method<Q, R> {
    const fn new(path: &'static str) -> Method<Q, R> {
        Method { path, types: PhantomData }
    }

    /// Its HTTP path, `/package.Service/Method`.
    pub fn path(&self) -> &'static str {
        self.path
    }
}

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident: $request:ident => $answer:ident = $path:literal,)*) => {
        $($(#[$doc])* pub const $name: Method<v1::$request, v1::$answer> = Method::new($path);)*

        /// Path, request and answer of every call in the table.
        #[cfg(test)]
        const TABLE: &[(&str, &str, &str)] =
            &[$(($path, stringify!($request), stringify!($answer)),)*];
    };
}

methods! {
    /// Writes one transaction.
    WRITE: WriteRequest => WriteResponse = "/ledger.v1.WriteService/Write",
    /// Writes one transaction given in parts.
    BATCH_WRITE: BatchWriteRequest => BatchWriteResponse = "/ledger.v1.WriteService/BatchWrite",
    /// Reads one entity.
    READ: ReadRequest => ReadResponse = "/ledger.v1.ReadService/Read",
    /// Reads several entities.
    BATCH_READ: BatchReadRequest => BatchReadResponse = "/ledger.v1.ReadService/BatchRead",
    /// Tells which keys the blocks of a vault change.
    WATCH_CHANGES: WatchChangesRequest => WatchChangesResponse = "/ledger.v1.Ledger/WatchChanges",
    /// Lists entities.
    LIST_ENTITIES: ListEntitiesRequest => ListEntitiesResponse =
        "/ledger.v1.ReadService/ListEntities",
    /// Lists relationships.
    LIST_RELATIONSHIPS: ListRelationshipsRequest => ListRelationshipsResponse =
        "/ledger.v1.ReadService/ListRelationships",
    /// Lists the resources of a type.
    LIST_RESOURCES: ListResourcesRequest => ListResourcesResponse =
        "/ledger.v1.ReadService/ListResources",
    /// Announces blocks.
    WATCH_BLOCKS: WatchBlocksRequest => BlockAnnouncement = "/ledger.v1.ReadService/WatchBlocks",
    /// Tells the newest block.
    GET_TIP: GetTipRequest => GetTipResponse = "/ledger.v1.ReadService/GetTip",
    /// Reads one block.
    GET_BLOCK: GetBlockRequest => GetBlockResponse = "/ledger.v1.ReadService/GetBlock",
    /// Adjacent blocks.
    GET_BLOCK_RANGE: GetBlockRangeRequest => GetBlockRangeResponse =
        "/ledger.v1.ReadService/GetBlockRange",
    /// Makes a namespace.
    CREATE_NAMESPACE: CreateNamespaceRequest => CreateNamespaceResponse =
        "/ledger.v1.AdminService/CreateNamespace",
    /// Tells about a namespace.
    GET_NAMESPACE: GetNamespaceRequest => GetNamespaceResponse =
        "/ledger.v1.AdminService/GetNamespace",
    /// Lists namespaces.
    LIST_NAMESPACES: ListNamespacesRequest => ListNamespacesResponse =
        "/ledger.v1.AdminService/ListNamespaces",
    /// Deletes a namespace.
    DELETE_NAMESPACE: DeleteNamespaceRequest => DeleteNamespaceResponse =
        "/ledger.v1.AdminService/DeleteNamespace",
    /// Makes a vault.
    CREATE_VAULT: CreateVaultRequest => CreateVaultResponse =
        "/ledger.v1.AdminService/CreateVault",
    /// Deletes a vault.
    DELETE_VAULT: DeleteVaultRequest => DeleteVaultResponse =
        "/ledger.v1.AdminService/DeleteVault",
    /// Tells about a vault.
    GET_VAULT: GetVaultRequest => GetVaultResponse = "/ledger.v1.AdminService/GetVault",
    /// Lists vaults.
    LIST_VAULTS: ListVaultsRequest => ListVaultsResponse = "/ledger.v1.AdminService/ListVaults",
    /// Tells the members of the directory's group.
    GET_CLUSTER_INFO: GetClusterInfoRequest => GetClusterInfoResponse =
        "/ledger.v1.AdminService/GetClusterInfo",
    /// Checks a replica's rows of a vault.
    CHECK_INTEGRITY: CheckIntegrityRequest => CheckIntegrityResponse =
        "/ledger.v1.AdminService/CheckIntegrity",
    /// Writes a snapshot of a vault.
    CREATE_SNAPSHOT: CreateSnapshotRequest => CreateSnapshotResponse =
        "/ledger.v1.AdminService/CreateSnapshot",
    /// Removes what has expired.
    FORCE_GC: ForceGcRequest => ForceGcResponse = "/ledger.v1.AdminService/ForceGc",
    /// Tells how a node is.
    GET_STATUS: GetStatusRequest => GetStatusResponse = "/ledger.v1.Ledger/GetStatus",
    /// Tells a node's version and limits.
    GET_SERVER_INFO: GetServerInfoRequest => GetServerInfoResponse =
        "/ledger.v1.Ledger/GetServerInfo",
    /// Tells a vault's newest checkpoint.
    GET_CHECKPOINT: GetCheckpointRequest => GetCheckpointResponse =
        "/ledger.v1.Ledger/GetCheckpoint",
    /// Reads keys with proofs.
    VERIFIED_GET: VerifiedGetRequest => VerifiedGetResponse = "/ledger.v1.Ledger/VerifiedGet",
    /// Lists with proofs.
    VERIFIED_LIST: VerifiedListRequest => VerifiedListResponse = "/ledger.v1.Ledger/VerifiedList",
    /// Proves that a transaction is in a block.
    GET_RECEIPT: GetReceiptRequest => GetReceiptResponse = "/ledger.v1.Ledger/GetReceipt",
    /// Proves that a log contains an earlier state of it.
    GET_CONSISTENCY_PROOF: GetConsistencyProofRequest => GetConsistencyProofResponse =
        "/ledger.v1.Ledger/GetConsistencyProof",
    /// Tells whose signatures count.
    GET_TRUST_BUNDLE: GetTrustBundleRequest => GetTrustBundleResponse =
        "/ledger.v1.Ledger/GetTrustBundle",
    /// Writes many transactions on one stream.
    WRITE_STREAM: WriteStreamRequest => WriteStreamResponse = "/ledger.v1.Ledger/WriteStream",
    /// Brings a vault in.
    IMPORT_BULK: ImportBulkRequest => ImportBulkResponse = "/ledger.v1.Ledger/ImportBulk",
    /// Shows a whole vault.
    EXPORT_BULK: ExportBulkRequest => ExportBulkResponse = "/ledger.v1.Ledger/ExportBulk",
}

/// Sends bytes that are an encoded request, and decodes answers.
pub(crate) struct EncodedRequests<R>(PhantomData<fn() -> R>);

impl<R> EncodedRequests<R> {
    pub(crate) fn new() -> EncodedRequests<R> {
        EncodedRequests(PhantomData)
    }
}

impl<R: Message + Default + Send + 'static> Codec for EncodedRequests<R> {
    type Encode = Bytes;
    type Decode = R;
    type Encoder = PassBytes;
    type Decoder = DecodeMessage<R>;

    fn encoder(&mut self) -> PassBytes {
        PassBytes
    }

    fn decoder(&mut self) -> DecodeMessage<R> {
        DecodeMessage(PhantomData)
    }
}

/// Copies encoded bytes into the stream.
pub(crate) struct PassBytes;

impl Encoder for PassBytes {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, target: &mut EncodeBuf<'_>) -> Result<(), Status> {
        target.put(item);
        Ok(())
    }
}

/// Encodes requests of a stream as they are sent, and decodes answers.
pub(crate) struct Messages<Q, R>(PhantomData<fn(Q) -> R>);

impl<Q, R> Messages<Q, R> {
    pub(crate) fn new() -> Messages<Q, R> {
        Messages(PhantomData)
    }
}

impl<Q, R> Codec for Messages<Q, R>
where
    Q: Message + 'static,
    R: Message + Default + Send + 'static,
{
    type Encode = Q;
    type Decode = R;
    type Encoder = EncodeMessage<Q>;
    type Decoder = DecodeMessage<R>;

    fn encoder(&mut self) -> EncodeMessage<Q> {
        EncodeMessage(PhantomData)
    }

    fn decoder(&mut self) -> DecodeMessage<R> {
        DecodeMessage(PhantomData)
    }
}

/// Encodes one message.
pub(crate) struct EncodeMessage<Q>(PhantomData<fn(Q)>);

impl<Q: Message> Encoder for EncodeMessage<Q> {
    type Item = Q;
    type Error = Status;

    fn encode(&mut self, item: Q, target: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let encoded = item.encode(target);
        encoded.map_err(|error| Status::internal(format!("the request has no room: {error}")))
    }
}

/// Decodes one message.
pub(crate) struct DecodeMessage<R>(PhantomData<fn() -> R>);

impl<R: Message + Default> Decoder for DecodeMessage<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        let message = R::decode(&mut *source);
        source.advance(source.remaining());
        match message {
            Ok(message) => Ok(Some(message)),
            Err(error) => Err(Status::internal(format!("the answer cannot be decoded: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message as _;

    use super::*;

    /// The parts of a descriptor set that name services; prost skips the rest.
    mod descriptor {
        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Set {
            #[prost(message, repeated, tag = "1")]
            pub(super) files: Vec<File>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct File {
            #[prost(string, tag = "2")]
            pub(super) package: String,
            #[prost(message, repeated, tag = "6")]
            pub(super) services: Vec<Service>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Service {
            #[prost(string, tag = "1")]
            pub(super) name: String,
            #[prost(message, repeated, tag = "2")]
            pub(super) methods: Vec<Call>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Call {
            #[prost(string, tag = "1")]
            pub(super) name: String,
            #[prost(string, tag = "2")]
            pub(super) input: String,
            #[prost(string, tag = "3")]
            pub(super) output: String,
        }
    }

    #[test]
    fn table_agrees_with_the_compiled_descriptors() {
        let set = descriptor::Set::decode(ledger_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut calls = BTreeMap::new();
        for file in set.files {
            for service in file.services {
                for call in service.methods {
                    let path = format!("/{}.{}/{}", file.package, service.name, call.name);
                    calls.insert(path, (call.input, call.output));
                }
            }
        }
        for &(path, request, answer) in TABLE {
            let wanted = (format!(".ledger.v1.{request}"), format!(".ledger.v1.{answer}"));
            assert_eq!(calls.get(path), Some(&wanted), "{path}");
        }
    }
}
