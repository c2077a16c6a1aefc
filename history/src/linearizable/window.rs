//! Makes a history without a legal order small enough to be read.
//!
//! Owns the shrinking. Must never turn a good history into a bad one: an operation is not dropped but freed, a read
//! by forgetting its answer, a write by letting it happen at any time or never. Whatever has no order then had none
//! before. Writes that were freed are left out in the end if nothing that remains is about their value; as they might
//! never have happened, there is no order without them either.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::budget::Budget;
use super::search::{Step, Verdict};
use super::{Key, Window};

/// How many searches that find nothing use a budget up.
const SEARCHES_MIN: usize = 4;

/// The operations of the smallest part of a key's steps that still has no order, in the order in which they began.
/// What cannot be decided within the budget is kept, so the part may be larger than need be.
pub(super) fn find(key: &Key<'_>, budget: &mut Budget) -> Window {
    let Key { vault, name, operations, steps, .. } = key;
    let configurations_max = budget.left() / SEARCHES_MIN;
    let search = RefCell::new((budget, false));
    let fails = |free: &BTreeSet<usize>| {
        let (budget, is_cut_short) = &mut *search.borrow_mut();
        let (verdict, _) = budget.search(&freed(steps, free), configurations_max);
        *is_cut_short |= verdict == Verdict::NotDecided;
        verdict == Verdict::Illegal
    };
    let mut free = free_after_the_contradiction(steps, &fails);
    // Reads first: what is left of a contradiction is then mostly writes, which say why.
    for only_reads in [true, false] {
        let mut chunk = steps.len().next_power_of_two();
        while chunk > 0 {
            let is_next = |place: &usize| {
                !free.contains(place) && steps[*place].effect.is_read() >= only_reads
            };
            let bound: Vec<usize> = (0..steps.len()).filter(is_next).collect();
            for places in bound.chunks(chunk) {
                let mut more = free.clone();
                more.extend(places);
                if fails(&more) {
                    free = more;
                }
            }
            chunk /= 2;
        }
    }
    let shown = shown(steps, &free).into_iter().map(|step| operations[step.operation].clone());
    let (operations, of) = (shown.collect(), operations.len());
    let is_cut_short = search.into_inner().1;
    Window { vault: *vault, key: (*name).to_owned(), operations, of, is_cut_short }
}

/// Frees everything that was over after the first moment at which no order was left.
fn free_after_the_contradiction(
    steps: &[Step],
    fails: &impl Fn(&BTreeSet<usize>) -> bool,
) -> BTreeSet<usize> {
    let later = |limit_ns: u64| -> BTreeSet<usize> {
        let is_later = |place: &usize| steps[*place].returned_ns.is_none_or(|ns| ns > limit_ns);
        (0..steps.len()).filter(is_later).collect()
    };
    let mut ends: Vec<u64> = steps.iter().filter_map(|step| step.returned_ns).collect();
    ends.sort_unstable();
    // The more is bound, the worse: the first end that fails can be found by halving.
    let place = ends.partition_point(|end| !fails(&later(*end)));
    ends.get(place).map_or_else(|| later(u64::MAX), |end| later(*end))
}

/// The history with these steps freed. A write that began last of all is no use to anyone, but does no harm either.
fn freed(steps: &[Step], free: &BTreeSet<usize>) -> Vec<Step> {
    let keep = |(place, step): (usize, &Step)| {
        let is_free = free.contains(&place);
        let returned_ns = step.returned_ns.filter(|_| !is_free);
        (!is_free || !step.effect.is_read()).then_some(Step { returned_ns, ..*step })
    };
    steps.iter().enumerate().filter_map(keep).collect()
}

/// The bound steps, and the writes of values that they are about.
fn shown(steps: &[Step], free: &BTreeSet<usize>) -> Vec<Step> {
    let bound = |place: &usize| !free.contains(place);
    let needed: BTreeSet<u32> =
        (0..steps.len()).filter(bound).filter_map(|place| steps[place].effect.needs()).collect();
    let is_shown = |place: &usize| {
        bound(place) || steps[*place].effect.written().is_some_and(|held| needed.contains(&held))
    };
    (0..steps.len()).filter(is_shown).map(|place| steps[place]).collect()
}
