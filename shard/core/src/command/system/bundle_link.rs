//! `StoreBundleLink`: keeps the proof that a trust bundle is vouched for by the voters of the one before.
//!
//! Owns the command's bytes, its effect and its tests. Must never judge a link: whoever proposes one has
//! verified it, and so does everyone who follows it.
//!
//! Fields: `sequence u64 ‖ link (u32 len)`.

use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_proof::system_entity::{bundle_key, bundle_link_key};

use super::draft::Draft;
use super::{Answer, InvalidCommand, SystemRefusal, SystemResult, checked};

/// Largest link in bytes. One verified read of one key has a few thousand.
pub const BUNDLE_LINK_BYTES_MAX: usize = 64 * 1024;

/// A proof of a trust bundle, made while the voters of the one before still vote.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreBundleLink {
    /// The bundle that is proved.
    pub sequence: u64,
    /// A verified read of it, in its canonical bytes.
    pub link: Vec<u8>,
}

impl StoreBundleLink {
    pub(super) fn check(&self) -> Result<(), InvalidCommand> {
        let (field, min, max) = ("bundle link bytes", 1, BUNDLE_LINK_BYTES_MAX as u64);
        let legal = (min..=max).contains(&(self.link.len() as u64));
        if legal { Ok(()) } else { Err(InvalidCommand::OutOfRange { field, min, max }) }
    }

    pub(super) fn write(&self, out: &mut Writer<'_>) {
        out.u64(self.sequence);
        out.bytes_u32(&self.link);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<StoreBundleLink, DecodeError> {
        let sequence = reader.u64("bundle sequence")?;
        let link = reader.bytes_u32("bundle link", BUNDLE_LINK_BYTES_MAX)?.to_vec();
        let command = StoreBundleLink { sequence, link };
        checked(command.check())?;
        Ok(command)
    }

    pub(super) fn plan(&self, draft: &mut Draft<'_>) -> Answer {
        let sequence = self.sequence;
        // The first bundle is what a client begins with; nothing vouches for it.
        if sequence <= super::FIRST_BUNDLE || draft.get_bytes(&bundle_key(sequence))?.is_none() {
            return Ok(Err(SystemRefusal::UnknownBundle { sequence }));
        }
        let key = bundle_link_key(sequence);
        if draft.get_bytes(&key)?.is_none() {
            draft.put_bytes(key, self.link.clone());
        }
        Ok(Ok(SystemResult::BundleLinkStored { sequence }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::SystemCommand;
    use super::super::script::run;
    use super::*;

    #[test]
    fn a_link_is_stored_once_for_a_bundle_that_has_one_before_it() {
        run("link 2 proof         => refused: the cluster is not founded yet
             found a b c          => founded
             link 1 proof         => refused: no trust bundle 1 needs a link
             link 2 proof         => refused: no trust bundle 2 needs a link
             register c store=z   => node 4 created
             replace 0 3 node=4   => shard 0 epoch 2 takes in 1000
             link 2 proof         => link of bundle 2
             link 2 other         => link of bundle 2, nothing changed
             get bundle-link/2    => proof
             link 3 proof         => refused: no trust bundle 3 needs a link");
    }

    #[test]
    fn links_are_bounded() {
        let encode = |len| {
            SystemCommand::StoreBundleLink(StoreBundleLink { sequence: 2, link: vec![7; len] })
                .encode()
        };
        assert!(encode(1).is_ok());
        assert!(encode(0).is_err());
        assert!(encode(BUNDLE_LINK_BYTES_MAX + 1).is_err());
        let body = encode(BUNDLE_LINK_BYTES_MAX).expect("the largest link");
        let mut larger = body.clone();
        larger.push(7);
        larger[9..13].copy_from_slice(&(BUNDLE_LINK_BYTES_MAX as u32 + 1).to_be_bytes());
        assert!(matches!(SystemCommand::decode(&larger), Err(DecodeError::TooLong { .. })));
        assert!(SystemCommand::decode(&body).is_ok());
    }
}
