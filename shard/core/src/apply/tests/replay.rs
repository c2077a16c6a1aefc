//! An auditor's replay against the state machine: what this one makes replays without a finding, and each
//! thing that it would not have made is found, of the expected kind.

use ledger_proof::transaction::AppliedOperation;
use ledger_proof::{BlockHeader, Finding, Frontier, Replay, Transaction, hash};
use ledger_types::{Condition, Dedup, Digest, Operation, Outcome, StateKey, VaultRef};
use proptest::prelude::*;

use super::harness::*;
use super::property::{config, entries, log, vaults};
use crate::apply::ApplyConfig;
use crate::query::block_header;
use crate::rows::{block_body_key, decode_body};
use crate::view::{Family, MemoryRows, StateView as _};

/// A block as it is handed out.
#[derive(Clone, PartialEq, Debug)]
struct RawBlock {
    header: BlockHeader,
    transactions: Vec<Vec<u8>>,
}

fn chain(machine: &Machine, vault: VaultRef) -> Vec<RawBlock> {
    let tip = machine.vault_row(vault).height;
    let block = |height| {
        let header = machine.header(vault, height);
        RawBlock { header, transactions: body(&machine.rows, vault, height) }
    };
    (0..=tip).map(block).collect()
}

fn body(rows: &MemoryRows, vault: VaultRef, height: u64) -> Vec<Vec<u8>> {
    let body = rows.get(Family::Blocks, &block_body_key(vault, height)).unwrap();
    let body = body.unwrap_or_default();
    if body.is_empty() {
        return Vec::new();
    }
    decode_body(&body).unwrap().into_iter().map(<[u8]>::to_vec).collect()
}

/// What the replay finds, and the replay.
fn replayed(vault: VaultRef, chain: &[RawBlock]) -> (Vec<Finding>, Replay) {
    let mut replay = Replay::new(vault);
    let block = |block: &RawBlock| replay.block(&block.header.encode(), &block.transactions);
    (chain.iter().flat_map(block).collect(), replay)
}

/// Makes a chain whole again after somebody changed transactions or headers: what any forger does.
fn relinked(mut chain: Vec<RawBlock>) -> Vec<RawBlock> {
    let mut previous_hash = Digest::ZERO;
    for RawBlock { header, transactions } in &mut chain {
        let mut tree = Frontier::new();
        transactions.iter().for_each(|bytes| tree.append(hash::leaf(bytes), |_, _, _| {}));
        header.tx_root = tree.root();
        header.tx_count = transactions.len() as u32;
        header.previous_hash = previous_hash;
        previous_hash = header.block_hash();
    }
    chain
}

/// Every kind of operation and outcome, in blocks of one and of several transactions.
fn eventful() -> Machine {
    let mut machine = Machine::new();
    let later = START_S + 100;
    machine.writes(&[
        keyed(1, &[set("a", "1"), set_until("b", "2", later), relate("doc:1", "owner", "user:x")]),
        keyed(2, &[set("a", "2"), relate("doc:1", "owner", "user:x")]),
    ]);
    machine
        .commit(&[set_if("a", "3", Condition::Version(1)), set_if("c", "1", Condition::NotExists)]);
    machine.commit(&[set_if("a", "4", Condition::ValueEquals(b"3".to_vec())), delete("nobody")]);
    machine.write(&keyed(3, &[delete("c"), set("c", "2"), unrelate("doc:1", "owner", "user:x")]));
    machine.time_ns += 101 * SECOND;
    machine.commit(&[set("b", "anew"), set_until("d", "1", START_S + 200)]);
    machine.time_ns += 100 * SECOND;
    machine.commit(&[expire("d", START_S + 200), expire("a", 1), delete("b"), set("e", "5")]);
    machine
}

#[test]
fn what_the_state_machine_makes_replays_without_a_finding() {
    let machine = eventful();
    let chain = chain(&machine, vault());
    assert_eq!(relinked(chain.clone()), chain, "the forger's tool changes nothing by itself");
    let (findings, mut replay) = replayed(vault(), &chain);
    assert_eq!(findings, []);
    let row = machine.vault_row(vault());
    assert_eq!((replay.size(), replay.log_root()), (row.log_size, row.log_root));
    assert_eq!((replay.state_root(), replay.tip_hash()), (row.state_root, row.block_hash));
    assert_eq!(replay.record(StateKey::entity("a").as_bytes()), Some(&machine.record("a")));
    assert_eq!(replay.key_count() as u64, row.state_keys);
    assert_eq!(replay.transaction_count(), 7);
}

#[test]
fn the_directory_replays_without_a_finding() {
    let [together, separate] = super::directory::directories();
    for (rows, tip) in [(together, 1), (separate, 5)] {
        let mut replay = Replay::new(VaultRef::SYSTEM);
        for height in 0..=tip {
            let header = block_header(&rows, VaultRef::SYSTEM, height).unwrap().1;
            let transactions = body(&rows, VaultRef::SYSTEM, height);
            let mut forged = replay.clone();
            assert_eq!(replay.block(&header, &transactions), [], "height {height}");
            let Some(bytes) = transactions.first() else { continue };
            let mut other = Transaction::decode(bytes).unwrap();
            other.client = "somebody".to_owned();
            let named = forged.clone().block(&header, &[other.encode()]);
            assert!(named.iter().any(|one| one.kind.name() == "not_of_directory"), "{named:?}");
            let mut other = Transaction::decode(bytes).unwrap();
            other.tx_id = ledger_types::TxId([1; 16]);
            let numbered = forged.block(&header, &[other.encode()]);
            assert!(numbered.iter().any(|one| one.kind.name() == "not_of_directory"));
        }
    }
}

/// What is found first after a change that the forger has linked up, with its place.
#[track_caller]
fn found(change: impl FnOnce(&mut Vec<RawBlock>)) -> (u64, Option<u32>, Option<u32>, &'static str) {
    let machine = eventful();
    let mut chain = chain(&machine, vault());
    change(&mut chain);
    let (findings, replay) = replayed(vault(), &relinked(chain));
    let row = machine.vault_row(vault());
    assert_ne!(
        (replay.size(), replay.log_root()),
        (row.log_size, row.log_root),
        "not the signed log"
    );
    let Finding { height, transaction, operation, kind } = findings.first().expect("it is found");
    (*height, *transaction, *operation, kind.name())
}

fn change(
    chain: &mut [RawBlock],
    (height, place): (usize, usize),
    by: impl FnOnce(&mut Transaction),
) {
    let bytes = &mut chain[height].transactions[place];
    let mut transaction = Transaction::decode(bytes).unwrap();
    by(&mut transaction);
    *bytes = transaction.encode();
}

fn operation(transaction: &mut Transaction, place: usize) -> (&mut Operation, &mut Outcome) {
    match &mut transaction.operations[place] {
        AppliedOperation::State { operation, outcome } => (operation, outcome),
        AppliedOperation::Recovery(_) => panic!("there is no recovery"),
    }
}

#[test]
fn forged_transactions_are_found() {
    let other = |chain: &mut Vec<RawBlock>, at, by: fn(&mut Transaction)| change(chain, at, by);
    let outcome = found(|chain| other(chain, (1, 1), |it| *operation(it, 1).1 = Outcome::Created));
    assert_eq!(outcome, (1, Some(1), Some(1), "outcome"));
    let value = found(|chain| {
        other(chain, (5, 0), |it| {
            let Operation::SetEntity { value, .. } = operation(it, 0).0 else { panic!("a set") };
            *value = b"forged".to_vec();
        });
    });
    assert_eq!(value, (5, None, None, "state_root"));
    let condition = found(|chain| {
        other(chain, (2, 0), |it| {
            let Operation::SetEntity { condition, .. } = operation(it, 0).0 else {
                panic!("a set")
            };
            *condition = Some(Condition::Version(7));
        });
    });
    assert_eq!(condition, (2, Some(0), Some(0), "condition_failed"));
    let expiry = found(|chain| {
        other(chain, (6, 0), |it| {
            let Operation::ExpireEntity { expired_at, .. } = operation(it, 0).0 else { panic!() };
            *expired_at += 1;
        });
    });
    assert_eq!(expiry, (6, Some(0), Some(0), "outcome"));
    let number = found(|chain| other(chain, (4, 0), |it| it.assigned_sequence += 1));
    assert_eq!(number, (4, Some(0), None, "sequence"));
    let asked = found(|chain| other(chain, (1, 0), |it| it.dedup = Dedup::Sequence(9)));
    assert_eq!(asked, (1, Some(0), None, "sequence_asked"));
    let mixed = found(|chain| other(chain, (4, 0), |it| it.dedup = Dedup::Sequence(3)));
    assert_eq!(mixed, (4, Some(0), None, "contract_mixed"));
    let time = found(|chain| other(chain, (1, 1), |it| it.timestamp_ns += 1));
    assert_eq!(time, (1, Some(1), None, "transaction_time"));
    let nothing = found(|chain| other(chain, (5, 0), |it| it.operations.clear()));
    assert_eq!(nothing, (5, Some(0), None, "no_operations"));
    let long = found(|chain| {
        other(chain, (1, 1), |it| {
            let long = || "x".repeat(1000);
            *operation(it, 1).0 = relate(&long(), &long(), &long());
        });
    });
    assert_eq!(long, (1, Some(1), Some(1), "relationship_too_long"));
    let noise = found(|chain| chain[3].transactions[0].push(0));
    assert_eq!(noise, (3, Some(0), None, "transaction_malformed"));
}

#[test]
fn omitted_and_moved_transactions_are_found() {
    assert_eq!(
        found(|chain| drop(chain[1].transactions.remove(0))),
        (1, Some(0), None, "sequence")
    );
    assert_eq!(found(|chain| chain[1].transactions.swap(0, 1)), (1, Some(0), None, "sequence"));
    let moved = found(|chain| {
        let moved = chain[2].transactions.remove(0);
        chain[3].transactions.push(moved);
    });
    assert_eq!(moved, (2, None, None, "transactions_misplaced"));
    let twice = found(|chain| {
        let twice = chain[5].transactions[0].clone();
        chain[5].transactions.push(twice);
    });
    assert_eq!(twice, (5, Some(1), Some(0), "outcome"));
    let block = found(|chain| drop(chain.remove(3)));
    assert_eq!(block, (3, None, None, "height"));
    let genesis = found(|chain| {
        let early = chain[1].transactions[0].clone();
        chain[0].transactions.push(early);
    });
    assert_eq!(genesis, (0, None, None, "transactions_misplaced"));
}

#[test]
fn forged_headers_are_found_though_the_chain_is_whole() {
    let header = |height: usize, by: fn(&mut BlockHeader)| {
        let (height, _, _, kind) = found(|chain| by(&mut chain[height].header));
        (height, kind)
    };
    assert_eq!(header(3, |it| it.state_root = Digest([1; 32])), (3, "state_root"));
    assert_eq!(header(3, |it| it.state_keys += 1), (3, "state_keys"));
    assert_eq!(header(3, |it| it.height += 1), (3, "height"));
    assert_eq!(header(3, |it| it.vault = VaultRef::new(9, 9)), (3, "other_vault"));
    assert_eq!(header(5, |it| it.timestamp_ns = START_S), (5, "time_went_back"));
    assert_eq!(header(5, |it| it.timestamp_ns += 1), (5, "block_time"));
    assert_eq!(header(5, |it| it.index = 7), (5, "entry_position"));
    assert_eq!(header(5, |it| it.term -= 1), (5, "entry_position"));
    assert_eq!(header(5, |it| it.flags = 1), (5, "recovery_form"));
    assert_eq!(header(0, |it| it.state_root = Digest([1; 32])), (0, "state_root"));
}

#[test]
fn a_forged_state_is_found_once_and_judged_again_when_it_agrees() {
    let machine = eventful();
    let mut chain = chain(&machine, vault());
    chain[2].header.state_root = Digest([1; 32]);
    chain[3].header.state_root = Digest([2; 32]);
    chain[5].header.state_keys += 1;
    let (findings, _) = replayed(vault(), &relinked(chain));
    let places: Vec<_> = findings.iter().map(|one| (one.height, one.kind.name())).collect();
    assert_eq!(places, [(2, "state_root"), (5, "state_keys")]);
}

#[test]
fn a_recovery_is_reported_and_replayed() {
    let machine = eventful();
    let mut chain = chain(&machine, vault());
    let last = chain.last().unwrap().clone();
    let recovery = ledger_proof::Recovery {
        who: "operator".to_owned(),
        why: "disk lost".to_owned(),
        log_epoch: 1,
        from_height: last.header.height,
        from_hash: last.header.block_hash(),
        old_note: Digest::ZERO,
    };
    let mut transaction = Transaction::decode(&last.transactions[0]).unwrap();
    transaction.operations = vec![AppliedOperation::Recovery(recovery)];
    let mut header = last.header;
    (header.height, header.flags, header.index) =
        (last.header.height + 1, 1, last.header.index + 1);
    chain.push(RawBlock { header, transactions: vec![transaction.encode()] });
    let (_, mut replay) = replayed(vault(), &relinked(chain.clone()));
    chain.last_mut().unwrap().header.state_root = replay.state_root();
    let (findings, _) = replayed(vault(), &relinked(chain));
    let kinds: Vec<_> = findings.iter().map(|one| one.kind.name()).collect();
    assert_eq!(kinds, ["recovery"]);
}

/// The field of each byte of a header, as the finding about it is named; none for what only the block
/// after it and the log can tell.
fn header_findings(offset: usize) -> &'static [&'static str] {
    match offset {
        0..16 | 184.. => &["header_malformed"],
        16..32 => &["other_vault"],
        32..40 => &["height"],
        40..72 => &["previous_hash"],
        72..104 => &["transaction_root"],
        104..108 => &["transaction_count"],
        108..112 => &["header_malformed", "recovery_form"],
        112..144 => &["state_root"],
        144..152 => &["state_keys"],
        152..160 => &["block_time", "time_went_back"],
        _ => &[],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_chains_replay_and_every_byte_of_a_header_counts(
        log in log(),
        at in any::<prop::sample::Index>(),
        offset in 0..200usize,
        mask in 1u8..,
    ) {
        let mut machine = Machine::with(ApplyConfig { ..config(256, 1 << 20) });
        for entry in entries(&mut machine, &log) {
            machine.round(&[entry]);
        }
        for vault in vaults() {
            let chain = chain(&machine, vault);
            let (findings, mut replay) = replayed(vault, &chain);
            prop_assert_eq!(findings, vec![]);
            let row = machine.vault_row(vault);
            prop_assert_eq!((replay.size(), replay.log_root()), (row.log_size, row.log_root));
            prop_assert_eq!(replay.state_root(), row.state_root);

            let height = at.index(chain.len());
            let mut replay = Replay::new(vault);
            let mut names = Vec::new();
            for (place, block) in chain.iter().enumerate() {
                let mut header = block.header.encode();
                if place == height {
                    header[offset] ^= mask;
                }
                for finding in replay.block(&header, &block.transactions) {
                    names.push((finding.height as usize, finding.kind.name()));
                }
            }
            prop_assert_ne!(replay.log_root(), row.log_root);
            let expected = header_findings(offset);
            let is_named = names.iter().any(|(at, name)| *at == height && expected.contains(name));
            // The time of genesis is the founder's word.
            prop_assert!(expected.is_empty() || is_named || (height, offset / 8) == (0, 19), "{names:?}");
            let is_last = height + 1 == chain.len();
            prop_assert!(is_last || names.contains(&(height + 1, "previous_hash")), "{names:?}");
        }
    }

    #[test]
    fn every_other_outcome_is_found(
        log in log(),
        at in any::<prop::sample::Index>(),
        code in 1..7u8,
    ) {
        let mut machine = Machine::with(config(256, 1 << 20));
        for entry in entries(&mut machine, &log) {
            machine.round(&[entry]);
        }
        let honest = chain(&machine, vault());
        let places: Vec<_> = honest.iter().enumerate().flat_map(|(height, block)| {
            block.transactions.iter().enumerate().flat_map(move |(place, bytes)| {
                let count = Transaction::decode(bytes).unwrap().operations.len();
                (0..count).map(move |operation| (height, place, operation))
            })
        }).collect();
        prop_assume!(!places.is_empty());
        let (height, place, number) = places[at.index(places.len())];
        let mut forged = honest.clone();
        let outcome = Outcome::from_code(code).unwrap();
        change(&mut forged, (height, place), |it| *operation(it, number).1 = outcome);
        prop_assume!(forged != honest);
        let (findings, _) = replayed(vault(), &relinked(forged));
        let found: Vec<_> = findings
            .iter()
            .map(|one| (one.height, one.transaction, one.operation, one.kind.name()))
            .collect();
        prop_assert_eq!(
            found,
            [(height as u64, Some(place as u32), Some(number as u32), "outcome")]
        );
    }
}
