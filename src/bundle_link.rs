//! Links between trust bundles: the proof, made while the voters of one bundle still vote, that they vouch for
//! the next.
//!
//! Owns how a link is made and what a link must be before it enters the directory. Must never put in one that
//! a client could not follow: a chain of bundles with a broken link can never be mended once the voters' keys
//! are gone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ledger_proof::bundle_link::{Lowering, follow_link};
use ledger_proof::system_entity::{bundle_key, bundle_link_key};
use ledger_proof::{DecodeError, TrustBundle, VerifiedRead, VerifyError};
use ledger_proto::v1;
use ledger_proto::v1::ledger_client::LedgerClient;
use ledger_shard::system::FIRST_BUNDLE;
use ledger_shard::{QueryError, Reader};
use ledger_types::VaultRef;
use thiserror::Error;
use tonic::{Request, Status};

use crate::context::{ChannelPool, NodeContext};

/// Longest wait for a signed proof.
const PROOF_TIME_MAX: Duration = Duration::from_secs(5);

/// Why there is no link, or a link is not one.
#[derive(Debug, Error)]
pub enum BundleLinkError {
    /// The directory's rows cannot be read.
    #[error("the directory's rows: {0}")]
    Rows(#[from] QueryError),
    /// There is no such bundle, or none before it.
    #[error("there is no trust bundle {sequence}, or none before it")]
    NoBundle {
        /// The bundle.
        sequence: u64,
    },
    /// A bundle or the link has other bytes than its form.
    #[error("malformed: {0}")]
    Malformed(#[from] DecodeError),
    /// The link does not hold under the bundle before.
    #[error(transparent)]
    Refused(#[from] VerifyError),
    /// The link leads to another bundle than the directory's.
    #[error("the link leads to another bundle {sequence} than the directory's")]
    OtherBundle {
        /// The bundle.
        sequence: u64,
    },
    /// The node did not prove its own bundle.
    #[error("no proof was made: {}", .0.message())]
    NoProof(#[from] Status),
    /// The node's own address is malformed.
    #[error("this node's listener cannot be reached")]
    NoListener,
}

/// The first bundle of the local replica that needs a link and has none; `None` if the chain is whole.
pub fn first_unlinked(reader: &Reader) -> Result<Option<u64>, QueryError> {
    for sequence in FIRST_BUNDLE + 1.. {
        if reader.entity(VaultRef::SYSTEM, &bundle_key(sequence))?.is_none() {
            break;
        }
        if reader.entity(VaultRef::SYSTEM, &bundle_link_key(sequence))?.is_none() {
            return Ok(Some(sequence));
        }
    }
    Ok(None)
}

/// Checks that a client that trusts the bundle before this one can follow the link to it, without consenting to
/// anything.
pub fn check_link(reader: &Reader, sequence: u64, link: &[u8]) -> Result<(), BundleLinkError> {
    let no_bundle = BundleLinkError::NoBundle { sequence };
    let Some(before) = sequence.checked_sub(1) else { return Err(no_bundle) };
    let bundle = |number| -> Result<Option<TrustBundle>, BundleLinkError> {
        let found = reader.entity(VaultRef::SYSTEM, &bundle_key(number))?;
        Ok(found.map(|entity| TrustBundle::decode(&entity.value)).transpose()?)
    };
    let (Some(before), Some(expected)) = (bundle(before)?, bundle(sequence)?) else {
        return Err(no_bundle);
    };
    let link = VerifiedRead::decode(link)?;
    let next = follow_link(&before, &link, Lowering::Refused)?;
    if next == expected { Ok(()) } else { Err(BundleLinkError::OtherBundle { sequence }) }
}

/// Proves a bundle of the directory under a fresh note of this node, which leads the directory's group. The
/// proof is asked for like a client does, at this node's own listener: there is one place that signs.
pub async fn make_link(context: &NodeContext, sequence: u64) -> Result<Vec<u8>, BundleLinkError> {
    let address = own_listener(context.config.listen_addr).to_string();
    let channel = ChannelPool::channel(&context.channels, &address);
    let mut client = LedgerClient::new(channel.ok_or(BundleLinkError::NoListener)?);
    let key = v1::verified_key::Key::Entity(bundle_key(sequence));
    let mut request = Request::new(v1::VerifiedGetRequest {
        namespace_id: Some(VaultRef::SYSTEM.namespace.into()),
        vault_id: Some(VaultRef::SYSTEM.vault.into()),
        keys: vec![v1::VerifiedKey { key: Some(key) }],
        min_height: None,
        known_size: None,
        consistency: v1::ReadConsistency::Linearizable.into(),
        at_height: None,
    });
    request.set_timeout(PROOF_TIME_MAX);
    let link = client.verified_get(request).await?.into_inner().package;
    check_link(&context.reader, sequence, &link)?;
    Ok(link)
}

/// Where a process reaches its own listener: one that listens everywhere, on the loopback interface.
fn own_listener(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_reaches_itself() {
        let reached = |listen: &str| {
            let listen = listen.parse().expect("an address");
            own_listener(listen).to_string()
        };
        assert_eq!(reached("0.0.0.0:7400"), "127.0.0.1:7400");
        assert_eq!(reached("[::]:7400"), "[::1]:7400");
        assert_eq!(reached("10.0.0.3:7400"), "10.0.0.3:7400");
    }
}
