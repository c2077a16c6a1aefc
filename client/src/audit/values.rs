//! Comparing the state that a replica holds, values included, with the records of the replay.
//!
//! Lists are read at the height of the replay, so that writes that came since do not matter, and in key
//! order, as the records are, so that what is missing or too many is found in one pass. Relationships are
//! compared as they are found by their resource.

use std::cmp::Ordering;

use ledger_proof::{Record, Replay, hash};
use ledger_proto::convert::Consistency;
use ledger_proto::v1;
use ledger_types::{StateKey, VaultRef};

use super::chain::{FINDINGS_MAX, ReplicaReader};
use super::finding::{AuditFinding, AuditFindingKind};
use crate::error::ClientError;
use crate::method;
use crate::read::wire_consistency;
use crate::write::wire_vault;

/// Items asked for in a page.
const PAGE_ITEMS: u32 = 1_000;
/// First byte of the state keys of entities, and of relationships by their resource.
const ENTITY: u8 = 1;
const BY_RESOURCE: u8 = 2;

/// What a replica lists under a state key.
struct Listed {
    key: Vec<u8>,
    /// Value, version and expiry time of an entity.
    entity: Option<(Vec<u8>, u64, u64)>,
}

/// Records of one kind, beside what a replica lists.
struct Comparison<'a, I: Iterator> {
    node: &'a str,
    height: u64,
    records: std::iter::Peekable<I>,
    findings: Vec<AuditFinding>,
    compared: u64,
}

/// Compares all entities and relationships; returns how many, and what differs.
pub(super) async fn compare(
    reader: &ReplicaReader<'_>,
    replay: &Replay,
) -> Result<(u64, Vec<AuditFinding>), ClientError> {
    let (mut compared, mut findings) = (0, Vec::new());
    for tag in [ENTITY, BY_RESOURCE] {
        let records = replay.records().filter(move |(key, _)| key.first() == Some(&tag));
        let mut comparison = Comparison {
            node: &reader.member.name,
            height: replay.size() - 1,
            records: records.peekable(),
            findings: Vec::new(),
            compared: 0,
        };
        let mut page_token = String::new();
        loop {
            let at = (comparison.height, page_token);
            let (items, next) = match tag {
                ENTITY => entities(reader, reader.vault, at).await?,
                _ => relationships(reader, reader.vault, at).await?,
            };
            items.into_iter().for_each(|item| comparison.take(item));
            page_token = next;
            if page_token.is_empty() || comparison.findings.len() > FINDINGS_MAX {
                break;
            }
        }
        if page_token.is_empty() {
            comparison.finish();
        }
        compared += comparison.compared;
        findings.extend(comparison.findings);
    }
    Ok((compared, findings))
}

impl<'a, I: Iterator<Item = (&'a [u8], &'a Record)>> Comparison<'a, I> {
    fn push(&mut self, kind: AuditFindingKind) {
        self.findings.push(AuditFinding::at(self.node, self.height, kind));
    }

    fn take(&mut self, listed: Listed) {
        loop {
            let order = self.records.peek().map(|(key, _)| (*key).cmp(listed.key.as_slice()));
            match order {
                Some(Ordering::Less) => {
                    let (key, _) = self.records.next().expect("just looked at");
                    self.push(AuditFindingKind::KeyMissing(shown(key)));
                }
                Some(Ordering::Equal) => {
                    let (_, record) = self.records.next().expect("just looked at");
                    self.same(&listed, *record);
                    return;
                }
                Some(Ordering::Greater) | None => {
                    self.push(AuditFindingKind::KeyUnexpected(shown(&listed.key)));
                    return;
                }
            }
        }
    }

    fn same(&mut self, listed: &Listed, record: Record) {
        self.compared += 1;
        let Some((value, version, expires_at)) = &listed.entity else { return };
        let key = String::from_utf8_lossy(&listed.key[1..]).into_owned();
        let (expected, found) = (record.value_hash, hash::plain(value));
        if found != expected {
            self.push(AuditFindingKind::OtherValue { key: key.clone(), expected, found });
        }
        let expected = (record.modified_height, record.expires_at);
        let found = (*version, *expires_at);
        if found != expected {
            self.push(AuditFindingKind::OtherRecord { key, expected, found });
        }
    }

    fn finish(&mut self) {
        while let Some((key, _)) = self.records.next() {
            self.push(AuditFindingKind::KeyMissing(shown(key)));
        }
    }
}

/// A state key for people.
fn shown(key: &[u8]) -> String {
    match StateKey::as_relationship(key) {
        Some((resource, relation, subject)) => {
            format!("relationship {resource}#{relation}@{subject}")
        }
        None => format!("entity {:?}", String::from_utf8_lossy(key.get(1..).unwrap_or_default())),
    }
}

async fn entities(
    reader: &ReplicaReader<'_>,
    vault: VaultRef,
    (height, page_token): (u64, String),
) -> Result<(Vec<Listed>, String), ClientError> {
    let (namespace_id, vault_id) = wire_vault(vault)?;
    let request = v1::ListEntitiesRequest {
        namespace_id,
        vault_id,
        key_prefix: String::new(),
        at_height: Some(height),
        include_expired: true,
        limit: PAGE_ITEMS,
        page_token,
        consistency: wire_consistency(Consistency::Eventual),
    };
    let method = method::LIST_ENTITIES;
    let asked = async || reader.client.call_replica(method, reader.address(), &request).await;
    let page = reader.ask(asked).await?;
    let listed = |entity: v1::Entity| Listed {
        key: [&[ENTITY], entity.key.as_bytes()].concat(),
        entity: Some((entity.value, entity.version, entity.expires_at.unwrap_or(0))),
    };
    Ok((page.entities.into_iter().map(listed).collect(), page.next_page_token))
}

async fn relationships(
    reader: &ReplicaReader<'_>,
    vault: VaultRef,
    (height, page_token): (u64, String),
) -> Result<(Vec<Listed>, String), ClientError> {
    let (namespace_id, vault_id) = wire_vault(vault)?;
    let request = v1::ListRelationshipsRequest {
        namespace_id,
        vault_id,
        resource: None,
        relation: None,
        subject: None,
        at_height: Some(height),
        limit: PAGE_ITEMS,
        page_token,
        consistency: wire_consistency(Consistency::Eventual),
    };
    let method = method::LIST_RELATIONSHIPS;
    let asked = async || reader.client.call_replica(method, reader.address(), &request).await;
    let page = reader.ask(asked).await?;
    let listed = |one: v1::Relationship| {
        let parts = [one.resource, one.relation, one.subject];
        Listed { key: [&[BY_RESOURCE], parts.join("\0").as_bytes()].concat(), entity: None }
    };
    Ok((page.relationships.into_iter().map(listed).collect(), page.next_page_token))
}
