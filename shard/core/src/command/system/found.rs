//! `Found`: the directory's first block. It records the cluster, its founders, `_system` itself, the
//! counters that all later commands draw from, and the first trust bundle.
//!
//! Owns the command's bytes, its effect and its tests. Must never succeed twice.
//!
//! Fields: `cluster id 16 ‖ founded_at_ns u64 ‖ feature level u32 ‖ replication factor u8 ‖ data shards u32
//! ‖ domain (u16 len) ‖ founder count u8 ‖ founders` with the fields of `RegisterNode`, strictly ascending
//! by name; then, unless the threshold is a majority of the voters, `0x02 ‖ number of voters u16`.

use std::collections::BTreeSet;

use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_proof::system_entity::{
    CLUSTER_KEY, ClusterEntity, SequenceEntity, ShardEntity, bundle_key, node_key, sequence_key,
    shard_key,
};
use ledger_proof::trust::{BundleVoter, Threshold, TrustBundle};
use ledger_types::limits::NAME_BYTES_MAX;
use ledger_types::{ClusterId, GroupId, Incarnation, NodeId, check_name};

use super::create_shards::settled_voter;
use super::draft::Draft;
use super::entity::{
    DATA_SHARDS_KEY, INCARNATION_SEQUENCE, NAMESPACE_SEQUENCE, NODE_SEQUENCE,
    REPLICATION_FACTOR_KEY, SHARD_SEQUENCE, SettingEntity,
};
use super::register_node::RegisterNode;
use super::{
    Answer, FIRST_INCARNATION, InvalidCommand, SystemRefusal, SystemResult,
    check_replication_factor, checked,
};

/// Most nodes that found a cluster together: they are the first voters of `_system`.
pub const FOUNDERS_MAX: usize = 7;
/// The number of the trust bundle that a cluster is founded with.
pub const FIRST_BUNDLE: u64 = 1;
/// A trust bundle holds for ten years of 365 days.
pub(super) const BUNDLE_LIFE_SECONDS: u64 = 10 * 365 * 24 * 60 * 60;
/// Oldest cosignature that the first trust bundle lets count, in seconds.
const BUNDLE_MAX_AGE_SECONDS: u64 = 60;
/// How far a cosignature may be ahead of a client's clock under the first trust bundle, in seconds.
const BUNDLE_SKEW_SECONDS: u64 = 10;
/// Nanoseconds in a second.
pub(super) const NS_PER_SECOND: u64 = 1_000_000_000;
/// Begins a threshold that is a fixed number; a majority is not written, as it was before there was a choice.
const THRESHOLD_FIXED: u8 = 2;
/// Fewest bytes of an encoded founder.
const FOUNDER_LEN_MIN: usize = 2 + 16 + 32 + 2 + 2;

/// A node that founds the cluster.
pub type Founder = RegisterNode;

/// The beginning of a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The cluster's id.
    pub cluster: ClusterId,
    /// When it was founded, Unix nanoseconds.
    pub founded_at_ns: u64,
    /// What every founder's build understands.
    pub feature_level: u32,
    /// The setting: replicas of a shard, as long as there are as many nodes.
    pub replication_factor: u8,
    /// The setting: data shards to make at bootstrap.
    pub data_shards: u32,
    /// How many voters must cosign a note. A fixed number is at least 1 and at most the voters of the directory
    /// and of a shard, else no note could ever count.
    pub threshold: Threshold,
    /// The domain that origins and signer names begin with.
    pub domain: String,
    /// The founders, strictly ascending by name. The n-th becomes node n and incarnation n of `_system`.
    pub founders: Vec<Founder>,
}

impl Found {
    pub(super) fn check(&self) -> Result<(), InvalidCommand> {
        check_replication_factor(self.replication_factor)?;
        check_name("domain", &self.domain)?;
        let count = self.founders.len();
        if count == 0 || count > FOUNDERS_MAX {
            let (field, min, max) = ("founders", 1, FOUNDERS_MAX as u64);
            return Err(InvalidCommand::OutOfRange { field, min, max });
        }
        if let Threshold::Fixed(voters) = self.threshold {
            let (field, min) = ("note threshold", 1);
            let max = (count as u64).min(u64::from(self.replication_factor));
            if !(min..=max).contains(&u64::from(voters)) {
                return Err(InvalidCommand::OutOfRange { field, min, max });
            }
        }
        for founder in &self.founders {
            founder.check()?;
        }
        let stores: BTreeSet<_> = self.founders.iter().map(|founder| founder.store_id).collect();
        let keys: BTreeSet<_> = self.founders.iter().map(|founder| founder.public_key).collect();
        let ascending = self.founders.is_sorted_by(|a, b| a.name < b.name);
        let legal = ascending && stores.len() == count && keys.len() == count;
        if legal { Ok(()) } else { Err(InvalidCommand::Founders) }
    }

    pub(super) fn write(&self, out: &mut Writer<'_>) {
        out.raw(&self.cluster.0);
        out.u64(self.founded_at_ns);
        out.u32(self.feature_level);
        out.u8(self.replication_factor);
        out.u32(self.data_shards);
        out.bytes_u16(self.domain.as_bytes());
        out.u8(u8::try_from(self.founders.len()).expect("checked against FOUNDERS_MAX"));
        for founder in &self.founders {
            founder.write(out);
        }
        if let Threshold::Fixed(voters) = self.threshold {
            out.u8(THRESHOLD_FIXED);
            out.u16(voters);
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Found, DecodeError> {
        let cluster = ClusterId(reader.array("cluster id")?);
        let founded_at_ns = reader.u64("founded_at_ns")?;
        let feature_level = reader.u32("feature level")?;
        let replication_factor = reader.u8("replication factor")?;
        let data_shards = reader.u32("data shards")?;
        let domain = reader.text_u16("domain", NAME_BYTES_MAX)?.to_owned();
        let count = usize::from(reader.u8("founder count")?);
        let count = reader.count("founder count", count, FOUNDERS_MAX, FOUNDER_LEN_MIN)?;
        let founders = (0..count).map(|_| Founder::read(reader)).collect::<Result<_, _>>()?;
        let threshold = read_threshold(reader)?;
        let found = Found {
            cluster,
            founded_at_ns,
            feature_level,
            replication_factor,
            data_shards,
            threshold,
            domain,
            founders,
        };
        checked(found.check())?;
        Ok(found)
    }

    pub(super) fn plan(&self, draft: &mut Draft<'_>) -> Answer {
        if let Some(ClusterEntity { id, .. }) = draft.get(CLUSTER_KEY)? {
            return Ok(Err(SystemRefusal::AlreadyFounded { cluster: id }));
        }
        let cluster = ClusterEntity {
            id: self.cluster,
            domain: self.domain.clone(),
            feature_level: self.feature_level,
        };
        draft.put(CLUSTER_KEY.to_owned(), &cluster);
        let mut replicas = Vec::with_capacity(self.founders.len());
        for (number, founder) in (1u64..).zip(&self.founders) {
            draft.put(node_key(NodeId(number)), &founder.entity(NodeId(number)));
            replicas.push(settled_voter(NodeId(number), Incarnation(number)));
        }
        let system = ShardEntity { id: GroupId::SYSTEM, epoch: 1, replicas };
        draft.put(shard_key(GroupId::SYSTEM), &system);
        let counters = [
            (NODE_SEQUENCE, self.founders.len() as u64 + 1),
            (INCARNATION_SEQUENCE, FIRST_INCARNATION),
            (NAMESPACE_SEQUENCE, 1),
            (SHARD_SEQUENCE, 1),
        ];
        for (name, next) in counters {
            draft.put(sequence_key(name), &SequenceEntity { next });
        }
        let settings = [
            (REPLICATION_FACTOR_KEY, u64::from(self.replication_factor)),
            (DATA_SHARDS_KEY, u64::from(self.data_shards)),
        ];
        for (key, value) in settings {
            draft.put(key.to_owned(), &SettingEntity { value });
        }
        draft.put_bytes(bundle_key(FIRST_BUNDLE), self.first_bundle().encode());
        Ok(Ok(SystemResult::Founded { cluster: self.cluster }))
    }

    /// Trust in the founders: as many of a shard's voters as the threshold says must have cosigned.
    fn first_bundle(&self) -> TrustBundle {
        let issued_at = self.founded_at_ns / NS_PER_SECOND;
        let voters = (1u64..).zip(&self.founders).map(|(number, founder)| BundleVoter {
            node: NodeId(number),
            name: founder.name.clone(),
            public_key: founder.public_key,
        });
        TrustBundle {
            domain: self.domain.clone(),
            sequence: FIRST_BUNDLE,
            issued_at,
            expires_at: issued_at.saturating_add(BUNDLE_LIFE_SECONDS),
            system_log_epoch: 0,
            threshold: self.threshold,
            floor: 1,
            max_age_seconds: BUNDLE_MAX_AGE_SECONDS,
            skew_seconds: BUNDLE_SKEW_SECONDS,
            voters: voters.collect(),
        }
    }
}

/// The command's last field: nothing for a majority.
fn read_threshold(reader: &mut Reader<'_>) -> Result<Threshold, DecodeError> {
    let field = "note threshold";
    if reader.remaining() == 0 {
        return Ok(Threshold::Majority);
    }
    match reader.u8(field)? {
        THRESHOLD_FIXED => Ok(Threshold::Fixed(reader.u16(field)?)),
        value => Err(DecodeError::UnknownValue { field, value: value.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::SystemCommand;
    use super::super::script::{Script, TIME_NS, founded_by, run};
    use super::*;

    #[test]
    fn founding_records_the_cluster_once() {
        run("found a b c                     => founded
             get cluster                     => cluster c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1 test.ledger level 1
             get node/1                      => node 1 a a:1 Active
             get node/3                      => node 3 c c:1 Active
             get shard/0                     => shard 0 epoch 1: 1@1 2@2 3@3
             get sequence/node               => next 4
             get sequence/incarnation        => next 1000
             get sequence/namespace          => next 1
             get sequence/shard              => next 1
             get setting/replication-factor  => 3
             get setting/data-shards         => 8
             keys shard-                     =>
             found a b c                     => refused: cluster c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1 was founded before
             found x                         => refused: cluster c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1 was founded before");
    }

    #[test]
    fn the_first_bundle_trusts_a_majority_of_the_founders() {
        let script = Script::new("found a b c => founded");
        let value = script.value("bundle/1").expect("founding writes the bundle");
        let bundle = TrustBundle::decode(value).expect("a well-formed bundle");
        let seconds = TIME_NS / NS_PER_SECOND;
        assert_eq!((bundle.sequence, bundle.issued_at), (1, seconds));
        assert_eq!(bundle.expires_at - bundle.issued_at, 315_360_000);
        assert_eq!((bundle.threshold, bundle.floor), (Threshold::Majority, 1));
        assert_eq!(bundle.required(3), 2);
        assert_eq!((bundle.max_age_seconds, bundle.skew_seconds), (60, 10));
        let voters = bundle.voters.iter().map(|voter| (voter.node.0, voter.name.as_str()));
        assert_eq!(voters.collect::<Vec<_>>(), [(1, "a"), (2, "b"), (3, "c")]);
        assert_eq!(bundle.voters[1].public_key, founded_by(&["a", "b"]).founders[1].public_key);
    }

    #[test]
    fn the_founders_choose_how_many_voters_must_cosign() {
        let with = |threshold| Found { threshold, ..founded_by(&["a", "b", "c"]) };
        let majority = SystemCommand::Found(with(Threshold::Majority)).encode().expect("legal");
        for voters in 1..=3 {
            let found = with(Threshold::Fixed(voters));
            assert_eq!(found.first_bundle().threshold, Threshold::Fixed(voters));
            assert_eq!(found.first_bundle().required(3), usize::from(voters));
            let command = SystemCommand::Found(found);
            let bytes = command.encode().expect("legal");
            assert_eq!(bytes, [&majority[..], &[2, 0, voters as u8]].concat());
            assert_eq!(SystemCommand::decode(&bytes), Ok(command));
        }
        // A majority has one encoding, and a threshold that no note can meet has none.
        for end in [&[1][..], &[2], &[2, 0], &[2, 0, 0], &[2, 0, 4], &[2, 0, 3, 0]] {
            let bytes = [&majority[..], end].concat();
            assert!(SystemCommand::decode(&bytes).is_err(), "{end:?}");
        }
        let field = "note threshold";
        let refused = |found: Found| SystemCommand::Found(found).encode();
        let out = |max| Err(InvalidCommand::OutOfRange { field, min: 1, max });
        assert_eq!(refused(with(Threshold::Fixed(0))), out(3));
        assert_eq!(refused(with(Threshold::Fixed(4))), out(3));
        let few = Found { replication_factor: 2, ..with(Threshold::Fixed(3)) };
        assert_eq!(refused(few), out(2), "a shard has two voters");
    }

    #[test]
    fn founders_must_ascend_and_differ() {
        let refused = |found: &Found| SystemCommand::Found(found.clone()).encode().is_err();
        assert!(!refused(&founded_by(&["a", "b"])));
        for names in [&["b", "a"][..], &["a", "a"], &[], &["a", "b", "c", "d", "e", "f", "g", "h"]]
        {
            assert!(refused(&founded_by(names)), "{names:?}");
        }
        let mut same_store = founded_by(&["a", "b"]);
        same_store.founders[1].store_id = same_store.founders[0].store_id;
        assert!(refused(&same_store));
        let mut same_key = founded_by(&["a", "b"]);
        same_key.founders[1].public_key = same_key.founders[0].public_key;
        assert!(refused(&same_key));
        let mut bad_domain = founded_by(&["a"]);
        bad_domain.domain = "Test/ledger".to_owned();
        assert!(refused(&bad_domain));
        let mut no_replicas = founded_by(&["a"]);
        no_replicas.replication_factor = 0;
        assert!(refused(&no_replicas));
    }
}
