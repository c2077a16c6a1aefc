//! The commands that make the directory's first entities and every vault, before anything goes wrong.
//!
//! Owns that each of them is applied. They are ordinary commands through the log.

use ledger_proof::Threshold;
use ledger_shard_core::command::create_vault::CreateVaultCommand;
use ledger_shard_core::command::system::{CreateShards, Found, Founder, SystemCommand};
use ledger_shard_core::effects::Input;
use ledger_shard_core::entry::{Command, CommandKind};
use ledger_types::{ClusterId, GroupId, StoreId, VaultRef};

use crate::swarm::Swarm;
use crate::workload::{EPOCH, Waiter};
use crate::world::World;

struct Step {
    group: GroupId,
    command: Vec<u8>,
    is_asked: bool,
    is_done: bool,
}

/// What has to be applied first.
pub(crate) struct Setup {
    steps: Vec<Step>,
}

impl Setup {
    pub(crate) fn new(swarm: &Swarm) -> Setup {
        let mut steps: Vec<Step> = directory(swarm)
            .iter()
            .map(|command| {
                let body = command.encode().expect("the directory's first commands are legal");
                step(GroupId::SYSTEM, VaultRef::SYSTEM, CommandKind::System, &body)
            })
            .collect();
        for group in 1..swarm.groups.len() as u64 {
            steps.extend((0..swarm.vaults_per_group).map(|vault| {
                let body = CreateVaultCommand::default().encode();
                step(GroupId(group), VaultRef::new(group, vault), CommandKind::CreateVault, &body)
            }));
        }
        Setup { steps }
    }

    /// Nobody knows what became of a step: it is asked for again.
    pub(crate) fn unanswered(&mut self, step: usize) {
        self.steps[step].is_asked = false;
    }

    /// A step is applied.
    pub(crate) fn done(&mut self, step: usize) {
        self.steps[step].is_done = true;
    }
}

fn step(group: GroupId, vault: VaultRef, kind: CommandKind, body: &[u8]) -> Step {
    let command = Command { kind: kind as u8, vault, owner_epoch: EPOCH, body }.encode();
    Step { group, command, is_asked: false, is_done: false }
}

fn directory(swarm: &Swarm) -> [SystemCommand; 2] {
    let founder = |place: usize| Founder {
        name: format!("node{place}"),
        store_id: StoreId([place as u8 + 1; 16]),
        public_key: [place as u8 + 1; 32],
        address: format!("node{place}.example:7000"),
        zone: String::new(),
    };
    let found = Found {
        cluster: ClusterId([1; 16]),
        founded_at_ns: 1_767_000_000_000_000_000,
        feature_level: 1,
        replication_factor: 3,
        data_shards: swarm.groups.len() as u32 - 1,
        threshold: Threshold::Majority,
        domain: "sim.example".to_owned(),
        founders: (0..swarm.nodes).map(founder).collect(),
    };
    let shards = CreateShards { count: found.data_shards, replication_factor: 3 };
    [SystemCommand::Found(found), SystemCommand::CreateShards(shards)]
}

impl World {
    /// Asks for the steps that are not done, those of a group one after the other. True once all are.
    pub(crate) fn drive_setup(&mut self) -> bool {
        let mut groups_asked = Vec::new();
        for number in 0..self.setup.steps.len() {
            let step = &self.setup.steps[number];
            let group = step.group;
            if step.is_done || groups_asked.contains(&group) {
                continue;
            }
            groups_asked.push(group);
            if step.is_asked {
                continue;
            }
            let Some(place) = self.leader_place(group) else { continue };
            let command = step.command.clone();
            let token = self.clients.token(place, Waiter::Setup { step: number });
            let deadline_ms = self.nodes[place].clock.now(self.now).monotonic_ms + 1_000;
            self.setup.steps[number].is_asked = true;
            self.give(place, Input::Propose { group, token, command, deadline_ms });
        }
        self.setup.steps.iter().all(|step| step.is_done)
    }
}
