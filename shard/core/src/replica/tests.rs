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

/// Lets a replica take this message, sent in term 6 from node 2, and returns what it does.
fn tell(
    replica: &mut RaftReplica,
    from: u64,
    kind: MessageType,
    change: impl FnOnce(&mut Message),
) -> Effects {
    let mut message = Message::default();
    message.set_msg_type(kind);
    message.from = from;
    message.to = 1;
    message.term = 6;
    change(&mut message);
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
    effects
}

/// What the replica is after it took this message, and what it answered.
fn step(from: u64, kind: MessageType, change: impl FnOnce(&mut Message)) -> (Role, u64, usize) {
    let mut replica = replica();
    let effects = tell(&mut replica, from, kind, change);
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
    // A request of one who is not in the table counts, an answer never.
    assert_ne!(step(9, MessageType::MsgHeartbeat, |_| {}), UNTOUCHED);
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
fn a_stranger_of_an_earlier_term_learns_of_this_one() {
    for (kind, answer) in [
        (MessageType::MsgRequestPreVote, MessageType::MsgRequestPreVoteResponse),
        (MessageType::MsgHeartbeat, MessageType::MsgAppendResponse),
        (MessageType::MsgAppend, MessageType::MsgAppendResponse),
    ] {
        let mut replica = replica();
        let effects = tell(&mut replica, 9, kind, |m| m.term = 4);
        let [told] = effects.messages.as_slice() else { panic!("{kind:?}: {effects:?}") };
        assert_eq!((told.node, told.message.to), (NodeId(2), Incarnation(9)));
        let told = Message::decode(told.message.payload.as_slice()).expect("it was just encoded");
        assert_eq!((told.get_msg_type(), told.term), (answer, 5), "{kind:?}");
        assert_eq!((replica.status().role, replica.status().term), (Role::Follower, 5));
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
fn changes_of_members_that_nobody_could_take_over_are_refused() {
    let append = |data: Vec<u8>| {
        move |m: &mut Message| {
            (m.index, m.log_term) = (5, 5);
            let mut entry = eraftpb::Entry { index: 6, term: 6, data, ..Default::default() };
            entry.set_entry_type(eraftpb::EntryType::EntryConfChangeV2);
            m.entries = vec![entry];
        }
    };
    let change = |transition, change_type, context: &[u8]| {
        let one = eraftpb::ConfChangeSingle { node_id: 4, change_type };
        let context = context.to_vec();
        ConfChangeV2 { transition, changes: vec![one], context }.encode_to_vec()
    };
    let step = |data| step(2, MessageType::MsgAppend, append(data));
    assert_eq!(step(change(0, 0, &[])).1, 6);
    assert_eq!(step(change(77, 0, &[])), UNTOUCHED);
    assert_eq!(step(change(0, 77, &[])), UNTOUCHED);
    assert_eq!(step(change(0, 0, &[0, 1])), UNTOUCHED);
    assert_eq!(step(vec![0xFF]), UNTOUCHED);
}

#[test]
fn numbers_at_which_counting_ends_are_refused_instead_of_fatal_trap_28() {
    let timeout_now = |term| move |m: &mut Message| m.term = term;
    assert_eq!(step(2, MessageType::MsgTimeoutNow, timeout_now(u64::MAX)), UNTOUCHED);
    assert_ne!(step(2, MessageType::MsgTimeoutNow, timeout_now(7)), UNTOUCHED);
    let append = |index| {
        move |m: &mut Message| {
            (m.index, m.log_term) = (index, 5);
            m.entries = vec![eraftpb::Entry { index, term: 6, ..Default::default() }];
        }
    };
    assert_eq!(step(2, MessageType::MsgAppend, append(u64::MAX)), UNTOUCHED);
    let with_term = |m: &mut Message| m.entries.push(Default::default());
    assert_eq!(step(2, MessageType::MsgReadIndex, with_term), UNTOUCHED);
}

/// Steps a message of replica 2 in term 6 and makes everything durable that comes of it.
fn take(replica: &mut RaftReplica, kind: MessageType, index: u64) {
    let mut message = Message { from: 2, to: 1, term: 6, index, ..Default::default() };
    message.set_msg_type(kind);
    let message = GroupMessage {
        group: GroupId(1),
        from: Incarnation(2),
        to: Incarnation(1),
        payload: message.encode_to_vec(),
        log_floor: 0,
        is_catching_up: false,
    };
    let mut effects = Effects::default();
    replica.step(NodeId(2), &message, &mut effects);
    replica.collect(Now::default(), &mut effects);
    for persist in std::mem::take(&mut effects.persist) {
        replica.persisted(persist.ready, &mut effects);
    }
    replica.collect(Now::default(), &mut effects);
}

#[test]
fn an_acknowledgement_of_more_than_the_leader_has_counts_for_nothing() {
    let mut replica = replica();
    replica.campaign();
    take(&mut replica, MessageType::MsgRequestPreVoteResponse, 0);
    take(&mut replica, MessageType::MsgRequestVoteResponse, 0);
    let leads = replica.status();
    assert_eq!((leads.role, leads.last_index, leads.commit), (Role::Leader, 6, 5));
    take(&mut replica, MessageType::MsgAppendResponse, 38);
    assert_eq!(replica.status().commit, 5);
    take(&mut replica, MessageType::MsgAppendResponse, 6);
    assert_eq!(replica.status().commit, 6);
}
