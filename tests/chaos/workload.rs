//! Clients that write and read a few keys of a few vaults and record what they were told.
//!
//! Owns the calls and what a failed one means. Every value is written by one operation only, so that a read names the
//! write that it saw.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ledger_client::{
    Client, ClientConfig, ClientError, Consistency, RejectionCode, RetryPolicy, WriteReceipt,
};
use ledger_history::record::{Answer, Call, Operation, Outcome};
use ledger_proto::v1;
use ledger_proto::v1::read_service_client::ReadServiceClient;
use ledger_types::{Condition, Operation as Change, VaultRef};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use super::recorder::Recorder;

/// Clients of each vault.
pub(crate) const CLIENTS_PER_VAULT: u32 = 3;
/// Keys of a vault that are in use at one time.
const KEYS: u32 = 3;
/// After this time other keys are used, so that no key's history becomes too long to judge.
const KEYS_USED_FOR: Duration = Duration::from_secs(8);
/// A client that has its answer waits this long before it asks again, at least and at most.
const PAUSE_MS: (u64, u64) = (5, 60);
/// Longest time for a call, repetitions included.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(4);
/// Longest time for one attempt.
const ATTEMPT_MAX: Duration = Duration::from_millis(900);
/// Longest time for a read once everything is mended: what must show has to, however slow the machine's disk is.
const LAST_READ_MAX: Duration = Duration::from_secs(60);
/// One client of each vault waits no longer than this, so that it often does not know what it has done.
const IMPATIENT_MAX: Duration = Duration::from_millis(250);

/// What all clients of a round share.
pub(crate) struct Load {
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) vaults: Vec<VaultRef>,
    pub(crate) addresses: Vec<String>,
    /// What each key held when it was last seen, for conditions that have a chance.
    last_seen: Mutex<BTreeMap<(VaultRef, String), Vec<u8>>>,
}

impl Load {
    /// A load that nobody makes yet.
    pub(crate) fn new(
        recorder: Arc<Recorder>,
        vaults: Vec<VaultRef>,
        addresses: Vec<String>,
    ) -> Arc<Load> {
        Arc::new(Load { recorder, vaults, addresses, last_seen: Mutex::default() })
    }

    /// Starts all clients. Each ends after its current call when the recorder stops.
    pub(crate) fn start(self: &Arc<Load>, seed: u64) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for &vault in &self.vaults {
            for _ in 0..CLIENTS_PER_VAULT {
                let number = clients.len() as u32;
                let random = StdRng::seed_from_u64(seed ^ (u64::from(number) << 32));
                clients.spawn(LoadClient::new(self.clone(), vault, number, random).run());
            }
        }
        clients
    }

    /// A key that is in use now.
    pub(crate) fn key(&self, random: &mut StdRng) -> String {
        let epoch = self.recorder.elapsed().as_secs() / KEYS_USED_FOR.as_secs();
        format!("{epoch:04}/{}", random.random_range(0..KEYS))
    }

    fn saw(&self, vault: VaultRef, key: &str, value: &[u8]) {
        self.last_seen.lock().insert((vault, key.to_owned()), value.to_vec());
    }

    fn last_seen(&self, vault: VaultRef, key: &str) -> Option<Vec<u8>> {
        self.last_seen.lock().get(&(vault, key.to_owned())).cloned()
    }

    /// Reads every key that was ever used once more, now that nothing disturbs: what was acknowledged must show.
    pub(crate) async fn read_all(self: &Arc<Load>, client_number: u32) {
        let used: Vec<(VaultRef, String)> = {
            let operations = self.recorder.operations();
            let keys: std::collections::BTreeSet<_> =
                operations.into_iter().map(|one| (one.vault, one.key)).collect();
            keys.into_iter().collect()
        };
        let sdk = sdk_client(&self.addresses, "last-reader").with_deadline(LAST_READ_MAX);
        for (vault, key) in used {
            let invoked_ns = self.recorder.now_ns();
            let answer = sdk.read(vault, &key, Consistency::Linearizable).await;
            let answer = answer.map(|answer| answer.value).map_err(|error| error.to_string());
            if let Err(error) = &answer {
                // One is enough, and the others would only wait as long.
                self.recorder.violation(format!("after the faults {key} of {vault}: {error}"));
                return;
            }
            let outcome = self.read_outcome(answer);
            let call = Call::Read;
            let client = client_number;
            let operation = Operation { client, vault, key, call, invoked_ns, outcome };
            self.recorder.operation(operation);
        }
    }

    /// What became of a read that was answered, or failed, now.
    pub(crate) fn read_outcome(&self, answer: Result<Option<Vec<u8>>, String>) -> Outcome {
        match answer {
            Ok(value) => {
                Outcome::Done { returned_ns: self.recorder.now_ns(), answer: Answer::Value(value) }
            }
            Err(_) => Outcome::Failed,
        }
    }
}

/// A client of the SDK for these nodes, connected when it is first used.
pub(crate) fn sdk_client(addresses: &[String], name: &str) -> Client {
    Client::unconnected(sdk_config(addresses, name)).unwrap()
}

/// What such a client is set up with.
pub(crate) fn sdk_config(addresses: &[String], name: &str) -> ClientConfig {
    let mut config = ClientConfig::new(addresses.to_vec());
    config.client_id = format!("{name}-{:08x}", rand::random::<u32>());
    config.deadline = CALL_MAX;
    config.attempt_timeout = ATTEMPT_MAX;
    config.connect_timeout = ATTEMPT_MAX / 2;
    let backoff_max = Duration::from_millis(100);
    config.retry = RetryPolicy { backoff_max, ..RetryPolicy::default() };
    config
}

/// One client: one operation at a time.
struct LoadClient {
    load: Arc<Load>,
    vault: VaultRef,
    number: u32,
    values: u64,
    random: StdRng,
    sdk: Client,
    nodes: Vec<Channel>,
}

impl LoadClient {
    fn new(load: Arc<Load>, vault: VaultRef, number: u32, random: StdRng) -> LoadClient {
        let mut sdk = sdk_client(&load.addresses, &format!("load-{number}"));
        if number.is_multiple_of(CLIENTS_PER_VAULT) {
            sdk = sdk.with_deadline(IMPATIENT_MAX);
        }
        let nodes = load.addresses.iter().map(|address| channel(address)).collect();
        LoadClient { load, vault, number, values: 0, random, sdk, nodes }
    }

    async fn run(mut self) {
        while !self.load.recorder.is_stopped() {
            let key = self.load.key(&mut self.random);
            let call = self.draw(&key);
            let invoked_ns = self.load.recorder.now_ns();
            let outcome = match &call {
                Call::Read => self.read(&key).await,
                write => self.write(&key, write).await,
            };
            let (client, vault) = (self.number, self.vault);
            let operation = Operation { client, vault, key, call, invoked_ns, outcome };
            self.load.recorder.operation(operation);
            let pause_ms = self.random.random_range(PAUSE_MS.0..=PAUSE_MS.1);
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
    }

    fn draw(&mut self, key: &str) -> Call {
        let kind = self.random.random_range(0..100);
        match kind {
            0..40 => Call::Read,
            40..65 => Call::Set(self.value()),
            65..75 => Call::Create(self.value()),
            75..90 => match self.load.last_seen(self.vault, key) {
                Some(expected) => Call::Replace { expected, value: self.value() },
                None => Call::Create(self.value()),
            },
            _ => Call::Delete,
        }
    }

    /// A value that nobody else writes.
    fn value(&mut self) -> Vec<u8> {
        self.values += 1;
        format!("{}.{}", self.number, self.values).into_bytes()
    }

    /// Reads so that every acknowledged write must show: as the SDK does it, or through a node drawn by lot, which
    /// passes the question on if it does not lead.
    async fn read(&mut self, key: &str) -> Outcome {
        let through_sdk: bool = self.random.random();
        let answer = if through_sdk {
            let answer = self.sdk.read(self.vault, key, Consistency::Linearizable).await;
            answer.map(|answer| answer.value).map_err(|error| error.to_string())
        } else {
            let node = self.random.random_range(0..self.nodes.len());
            read_through(self.nodes[node].clone(), self.vault, key).await
        };
        if let Ok(Some(value)) = &answer {
            self.load.saw(self.vault, key, value);
        }
        self.load.read_outcome(answer)
    }

    async fn write(&mut self, key: &str, call: &Call) -> Outcome {
        let result = self.sdk.write(self.vault, vec![change(key, call)]).await;
        if let (Ok(_), Some(value)) = (&result, written_value(call)) {
            self.load.saw(self.vault, key, value);
        }
        self.write_outcome(result)
    }

    /// What a write came to. Only what the SDK says for certain counts as failed.
    fn write_outcome(&self, result: Result<WriteReceipt, ClientError>) -> Outcome {
        let recorder = &self.load.recorder;
        let done = |answer| Outcome::Done { returned_ns: recorder.now_ns(), answer };
        match result {
            Ok(receipt) => done(Answer::Written { height: receipt.height }),
            Err(ClientError::Rejected(rejection)) => match rejection.code {
                RejectionCode::KeyExists
                | RejectionCode::KeyNotFound
                | RejectionCode::ValueMismatch => done(Answer::ConditionFailed),
                code => {
                    recorder.violation(format!("a write was rejected with {code:?}: {rejection}"));
                    Outcome::Unknown
                }
            },
            // An answer that cannot be read says nothing about what was done.
            Err(ClientError::Malformed(field)) => {
                recorder.violation(format!("the answer to a write lacks {field}"));
                Outcome::Unknown
            }
            Err(error) if error.outcome_unknown() => Outcome::Unknown,
            Err(_) => Outcome::Failed,
        }
    }
}

fn written_value(call: &Call) -> Option<&Vec<u8>> {
    match call {
        Call::Set(value) | Call::Create(value) | Call::Replace { value, .. } => Some(value),
        Call::Delete | Call::Read => None,
    }
}

fn change(key: &str, call: &Call) -> Change {
    let set = |value: &[u8], condition| Change::SetEntity {
        key: key.to_owned(),
        value: value.to_vec(),
        expires_at: 0,
        condition,
    };
    match call {
        Call::Set(value) => set(value, None),
        Call::Create(value) => set(value, Some(Condition::NotExists)),
        Call::Replace { expected, value } => {
            set(value, Some(Condition::ValueEquals(expected.clone())))
        }
        Call::Delete => Change::DeleteEntity { key: key.to_owned() },
        Call::Read => unreachable!("reads are no changes"),
    }
}

fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect_timeout(ATTEMPT_MAX / 2).connect_lazy()
}

async fn read_through(
    node: Channel,
    vault: VaultRef,
    key: &str,
) -> Result<Option<Vec<u8>>, String> {
    let request = v1::ReadRequest {
        namespace_id: Some(vault.namespace.into()),
        vault_id: Some(vault.vault.into()),
        key: key.to_owned(),
        consistency: v1::ReadConsistency::Linearizable.into(),
    };
    let mut reads = ReadServiceClient::new(node);
    match tokio::time::timeout(ATTEMPT_MAX, reads.read(request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner().value),
        Ok(Err(status)) => Err(status.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}
