//! Giving away the leadership of everything that a node leads, as before it stops or when its clock is wrong.
//!
//! Owns which voter is asked next. Must never wait: whoever gives away looks again whether it helped.

use ledger_shard::Role;

use crate::context::NodeContext;

/// Asks for another leader of every group that this node leads and that has other voters; true if there is none. Each
/// `attempt` names another successor, as one may be down.
pub fn give_away(context: &NodeContext, attempt: usize) -> bool {
    let statuses = context.shard.statuses();
    let led = statuses.iter().filter(|one| one.role == Role::Leader && one.voters.len() > 1);
    let mut is_done = true;
    for status in led {
        is_done = false;
        let others = status.replicas.iter().filter(|one| {
            one.incarnation != status.incarnation && status.voters.contains(&one.incarnation.0)
        });
        if let Some(next) = others.cycle().nth(attempt) {
            context.shard.transfer(status.group, next.incarnation);
        }
    }
    is_done
}
