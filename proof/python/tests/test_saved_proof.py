"""Proof files: the whole way from the bundle to the value, and what may be wrong in them."""

from __future__ import annotations

import io
import random
import tempfile
import unittest
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Optional

import verify_proof
from ledger_verifier.saved_proof import (
    Proved,
    ProvedKeys,
    ProvedList,
    ProvedTransaction,
    decode_saved_proof,
    verify_saved_proof,
)
from ledger_verifier.trust import decode_bundle
from ledger_verifier.wire import Refused

from . import prover
from .prover import (
    NOW,
    Cluster,
    bundle,
    entity,
    other_file,
    proof_file,
    step,
    str16,
    str32,
    u32,
    u64,
)

KEYS = [entity("config"), b"\x02doc\x00viewer\x00user"]
SIGNERS = [1, 2]


def check_file(file: bytes, trusted: bytes, now: Optional[int] = None) -> Proved:
    """Verifies a proof file."""
    return verify_saved_proof(decode_saved_proof(file), decode_bundle(trusted), now)


def check(steps: list[bytes], trusted: bytes, now: Optional[int] = None) -> ProvedKeys:
    """Verifies a proof file of these steps."""
    proved = check_file(proof_file(steps), trusted, now)
    assert isinstance(proved, ProvedKeys)
    return proved


def says(proved: ProvedKeys) -> list[tuple[bytes, str, Optional[bytes]]]:
    """Each key with what is proved about it."""
    return [(key, answer.state(), answer.value) for key, answer in proved.answers]


class SavedProofs(unittest.TestCase):
    """Three voters, of which two sign."""

    def setUp(self) -> None:
        self.cluster = Cluster([1, 2, 3])
        self.bundle = bundle([1, 2, 3])
        self.steps = self.cluster.steps(KEYS, SIGNERS)

    def reason(self, steps: list[bytes], now: Optional[int] = None) -> str:
        with self.assertRaises(Refused) as raised:
            check(steps, self.bundle, now)
        return ".".join(raised.exception.kinds())

    def test_an_honest_file_is_believed(self) -> None:
        for now in (None, NOW, NOW + 60):
            proved = check(self.steps, self.bundle, now)
            expected = [(KEYS[0], "present", b"{}"), (KEYS[1], "absent", None)]
            self.assertEqual(says(proved), expected)
            self.assertEqual(str(proved.origin), "test.ledger/ns/7/vault/9/0")

    def test_a_file_about_the_directory_has_one_step(self) -> None:
        asked = [entity("shard/3")]
        alone = step(0, 0, asked, self.cluster.system.read(asked, SIGNERS))
        self.assertEqual(says(check([alone], self.bundle))[0][1], "present")
        self.assertEqual(self.reason([self.steps[3]]), "Incomplete")

    def test_age_matters_only_by_the_clock(self) -> None:
        self.assertEqual(self.reason(self.steps, NOW + 61), "Count.TooFew")
        self.assertEqual(self.reason(self.steps, NOW + 1001), "Count.BundleExpired")

    def test_steps_may_not_be_missing_changed_or_swapped(self) -> None:
        self.assertEqual(self.reason([]), "Incomplete")
        self.assertEqual(self.reason(self.steps[1:]), "Incomplete")
        first, second, third, last = self.steps
        self.assertEqual(self.reason([second, first, third, last]), "Incomplete")
        self.assertEqual(self.reason([first, second, second, last]), "Incomplete")
        elsewhere = step(7, 9, [entity("vault/7/9")], self.cluster.system.read([KEYS[0]], SIGNERS))
        self.assertEqual(self.reason([elsewhere, second, third, last]), "Incomplete")
        few = [entity("node/1"), entity("node/2")]
        fewer = step(0, 0, few, self.cluster.system.read(few, SIGNERS))
        self.assertEqual(self.reason([first, second, fewer, last]), "Incomplete")

    def test_keys_that_nobody_may_ask_for_are_refused(self) -> None:
        for key in (b"", b"\x04a", b"\x01" * 2049):
            last = step(7, 9, [key], self.cluster.vault.read([KEYS[0]], SIGNERS))
            expected = "TooLong" if len(key) > 2048 else "Invalid"
            self.assertEqual(self.reason([*self.steps[:3], last]), expected)

    def test_too_few_or_other_signers_are_refused(self) -> None:
        for signers in ([1], [1, 4], [4, 5, 6]):
            steps = self.cluster.steps(KEYS, signers)
            self.assertEqual(self.reason(steps), "Count.TooFew")
            self.assertEqual(self.reason(self.steps[:3] + steps[3:]), "Count.TooFew")

    def test_the_vaults_voters_are_the_directorys_and_not_the_bundles(self) -> None:
        cluster = Cluster([4, 5, 6])
        steps = cluster.steps(KEYS, SIGNERS)
        self.assertEqual(self.reason(steps), "Count.TooFew")
        last = step(7, 9, KEYS, cluster.vault.read(KEYS, [4, 6]))
        self.assertEqual(says(check(steps[:3] + [last], self.bundle))[0][1], "present")

    def test_during_a_change_of_members_either_set_suffices_and_they_do_not_mix(self) -> None:
        cluster = Cluster([4, 5, 6])
        both = {entity(f"node/{number}"): cluster.node_entity(number) for number in (1, 2, 3)}
        shard = {entity("shard/3"): cluster.shard_entity(old=[1, 2, 3, 4])}
        cluster.system.commit(both | shard)
        first, second, _, _ = cluster.steps(KEYS, SIGNERS)
        asked = [entity(f"node/{number}") for number in range(1, 7)]
        nodes = step(0, 0, asked, cluster.system.read(asked, SIGNERS))
        for signers, counts in [([4, 5], True), ([1, 2, 3], True), ([1, 2, 5], False)]:
            last = step(7, 9, KEYS, cluster.vault.read(KEYS, signers))
            steps = [first, second, nodes, last]
            if counts:
                self.assertEqual(check(steps, self.bundle).block.count.keys, len(signers))
            else:
                self.assertEqual(self.reason(steps), "Count.TooFew")

    def test_an_entity_about_something_else_is_refused(self) -> None:
        self.cluster.system.commit({entity("vault/7/9"): self.cluster.vault_entity(vault=8)})
        self.assertEqual(self.reason(self.cluster.steps(KEYS, SIGNERS)), "Invalid")

    def test_another_vaults_log_is_refused(self) -> None:
        other = prover.Log(7, 8)
        other.commit({KEYS[0]: b"{}"})
        last = step(7, 9, KEYS, other.read(KEYS, SIGNERS))
        self.assertEqual(self.reason([*self.steps[:3], last]), "OtherLog")

    def test_what_expired_is_not_shown(self) -> None:
        self.cluster.vault.commit({KEYS[0]: b"late"}, expires_at=NOW - 10)
        steps = self.cluster.steps(KEYS, SIGNERS)
        self.assertEqual(says(check(steps, self.bundle))[0][1], "present")
        self.assertEqual(says(check(steps, self.bundle, NOW))[0][1], "expired")

    def test_a_changed_byte_is_refused_or_changes_no_answer(self) -> None:
        # What may change: the log's own line, which never counts, if its key id becomes a
        # stranger's; and the name of a key that is absent under the same path.
        rng = random.Random(8)
        honest = proof_file(self.steps)
        trusted = decode_bundle(self.bundle)
        expected = {key: rest for key, *rest in says(check(self.steps, self.bundle))}
        refused = 0
        offsets = range(rng.randrange(13), len(honest), 13)
        for offset in offsets:
            changed = bytearray(honest)
            changed[offset] ^= 1 << rng.randrange(8)
            try:
                proved = verify_saved_proof(decode_saved_proof(bytes(changed)), trusted, None)
            except Refused:
                refused += 1
                continue
            assert isinstance(proved, ProvedKeys)
            for key, state, value in says(proved):
                self.assertEqual([state, value], expected.get(key, ["absent", None]), f"{offset}")
        self.assertGreater(refused, len(offsets) * 9 // 10)


class OtherAnswers(unittest.TestCase):
    """Receipts, keys at a height and lists, under three voters of which two sign."""

    def setUp(self) -> None:
        self.cluster = Cluster([1, 2, 3])
        self.log = self.cluster.vault
        made = [prover.transaction(number, f"made{number}") for number in (5, 6, 7)]
        self.log.commit({entity("config"): b"new"}, transactions=made)
        self.log.commit({entity(key): b"z" for key in ("late", "made5", "made6")})
        self.bundle = bundle([1, 2, 3])
        self.directory = self.cluster.steps(KEYS, SIGNERS)[:3]
        self.place = u64(7) + u64(9)

    def file(self, kind: int, answer: bytes, directory: Optional[list[bytes]] = None) -> bytes:
        """A file about the vault."""
        return other_file(self.directory if directory is None else directory, kind, answer)

    def receipt(self, choice: bytes, height: int = 2, index: int = 1) -> bytes:
        """A file with a receipt, asked for by this choice."""
        package = self.log.receipt(2, index, SIGNERS)
        return self.file(1, self.place + u64(height) + choice + str32(package))

    def at_height(self, height: int, shown: int) -> bytes:
        """A file with keys asked for at a height and shown at another."""
        read = self.log.read(KEYS, SIGNERS, shown)
        return self.file(2, u64(height) + step(7, 9, KEYS, read))

    def list(self, packages: list[bytes], prefix: bytes = b"\x01", at: bytes = b"\x00") -> bytes:
        """A file with a list."""
        first, *later = packages
        pages = u32(len(later)) + b"".join(str32(page) for page in later)
        return self.file(3, self.place + at + str16(prefix) + str32(first) + pages)

    def check(self, file: bytes, now: Optional[int] = None) -> Proved:
        """Verifies a file."""
        return check_file(file, self.bundle, now)

    def reason(self, file: bytes, now: Optional[int] = None) -> str:
        """Why a file is refused."""
        with self.assertRaises(Refused) as raised:
            self.check(file, now)
        return ".".join(raised.exception.kinds())

    def test_receipts(self) -> None:
        for choice in (b"\x01" + bytes([6]) * 16, b"\x02" + u32(1)):
            proved = self.check(self.receipt(choice), NOW)
            assert isinstance(proved, ProvedTransaction)
            self.assertEqual((proved.index, proved.transaction.id), (1, bytes([6]) * 16))
            self.assertEqual(proved.block.header.height, 2)
        self.assertEqual(self.reason(self.receipt(b"\x01" + bytes([7]) * 16)), "OtherTransaction")
        self.assertEqual(self.reason(self.receipt(b"\x02" + u32(2))), "OtherTransaction")
        self.assertEqual(self.reason(self.receipt(b"\x02" + u32(1), height=1)), "OtherHeight")
        self.assertEqual(self.reason(self.receipt(b"\x03" + u32(1))), "UnknownValue")

    def test_keys_at_a_height(self) -> None:
        proved = self.check(self.at_height(1, 1), NOW)
        assert isinstance(proved, ProvedKeys)
        self.assertEqual(says(proved)[0], (KEYS[0], "present", b"{}"))
        self.assertEqual(self.reason(self.at_height(1, 2)), "OtherHeight")
        self.assertEqual(self.reason(self.at_height(3, 2)), "OtherHeight")

    def test_lists(self) -> None:
        values = {"config": b"new", "late": b"z", "made5": b"z", "made6": b"z", "other": b"x"}
        expected = [(entity(key), value) for key, value in values.items()]
        whole, paged = self.log.listed(b"\x01", SIGNERS), self.log.listed(b"\x01", SIGNERS, 2)
        self.assertEqual((len(whole), len(paged)), (1, 3))
        for packages in (whole, paged):
            for at in (b"\x00", b"\x01" + u64(3)):
                proved = self.check(self.list(packages, at=at), NOW)
                assert isinstance(proved, ProvedList)
                self.assertEqual([(item.key, item.value) for item in proved.items], expected)
        none = self.check(self.list(self.log.listed(b"\x03user\x00", SIGNERS), b"\x03user\x00"))
        assert isinstance(none, ProvedList)
        self.assertEqual(none.items, [])
        self.assertEqual(self.reason(self.list(paged[:2])), "List.Unfinished")
        self.assertEqual(self.reason(self.list([*paged, paged[2]])), "List.AfterTheLast")
        self.assertEqual(self.reason(self.list([paged[0], paged[2]])), "List.NotTheNext")
        self.assertEqual(self.reason(self.list(whole, at=b"\x01" + u64(2))), "OtherHeight")
        self.assertEqual(self.reason(self.list(whole, prefix=b"\x02")), "List.OutsidePrefix")

    def test_whoever_signs_for_a_vault_is_in_the_file(self) -> None:
        answer = u64(1) + step(7, 9, KEYS, self.log.read(KEYS, SIGNERS, 1))
        for directory in ([], self.directory[:2], self.directory[::-1]):
            self.assertEqual(self.reason(self.file(2, answer, directory)), "Incomplete")
        four = [*self.directory, self.directory[2]]
        self.assertEqual(self.reason(self.file(2, answer, four)), "TooLong")
        self.assertEqual(self.reason(self.file(4, answer)), "UnknownValue")
        few = u64(1) + step(7, 9, KEYS, self.log.read(KEYS, [3], 1))
        self.assertEqual(self.reason(self.file(2, few)), "Count.TooFew")
        self.assertEqual(self.reason(self.file(2, answer), NOW + 61), "Count.TooFew")

    def test_the_directory_needs_no_reads_of_itself(self) -> None:
        system = self.cluster.system
        package = str32(system.listed(b"\x01node/", SIGNERS)[0])
        answer = u64(0) + u64(0) + b"\x00" + str16(b"\x01node/") + package + u32(0)
        proved = self.check(other_file([], 3, answer))
        assert isinstance(proved, ProvedList)
        self.assertEqual(len(proved.items), 3)

    def test_no_byte_can_change_without_a_refusal_or_the_same_answer(self) -> None:
        rng = random.Random(9)
        files = [
            self.receipt(b"\x01" + bytes([6]) * 16),
            self.at_height(1, 1),
            self.list(self.log.listed(b"\x01", SIGNERS, 2)),
        ]
        for honest in files:
            said = verify_proof.plain(self.check(honest))
            refused, offsets = 0, range(rng.randrange(37), len(honest), 37)
            for offset in offsets:
                changed = bytearray(honest)
                changed[offset] ^= 1 << rng.randrange(8)
                try:
                    proved = self.check(bytes(changed))
                except Refused:
                    refused += 1
                    continue
                # A key that is asked for may become another absent one; nothing becomes present.
                new = set(verify_proof.plain(proved)) - set(said)
                self.assertTrue(all(line.endswith("absent") for line in new), f"{offset}: {new}")
            self.assertGreater(refused, len(offsets) * 9 // 10)
            for cut in (honest[:-1], honest + b"\x00"):
                self.assertIn(self.reason(cut), ("Truncated", "TrailingBytes"))


class Command(unittest.TestCase):
    """`verify_proof.py` with files."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.proof = Path(directory.name) / "proof"
        self.bundle = Path(directory.name) / "bundle"
        self.proof.write_bytes(proof_file(Cluster([1]).steps(KEYS, [1])))
        self.bundle.write_bytes(bundle([1], fixed=1))

    def run_command(self, *more: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = verify_proof.main(["--bundle", str(self.bundle), *more, str(self.proof)])
        return code, out.getvalue(), err.getvalue()

    def test_what_is_proved_is_printed(self) -> None:
        code, out, _ = self.run_command()
        self.assertEqual(code, 0)
        self.assertIn("entity 'config': present, version 1, value b'{}'", out)
        self.assertIn("relationship ['doc', 'viewer', 'user']: absent", out)
        code, out, _ = self.run_command("--plain")
        expected = f"holds\n{KEYS[0].hex()} present 1 7b7d\n{KEYS[1].hex()} absent\n"
        self.assertEqual((code, out), (0, expected))

    def test_each_of_several_files_is_judged(self) -> None:
        other = self.proof.with_name("other")
        other.write_bytes(self.proof.read_bytes()[:-1])
        code, out, err = self.run_command("--plain", str(other))
        self.assertEqual((code, out.split("\n")[:2]), (1, ["refused", "holds"]))
        self.assertIn("Truncated", err)

    def test_refusals_and_missing_files_have_codes_of_their_own(self) -> None:
        # Made for another time than this machine's.
        self.assertEqual(self.run_command("--fresh")[0], 1)
        self.bundle.write_bytes(bundle([2], fixed=1))
        code, out, err = self.run_command()
        self.assertEqual((code, out), (1, ""))
        self.assertIn("TooFew", err)
        self.proof.write_bytes(b"nothing")
        self.assertEqual(self.run_command()[0], 1)
        self.proof.unlink()
        self.assertEqual(self.run_command()[0], 2)
