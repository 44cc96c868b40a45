"""Known clicks among new ones: the same answer whether the server inserts unseen or looks first."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from batches import batch, clicks

from clickledger import errors
from clickledger.ledger import append, audit, database
from clickledger.ledger.preparation import Preparation
from clickledger.ledger.records import encode

COUNT_CLICKS = "SELECT count(*), count(DISTINCT click_id) FROM clicks"


def call(conn: database.Connection, rows: list[int], look: bool) -> tuple[object, ...]:
    """append_batch itself with the numbered clicks; (new_count, new_ordinals)."""
    made = clicks(10)
    chosen = batch(sorted((made[i] for i in rows), key=lambda row: row.click_id))
    encoded = Preparation(encode(chosen, range(len(chosen)))).finish()
    parameters = ("tests", 0, 1, 1, encoded.clicks, encoded.leaves, look)
    found = conn.execute(append.APPEND_BATCH, parameters).fetchone()
    assert found is not None
    return tuple(found[2:])


@pytest.fixture
def ledger(conn: database.Connection) -> database.Connection:
    """A ledger that holds clicks 0, 4 and 7 of ten."""
    append.append(conn, batch([clicks(10)[i] for i in (0, 4, 7)]), actor="tests")
    return conn


@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize(
    ("rows", "new", "ordinals"),
    [([1, 2, 3], 3, None), ([0, 4, 7], 0, None), ([0, 1, 2], 2, [2, 3]), ([3, 4], 1, [1]), ([6, 7, 8], 2, [1, 3])],
)
def test_new_rows_are_the_same_however_they_are_found(
    ledger: database.Connection, rows: list[int], new: int, ordinals: list[int] | None, look: bool
) -> None:
    assert call(ledger, rows, look) == (new, ordinals)
    assert ledger.execute(COUNT_CLICKS).fetchone() == (3 + new, 3 + new)
    assert audit.verify(ledger).ok


@pytest.mark.parametrize("look", [False, True])
def test_an_id_twice_in_one_call_is_refused_and_writes_nothing(ledger: database.Connection, look: bool) -> None:
    with pytest.raises(errors.InvariantBroken, match="every click id once"):
        call(ledger, [1, 1, 2], look)
    assert ledger.execute(COUNT_CLICKS).fetchone() == (3, 3)


def test_after_known_clicks_the_next_batches_are_looked_up_first(ledger: database.Connection) -> None:
    made = clicks(10)
    wasted = "SELECT sum(n_dead_tup) FROM pg_stat_user_tables WHERE relname LIKE 'clicks_2%'"
    append.append(ledger, batch([made[0]]), actor="tests")
    ledger.execute("SELECT pg_stat_force_next_flush()")
    before = ledger.execute(wasted).fetchone()
    assert before == (1,)  # the row that met a known click unseen
    for i in (0, 4, 7):
        append.append(ledger, batch([made[i]]), actor="tests")
    ledger.execute("SELECT pg_stat_force_next_flush()")
    assert ledger.execute(wasted).fetchone() == before


def test_known_clicks_are_looked_up_without_reading_any_twice(conn: database.Connection) -> None:
    """Without statistics a join of the two tables read all of one for each row of the other: 256 times 256 rows."""
    made = batch(clicks(256))
    append.append(conn, made, actor="tests")
    ids = sorted(uuid.UUID(bytes=i) for i in made.click_id)
    bounds = {"ids": ids, "low": ids[0], "high": ids[-1]}
    [[[plan]]] = conn.execute(f"EXPLAIN (ANALYZE, FORMAT json) {append.SELECT_FIRST}", bounds, prepare=False)
    scans = [node for node in nodes(plan["Plan"]) if "Relation Name" in node]
    assert [node["Actual Rows"] * node["Actual Loops"] for node in scans] == [256, 256]
    assert [node.get("Rows Removed by Filter", 0) for node in scans] == [0, 0]
    assert append.append(conn, made, actor="tests").outcome == ["repeat"] * 256


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for below in node.get("Plans", []):
        yield from nodes(below)
