//! Comparing a replica with the chain that was replayed and is signed: its tip, its blocks, its note.

use ledger_proof::{BlockHeader, SignedNote, TrustBundle};
use ledger_proto::v1;
use ledger_types::VaultRef;

use super::chain::{Attempt, FINDINGS_MAX, ReplicaReader};
use super::finding::{AuditFinding, AuditFindingKind};
use super::members::{Signer, signers};
use super::{Member, ReplicaReport};
use crate::client::Client;
use crate::error::ClientError;
use crate::method;
use crate::write::wire_vault;

/// What a replica is compared with.
#[derive(Clone, Copy)]
pub(super) struct Truth<'a> {
    pub vault: VaultRef,
    pub attempt: &'a Attempt,
    pub bundle: &'a TrustBundle,
    pub members: &'a [Member],
    /// Read every block, not only the newest common one.
    pub all_blocks: bool,
}

/// Compares one replica; what could not be asked is an error.
pub(super) async fn compare(
    client: &Client,
    truth: Truth<'_>,
    member: &Member,
    report: &mut ReplicaReport,
    findings: &mut Vec<AuditFinding>,
) -> Result<(), ClientError> {
    let reader = ReplicaReader { client, member, vault: truth.vault };
    let hashes = &truth.attempt.hashes;
    let size = hashes.len() as u64;
    // A replica that is behind is compared as far as it goes while it is waited for.
    let tip = reader.tip().await?;
    report.tip = Some(tip);
    let common = size.min(tip.height + 1);
    let first = if truth.all_blocks { 0 } else { common - 1 };
    let mut state_root = None;
    let mut height = first;
    let begun = findings.len();
    let end = reader.wait_for(size).await.map(|_| size);
    let known_end = end.as_ref().copied().unwrap_or(common);
    while height < known_end && findings.len() - begun < FINDINGS_MAX {
        for block in reader.blocks(height, known_end).await? {
            let (expected, found) = (hashes[height as usize], block.hash());
            if found != expected {
                let kind = AuditFindingKind::OtherBlock { expected, found };
                findings.push(AuditFinding::at(&member.name, height, kind));
            } else if let Ok(header) = BlockHeader::decode(&block.header) {
                let (expected, found) = (header.tx_root, block.transaction_root());
                if found != expected {
                    let kind = AuditFindingKind::OtherTransactions { expected, found };
                    findings.push(AuditFinding::at(&member.name, height, kind));
                }
                if height == tip.height {
                    state_root = Some(header.state_root);
                }
            }
            if let Some(text) = block.contradiction {
                let kind = AuditFindingKind::ReadableFields(text);
                findings.push(AuditFinding::at(&member.name, height, kind));
            }
            height += 1;
            report.blocks_compared += 1;
        }
    }
    if let Some(&expected) = hashes.get(tip.height as usize).filter(|hash| **hash != tip.block_hash)
    {
        let kind = AuditFindingKind::OtherBlock { expected, found: tip.block_hash };
        findings.push(AuditFinding::at(&member.name, tip.height, kind));
    }
    if let Some(expected) = state_root.filter(|root| *root != tip.state_root) {
        let kind = AuditFindingKind::OtherTip { expected, found: tip.state_root };
        findings.push(AuditFinding::at(&member.name, tip.height, kind));
    }
    compare_note(&reader, truth, report, findings).await;
    end.map(|_| ())
}

/// Compares the note of a replica that gives one out; most do not, and that says nothing.
async fn compare_note(
    reader: &ReplicaReader<'_>,
    truth: Truth<'_>,
    report: &mut ReplicaReport,
    findings: &mut Vec<AuditFinding>,
) {
    let Ok((namespace_id, vault_id)) = wire_vault(truth.vault) else { return };
    let request = v1::GetCheckpointRequest { namespace_id, vault_id, min_size: None, fresh: false };
    let method = method::GET_CHECKPOINT;
    let answer = reader.client.call_replica(method, reader.address(), &request).await;
    let Ok(answer) = answer else { return };
    let name = &reader.member.name;
    let of_note = |kind| AuditFinding { height: None, ..AuditFinding::at(name, 0, kind) };
    let note = SignedNote::parse(&answer.note);
    let read = note.and_then(|note| note.checkpoint().map(|checkpoint| (note, checkpoint)));
    let (note, checkpoint) = match read {
        Ok(read) => read,
        Err(error) => {
            findings.push(of_note(AuditFindingKind::Refused(error.to_string())));
            return;
        }
    };
    report.note_size = Some(checkpoint.size);
    report.signers = signers(&note, truth.bundle, truth.members);
    findings.extend(bad_signers(&report.signers).map(&of_note));
    if checkpoint.origin.vault != truth.vault || checkpoint.origin.domain != truth.bundle.domain {
        let text = format!("the note is about {}", checkpoint.origin);
        findings.push(of_note(AuditFindingKind::Refused(text)));
    } else if checkpoint.size <= truth.attempt.hashes.len() as u64 {
        let (expected, found) = (truth.attempt.log_root_at(checkpoint.size), checkpoint.root);
        if found != expected {
            let kind = AuditFindingKind::OtherNote { expected, found };
            findings.push(AuditFinding::at(name, checkpoint.size.saturating_sub(1), kind));
        }
    }
}

/// Lines that claim to be of a member and are not.
pub(super) fn bad_signers(signers: &[Signer]) -> impl Iterator<Item = AuditFindingKind> {
    signers.iter().filter(|signer| signer.is_valid == Some(false)).map(|signer| {
        let text = format!("the signature of {} is bad", signer.name);
        AuditFindingKind::Refused(text)
    })
}
