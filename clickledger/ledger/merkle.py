"""RFC 6962 (and RFC 9162) Merkle trees: roots, inclusion and consistency proofs, and their verification.

Invariants:
- what is hashed as a leaf begins with 0x00 and as a node with 0x01, so neither passes for the other;
- pure: hashes come from the caller, who names a complete subtree by (height, index): it is the one over the leaves
  [index << height, (index + 1) << height), and height 0 is a leaf's hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import reduce

Node = Callable[[int, int], bytes]  # (height, index) -> hash of that complete subtree

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """The hash (32 bytes) of a leaf that holds `data`."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash (32 bytes) of the node over two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes, in order; any number of them."""
    if not leaves:
        return EMPTY_ROOT
    level = list(leaves)
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        odd = level[-1:] if len(level) % 2 else []
        level = [node_hash(left, right) for left, right in pairs] + odd
    return level[0]


def root(size: int, node: Node) -> bytes:
    """The root over the first `size` leaves."""
    return _range_root(0, size, node) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, node: Node) -> list[bytes]:
    """The path from leaf `index` (from 0) to the root over the first `size` leaves, from the leaf up."""
    if not 0 <= index < size:
        raise ValueError(f"expected a leaf below {size}, got {index}")
    lo, hi, path = 0, size, []
    while hi - lo > 1:
        middle = lo + _split(hi - lo)
        if index < middle:
            path.append(_range_root(middle, hi, node))
            hi = middle
        else:
            path.append(_range_root(lo, middle, node))
            lo = middle
    return path[::-1]


def consistency_proof(old: int, new: int, node: Node) -> list[bytes]:
    """What shows that the tree of `old` leaves is the beginning of the tree of `new` leaves; 1 <= old <= new."""
    if not 1 <= old <= new:
        raise ValueError(f"expected sizes 1 <= old <= new, got {old} and {new}")
    lo, hi, path = 0, new, []
    while old != hi:
        middle = lo + _split(hi - lo)
        if old <= middle:
            path.append(_range_root(middle, hi, node))
            hi = middle
        else:
            path.append(_range_root(lo, middle, node))
            lo = middle
    if lo:  # otherwise the verifier has it already: it is the old root
        path.append(_range_root(lo, hi, node))
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], expected_root: bytes) -> bool:
    """Whether the leaf with this hash is number `index` of the tree (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(sibling, found)
            at, last = _up_while_left(at, last)
        else:
            found = node_hash(found, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and found == expected_root


def verify_consistency(old: int, new: int, path: Sequence[bytes], old_root: bytes, new_root: bytes) -> bool:
    """Whether the tree of `old` leaves is the beginning of the tree of `new` leaves (RFC 9162, 2.1.4.2)."""
    if not 1 <= old <= new:
        return False
    if old == new:
        return not path and old_root == new_root
    hashes = [old_root, *path] if old & (old - 1) == 0 else list(path)
    if not hashes:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    found_old = found_new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            found_old, found_new = node_hash(sibling, found_old), node_hash(sibling, found_new)
            at, last = _up_while_left(at, last)
        else:
            found_new = node_hash(found_new, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and (found_old, found_new) == (old_root, new_root)


class Frontier:
    """A tree that grows at its right end by complete subtrees of one height, of which only the edge is kept."""

    def __init__(self, height: int = 0) -> None:
        self._height = height
        self._count = 0
        self._edge: list[bytes] = []  # complete subtrees, left to right, larger ones first

    def push(self, subtree: bytes) -> list[tuple[int, int, bytes]]:
        """Take the next subtree in; (height, index, hash) of each subtree that this completes, itself the first."""
        height, index = self._height, self._count
        done = [(height, index, subtree)]
        while index & 1:
            subtree = node_hash(self._edge.pop(), subtree)
            height, index = height + 1, index >> 1
            done.append((height, index, subtree))
        self._edge.append(subtree)
        self._count += 1
        return done

    def root(self, rest: Sequence[bytes] = ()) -> bytes:
        """The root of what was pushed, followed by fewer leaves (hashes) than a subtree holds."""
        edge = [*self._edge, root_of(rest)] if rest else self._edge
        return _joined(edge) if edge else EMPTY_ROOT


def _range_root(lo: int, hi: int, node: Node) -> bytes:
    """The root over the leaves [lo, hi), where lo is a multiple of the power of two that hi - lo does not exceed."""
    edge = []
    while lo < hi:
        height = (hi - lo).bit_length() - 1
        edge.append(node(height, lo >> height))
        lo += 1 << height
    return _joined(edge)


def _joined(edge: Sequence[bytes]) -> bytes:
    return reduce(lambda right, left: node_hash(left, right), reversed(edge))


def _split(count: int) -> int:
    """The largest power of two below `count`, which is at least 2."""
    return 1 << ((count - 1).bit_length() - 1)


def _up_while_left(at: int, last: int) -> tuple[int, int]:
    """On the right edge: skip the levels at which the node has no sibling."""
    while at and not at & 1:
        at, last = at >> 1, last >> 1
    return at, last
