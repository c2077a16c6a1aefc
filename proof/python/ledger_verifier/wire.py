"""Reading the binary forms: integers, lengths, counts, and the refusal that every check raises.

Must never reserve memory for a length that the remaining bytes cannot hold, and never read past the
end: whatever is wrong becomes a `Refused`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Optional

DIGEST_BYTES = 32
# Hashes in one path of the block log or of a block's transactions.
PATH_HASHES_MAX = 65
U64_MAX = 2**64 - 1


class Refused(Exception):
    """What was handed over does not hold. `kind` is the name of the reason on the format's page."""

    def __init__(self, kind: str, detail: str = "", inner: Optional[Refused] = None) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail
        self.inner = inner

    def kinds(self) -> list[str]:
        """The reason and the reasons inside it, outermost first."""
        return [self.kind] + (self.inner.kinds() if self.inner else [])

    def __str__(self) -> str:
        said = f"{self.kind} ({self.detail})" if self.detail else self.kind
        return f"{said}: {self.inner}" if self.inner else said


@contextmanager
def refused_as(kind: str, detail: str = "") -> Iterator[None]:
    """Gives a refusal inside the block the reason `kind`, and keeps the inner one."""
    try:
        yield
    except Refused as inner:
        raise Refused(kind, detail, inner) from inner


class Reader:
    """Takes fields off the front of a byte string."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def remaining(self) -> int:
        """Bytes that were not taken yet."""
        return len(self._data) - self._at

    def take(self, length: int, field: str) -> bytes:
        """Exactly `length` bytes."""
        if length > self.remaining():
            raise Refused("Truncated", f"{field} needs {length} bytes of {self.remaining()}")
        taken = self._data[self._at : self._at + length]
        self._at += length
        return taken

    def _integer(self, length: int, field: str) -> int:
        return int.from_bytes(self.take(length, field), "big")

    def u8(self, field: str) -> int:
        """One byte."""
        return self._integer(1, field)

    def u16(self, field: str) -> int:
        """Two bytes, big-endian."""
        return self._integer(2, field)

    def u32(self, field: str) -> int:
        """Four bytes, big-endian."""
        return self._integer(4, field)

    def u64(self, field: str) -> int:
        """Eight bytes, big-endian."""
        return self._integer(8, field)

    def digest(self, field: str) -> bytes:
        """A SHA-256 digest."""
        return self.take(DIGEST_BYTES, field)

    def flag(self, field: str) -> bool:
        """One byte, 0 or 1."""
        value = self.u8(field)
        if value > 1:
            raise Refused("UnknownValue", f"{field} is {value}, neither 0 nor 1")
        return value == 1

    def str16(self, limit: int, field: str) -> bytes:
        """Bytes behind a `u16` length of at most `limit`."""
        return self.take(_bounded(self.u16(field), limit, field), field)

    def str32(self, limit: int, field: str) -> bytes:
        """Bytes behind a `u32` length of at most `limit`."""
        return self.take(_bounded(self.u32(field), limit, field), field)

    def text16(self, limit: int, field: str) -> str:
        """UTF-8 behind a `u16` length."""
        return utf8(self.str16(limit, field), field)

    def text32(self, limit: int, field: str) -> str:
        """UTF-8 behind a `u32` length."""
        return utf8(self.str32(limit, field), field)

    def path(self, field: str) -> list[bytes]:
        """A `u16` count of digests and the digests."""
        count = self.count(self.u16(field), PATH_HASHES_MAX, DIGEST_BYTES, field)
        return [self.digest(field) for _ in range(count)]

    def count(self, count: int, limit: int, item_bytes_min: int, field: str) -> int:
        """`count`, if it is within its limit and the bytes left can hold that many items."""
        _bounded(count, limit, field)
        if count * item_bytes_min > self.remaining():
            raise Refused("Truncated", f"{count} of {field} do not fit into what is left")
        return count

    def magic(self, expected: bytes) -> None:
        """The bytes that a form begins with."""
        if self.take(len(expected), "magic") != expected:
            raise Refused("Invalid", f"does not begin with {expected!r}")

    def version(self, expected: int, field: str) -> None:
        """The version byte of a form."""
        version = self.u8(field)
        if version != expected:
            raise Refused("UnknownValue", f"{field} has version {version}")

    def zeros(self, length: int, field: str) -> None:
        """Reserved bytes."""
        if any(self.take(length, field)):
            raise Refused("Invalid", f"{field} is not zero")

    def finish(self) -> None:
        """Nothing may be left."""
        if self.remaining():
            raise Refused("TrailingBytes", f"{self.remaining()} bytes are left over")


def _bounded(value: int, limit: int, field: str) -> int:
    if value > limit:
        raise Refused("TooLong", f"{field} has {value}, at most {limit}")
    return value


def utf8(data: bytes, field: str) -> str:
    """Bytes as text."""
    try:
        return data.decode("utf-8", errors="strict")
    except UnicodeDecodeError as error:
        raise Refused("NotUtf8", field) from error


def decimal_u64(text: str) -> Optional[int]:
    """A decimal number below 2^64 without leading zeros, or nothing."""
    if not text or len(text) > 20 or any(character not in "0123456789" for character in text):
        return None
    if text[0] == "0" and text != "0":
        return None
    value = int(text)
    return value if value <= U64_MAX else None
