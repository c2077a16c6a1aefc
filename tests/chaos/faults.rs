//! Faults drawn from a seed, one after the other or two at a time, and their mending.
//!
//! Owns which node is harmed how and for how long, and the diary of it. Whom a fault meets depends on who leads at that
//! moment, so a seed fixes the kinds, times and lots, not the victims.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ledger_client::Client;
use rand::Rng as _;
use rand::rngs::StdRng;

use super::link::{Flow, Shape};
use super::mixes::{Kind, Mix};
use super::nodes::{Health, NODES, Nodes};
use super::recorder::Recorder;

/// Groups from which a leader is drawn as victim: the directory's and the data shards.
const GROUPS: std::ops::RangeInclusive<u64> = 0..=3;
/// Of a hundred victims so many are leaders on purpose.
const LEADERS_PERCENT: u32 = 60;
/// Of a hundred faults in a mix that overlaps so many get a second one beside them.
const OVERLAPS_PERCENT: u32 = 40;
/// Pause between the end of a fault and the next one.
const PAUSE_MS: (u64, u64) = (50, 700);
/// How often a flapping node goes.
const FLAPS: u64 = 6;
/// Steps of a wall clock in milliseconds.
const CLOCK_STEPS_MS: [i64; 8] =
    [-86_400_000, -3_600_000, -2_000, -100, 100, 2_000, 3_600_000, 86_400_000];
/// The fail points that faults use.
const SYNC_POINT: &str = "store::sync";
const CLOCK_POINT: &str = "clock::wall_step_ms";

/// A fault that lasts.
#[derive(Clone, Copy, Debug)]
struct Lasting {
    kind: Kind,
    victim: usize,
}

/// Does faults.
pub(crate) struct Faults {
    mix: &'static Mix,
    random: StdRng,
    recorder: Arc<Recorder>,
    client: Client,
    lasting: Vec<Lasting>,
    /// Nodes whose process may end by itself once, because their disk was full.
    excused: BTreeSet<usize>,
    /// How often each kind was done.
    pub(crate) counts: BTreeMap<&'static str, u32>,
}

impl Faults {
    /// Faults of a mix; the client is asked who leads.
    pub(crate) fn new(
        mix: &'static Mix,
        random: StdRng,
        recorder: Arc<Recorder>,
        client: Client,
    ) -> Faults {
        let (lasting, counts) = (Vec::new(), BTreeMap::new());
        let excused = BTreeSet::new();
        Faults { mix, random, recorder, client, lasting, excused, counts }
    }

    /// Harms and mends the nodes for this time. At the end nothing is harmed any more that this has harmed, though
    /// processes may still be on their way up.
    pub(crate) async fn run(&mut self, nodes: &mut Nodes, time: Duration) {
        let end = self.recorder.elapsed() + time;
        while self.recorder.elapsed() < end {
            let Some(lasts) = self.begin(nodes).await else { return };
            let overlaps = self.mix.overlaps && self.random.random_range(0..100) < OVERLAPS_PERCENT;
            if overlaps {
                self.begin(nodes).await;
            }
            tokio::time::sleep(lasts).await;
            self.end_all(nodes).await;
            self.notice_ended(nodes).await;
            let pause_ms = self.random.random_range(PAUSE_MS.0..=PAUSE_MS.1);
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
    }

    /// Does a fault that goes with those that last, and tells how long it is to last.
    async fn begin(&mut self, nodes: &mut Nodes) -> Option<Duration> {
        let busy: Vec<Kind> = self.lasting.iter().map(|one| one.kind).collect();
        let may = |kind: Kind| {
            let alone = matches!(kind, Kind::KillAll | Kind::PowerCut | Kind::Restart);
            let same_kind =
                busy.iter().any(|other| *other == kind || (is_network(*other) && is_network(kind)));
            let fits = busy.is_empty() || !(alone || same_kind);
            fits && (nodes.has_disks() || !kind.needs_disk())
        };
        let kind = self.mix.draw(&mut self.random, may)?;
        let victim = self.victim(nodes).await?;
        let lasts = Duration::from_millis(self.lasts_ms(kind));
        *self.counts.entry(kind.name()).or_default() += 1;
        self.note(format!("{} of node {victim} for {lasts:?}", kind.name()));
        self.lasting.push(Lasting { kind, victim });
        self.harm(nodes, kind, victim).await;
        Some(lasts)
    }

    fn lasts_ms(&mut self, kind: Kind) -> u64 {
        let (least, most) = match kind {
            Kind::Kill | Kind::KillAll | Kind::PowerCut => (50, 1_500),
            Kind::Restart => (0, 200),
            Kind::FullDisk => (1_500, 4_500),
            Kind::Flap => (300, 1_200),
            // Half of them pass before anyone is elected, half of them afterwards.
            _ if self.random.random() => (20, 400),
            _ => (400, 2_500),
        };
        self.random.random_range(least..=most)
    }

    /// A node that runs: a leader more often than not.
    async fn victim(&mut self, nodes: &Nodes) -> Option<usize> {
        let running = nodes.in_health(Health::Running);
        let wants_leader = self.random.random_range(0..100) < LEADERS_PERCENT;
        let group = self.random.random_range(GROUPS);
        let other = self.random.random_range(0..NODES);
        if wants_leader
            && let Some(leader) = nodes.leader(&self.client, group).await
            && running.contains(&leader)
        {
            return Some(leader);
        }
        running.get(other % running.len().max(1)).copied()
    }

    async fn harm(&mut self, nodes: &mut Nodes, kind: Kind, victim: usize) {
        match kind {
            Kind::Kill => nodes.kill(victim),
            Kind::KillAll => (0..NODES).for_each(|number| nodes.kill(number)),
            Kind::Restart => {
                if let Err(error) = nodes.stop(victim).await {
                    self.recorder.violation(format!("a node does not end well: {error}"));
                }
            }
            Kind::Pause => nodes.pause(victim, true),
            Kind::SlowDisk => {
                let ms = self.random.random_range(10..=250);
                nodes.set_point(victim, SYNC_POINT, Some(&format!("sleep({ms})"))).await;
            }
            Kind::ClockStep => {
                let step = CLOCK_STEPS_MS[self.random.random_range(0..CLOCK_STEPS_MS.len())];
                self.note(format!("the clock of node {victim} steps by {step} ms"));
                nodes.set_point(victim, CLOCK_POINT, Some(&format!("return({step})"))).await;
            }
            Kind::FullDisk => nodes.fill_disk(victim),
            Kind::PowerCut => nodes.cut_power(),
            Kind::Flap => self.flap(nodes, victim).await,
            _ => self.harm_network(nodes, kind, victim),
        }
    }

    async fn flap(&mut self, nodes: &mut Nodes, victim: usize) {
        for flap in 0..FLAPS {
            let kind = if flap % 2 == 0 { Kind::Isolate } else { Kind::Flap };
            self.harm_network(nodes, kind, victim);
            let ms = self.random.random_range(20..=400);
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
    }

    fn harm_network(&mut self, nodes: &mut Nodes, kind: Kind, victim: usize) {
        let shape = Shape {
            latency_ms: self.random.random_range(1..=120),
            jitter_ms: self.random.random_range(0..=80),
            bytes_per_second: self.random.random_range(2_000..=60_000),
        };
        for from in 0..NODES {
            for to in (0..NODES).filter(|to| *to != from) {
                let flow = flow(kind, victim, (from, to), shape);
                nodes.set_flow(from, to, flow.expect("a fault of the network"));
            }
        }
    }

    /// Mends everything that lasts.
    pub(crate) async fn end_all(&mut self, nodes: &mut Nodes) {
        for Lasting { kind, victim } in std::mem::take(&mut self.lasting) {
            self.note(format!("end of {} of node {victim}", kind.name()));
            match kind {
                Kind::FullDisk => {
                    // A failed write ends a process on purpose, now or a little later.
                    self.excused.insert(victim);
                    nodes.free_disk(victim);
                }
                Kind::PowerCut => nodes.restore_power(),
                _ => {}
            }
        }
        nodes.set_all_flows(Flow::Pass);
        for number in 0..NODES {
            if nodes.nodes[number].health == Health::Paused {
                nodes.pause(number, false);
            }
            for point in [SYNC_POINT, CLOCK_POINT] {
                if nodes.has_point(number, point) {
                    nodes.set_point(number, point, None).await;
                }
            }
        }
        for number in nodes.in_health(Health::Down) {
            nodes.resume(number);
        }
    }

    /// Looks for processes that ended although nobody ended them.
    pub(crate) async fn notice_ended(&mut self, nodes: &mut Nodes) {
        for number in 0..NODES {
            if let Some(how) = nodes.has_ended(number).await {
                if self.excused.remove(&number) {
                    self.recorder.count("ended on a full disk");
                } else {
                    self.recorder.violation(how);
                }
                nodes.resume(number);
            }
        }
    }

    fn note(&self, what: String) {
        self.recorder.note(&what);
    }
}

/// What becomes of the bytes that one node sends to another; `None` if the fault is none of the network.
fn flow(kind: Kind, victim: usize, (from, to): (usize, usize), shape: Shape) -> Option<Flow> {
    let meets = |harmed: bool, flow: Flow| Some(if harmed { flow } else { Flow::Pass });
    let touches = from == victim || to == victim;
    match kind {
        Kind::Isolate => meets(touches, Flow::Stall),
        Kind::Mute => meets(from == victim, Flow::Stall),
        Kind::Deafen => meets(to == victim, Flow::Stall),
        Kind::Bridge => meets(!touches, Flow::Stall),
        Kind::Flap => Some(Flow::Pass),
        Kind::Refuse => meets(touches, Flow::Refuse),
        Kind::HalfOpen => meets(touches, Flow::Lose),
        Kind::SlowLinks => Some(Flow::Slow(Shape { bytes_per_second: 0, ..shape })),
        Kind::NarrowLinks => {
            meets(touches, Flow::Slow(Shape { latency_ms: 0, jitter_ms: 0, ..shape }))
        }
        _ => None,
    }
}

fn is_network(kind: Kind) -> bool {
    flow(kind, 0, (0, 1), Shape::default()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pairs of nodes, sender first, whose bytes do not pass.
    fn stopped(kind: Kind, victim: usize) -> Vec<(usize, usize)> {
        let pairs = (0..NODES).flat_map(|from| (0..NODES).map(move |to| (from, to)));
        let pairs = pairs.filter(|(from, to)| from != to);
        let shape = Shape::default();
        pairs.filter(|pair| flow(kind, victim, *pair, shape) != Some(Flow::Pass)).collect()
    }

    #[test]
    fn each_cut_stops_its_own_directions() {
        assert_eq!(stopped(Kind::Isolate, 1), [(0, 1), (1, 0), (1, 2), (2, 1)]);
        assert_eq!(stopped(Kind::Mute, 1), [(1, 0), (1, 2)]);
        assert_eq!(stopped(Kind::Deafen, 1), [(0, 1), (2, 1)]);
        assert_eq!(stopped(Kind::Bridge, 1), [(0, 2), (2, 0)]);
        assert_eq!(stopped(Kind::Flap, 1), []);
        assert_eq!(stopped(Kind::HalfOpen, 1), stopped(Kind::Isolate, 1));
        assert_eq!(stopped(Kind::SlowLinks, 1).len(), 6);
        assert!(!is_network(Kind::Kill) && is_network(Kind::Flap));
    }
}
