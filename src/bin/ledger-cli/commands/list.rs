//! `list`: items as they come, page by page.

use ledger_client::{Consistency, ListOf, ListOptions, RelationshipFilter, VerifiedOptions};
use ledger_proof::{AuthenticatedBlock, VerifiedItem};
use ledger_types::VaultRef;
use serde_json::json;

use crate::args::{
    Global, ListCommand, ListEntitiesOptions, ListPages, ListRelationshipsOptions,
    ListResourcesOptions, ListScope, VaultChoice,
};
use crate::commands::get::{age, key_name, needed, save};
use crate::failure::Failure;
use crate::output::Format;
use crate::{names, output, session};

/// Items asked for at once.
const PAGE_ITEMS: usize = 1_000;

/// Lists.
pub(crate) async fn run(command: &ListCommand, global: &Global) -> Result<(), Failure> {
    match command {
        ListCommand::Entities(options) => entities(options, global).await,
        ListCommand::Relationships(options) => relationships(options, global).await,
        ListCommand::Resources(options) => resources(options, global).await,
    }
}

async fn entities(options: &ListEntitiesOptions, global: &Global) -> Result<(), Failure> {
    if options.common.verified {
        let list = ListOf::Entities(options.prefix.clone());
        return verified(list, &options.vault, &options.common, global).await;
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
    if options.common.verified {
        let list = relationships_of(options)?;
        return verified(list, &options.vault, &options.common, global).await;
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

async fn resources(options: &ListResourcesOptions, global: &Global) -> Result<(), Failure> {
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

/// The list that the filters name, if one proof can show that it is complete.
fn relationships_of(options: &ListRelationshipsOptions) -> Result<ListOf, Failure> {
    let ListRelationshipsOptions { resource, relation, subject, resource_type, .. } = options;
    match (resource.clone(), relation.clone(), subject.clone(), resource_type.clone()) {
        (None, None, None, Some(resource_type)) => Ok(ListOf::ResourceType(resource_type)),
        (Some(resource), relation, None, _) => Ok(ListOf::Resource { resource, relation }),
        (resource, None, Some(subject), _) => Ok(ListOf::Subject { subject, resource }),
        _ => Err(Failure::failed(
            "--verified needs --resource (and --relation), --resource-type, or --subject (and --resource)",
        )),
    }
}

/// Lists with proofs. Nothing is shown of a page that did not hold; the last line says that none is missing.
async fn verified(
    list: ListOf,
    vault: &VaultChoice,
    common: &ListScope,
    global: &Global,
) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let vault = session::vault(&client, vault).await?;
    let consistency = list_options(&common.page).consistency;
    let wanted = VerifiedOptions { consistency, min_height: 0, at_height: common.page.at_height };
    let bundle = client.trust_bundle().await?;
    let rule = needed(&bundle);
    let format = global.format();
    if let Some(path) = &common.save_proof {
        let list = client.whole_verified_list(vault, list, limit(&common.page), wanted).await?;
        save(&list.saved_proof, path)?;
        list.items.iter().for_each(|item| show_item(format, item));
        show_end(format, (vault, list.items.len()), &list.block, &rule);
        return Ok(());
    }
    let page_items = u32::try_from(limit(&common.page).min(PAGE_ITEMS)).expect("pages are small");
    let mut pages = client.verified_list(vault, list, page_items, wanted)?;
    let mut shown = 0;
    while let Some(page) = pages.next_page().await? {
        let left = limit(&common.page) - shown;
        page.iter().take(left).for_each(|item| show_item(format, item));
        shown += page.len().min(left);
        if page.len() > left || (shown == limit(&common.page) && !pages.is_complete()) {
            eprintln!("verified so far; --limit leaves the rest of the list out");
            return Ok(());
        }
    }
    if let Some(block) = pages.block() {
        show_end(format, (vault, shown), block, &rule);
    }
    Ok(())
}

/// Shows one item of a checked list.
pub(crate) fn show_item(format: Format, item: &VerifiedItem) {
    let name = key_name(&item.key);
    let mut json = output::value_json(&item.value);
    json["key"] = json!(name);
    json["version"] = json!(item.record.modified_height);
    json["expires_at"] = json!(item.record.expires_at);
    let text = match item.value.is_empty() {
        true => name,
        false => format!("{name}\t{}", output::value_text(&item.value)),
    };
    output::line(format, &text, &json);
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
    let page_items = limit(page).min(PAGE_ITEMS);
    ListOptions {
        at_height: page.at_height,
        page_items: u32::try_from(page_items).expect("pages are small"),
        consistency: match page.linearizable {
            true => Consistency::Linearizable,
            false => Consistency::Eventual,
        },
    }
}

fn limit(page: &ListPages) -> usize {
    if page.limit == 0 { usize::MAX } else { page.limit }
}
