//! The whole cluster in one thread: nodes, network, clients, time, and what is due when.
//!
//! Owns the order of events. Everything follows from the seed and the list of actions; must never look at
//! a real clock, or at anything else that could differ between two runs.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};

use ledger_shard_core::effects::{CutSnapshot, Effects, GroupMessage, Input};
use ledger_types::{GroupId, NodeId};

use crate::actions::{Act, Action, Author};
use crate::chance::{Chance, Purpose};
use crate::clock::Micros;
use crate::faults::Mend;
use crate::fingerprint::{self, Fingerprint};
use crate::invariants::Oracle;
use crate::members::GroupPlan;
use crate::network::Network;
use crate::node::Node;
use crate::report::{Counts, Violation};
use crate::setup::Setup;
use crate::swarm::Swarm;
use crate::workload::{Clients, Due};

/// Messages and requests that wait for a paused node at most; further ones are lost.
const INBOX_MAX: usize = 4096;
/// Time between looks at members and at invariants that are costly.
pub(crate) const LOOK_US: Micros = 100_000;
/// Lines of the trace that are kept.
const TRACE_LINES_MAX: usize = 400;

/// What a run is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything is drawn from it.
    pub seed: u64,
    /// Events before everything is mended.
    pub events: u64,
    /// A part that is broken on purpose.
    pub sabotage: Option<Sabotage>,
    /// Judge only by what clients are told and by what replicas apply, not by messages and disks.
    pub is_blind: bool,
    /// Keep the last events as text.
    pub keeps_trace: bool,
}

impl Options {
    /// A plain run of a seed.
    pub fn new(seed: u64, events: u64) -> Options {
        Options { seed, events, sabotage: None, is_blind: false, keeps_trace: false }
    }
}

/// A mistake in the simulated host, to show that the invariants would find it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// The host reports rows as durable before the sync.
    EarlyAcknowledgement,
    /// The host forgets terms and votes in a crash, but for what the log tells of them.
    LostHardState,
    /// The host answers reads from its own rows without asking the core.
    StaleRead,
    /// The host cuts snapshots in which an entity has another value, with digests that fit.
    WrongSnapshotRow,
}

impl Sabotage {
    /// Every sabotage and its name.
    pub const ALL: [(&'static str, Sabotage); 4] = [
        ("early-acknowledgement", Sabotage::EarlyAcknowledgement),
        ("lost-hard-state", Sabotage::LostHardState),
        ("stale-read", Sabotage::StaleRead),
        ("wrong-snapshot-row", Sabotage::WrongSnapshotRow),
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        let named = Sabotage::ALL.iter().find(|(_, sabotage)| *sabotage == self);
        named.expect("every sabotage is listed").0
    }
}

/// Where actions come from.
pub(crate) enum Source {
    /// The seed.
    Drawn(Box<Author>),
    /// A list, from its end.
    Given(Vec<Action>),
}

/// Something that is due.
pub(crate) enum Event {
    Deliver { from: NodeId, to: NodeId, message: Box<GroupMessage> },
    Tick { place: usize, boot: u64 },
    Turn { place: usize, boot: u64 },
    Synced { place: usize, boot: u64 },
    Apply { place: usize, boot: u64 },
    Cut { place: usize, boot: u64, wanted: CutSnapshot },
    Fetch { place: usize, boot: u64, group: GroupId, number: u64 },
    Install { place: usize, boot: u64, group: GroupId, step: u8 },
    Unreachable { place: usize, node: NodeId },
    Client(Due),
    Mend { epoch: u64, mend: Mend },
    Look,
    Act(Action),
}

struct Scheduled {
    at: Micros,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The earliest is the greatest: the heap gives out its greatest first.
    fn cmp(&self, other: &Scheduled) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// Where a run stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Vaults are being made; nothing goes wrong yet.
    Setup,
    /// Requests and faults.
    Faults,
    /// Everything was mended at this time.
    Settling(Micros),
    /// All is as it must be.
    Done,
}

/// The world.
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) swarm: Swarm,
    pub(crate) now: Micros,
    queue: BinaryHeap<Scheduled>,
    scheduled: u64,
    pub(crate) events: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) places: BTreeMap<NodeId, usize>,
    pub(crate) plans: Vec<GroupPlan>,
    pub(crate) network: Network,
    pub(crate) disks: Chance,
    pub(crate) clients: Clients,
    pub(crate) setup: Setup,
    pub(crate) oracle: Oracle,
    pub(crate) phase: Phase,
    source: Source,
    actions: Vec<Action>,
    pub(crate) mend_epoch: u64,
    pub(crate) nodes_made: u64,
    pub(crate) incarnations_made: u64,
    pub(crate) snapshots_made: u64,
    pub(crate) counts: Counts,
    pub(crate) print: Fingerprint,
    pub(crate) violation: Option<Violation>,
    pub(crate) effects: Effects,
    pub(crate) trace: Vec<String>,
}

impl World {
    pub(crate) fn new(options: Options, given: Option<Vec<Action>>) -> World {
        let swarm = Swarm::draw(options.seed);
        let seed = options.seed;
        let source = match given {
            Some(mut list) => {
                list.reverse();
                Source::Given(list)
            }
            None => Source::Drawn(Box::new(Author::new(seed, 0))),
        };
        let mut world = World {
            now: 1_000_000,
            queue: BinaryHeap::new(),
            scheduled: 0,
            events: 0,
            nodes: Vec::new(),
            places: BTreeMap::new(),
            plans: Vec::new(),
            network: Network::new(seed, &swarm),
            disks: Chance::new(seed, Purpose::Disks),
            clients: Clients::new(seed, &swarm),
            setup: Setup::new(&swarm),
            oracle: Oracle::new(options.is_blind),
            phase: Phase::Setup,
            source,
            actions: Vec::new(),
            mend_epoch: 0,
            nodes_made: 0,
            incarnations_made: 1_000,
            snapshots_made: 0,
            counts: Counts::default(),
            print: Fingerprint::default(),
            violation: None,
            effects: Effects::default(),
            trace: Vec::new(),
            options,
            swarm,
        };
        world.found();
        world.after(LOOK_US, Event::Look);
        world
    }

    /// A short run that ended as it must, for tests of what is checked then.
    #[cfg(test)]
    pub(crate) fn ended(seed: u64) -> World {
        let mut world = World::new(Options::new(seed, 6_000), None);
        world.run();
        assert_eq!(world.violation, None, "seed {seed}");
        world
    }

    /// Runs until everything is done or an invariant is broken.
    pub(crate) fn run(&mut self) {
        while self.violation.is_none() && self.phase != Phase::Done {
            self.step();
        }
    }

    fn step(&mut self) {
        let next = self.queue.pop().expect("there is always a next look");
        self.now = next.at;
        self.events += 1;
        self.print.number(next.at);
        self.handle(next.event);
    }

    /// What has been done so far, for a replay.
    pub(crate) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Schedules an event; what is due at the same time happens in the order of scheduling.
    pub(crate) fn after(&mut self, wait_us: Micros, event: Event) {
        self.at(self.now + wait_us, event);
    }

    pub(crate) fn at(&mut self, at: Micros, event: Event) {
        self.scheduled += 1;
        let number = self.scheduled;
        self.queue.push(Scheduled { at: at.max(self.now), number, event });
    }

    /// Notes the first broken invariant.
    pub(crate) fn fail(&mut self, invariant: &'static str, detail: String) {
        if self.violation.is_none() {
            let (at_us, event) = (self.now, self.events);
            self.violation = Some(Violation { invariant, detail, at_us, event });
        }
    }

    /// Notes what an invariant found.
    pub(crate) fn judge(&mut self, verdict: Result<(), (&'static str, String)>) {
        if let Err((invariant, detail)) = verdict {
            self.fail(invariant, detail);
        }
    }

    /// Adds a line to the trace, if there is one.
    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        if !self.options.keeps_trace {
            return;
        }
        if self.trace.len() == TRACE_LINES_MAX {
            self.trace.drain(..TRACE_LINES_MAX / 2);
        }
        let line = line();
        self.trace.push(format!("{:>10.3} ms  {line}", self.now as f64 / 1000.0));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, message } => self.deliver(from, to, *message),
            Event::Tick { place, boot } => self.tick(place, boot),
            Event::Turn { place, boot } => {
                if let Some(process) = self.process_of(place, boot) {
                    process.is_turn_due = false;
                    self.turn(place);
                }
            }
            Event::Synced { place, boot } => {
                if self.process_of(place, boot).is_some() {
                    self.synced(place);
                    self.wake(place);
                }
            }
            Event::Apply { place, boot } => {
                if let Some(process) = self.process_of(place, boot) {
                    process.is_apply_due = false;
                    self.apply_waiting(place);
                    self.wake(place);
                }
            }
            Event::Cut { place, boot, wanted } => {
                if self.process_of(place, boot).is_some() {
                    self.cut(place, &wanted);
                }
            }
            Event::Fetch { place, boot, group, number } => {
                if self.process_of(place, boot).is_some() {
                    self.fetch_step(place, group, number);
                }
            }
            Event::Install { place, boot, group, step } => {
                if self.process_of(place, boot).is_some() {
                    self.install_step(place, group, step);
                }
            }
            Event::Unreachable { place, node } => self.give(place, Input::Unreachable(node)),
            Event::Client(due) => self.client_due(due),
            Event::Mend { epoch, mend } => {
                if epoch == self.mend_epoch {
                    self.mend(mend);
                }
            }
            Event::Look => self.look(),
            Event::Act(action) => self.act(action),
        }
    }

    /// The process at a place, if it is still the one that the event is about.
    pub(crate) fn process_of(
        &mut self,
        place: usize,
        boot: u64,
    ) -> Option<&mut crate::node::Process> {
        let node = &mut self.nodes[place];
        if node.boot == boot { node.process.as_mut() } else { None }
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, message: GroupMessage) {
        let print = fingerprint::of(message.group.0, &message.payload);
        self.print.number(print as u64);
        let Some(&place) = self.places.get(&to) else { return };
        let Some(process) = &mut self.nodes[place].process else { return };
        if process.inbox.len() < INBOX_MAX {
            self.counts.delivered += 1;
            self.give(place, Input::Message { from, message });
        }
    }

    /// The beat of everything that looks at the whole.
    fn look(&mut self) {
        self.after(LOOK_US, Event::Look);
        self.drive_members();
        self.look_at_replicas();
        match self.phase {
            Phase::Setup => {
                if self.drive_setup() {
                    self.phase = Phase::Faults;
                    if let Source::Drawn(_) = self.source {
                        let author = Author::new(self.options.seed, self.now);
                        self.source = Source::Drawn(Box::new(author));
                    }
                    self.next_action();
                }
            }
            Phase::Settling(since) => self.settle(since),
            Phase::Faults | Phase::Done => {}
        }
    }

    fn next_action(&mut self) {
        let next = match &mut self.source {
            Source::Drawn(_) if self.events >= self.options.events => {
                Some(Action { at_us: self.now + 1, act: Act::Heal })
            }
            Source::Drawn(author) => Some(author.next(&self.swarm)),
            Source::Given(list) => list.pop(),
        };
        if let Some(action) = next {
            self.at(action.at_us, Event::Act(action));
        }
    }

    fn act(&mut self, action: Action) {
        self.print.number(action.at_us);
        self.actions.push(action.clone());
        match action.act {
            Act::Request(request) => {
                let has_begun = self.begin_request(request);
                if let (false, Source::Drawn(author)) = (has_begun, &mut self.source) {
                    author.hold_requests();
                }
                self.next_action();
            }
            Act::Fault(trouble) => {
                self.tell(|| format!("fault {trouble:?}"));
                self.trouble(trouble);
                self.next_action();
            }
            Act::Heal => self.heal(),
        }
    }
}
