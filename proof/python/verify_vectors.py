#!/usr/bin/env python3
"""Checks every golden vector of a directory: `verify_vectors.py proof/vectors`.

Ends with 0 if all agree, with 1 at the first one that does not, and with 2 if there is anything it
does not know: a file, a field, a form. So nothing is passed over in silence.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ledger_verifier.vector_checks import KINDS, Kind, MalformedVector
from ledger_verifier.wire import Refused

REFUSED = "refused"


class Mismatch(Exception):
    """A vector on which this implementation says something else."""


def judge(kind: Kind, vector: dict[str, Any]) -> str:
    """Checks one vector. Returns what was found: `answered`, or `refused` with a known reason."""
    if not isinstance(vector, dict) or set(vector) != kind.fields | {"name", "expect"}:
        fields = sorted(vector) if isinstance(vector, dict) else vector
        raise MalformedVector(f"fields {fields}, expected {sorted(kind.fields)}, name and expect")
    expected = vector["expect"]
    try:
        said = kind.check({field: vector[field] for field in kind.fields})
    except Refused as refusal:
        if expected != REFUSED:
            raise Mismatch(f"refused: {refusal}; expected {expected}") from refusal
        return _judge_reason(kind, vector["name"], refusal)
    if said != expected:
        raise Mismatch(f"said {said}; expected {expected}")
    return "answered"


def _judge_reason(kind: Kind, name: str, refusal: Refused) -> str:
    reason = ".".join(refusal.kinds())
    allowed = kind.reasons_of(name)
    if allowed is None:
        raise MalformedVector("the name of a damaged vector tells no reason known here")
    if reason not in allowed:
        raise Mismatch(f"refused as {reason}; the page names {' or '.join(sorted(allowed))}")
    return REFUSED


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise MalformedVector(f"the field {name!r} twice")
        fields[name] = value
    return fields


def check_file(path: Path, kind: Kind) -> dict[str, int]:
    """Checks the vectors of one file and counts what was found."""
    with path.open(encoding="utf-8") as file:
        vectors = json.load(file, object_pairs_hook=_unique)
    if not isinstance(vectors, list) or not vectors:
        raise MalformedVector(f"{path.name}: not a list of vectors")
    found = {"answered": 0, REFUSED: 0}
    for place, vector in enumerate(vectors):
        named = vector.get("name", place) if isinstance(vector, dict) else place
        try:
            found[judge(kind, vector)] += 1
        except (Mismatch, MalformedVector) as problem:
            raise type(problem)(f"{path.name}: {named}: {problem}") from problem
    return found


def check_directory(directory: Path) -> None:
    """Checks all files of a directory, which must be exactly those that are known."""
    names = {path.name for path in directory.iterdir()}
    expected = {f"{kind}.json" for kind in KINDS}
    if names != expected:
        unknown, missing = sorted(names - expected), sorted(expected - names)
        raise MalformedVector(f"unknown files {unknown}, missing files {missing}")
    total = 0
    for name, kind in sorted(KINDS.items()):
        found = check_file(directory / f"{name}.json", kind)
        total += sum(found.values())
        print(f"{name}.json: {found['answered']} answered, {found[REFUSED]} refused, all agree")
    print(f"{total} vectors in {len(KINDS)} files agree")


def main(arguments: list[str]) -> int:
    """The command."""
    if len(arguments) != 1:
        print("usage: verify_vectors.py DIRECTORY", file=sys.stderr)
        return 2
    try:
        check_directory(Path(arguments[0]))
    except Mismatch as mismatch:
        print(f"mismatch: {mismatch}", file=sys.stderr)
        return 1
    except (MalformedVector, OSError, ValueError) as problem:
        print(f"cannot judge: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
