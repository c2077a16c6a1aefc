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
from ledger_verifier.saved_proof import Proved, decode_saved_proof, verify_saved_proof
from ledger_verifier.trust import decode_bundle
from ledger_verifier.wire import Refused

from . import prover
from .prover import NOW, Cluster, bundle, entity, proof_file, step

KEYS = [entity("config"), b"\x02doc\x00viewer\x00user"]
SIGNERS = [1, 2]


def check(steps: list[bytes], trusted: bytes, now: Optional[int] = None) -> Proved:
    """Verifies a proof file of these steps."""
    return verify_saved_proof(decode_saved_proof(proof_file(steps)), decode_bundle(trusted), now)


def says(proved: Proved) -> list[tuple[bytes, str, Optional[bytes]]]:
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
            for key, state, value in says(proved):
                self.assertEqual([state, value], expected.get(key, ["absent", None]), f"{offset}")
        self.assertGreater(refused, len(offsets) * 9 // 10)


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
