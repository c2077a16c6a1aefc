//! Ordered lists of entities and relationships, page by page, all pages at one height.
//!
//! Owns the order, the filters and where a page ends. Must never cut a page short for any reason but its
//! limits.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use ledger_proof::{ReadFault, Record};
use ledger_types::{StateKey, VaultRef};

use super::version::{Values, Version, from_history, from_latest};
use super::{Entity, QueryError, Relationship, read_height, vault_row};
use crate::rows::{
    history_key, history_key_after, history_key_from, latest_key, prefix_end, split_history_key,
};
use crate::view::{Family, StateView};

/// Keys that are looked at together when a list at an earlier height begins: a bucket of the state tree and the
/// key that ends it.
const CHUNK_KEYS_MIN: usize = 17;
/// Keys that are looked at together once a list turned out to be long.
const CHUNK_KEYS_MAX: usize = 1024;
/// Rows of one key that are read without use before the rest of them is skipped.
const IDLE_ROWS_MAX: usize = 8;
/// What an item costs of a page's bytes beside its strings and value.
const ITEM_BYTES: usize = 32;

/// Where a page begins and how much it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageLimits<'a> {
    /// Cursor of the page before; `None` for the first page.
    pub after: Option<&'a [u8]>,
    /// Most items; at least 1.
    pub items_max: usize,
    /// Bytes after which the page ends; its first item is always in it.
    pub bytes_max: usize,
    /// Rows after which the page ends, also without an item. It may be passed by the few thousand rows that are read
    /// together.
    pub rows_max: usize,
}

/// A list of entities.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntityQuery<'a> {
    /// The vault.
    pub vault: VaultRef,
    /// What the keys begin with; may be empty.
    pub prefix: &'a str,
    /// The height of the list; `None` for the tip. Later pages name the first page's height.
    pub at_height: Option<u64>,
    /// The Unix second at which expiry is judged.
    pub time_s: u64,
    /// Show expired entities that are still in the state.
    pub include_expired: bool,
}

/// A list of relationships; a field that is `None` matches anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelationshipQuery<'a> {
    /// The vault.
    pub vault: VaultRef,
    /// What access is given to.
    pub resource: Option<&'a str>,
    /// How.
    pub relation: Option<&'a str>,
    /// To whom.
    pub subject: Option<&'a str>,
    /// The height of the list; `None` for the tip. Later pages name the first page's height.
    pub at_height: Option<u64>,
}

/// One page of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page<T> {
    /// The height that was read.
    pub height: u64,
    /// The items, ordered by state key.
    pub items: Vec<T>,
    /// Cursor for the next page; `None` if there are no more items.
    pub next: Option<Vec<u8>>,
}

/// A page of entities, ordered by key. At the tip it ends for its items and bytes alone: what is passed over there has
/// expired and is about to be removed.
pub fn entities(
    view: &dyn StateView,
    query: EntityQuery<'_>,
    limits: PageLimits<'_>,
) -> Result<Page<Entity>, QueryError> {
    let EntityQuery { vault, prefix, at_height, time_s, include_expired } = query;
    let row = vault_row(view, vault)?;
    let height = read_height(&row, at_height)?;
    let mut values = Values::new(view, vault);
    let mut page = PageBuilder::new(height, limits);
    let prefix = StateKey::entity_prefix(prefix);
    let is_tip = height == row.height;
    let rows_max = if is_tip { usize::MAX } else { limits.rows_max };
    let list = List::new(view, vault, &prefix, (height, is_tip)).with_rows(rows_max);
    let cut_at = list.visit(limits.after, &mut |key, record, value| {
        if record.is_expired(time_s) && !include_expired {
            return Ok(ControlFlow::Continue(()));
        }
        if page.is_full() {
            return Ok(page.end());
        }
        let version = Version { record: *record, value: value.map(<[u8]>::to_vec) };
        let entity = values.entity(key, version)?;
        let bytes = key.len() + entity.value.len();
        Ok(page.offer(key, entity, bytes))
    })?;
    Ok(page.finish(cut_at))
}

/// A page of relationships, ordered by state key: by resource, or by subject if only that narrows the list.
pub fn relationships(
    view: &dyn StateView,
    query: RelationshipQuery<'_>,
    limits: PageLimits<'_>,
) -> Result<Page<Relationship>, QueryError> {
    let RelationshipQuery { vault, resource, relation, subject, at_height } = query;
    let row = vault_row(view, vault)?;
    let height = read_height(&row, at_height)?;
    let prefix = match (resource, relation, subject) {
        (Some(resource), None, Some(subject)) => StateKey::subject_prefix(subject, Some(resource)),
        (Some(resource), _, _) => StateKey::resource_prefix(resource, relation),
        (None, _, Some(subject)) => StateKey::subject_prefix(subject, None),
        (None, _, None) => StateKey::all_by_resource(),
    };
    let mut page = PageBuilder::new(height, limits);
    let list = List::new(view, vault, &prefix, (height, height == row.height));
    let list = list.with_rows(limits.rows_max);
    let cut_at = list.visit(limits.after, &mut |key, record, _| {
        let parts = StateKey::as_relationship(key)
            .ok_or(ReadFault::Corrupt { what: "a relationship's state key is malformed" })?;
        let wanted = [(resource, parts.0), (relation, parts.1), (subject, parts.2)];
        if wanted.iter().any(|(wanted, part)| wanted.is_some_and(|wanted| wanted != *part)) {
            return Ok(ControlFlow::Continue(()));
        }
        if page.is_full() {
            return Ok(page.end());
        }
        let relationship = Relationship {
            resource: parts.0.to_owned(),
            relation: parts.1.to_owned(),
            subject: parts.2.to_owned(),
            created_height: record.created_height,
        };
        Ok(page.offer(key, relationship, key.len()))
    })?;
    Ok(page.finish(cut_at))
}

/// Collects items until a limit is met, then learns whether there is one more.
pub(super) struct PageBuilder<T> {
    height: u64,
    items: Vec<T>,
    items_max: usize,
    bytes_left: usize,
    last_key: Vec<u8>,
    has_more: bool,
}

impl<T> PageBuilder<T> {
    pub(super) fn new(height: u64, limits: PageLimits<'_>) -> PageBuilder<T> {
        let PageLimits { items_max, bytes_max, .. } = limits;
        assert!(items_max > 0, "a page has room for an item");
        let (items, last_key) = (Vec::new(), Vec::new());
        let bytes_left = bytes_max;
        PageBuilder { height, items, items_max, bytes_left, last_key, has_more: false }
    }

    pub(super) fn is_full(&self) -> bool {
        self.items.len() == self.items_max
    }

    pub(super) fn end(&mut self) -> ControlFlow<()> {
        self.has_more = true;
        ControlFlow::Break(())
    }

    /// Takes an item, whose key becomes the next page's cursor if it is the last one.
    pub(super) fn offer(&mut self, key: &[u8], item: T, bytes: usize) -> ControlFlow<()> {
        let bytes = bytes + ITEM_BYTES;
        if bytes > self.bytes_left && !self.items.is_empty() {
            return self.end();
        }
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.items.push(item);
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        ControlFlow::Continue(())
    }

    /// The key of the last item.
    pub(super) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// The page; `cut_at` is the last key that was looked at, if there was no room for more rows.
    pub(super) fn finish(self, cut_at: Option<Vec<u8>>) -> Page<T> {
        let next = cut_at.or_else(|| self.has_more.then_some(self.last_key));
        Page { height: self.height, items: self.items, next }
    }
}

pub(super) type Visitor<'a> =
    dyn FnMut(&[u8], &Record, Option<&[u8]>) -> Result<ControlFlow<()>, ReadFault> + 'a;

/// The keys with a prefix that are visible at a height.
pub(super) struct List<'a> {
    view: &'a dyn StateView,
    vault: VaultRef,
    /// May be empty, for all keys.
    prefix: &'a [u8],
    height: u64,
    /// The height is the last block's, so that present rows are all there is to see.
    is_tip: bool,
    /// Rows that may still be read.
    rows_left: Cell<usize>,
}

impl<'a> List<'a> {
    /// A list at a height, with whether that is the tip, that reads as many rows as it takes.
    pub(super) fn new(
        view: &'a dyn StateView,
        vault: VaultRef,
        prefix: &'a [u8],
        (height, is_tip): (u64, bool),
    ) -> List<'a> {
        List { view, vault, prefix, height, is_tip, rows_left: Cell::new(usize::MAX) }
    }

    /// The same list, which stops once it has read so many rows, in all its visits together.
    pub(super) fn with_rows(self, rows_max: usize) -> List<'a> {
        List { rows_left: Cell::new(rows_max), ..self }
    }

    fn count_row(&self) {
        self.rows_left.set(self.rows_left.get().saturating_sub(1));
    }

    fn is_spent(&self) -> bool {
        self.rows_left.get() == 0
    }

    /// Visits keys after the cursor in order, each with its record and, if at hand, its value. Returns as
    /// [`List::visit_from`].
    fn visit(
        &self,
        after: Option<&[u8]>,
        visitor: &mut Visitor<'_>,
    ) -> Result<Option<Vec<u8>>, ReadFault> {
        match after {
            // A cursor before the prefix would show keys that are not asked for.
            Some(after) if after >= self.prefix => {
                self.visit_from(&[after, &[0]].concat(), visitor)
            }
            _ => self.visit_from(self.prefix, visitor),
        }
    }

    /// Visits keys at or after `from`, which is not before the prefix. Returns the last key that was looked at if the
    /// rows were spent before the end, or before the visitor had enough.
    pub(super) fn visit_from(
        &self,
        from: &[u8],
        visitor: &mut Visitor<'_>,
    ) -> Result<Option<Vec<u8>>, ReadFault> {
        if self.is_tip {
            return self.visit_latest(from, visitor);
        }
        let (mut from, mut keys_max) = (from.to_vec(), CHUNK_KEYS_MIN);
        while let Some(mut last) = self.visit_chunk(&from, keys_max, visitor)? {
            if self.is_spent() {
                return Ok(Some(last));
            }
            last.push(0);
            from = last;
            keys_max = CHUNK_KEYS_MAX.min(keys_max * 4);
        }
        Ok(None)
    }

    fn latest_end(&self) -> Vec<u8> {
        prefix_end(&latest_key(self.vault, self.prefix))
    }

    fn visit_latest(
        &self,
        from: &[u8],
        visitor: &mut Visitor<'_>,
    ) -> Result<Option<Vec<u8>>, ReadFault> {
        let (first, end) = (latest_key(self.vault, from), self.latest_end());
        let (mut result, mut last) = (Ok(ControlFlow::Continue(())), None);
        self.view.scan(Family::Latest, &first, &end, &mut |key, row| {
            let key = &key[VaultRef::LEN..];
            self.count_row();
            result =
                from_latest(row).and_then(|(record, value)| visitor(key, &record, Some(value)));
            let goes_on = matches!(result, Ok(ControlFlow::Continue(())));
            if goes_on && self.is_spent() {
                last = Some(key.to_vec());
            }
            goes_on && last.is_none()
        })?;
        result.map(|_| last)
    }

    /// Looks at up to `keys_max` present and as many superseded keys from `from` on, and visits those up to
    /// where both are known. Returns the last key of those, `None` at the end or if the visitor has enough.
    fn visit_chunk(
        &self,
        from: &[u8],
        keys_max: usize,
        visitor: &mut Visitor<'_>,
    ) -> Result<Option<Vec<u8>>, ReadFault> {
        let mut found = BTreeMap::new();
        let latest_bound = self.collect_latest(from, keys_max, &mut found)?;
        let last = latest_bound.as_deref();
        let history_bound = self.collect_history(from, last, keys_max, &mut found)?;
        let bound = history_bound.or(latest_bound);
        for (key, version) in &found {
            if bound.as_ref().is_some_and(|bound| key > bound) {
                break;
            }
            let value = version.value.as_deref();
            if visitor(key, &version.record, value)?.is_break() {
                return Ok(None);
            }
        }
        Ok(bound)
    }

    /// Collects present keys that had their record by the height. Returns the last key looked at, if there
    /// may be more.
    fn collect_latest(
        &self,
        from: &[u8],
        keys_max: usize,
        found: &mut BTreeMap<Vec<u8>, Version>,
    ) -> Result<Option<Vec<u8>>, ReadFault> {
        let (first, end) = (latest_key(self.vault, from), self.latest_end());
        let (mut seen, mut bound, mut fault) = (0, None, None);
        self.view.scan(Family::Latest, &first, &end, &mut |key, row| {
            let key = &key[VaultRef::LEN..];
            self.count_row();
            match from_latest(row) {
                Err(error) => fault = Some(error),
                Ok((record, value)) if record.modified_height <= self.height => {
                    let value = Some(value.to_vec());
                    found.insert(key.to_vec(), Version { record, value });
                }
                Ok(_) => {}
            }
            seen += 1;
            if seen == keys_max {
                bound = Some(key.to_vec());
            }
            fault.is_none() && bound.is_none()
        })?;
        fault.map_or(Ok(bound), Err)
    }

    /// Collects, up to the key `last`, superseded records that were visible at the height. Returns the last
    /// key looked at, if it stopped before `last`.
    fn collect_history(
        &self,
        from: &[u8],
        last: Option<&[u8]>,
        keys_max: usize,
        found: &mut BTreeMap<Vec<u8>, Version>,
    ) -> Result<Option<Vec<u8>>, ReadFault> {
        let mut first = history_key_from(self.vault, from);
        let end = match last {
            Some(last) => history_key_after(self.vault, last),
            None => prefix_end(&history_key_from(self.vault, self.prefix)),
        };
        let mut keys = HistoryKeys { seen: 0, keys_max, current: Vec::new(), idle_rows: 0 };
        loop {
            let (mut next, mut fault) = (Next::End, None);
            self.view.scan(Family::History, &first, &end, &mut |row_key, row| {
                self.count_row();
                match self.history_row(row_key, row, &mut keys, found) {
                    Ok(step) => next = step,
                    Err(error) => fault = Some(error),
                }
                fault.is_none() && matches!(next, Next::Row)
            })?;
            match (fault, next) {
                (Some(fault), _) => return Err(fault),
                (None, Next::Row | Next::End) => return Ok(None),
                (None, Next::Full) => return Ok(Some(keys.current)),
                (None, Next::From(skipped_to)) => first = skipped_to,
            }
        }
    }

    /// Takes in a row of history and tells where to go on.
    fn history_row(
        &self,
        row_key: &[u8],
        row: &[u8],
        keys: &mut HistoryKeys,
        found: &mut BTreeMap<Vec<u8>, Version>,
    ) -> Result<Next, ReadFault> {
        let (key, superseded, _) = split_history_key(row_key)
            .ok_or(ReadFault::Corrupt { what: "a history key is malformed" })?;
        if key != keys.current {
            if keys.seen == keys.keys_max {
                return Ok(Next::Full);
            }
            keys.seen += 1;
            keys.current = key;
            keys.idle_rows = 0;
        }
        // Versions of a key do not overlap, so at most one of its rows spans the height.
        let record = from_history(row)?;
        if record.modified_height <= self.height && self.height < superseded {
            found.insert(keys.current.clone(), Version { record, value: None });
        }
        keys.idle_rows += 1;
        Ok(match keys.idle_rows > IDLE_ROWS_MAX {
            false => Next::Row,
            // A key may have been superseded any number of times.
            true if superseded <= self.height => {
                Next::From(history_key(self.vault, &keys.current, self.height + 1, 0))
            }
            true => Next::From(history_key_after(self.vault, &keys.current)),
        })
    }
}

/// How far a reading of history has come.
struct HistoryKeys {
    seen: usize,
    keys_max: usize,
    current: Vec<u8>,
    /// Rows of the current key so far.
    idle_rows: usize,
}

/// Where a reading of history goes on.
enum Next {
    /// With the next row.
    Row,
    /// At this key.
    From(Vec<u8>),
    /// Nowhere: as many keys were seen as were asked for.
    Full,
    /// Nowhere: there are no more rows.
    End,
}
