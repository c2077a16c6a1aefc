//! Page tokens and cursors as a cluster gave them out, with something changed: none is taken, whatever was changed.

use ledger_proto::v1;
use ledger_proto::v1::verified_list_request::List;
use ledger_types::VaultRef;
use tonic::{Code, Status};

use super::super::harness::{Cluster, Node, grant, set, why, wire, write_request};
use super::panics;

/// A list that goes on: its method, and which kind of token it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Of {
    Entities,
    Relationships,
    Resources,
    Verified,
    Export,
    Namespaces,
    Vaults,
    Status,
}

impl Of {
    const ALL: [Of; 8] = [
        Of::Entities,
        Of::Relationships,
        Of::Resources,
        Of::Verified,
        Of::Export,
        Of::Namespaces,
        Of::Vaults,
        Of::Status,
    ];

    /// True of tokens that are text on the wire; the others are bytes.
    fn is_text(self) -> bool {
        !matches!(self, Of::Namespaces | Of::Vaults)
    }
}

/// Asks for a page behind a token, an empty one for the first; returns the token of the next.
async fn page(node: &Node, vault: VaultRef, of: Of, token: &[u8]) -> Result<Vec<u8>, Status> {
    let (namespace_id, vault_id) = wire(vault);
    let (limit, text) = (1, || String::from_utf8(token.to_vec()).unwrap());
    match of {
        Of::Entities => {
            let request = v1::ListEntitiesRequest {
                namespace_id,
                vault_id,
                limit,
                page_token: text(),
                ..Default::default()
            };
            let page = node.reads().list_entities(request).await?.into_inner();
            Ok(page.next_page_token.into())
        }
        Of::Relationships => {
            let request = v1::ListRelationshipsRequest {
                namespace_id,
                vault_id,
                limit,
                page_token: text(),
                ..Default::default()
            };
            let page = node.reads().list_relationships(request).await?.into_inner();
            Ok(page.next_page_token.into())
        }
        Of::Resources => {
            let request = v1::ListResourcesRequest {
                namespace_id,
                vault_id,
                limit,
                page_token: text(),
                resource_type: "document".to_owned(),
                ..Default::default()
            };
            let page = node.reads().list_resources(request).await?.into_inner();
            Ok(page.next_page_token.into())
        }
        Of::Verified => {
            let request = v1::VerifiedListRequest {
                namespace_id,
                vault_id,
                limit,
                page_token: text(),
                list: Some(List::EntityPrefix(String::new())),
                ..Default::default()
            };
            let page = node.ledger().verified_list(request).await?.into_inner();
            Ok(page.next_page_token.into())
        }
        Of::Export => {
            let request = v1::ExportBulkRequest {
                namespace_id,
                vault_id,
                cursor: text(),
                ..Default::default()
            };
            let mut chunks = node.ledger().export_bulk(request).await?.into_inner();
            Ok(chunks.message().await?.unwrap().cursor.into())
        }
        _ => of_the_directory(node, of, token).await,
    }
}

async fn of_the_directory(node: &Node, of: Of, token: &[u8]) -> Result<Vec<u8>, Status> {
    let page_token = (!token.is_empty()).then(|| token.to_vec());
    match of {
        Of::Namespaces => {
            let request =
                v1::ListNamespacesRequest { page_token, page_size: 1, include_deleted: false };
            let page = node.admin().list_namespaces(request).await?.into_inner();
            Ok(page.next_page_token.unwrap_or_default())
        }
        Of::Vaults => {
            let request =
                v1::ListVaultsRequest { page_token, page_size: Some(1), ..Default::default() };
            let page = node.admin().list_vaults(request).await?.into_inner();
            Ok(page.next_page_token.unwrap_or_default())
        }
        _ => {
            let page_token = page_token.map(|token| String::from_utf8(token).unwrap());
            let request = v1::GetStatusRequest { page_size: Some(1), page_token };
            let page = node.ledger().get_status(request).await?.into_inner();
            Ok(page.next_page_token.into())
        }
    }
}

/// The token with each of its bytes changed, in two ways; cut off at each, and with something behind it.
fn damaged(token: &[u8], is_text: bool) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for at in 0..token.len() {
        let other = if token[at] == b'A' { b'B' } else { b'A' };
        let changes = if is_text { [other, b'!'] } else { [token[at] ^ 1, token[at] ^ 0x80] };
        for byte in changes {
            let mut changed = token.to_vec();
            changed[at] = byte;
            all.push(changed);
        }
        if at > 0 {
            all.push(token[..at].to_vec());
        }
    }
    for more in [&b"A"[..], b"AA", b"AAAA", b"="] {
        all.push([token, more].concat());
    }
    all.push([token, token].concat());
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_anything_changed_is_refused_and_ends_nothing() {
    let cluster = Cluster::start(1).await;
    let vault = cluster.vaults("tokens", 3).await[0];
    cluster.vaults("more", 1).await;
    let node = cluster.node(0);
    let operations = (0..3)
        .flat_map(|number| {
            let resource = format!("document:{number}");
            [set(&format!("key/{number}"), b"1"), grant(&resource, "viewer", "user:1")]
        })
        .collect();
    node.writes().write(write_request(vault, operations)).await.unwrap();
    let is_refused = (Code::InvalidArgument, "INVALID_PAGE_TOKEN".to_owned());
    let mut tokens = Vec::new();
    for of in Of::ALL {
        let token = page(&node, vault, of, b"").await.unwrap();
        assert!(!token.is_empty(), "{of:?} has one page only");
        page(&node, vault, of, &token).await.unwrap();
        for changed in damaged(&token, of.is_text()) {
            let status = page(&node, vault, of, &changed).await.expect_err("it was taken");
            assert_eq!(why(&status), is_refused, "{of:?}, {changed:?}: {status:?}");
        }
        tokens.push((of, token));
    }
    // Nor is one taken by another list, or by the same list of another vault.
    let other = cluster.vaults("other", 1).await[0];
    for (given_by, token) in &tokens {
        for of in Of::ALL.into_iter().filter(|of| of.is_text() == given_by.is_text()) {
            let is_own = of == *given_by;
            if !is_own {
                let status = page(&node, vault, of, token).await.expect_err("it was taken");
                assert_eq!(why(&status), is_refused, "{of:?} of {given_by:?}: {status:?}");
            } else if !matches!(of, Of::Namespaces | Of::Vaults | Of::Status) {
                let status = page(&node, other, of, token).await.expect_err("it was taken");
                assert_eq!(why(&status), is_refused, "{of:?} of another vault: {status:?}");
            }
        }
    }
    assert_eq!(panics(&cluster), [""; 0]);
    cluster.assert_ready().await;
}
