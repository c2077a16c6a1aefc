"""State keys, the records below them, and the value of a vault's descriptor."""

from __future__ import annotations

from dataclasses import dataclass

from .hashes import leaf, plain
from .wire import Reader, Refused

STATE_KEY_BYTES_MAX = 2048
RECORD_BYTES = 93
# First bytes of state keys: the descriptor, an entity, a relationship in its two orders.
TAG_ENTITY = b"\x01"
LAST_TAG = 3


def entity_key(key: str) -> bytes:
    """The state key of an entity."""
    return TAG_ENTITY + key.encode()


@dataclass(frozen=True)
class Record:
    """What the state tree holds for a key. The expiry time is in Unix seconds, 0 for never."""

    created_height: int
    modified_height: int
    modified_tx: int
    expires_at: int
    previous_record_hash: bytes
    value_hash: bytes


def decode_record(data: bytes) -> Record:
    """Reads the 93 bytes of a record."""
    reader = Reader(data)
    reader.version(1, "record")
    record = Record(
        reader.u64("created height"),
        reader.u64("modified height"),
        reader.u32("place in the block"),
        reader.u64("expiry time"),
        reader.digest("previous record"),
        reader.digest("value hash"),
    )
    reader.finish()
    return record


def state_leaf(key: bytes, record: bytes) -> bytes:
    """The leaf of the state tree for a key with a record."""
    return leaf(b"\x20" + plain(key) + b"\x20" + plain(record))


def check_key_length(key: bytes, kind: str) -> None:
    """A state key has 1 to 2,048 bytes."""
    if not 1 <= len(key) <= STATE_KEY_BYTES_MAX:
        raise Refused(kind, f"{len(key)} bytes")


def check_state_key(key: bytes) -> None:
    """A key that somebody asks for has a legal length and begins with a known byte."""
    check_key_length(key, "Invalid")
    if key[0] > LAST_TAG:
        raise Refused("Invalid", f"a state key that begins with {key[0]:#04x}")


@dataclass(frozen=True)
class Descriptor:
    """What a vault says about itself, under the state key 0x00."""

    namespace: int
    vault: int
    log_epoch: int
    last_recovery_height: int
    old_note: bytes


def decode_descriptor(data: bytes) -> Descriptor:
    """Reads the 65 bytes of a descriptor's value."""
    reader = Reader(data)
    reader.version(1, "descriptor")
    descriptor = Descriptor(
        reader.u64("namespace"),
        reader.u64("vault"),
        reader.u64("log epoch"),
        reader.u64("last recovery"),
        reader.digest("note before it"),
    )
    reader.finish()
    return descriptor
