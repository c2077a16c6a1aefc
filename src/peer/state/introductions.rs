//! Introductions between nodes: what this node says of itself, and what it checks of others before it takes
//! anything from them.
//!
//! Owns the checks and the highest boot counters seen. Must never let in a store that was removed, whose disk
//! went back in time, or of which a copy speaks already.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger_proto::convert::peers;
use ledger_proto::internal::{PeerIdentity, Refusal, RefusalReason};
use ledger_types::{NodeId, StoreId};

use super::live::{DOUBT_GAP_MAX, DOUBT_TIME_MAX, InstanceId, Introduction, Speaker};
use super::{PeerState, StateError, read_row};
use crate::bootstrap::decide::Standing;
use crate::bootstrap::record::{SeenBoots, TurnedAway, boots_row};
use crate::peer::metrics::add;
use crate::peer::{AddressBook, Membership, PROTOCOL_VERSION};

impl PeerState {
    /// How this node introduces itself.
    pub(crate) fn identity(&self) -> PeerIdentity {
        let inner = self.inner.lock();
        let membership = inner.membership.as_ref();
        let cluster = membership.map(|row| row.genesis.cluster());
        PeerIdentity {
            cluster_id: peers::wire_cluster(cluster),
            store_id: self.local.store.0.to_vec(),
            name: self.local.name.clone(),
            node_id: membership.map_or(0, |row| row.node.0),
            boot_counter: self.local.boot_counter,
            protocol_version: PROTOCOL_VERSION,
            address: self.local.address.clone(),
            feature_level: self.local.feature_level,
            instance_id: self.instance.0.to_vec(),
        }
    }

    /// Turns a node away.
    pub(in crate::peer) fn refusal(
        &self,
        reason: RefusalReason,
        detail: impl Into<String>,
    ) -> Refusal {
        add(&self.metrics.refusals, 1);
        let inner = self.inner.lock();
        let cluster = inner.membership.as_ref().map(|row| row.genesis.cluster());
        Refusal {
            reason: reason.into(),
            detail: detail.into(),
            cluster_id: peers::wire_cluster(cluster),
            leader_address: String::new(),
        }
    }

    /// Checks that an introduction is that of a node of this cluster, neither removed nor rolled back.
    /// `book` tells what is known of its number.
    pub(in crate::peer) fn check_peer(
        &self,
        identity: Option<&PeerIdentity>,
        book: &dyn AddressBook,
    ) -> Result<(NodeId, Speaker), Refusal> {
        let refuse = |reason, detail: &str| Err(self.refusal(reason, detail));
        let Some(identity) = identity else {
            return refuse(RefusalReason::Malformed, "the node does not say who it is");
        };
        let Standing::Member(own) = self.standing() else {
            return refuse(RefusalReason::NotBootstrapped, "this node belongs to no cluster yet");
        };
        self.check_protocol(identity.protocol_version)?;
        match peers::cluster("cluster_id", &identity.cluster_id) {
            Ok(Some(cluster)) if cluster == own => {}
            Ok(_) => {
                let reason = RefusalReason::OtherCluster;
                return refuse(reason, "the node belongs to another cluster or to none");
            }
            Err(error) => return refuse(RefusalReason::Malformed, &error.to_string()),
        }
        let store = self.parse_store(&identity.store_id)?;
        let node = NodeId(identity.node_id);
        if node == NodeId(0) || store == self.local.store {
            return refuse(RefusalReason::Malformed, "the node is this one, or has no number");
        }
        let membership = book.membership(node);
        match membership {
            Membership::Removed => {
                return refuse(RefusalReason::Removed, "the node was taken out of the cluster");
            }
            Membership::Member(known) if known != store => {
                let detail = "the directory knows that node with another store";
                return refuse(RefusalReason::UnknownStore, detail);
            }
            Membership::Member(_) | Membership::Unknown => {}
        }
        let Ok(instance) = identity.instance_id.as_slice().try_into() else {
            return refuse(RefusalReason::Malformed, "the process has no id of 16 bytes");
        };
        let boots = identity.boot_counter;
        let seen = SeenBoots { boots, instance: Some(instance) };
        self.check_boots(store, seen, false)?;
        let speaker = Speaker { store, boots, instance: InstanceId(instance) };
        // Strangers are not remembered, so that they cannot fill memory and disk; nor is one that has to
        // wait, or its count would turn away the one that it waits for.
        if membership != Membership::Unknown {
            match self.live.lock().introduce(speaker, Instant::now()) {
                Introduction::Welcome => {}
                Introduction::Copy => return Err(self.copy_refusal(store)),
                Introduction::Wait => {
                    let detail = format!("an earlier process of store {store} is still heard");
                    return Err(self.refusal(RefusalReason::StillAlive, detail));
                }
            }
            self.check_boots(store, seen, true)?;
        }
        Ok((node, speaker))
    }

    /// Takes note that a process that introduced itself has opened a stream. Until the returned value is
    /// dropped.
    pub(in crate::peer) fn open_stream(self: &Arc<PeerState>, speaker: Speaker) -> OpenStream {
        self.live.lock().open(speaker);
        OpenStream { state: self.clone(), speaker }
    }

    /// Takes note that a process that introduced itself is still there. Errors if another one speaks for its
    /// store by now, or if its node was taken out of the cluster.
    pub(in crate::peer) fn check_still(
        &self,
        node: NodeId,
        speaker: Speaker,
        book: &dyn AddressBook,
    ) -> Result<(), Refusal> {
        if book.membership(node) == Membership::Removed {
            let detail = "the node was taken out of the cluster";
            return Err(self.refusal(RefusalReason::Removed, detail));
        }
        match self.live.lock().hear(speaker, Instant::now()) {
            true => Ok(()),
            false => Err(self.copy_refusal(speaker.store)),
        }
    }

    /// How long this node has heard nothing from a store; since its own start, if never.
    pub fn silent_for(&self, store: StoreId) -> Duration {
        self.live.lock().silent_for(store, Instant::now())
    }

    fn copy_refusal(&self, store: StoreId) -> Refusal {
        let detail = format!("another process runs on store {store} or on a copy of it");
        self.refusal(RefusalReason::RolledBack, detail)
    }

    /// Judges a refusal that another node has sent. If a member of this node's cluster says that this store
    /// was removed, or that its disk is a copy or went back in time, the node stops for good: its place is
    /// taken. So it does if an earlier process of its store is still heard after longer than an earlier life of
    /// this one could be.
    pub(crate) fn turned_away(&self, refusal: &Refusal) {
        let Standing::Member(own) = self.standing() else { return };
        if refusal.cluster_id != own.0 {
            return;
        }
        let detail = refusal.detail.clone();
        match refusal.reason() {
            RefusalReason::Removed => self.leave(TurnedAway { is_removed: true, detail }),
            RefusalReason::RolledBack => self.leave(TurnedAway { is_removed: false, detail }),
            RefusalReason::StillAlive if self.doubted_for(Instant::now()) >= DOUBT_TIME_MAX => {
                self.leave(TurnedAway { is_removed: false, detail });
            }
            _ => {}
        }
    }

    /// How long others have gone on hearing an earlier process of this store, now being one of those times. A
    /// pause shows that they let this one in since.
    pub(super) fn doubted_for(&self, now: Instant) -> Duration {
        let mut doubted = self.doubted.lock();
        let goes_on = |(_, last): &(Instant, Instant)| now.duration_since(*last) <= DOUBT_GAP_MAX;
        let (first, _) = doubted.filter(goes_on).unwrap_or((now, now));
        *doubted = Some((first, now));
        now.duration_since(first)
    }

    /// Checks that both sides speak one protocol.
    pub(in crate::peer) fn check_protocol(&self, version: u32) -> Result<(), Refusal> {
        if version == PROTOCOL_VERSION {
            return Ok(());
        }
        let detail = format!("protocol version {version}; this node speaks {PROTOCOL_VERSION}");
        Err(self.refusal(RefusalReason::ProtocolVersion, detail))
    }

    /// Reads a store id off the wire.
    pub(in crate::peer) fn parse_store(&self, bytes: &[u8]) -> Result<StoreId, Refusal> {
        let read = peers::store("store_id", bytes);
        read.map_err(|error| self.refusal(RefusalReason::Malformed, error.to_string()))
    }

    /// Checks that a store's boot counter has not gone back, and that no two processes have the same one. With
    /// `remember`, a higher one than before is durable before this returns; strangers are not remembered, so
    /// that they cannot fill the store.
    pub(in crate::peer) fn check_boots(
        &self,
        store: StoreId,
        seen: SeenBoots,
        remember: bool,
    ) -> Result<(), Refusal> {
        let boots = seen.boots;
        let known = match self.highest_boots(store, seen, remember) {
            Ok(known) => known,
            Err(error) => {
                let detail = format!("this node's store failed: {error}");
                return Err(self.refusal(RefusalReason::Unspecified, detail));
            }
        };
        let detail = if boots < known.boots {
            let known = known.boots;
            format!(
                "store {store} says it was opened {boots} times and was seen at {known}: its disk is \
                 a copy or went back in time"
            )
        } else if boots == known.boots && is_other(known.instance, seen.instance) {
            format!("another process was the one that opened store {store} for the {boots}. time")
        } else {
            return Ok(());
        };
        Err(self.refusal(RefusalReason::RolledBack, detail))
    }

    fn highest_boots(
        &self,
        store: StoreId,
        seen: SeenBoots,
        remember: bool,
    ) -> Result<SeenBoots, StateError> {
        let mut inner = self.inner.lock();
        let row = boots_row(store);
        let known = match inner.boots.get(&store) {
            Some(known) => *known,
            None => {
                let read = read_row(&*self.rows, &row, "boot counter", SeenBoots::decode)?;
                read.unwrap_or_default()
            }
        };
        if remember {
            let is_first = seen.boots == known.boots && known.instance.is_none();
            let newest = if seen.boots > known.boots || is_first { seen } else { known };
            if newest != known {
                self.put(&row, &newest.encode())?;
            }
            inner.boots.insert(store, newest);
        }
        Ok(known)
    }
}

/// True if both processes said who they are, and are not the same.
fn is_other(known: Option<[u8; 16]>, seen: Option<[u8; 16]>) -> bool {
    known.zip(seen).is_some_and(|(known, seen)| known != seen)
}

/// A stream of a process to this node.
pub(in crate::peer) struct OpenStream {
    state: Arc<PeerState>,
    speaker: Speaker,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.state.live.lock().close(self.speaker);
    }
}
