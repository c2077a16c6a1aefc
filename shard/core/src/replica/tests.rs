//! What a replica lets in and what it refuses.

use raft::eraftpb::{self, Message, MessageType};
use raft_prost::Message as _;

use super::*;
use crate::effects::{BootRecord, Replica, Role};

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
    };
    replica.step(&message, &mut effects);
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
    assert_eq!(step(9, MessageType::MsgHeartbeat, |_| {}), UNTOUCHED);
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
    let whole = |m: &mut Message| {
        (m.index, m.log_term) = (5, 5);
        m.entries = vec![entry(6), entry(7)];
    };
    assert_eq!(step(2, MessageType::MsgAppend, whole).1, 7);
}
