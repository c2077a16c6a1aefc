//! What a node without a cluster does next, decided from what it sees. Pure.
//!
//! Owns the rules that keep a set of nodes from ever making two clusters. Must never do I/O, and must
//! be given a view whose answers were all asked for while the node held the view's promise: an older
//! answer proves nothing about a promise that came later.
//!
//! Why it is safe: only the founder with the lowest name, the proposer, brings a genesis to adoption,
//! and it adopts before it tells anyone. So a proposer that still only promises has told nobody, and may
//! withdraw. Another founder lets go of a promise only if the proposer has withdrawn it, or if a founder
//! of it is in another cluster and so can never have promised it. In both cases the genesis can never be
//! adopted. Everyone holds at most one promise, and two sets of founders that could be chosen at the
//! same time share a node.

use ledger_proto::internal::RefusalReason;
use ledger_types::{ClusterId, StoreId};

use super::{Founder, GenesisPromise};

/// What a node's data directory says about its cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Standing {
    /// Nothing yet.
    #[default]
    Alone,
    /// It promised a genesis and must not promise another.
    Promised(GenesisPromise),
    /// It belongs to a cluster for good.
    Member(ClusterId),
}

impl Standing {
    /// The genesis that is promised and not adopted.
    pub fn promise(&self) -> Option<&GenesisPromise> {
        match self {
            Standing::Promised(promise) => Some(promise),
            Standing::Alone | Standing::Member(_) => None,
        }
    }
}

/// Another node, as it answered a probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerView {
    /// Who it is.
    pub founder: Founder,
    /// How many founders it waits for.
    pub expect: usize,
    /// The cluster that it belongs to.
    pub cluster: Option<ClusterId>,
    /// The genesis that it promised and has not adopted.
    pub promise: Option<GenesisPromise>,
}

/// What a node without a cluster knows after a round of probes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundingView {
    /// The node itself.
    pub me: Founder,
    /// How many founders it waits for; at least 1.
    pub expect: usize,
    /// The genesis that it held during the whole round.
    pub promise: Option<GenesisPromise>,
    /// The others that answered, each store once.
    pub peers: Vec<PeerView>,
    /// Listed addresses that did not answer.
    pub unanswered: usize,
    /// True if the list of addresses is configured; one from DNS may be incomplete.
    pub is_list_complete: bool,
    /// True if the same nodes have answered for a while.
    pub is_settled: bool,
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Ask the members of this cluster to be registered.
    Join(ClusterId),
    /// Adopt the held promise: its cluster exists.
    Complete,
    /// Let go of the held promise: it can never be adopted.
    Release,
    /// Ask every founder of the held promise to promise it too; adopt once all have.
    Drive,
    /// Promise a new genesis with these founders, ascending by name, this node first.
    Propose(Vec<Founder>),
    /// Nothing yet.
    Wait(Waiting),
    /// Nothing ever, until the configuration is mended: the peers belong to two clusters.
    Disagreement(ClusterId, ClusterId),
}

/// What a node waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Waiting {
    /// Fewer nodes than expected founders have answered.
    Founders {
        /// Nodes that are there, this one included.
        present: usize,
    },
    /// Others that are listed might have lower names, or the view is not stable yet.
    OtherNodes {
        /// Listed addresses that did not answer.
        unanswered: usize,
    },
    /// The founder with the lowest name acts.
    Proposer {
        /// Its name.
        name: String,
    },
    /// This node is not among the founders and joins once there is a cluster.
    Cluster,
    /// Two nodes have one name.
    SameName {
        /// The name.
        name: String,
    },
    /// A founder waits for another number of founders.
    OtherExpect {
        /// The founder's name.
        name: String,
        /// Its number.
        expect: usize,
    },
}

/// Decides the next step.
pub fn next_step(view: &FoundingView) -> Step {
    assert!(view.expect >= 1, "a cluster has a founder");
    match &view.promise {
        Some(promise) => step_with_promise(view, promise),
        None => step_alone(view),
    }
}

fn step_with_promise(view: &FoundingView, promise: &GenesisPromise) -> Step {
    let mut others = view.peers.iter().filter_map(|peer| Some((peer, peer.cluster?)));
    if others.clone().any(|(_, cluster)| cluster == promise.cluster()) {
        return Step::Complete;
    }
    if others.any(|(peer, _)| promise.node_of(peer.founder.store).is_some()) {
        return Step::Release;
    }
    let proposer = promise.proposer();
    if proposer.store == view.me.store {
        return if must_withdraw(view, promise) { Step::Release } else { Step::Drive };
    }
    let answer = view.peers.iter().find(|peer| peer.founder.store == proposer.store);
    match answer {
        Some(answer) if answer.promise.as_ref() != Some(promise) => Step::Release,
        _ => Step::Wait(Waiting::Proposer { name: proposer.name.clone() }),
    }
}

/// Whether the proposer of a genesis should make place for another one.
fn must_withdraw(view: &FoundingView, promise: &GenesisPromise) -> bool {
    if promise.founders().len() != view.expect || promise.proposer() != &view.me {
        return true;
    }
    let rank = |one: &GenesisPromise| (one.proposer().name.clone(), one.cluster());
    view.peers.iter().any(|peer| {
        let replaced = promise.founders().iter().any(|founder| {
            founder.name == peer.founder.name && *founder != peer_as_promised(peer, founder)
        });
        let is_founder = promise.node_of(peer.founder.store).is_some();
        let yields =
            is_founder && peer.promise.as_ref().is_some_and(|other| rank(other) < rank(promise));
        replaced || yields
    })
}

/// The peer's answer with the one field that probes do not tell.
fn peer_as_promised(peer: &PeerView, promised: &Founder) -> Founder {
    Founder { zone: promised.zone.clone(), ..peer.founder.clone() }
}

fn step_alone(view: &FoundingView) -> Step {
    let mut clusters: Vec<ClusterId> = view.peers.iter().filter_map(|peer| peer.cluster).collect();
    clusters.sort_unstable();
    clusters.dedup();
    match clusters[..] {
        [] => {}
        [cluster] => return Step::Join(cluster),
        [first, second, ..] => return Step::Disagreement(first, second),
    }
    if let Some(promise) = view.peers.iter().find_map(|peer| peer.promise.as_ref()) {
        return Step::Wait(Waiting::Proposer { name: promise.proposer().name.clone() });
    }
    let me = (&view.me, view.expect);
    let peers = view.peers.iter().map(|peer| (&peer.founder, peer.expect));
    let mut present: Vec<(&Founder, usize)> = peers.chain([me]).collect();
    present.sort_by(|low, high| low.0.name.cmp(&high.0.name));
    if let Some(pair) = present.windows(2).find(|pair| pair[0].0.name == pair[1].0.name) {
        return Step::Wait(Waiting::SameName { name: pair[0].0.name.clone() });
    }
    if present.len() < view.expect {
        return Step::Wait(Waiting::Founders { present: present.len() });
    }
    if !may_choose(view, present.len() + view.unanswered) {
        return Step::Wait(Waiting::OtherNodes { unanswered: view.unanswered });
    }
    let founders = &present[..view.expect];
    if !founders.iter().any(|(founder, _)| founder.store == view.me.store) {
        return Step::Wait(Waiting::Cluster);
    }
    if let Some((founder, expect)) = founders.iter().find(|(_, expect)| *expect != view.expect) {
        return Step::Wait(Waiting::OtherExpect { name: founder.name.clone(), expect: *expect });
    }
    if founders[0].0.store != view.me.store {
        return Step::Wait(Waiting::Proposer { name: founders[0].0.name.clone() });
    }
    Step::Propose(founders.iter().map(|(founder, _)| (*founder).clone()).collect())
}

/// Whether any other choice of founders would share a node with the one that is made now: either all
/// listed nodes are there, so that there is one choice, or founders are a majority of those listed.
fn may_choose(view: &FoundingView, listed: usize) -> bool {
    let is_complete = view.unanswered == 0;
    if is_complete && view.is_list_complete {
        return true;
    }
    view.is_settled && (is_complete || 2 * view.expect > listed)
}

/// What an accepted request changes on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Write {
    /// Nothing: it was done before.
    Nothing,
    /// The genesis is to be stored before the answer leaves.
    Genesis,
}

/// Why a promise or an adoption is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The reason on the wire.
    pub reason: RefusalReason,
    /// For people.
    pub detail: &'static str,
}

fn refused(reason: RefusalReason, detail: &'static str) -> Result<Write, Refused> {
    Err(Refused { reason, detail })
}

/// Decides whether this node promises a genesis that another one made. `seen` is a cluster that this
/// node knows to exist.
pub fn answer_promise(
    standing: &Standing,
    (me, expect): (&Founder, usize),
    seen: Option<ClusterId>,
    promise: &GenesisPromise,
) -> Result<Write, Refused> {
    match standing {
        Standing::Member(cluster) if *cluster == promise.cluster() => return Ok(Write::Nothing),
        Standing::Member(_) => {
            let reason = RefusalReason::AlreadyBootstrapped;
            return refused(reason, "this node belongs to a cluster");
        }
        Standing::Promised(held) if held == promise => return Ok(Write::Nothing),
        Standing::Promised(_) => {
            return refused(RefusalReason::OtherPromise, "this node has promised another genesis");
        }
        Standing::Alone => {}
    }
    let is_named = |store: StoreId| {
        let founders = promise.founders().iter();
        founders.clone().any(|founder| founder.store == store && founder.name == me.name)
    };
    if !is_named(me.store) {
        return refused(RefusalReason::UnknownStore, "the genesis does not name this node");
    }
    if promise.proposer().store == me.store {
        let detail = "this node made that genesis and has withdrawn it";
        return refused(RefusalReason::OtherPromise, detail);
    }
    if promise.founders().len() != expect {
        let detail = "this node expects another number of founders";
        return refused(RefusalReason::Malformed, detail);
    }
    if seen.is_some_and(|cluster| cluster != promise.cluster()) {
        let detail = "this node knows of a cluster and is about to join it";
        return refused(RefusalReason::OtherCluster, detail);
    }
    Ok(Write::Genesis)
}

/// Decides whether this node adopts a genesis that its proposer says all founders promised.
pub fn answer_adopt(standing: &Standing, promise: &GenesisPromise) -> Result<Write, Refused> {
    match standing {
        Standing::Member(cluster) if *cluster == promise.cluster() => Ok(Write::Nothing),
        Standing::Member(_) => {
            refused(RefusalReason::AlreadyBootstrapped, "this node belongs to another cluster")
        }
        Standing::Promised(held) if held == promise => Ok(Write::Genesis),
        Standing::Promised(_) | Standing::Alone => {
            refused(RefusalReason::OtherPromise, "this node has not promised that genesis")
        }
    }
}

#[cfg(test)]
mod tests;
