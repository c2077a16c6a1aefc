"""How the vectors of each file are judged: their fields, what must be said, and why refused.

A check gets a vector's inputs and returns what the format says about them, in the shape of the
vector's `expect`, or lets the `Refused` through. Must not look at `expect` itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Optional

from .block_log import verify_consistency, verify_inclusion
from .hashes import plain
from .headers import decode_header
from .list_proof import verify_list
from .notes import KnownKey, parse_checkpoint, parse_note, parse_origin, verify_note
from .records import decode_descriptor, decode_record, state_leaf
from .state_tree import decode_key_proof, state_root, verify_key
from .system_entities import decode_entity
from .transactions import decode_transaction
from .trust import Signer, VoterSet, count_note, decode_bundle
from .verified_list import decode_list_page, decode_verified_list, verify_verified_list
from .verified_read import (
    Answer,
    AtHeight,
    Known,
    Latest,
    ReadAt,
    Trust,
    decode_known,
    decode_receipt,
    decode_verified_read,
    verify_bundle_link,
    verify_read,
    verify_receipt,
)

# A vector, or what a check says about it.
Json = Any


class MalformedVector(Exception):
    """A vector that this program does not understand. Never the same as a refusal."""


@dataclass(frozen=True)
class Kind:
    """One kind of vectors: its check, its fields beside `name` and `expect`, and its reasons.

    `reasons` maps the end of a damaged vector's name, as a pattern, to the reasons that the page
    allows for it, nested ones joined by dots.
    """

    check: Callable[[Json], Json]
    fields: frozenset[str]
    reasons: dict[str, set[str]]

    def reasons_of(self, name: str) -> Optional[set[str]]:
        """The reasons allowed for a vector with this name; nothing if the name tells none."""
        for pattern, reasons in self.reasons.items():
            if re.search(pattern + "$", name):
                return reasons
        return None


def unhex(text: Json) -> bytes:
    """Lower-case hexadecimal as bytes."""
    if not isinstance(text, str) or not re.fullmatch("([0-9a-f]{2})*", text):
        raise MalformedVector(f"not lower-case hexadecimal: {text!r}")
    return bytes.fromhex(text)


def number(value: Json) -> int:
    """A JSON number that fits a `u64`."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**64:
        raise MalformedVector(f"not a u64: {value!r}")
    return value


def exactly(value: Json, fields: set[str]) -> Json:
    """An object with these fields and no others."""
    if not isinstance(value, dict) or set(value) != fields:
        raise MalformedVector(f"expected an object with {sorted(fields)}: {value!r}")
    return value


def _header(vector: Json) -> Json:
    said = asdict(decode_header(unhex(vector["hex"])))
    return {key: _shown(value) for key, value in said.items()}


def _shown(value: Json) -> Json:
    return value.hex() if isinstance(value, bytes) else value


def _descriptor(vector: Json) -> Json:
    said = asdict(decode_descriptor(unhex(vector["hex"])))
    return {key: _shown(value) for key, value in said.items()}


def _record(vector: Json) -> Json:
    data = unhex(vector["hex"])
    said = {key: _shown(value) for key, value in asdict(decode_record(data)).items()}
    return said | {"hash": plain(data).hex(), "leaf_of_key_01": state_leaf(b"\x01", data).hex()}


def _transaction(vector: Json) -> Json:
    transaction = decode_transaction(unhex(vector["hex"]))
    return {
        "assigned_sequence": transaction.assigned_sequence,
        "leaf": transaction.leaf.hex(),
        "operations": len(transaction.operations),
    }


def _log_inclusion(vector: Json) -> Json:
    leaf, root = unhex(vector["leaf"]), unhex(vector["root"])
    path = [unhex(digest) for digest in vector["path"]]
    verify_inclusion(leaf, number(vector["index"]), number(vector["size"]), path, root)
    return "holds"


def _log_consistency(vector: Json) -> Json:
    path = [unhex(digest) for digest in vector["path"]]
    old_root, new_root = unhex(vector["old_root"]), unhex(vector["new_root"])
    old_size, new_size = number(vector["old_size"]), number(vector["new_size"])
    verify_consistency(old_size, old_root, new_size, new_root, path)
    return "holds"


def _state_tree(vector: Json) -> Json:
    entries: dict[bytes, bytes] = {}
    for entry in vector["entries"]:
        exactly(entry, {"key", "record"})
        key = unhex(entry["key"])
        if key in entries:
            raise MalformedVector("a key twice")
        entries[key] = unhex(entry["record"])
    return state_root(entries).hex()


def _key_proof(vector: Json) -> Json:
    proof = decode_key_proof(unhex(vector["proof"]))
    record = verify_key(unhex(vector["key"]), proof, unhex(vector["state_root"]))
    return "absent" if record is None else "present"


def _list_proof(vector: Json) -> Json:
    prefix, root = unhex(vector["prefix"]), unhex(vector["state_root"])
    answers = [unhex(answer) for answer in vector["pages"]]
    return [entry.key.hex() for entry in verify_list(prefix, number(vector["time"]), root, answers)]


def _note(vector: Json) -> Json:
    note = parse_note(vector["note"].encode())
    parse_checkpoint(note.text)
    known = []
    for key in vector["known"]:
        exactly(key, {"name", "public_key"})
        known.append(KnownKey(key["name"], unhex(key["public_key"])))
    return [
        {"public_key": cosignature.public_key.hex(), "time": cosignature.time}
        for cosignature in verify_note(note, known)
    ]


def _voter_sets(vector: Json) -> list[VoterSet]:
    def signer(voter: Json) -> Signer:
        exactly(voter, {"name", "public_key"})
        return Signer(voter["name"], unhex(voter["public_key"]))

    return [[signer(voter) for voter in voters] for voters in vector["voter_sets"]]


def _note_count(vector: Json) -> Json:
    bundle = decode_bundle(unhex(vector["bundle"]))
    note = parse_note(vector["note"].encode())
    return asdict(count_note(bundle, note, _voter_sets(vector), number(vector["now"])))


def _trust_bundle(vector: Json) -> Json:
    bundle = decode_bundle(unhex(vector["hex"]))
    return {
        "domain": bundle.domain,
        "sequence": bundle.sequence,
        "issued_at": bundle.issued_at,
        "expires_at": bundle.expires_at,
        "system_log_epoch": bundle.system_log_epoch,
        "floor": bundle.floor,
        "max_age_seconds": bundle.oldest_age,
        "skew_seconds": bundle.skew,
        "required_of_1_to_5": [bundle.required(count) for count in range(1, 6)],
        "voters": [
            {"node": voter.node, "name": voter.name, "public_key": voter.public_key.hex()}
            for voter in bundle.voters
        ],
    }


def _system_entity(vector: Json) -> Json:
    decode_entity(vector["key"], unhex(vector["hex"]))
    return "holds"


def _known(vector: Json) -> Optional[Known]:
    return None if vector["known"] is None else decode_known(unhex(vector["known"]))


def _trust(vector: Json) -> Trust:
    bundle = decode_bundle(unhex(vector["bundle"]))
    return Trust(bundle, _voter_sets(vector), number(vector["now"]))


def _read_at(at: Json) -> ReadAt:
    if "height" in at:
        return AtHeight(number(exactly(at, {"height"})["height"]))
    latest = exactly(exactly(at, {"latest"})["latest"], {"min_height"})
    return Latest(number(latest["min_height"]))


def _verified_read(vector: Json) -> Json:
    keys = [unhex(key) for key in vector["keys"]]
    origin, at = parse_origin(vector["origin"]), _read_at(vector["at"])
    trust, known = _trust(vector), _known(vector)
    read = decode_verified_read(unhex(vector["answer"]))
    _, answers = verify_read(read, origin, keys, at, trust, known)
    return [_answer(answer) for answer in answers]


def _answer(answer: Answer) -> Json:
    if answer.state() == "present" and answer.value is not None:
        return {"present": answer.value.hex()}
    return answer.state()


def _verified_list(vector: Json) -> Json:
    _, items = verify_verified_list(
        decode_verified_list(unhex(vector["answer"])),
        [decode_list_page(unhex(page)) for page in vector["later"]],
        unhex(vector["prefix"]),
        parse_origin(vector["origin"]),
        _read_at(vector["at"]),
        _trust(vector),
        _known(vector),
    )
    return [{"key": item.key.hex(), "value": item.value.hex()} for item in items]


def _bundle_link(vector: Json) -> Json:
    bundle = decode_bundle(unhex(vector["bundle"]))
    return verify_bundle_link(unhex(vector["link"]), bundle).hex()


def _receipt(vector: Json) -> Json:
    receipt = verify_receipt(
        decode_receipt(unhex(vector["answer"])),
        parse_origin(vector["origin"]),
        number(vector["height"]),
        unhex(vector["tx_id"]),
        _trust(vector),
        _known(vector),
    )
    return {"index": receipt.index, "tx_count": receipt.block.header.tx_count}


# Damage that every decoder meets.
_DECODING = {
    ": cut short": {"Truncated"},
    ": nothing": {"Truncated"},
    ": a byte too many": {"TrailingBytes"},
    ": another version": {"UnknownValue"},
    ": another magic": {"Invalid"},
}
# A damaged list is of one answer or of several, as the end of its name tells.
_PAGES = r", \d pages"
_LIST_REASONS = {
    "the first item is left out": {"NotTheFirst"},
    "the last item is left out": {"Unfinished"},
    "an item in between is left out": {"WrongRoot"},
    "items swapped|an item twice": {"NotAscending"},
    "an item of the list after it": {"OutsidePrefix"},
    "a later page that (skips a leaf|begins too early)": {"NotTheNext"},
    "a later page that leaves one out": {"WrongRoot"},
    "a later page that adds nothing": {"NothingAdded"},
    "a whole list after a page": {"NotAPage"},
    "the last page is missing" + _PAGES: {"Unfinished"},
    "the last page twice" + _PAGES: {"AfterTheLast"},
    # The first page has one leaf, so that the second, which repeats it, may be the first as well.
    "the first pages swapped" + _PAGES: {"NotTheNext"},
    "another record" + _PAGES: {"WrongRoot"},
    "a path bit beyond the prefix" + _PAGES: {"BitBeyondPrefix"},
    "(a path step|a leaf of the path) left out" + _PAGES: {"WrongRoot"},
    "no (left|right) sides" + _PAGES: {"WrongRoot"},
    "sides exchanged" + _PAGES: {"NotLeft"},
    # Whichever side the bits came from, the leaf at the end of the other lies wrong.
    "the same bits on both sides" + _PAGES: {"NotLeft", "NotRight"},
    "(left bits in the wrong order|a right bit repeated)" + _PAGES: {"BitsNotIncreasing"},
    "a bit out of range" + _PAGES: {"BitOutOfRange"},
    "no leaves" + _PAGES: {"NoLeaves"},
    "cut short" + _PAGES: {"Truncated"},
    "nothing" + _PAGES: {"Truncated"},
    "a byte too many" + _PAGES: {"TrailingBytes"},
    "an unknown form" + _PAGES: {"UnknownValue"},
    # The way of the prefix's own bits ends at the first item, and leaves that to any other.
    "the key proof of an item for an empty list": {"Key.LeafElsewhere", "NotEmpty"},
    "the key proof of a neighbour for an empty list": {"Key.LeafElsewhere"},
    "an empty list of another prefix": {"Key.LeafElsewhere"},
    "an empty list under another root": {"Key.WrongRoot"},
    "a list of everything|a prefix longer than any key": {"PrefixLength"},
    "one leaf too many": {"TooLong"},
    "the key that is the prefix itself, alone": {"Unfinished"},
}
_TRUSTED = frozenset({"answer", "bundle", "known", "now", "origin", "voter_sets"})


KINDS: dict[str, Kind] = {
    "header": Kind(
        _header,
        frozenset({"hex"}),
        _DECODING | {"an unknown flag": {"UnknownValue"}, "a reserved byte": {"Invalid"}},
    ),
    "descriptor": Kind(_descriptor, frozenset({"hex"}), _DECODING),
    "record": Kind(_record, frozenset({"hex"}), _DECODING),
    "transaction": Kind(
        _transaction,
        frozenset({"hex"}),
        _DECODING
        | {
            "an unknown outcome": {"UnknownValue"},
            # Whatever stands where the operation after the last one would.
            "another count": {"Truncated", "TrailingBytes", "UnknownValue"},
        },
    ),
    "log_inclusion": Kind(
        _log_inclusion,
        frozenset({"leaf", "index", "size", "path", "root"}),
        {
            "a hash too many: .*": {"TooLong"},
            "a hash too few: .*": {"TooShort"},
            "outside: .*": {"IndexOutside"},
            "the first entry of an empty log": {"IndexOutside"},
            r"another leaf: (\d+) of \1": {"IndexOutside"},
            "another leaf: .*": {"WrongRoot"},
        },
    ),
    "log_consistency": Kind(
        _log_consistency,
        frozenset({"old_size", "old_root", "new_size", "new_root", "path"}),
        {
            "a hash too many: .*": {"TooLong"},
            "a hash too few: .*": {"TooShort"},
            "a log that shrinks.*": {"SizeShrinks"},
            # An old root that is no hash of the path is where the computation begins.
            "another old root: .*": {"WrongOldRoot", "WrongRoot"},
            "another new root: .*": {"WrongRoot"},
        },
    ),
    "state_tree": Kind(
        _state_tree, frozenset({"entries"}), {"a record of another length": {"Invalid"}}
    ),
    "key_proof": Kind(
        _key_proof,
        frozenset({"key", "proof", "state_root"}),
        {
            ": no path": {"WrongRoot"},
            ": a step left out": {"WrongRoot"},
            ": steps swapped": {"BitsNotIncreasing"},
            ": a step repeated": {"BitsNotIncreasing"},
            ": a bit out of range": {"BitOutOfRange"},
            ": another bit": {"WrongRoot", "LeafElsewhere", "BitsNotIncreasing"},
            ": another sibling": {"WrongRoot"},
            ": another record": {"WrongRoot"},
            ": another record version": {"Record.UnknownValue"},
            ": another leaf key": {"WrongRoot", "LeafElsewhere"},
            ": no leaf key": {"LeafKeyLength"},
            ": for StateKey.*": {"LeafElsewhere"},
        },
    ),
    "list_proof": Kind(
        _list_proof, frozenset({"pages", "prefix", "state_root", "time"}), _LIST_REASONS
    ),
    "note": Kind(
        _note,
        frozenset({"note", "known"}),
        {
            "signature is bad": {"BadSignature"},
            "a shared key id, signed by neither": {"BadSignature"},
            "a stranger with a known key id": {"BadSignature"},
            "time is another": {"BadSignature"},
            "another root": {"BadSignature"},
            "no final newline": {"Form"},
            "carriage returns": {"NotText"},
            "a leading zero in the size": {"Size"},
            "a fourth line": {"Lines"},
            "no signatures": {"Form"},
            "a hyphen for the dash": {"Line"},
            "seventeen signatures": {"TooManySignatures"},
        },
    ),
    "note_count": Kind(
        _note_count,
        frozenset({"bundle", "note", "now", "voter_sets"}),
        {
            "one of three|too old|too far ahead": {"TooFew"},
            "one of each set|strangers|one key twice": {"TooFew"},
            "no voters": {"NoVoters"},
        },
    ),
    "trust_bundle": Kind(
        _trust_bundle,
        frozenset({"hex"}),
        _DECODING
        | {
            ": (an upper-case domain|no floor|voters out of order)": {"Invalid"},
            ": a (key|name|node) twice": {"Invalid"},
        },
    ),
    "system_entity": Kind(_system_entity, frozenset({"key", "hex"}), _DECODING),
    "verified_read": Kind(
        _verified_read,
        _TRUSTED | {"at", "keys"},
        {
            "latest, later write": {"TooOld"},
            "another height": {"OtherHeight"},
            "no consistency path": {"ConsistencyMissing"},
            "a path nobody asked for": {"ConsistencyUnexpected"},
            "a fork": {"Fork.WrongOldRoot", "Fork.WrongRoot", "Fork"},
            "behind": {"Behind"},
            "another value": {"ValueMismatch"},
            "no value": {"ValueMissing"},
            "a value for an absent key": {"ValueUnexpected"},
            "an answer too few": {"ItemCount"},
            "answers swapped": {"Key.LeafElsewhere"},
            "another state root": {"HeaderPath.WrongRoot"},
            "another vault's header": {"OtherVault"},
            "a header path too short": {"HeaderPath.TooShort"},
            "a byte too many": {"TrailingBytes"},
            "a key of an unknown kind": {"Invalid"},
        },
    ),
    "verified_list": Kind(
        _verified_list,
        _TRUSTED | {"at", "later", "prefix"},
        {
            "another height": {"OtherHeight"},
            "without its last page": {"List.Unfinished"},
            "a page left out": {"List.NotTheNext"},
            "pages twice": {"List.AfterTheLast"},
            "of another prefix": {"List.OutsidePrefix"},
            "another value|values swapped": {"ValueMismatch"},
            "a value too (few|many)": {"ValueCount"},
            "another state root": {"HeaderPath.WrongRoot"},
            "an item left out": {"List.WrongRoot", "List.NotLeft"},
            "a byte too many": {"TrailingBytes"},
        },
    ),
    "bundle_link": Kind(
        _bundle_link,
        frozenset({"bundle", "link"}),
        {
            "too few signatures": {"Count.TooFew"},
            "a lowered rule: .*": {"LoweredRule"},
            "another number inside": {"NotTheNextBundle"},
        },
    ),
    "receipt": Kind(
        _receipt,
        _TRUSTED | {"height", "tx_id"},
        {
            "another transaction": {"OtherTransaction"},
            "another index": {"TransactionPath.WrongRoot", "TransactionPath.TooShort"},
            "another count": {"HeaderPath.WrongRoot"},
            "a hash too many": {"TransactionPath.TooLong"},
            "another byte": {"TransactionPath.WrongRoot"},
        },
    ),
}
