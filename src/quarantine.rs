//! Vaults whose history on this node is not the one that a majority of the shard's voters signed.
//!
//! Owns the durable list of them. Such a vault is not served, signed or led from here; the node's other vaults
//! go on. Must never take a vault in on less than a note that counts, nor let one out by itself: its rows would
//! have to be copied from a healthy replica first.

use std::collections::BTreeMap;

use ledger_proof::encoding::{DecodeError, Reader as ByteReader, Writer};
use ledger_shard::{Family, Reader, Role, RowWrite, StateView as _};
use ledger_types::{GroupId, VaultRef};
use parking_lot::RwLock;
use thiserror::Error;
use tokio::sync::oneshot;
use tracing::warn;

use crate::context::NodeContext;

/// Rows of vaults in quarantine begin with this in the meta family; the vault's sixteen bytes follow.
const ROW_PREFIX: &[u8] = b"quarantine/";
/// What comes right behind all of them: a zero is the byte after a slash.
const ROWS_END: &[u8] = b"quarantine0";
/// Version of the rows.
const VERSION: u8 = 1;

/// The list of vaults in quarantine cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("the list of vaults in quarantine: {0}")]
pub struct QuarantineError(String);

/// The vaults of this node that are in quarantine.
#[derive(Debug, Default)]
pub struct Quarantine {
    /// By vault, the size of the log at which the signed history is another.
    vaults: RwLock<BTreeMap<VaultRef, u64>>,
}

impl Quarantine {
    /// Reads the list as it was when the node last ran.
    pub fn load(reader: &Reader) -> Result<Quarantine, QuarantineError> {
        let mut rows = Vec::new();
        let view = reader.view();
        let scanned = view.scan(Family::Meta, ROW_PREFIX, ROWS_END, &mut |key, value| {
            rows.push(read(key, value));
            true
        });
        scanned.map_err(|fault| QuarantineError(fault.to_string()))?;
        let vaults = rows.into_iter().collect::<Result<BTreeMap<_, _>, _>>();
        let vaults = vaults.map_err(|error| QuarantineError(error.to_string()))?;
        for (vault, size) in &vaults {
            warn!(%vault, size, "the vault's history here is not that of the others: it is in quarantine");
        }
        Ok(Quarantine { vaults: RwLock::new(vaults) })
    }

    /// True if the vault is in quarantine here.
    pub fn holds(&self, vault: VaultRef) -> bool {
        self.vaults.read().contains_key(&vault)
    }

    /// How many vaults are.
    pub fn count(&self) -> u64 {
        self.vaults.read().len() as u64
    }

    /// All of them.
    pub fn vaults(&self) -> Vec<VaultRef> {
        self.vaults.read().keys().copied().collect()
    }

    /// Takes a vault in, from now on and durably, because the signed history is another at `size` blocks. False
    /// if it was in before.
    pub async fn take_in(&self, context: &NodeContext, vault: VaultRef, size: u64) -> bool {
        if self.vaults.write().insert(vault, size).is_some() {
            return false;
        }
        let (sender, receiver) = oneshot::channel();
        let completion = move || {
            let _ = sender.send(());
        };
        context.shard.record_checkpoint(vec![row(vault, size)], Box::new(completion));
        // A node that stops instead meets the contradiction again: its note is in the log.
        let _ = receiver.await;
        true
    }
}

fn row(vault: VaultRef, size: u64) -> RowWrite {
    let mut value = Vec::new();
    let mut writer = Writer::new(&mut value);
    writer.u8(VERSION);
    writer.u64(size);
    let key = [ROW_PREFIX, &vault.to_bytes()].concat();
    RowWrite { family: Family::Meta, key, value: Some(value) }
}

fn read(key: &[u8], value: &[u8]) -> Result<(VaultRef, u64), DecodeError> {
    let mut reader = ByteReader::new(key);
    reader.take("quarantine prefix", ROW_PREFIX.len())?;
    let vault = VaultRef::from_prefix(reader.take("vault", VaultRef::LEN)?)
        .expect("the reader returned as many bytes as asked");
    reader.finish()?;
    let mut reader = ByteReader::new(value);
    let version = reader.u8("quarantine version")?;
    if version != VERSION {
        let (field, value) = ("quarantine version", version.into());
        return Err(DecodeError::UnknownValue { field, value });
    }
    let size = reader.u64("quarantine size")?;
    reader.finish()?;
    Ok((vault, size))
}

/// True if this node leads the group, as far as it knows.
pub fn leads(context: &NodeContext, group: GroupId) -> bool {
    context.shard.leader(group).is_some_and(|(role, ..)| role == Role::Leader)
}

/// Hands leadership of a group to another voter, each time to the one after the last, if this node leads it.
pub fn give_up_leadership(context: &NodeContext, group: GroupId) {
    let Some(shard) = context.directory.current().shard(group).filter(|_| leads(context, group))
    else {
        return;
    };
    let own = context.identity.node;
    let mut others =
        shard.replicas.iter().filter(|replica| replica.in_new_set && replica.node != own);
    let turn = context.started.elapsed().as_secs() as usize;
    let count = others.clone().count().max(1);
    if let Some(other) = others.nth(turn % count) {
        warn!(
            group = group.0,
            to = other.node.0,
            "leadership is given up: other nodes know another history"
        );
        context.shard.transfer(group, other.incarnation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_round_trip_lie_together_and_refuse_damage() {
        let vault = VaultRef::new(7, u64::MAX);
        let written = row(vault, 9);
        let value = written.value.expect("a value");
        assert!((ROW_PREFIX..ROWS_END).contains(&&written.key[..]));
        assert_eq!(read(&written.key, &value), Ok((vault, 9)));
        for end in 0..value.len() {
            assert!(read(&written.key, &value[..end]).is_err());
        }
        assert!(read(&written.key[..written.key.len() - 1], &value).is_err());
        assert!(read(&written.key, &[&value[..], &[0]].concat()).is_err());
        assert!(read(&written.key, &[&[2], &value[1..]].concat()).is_err());
    }
}
