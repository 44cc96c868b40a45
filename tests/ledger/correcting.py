"""Sparse corrections for the ledger's tests: of ten clicks in two entries, stated by number and letter."""

from __future__ import annotations

from batches import batch, clicks
from replays import publish

from clickledger.ledger import append, database, log, publication, sparse
from clickledger.ledger.sparse import Correction

ROWS = clicks(10)
IDS = [row.click_id for row in ROWS]
ALL_INVALID = dict.fromkeys(IDS, "invalid")
LETTERS = {"v": "valid", "i": "invalid", "u": "undecided"}


def append_two_entries(conn: database.Connection) -> None:
    """Clicks 0 to 4 at position 2, 5 to 9 at position 3, all valid and of 1,000 micros."""
    for part in (ROWS[:5], ROWS[5:]):
        append.append(conn, batch(part), actor="tests")


def verdicts(conn: database.Connection, as_of: int | None = None) -> str:
    """The first letters of the authoritative verdicts, in click order."""
    position = log.head(conn).position if as_of is None else as_of
    query = "SELECT verdict::text FROM authoritative_decisions_as_of(%s) ORDER BY click_id"
    found = "".join(verdict[0] for (verdict,) in conn.execute(query, (position,)))
    if as_of is None:
        view = conn.execute("SELECT verdict::text FROM authoritative_decisions ORDER BY click_id").fetchall()
        assert found == "".join(verdict[0] for (verdict,) in view)
    return found


def corrections(stated: dict[int, str]) -> list[Correction]:
    """Corrections of clicks by number, verdicts by letter."""
    return [Correction(IDS[number], LETTERS[letter], "disputed") for number, letter in stated.items()]


def planned(conn: database.Connection, stated: dict[int, str]) -> int:
    """A sparse run, staged; its id."""
    return sparse.plan(conn, corrections(stated), actor="tests", reason="tests").run_id


def corrected(conn: database.Connection, stated: dict[int, str]) -> int:
    """A sparse run, compared and published; its id."""
    run_id = planned(conn, stated)
    publish(conn, run_id)
    return run_id


def revert(conn: database.Connection, run_id: int) -> None:
    """Take a publication away again."""
    publication.revert(conn, run_id, "tests", "")
