"""The hashes of the format. Nothing else in this package calls SHA-256."""

from __future__ import annotations

import hashlib


def plain(data: bytes) -> bytes:
    """`H`, without a byte that tells what is hashed."""
    return hashlib.sha256(data).digest()


def leaf(data: bytes) -> bytes:
    """A transaction, a block header or a leaf of the state tree."""
    return plain(b"\x00" + data)


def node(left: bytes, right: bytes) -> bytes:
    """An inner node of a list tree."""
    return plain(b"\x01" + left + right)


def branch(bit: int, zeros: bytes, ones: bytes) -> bytes:
    """A branch of the state tree."""
    return plain(b"\x02" + bit.to_bytes(2, "big") + zeros + ones)


# The root of a tree or log with nothing in it.
EMPTY_ROOT = plain(b"")
