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
from .verified_read import (
    Block,
    BlockProof,
    Known,
    ReadAt,
    Trust,
    expiry_clock,
    read_block,
    verify_block,
)
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


@dataclass(frozen=True)
class ListPage:
    """A page of a list: its proof, and a value for each new leaf."""

    answer: ListAnswer
    values: list[bytes]


@dataclass(frozen=True)
class VerifiedList:
    """The first answer of a list: a block proof and a page."""

    block: BlockProof
    page: ListPage


def decode_verified_list(data: bytes) -> VerifiedList:
    """Reads the first package of a list."""
    reader = Reader(data)
    reader.magic(FIRST_MAGIC)
    block = read_block(reader)
    page = _read_page(reader)
    reader.finish()
    return VerifiedList(block, page)


def decode_list_page(data: bytes) -> ListPage:
    """Reads a later package of a list."""
    reader = Reader(data)
    reader.magic(PAGE_MAGIC)
    page = _read_page(reader)
    reader.finish()
    return page


def verify_verified_list(
    first: VerifiedList,
    later: Iterable[ListPage],
    prefix: bytes,
    origin: Origin,
    at: ReadAt,
    trust: Trust,
    known: Optional[Known],
) -> tuple[Block, list[Item]]:
    """Checks a whole list: the block of its first answer, and every page under its state root."""
    block = verify_block(first.block, origin, at, trust, known)
    clock = expiry_clock(block.header, at, trust.now)
    check = ListCheck(prefix, clock, block.header.state_root)
    items = _add(check, first.page)
    for page in later:
        items += _add(check, page)
    with refused_as("List"):
        check.finish()
    return block, items


def _read_page(reader: Reader) -> ListPage:
    answer = read_list_answer(reader)
    count = reader.count(reader.u16("values"), VALUES_MAX, 4, "values")
    return ListPage(answer, [reader.str32(VALUE_BYTES_MAX, "value") for _ in range(count)])


def _add(check: ListCheck, page: ListPage) -> list[Item]:
    with refused_as("List"):
        listed = check.add_all(page.answer)
    if len(listed) != len(page.values):
        raise Refused("ValueCount", f"{len(page.values)} for {len(listed)} new leaves")
    items = []
    for entry, value in zip(listed, page.values):
        if plain(value) != entry.record.value_hash:
            raise Refused("ValueMismatch", entry.key.hex())
        if not check.expired(entry.record):
            items.append(Item(entry.key, entry.record, value))
    return items
