"""Verified lists: a first answer with its block, and pages after it, each with its values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Optional

from .hashes import plain
from .list_proof import ListAnswer, ListCheck, read_list_answer
from .notes import Origin
from .records import Record
from .transactions import VALUE_BYTES_MAX
from .verified_read import Block, Known, ReadAt, Trust, expiry_clock, read_block, verify_block
from .wire import Reader, Refused, refused_as

FIRST_MAGIC = b"verified-list/v1"
PAGE_MAGIC = b"list-page/v1\0\0\0\0"
VALUES_MAX = 10_000


@dataclass(frozen=True)
class Item:
    """An item of a list that holds."""

    key: bytes
    record: Record
    value: bytes


def verify_verified_list(
    first: bytes,
    later: Iterable[bytes],
    prefix: bytes,
    origin: Origin,
    at: ReadAt,
    trust: Trust,
    known: Optional[Known],
) -> tuple[Block, list[Item]]:
    """Checks a whole list: the block of its first answer, and every page under its state root."""
    reader = Reader(first)
    reader.magic(FIRST_MAGIC)
    proof = read_block(reader)
    answer, values = _read_page(reader)
    reader.finish()
    block = verify_block(proof, origin, at, trust, known)
    clock = expiry_clock(block.header, at, trust.now)
    check = ListCheck(prefix, clock, block.header.state_root)
    items = _add(check, answer, values)
    for data in later:
        reader = Reader(data)
        reader.magic(PAGE_MAGIC)
        answer, values = _read_page(reader)
        reader.finish()
        items += _add(check, answer, values)
    with refused_as("List"):
        check.finish()
    return block, items


def _read_page(reader: Reader) -> tuple[ListAnswer, list[bytes]]:
    answer = read_list_answer(reader)
    count = reader.count(reader.u16("values"), VALUES_MAX, 4, "values")
    return answer, [reader.str32(VALUE_BYTES_MAX, "value") for _ in range(count)]


def _add(check: ListCheck, answer: ListAnswer, values: list[bytes]) -> list[Item]:
    with refused_as("List"):
        listed = check.add_all(answer)
    if len(listed) != len(values):
        raise Refused("ValueCount", f"{len(values)} for {len(listed)} new leaves")
    items = []
    for entry, value in zip(listed, values):
        if plain(value) != entry.record.value_hash:
            raise Refused("ValueMismatch", entry.key.hex())
        if not check.expired(entry.record):
            items.append(Item(entry.key, entry.record, value))
    return items
