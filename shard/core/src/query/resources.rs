//! The resources of one type, each once, in order, page by page.
//!
//! Owns how the list gets from one resource to the next. Must never read all relationships of a resource that
//! has many: behind the first few it looks for the next resource.

use std::ops::ControlFlow;

use ledger_proof::ReadFault;
use ledger_types::{StateKey, VaultRef};

use super::list::{List, Page, PageBuilder, PageLimits};
use super::{QueryError, read_height, vault_row};
use crate::view::StateView;

/// Relationships of one resource that are passed over one by one; the rest of them are skipped. A search costs
/// about as much as reading so many rows.
const ROWS_PASSED_MAX: usize = 16;
/// What follows the separator between the parts of a state key, so that `resource ‖ this` lies behind all
/// relationships of the resource and before the next one.
const BEHIND_SEPARATOR: u8 = 0x01;

/// A list of resources.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResourceQuery<'a> {
    /// The vault.
    pub vault: VaultRef,
    /// What stands before the first colon of the resources; has none itself.
    pub resource_type: &'a str,
    /// The height of the list; `None` for the tip. Later pages name the first page's height.
    pub at_height: Option<u64>,
}

/// A page of the resources of a type that have a relationship, in byte order.
pub fn resources(
    view: &dyn StateView,
    query: ResourceQuery<'_>,
    limits: PageLimits<'_>,
) -> Result<Page<String>, QueryError> {
    let ResourceQuery { vault, resource_type, at_height } = query;
    let row = vault_row(view, vault)?;
    let height = read_height(&row, at_height)?;
    let prefix = StateKey::resource_type_prefix(resource_type);
    let list = List::new(view, vault, &prefix, (height, height == row.height));
    let list = list.with_rows(limits.rows_max);
    let mut page = PageBuilder::new(height, limits);
    let mut from = match limits.after {
        Some(last) if last.starts_with(&prefix) => behind(last),
        _ => prefix.clone(),
    };
    loop {
        match collect(&list, &from, &mut page)? {
            Step::Behind(next) => from = next,
            Step::Spent(last) => return Ok(page.finish(Some(last))),
            Step::End => return Ok(page.finish(None)),
        }
    }
}

/// How a step through the list has ended.
enum Step {
    /// Behind a resource with many relationships, at this key.
    Behind(Vec<u8>),
    /// There was no room for more rows; the list goes on behind this.
    Spent(Vec<u8>),
    /// The page is full, or there are no more resources.
    End,
}

/// A cursor behind which the list goes on, if `last` was the last key looked at: all of its resource, if that is on the
/// page. Otherwise what was seen of it is not of the list's height, and what follows may be.
fn cursor(last: Vec<u8>, page: &PageBuilder<String>) -> Vec<u8> {
    match StateKey::as_relationship(&last) {
        Some((resource, ..)) if last[..1 + resource.len()] == *page.last_key() => {
            page.last_key().to_vec()
        }
        _ => last,
    }
}

/// Where the next resource begins; behind a relationship, where the next one does.
fn behind(resource_key: &[u8]) -> Vec<u8> {
    [resource_key, &[BEHIND_SEPARATOR]].concat()
}

/// Adds resources from `from` on.
fn collect(
    list: &List<'_>,
    from: &[u8],
    page: &mut PageBuilder<String>,
) -> Result<Step, ReadFault> {
    let (mut current, mut passed, mut next) = (Vec::new(), 0, None);
    let spent = list.visit_from(from, &mut |key, _, _| {
        let (resource, ..) = StateKey::as_relationship(key)
            .ok_or(ReadFault::Corrupt { what: "a relationship's state key is malformed" })?;
        let resource_key = &key[..1 + resource.len()];
        if resource_key == current {
            passed += 1;
            if passed < ROWS_PASSED_MAX {
                return Ok(ControlFlow::Continue(()));
            }
            next = Some(behind(&current));
            return Ok(ControlFlow::Break(()));
        }
        if page.is_full() {
            return Ok(page.end());
        }
        (current, passed) = (resource_key.to_vec(), 0);
        Ok(page.offer(resource_key, resource.to_owned(), resource_key.len()))
    })?;
    Ok(match (spent, next) {
        (Some(last), _) => Step::Spent(cursor(last, page)),
        (None, Some(next)) => Step::Behind(next),
        (None, None) => Step::End,
    })
}
