#!/usr/bin/env python3
"""Checks proofs that `ledger-cli` saved, without a network: `verify_proof.py --bundle FILE PROOF`.

Prints what is proved: about keys, the items of a list, or a transaction. Ends with 0 if every proof
holds, with 1 if one is refused, and with 2 if a file cannot be read. Without `--fresh` no clock is
asked, and what a proof says was so when it was signed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Optional

from ledger_verifier.records import LAST_TAG
from ledger_verifier.saved_proof import (
    Proved,
    ProvedKeys,
    ProvedList,
    decode_saved_proof,
    verify_saved_proof,
)
from ledger_verifier.trust import TrustBundle, decode_bundle
from ledger_verifier.verified_read import Answer
from ledger_verifier.wire import Refused

# Largest files that are read, in bytes.
PROOF_BYTES_MAX = 64 * 1024 * 1024
BUNDLE_BYTES_MAX = 64 * 1024


def read_bounded(path: Path, limit: int) -> bytes:
    """The content of a file of at most `limit` bytes."""
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(f"{path} has more than {limit} bytes")
    return data


def shown_key(key: bytes) -> str:
    """A state key for people: the entity or relationship that it names."""
    if key[0] > LAST_TAG:
        return f"key {key.hex()}"
    parts = key[1:].decode("utf-8", errors="backslashreplace").split("\x00")
    if key[0] == 0:
        return "descriptor"
    if key[0] == 1:
        return f"entity {parts[0]!r}"
    return f"relationship {parts!r}"


def plain_answer(key: bytes, answer: Answer) -> str:
    """One line about one key, for programs: key, state, version and value in hexadecimal."""
    words = [key.hex(), answer.state()]
    if answer.record is not None:
        words.append(str(answer.record.modified_height))
    if answer.value is not None and answer.state() == "present":
        words.append(answer.value.hex())
    return " ".join(words)


def shown_answer(key: bytes, answer: Answer) -> str:
    """One line about one key, for people."""
    line = f"{shown_key(key)}: {answer.state()}"
    if answer.record is None:
        return line
    line += f", version {answer.record.modified_height}"
    if answer.value is not None and answer.state() == "present":
        line += f", value {answer.value!r}"
    return line


def answers(proved: Proved) -> list[tuple[bytes, Answer]]:
    """Keys with what is proved about them: those asked for, or those of a list."""
    if isinstance(proved, ProvedKeys):
        return proved.answers
    if isinstance(proved, ProvedList):
        return [(item.key, Answer(item.record, item.value, False)) for item in proved.items]
    return []


def plain(proved: Proved) -> list[str]:
    """What is proved, line by line, for programs."""
    lines = [plain_answer(*answer) for answer in answers(proved)]
    if isinstance(proved, ProvedList):
        return [f"list {proved.prefix.hex()} {len(lines)}", *lines]
    if not isinstance(proved, ProvedKeys):
        made = proved.transaction
        return [f"transaction {made.id.hex()} {proved.index} {made.leaf.hex()}"]
    return lines


def shown(path: Path, proved: Proved, bundle: TrustBundle) -> list[str]:
    """What the proof says, line by line, for people."""
    header, count = proved.block.header, proved.block.count
    lines = [
        f"{path} holds: log {proved.origin}, block {header.height}"
        f" of Unix second {header.time_seconds}, state root {header.state_root.hex()},",
        f"keys that signed: {count.keys}, the oldest in Unix second {count.oldest_time},"
        f" under trust bundle {bundle.sequence} of {bundle.domain}",
    ]
    if isinstance(proved, ProvedList):
        lines.append(f"all of a list, items: {len(proved.items)}")
    elif not isinstance(proved, ProvedKeys):
        made = proved.transaction
        lines.append(
            f"transaction {made.id.hex()}, number {proved.index} of the block's {header.tx_count}"
            f" from 0, client {made.client!r}, operations: {len(made.operations)}"
        )
    return lines + [shown_answer(key, answer) for key, answer in answers(proved)]


def check_file(path: Path, bundle: TrustBundle, now: Optional[int], is_plain: bool) -> bool:
    """Checks one file and prints what it proves. Returns whether it holds."""
    data = read_bounded(path, PROOF_BYTES_MAX)
    try:
        proved = verify_saved_proof(decode_saved_proof(data), bundle, now)
    except Refused as refusal:
        if is_plain:
            print("refused")
        print(f"{path} is refused: {refusal}", file=sys.stderr)
        return False
    if is_plain:
        print("holds", *plain(proved), sep="\n")
    else:
        print("\n".join(shown(path, proved, bundle)))
    return True


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="verify_proof.py",
        description="Checks proofs that ledger-cli saved, without a network.",
    )
    parser.add_argument("--bundle", type=Path, required=True, help="the trust bundle's file")
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="the proof and the bundle must also be current by this machine's clock",
    )
    parser.add_argument("--plain", action="store_true", help="print lines for programs")
    parser.add_argument("proofs", type=Path, nargs="+", help="files of saved proofs")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """The command."""
    options = parse_arguments(arguments)
    now: Optional[int] = int(time.time()) if options.fresh else None
    try:
        bundle = decode_bundle(read_bounded(options.bundle, BUNDLE_BYTES_MAX))
        held = [check_file(path, bundle, now, options.plain) for path in options.proofs]
    except OSError as error:
        print(f"cannot read: {error}", file=sys.stderr)
        return 2
    except Refused as refusal:
        print(f"the trust bundle is refused: {refusal}", file=sys.stderr)
        return 1
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
