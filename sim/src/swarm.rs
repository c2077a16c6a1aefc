//! What a seed is like: the size of its cluster, the pace of its parts, and which faults it has how often.
//!
//! Owns the drawing of all of that. Many seeds with few faults each find more than one mix with all of them.

use ledger_shard_core::CoreConfig;
use ledger_shard_core::apply::ApplyConfig;

use crate::chance::{Chance, Purpose};
use crate::faults::Fault;

/// Everything about a run that is drawn before it begins.
#[derive(Clone, Debug)]
pub(crate) struct Swarm {
    pub(crate) nodes: usize,
    /// Places of each group's first replicas.
    pub(crate) groups: Vec<Vec<usize>>,
    pub(crate) vaults_per_group: u64,
    pub(crate) clients: usize,
    pub(crate) keys: u64,
    pub(crate) core: CoreConfig,
    pub(crate) apply: ApplyConfig,
    /// Microseconds until a node takes a turn after its first input.
    pub(crate) turn_us: u64,
    /// Longest sync in microseconds; 0 for one that takes no time.
    pub(crate) sync_us: u64,
    /// Longest wait of the apply stage in microseconds; 0 for none.
    pub(crate) apply_us: u64,
    pub(crate) network: Pace,
    /// Longest time that a cut, or a step of a transfer or an installation, takes in microseconds.
    pub(crate) snapshot_us: u64,
    /// Cuts and transfers that fail, in a million.
    pub(crate) snapshot_fails: u64,
    /// Largest drift of a node's advancing clock, in millionths.
    pub(crate) drift_ppm: u64,
    /// Mean time between requests and between faults, in microseconds.
    pub(crate) request_gap_us: u64,
    pub(crate) fault_gap_us: u64,
    /// How often each fault is drawn.
    pub(crate) weights: Vec<(Fault, u64)>,
    /// A crash may keep batches that were not synced.
    pub(crate) keeps_unsynced: bool,
    /// Clients delete vaults, and have them purged.
    pub(crate) ends_vaults: bool,
}

/// How messages travel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) delay_us: u64,
    pub(crate) jitter_us: u64,
    pub(crate) drop: u64,
    pub(crate) duplicate: u64,
    /// A message of this share is late by up to ten times the jitter.
    pub(crate) late: u64,
    /// Messages of a link arrive in the order they were sent in.
    pub(crate) is_ordered: bool,
}

impl Swarm {
    pub(crate) fn draw(seed: u64) -> Swarm {
        let mut chance = Chance::new(seed, Purpose::Mix);
        let chance = &mut chance;
        let nodes = chance.pick(&[3, 5, 5, 7]);
        let groups = (0..chance.within(2, 4)).map(|_| places(chance, nodes)).collect();
        let weights = Fault::ALL.map(|fault| (fault, chance.pick(&[0, 0, 1, 2, 6]))).to_vec();
        let mut swarm = Swarm {
            nodes,
            groups,
            vaults_per_group: chance.within(1, 2),
            clients: chance.within(3, 8) as usize,
            keys: chance.pick(&[2, 5, 20, 200]),
            core: core_config(chance),
            apply: apply_config(chance),
            turn_us: chance.pick(&[0, 0, 50, 500]),
            sync_us: chance.pick(&[0, 200, 2_000, 20_000]),
            apply_us: chance.pick(&[0, 0, 500, 10_000]),
            network: pace(chance),
            snapshot_us: chance.pick(&[1_000, 50_000, 1_000_000]),
            snapshot_fails: chance.pick(&[0, 0, 100_000, 500_000]),
            drift_ppm: chance.pick(&[0, 500, 50_000]),
            request_gap_us: chance.pick(&[5_000, 20_000, 60_000, 200_000]),
            fault_gap_us: chance.pick(&[150_000, 500_000, 2_000_000]),
            weights,
            keeps_unsynced: chance.hits(500_000),
            ends_vaults: false,
        };
        // Drawn last, so that kept seeds and replays stay what they were.
        swarm.apply.history_blocks = [None, None, Some(0), Some(8), Some(100)][chance.place(5)];
        swarm.ends_vaults = chance.hits(250_000);
        swarm
    }
}

/// Three places, or all of them.
fn places(chance: &mut Chance, nodes: usize) -> Vec<usize> {
    if nodes == 3 || chance.hits(250_000) {
        return (0..nodes).collect();
    }
    let mut places: Vec<usize> = (0..nodes).collect();
    while places.len() > 3 {
        places.remove(chance.place(places.len()));
    }
    places
}

fn core_config(chance: &mut Chance) -> CoreConfig {
    let max_message_bytes = chance.pick(&[300, 4096, 256 * 1024]);
    CoreConfig {
        tick_ms: chance.pick(&[20, 50, 50]),
        election_ticks: chance.pick(&[10, 10, 20]),
        heartbeat_ticks: chance.pick(&[1, 2, 3]),
        spread_ticks: chance.pick(&[40, 40, 200]),
        max_message_bytes,
        max_inflight_messages: chance.pick(&[2, 8, 64]) as usize,
        // The library asks for more than a message.
        max_uncommitted_bytes: chance.pick(&[2_000, 32 << 20, 32 << 20]).max(max_message_bytes + 1),
        max_committed_bytes_per_ready: chance.pick(&[400, 64 * 1024, 4 << 20]),
        max_entry_bytes: chance.pick(&[200, 2_000, 256 * 1024]) as usize,
        log_entries_max: chance.pick(&[8, 30, 100, 100_000]),
        log_bytes_max: chance.pick(&[6_000, 64 << 20, 64 << 20]),
        cache_bytes_per_group: chance.pick(&[0, 300, 4_000, 2 << 20]) as usize,
        seed: 0,
    }
}

fn apply_config(chance: &mut Chance) -> ApplyConfig {
    ApplyConfig {
        tree_flush_blocks: chance.pick(&[1, 4, 64, 256]),
        tree_flush_bytes: 8 << 20,
        tree_cache_bytes: chance.pick(&[0, 20_000, 64 << 20]) as usize,
        ..ApplyConfig::default()
    }
}

fn pace(chance: &mut Chance) -> Pace {
    let delay_us = chance.pick(&[50, 200, 1_000, 5_000]);
    Pace {
        delay_us,
        jitter_us: delay_us * chance.pick(&[0, 1, 4]),
        drop: chance.pick(&[0, 0, 1_000, 30_000]),
        duplicate: chance.pick(&[0, 0, 1_000, 20_000]),
        late: chance.pick(&[0, 0, 5_000, 50_000]),
        is_ordered: chance.hits(500_000),
    }
}
