//! The network between nodes: delays, losses, repeats, and links that are cut.
//!
//! Owns what becomes of a message after it was sent. Must never look into one.

use ledger_shard_core::effects::OutMessage;

use crate::chance::{Chance, Purpose};
use crate::clock::Micros;
use crate::swarm::{Pace, Swarm};
use crate::world::{Event, World};

/// Time between two reports to a node that messages to another are lost.
const REPORT_EVERY_US: Micros = 500_000;

/// The state of every link.
pub(crate) struct Network {
    chance: Chance,
    pace: Pace,
    links: Vec<Vec<Link>>,
    /// Messages lost beside the swarm's, in a million.
    pub(crate) extra_drop: u64,
    pub(crate) is_healed: bool,
}

#[derive(Clone, Copy, Default)]
struct Link {
    cuts: u32,
    last_arrival: Micros,
    last_report: Micros,
}

impl Network {
    pub(crate) fn new(seed: u64, swarm: &Swarm) -> Network {
        Network {
            chance: Chance::new(seed, Purpose::Network),
            pace: swarm.network,
            links: vec![vec![Link::default(); swarm.nodes]; swarm.nodes],
            extra_drop: 0,
            is_healed: false,
        }
    }

    /// Cuts the link in one direction, once more.
    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.links[from][to].cuts += 1;
    }

    /// Takes one cut of the link back.
    pub(crate) fn join(&mut self, from: usize, to: usize) {
        let cuts = &mut self.links[from][to].cuts;
        *cuts = cuts.checked_sub(1).expect("what is mended was cut");
    }

    /// True if messages get through in this direction.
    pub(crate) fn is_open(&self, from: usize, to: usize) -> bool {
        self.links[from][to].cuts == 0
    }

    /// Everything gets through from here on.
    pub(crate) fn heal(&mut self) {
        for link in self.links.iter_mut().flatten() {
            link.cuts = 0;
        }
        (self.extra_drop, self.is_healed) = (0, true);
    }
}

impl World {
    /// Puts a message on its way.
    pub(crate) fn send(&mut self, from: usize, out: OutMessage) {
        self.counts.sent += 1;
        let sender = self.nodes[from].id;
        let Some(&to) = self.places.get(&out.node) else { return };
        let network = &mut self.network;
        let lossless = network.is_healed;
        let loss = if lossless { 0 } else { network.pace.drop + network.extra_drop };
        let is_lost = network.chance.hits(loss);
        let is_up = self.nodes[to].process.is_some();
        if !network.is_open(from, to) || is_lost || !is_up {
            self.counts.lost += 1;
            let link = &mut network.links[from][to];
            if self.now >= link.last_report + REPORT_EVERY_US {
                link.last_report = self.now;
                let (place, node) = (from, out.node);
                self.after(10_000, Event::Unreachable { place, node });
            }
            return;
        }
        let repeats = !lossless && network.chance.hits(network.pace.duplicate);
        for _ in 0..=u8::from(repeats) {
            let at = self.arrival(from, to);
            let message = Box::new(out.message.clone());
            self.at(at, Event::Deliver { from: sender, to: out.node, message });
        }
        self.counts.duplicated += u64::from(repeats);
    }

    fn arrival(&mut self, from: usize, to: usize) -> Micros {
        let network = &mut self.network;
        let pace = network.pace;
        let mut delay = pace.delay_us + network.chance.below(pace.jitter_us + 1);
        if !network.is_healed && network.chance.hits(pace.late) {
            delay += network.chance.below(10 * pace.jitter_us.max(pace.delay_us));
            self.counts.late += 1;
        }
        let link = &mut network.links[from][to];
        let mut at = self.now + delay;
        if pace.is_ordered {
            at = at.max(link.last_arrival);
        }
        link.last_arrival = link.last_arrival.max(at);
        at
    }
}
