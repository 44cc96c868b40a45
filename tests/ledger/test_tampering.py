"""Any single row changed, removed, added or swapped by the owner is found by the audit, which names where.

The tables and columns come from the catalogue: a new one is tried too, and fails here until the audit covers it or it
is named below as no history.
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import departed_ledger
import forging
import psycopg
import pytest
import rich_ledger
from clones import Clones
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clickledger import errors
from clickledger.ledger import audit, database, partitions
from clickledger.ledger import departed as retained

NO_HISTORY = {
    "entry_rights": "who may record what, applied again by every migration",
    "alembic_version": "the schema's own bookkeeping",
    "shadow_scores": "evidence for the detector, outside of log and lock",
    "known_customers": "a fold of outcomes that only detection reads, made again from them",
    "known_customers_upto": "how far that fold has come",
    "replay_plans": "what `replay plan` showed; a start makes the plan again from the ledger",
    "signal_ticks": "counts of ticks that only detection reads, made from clicks, decisions and shadow scores",
    "signal_ticks_upto": "how far that fold has come",
    "frozen_partitions": "which partitions were vacuumed for good and how large they were then: upkeep, read by no sum",
}
# Who works on a chunk and how often it was tried says nothing of what came out.
WORK = {"replay_chunks": ("lease_until", "token", "worker", "attempts", "last_error")}
HISTORY = (
    "adjustments", "artefacts", "authority", "authority_overrides", "billing_periods",
    "calibrations", "clicks", "comparison_totals",
    "comparisons", "conflicts", "counter_epochs", "decisions", "delayed_decisions", "deployments", "incidents",
    "leaves", "log", "models", "outcomes", "publications", "replay_chunks", "replay_runs", "run_features",
    "sparse_clicks",
)  # fmt: skip
# What only a ledger holds that days have left and checkpoints were signed over.
LATER = (
    "checkpoints", "departed_rows", "departed_totals", "departures", "detached_days", "legal_holds", "merkle_tiles",
)  # fmt: skip
# What has one value in the whole ledger: a tile of the second level takes 65,536 entries.
CONSTANT = {"decisions": ["carried"], "merkle_tiles": ["level"]}
# What a failure line must name, of the row before or after: by table, (words, column).
NAMED = {
    "log": ("entry", "position"),
    "leaves": ("entry", "position"),
    "clicks": ("entry", "log_position"),
    "decisions": ("entry", "log_position"),
    "outcomes": ("entry", "log_position"),
    "delayed_decisions": ("run", "run_id"),
    "replay_chunks": ("run", "run_id"),
    "run_features": ("run", "run_id"),
    "comparisons": ("comparison", "comparison_id"),
    "checkpoints": ("checkpoint over", "size"),
    "merkle_tiles": ("merkle tile", "number"),
    "legal_holds": ("legal_hold", "hold_id"),
    "detached_days": ("detached_day", "day"),
    "departures": ("of departure", "departure"),
    "departed_rows": ("of departure", "departure"),
    "departed_totals": ("of departure", "departure"),
}


Ledgers = Callable[[str], database.Connection]


def _built(build: Callable[[database.Connection], None], servers: Any, template: str) -> Iterator[database.Connection]:
    """A ledger without keys and checks, which every forgery leaves as it was."""
    with Clones(servers.database_url, template) as clones, database.connect(clones.another()) as conn:
        build(conn)
        forging.unbind(conn)
        yield conn


@pytest.fixture(scope="module")
def rich(servers: Any, template_database: str) -> Iterator[database.Connection]:
    """The rich ledger."""
    yield from _built(rich_ledger.build, servers, template_database)


@pytest.fixture(scope="module")
def departed(servers: Any, template_database: str) -> Iterator[database.Connection]:
    """The ledger that days have left."""
    yield from _built(departed_ledger.build, servers, template_database)


@pytest.fixture(scope="module")
def ledgers(rich: database.Connection, departed: database.Connection) -> Ledgers:
    """The ledger that forgeries of a table are tried on."""
    return lambda table: departed if table in LATER else rich


def found(conn: database.Connection, table: str, forge: Callable[[], Any]) -> list[str] | None:
    """What the audit says of a forgery, which is undone; None where there was nothing to forge."""
    with forging.undone(conn):
        if forge() is False:
            return None
        report = audit.verify(conn)
        failures = [f"{name}: {line}" for name, lines in report.failures.items() for line in lines]
    return failures or sorted(set(report.notes) - set(audit.verify(conn).notes))


def history(conn: database.Connection, table: str) -> list[forging.Where]:
    """The rows of a table, without those of a comparison that was interrupted, which no reader ever sees."""
    rows = forging.rows(conn, table)
    if table not in {"adjustments", "comparison_totals"}:
        return rows
    compared = {str(row[0]) for row in conn.execute("SELECT adjustment_set FROM comparisons")}
    return [row for row in rows if forging.values(conn, table, row)["adjustment_set"] in compared]


def names(conn: database.Connection, table: str, rows: list[dict[str, str | None]], lines: list[str]) -> bool:
    """Whether a line names the entry, run, day or the like of one of the rows, or the table where it has none."""
    if table not in NAMED:
        return any(table.rstrip("s").replace("_total", "").split("_")[0][:8] in line for line in lines)
    word, column = NAMED[table]
    known = [f"{word} {row[column]}" for row in rows]
    known += [f"{word}s: the log gives ({quote}{row[column]}{quote}," for row in rows for quote in ("", "'")]
    if table == "merkle_tiles":
        known = [f"{word} {row['level']}/{row['number']}:" for row in rows]
    if column == "departure":
        recorded = conn.execute("SELECT departure::text, position, day FROM detached_days")
        days = {departure: f"entry {position}: what left with {day} " for departure, position, day in recorded}
        known += [days[str(row[column])] for row in rows if row[column] in days]
    shown = [line.replace("cache holds", "log gives") for line in lines]
    return any(re.search(rf"{re.escape(text)}(?!\d)", line) for text in known for line in shown)


def test_untouched_ledgers_verify(rich: database.Connection, departed: database.Connection) -> None:
    report = audit.verify(rich)
    assert report.ok, report.failures
    assert len(report.notes) == 2, report.notes  # lines and totals of the interrupted comparison
    assert all("in no comparison" in note for note in report.notes)
    report = audit.verify(departed)
    assert report.ok, report.failures
    assert report.notes == []


def test_every_table_is_history_or_says_why_not(rich: database.Connection) -> None:
    assert sorted([*HISTORY, *LATER, *NO_HISTORY]) == forging.tables(rich)


@pytest.mark.parametrize("table", [*HISTORY, *LATER])
def test_no_column_is_the_same_in_all_rows(ledgers: Ledgers, table: str) -> None:
    ledger = ledgers(table)
    rows = [forging.values(ledger, table, row) for row in forging.rows(ledger, table)]
    assert len(rows) > 1
    constant = [name for name in rows[0] if len({row[name] for row in rows}) == 1]
    assert [name for name in constant if name not in WORK.get(table, ())] == CONSTANT.get(table, [])


@pytest.mark.parametrize("table", [*HISTORY, *LATER])
def test_forged_row_is_found_and_named(ledgers: Ledgers, table: str) -> None:
    ledger = ledgers(table)
    rows = history(ledger, table)
    pick = random.Random(table)
    missed = []
    for what, column in _forgeries(ledger, table):
        one, other = pick.sample(rows, 2)
        if problem := _try(ledger, table, what, column, one, other):
            missed.append(problem)
    assert not missed, "\n".join(missed)


def test_decision_in_the_place_of_one_that_left_is_found(departed: database.Connection) -> None:
    decided = "SELECT log_position, click_id FROM decisions ORDER BY log_position DESC, line LIMIT 1"
    [(position, click_id)] = departed.execute(decided).fetchall()
    [*gone] = retained.missing_lines(departed, position, position + 1)[position]
    columns = ", ".join(name for name in forging.columns(departed, "decisions") if name not in {"click_id", "line"})
    forged = uuid.UUID(bytes=click_id.bytes[:8] + b"\x80" + 7 * b"\x00")  # of a day that stays
    insert = f"""
        INSERT INTO decisions (click_id, line, {columns})
        SELECT %s, %s, {columns} FROM decisions WHERE click_id = %s"""
    for line in gone:
        lines = found(departed, "decisions", lambda line=line: departed.execute(insert, (forged, line, click_id)))
        assert lines == [f"digests: entry {position}: line {line} is there, though retention took it away"]


def test_day_that_left_and_is_there_again_by_another_name_is_found(departed: database.Connection) -> None:
    first_ms = 1_000 * int(datetime.fromisoformat(f"{departed_ledger.SECOND}T00:00:00Z").timestamp())
    name = "decisions_" + departed_ledger.SECOND.replace("-", "")

    def attach() -> None:
        departed.execute(f"ALTER TABLE {name} RENAME TO decisions_20990101".encode())
        ends = "SELECT smallest_click_id(%s), smallest_click_id(%s)"
        [(low, high)] = departed.execute(ends, (first_ms, first_ms + partitions.DAY_MS)).fetchall()
        bounds = f"FOR VALUES FROM ('{low}') TO ('{high}')"
        departed.execute(f"ALTER TABLE decisions ATTACH PARTITION decisions_20990101 {bounds}".encode())

    lines = found(departed, "decisions", attach)
    assert lines and any("though retention took it away" in line for line in lines)


@pytest.mark.parametrize("position", [0, -5])
def test_entry_before_the_first_is_found(rich: database.Connection, position: int) -> None:
    columns = ", ".join(name for name in forging.columns(rich, "log") if name != "position")
    copy = f"INSERT INTO log (position, {columns}) SELECT %s, {columns} FROM log WHERE position = 1"
    lines = found(rich, "log", lambda: rich.execute(copy.encode(), (position,)))
    assert lines and f"chain: entry {position}: no position of the log" in lines


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_forgery_of_any_row_is_found(ledgers: Ledgers, data: st.DataObject) -> None:
    table = data.draw(st.sampled_from([*HISTORY, *LATER]))
    ledger = ledgers(table)
    rows = history(ledger, table)
    one = data.draw(st.integers(0, len(rows) - 1))
    other = data.draw(st.integers(0, len(rows) - 1).filter(lambda n: n != one))
    what, column = data.draw(st.sampled_from(list(_forgeries(ledger, table))))
    assert _try(ledger, table, what, column, rows[one], rows[other]) is None


def _forgeries(conn: database.Connection, table: str) -> Iterator[tuple[str, str]]:
    kinds = {name: kind for name, kind in forging.columns(conn, table).items() if name not in WORK.get(table, ())}
    yield from (("remove", ""), ("add", ""))
    yield from ((what, name) for name in kinds for what in ("change", "erase", "swap", "add"))
    yield from (("lessen", name) for name, kind in kinds.items() if kind in forging.NUMBERS)


def _try(
    conn: database.Connection, table: str, what: str, column: str, one: forging.Where, other: forging.Where
) -> str | None:
    """Forge; what the audit missed, in words, or None."""
    rows = [forging.values(conn, table, row) for row in (one, other)]
    if what == "swap" and _differ_only_in(column, rows):
        return None  # they stand for the same two rows then
    if (what == "erase" and rows[0][column] is None) or _is_work(table, what, column, rows):
        return None
    try:
        lines = found(conn, table, _forge(conn, table, what, column, one, other))
    except (psycopg.errors.NotNullViolation, errors.InvariantBroken):
        return None  # of a column that is never NULL, or that partitions: what changes that changes the table
    if lines is None or (lines and names(conn, table, rows + _became(conn, table, what, column, one), lines)):
        return None
    return f"{what} {column} of {table} {rows[0]}: {lines or 'not found'}"


def _became(
    conn: database.Connection, table: str, what: str, column: str, one: forging.Where
) -> list[dict[str, str | None]]:
    """The row as a forgery of what names it made it: a line may name that."""
    if what not in {"change", "lessen", "add"} or column not in {*NAMED.get(table, ())[1:], *CONSTANT.get(table, ())}:
        return []
    return [forging.another(conn, table, column, one, less=what == "lessen")]


def _forge(
    conn: database.Connection, table: str, what: str, column: str, one: forging.Where, other: forging.Where
) -> Callable[[], Any]:
    return {
        "remove": lambda: forging.remove(conn, table, one),
        "add": lambda: forging.add(conn, table, one, column or None),
        "change": lambda: forging.change(conn, table, column, one),
        "lessen": lambda: forging.lessen(conn, table, column, one),
        "erase": lambda: forging.erase(conn, table, column, one),
        "swap": lambda: forging.swap(conn, table, column, one, other),
    }[what]


def _differ_only_in(column: str, rows: list[dict[str, str | None]]) -> bool:
    one, other = ({name: value for name, value in row.items() if name != column} for row in rows)
    return one == other


def _is_work(table: str, what: str, column: str, rows: list[dict[str, str | None]]) -> bool:
    """Whether it changes only how far an unfinished chunk has come."""
    return table == "replay_chunks" and column == "status" and rows[0]["status"] != "done" and what != "swap"
