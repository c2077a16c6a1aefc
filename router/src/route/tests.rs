//! Routes as tables: what is asked for, who leads, where it goes.

use std::num::NonZeroUsize;

use super::*;
use crate::script::{changes, number, vault_named};
use crate::{Delta, VaultScope};

/// Five nodes; shard 1 is on 1 2 3, shard 2 on 3 4 5; a vault in every state.
const CLUSTER: &str = "node 1 a:1
                       node 2 b:1
                       node 3 c:1
                       node 4 d:1
                       node 5 e:1
                       shard 0: 1 2 3
                       shard 1: 1 2 3
                       shard 2: 3 4 5
                       shard 3: 6 7
                       namespace 1 acme
                       namespace 2 gone Deleted
                       namespace 3 going Deleting
                       vault 1/0 on 1 epoch 1 Active
                       vault 1/1 on 2 epoch 4 Active
                       vault 1/2 on 1 epoch 1 Creating
                       vault 1/3 on 1 epoch 1 Deleting
                       vault 1/4 on 1 epoch 1 Deleted
                       vault 1/5 on 9 epoch 1 Active
                       vault 1/6 on 3 epoch 1 Active
                       vault 2/0 on 1 epoch 1 Active";

fn directory(scope: VaultScope) -> Directory {
    let directory = Directory::new(scope);
    let delta = Delta { base: 0, revision: 1, changes: changes(CLUSTER) };
    assert_eq!(directory.apply_delta(&delta), Ok(true));
    directory
}

/// One decision a line: `VAULT at NODE [any] [forwarded] [attempt N] => route`, or `SHARD leader NODE` to
/// give a hint first.
fn run(directory: &Directory, script: &str) {
    let hints = LeaderHints::new();
    let mut term = 0;
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let Some((step, expected)) = line.split_once("=>") else {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [group, "leader", node] = words[..] else { panic!("unknown step: {line}") };
            term += 1;
            hints.learn(GroupId(number(group)), term, node.parse().ok().map(NodeId));
            continue;
        };
        let words: Vec<&str> = step.split_whitespace().collect();
        let after = |word: &str| words.iter().skip_while(|w| **w != word).nth(1).map(|w| number(w));
        let request = RouteRequest {
            vault: vault_named(words[0]),
            reach: if words.contains(&"any") { Reach::AnyReplica } else { Reach::Leader },
            local: NodeId(after("at").expect("the deciding node")),
            forwarded: words.contains(&"forwarded"),
            attempt: after("attempt").unwrap_or(0) as u32,
        };
        assert_eq!(words_for(decide(directory, &hints, &request)), expected.trim(), "{line}");
    }
}

fn words_for(decision: Result<Route, RouteError>) -> String {
    match decision {
        Ok(Route::Local { group, owner_epoch }) => format!("local {group} epoch {owner_epoch}"),
        Ok(Route::Forward { target, group }) => {
            format!("forward {group} to {} {}", target.node, target.address)
        }
        Ok(Route::Lookup { vault }) => format!("look up {vault}"),
        Err(RouteError::NotLeader { group, leader: Some(leader) }) => {
            format!("not leader of {group}, that is {} {}", leader.node, leader.address)
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_leader_serves_and_others_forward_to_it_once() {
    run(
        &directory(VaultScope::All),
        "1 leader 2
         2 leader 4
         1/0 at 2            => local 1 epoch 1
         1/0 at 2 forwarded  => local 1 epoch 1
         1/0 at 1            => forward 1 to 2 b:1
         1/0 at 5            => forward 1 to 2 b:1
         1/0 at 1 forwarded  => not leader of 1, that is 2 b:1
         1/0 at 5 forwarded  => not leader of 1, that is 2 b:1
         1/1 at 4            => local 2 epoch 4
         1/1 at 1            => forward 2 to 4 d:1",
    );
}

#[test]
fn without_a_leader_replicas_say_so_and_others_ask_one_replica_after_the_other() {
    run(
        &directory(VaultScope::All),
        "1/1 at 3             => shard 2 has no leader at the moment
         1/1 at 3 forwarded   => this node does not lead shard 2
         1/1 at 1             => forward 2 to 5 e:1
         1/1 at 1 attempt 1   => forward 2 to 3 c:1
         1/1 at 1 attempt 2   => forward 2 to 4 d:1
         1/1 at 1 attempt 3   => forward 2 to 5 e:1
         1/1 at 1 forwarded   => this node does not lead shard 2
         2 leader 4
         1/1 at 1             => forward 2 to 4 d:1
         2 leader -
         1/1 at 4             => shard 2 has no leader at the moment",
    );
}

#[test]
fn any_replica_serves_reads_that_may_be_behind() {
    run(
        &directory(VaultScope::All),
        "1/1 at 3 any            => local 2 epoch 4
         1/1 at 3 any forwarded  => local 2 epoch 4
         1/1 at 1 any            => forward 2 to 5 e:1
         1/1 at 1 any attempt 1  => forward 2 to 3 c:1
         1/1 at 1 any forwarded  => this node has no replica of shard 2
         2 leader 4
         1/1 at 1 any            => forward 2 to 4 d:1
         1/1 at 5 any            => local 2 epoch 4",
    );
}

#[test]
fn the_directory_itself_is_group_0() {
    run(
        &directory(VaultScope::All),
        "0/0 at 1      => shard 0 has no leader at the moment
         0/0 at 4      => forward 0 to 1 a:1
         0 leader 3
         0/0 at 3      => local 0 epoch 1
         0/0 at 4      => forward 0 to 3 c:1
         0/0 at 1 any  => local 0 epoch 1
         0/1 at 1      => namespace 0 does not exist",
    );
}

#[test]
fn what_cannot_be_routed_has_its_own_answer() {
    run(
        &directory(VaultScope::All),
        "1 leader 1
         3 leader 6
         9/1 at 1  => namespace 9 does not exist
         2/0 at 1  => namespace 2 is deleted
         3/0 at 1  => namespace 3 is deleted
         1/9 at 1  => vault 1/9 does not exist
         1/2 at 1  => vault 1/2 is not ready yet
         1/3 at 1  => vault 1/3 is deleted
         1/4 at 1  => vault 1/4 is deleted
         1/5 at 1  => shard 9 is not known here yet
         1/6 at 1  => node 6 is not known here yet",
    );
    run(&Directory::new(VaultScope::All), "0/0 at 1 => shard 0 is not known here yet");
}

#[test]
fn a_partial_directory_looks_vaults_up_first() {
    let directory = directory(VaultScope::Cached(NonZeroUsize::MIN));
    run(
        &directory,
        "1/1 at 3  => look up 1/1
         9/1 at 3  => namespace 9 does not exist
         0/0 at 3  => shard 0 has no leader at the moment",
    );
    directory.learn_vault(1, crate::script::vault_entity("1/1", 2, 4, "Active"));
    run(&directory, "1/1 at 3 any => local 2 epoch 4");
}
