//! Verified lists, page by page. Must never return an item of a page that did not hold, nor call a list
//! complete before its last page was checked.

use std::sync::Arc;

use ledger_proof::{
    AuthenticatedBlock, KnownCheckpoint, ListPage, ListProgress, ListQuestion, Origin, Trust,
    VerifiedItem, VerifiedList, VerifyError,
};
use ledger_proto::convert::lists::ListOf;
use ledger_proto::v1;
use ledger_types::VaultRef;

use crate::call::CallKind;
use crate::client::Client;
use crate::error::ClientError;
use crate::leaders::Route;
use crate::method;
use crate::proving::{Held, Question, VaultTrust};
use crate::read::wire_consistency;
use crate::saved_proof::{ListStep, SavedProof, Subject};
use crate::verification::VerificationError;
use crate::verified::{VerifiedOptions, wire_height};
use crate::write::wire_vault;

/// Items asked for at once when a whole list is wanted.
const PAGE_ITEMS: u32 = 1_000;

/// The pages of a list, each checked. All are of the block that the first one is of.
#[derive(Debug)]
pub struct VerifiedPages {
    client: Client,
    vault: VaultRef,
    request: v1::VerifiedListRequest,
    list: ListOf,
    options: VerifiedOptions,
    /// Pages are kept as they came, to be saved.
    keeps_pages: bool,
    state: State,
}

/// How far a list has come.
#[derive(Debug)]
enum State {
    NotBegun,
    Begun(Box<Begun>),
}

#[derive(Debug)]
struct Begun {
    progress: ListProgress,
    voters: Arc<VaultTrust>,
    step: ListStep,
}

/// A whole list, proved.
#[derive(Debug)]
pub struct CheckedList {
    /// Its items in key order, without those that have expired.
    pub items: Vec<VerifiedItem>,
    /// The block that it is of.
    pub block: AuthenticatedBlock,
    /// The list with everything that is needed to check it without a network.
    pub saved_proof: SavedProof,
}

/// A question for a list's first page.
struct FirstPage<'a> {
    request: &'a v1::VerifiedListRequest,
    prefix: Vec<u8>,
    options: VerifiedOptions,
}

impl Question for FirstPage<'_> {
    type Package = v1::VerifiedListResponse;
    type Answer = (VerifiedList, ListProgress, Vec<VerifiedItem>);

    async fn fetch(
        &self,
        client: &Client,
        vault: VaultRef,
        known: Option<&KnownCheckpoint>,
    ) -> Result<v1::VerifiedListResponse, ClientError> {
        let (min_height, _) = wire_height(self.options.read_at(known));
        let known_size = known.map(|known| known.size);
        let request = v1::VerifiedListRequest { min_height, known_size, ..self.request.clone() };
        let kind = CallKind::reads(Route::Leader(vault));
        client.call(method::VERIFIED_LIST, kind, &request).await
    }

    fn check(
        &self,
        package: &v1::VerifiedListResponse,
        origin: &Origin,
        trust: &Trust<'_>,
        known: Option<&KnownCheckpoint>,
    ) -> Result<Held<Self::Answer>, VerifyError> {
        let list = VerifiedList::decode(&package.package)?;
        let at = self.options.read_at(known);
        let question = ListQuestion { origin, at, prefix: &self.prefix };
        let (progress, items) = list.verify(&question, trust, known)?;
        let checkpoint = progress.block().checkpoint.clone();
        Ok(Held { answer: (list, progress, items), checkpoint })
    }
}

impl Client {
    /// Lists what is under a prefix, with proof that none is missing. `page_items` is the most in a page,
    /// the server's default if 0. The proof of completeness assumes that one of the counted signers
    /// computed the state root honestly.
    pub fn verified_list(
        &self,
        vault: VaultRef,
        list: ListOf,
        page_items: u32,
        options: VerifiedOptions,
    ) -> Result<VerifiedPages, ClientError> {
        list.check().map_err(|error| ClientError::Config(error.to_string()))?;
        let (namespace_id, vault_id) = wire_vault(vault)?;
        let request = v1::VerifiedListRequest {
            namespace_id,
            vault_id,
            list: Some(list.clone().into()),
            // Tokens are bound to it, so later pages say it too.
            at_height: options.at_height,
            limit: page_items,
            consistency: wire_consistency(options.consistency),
            ..v1::VerifiedListRequest::default()
        };
        let client = self.clone();
        let (keeps_pages, state) = (false, State::NotBegun);
        Ok(VerifiedPages { client, vault, request, list, options, keeps_pages, state })
    }

    /// All of a list at once, up to `items_max` items, with a proof that can be saved. Errors: there are
    /// more.
    pub async fn whole_verified_list(
        &self,
        vault: VaultRef,
        list: ListOf,
        items_max: usize,
        options: VerifiedOptions,
    ) -> Result<CheckedList, ClientError> {
        let mut pages = self.verified_list(vault, list, PAGE_ITEMS, options)?;
        pages.keeps_pages = true;
        let mut items = Vec::new();
        while let Some(mut page) = pages.next_page().await? {
            items.append(&mut page);
            if items.len() > items_max {
                return Err(ClientError::ListTooLong { max: items_max });
            }
        }
        let State::Begun(begun) = pages.state else {
            unreachable!("a list without a first page has failed")
        };
        let Begun { progress, voters, step } = *begun;
        let block = progress.block().clone();
        let saved_proof = SavedProof::new(voters.steps.clone(), Subject::List(step));
        Ok(CheckedList { items, block, saved_proof })
    }
}

impl VerifiedPages {
    /// The next page's items in key order, without those that have expired; `None` after the last page. A
    /// page may be empty. After an error the same page can be asked for again.
    pub async fn next_page(&mut self) -> Result<Option<Vec<VerifiedItem>>, ClientError> {
        match &mut self.state {
            State::NotBegun => self.first_page().await.map(Some),
            State::Begun(begun) if begun.progress.is_complete() => Ok(None),
            State::Begun(begun) => {
                if self.request.page_token.is_empty() {
                    return Err(ClientError::Malformed("next_page_token"));
                }
                let kind = CallKind::reads(Route::Leader(self.vault));
                let answer = self.client.call(method::VERIFIED_LIST, kind, &self.request).await?;
                let refused = |error| VerificationError::Refused(error);
                let page = ListPage::decode(&answer.package)
                    .map_err(|error| refused(VerifyError::Malformed(error)))?;
                let items = begun.progress.accept(&page).map_err(refused)?;
                if self.keeps_pages {
                    begun.step.pages.push(page);
                }
                self.request.page_token = answer.next_page_token;
                Ok(Some(items))
            }
        }
    }

    async fn first_page(&mut self) -> Result<Vec<VerifiedItem>, ClientError> {
        let (prefix, options) = (self.list.prefix(), self.options);
        let question = FirstPage { request: &self.request, prefix, options };
        let (checked, voters) = self.client.prove(self.vault, &question).await?;
        let (first, progress, items) = checked.answer;
        let (vault, at_height) = (self.vault, self.options.at_height);
        let prefix = self.list.prefix();
        let step = ListStep { vault, at_height, prefix, first, pages: Vec::new() };
        self.state = State::Begun(Box::new(Begun { progress, voters, step }));
        self.request.page_token = checked.package.next_page_token;
        Ok(items)
    }

    /// The block that all pages are of; `None` before the first page.
    pub fn block(&self) -> Option<&AuthenticatedBlock> {
        match &self.state {
            State::NotBegun => None,
            State::Begun(begun) => Some(begun.progress.block()),
        }
    }

    /// True once the last page was checked: only then is nothing missing.
    pub fn is_complete(&self) -> bool {
        matches!(&self.state, State::Begun(begun) if begun.progress.is_complete())
    }
}
