//! What a replica lets in and what it refuses.

use raft::eraftpb::{self, ConfChangeV2, Message, MessageType};
use raft_prost::Message as _;

use super::*;
use crate::effects::{BootRecord, Committed, MemberChange, Replica, Role};
use crate::entry::{EntryKind, LogEntry};

/// Replica 1 of a group of three, as new.
fn replica() -> RaftReplica {
    let table = (1..=3).map(|id| Replica { incarnation: Incarnation(id), node: NodeId(id) });
    let boot = BootRecord::new_group(GroupId(1), Incarnation(1), table.collect());
    RaftReplica::new(boot, &CoreConfig::default())
}

/// What the replica is after it took this message, and what it answered.
fn step(from: u64, kind: MessageType, change: impl FnOnce(&mut Message)) -> (Role, u64, usize) {
    let mut message = Message::default();
    message.set_msg_type(kind);
    message.from = from;
    message.to = 1;
    message.term = 6;
    change(&mut message);
    let mut replica = replica();
    let mut effects = Effects::default();
    let message = GroupMessage {
        group: GroupId(1),
        from: Incarnation(from),
        to: Incarnation(1),
        payload: message.encode_to_vec(),
        log_floor: 0,
        is_catching_up: false,
    };
    replica.step(NodeId(2), &message, &mut effects);
    replica.collect(Now::default(), &mut effects);
    let last = replica.status().last_index;
    (replica.status().role, last, effects.messages.len() + effects.persist.len())
}

const UNTOUCHED: (Role, u64, usize) = (Role::Follower, 5, 0);

#[test]
fn a_heartbeat_beyond_the_log_is_refused_instead_of_fatal_trap_8() {
    assert_ne!(step(2, MessageType::MsgHeartbeat, |m| m.commit = 5), UNTOUCHED);
    assert_eq!(step(2, MessageType::MsgHeartbeat, |m| m.commit = 6), UNTOUCHED);
}

#[test]
fn strangers_and_local_messages_are_refused_traps_11_15_23() {
    // A request of one who is not in the table counts in its own term or a later one, an answer never.
    assert_ne!(step(9, MessageType::MsgHeartbeat, |_| {}), UNTOUCHED);
    assert_eq!(step(9, MessageType::MsgHeartbeat, |m| m.term = 4), UNTOUCHED);
    for kind in [
        MessageType::MsgAppendResponse,
        MessageType::MsgHeartbeatResponse,
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgRequestPreVoteResponse,
        MessageType::MsgReadIndexResp,
        MessageType::MsgTimeoutNow,
    ] {
        assert_eq!(step(9, kind, |_| {}), UNTOUCHED, "{kind:?}");
    }
    assert_eq!(step(2, MessageType::MsgHeartbeat, |m| m.to = 3), UNTOUCHED);
    for kind in [
        MessageType::MsgHup,
        MessageType::MsgBeat,
        MessageType::MsgPropose,
        MessageType::MsgTransferLeader,
        MessageType::MsgUnreachable,
        MessageType::MsgCheckQuorum,
    ] {
        assert_eq!(step(2, kind, |m| m.entries.push(Default::default())), UNTOUCHED, "{kind:?}");
    }
}

#[test]
fn malformed_messages_are_refused_instead_of_fatal() {
    assert_eq!(step(2, MessageType::MsgReadIndex, |_| {}), UNTOUCHED);
    assert_eq!(step(2, MessageType::MsgReadIndexResp, |m| m.index = 99), UNTOUCHED);
    let no_term = |m: &mut Message| {
        m.term = 0;
        m.index = 99;
        m.entries.push(Default::default());
    };
    assert_eq!(step(2, MessageType::MsgReadIndexResp, no_term), UNTOUCHED);
    let entry = |index| eraftpb::Entry { index, term: 6, ..Default::default() };
    let gap = |m: &mut Message| {
        (m.index, m.log_term) = (5, 5);
        m.entries = vec![entry(6), entry(8)];
    };
    assert_eq!(step(2, MessageType::MsgAppend, gap), UNTOUCHED);
    assert_eq!(step(2, MessageType::MsgHeartbeat, |m| m.msg_type = 99), UNTOUCHED);
    for entry_type in [eraftpb::EntryType::EntryConfChange as i32, 99] {
        let unknown = |m: &mut Message| {
            (m.index, m.log_term) = (5, 5);
            m.entries = vec![eraftpb::Entry { entry_type, ..entry(6) }];
        };
        assert_eq!(step(2, MessageType::MsgAppend, unknown), UNTOUCHED, "{entry_type}");
    }
    let after_nothing = |m: &mut Message| {
        (m.index, m.log_term) = (37, 0);
        m.commit = 37;
    };
    assert_eq!(step(2, MessageType::MsgAppend, after_nothing), UNTOUCHED);
    let whole = |m: &mut Message| {
        (m.index, m.log_term) = (5, 5);
        m.entries = vec![entry(6), entry(7)];
    };
    assert_eq!(step(2, MessageType::MsgAppend, whole).1, 7);
}

/// A replica that is no voter, after somebody asked it to lead.
fn campaign(learner: bool) -> (Role, usize) {
    let table: Vec<Replica> =
        (1..=3).map(|id| Replica { incarnation: Incarnation(id), node: NodeId(id) }).collect();
    let mut boot = BootRecord::added_replica(GroupId(1), Incarnation(3), table);
    if learner {
        boot.conf_state.voters = vec![1, 2];
        boot.conf_state.learners = vec![3];
    }
    let mut replica = RaftReplica::new(boot, &CoreConfig::default());
    let mut effects = Effects::default();
    replica.campaign();
    replica.collect(Now::default(), &mut effects);
    (replica.status().role, effects.messages.len() + effects.persist.len())
}

#[test]
fn only_a_voter_campaigns() {
    assert_eq!(campaign(false), (Role::Follower, 0), "it does not know the voters yet");
    assert_eq!(campaign(true), (Role::Follower, 0), "a learner");
}

#[test]
fn a_leader_that_finds_itself_removed_leads_no_more() {
    // Joint: {2} takes the place of {1}, and 1 votes in the outgoing half.
    let table: Vec<Replica> =
        (1..=2).map(|id| Replica { incarnation: Incarnation(id), node: NodeId(id) }).collect();
    let mut boot = BootRecord::new_group(GroupId(1), Incarnation(1), table);
    boot.conf_state.voters = vec![2];
    boot.conf_state.voters_outgoing = vec![1];
    let mut replica = RaftReplica::new(boot, &CoreConfig::default());
    let mut effects = Effects::default();
    replica.raw.raft.become_candidate();
    replica.raw.raft.become_leader();
    replica.collect(Now::default(), &mut effects);
    assert_eq!(replica.status().role, Role::Leader);
    replica.change_members(&MemberChange::LeaveJoint);
    let leave = ConfChangeV2::default();
    let before = replica.status().last_index;
    assert_eq!(replica.raw.raft.raft_log.last_index(), before, "it is not proposed by who leaves");

    // Its predecessor may have proposed it all the same.
    let entry = LogEntry {
        index: before,
        term: replica.status().term,
        kind: EntryKind::ConfChangeV2,
        data: leave.encode_to_vec(),
    };
    let mut committed = Committed { group: GroupId(1), entries: vec![entry], members: Vec::new() };
    replica.take_members_over(&mut committed);
    assert_eq!(committed.members[0].conf_state.voters, [2]);
    replica.collect(Now::default(), &mut effects);
    assert_eq!(replica.status().role, Role::Follower);
}

#[test]
fn an_acknowledgement_beyond_the_leaders_log_counts_for_nothing() {
    let mut replica = replica();
    let mut effects = Effects::default();
    replica.raw.raft.become_candidate();
    replica.raw.raft.become_leader();
    replica.collect(Now::default(), &mut effects);
    let last = replica.status().last_index;
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppendResponse);
    (message.from, message.to, message.term) = (2, 1, replica.status().term);
    for (index, matched) in [(last + 1, 0), (last, last)] {
        message.index = index;
        let message = GroupMessage {
            group: GroupId(1),
            from: Incarnation(2),
            to: Incarnation(1),
            payload: message.encode_to_vec(),
            log_floor: 0,
            is_catching_up: false,
        };
        replica.step(NodeId(2), &message, &mut effects);
        let member = replica.status().members.remove(0);
        assert_eq!((member.replica.incarnation, member.matched), (Incarnation(2), matched));
    }
}
