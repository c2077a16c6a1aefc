//! One run from its options to its outcome.
//!
//! Owns the border at which a panic of the core becomes a broken invariant.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use crate::actions::{Act, Action};
use crate::fingerprint::Fingerprint;
use crate::report::{Counts, Violation};
use crate::world::{Options, World};

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The first broken invariant, if any.
    pub violation: Option<Violation>,
    /// Everything that was done from outside, for a replay.
    pub actions: Vec<Action>,
    /// A digest of everything that happened.
    pub fingerprint: Fingerprint,
    /// Events.
    pub events: u64,
    /// The world's time at the end, in microseconds.
    pub ended_us: u64,
    /// How often what happened.
    pub counts: Counts,
    /// The last events as text, if they were kept.
    pub trace: Vec<String>,
}

thread_local! {
    static PANICS: RefCell<Option<String>> = const { RefCell::new(None) };
    static IS_RUNNING: RefCell<bool> = const { RefCell::new(false) };
}

/// Runs a seed, with actions drawn from it or with the given ones.
pub fn run(options: &Options, given: Option<&[Action]>) -> Outcome {
    keep_panics_quiet();
    let mut world = World::new(options.clone(), given.map(|list| with_end(list.to_vec(), 0)));
    IS_RUNNING.set(true);
    let ended = panic::catch_unwind(AssertUnwindSafe(|| world.run()));
    IS_RUNNING.set(false);
    if ended.is_err() {
        let detail = PANICS.take().unwrap_or_default();
        world.fail("no panic", detail);
    }
    let actions = world.take_actions();
    let World { violation, print, events, now, counts, trace, .. } = world;
    Outcome { violation, actions, fingerprint: print, events, ended_us: now, counts, trace }
}

/// The list with an end, not before `at_us`: a run must end.
pub(crate) fn with_end(mut actions: Vec<Action>, at_us: u64) -> Vec<Action> {
    if actions.last().is_none_or(|last| last.act != Act::Heal) {
        let at_us = actions.last().map_or(0, |last| last.at_us).max(at_us) + 1_000_000;
        actions.push(Action { at_us, act: Act::Heal });
    }
    actions
}

/// A panic inside a run is noted instead of printed.
fn keep_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| match IS_RUNNING.with_borrow(|is| *is) {
            true => PANICS.set(Some(info.to_string())),
            false => before(info),
        }));
    });
}
