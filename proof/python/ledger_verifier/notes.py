"""Checkpoints, and the signed notes that carry them.

Reads and checks signatures of keys that the caller names; which of them count is decided in
`trust.py`.
"""

from __future__ import annotations

import base64
import binascii
import unicodedata
from dataclasses import dataclass
from typing import Optional

from . import ed25519
from .hashes import plain
from .wire import Refused, decimal_u64

NOTE_BYTES_MAX = 16 * 1024
SIGNATURES_MAX = 16
DOMAIN_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-")
DOMAIN_LENGTH_MAX = 128
KIND_LOG = b"\x01"
KIND_COSIGNATURE = b"\x04"
_LINE_START = "\u2014 "


def is_domain(text: str) -> bool:
    """Whether a text may be a domain or a name of the directory."""
    return 1 <= len(text) <= DOMAIN_LENGTH_MAX and all(c in DOMAIN_CHARACTERS for c in text)


@dataclass(frozen=True)
class Origin:
    """Which log a checkpoint is about."""

    domain: str
    namespace: int
    vault: int
    log_epoch: int

    def __str__(self) -> str:
        return f"{self.domain}/ns/{self.namespace}/vault/{self.vault}/{self.log_epoch}"

    def same_but_epoch(self, other: Origin) -> bool:
        """Whether only the log epoch may differ."""
        mine = (self.domain, self.namespace, self.vault)
        return mine == (other.domain, other.namespace, other.vault)


def parse_origin(text: str) -> Origin:
    """Reads the first line of a checkpoint."""
    parts = text.split("/")
    if len(parts) != 6 or parts[1] != "ns" or parts[3] != "vault" or not is_domain(parts[0]):
        raise Refused("Origin", text)
    numbers = [decimal_u64(parts[place]) for place in (2, 4, 5)]
    namespace, vault, log_epoch = numbers
    if namespace is None or vault is None or log_epoch is None:
        raise Refused("Origin", text)
    return Origin(parts[0], namespace, vault, log_epoch)


@dataclass(frozen=True)
class Checkpoint:
    """A log, the number of its blocks, and the root over them."""

    origin: Origin
    size: int
    root: bytes


def parse_checkpoint(text: str) -> Checkpoint:
    """Reads the three lines of a checkpoint."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] != "":
        raise Refused("Lines", f"{len(lines) - 1} lines")
    origin = parse_origin(lines[0])
    size = decimal_u64(lines[1])
    if size is None:
        raise Refused("Size", lines[1])
    root = canonical_base64(lines[2])
    if root is None or len(root) != 32:
        raise Refused("Root", lines[2])
    return Checkpoint(origin, size, root)


def canonical_base64(text: str) -> Optional[bytes]:
    """Standard base64 with padding in its one canonical form, or nothing."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode("ascii") == text else None


@dataclass(frozen=True)
class SignatureLine:
    """One line below the text of a note."""

    name: str
    key_id: bytes
    payload: bytes


@dataclass(frozen=True)
class Note:
    """A text and the signatures over it, of which nothing is checked yet."""

    text: str
    signatures: list[SignatureLine]


def parse_note(data: bytes) -> Note:
    """Splits a note into its text and its signature lines."""
    if len(data) > NOTE_BYTES_MAX:
        raise Refused("TooLong", f"a note of {len(data)} bytes")
    try:
        whole = data.decode("utf-8", errors="strict")
    except UnicodeDecodeError as error:
        raise Refused("NotText") from error
    if any(unicodedata.category(c) == "Cc" and c != "\n" for c in whole):
        raise Refused("NotText", "a control character")
    empty_line = whole.rfind("\n\n")
    if empty_line < 0 or not whole.endswith("\n"):
        raise Refused("Form")
    text, below = whole[: empty_line + 1], whole[empty_line + 2 :]
    if not below:
        raise Refused("Form", "no signatures")
    lines = below[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise Refused("TooManySignatures", str(len(lines)))
    return Note(text, [_parse_line(line) for line in lines])


def _parse_line(line: str) -> SignatureLine:
    if not line.startswith(_LINE_START):
        raise Refused("Line", line)
    parts = line[len(_LINE_START) :].split(" ")
    if len(parts) != 2:
        raise Refused("Line", line)
    name, encoded = parts
    signature = canonical_base64(encoded)
    if not name or "+" in name or any(c.isspace() for c in name):
        raise Refused("Line", line)
    if signature is None or len(signature) < 5:
        raise Refused("Line", line)
    return SignatureLine(name, signature[:4], signature[4:])


@dataclass(frozen=True)
class KnownKey:
    """A key whose signatures matter, under the full name that it cosigns with."""

    name: str
    public_key: bytes


@dataclass(frozen=True)
class Cosignature:
    """A valid cosignature of a known key, with its time in Unix seconds."""

    public_key: bytes
    time: int


def key_id(name: str, kind: bytes, public_key: bytes) -> bytes:
    """The four bytes by which a signature line points at a key."""
    return plain(name.encode() + b"\n" + kind + public_key)[:4]


def cosigned_message(time: int, text: str) -> bytes:
    """What a cosigner signs."""
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def verify_note(note: Note, known: list[KnownKey]) -> list[Cosignature]:
    """The cosignatures of known keys, in the order of their lines.

    A line that is a known key's and does not verify refuses the whole note. Should four bytes of
    key id point at several known keys, one that verifies is enough.
    """
    origin = note.text.split("\n", 1)[0]
    found: list[Cosignature] = []
    for line in note.signatures:
        cosigners = [
            key for key in known if key.name == line.name and _is_key(line, key, KIND_COSIGNATURE)
        ]
        logs = [key for key in known if line.name == origin and _is_key(line, key, KIND_LOG)]
        valid = [c for c in (_cosignature(line, note.text, key) for key in cosigners) if c]
        if valid:
            found.append(valid[0])
        elif (cosigners or logs) and not any(_is_log_signature(line, note.text, k) for k in logs):
            raise Refused("BadSignature", line.name)
    return found


def _is_key(line: SignatureLine, key: KnownKey, kind: bytes) -> bool:
    return line.key_id == key_id(line.name, kind, key.public_key)


def _cosignature(line: SignatureLine, text: str, key: KnownKey) -> Optional[Cosignature]:
    if len(line.payload) != 8 + ed25519.SIGNATURE_BYTES:
        return None
    time = int.from_bytes(line.payload[:8], "big")
    message = cosigned_message(time, text)
    if not ed25519.verifies(key.public_key, message, line.payload[8:]):
        return None
    return Cosignature(key.public_key, time)


def _is_log_signature(line: SignatureLine, text: str, key: KnownKey) -> bool:
    return ed25519.verifies(key.public_key, text.encode(), line.payload)
