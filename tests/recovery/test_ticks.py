"""What detection looks at: every click once, however often and whenever it is looked."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
from decided_traffic import BAD_LIMIT, DAY_MS, STABLE_LIMIT, START_MS, Traffic, bad_deployment, deploy, register

from clickledger.ledger import append, database, deployments, log
from clickledger.recovery import known_customers, signals, ticks
from clickledger.recovery.ticks import Rules
from clickledger.scoring import feature_spec

RULES = Rules(0.05, 0.0)


def counted(rows: list[ticks.Row]) -> Counter[tuple[str, str]]:
    """Sums of every count by slice."""
    sums: Counter[tuple[str, str]] = Counter()
    for row in rows:
        sums.update({(row.slice, name): value for name, value in row.counts.items() if name != "scores"})
    return +sums


def everything(conn: database.Connection) -> tuple[list[ticks.Row], list[ticks.Row]]:
    """All folded ticks, and those not folded yet."""
    query = f"SELECT {', '.join(ticks.COLUMNS)} FROM signal_ticks"
    upto = (conn.execute("SELECT position FROM signal_ticks_upto").fetchone() or (0,))[0]
    return ticks._rows(conn.execute(query.encode())), ticks.between(conn, upto + 1, log.head(conn).position + 1, RULES)


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticks, "STEP_CLICKS", 500)
    monkeypatch.setattr(ticks, "SETTLE_SECONDS", 0.0)


def test_looks_at_any_moment_see_what_one_look_at_the_end_sees(conn: database.Connection) -> None:
    """Folded in small steps, at many moments, ticks half done between them: no click is lost or seen twice."""
    stable, bad = register(conn, STABLE_LIMIT), register(conn, BAD_LIMIT)
    traffic = Traffic(conn)
    deploy(conn, stable)
    for _ in range(3):
        traffic.append(300)
    deploy(conn, bad, stable)
    for number in range(8):
        traffic.append(200, late=number)
        if number % 3 == 1:
            signals.look(conn, [deployments.current(conn).epoch], 0, RULES)
    folded, newest = everything(conn)
    assert folded
    at_once = ticks.between(conn, 1, log.head(conn).position + 1, RULES)
    assert counted([*folded, *newest]) == counted(at_once)
    assert sum(row.counts["clicks"] for row in at_once) == traffic.count


def test_ticks_say_what_their_clicks_say(conn: database.Connection) -> None:
    traffic, _, _ = bad_deployment(conn, before=0, batches=2, clicks=300)
    traffic.purchases(range(20))
    traffic.purchases(range(10), at_ms=START_MS - DAY_MS)
    known_customers.fold(conn)
    sums: Counter[str] = Counter()
    scores: Any = 0
    for row in ticks.between(conn, 1, log.head(conn).position + 1, Rules(1e6, 0.0)):
        sums.update({name: value for name, value in row.counts.items() if name != "scores"})
        scores += sum(row.counts["scores"])
    [plain] = conn.execute("""
        SELECT count(*), count(*) FILTER (WHERE d.verdict = 'invalid'), count(*) FILTER (WHERE k.purchases >= 2),
               count(*) FILTER (WHERE k.purchases >= 2 AND d.verdict = 'invalid')
        FROM decisions d JOIN clicks c USING (click_id) LEFT JOIN known_customers k USING (user_key)""").fetchall()
    assert tuple(sums[name] for name in ("clicks", "invalid", "loyal", "loyal_invalid")) == plain
    assert plain[2] > 0 and scores == plain[0]
    assert sums["lagging"] == plain[0]  # this traffic is of years ago


def test_users_of_hot_sessions_are_told_by_their_snapshots(conn: database.Connection) -> None:
    bad_deployment(conn, before=0, batches=1, clicks=300)
    counts = counted(ticks.between(conn, 1, log.head(conn).position + 1, Rules(1e6, 0.0)))
    assert sum(n for (_, name), n in counts.items() if name == "hot") == 0


@pytest.mark.parametrize("schema", sorted(feature_spec.SCHEMAS))
def test_hot_sessions_are_told_in_snapshots_of_every_schema(conn: database.Connection, schema: int) -> None:
    deploy(conn, register(conn, STABLE_LIMIT))
    traffic = Traffic(conn)
    made = traffic.batch(10, schema=schema)
    features = np.ones((10, len(feature_spec.SCHEMAS[schema])), np.int32)
    features[:4, feature_spec.INDEX["user_session_clicks_1h"]] = ticks.SESSION_CLICKS_MAX + 1
    snapshots = [row.astype("<i4").tobytes() for row in features]
    append.append(conn, dataclasses.replace(made, features=snapshots), actor="tests")
    counts = counted(ticks.between(conn, 1, log.head(conn).position + 1, Rules(1e6, 0.0)))
    assert sum(n for (_, name), n in counts.items() if name == "clicks") == 10
    assert sum(n for (_, name), n in counts.items() if name == "hot") == 4


def test_a_look_that_is_behind_reads_the_newest_clicks_and_not_all_that_wait(
    conn: database.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticks, "STEP_CLICKS", 100)
    monkeypatch.setattr(ticks, "FOLD_SECONDS", -1.0)
    traffic, _, bad = bad_deployment(conn, before=0, batches=4, clicks=100)
    time.sleep(0.5)
    newest = traffic.append(100)
    asked: list[tuple[int, int]] = []
    between = ticks.between

    def spied(connection: database.Connection, lo: int, hi: int, rules: Rules) -> list[ticks.Row]:
        asked.append((lo, hi))
        return between(connection, lo, hi, rules)

    monkeypatch.setattr(ticks, "between", spied)
    found = signals.look(conn, [deployments.current(conn).epoch], 0, Rules(0.05, 0.0))
    assert asked == [(newest, newest + 1)]
    assert found[bad[0]].last_position == newest
    monkeypatch.undo()
    monkeypatch.setattr(ticks, "SETTLE_SECONDS", 0.0)
    signals.look(conn, [deployments.current(conn).epoch], 0, Rules(0.05, 0.0))
    kept = counted(ticks._rows(conn.execute(f"SELECT {', '.join(ticks.COLUMNS)} FROM signal_ticks".encode())))
    assert sum(n for (_, name), n in kept.items() if name == "clicks") >= 400  # caught up, nothing left out


def test_ticks_that_no_baseline_reads_are_forgotten(conn: database.Connection) -> None:
    bad_deployment(conn, before=0, batches=2, clicks=50)
    ticks.fold(conn, RULES)
    conn.execute("UPDATE signal_ticks SET at = at - make_interval(days => %s)", (ticks.DAYS_KEPT,))
    ticks.forget_old(conn)
    assert conn.execute("SELECT count(*) FROM signal_ticks").fetchone() == (0,)
