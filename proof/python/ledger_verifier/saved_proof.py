"""Proof files: an answer, and before it the reads of the directory that say whose signatures count.

The first form holds a read of the newest state, the second a receipt, keys at a height or a list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, TypeVar, Union

from .notes import Origin
from .records import STATE_KEY_BYTES_MAX, check_state_key, entity_key
from .system_entities import Entity, NodeEntity, ShardEntity, VaultEntity, decode_entity
from .transactions import Transaction
from .trust import Signer, TrustBundle, VoterSet
from .verified_list import (
    Item,
    ListPage,
    VerifiedList,
    decode_list_page,
    decode_verified_list,
    verify_verified_list,
)
from .verified_read import (
    ITEMS_MAX,
    Answer,
    AtHeight,
    Block,
    Latest,
    ReadAt,
    ReceiptPackage,
    Trust,
    VerifiedRead,
    decode_receipt,
    decode_verified_read,
    verify_read,
    verify_receipt,
)
from .wire import Reader, Refused

MAGIC_LATEST = b"saved-proof/v1\x00\x00"
MAGIC_OTHER = b"saved-proof/v2\x00\x00"
STEPS_MAX = 4
STEP_BYTES_MIN = 8 + 8 + 2 + 4
READ_BYTES_MAX = 16 * 1024 * 1024
RECEIPT_BYTES_MAX = 17 * 1024 * 1024
PAGES_MAX = 65_536
PAGE_BYTES_MIN = 4
KIND_RECEIPT, KIND_AT_HEIGHT, KIND_LIST = 1, 2, 3
BY_ID, BY_INDEX = 1, 2
SYSTEM = (0, 0)
Vault = tuple[int, int]


@dataclass(frozen=True)
class Step:
    """One read: of which vault, for which keys, and the answer."""

    vault: Vault
    keys: list[bytes]
    read: VerifiedRead


@dataclass(frozen=True)
class KeysSubject:
    """Keys in the newest state, or at a height."""

    step: Step
    at: ReadAt

    @property
    def vault(self) -> Vault:
        """The vault."""
        return self.step.vault


@dataclass(frozen=True)
class ReceiptSubject:
    """A transaction of a block, named by its id or by its index."""

    vault: Vault
    height: int
    wanted: Union[bytes, int]
    receipt: ReceiptPackage


@dataclass(frozen=True)
class ListSubject:
    """Everything below a prefix, in the newest state or at a height."""

    vault: Vault
    at: ReadAt
    prefix: bytes
    first: VerifiedList
    later: list[ListPage]


Subject = Union[KeysSubject, ReceiptSubject, ListSubject]


@dataclass(frozen=True)
class SavedProof:
    """What a proof file holds. The directory needs no reads of itself."""

    directory: list[Step]
    subject: Subject


@dataclass(frozen=True)
class ProvedKeys:
    """What is proved about keys."""

    origin: Origin
    block: Block
    answers: list[tuple[bytes, Answer]]


@dataclass(frozen=True)
class ProvedTransaction:
    """A transaction that is proved to be in a block."""

    origin: Origin
    block: Block
    index: int
    transaction: Transaction


@dataclass(frozen=True)
class ProvedList:
    """All items of a list that have not expired."""

    origin: Origin
    block: Block
    prefix: bytes
    items: list[Item]


Proved = Union[ProvedKeys, ProvedTransaction, ProvedList]


def decode_saved_proof(data: bytes) -> SavedProof:
    """Reads a proof file of either form."""
    reader = Reader(data)
    magic = reader.take(len(MAGIC_LATEST), "magic")
    if magic not in (MAGIC_LATEST, MAGIC_OTHER):
        raise Refused("Invalid", f"begins with {magic!r}")
    is_latest = magic == MAGIC_LATEST
    steps_max = STEPS_MAX if is_latest else STEPS_MAX - 1
    count = reader.count(reader.u8("steps"), steps_max, STEP_BYTES_MIN, "steps")
    steps = [_read_step(reader) for _ in range(count)]
    subject = None if is_latest else _read_subject(reader)
    reader.finish()
    if subject is None:
        if not steps:
            raise Refused("Incomplete", "no steps")
        subject = KeysSubject(steps.pop(), Latest())
    return SavedProof(steps, subject)


def _read_vault(reader: Reader) -> Vault:
    return (reader.u64("namespace"), reader.u64("vault"))


def _read_step(reader: Reader) -> Step:
    vault = _read_vault(reader)
    count = reader.count(reader.u16("keys"), ITEMS_MAX, 2, "keys")
    keys = [reader.str16(STATE_KEY_BYTES_MAX, "key") for _ in range(count)]
    for key in keys:
        check_state_key(key)
    return Step(vault, keys, decode_verified_read(reader.str32(READ_BYTES_MAX, "verified read")))


def _read_subject(reader: Reader) -> Subject:
    kind = reader.u8("kind")
    if kind == KIND_RECEIPT:
        return _read_receipt(reader)
    if kind == KIND_AT_HEIGHT:
        at = AtHeight(reader.u64("height"))
        return KeysSubject(_read_step(reader), at)
    if kind == KIND_LIST:
        return _read_list(reader)
    raise Refused("UnknownValue", f"kind {kind}")


def _read_receipt(reader: Reader) -> ReceiptSubject:
    vault, height = _read_vault(reader), reader.u64("height")
    choice = reader.u8("choice of the transaction")
    wanted: Union[bytes, int]
    if choice == BY_ID:
        wanted = reader.take(16, "transaction id")
    elif choice == BY_INDEX:
        wanted = reader.u32("transaction index")
    else:
        raise Refused("UnknownValue", f"choice {choice}")
    receipt = decode_receipt(reader.str32(RECEIPT_BYTES_MAX, "receipt"))
    return ReceiptSubject(vault, height, wanted, receipt)


def _read_list(reader: Reader) -> ListSubject:
    vault = _read_vault(reader)
    at = AtHeight(reader.u64("height")) if reader.flag("height") else Latest()
    prefix = reader.str16(STATE_KEY_BYTES_MAX, "prefix")
    first = decode_verified_list(reader.str32(READ_BYTES_MAX, "first answer"))
    count = reader.count(reader.u32("pages"), PAGES_MAX, PAGE_BYTES_MIN, "pages")
    later = [decode_list_page(reader.str32(READ_BYTES_MAX, "page")) for _ in range(count)]
    return ListSubject(vault, at, prefix, first, later)


def verify_saved_proof(proof: SavedProof, bundle: TrustBundle, now: Optional[int]) -> Proved:
    """Checks a whole file under a bundle. Without `now` the answer says what was so when signed."""
    system = Trust(bundle, [bundle.system_voters()], now)
    subject = proof.subject
    if not proof.directory and subject.vault == SYSTEM:
        return _verify_subject(subject, bundle.system_origin(), system)
    if len(proof.directory) != STEPS_MAX - 1:
        raise Refused("Incomplete", f"{len(proof.directory)} steps of the directory")
    vault_step, shard_step, nodes_step = proof.directory
    namespace, vault_id = subject.vault
    vault_key = f"vault/{namespace}/{vault_id}"
    vault = _entity(VaultEntity, vault_key, _directory(vault_step, [vault_key], system)[0])
    shard_key = f"shard/{vault.shard}"
    shard = _entity(ShardEntity, shard_key, _directory(shard_step, [shard_key], system)[0])
    voter_sets = _voter_sets(shard, nodes_step, system)
    origin = Origin(bundle.domain, namespace, vault_id, vault.log_epoch)
    return _verify_subject(subject, origin, Trust(bundle, voter_sets, now))


def _verify_subject(subject: Subject, origin: Origin, trust: Trust) -> Proved:
    if isinstance(subject, KeysSubject):
        return _verify_step(subject.step, origin, subject.at, trust)
    if isinstance(subject, ReceiptSubject):
        wanted, height = subject.wanted, subject.height
        receipt = verify_receipt(subject.receipt, origin, height, wanted, trust, known=None)
        return ProvedTransaction(origin, receipt.block, receipt.index, receipt.transaction)
    block, items = verify_verified_list(
        subject.first, subject.later, subject.prefix, origin, subject.at, trust, known=None
    )
    return ProvedList(origin, block, subject.prefix, items)


def _verify_step(step: Step, origin: Origin, at: ReadAt, trust: Trust) -> ProvedKeys:
    block, answers = verify_read(step.read, origin, step.keys, at, trust, known=None)
    return ProvedKeys(origin, block, list(zip(step.keys, answers)))


def _directory(step: Step, keys: list[str], system: Trust) -> list[Answer]:
    if step.vault != SYSTEM or step.keys != [entity_key(key) for key in keys]:
        raise Refused("Incomplete", f"a step does not ask for {', '.join(keys)}")
    proved = _verify_step(step, system.bundle.system_origin(), Latest(), system)
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
