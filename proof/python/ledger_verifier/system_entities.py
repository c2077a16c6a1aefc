"""Entities of the directory: who the nodes are, what shard holds a vault, who votes in a shard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Union

from .trust import decode_bundle, read_name
from .verified_read import decode_verified_read
from .wire import Reader, Refused, decimal_u64

REPLICAS_MAX = 64
REPLICA_BYTES = 18
LINK_BYTES_MAX = 64 * 1024
ROLE_VOTER, ROLE_LEARNER = 1, 2
IN_OLD_SET, IN_NEW_SET, CAME_LATER = 1, 2, 4


@dataclass(frozen=True)
class NodeEntity:
    """A node, with the key that it signs with."""

    id: int
    name: str
    public_key: bytes
    state: int


@dataclass(frozen=True)
class Replica:
    """A replica of a shard: its node, its life, its role and the sets it votes in."""

    node: int
    incarnation: int
    role: int
    sets: int


@dataclass(frozen=True)
class ShardEntity:
    """A shard and its replicas."""

    id: int
    epoch: int
    replicas: list[Replica]

    def voter_node_sets(self) -> list[list[int]]:
        """Node ids of the sets that count, one for each replica: the new set, and after it the
        old one while the members are changing."""
        flags = [IN_NEW_SET]
        if any(replica.sets & IN_OLD_SET for replica in self.replicas):
            flags.append(IN_OLD_SET)
        return [[r.node for r in self.replicas if r.sets & flag] for flag in flags]


@dataclass(frozen=True)
class VaultEntity:
    """Where a vault lies, and the epoch of its log."""

    namespace: int
    vault: int
    shard: int
    log_epoch: int
    state: int


Entity = Union[NodeEntity, ShardEntity, VaultEntity, None]


def decode_entity(key: str, value: bytes) -> Entity:
    """Reads the value of a directory entity, and checks that it repeats the ids of its key."""
    kind, _, rest = key.partition("/")
    if kind == "bundle":
        bundle = decode_bundle(value)
        _same_ids(key, _numbers(key, rest, 1), (bundle.sequence,))
        return None
    if kind == "bundle-link":
        _numbers(key, rest, 1)
        if len(value) > LINK_BYTES_MAX:
            raise Refused("TooLong", f"a link of {len(value)} bytes")
        decode_verified_read(value)
        return None
    read = _KINDS.get(kind)
    if read is None:
        raise Refused("UnknownValue", f"a directory entity {key!r}")
    reader = Reader(value)
    reader.version(1, kind)
    entity = read(reader, key, rest)
    reader.finish()
    return entity


def _numbers(key: str, rest: str, count: int) -> tuple[int, ...]:
    parts = [decimal_u64(part) for part in rest.split("/")]
    numbers = tuple(part for part in parts if part is not None)
    if len(parts) != count or len(numbers) != count:
        raise Refused("Invalid", f"the key {key!r}")
    return numbers


def _same_ids(key: str, named: tuple[int, ...], repeated: tuple[int, ...]) -> None:
    if named != repeated:
        raise Refused("Invalid", f"the entity of {key!r} is about {repeated}")


def _one_of(reader: Reader, field: str, last: int) -> int:
    value = reader.u8(field)
    if not 1 <= value <= last:
        raise Refused("UnknownValue", f"{field} {value}")
    return value


def _read_cluster(reader: Reader, key: str, rest: str) -> Entity:
    if key != "cluster":
        raise Refused("Invalid", f"the key {key!r}")
    reader.take(16, "cluster id")
    read_name(reader, "domain")
    reader.u32("feature level")
    return None


def _read_node(reader: Reader, key: str, rest: str) -> Entity:
    node = reader.u64("node")
    name = read_name(reader, "name")
    reader.take(16, "store id")
    reader.text16(256, "address")
    public_key = reader.take(32, "public key")
    state = _one_of(reader, "node state", 3)
    reader.text16(128, "zone")
    _same_ids(key, _numbers(key, rest, 1), (node,))
    return NodeEntity(node, name, public_key, state)


def _read_shard(reader: Reader, key: str, rest: str) -> Entity:
    shard, epoch = reader.u64("shard"), reader.u64("epoch")
    count = reader.count(reader.u16("replicas"), REPLICAS_MAX, REPLICA_BYTES, "replicas")
    replicas = [_read_replica(reader) for _ in range(count)]
    if any(one.incarnation >= other.incarnation for one, other in zip(replicas, replicas[1:])):
        raise Refused("Invalid", "incarnations do not ascend")
    _same_ids(key, _numbers(key, rest, 1), (shard,))
    return ShardEntity(shard, epoch, replicas)


def _read_replica(reader: Reader) -> Replica:
    node, incarnation = reader.u64("node"), reader.u64("incarnation")
    role, sets = _one_of(reader, "role", ROLE_LEARNER), reader.u8("sets")
    if sets > IN_OLD_SET | IN_NEW_SET | CAME_LATER:
        raise Refused("UnknownValue", f"sets {sets}")
    return Replica(node, incarnation, role, sets)


def _read_vault(reader: Reader, key: str, rest: str) -> Entity:
    namespace, vault, shard = reader.u64("namespace"), reader.u64("vault"), reader.u64("shard")
    reader.u64("owner epoch")
    log_epoch = reader.u64("log epoch")
    state = _one_of(reader, "vault state", 4)
    reader.u64("created at")
    retention, blocks = _one_of(reader, "retention", 2), reader.u64("blocks")
    if retention == 1 and blocks != 0:
        raise Refused("Invalid", "all blocks are kept, and a number is given")
    _same_ids(key, _numbers(key, rest, 2), (namespace, vault))
    return VaultEntity(namespace, vault, shard, log_epoch, state)


def _read_namespace(reader: Reader, key: str, rest: str) -> Entity:
    namespace = reader.u64("namespace")
    reader.text16(128, "name")
    _one_of(reader, "namespace state", 3)
    reader.u64("created at")
    reader.u64("config version")
    _same_ids(key, _numbers(key, rest, 1), (namespace,))
    return None


def _read_number(reader: Reader, key: str, rest: str) -> Entity:
    reader.u64("number")
    return None


def _read_tombstone(reader: Reader, key: str, rest: str) -> Entity:
    ids = (reader.u64("shard"), reader.u64("incarnation"))
    reader.u64("node")
    reader.take(16, "store id")
    reader.u64("removed at")
    _same_ids(key, _numbers(key, rest, 2), ids)
    return None


_KINDS: dict[str, Callable[[Reader, str, str], Entity]] = {
    "cluster": _read_cluster,
    "node": _read_node,
    "shard": _read_shard,
    "vault": _read_vault,
    "namespace": _read_namespace,
    "namespace-name": _read_number,
    "sequence": _read_number,
    "tombstone": _read_tombstone,
}
