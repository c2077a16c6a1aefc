"""Every form cut at every place, with a byte too many, and with every byte changed."""

from __future__ import annotations

import json
import random
import unittest
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ledger_verifier.headers import decode_header
from ledger_verifier.records import decode_descriptor, decode_record
from ledger_verifier.state_tree import decode_key_proof
from ledger_verifier.system_entities import ShardEntity, decode_entity
from ledger_verifier.transactions import decode_transaction
from ledger_verifier.trust import decode_bundle
from ledger_verifier.verified_read import decode_known, decode_verified_read
from ledger_verifier.wire import Reader, Refused

from .prover import Cluster, NodeKey, bundle, str16, str32, u32, u64
from .refusals import reason

VECTORS = Path(__file__).resolve().parents[2] / "vectors"
Decoder = Callable[[bytes], Any]


def honest(file: str, field: str) -> list[tuple[str, bytes]]:
    """The inputs of the vectors that are not refused, with the key of a directory entity."""
    vectors = json.loads((VECTORS / f"{file}.json").read_text(encoding="utf-8"))
    chosen = [v for v in vectors if v["expect"] != "refused" and v[field] is not None]
    return [(vector.get("key", ""), bytes.fromhex(vector[field])) for vector in chosen]


def forms() -> list[tuple[str, bytes, Decoder]]:
    """One honest example of each form, with its decoder."""
    plain: list[tuple[str, str, Decoder]] = [
        ("header", "hex", decode_header),
        ("record", "hex", decode_record),
        ("descriptor", "hex", decode_descriptor),
        ("transaction", "hex", decode_transaction),
        ("trust_bundle", "hex", decode_bundle),
        ("key_proof", "proof", decode_key_proof),
        ("verified_read", "answer", decode_verified_read),
        ("verified_read", "known", decode_known),
    ]
    found = [(f, data, d) for f, field, d in plain for _, data in honest(f, field)]
    for key, data in honest("system_entity", "hex"):
        found.append((key, data, partial(decode_entity, key)))
    return found


def transaction(
    operations: list[bytes], client: bytes = b"c", dedup: bytes = b"\x00" + bytes(8)
) -> bytes:
    """A transaction of these operations; `dedup` ends with the assigned sequence."""
    named = b"\x01" + bytes(16) + str16(client) + dedup + str16(b"") + u64(1)
    return named + u32(len(operations)) + b"".join(operations)


class Decoders(unittest.TestCase):
    """One value has one encoding."""

    def test_no_beginning_and_nothing_longer_is_read(self) -> None:
        for name, data, decode in forms():
            decode(data)
            for length in range(len(data)):
                with self.assertRaises(Refused, msg=f"{name} cut to {length}"):
                    decode(data[:length])
            with self.assertRaises(Refused, msg=name) as raised:
                decode(data + b"\x00")
            self.assertEqual(raised.exception.kind, "TrailingBytes")

    def test_a_changed_byte_is_refused_or_says_something_else(self) -> None:
        rng = random.Random(6)
        for name, data, decode in forms():
            if name in ("cluster", "namespace-name/acme", "sequence/node") or "/" in name:
                continue
            said = decode(data)
            for offset in range(len(data)):
                changed = bytearray(data)
                changed[offset] ^= 1 << rng.randrange(8)
                try:
                    other = decode(bytes(changed))
                except Refused:
                    continue
                self.assertNotEqual(other, said, f"{name}: byte {offset}")

    def test_drawn_bytes_are_refused_and_never_crash(self) -> None:
        rng = random.Random(7)
        for _, data, decode in forms():
            for _ in range(40):
                changed = bytearray(data)
                for _ in range(rng.randint(1, 5)):
                    changed[rng.randrange(len(changed))] = rng.choice([0, 1, 0x7F, 0xFF])
                try:
                    decode(bytes(changed))
                except Refused:
                    continue

    def test_ids_must_be_those_of_the_key(self) -> None:
        for key, data in honest("system_entity", "hex"):
            other = key.rsplit("/", 1)[0] + "/77"
            if key == "cluster" or key.startswith(("namespace-name/", "sequence/")):
                continue
            with self.assertRaises(Refused, msg=key):
                decode_entity(other, data)

    def test_rules_between_fields_are_kept(self) -> None:
        cluster = Cluster([1, 2])
        vault, shard = cluster.vault_entity(), cluster.shard_entity()
        voters = bundle([1, 2])
        cases: list[tuple[Decoder, bytes, str]] = [
            # All blocks are kept, and a number of them is given.
            (partial(decode_entity, "vault/7/9"), vault[:-1] + b"\x05", "Invalid"),
            # A set beyond the three bits; the same incarnation twice.
            (partial(decode_entity, "shard/3"), shard[:-1] + b"\x08", "UnknownValue"),
            (partial(decode_entity, "shard/3"), shard[:-3] + b"\x65" + shard[-2:], "Invalid"),
            # Two voters of one name; two of one key.
            (decode_bundle, voters.replace(b"n2", b"n1"), "Invalid"),
            (decode_bundle, voters[:-32] + NodeKey(1).public_key(), "Invalid"),
        ]
        for decode, data, expected in cases:
            self.assertEqual(reason(decode, data), expected, data.hex())
        self.assertEqual(reason(decode_bundle, voters), "")
        self.assertEqual(reason(decode_bundle, bundle([1], sequence=0)), "", "not a reader's rule")
        two_of_a_node = shard[:-18] + u64(1) + shard[-10:]
        entity = decode_entity("shard/3", two_of_a_node)
        assert isinstance(entity, ShardEntity)
        self.assertEqual(entity.voter_node_sets(), [[1, 1]], "one voter for each replica")
        kept = vault[:-9] + b"\x02" + vault[-8:-1] + b"\x05"
        self.assertEqual(reason(decode_entity, "vault/7/9", kept), "")

    def test_rules_of_transactions_are_kept(self) -> None:
        delete = b"\x02" + str32(b"key")
        recovery = b"\x06" + str32(b"who") + str32(b"") + bytes(80)
        cases = [
            (transaction([]), ""),
            (transaction([delete + b"\x03"], client=b""), ""),
            # That an outcome fits its operation is for whoever replays, but for a recovery's.
            (transaction([delete + b"\x05"]), ""),
            (transaction([delete + b"\x07"]), "UnknownValue"),
            (transaction([delete + b"\x00"]), "UnknownValue"),
            (transaction([recovery + b"\x07"]), ""),
            (transaction([recovery + b"\x03"]), "UnknownValue"),
            (transaction([b"\x07"]), "Truncated"),
            (transaction([b"\x07" + delete]), "UnknownValue"),
            (transaction([b"\x02" + str32(b"") + b"\x03"]), "Invalid"),
            (transaction([b"\x02" + str32(b"a\x00b") + b"\x03"]), "Invalid"),
            (transaction([b"\x02" + str32(b"\xff") + b"\x03"]), "NotUtf8"),
            (transaction([b"\x02" + str32(b"a" * 1025) + b"\x03"]), "TooLong"),
            (transaction([], dedup=b"\x00" + u64(1)), "Invalid"),
            (transaction([], dedup=b"\x01" + u64(9) + u64(0)), ""),
            (transaction([], dedup=b"\x03" + u64(0)), "UnknownValue"),
        ]
        for data, expected in cases:
            self.assertEqual(reason(decode_transaction, data), expected, data.hex())

    def test_counts_are_bounded_before_anything_is_read(self) -> None:
        reader = Reader(b"\x00" * 10)
        for count, expected in [(6, "Truncated"), (7, "TooLong")]:
            self.assertEqual(reason(reader.count, count, 6, 2, "items"), expected)
        self.assertEqual(reader.count(5, 6, 2, "items"), 5)
