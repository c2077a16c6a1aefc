//! The search for a legal order.
//!
//! Owns configurations and the rules by which whole families of orders are left out. Each rule is argued where it
//! stands; the tests compare the result with an enumeration of all orders.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::{Answer, Call, Operation, Outcome};

/// What a register holds: [`ABSENT`], [`UNSEEN`] or the number of a value.
type Held = u32;

/// Nothing.
const ABSENT: Held = 0;
/// Some value that no read saw and no replacement expects, so that no answer tells it from another such one.
const UNSEEN: Held = 1;

/// What an operation does to a register, its answer included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Effect {
    /// Makes it hold this, whatever it held.
    Put(Held),
    /// Makes it hold this if it is absent.
    Create(Held),
    /// Makes it hold the second if it holds the first.
    Replace(Held, Held),
    /// Sees this and changes nothing.
    See(Held),
    /// Sees anything but this and changes nothing.
    SeeOther(Held),
}

impl Effect {
    /// What is held afterwards; `None` if the effect cannot happen here.
    fn on(self, held: Held) -> Option<Held> {
        match self {
            Effect::Put(value) => Some(value),
            Effect::Create(value) => (held == ABSENT).then_some(value),
            Effect::Replace(expected, value) => (held == expected).then_some(value),
            Effect::See(value) => (held == value).then_some(held),
            Effect::SeeOther(value) => (held != value).then_some(held),
        }
    }

    /// Whether it changes nothing.
    pub(super) fn is_read(self) -> bool {
        matches!(self, Effect::See(_) | Effect::SeeOther(_))
    }

    /// Whether it can happen whatever is held.
    fn is_blind(self) -> bool {
        matches!(self, Effect::Put(_))
    }

    /// What it makes the register hold, if it is a write.
    pub(super) fn written(self) -> Option<Held> {
        match self {
            Effect::Put(value) | Effect::Create(value) | Effect::Replace(_, value) => Some(value),
            Effect::See(_) | Effect::SeeOther(_) => None,
        }
    }

    /// What the register must hold for it, if that is a value of somebody.
    pub(super) fn needs(self) -> Option<Held> {
        match self {
            Effect::See(value) | Effect::Replace(value, _) => (value > UNSEEN).then_some(value),
            Effect::Put(_) | Effect::Create(_) | Effect::SeeOther(_) => None,
        }
    }
}

/// An operation as the search sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Step {
    /// What it does.
    pub effect: Effect,
    /// When it began.
    pub invoked_ns: u64,
    /// When it was over; none if nobody knows whether and when it happens.
    pub returned_ns: Option<u64>,
    /// Which operation of the history it is.
    pub operation: usize,
}

/// How a search ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// There is a legal order.
    Legal,
    /// There is none.
    Illegal,
    /// The bound was reached.
    NotDecided,
}

/// The steps of a key's well-formed operations, in the order in which they began. Those without any effect are left
/// out: the failed, and reads that were never answered.
pub(super) fn steps(operations: &[&Operation]) -> Vec<Step> {
    let mut numbers: BTreeMap<&[u8], Held> = BTreeMap::new();
    for value in operations.iter().filter_map(|operation| told(operation)) {
        let next = UNSEEN + 1 + numbers.len() as Held;
        numbers.entry(value).or_insert(next);
    }
    let mut steps: Vec<Step> = Vec::with_capacity(operations.len());
    for (place, operation) in operations.iter().enumerate() {
        let returned_ns = match &operation.outcome {
            Outcome::Done { returned_ns, .. } => Some(*returned_ns),
            Outcome::Unknown => None,
            Outcome::Failed => continue,
        };
        if let Some(effect) = effect(operation, &numbers) {
            let invoked_ns = operation.invoked_ns;
            steps.push(Step { effect, invoked_ns, returned_ns, operation: place });
        }
    }
    steps.sort_by_key(|step| step.invoked_ns);
    steps
}

/// The value that an operation's answer or condition is about.
fn told(operation: &Operation) -> Option<&[u8]> {
    match (&operation.call, &operation.outcome) {
        (Call::Read, Outcome::Done { answer: Answer::Value(value), .. }) => value.as_deref(),
        (Call::Replace { expected, .. }, _) => Some(expected),
        _ => None,
    }
}

fn effect(operation: &Operation, numbers: &BTreeMap<&[u8], Held>) -> Option<Effect> {
    let number = |value: &[u8]| numbers.get(value).copied().unwrap_or(UNSEEN);
    let is_refused =
        matches!(&operation.outcome, Outcome::Done { answer: Answer::ConditionFailed, .. });
    Some(match &operation.call {
        Call::Set(value) => Effect::Put(number(value)),
        Call::Delete => Effect::Put(ABSENT),
        Call::Create(_) if is_refused => Effect::SeeOther(ABSENT),
        Call::Create(value) => Effect::Create(number(value)),
        Call::Replace { expected, .. } if is_refused => Effect::SeeOther(number(expected)),
        Call::Replace { expected, value } => Effect::Replace(number(expected), number(value)),
        Call::Read => match &operation.outcome {
            Outcome::Done { answer: Answer::Value(value), .. } => {
                Effect::See(value.as_deref().map_or(ABSENT, number))
            }
            _ => return None,
        },
    })
}

/// What has happened so far in an order that is being built.
///
/// - Every answered step before `before` has happened, and of those from there on the ones in `ahead`.
/// - `open` are the unknown steps that have happened; both lists are sorted.
/// - `is_owed`: the last step was an unknown one, and the next must look at what it left.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Configuration {
    before: u32,
    ahead: Vec<u32>,
    open: Vec<u32>,
    held: Held,
    is_owed: bool,
}

/// The steps, parted.
struct Steps<'a> {
    /// With an answer, in the order in which they began.
    answered: Vec<&'a Step>,
    /// Without one, likewise.
    unknown: Vec<&'a Step>,
}

/// Looks for a legal order of `steps`, which are sorted by when they began; also tells how many configurations it
/// came across, at most a step's successors more than allowed.
pub(super) fn search(steps: &[Step], configurations_max: usize) -> (Verdict, usize) {
    let (answered, unknown) = steps.iter().partition(|step: &&Step| step.returned_ns.is_some());
    let steps = Steps { answered, unknown };
    let start = Configuration {
        before: 0,
        ahead: Vec::new(),
        open: Vec::new(),
        held: ABSENT,
        is_owed: false,
    };
    let mut seen = BTreeSet::from([start.clone()]);
    let mut stack = vec![start];
    while let Some(configuration) = stack.pop() {
        if configuration.before as usize == steps.answered.len() {
            return (Verdict::Legal, seen.len());
        }
        if seen.len() >= configurations_max {
            return (Verdict::NotDecided, seen.len());
        }
        for next in steps.successors(&configuration) {
            if seen.insert(next.clone()) {
                stack.push(next);
            }
        }
    }
    (Verdict::Illegal, seen.len())
}

impl Steps<'_> {
    /// The configurations one step later. Those that come last are tried first.
    fn successors(&self, now: &Configuration) -> Vec<Configuration> {
        let (candidates, limit_ns) = self.candidates(now);
        // A read that fits may as well happen now: it changes nothing, and later it can only fit worse.
        let read = candidates.iter().find(|place| {
            let effect = self.answered[**place as usize].effect;
            effect.is_read() && effect.on(now.held).is_some()
        });
        if let Some(&place) = read {
            return vec![self.happened(now, place, now.held)];
        }
        let mut successors = Vec::new();
        self.push_unknown(now, limit_ns, &mut successors);
        for place in candidates {
            let effect = self.answered[place as usize].effect;
            // An unknown step of which nothing is seen need not have happened at all.
            if now.is_owed && effect.is_blind() {
                continue;
            }
            if let Some(held) = effect.on(now.held) {
                successors.push(self.happened(now, place, held));
            }
        }
        successors
    }

    /// The answered steps that may come next, and the time at which the first of those that are left was over: what
    /// began later cannot come next.
    fn candidates(&self, now: &Configuration) -> (Vec<u32>, u64) {
        let mut places = Vec::new();
        let mut limit_ns = u64::MAX;
        let mut ahead = now.ahead.iter().copied().peekable();
        for place in now.before..self.answered.len() as u32 {
            let step = self.answered[place as usize];
            // Steps are sorted and none is over before it began, so a limit never falls below one that was taken.
            if step.invoked_ns > limit_ns {
                break;
            }
            if ahead.next_if_eq(&place).is_none() {
                places.push(place);
                limit_ns = limit_ns.min(step.returned_ns.expect("these are answered"));
            }
        }
        (places, limit_ns)
    }

    /// Unknown steps that may come next and change something. Of several that do the same only the first to begin:
    /// it could stand wherever another of them stands.
    fn push_unknown(&self, now: &Configuration, limit_ns: u64, to: &mut Vec<Configuration>) {
        let mut tried = BTreeSet::new();
        let in_time = self.unknown.iter().take_while(|step| step.invoked_ns <= limit_ns);
        for (place, step) in (0u32..).zip(in_time) {
            let Err(sorted) = now.open.binary_search(&place) else { continue };
            if now.is_owed && step.effect.is_blind() {
                continue;
            }
            let Some(held) = step.effect.on(now.held).filter(|held| *held != now.held) else {
                continue;
            };
            if tried.insert(step.effect) {
                let mut next = now.clone();
                next.open.insert(sorted, place);
                next.held = held;
                next.is_owed = true;
                to.push(next);
            }
        }
    }

    /// After the answered step at `place`.
    fn happened(&self, now: &Configuration, place: u32, held: Held) -> Configuration {
        let mut next = now.clone();
        let sorted = next.ahead.binary_search(&place).expect_err("a step happens once");
        next.ahead.insert(sorted, place);
        let ready = (next.before..).zip(&next.ahead).take_while(|(due, place)| due == *place);
        let ready = ready.count();
        next.ahead.drain(..ready);
        next.before += ready as u32;
        next.held = held;
        next.is_owed = false;
        next
    }
}
