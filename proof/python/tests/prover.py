"""What nodes and `ledger-cli` would make: roots, paths, notes, reads and proof files.

Written from the definitions alone, slow and recursive, and with nothing of the verifier but its
hashes, so that a mistake there does not agree with itself here.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Optional

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledger_verifier.hashes import branch, leaf, node, plain

DOMAIN = "test.ledger"
NOW = 1_900_000_000
ZERO = bytes(32)
Entries = dict[bytes, bytes]


def u16(value: int) -> bytes:
    """Two bytes, big-endian."""
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    """Four bytes, big-endian."""
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    """Eight bytes, big-endian."""
    return value.to_bytes(8, "big")


def str16(data: bytes) -> bytes:
    """Bytes behind their length."""
    return u16(len(data)) + data


def str32(data: bytes) -> bytes:
    """Bytes behind their length."""
    return u32(len(data)) + data


def digests(path: list[bytes]) -> bytes:
    """A path behind its length."""
    return u16(len(path)) + b"".join(path)


def bits(key: bytes, count: int) -> str:
    """The first `count` bits of a key, written out."""
    return "".join("1" + format(byte, "08b") for byte in key).ljust(count, "0")[:count]


def split(entries: Entries) -> tuple[int, Entries, Entries]:
    """The lowest bit on which two keys differ, and the entries on its two sides."""
    length = 9 * max(len(key) for key in entries)
    written = {key: bits(key, length) for key in entries}
    bit = next(i for i in range(length) if len({text[i] for text in written.values()}) == 2)
    zeros = {key: record for key, record in entries.items() if written[key][bit] == "0"}
    ones = {key: record for key, record in entries.items() if written[key][bit] == "1"}
    return bit, zeros, ones


def state_root(entries: Entries) -> bytes:
    """The state root by its definition."""
    if not entries:
        return plain(b"")
    if len(entries) == 1:
        ((key, record),) = entries.items()
        return leaf(b"\x20" + plain(key) + b"\x20" + plain(record))
    bit, zeros, ones = split(entries)
    return branch(bit, state_root(zeros), state_root(ones))


def prove_key(entries: Entries, key: bytes) -> bytes:
    """The encoded key proof: down from the root on the sides of the key's own bits."""
    steps = b""
    count = 0
    while len(entries) > 1:
        bit, zeros, ones = split(entries)
        goes_right = bits(key, bit + 1)[bit] == "1"
        entries, other = (ones, zeros) if goes_right else (zeros, ones)
        steps += u16(bit) + state_root(other)
        count += 1
    ((leaf_key, record),) = entries.items()
    return u16(count) + steps + str16(leaf_key) + record


@dataclass
class ListParts:
    """An answer of a list with leaves, taken apart. `right` is missing in a whole list."""

    left: list[tuple[int, bytes]]
    right: Optional[list[tuple[int, bytes]]]
    leaves: list[tuple[bytes, bytes]]

    def encoded(self) -> bytes:
        """Its bytes."""
        leaves = u16(len(self.leaves)) + b"".join(str16(key) + rec for key, rec in self.leaves)
        if self.right is None:
            return b"\x02" + steps(self.left) + leaves
        return b"\x03" + steps(self.left) + steps(self.right) + leaves


def steps(sides: list[tuple[int, bytes]]) -> bytes:
    """Steps behind their number."""
    return u16(len(sides)) + b"".join(u16(bit) + side for bit, side in sides)


def whole_list(entries: Entries, prefix: bytes) -> ListParts:
    """All below a prefix that something begins with: down while anything else is there."""
    path = []
    while any(not key.startswith(prefix) for key in entries):
        bit, zeros, ones = split(entries)
        goes_right = bits(prefix, bit + 1)[bit] == "1"
        entries, other = (ones, zeros) if goes_right else (zeros, ones)
        path.append((bit, state_root(other)))
    return ListParts(path, None, sorted(entries.items()))


def page(entries: Entries, first: bytes, last: bytes) -> ListParts:
    """All from one key to another, and every side of the ways to these two that lies outside."""
    leaves = sorted((key, record) for key, record in entries.items() if first <= key <= last)
    left, right = [], []
    below = entries
    while len(below) > 1:
        bit, zeros, ones = split(below)
        if first in ones:
            left.append((bit, state_root(zeros)))
        below = ones if first in ones else zeros
    below = entries
    while len(below) > 1:
        bit, zeros, ones = split(below)
        if last in zeros:
            right.append((bit, state_root(ones)))
        below = zeros if last in zeros else ones
    return ListParts(left, right, leaves)


def one_answer(entries: Entries, prefix: bytes) -> bytes:
    """A list in one answer, whole or empty."""
    if any(key.startswith(prefix) for key in entries):
        return whole_list(entries, prefix).encoded()
    return b"\x01" + prove_key(entries, prefix)


def pages(entries: Entries, keys: list[bytes], added: int) -> list[bytes]:
    """A list of these keys in pages, each of which adds `added` keys or the last few."""
    answers, start = [], 0
    while True:
        end = min(start + added - (not answers), len(keys) - 1)
        answers.append(page(entries, keys[start], keys[end]).encoded())
        if end == len(keys) - 1:
            return answers
        start = end


def list_root(leaves: list[bytes]) -> bytes:
    """The root of a list tree by its definition."""
    if len(leaves) < 2:
        return leaves[0] if leaves else plain(b"")
    half = _half(len(leaves))
    return node(list_root(leaves[:half]), list_root(leaves[half:]))


def inclusion_path(leaves: list[bytes], index: int) -> list[bytes]:
    """The hashes beside the way from a leaf to the root."""
    if len(leaves) == 1:
        return []
    half = _half(len(leaves))
    if index < half:
        return inclusion_path(leaves[:half], index) + [list_root(leaves[half:])]
    return inclusion_path(leaves[half:], index - half) + [list_root(leaves[:half])]


def consistency_path(leaves: list[bytes], old: int) -> list[bytes]:
    """The hashes that show how the first `old` leaves begin the list."""
    return [] if old in (0, len(leaves)) else _subpath(leaves, old, True)


def _subpath(leaves: list[bytes], old: int, is_whole: bool) -> list[bytes]:
    if old == len(leaves):
        return [] if is_whole else [list_root(leaves)]
    half = _half(len(leaves))
    if old <= half:
        return _subpath(leaves[:half], old, is_whole) + [list_root(leaves[half:])]
    return _subpath(leaves[half:], old - half, False) + [list_root(leaves[:half])]


def _half(count: int) -> int:
    half = 1
    while half * 2 < count:
        half *= 2
    return half


@dataclass
class NodeKey:
    """A node that signs: the number in its name is the byte that its seed repeats."""

    number: int

    @property
    def name(self) -> str:
        """Its name without the domain."""
        return f"n{self.number}"

    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(bytes([self.number]) * 32)

    def public_key(self) -> bytes:
        """Its public key."""
        return self._key().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def cosign(self, text: str, time: int) -> str:
        """The line of its cosignature."""
        message = f"cosignature/v1\ntime {time}\n{text}".encode()
        name = f"{DOMAIN}/node/{self.name}"
        return self._line(name, b"\x04", u64(time) + self._key().sign(message))

    def sign_log(self, text: str) -> str:
        """The line of its signature in the log's name."""
        return self._line(text.split("\n")[0], b"\x01", self._key().sign(text.encode()))

    def _line(self, name: str, kind: bytes, payload: bytes) -> str:
        key_id = plain(name.encode() + b"\n" + kind + self.public_key())[:4]
        return f"\u2014 {name} {base64.b64encode(key_id + payload).decode()}\n"


def bundle(numbers: list[int], fixed: Optional[int] = None, **changes: int) -> bytes:
    """A trust bundle with these nodes as voters; a majority counts unless a number is given."""
    fields = {"sequence": 1, "expires_at": NOW + 1000, "floor": 1, "log_epoch": 0} | changes
    voters = b"".join(
        u64(number) + str16(f"n{number}".encode()) + NodeKey(number).public_key()
        for number in numbers
    )
    return (
        b"trust-bundle/v1\x00"
        + str16(DOMAIN.encode())
        + u64(fields["sequence"])
        + u64(NOW - 1000)
        + u64(fields["expires_at"])
        + u64(fields["log_epoch"])
        + (b"\x01" if fixed is None else b"\x02" + u16(fixed))
        + u16(fields["floor"])
        + u64(60)
        + u64(10)
        + u16(len(numbers))
        + voters
    )


@dataclass
class Log:
    """The log and the state of one vault."""

    namespace: int
    vault: int
    rows: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)
    headers: list[bytes] = field(default_factory=list)
    # The rows after each block, and its transactions.
    past: list[dict[bytes, tuple[bytes, bytes]]] = field(default_factory=list)
    bodies: list[list[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        descriptor = b"\x01" + u64(self.namespace) + u64(self.vault) + u64(0) + u64(0) + ZERO
        self.commit({b"\x00": descriptor})

    def commit(
        self,
        changes: dict[bytes, bytes],
        expires_at: int = 0,
        transactions: Optional[list[bytes]] = None,
    ) -> None:
        """Adds a block that sets these keys and says that it holds these transactions."""
        body = transactions or []
        height = len(self.headers)
        for key, value in changes.items():
            record = b"\x01" + u64(height) + u64(height) + u32(0) + u64(expires_at)
            self.rows[key] = (record + ZERO + plain(value), value)
        previous = leaf(self.headers[-1]) if self.headers else ZERO
        self.headers.append(
            b"vault-block/v1\x00\x00"
            + u64(self.namespace)
            + u64(self.vault)
            + u64(height)
            + previous
            + list_root([leaf(transaction) for transaction in body])
            + u32(len(body))
            + u32(0)
            + state_root(self.records())
            + u64(len(self.rows))
            + u64((NOW - 20) * 1_000_000_000)
            + u64(3)
            + u64(2)
            + u64(height + 5)
            + bytes(16)
        )
        self.past.append(dict(self.rows))
        self.bodies.append(body)

    def records(self) -> Entries:
        """The records by key."""
        return {key: record for key, (record, _) in self.rows.items()}

    def leaves(self) -> list[bytes]:
        """The block hashes."""
        return [leaf(header) for header in self.headers]

    def checkpoint(self) -> str:
        """The text that is signed."""
        root = base64.b64encode(list_root(self.leaves())).decode()
        origin = f"{DOMAIN}/ns/{self.namespace}/vault/{self.vault}/0"
        return f"{origin}\n{len(self.headers)}\n{root}\n"

    def note(self, signers: list[int], time: int = NOW) -> bytes:
        """The checkpoint with a line in the log's name and the cosignatures."""
        text = self.checkpoint()
        lines = [NodeKey(signers[0]).sign_log(text)]
        lines += [NodeKey(number).cosign(text, time) for number in signers]
        return (text + "\n" + "".join(lines)).encode()

    def block(self, height: int, signers: list[int]) -> bytes:
        """Note, header and header path of a block, without growth."""
        path = inclusion_path(self.leaves(), height)
        return str16(self.note(signers)) + self.headers[height] + digests(path) + b"\x00"

    def read(
        self, keys: list[bytes], signers: list[int], height: Optional[int] = None
    ) -> bytes:
        """A verified read of the last block, or of one at a height."""
        height = len(self.headers) - 1 if height is None else height
        items = b"".join(self._item(key, height) for key in keys)
        return b"verified-read/v1" + self.block(height, signers) + u16(len(keys)) + items

    def _item(self, key: bytes, height: int) -> bytes:
        rows = self.past[height]
        value = b"\x01" + str32(rows[key][1]) if key in rows else b"\x00"
        return prove_key({key: record for key, (record, _) in rows.items()}, key) + value

    def receipt(self, height: int, index: int, signers: list[int]) -> bytes:
        """The receipt of a transaction of a block."""
        body = self.bodies[height]
        path = inclusion_path([leaf(transaction) for transaction in body], index)
        proof = self.block(height, signers)
        return b"write-receipt/v1" + proof + str32(body[index]) + u32(index) + digests(path)

    def listed(self, prefix: bytes, signers: list[int], added: int = 0) -> list[bytes]:
        """The packages of a list: one answer, or pages that each add some items."""
        records = self.records()
        keys = sorted(key for key in records if key.startswith(prefix))
        answers = pages(records, keys, added) if added else [one_answer(records, prefix)]
        packages, start = [], 0
        for place, answer in enumerate(answers):
            end = min(start + added, len(keys)) if added else len(keys)
            values = b"".join(str32(self.rows[key][1]) for key in keys[start:end])
            package = answer + u16(end - start) + values
            first = b"verified-list/v1" + self.block(len(self.headers) - 1, signers)
            packages.append((b"list-page/v1\0\0\0\0" if place else first) + package)
            start = end
        return packages


def entity(key: str) -> bytes:
    """The state key of an entity."""
    return b"\x01" + key.encode()


@dataclass
class Cluster:
    """A directory that names the nodes which vote in shard 3, and vault 7/9 on that shard."""

    voters: list[int]
    system: Log = field(init=False)
    vault: Log = field(init=False)

    def __post_init__(self) -> None:
        self.system = Log(0, 0)
        self.vault = Log(7, 9)
        self.vault.commit({entity("config"): b"{}", entity("other"): b"x"})
        self.system.commit(
            {
                entity("vault/7/9"): self.vault_entity(),
                entity("shard/3"): self.shard_entity(),
                **{entity(f"node/{number}"): self.node_entity(number) for number in self.voters},
            }
        )

    def vault_entity(self, vault: int = 9) -> bytes:
        """The vault's entity."""
        ids = u64(7) + u64(vault) + u64(3) + u64(1) + u64(0)
        return b"\x01" + ids + b"\x02" + u64(1) + b"\x01" + u64(0)

    def shard_entity(self, old: Optional[list[int]] = None) -> bytes:
        """The shard's entity: the voters in the new set, and an old set if there is one."""
        nodes = sorted({*self.voters, *(old or [])})
        replicas = b""
        for number in nodes:
            sets = 2 * (number in self.voters) + (number in (old or []))
            replicas += u64(number) + u64(100 + number) + b"\x01" + bytes([sets])
        return b"\x01" + u64(3) + u64(1) + u16(len(nodes)) + replicas

    def node_entity(self, number: int) -> bytes:
        """A node's entity."""
        key = NodeKey(number)
        named = b"\x01" + u64(number) + str16(key.name.encode()) + bytes(16) + str16(b"host:1")
        return named + key.public_key() + b"\x01" + str16(b"")

    def steps(self, keys: list[bytes], signers: list[int]) -> list[bytes]:
        """The steps of a proof file for a read of the vault."""
        nodes = [entity(f"node/{number}") for number in sorted(self.voters)]
        directory = [[entity("vault/7/9")], [entity("shard/3")], nodes]
        steps = [step(0, 0, asked, self.system.read(asked, signers)) for asked in directory]
        return steps + [step(7, 9, keys, self.vault.read(keys, signers))]


def step(namespace: int, vault: int, keys: list[bytes], read: bytes) -> bytes:
    """One step of a proof file."""
    asked = u16(len(keys)) + b"".join(str16(key) for key in keys)
    return u64(namespace) + u64(vault) + asked + str32(read)


def proof_file(steps: list[bytes]) -> bytes:
    """A proof file."""
    return b"saved-proof/v1\x00\x00" + bytes([len(steps)]) + b"".join(steps)


def other_file(directory: list[bytes], kind: int, answer: bytes) -> bytes:
    """A proof file of the second form."""
    begin = b"saved-proof/v2\x00\x00" + bytes([len(directory)]) + b"".join(directory)
    return begin + bytes([kind]) + answer


def transaction(number: int, key: str) -> bytes:
    """A transaction that created an entity. Its id repeats a byte."""
    text = key.encode()
    operation = b"\x01" + str32(text) + str32(b"{}") + u64(0) + b"\x00" + b"\x01"
    head = b"\x01" + bytes([number]) * 16 + str16(b"writer") + b"\x00" + u64(0) + str16(b"")
    return head + u64((NOW - 20) * 1_000_000_000) + u32(1) + operation
