//! What a client trusts, and the directory's entities that its trust goes through.

use ledger_client::{CheckedProof, SavedProof};
use ledger_proof::genesis::GenesisPromise;
use ledger_proof::note::KnownSigner;
use ledger_proof::system_entity::{
    ClusterEntity, NamespaceEntity, NamespaceNameEntity, NodeEntity, SequenceEntity, ShardEntity,
    SystemEntity, TombstoneEntity, VaultEntity,
};
use ledger_proof::trust::BundleVoter;
use ledger_proof::{
    Checkpoint, NodeKey, Origin, SignedNote, Threshold, TimeRule, TrustBundle, note,
};
use ledger_types::{Digest, NodeId, VaultRef};

use crate::{Verdict, canonical};

/// The bundle under which samples are signed: three nodes of `test.ledger`.
pub fn sample_bundle() -> TrustBundle {
    let voter = |number: u8| BundleVoter {
        node: NodeId(number.into()),
        name: format!("n{number}"),
        public_key: NodeKey::from_seed(&[number; 32]).public_key(),
    };
    TrustBundle {
        domain: "test.ledger".to_owned(),
        sequence: 1,
        issued_at: 1_899_999_000,
        expires_at: 1_900_001_000,
        system_log_epoch: 0,
        threshold: Threshold::Majority,
        floor: 1,
        max_age_seconds: 300,
        skew_seconds: 10,
        voters: (1..=3).map(voter).collect(),
    }
}

/// The signers of that bundle.
pub(crate) fn sample_signers() -> Vec<KnownSigner> {
    let bundle = sample_bundle();
    let signer = |voter: &BundleVoter| KnownSigner {
        name: note::cosigner_name(&bundle.domain, &voter.name),
        public_key: voter.public_key,
    };
    bundle.voters.iter().map(signer).collect()
}

/// A genesis, as founders promise it to each other.
pub(crate) fn genesis(input: &[u8]) -> Verdict {
    let verdict = canonical(input, GenesisPromise::decode, GenesisPromise::encode);
    if let Ok(genesis) = GenesisPromise::decode(input) {
        let numbers = genesis.numbered().map(|(node, _, founder)| (Some(node), founder.store));
        for (node, store) in numbers {
            assert_eq!(genesis.node_of(store), node, "a founder is known by its store");
        }
    }
    verdict
}

/// A trust bundle.
pub(crate) fn trust_bundle(input: &[u8]) -> Verdict {
    let verdict = canonical(input, TrustBundle::decode, TrustBundle::encode);
    if let Ok(bundle) = TrustBundle::decode(input) {
        for voters in [0, 1, 5, usize::MAX] {
            assert!(bundle.required(voters) >= 1, "nothing is believed unsigned");
        }
        let origin =
            Origin { domain: bundle.domain.clone(), vault: VaultRef::SYSTEM, log_epoch: 0 };
        let checkpoint = Checkpoint { origin, size: 1, root: Digest([7; 32]) };
        let unsigned = SignedNote::new(&checkpoint, Vec::new());
        for times in [0, 1_900_000_000, u64::MAX].map(TimeRule::Now) {
            let counted = bundle.count(&unsigned, &[bundle.system_voters()], times);
            assert!(counted.is_err(), "nothing is believed unsigned");
        }
        let _ = sample_bundle().is_lowered_by(&bundle);
        let _ = bundle.is_lowered_by(&sample_bundle());
    }
    verdict
}

/// A proof in a file. It is also checked under a bundle.
pub(crate) fn saved_proof(input: &[u8]) -> Verdict {
    let verdict = canonical(input, SavedProof::decode, SavedProof::encode);
    if let Ok(proof) = SavedProof::decode(input) {
        let bundle = sample_bundle();
        for times in [TimeRule::Any, TimeRule::Now(1_900_000_000)] {
            if let Ok(CheckedProof::Values(checked)) = proof.verify(&bundle, times) {
                assert_eq!(
                    checked.keys.len(),
                    checked.proved.values.len(),
                    "one value for each key"
                );
            }
        }
    }
    verdict
}

fn entity<T: SystemEntity + PartialEq + std::fmt::Debug>(input: &[u8]) -> Verdict {
    canonical(input, T::decode, T::encode)
}

/// A value of the directory. The first byte says of which kind.
pub(crate) fn system_entity(input: &[u8]) -> Verdict {
    let Some((kind, value)) = input.split_first() else { return Verdict::Refused };
    match kind {
        0 => entity::<ClusterEntity>(value),
        1 => entity::<NamespaceEntity>(value),
        2 => entity::<NamespaceNameEntity>(value),
        3 => entity::<NodeEntity>(value),
        4 => entity::<SequenceEntity>(value),
        5 => {
            if let Ok(shard) = ShardEntity::decode(value) {
                let _ =
                    (shard.is_changing(), shard.leaving(), shard.incoming(), shard.voter_sets());
            }
            entity::<ShardEntity>(value)
        }
        6 => entity::<TombstoneEntity>(value),
        7 => entity::<VaultEntity>(value),
        _ => Verdict::Refused,
    }
}
