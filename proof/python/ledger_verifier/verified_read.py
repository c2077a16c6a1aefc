"""Verified reads, and what rests on them: links between trust bundles, and receipts of writes.

What the verifier trusts and remembers comes in as `Trust` and as the known checkpoint; the caller
keeps the checkpoint that comes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Union

from .block_log import verify_consistency, verify_inclusion
from .hashes import leaf, plain
from .headers import HEADER_BYTES, Header, decode_header
from .notes import NOTE_BYTES_MAX, Checkpoint, Origin, parse_checkpoint, parse_note, parse_origin
from .records import Record, check_state_key, entity_key
from .state_tree import KeyProof, read_key_proof, verify_key
from .transactions import VALUE_BYTES_MAX, Transaction, decode_transaction
from .trust import Count, TrustBundle, VoterSet, count_note, decode_bundle
from .wire import Reader, Refused, refused_as

READ_MAGIC = b"verified-read/v1"
RECEIPT_MAGIC = b"write-receipt/v1"
KNOWN_MAGIC = b"known-checkpt/v1"
ITEMS_MAX = 1000
ITEM_BYTES_MIN = 2 + 2 + 93 + 1
TRANSACTION_BYTES_MAX = 16 * 1024 * 1024
ORIGIN_BYTES_MAX = 256


@dataclass(frozen=True)
class Latest:
    """The newest block of the log, not below a height."""

    min_height: int = 0


@dataclass(frozen=True)
class AtHeight:
    """One exact block."""

    height: int


ReadAt = Union[Latest, AtHeight]


@dataclass(frozen=True)
class Trust:
    """Whom to believe. `now` in Unix seconds; without it, only what was so when it was signed."""

    bundle: TrustBundle
    voter_sets: list[VoterSet]
    now: Optional[int]


@dataclass(frozen=True)
class Known:
    """The checkpoint that was verified last for a log."""

    origin: Origin
    size: int
    root: bytes
    note: bytes


@dataclass(frozen=True)
class BlockProof:
    """A note, a header and the paths that tie them to each other and to what was known."""

    note: bytes
    header_bytes: bytes
    header: Header
    header_path: list[bytes]
    consistency: Optional[tuple[int, list[bytes]]]


@dataclass(frozen=True)
class VerifiedRead:
    """A block proof and, for each key, its proof and its value."""

    block: BlockProof
    items: list[tuple[KeyProof, Optional[bytes]]]


@dataclass(frozen=True)
class Block:
    """A block that is proved to be in a log, and the checkpoint that the reader keeps."""

    header: Header
    count: Count
    known: Known


@dataclass(frozen=True)
class Answer:
    """What is proved about one key. A value without `expired` is present."""

    record: Optional[Record]
    value: Optional[bytes]
    expired: bool

    def state(self) -> str:
        """`present`, `absent` or `expired`."""
        if self.record is None:
            return "absent"
        return "expired" if self.expired else "present"


def decode_known(data: bytes) -> Known:
    """Reads a client's memory of a log."""
    reader = Reader(data)
    reader.magic(KNOWN_MAGIC)
    origin = parse_origin(reader.text16(ORIGIN_BYTES_MAX, "origin"))
    size, root = reader.u64("size"), reader.digest("root")
    note = reader.str16(NOTE_BYTES_MAX, "note")
    reader.finish()
    return Known(origin, size, root, note)


def decode_verified_read(data: bytes) -> VerifiedRead:
    """Reads the package of a verified read."""
    reader = Reader(data)
    reader.magic(READ_MAGIC)
    block = read_block(reader)
    count = reader.count(reader.u16("items"), ITEMS_MAX, ITEM_BYTES_MIN, "items")
    items = [_read_item(reader) for _ in range(count)]
    reader.finish()
    return VerifiedRead(block, items)


def read_block(reader: Reader) -> BlockProof:
    """Reads a block proof, and leaves what follows it."""
    note = reader.str16(NOTE_BYTES_MAX, "note")
    header_bytes = reader.take(HEADER_BYTES, "header")
    header = decode_header(header_bytes)
    header_path = reader.path("header path")
    consistency = None
    if reader.flag("consistency"):
        consistency = (reader.u64("from size"), reader.path("consistency"))
    return BlockProof(note, header_bytes, header, header_path, consistency)


def _read_item(reader: Reader) -> tuple[KeyProof, Optional[bytes]]:
    proof = read_key_proof(reader)
    value = reader.str32(VALUE_BYTES_MAX, "value") if reader.flag("value") else None
    return proof, value


def verify_read(
    read: VerifiedRead,
    origin: Origin,
    keys: list[bytes],
    at: ReadAt,
    trust: Trust,
    known: Optional[Known],
) -> tuple[Block, list[Answer]]:
    """Checks a verified read: the block, and the answer for each key in order."""
    for key in keys:
        check_state_key(key)
    if len(read.items) != len(keys):
        raise Refused("ItemCount", f"{len(read.items)} for {len(keys)} keys")
    block = verify_block(read.block, origin, at, trust, known)
    clock = expiry_clock(block.header, at, trust.now)
    answers = [
        _verify_item(key, proof, value, block.header, clock)
        for key, (proof, value) in zip(keys, read.items)
    ]
    return block, answers


def expiry_clock(header: Header, at: ReadAt, now: Optional[int]) -> int:
    """The second at which expiry is judged."""
    if now is None or isinstance(at, AtHeight):
        return header.time_seconds
    return max(header.time_seconds, now)


def _verify_item(
    key: bytes, proof: KeyProof, value: Optional[bytes], header: Header, clock: int
) -> Answer:
    with refused_as("Key", key.hex()):
        record = verify_key(key, proof, header.state_root)
    if record is None:
        if value is not None:
            raise Refused("ValueUnexpected", key.hex())
        return Answer(None, None, False)
    if value is None:
        raise Refused("ValueMissing", key.hex())
    if plain(value) != record.value_hash:
        raise Refused("ValueMismatch", key.hex())
    return Answer(record, value, record.expires_at != 0 and record.expires_at <= clock)


def verify_block(
    proof: BlockProof, origin: Origin, at: ReadAt, trust: Trust, known: Optional[Known]
) -> Block:
    """Checks that a log of the expected origin, signed well enough, holds the header."""
    with refused_as("Note"):
        note = parse_note(proof.note)
        checkpoint = parse_checkpoint(note.text)
    if checkpoint.origin != origin:
        epoch_only = checkpoint.origin.same_but_epoch(origin)
        raise Refused("LogEpoch" if epoch_only else "OtherLog", str(checkpoint.origin))
    with refused_as("Count"):
        count = count_note(trust.bundle, note, trust.voter_sets, trust.now)
    _verify_growth(proof, checkpoint, known)
    _verify_place(proof.header, checkpoint, at)
    with refused_as("HeaderPath"):
        verify_inclusion(
            proof.header.block_hash,
            proof.header.height,
            checkpoint.size,
            proof.header_path,
            checkpoint.root,
        )
    kept = Known(checkpoint.origin, checkpoint.size, checkpoint.root, proof.note)
    return Block(proof.header, count, kept)


def _verify_growth(proof: BlockProof, checkpoint: Checkpoint, known: Optional[Known]) -> None:
    if known is None:
        if proof.consistency is not None:
            raise Refused("ConsistencyUnexpected", "nothing is known")
        return
    if known.origin != checkpoint.origin:
        raise Refused("KnownOtherLog", str(known.origin))
    if known.size > checkpoint.size:
        raise Refused("Behind", f"{known.size} blocks are known, {checkpoint.size} shown")
    if known.size == checkpoint.size:
        if known.root != checkpoint.root:
            raise Refused("Fork", "one size and two roots")
        if proof.consistency is not None and proof.consistency != (known.size, []):
            raise Refused("ConsistencyUnexpected", "the sizes are equal")
        return
    if proof.consistency is None:
        raise Refused("ConsistencyMissing")
    from_size, path = proof.consistency
    if from_size != known.size:
        raise Refused("ConsistencyUnexpected", f"from {from_size}, not {known.size}")
    with refused_as("Fork"):
        verify_consistency(known.size, known.root, checkpoint.size, checkpoint.root, path)


def _verify_place(header: Header, checkpoint: Checkpoint, at: ReadAt) -> None:
    vault = (checkpoint.origin.namespace, checkpoint.origin.vault)
    if (header.namespace, header.vault) != vault:
        raise Refused("OtherVault", f"{header.namespace}/{header.vault}")
    if isinstance(at, Latest) and checkpoint.size == 0:
        raise Refused("HeaderPath", "the log is empty", Refused("IndexOutside"))
    wanted = at.height if isinstance(at, AtHeight) else checkpoint.size - 1
    if header.height != wanted:
        raise Refused("OtherHeight", f"{header.height}, not {wanted}")
    if isinstance(at, Latest) and header.height < at.min_height:
        raise Refused("TooOld", f"{header.height}, not {at.min_height} or later")


def verify_bundle_link(link: bytes, bundle: TrustBundle, may_lower: bool = False) -> bytes:
    """Checks the link from a bundle to the one after it, and returns the bytes of that one."""
    read = decode_verified_read(link)
    trust = Trust(bundle, [bundle.system_voters()], now=None)
    key = entity_key(f"bundle/{bundle.sequence + 1}")
    _, answers = verify_read(read, bundle.system_origin(), [key], Latest(), trust, known=None)
    if answers[0].state() != "present" or answers[0].value is None:
        raise Refused("NotTheNextBundle", f"it is {answers[0].state()}")
    following = decode_bundle(answers[0].value)
    if (following.sequence, following.domain) != (bundle.sequence + 1, bundle.domain):
        raise Refused("NotTheNextBundle", f"{following.sequence} of {following.domain}")
    if not may_lower and bundle.is_lowered_by(following):
        raise Refused("LoweredRule")
    return answers[0].value


@dataclass(frozen=True)
class ReceiptPackage:
    """A block proof, and a transaction with the path from it to the block's header."""

    block: BlockProof
    transaction: bytes
    index: int
    path: list[bytes]


@dataclass(frozen=True)
class Receipt:
    """A transaction that is proved to be in a block."""

    transaction: Transaction
    index: int
    block: Block


def decode_receipt(data: bytes) -> ReceiptPackage:
    """Reads the package of a receipt."""
    reader = Reader(data)
    reader.magic(RECEIPT_MAGIC)
    block = read_block(reader)
    transaction = reader.str32(TRANSACTION_BYTES_MAX, "transaction")
    index, path = reader.u32("index"), reader.path("transaction path")
    reader.finish()
    return ReceiptPackage(block, transaction, index, path)


def verify_receipt(
    package: ReceiptPackage,
    origin: Origin,
    height: int,
    wanted: Union[bytes, int],
    trust: Trust,
    known: Optional[Known],
) -> Receipt:
    """Checks a receipt for a transaction, by its id or its index, in the block at this height."""
    block = verify_block(package.block, origin, AtHeight(height), trust, known)
    with refused_as("TransactionPath"):
        header = block.header
        hashed = leaf(package.transaction)
        verify_inclusion(hashed, package.index, header.tx_count, package.path, header.tx_root)
    transaction = decode_transaction(package.transaction)
    if wanted != (package.index if isinstance(wanted, int) else transaction.id):
        raise Refused("OtherTransaction", f"{transaction.id.hex()} at index {package.index}")
    return Receipt(transaction, package.index, block)
