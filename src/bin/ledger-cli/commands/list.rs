//! `list`: proved lists page by page, and unproved ones on request.

use std::path::Path;

use ledger_client::{Consistency, ListOf, ListOptions, RelationshipFilter, VerifiedOptions};
use ledger_proof::{AuthenticatedBlock, VerifiedItem};
use ledger_types::{StateKey, VaultRef};
use serde_json::{Value, json};

use crate::args::{
    Global, ListCommand, ListEntitiesOptions, ListPages, ListRelationshipsOptions,
    ListResourcesOptions, VaultChoice,
};
use crate::commands::get::{age, key_name, needed, save};
use crate::failure::Failure;
use crate::output::Format;
use crate::{names, output, session};

/// Items asked for at once.
const PAGE_ITEMS: u32 = 1_000;

/// Lists.
pub(crate) async fn run(command: &ListCommand, global: &Global) -> Result<(), Failure> {
    match command {
        ListCommand::Entities(options) => entities(options, global).await,
        ListCommand::Relationships(options) => relationships(options, global).await,
        ListCommand::Resources(options) => resources(options, global).await,
    }
}

async fn entities(options: &ListEntitiesOptions, global: &Global) -> Result<(), Failure> {
    if !options.common.page.unverified {
        let listing = Listing {
            list: ListOf::Entities(options.prefix.clone()),
            page: &options.common.page,
            save_proof: options.common.save_proof.as_deref(),
            shows_all: true,
        };
        return verified(listing, &options.vault, global, |item| Some(item_line(item))).await;
    }
    let client = session::connect(global).await?;
    let vault = session::vault(&client, &options.vault).await?;
    let mut pages =
        client.list_entities(vault, &options.prefix, list_options(&options.common.page))?;
    let mut left = limit(&options.common.page);
    while left > 0
        && let Some(page) = pages.next_page().await?
    {
        for entity in page.items.iter().take(left) {
            let mut json = output::value_json(&entity.value);
            json["key"] = json!(entity.key);
            json["version"] = json!(entity.version);
            json["expires_at"] = json!(entity.expires_at);
            let text = format!("{}\t{}", entity.key, output::value_text(&entity.value));
            output::line(global.format(), &text, &json);
        }
        left -= page.items.len().min(left);
    }
    Ok(())
}

async fn relationships(options: &ListRelationshipsOptions, global: &Global) -> Result<(), Failure> {
    if !options.common.page.unverified {
        return verified_relationships(options, global).await;
    }
    let client = session::connect(global).await?;
    let vault = session::vault(&client, &options.vault).await?;
    let filter = RelationshipFilter {
        resource: options.resource.clone(),
        relation: options.relation.clone(),
        subject: options.subject.clone(),
    };
    let mut pages = client.list_relationships(vault, filter, list_options(&options.common.page))?;
    let mut left = limit(&options.common.page);
    while left > 0
        && let Some(page) = pages.next_page().await?
    {
        for item in page.items.iter().take(left) {
            let json = json!({
                "resource": item.resource, "relation": item.relation, "subject": item.subject,
            });
            output::line(global.format(), &names::show(item), &json);
        }
        left -= page.items.len().min(left);
    }
    Ok(())
}

/// Relationships with proof. What is proved beside the relation wanted is left out here.
async fn verified_relationships(
    options: &ListRelationshipsOptions,
    global: &Global,
) -> Result<(), Failure> {
    let (list, relation) = relationships_of(options)?;
    let listing = Listing {
        list,
        page: &options.common.page,
        save_proof: options.common.save_proof.as_deref(),
        shows_all: relation.is_none(),
    };
    let line = |item: &VerifiedItem| {
        let (_, found, _) = StateKey::as_relationship(&item.key)?;
        relation.as_ref().is_none_or(|wanted| wanted == found).then(|| item_line(item))
    };
    verified(listing, &options.vault, global, line).await
}

async fn resources(options: &ListResourcesOptions, global: &Global) -> Result<(), Failure> {
    if !options.page.unverified {
        return verified_resources(options, global).await;
    }
    let client = session::connect(global).await?;
    let vault = session::vault(&client, &options.vault).await?;
    let wanted = list_options(&options.page);
    let mut pages = client.list_resources(vault, &options.resource_type, wanted)?;
    let mut left = limit(&options.page);
    while left > 0
        && let Some(page) = pages.next_page().await?
    {
        for resource in page.items.iter().take(left) {
            output::line(global.format(), resource, &json!({ "resource": resource }));
        }
        left -= page.items.len().min(left);
    }
    Ok(())
}

/// Resources with proof: those of all relationships of the type, of which each comes with its neighbours.
async fn verified_resources(
    options: &ListResourcesOptions,
    global: &Global,
) -> Result<(), Failure> {
    let listing = Listing {
        list: ListOf::ResourceType(options.resource_type.clone()),
        page: &options.page,
        save_proof: None,
        shows_all: false,
    };
    let mut last = String::new();
    let line = |item: &VerifiedItem| {
        let (resource, _, _) = StateKey::as_relationship(&item.key)?;
        if resource == last {
            return None;
        }
        resource.clone_into(&mut last);
        Some((last.clone(), json!({ "resource": last })))
    };
    verified(listing, &options.vault, global, line).await
}

/// The list that the filters name, if one proof can show that it is complete, and the relation that is wanted of it
/// if the list holds others.
fn relationships_of(
    options: &ListRelationshipsOptions,
) -> Result<(ListOf, Option<String>), Failure> {
    let ListRelationshipsOptions { resource, relation, subject, resource_type, .. } = options;
    match (resource.clone(), relation.clone(), subject.clone(), resource_type.clone()) {
        (None, None, None, Some(resource_type)) => Ok((ListOf::ResourceType(resource_type), None)),
        (Some(resource), relation, None, _) => Ok((ListOf::Resource { resource, relation }, None)),
        (resource, relation, Some(subject), _) => {
            Ok((ListOf::Subject { subject, resource }, relation))
        }
        _ => Err(Failure::failed(
            "no proof shows all relationships of a vault: give --resource, --resource-type or --subject, or --unverified",
        )),
    }
}

/// A list that is proved.
struct Listing<'a> {
    list: ListOf,
    page: &'a ListPages,
    save_proof: Option<&'a Path>,
    /// Each item is shown, so that a limit of items shown is one of items read.
    shows_all: bool,
}

/// Lists with proofs; `line` tells how an item is shown, if it is. Nothing is shown of a page that did not hold, and
/// the last line says that none is missing.
async fn verified(
    listing: Listing<'_>,
    vault: &VaultChoice,
    global: &Global,
    mut line: impl FnMut(&VerifiedItem) -> Option<(String, Value)>,
) -> Result<(), Failure> {
    let Listing { list, page, save_proof, shows_all } = listing;
    let client = session::connect(global).await?;
    let vault = session::vault(&client, vault).await?;
    let options = list_options(page);
    let wanted = VerifiedOptions {
        consistency: options.consistency,
        min_height: 0,
        at_height: page.at_height,
    };
    let bundle = client.trust_bundle().await?;
    let (rule, format) = (needed(&bundle), global.format());
    if let Some(path) = save_proof {
        let list = client.whole_verified_list(vault, list, limit(page), wanted).await?;
        save(&list.saved_proof, path)?;
        let lines: Vec<_> = list.items.iter().filter_map(line).collect();
        lines.iter().for_each(|(text, json)| output::line(format, text, json));
        show_end(format, (vault, lines.len()), &list.block, &rule);
        return Ok(());
    }
    let page_items = if shows_all { options.page_items } else { PAGE_ITEMS };
    let mut pages = client.verified_list(vault, list, page_items, wanted)?;
    let mut shown = 0;
    while let Some(items) = pages.next_page().await? {
        for (text, json) in items.iter().filter_map(&mut line) {
            if shown == limit(page) {
                return left_out();
            }
            output::line(format, &text, &json);
            shown += 1;
        }
        if shown == limit(page) && shows_all && !pages.is_complete() {
            return left_out();
        }
    }
    if let Some(block) = pages.block() {
        show_end(format, (vault, shown), block, &rule);
    }
    Ok(())
}

/// Says why the list ends without the line that nothing is missing.
fn left_out() -> Result<(), Failure> {
    eprintln!("verified so far; --limit leaves the rest of the list out");
    Ok(())
}

/// Shows one item of a checked list.
pub(crate) fn show_item(format: Format, item: &VerifiedItem) {
    let (text, json) = item_line(item);
    output::line(format, &text, &json);
}

/// An item for people and for programs.
fn item_line(item: &VerifiedItem) -> (String, Value) {
    let name = key_name(&item.key);
    let mut json = output::value_json(&item.value);
    json["key"] = json!(name);
    json["version"] = json!(item.record.modified_height);
    json["expires_at"] = json!(item.record.expires_at);
    let text = match item.value.is_empty() {
        true => name,
        false => format!("{name}\t{}", output::value_text(&item.value)),
    };
    (text, json)
}

/// Shows under what a list is complete.
pub(crate) fn show_end(
    format: Format,
    (vault, count): (VaultRef, usize),
    block: &AuthenticatedBlock,
    rule: &str,
) {
    let (height, signers) = (block.header.height, block.counted.keys);
    let json = json!({
        "vault": vault.to_string(),
        "height": height,
        "state_root": block.header.state_root.to_string(),
        "checkpoint_size": block.checkpoint.size,
        "signers": signers,
        "signed_at": block.counted.oldest_time,
        "items": count,
        "complete": true,
        "verified": true,
    });
    let text = format!(
        "verified: all {count} of vault {vault} at block {height}, {signers} of its voters signed ({rule}), {}",
        age(block.counted.oldest_time)
    );
    output::line(format, &text, &json);
}

fn list_options(page: &ListPages) -> ListOptions {
    ListOptions {
        at_height: page.at_height,
        page_items: u32::try_from(limit(page)).map_or(PAGE_ITEMS, |limit| limit.min(PAGE_ITEMS)),
        consistency: match page.linearizable {
            true => Consistency::Linearizable,
            false => Consistency::Eventual,
        },
    }
}

fn limit(page: &ListPages) -> usize {
    if page.limit == 0 { usize::MAX } else { page.limit }
}
