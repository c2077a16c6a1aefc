"""The program that checks vectors, fed what is wrong: it must notice, in every file."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import unittest
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import verify_vectors
from ledger_verifier.vector_checks import KINDS

VECTORS = Path(__file__).resolve().parents[2] / "vectors"


def other_answer(expected: Any) -> Any:
    """An answer of the same form that is wrong."""
    if isinstance(expected, dict):
        field = sorted(expected)[0]
        return {**expected, field: other_answer(expected[field])}
    if isinstance(expected, list):
        return [other_answer(expected[0]), *expected[1:]] if expected else [1]
    if isinstance(expected, int):
        return expected + 1
    return {"present": "absent", "absent": "present"}.get(expected, expected + "00")


class Harness(unittest.TestCase):
    """A copy of the vectors with one thing changed."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.copy = Path(directory.name) / "vectors"
        shutil.copytree(VECTORS, self.copy)

    def run_command(self) -> tuple[int, str]:
        err = io.StringIO()
        with redirect_stdout(io.StringIO()), redirect_stderr(err):
            code = verify_vectors.main([str(self.copy)])
        return code, err.getvalue()

    def with_change(self, file: str, change: Callable[[list[Any]], None]) -> tuple[int, str]:
        """What the command says if one file is changed."""
        path = self.copy / f"{file}.json"
        before = path.read_text(encoding="utf-8")
        vectors = json.loads(before)
        change(vectors)
        path.write_text(json.dumps(vectors), encoding="utf-8")
        result = self.run_command()
        path.write_text(before, encoding="utf-8")
        return result

    def test_the_vectors_as_they_are_agree(self) -> None:
        self.assertEqual(self.run_command(), (0, ""))

    def test_another_answer_is_noticed_in_every_file(self) -> None:
        def flip(vectors: list[Any]) -> None:
            vector = next(v for v in vectors if v["expect"] not in ("refused", "holds", []))
            vector["expect"] = other_answer(vector["expect"])

        for file in sorted(KINDS):
            if file in ("log_inclusion", "log_consistency", "system_entity"):
                continue
            code, said = self.with_change(file, flip)
            self.assertEqual(code, 1, file)
            self.assertIn(f"{file}.json", said)

    def test_what_holds_may_not_be_expected_to_fail_nor_the_other_way(self) -> None:
        def refuse(vectors: list[Any]) -> None:
            next(v for v in vectors if v["expect"] != "refused")["expect"] = "refused"

        def accept(vectors: list[Any]) -> None:
            next(v for v in vectors if v["expect"] == "refused")["expect"] = "holds"

        for file in sorted(KINDS):
            self.assertEqual(self.with_change(file, refuse)[0], 1, file)
            if file == "state_tree":
                continue
            self.assertEqual(self.with_change(file, accept)[0], 1, file)

    def test_a_refusal_for_another_reason_is_noticed(self) -> None:
        def rename(vectors: list[Any]) -> None:
            vector = next(v for v in vectors if v["name"].startswith("a hash too many"))
            vector["name"] = vector["name"].replace("many", "few")

        code, said = self.with_change("log_inclusion", rename)
        self.assertEqual(code, 1)
        self.assertIn("refused as TooLong; the page names TooShort", said)

    def test_nothing_unknown_is_passed_over(self) -> None:
        def add_field(vectors: list[Any]) -> None:
            vectors[0]["more"] = 1

        def drop_field(vectors: list[Any]) -> None:
            del vectors[-1]["name"]

        def rename(vectors: list[Any]) -> None:
            next(v for v in vectors if v["expect"] == "refused")["name"] = "odd"

        def upper(vectors: list[Any]) -> None:
            vectors[0]["hex"] = "AA"

        def clear(vectors: list[Any]) -> None:
            vectors.clear()

        for change in (add_field, drop_field, rename, upper, clear):
            self.assertEqual(self.with_change("header", change)[0], 2, change.__name__)

    def test_files_must_be_those_that_are_known(self) -> None:
        extra = self.copy / "other.json"
        extra.write_text("[]", encoding="utf-8")
        self.assertEqual(self.run_command()[0], 2)
        extra.unlink()
        (self.copy / "note.json").rename(self.copy.parent / "note.json")
        self.assertEqual(self.run_command()[0], 2)
        shutil.rmtree(self.copy)
        self.assertEqual(self.run_command()[0], 2)
