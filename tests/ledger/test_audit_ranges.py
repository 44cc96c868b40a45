"""How an audit is cut: ranges, windows, parts and processes change what it takes, never what it finds."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import batches
import pytest
import rich_ledger

from clickledger import errors
from clickledger.ledger import append, audit, audit_rows, audit_work, database, deployments, log

BATCH = "SELECT min(position) FROM log WHERE kind = 'clicks_decided'"


@pytest.fixture
def ledger(conn: database.Connection) -> database.Connection:
    rich_ledger.build(conn)
    return conn


def forge(conn: database.Connection, statement: str) -> None:
    with conn.transaction():
        conn.execute("SET LOCAL session_replication_role = replica")
        conn.execute(statement.encode())


def first_batch(conn: database.Connection) -> int:
    row = conn.execute(BATCH).fetchone()
    assert row is not None
    return int(row[0])


def test_range_verifies_its_entries_and_names_what_it_leaves_out(ledger: database.Connection) -> None:
    position = first_batch(ledger)
    forge(ledger, f"UPDATE decisions SET verdict = 'undecided' WHERE log_position = {position} AND line = 2")
    report = audit.verify(ledger, lo=position, hi=position)
    assert report.failures["digests"] == [f"entry {position}: the row at line 2 is not the one that was appended"]
    assert (report.entries, report.rows, report.overrides) == (1, 6, None)
    assert set(report.failures) == {"chain", "digests"}
    assert {"money", "folds", "counting order", "replay runs"} <= set(report.unverified)
    assert audit.verify(ledger, lo=position + 1).ok
    assert audit.verify(ledger, hi=position - 1).ok


def test_range_takes_the_entry_before_it_as_it_is(ledger: database.Connection) -> None:
    forge(ledger, "UPDATE log SET reason = 'forged' WHERE position = 3")
    assert audit.verify(ledger, lo=4).ok
    assert not audit.verify(ledger, lo=3, hi=3).ok


@pytest.mark.parametrize("bounds", [(0, None), (5, 4), (None, 10_000), (10_000, None)])
def test_range_that_the_log_does_not_hold_is_refused(
    ledger: database.Connection, bounds: tuple[int | None, int | None]
) -> None:
    with pytest.raises(errors.InvalidInput, match="expected a range within 1 to"):
        audit.verify(ledger, lo=bounds[0], hi=bounds[1])


def test_small_parts_and_windows_find_the_same(ledger: database.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    position = first_batch(ledger)
    forge(ledger, f"UPDATE clicks SET seq = seq + 100 WHERE log_position = {position + 1}")
    forge(ledger, f"DELETE FROM outcomes WHERE log_position > {position} AND line = 1")
    at_once = audit.verify(ledger)
    monkeypatch.setattr(audit_rows, "SAMPLE_FROM_BYTES", 0)
    monkeypatch.setattr(audit_rows, "SAMPLED_SHARE", 1.0)
    monkeypatch.setattr(audit_rows, "ROWS_PER_TASK", 2)
    monkeypatch.setattr(audit, "ENTRIES_PER_WINDOW", 3)
    monkeypatch.setattr(audit, "ENTRIES_PER_TASK", 2)
    assert len(list(audit_rows.parts(ledger, None, 1_000))) == 8  # two days of three cut by entry
    assert len(list(audit_rows.outcome_parts(ledger, None, 1_000))) == 3  # each entry, and what follows
    in_parts = audit.verify(ledger)
    assert in_parts.failures == at_once.failures
    assert (in_parts.rows, in_parts.entries) == (at_once.rows, at_once.entries)


def test_several_processes_find_what_one_finds(ledger: database.Connection, database_url: str) -> None:
    forge(ledger, "UPDATE delayed_decisions SET reason = 'forged' WHERE line = 1")
    forge(ledger, "UPDATE deployments SET routing = '{}' WHERE epoch = 1")
    told: list[tuple[int, int]] = []
    with audit_work.processes(database_url, 2) as workers:
        report = audit.verify(ledger, lambda *step: told.append(step), workers=workers)
    alone = audit.verify(ledger)
    assert {name: sorted(lines) for name, lines in report.failures.items()} == {
        name: sorted(lines) for name, lines in alone.failures.items()
    }
    assert (report.rows, report.entries, report.ok) == (alone.rows, alone.entries, False)
    assert told == sorted(told)
    assert told[-1] == (audit.units(ledger), audit.units(ledger))


def test_lines_that_retention_took_are_no_failure_and_others_are(conn: database.Connection) -> None:
    old, new = batches.clicks(3, day="2024-01-01"), batches.clicks(3, day="2024-02-01", start=3)
    position = append.append(conn, batches.batch(old + new), actor="tests").position
    assert position is not None
    for table in ("clicks", "decisions"):
        forge(conn, f"DELETE FROM {table} WHERE click_id < '{new[0].uuid}'")

    def verified(gone: Mapping[int, Collection[int]]) -> list[str]:
        report = audit.verify(conn, gone=lambda _conn, lo, hi: {p: x for p, x in gone.items() if lo <= p < hi})
        return report.failures["digests"]

    assert verified({position: {0, 1, 2}}) == []
    assert verified({}) == [f"entry {position}: expected 6 rows, got 3: line 0 is missing"]
    assert verified({position: {0, 1}}) == [f"entry {position}: expected 4 rows, got 3: line 2 is missing"]
    assert verified({position: {0, 1, 5}}) == [f"entry {position}: line 5 is there, though retention took it away"]


def test_numbers_of_lost_clicks_are_missed_only_where_no_line_is_gone(conn: database.Connection) -> None:
    day = "2024-01-01"
    rows = [batches.Row(batches.click_id(batches.at(day, n), n), seq=n + 1) for n in (0, 1, 3)]
    position = append.append(conn, batches.batch(rows), actor="tests").position
    assert audit.verify(conn).failures["counting order"] == []  # it may still be on its way
    forge(conn, "UPDATE log SET recorded_at = recorded_at - interval '2 minutes'")
    log.record(conn, "dataset_built", {}, "tests")
    report = audit.verify(conn)
    assert report.failures["counting order"] == [f"entry {position}: expected seq 3 next to 2, got 4"]
    report = audit.verify(conn, gone=lambda *_: {position or 0: {9}})
    assert report.failures["counting order"] == []


@pytest.mark.parametrize(
    ("kept", "used", "minutes", "explained"),
    [
        (None, False, 2, True),  # all of the server's memory was lost
        ({"counter_epoch": 1, "seq": 2, "schema": 1}, True, 2, True),  # its tail was
        ({"counter_epoch": 1, "seq": 3, "schema": 1}, True, 2, False),  # it remembered the click, which had come back
        ({"counter_epoch": 1}, False, 2, True),  # another set took over
        (None, False, 20, False),  # long before: it was not on its way any more
    ],
)
def test_numbers_that_were_lost_with_their_counters_are_a_note(
    conn: database.Connection, kept: dict[str, int] | None, used: bool, minutes: int, explained: bool
) -> None:
    day = "2024-01-01"
    rows = [batches.Row(batches.click_id(batches.at(day, n), n), seq=n + 1) for n in (0, 1, 3)]
    position = append.append(conn, batches.batch(rows), actor="tests").position
    forge(conn, f"UPDATE log SET recorded_at = recorded_at - interval '{minutes} minutes'")
    deployments.begin_counter_epoch(conn, {"kept": kept, "kept_used": used}, "tests", "lost")
    report = audit.verify(conn)
    assert (report.failures["counting order"] == []) is explained
    told = f"entry {position}: seq 3 to 3 were lost with the counters of epoch 1 before their clicks were appended"
    assert (told in report.notes) is explained
