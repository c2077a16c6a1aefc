"""List proofs: everything below a prefix in key order, in one answer or in a chain of pages.

Root, prefix and time come from the caller and stay the same from a list's first answer to its last.
Must never give out a list as complete before its last answer was verified.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Optional, Union

from .hashes import branch
from .records import (
    RECORD_BYTES,
    STATE_KEY_BYTES_MAX,
    Record,
    check_key_length,
    decode_record,
    state_leaf,
)
from .state_tree import (
    KEY_BITS,
    KeyProof,
    first_difference,
    fold,
    key_bit,
    read_key_proof,
    verify_key,
)
from .wire import DIGEST_BYTES, Reader, Refused, refused_as

# Leaves of one answer: ten thousand, and the one that a further page repeats.
LEAVES_MAX = 10_001
FORM_EMPTY, FORM_WHOLE, FORM_PAGE = 1, 2, 3
# From the root down, each a bit and the digest of one side of the branch on that bit.
Steps = list[tuple[int, bytes]]


@dataclass(frozen=True)
class ListedLeaf:
    """A leaf of a list as it came: its key and the bytes of its record."""

    key: bytes
    record: bytes

    def hash(self) -> bytes:
        """Its hash in the state tree."""
        return state_leaf(self.key, self.record)


@dataclass(frozen=True)
class EmptyList:
    """Nothing begins with the prefix."""

    proof: KeyProof


@dataclass(frozen=True)
class WholeList:
    """Everything that begins with the prefix, and the way down to it."""

    path: Steps
    leaves: list[ListedLeaf]


@dataclass(frozen=True)
class Page:
    """Some leaves next to each other, and what lies on both sides of them."""

    left: Steps
    right: Steps
    leaves: list[ListedLeaf]


ListAnswer = Union[EmptyList, WholeList, Page]


@dataclass(frozen=True)
class Listed:
    """An entry of a verified list."""

    key: bytes
    record: Record


def decode_list_answer(data: bytes) -> ListAnswer:
    """Reads one answer."""
    reader = Reader(data)
    answer = read_list_answer(reader)
    reader.finish()
    return answer


def read_list_answer(reader: Reader) -> ListAnswer:
    """Reads one answer, and leaves what follows it."""
    form = reader.u8("form")
    answer: ListAnswer
    if form == FORM_EMPTY:
        answer = EmptyList(read_key_proof(reader))
    elif form == FORM_WHOLE:
        answer = WholeList(_read_steps(reader, "path"), _read_leaves(reader))
    elif form == FORM_PAGE:
        left, right = _read_steps(reader, "left"), _read_steps(reader, "right")
        answer = Page(left, right, _read_leaves(reader))
    else:
        raise Refused("UnknownValue", f"form {form}")
    return answer


def _read_steps(reader: Reader, field: str) -> Steps:
    count = reader.count(reader.u16(field), KEY_BITS, 2 + DIGEST_BYTES, field)
    return [(reader.u16("bit"), reader.digest("side")) for _ in range(count)]


def _read_leaves(reader: Reader) -> list[ListedLeaf]:
    count = reader.count(reader.u16("leaves"), LEAVES_MAX, 2 + RECORD_BYTES, "leaves")
    return [_read_leaf(reader) for _ in range(count)]


def _read_leaf(reader: Reader) -> ListedLeaf:
    key = reader.str16(STATE_KEY_BYTES_MAX, "leaf key")
    return ListedLeaf(key, reader.take(RECORD_BYTES, "leaf record"))


def verify_empty(prefix: bytes, empty: EmptyList, root: bytes) -> None:
    """Checks that no key under this state root begins with the prefix."""
    check_key_length(prefix, "PrefixLength")
    with refused_as("Key"):
        verify_key(prefix, empty.proof, root)
    if empty.proof.leaf_key.startswith(prefix):
        raise Refused("NotEmpty", empty.proof.leaf_key.hex())


def verify_whole(prefix: bytes, whole: WholeList, root: bytes) -> list[Listed]:
    """Checks that the leaves are all of those under this state root that begin with the prefix."""
    check_key_length(prefix, "PrefixLength")
    _check_bits(whole.path, prefix_bits(prefix), "BitBeyondPrefix")
    listed = _good_leaves(prefix, whole.leaves)
    first, *rest = whole.leaves
    computed = fold(first.hash(), _separated(first, rest))
    for bit, side in reversed(whole.path):
        ones = key_bit(prefix, bit) == 1
        computed = branch(bit, side, computed) if ones else branch(bit, computed, side)
    if computed != root:
        raise Refused("WrongRoot")
    return listed


def verify_page(prefix: bytes, page: Page, root: bytes) -> list[Listed]:
    """Checks that the leaves are next to each other under this state root, below the prefix."""
    check_key_length(prefix, "PrefixLength")
    for steps in (page.left, page.right):
        _check_bits(steps, KEY_BITS, "BitOutOfRange")
    listed = _good_leaves(prefix, page.leaves)
    first, *rest = page.leaves
    last = page.leaves[-1]
    for bit, _ in page.left:
        if key_bit(first.key, bit) == 0:
            raise Refused("NotLeft", f"bit {bit}")
    for bit, _ in page.right:
        if key_bit(last.key, bit) == 1:
            raise Refused("NotRight", f"bit {bit}")
    # A side on the left comes before its separator, the first leaf after the last of these.
    sides = [side for _, side in page.left] + [first.hash()]
    separated = list(zip((bit for bit, _ in page.left), sides[1:]))
    separated += [*_separated(first, rest), *reversed(page.right)]
    if fold(sides[0], separated) != root:
        raise Refused("WrongRoot")
    return listed


def prefix_bits(prefix: bytes) -> int:
    """How many of their first bits the keys that begin with this prefix have in common."""
    return 9 * len(prefix)


def is_first(prefix: bytes, page: Page) -> bool:
    """Nothing of the list comes before the page."""
    return all(bit < prefix_bits(prefix) for bit, _ in page.left)


def is_last(prefix: bytes, page: Page) -> bool:
    """Nothing of the list comes after the page."""
    return all(bit < prefix_bits(prefix) for bit, _ in page.right)


def _check_bits(steps: Steps, end: int, beyond: str) -> None:
    before = -1
    for bit, _ in steps:
        if bit <= before:
            raise Refused("BitsNotIncreasing", f"{bit} after {before}")
        if bit >= end:
            raise Refused(beyond, str(bit))
        before = bit


def _good_leaves(prefix: bytes, leaves: list[ListedLeaf]) -> list[Listed]:
    if not leaves:
        raise Refused("NoLeaves")
    listed: list[Listed] = []
    for leaf in leaves:
        if len(leaf.key) > STATE_KEY_BYTES_MAX:
            raise Refused("LeafKeyLength", f"{len(leaf.key)} bytes")
        if not leaf.key.startswith(prefix):
            raise Refused("OutsidePrefix", leaf.key.hex())
        if listed and leaf.key <= listed[-1].key:
            raise Refused("NotAscending", leaf.key.hex())
        with refused_as("Record"):
            listed.append(Listed(leaf.key, decode_record(leaf.record)))
    return listed


def _separated(before: ListedLeaf, leaves: Iterable[ListedLeaf]) -> Iterable[tuple[int, bytes]]:
    """The hash of each leaf with the bit that separates it from the leaf before."""
    for leaf in leaves:
        yield first_difference(before.key, leaf.key), leaf.hash()
        before = leaf


class ListCheck:
    """The verification of one list, answer by answer."""

    def __init__(self, prefix: bytes, time: int, root: bytes) -> None:
        """`time` is what records expire at or before, in Unix seconds."""
        self._prefix = prefix
        self._time = time
        self._root = root
        self._last_leaf: Optional[ListedLeaf] = None
        self._complete = False

    @property
    def complete(self) -> bool:
        """Whether the last answer of the list was verified."""
        return self._complete

    def add(self, answer: ListAnswer) -> list[Listed]:
        """The entries that the next answer adds, without those that have expired."""
        return [entry for entry in self.add_all(answer) if not self.expired(entry.record)]

    def add_all(self, answer: ListAnswer) -> list[Listed]:
        """The entries that the next answer adds, with those that have expired."""
        if self._complete:
            raise Refused("AfterTheLast")
        if self._last_leaf is None:
            return self._begin(answer)
        return self._go_on(answer, self._last_leaf)

    def finish(self) -> None:
        """The list is over: it must be complete."""
        if not self._complete:
            raise Refused("Unfinished")

    def _begin(self, answer: ListAnswer) -> list[Listed]:
        if isinstance(answer, Page):
            listed = verify_page(self._prefix, answer, self._root)
            if not is_first(self._prefix, answer):
                raise Refused("NotTheFirst")
            self._keep(answer)
            return listed
        if isinstance(answer, EmptyList):
            verify_empty(self._prefix, answer, self._root)
            listed = []
        else:
            listed = verify_whole(self._prefix, answer, self._root)
        self._complete = True
        return listed

    def _go_on(self, answer: ListAnswer, before: ListedLeaf) -> list[Listed]:
        if not isinstance(answer, Page):
            raise Refused("NotAPage")
        listed = verify_page(self._prefix, answer, self._root)
        if answer.leaves[0] != before:
            raise Refused("NotTheNext", answer.leaves[0].key.hex())
        if len(answer.leaves) == 1 and not is_last(self._prefix, answer):
            raise Refused("NothingAdded")
        self._keep(answer)
        return listed[1:]

    def _keep(self, page: Page) -> None:
        self._last_leaf = page.leaves[-1]
        self._complete = is_last(self._prefix, page)

    def expired(self, record: Record) -> bool:
        """Whether a record has expired at the time of the list."""
        return record.expires_at != 0 and record.expires_at <= self._time


def verify_list(prefix: bytes, time: int, root: bytes, answers: Iterable[bytes]) -> list[Listed]:
    """The entries of a complete list that have not expired at `time`, from all of its answers."""
    check = ListCheck(prefix, time, root)
    listed: list[Listed] = []
    for answer in answers:
        listed += check.add(decode_list_answer(answer))
    check.finish()
    return listed
