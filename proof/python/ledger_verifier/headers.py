"""Block headers and block hashes."""

from __future__ import annotations

from dataclasses import dataclass

from .hashes import leaf
from .wire import Reader, Refused

HEADER_BYTES = 200
MAGIC = b"vault-block/v1\x00\x00"
FLAG_RECOVERY = 1


@dataclass(frozen=True)
class Header:
    """The fields of a header. Block time is in Unix nanoseconds."""

    namespace: int
    vault: int
    height: int
    previous_hash: bytes
    tx_root: bytes
    tx_count: int
    flags: int
    state_root: bytes
    state_keys: int
    timestamp_ns: int
    shard: int
    term: int
    index: int
    block_hash: bytes

    @property
    def time_seconds(self) -> int:
        """Block time in whole seconds."""
        return self.timestamp_ns // 1_000_000_000


def decode_header(data: bytes) -> Header:
    """Reads the 200 bytes of a header."""
    reader = Reader(data)
    reader.magic(MAGIC)
    namespace, vault = reader.u64("namespace"), reader.u64("vault")
    height = reader.u64("height")
    previous_hash, tx_root = reader.digest("previous hash"), reader.digest("transaction root")
    tx_count, flags = reader.u32("transactions"), reader.u32("flags")
    if flags & ~FLAG_RECOVERY:
        raise Refused("UnknownValue", f"flags {flags:#x}")
    state_root, state_keys = reader.digest("state root"), reader.u64("leaves")
    timestamp_ns = reader.u64("block time")
    shard, term, index = reader.u64("group"), reader.u64("term"), reader.u64("index")
    reader.zeros(16, "reserved bytes")
    reader.finish()
    return Header(
        namespace, vault, height, previous_hash, tx_root, tx_count, flags, state_root, state_keys,
        timestamp_ns, shard, term, index, leaf(data),
    )  # fmt: skip
