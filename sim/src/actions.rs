//! What is done to the cluster from outside: requests and faults, as plain data with a time.
//!
//! Owns the drawing of a run's list. The list is all that shrinking changes and all that a replay needs
//! beside the seed. Must never look at the cluster: whether an action makes sense then and there is decided
//! where it is carried out.

use serde::{Deserialize, Serialize};

use crate::chance::{Chance, Purpose};
use crate::clock::Micros;
use crate::faults::Fault;
use crate::swarm::Swarm;

/// How much longer the next request waits when every client is busy.
const HOLD_US: Micros = 200_000;

/// An action and when it happens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// Microseconds of the world's time.
    pub at_us: u64,
    /// What happens.
    pub act: Act,
}

/// What happens. Places of nodes are counted from 0 and stay when a node gets a new life.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// A client begins a request, if one has nothing to do.
    Request(Request),
    /// A fault, or an operator's order.
    Fault(Trouble),
    /// Everything is mended; what must hold in the end is checked from here on.
    Heal,
}

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The client, counted among those that have nothing to do.
    pub client: u32,
    /// The vault, by its place in the list of vaults.
    pub vault: u32,
    /// What to do.
    pub kind: RequestKind,
    /// The key, by its number.
    pub key: u32,
    /// The node asked first.
    pub node: u32,
    /// Ask again after the answer, as a client does whose answer got lost.
    pub repeats: bool,
}

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestKind {
    /// Sets an entity.
    Set,
    /// Sets an entity if it is absent.
    SetIfAbsent,
    /// Sets an entity if it has the version last seen.
    SetIfVersion,
    /// Sets an entity if it has the value last seen.
    SetIfValue,
    /// Deletes an entity.
    Delete,
    /// Sets two entities at once.
    SetTwo,
    /// Makes a relationship.
    Relate,
    /// Takes a relationship back.
    Unrelate,
    /// Reads an entity.
    Read,
    /// Makes a namespace in the directory.
    Namespace,
    /// Puts a signed checkpoint into the vault's group.
    Checkpoint,
    /// Deletes the vault, or has it purged once it is known to be deleted.
    End,
}

/// A fault with everything that was drawn for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trouble {
    /// Which.
    pub fault: Fault,
    /// The node it is about.
    pub node: u32,
    /// Another node, or a set of them by bits.
    pub other: u32,
    /// The group it is about.
    pub group: u32,
    /// How long it lasts, in microseconds.
    pub for_us: u64,
    /// A number for whatever else the fault needs.
    pub pick: u64,
}

/// Draws a run's actions one after the other.
pub(crate) struct Author {
    chance: Chance,
    next_request: Micros,
    next_fault: Micros,
}

impl Author {
    pub(crate) fn new(seed: u64, begin: Micros) -> Author {
        let chance = Chance::new(seed, Purpose::Actions);
        Author { chance, next_request: begin, next_fault: begin }
    }

    /// The next action.
    pub(crate) fn next(&mut self, swarm: &Swarm) -> Action {
        let weights: u64 = swarm.weights.iter().map(|(_, weight)| weight).sum();
        if self.next_request <= self.next_fault || weights == 0 {
            let at_us = self.next_request;
            self.next_request += self.gap(swarm.request_gap_us);
            return Action { at_us, act: Act::Request(self.request(swarm)) };
        }
        let at_us = self.next_fault;
        self.next_fault += self.gap(swarm.fault_gap_us);
        Action { at_us, act: Act::Fault(self.trouble(swarm, weights)) }
    }

    /// Every client is busy: the next request waits.
    pub(crate) fn hold_requests(&mut self) {
        self.next_request += HOLD_US;
    }

    fn gap(&mut self, mean_us: u64) -> u64 {
        1 + self.chance.below(2 * mean_us)
    }

    fn request(&mut self, swarm: &Swarm) -> Request {
        use RequestKind::*;
        let chance = &mut self.chance;
        let kind = match chance.below(100) {
            0..25 => Set,
            25..30 => SetIfAbsent,
            30..37 => SetIfVersion,
            37..44 => SetIfValue,
            44..52 => Delete,
            52..57 => SetTwo,
            57..62 => Relate,
            62..66 => Unrelate,
            66..96 => Read,
            96..98 => Checkpoint,
            _ => Namespace,
        };
        let kind = if swarm.ends_vaults && chance.hits(40_000) { End } else { kind };
        let vaults = (swarm.groups.len() as u64 - 1) * swarm.vaults_per_group;
        Request {
            client: chance.below(swarm.clients as u64) as u32,
            vault: chance.below(vaults) as u32,
            kind,
            key: chance.below(swarm.keys) as u32,
            node: chance.below(swarm.nodes as u64) as u32,
            repeats: chance.hits(50_000),
        }
    }

    fn trouble(&mut self, swarm: &Swarm, weights: u64) -> Trouble {
        let mut drawn = self.chance.below(weights);
        let chosen = swarm.weights.iter().find(|(_, weight)| {
            let is_it = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            is_it
        });
        let chance = &mut self.chance;
        let length = chance.pick(&[100_000, 1_000_000, 1_000_000, 6_000_000]);
        Trouble {
            fault: chosen.expect("drawn below the sum of weights").0,
            node: chance.below(swarm.nodes as u64) as u32,
            other: chance.below(1 << swarm.nodes) as u32,
            group: chance.below(swarm.groups.len() as u64) as u32,
            for_us: 1_000 + chance.below(length),
            pick: chance.below(u64::MAX),
        }
    }
}
