"""Ed25519 at its edges, the form of notes, and when they count."""

from __future__ import annotations

import hashlib
import unittest
from unittest import mock

from ledger_verifier import ed25519
from ledger_verifier.notes import KnownKey, parse_checkpoint, parse_note, verify_note
from ledger_verifier.trust import Signer, count_note, decode_bundle
from ledger_verifier.wire import Refused

from .prover import DOMAIN, NOW, Log, NodeKey, bundle

ORDER = 2**252 + 27742317777372353535851937790883648493
# The generator of the group, and a point of order 8, both by their bytes.
GENERATOR = bytes.fromhex("58" + "66" * 31)
ORDER_EIGHT = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")


NEUTRAL: ed25519.Point = (0, 1)


def add_points(one: ed25519.Point, other: ed25519.Point) -> ed25519.Point:
    """The sum of two points, by the curve's complete formula."""
    (x1, y1), (x2, y2) = one, other
    cross = ed25519.CURVE_D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + cross, -1, ed25519.PRIME)
    y = (y1 * y2 + x1 * x2) * pow(1 - cross, -1, ed25519.PRIME)
    return (x % ed25519.PRIME, y % ed25519.PRIME)


def multiply(number: int, point: ed25519.Point) -> ed25519.Point:
    """A multiple of a point."""
    total = NEUTRAL
    while number:
        if number & 1:
            total = add_points(total, point)
        point = add_points(point, point)
        number >>= 1
    return total


def encode_point(point: ed25519.Point) -> bytes:
    """The 32 bytes of a point."""
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, "little")


def point(data: bytes) -> ed25519.Point:
    """The point of these bytes, which must be one."""
    decoded = ed25519.decode_point(data)
    assert decoded is not None
    return decoded


def challenge(nonce: bytes, public_key: bytes, message: bytes) -> int:
    """The number that binds a signature to its message."""
    return int.from_bytes(hashlib.sha512(nonce + public_key + message).digest(), "little") % ORDER


def signature(
    nonce: ed25519.Point, r: int, secret: int, public_key: bytes, message: bytes
) -> bytes:
    """A signature with a nonce point and its number chosen by the caller."""
    encoded = encode_point(nonce)
    scalar = (r + challenge(encoded, public_key, message) * secret) % ORDER
    return encoded + scalar.to_bytes(32, "little")


class Ed25519(unittest.TestCase):
    """Signatures that looser verifiers accept."""

    SECRET = 0x1234567
    MESSAGE = b"a checkpoint"

    def setUp(self) -> None:
        self.generator = point(GENERATOR)
        self.public_key = encode_point(multiply(self.SECRET, self.generator))

    def signed(self, nonce: ed25519.Point, r: int) -> bytes:
        return signature(nonce, r, self.SECRET, self.public_key, self.MESSAGE)

    def test_the_arithmetic_makes_signatures_that_verify(self) -> None:
        honest = self.signed(multiply(99, self.generator), 99)
        self.assertTrue(ed25519.verifies(self.public_key, self.MESSAGE, honest))
        self.assertFalse(ed25519.verifies(self.public_key, b"another", honest))
        for offset in range(0, 64, 7):
            changed = bytearray(honest)
            changed[offset] ^= 1
            self.assertFalse(ed25519.verifies(self.public_key, self.MESSAGE, bytes(changed)))
        self.assertFalse(ed25519.verifies(self.public_key, self.MESSAGE, honest[:63]))
        self.assertFalse(ed25519.verifies(self.public_key[:31], self.MESSAGE, honest))

    def test_a_scalar_that_is_not_reduced_is_refused(self) -> None:
        honest = self.signed(multiply(99, self.generator), 99)
        scalar = int.from_bytes(honest[32:], "little") + ORDER
        longer = honest[:32] + scalar.to_bytes(32, "little")
        self.assertFalse(ed25519.verifies(self.public_key, self.MESSAGE, longer))

    def test_a_nonce_point_of_small_order_is_refused(self) -> None:
        # The equation holds for it: only the check of the order says no.
        neutral = self.signed(NEUTRAL, 0)
        self.assertFalse(ed25519.verifies(self.public_key, self.MESSAGE, neutral))

    def test_small_orders_are_those_that_eight_makes_neutral(self) -> None:
        torsion = point(ORDER_EIGHT)
        self.assertNotEqual(multiply(4, torsion), NEUTRAL)
        for number in range(9):
            self.assertTrue(ed25519.has_small_order(multiply(number, torsion)))
        for number in (1, 2, 99):
            large = multiply(number, self.generator)
            self.assertFalse(ed25519.has_small_order(large))
            self.assertFalse(ed25519.has_small_order(add_points(large, torsion)))

    def test_a_public_key_of_small_order_is_refused(self) -> None:
        weak = encode_point(NEUTRAL)
        nonce = multiply(99, self.generator)
        forged = signature(nonce, 99, 0, weak, self.MESSAGE)
        self.assertFalse(ed25519.verifies(weak, self.MESSAGE, forged))

    def test_what_holds_only_with_the_cofactor_is_refused(self) -> None:
        torsioned = add_points(multiply(99, self.generator), point(ORDER_EIGHT))
        self.assertFalse(
            ed25519.verifies(self.public_key, self.MESSAGE, self.signed(torsioned, 99))
        )

    def test_bytes_that_are_no_point_are_refused(self) -> None:
        outside = next(
            y for y in range(2, 50) if ed25519.decode_point(y.to_bytes(32, "little")) is None
        )
        data = outside.to_bytes(32, "little")
        self.assertFalse(ed25519.verifies(data, self.MESSAGE, bytes(64)))


def known(*numbers: int) -> list[KnownKey]:
    """Nodes by their number."""
    return [
        KnownKey(f"{DOMAIN}/node/n{number}", NodeKey(number).public_key()) for number in numbers
    ]


def voters(*numbers: int) -> list[Signer]:
    """A voter set."""
    return [Signer(f"n{number}", NodeKey(number).public_key()) for number in numbers]


class Notes(unittest.TestCase):
    """Forms that are refused, each with its reason."""

    def reason(self, note: str) -> str:
        with self.assertRaises(Refused) as raised:
            parse_checkpoint(parse_note(note.encode()).text)
        return raised.exception.kind

    def test_other_forms_are_refused(self) -> None:
        honest = Log(7, 9).note([1]).decode()
        parse_checkpoint(parse_note(honest.encode()).text)
        line = honest.rsplit("\n", 2)[1] + "\n"
        cases = [
            (honest[:-1], "Form"),
            (honest.split("\n\n")[0] + "\n\n", "Form"),
            (honest.replace("\n\n", "\n"), "Form"),
            (honest.replace("\n\n", "\n\n\n"), "Lines"),
            (honest.replace("\n", "\r\n"), "NotText"),
            (honest.replace("\n1\n", "\n1\u0085\n"), "NotText"),
            (honest.replace("\n1\n", "\n01\n"), "Size"),
            (honest.replace("\n1\n", "\n\u0661\n"), "Size"),
            (honest.replace("\n1\n", "\n18446744073709551616\n"), "Size"),
            (honest.replace(f"{DOMAIN}/ns/7", f"{DOMAIN}/ns/07", 1), "Origin"),
            (honest.replace(DOMAIN, "Test.ledger", 1), "Origin"),
            (honest.replace("/vault/9/0\n", "/vault/9/0/0\n", 1), "Origin"),
            (honest.replace("=\n\n", "\n\n", 1), "Root"),
            (honest.replace("\u2014", "-", 1), "Line"),
            (honest.replace("/node/n1 ", "/node/n1  "), "Line"),
            (honest.replace("/node/n1 ", "/node/n+1 "), "Line"),
            (honest.replace("/node/n1 ", "/node/n\u20281 "), "Line"),
            (honest + "\u2014 x AAAAAA==\n", "Line"),
            (honest + "\u2014 x AAAAAAB=\n", "Line"),
            (honest + 15 * line, "TooManySignatures"),
            (honest + 16384 * "x", "TooLong"),
        ]
        for note, reason in cases:
            self.assertEqual(self.reason(note), reason, repr(note))

    def test_every_changed_character_of_a_known_line_is_refused(self) -> None:
        honest = Log(7, 9).note([1])
        start = honest.rindex(b"n1 ") + 3
        for offset in range(start + 6, len(honest) - 1):
            changed = bytearray(honest)
            changed[offset] = ord("B") if changed[offset] == ord("A") else ord("A")
            with self.assertRaises(Refused, msg=f"character {offset}"):
                verify_note(parse_note(bytes(changed)), known(1))

    def test_of_keys_that_an_id_fits_one_that_verifies_is_enough(self) -> None:
        text = Log(7, 9).checkpoint()
        note = parse_note(f"{text}\n{NodeKey(1).cosign(text, NOW)}".encode())
        name = f"{DOMAIN}/node/n1"
        keys = [KnownKey(name, NodeKey(number).public_key()) for number in (2, 1, 3)]
        # Keys whose four bytes collide are too dear to look for, so the ids are made equal.
        with mock.patch("ledger_verifier.notes.key_id", return_value=note.signatures[0].key_id):
            found = verify_note(note, keys)
            self.assertEqual([c.public_key for c in found], [NodeKey(1).public_key()])
            with self.assertRaises(Refused):
                verify_note(note, [keys[0], keys[2]])

    def test_a_bad_signature_matters_only_if_its_key_is_known(self) -> None:
        log = Log(7, 9)
        other = Log(7, 9)
        other.commit({b"\x01a": b"b"})
        text = log.checkpoint()
        lines = NodeKey(1).cosign(text, NOW) + NodeKey(2).cosign(other.checkpoint(), NOW)
        note = parse_note(f"{text}\n{lines}".encode())
        self.assertEqual([c.time for c in verify_note(note, known(1))], [NOW])
        with self.assertRaises(Refused) as raised:
            verify_note(note, known(1, 2))
        self.assertEqual(raised.exception.kind, "BadSignature")


class Counting(unittest.TestCase):
    """Voters, thresholds and times."""

    def setUp(self) -> None:
        self.text = Log(7, 9).checkpoint()
        self.bundle = decode_bundle(bundle([1, 2, 3]))

    def count(self, times: list[tuple[int, int]], sets: list[list[Signer]]) -> object:
        lines = "".join(NodeKey(number).cosign(self.text, time) for number, time in times)
        note = parse_note(f"{self.text}\n{lines}".encode())
        try:
            count = count_note(self.bundle, note, sets, NOW)
        except Refused as refused:
            return refused.kind
        return (count.keys, count.oldest_time)

    def test_a_majority_in_time_counts(self) -> None:
        three = [voters(1, 2, 3)]
        self.assertEqual(self.count([(1, NOW - 60), (2, NOW + 10)], three), (2, NOW - 60))
        self.assertEqual(self.count([(1, NOW - 61), (2, NOW)], three), "TooFew")
        self.assertEqual(self.count([(1, NOW), (2, NOW + 11)], three), "TooFew")
        self.assertEqual(self.count([(1, NOW), (1, NOW - 1)], three), "TooFew")
        self.assertEqual(self.count([(1, NOW), (4, NOW)], three), "TooFew")
        self.assertEqual(self.count([(1, NOW)], []), "NoVoters")
        self.assertEqual(self.count([(1, NOW)], [[]]), "NoVoters")

    def test_of_several_times_of_a_key_the_latest_counts(self) -> None:
        times = [(1, NOW - 50), (1, NOW - 5), (2, NOW - 7), (1, NOW - 30)]
        self.assertEqual(self.count(times, [voters(1, 2, 3)]), (2, NOW - 7))

    def test_the_first_set_that_suffices_is_counted_alone(self) -> None:
        times = [(1, NOW - 50), (4, NOW - 5), (5, NOW - 6)]
        new, old = voters(4, 5, 6), voters(1, 2, 3)
        self.assertEqual(self.count(times, [new, old]), (2, NOW - 6))
        self.assertEqual(self.count(times, [old, new]), (2, NOW - 6))
        self.assertEqual(self.count(times[:2], [new, old]), "TooFew")

    def test_a_key_twice_in_a_set_makes_it_larger_and_counts_once(self) -> None:
        twice = [voters(1, 2, 2, 3)]
        self.assertEqual(self.count([(1, NOW), (2, NOW)], twice), "TooFew")
        self.assertEqual(self.count([(1, NOW), (2, NOW), (3, NOW)], twice), (3, NOW))

    def test_the_floor_counts_in_small_sets(self) -> None:
        self.bundle = decode_bundle(bundle([1], floor=2))
        self.assertEqual(self.count([(1, NOW)], [voters(1)]), "TooFew")

    def test_an_expired_bundle_counts_nothing(self) -> None:
        self.bundle = decode_bundle(bundle([1], expires_at=NOW - 1))
        self.assertEqual(self.count([(1, NOW)], [voters(1)]), "BundleExpired")

    def test_rules_are_lowered_by_threshold_and_by_floor(self) -> None:
        majority = decode_bundle(bundle([1, 2, 3]))
        floor = decode_bundle(bundle([1, 2, 3], floor=2))
        fixed = [decode_bundle(bundle([1, 2, 3], fixed=number)) for number in (0, 1, 2, 33)]
        self.assertEqual([majority.required(number) for number in range(1, 6)], [1, 2, 2, 3, 3])
        self.assertEqual([floor.required(number) for number in range(1, 6)], [2, 2, 2, 3, 3])
        self.assertEqual([fixed[0].required(3), fixed[3].required(3)], [1, 33])
        above = [decode_bundle(bundle([1], fixed=5, floor=number)) for number in (3, 4)]
        self.assertTrue(above[1].is_lowered_by(above[0]), "also a floor that nothing reaches")
        self.assertTrue(floor.is_lowered_by(majority))
        self.assertFalse(majority.is_lowered_by(floor))
        self.assertFalse(fixed[1].is_lowered_by(fixed[0]), "none and one ask for one")
        self.assertTrue(fixed[2].is_lowered_by(fixed[1]))
        self.assertTrue(majority.is_lowered_by(fixed[2]), "of five voters")
        self.assertFalse(majority.is_lowered_by(fixed[3]))
