//! Clients: each does one thing at a time, asks again when it must, and remembers what it was told.
//!
//! Owns sessions and retries. A retry uses the session of the first attempt, or is not made when the first may
//! have been logged and there is no session. Must never judge an answer: that is the oracle's work.

mod asked;

use std::collections::BTreeMap;

use ledger_proof::{Checkpoint, NodeKey, Origin, SignedNote};
use ledger_shard_core::apply::CommandResult;
use ledger_shard_core::command::delete_vault::DeleteVaultCommand;
use ledger_shard_core::command::purge_vault::PurgeVaultCommand;
use ledger_shard_core::command::record_checkpoint::RecordCheckpointCommand;
use ledger_shard_core::command::system::{CreateNamespace, FIRST_OWNER_EPOCH, SystemCommand};
use ledger_shard_core::command::write::{WriteCommand, WriteResult};
use ledger_shard_core::effects::{Input, ReadAnswer, Refusal, Token};
use ledger_shard_core::entry::{Command, CommandKind};
use ledger_shard_core::query::{self, QueryError};
use ledger_shard_core::rows::VaultStatus;
use ledger_types::{Condition, Dedup, Digest, GroupId, Operation, OwnerEpoch, TxId, VaultRef};

pub(crate) use self::asked::{Asked, Ending, State};
use crate::actions::{Request, RequestKind};
use crate::chance::{Chance, Purpose};
use crate::clock::Micros;
use crate::swarm::Swarm;
use crate::world::{Event, Phase, Sabotage, World};

/// How long a client waits for an answer to one attempt.
const ATTEMPT_US: Micros = 2_000_000;
/// How long a client goes on asking, unless its session makes it.
const PATIENCE_US: Micros = 15_000_000;
/// Milliseconds that a node may keep a request waiting.
const DEADLINE_MS: u64 = 5_000;
/// The epoch of every vault: vaults do not move.
pub(crate) const EPOCH: OwnerEpoch = FIRST_OWNER_EPOCH;

/// A size that no log reaches here.
const SIZE_OF_NOBODY: u64 = 1 << 40;

/// True if a checkpoint's request is to be refused.
pub(crate) fn asks_beyond(id: usize) -> bool {
    id.is_multiple_of(16)
}

/// Something a client waits for.
#[derive(Clone, Copy)]
pub(crate) struct Due {
    request: usize,
    attempt: u32,
    is_timeout: bool,
}

/// How a client numbers its transactions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contract {
    Plain,
    Keyed,
    Counted,
}

struct Client {
    contract: Contract,
    busy: Option<usize>,
    /// Last committed sequence on each vault.
    sequences: BTreeMap<VaultRef, u64>,
}

/// Who waits for a token's answer.
#[derive(Clone, Copy)]
pub(crate) enum Waiter {
    Request { request: usize, attempt: u32 },
    Setup { step: usize },
}

/// All clients.
pub(crate) struct Clients {
    chance: Chance,
    clients: Vec<Client>,
    pub(crate) requests: Vec<Asked>,
    pub(crate) vaults: Vec<(GroupId, VaultRef)>,
    tokens: BTreeMap<Token, (usize, Waiter)>,
    tokens_made: u64,
    attempts_made: u64,
}

impl Clients {
    pub(crate) fn new(seed: u64, swarm: &Swarm) -> Clients {
        let contract = |number: usize| match number % 4 {
            1 => Contract::Counted,
            3 => Contract::Plain,
            _ => Contract::Keyed,
        };
        let clients = (0..swarm.clients).map(|number| Client {
            contract: contract(number),
            busy: None,
            sequences: BTreeMap::new(),
        });
        let groups = 1..swarm.groups.len() as u64;
        let vaults = groups.flat_map(|group| {
            (0..swarm.vaults_per_group)
                .map(move |vault| (GroupId(group), VaultRef::new(group, vault)))
        });
        Clients {
            chance: Chance::new(seed, Purpose::Clients),
            clients: clients.collect(),
            requests: Vec::new(),
            vaults: vaults.collect(),
            tokens: BTreeMap::new(),
            tokens_made: 0,
            attempts_made: 0,
        }
    }

    /// A token whose answer belongs to `waiter`, asked of the node at a place.
    pub(crate) fn token(&mut self, place: usize, waiter: Waiter) -> Token {
        self.tokens_made += 1;
        let token = Token(self.tokens_made);
        self.tokens.insert(token, (place, waiter));
        token
    }

    /// The process at a place is gone, and with it every answer.
    pub(crate) fn forget_node(&mut self, place: usize) -> Vec<Waiter> {
        let gone = self.tokens.extract_if(.., |_, (at, _)| *at == place);
        gone.map(|(_, (_, waiter))| waiter).collect()
    }

    /// True if no client waits for anything.
    pub(crate) fn are_idle(&self) -> bool {
        self.clients.iter().all(|client| client.busy.is_none())
    }

    /// Adds a client with a keyed session; tells its number.
    pub(crate) fn add_keyed(&mut self) -> usize {
        let (contract, busy, sequences) = (Contract::Keyed, None, BTreeMap::new());
        self.clients.push(Client { contract, busy, sequences });
        self.clients.len() - 1
    }

    /// The requests that clients wait for, for a report.
    pub(crate) fn describe_busy(&self) -> String {
        let busy = self.clients.iter().filter_map(|client| client.busy);
        let text = busy.map(|id| {
            let asked = &self.requests[id];
            format!("{id} on group {} (attempt {})", asked.group, asked.attempt)
        });
        text.collect::<Vec<_>>().join(", ")
    }

    fn idle(&self) -> Vec<usize> {
        let clients = self.clients.iter().enumerate();
        clients.filter(|(_, client)| client.busy.is_none()).map(|(number, _)| number).collect()
    }

    fn take(&mut self, token: Token) -> Option<Waiter> {
        self.tokens.remove(&token).map(|(_, waiter)| waiter)
    }
}

impl World {
    /// A client with nothing to do begins a request. False if there is none.
    pub(crate) fn begin_request(&mut self, request: Request) -> bool {
        let idle = self.clients.idle();
        let Some(nth) = (request.client as usize).checked_rem(idle.len()) else {
            self.counts.skipped += 1;
            return false;
        };
        self.begin_as(idle[nth], request);
        true
    }

    /// This client begins a request.
    pub(crate) fn begin_as(&mut self, number: usize, request: Request) {
        let client = &self.clients.clients[number];
        let (group, vault) = match request.kind {
            RequestKind::Namespace => (GroupId::SYSTEM, VaultRef::SYSTEM),
            _ => self.clients.vaults[request.vault as usize % self.clients.vaults.len()],
        };
        let id = self.clients.requests.len();
        let key = format!("key{}", request.key);
        let operations = self.operations(request.kind, vault, &key, id);
        let contract = client.contract;
        let last = client.sequences.get(&vault).copied().unwrap_or(0);
        let is_checkpoint = request.kind == RequestKind::Checkpoint;
        let is_late = self.oracle.is_ended(vault);
        let ending = (request.kind == RequestKind::End).then(|| self.ending(vault));
        let dedup = match contract {
            // To record the same note once more changes nothing, and nor does to end the same vault.
            _ if is_checkpoint || ending.is_some() => Dedup::None,
            Contract::Plain => Dedup::None,
            Contract::Counted => Dedup::Sequence(last + 1),
            Contract::Keyed => Dedup::IdempotencyKey((id as u128 + 1).to_be_bytes()),
        };
        self.clients.clients[number].busy = Some(id);
        self.clients.requests.push(Asked {
            client: number,
            group,
            vault,
            dedup,
            operations,
            is_read: request.kind == RequestKind::Read,
            is_checkpoint,
            ending,
            is_late,
            key,
            floor: self.oracle.known_height(vault),
            placed: None,
            state: State::Open,
            begun: self.now,
            attempt: 0,
            node: request.node as usize % self.nodes.len(),
            repeats: request.repeats,
            may_be_logged: false,
        });
        self.counts.requests += 1;
        self.attempt(id);
    }

    /// How a vault is ended: it is purged once it is known to be deleted. The first one stays, and is asked for the
    /// purge that it must not get.
    fn ending(&mut self, vault: VaultRef) -> Ending {
        let is_first = self.clients.vaults.first().is_some_and(|(_, first)| *first == vault);
        let ending = match is_first || self.oracle.is_ended(vault) {
            true => Ending::Purge,
            false => Ending::Delete,
        };
        self.oracle.asked_to_end(vault, ending);
        ending
    }

    fn operations(
        &self,
        kind: RequestKind,
        vault: VaultRef,
        key: &str,
        id: usize,
    ) -> Vec<Operation> {
        let set = |key: String, condition| {
            let value = format!("value{id}").into_bytes();
            Operation::SetEntity { key, value, expires_at: 0, condition }
        };
        let key = key.to_owned();
        let (resource, relation) = (format!("document:{key}"), "viewer".to_owned());
        let subject = format!("user:{}", id % 3);
        let latest = self.oracle.latest(vault, &key);
        match kind {
            RequestKind::Read
            | RequestKind::Namespace
            | RequestKind::Checkpoint
            | RequestKind::End => Vec::new(),
            RequestKind::Set => vec![set(key, None)],
            RequestKind::SetIfAbsent => vec![set(key, Some(Condition::NotExists))],
            RequestKind::SetIfVersion => {
                vec![set(
                    key,
                    Some(
                        latest
                            .map_or(Condition::MustExist, |(height, _)| Condition::Version(height)),
                    ),
                )]
            }
            RequestKind::SetIfValue => {
                let value = latest.map_or_else(Vec::new, |(_, value)| value.to_vec());
                vec![set(key, Some(Condition::ValueEquals(value)))]
            }
            RequestKind::Delete => vec![Operation::DeleteEntity { key }],
            RequestKind::SetTwo => {
                let other = format!("{key}-twin");
                vec![set(key, None), set(other, None)]
            }
            RequestKind::Relate => {
                vec![Operation::CreateRelationship { resource, relation, subject }]
            }
            RequestKind::Unrelate => {
                vec![Operation::DeleteRelationship { resource, relation, subject }]
            }
        }
    }

    /// Sends a request once more.
    fn attempt(&mut self, id: usize) {
        let asked = &mut self.clients.requests[id];
        asked.attempt += 1;
        let (attempt, place, group) = (asked.attempt, asked.node, asked.group);
        self.after(ATTEMPT_US, Event::Client(Due { request: id, attempt, is_timeout: true }));
        if self.nodes[place].process.is_none() {
            return self.again(id, None);
        }
        let asked = &self.clients.requests[id];
        if asked.is_read && self.options.sabotage == Some(Sabotage::StaleRead) {
            return self.read_here(place, id);
        }
        let command = match (asked.is_read, asked.is_checkpoint) {
            (true, _) => Some(Vec::new()),
            (false, true) => self.encode_checkpoint(place, id),
            (false, false) => Some(self.encode(id)),
        };
        // A node that cannot read the vault cannot sign it.
        let Some(command) = command else { return self.again(id, None) };
        let is_read = self.clients.requests[id].is_read;
        let token = self.clients.token(place, Waiter::Request { request: id, attempt });
        let deadline_ms = self.nodes[place].clock.now(self.now).monotonic_ms + DEADLINE_MS;
        let input = match is_read {
            true => Input::Read { group, token, deadline_ms },
            false => Input::Propose { group, token, command, deadline_ms },
        };
        self.give(place, input);
    }

    fn encode(&mut self, id: usize) -> Vec<u8> {
        self.clients.attempts_made += 1;
        let attempts = u128::from(self.clients.attempts_made);
        let asked = &self.clients.requests[id];
        let (vault, owner_epoch) = (asked.vault, EPOCH);
        if let Some(ending) = asked.ending {
            let (kind, body) = match ending {
                Ending::Delete => (CommandKind::DeleteVault, DeleteVaultCommand.encode()),
                Ending::Purge => (CommandKind::PurgeVault, PurgeVaultCommand.encode()),
            };
            return Command { kind: kind as u8, vault, owner_epoch, body: &body }.encode();
        }
        if vault == VaultRef::SYSTEM {
            let command = CreateNamespace { name: format!("namespace{id}"), shard: None };
            let body = SystemCommand::CreateNamespace(command).encode();
            let body = body.expect("a plain name");
            let kind = CommandKind::System as u8;
            return Command { kind, vault, owner_epoch, body: &body }.encode();
        }
        let body = WriteCommand {
            tx_id: TxId(attempts.to_be_bytes()),
            client: format!("client{}", asked.client),
            dedup: asked.dedup,
            actor: format!("request{id}"),
            operations: asked.operations.clone(),
        };
        let body = body.encode();
        Command { kind: CommandKind::Write as u8, vault, owner_epoch, body: &body }.encode()
    }

    /// A note over what a node's rows say of the vault, or over more than anybody has.
    fn encode_checkpoint(&self, place: usize, id: usize) -> Option<Vec<u8>> {
        let (vault, disk) = (self.clients.requests[id].vault, &self.nodes[place].disk);
        let row = query::stored_row(disk, vault);
        let is_purged = row.as_ref().is_ok_and(|row| row.status == VaultStatus::Purged);
        let tip = row.map_or(0, |row| row.log_size);
        let size = if asks_beyond(id) { SIZE_OF_NOBODY } else { 1 + id as u64 % tip.max(1) };
        // Of a purged vault nothing can be signed; whatever it is, it must be refused.
        let root = match asks_beyond(id) || is_purged {
            true => Ok(Digest::ZERO),
            false => query::log_root(disk, vault, size),
        };
        let root = root.ok()?;
        let origin = Origin { domain: "sim.example".to_owned(), vault, log_epoch: 0 };
        let checkpoint = Checkpoint { origin, size, root };
        let line = NodeKey::from_seed(&[place as u8 + 1; 32]).cosign(&checkpoint, "node", 1);
        let note = SignedNote::new(&checkpoint, vec![line]).encode();
        let body = RecordCheckpointCommand { note }.encode();
        let kind = CommandKind::RecordCheckpoint as u8;
        Some(Command { kind, vault, owner_epoch: EPOCH, body: &body }.encode())
    }

    /// A client's time has come: an attempt is lost, or the next one is due.
    pub(crate) fn client_due(&mut self, due: Due) {
        let asked = &mut self.clients.requests[due.request];
        if asked.state != State::Open || asked.attempt != due.attempt {
            return;
        }
        if !due.is_timeout {
            return self.attempt(due.request);
        }
        asked.may_be_logged = true;
        self.counts.timeouts += 1;
        self.again(due.request, None);
    }

    /// Asks again elsewhere, or gives up.
    fn again(&mut self, id: usize, hint: Option<usize>) {
        let nodes = self.nodes.len();
        let is_over = self.now >= self.clients.requests[id].begun + PATIENCE_US;
        let asked = &self.clients.requests[id];
        let contract = self.clients.clients[asked.client].contract;
        // Nobody else may use a counted client's number, so it has to find out.
        let must_know = contract == Contract::Counted && !asked.is_read && asked.may_be_logged;
        let may_repeat = asked.is_read || !asked.may_be_logged || contract != Contract::Plain;
        let is_settling = matches!(self.phase, Phase::Settling(_)) && may_repeat;
        if (is_over && !must_know && !is_settling) || !may_repeat {
            return self.end_request(id, State::Unknown);
        }
        let chance = &mut self.clients.chance;
        let node = hint.unwrap_or_else(|| chance.place(nodes));
        let wait_us = 5_000 + chance.below(100_000);
        let asked = &mut self.clients.requests[id];
        asked.node = node;
        // Answers to the attempt before count no more.
        asked.attempt += 1;
        let attempt = asked.attempt;
        self.after(wait_us, Event::Client(Due { request: id, attempt, is_timeout: false }));
    }

    fn end_request(&mut self, id: usize, state: State) {
        let asked = &mut self.clients.requests[id];
        asked.state = state;
        self.print.number(id as u64 * 4 + state as u64);
        let client = &mut self.clients.clients[asked.client];
        client.busy = None;
        if let (Dedup::Sequence(sequence), State::Acknowledged, false) =
            (asked.dedup, state, asked.is_read)
        {
            client.sequences.insert(asked.vault, sequence);
        }
        match state {
            State::Acknowledged => self.counts.acknowledged += 1,
            State::Refused => self.counts.conditions_failed += 1,
            State::Unknown | State::Open => self.counts.unknown += 1,
        }
    }

    /// The request behind a token, if its client still waits for this attempt.
    fn waiting(&mut self, token: Token) -> Option<usize> {
        match self.clients.take(token) {
            Some(Waiter::Request { request, attempt }) => {
                let asked = &self.clients.requests[request];
                (asked.state == State::Open && asked.attempt == attempt).then_some(request)
            }
            Some(Waiter::Setup { step }) => {
                self.setup.unanswered(step);
                None
            }
            None => {
                self.fail("answers", format!("{token:?} was answered twice"));
                None
            }
        }
    }

    /// The core refused a request.
    pub(crate) fn refused(&mut self, token: Token, refusal: Refusal) {
        let Some(id) = self.waiting(token) else { return };
        let mut hint = None;
        match refusal {
            Refusal::OutcomeUnknown => self.clients.requests[id].may_be_logged = true,
            Refusal::NotLeader(Some(node)) => hint = self.places.get(&node).copied(),
            Refusal::NotLeader(None) | Refusal::NoReplica | Refusal::Expired | Refusal::Busy => {}
        }
        self.counts.refusals += 1;
        self.again(id, hint);
    }

    /// A command was applied without an answer to it.
    pub(crate) fn unanswered(&mut self, token: Token) {
        self.refused(token, Refusal::OutcomeUnknown);
    }

    /// A command was applied, and this is the answer.
    pub(crate) fn applied(&mut self, place: usize, token: Token, result: CommandResult) {
        if let Some(&(_, Waiter::Setup { step })) = self.clients.tokens.get(&token) {
            self.clients.take(token);
            return self.setup.done(step);
        }
        let Some(id) = self.waiting(token) else { return };
        self.counts.checked += 1;
        let asked = &self.clients.requests[id];
        let verdict = self.oracle.answered(asked, id, &result);
        self.judge(verdict);
        self.tell(|| format!("request {id} is answered by node {place}: {result:?}"));
        let ending = self.clients.requests[id].ending;
        let state = match result {
            CommandResult::Write(WriteResult::ConditionFailed(_)) => State::Refused,
            CommandResult::Write(WriteResult::Committed(_))
            | CommandResult::System(_)
            | CommandResult::CheckpointRecorded
            | CommandResult::VaultPurged => State::Acknowledged,
            CommandResult::VaultDeleted if ending == Some(Ending::Delete) => State::Acknowledged,
            // The oracle has made sure that it was this very request.
            CommandResult::Write(WriteResult::SequenceDuplicate { .. }) => State::Acknowledged,
            _ => State::Refused,
        };
        let asked = &mut self.clients.requests[id];
        if state == State::Acknowledged && asked.repeats && asked.dedup != Dedup::None {
            (asked.repeats, asked.may_be_logged) = (false, true);
            self.counts.repeats += 1;
            return self.again(id, Some(place));
        }
        self.end_request(id, state);
    }

    /// The core answered a read.
    pub(crate) fn read_answered(&mut self, place: usize, answer: ReadAnswer) {
        match answer.result {
            Ok(_) => {
                if let Some(id) = self.waiting(answer.token) {
                    self.read_here(place, id);
                }
            }
            Err(refusal) => self.refused(answer.token, refusal),
        }
    }

    /// Reads from the rows of a node and hands the answer to the client.
    fn read_here(&mut self, place: usize, id: usize) {
        let asked = &self.clients.requests[id];
        if self.is_installing(place, asked.group) {
            return self.again(id, None);
        }
        let disk = &self.nodes[place].disk;
        match query::entity(disk, asked.vault, &asked.key, None, 0) {
            Ok((height, entity)) => {
                let found = entity.map(|entity| (entity.version, entity.value));
                let verdict = self.oracle.read(asked, height, found.as_ref());
                self.counts.checked += 1;
                self.counts.reads += 1;
                self.judge(verdict);
                self.tell(|| format!("request {id} reads {found:?} at {height} from node {place}"));
                self.end_request(id, State::Acknowledged);
            }
            Err(QueryError::UnknownVault) if self.oracle.may_be_purged(asked.vault) => {
                self.counts.reads_of_purged += 1;
                self.end_request(id, State::Refused);
            }
            Err(QueryError::UnknownVault) if self.options.sabotage == Some(Sabotage::StaleRead) => {
                self.again(id, None);
            }
            Err(QueryError::Fault(_)) if disk.is_damaged() => self.lose(place),
            Err(error) => self.fail("read", format!("request {id} on node {place}: {error}")),
        }
    }
}
