//! A cluster of cores in one thread: a network and disks that lose what they may lose.
//!
//! Scripts in `testdata/node_core` read as stories; the seeded test draws its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::fmt::{self, Write as _};

use goldenscript::{Command, Context, Runner};
use ledger_types::{ClusterId, GroupId, Incarnation, NodeId, OwnerEpoch, VaultRef};

use super::*;
use crate::effects::{
    BootRecord, HardState, InstallSnapshot, MemberChange, OutMessage, Persist, Replica, Role, Token,
};
use crate::entry::{Command as LoggedCommand, CommandKind, EntryData, EntryKind, LogEntry};
use crate::rows::GroupRow;
use crate::snapshot::{SnapshotId, SnapshotManifest};

/// What a group has on one node's disk.
#[derive(Clone)]
struct GroupDisk {
    incarnation: u64,
    truncated: (u64, u64),
    hard_state: HardState,
    entries: BTreeMap<u64, LogEntry>,
    row: GroupRow,
    applied: Vec<(u64, Vec<String>)>,
}

impl GroupDisk {
    fn new(boot: &BootRecord) -> GroupDisk {
        GroupDisk {
            incarnation: boot.incarnation.0,
            truncated: boot.truncated,
            hard_state: boot.hard_state,
            entries: BTreeMap::new(),
            row: GroupRow {
                applied_index: boot.applied,
                applied_term: boot.truncated.1,
                conf_state: boot.conf_state.clone(),
                replicas: boot.replicas.clone(),
            },
            applied: Vec::new(),
        }
    }

    fn boot(&self, group: GroupId) -> BootRecord {
        let applied = self.row.applied_index;
        let mut term_runs: Vec<(u64, u64)> = Vec::new();
        for entry in self.entries.values() {
            if term_runs.last().is_none_or(|&(_, term)| term != entry.term) {
                term_runs.push((entry.index, entry.term));
            }
        }
        BootRecord {
            group,
            incarnation: Incarnation(self.incarnation),
            replicas: self.row.replicas.clone(),
            conf_state: self.row.conf_state.clone(),
            hard_state: self.hard_state,
            truncated: self.truncated,
            term_runs,
            last_index: self.entries.last_key_value().map_or(self.truncated.0, |(&last, _)| last),
            applied,
            entries: self.entries.range(applied + 1..).map(|(_, entry)| entry.clone()).collect(),
            log_bytes: 0,
        }
    }
}

struct SimNode {
    core: NodeCore,
    durable: BTreeMap<GroupId, GroupDisk>,
    unsynced: VecDeque<Persist>,
    slow_disk: bool,
    running: bool,
    syncs: usize,
    groups_in_last_sync: usize,
}

/// Entries that a log keeps in drawn stories for those behind: few, so that they reach the cap.
const LOG_ENTRIES_MAX: u64 = 40;

/// Nodes 1..=n, each with a replica of every group; replica `i` of a group has incarnation `i`.
struct Cluster {
    nodes: BTreeMap<u64, SimNode>,
    groups: u64,
    network: VecDeque<(u64, OutMessage)>,
    cut: BTreeSet<u64>,
    now_ms: u64,
    boots: u64,
    waiting: BTreeMap<Token, String>,
    acknowledged: BTreeSet<(GroupId, String)>,
    read_index: BTreeMap<Token, u64>,
    events: Vec<String>,
    next_token: u64,
    fetches_max: usize,
    /// Cut snapshots: what was applied.
    snapshots: BTreeMap<SnapshotId, Vec<(u64, Vec<String>)>>,
    /// Answers of slow work, held back until asked for: the node, and what it will be told.
    held: VecDeque<(u64, Input)>,
    hold: bool,
    log_entries_max: u64,
    installed: usize,
    lives: u64,
    /// Changes of members under way: who leaves, who comes, and where.
    replacing: BTreeMap<GroupId, (Incarnation, u64, u64)>,
}

fn replicas(nodes: u64) -> Vec<Replica> {
    (1..=nodes).map(|id| Replica { incarnation: Incarnation(id), node: NodeId(id) }).collect()
}

fn command_bytes(text: &str) -> Vec<u8> {
    let vault = VaultRef::new(1, 1);
    let (kind, body) = (CommandKind::Write as u8, text.as_bytes());
    LoggedCommand { kind, vault, owner_epoch: OwnerEpoch(1), body }.encode()
}

impl Cluster {
    fn new(nodes: u64, groups: u64, log_entries_max: u64) -> Cluster {
        let mut cluster = Cluster {
            nodes: BTreeMap::new(),
            groups,
            network: VecDeque::new(),
            cut: BTreeSet::new(),
            now_ms: 1_000,
            boots: 0,
            waiting: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            read_index: BTreeMap::new(),
            events: Vec::new(),
            next_token: 0,
            fetches_max: 0,
            snapshots: BTreeMap::new(),
            held: VecDeque::new(),
            hold: false,
            log_entries_max,
            installed: 0,
            lives: 0,
            replacing: BTreeMap::new(),
        };
        for id in 1..=nodes {
            let durable = (0..groups).map(|group| {
                let first = BootRecord::new_group(GroupId(group), Incarnation(id), replicas(nodes));
                (GroupId(group), GroupDisk::new(&first))
            });
            let durable = durable.collect();
            cluster.nodes.insert(
                id,
                SimNode {
                    core: NodeCore::new(CoreConfig::default(), NodeId(id)),
                    durable,
                    unsynced: VecDeque::new(),
                    slow_disk: false,
                    running: false,
                    syncs: 0,
                    groups_in_last_sync: 0,
                },
            );
            cluster.start(id);
        }
        cluster
    }

    fn start(&mut self, id: u64) {
        self.boots += 1;
        let node = self.nodes.get_mut(&id).expect("known node");
        let config = CoreConfig {
            seed: self.boots,
            cache_bytes_per_group: 300,
            log_entries_max: self.log_entries_max,
            ..CoreConfig::default()
        };
        node.core = NodeCore::new(config, NodeId(id));
        node.unsynced.clear();
        node.running = true;
        let mut inputs = Vec::new();
        for (&group, disk) in &node.durable {
            inputs.push(Input::Start(Box::new(disk.boot(group))));
        }
        self.turn(id, inputs);
    }

    fn crash(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("known node");
        node.running = false;
        node.unsynced.clear();
        self.held.retain(|(of, _)| *of != id);
        self.network.retain(|(from, message)| *from != id && message.node.0 != id);
    }

    fn now(&self) -> Now {
        Now { monotonic_ms: self.now_ms, wall_ns: self.now_ms * 1_000_000 }
    }

    fn turn(&mut self, id: u64, mut inputs: Vec<Input>) {
        let now = self.now();
        while !inputs.is_empty() {
            let node = self.nodes.get_mut(&id).expect("known node");
            if !node.running {
                return;
            }
            let mut effects = Effects::default();
            node.core.turn(&mut inputs, now, &mut effects);
            inputs = self.execute(id, effects);
        }
    }

    fn execute(&mut self, id: u64, mut effects: Effects) -> Vec<Input> {
        let mut next = Vec::new();
        self.network.extend(effects.messages.drain(..).map(|message| (id, message)));
        let node = self.nodes.get_mut(&id).expect("known node");
        node.unsynced.extend(effects.persist.drain(..));
        for one in &effects.truncations {
            let disk = node.durable.get_mut(&one.group).expect("known group");
            assert!(one.index <= disk.row.applied_index, "only applied entries are forgotten");
            let gone = disk.entries.extract_if(one.first..=one.index, |_, _| true).count() as u64;
            assert_eq!(gone, one.index + 1 - one.first, "what is forgotten was there");
            disk.truncated = (one.index, one.term);
        }
        if !node.slow_disk {
            next.extend(sync(node));
        }
        self.fetches_max = self.fetches_max.max(effects.fetches.len());
        for fetch in effects.fetches.drain(..) {
            let entries = &node.durable[&fetch.group].entries;
            let entries = entries.range(fetch.low..fetch.high).map(|(_, e)| e.clone()).collect();
            next.push(Input::Fetched { group: fetch.group, low: fetch.low, entries });
        }
        for committed in effects.committed.drain(..) {
            let group = committed.group;
            let disk = node.durable.get_mut(&group).expect("known group");
            let index = committed.entries.last().expect("never empty").index;
            for entry in committed.entries {
                (disk.row.applied_index, disk.row.applied_term) = (entry.index, entry.term);
                let is_normal = entry.kind == EntryKind::Normal;
                let texts = if is_normal { texts(&entry.data) } else { Vec::new() };
                disk.applied.push((entry.index, texts));
            }
            if let Some(changed) = committed.members.into_iter().next_back() {
                (disk.row.conf_state, disk.row.replicas) = (changed.conf_state, changed.replicas);
            }
            next.push(Input::Applied { group, index });
        }
        next.extend(self.execute_slow(id, &mut effects));
        self.take_answers(id, effects);
        next
    }

    fn take_answers(&mut self, id: u64, effects: Effects) {
        for proposed in effects.proposed {
            let text = self.waiting.remove(&proposed.token).expect("each token is answered once");
            self.acknowledged.insert((proposed.group, text));
        }
        for reply in effects.replies {
            let text = self.waiting.remove(&reply.token).expect("each token is answered once");
            self.events.push(format!("n{id} {text}: {:?}", reply.refusal));
        }
        for read in effects.reads {
            let floor = self.read_index.remove(&read.token).expect("each token is answered once");
            if let Ok(index) = read.result {
                assert!(
                    index >= floor,
                    "a read is served at or above what was acknowledged before it"
                );
            }
            self.events.push(format!("n{id} read: {:?}", read.result));
        }
    }

    /// Work on snapshots, whose answers may be held back.
    fn execute_slow(&mut self, id: u64, effects: &mut Effects) -> Vec<Input> {
        let node = self.nodes.get_mut(&id).expect("known node");
        let mut slow = Vec::new();
        for cut in effects.cuts.drain(..) {
            let disk = &node.durable[&cut.group];
            let mut bytes = [0; 16];
            bytes[8..].copy_from_slice(&(self.snapshots.len() as u64).to_be_bytes());
            let snapshot = SnapshotId(bytes);
            self.snapshots.insert(snapshot, disk.applied.clone());
            let manifest = Box::new(SnapshotManifest {
                id: snapshot,
                cluster: ClusterId([1; 16]),
                group: cut.group,
                sender: cut.from,
                row: disk.row.clone(),
                files: Vec::new(),
            });
            let (group, to) = (cut.group, cut.to.incarnation);
            slow.push(Input::SnapshotCut { group, to, manifest: Some(manifest) });
        }
        for fetch in effects.snapshot_fetches.drain(..) {
            let (group, snapshot) = (fetch.manifest.group, fetch.manifest.id);
            slow.push(Input::SnapshotFetched { group, id: snapshot, verified: true });
        }
        for install in effects.installs.drain(..) {
            let InstallSnapshot { manifest, ready, incarnation, hard_state } = install;
            let disk = node.durable.get_mut(&manifest.group).expect("known group");
            assert_eq!(disk.incarnation, incarnation.0);
            disk.truncated = (manifest.row.applied_index, manifest.row.applied_term);
            disk.applied = self.snapshots[&manifest.id].clone();
            (disk.row, disk.hard_state) = (manifest.row, hard_state);
            disk.entries.clear();
            self.installed += 1;
            slow.push(Input::Persisted { group: manifest.group, ready });
        }
        if self.hold {
            self.held.extend(slow.drain(..).map(|input| (id, input)));
        }
        slow
    }

    fn propose(&mut self, id: u64, group: u64, text: &str) {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.waiting.insert(token, text.to_owned());
        let (group, command) = (GroupId(group), command_bytes(text));
        let deadline_ms = self.now_ms + 10_000;
        self.turn(id, vec![Input::Propose { group, token, command, deadline_ms }]);
    }

    fn read(&mut self, id: u64, group: u64) {
        self.next_token += 1;
        let token = Token(self.next_token);
        let group = GroupId(group);
        let applied = self.nodes.values().map(|node| last_applied(&node.durable[&group]));
        self.read_index.insert(token, applied.max().expect("some node"));
        self.turn(id, vec![Input::Read { group, token, deadline_ms: self.now_ms + 10_000 }]);
    }

    fn tick(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.now_ms += 50;
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                self.turn(id, vec![Input::Tick]);
            }
            self.deliver();
            self.drive_replacements();
        }
    }

    fn deliver(&mut self) {
        while let Some((from, message)) = self.network.pop_front() {
            let to = message.node.0;
            if !self.cut.contains(&from) && !self.cut.contains(&to) {
                let from = NodeId(from);
                self.turn(to, vec![Input::Message { from, message: message.message }]);
            }
        }
    }

    /// Crashes a node for good and starts its successor with an empty disk: every replica has a new life.
    fn wipe(&mut self, id: u64) {
        self.crash(id);
        self.lives += 1;
        let life = 1_000 + self.lives;
        let mut tables: BTreeMap<GroupId, Vec<Replica>> = BTreeMap::new();
        for (&node, one) in &self.nodes {
            for (&group, disk) in &one.durable {
                let incarnation = Incarnation(if node == id { life } else { disk.incarnation });
                tables.entry(group).or_default().push(Replica { incarnation, node: NodeId(node) });
            }
        }
        for (&group, disk) in &mut self.nodes.get_mut(&id).expect("known node").durable {
            let replicas = tables.remove(&group).expect("every node has every group");
            self.replacing.insert(group, (Incarnation(disk.incarnation), life, id));
            let boot = BootRecord::added_replica(group, Incarnation(life), replicas);
            *disk = GroupDisk::new(&boot);
        }
        self.start(id);
    }

    /// Asks each group's leader for the next step of its change of members.
    fn drive_replacements(&mut self) {
        for (group, (old, life, node)) in self.replacing.clone() {
            let Some(leader) = self.leader(group.0) else { continue };
            let status = self.nodes[&leader].core.status(group).expect("it leads");
            let conf = &status.conf_state;
            let new = Incarnation(life);
            let progress = status.members.iter().find(|one| one.replica.incarnation == new);
            let change = if !conf.voters_outgoing.is_empty() {
                MemberChange::LeaveJoint
            } else if conf.voters.contains(&life) && !conf.voters.contains(&old.0) {
                self.replacing.remove(&group);
                continue;
            } else if !conf.learners.contains(&life) {
                MemberChange::AddLearner(Replica { incarnation: new, node: NodeId(node) })
            } else if progress.is_some_and(|one| one.matched + 10 >= status.last_index) {
                MemberChange::EnterJoint { promote: vec![new], remove: vec![old] }
            } else {
                continue;
            };
            self.turn(leader, vec![Input::ChangeMembers { group, change }]);
        }
    }

    /// Ends slow work that was held back, of one node or of all.
    fn release(&mut self) {
        for (id, input) in mem::take(&mut self.held) {
            self.turn(id, vec![input]);
        }
    }

    fn tell_status(&self, out: &mut String) -> fmt::Result {
        for (id, one) in &self.nodes {
            for s in one.core.statuses().iter().filter(|_| one.running) {
                let leader = s.leader.map_or(0, |n| n.0);
                let (commit, applied, last) = (s.commit, s.applied, s.last_index);
                writeln!(
                    out,
                    "n{id} g{} {:?} term={} leader={leader} last={last} commit={commit} applied={applied}",
                    s.group, s.role, s.term
                )?;
            }
        }
        Ok(())
    }

    fn tell_bounds(&self, out: &mut String) -> fmt::Result {
        for (id, one) in &self.nodes {
            for s in one.core.statuses().iter().filter(|_| one.running) {
                let conf = &s.conf_state;
                writeln!(
                    out,
                    "n{id} g{} log {}..={} voters={:?} learners={:?} outgoing={:?} {:?}",
                    s.group,
                    s.first_index,
                    s.last_index,
                    conf.voters,
                    conf.learners,
                    conf.voters_outgoing,
                    s.snapshot
                )?;
            }
        }
        Ok(())
    }

    fn leader(&self, group: u64) -> Option<u64> {
        let leaders = self.nodes.iter().filter(|(id, node)| {
            let status = node.core.status(GroupId(group));
            node.running
                && !self.cut.contains(*id)
                && status.is_some_and(|s| s.role == Role::Leader)
        });
        leaders
            .map(|(id, node)| (node.core.status(GroupId(group)).expect("known").term, *id))
            .max()
            .map(|(_, id)| id)
    }

    /// Committed prefixes never differ between nodes.
    fn check_agreement(&self) {
        for group in (0..self.groups).map(GroupId) {
            let logs: Vec<_> =
                self.nodes.values().map(|node| &node.durable[&group].applied).collect();
            let longest = logs.iter().max_by_key(|log| log.len()).expect("some node");
            for log in &logs {
                assert_eq!(
                    log[..],
                    longest[..log.len()],
                    "group {group} applied different entries"
                );
            }
        }
    }

    /// Everything acknowledged is applied exactly once on every node.
    fn check_complete(&self) {
        for (group, text) in &self.acknowledged {
            for (id, node) in &self.nodes {
                let applied = &node.durable[group].applied;
                let times =
                    applied.iter().flat_map(|(_, texts)| texts).filter(|t| *t == text).count();
                assert_eq!(times, 1, "{text} of group {group} on node {id}");
            }
        }
    }
}

fn last_applied(disk: &GroupDisk) -> u64 {
    disk.row.applied_index
}

fn texts(data: &[u8]) -> Vec<String> {
    if data.is_empty() {
        return Vec::new();
    }
    let entry = EntryData::decode(data).expect("only well-formed entries are proposed");
    let texts = entry.commands.iter().map(|one| String::from_utf8_lossy(one.body).into_owned());
    texts.collect()
}

/// One sync makes everything handed over so far durable.
fn sync(node: &mut SimNode) -> Vec<Input> {
    let mut acks = Vec::new();
    let mut groups = BTreeSet::new();
    for persist in node.unsynced.drain(..) {
        let disk = node.durable.get_mut(&persist.group).expect("known group");
        if let Some(hard_state) = persist.hard_state {
            disk.hard_state = hard_state;
        }
        if let Some((low, high)) = persist.delete {
            for index in low..=high {
                disk.entries.remove(&index);
            }
        }
        disk.entries.extend(persist.entries.into_iter().map(|entry| (entry.index, entry)));
        if persist.must_sync {
            groups.insert(persist.group);
            acks.push(Input::Persisted { group: persist.group, ready: persist.ready });
        }
    }
    if !groups.is_empty() {
        node.syncs += 1;
        node.groups_in_last_sync = groups.len();
    }
    acks
}

fn number(text: Option<&str>, default: u64) -> Result<u64, Box<dyn Error>> {
    Ok(text.map(str::parse).transpose()?.unwrap_or(default))
}

#[derive(Default)]
struct Scripts {
    cluster: Option<Cluster>,
}

impl Runner for Scripts {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut out = String::new();
        if command.name == "cluster" {
            let nodes = number(args.take_key("nodes"), 3)?;
            let groups = number(args.take_key("groups"), 1)?;
            let log_entries_max = number(args.take_key("log"), 100_000)?;
            args.reject_next()?;
            self.cluster = Some(Cluster::new(nodes, groups, log_entries_max));
            return Ok(out);
        }
        let cluster = self.cluster.as_mut().ok_or("no cluster yet")?;
        let node = number(args.take_key("node"), 0)?;
        let group = number(args.take_key("group"), 0)?;
        match command.name.as_str() {
            "tick" => cluster.tick(args.next_pos().ok_or("how many?")?.parse()?),
            "deliver" => cluster.deliver(),
            "propose" => {
                while let Some(text) = args.next_pos() {
                    cluster.propose(node, group, text);
                }
            }
            "read" => cluster.read(node, group),
            "slow-disk" => cluster.nodes.get_mut(&node).expect("known").slow_disk = true,
            "sync" => {
                let one = cluster.nodes.get_mut(&node).expect("known");
                one.slow_disk = false;
                let acks = sync(one);
                cluster.turn(node, acks);
            }
            "crash" => cluster.crash(node),
            "start" => cluster.start(node),
            "wipe" => cluster.wipe(node),
            "hold" => cluster.hold = true,
            "release" => {
                cluster.hold = false;
                cluster.release();
            }
            "cut" => drop(cluster.cut.insert(node)),
            "heal" => cluster.cut.clear(),
            "transfer" => {
                let to = Incarnation(number(args.take_key("to"), 0)?);
                cluster.turn(node, vec![Input::TransferLeader { group: GroupId(group), to }]);
            }
            "status" => cluster.tell_status(&mut out)?,
            "log" => {
                for (id, one) in &cluster.nodes {
                    let applied = &one.durable[&GroupId(group)].applied;
                    let texts: Vec<String> = applied
                        .iter()
                        .filter(|(_, t)| !t.is_empty())
                        .map(|(i, t)| format!("{i}={}", t.join("+")))
                        .collect();
                    writeln!(out, "n{id} {}", texts.join(" "))?;
                }
            }
            "bounds" => cluster.tell_bounds(&mut out)?,
            "synced-groups" => writeln!(out, "{}", cluster.nodes[&node].groups_in_last_sync)?,
            other => return Err(format!("unknown command {other}").into()),
        }
        args.reject_next()?;
        cluster.check_agreement();
        for event in cluster.events.drain(..) {
            writeln!(out, "{event}")?;
        }
        Ok(out)
    }
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the test looks its scripts up; the core reads no file"
)]
fn scripts() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/node_core");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .expect("scripts")
        .map(|entry| entry.expect("entry").path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 6, "the scripts are there");
    for path in paths {
        goldenscript::run(&mut Scripts::default(), &path)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

/// Draws a story from a seed: writes, reads, crashes of any nodes, cuts, slow disks, lost messages.
fn story(seed: u64, events: usize) -> (Cluster, u64) {
    let mut state = seed;
    let mut draw = move |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut cluster = Cluster::new(3, 3, LOG_ENTRIES_MAX);
    for number in 0..events {
        let (node, group) = (draw(3) + 1, draw(3));
        match draw(100) {
            0..40 => {
                let to = cluster.leader(group).unwrap_or(node);
                cluster.propose(to, group, &format!("w{number}"));
            }
            40..50 => cluster.read(node, group),
            50..75 => cluster.tick(1 + draw(4)),
            75..79 => drop(cluster.network.pop_front()),
            79..82 => cluster.crash(node),
            82..88 => {
                if !cluster.nodes[&node].running {
                    cluster.start(node);
                }
            }
            88..91 => drop(cluster.cut.insert(node)),
            91..95 => cluster.cut.clear(),
            95 => {
                let all_run = cluster.nodes.values().all(|node| node.running);
                let may_wipe = all_run && cluster.replacing.is_empty() && cluster.cut.is_empty();
                if may_wipe {
                    cluster.wipe(node);
                }
            }
            96 => {
                cluster.hold = !cluster.hold;
                cluster.release();
            }
            97 => cluster.nodes.get_mut(&node).expect("known").slow_disk = true,
            _ => {
                let one = cluster.nodes.get_mut(&node).expect("known");
                one.slow_disk = false;
                let acks = sync(one);
                cluster.turn(node, acks);
            }
        }
        cluster.check_agreement();
    }
    let acknowledged_before_healing = cluster.acknowledged.len() as u64;
    cluster.cut.clear();
    cluster.hold = false;
    cluster.release();
    for id in 1..=3 {
        let one = cluster.nodes.get_mut(&id).expect("known");
        one.slow_disk = false;
        let acks = sync(one);
        cluster.turn(id, acks);
        if !cluster.nodes[&id].running {
            cluster.start(id);
        }
    }
    cluster.tick(700);
    cluster.check_agreement();
    cluster.check_complete();
    assert!(cluster.replacing.is_empty(), "seed {seed}: every change of members ends");
    assert!(cluster.held.is_empty());
    (cluster, acknowledged_before_healing)
}

#[test]
fn drawn_stories_lose_nothing_and_end_in_agreement() {
    let (mut acknowledged, mut installed, mut wiped) = (0, 0, 0);
    for seed in 0..60 {
        let (cluster, during_faults) = story(seed, 400);
        acknowledged += during_faults;
        installed += cluster.installed;
        wiped += cluster.lives;
        for group in 0..3 {
            assert!(
                cluster.leader(group).is_some(),
                "seed {seed}: group {group} has a leader again"
            );
        }
    }
    assert!(acknowledged > 1_000, "the stories make progress: {acknowledged}");
    assert!(wiped > 20 && installed > 100, "disks are lost: {wiped}, and replaced: {installed}");
}

#[test]
fn a_follower_far_behind_costs_one_fetch_for_each_range() {
    let mut cluster = Cluster::new(3, 1, 100_000);
    cluster.tick(20);
    cluster.cut.insert(3);
    for number in 0..600 {
        cluster.propose(1, 0, &format!("{number:01000}"));
        cluster.deliver();
    }
    cluster.cut.clear();
    cluster.tick(3);
    // What reaches the leader while it is busy comes to it in one turn.
    for _ in 0..400 {
        let mut to_leader = Vec::new();
        while let Some((from, message)) = cluster.network.pop_front() {
            let from = NodeId(from);
            match message.node.0 {
                1 => to_leader.push(Input::Message { from, message: message.message }),
                to => cluster.turn(to, vec![Input::Message { from, message: message.message }]),
            }
        }
        if to_leader.is_empty() {
            cluster.tick(1);
        } else {
            cluster.turn(1, to_leader);
        }
    }
    cluster.tick(10);
    cluster.check_complete();
    assert_eq!(cluster.fetches_max, 1, "one fetch at a time serves every send that waits for it");
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    let tell = |seed| {
        let (cluster, _) = story(seed, 300);
        let logs = cluster
            .nodes
            .values()
            .map(|node| node.durable.values().map(|d| d.applied.clone()).collect::<Vec<_>>());
        (logs.collect::<Vec<_>>(), cluster.acknowledged)
    };
    assert_eq!(tell(7), tell(7));
}
