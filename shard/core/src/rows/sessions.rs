//! Rows of the `sessions` family: which transactions a client has had committed.
//!
//! Owns their bytes. Must never judge a retry: that is the apply path's work.
//!
//! `vault 16 ‖ 0x01 ‖ u16 len ‖ client ‖ key 16` -> [`SessionRow`]; `vault 16 ‖ 0x02 ‖ client` -> [`ClientRow`].

use ledger_proof::encoding::DecodeError;
use ledger_types::{Digest, TxId, VaultRef};

/// Version of both values.
const VERSION: u8 = 1;
/// Tag of idempotency-key rows.
const TAG_KEY: u8 = 1;
/// Tag of client rows.
const TAG_CLIENT: u8 = 2;

/// The committed transaction behind an idempotency key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionRow {
    /// Digest of what the client asked for; another one under the same key is a conflict.
    pub payload_hash: Digest,
    /// The committed transaction.
    pub tx_id: TxId,
    /// The block it is in.
    pub height: u64,
    /// Its place in the block, from 0.
    pub tx_index: u32,
    /// The sequence it was given.
    pub sequence: u64,
}

impl SessionRow {
    /// The row's value.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(69);
        out.push(VERSION);
        out.extend_from_slice(self.payload_hash.as_bytes());
        out.extend_from_slice(&self.tx_id.0);
        out.extend_from_slice(&self.height.to_be_bytes());
        out.extend_from_slice(&self.tx_index.to_be_bytes());
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out
    }

    /// Reads a row's value. Errors on an unknown version or a wrong length.
    pub fn decode(value: &[u8]) -> Result<SessionRow, DecodeError> {
        let mut reader = super::versioned(value, VERSION, "session row version")?;
        let payload_hash = reader.digest("payload hash")?;
        let tx_id = TxId(reader.array("tx id")?);
        let height = reader.u64("height")?;
        let tx_index = reader.u32("tx index")?;
        let sequence = reader.u64("sequence")?;
        reader.finish()?;
        Ok(SessionRow { payload_hash, tx_id, height, tx_index, sequence })
    }
}

/// By which contract a client numbers its transactions. A client keeps to the one it began with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SequenceContract {
    /// The client counts, strictly by one.
    Counted = 1,
    /// The client draws idempotency keys and the vault counts.
    Keyed = 2,
}

/// How far a client's transactions on a vault have been counted. Never evicted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientRow {
    /// Sequence of its last committed transaction.
    pub last_sequence: u64,
    /// The contract of its transactions.
    pub contract: SequenceContract,
}

impl ClientRow {
    /// The row's value.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(10);
        out.push(VERSION);
        out.extend_from_slice(&self.last_sequence.to_be_bytes());
        out.push(self.contract as u8);
        out
    }

    /// Reads a row's value. Errors on an unknown version or contract, or a wrong length.
    pub fn decode(value: &[u8]) -> Result<ClientRow, DecodeError> {
        let mut reader = super::versioned(value, VERSION, "client row version")?;
        let last_sequence = reader.u64("last sequence")?;
        let contract = match reader.u8("sequence contract")? {
            1 => SequenceContract::Counted,
            2 => SequenceContract::Keyed,
            code => {
                let field = "sequence contract";
                return Err(DecodeError::UnknownValue { field, value: code.into() });
            }
        };
        reader.finish()?;
        Ok(ClientRow { last_sequence, contract })
    }
}

/// Key of the row of a client's idempotency key.
pub fn session_key(vault: VaultRef, client: &str, key: &[u8; 16]) -> Vec<u8> {
    let len = u16::try_from(client.len()).expect("client ids are checked before they are logged");
    let mut out = Vec::with_capacity(16 + 3 + client.len() + 16);
    out.extend_from_slice(&vault.to_bytes());
    out.push(TAG_KEY);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(client.as_bytes());
    out.extend_from_slice(key);
    out
}

/// Key of a client's row.
pub fn session_client_key(vault: VaultRef, client: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + 1 + client.len());
    out.extend_from_slice(&vault.to_bytes());
    out.push(TAG_CLIENT);
    out.extend_from_slice(client.as_bytes());
    out
}

/// The range (first key, end) of a vault's rows in the family.
pub fn session_range(vault: VaultRef) -> (Vec<u8>, Vec<u8>) {
    let prefix = vault.to_bytes();
    (prefix.to_vec(), super::prefix_end(&prefix))
}
