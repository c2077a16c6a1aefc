//! Which faults belong together: mixes by name.
//!
//! A table and the drawing from it.

use rand::Rng as _;
use rand::rngs::StdRng;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    /// SIGKILL of one node, and a start a little later.
    Kill,
    /// SIGKILL of all nodes at once.
    KillAll,
    /// SIGTERM of one node, and a start.
    Restart,
    /// SIGSTOP of one node, SIGCONT later.
    Pause,
    /// One node hears nobody and is heard by nobody.
    Isolate,
    /// One node is heard by nobody and hears everybody.
    Mute,
    /// One node hears nobody and is heard by everybody.
    Deafen,
    /// Two nodes cannot talk to each other, the third talks to both.
    Bridge,
    /// One node is cut off and back again and again.
    Flap,
    /// Connections of one node break and no new ones come up.
    Refuse,
    /// Connections of one node stay up and lose what is sent.
    HalfOpen,
    /// All messages are late.
    SlowLinks,
    /// Few bytes of a second pass to and from one node.
    NarrowLinks,
    /// Each sync of one node's disk takes long.
    SlowDisk,
    /// One node's disk is full for a while.
    FullDisk,
    /// All nodes lose power: what was not synced is gone.
    PowerCut,
    /// One node's wall clock jumps, and back later.
    ClockStep,
}

impl Kind {
    /// Its name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::KillAll => "kill all",
            Kind::Restart => "restart",
            Kind::Pause => "pause",
            Kind::Isolate => "isolate",
            Kind::Mute => "mute",
            Kind::Deafen => "deafen",
            Kind::Bridge => "bridge",
            Kind::Flap => "flap",
            Kind::Refuse => "refuse",
            Kind::HalfOpen => "half-open",
            Kind::SlowLinks => "slow links",
            Kind::NarrowLinks => "narrow links",
            Kind::SlowDisk => "slow disk",
            Kind::FullDisk => "full disk",
            Kind::PowerCut => "power cut",
            Kind::ClockStep => "clock step",
        }
    }

    /// True if it needs a disk that can be filled and cut off.
    pub(crate) fn needs_disk(self) -> bool {
        matches!(self, Kind::FullDisk | Kind::PowerCut)
    }
}

/// Faults under one name.
#[derive(Debug)]
pub(crate) struct Mix {
    /// Its name.
    pub(crate) name: &'static str,
    /// What may happen, each with how often.
    pub(crate) kinds: &'static [(Kind, u32)],
    /// True if a second fault may begin while one lasts.
    pub(crate) overlaps: bool,
}

/// Every mix.
pub(crate) const MIXES: &[Mix] = &[
    Mix {
        name: "kill",
        kinds: &[(Kind::Kill, 5), (Kind::KillAll, 2), (Kind::Restart, 2)],
        overlaps: false,
    },
    Mix { name: "pause", kinds: &[(Kind::Pause, 1)], overlaps: false },
    Mix {
        name: "partition",
        kinds: &[
            (Kind::Isolate, 3),
            (Kind::Mute, 2),
            (Kind::Deafen, 2),
            (Kind::Bridge, 2),
            (Kind::Flap, 1),
            (Kind::Refuse, 1),
            (Kind::HalfOpen, 2),
        ],
        overlaps: false,
    },
    Mix {
        name: "slow",
        kinds: &[(Kind::SlowLinks, 2), (Kind::NarrowLinks, 1), (Kind::Pause, 1)],
        overlaps: true,
    },
    Mix {
        name: "disk",
        kinds: &[(Kind::SlowDisk, 2), (Kind::FullDisk, 2), (Kind::PowerCut, 2)],
        overlaps: false,
    },
    Mix { name: "clock", kinds: &[(Kind::ClockStep, 3), (Kind::Kill, 1)], overlaps: true },
    Mix {
        name: "all",
        kinds: &[
            (Kind::Kill, 3),
            (Kind::KillAll, 1),
            (Kind::Restart, 1),
            (Kind::Pause, 3),
            (Kind::Isolate, 2),
            (Kind::Mute, 2),
            (Kind::Deafen, 2),
            (Kind::Bridge, 2),
            (Kind::Flap, 1),
            (Kind::Refuse, 1),
            (Kind::HalfOpen, 1),
            (Kind::SlowLinks, 2),
            (Kind::NarrowLinks, 1),
            (Kind::SlowDisk, 2),
            (Kind::FullDisk, 1),
            (Kind::PowerCut, 1),
            (Kind::ClockStep, 2),
        ],
        overlaps: true,
    },
];

impl Mix {
    /// The mix of this name.
    pub(crate) fn by_name(name: &str) -> Option<&'static Mix> {
        MIXES.iter().find(|mix| mix.name == name)
    }

    /// True if this may happen.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.kinds.iter().any(|(other, _)| *other == kind)
    }

    /// A kind drawn by weight among those that `may` happen now.
    pub(crate) fn draw(&self, random: &mut StdRng, may: impl Fn(Kind) -> bool) -> Option<Kind> {
        let possible: Vec<_> = self.kinds.iter().filter(|(kind, _)| may(*kind)).collect();
        let total: u32 = possible.iter().map(|(_, weight)| weight).sum();
        if total == 0 {
            return None;
        }
        let mut left = random.random_range(0..total);
        for (kind, weight) in possible {
            match left.checked_sub(*weight) {
                Some(rest) => left = rest,
                None => return Some(*kind),
            }
        }
        unreachable!("the weights add up to the total")
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn every_kind_that_may_happen_is_drawn_and_no_other() {
        let all = Mix::by_name("all").unwrap();
        let mut random = StdRng::seed_from_u64(1);
        let mut drawn = std::collections::BTreeSet::new();
        for _ in 0..1_000 {
            drawn.extend(all.draw(&mut random, |kind| !kind.needs_disk()));
        }
        let expected = all.kinds.iter().map(|(kind, _)| *kind).filter(|kind| !kind.needs_disk());
        assert_eq!(drawn, expected.collect());
        assert_eq!(all.draw(&mut random, |_| false), None);
    }

    #[test]
    fn every_fault_of_a_mix_is_in_the_mix_of_all() {
        let all = Mix::by_name("all").unwrap();
        for (kind, weight) in MIXES.iter().flat_map(|mix| mix.kinds) {
            assert!(all.has(*kind) && *weight > 0, "{kind:?}");
        }
    }
}
