//! Whose signatures count for this client: the trust bundle, from a file, from what is pinned, or pinned
//! on first use. Must never replace a pinned bundle by one that it does not vouch for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ledger_proof::bundle_link::{Lowering, follow_link};
use ledger_proof::{TrustBundle, VerifiedRead};
use ledger_proto::v1;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::call::CallKind;
use crate::checkpoint_store::{read_bounded, write_atomically};
use crate::client::Client;
use crate::config::{ClientConfig, TrustSource};
use crate::error::ClientError;
use crate::leaders::Route;
use crate::method;
use crate::verification::VerificationError;

/// Name of the pinned bundle in the state directory.
pub const PINNED_BUNDLE_FILE: &str = "trust.bundle";
/// Largest bundle file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Answers with links that are followed at a time; each has some dozens.
const ANSWERS_MAX: usize = 64;

/// The bundle, as far as there is one.
#[derive(Debug)]
pub(crate) struct TrustStore {
    bundle: Mutex<Option<Arc<TrustBundle>>>,
    /// Where a bundle believed on first use is pinned; `None` if the client does not do that.
    first_use: Option<PathBuf>,
    /// Where what the bundle vouches for takes its place; `None` if an operator keeps the file, or none is kept.
    pinned: Option<PathBuf>,
    /// Set once the cluster has been asked, in this client's life, whether it shows what is pinned.
    compared: OnceCell<()>,
}

impl TrustStore {
    /// Reads the bundle that the settings name. Errors: a file that is missing, unless it may be; one
    /// that is no bundle.
    pub(crate) fn open(config: &ClientConfig) -> Result<TrustStore, ClientError> {
        let pinned = config.state_dir.as_ref().map(|directory| directory.join(PINNED_BUNDLE_FILE));
        let (bundle, first_use, pinned) = match &config.trust {
            TrustSource::File(path) => {
                let missing = || ClientError::State {
                    path: path.clone(),
                    source: std::io::ErrorKind::NotFound.into(),
                };
                (Some(read_bundle(path)?.ok_or_else(missing)?), None, None)
            }
            TrustSource::Pinned => match pinned {
                Some(path) => (read_bundle(&path)?, None, Some(path)),
                None => (None, None, None),
            },
            TrustSource::FirstUse => {
                let path = pinned.ok_or(ClientError::NoTrust)?;
                (read_bundle(&path)?, Some(path.clone()), Some(path))
            }
        };
        let bundle = Mutex::new(bundle.map(Arc::new));
        Ok(TrustStore { bundle, first_use, pinned, compared: OnceCell::new() })
    }

    /// The bundle in use, if it came after the one with this number.
    fn newer_than(&self, sequence: u64) -> Option<Arc<TrustBundle>> {
        self.bundle.lock().clone().filter(|bundle| bundle.sequence > sequence)
    }

    /// Puts a bundle in the place of an older one that vouches for it, and returns the newest.
    fn advance(&self, bundle: TrustBundle) -> Result<Arc<TrustBundle>, ClientError> {
        let mut current = self.bundle.lock();
        if let Some(current) = current.as_ref().filter(|one| one.sequence >= bundle.sequence) {
            return Ok(current.clone());
        }
        if let Some(path) = &self.pinned {
            write_atomically(path, &bundle.encode())?;
        }
        Ok(current.insert(Arc::new(bundle)).clone())
    }
}

impl Client {
    /// The trust bundle that verified reads are checked against. With trust on first use the cluster is
    /// asked once in the client's life: the bundle that it shows first is pinned; afterwards only what
    /// the pinned bundle vouches for, link by link, takes its place.
    pub async fn trust_bundle(&self) -> Result<Arc<TrustBundle>, ClientError> {
        let store = &self.inner.trust;
        if let Some(path) = &store.first_use {
            store.compared.get_or_try_init(|| self.pin_or_compare(path)).await?;
        }
        let bundle = store.bundle.lock().clone();
        bundle.ok_or(ClientError::NoTrust)
    }

    /// Follows the links from a bundle to the newest one: voters of the directory change when a node's disk
    /// was replaced, and each bundle is proved under the one before. `None` if nothing came after it.
    pub(crate) async fn follow_bundle(
        &self,
        bundle: &TrustBundle,
    ) -> Result<Option<Arc<TrustBundle>>, ClientError> {
        let store = &self.inner.trust;
        if let Some(newer) = store.newer_than(bundle.sequence) {
            return Ok(Some(newer));
        }
        let mut newest = bundle.clone();
        for _ in 0..ANSWERS_MAX {
            let links = self.bundles_after(newest.sequence).await?;
            if links.is_empty() {
                break;
            }
            for link in &links {
                newest = followed(&newest, link)?;
            }
        }
        if newest.sequence == bundle.sequence {
            return Ok(None);
        }
        store.advance(newest).map(Some)
    }

    /// The next bundles after one, as many as the cluster tells at a time; after 0 the first one as it is.
    async fn bundles_after(&self, from_sequence: u64) -> Result<Vec<Vec<u8>>, ClientError> {
        let request = v1::GetTrustBundleRequest { from_sequence, ..Default::default() };
        let kind = CallKind::reads(Route::Directory);
        Ok(self.call(method::GET_TRUST_BUNDLE, kind, &request).await?.bundles)
    }

    async fn pin_or_compare(&self, path: &Path) -> Result<(), ClientError> {
        let mut chain = bundle_chain(&self.bundles_after(0).await?)?;
        for _ in 1..ANSWERS_MAX {
            let last = chain.last().expect("a chain has a first bundle").sequence;
            let links = self.bundles_after(last).await?;
            if links.is_empty() {
                break;
            }
            for link in &links {
                let before = chain.last().expect("a chain has a first bundle");
                chain.push(followed(before, link)?);
            }
        }
        let newest = chain.last().expect("a chain has a first bundle").clone();
        let mut bundle = self.inner.trust.bundle.lock();
        if let Some(pinned) = &*bundle {
            check_continues(pinned, &chain)?;
            if **pinned == newest {
                return Ok(());
            }
        }
        write_atomically(path, &newest.encode())?;
        *bundle = Some(Arc::new(newest));
        Ok(())
    }
}

/// Reads all bundles that the cluster shows: the first as it is, each later one as a proof that the one
/// before vouches for it.
fn bundle_chain(shown: &[Vec<u8>]) -> Result<Vec<TrustBundle>, ClientError> {
    let malformed = |error| VerificationError::Malformed { what: "trust bundle", error };
    let (first, links) = shown.split_first().ok_or(ClientError::Malformed("bundles"))?;
    let mut chain = vec![TrustBundle::decode(first).map_err(malformed)?];
    for link in links {
        let before = chain.last().expect("it begins with one");
        chain.push(followed(before, link)?);
    }
    Ok(chain)
}

/// The next bundle, if the link proves that this one vouches for it.
fn followed(bundle: &TrustBundle, link: &[u8]) -> Result<TrustBundle, ClientError> {
    let malformed = |error| VerificationError::Malformed { what: "trust bundle", error };
    let link = VerifiedRead::decode(link).map_err(malformed)?;
    let next = follow_link(bundle, &link, Lowering::Refused);
    Ok(next.map_err(VerificationError::Refused)?)
}

/// Checks that the chain goes through the pinned bundle.
fn check_continues(pinned: &TrustBundle, chain: &[TrustBundle]) -> Result<(), VerificationError> {
    if chain.contains(pinned) {
        return Ok(());
    }
    let offered = chain.last().map_or(0, |newest| newest.sequence);
    let pinned_sequence = pinned.sequence;
    let skips = chain.first().is_some_and(|first| first.sequence > pinned_sequence);
    Err(match skips {
        true => VerificationError::TrustSuperseded { pinned: pinned_sequence, offered },
        false => VerificationError::TrustChanged { pinned: pinned_sequence, offered },
    })
}

/// Reads a bundle file; `None` if there is none.
pub fn read_bundle(path: &Path) -> Result<Option<TrustBundle>, ClientError> {
    let Some(bytes) = read_bounded(path, FILE_BYTES_MAX)? else { return Ok(None) };
    let damaged = |error: ledger_proof::DecodeError| ClientError::StateDamaged {
        path: path.to_owned(),
        what: error.to_string(),
    };
    TrustBundle::decode(&bytes).map(Some).map_err(damaged)
}

/// Writes a bundle file, whole or not at all.
pub fn write_bundle(path: &Path, bundle: &TrustBundle) -> Result<(), ClientError> {
    write_atomically(path, &bundle.encode())
}
