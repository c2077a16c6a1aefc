//! `VerifiedGet` at an earlier height.
//!
//! Owns the order: a note over the block first, then the proof in the log of that note. Must never answer
//! with another height than the one asked for.

use std::sync::Arc;

use ledger_proof::Consistency as LogGrowth;
use ledger_proto::convert::{ids, reads};
use ledger_proto::v1;
use ledger_shard::LogSizes;
use ledger_types::{StateKey, VaultRef};
use tonic::Response;

use super::Edge;
use super::ledger::client;
use super::route::{Call, Owner, query_failure};
use super::status::Failure;
use super::verified::{Proved, package, state_of};

/// What a read of an earlier height asks for, checked.
struct Asked {
    vault: VaultRef,
    keys: Vec<StateKey>,
    height: u64,
    known_size: Option<u64>,
}

impl Asked {
    /// The least number of blocks that the answer's note must cover.
    fn size_min(&self) -> u64 {
        self.known_size.unwrap_or(0).max(self.height.saturating_add(1))
    }
}

/// Refuses a request that names an exact and a least height.
pub(super) fn check_heights(
    at_height: Option<u64>,
    min_height: Option<u64>,
) -> Result<(), Failure> {
    match (at_height, min_height) {
        (Some(_), Some(_)) => {
            Err(Failure::field("at_height", "and min_height are both set; a request has one"))
        }
        _ => Ok(()),
    }
}

impl Edge {
    pub(super) async fn get_verified_at(
        &self,
        call: &Call,
        message: v1::VerifiedGetRequest,
        height: u64,
    ) -> Result<Response<v1::VerifiedGetResponse>, Failure> {
        check_heights(message.at_height, message.min_height)?;
        let asked = Asked {
            vault: ids::vault_ref(message.namespace_id, message.vault_id)?,
            keys: reads::verified_keys(&message.keys)?,
            height,
            known_size: message.known_size,
        };
        let local = |owner| self.verified_past(call, owner, &asked);
        let send = |channel, request| async move { client(channel).verified_get(request).await };
        call.at_leader(asked.vault, message, local, send).await
    }

    async fn verified_past(
        &self,
        call: &Call,
        owner: Owner,
        asked: &Asked,
    ) -> Result<v1::VerifiedGetResponse, Failure> {
        call.check_kept(owner, asked.height)?;
        let signed = self.note_over(call, owner, asked.size_min()).await?;
        let log_size = Some(signed.state.size);
        let sizes = LogSizes { log_size, known_size: asked.known_size };
        let reader = &call.context.reader;
        let prove = || reader.prove_at(asked.vault, asked.height, &asked.keys, sizes);
        let mut state = tokio::task::block_in_place(prove).map_err(query_failure)?;
        if state_of(asked.vault, &state) != signed.state {
            // The vault's log was replaced between the note and the proof.
            return Err(Failure::WrongShard { owner_epoch: None });
        }
        let keys = std::mem::take(&mut state.keys);
        let path = std::mem::take(&mut state.consistency);
        let growth = asked.known_size.map(|from_size| LogGrowth { from_size, path });
        package(Proved { tip: Arc::new(state), keys, signed }, growth)
    }
}

impl Call {
    /// Refuses a height whose state is not kept any more, before anything is signed for it.
    pub(super) fn check_kept(&self, owner: Owner, height: u64) -> Result<(), Failure> {
        let row = self.owned_row(owner)?;
        let (floor, tip) = (row.history_floor, row.height);
        if height < floor { Err(Failure::HeightUnavailable { floor, tip }) } else { Ok(()) }
    }
}
