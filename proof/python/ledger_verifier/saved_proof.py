"""Proof files: a read, and before it the reads of the directory that say whose signatures count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, TypeVar

from .notes import Origin
from .records import STATE_KEY_BYTES_MAX, check_state_key, entity_key
from .system_entities import Entity, NodeEntity, ShardEntity, VaultEntity, decode_entity
from .trust import Signer, TrustBundle, VoterSet
from .verified_read import (
    ITEMS_MAX,
    Answer,
    Block,
    Latest,
    Trust,
    VerifiedRead,
    decode_verified_read,
    verify_read,
)
from .wire import Reader, Refused

MAGIC = b"saved-proof/v1\x00\x00"
STEPS_MAX = 4
STEP_BYTES_MIN = 8 + 8 + 2 + 4
READ_BYTES_MAX = 16 * 1024 * 1024
SYSTEM = (0, 0)


@dataclass(frozen=True)
class Step:
    """One read: of which vault, for which keys, and the answer."""

    vault: tuple[int, int]
    keys: list[bytes]
    read: VerifiedRead


@dataclass(frozen=True)
class Proved:
    """What a proof file proves."""

    origin: Origin
    block: Block
    answers: list[tuple[bytes, Answer]]


def decode_saved_proof(data: bytes) -> list[Step]:
    """Reads the steps of a proof file."""
    reader = Reader(data)
    reader.magic(MAGIC)
    count = reader.count(reader.u8("steps"), STEPS_MAX, STEP_BYTES_MIN, "steps")
    steps = [_read_step(reader) for _ in range(count)]
    reader.finish()
    return steps


def _read_step(reader: Reader) -> Step:
    vault = (reader.u64("namespace"), reader.u64("vault"))
    count = reader.count(reader.u16("keys"), ITEMS_MAX, 2, "keys")
    keys = [reader.str16(STATE_KEY_BYTES_MAX, "key") for _ in range(count)]
    for key in keys:
        check_state_key(key)
    return Step(vault, keys, decode_verified_read(reader.str32(READ_BYTES_MAX, "verified read")))


def verify_saved_proof(steps: list[Step], bundle: TrustBundle, now: Optional[int]) -> Proved:
    """Checks all steps under a bundle. Without `now` the answer says what was so when signed."""
    system = Trust(bundle, [bundle.system_voters()], now)
    if len(steps) == 1 and steps[0].vault == SYSTEM:
        return _verify_step(steps[0], bundle.system_origin(), system)
    if len(steps) != STEPS_MAX:
        raise Refused("Incomplete", f"{len(steps)} steps")
    vault_step, shard_step, nodes_step, last = steps
    namespace, vault_id = last.vault
    vault_key = f"vault/{namespace}/{vault_id}"
    vault = _entity(VaultEntity, vault_key, _directory(vault_step, [vault_key], system)[0])
    shard_key = f"shard/{vault.shard}"
    shard = _entity(ShardEntity, shard_key, _directory(shard_step, [shard_key], system)[0])
    voter_sets = _voter_sets(shard, nodes_step, system)
    origin = Origin(bundle.domain, namespace, vault_id, vault.log_epoch)
    return _verify_step(last, origin, Trust(bundle, voter_sets, now))


def _verify_step(step: Step, origin: Origin, trust: Trust) -> Proved:
    block, answers = verify_read(step.read, origin, step.keys, Latest(), trust, known=None)
    return Proved(origin, block, list(zip(step.keys, answers)))


def _directory(step: Step, keys: list[str], system: Trust) -> list[Answer]:
    if step.vault != SYSTEM or step.keys != [entity_key(key) for key in keys]:
        raise Refused("Incomplete", f"a step does not ask for {', '.join(keys)}")
    proved = _verify_step(step, system.bundle.system_origin(), system)
    return [answer for _, answer in proved.answers]


_Kind = TypeVar("_Kind", bound=Entity)


def _entity(kind: type[_Kind], key: str, answer: Answer) -> _Kind:
    if answer.state() != "present" or answer.value is None:
        raise Refused("Incomplete", f"{key} is proved {answer.state()}")
    entity = decode_entity(key, answer.value)
    if not isinstance(entity, kind):
        raise Refused("Incomplete", f"{key} is something else")
    return entity


def _voter_sets(shard: ShardEntity, step: Step, system: Trust) -> list[VoterSet]:
    node_sets = shard.voter_node_sets()
    wanted = sorted({node for nodes in node_sets for node in nodes})
    keys = [f"node/{node}" for node in wanted]
    signers: dict[int, Signer] = {}
    for node, key, answer in zip(wanted, keys, _directory(step, keys, system)):
        entity = _entity(NodeEntity, key, answer)
        signers[node] = Signer(entity.name, entity.public_key)
    return [[signers[node] for node in nodes] for nodes in node_sets]
