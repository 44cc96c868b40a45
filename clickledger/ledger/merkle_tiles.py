"""The Merkle tree over the log, read by tiles: a root over any number of entries reads a few hundred hashes.

Invariants:
- leaf N - 1 of the tree is the entry at position N (see `canonical.entry_leaf`); entries are never missing in between;
- a tile is the root of a complete subtree of 256^level entries; its value follows from the log, so tiles are added
  outside of the log's lock, by anybody, in any order, and can be made again;
- what is signed is never taken from tiles alone, which others may write: `extend` makes those beyond the last signed
  root again, and `checkpoints.verify` every one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from clickledger.errors import InvariantBroken, VerificationFailed
from clickledger.ledger import canonical, database, merkle

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
ENTRIES_PER_STEP = 64 * TILE_WIDTH

Progress = Callable[[int, int], None]

# One value for thousands of entries: a row for each would take several times as long.
SELECT_CHAIN = """
    SELECT count(*), max(position), string_agg(chain_hash, ''::bytea ORDER BY position)
    FROM log WHERE position > %s AND position <= %s"""
SELECT_FIRST_GAP = """
    SELECT expected FROM (
        SELECT position, %(lo)s + row_number() OVER (ORDER BY position) AS expected
        FROM log WHERE position > %(lo)s AND position <= %(hi)s) s
    WHERE position <> expected ORDER BY expected LIMIT 1"""
SELECT_TILES = "SELECT number, root FROM merkle_tiles WHERE level = %s AND number >= %s AND number < %s ORDER BY number"
SELECT_PLACES = "SELECT level, number, count(*) FROM merkle_tiles GROUP BY level, number ORDER BY level, number"
COUNT_TILES = "SELECT count(*), coalesce(max(number) + 1, 0) FROM merkle_tiles WHERE level = %s AND number < %s"
INSERT_TILES = """
    INSERT INTO merkle_tiles (level, number, root)
    SELECT %s, u.number, u.root FROM unnest(%s::bigint[], %s::bytea[]) AS u (number, root) ON CONFLICT DO NOTHING"""


class Walked(NamedTuple):
    """What the log gives: roots by size, and every complete tile by (level, number)."""

    roots: dict[int, bytes]
    tiles: dict[tuple[int, int], bytes]


class Tree:
    """The tree over the log; asked for subtrees, it reads the tile they are in, once."""

    def __init__(self, conn: database.Connection) -> None:
        self._conn = conn
        self._read: dict[tuple[int, int], list[bytes]] = {}

    def root(self, size: int) -> bytes:
        """The root over the entries 1 to `size`."""
        return merkle.root(size, self.node)

    def inclusion_proof(self, position: int, size: int) -> list[bytes]:
        """The path from the entry at `position` to the root over the entries 1 to `size`."""
        return merkle.inclusion_proof(position - 1, size, self.node)

    def consistency_proof(self, old: int, new: int) -> list[bytes]:
        """What shows that the entries 1 to `old` are the beginning of the entries 1 to `new`."""
        return merkle.consistency_proof(old, new, self.node)

    def node(self, height: int, index: int) -> bytes:
        """The hash of a complete subtree. Raises InvariantBroken where an entry or tile is missing."""
        level, rest = divmod(height, TILE_HEIGHT)
        first, count = index << rest, 1 << rest
        tile, at = divmod(first, TILE_WIDTH)
        part = self._children(level, tile)[at : at + count]
        if len(part) != count:
            what = "entry" if level == 0 else f"tile of level {level},"
            raise InvariantBroken(f"merkle tree: expected {what} {first + len(part) + (level == 0)}, which is missing")
        return merkle.root_of(part)

    def _children(self, level: int, tile: int) -> list[bytes]:
        """What a tile of the next level is made of: up to 256 hashes of this level, without a gap."""
        if (level, tile) not in self._read:
            lo, hi = tile * TILE_WIDTH, (tile + 1) * TILE_WIDTH
            rows = _leaves(self._conn, lo, hi) if level == 0 else _tiles(self._conn, level, lo, hi)
            self._read[level, tile] = rows
        return self._read[level, tile]


def extend(conn: database.Connection, size: int, progress: Progress | None = None, known: int = 0) -> None:
    """Add the tiles that the entries 1 to `size` complete, made from the log beyond the first `known` entries.

    Others may write tiles, so those that are there already are made again and compared: of what a root over `size`
    takes, only what a known root over `known` entries binds is taken as it is. Raises InvariantBroken where an entry is
    missing, VerificationFailed for a tile that the log does not give.
    """
    level, width = 1, TILE_WIDTH
    while width <= size:
        _extend_level(conn, level, known // width, size // width, progress)
        level, width = level + 1, width * TILE_WIDTH


def _extend_level(conn: database.Connection, level: int, known: int, wanted: int, progress: Progress | None) -> None:
    count, following = conn.execute(COUNT_TILES, (level, wanted)).fetchone() or (0, 0)
    number = min(known, count) if count == following else 0  # a gap, since somebody deleted some: fill it
    while number < wanted:
        until = min(number + ENTRIES_PER_STEP // TILE_WIDTH, wanted)
        lo, hi = number * TILE_WIDTH, until * TILE_WIDTH
        children = _leaves(conn, lo, hi) if level == 1 else _tiles(conn, level - 1, lo, hi)
        if len(children) != hi - lo:
            raise InvariantBroken(f"merkle tree: expected {hi - lo} hashes of level {level - 1}, got {len(children)}")
        roots = [merkle.root_of(children[i : i + TILE_WIDTH]) for i in range(0, hi - lo, TILE_WIDTH)]
        conn.execute(INSERT_TILES, (level, list(range(number, until)), roots))
        _require_stored(conn, level, number, roots)
        number = until
        if progress and level == 1:
            progress(number * TILE_WIDTH, wanted * TILE_WIDTH)


def _require_stored(conn: database.Connection, level: int, first: int, roots: list[bytes]) -> None:
    there = _tiles(conn, level, first, first + len(roots))
    for number, (tile, root) in enumerate(zip(there, roots, strict=False), first):
        if tile != root:
            width = TILE_WIDTH**level
            raise VerificationFailed(
                f"merkle tile {level}/{number}: entries {number * width + 1} to {(number + 1) * width} give another "
                "hash: clickledger audit checkpoint --rebuild-tiles"
            )


def walk(conn: database.Connection, size: int, sizes: Iterable[int]) -> Walked:
    """The tree over the entries 1 to `size` made from the log alone, with its roots at the given sizes below that.

    Raises InvariantBroken naming the first entry that is missing.
    """
    wanted, walked, edge = sorted(set(sizes), reverse=True), Walked({}, {}), merkle.Frontier(TILE_HEIGHT)
    for number, leaves in enumerate(_blocks(conn, size)):
        first = number * TILE_WIDTH
        while wanted and wanted[-1] <= first + len(leaves):
            at = wanted.pop()
            walked.roots[at] = edge.root(leaves[: at - first])
        if len(leaves) == TILE_WIDTH:
            for height, index, value in edge.push(merkle.root_of(leaves)):
                if height % TILE_HEIGHT == 0:
                    walked.tiles[height // TILE_HEIGHT, index] = value
    return walked


def _blocks(conn: database.Connection, size: int) -> Iterator[list[bytes]]:
    """Leaf hashes of the entries 1 to `size`, 256 at a time; fewer at the end."""
    for lo in range(0, size, ENTRIES_PER_STEP):
        hi = min(lo + ENTRIES_PER_STEP, size)
        leaves = _leaves(conn, lo, hi)
        if len(leaves) != hi - lo:
            raise InvariantBroken(f"entry {lo + len(leaves) + 1}: missing")
        yield from (leaves[i : i + TILE_WIDTH] for i in range(0, len(leaves), TILE_WIDTH))


def stored(conn: database.Connection) -> dict[tuple[int, int], bytes]:
    """Every tile by (level, number): 33 bytes for each 255 entries of the log."""
    rows = conn.execute("SELECT level, number, root FROM merkle_tiles")
    return {(level, number): bytes(root) for level, number, root in rows}


def misplaced(conn: database.Connection, head: int, signed: int) -> list[str]:
    """Tiles there more than once, tiles that `head` entries do not complete, and those that signing `signed` left out.

    What they hold is compared by `walk`. In words; `rebuild` puts right what is found.
    """
    times = {(level, number): count for level, number, count in conn.execute(SELECT_PLACES)}
    found = [f"merkle tile {level}/{n}: it is there {count} times" for (level, n), count in times.items() if count > 1]
    for level, number in sorted(times.keys() - set(_complete(head))):
        found.append(f"merkle tile {level}/{number}: expected none, since the log ends at {head}")
    for level, number in sorted(set(_complete(signed)) - times.keys()):
        found.append(f"merkle tile {level}/{number}: missing, though a checkpoint over {signed} entries was signed")
    return found


def _complete(size: int) -> Iterator[tuple[int, int]]:
    """Every tile that the entries 1 to `size` complete, by (level, number)."""
    level, width = 1, TILE_WIDTH
    while width <= size:
        yield from ((level, number) for number in range(size // width))
        level, width = level + 1, width * TILE_WIDTH


def rebuild(conn: database.Connection, size: int, progress: Progress | None = None) -> None:
    """Make every tile again from the entries 1 to `size`."""
    with conn.transaction():
        conn.execute("DELETE FROM merkle_tiles")
        extend(conn, size, progress)


def _leaves(conn: database.Connection, lo: int, hi: int) -> list[bytes]:
    """Leaf hashes [lo, hi), up to the first entry that is missing."""
    count, last, joined = conn.execute(SELECT_CHAIN, (lo, hi), binary=True).fetchone() or (0, None, None)
    if count and last != lo + count:
        (missing,) = conn.execute(SELECT_FIRST_GAP, {"lo": lo, "hi": hi}).fetchone() or (lo + 1,)
        return _leaves(conn, lo, missing - 1)
    chain, width = joined or b"", canonical.LEAF_BYTES
    if len(chain) != count * width:
        raise InvariantBroken(f"entries {lo + 1} to {hi}: expected chain hashes of {width} bytes")
    return [merkle.leaf_hash(canonical.entry_leaf(chain[i : i + width])) for i in range(0, len(chain), width)]


def _tiles(conn: database.Connection, level: int, lo: int, hi: int) -> list[bytes]:
    found = conn.execute(SELECT_TILES, (level, lo, hi)).fetchall()
    return [bytes(root) for expected, (number, root) in enumerate(found, lo) if number == expected]
