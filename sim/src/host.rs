//! A node's turns: inputs into the core, effects out of it, in the order in which production executes them.
//!
//! Owns what the driver owns in production. Must never decide what the core decides.

use std::mem;

use ledger_shard_core::boot::GroupRowsError;
use ledger_shard_core::effects::{BootRecord, Effects, GroupStatus, Input};
use ledger_types::GroupId;

use crate::boot;
use crate::clock::Clock;
use crate::node::{ApplyJob, LogJob, Process, Seen};
use crate::world::{Event, World};

impl World {
    /// Hands an input to the node at a place, if it runs.
    pub(crate) fn give(&mut self, place: usize, input: Input) {
        if let Some(process) = &mut self.nodes[place].process {
            process.inbox.push(input);
            self.wake(place);
        }
    }

    /// Makes the node take a turn, now or after its usual delay.
    pub(crate) fn wake(&mut self, place: usize) {
        let (turn_us, boot) = (self.swarm.turn_us, self.nodes[place].boot);
        let Some(process) = self.nodes[place].awake() else { return };
        if turn_us == 0 {
            self.turn(place);
        } else if !process.is_turn_due {
            process.is_turn_due = true;
            self.after(turn_us, Event::Turn { place, boot });
        }
    }

    /// Time passes for a node.
    pub(crate) fn tick(&mut self, place: usize, boot: u64) {
        if self.process_of(place, boot).is_none() {
            return;
        }
        self.turn(place);
        let node = &self.nodes[place];
        let Some(process) = &node.process else { return };
        let due = node.clock.when(process.core.next_tick_ms());
        self.at(due.max(self.now + 1_000), Event::Tick { place, boot });
    }

    /// Takes turns until nothing is left to hand in.
    pub(crate) fn turn(&mut self, place: usize) {
        loop {
            let node = &mut self.nodes[place];
            let now = node.clock.now(self.now);
            let Some(process) = node.awake() else { return };
            if process.is_full() {
                return;
            }
            let mut effects = mem::take(&mut self.effects);
            process.core.turn(&mut process.inbox, now, &mut effects);
            self.counts.turns += 1;
            self.execute(place, &mut effects);
            effects.clear();
            self.effects = effects;
            let process = &self.nodes[place].process;
            if process.as_ref().is_none_or(|process| process.inbox.is_empty()) {
                return;
            }
        }
    }

    fn execute(&mut self, place: usize, effects: &mut Effects) {
        for message in effects.messages.drain(..) {
            let verdict = self.oracle.sent(&message.message);
            self.judge(verdict);
            self.send(place, message);
        }
        for committed in &effects.committed {
            let seen = self.nodes[place].seen(committed.group).cloned();
            let verdict = self.oracle.committed(committed, seen.as_ref());
            self.judge(verdict);
            if let Some(changed) = committed.members.last() {
                self.see_members(place, committed.group, &changed.conf_state);
            }
        }
        for status in effects.changed.drain(..) {
            self.see(place, &status);
        }
        for reply in effects.replies.drain(..) {
            self.refused(reply.token, reply.refusal);
        }
        for answer in effects.reads.drain(..) {
            self.read_answered(place, answer);
            if self.nodes[place].process.is_none() {
                // The read met a damaged row and ended the process, which answers nothing more.
                return;
            }
        }
        self.queue_log(place, effects);
        self.queue_apply(place, effects);
        self.queue_snapshots(place, effects);
        self.run_log(place);
        self.run_apply(place);
    }

    fn queue_log(&mut self, place: usize, effects: &mut Effects) {
        let Some(process) = &mut self.nodes[place].process else { return };
        if !effects.persist.is_empty() || !effects.truncations.is_empty() {
            let persist = mem::take(&mut effects.persist);
            let truncations = mem::take(&mut effects.truncations);
            process.log.queue.push(LogJob::Round { persist, truncations });
        }
        process.log.queue.extend(effects.fetches.drain(..).map(LogJob::Fetch));
        let installs = effects.installs.drain(..).map(|wanted| LogJob::Install(Box::new(wanted)));
        process.log.queue.extend(installs);
    }

    fn queue_apply(&mut self, place: usize, effects: &mut Effects) {
        if effects.committed.is_empty() {
            return;
        }
        let Some(process) = &mut self.nodes[place].process else { return };
        let committed = mem::take(&mut effects.committed);
        let waiting = mem::take(&mut effects.proposed);
        process.apply.push_back(ApplyJob::Round { committed, waiting });
    }

    /// Notes what a replica tells of itself.
    fn see(&mut self, place: usize, status: &GroupStatus) {
        let verdict = self.oracle.status(status);
        self.judge(verdict);
        let (group, role, term) = (status.group, status.role, status.term);
        self.print.number(group.0 << 32 | term << 2 | role as u64);
        self.tell(|| {
            let (commit, applied, last) = (status.commit, status.applied, status.last_index);
            let conf = &status.conf_state;
            let me = status.incarnation;
            format!(
                "node {place} group {group} replica {me} {role:?} term {term} \
                 commit {commit} applied {applied} last {last} voters {:?}{:?} learners {:?}",
                conf.voters, conf.voters_outgoing, conf.learners
            )
        });
        let Some(process) = &mut self.nodes[place].process else { return };
        let seen = process.groups.get_mut(&group).expect("it tells of itself after its start");
        assert_eq!(seen.incarnation, status.incarnation, "a node has one replica of a group");
        (seen.role, seen.term) = (role, term);
        seen.set_conf(&status.conf_state);
    }

    fn see_members(
        &mut self,
        place: usize,
        group: GroupId,
        conf: &ledger_shard_core::effects::ConfState,
    ) {
        let process = self.nodes[place].process.as_mut();
        if let Some(seen) = process.and_then(|process| process.groups.get_mut(&group)) {
            seen.set_conf(conf);
        }
    }

    /// Starts the process at a place from what is on its disk.
    pub(crate) fn boot(&mut self, place: usize) {
        let drift = self.draw_drift();
        let base_us = self.disks.below(3_600_000_000);
        let node = &mut self.nodes[place];
        assert!(node.process.is_none() && !node.is_lost, "a node that is down and has a disk");
        node.boot += 1;
        let offset_ms = node.clock.wall_offset_ms();
        node.clock = Clock::start(base_us, self.now, drift);
        node.clock.set_wall_offset(offset_ms);
        if !self.finish_installs(place) {
            return self.lose(place);
        }
        let node = &mut self.nodes[place];
        let mut records = Vec::new();
        for group in boot::groups(&node.disk) {
            match boot::load_group(&node.disk, node.id, group) {
                Ok(record) => records.push(record),
                Err(GroupRowsError::Removed { .. }) => self.counts.left += 1,
                Err(GroupRowsError::Read(_)) if node.disk.is_damaged() => return self.lose(place),
                Err(error) => return self.fail("boot", format!("node {place}: {error}")),
            }
        }
        let mut core = self.swarm.core.clone();
        core.seed = self.options.seed ^ (node.id.0 << 40) ^ (node.boot << 20);
        node.process = Some(Process::new(core, self.swarm.apply, node.id));
        for record in records {
            self.start_replica(place, record);
        }
        let boot = self.nodes[place].boot;
        self.counts.boots += 1;
        self.tell(|| format!("node {place} starts"));
        self.after(0, Event::Tick { place, boot });
        self.wake(place);
    }

    /// Starts a replica whose rows are on the disk.
    pub(crate) fn start_replica(&mut self, place: usize, record: BootRecord) {
        let verdict = self.oracle.booted(&record);
        self.judge(verdict);
        let node = &mut self.nodes[place];
        let process = node.process.as_mut().expect("replicas start in a process");
        let seen = Seen {
            incarnation: record.incarnation,
            role: ledger_shard_core::effects::Role::Follower,
            term: record.hard_state.term,
            conf: record.conf_state.clone(),
            conf_before: record.conf_state.clone(),
        };
        process.groups.insert(record.group, seen);
        process.inbox.push(Input::Start(Box::new(record)));
    }

    fn draw_drift(&mut self) -> i64 {
        let widest = self.swarm.drift_ppm;
        self.disks.below(2 * widest + 1) as i64 - widest as i64
    }
}
