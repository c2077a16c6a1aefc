//! `VerifiedList`: lists with proof that nothing is missing.
//!
//! Owns how pages are tied to the state of the first one, and how much one page holds. Must never answer a
//! later page from another height than the first one's.

use ledger_proof::{
    BlockHeader, BlockProof, Consistency as LogGrowth, ListLimits, ListPage, ListProof,
    VerifiedList,
};
use ledger_proto::convert::consistency::consistency;
use ledger_proto::convert::lists::{self, ListOf};
use ledger_proto::convert::{Consistency, ids, reads};
use ledger_proto::v1;
use ledger_shard::{ListRequest, LogSizes, ProvedList, VaultRow};
use ledger_types::VaultRef;
use ledger_types::limits::PAGE_BYTES_MAX;
use tonic::{Request, Response};

use super::Edge;
use super::ledger::client;
use super::page_token::{PageCursor, Query};
use super::read::{Target, apart, list_query};
use super::route::{Call, Freshness, Owner, query_failure};
use super::status::Failure;
use super::verified::state_of;
use super::verified_past::check_heights;
use crate::checkpoints::SignedCheckpoint;

/// What a list asks for, checked.
struct Asked {
    vault: VaultRef,
    prefix: Vec<u8>,
    items_max: usize,
    at_height: Option<u64>,
    min_height: u64,
    known_size: Option<u64>,
    consistency: Consistency,
}

impl Asked {
    fn of(message: &v1::VerifiedListRequest) -> Result<Asked, Failure> {
        check_heights(message.at_height, message.min_height)?;
        let list: ListOf = lists::list_of(message.list.clone())?;
        Ok(Asked {
            vault: ids::vault_ref(message.namespace_id, message.vault_id)?,
            prefix: list.prefix(),
            items_max: reads::page_items("limit", message.limit)?,
            at_height: message.at_height,
            min_height: message.min_height.unwrap_or(0),
            known_size: message.known_size,
            consistency: consistency(message.consistency)?,
        })
    }

    /// The least number of blocks that the first page's note must cover.
    fn size_min(&self) -> u64 {
        let height = self.at_height.unwrap_or(self.min_height);
        self.known_size.unwrap_or(0).max(height.saturating_add(1))
    }

    /// Half of a page for keys and records, half for values: each of both ends it.
    fn request<'a>(&'a self, kept: Option<&'a [u8]>) -> ListRequest<'a> {
        let limits = ListLimits { items: self.items_max, leaf_bytes: PAGE_BYTES_MAX / 2 };
        ListRequest { prefix: &self.prefix, kept, limits, value_bytes: PAGE_BYTES_MAX / 2 }
    }

    /// Page tokens are of one list, vault and height.
    fn query(&self) -> Query {
        list_query("VerifiedList", self.vault, self.at_height).bytes(&self.prefix)
    }
}

impl Edge {
    pub(super) async fn list_verified(
        &self,
        request: Request<v1::VerifiedListRequest>,
    ) -> Result<Response<v1::VerifiedListResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let asked = Asked::of(&message)?;
        let send = |channel, request| async move { client(channel).verified_list(request).await };
        let Some(cursor) = self.cursor(&call, &asked.query(), &message.page_token)? else {
            let local = |owner| self.first_page(&call, owner, &asked);
            return call.at_leader(asked.vault, message, local, send).await;
        };
        // Nothing is signed for a later page, so that any replica that has the height may answer.
        let freshness = Freshness { consistency: Consistency::Eventual, height_min: cursor.height };
        let local = |_: &VaultRow, _: &v1::VerifiedListRequest| {
            let reader = &call.context.reader;
            let request = asked.request(Some(&cursor.after));
            let sizes = LogSizes::default();
            let prove = || reader.prove_list_at(asked.vault, cursor.height, &request, sizes);
            let proved = apart(usize::MAX, prove).map_err(query_failure)?;
            let ProvedList { list, values, .. } = proved.ok_or(Failure::PageToken)?;
            let next_page_token = self.token_after(&call, &asked, cursor.height, &list);
            let package = page(list, values, true).encode();
            Ok(v1::VerifiedListResponse { package, height: cursor.height, next_page_token })
        };
        call.read(Target::existing(asked.vault, freshness), message, local, send).await
    }

    async fn first_page(
        &self,
        call: &Call,
        owner: Owner,
        asked: &Asked,
    ) -> Result<v1::VerifiedListResponse, Failure> {
        if asked.consistency == Consistency::Linearizable {
            call.barrier(owner.group).await?;
        }
        let mut size_min = asked.size_min();
        match asked.at_height {
            Some(height) => call.check_kept(owner, height)?,
            None => size_min = size_min.max(call.owned_row(owner)?.log_size),
        }
        let signed = self.note_over(call, owner, size_min).await?;
        let prove = || prove_first(call, asked, &signed);
        let ProvedList { state, list, values } = tokio::task::block_in_place(prove)?;
        if state_of(asked.vault, &state) != signed.state {
            // The vault's log was replaced between the note and the proof.
            return Err(Failure::WrongShard { owner_epoch: None });
        }
        let header = BlockHeader::decode(&state.header)
            .map_err(|error| Failure::Store(format!("a stored header: {error}")))?;
        let path = state.consistency;
        let block = BlockProof {
            note: signed.note.clone(),
            header,
            header_path: state.inclusion,
            consistency: asked.known_size.map(|from_size| LogGrowth { from_size, path }),
        };
        let next_page_token = self.token_after(call, asked, state.height, &list);
        let package = VerifiedList { block, page: page(list, values, false) }.encode();
        Ok(v1::VerifiedListResponse { package, height: state.height, next_page_token })
    }

    fn token_after(&self, call: &Call, asked: &Asked, height: u64, list: &ListProof) -> String {
        let Some(last) = list.goes_on_after(&asked.prefix) else { return String::new() };
        // What has expired is for the client to say.
        let cursor = PageCursor { height, time_seconds: 0, after: last.to_vec() };
        self.tokens(&call.context).seal(&asked.query(), &cursor)
    }
}

/// The first page in the log of the note: of the tip while it is what was signed, else of the height as rows
/// show it.
fn prove_first(
    call: &Call,
    asked: &Asked,
    signed: &SignedCheckpoint,
) -> Result<ProvedList, Failure> {
    let reader = &call.context.reader;
    let request = asked.request(None);
    if asked.at_height.is_none() {
        let tip = reader.prove_list(asked.vault, &request, asked.known_size);
        let tip = tip.map_err(query_failure)?;
        if let Some(tip) = tip.filter(|tip| state_of(asked.vault, &tip.state) == signed.state) {
            return Ok(tip);
        }
    }
    let size = signed.state.size;
    let height = asked.at_height.unwrap_or(size.saturating_sub(1));
    let sizes = LogSizes { log_size: Some(size), known_size: asked.known_size };
    let proved = reader.prove_list_at(asked.vault, height, &request, sizes);
    let nothing_kept = Failure::Internal("a first page goes on after no key");
    proved.map_err(query_failure)?.ok_or(nothing_kept)
}

/// A page with the values of its new leaves; relationships have the empty one.
fn page(proof: ListProof, values: Vec<Option<Vec<u8>>>, is_later: bool) -> ListPage {
    let values = values.into_iter().skip(usize::from(is_later));
    ListPage { proof, values: values.map(Option::unwrap_or_default).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(change: impl Fn(&mut v1::VerifiedListRequest)) -> Result<Asked, Failure> {
        let list = ListOf::Resource { resource: "doc:1".to_owned(), relation: None };
        let mut request = v1::VerifiedListRequest {
            namespace_id: Some(v1::NamespaceId { id: 1 }),
            list: Some(list.into()),
            ..v1::VerifiedListRequest::default()
        };
        change(&mut request);
        Asked::of(&request)
    }

    #[test]
    fn the_note_covers_the_height_and_what_the_client_knows() {
        let sizes = |at_height, min_height, known_size| {
            let asked = asked(|request| {
                (request.at_height, request.min_height) = (at_height, min_height);
                request.known_size = known_size;
            });
            asked.map(|asked| asked.size_min()).ok()
        };
        assert_eq!(sizes(None, None, None), Some(1));
        assert_eq!(sizes(Some(4), None, Some(3)), Some(5));
        assert_eq!(sizes(None, Some(4), Some(9)), Some(9));
        assert_eq!(sizes(Some(u64::MAX), None, None), Some(u64::MAX));
        assert_eq!(sizes(Some(4), Some(4), None), None);
    }

    #[test]
    fn a_token_is_of_one_list_and_height() {
        use ledger_types::ClusterId;

        use super::super::page_token::PageTokens;

        let tokens = PageTokens::new(ClusterId([5; 16]));
        let list = asked(|_| ()).unwrap();
        let cursor = PageCursor { height: 3, time_seconds: 0, after: b"\x02k".to_vec() };
        let token = tokens.seal(&list.query(), &cursor);
        let larger = asked(|request| request.limit = 7).unwrap();
        assert_eq!(tokens.open(&larger.query(), &token).unwrap(), cursor);
        let narrower = |request: &mut v1::VerifiedListRequest| {
            let relation = Some("viewer".to_owned());
            let list = ListOf::Resource { resource: "doc:1".to_owned(), relation };
            request.list = Some(list.into());
        };
        for other in [
            asked(narrower).unwrap(),
            asked(|request| request.at_height = Some(3)).unwrap(),
            asked(|request| request.vault_id = Some(v1::VaultId { id: 2 })).unwrap(),
        ] {
            assert!(matches!(tokens.open(&other.query(), &token), Err(Failure::PageToken)));
        }
    }
}
