//! What a snapshot of a vault holds: the same lines, in the same order, as an export at its height.
//!
//! Owns which items are in it. Must never hold more than a page of them.

use std::io;

use ledger_client::item_lines;
use ledger_shard::{EntityQuery, PageLimits, RelationshipQuery, StateView, query};
use ledger_types::VaultRef;
use ledger_types::limits::{EXPORT_CHUNK_BYTES, PAGE_ITEMS_MAX};

use super::VaultSnapshotError;
use super::files::Growing;

/// Rows that are read between two looks whether to go on.
const PAGE_ROWS_MAX: usize = 200_000;

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    pub(super) entities: u64,
    pub(super) relationships: u64,
}

/// Writes everything that the view holds of a vault, whose tip in it is at `height`.
pub(super) fn write(
    view: &dyn StateView,
    vault: VaultRef,
    height: u64,
    out: &mut Growing<'_>,
) -> Result<Counts, VaultSnapshotError> {
    let at_height = Some(height);
    // By the time of the block, so that every snapshot of a block is the same, whenever and wherever it is written.
    let time_s = query::read_time_s(view, vault, at_height, 0)?;
    let entities = EntityQuery { vault, prefix: "", at_height, time_s, include_expired: false };
    let (resource, relation, subject) = (None, None, None);
    let relationships = RelationshipQuery { vault, resource, relation, subject, at_height };
    let mut counts = Counts::default();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = query::entities(view, entities, limits(after.as_deref()))?;
        counts.entities += page.items.len() as u64;
        out.page(|out| {
            let mut items = page.items.iter();
            items.try_for_each(|one| {
                item_lines::write_entity(out, &one.key, &one.value, one.expires_at)
            })
        })?;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    loop {
        let page = query::relationships(view, relationships, limits(after.as_deref()))?;
        counts.relationships += page.items.len() as u64;
        out.page(|out| -> io::Result<()> {
            let mut items = page.items.iter();
            items.try_for_each(|one| {
                item_lines::write_relationship(out, &one.resource, &one.relation, &one.subject)
            })
        })?;
        after = page.next;
        if after.is_none() {
            return Ok(counts);
        }
    }
}

fn limits(after: Option<&[u8]>) -> PageLimits<'_> {
    let (items_max, bytes_max) = (PAGE_ITEMS_MAX, EXPORT_CHUNK_BYTES);
    PageLimits { after, items_max, bytes_max, rows_max: PAGE_ROWS_MAX }
}
