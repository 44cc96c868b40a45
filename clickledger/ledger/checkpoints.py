"""Signed checkpoints: a promise to the outside about every entry up to a size (c2sp.org/tlog-checkpoint).

Invariants:
- nothing is signed that is inconsistent with what was signed before;
- a checkpoint is an entry of the log and a row that says the same (`checkpoint_entries`), never changed; whoever holds
  a copy can hold the ledger to it;
- an entry that can be seen keeps its position and content, so everything is read, hashed and signed without the log's
  lock: only the note is stored under it;
- a checkpoint by itself is nothing to sign another one over: a ledger at rest stays as it is.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import NamedTuple

from clickledger import errors
from clickledger.ledger import checkpoint_entries, checkpoint_keys, database, log, merkle_tiles, signed_note

SELECT_NOTES = "SELECT note FROM checkpoints ORDER BY size"
SELECT_TWICE = "SELECT size, count(*) FROM checkpoints GROUP BY size HAVING count(*) > 1 ORDER BY size"
# Nothing where one over as many entries, or more, was stored since this one was begun.
INSERT_CHECKPOINT = f"""
    INSERT INTO checkpoints (size, root, note) SELECT %(size)s::bigint, %(root)s::bytea, %(note)s::text
    WHERE NOT EXISTS (SELECT FROM checkpoints c WHERE c.size >= %(size)s)
    RETURNING {checkpoint_entries.SIGNED_AT_US}"""


class Checkpoint(NamedTuple):
    """What a note says: the root over the entries 1 to `size` of the ledger `origin`."""

    origin: str
    size: int
    root: bytes
    note: str


def body(origin: str, size: int, root: bytes) -> str:
    """The text that is signed."""
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def parse(note: str) -> Checkpoint:
    """The checkpoint that a note holds; no signature is verified. Raises InvalidInput."""
    text = signed_note.parse(note).text
    lines = text.split("\n")
    try:
        origin, size, root = lines[0], int(lines[1]), base64.b64decode(lines[2], validate=True)
    except (IndexError, ValueError) as error:
        raise errors.InvalidInput(f"checkpoint: expected origin, size and root, got {text!r}") from error
    if text != body(origin, size, root) or len(root) != 32 or size < 1:
        raise errors.InvalidInput(f"checkpoint: expected origin, size and a root of 32 bytes, got {text!r}")
    return Checkpoint(origin, size, root, note)


def newest(conn: database.Connection) -> Checkpoint | None:
    """The stored checkpoint that covers most, if there is any."""
    row = checkpoint_entries.newest(conn)
    return parse(row.note) if row else None


def sign(
    conn: database.Connection,
    key: signed_note.SigningKey,
    actor: str,
    progress: merkle_tiles.Progress | None = None,
) -> Checkpoint:
    """Sign a checkpoint over the log as it is now, and store and record it; the newest one when only checkpoints were
    recorded since.

    When somebody else stores one over as much meanwhile, the log is looked at again. Raises Conflict when `key` is not
    the one in force, VerificationFailed when the log does not continue what was signed before or its newest checkpoint
    is not the one it recorded.
    """
    stored = None
    while stored is None:
        size, last, grown = _look(conn, key)
        if last and not grown:
            return last
        stored = _stored(conn, _signed(conn, key, size, last, progress), actor)
    return stored


def _look(conn: database.Connection, key: signed_note.SigningKey) -> tuple[int, Checkpoint | None, bool]:
    """Of one moment: the head's position, the newest checkpoint, and whether there is anything new to sign."""
    with database.snapshot(conn):
        size, row = log.head(conn).position, checkpoint_entries.newest(conn)
        _check_in_force(conn, key, size)
        if row and row.size > size:
            raise errors.VerificationFailed(
                f"checkpoint over {row.size} entries: the log ends at {size}, {_missing(size, row.size)}"
            )
        checkpoint_entries.require_same(conn, row)
        if row is None:
            return size, None, True
        return size, parse(row.note), checkpoint_entries.others_since(conn, row.size)


def _signed(
    conn: database.Connection,
    key: signed_note.SigningKey,
    size: int,
    last: Checkpoint | None,
    progress: merkle_tiles.Progress | None,
) -> Checkpoint:
    """A checkpoint over the entries 1 to `size`, which nobody has seen yet."""
    merkle_tiles.extend(conn, size, progress, known=last.size if last else 0)
    tree = merkle_tiles.Tree(conn)
    if last and tree.root(last.size) != last.root:
        raise errors.VerificationFailed(
            f"checkpoint over {last.size} entries: expected root {last.root.hex()}, the log gives another one: "
            "run audit verify"
        )
    root = tree.root(size)
    return Checkpoint(key.name, size, root, signed_note.sign(body(key.name, size, root), key))


def _stored(conn: database.Connection, point: Checkpoint, actor: str) -> Checkpoint | None:
    """Store a checkpoint with its entry; None, and nothing stored, where another one over as much came first."""
    with log.writing(conn) as writer:
        row = writer.execute(INSERT_CHECKPOINT, {"size": point.size, "root": point.root, "note": point.note})
        if not row:
            return None
        stored = checkpoint_entries.Row(point.size, point.root, point.note, row[0][0])
        writer.record("checkpoint_signed", checkpoint_entries.payload(stored), actor)
    return point


def verify(conn: database.Connection) -> list[str]:
    """Keys, checkpoints, their entries and tiles against the log, read from its beginning; a line for each failure."""
    head, name = log.head(conn).position, checkpoint_keys.origin(conn)
    keys, rows = checkpoint_keys.history(conn), checkpoint_entries.rows(conn)
    failures = checkpoint_keys.problems(keys, name)
    twice = conn.execute(SELECT_TWICE)
    failures += [f"checkpoint over {size} entries: it is there {times} times" for size, times in twice]
    failures += checkpoint_entries.differences(conn, rows)
    within = []
    for row in rows:
        problems = _row_problems(row, head, name, keys)
        failures += [f"checkpoint over {row.size} entries: {problem}" for problem in problems]
        within += [] if problems else [parse(row.note)]
    failures += merkle_tiles.misplaced(conn, head, max((point.size for point in within), default=0))
    return failures + _differences(conn, head, within)


def _row_problems(
    row: checkpoint_entries.Row, head: int, origin: str, keys: list[checkpoint_keys.KeyEntry]
) -> list[str]:
    """Why a row is no checkpoint over entries that are there."""
    if problems := _note_problems(row.note, origin, keys):
        return problems
    if (row.size, bytes(row.root)) != (point := parse(row.note))[1:3]:
        return [f"its row says otherwise than its note, which is one over {point.size}"]
    return [f"the log ends at {head}, {_missing(head, row.size)}"] if row.size > head else []


def check_held(conn: database.Connection, note: str) -> list[str]:
    """A checkpoint that somebody kept against the log as it is now; one line for each failure.

    Raises InvalidInput when the note is no checkpoint.
    """
    held, name = parse(note), checkpoint_keys.origin(conn)
    keys, head = checkpoint_keys.history(conn), log.head(conn).position
    failures = [f"held checkpoint over {held.size} entries: {p}" for p in _note_problems(note, name, keys)]
    if held.origin != name:
        return failures
    if held.size > head:
        failures.append(
            f"held checkpoint over {held.size} entries: the log ends at {head}, {_missing(head, held.size)}"
        )
        return failures
    kept = [parse(text) for (text,) in conn.execute(SELECT_NOTES) if not _note_problems(text, name, keys)]
    below = [point for point in kept if point.size <= held.size]
    return failures + _differences(conn, held.size, [*below, held])


def _differences(conn: database.Connection, size: int, signed: list[Checkpoint]) -> list[str]:
    """What the entries 1 to `size` give otherwise than signed, and which tiles of the cache."""
    stored = merkle_tiles.stored(conn)
    if not signed and not stored:
        return []
    try:
        walked = merkle_tiles.walk(conn, size, [point.size for point in signed])
    except errors.InvariantBroken as error:
        return [str(error)]
    wrong = sorted(where for where, root in walked.tiles.items() if stored.get(where, root) != root)
    failures = []
    for level, number in wrong:
        width = merkle_tiles.TILE_WIDTH**level
        failures.append(
            f"merkle tile {level}/{number}: entries {number * width + 1} to {(number + 1) * width} give another hash"
        )
    false = [point for point in signed if walked.roots[point.size] != point.root]
    if false:
        failures.append(_changed(false[0], walked.roots[false[0].size], signed))
    return failures


def _changed(point: Checkpoint, got: bytes, signed: Iterable[Checkpoint]) -> str:
    """The first checkpoint that does not hold, and between which entries the log was changed.

    Only signatures bound them: whoever rewrites the log can rewrite tiles as well.
    """
    after = max((other.size for other in signed if other.size < point.size), default=0)
    return (
        f"checkpoint over {point.size} entries: expected root {point.root.hex()}, the log gives {got.hex()}: "
        f"the first entry that was changed is one of {after + 1} to {point.size}"
    )


def _note_problems(note: str, origin: str, keys: list[checkpoint_keys.KeyEntry]) -> list[str]:
    """Why a note is no checkpoint of this ledger, signed by the key in force at its size."""
    try:
        point = parse(note)
        if point.origin != origin:
            return [f"expected one of {origin}, got one of {point.origin}"]
        key = checkpoint_keys.in_force(keys, point.size)
        if key is None:
            return ["no key was in force at that size"]
        signed_note.open_note(note, [key])
    except (errors.InvalidInput, errors.VerificationFailed) as error:
        return [str(error)]
    return []


def _check_in_force(conn: database.Connection, key: signed_note.SigningKey, size: int) -> None:
    expected = checkpoint_keys.in_force(checkpoint_keys.history(conn), size)
    if expected != key.verifier:
        raise errors.Conflict(
            f"signing key: expected {expected or 'none, since no key was recorded'}, got {key.verifier}"
        )


def _missing(head: int, size: int) -> str:
    return f"entries {head + 1} to {size} are missing"
