"""The state tree: its root over any set of keys, and proofs that a key is there or is not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Optional

from .hashes import EMPTY_ROOT, branch
from .records import (
    RECORD_BYTES,
    STATE_KEY_BYTES_MAX,
    Record,
    check_key_length,
    decode_record,
    state_leaf,
)
from .wire import Reader, Refused, refused_as

# Bits of the longest key: nine for each of its bytes.
KEY_BITS = 9 * STATE_KEY_BYTES_MAX


def key_bit(key: bytes, bit: int) -> int:
    """Bit `bit` of a key: for each byte a 1 and then its eight bits, and zeros after the last."""
    at, place = divmod(bit, 9)
    if at >= len(key):
        return 0
    return 1 if place == 0 else (key[at] >> (8 - place)) & 1


def first_difference(low: bytes, high: bytes) -> int:
    """The lowest bit on which two different keys differ."""
    if low == high:
        raise ValueError("equal keys have no such bit")
    for at, (one, other) in enumerate(zip(low, high)):
        if one != other:
            return 9 * at + 9 - (one ^ other).bit_length()
    return 9 * min(len(low), len(high))


def state_root(entries: dict[bytes, bytes]) -> bytes:
    """The root over keys and the bytes of their records.

    `tests/test_trees.py` compares it with the recursive definition.
    """
    for key, record in entries.items():
        check_key_length(key, "KeyLength")
        if len(record) != RECORD_BYTES:
            raise Refused("Invalid", f"a record of {len(record)} bytes")
    keys = sorted(entries)
    if not keys:
        return EMPTY_ROOT
    separated = (
        (first_difference(before, key), state_leaf(key, entries[key]))
        for before, key in zip(keys, keys[1:])
    )
    return fold(state_leaf(keys[0], entries[keys[0]]), separated)


def fold(first: bytes, rest: Iterable[tuple[int, bytes]]) -> bytes:
    """The root over subtrees in key order, each after the first with the bit that separates it.

    The bit is that of the branch between a subtree and the one before it. Keeps the branches that
    are still open on the right, so that neither depth nor size costs recursion.
    """
    open_branches: list[tuple[int, bytes]] = []
    current = first
    for bit, subtree in rest:
        while open_branches and open_branches[-1][0] > bit:
            current = branch(*open_branches.pop(), current)
        # Whatever lay between two equal bits and was smaller would be on top now.
        if open_branches and open_branches[-1][0] == bit:
            raise Refused("EqualSeparators", f"bit {bit}")
        open_branches.append((bit, current))
        current = subtree
    while open_branches:
        current = branch(*open_branches.pop(), current)
    return current


@dataclass(frozen=True)
class KeyProof:
    """Steps from the root down, each a bit and the digest of the side not taken, and the leaf."""

    steps: list[tuple[int, bytes]]
    leaf_key: bytes
    leaf_record: bytes


def read_key_proof(reader: Reader) -> KeyProof:
    """Takes a key proof off the front."""
    count = reader.count(reader.u16("steps"), KEY_BITS, 34, "steps")
    steps = [(reader.u16("bit"), reader.digest("side")) for _ in range(count)]
    leaf_key = reader.str16(STATE_KEY_BYTES_MAX, "leaf key")
    return KeyProof(steps, leaf_key, reader.take(RECORD_BYTES, "leaf record"))


def decode_key_proof(data: bytes) -> KeyProof:
    """Reads a key proof that stands alone."""
    reader = Reader(data)
    proof = read_key_proof(reader)
    reader.finish()
    return proof


def verify_key(key: bytes, proof: KeyProof, root: bytes) -> Optional[Record]:
    """The key's record under this state root, or nothing if it is proved absent."""
    check_key_length(key, "KeyLength")
    check_key_length(proof.leaf_key, "LeafKeyLength")
    _check_bits(key, proof)
    with refused_as("Record"):
        record = decode_record(proof.leaf_record)
    computed = state_leaf(proof.leaf_key, proof.leaf_record)
    for bit, side in reversed(proof.steps):
        ones = key_bit(key, bit) == 1
        computed = branch(bit, side, computed) if ones else branch(bit, computed, side)
    if computed != root:
        raise Refused("WrongRoot")
    return record if proof.leaf_key == key else None


def _check_bits(key: bytes, proof: KeyProof) -> None:
    before = -1
    for bit, _ in proof.steps:
        if bit >= KEY_BITS:
            raise Refused("BitOutOfRange", str(bit))
        if bit <= before:
            raise Refused("BitsNotIncreasing", f"{bit} after {before}")
        if key_bit(proof.leaf_key, bit) != key_bit(key, bit):
            raise Refused("LeafElsewhere", f"bit {bit}")
        before = bit
