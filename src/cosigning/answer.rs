//! Answers a leader that asks for a cosignature.
//!
//! Owns what a replica checks before it cosigns: who asks, that its own log has this root, and that the log was
//! not longer already when its read round began. Must never cosign on the asking node's word.

use std::sync::Arc;
use std::time::Duration;

use ledger_proof::system_entity::NodeState;
use ledger_proto::convert::cosigning::Cosign;
use ledger_proto::internal::cosign_response::Answer;
use ledger_proto::internal::cosigners_server::Cosigners;
use ledger_proto::internal::{
    CosignRefusal, CosignRefusalReason as Reason, CosignRequest, CosignResponse, Cosigned,
};
use ledger_shard::{QueryError, VaultRow};
use ledger_types::{Digest, StoreId};
use tonic::{Request, Response, Status};
use tracing::error;

use super::rounds::Round;
use crate::context::NodeContext;
use crate::signer::{LogState, SignError};

/// How long a request waits for a log that is behind, and for a read round.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// Why a state is not cosigned: the reason and a text for people.
type Refused = (Reason, String);

/// Cosigns for other nodes.
pub struct CosignService {
    context: Arc<NodeContext>,
}

impl CosignService {
    /// The service of a node that belongs to a cluster.
    pub fn new(context: &Arc<NodeContext>) -> CosignService {
        CosignService { context: context.clone() }
    }

    async fn answer(&self, request: CosignRequest) -> Result<Cosigned, Refused> {
        #[cfg(feature = "failpoints")]
        fail::fail_point!("cosign::answer", |_| {
            Err((Reason::Store, "at a fail point".to_owned()))
        });
        let malformed =
            |error: ledger_proto::convert::ConvertError| (Reason::Malformed, error.to_string());
        let asked = Cosign::try_from(request).map_err(malformed)?;
        self.check_sender(&asked)?;
        self.wait_for_size(&asked).await?;
        let rounds = &self.context.read_rounds;
        let round = rounds.young(&self.context.shard, asked.group, WAIT_MAX).await;
        let round = round.map_err(|refusal| {
            (Reason::Behind, format!("no quorum confirmed a read round: {refusal:?}"))
        })?;
        let seen = self.look(&asked)?;
        if let Err(refused) = judge(&asked, &seen, round) {
            if refused.0 == Reason::Contradiction {
                self.context.signer.count_contradiction();
                error!(
                    vault = %asked.vault, size = asked.size, asked = %asked.root, here = %seen.root,
                    "another replica shows another history of a vault"
                );
            }
            return Err(refused);
        }
        let Cosign { vault, log_epoch, size, root, .. } = asked;
        let state = LogState { vault, log_epoch, size, root };
        let state = self.context.signer.record(state).await.map_err(not_signed)?;
        let line = self.context.signer.cosign(&state, round.began_seconds);
        let (_, signature) = line.signature.split_at(size_of::<u64>());
        Ok(Cosigned { time: round.began_seconds, signature: signature.to_vec() })
    }

    fn check_sender(&self, asked: &Cosign) -> Result<(), Refused> {
        let own = &self.context.identity;
        if asked.cluster != own.cluster {
            return Err((Reason::OtherCluster, format!("this node is of cluster {}", own.cluster)));
        }
        let sender = self.context.directory.current().node_of_store(StoreId(asked.store.0));
        match sender.filter(|node| node.state != NodeState::Removed) {
            Some(_) => Ok(()),
            None => Err((Reason::UnknownStore, "the directory does not know the store".to_owned())),
        }
    }

    /// The vault's row, if the group owns it here under the same log epoch.
    fn row(&self, asked: &Cosign) -> Result<VaultRow, Refused> {
        let row = self.context.reader.tip(asked.vault).map_err(not_read)?;
        if self.context.quarantine.holds(asked.vault) {
            return Err((Reason::NoReplica, "the vault is in quarantine here".to_owned()));
        }
        if row.owner != asked.group || row.log_epoch != asked.log_epoch {
            let detail = format!("here group {} owns it, epoch {}", row.owner, row.log_epoch);
            return Err((Reason::NoReplica, detail));
        }
        Ok(row)
    }

    async fn wait_for_size(&self, asked: &Cosign) -> Result<(), Refused> {
        let mut tips = self.context.blocks.subscribe(asked.vault, 0);
        let reached = async {
            loop {
                tips.borrow_and_update();
                if self.row(asked)?.log_size >= asked.size {
                    return Ok(());
                }
                if tips.changed().await.is_err() {
                    return Err((Reason::Behind, "the node stops".to_owned()));
                }
            }
        };
        let behind = |_| (Reason::Behind, "the log here is shorter".to_owned());
        tokio::time::timeout(WAIT_MAX, reached).await.map_err(behind)?
    }

    fn look(&self, asked: &Cosign) -> Result<Seen, Refused> {
        let row = self.row(asked)?;
        let root = self.context.reader.log_root(asked.vault, asked.size).map_err(not_read)?;
        let next = match row.log_size > asked.size {
            true => {
                let header = self.context.reader.block_header(asked.vault, asked.size);
                let (header, _) = header.map_err(not_read)?;
                // An index of another group's log says nothing about this one's rounds.
                Some(if header.shard == asked.group.0 { header.index } else { 0 })
            }
            false => None,
        };
        Ok(Seen { root, next })
    }
}

/// What the log here shows of a state that is asked about.
struct Seen {
    /// The root at that size.
    root: Digest,
    /// Index of the log entry that made the block after it, if there is one.
    next: Option<u64>,
}

fn judge(asked: &Cosign, seen: &Seen, round: Round) -> Result<(), Refused> {
    if seen.root != asked.root {
        return Err((Reason::Contradiction, format!("the log here has the root {}", seen.root)));
    }
    match seen.next {
        // Its block was acknowledged before the round began, or may have been.
        Some(index) if index <= round.index => {
            Err((Reason::Outdated, "a later block is older than the read round".to_owned()))
        }
        _ => Ok(()),
    }
}

fn not_read(error: QueryError) -> Refused {
    match error {
        QueryError::UnknownVault => (Reason::NoReplica, error.to_string()),
        QueryError::HeightUnavailable { .. } | QueryError::TooManyChanges { .. } => {
            (Reason::Behind, error.to_string())
        }
        QueryError::Fault(_) => (Reason::Store, error.to_string()),
    }
}

fn not_signed(error: SignError) -> Refused {
    let reason = match error {
        SignError::Outdated { .. } => Reason::Outdated,
        SignError::Contradiction => Reason::Contradiction,
        SignError::Store(_) => Reason::Store,
        SignError::Stopping => Reason::NoReplica,
    };
    (reason, error.to_string())
}

#[tonic::async_trait]
impl Cosigners for CosignService {
    async fn cosign(
        &self,
        request: Request<CosignRequest>,
    ) -> Result<Response<CosignResponse>, Status> {
        let answer = match self.answer(request.into_inner()).await {
            Ok(cosigned) => Answer::Cosigned(cosigned),
            Err((reason, detail)) => {
                Answer::Refusal(CosignRefusal { reason: reason.into(), detail })
            }
        };
        Ok(Response::new(CosignResponse { answer: Some(answer) }))
    }
}

#[cfg(test)]
mod tests {
    use ledger_types::{ClusterId, GroupId, VaultRef};

    use super::*;

    #[test]
    fn a_state_is_cosigned_if_it_is_here_and_nothing_older_than_the_round_is_missing() {
        let asked = Cosign {
            cluster: ClusterId([1; 16]),
            store: StoreId([2; 16]),
            group: GroupId(3),
            vault: VaultRef::new(4, 5),
            log_epoch: 0,
            size: 7,
            root: Digest([8; 32]),
        };
        let verdict = |root, next| {
            let round = Round::of(100, 50);
            judge(&asked, &Seen { root, next }, round).map_err(|(reason, _)| reason)
        };
        let (same, other) = (asked.root, Digest([9; 32]));
        assert_eq!(verdict(same, None), Ok(()), "it is the tip");
        assert_eq!(verdict(same, Some(51)), Ok(()), "what came later may be missing");
        assert_eq!(verdict(same, Some(50)), Err(Reason::Outdated));
        assert_eq!(verdict(same, Some(0)), Err(Reason::Outdated), "a block of another group");
        assert_eq!(verdict(other, None), Err(Reason::Contradiction));
        assert_eq!(
            verdict(other, Some(50)),
            Err(Reason::Contradiction),
            "what is worse comes first"
        );
    }
}
