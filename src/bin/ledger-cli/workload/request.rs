//! Requests that are encoded once. For each use only the idempotency key and the numbers in keys and
//! values are written anew, in place: they have a fixed width.

use bytes::Bytes;
use ledger_client::Consistency;
use ledger_proto::v1;
use ledger_types::{Operation, VaultRef};
use prost::Message as _;

use crate::args::{Work, WorkloadOptions};

/// Digits of a number in a key.
const DIGITS: usize = 16;

/// A fast source of numbers, seeded; drawing keys must cost nothing against a request. (SplitMix64.)
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(worker: u64) -> Numbers {
        Numbers(rand::random::<u64>() ^ worker.rotate_left(32))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The key of entity `number`.
pub(crate) fn entity_key(number: u64) -> String {
    format!("entity:{number:016x}")
}

/// Bytes that do not compress, so that a store cannot look faster than it is.
pub(crate) fn value(bytes: usize, numbers: &mut Numbers) -> Vec<u8> {
    let mut value = Vec::with_capacity(bytes + 8);
    while value.len() < bytes {
        value.extend_from_slice(&numbers.next().to_be_bytes());
    }
    value.truncate(bytes);
    value
}

/// Where a number stands in the encoded request and how it is drawn.
enum Slot {
    /// 16 raw bytes, never the same twice.
    IdempotencyKey(usize),
    /// A number below the bound, in digits.
    Below(usize, u64),
    /// Any number, in digits.
    Any(usize),
}

/// An encoded request with places to fill in.
pub(crate) struct Template {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    operations: u64,
}

impl Template {
    /// Encodes the request of this workload.
    pub(crate) fn new(
        options: &WorkloadOptions,
        vault: VaultRef,
        client_id: &str,
        numbers: &mut Numbers,
    ) -> Template {
        let count = match options.op {
            Work::Batch | Work::Relationship => options.batch,
            _ => 1,
        };
        let mut marks = Marks::default();
        let bytes = match options.op {
            Work::Write | Work::Batch => {
                let operations = (0..count).map(|_| Operation::SetEntity {
                    key: format!("entity:{}", marks.below(options.keys, numbers)),
                    value: value(options.value_bytes, numbers),
                    expires_at: 0,
                    condition: None,
                });
                let operations = operations.collect();
                write_request(vault, client_id, operations, &mut marks, numbers)
            }
            Work::Relationship => {
                let operations = (0..count).map(|_| Operation::CreateRelationship {
                    resource: format!("document:{}", marks.any(numbers)),
                    relation: "viewer".to_owned(),
                    subject: format!("user:{}", marks.below(options.keys, numbers)),
                });
                let operations = operations.collect();
                write_request(vault, client_id, operations, &mut marks, numbers)
            }
            Work::ReadEventual | Work::ReadLinearizable | Work::Verified => {
                let consistency = match options.op {
                    Work::ReadLinearizable => Consistency::Linearizable,
                    _ => Consistency::Eventual,
                };
                let request = v1::ReadRequest {
                    namespace_id: Some(vault.namespace.into()),
                    vault_id: Some(vault.vault.into()),
                    key: format!("entity:{}", marks.below(options.keys, numbers)),
                    consistency: v1::ReadConsistency::from(consistency).into(),
                };
                request.encode_to_vec()
            }
        };
        let slots = marks.find(&bytes);
        let operations = u64::try_from(count).expect("batches are bounded");
        Template { bytes, slots, operations }
    }

    /// Operations in each request.
    pub(crate) fn operations(&self) -> u64 {
        self.operations
    }

    /// The next request.
    pub(crate) fn next(&mut self, numbers: &mut Numbers) -> Bytes {
        for slot in &self.slots {
            match *slot {
                Slot::IdempotencyKey(at) => {
                    self.bytes[at..at + 8].copy_from_slice(&numbers.next().to_be_bytes());
                    self.bytes[at + 8..at + 16].copy_from_slice(&numbers.next().to_be_bytes());
                }
                Slot::Below(at, bound) => {
                    write_digits(&mut self.bytes[at..at + DIGITS], numbers.below(bound));
                }
                Slot::Any(at) => write_digits(&mut self.bytes[at..at + DIGITS], numbers.next()),
            }
        }
        Bytes::copy_from_slice(&self.bytes)
    }
}

fn write_request(
    vault: VaultRef,
    client_id: &str,
    operations: Vec<Operation>,
    marks: &mut Marks,
    numbers: &mut Numbers,
) -> Vec<u8> {
    let request = v1::WriteRequest {
        namespace_id: Some(vault.namespace.into()),
        vault_id: Some(vault.vault.into()),
        client_id: Some(v1::ClientId { id: client_id.to_owned() }),
        idempotency_key: marks.idempotency_key(numbers),
        operations: operations.into_iter().map(v1::Operation::from).collect(),
        include_tx_proof: false,
        sequence: None,
    };
    request.encode_to_vec()
}

fn write_digits(place: &mut [u8], number: u64) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for (index, digit) in place.iter_mut().rev().enumerate() {
        let nibble = (number >> (4 * index)) & 0xf;
        *digit = HEX[usize::try_from(nibble).expect("four bits")];
    }
}

/// What each placeholder stands for; its bytes are random, so they are found again in the encoding.
#[derive(Default)]
struct Marks {
    wanted: Vec<(Vec<u8>, Draw)>,
}

enum Draw {
    IdempotencyKey,
    Below(u64),
    Any,
}

impl Marks {
    fn digits(&mut self, numbers: &mut Numbers, draw: Draw) -> String {
        let text = format!("{:016x}", numbers.next());
        self.wanted.push((text.clone().into_bytes(), draw));
        text
    }

    fn below(&mut self, bound: u64, numbers: &mut Numbers) -> String {
        self.digits(numbers, Draw::Below(bound))
    }

    fn any(&mut self, numbers: &mut Numbers) -> String {
        self.digits(numbers, Draw::Any)
    }

    fn idempotency_key(&mut self, numbers: &mut Numbers) -> Vec<u8> {
        let [high, low] = [numbers.next(), numbers.next()];
        let key = [high.to_be_bytes(), low.to_be_bytes()].concat();
        self.wanted.push((key.clone(), Draw::IdempotencyKey));
        key
    }

    fn find(self, bytes: &[u8]) -> Vec<Slot> {
        let slot = |(mark, draw): (Vec<u8>, Draw)| {
            let at = bytes.windows(mark.len()).position(|window| window == mark);
            let at = at.expect("every placeholder is in the encoded request");
            match draw {
                Draw::IdempotencyKey => Slot::IdempotencyKey(at),
                Draw::Below(bound) => Slot::Below(at, bound),
                Draw::Any => Slot::Any(at),
            }
        };
        self.wanted.into_iter().map(slot).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Arguments, Command, WorkloadCommand};

    fn options(line: &str) -> WorkloadOptions {
        let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
        let Command::Workload(WorkloadCommand::Run(options)) = arguments.command else {
            panic!("not a workload")
        };
        options
    }

    #[test]
    fn each_request_is_whole_and_has_its_own_keys() {
        let options = options("ledger-cli workload run --op batch --batch 7 --keys 100");
        let mut numbers = Numbers::new(1);
        let vault = VaultRef::new(3, 4);
        let mut template = Template::new(&options, vault, "load", &mut numbers);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..50 {
            let request = v1::WriteRequest::decode(template.next(&mut numbers)).unwrap();
            assert!(seen.insert(request.idempotency_key), "an idempotency key was used twice");
            assert_eq!(request.operations.len(), 7);
            for operation in request.operations {
                let Some(v1::operation::Op::SetEntity(set)) = operation.op else { panic!() };
                let digits = set.key.strip_prefix("entity:").unwrap();
                assert!(u64::from_str_radix(digits, 16).unwrap() < 100, "{digits}");
                assert_eq!(set.value.len(), 256);
            }
        }
    }

    #[test]
    fn reads_ask_for_keys_that_were_filled_in() {
        let options = options("ledger-cli workload run --op read-linearizable --keys 3");
        let mut numbers = Numbers::new(1);
        let mut template = Template::new(&options, VaultRef::new(1, 1), "load", &mut numbers);
        let wanted: Vec<String> = (0..3).map(entity_key).collect();
        for _ in 0..20 {
            let request = v1::ReadRequest::decode(template.next(&mut numbers)).unwrap();
            assert!(wanted.contains(&request.key), "{}", request.key);
            assert_eq!(request.consistency(), v1::ReadConsistency::Linearizable);
        }
    }
}
