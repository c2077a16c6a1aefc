"""The trust bundle, and when the signatures below a note suffice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from .notes import (
    DOMAIN_LENGTH_MAX,
    KnownKey,
    Note,
    Origin,
    is_domain,
    verify_note,
)
from .wire import Reader, Refused

MAGIC = b"trust-bundle/v1\x00"
VOTERS_MAX = 64
VOTER_BYTES_MIN = 8 + 2 + 32


@dataclass(frozen=True)
class Voter:
    """A node that may vote, with the key that it signs with."""

    node: int
    name: str
    public_key: bytes


@dataclass(frozen=True)
class Signer:
    """A member of a voter set: its name without the domain, and its key."""

    name: str
    public_key: bytes


VoterSet = list[Signer]


@dataclass(frozen=True)
class TrustBundle:
    """Whose signatures count, and how many. Times are Unix seconds, ages are seconds.

    A `threshold` of nothing means a majority of the voters.
    """

    domain: str
    sequence: int
    issued_at: int
    expires_at: int
    system_log_epoch: int
    threshold: Optional[int]
    floor: int
    oldest_age: int
    skew: int
    voters: list[Voter]

    def required(self, voters: int) -> int:
        """Keys that a set of so many voters must reach."""
        rule = voters // 2 + 1 if self.threshold is None else self.threshold
        return max(rule, self.floor, 1)

    def is_lowered_by(self, following: TrustBundle) -> bool:
        """Whether another bundle asks for fewer keys than this one, of any number of voters."""
        return following.floor < self.floor or any(
            following.required(voters) < self.required(voters)
            for voters in range(1, VOTERS_MAX + 1)
        )

    def system_origin(self) -> Origin:
        """The directory's log."""
        return Origin(self.domain, 0, 0, self.system_log_epoch)

    def system_voters(self) -> VoterSet:
        """The one set that counts for the directory."""
        return [Signer(voter.name, voter.public_key) for voter in self.voters]

    def covers(self, time: int, now: int) -> bool:
        """Whether a cosignature of this time is neither too old nor too far ahead."""
        return now - self.oldest_age <= time <= now + self.skew


@dataclass(frozen=True)
class Count:
    """A note that counts: by how many keys of one set, and the oldest of their times."""

    keys: int
    oldest_time: int


def decode_bundle(data: bytes) -> TrustBundle:
    """Reads a trust bundle."""
    reader = Reader(data)
    reader.magic(MAGIC)
    domain = read_name(reader, "domain")
    sequence = reader.u64("sequence")
    issued_at, expires_at = reader.u64("issued at"), reader.u64("expires at")
    system_log_epoch = reader.u64("log epoch")
    threshold = _read_threshold(reader)
    floor = reader.u16("floor")
    if floor == 0:
        raise Refused("Invalid", "the floor is at least 1")
    oldest_age, skew = reader.u64("oldest age"), reader.u64("skew")
    count = reader.count(reader.u16("voters"), VOTERS_MAX, VOTER_BYTES_MIN, "voters")
    voters = [_read_voter(reader) for _ in range(count)]
    reader.finish()
    _check_voters(voters)
    return TrustBundle(
        domain, sequence, issued_at, expires_at, system_log_epoch, threshold, floor, oldest_age,
        skew, voters,
    )  # fmt: skip


def read_name(reader: Reader, field: str) -> str:
    """A text with the characters of a domain."""
    name = reader.text16(DOMAIN_LENGTH_MAX, field)
    if not is_domain(name):
        raise Refused("Invalid", f"{field} {name!r}")
    return name


def _read_threshold(reader: Reader) -> Optional[int]:
    tag = reader.u8("threshold")
    if tag == 1:
        return None
    if tag == 2:
        return reader.u16("fixed threshold")
    raise Refused("UnknownValue", f"threshold {tag}")


def _read_voter(reader: Reader) -> Voter:
    node = reader.u64("voter")
    name = read_name(reader, "voter's name")
    return Voter(node, name, reader.take(32, "voter's key"))


def _check_voters(voters: list[Voter]) -> None:
    if any(one.node >= other.node for one, other in zip(voters, voters[1:])):
        raise Refused("Invalid", "voters do not ascend")
    if len({voter.name for voter in voters}) < len(voters):
        raise Refused("Invalid", "two voters have one name")
    if len({voter.public_key for voter in voters}) < len(voters):
        raise Refused("Invalid", "two voters have one key")


def count_note(
    bundle: TrustBundle, note: Note, voter_sets: list[VoterSet], now: Optional[int]
) -> Count:
    """Checks that enough voters signed. Without `now`, times and expiry are left out."""
    if now is not None and now > bundle.expires_at:
        raise Refused("BundleExpired", f"at {bundle.expires_at}")
    if not any(voter_sets):
        raise Refused("NoVoters")
    newest: dict[bytes, int] = {}
    for cosignature in verify_note(note, known_keys(bundle.domain, voter_sets)):
        if now is None or bundle.covers(cosignature.time, now):
            known = newest.get(cosignature.public_key, 0)
            newest[cosignature.public_key] = max(cosignature.time, known)
    for voters in voter_sets:
        counted = {signer.public_key for signer in voters} & newest.keys()
        if voters and len(counted) >= bundle.required(len(voters)):
            return Count(len(counted), min(newest[key] for key in counted))
    raise Refused("TooFew", f"{len(newest)} keys count")


def known_keys(domain: str, voter_sets: list[VoterSet]) -> list[KnownKey]:
    """The keys of all sets, each once, under the names that they cosign with."""
    known = {
        KnownKey(f"{domain}/node/{signer.name}", signer.public_key): None
        for voters in voter_sets
        for signer in voters
    }
    return list(known)
