//! Keeps the senders of snapshots from giving this node up while a snapshot waits for its turn here or is verified:
//! times in which no piece is asked for.
//!
//! Owns the one task that does so. Must never hold a fetcher that nobody else does.

use std::sync::Weak;
use std::time::Duration;

use ledger_proto::convert::snapshots::{HELD_MAX, Hold, snapshot_id};
use ledger_proto::internal::snapshots_client::SnapshotsClient;
use ledger_shard::SnapshotId;
use ledger_types::NodeId;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::download::LinkError;
use super::fetch::{Links, Shared};
use crate::context::endpoint;

/// Longest wait for an answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);

/// Tells every sender now and then which of its snapshots are still wanted, until the fetcher is closed or gone.
pub(super) async fn hold(shared: Weak<Shared>) {
    loop {
        let Some(every) = shared.upgrade().map(|shared| shared.links.limits.hold_every) else {
            return;
        };
        sleep(every).await;
        let Some(shared) = shared.upgrade() else { return };
        let Some(wanted) = shared.wanted() else { return };
        for (sender, mut ids) in wanted {
            // The others are spoken for when these have had their turn.
            ids.truncate(HELD_MAX);
            match timeout(ANSWER_TIME_MAX, ask(&shared.links, sender, &ids)).await {
                Ok(Ok(lost)) => shared.lose(&lost),
                Ok(Err(error)) => debug!(%sender, %error, "a sender was not asked to wait"),
                Err(_) => debug!(%sender, "a sender does not answer"),
            }
        }
    }
}

/// Names the snapshots to their sender, which answers those that it does not have.
async fn ask(
    links: &Links,
    sender: NodeId,
    ids: &[SnapshotId],
) -> Result<Vec<SnapshotId>, LinkError> {
    let address = links.book.address(sender).ok_or(LinkError::NoAddress)?;
    let endpoint = endpoint(&address).ok_or(LinkError::BadAddress(address))?;
    let asking = links.asking;
    let (cluster, node, store) = (asking.cluster, asking.node, asking.store);
    let snapshots = ids.iter().map(|id| id.0).collect();
    let hold = Hold { cluster, node, store, snapshots };
    let mut client = SnapshotsClient::new(endpoint.connect().await?);
    let answer = client.hold(tonic::Request::new(hold.into())).await?.into_inner();
    if let Some(refusal) = answer.refusal {
        return Err(LinkError::Refused(refusal));
    }
    let lost = answer.unknown_ids.iter().map(|id| snapshot_id("unknown_ids", id).map(SnapshotId));
    Ok(lost.collect::<Result<_, _>>()?)
}
