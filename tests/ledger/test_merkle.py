"""Merkle trees against a naive reading of RFC 6962 and against published vectors.

Vectors: the eight reference leaves of Certificate Transparency with their roots, inclusion paths and consistency
proofs, as in transparency-dev/merkle (testonly/constants.go) and google/certificate-transparency (merkle_tree_test).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickledger.ledger import merkle

LEAVES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
# (leaf from 0, size) and the path, from the leaf up.
INCLUSION = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
SIZES = st.integers(1, 600)


def naive_root(data: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, word by word."""
    if not data:
        return hashlib.sha256().digest()
    if len(data) == 1:
        return hashlib.sha256(b"\x00" + data[0]).digest()
    k = split(len(data))
    return hashlib.sha256(b"\x01" + naive_root(data[:k]) + naive_root(data[k:])).digest()


def naive_path(m: int, data: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962, 2.1.1."""
    if len(data) == 1:
        return []
    k = split(len(data))
    if m < k:
        return [*naive_path(m, data[:k]), naive_root(data[k:])]
    return [*naive_path(m - k, data[k:]), naive_root(data[:k])]


def naive_subproof(m: int, data: Sequence[bytes], known: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962, 2.1.2."""
    if m == len(data):
        return [] if known else [naive_root(data)]
    k = split(len(data))
    if m <= k:
        return [*naive_subproof(m, data[:k], known), naive_root(data[k:])]
    return [*naive_subproof(m - k, data[k:], False), naive_root(data[:k])]


def split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def numbered(count: int) -> list[bytes]:
    return [number.to_bytes(4) for number in range(count)]


def nodes(data: Sequence[bytes]) -> merkle.Node:
    """Complete subtrees of a tree in memory; asking for one that is not complete is an error."""

    def node(height: int, index: int) -> bytes:
        part = data[index << height : (index + 1) << height]
        assert len(part) == 1 << height
        return naive_root(part)

    return node


def hexed(hashes: Sequence[bytes]) -> list[str]:
    return [value.hex() for value in hashes]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_the_published_ones(size: int) -> None:
    hashes = [merkle.leaf_hash(leaf) for leaf in LEAVES[:size]]
    frontier = merkle.Frontier()
    for leaf in hashes:
        frontier.push(leaf)
    found = {merkle.root_of(hashes), merkle.root(size, nodes(LEAVES)), frontier.root()}
    assert {value.hex() for value in found} == {ROOTS[size]}


@pytest.mark.parametrize("where", INCLUSION)
def test_inclusion_paths_are_the_published_ones(where: tuple[int, int]) -> None:
    index, size = where
    path = merkle.inclusion_proof(index, size, nodes(LEAVES))
    assert hexed(path) == INCLUSION[where]
    assert merkle.verify_inclusion(merkle.leaf_hash(LEAVES[index]), index, size, path, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize("sizes", CONSISTENCY)
def test_consistency_proofs_are_the_published_ones(sizes: tuple[int, int]) -> None:
    old, new = sizes
    path = merkle.consistency_proof(old, new, nodes(LEAVES))
    assert hexed(path) == CONSISTENCY[sizes]
    assert merkle.verify_consistency(old, new, path, bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new]))


@given(size=SIZES, data=st.data())
def test_roots_and_proofs_are_those_of_the_definition(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    tree = numbered(size)
    assert merkle.root(size, nodes(tree)) == naive_root(tree)
    assert merkle.inclusion_proof(index, size, nodes(tree)) == naive_path(index, tree)
    assert merkle.consistency_proof(index + 1, size, nodes(tree)) == naive_subproof(index + 1, tree, True)


@given(size=SIZES, data=st.data())
def test_what_is_proven_verifies_and_nothing_else_does(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    tree = numbered(size)
    path, root = naive_path(index, tree), naive_root(tree)
    leaf = merkle.leaf_hash(tree[index])
    assert merkle.verify_inclusion(leaf, index, size, path, root)
    other = data.draw(st.integers(0, size - 1).filter(lambda i: i != index)) if size > 1 else size
    assert not merkle.verify_inclusion(leaf, other, size, path, root)
    assert not merkle.verify_inclusion(merkle.leaf_hash(b"forged"), index, size, path, root)
    assert not merkle.verify_inclusion(leaf, index, size, [*path, root], root)
    if path:
        assert not merkle.verify_inclusion(leaf, index, size, path[:-1], root)
        spoiled = data.draw(st.integers(0, len(path) - 1))
        forged = [bytes(32) if i == spoiled else part for i, part in enumerate(path)]
        assert not merkle.verify_inclusion(leaf, index, size, forged, root)


@given(new=SIZES, data=st.data())
def test_a_rewritten_beginning_is_inconsistent(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new))
    tree = numbered(new)
    changed = data.draw(st.integers(0, old - 1))
    rewritten = [b"rewritten" if i == changed else leaf for i, leaf in enumerate(tree)]
    path, now = naive_subproof(old, rewritten, True), naive_root(rewritten)
    assert merkle.verify_consistency(old, new, path, naive_root(rewritten[:old]), now)
    assert not merkle.verify_consistency(old, new, path, naive_root(tree[:old]), now)
    honest = naive_subproof(old, tree, True)
    assert not merkle.verify_consistency(old, new, honest, naive_root(tree[:old]), now)


@given(blocks=st.integers(0, 40), rest=st.integers(0, 7))
def test_a_tree_grown_by_blocks_has_the_same_root(blocks: int, rest: int) -> None:
    tree = numbered(blocks * 8 + rest)
    frontier, done = merkle.Frontier(3), []
    for number in range(blocks):
        done += frontier.push(naive_root(tree[number * 8 : number * 8 + 8]))
    assert frontier.root([merkle.leaf_hash(leaf) for leaf in tree[blocks * 8 :]]) == naive_root(tree)
    assert all(value == nodes(tree)(height, index) for height, index, value in done)


def test_a_leaf_never_passes_for_a_node() -> None:
    left, right = merkle.leaf_hash(b"a"), merkle.leaf_hash(b"b")
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_a_leaf_outside_of_the_tree_has_no_path(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="expected a leaf below"):
        merkle.inclusion_proof(index, size, nodes(LEAVES))
    assert not merkle.verify_inclusion(b"", index, size, [], b"")
