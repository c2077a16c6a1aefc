"""List trees: their root, that an entry is included, that one is the beginning of another.

Index and size come from the caller and never from the proof itself.
"""

from __future__ import annotations

from .hashes import EMPTY_ROOT, node
from .wire import Refused


def list_root(leaves: list[bytes]) -> bytes:
    """The root over leaf hashes, by its definition."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return node(list_root(leaves[:split]), list_root(leaves[split:]))


def verify_inclusion(leaf: bytes, index: int, size: int, path: list[bytes], root: bytes) -> None:
    """Checks that `leaf` is the entry `index` of the log of `size` entries with this root."""
    if index >= size:
        raise Refused("IndexOutside", f"{index} of {size}")
    place, last, computed = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise Refused("TooLong", "the path goes on above the root")
        if place % 2 == 1 or place == last:
            computed = node(sibling, computed)
            while place % 2 == 0 and place != 0:
                place, last = place // 2, last // 2
        else:
            computed = node(computed, sibling)
        place, last = place // 2, last // 2
    if last != 0:
        raise Refused("TooShort", "the path ends below the root")
    if computed != root:
        raise Refused("WrongRoot")


def verify_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: list[bytes]
) -> None:
    """Checks that the log with the new root begins with all entries of the old one."""
    if old_size > new_size:
        raise Refused("SizeShrinks", f"from {old_size} to {new_size}")
    if old_size == new_size or old_size == 0:
        _verify_trivial(old_size, old_root, new_size, new_root, path)
        return
    hashes = list(path)
    if old_size & (old_size - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        raise Refused("TooShort", "the path is empty")
    place, last = old_size - 1, new_size - 1
    while place % 2 == 1:
        place, last = place // 2, last // 2
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise Refused("TooLong", "the path goes on above the root")
        if place % 2 == 1 or place == last:
            old, new = node(sibling, old), node(sibling, new)
            while place % 2 == 0 and place != 0:
                place, last = place // 2, last // 2
        else:
            new = node(new, sibling)
        place, last = place // 2, last // 2
    if last != 0:
        raise Refused("TooShort", "the path ends below the root")
    if old != old_root:
        raise Refused("WrongOldRoot")
    if new != new_root:
        raise Refused("WrongRoot")


def _verify_trivial(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: list[bytes]
) -> None:
    if path:
        raise Refused("TooLong", "nothing has to be proved, and a path came along")
    if old_size == 0 and old_root != EMPTY_ROOT:
        raise Refused("WrongOldRoot", "an empty log has one root")
    if old_size == new_size and old_root != new_root:
        raise Refused("WrongRoot", "equal sizes have equal roots")
