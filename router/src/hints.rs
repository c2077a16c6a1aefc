//! Who leads which shard, as far as this node has heard.
//!
//! Owns soft state only: nothing here is replicated, and a wrong hint costs one refused request. Must
//! never let what was heard earlier replace what was heard later; Raft terms tell the two apart.

use std::collections::BTreeMap;

use ledger_types::{GroupId, NodeId};
use parking_lot::RwLock;

/// What was last heard about a shard's leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaderHint {
    /// The Raft term it was heard for.
    pub term: u64,
    /// The leader of that term, if one is known and was not found to be unreachable.
    pub leader: Option<NodeId>,
}

/// Leader hints of every shard this node has heard of. Shared by reference between threads.
#[derive(Debug, Default)]
pub struct LeaderHints {
    hints: RwLock<BTreeMap<GroupId, LeaderHint>>,
}

impl LeaderHints {
    /// Nothing is known.
    pub fn new() -> LeaderHints {
        LeaderHints::default()
    }

    /// Takes note of who leads `group` in `term`, or that a term began whose leader is not known. A lower
    /// term changes nothing, and within a term a known leader is not forgotten: a term has at most one.
    /// True if the hint changed.
    pub fn learn(&self, group: GroupId, term: u64, leader: Option<NodeId>) -> bool {
        let mut hints = self.hints.write();
        let hint = hints.entry(group).or_insert(LeaderHint { term: 0, leader: None });
        let newer = term > hint.term || (term == hint.term && hint.leader.is_none());
        let changed = newer && *hint != LeaderHint { term, leader };
        if changed {
            *hint = LeaderHint { term, leader };
        }
        changed
    }

    /// Takes note that `node` did not answer as the leader of `group`, unless another leader was heard of
    /// in the meantime. Hearing of it again, in the same term or a later one, brings it back.
    pub fn suspect(&self, group: GroupId, node: NodeId) {
        if let Some(hint) = self.hints.write().get_mut(&group)
            && hint.leader == Some(node)
        {
            hint.leader = None;
        }
    }

    /// What is known about `group`.
    pub fn get(&self, group: GroupId) -> Option<LeaderHint> {
        self.hints.read().get(&group).copied()
    }

    /// The leader of `group`, if known.
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.get(group)?.leader
    }

    /// Every hint, by shard.
    pub fn all(&self) -> Vec<(GroupId, LeaderHint)> {
        self.hints.read().iter().map(|(group, hint)| (*group, *hint)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `learn TERM LEADER` and `suspect NODE` lines on one shard; `-` is an unknown leader. After
    /// each line the hint must read as the part behind the arrow.
    fn run(script: &str) {
        let hints = LeaderHints::new();
        let group = GroupId(4);
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (step, expected) = line.split_once("=>").expect("step => hint");
            let words: Vec<&str> = step.split_whitespace().collect();
            match words[..] {
                ["learn", term, leader] => {
                    let leader = leader.parse().ok().map(NodeId);
                    let before = hints.get(group);
                    let changed = hints.learn(group, term.parse().expect("a term"), leader);
                    assert_eq!(changed, before != hints.get(group), "{line}");
                }
                ["suspect", node] => hints.suspect(group, NodeId(node.parse().expect("a node"))),
                _ => panic!("unknown step: {line}"),
            }
            let hint = hints.get(group).expect("every script begins by learning");
            let leader = hint.leader.map_or("-".to_owned(), |node| node.to_string());
            assert_eq!(format!("term {} leader {leader}", hint.term), expected.trim(), "{line}");
        }
    }

    #[test]
    fn older_hints_never_replace_newer_ones() {
        run("learn 7 2 => term 7 leader 2
             learn 6 3 => term 7 leader 2
             learn 7 - => term 7 leader 2
             learn 7 2 => term 7 leader 2
             learn 8 - => term 8 leader -
             learn 7 2 => term 8 leader -
             learn 8 1 => term 8 leader 1
             learn 9 3 => term 9 leader 3");
    }

    #[test]
    fn a_silent_leader_is_dropped_until_it_is_heard_of_again() {
        run("learn 7 2  => term 7 leader 2
             suspect 3  => term 7 leader 2
             suspect 2  => term 7 leader -
             learn 6 2  => term 7 leader -
             learn 7 2  => term 7 leader 2");
    }

    #[test]
    fn shards_are_apart() {
        let hints = LeaderHints::new();
        assert!(hints.learn(GroupId(1), 5, Some(NodeId(1))));
        assert!(hints.learn(GroupId(2), 3, Some(NodeId(2))));
        assert_eq!(hints.leader(GroupId(1)), Some(NodeId(1)));
        assert_eq!(hints.leader(GroupId(2)), Some(NodeId(2)));
        assert_eq!(hints.leader(GroupId(3)), None);
        assert_eq!(hints.all().len(), 2);
    }
}
