//! What a run and a series of runs came to, as numbers and as text.
//!
//! Owns the wording. Must never run anything.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// A broken invariant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Its name.
    pub invariant: &'static str,
    /// What was found.
    pub detail: String,
    /// The world's time, in microseconds.
    pub at_us: u64,
    /// Events before it.
    pub event: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { invariant, detail, at_us, event } = self;
        write!(f, "invariant \"{invariant}\" at event {event}, {} ms: {detail}", at_us / 1000)
    }
}

macro_rules! counts {
    ($($name:ident: $text:literal,)*) => {
        /// How often what happened.
        #[derive(Clone, Default, Debug)]
        pub struct Counts {
            $(#[doc = $text] pub $name: u64,)*
            /// Faults that happened, by name.
            pub faults: BTreeMap<&'static str, u64>,
            /// Faults that were drawn and did not fit.
            pub misfits: BTreeMap<&'static str, u64>,
        }

        impl Counts {
            /// Adds another run's counts.
            pub fn add(&mut self, other: &Counts) {
                $(self.$name += other.$name;)*
                for (mine, theirs) in
                    [(&mut self.faults, &other.faults), (&mut self.misfits, &other.misfits)]
                {
                    for (name, count) in theirs {
                        *mine.entry(name).or_default() += count;
                    }
                }
            }

            /// Every count but those of faults, with its text.
            fn lines(&self) -> Vec<(&'static str, u64)> {
                vec![$(($text, self.$name),)*]
            }
        }
    };
}

counts! {
    turns: "turns",
    sent: "messages sent",
    delivered: "messages delivered",
    lost: "messages lost",
    duplicated: "messages repeated",
    late: "messages late",
    syncs: "syncs",
    boots: "starts",
    left: "replicas found to have left their group at a start",
    torn_batches: "torn batches dropped",
    damage_found: "damaged disks refused",
    reborn: "nodes with a new life",
    moved: "replicas of lost disks placed on another node",
    moved_alive: "living replicas moved to another node",
    changes_done: "changes of members done",
    snapshots_cut: "snapshots cut",
    snapshots_failed: "snapshots failed",
    snapshots_installed: "snapshots installed",
    snapshots_resumed: "installations gone on with at a start",
    vaults_recomputed: "vaults computed again after an installation",
    entries_applied: "entries applied",
    blocks: "blocks sealed",
    checkpoints: "recorded checkpoints compared",
    requests: "requests",
    skipped: "requests left out because every client was busy",
    acknowledged: "requests acknowledged",
    conditions_failed: "requests refused by a condition",
    unknown: "requests given up",
    timeouts: "attempts without an answer",
    refusals: "attempts refused",
    repeats: "answered requests sent again",
    reads: "reads checked",
    purges: "vaults purged by a replica",
    reads_of_purged: "reads of purged vaults",
    checked: "answers checked",
    replicas_compared: "replicas compared at the end",
    settled_us: "microseconds from mended to settled",
}

impl Counts {
    /// The counts as lines of text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (text, count) in self.lines() {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{count:>14}  {text}");
        }
        for (title, list) in [("faults", &self.faults), ("faults that did not fit", &self.misfits)]
        {
            let items: Vec<String> =
                list.iter().map(|(name, count)| format!("{name} {count}")).collect();
            let total: u64 = list.values().sum();
            let _ = writeln!(out, "{total:>14}  {title}: {}", items.join(", "));
        }
        out
    }
}
