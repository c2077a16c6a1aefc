"""Transactions: their fields, their operations with outcomes, and the root over a block's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Optional, Union

from .block_log import list_root
from .hashes import leaf
from .wire import Reader, Refused

OPERATIONS_MAX = 10_000
CLIENT_BYTES_MAX = 256
KEY_BYTES_MAX = 1024
VALUE_BYTES_MAX = 1024 * 1024
REASON_BYTES_MAX = 4096

SET, DELETE, EXPIRE, CREATE_RELATIONSHIP, DELETE_RELATIONSHIP, RECOVERY = range(1, 7)
CREATED, UPDATED, DELETED, NOT_FOUND, ALREADY_EXISTS, EXPIRED, RECOVERED = range(1, 8)

# What the fields of an operation come to: texts, numbers, byte strings and conditions in the order
# of the page. A condition is its tag and what follows.
Condition = tuple[Union[int, bytes], ...]
Fields = tuple[Union[str, int, bytes, None, Condition], ...]


@dataclass(frozen=True)
class Operation:
    """One operation and what came of it."""

    type: int
    fields: Fields
    outcome: int


@dataclass(frozen=True)
class Transaction:
    """A transaction as a block holds it. Time is in Unix nanoseconds."""

    id: bytes
    client: str
    dedup: Union[None, int, bytes]
    assigned_sequence: int
    actor: str
    time_ns: int
    operations: list[Operation]
    leaf: bytes


def decode_transaction(data: bytes) -> Transaction:
    """Reads the bytes of a transaction."""
    reader = Reader(data)
    reader.version(1, "transaction")
    transaction_id = reader.take(16, "transaction id")
    client = reader.text16(CLIENT_BYTES_MAX, "client")
    dedup = _read_dedup(reader)
    assigned_sequence = reader.u64("assigned sequence")
    if dedup is None and assigned_sequence != 0:
        raise Refused("Invalid", "a sequence was assigned without dedup")
    actor = reader.text16(CLIENT_BYTES_MAX, "actor")
    time_ns = reader.u64("time")
    count = reader.count(reader.u32("operations"), OPERATIONS_MAX, 2, "operations")
    operations = [_read_operation(reader) for _ in range(count)]
    reader.finish()
    return Transaction(
        transaction_id, client, dedup, assigned_sequence, actor, time_ns, operations, leaf(data)
    )


def transaction_root(transactions: list[bytes]) -> bytes:
    """The root that a header names for these transactions, in block order."""
    return list_root([leaf(transaction) for transaction in transactions])


def _read_dedup(reader: Reader) -> Union[None, int, bytes]:
    tag = reader.u8("dedup")
    if tag == 0:
        return None
    if tag == 1:
        return reader.u64("client's sequence")
    if tag == 2:
        return reader.take(16, "idempotency key")
    raise Refused("UnknownValue", f"dedup {tag}")


def _read_operation(reader: Reader) -> Operation:
    kind = reader.u8("operation")
    read_fields = _OPERATIONS.get(kind)
    if read_fields is None:
        raise Refused("UnknownValue", f"operation {kind}")
    fields = read_fields(reader)
    outcome = reader.u8("outcome")
    if not CREATED <= outcome <= RECOVERED:
        raise Refused("UnknownValue", f"outcome {outcome}")
    if (kind == RECOVERY) != (outcome == RECOVERED):
        raise Refused("UnknownValue", "recovered is the outcome of a recovery, always and only")
    return Operation(kind, fields, outcome)


def _read_key(reader: Reader, field: str) -> str:
    key = reader.text32(KEY_BYTES_MAX, field)
    if not key or "\x00" in key:
        raise Refused("Invalid", f"{field} is empty or holds a NUL")
    return key


def _read_condition(reader: Reader) -> Optional[Condition]:
    if not reader.flag("condition"):
        return None
    tag = reader.u8("condition")
    if tag in (1, 2):
        return (tag,)
    if tag == 3:
        return (tag, reader.u64("version"))
    if tag == 4:
        return (tag, reader.str32(VALUE_BYTES_MAX, "value"))
    raise Refused("UnknownValue", f"condition {tag}")


def _read_set(reader: Reader) -> Fields:
    key = _read_key(reader, "key")
    value = reader.str32(VALUE_BYTES_MAX, "value")
    return (key, value, reader.u64("expires at"), _read_condition(reader))


def _read_delete(reader: Reader) -> Fields:
    return (_read_key(reader, "key"),)


def _read_expire(reader: Reader) -> Fields:
    return (_read_key(reader, "key"), reader.u64("expiry time seen"))


def _read_relationship(reader: Reader) -> Fields:
    return tuple(_read_key(reader, part) for part in ("resource", "relation", "subject"))


def _read_recovery(reader: Reader) -> Fields:
    return (
        reader.text32(REASON_BYTES_MAX, "who"),
        reader.text32(REASON_BYTES_MAX, "why"),
        reader.u64("log epoch after it"),
        reader.u64("last height"),
        reader.digest("last block"),
        reader.digest("last note"),
    )


_OPERATIONS: dict[int, Callable[[Reader], Fields]] = {
    SET: _read_set,
    DELETE: _read_delete,
    EXPIRE: _read_expire,
    CREATE_RELATIONSHIP: _read_relationship,
    DELETE_RELATIONSHIP: _read_relationship,
    RECOVERY: _read_recovery,
}
