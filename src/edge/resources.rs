//! `ListResources`: the resources of a vault that are of one type.
//!
//! Owns what its page tokens are bound to. Must never read before the route says that what is here is fresh
//! enough and owned.

use ledger_proto::convert::consistency::consistency;
use ledger_proto::convert::{ids, lists, reads};
use ledger_proto::v1;
use ledger_shard::{ResourceQuery, VaultRow};
use ledger_types::VaultRef;
use tonic::{Request, Response};

use super::Edge;
use super::page_token::Query;
use super::read::{ListAsked, Target, apart, client, list_query};
use super::route::{Call, query_failure};
use super::status::Failure;

fn resources_query(vault: VaultRef, message: &v1::ListResourcesRequest) -> Query {
    list_query("ListResources", vault, message.at_height).text(&message.resource_type)
}

impl Edge {
    pub(super) async fn resources(
        &self,
        request: Request<v1::ListResourcesRequest>,
    ) -> Result<Response<v1::ListResourcesResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let vault = ids::vault_ref(message.namespace_id, message.vault_id)?;
        lists::resource_type(&message.resource_type)?;
        let query = resources_query(vault, &message);
        let asked = ListAsked {
            vault,
            at_height: message.at_height,
            items_max: reads::page_items("limit", message.limit)?,
            consistency: consistency(message.consistency)?,
            cursor: self.cursor(&call, &query, &message.page_token)?,
        };
        let local = |_: &VaultRow, message: &v1::ListResourcesRequest| {
            let resource_type = &message.resource_type;
            let wanted = ResourceQuery { vault, resource_type, at_height: asked.height() };
            let read = || call.context.reader.resources(wanted, asked.limits());
            // A search for each resource takes longer than reading as many rows.
            let page = apart(usize::MAX, read).map_err(query_failure)?;
            let next_page_token = self.token(&call, &query, &page, 0);
            let (resources, block_height) = (page.items, page.height);
            Ok(v1::ListResourcesResponse { resources, block_height, next_page_token })
        };
        let send = |channel, request| async move { client(channel).list_resources(request).await };
        let absent = v1::ListResourcesResponse::default();
        let target = Target::or_empty(vault, asked.freshness(), absent);
        call.read(target, message, local, send).await
    }
}

#[cfg(test)]
mod tests {
    use ledger_types::ClusterId;

    use super::super::page_token::{PageCursor, PageTokens};
    use super::*;

    #[test]
    fn a_token_is_of_one_type_vault_and_height() {
        let message = |resource_type: &str, at_height| v1::ListResourcesRequest {
            resource_type: resource_type.to_owned(),
            at_height,
            ..Default::default()
        };
        let tokens = PageTokens::new(ClusterId([5; 16]));
        let vault = VaultRef::new(1, 2);
        let cursor = PageCursor { height: 3, time_seconds: 0, after: b"\x02doc:1".to_vec() };
        let token = tokens.seal(&resources_query(vault, &message("doc", None)), &cursor);
        let larger = v1::ListResourcesRequest { limit: 7, ..message("doc", None) };
        assert_eq!(tokens.open(&resources_query(vault, &larger), &token).unwrap(), cursor);
        for other in [
            resources_query(vault, &message("docs", None)),
            resources_query(vault, &message("doc", Some(3))),
            resources_query(VaultRef::new(1, 3), &message("doc", None)),
            list_query("ListEntities", vault, None).text("doc"),
        ] {
            assert!(matches!(tokens.open(&other, &token), Err(Failure::PageToken)));
        }
    }
}
