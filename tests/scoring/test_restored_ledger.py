"""A ledger set back to an earlier moment beside a Valkey that was not: as docs/operations.md says it, and without."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
import redis
from live_clicks import clicks, require_decided_once
from psycopg import sql
from worker_processes import workers

from clickledger.ledger import audit, audit_counting, database, deployments, log
from clickledger.scoring import exchange
from clickledger.scoring.click import Click
from clickledger.scoring.exchange import ExchangeConfig
from clickledger.scoring.stream import Answer

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
KEPT, LOST = clicks(0, 100), clicks(100, 50)  # before and after the moment that is restored
Serve = Callable[[list[Click]], list[Answer]]


class SetBack(NamedTuple):
    """The restored ledger, and what has clicks decided by a worker on it."""

    conn: database.Connection
    serve: Serve


@pytest.fixture
def set_back(
    servers: Any, database_url: str, redis_client: redis.Redis, redis_url: str, tmp_path: Path
) -> Iterator[SetBack]:
    """A worker has decided 150 clicks; the ledger holds the first 100 of them."""
    name = f"restored_{secrets.token_hex(6)}"
    source = database_url.split("?", maxsplit=1)[0].rpartition("/")[2]

    def serve(url: str) -> Serve:
        def run(sent: list[Click]) -> list[Answer]:
            with workers(url, redis_url, tmp_path) as fleet:
                fleet.start("scoring-1")
                answers = exchange.decide_all(redis_url, sent, ExchangeConfig(resend_seconds=0.5))
                found = [answer for _, answer in sorted(answers)]
                assert fleet.stop("scoring-1") == 0
                return found

        return run

    with closing(psycopg.connect(servers.database_url, autocommit=True)) as admin:
        serve(database_url)(KEPT)
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(source)))
        try:
            serve(database_url)(LOST)
            url = database_url.replace(f"/{source}?", f"/{name}?")
            with database.connect(url, application_name="tests") as conn:
                yield SetBack(conn, serve(url))
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Audits take every entry for older than the minute within which a gap may still be filled."""
    monkeypatch.setattr(audit_counting, "SETTLED", "SELECT count(*) FROM log WHERE position = %s AND %s <> ''")


def drop_the_counters(client: redis.Redis) -> None:
    """The keys that the instructions name."""
    [line] = [line for line in OPERATIONS.read_text().splitlines() if "In Valkey, drop the counters" in line]
    patterns = re.findall(r"`(cl:[^`]+)`", line)
    assert len(patterns) == 5
    for pattern in patterns:
        for key in list(client.scan_iter(match=pattern)):
            client.delete(key)


def test_with_the_counters_dropped_appends_go_on_and_everything_verifies(
    set_back: SetBack, redis_client: redis.Redis, settled: None
) -> None:
    drop_the_counters(redis_client)
    sent = LOST[20:] + clicks(150, 50)
    assert {answer.outcome for answer in set_back.serve(sent)} == {"new"}
    require_decided_once(set_back.conn, KEPT + sent)
    [entry] = log.read(set_back.conn, kinds=["counters_restored"])
    assert entry.payload["counter_epoch"] == deployments.current_counter_epoch(set_back.conn) == 2
    assert audit.verify(set_back.conn).failures["counting order"] == []
    assert audit.verify(set_back.conn).ok


def test_counters_kept_by_mistake_are_harmless_if_every_lost_click_is_sent_again(
    set_back: SetBack, settled: None
) -> None:
    sent = LOST + clicks(150, 50)
    assert {answer.outcome for answer in set_back.serve(sent)} == {"new"}
    require_decided_once(set_back.conn, KEPT + sent)
    assert audit.verify(set_back.conn).ok


def test_counters_kept_by_mistake_are_noticed_by_audit_if_a_lost_click_is_not_sent_again(
    set_back: SetBack, settled: None
) -> None:
    set_back.serve(LOST[20:] + clicks(150, 50))
    report = audit.verify(set_back.conn)
    [found] = report.failures["counting order"]
    assert "expected seq 101 next to 100, got 121" in found
    assert [name for name, failures in report.failures.items() if failures] == ["counting order"]
