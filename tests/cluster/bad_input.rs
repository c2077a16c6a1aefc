//! Requests that cannot be accepted: each has its own typed refusal, changes nothing and leaves the node
//! ready.

use ledger_proto::v1;
use ledger_proto::v1::set_condition::Condition;
use ledger_types::VaultRef;
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::harness::{Cluster, Node, grant, set, set_if, why, wire, write_request};
use super::raw_call;

const KEY_BYTES_MAX: usize = 1024;
const VALUE_BYTES_MAX: usize = 1024 * 1024;
const OPERATIONS_MAX: usize = 10_000;

async fn refused_write(node: &Node, request: v1::WriteRequest) -> Status {
    match node.writes().write(request).await {
        Err(status) => status,
        Ok(answer) => panic!("accepted: {:?}", answer.into_inner()),
    }
}

/// Asserts that a limit was named with its bound and what the request had.
fn assert_limit(status: &Status, limit: &str, max: usize, actual: usize) {
    assert_eq!(why(status), (Code::InvalidArgument, "LIMIT_EXCEEDED".to_owned()), "{status:?}");
    let facts = status.get_details_error_info().unwrap().metadata;
    assert_eq!(facts["limit"], limit);
    assert_eq!(facts["max"], max.to_string());
    assert_eq!(facts["actual"], actual.to_string());
}

/// Asserts that a field was named.
fn assert_field(status: &Status, field: &str) {
    assert_eq!(why(status), (Code::InvalidArgument, "INVALID_ARGUMENT".to_owned()), "{status:?}");
    let bad = status.get_details_bad_request().expect("the field is named");
    assert_eq!(bad.field_violations[0].field, field);
}

async fn sizes_are_bounded(node: &Node, vault: VaultRef) {
    let long = "k".repeat(KEY_BYTES_MAX + 1);
    let status = refused_write(node, write_request(vault, vec![set(&long, b"")])).await;
    assert_limit(&status, "key_bytes_max", KEY_BYTES_MAX, KEY_BYTES_MAX + 1);

    let large = vec![7; VALUE_BYTES_MAX + 1];
    let status = refused_write(node, write_request(vault, vec![set("k", &large)])).await;
    assert_limit(&status, "value_bytes_max", VALUE_BYTES_MAX, VALUE_BYTES_MAX + 1);

    let many = vec![set("k", b""); OPERATIONS_MAX + 1];
    let status = refused_write(node, write_request(vault, many)).await;
    assert_limit(&status, "operations_max", OPERATIONS_MAX, OPERATIONS_MAX + 1);

    let (namespace_id, vault_id) = wire(vault);
    let half = v1::BatchWriteOperation { operations: vec![set("k", b""); OPERATIONS_MAX / 2 + 1] };
    let batch = v1::BatchWriteRequest {
        namespace_id,
        vault_id,
        client_id: Some(v1::ClientId { id: "black-box".to_owned() }),
        idempotency_key: vec![1; 16],
        operations: vec![half.clone(), half],
        ..v1::BatchWriteRequest::default()
    };
    let status = node.writes().batch_write(batch).await.unwrap_err();
    assert_limit(&status, "operations_max", OPERATIONS_MAX, OPERATIONS_MAX + 2);

    let values: Vec<v1::Operation> =
        (0..9).map(|number| set(&format!("k{number}"), &large[1..])).collect();
    let status = refused_write(node, write_request(vault, values)).await;
    assert_eq!(why(&status), (Code::InvalidArgument, "REQUEST_TOO_LARGE".to_owned()), "{status:?}");

    let part = "p".repeat(KEY_BYTES_MAX);
    let status = refused_write(node, write_request(vault, vec![grant(&part, "r", &part)])).await;
    assert_limit(&status, "state_key_bytes_max", 2048, 3 + 2 * KEY_BYTES_MAX + 1);

    let keys = vec!["k".to_owned(); 1_001];
    let request = v1::BatchReadRequest { namespace_id, vault_id, keys, consistency: 0 };
    let status = node.reads().batch_read(request).await.unwrap_err();
    assert_limit(&status, "keys_per_read_max", 1_000, 1_001);
}

async fn text_is_checked(node: &Node, vault: VaultRef) {
    let cases = [
        (vec![set("a\0b", b"")], "operations[0].key"),
        (vec![set("fine", b""), set("", b"")], "operations[1].key"),
        (vec![grant("doc:1\0", "viewer", "user:a")], "operations[0].resource"),
        (vec![grant("doc:1", "vie\0wer", "user:a")], "operations[0].relation"),
        (vec![grant("doc:1", "", "user:a")], "operations[0].relation"),
        (vec![grant("doc:1", "viewer", "")], "operations[0].subject"),
    ];
    for (operations, field) in cases {
        assert_field(&refused_write(node, write_request(vault, operations)).await, field);
    }
    let nothing = v1::Operation { op: None };
    let status = refused_write(node, write_request(vault, vec![nothing])).await;
    assert_eq!(why(&status), (Code::InvalidArgument, "INVALID_ARGUMENT".to_owned()), "{status:?}");
    let expire = v1::ExpireEntity { key: "k".to_owned(), expired_at: 1 };
    let expire = v1::Operation { op: Some(v1::operation::Op::ExpireEntity(expire)) };
    let status = refused_write(node, write_request(vault, vec![expire])).await;
    assert_eq!(why(&status), (Code::InvalidArgument, "INVALID_ARGUMENT".to_owned()), "{status:?}");
    let status = refused_write(node, write_request(vault, Vec::new())).await;
    assert_field(&status, "operations");
}

async fn ids_are_checked(node: &Node, vault: VaultRef) {
    let not_found = |reason: &str| (Code::NotFound, reason.to_owned());
    let unknown_vault = VaultRef::new(vault.namespace.0, 4_711);
    let unknown_namespace = VaultRef::new(4_711, 1);
    for (place, reason) in
        [(unknown_vault, "VAULT_NOT_FOUND"), (unknown_namespace, "NAMESPACE_NOT_FOUND")]
    {
        let status = refused_write(node, write_request(place, vec![set("k", b"")])).await;
        assert_eq!(why(&status), not_found(reason), "{status:?}");
        let status = node.read(place, "k").await.unwrap_err();
        assert_eq!(why(&status), not_found(reason), "{status:?}");
        let (namespace_id, vault_id) = wire(place);
        let tip = v1::GetTipRequest { namespace_id, vault_id };
        let status = node.reads().get_tip(tip).await.unwrap_err();
        assert_eq!(why(&status), not_found(reason), "{status:?}");
        let watch = v1::WatchBlocksRequest { namespace_id, vault_id, start_height: 1 };
        let status = node.reads().watch_blocks(watch).await.unwrap_err();
        assert_eq!(why(&status), not_found(reason), "{status:?}");
        let keys =
            vec![v1::VerifiedKey { key: Some(v1::verified_key::Key::Entity("k".to_owned())) }];
        let get = v1::VerifiedGetRequest { namespace_id, vault_id, keys, ..Default::default() };
        let status = node.ledger().verified_get(get).await.unwrap_err();
        assert_eq!(why(&status), not_found(reason), "{status:?}");
    }
    let mut negative = write_request(vault, vec![set("k", b"")]);
    negative.vault_id = Some(v1::VaultId { id: -1 });
    assert_field(&refused_write(node, negative).await, "vault_id");
    let mut missing = write_request(vault, vec![set("k", b"")]);
    missing.namespace_id = None;
    assert_field(&refused_write(node, missing).await, "namespace_id");
    let system = write_request(VaultRef::SYSTEM, vec![set("k", b"")]);
    let status = refused_write(node, system).await;
    assert_eq!(why(&status), (Code::PermissionDenied, "SYSTEM_NAMESPACE".to_owned()));
    let (namespace_id, vault_id) = wire(vault);
    let watch = v1::WatchBlocksRequest { namespace_id, vault_id, start_height: 0 };
    assert_field(&node.reads().watch_blocks(watch).await.unwrap_err(), "start_height");
}

async fn retries_are_recognised_by_their_key(node: &Node, vault: VaultRef) {
    for length in [0, 15, 17] {
        let mut request = write_request(vault, vec![set("k", b"")]);
        request.idempotency_key = vec![7; length];
        assert_field(&refused_write(node, request).await, "idempotency_key");
    }
    let mut both = write_request(vault, vec![set("k", b"")]);
    both.sequence = Some(1);
    let status = refused_write(node, both).await;
    assert_eq!(why(&status), (Code::InvalidArgument, "INVALID_ARGUMENT".to_owned()), "{status:?}");
    let mut nobody = write_request(vault, vec![set("k", b"")]);
    nobody.client_id = Some(v1::ClientId { id: "c".repeat(257) });
    let status = refused_write(node, nobody).await;
    assert_limit(&status, "client_id_bytes_max", 256, 257);
}

/// A key used again for something else, and conditions that fail: typed answers, no effect.
async fn rejections_tell_why(node: &Node, vault: VaultRef) {
    let first = write_request(vault, vec![set("r", b"1")]);
    let answer = node.writes().write(first.clone()).await.unwrap().into_inner();
    let Some(v1::write_response::Result::Success(success)) = answer.result else {
        panic!("{answer:?}")
    };
    let mut other = first;
    other.operations = vec![set("r", b"2")];
    let error = rejected(node, other).await;
    assert_eq!(error.code(), v1::WriteErrorCode::IdempotencyKeyReused);
    assert_eq!(error.committed_tx_id, success.tx_id);

    let version = success.block_height;
    let cases = [
        ("r", Condition::NotExists(true), v1::WriteErrorCode::KeyExists, Some(version)),
        ("absent", Condition::MustExists(true), v1::WriteErrorCode::KeyNotFound, None),
        ("r", Condition::Version(version + 1), v1::WriteErrorCode::VersionMismatch, Some(version)),
        (
            "r",
            Condition::ValueEquals(b"9".to_vec()),
            v1::WriteErrorCode::ValueMismatch,
            Some(version),
        ),
    ];
    for (key, condition, code, current) in cases {
        let operations = vec![set("effect", b"none"), set_if(key, b"2", Some(condition))];
        let error = rejected(node, write_request(vault, operations)).await;
        assert_eq!((error.code(), error.key.as_str()), (code, key));
        assert_eq!(error.current_version, current, "{error:?}");
    }
    assert_eq!(node.read(vault, "r").await.unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(node.read(vault, "effect").await.unwrap(), None);
    let delete = v1::DeleteEntity { key: "r".to_owned() };
    let delete = v1::Operation { op: Some(v1::operation::Op::DeleteEntity(delete)) };
    node.writes().write(write_request(vault, vec![delete])).await.unwrap();
}

async fn rejected(node: &Node, request: v1::WriteRequest) -> v1::WriteError {
    match node.writes().write(request).await.unwrap().into_inner().result {
        Some(v1::write_response::Result::Error(error)) => error,
        other => panic!("{other:?}"),
    }
}

async fn page_tokens_belong_to_their_query(node: &Node, vault: VaultRef) {
    let (namespace_id, vault_id) = wire(vault);
    let list = |prefix: &str, token: &str, limit: u32| {
        let request = v1::ListEntitiesRequest {
            namespace_id,
            vault_id,
            key_prefix: prefix.to_owned(),
            limit,
            page_token: token.to_owned(),
            consistency: v1::ReadConsistency::Linearizable.into(),
            ..v1::ListEntitiesRequest::default()
        };
        let node = node.clone();
        async move { node.reads().list_entities(request).await }
    };
    let operations = (0..5).map(|number| set(&format!("page/{number}"), b"")).collect();
    node.writes().write(write_request(vault, operations)).await.unwrap();
    let page = list("page/", "", 2).await.unwrap().into_inner();
    let token = page.next_page_token;
    assert!(!token.is_empty());
    let refused = (Code::InvalidArgument, "INVALID_PAGE_TOKEN".to_owned());
    assert_eq!(why(&list("pag", &token, 2).await.unwrap_err()), refused);
    assert_eq!(why(&list("page/", "nonsense", 2).await.unwrap_err()), refused);
    let mut damaged = token.clone().into_bytes();
    damaged[10] = if damaged[10] == b'A' { b'B' } else { b'A' };
    let damaged = String::from_utf8(damaged).unwrap();
    assert_eq!(why(&list("page/", &damaged, 2).await.unwrap_err()), refused);
    let relationships = v1::ListRelationshipsRequest {
        namespace_id,
        vault_id,
        page_token: token.clone(),
        ..v1::ListRelationshipsRequest::default()
    };
    let status = node.reads().list_relationships(relationships).await.unwrap_err();
    assert_eq!(why(&status), refused);
    assert_limit(&list("page/", "", 10_001).await.unwrap_err(), "page_items_max", 10_000, 10_001);
    assert_eq!(list("page/", &token, 2).await.unwrap().into_inner().entities.len(), 2);

    let future = v1::ListEntitiesRequest {
        namespace_id,
        vault_id,
        at_height: Some(1 << 40),
        ..v1::ListEntitiesRequest::default()
    };
    let status = node.reads().list_entities(future).await.unwrap_err();
    assert_eq!(why(&status), (Code::FailedPrecondition, "HEIGHT_UNAVAILABLE".to_owned()));
    let facts = status.get_details_error_info().unwrap().metadata;
    assert!(facts.contains_key("floor") && facts.contains_key("tip"), "{facts:?}");
}

async fn names_are_checked(node: &Node, taken: &str) {
    let create = |name: &str| {
        let request = v1::CreateNamespaceRequest { name: name.to_owned(), shard_id: None };
        let node = node.clone();
        async move { node.admin().create_namespace(request).await }
    };
    let status = create(taken).await.unwrap_err();
    assert_eq!(why(&status), (Code::AlreadyExists, "NAMESPACE_EXISTS".to_owned()), "{status:?}");
    assert_field(&create("").await.unwrap_err(), "name");
    assert_field(&create("nul\0").await.unwrap_err(), "name");
    assert_limit(&create(&"n".repeat(129)).await.unwrap_err(), "name_bytes_max", 128, 129);
    let nowhere = v1::CreateVaultRequest {
        namespace_id: Some(v1::NamespaceId { id: 4_711 }),
        ..v1::CreateVaultRequest::default()
    };
    let status = node.admin().create_vault(nowhere).await.unwrap_err();
    assert_eq!(why(&status), (Code::NotFound, "NAMESPACE_NOT_FOUND".to_owned()));
}

/// What no proper client sends: a deadline that is over, bytes that are no message, a method that is not.
async fn calls_by_hand_are_refused(address: &str, vault: VaultRef) {
    let path = "/ledger.v1.WriteService/Write";
    let message = write_request(vault, vec![set("too-late", b"")]).encode_to_vec();
    for timeout in ["0m", "0S", "1n"] {
        let status = raw_call::call(address, path, &message, &[("grpc-timeout", timeout)]).await;
        let expected = (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".to_owned());
        assert_eq!(why(&status), expected, "{timeout}: {status:?}");
    }
    let status = raw_call::call(address, path, &message, &[("grpc-timeout", "soon")]).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let status = raw_call::call(address, path, &[0xff; 40], &[]).await;
    assert_eq!(why(&status), (Code::InvalidArgument, "MALFORMED_MESSAGE".to_owned()), "{status:?}");
    let status = raw_call::call(address, "/ledger.v1.WriteService/Erase", &[], &[]).await;
    assert_eq!(status.code(), Code::Unimplemented);
    let status = raw_call::call(address, "/ledger.v1.AdminService/JoinCluster", &[], &[]).await;
    assert_eq!(why(&status), (Code::Unimplemented, "NOT_OFFERED".to_owned()), "{status:?}");
}

fn assert_height_unavailable(status: &Status) {
    let expected = (Code::FailedPrecondition, "HEIGHT_UNAVAILABLE".to_owned());
    assert_eq!(why(status), expected, "{status:?}");
    let facts = status.get_details_error_info().unwrap().metadata;
    assert!(facts.contains_key("floor") && facts.contains_key("tip"), "{facts:?}");
}

/// Receipts and ways between checkpoints that cannot be given.
async fn log_proofs_are_checked(node: &Node, vault: VaultRef, height: u64) {
    use v1::get_receipt_request::Transaction as Choice;
    let (namespace_id, vault_id) = wire(vault);
    let receipt = |block_height, transaction| {
        let known_size = None;
        let request =
            v1::GetReceiptRequest { namespace_id, vault_id, block_height, transaction, known_size };
        let node = node.clone();
        async move { node.ledger().get_receipt(request).await.unwrap_err() }
    };
    let id = |length| Some(Choice::TxId(v1::TxId { id: vec![9; length] }));
    assert_field(&receipt(0, id(16)).await, "block_height");
    assert_field(&receipt(height, None).await, "transaction");
    assert_field(&receipt(height, id(15)).await, "tx_id");
    assert_height_unavailable(&receipt(height + 1, id(16)).await);
    assert_height_unavailable(&receipt(u64::MAX, id(16)).await);
    for absent in [id(16), Some(Choice::TxIndex(1)), Some(Choice::TxIndex(u32::MAX))] {
        let status = receipt(height, absent).await;
        let expected = (Code::NotFound, "TRANSACTION_NOT_FOUND".to_owned());
        assert_eq!(why(&status), expected, "{status:?}");
        let facts = status.get_details_error_info().unwrap().metadata;
        assert_eq!((&facts["height"], facts["count"].as_str()), (&height.to_string(), "1"));
    }
    let way = |from_size, to_size| {
        let request = v1::GetConsistencyProofRequest { namespace_id, vault_id, from_size, to_size };
        let node = node.clone();
        async move { node.ledger().get_consistency_proof(request).await.unwrap_err() }
    };
    assert_field(&way(2, Some(1)).await, "to_size");
    for (from_size, to_size) in
        [(height + 2, None), (0, Some(height + 2)), (1, Some(u64::MAX)), (u64::MAX, None)]
    {
        assert_height_unavailable(&way(from_size, to_size).await);
    }
}

/// Proofs at heights that are not there, and lists that are none.
async fn past_proofs_are_checked(node: &Node, vault: VaultRef, height: u64) {
    use v1::verified_list_request::List;
    let (namespace_id, vault_id) = wire(vault);
    let key = v1::VerifiedKey { key: Some(v1::verified_key::Key::Entity("first".to_owned())) };
    let get = v1::VerifiedGetRequest {
        namespace_id,
        vault_id,
        keys: vec![key],
        at_height: Some(height + 1),
        ..v1::VerifiedGetRequest::default()
    };
    assert_height_unavailable(&node.ledger().verified_get(get.clone()).await.unwrap_err());
    let both = v1::VerifiedGetRequest { at_height: Some(height), min_height: Some(height), ..get };
    assert_field(&node.ledger().verified_get(both).await.unwrap_err(), "at_height");
    let all = v1::VerifiedListRequest {
        namespace_id,
        vault_id,
        list: Some(List::EntityPrefix(String::new())),
        ..v1::VerifiedListRequest::default()
    };
    let refused = |change: &dyn Fn(&mut v1::VerifiedListRequest)| {
        let mut request = all.clone();
        change(&mut request);
        let node = node.clone();
        async move { node.ledger().verified_list(request).await.unwrap_err() }
    };
    assert_field(&refused(&|request| request.list = None).await, "list");
    let typed = List::ResourceType("a:b".to_owned());
    assert_field(&refused(&|request| request.list = Some(typed.clone())).await, "resource_type");
    let part = "p".repeat(KEY_BYTES_MAX);
    let long = v1::SubjectList { subject: part.clone(), resource: Some(part.clone()) };
    let status = refused(&|request| request.list = Some(List::Subject(long.clone()))).await;
    assert_limit(&status, "state_key_bytes_max", 2048, 2 * KEY_BYTES_MAX + 3);
    let status = refused(&|request| request.limit = 10_001).await;
    assert_limit(&status, "page_items_max", 10_000, 10_001);
    assert_height_unavailable(&refused(&|request| request.at_height = Some(height + 1)).await);
    assert_height_unavailable(&refused(&|request| request.min_height = Some(height + 1)).await);
    assert_height_unavailable(&refused(&|request| request.known_size = Some(height + 2)).await);
    let both = |request: &mut v1::VerifiedListRequest| {
        (request.at_height, request.min_height) = (Some(height), Some(height));
    };
    assert_field(&refused(&both).await, "at_height");
    let status = refused(&|request| request.page_token = "nonsense".to_owned()).await;
    assert_eq!(why(&status), (Code::InvalidArgument, "INVALID_PAGE_TOKEN".to_owned()));
}

/// Reads of the published protocol at heights that are not there, or with headers that are too many.
async fn reads_of_the_past_are_checked(node: &Node, vault: VaultRef, height: u64) {
    let (namespace_id, vault_id) = wire(vault);
    let past = v1::HistoricalReadRequest {
        namespace_id,
        vault_id,
        key: "first".to_owned(),
        at_height: height,
        ..v1::HistoricalReadRequest::default()
    };
    let refused = |change: &dyn Fn(&mut v1::HistoricalReadRequest)| {
        let mut request = past.clone();
        change(&mut request);
        let node = node.clone();
        async move { node.reads().historical_read(request).await.unwrap_err() }
    };
    assert_field(&refused(&|request| request.at_height = 0).await, "at_height");
    assert_field(&refused(&|request| request.key.clear()).await, "key");
    assert_height_unavailable(&refused(&|request| request.at_height = height + 1).await);
    let chain = |trusted: u64, at_height: u64| {
        move |request: &mut v1::HistoricalReadRequest| {
            request.include_chain_proof = true;
            (request.trusted_height, request.at_height) = (Some(trusted), at_height);
        }
    };
    assert_field(&refused(&chain(height + 1, height)).await, "trusted_height");
    assert_limit(&refused(&chain(0, 1_001)).await, "chain_headers_max", 1_000, 1_001);
    let newest = v1::VerifiedReadRequest {
        namespace_id,
        vault_id,
        key: "first".to_owned(),
        include_chain_proof: true,
        trusted_height: Some(height + 1),
        ..v1::VerifiedReadRequest::default()
    };
    let status = node.reads().verified_read(newest.clone()).await.unwrap_err();
    assert_field(&status, "trusted_height");
    let above = v1::VerifiedReadRequest { at_height: Some(height + 1), ..newest };
    assert_height_unavailable(&node.reads().verified_read(above).await.unwrap_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_request_has_its_own_refusal_and_changes_nothing() {
    let cluster = Cluster::start(3).await;
    let vault = cluster.vaults("bad-input", 1).await[0];
    let replicas = cluster.replicas();
    let nodes = cluster.nodes();
    // A first write, so that the tip can tell whether anything else was written.
    let height = nodes[0].put(vault, "first", b"1").await.unwrap();
    for node in &nodes {
        sizes_are_bounded(node, vault).await;
        text_is_checked(node, vault).await;
        ids_are_checked(node, vault).await;
        retries_are_recognised_by_their_key(node, vault).await;
        names_are_checked(node, "bad-input").await;
        log_proofs_are_checked(node, vault, height).await;
        reads_of_the_past_are_checked(node, vault, height).await;
        past_proofs_are_checked(node, vault, height).await;
    }
    for server in &cluster.servers {
        calls_by_hand_are_refused(&server.address(), vault).await;
    }
    for replica in &replicas {
        assert_eq!(replica.tip(vault).await.unwrap().height, height, "something was written");
    }
    for node in &nodes {
        rejections_tell_why(node, vault).await;
        page_tokens_belong_to_their_query(node, vault).await;
    }
    cluster.assert_ready().await;
    for node in &nodes {
        node.put(vault, "last", b"1").await.unwrap();
    }
}
