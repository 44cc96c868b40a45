"""Audit: any single row of history changed, removed, added or swapped by the owner is found and named."""

from __future__ import annotations

from collections.abc import Callable

import batches
import pytest
import replays

from clickledger import errors
from clickledger.ledger import append, audit, audit_runs, database, deployments, log, outcomes, rebuild, runs

LINE_1, LINE_2, LINE_5 = (f"click_id IN (SELECT click_id FROM decisions WHERE line = {n})" for n in (1, 2, 5))
# A statement per way to tamper with each table, and what the report must name.
FORGERIES = {
    "log reason": ("UPDATE log SET reason = 'nothing to see' WHERE position = 2", "chain", "entry 2"),
    "log payload": ("UPDATE log SET payload = '{}' WHERE kind = 'calibration_set'", "chain", "entry"),
    "log time": (
        "UPDATE log SET recorded_at = recorded_at + interval '1 second' WHERE position = 3",
        "chain",
        "entry 3",
    ),
    "log entry removed": ("DELETE FROM log WHERE position = 2", "chain", "entry 2"),
    "newest entry removed": (
        "DELETE FROM log WHERE position = (SELECT max(position) FROM log WHERE kind = 'clicks_decided')",
        "chain",
        "missing",
    ),
    "click price": (
        "UPDATE clicks SET cost_micros = 1 WHERE click_id = (SELECT click_id FROM decisions WHERE line = 3 LIMIT 1)",
        "digests",
        "line 3",
    ),
    "click features": (
        f"UPDATE clicks SET features = '\\x00' WHERE {LINE_1}",
        "digests",
        "line 1",
    ),
    "login forgotten": (
        f"UPDATE clicks SET logged_in = NULL WHERE {LINE_2}",
        "digests",
        "line 2",
    ),
    "verdict": ("UPDATE decisions SET verdict = 'invalid' WHERE line = 2", "digests", "line 2"),
    "score in its last bit": ("UPDATE decisions SET score = 1.4e-45 WHERE line = 4", "digests", "line 4"),
    "minus zero": ("UPDATE decisions SET score = '-0'::real WHERE line = 4", "digests", "line 4"),
    "click removed": (
        f"DELETE FROM clicks WHERE {LINE_5}",
        "digests",
        "the decision at line 5 of click",
    ),
    "decision removed": ("DELETE FROM decisions WHERE line = 5", "digests", "has no decision"),
    "lines swapped": (
        "UPDATE decisions SET line = CASE line WHEN 0 THEN 1 ELSE 0 END WHERE line < 2",
        "digests",
        "line 0",
    ),
    "decision moved to another entry": (
        "UPDATE decisions SET log_position = log_position + 1 WHERE line = 9 AND log_position = "
        "(SELECT min(log_position) FROM decisions)",
        "digests",
        "has no decision",
    ),
    "outcome added": (
        "INSERT INTO outcomes SELECT click_id, 'forged', 1, 1, log_position, 99 FROM outcomes LIMIT 1",
        "digests",
        "rows",
    ),
    "outcome value": ("UPDATE outcomes SET value_micros = value_micros + 1 WHERE line = 1", "digests", "line 1"),
    "leaves": ("UPDATE leaves SET leaves = leaves || substr(leaves, 1, 32)", "digests", "leaves"),
    "delayed decision": ("UPDATE delayed_decisions SET verdict = 'valid' WHERE line = 1", "replay runs", "chunk 0"),
    "delayed decision removed": ("DELETE FROM delayed_decisions WHERE line = 1", "replay runs", "chunk 0"),
    "chunk digest": ("UPDATE replay_chunks SET content_digest = sha256('x')", "replay runs", "digest"),
    "authority with a gap": (
        "DELETE FROM authority WHERE run_id IS NOT NULL",
        "one authoritative decision per click",
        "expected a piece from",
    ),
    "authority": ("UPDATE authority SET run_id = NULL, published = 0 WHERE run_id IS NOT NULL", "folds", "authority"),
    "publication forgotten": ("DELETE FROM publications", "folds", "publications"),
    "routing": ("UPDATE deployments SET routing = '{}' WHERE epoch = 1", "folds", "deployments"),
    "revocation lifted": ("UPDATE deployments SET revoked_position = 1 WHERE epoch = 0", "folds", "deployments"),
    "model swapped": ("UPDATE models SET kind = 'network'", "folds", "models"),
    "threshold": ("UPDATE calibrations SET thresholds = '{\"*\":9.0}'", "folds", "calibrations"),
    "money moved between campaigns": (
        "UPDATE adjustments SET campaign_id = 'camp-2' WHERE line = 0",
        "money",
        "campaign camp-2",
    ),
    "credit written off": (
        "UPDATE adjustments SET write_off_micros = amount_micros, amount_micros = 0 WHERE line = 0",
        "comparisons",
        "totals of advertiser adv-1",
    ),
    "credit of one click given to another": (
        "UPDATE adjustments SET click_id = (SELECT click_id FROM decisions WHERE line = 7 LIMIT 1) WHERE line = 3",
        "comparisons",
        "its adjustment lines",
    ),
    "adjustments and totals": (
        "UPDATE adjustments SET write_off_micros = amount_micros, amount_micros = 0; "
        "UPDATE comparison_totals SET write_off_micros = adjustments_micros, adjustments_micros = 0, gross_micros = 0",
        "comparisons",
        "its totals",
    ),
    "summary": ("UPDATE comparisons SET summary = '{}'", "comparisons", "its summary"),
    "decision beyond the head": (
        'INSERT INTO clicks SELECT (jsonb_populate_record(c, \'{"click_id": "018e25a8-d388-7000-8000-000000000000", '
        '"log_position": 999}\')).* FROM clicks c LIMIT 1; '
        'INSERT INTO decisions SELECT (jsonb_populate_record(d, \'{"click_id": '
        '"018e25a8-d388-7000-8000-000000000000", "log_position": 999}\')).* FROM decisions d LIMIT 1',
        "digests",
        "decisions: click 018e25a8-d388-7000-8000-000000000000 at position 999, which has no entry",
    ),
    "artefact": (
        "ALTER TABLE artefacts DROP CONSTRAINT artefacts_check; UPDATE artefacts SET content = 'other'",
        "artefacts",
        "model 1",
    ),
    "adjustment": ("UPDATE adjustments SET amount_micros = amount_micros - 5", "money", "micros"),
}


@pytest.fixture
def ledger(conn: database.Connection) -> database.Connection:
    """Twenty clicks in two entries, outcomes of two, and a published run over both entries."""
    version, calibration = replays.model(conn)
    deployments.deploy(conn, replays.routing(version, calibration), "tests", "")
    rows = batches.clicks(20)
    first = append.append(conn, batches.batch(rows[:10], epoch=1), actor="tests")
    append.append(conn, batches.batch(rows[10:], epoch=1), actor="tests")
    bought = [outcomes.Outcome(row.click_id, "purchase", 1_800_000_000_000, 5) for row in rows[:2]]
    outcomes.append(conn, bought, "tests")
    assert first.position is not None
    lo, actor = first.position, {"actor": "tests", "reason": "tests"}
    run = runs.plan(conn, lo, lo + 2, model_version=version, calibration_version=calibration, **actor)
    replays.work(conn, run.run_id, {row.click_id: "invalid" for row in rows[:5]})
    runs.stage(conn, run.run_id, "tests")
    replays.publish(conn, run.run_id)
    return conn


def forge(conn: database.Connection, statement: str) -> None:
    """Do as an owner who means harm: triggers off, change, triggers on."""
    conn.execute("SET session_replication_role = replica")
    conn.execute(statement)
    conn.execute("SET session_replication_role = origin")


def test_untouched_ledger_verifies(ledger: database.Connection) -> None:
    report = audit.verify(ledger)
    assert report.ok, report.failures
    assert report.entries == report.head == log.head(ledger).position


@pytest.mark.parametrize("name", FORGERIES)
def test_forgery_is_found_and_named(ledger: database.Connection, name: str) -> None:
    statement, check, named = FORGERIES[name]
    for part in statement.split("; "):
        forge(ledger, part)
    report = audit.verify(ledger)
    assert not report.ok
    assert any(named in line for line in report.failures[check]), report.failures


def test_verify_goes_on_while_the_ledger_grows(
    ledger: database.Connection, connect: Callable[[], database.Connection]
) -> None:
    other = connect()
    number = 100

    def append_more(_done: int, _total: int) -> None:
        nonlocal number
        rows = batches.clicks(5, start=number)
        append.append(other, batches.batch(rows, epoch=1), actor="tests")
        number += 5

    assert audit.verify(ledger, append_more).ok
    assert number > 100


def test_caches_equal_the_fold_of_the_log(ledger: database.Connection) -> None:
    assert rebuild.differences(ledger) == []


def test_history_refuses_even_its_owner(ledger: database.Connection) -> None:
    with pytest.raises(errors.Refused, match="history is never changed"):
        ledger.execute("UPDATE clicks SET slice = 'x'")


def test_chunk_that_is_done_while_its_neighbours_are_read_is_no_fault(ledger: database.Connection) -> None:
    version, calibration = replays.model(ledger, b"another")
    lo = log.head(ledger).position + 1
    for number in range(3):
        append.append(ledger, batches.batch(batches.clicks(4, start=200 + 10 * number), epoch=1), actor="tests")
    named = {"model_version": version, "calibration_version": calibration, "actor": "tests", "reason": "tests"}
    run = runs.plan(ledger, lo, lo + 3, chunk_rows=4, **named)
    for chunk in (0, 2):
        replays.work_chunk(ledger, run.run_id, chunk, {})
    parts = [part for part in audit_runs.parts(ledger) if part[0] == run.run_id]
    replays.work_chunk(ledger, run.run_id, 1, {})
    assert [audit_runs.verify_chunks(ledger, *part).failures for part in parts] == [[], []]
    assert audit.verify(ledger).ok
