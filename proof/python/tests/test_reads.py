"""Reads against what a client remembers, and the links that follow one trust bundle by the next."""

from __future__ import annotations

import unittest
from typing import Optional

from ledger_verifier.notes import parse_checkpoint, parse_note
from ledger_verifier.trust import decode_bundle
from ledger_verifier.verified_read import (
    Answer,
    AtHeight,
    Known,
    Latest,
    ReadAt,
    Trust,
    decode_verified_read,
    verify_bundle_link,
    verify_read,
)

from .prover import NOW, Log, bundle, consistency_path, digests, entity, str16, u16, u64
from .prover import inclusion_path as inclusion
from .refusals import reason

KEY = entity("config")
LATEST = Latest()


class Growth(unittest.TestCase):
    """A log of six blocks, read by a client that knows an earlier part of it."""

    def setUp(self) -> None:
        self.log = Log(7, 9)
        for number in range(5):
            self.log.commit({KEY: bytes([number])})

    def known(self, log: Log, size: int) -> Known:
        """A client's memory of the first `size` blocks."""
        part = Log(7, 9)
        part.headers = log.headers[:size]
        text = part.checkpoint()
        checkpoint = parse_checkpoint(text)
        return Known(checkpoint.origin, checkpoint.size, checkpoint.root, text.encode())

    def package(self, height: int, consistency: Optional[tuple[int, list[bytes]]]) -> bytes:
        """A read of one block, with a consistency path or without."""
        shown = b"\x00"
        if consistency is not None:
            shown = b"\x01" + u64(consistency[0]) + digests(consistency[1])
        path = inclusion(self.log.leaves(), height)
        header = self.log.headers[height]
        note = str16(self.log.note([1, 2]))
        return b"verified-read/v1" + note + header + digests(path) + shown + u16(0)

    def read(
        self,
        known: Optional[Known],
        consistency: Optional[tuple[int, list[bytes]]] = None,
        at: ReadAt = LATEST,
        height: int = 5,
    ) -> str:
        """The reason why such a read is refused, or nothing."""
        trusted = decode_bundle(bundle([1, 2, 3]))
        trust = Trust(trusted, [trusted.system_voters()], NOW)
        origin = parse_checkpoint(parse_note(self.log.note([1])).text).origin
        read = decode_verified_read(self.package(height, consistency))
        return reason(verify_read, read, origin, [], at, trust, known)

    def test_growth_from_every_size_needs_its_own_path(self) -> None:
        for size in range(1, 6):
            known = self.known(self.log, size)
            path = consistency_path(self.log.leaves(), size)
            self.assertEqual(self.read(known, (size, path)), "")
            self.assertEqual(self.read(known), "ConsistencyMissing")
            self.assertEqual(self.read(known, (size + 1, path)), "ConsistencyUnexpected")
            self.assertEqual(self.read(None, (size, path)), "ConsistencyUnexpected")
            self.assertTrue(self.read(known, (size, [*path, bytes(32)])).startswith("Fork"))

    def test_equal_sizes_need_no_path_and_shorter_logs_are_no_answer(self) -> None:
        same = self.known(self.log, 6)
        self.assertEqual(self.read(same), "")
        self.assertEqual(self.read(same, (6, [])), "")
        self.assertEqual(self.read(same, (6, [bytes(32)])), "ConsistencyUnexpected")
        self.log.headers.pop()
        self.assertEqual(self.read(same, height=4), "Behind")

    def test_another_history_is_a_fork(self) -> None:
        other = Log(7, 9)
        for number in range(5):
            other.commit({KEY: bytes([number, number])})
        for size in range(2, 7):
            known = self.known(other, size)
            path = consistency_path(self.log.leaves(), size)
            consistency = (size, path) if size < 6 else None
            self.assertTrue(self.read(known, consistency).startswith("Fork"), str(size))

    def test_another_log_is_none_that_is_known(self) -> None:
        other = Log(7, 8)
        known = self.known(self.log, 6)
        checkpoint = parse_checkpoint(other.checkpoint())
        self.assertEqual(
            self.read(Known(checkpoint.origin, known.size, known.root, b"")), "KnownOtherLog"
        )

    def test_an_empty_log_has_no_latest_block(self) -> None:
        header = self.log.headers[0]
        self.log.headers.clear()
        note = str16(self.log.note([1, 2]))
        data = b"verified-read/v1" + note + header + digests([]) + b"\x00" + u16(0)
        trusted = decode_bundle(bundle([1, 2, 3]))
        trust = Trust(trusted, [trusted.system_voters()], NOW)
        origin = parse_checkpoint(self.log.checkpoint()).origin
        read = decode_verified_read(data)
        refused = reason(verify_read, read, origin, [], Latest(), trust, None)
        self.assertEqual(refused, "HeaderPath.IndexOutside")

    def test_the_wanted_block_is_the_one_shown(self) -> None:
        self.assertEqual(self.read(None, at=AtHeight(2), height=2), "")
        self.assertEqual(self.read(None, at=AtHeight(2), height=3), "OtherHeight")
        self.assertEqual(self.read(None, at=Latest(), height=4), "OtherHeight")
        self.assertEqual(self.read(None, at=Latest(5)), "")
        self.assertEqual(self.read(None, at=Latest(6)), "TooOld")


class Links(unittest.TestCase):
    """The directory's log holds the next bundle, and voters of the one before signed it."""

    def link(
        self, following: bytes, sequence: int = 2, signers: Optional[list[int]] = None
    ) -> bytes:
        """A link that shows `following` under the key of bundle `sequence`."""
        system = Log(0, 0)
        system.commit({entity(f"bundle/{sequence}"): following})
        return system.read([entity("bundle/2")], signers or [1, 2])

    def follow(self, link: bytes, may_lower: bool = False) -> str:
        """The reason why a client does not follow, or nothing."""
        return reason(verify_bundle_link, link, decode_bundle(self.first), may_lower)

    def setUp(self) -> None:
        # Long expired: only the last bundle of a chain has to be current.
        self.first = bundle([1, 2, 3], expires_at=5)
        self.second = bundle([4, 5, 6], sequence=2)

    def test_the_next_bundle_is_followed(self) -> None:
        link = self.link(self.second)
        self.assertEqual(verify_bundle_link(link, decode_bundle(self.first)), self.second)

    def test_only_voters_of_the_one_before_vouch(self) -> None:
        self.assertEqual(self.follow(self.link(self.second, signers=[4, 5, 6])), "Count.TooFew")

    def test_another_number_or_none_is_refused(self) -> None:
        third = bundle([4, 5, 6], sequence=3)
        self.assertEqual(self.follow(self.link(third)), "NotTheNextBundle")
        self.assertEqual(self.follow(self.link(self.second, sequence=3)), "NotTheNextBundle")
        self.assertEqual(self.follow(self.link(b"no bundle")), "Truncated")

    def test_a_lower_rule_needs_consent(self) -> None:
        link = self.link(bundle([4, 5, 6], fixed=1, sequence=2))
        self.assertEqual(self.follow(link), "LoweredRule")
        self.assertEqual(self.follow(link, may_lower=True), "")


class Expiry(unittest.TestCase):
    """Which clock decides."""

    def answer(self, at: ReadAt, expires_at: int, now: Optional[int]) -> Answer:
        log = Log(7, 9)
        log.commit({KEY: b"v"}, expires_at=expires_at)
        trusted = decode_bundle(bundle([1]))
        trust = Trust(trusted, [trusted.system_voters()], now)
        origin = parse_checkpoint(log.checkpoint()).origin
        read = decode_verified_read(log.read([KEY], [1]))
        _, (answer,) = verify_read(read, origin, [KEY], at, trust, None)
        return answer

    def test_the_later_of_clock_and_header_decides_for_the_latest(self) -> None:
        header_time = NOW - 20
        cases: list[tuple[ReadAt, int, Optional[int], str]] = [
            (Latest(), 0, NOW, "present"),
            (Latest(), NOW, NOW, "expired"),
            (Latest(), NOW + 1, NOW, "present"),
            (Latest(), header_time, None, "expired"),
            (Latest(), header_time + 1, None, "present"),
            (AtHeight(1), NOW, NOW, "present"),
            (AtHeight(1), header_time, NOW, "expired"),
        ]
        for at, expires_at, now, state in cases:
            self.assertEqual(self.answer(at, expires_at, now).state(), state, (at, expires_at, now))
