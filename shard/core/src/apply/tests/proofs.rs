//! Proofs of the tip, made from memory and after a restart, and tree pages on the way.

use ledger_proof::{Presence, rfc9162};
use ledger_types::{Digest, StateKey, VaultRef};

use super::harness::*;
use crate::apply::{ApplyConfig, TipProof};
use crate::query::QueryError;
use crate::view::Family;

fn verify(machine: &Machine, proof: &TipProof, keys: &[StateKey], known: Option<(u64, Digest)>) {
    let header = ledger_proof::BlockHeader::decode(&proof.header).unwrap();
    let (leaf, height) = (header.block_hash(), header.height);
    assert_eq!(height + 1, proof.log_size);
    let included =
        rfc9162::verify_inclusion(&leaf, height, proof.log_size, &proof.inclusion, &proof.log_root);
    assert_eq!(included, Ok(()));
    if let Some((size, root)) = known {
        let (new_size, new_root) = (proof.log_size, &proof.log_root);
        let path = &proof.consistency;
        assert_eq!(rfc9162::verify_consistency(size, &root, new_size, new_root, path), Ok(()));
    }
    assert_eq!(proof.keys.len(), keys.len());
    for (key, proved) in keys.iter().zip(&proof.keys) {
        let presence = proved.proof.verify(&header.state_root, key.as_bytes()).unwrap();
        match machine.state(key) {
            None => assert_eq!((presence, &proved.value), (Presence::Absent, &None)),
            Some((record, value)) => {
                assert_eq!((presence, &proved.value), (Presence::Present(record), &Some(value)));
            }
        }
    }
}

#[test]
fn the_tip_is_proved_at_every_height_with_and_without_restarts() {
    let config = ApplyConfig { tree_flush_blocks: 5, ..ApplyConfig::default() };
    let mut machine = Machine::with(config);
    let keys: Vec<StateKey> = (0..40)
        .map(|number| StateKey::entity(&format!("key-{number}")))
        .chain([StateKey::descriptor(), StateKey::by_subject("doc:3", "viewer", "user:3")])
        .collect();
    let mut known = Vec::new();
    for number in 0..30 {
        machine.commit(&[
            set(&format!("key-{number}"), "value"),
            delete(&format!("key-{}", number / 2)),
            relate(&format!("doc:{number}"), "viewer", &format!("user:{number}")),
        ]);
        if number % 3 == 0 {
            machine.restart();
        }
        let row = machine.vault_row(vault());
        known.push((row.log_size, row.log_root));
        let known = known[number / 2];
        let proof = machine.applier.prove(vault(), &keys, Some(known.0), &machine.rows).unwrap();
        verify(&machine, &proof, &keys, Some(known));
    }
    assert!(machine.rows.family(Family::Tree).count() > 0, "pages were written on the way");
    machine.check(vault());
}

#[test]
fn what_cannot_be_proved_is_told() {
    let mut machine = Machine::new();
    let unknown = machine.applier.prove(VaultRef::new(9, 9), &[], None, &machine.rows);
    assert_eq!(unknown, Err(QueryError::UnknownVault));
    let ahead = machine.applier.prove(vault(), &[], Some(2), &machine.rows);
    assert_eq!(ahead, Err(QueryError::HeightUnavailable { floor: 0, tip: 0 }));
}

#[test]
fn many_vaults_fit_a_small_budget_and_are_read_back() {
    let config = ApplyConfig { tree_cache_bytes: 16 * 1024, ..ApplyConfig::default() };
    let mut machine = Machine::with(config);
    let vaults: Vec<VaultRef> = (2..60).map(|number| VaultRef::new(2, number)).collect();
    for vault in &vaults {
        machine.commands(&[create_vault(*vault)]);
    }
    for round in 0..4 {
        for vault in &vaults {
            let operations: Vec<_> =
                (0..25).map(|number| set(&format!("{round}-{number}"), "value")).collect();
            machine.commands(&[command(*vault, &write(&operations))]);
            assert!(machine.applier.memory_bytes() <= 32 * 1024, "one vault may be over");
        }
    }
    for vault in vaults {
        assert_eq!(machine.vault_row(vault).height, 4);
        machine.check(vault);
    }
}
