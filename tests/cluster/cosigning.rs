//! Checkpoints that a majority cosigned, and what voters refuse to cosign.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ledger_client::{
    Client, ClientConfig, ClientError, Reason as ClientReason, TrustSource, VerifiedOptions,
};
use ledger_proof::system_entity::{
    NodeEntity, SystemEntity as _, VaultEntity, node_key, vault_key,
};
use ledger_proof::{
    Checkpoint, CountError, KnownSigner, LeftOut, SignedNote, Threshold, TimeRule, TrustBundle,
    cosigner_name,
};
use ledger_proto::internal;
use ledger_proto::internal::CosignRefusalReason as Reason;
use ledger_proto::internal::cosign_response::Answer;
use ledger_proto::internal::cosigners_client::CosignersClient;
use ledger_proto::v1;
use ledger_types::{Digest, NodeId, StateKey, VaultRef};
use rustix::process::{Pid, Signal, kill_process};

use tonic::Code;

use super::harness::{Cluster, Node, WAIT_MAX, eventually, why, wire};

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A signed note of the vault's log as it is now.
async fn fresh_note(node: &Node, vault: VaultRef) -> SignedNote {
    let (namespace_id, vault_id) = wire(vault);
    let request = v1::GetCheckpointRequest { namespace_id, vault_id, min_size: None, fresh: true };
    let ask = async || node.ledger().get_checkpoint(request).await;
    let answer = eventually("a checkpoint", ask).await.into_inner();
    SignedNote::parse(&answer.note).unwrap()
}

/// An entity of the directory, as the node's own rows have it.
async fn directory_entity(node: &Node, key: String) -> Vec<u8> {
    let ask = async || node.read(VaultRef::SYSTEM, &key).await;
    eventually("an entity of the directory", ask).await.expect("it is there")
}

fn signal(cluster: &Cluster, number: usize, signal: Signal) {
    let id = cluster.servers[number].process_id().expect("it runs");
    let id = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
    kill_process(id, signal).unwrap();
}

async fn bundle(cluster: &Cluster) -> TrustBundle {
    let mut config = ClientConfig::new(cluster.addresses());
    config.trust = TrustSource::FirstUse;
    config.state_dir = Some(cluster.directory("trusting"));
    config.deadline = WAIT_MAX;
    (*Client::connect(config).await.unwrap().trust_bundle().await.unwrap()).clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_cosigned_by_a_majority_also_while_a_voter_hangs() {
    let cluster = Cluster::start(3).await;
    let vault = cluster.vaults("cosigned", 1).await[0];
    let bundle = bundle(&cluster).await;
    assert_eq!(bundle.required(3), 2, "a majority must cosign");
    let voters = bundle.system_voters();
    let count = |note: &SignedNote| {
        bundle.count(note, std::slice::from_ref(&voters), TimeRule::Now(now_seconds()))
    };
    for number in 0..3 {
        let node = cluster.node(number);
        let height = node.put_in_time(vault, "key", &[number as u8]).await;
        let note = fresh_note(&node, vault).await;
        assert!(note.checkpoint().unwrap().size > height, "what was acknowledged is covered");
        let counted = count(&note).unwrap_or_else(|error| panic!("{error}: {note:?}"));
        assert!(counted.keys >= 2, "{counted:?}");
        let lines = note.signatures.len();
        assert_eq!(lines, counted.keys + 1, "the log's line and cosignatures that hold: {note:?}");
    }
    // Every voter was asked, and each has signed something by now.
    for number in 0..3 {
        let signed = async || match cluster.metric(number, "ledger_cosignatures_total").await {
            0.0 => {
                fresh_note(&cluster.node(0), vault).await;
                Err(number)
            }
            _ => Ok(()),
        };
        eventually("a voter has cosigned", signed).await;
        assert_eq!(cluster.metric(number, "ledger_signing_contradictions_total").await, 0.0);
    }
    for stopped in 0..3 {
        signal(&cluster, stopped, Signal::STOP);
        let node = cluster.node((stopped + 1) % 3);
        node.put_in_time(vault, "key", b"while one hangs").await;
        let note = fresh_note(&node, vault).await;
        let counted = count(&note).unwrap_or_else(|error| panic!("{error}: {note:?}"));
        assert_eq!(counted.keys, 2, "{counted:?}");
        signal(&cluster, stopped, Signal::CONT);
        cluster.assert_ready().await;
    }
}

/// What reading one key with proof, as it is now, comes to.
async fn proved(reader: &Client, vault: VaultRef) -> Result<usize, ClientError> {
    let keys = [StateKey::entity("key")];
    let answer = reader.verified_get(vault, &keys, VerifiedOptions::linearizable()).await?;
    Ok(answer.proved.block.counted.keys)
}

/// Waits until a node answers a fresh read of a vault with proof.
async fn proved_in_time(reader: &Client, vault: VaultRef) -> usize {
    eventually("a proved answer", async || proved(reader, vault).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_founded_with_all_voters_needs_every_one_of_them() {
    let mut cluster = Cluster::start_with(3, &[("LEDGER_NOTE_THRESHOLD", "all")]).await;
    let vault = cluster.vaults("unanimous", 1).await[0];
    let bundle = bundle(&cluster).await;
    assert_eq!((bundle.threshold, bundle.required(3)), (Threshold::Fixed(3), 3));
    cluster.node(0).put_in_time(vault, "key", b"all there").await;
    let mut config = ClientConfig::new(cluster.addresses());
    config.trust = TrustSource::FirstUse;
    config.state_dir = Some(cluster.directory("strict"));
    config.deadline = Duration::from_secs(4);
    let reader = Client::connect(config).await.unwrap();
    assert_eq!(proved_in_time(&reader, vault).await, 3);

    // A note that lacks one of the three cosignatures counts for nobody who holds this bundle.
    let note = fresh_note(&cluster.node(0), vault).await;
    let voters = bundle.system_voters();
    let count = |note: &SignedNote| {
        bundle.count(note, std::slice::from_ref(&voters), TimeRule::Now(now_seconds()))
    };
    assert_eq!(count(&note).unwrap().keys, 3);
    let mut majority = note.clone();
    majority.signatures.pop();
    let left_out = LeftOut::default();
    assert_eq!(count(&majority), Err(CountError::TooFew { counted: 2, required: 3, left_out }));

    // With one node away writes go on, and nothing that is new can be proved.
    cluster.servers[2].kill();
    let node = cluster.node(0);
    node.put_in_time(vault, "key", b"one is away").await;
    let (namespace_id, vault_id) = wire(vault);
    let request = v1::GetCheckpointRequest { namespace_id, vault_id, min_size: None, fresh: true };
    let refused = async || match node.ledger().get_checkpoint(request).await {
        Err(status) if why(&status) == (Code::Unavailable, "NOT_COSIGNED".to_owned()) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    eventually("a refusal", refused).await;
    // A client tries again until its deadline, and has no answer then.
    let error = proved(&reader, vault).await.unwrap_err();
    assert!(matches!(error, ClientError::DeadlineExceeded { .. }), "{error:?}");
    assert_eq!(error.reason(), Some(&ClientReason::NotCosigned), "{error:?}");
    cluster.resume(2).await;
    assert_eq!(proved_in_time(&reader, vault).await, 3);
}

/// A request to node 0 for a cosignature, in the name of node 1.
struct Asking {
    node: Node,
    request: internal::CosignRequest,
}

impl Asking {
    /// Asks for the tip of a vault's log.
    async fn of(cluster: &Cluster, vault: VaultRef, tip: &Checkpoint) -> Asking {
        let node = cluster.node(0);
        let entity = directory_entity(&node, vault_key(vault)).await;
        let group = VaultEntity::decode(&entity).unwrap().shard;
        let asker = cluster.node(1).status().await.unwrap().node.unwrap();
        let request = internal::CosignRequest {
            cluster_id: hex::decode(asker.cluster_id).unwrap(),
            store_id: hex::decode(asker.store_id).unwrap(),
            group: group.0,
            namespace: vault.namespace.0,
            vault: vault.vault.0,
            log_epoch: 0,
            size: tip.size,
            root: tip.root.0.to_vec(),
        };
        Asking { node, request }
    }

    async fn ask(&self, change: impl FnOnce(&mut internal::CosignRequest)) -> Answer {
        let mut request = self.request.clone();
        change(&mut request);
        let mut client = CosignersClient::new(self.node.channel.clone());
        client.cosign(request).await.unwrap().into_inner().answer.unwrap()
    }

    async fn refusal(&self, change: impl FnOnce(&mut internal::CosignRequest)) -> Reason {
        match self.ask(change).await {
            Answer::Refusal(refusal) => refusal.reason(),
            Answer::Cosigned(_) => panic!("it was cosigned"),
        }
    }

    /// Whose cosignature is asked for.
    async fn signer(&self) -> KnownSigner {
        let asked = self.node.status().await.unwrap().node.unwrap();
        let key = node_key(NodeId(asked.node_id));
        let entity = NodeEntity::decode(&directory_entity(&self.node, key).await).unwrap();
        let name = cosigner_name(&asked.cluster_domain, &entity.name);
        KnownSigner { name, public_key: entity.public_key }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_cosigns_its_own_history_and_nothing_else() {
    let cluster = Cluster::start(3).await;
    let vault = cluster.vaults("refused", 1).await[0];
    let node = cluster.node(0);
    node.put_in_time(vault, "key", b"earlier").await;
    let earlier = fresh_note(&node, vault).await.checkpoint().unwrap();
    node.put_in_time(vault, "key", b"now").await;
    let tip = fresh_note(&node, vault).await.checkpoint().unwrap();
    let asking = Asking::of(&cluster, vault, &tip).await;
    let before = now_seconds();
    let cosigned = async || match asking.ask(|_| {}).await {
        Answer::Cosigned(cosigned) => Ok(cosigned),
        Answer::Refusal(refusal) => Err(refusal),
    };
    let cosigned = eventually("the tip is cosigned", cosigned).await;
    let signer = asking.signer().await;
    let line = signer.cosignature_line(&tip, cosigned.time, &cosigned.signature);
    assert!(line.is_some(), "it holds");
    assert!((before - 1..=now_seconds()).contains(&cosigned.time), "{}", cosigned.time);

    let other_cluster = asking.refusal(|request| request.cluster_id = vec![7; 16]).await;
    assert_eq!(other_cluster, Reason::OtherCluster);
    assert_eq!(
        asking.refusal(|request| request.store_id = vec![7; 16]).await,
        Reason::UnknownStore
    );
    assert_eq!(asking.refusal(|request| request.root.truncate(31)).await, Reason::Malformed);
    assert_eq!(asking.refusal(|request| request.cluster_id.clear()).await, Reason::Malformed);
    assert_eq!(asking.refusal(|request| request.size = 0).await, Reason::Malformed);
    assert_eq!(asking.refusal(|request| request.group += 1).await, Reason::NoReplica);
    assert_eq!(asking.refusal(|request| request.log_epoch = 1).await, Reason::NoReplica);
    assert_eq!(asking.refusal(|request| request.vault += 1000).await, Reason::NoReplica);
    assert_eq!(asking.refusal(|request| request.size = u64::MAX).await, Reason::Behind);
    let name = "ledger_signing_contradictions_total";
    assert_eq!(cluster.metric(0, name).await, 0.0);
    let forged = Digest([9; 32]);
    let fork = asking.refusal(|request| request.root = forged.0.to_vec()).await;
    assert_eq!(fork, Reason::Contradiction);
    assert_eq!(cluster.metric(0, name).await, 1.0, "it raises an alarm");
    // Fewer blocks are a true state of the log, and an outdated one.
    assert!(earlier.size < tip.size, "{earlier:?} {tip:?}");
    let outdated = asking.refusal(|request| {
        (request.size, request.root) = (earlier.size, earlier.root.0.to_vec());
    });
    assert_eq!(outdated.await, Reason::Outdated);
}

/// Without a majority to cosign there is no verified answer, and the refusal says why.
#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_too_few_cosign_is_not_handed_out() {
    let cluster = Cluster::start_with(3, &[("FAILPOINTS", "cosign::answer=return")]).await;
    let vault = cluster.vaults("alone", 1).await[0];
    let node = cluster.node(0);
    node.put_in_time(vault, "key", b"value").await;
    let (namespace_id, vault_id) = wire(vault);
    let request = v1::GetCheckpointRequest { namespace_id, vault_id, min_size: None, fresh: true };
    let refused = async || match node.ledger().get_checkpoint(request).await {
        Ok(answer) => panic!("one node made {:?}", answer.into_inner()),
        Err(status) if why(&status).1 == "NOT_COSIGNED" => Ok(status),
        Err(status) => Err(status),
    };
    let status = eventually("too few cosign", refused).await;
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("1 voters"), "{}", status.message());
    // Whoever does not ask for proofs is served.
    assert_eq!(node.read(vault, "key").await.unwrap(), Some(b"value".to_vec()));
}
