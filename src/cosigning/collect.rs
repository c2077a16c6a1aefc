//! Collects cosignatures of the other voters of a shard.
//!
//! Owns who is asked, and when there are enough. Must never count a key twice, nor a signature that it did not
//! check.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ledger_proof::trust::{self, TimeRule, VoterSet};
use ledger_proof::{
    Checkpoint, KnownSigner, NoteSignature, SignedNote, TrustBundle, cosigner_name,
};
use ledger_proto::convert::cosigning::{Cosign, cosigned};
use ledger_proto::internal::CosignRefusalReason as Reason;
use ledger_proto::internal::cosign_response::Answer;
use ledger_proto::internal::cosigners_client::CosignersClient;
use ledger_router::Directory;
use ledger_types::{GroupId, NodeId};
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::Request;
use tonic::transport::Channel;
use tracing::{debug, error, warn};

use crate::context::{ChannelPool, NodeContext};
use crate::signer::LogState;

/// Longest wait for enough cosignatures.
const COLLECT_MAX: Duration = Duration::from_millis(1_500);
/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_millis(1_200);
/// Pause before a voter is asked again that was behind or not reached.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Too few voters cosigned in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("{counted} voters cosigned in time, {required} must")]
pub struct Shortage {
    /// Voters that did, in the set that came closest.
    pub counted: usize,
    /// How many that set requires.
    pub required: usize,
    /// Voters that know another history.
    pub contradicting: usize,
}

/// One voter of a shard.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Voter {
    node: NodeId,
    known: trust::Voter,
    signer: KnownSigner,
}

/// The voters of a shard, and how many of them must cosign.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Voters {
    bundle: Arc<TrustBundle>,
    /// The new set, and the old one during a change of members.
    sets: Vec<Vec<Voter>>,
}

impl Voters {
    /// The voters of a shard as the directory knows them; `None` if it does not know them yet.
    pub fn of(directory: &Directory, group: GroupId) -> Option<Voters> {
        let bundle = directory.trust_bundle()?;
        let shard = directory.shard(group)?;
        let voter = |node: NodeId| {
            let entity = directory.node(node)?;
            let public_key = entity.public_key;
            let known = trust::Voter { name: entity.name.clone(), public_key };
            let name = cosigner_name(&bundle.domain, &entity.name);
            Some(Voter { node, known, signer: KnownSigner { name, public_key } })
        };
        let sets = shard.voter_sets().into_iter();
        let sets = sets.map(|nodes| nodes.into_iter().map(voter).collect());
        let sets = sets.collect::<Option<Vec<Vec<Voter>>>>()?;
        Some(Voters { bundle, sets })
    }

    /// What each set lacks under the bundle's rule when these keys have cosigned: none if it lacks nothing.
    fn shortages(&self, keys: &BTreeSet<[u8; 32]>) -> Vec<Option<Shortage>> {
        let shortage = |set: &Vec<Voter>| {
            let own: BTreeSet<_> = set.iter().map(|voter| voter.signer.public_key).collect();
            let (counted, required) =
                (own.intersection(keys).count(), self.bundle.required(own.len()));
            (counted < required).then_some(Shortage { counted, required, contradicting: 0 })
        };
        self.sets.iter().filter(|set| !set.is_empty()).map(shortage).collect()
    }

    /// Whether every set has its threshold: a note that only counts with some of the sets does not link one
    /// trust bundle to the next.
    fn is_enough_for_all(&self, keys: &BTreeSet<[u8; 32]>) -> bool {
        let shortages = self.shortages(keys);
        !shortages.is_empty() && shortages.iter().all(Option::is_none)
    }

    /// Whether some set has its threshold, which is what clients ask for.
    fn is_enough_for_one(&self, keys: &BTreeSet<[u8; 32]>) -> Result<(), Shortage> {
        let shortages = self.shortages(keys);
        if shortages.iter().any(Option::is_none) {
            return Ok(());
        }
        let missing = |shortage: &Shortage| shortage.required - shortage.counted;
        let closest = shortages.into_iter().flatten().min_by_key(missing);
        Err(closest.unwrap_or(Shortage { counted: 0, required: 1, contradicting: 0 }))
    }

    /// Whether a note counts for one of the sets, whenever it was cosigned.
    pub fn count(&self, note: &SignedNote) -> bool {
        let sets = self
            .sets
            .iter()
            .map(|set| VoterSet { voters: set.iter().map(|voter| voter.known.clone()).collect() });
        let sets: Vec<VoterSet> = sets.collect();
        self.bundle.count(note, &sets, TimeRule::Any).is_ok()
    }

    /// Every voter but this node, each once.
    fn others(&self, own: NodeId) -> Vec<Voter> {
        let mut others: Vec<Voter> = Vec::new();
        for voter in self.sets.iter().flatten() {
            if voter.node != own && !others.iter().any(|other| other.node == voter.node) {
                others.push(voter.clone());
            }
        }
        others
    }
}

/// Asks the other voters to cosign a state that this node signs as well, until enough have in every set of
/// voters, or in one when the time is over. Returns their lines, each checked.
pub async fn collect(
    context: &NodeContext,
    voters: &Voters,
    group: GroupId,
    state: LogState,
) -> Result<Vec<NoteSignature>, Shortage> {
    let checkpoint = Arc::new(state.checkpoint(&context.identity.domain));
    let mut keys = BTreeSet::from([context.signer.public_key()]);
    let (mut lines, mut contradicting) = (Vec::new(), 0);
    let mut asked = JoinSet::new();
    if !voters.is_enough_for_all(&keys) {
        for voter in voters.others(context.identity.node) {
            let address = context.directory.address(voter.node);
            let channel = address.and_then(|at| ChannelPool::channel(&context.channels, &at));
            let Some(channel) = channel else { continue };
            let cosign = request(context, group, state);
            asked.spawn(ask(channel, voter, cosign, checkpoint.clone()));
        }
    }
    let give_up_at = Instant::now() + COLLECT_MAX;
    while !voters.is_enough_for_all(&keys) {
        let Ok(Some(answer)) = timeout_at(give_up_at, asked.join_next()).await else { break };
        match answer.expect("an asking task neither panics nor is aborted") {
            Asked::Line { line, public_key } => {
                keys.insert(public_key);
                lines.push(line);
            }
            Asked::Contradiction => {
                context.signer.count_contradiction();
                contradicting += 1;
            }
            Asked::Nothing => {}
        }
    }
    let enough = voters.is_enough_for_one(&keys);
    enough.map_err(|shortage| Shortage { contradicting, ..shortage })?;
    Ok(lines)
}

fn request(context: &NodeContext, group: GroupId, state: LogState) -> Cosign {
    let LogState { vault, log_epoch, size, root } = state;
    let (cluster, store) = (context.identity.cluster, context.identity.store);
    Cosign { cluster, store, group, vault, log_epoch, size, root }
}

/// What came of asking one voter.
enum Asked {
    Line {
        line: NoteSignature,
        public_key: [u8; 32],
    },
    /// Its log shows another history.
    Contradiction,
    Nothing,
}

/// Asks one voter, again if it was not reached or is behind.
async fn ask(channel: Channel, voter: Voter, cosign: Cosign, checkpoint: Arc<Checkpoint>) -> Asked {
    let mut client = CosignersClient::new(channel);
    let give_up_at = Instant::now() + ANSWER_MAX;
    let node = &voter.signer.name;
    loop {
        let remaining = give_up_at.saturating_duration_since(Instant::now());
        let mut request = Request::new(cosign.into());
        request.set_timeout(remaining);
        let answer = match timeout(remaining, client.cosign(request)).await {
            Err(_) => return Asked::Nothing,
            Ok(Ok(response)) => response.into_inner().answer,
            Ok(Err(status)) => {
                debug!(node, %status, "a voter was not reached for a cosignature");
                None
            }
        };
        match answer {
            Some(Answer::Cosigned(wire)) => {
                let cosigned = cosigned(&wire).ok();
                let line = cosigned.and_then(|(time, signature)| {
                    voter.signer.cosignature_line(&checkpoint, time, &signature)
                });
                let Some(line) = line else {
                    warn!(node, "a voter's cosignature does not hold");
                    return Asked::Nothing;
                };
                return Asked::Line { line, public_key: voter.signer.public_key };
            }
            Some(Answer::Refusal(refusal)) => match refusal.reason() {
                Reason::Contradiction => {
                    let (origin, size) = (&checkpoint.origin, checkpoint.size);
                    error!(node, %origin, size, detail = refusal.detail,
                        "a voter does not cosign: it knows another history");
                    return Asked::Contradiction;
                }
                Reason::Behind => {}
                reason => {
                    debug!(node, ?reason, detail = refusal.detail, "a voter does not cosign");
                    return Asked::Nothing;
                }
            },
            None => {}
        }
        sleep(RETRY_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use ledger_proof::Threshold;
    use ledger_proof::system_entity::{
        NodeEntity, NodeState, ReplicaRole, ShardEntity, ShardReplica, SystemEntity as _,
        bundle_key, node_key, shard_key,
    };
    use ledger_router::{EntityChange, VaultScope};
    use ledger_types::{Incarnation, StoreId};

    use super::*;

    const GROUP: GroupId = GroupId(4);

    /// Nodes 1 to 5; a shard whose old voters are 1, 2, 3 and whose new ones are these.
    fn voters(threshold: Threshold, new: [u64; 3]) -> Voters {
        let change = |key, value| EntityChange { key, value: Some(value) };
        let bundle = TrustBundle {
            domain: "a.ledger".to_owned(),
            sequence: 1,
            issued_at: 1,
            expires_at: 2,
            system_log_epoch: 0,
            threshold,
            floor: 1,
            max_age_seconds: 60,
            skew_seconds: 10,
            voters: Vec::new(),
        };
        let mut changes = vec![change(bundle_key(1), bundle.encode())];
        for id in 1..=5u8 {
            let node = NodeEntity {
                id: NodeId(id.into()),
                name: format!("n{id}"),
                store_id: StoreId([id; 16]),
                address: format!("n{id}:1"),
                zone: String::new(),
                public_key: [id; 32],
                state: NodeState::Active,
            };
            changes.push(change(node_key(node.id), node.encode()));
        }
        let mut nodes = vec![1, 2, 3];
        nodes.extend(new.iter().filter(|node| **node > 3));
        let replica = |node: u64| ShardReplica {
            node: NodeId(node),
            incarnation: Incarnation(1000 + node),
            role: ReplicaRole::Voter,
            in_old_set: new != [1, 2, 3] && node <= 3,
            in_new_set: new.contains(&node),
            is_added: false,
        };
        let replicas = nodes.into_iter().map(replica).collect();
        let shard = ShardEntity { id: GROUP, epoch: 1, replicas };
        changes.push(change(shard_key(GROUP), shard.encode()));
        let directory = Directory::new(VaultScope::All);
        assert_eq!(directory.replace(1, &changes), Ok(true));
        Voters::of(&directory, GROUP).expect("all are known")
    }

    fn keys(nodes: &[u8]) -> BTreeSet<[u8; 32]> {
        nodes.iter().map(|node| [*node; 32]).collect()
    }

    #[test]
    fn a_majority_of_the_voters_is_enough_by_default() {
        let voters = voters(Threshold::Majority, [1, 2, 3]);
        let shortage = |nodes: &[u8]| voters.is_enough_for_one(&keys(nodes));
        assert_eq!(shortage(&[]), Err(Shortage { counted: 0, required: 2, contradicting: 0 }));
        assert_eq!(shortage(&[1]), Err(Shortage { counted: 1, required: 2, contradicting: 0 }));
        assert_eq!(
            shortage(&[1, 4, 5]),
            Err(Shortage { counted: 1, required: 2, contradicting: 0 }),
            "strangers"
        );
        assert_eq!(shortage(&[1, 3]), Ok(()));
        assert!(voters.is_enough_for_all(&keys(&[1, 3])));
        assert!(!voters.is_enough_for_all(&keys(&[1, 4, 5])));
    }

    #[test]
    fn the_bundle_says_how_many_must_cosign() {
        let voters = voters(Threshold::Fixed(3), [1, 2, 3]);
        let shortage = |nodes: &[u8]| voters.is_enough_for_one(&keys(nodes));
        assert_eq!(shortage(&[1, 2]), Err(Shortage { counted: 2, required: 3, contradicting: 0 }));
        assert_eq!(shortage(&[1, 2, 3]), Ok(()));
    }

    #[test]
    fn while_members_change_both_sets_are_wanted_and_one_is_enough() {
        let voters = voters(Threshold::Majority, [1, 4, 5]);
        assert!(!voters.is_enough_for_all(&keys(&[1, 4])));
        assert_eq!(voters.is_enough_for_one(&keys(&[1, 4])), Ok(()));
        assert_eq!(voters.is_enough_for_one(&keys(&[1, 2])), Ok(()));
        assert!(voters.is_enough_for_all(&keys(&[1, 2, 4])));
        let none = voters.is_enough_for_one(&keys(&[2, 4]));
        assert_eq!(none, Err(Shortage { counted: 1, required: 2, contradicting: 0 }));
    }

    #[test]
    fn every_other_voter_is_asked_once() {
        let voters = voters(Threshold::Majority, [1, 4, 5]);
        let others = |own| -> Vec<u64> {
            let mut nodes: Vec<u64> =
                voters.others(NodeId(own)).iter().map(|voter| voter.node.0).collect();
            nodes.sort_unstable();
            nodes
        };
        assert_eq!(others(1), [2, 3, 4, 5]);
        assert_eq!(others(4), [1, 2, 3, 5]);
        assert_eq!(voters.others(NodeId(1))[0].signer.name, "a.ledger/node/n4");
    }
}
