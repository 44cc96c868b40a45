"""A click that was counted and that the database then refuses: put aside, and its number accounted for in the log."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
import redis
from live_clicks import click, clicks
from worker_processes import until, workers

from clickledger.ledger import audit, audit_counting, database, log
from clickledger.scoring import stream

ODD = click(3)
REFUSE = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.external_id = 'click 3' THEN
            RAISE EXCEPTION 'no such value' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON clicks FOR EACH ROW EXECUTE FUNCTION refuse();"""


def test_counted_click_that_the_database_refuses_is_named_in_the_log_and_is_no_gap(
    database_url: str,
    redis_client: redis.Redis,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with database.connect(database_url) as conn, workers(database_url, redis_url, tmp_path) as fleet:
        conn.execute(REFUSE)
        fleet.start("scoring-1")
        stream.put(redis_client, clicks(0, 8))
        until(fleet.drained, "the stream to be empty")
        stream.put(redis_client, clicks(8, 2))
        until(fleet.drained, "the stream to be empty")
        seqs = [row[0] for row in conn.execute("SELECT seq FROM clicks ORDER BY seq")]
        assert seqs == [1, 2, 3, 5, 6, 7, 8, 9, 10]
        [entry] = log.read(conn, kinds=[audit_counting.REJECTED])
        assert entry.payload == {
            "counter_epoch": 1,
            "clicks": [{"click_id": str(UUID(bytes=ODD.click_id)), "seq": 4}],
        }
        [(_, aside)] = redis_client.xrange("cl:rejected")
        assert b"no such value" in aside[b"reason"]
        monkeypatch.setattr(audit_counting, "SETTLED", "SELECT count(*) FROM log WHERE position = %s AND %s <> ''")
        assert audit.verify(conn).failures["counting order"] == []
        monkeypatch.setattr(audit_counting, "REJECTED", "another kind")
        [found] = audit.verify(conn).failures["counting order"]
        assert "expected seq 4 next to 3, got 5" in found


def test_known_click_that_is_counted_a_second_time_is_named_in_the_log_and_is_no_gap(
    database_url: str,
    redis_client: redis.Redis,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with database.connect(database_url) as conn, workers(database_url, redis_url, tmp_path) as fleet:
        fleet.start("scoring-1")
        stream.put(redis_client, clicks(0, 4))
        until(fleet.drained, "the stream to be empty")
        redis_client.delete("cl:seen:0", "cl:seen:1")  # as a refusal is forgotten before its click's time has come
        for sent in (clicks(3, 1), clicks(4, 4), clicks(3, 1)):
            stream.put(redis_client, sent)
            until(fleet.drained, "the stream to be empty")
        seqs = [row[0] for row in conn.execute("SELECT seq FROM clicks ORDER BY seq")]
        assert seqs == [1, 2, 3, 4, 6, 7, 8, 9]
        [entry] = log.read(conn, kinds=[audit_counting.REJECTED])
        named = [{"click_id": str(UUID(bytes=clicks(3, 1)[0].click_id)), "seq": 5}]
        assert entry.payload == {"counter_epoch": 1, "clicks": named}
        monkeypatch.setattr(audit_counting, "SETTLED", "SELECT count(*) FROM log WHERE position = %s AND %s <> ''")
        assert audit.verify(conn).failures["counting order"] == []
