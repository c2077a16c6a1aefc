//! Requests that only the leader of a vault's group answers, because it signs.
//!
//! Owns the way there, and what a proof of a block is made of once a note covers it. Must never answer under
//! a note that does not cover the block.

use std::future::Future;
use std::sync::Arc;

use ledger_proof::{BlockHeader, BlockProof, Consistency as LogGrowth};
use ledger_proto::v1;
use ledger_router::Reach;
use ledger_types::VaultRef;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::Edge;
use super::route::{Call, Owner, Place, ROUTES_MAX, query_failure};
use super::status::Failure;
use super::verified::read_outcome;
use crate::checkpoints::SignedCheckpoint;

impl Call {
    /// Serves a request that changes nothing with `local` if this node leads the vault's group, else where it
    /// is led with `send`; and once more if the route was stale.
    pub(super) async fn at_leader<Q, A, L, S>(
        &self,
        vault: VaultRef,
        message: Q,
        local: impl Fn(Owner) -> L,
        send: impl Fn(Channel, Request<Q>) -> S,
    ) -> Result<Response<A>, Failure>
    where
        Q: Clone,
        L: Future<Output = Result<A, Failure>>,
        S: Future<Output = Result<Response<A>, Status>>,
    {
        self.admit(vault, 1)?;
        let mut attempt = 0;
        loop {
            let outcome = match self.place(vault, Reach::Leader, attempt).await? {
                Place::Here(owner) => {
                    local(owner).await.map(|answer| self.answer(owner.group, answer))
                }
                Place::There(remote) => {
                    let group = remote.group;
                    read_outcome(group, self.forward(remote, message.clone(), &send).await)
                }
            };
            match outcome {
                Err(failure) if failure.is_stale_route() && attempt + 1 < ROUTES_MAX => {
                    attempt += 1;
                    self.refresh_if_moved(&failure, vault).await?;
                }
                outcome => return outcome,
            }
        }
    }

    /// The way of the log from the size that a client knows, if it knows one, to the size of a note.
    pub(super) fn growth(
        &self,
        vault: VaultRef,
        known_size: Option<u64>,
        size: u64,
    ) -> Result<Option<LogGrowth>, Failure> {
        let Some(from_size) = known_size else { return Ok(None) };
        let path = self.context.reader.consistency(vault, from_size, size);
        Ok(Some(LogGrowth { from_size, path: path.map_err(query_failure)? }))
    }

    /// A block of any height under a note that covers it.
    pub(super) fn block_under(
        &self,
        signed: &SignedCheckpoint,
        height: u64,
        known_size: Option<u64>,
    ) -> Result<BlockProof, Failure> {
        let (vault, size) = (signed.state.vault, signed.state.size);
        let reader = &self.context.reader;
        let (header, _): (BlockHeader, _) =
            reader.block_header(vault, height).map_err(query_failure)?;
        let header_path = reader.inclusion(vault, height, size).map_err(query_failure)?;
        let consistency = self.growth(vault, known_size, size)?;
        Ok(BlockProof { note: signed.note.clone(), header, header_path, consistency })
    }
}

impl Edge {
    /// A young note over at least so many blocks, which are waited for briefly.
    pub(super) async fn note_over(
        &self,
        call: &Call,
        owner: Owner,
        size_min: u64,
    ) -> Result<Arc<SignedCheckpoint>, Failure> {
        if call.owned_row(owner)?.log_size < size_min {
            self.wait_for_size(call, owner, size_min).await?;
        }
        let asked = v1::GetCheckpointRequest { min_size: Some(size_min), ..Default::default() };
        self.checkpoint_here(call, owner, asked).await
    }
}
