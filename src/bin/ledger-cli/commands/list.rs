//! `list`: items as they come, page by page.

use ledger_client::{Consistency, ListOptions, RelationshipFilter};
use serde_json::json;

use crate::args::{Global, ListCommand, ListEntitiesOptions, ListRelationshipsOptions, ListScope};
use crate::failure::Failure;
use crate::{names, output, session};

/// Items asked for at once.
const PAGE_ITEMS: usize = 1_000;

/// Lists.
pub(crate) async fn run(command: &ListCommand, global: &Global) -> Result<(), Failure> {
    match command {
        ListCommand::Entities(options) => entities(options, global).await,
        ListCommand::Relationships(options) => relationships(options, global).await,
    }
}

async fn entities(options: &ListEntitiesOptions, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let vault = session::vault(&client, &options.vault).await?;
    let mut pages = client.list_entities(vault, &options.prefix, list_options(&options.common))?;
    let mut left = limit(&options.common);
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
    let client = session::connect(global).await?;
    let vault = session::vault(&client, &options.vault).await?;
    let filter = RelationshipFilter {
        resource: options.resource.clone(),
        relation: options.relation.clone(),
        subject: options.subject.clone(),
    };
    let mut pages = client.list_relationships(vault, filter, list_options(&options.common))?;
    let mut left = limit(&options.common);
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

fn list_options(common: &ListScope) -> ListOptions {
    let page_items = limit(common).min(PAGE_ITEMS);
    ListOptions {
        at_height: common.at_height,
        page_items: u32::try_from(page_items).expect("pages are small"),
        consistency: match common.linearizable {
            true => Consistency::Linearizable,
            false => Consistency::Eventual,
        },
    }
}

fn limit(common: &ListScope) -> usize {
    if common.limit == 0 { usize::MAX } else { common.limit }
}
