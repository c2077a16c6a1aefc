"""Lists of drawn states, honest and attacked: what is accepted is what is there, and all of it."""

from __future__ import annotations

import itertools
import json
import random
import unittest
from pathlib import Path

from ledger_verifier.list_proof import (
    ListCheck,
    ListedLeaf,
    Page,
    decode_list_answer,
    verify_list,
    verify_page,
)
from ledger_verifier.state_tree import fold, state_root
from ledger_verifier.wire import Refused

from . import prover
from .prover import ListParts, u16
from .refusals import reason
from .test_trees import drawn_entries, drawn_keys

VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "list_proof.json"


def below(entries: prover.Entries, prefix: bytes) -> list[bytes]:
    """The keys that begin with a prefix, in order."""
    return sorted(key for key in entries if key.startswith(prefix))


def drawn_state(rng: random.Random, count: int) -> prover.Entries:
    """Records for some keys, of which most begin alike, so that there are lists of many lengths."""
    drawn = drawn_entries(rng, count)
    return {(b"\x01" if rng.random() < 0.8 else b"") + key: rec for key, rec in drawn.items()}


def prefixes(rng: random.Random, entries: prover.Entries) -> list[bytes]:
    """All beginnings of the keys, the keys, what goes on after them, and some that are drawn."""
    found = {key[:length] for key in entries for length in range(1, len(key) + 1)}
    return sorted(found | {key + b"\x00" for key in entries} | set(drawn_keys(rng, 8)))


def listed(prefix: bytes, root: bytes, answers: list[bytes], time: int = 0) -> list[bytes]:
    """The keys of a list that is verified."""
    return [entry.key for entry in verify_list(prefix, time, root, answers)]


def changed_answers(honest: bytes, rng: random.Random) -> list[bytes]:
    """An answer with a bit flipped in each of its bytes, one at a time."""
    found = []
    for offset in range(len(honest)):
        changed = bytearray(honest)
        changed[offset] ^= 1 << rng.randrange(8)
        found.append(bytes(changed))
    return found


class HonestLists(unittest.TestCase):
    """Whatever the slow prover makes holds, and lists what the definition lists."""

    def test_every_prefix_in_one_answer(self) -> None:
        rng = random.Random(21)
        lengths = set()
        for count in [1, 2, 3, 9, 25]:
            entries = drawn_state(rng, count)
            root = prover.state_root(entries)
            for prefix in prefixes(rng, entries):
                keys = below(entries, prefix)
                answer = prover.one_answer(entries, prefix)
                self.assertEqual(listed(prefix, root, [answer]), keys)
                lengths.add(min(len(keys), 3))
        self.assertEqual(lengths, {0, 1, 2, 3}, "lists of all kinds were drawn")

    def test_every_prefix_in_pages_of_every_size(self) -> None:
        rng = random.Random(22)
        chains = set()
        for count in [1, 2, 5, 12]:
            entries = drawn_state(rng, count)
            root = prover.state_root(entries)
            for prefix in prefixes(rng, entries):
                keys = below(entries, prefix)
                for added in range(1 + (len(keys) > 1), len(keys) + 2 if keys else 0):
                    answers = prover.pages(entries, keys, added)
                    self.assertEqual(listed(prefix, root, answers), keys)
                    chains.add(len(answers))
        self.assertGreaterEqual(len(chains), 5, "chains of many lengths were drawn")

    def test_expired_leaves_are_dropped_after_they_took_part(self) -> None:
        rng = random.Random(23)
        times = [0, 1, 99, 100, 101, 2**64 - 1]
        keys = sorted(drawn_keys(rng, 18))
        expiry = {key: times[place % len(times)] for place, key in enumerate(keys)}
        records = {
            key: b"\x01" + rng.randbytes(20) + prover.u64(expiry[key]) + rng.randbytes(64)
            for key in keys
        }
        root = prover.state_root(records)
        for prefix in prefixes(rng, records):
            for time in [0, 99, 100, 2**64 - 1]:
                for answers in self.answers(records, prefix):
                    stay = [k for k in below(records, prefix) if not 0 < expiry[k] <= time]
                    self.assertEqual(listed(prefix, root, answers, time), stay)

    def answers(self, entries: prover.Entries, prefix: bytes) -> list[list[bytes]]:
        """A list in one answer and, if there is anything to part, in pages."""
        keys = below(entries, prefix)
        parted = [prover.pages(entries, keys, 2)] if keys else []
        return [[prover.one_answer(entries, prefix)], *parted]

    def test_a_list_of_long_keys_costs_no_recursion(self) -> None:
        entries = {b"\x01" * length: b"\x01" + bytes(92) for length in range(1, 2049)}
        leaves = sorted(entries.items())
        root = state_root(entries)
        answer = ListParts([], None, leaves).encoded()
        self.assertEqual(listed(b"\x01", root, [answer]), [key for key, _ in leaves])


class ForgedLists(unittest.TestCase):
    """Under an honest root no combination of honest parts and no change makes another list."""

    def test_answers_of_other_lists_and_of_an_older_state_make_no_other_list(self) -> None:
        rng = random.Random(31)
        accepted = 0
        reasons = set()
        for _ in range(3):
            entries = drawn_state(rng, 5)
            root = prover.state_root(entries)
            asked = rng.sample(prefixes(rng, entries), 8)
            older = entries | {sorted(entries)[2]: b"\x01" + rng.randbytes(92)}
            pool = self.every_answer(entries, asked) + self.every_answer(older, asked)
            chains = [[answer] for answer in pool]
            chains += rng.sample(list(itertools.product(pool, repeat=2)), 400)
            for prefix in [*asked, *entries]:
                keys = below(entries, prefix)
                for chain in chains:
                    try:
                        self.assertEqual(listed(prefix, root, list(chain)), keys)
                        accepted += 1
                    except Refused as refused:
                        reasons.add(refused.kind)
        self.assertGreater(accepted, 50)
        expected = {"OutsidePrefix", "WrongRoot", "Key", "NotEmpty", "BitBeyondPrefix"}
        chained = {"NotTheFirst", "NotTheNext", "NotAPage", "Unfinished", "AfterTheLast"}
        self.assertLessEqual(chained | expected, reasons)

    def every_answer(self, entries: prover.Entries, asked: list[bytes]) -> list[bytes]:
        """All pages of all keys, and the lists of some prefixes and of every key."""
        pairs = itertools.combinations_with_replacement(sorted(entries), 2)
        found = [prover.page(entries, first, last).encoded() for first, last in pairs]
        found += [prover.one_answer(entries, prefix) for prefix in [*asked, *entries]]
        return found + [b"\x01" + prover.prove_key(entries, key) for key in entries]

    def test_no_byte_of_an_answer_can_change(self) -> None:
        rng = random.Random(32)
        entries = {bytes([1, high, low]): b"\x01" + bytes(92) for high in (5, 6) for low in (1, 2)}
        root = prover.state_root(entries)
        for prefix in [b"\x01\x05", b"\x01\x06", b"\x01\x05\x03"]:
            keys = below(entries, prefix)
            chains = [[prover.one_answer(entries, prefix)]]
            chains += [prover.pages(entries, keys, added) for added in (2, 3) if keys]
            for chain in chains:
                self.assertEqual(listed(prefix, root, chain), keys)
                for place, honest in enumerate(chain):
                    for changed in changed_answers(honest, rng):
                        forged = [*chain[:place], changed, *chain[place + 1 :]]
                        with self.assertRaises(Refused):
                            listed(prefix, root, forged)

    def test_leaves_left_out_added_swapped_or_changed_are_refused(self) -> None:
        rng = random.Random(33)
        tried = set()
        for _ in range(6):
            entries = drawn_state(rng, 14)
            root = prover.state_root(entries)
            for prefix in prefixes(rng, entries):
                keys = below(entries, prefix)
                if not keys:
                    continue
                for parts in [
                    prover.whole_list(entries, prefix),
                    prover.page(entries, keys[0], keys[-1]),
                ]:
                    self.assertEqual(reason(verify_list, prefix, 0, root, [parts.encoded()]), "")
                    for leaves, expected in self.damaged(parts.leaves, prefix):
                        forged = ListParts(parts.left, parts.right, leaves).encoded()
                        self.assertIn(reason(verify_list, prefix, 0, root, [forged]), expected)
                        tried |= expected
        self.assertIn("Record.UnknownValue", tried)

    def damaged(
        self, leaves: list[tuple[bytes, bytes]], prefix: bytes
    ) -> list[tuple[list[tuple[bytes, bytes]], set[str]]]:
        """Leaves with one thing wrong, and the reasons that may be given."""
        key, record = leaves[-1]
        # Fewer leaves have other ends, which may lie on the wrong side of what is beside them.
        ends = {"WrongRoot", "NotLeft", "NotRight"}
        found = [
            ([*leaves, leaves[-1]], {"NotAscending"}),
            ([*leaves, (key + b"\x07", record)], ends),
            ([*leaves, (bytes([prefix[0] ^ 0x40]), record)], {"OutsidePrefix"}),
            ([*leaves[:-1], (key, record[:-1] + bytes([record[-1] ^ 1]))], {"WrongRoot"}),
            ([*leaves[:-1], (key, b"\x02" + record[1:])], {"Record.UnknownValue"}),
        ]
        for place in range(len(leaves)):
            left = [*leaves[:place], *leaves[place + 1 :]]
            found.append((left, ends if left else {"NoLeaves"}))
        if len(leaves) > 1:
            found.append(([leaves[1], leaves[0], *leaves[2:]], {"NotAscending"}))
        return found

    def test_ends_of_a_page_cannot_be_forged(self) -> None:
        rng = random.Random(34)
        tried = 0
        for _ in range(8):
            entries = drawn_state(rng, 12)
            root = prover.state_root(entries)
            prefix = sorted(entries)[6][:1]
            keys = below(entries, prefix)
            inner = 9 * len(prefix)
            for first, last in itertools.combinations_with_replacement(keys, 2):
                parts = prover.page(entries, first, last)
                assert parts.right is not None
                # Bits below the prefix are left out, or made to look as if they were above it.
                for cut in (True, False):
                    left = self.outside(parts.left, inner, cut)
                    right = self.outside(parts.right, inner, cut)
                    if (left, right) == (parts.left, parts.right):
                        self.assertEqual((first, last), (keys[0], keys[-1]))
                        continue
                    tried += 1
                    forged = ListParts(left, right, parts.leaves).encoded()
                    refused = reason(verify_list, prefix, 0, root, [forged])
                    self.assertIn(
                        refused, {"WrongRoot", "NotLeft", "NotRight", "BitsNotIncreasing"}
                    )
        self.assertGreater(tried, 50)

    def outside(
        self, sides: list[tuple[int, bytes]], inner: int, cut: bool
    ) -> list[tuple[int, bytes]]:
        """Steps of which none has a bit below the prefix any more."""
        if cut:
            return [(bit, side) for bit, side in sides if bit < inner]
        return [(min(bit, inner - 1), side) for bit, side in sides]

    def test_another_prefix_gets_nothing_but_its_own_list(self) -> None:
        rng = random.Random(35)
        entries = drawn_state(rng, 20)
        root = prover.state_root(entries)
        asked = prefixes(rng, entries)
        same = 0
        for made_for, wanted in itertools.product(asked, repeat=2):
            answers = [prover.one_answer(entries, made_for)]
            refused = reason(verify_list, wanted, 0, root, answers)
            if refused == "":
                self.assertEqual(below(entries, made_for), below(entries, wanted))
                same += made_for != wanted
        self.assertGreater(same, 0, "some prefixes list the same")


class Rules(unittest.TestCase):
    """Each rule by itself, with the reason that the page names."""

    def setUp(self) -> None:
        record = b"\x01" + bytes(92)
        self.entries = {
            key: record for key in [b"\x01a", b"\x01b1", b"\x01b2", b"\x01b3", b"\x01c", b"\x02"]
        }
        self.root = prover.state_root(self.entries)
        self.keys = below(self.entries, b"\x01b")

    def page(self, first: int, last: int) -> ListParts:
        """A page of the list of what begins with `01 b`."""
        return prover.page(self.entries, self.keys[first], self.keys[last])

    def refused(self, *answers: bytes, prefix: bytes = b"\x01b") -> str:
        """Why a list of these answers is refused."""
        return reason(verify_list, prefix, 0, self.root, answers)

    def test_chains(self) -> None:
        first, second, third = (self.page(*ends).encoded() for ends in [(0, 0), (0, 1), (1, 2)])
        whole, lone = prover.one_answer(self.entries, b"\x01b"), self.page(2, 2).encoded()
        empty = b"\x01" + prover.prove_key(self.entries, b"\x01bx")
        cases = [
            ([first, second, third], ""),
            # A page may be the first and the last.
            ([self.page(0, 2).encoded()], ""),
            ([], "Unfinished"),
            ([first, second], "Unfinished"),
            ([third], "NotTheFirst"),
            ([lone], "NotTheFirst"),
            ([first, third], "NotTheNext"),
            ([first, first, second, third], "NothingAdded"),
            ([first, whole], "NotAPage"),
            ([first, empty], "NotAPage"),
            ([whole, whole], "AfterTheLast"),
            ([whole, third], "AfterTheLast"),
            ([first, second, third, lone], "AfterTheLast"),
        ]
        for answers, expected in cases:
            self.assertEqual(self.refused(*answers), expected)

    def test_a_list_is_complete_after_its_last_page_and_not_before(self) -> None:
        check = ListCheck(b"\x01b", 0, self.root)
        for ends, added, complete in [((0, 1), [0, 1], False), ((1, 2), [2], True)]:
            entries = check.add(decode_list_answer(self.page(*ends).encoded()))
            self.assertEqual([entry.key for entry in entries], [self.keys[at] for at in added])
            self.assertEqual(check.complete, complete)

    def test_pages_of_two_states_make_no_list(self) -> None:
        other = self.entries | {b"\x01b2": b"\x01" + b"\x05" * 92}
        answers = [self.page(0, 1), prover.page(other, b"\x01b2", b"\x01b3")]
        self.assertEqual(self.refused(*(parts.encoded() for parts in answers)), "WrongRoot")

    def test_empty_lists(self) -> None:
        def proof(key: bytes) -> bytes:
            return b"\x01" + prover.prove_key(self.entries, key)

        self.assertEqual(self.refused(proof(b"\x01bx"), prefix=b"\x01bx"), "")
        # The way of the prefix's own bits ends at the first leaf of the list.
        self.assertEqual(self.refused(proof(b"\x01b")), "NotEmpty")
        self.assertEqual(self.refused(proof(b"\x01b1")), "NotEmpty")
        self.assertEqual(self.refused(proof(b"\x01b3")), "Key.LeafElsewhere")
        self.assertEqual(self.refused(proof(b"\x01a")), "Key.LeafElsewhere")
        for prefix in [b"", b"\x01" * 2049]:
            whole = prover.whole_list(self.entries, b"\x01b").encoded()
            for answer in [proof(b"\x01b"), whole, self.page(0, 0).encoded()]:
                self.assertEqual(self.refused(answer, prefix=prefix), "PrefixLength")

    def test_steps(self) -> None:
        parts, digest = self.page(1, 1), bytes(32)
        left, right, leaves = parts.left, parts.right or [], parts.leaves
        whole = prover.whole_list(self.entries, b"\x01b")
        cases = [
            (ListParts(left[::-1], right, leaves), "BitsNotIncreasing"),
            (ListParts(left, [*right, right[-1]], leaves), "BitsNotIncreasing"),
            (ListParts([*left, (9 * 2048, digest)], right, leaves), "BitOutOfRange"),
            (ListParts(left, [*right, (9 * 2048, digest)], leaves), "BitOutOfRange"),
            (ListParts([*left, (9 * 2048 - 1, digest)], right, leaves), "NotLeft"),
            (ListParts(left, [*right, (9 * 2048 - 1, digest)], leaves), "WrongRoot"),
            (ListParts(left, [(0, digest), *right], leaves), "NotRight"),
            (ListParts(left, right, []), "NoLeaves"),
            (ListParts([*whole.left, (18, digest)], None, whole.leaves), "BitBeyondPrefix"),
            (ListParts([(0, digest), *whole.left], None, whole.leaves), "WrongRoot"),
            (ListParts(whole.left[::-1], None, whole.leaves), "BitsNotIncreasing"),
            (ListParts(whole.left, None, []), "NoLeaves"),
        ]
        for damaged, expected in cases:
            self.assertEqual(self.refused(damaged.encoded()), expected)

    def test_what_no_bytes_can_say_is_refused_all_the_same(self) -> None:
        one, other = bytes(32), bytes([1]) * 32
        self.assertEqual(reason(fold, one, [(5, other), (5, one)]), "EqualSeparators")
        self.assertEqual(reason(fold, one, [(5, other), (6, one), (5, one)]), "EqualSeparators")
        self.assertEqual(reason(fold, one, [(5, other), (4, one), (5, one)]), "")
        leaf = ListedLeaf(b"\x01" * 2049, b"\x01" + bytes(92))
        refused = reason(verify_page, b"\x01", Page([], [], [leaf]), self.root)
        self.assertEqual(refused, "LeafKeyLength")


class Forms(unittest.TestCase):
    """The bytes of answers."""

    def test_no_beginning_and_nothing_longer_is_read(self) -> None:
        vectors = json.loads(VECTORS.read_text(encoding="utf-8"))
        answers = {page for v in vectors if v["expect"] != "refused" for page in v["pages"]}
        self.assertEqual({answer[:2] for answer in answers}, {"01", "02", "03"})
        for answer in sorted(answers):
            data = bytes.fromhex(answer)
            decode_list_answer(data)
            for length in range(len(data)):
                self.assertEqual(reason(decode_list_answer, data[:length]), "Truncated")
            self.assertEqual(reason(decode_list_answer, data + b"\x00"), "TrailingBytes")

    def test_counts_and_lengths_are_bounded(self) -> None:
        leaf = prover.str16(b"\x01") + b"\x01" + bytes(92)
        long_leaf = prover.str16(b"\x01" * 2049) + b"\x01" + bytes(92)
        step = bytes(34)
        cases = [
            (b"\x00", "UnknownValue"),
            (b"\x04", "UnknownValue"),
            (b"\x02" + u16(0) + u16(10_001) + leaf * 10_001, ""),
            (b"\x02" + u16(0) + u16(10_002) + leaf * 10_002, "TooLong"),
            (b"\x02" + u16(18_432) + step * 18_432 + u16(0), ""),
            (b"\x02" + u16(18_433) + step * 18_433 + u16(0), "TooLong"),
            (b"\x03" + u16(0) + u16(18_433) + step * 18_433 + u16(0), "TooLong"),
            (b"\x02" + u16(0) + u16(1) + long_leaf, "TooLong"),
            (b"\x02" + u16(0) + u16(2) + leaf, "Truncated"),
        ]
        for data, expected in cases:
            self.assertEqual(reason(decode_list_answer, data), expected, data[:5].hex())
