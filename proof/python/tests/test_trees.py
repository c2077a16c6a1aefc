"""State trees and list trees against their recursive definitions, and proofs with parts changed."""

from __future__ import annotations

import random
import unittest

from ledger_verifier.block_log import list_root, verify_consistency, verify_inclusion
from ledger_verifier.hashes import EMPTY_ROOT, plain
from ledger_verifier.state_tree import decode_key_proof, first_difference, state_root, verify_key
from ledger_verifier.wire import Refused

from . import prover
from .refusals import reason


def drawn_keys(rng: random.Random, count: int) -> list[bytes]:
    """Keys of few different bytes, so that they share beginnings or begin each other."""
    alphabet = [0, 1, 0x7F, 0x80, 0xFF]
    keys = {bytes(rng.choice(alphabet) for _ in range(rng.randint(1, 6))) for _ in range(3 * count)}
    return rng.sample(sorted(keys), min(count, len(keys)))


def drawn_entries(rng: random.Random, count: int) -> prover.Entries:
    """A record for each of some keys."""
    return {key: b"\x01" + rng.randbytes(92) for key in drawn_keys(rng, count)}


class StateTrees(unittest.TestCase):
    """Roots and key proofs."""

    def test_roots_are_those_of_the_definition(self) -> None:
        rng = random.Random(1)
        for count in [*range(0, 20), 60]:
            entries = drawn_entries(rng, count)
            self.assertEqual(state_root(entries), prover.state_root(entries))
            shuffled = dict(rng.sample(sorted(entries.items()), len(entries)))
            self.assertEqual(state_root(shuffled), state_root(entries))

    def test_long_keys_cost_no_recursion(self) -> None:
        record = b"\x01" + bytes(92)
        entries = {b"\x01" * length: record for length in range(1, 2049)}
        self.assertEqual(len(state_root(entries)), 32)

    def test_the_first_difference_is_that_of_written_out_bits(self) -> None:
        rng = random.Random(2)
        for _ in range(300):
            low, high = sorted(drawn_keys(rng, 2))
            one, other = prover.bits(low, 60), prover.bits(high, 60)
            expected = next(i for i in range(60) if one[i] != other[i])
            self.assertEqual(first_difference(low, high), expected)
            self.assertLess(one, other, "the order of bits is that of bytes")

    def test_every_key_is_proved_present_or_absent(self) -> None:
        rng = random.Random(3)
        for count in [1, 2, 3, 9, 25]:
            entries = drawn_entries(rng, count)
            root = state_root(entries)
            for key in [*entries, *drawn_keys(rng, 20)]:
                proof = decode_key_proof(prover.prove_key(entries, key))
                record = verify_key(key, proof, root)
                self.assertEqual(record is not None, key in entries)
                if record is not None:
                    self.assertEqual(record.value_hash, entries[key][61:])

    def test_no_byte_of_a_proof_can_change(self) -> None:
        rng = random.Random(4)
        entries = drawn_entries(rng, 12)
        root = state_root(entries)
        for key in [next(iter(entries)), b"\x01absent"]:
            honest = prover.prove_key(entries, key)
            for offset in range(len(honest)):
                changed = bytearray(honest)
                changed[offset] ^= 1 << rng.randrange(8)
                with self.assertRaises(Refused, msg=f"byte {offset}"):
                    verify_key(key, decode_key_proof(bytes(changed)), root)

    def test_a_proof_is_of_no_other_key(self) -> None:
        rng = random.Random(5)
        entries = drawn_entries(rng, 15)
        root = state_root(entries)
        for key in entries:
            for other in entries:
                proof = decode_key_proof(prover.prove_key(entries, other))
                if key != other:
                    self.assertNotEqual(reason(verify_key, key, proof, root), "")

    def test_illegal_keys_are_refused(self) -> None:
        entries = {b"\x00": b"\x01" + bytes(92)}
        proof = decode_key_proof(prover.prove_key(entries, b"\x00"))
        for key in [b"", b"\x01" * 2049]:
            refused = reason(verify_key, key, proof, state_root(entries))
            self.assertEqual(refused, "KeyLength")


class ListTrees(unittest.TestCase):
    """Inclusion and consistency for every index and size up to a bound."""

    SIZES = 20

    def setUp(self) -> None:
        self.leaves = [plain(bytes([number])) for number in range(self.SIZES)]
        self.roots = [list_root(self.leaves[:size]) for size in range(self.SIZES + 1)]

    def test_roots_are_those_of_the_definition(self) -> None:
        self.assertEqual(self.roots[0], EMPTY_ROOT)
        for size in range(self.SIZES + 1):
            self.assertEqual(self.roots[size], prover.list_root(self.leaves[:size]))

    def test_an_honest_inclusion_holds_and_only_at_its_place(self) -> None:
        for size in range(1, self.SIZES + 1):
            for index in range(size):
                path = prover.inclusion_path(self.leaves[:size], index)
                leaf, root = self.leaves[index], self.roots[size]
                verify_inclusion(leaf, index, size, path, root)
                for other in range(size):
                    refused = reason(verify_inclusion, leaf, other, size, path, root)
                    self.assertEqual(refused == "", other == index)

    def test_a_changed_inclusion_path_is_refused(self) -> None:
        for size in range(1, self.SIZES + 1):
            for index in range(size):
                path = prover.inclusion_path(self.leaves[:size], index)
                for changed, reasons in changed_paths(path):
                    leaf, root = self.leaves[index], self.roots[size]
                    refused = reason(verify_inclusion, leaf, index, size, changed, root)
                    self.assertIn(refused, reasons)

    def test_an_honest_growth_holds_and_no_other(self) -> None:
        for new in range(self.SIZES + 1):
            for old in range(new + 1):
                path = prover.consistency_path(self.leaves[:new], old)
                self.assertEqual(self.growth(old, new, path), "")
                for changed, _ in changed_paths(path):
                    self.assertNotEqual(self.growth(old, new, changed), "", f"{old} to {new}")

    def test_growth_from_another_root_or_backwards_is_refused(self) -> None:
        for new in range(1, self.SIZES + 1):
            for old in range(new):
                path = prover.consistency_path(self.leaves[:new], old)
                self.assertEqual(self.growth(new, old, path), "SizeShrinks")
                old_root, new_root = plain(b"another"), self.roots[new]
                refused = reason(verify_consistency, old, old_root, new, new_root, path)
                self.assertIn(refused, {"WrongOldRoot", "WrongRoot"})

    def growth(self, old: int, new: int, path: list[bytes]) -> str:
        """Why this path from one size to another is refused, or nothing."""
        return reason(verify_consistency, old, self.roots[old], new, self.roots[new], path)


def changed_paths(path: list[bytes]) -> list[tuple[list[bytes], set[str]]]:
    """A path with one thing wrong, and the reasons that may be given."""
    changed: list[tuple[list[bytes], set[str]]] = [([*path, plain(b"more")], {"TooLong"})]
    if path:
        changed.append((path[:-1], {"TooShort"}))
    for place, digest in enumerate(path):
        other = bytes([digest[0] ^ 1]) + digest[1:]
        changed.append(([*path[:place], other, *path[place + 1 :]], {"WrongRoot"}))
    return changed
